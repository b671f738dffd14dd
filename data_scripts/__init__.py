"""One module per data source: fetch the official files, check them, write the prepared table."""
