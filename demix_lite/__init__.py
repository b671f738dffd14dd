"""demix_lite: find, name and repair mixed errors in training data."""

__version__ = "0.1.0"
