"""Prepared tables and their built-in twins."""

from demix_lite.data.store import Card, data_home, load_table, save_table

__all__ = ["Card", "data_home", "load_table", "save_table"]
