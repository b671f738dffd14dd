"""One module per source: fetch the official files, check them, write the prepared table."""
