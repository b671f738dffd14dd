"""Prepared data sets and their built-in twins."""
