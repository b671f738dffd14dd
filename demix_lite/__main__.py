"""``python -m demix_lite`` does what ``demix-lite`` does."""

from demix_lite.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
