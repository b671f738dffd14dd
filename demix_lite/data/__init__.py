"""Prepared data sets and their built-in twins."""

from demix_lite.data.store import (
    Card,
    data_home,
    load_table,
    load_tables,
    save_table,
    save_tables,
)

__all__ = ["Card", "data_home", "load_table", "load_tables", "save_table", "save_tables"]
