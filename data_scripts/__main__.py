"""``python -m data_scripts adult``: fetch a source and write its prepared table."""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

from data_scripts.download import choose_edition, fetch_raw, read_raw, unverified_note
from data_scripts.source import Source, all_sources
from demix_lite.data.store import CARD, data_home, make_card, save_table, save_tables
from demix_lite.errors import DemixError


def prepare(source: Source, raw: Path | None = None, home: Path | None = None) -> Path:
    """Get the raw files (from ``raw`` if given), parse them, save the tables, return their folder.

    The folder ``raw`` may contain any edition of the source; the card says which one it was.
    """
    home = home.expanduser() if home else data_home()
    note = ""
    if source.build:
        prepared, facts = source.build(raw)
    else:
        source = choose_edition(source, raw) if raw else source
        folder = raw or home / "raw" / source.name
        content = read_raw(source, folder) if raw else fetch_raw(source, folder)
        prepared, facts = source.parse(content), source.facts
        note = unverified_note(source, folder)
    notes = f"{note} {facts.get('notes', '')}".strip()
    card = make_card(facts, name=source.name, source="real", rows=0, sha256="", notes=notes)
    if isinstance(prepared, pd.DataFrame):
        return save_table(prepared, card, home)
    return save_tables(prepared, card, home)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    sources = all_sources()
    listing = "\n".join(
        f"  {s.name:16}{s.facts['title']}, {s.facts['licence']}" for s in sources.values()
    )
    parser = argparse.ArgumentParser(
        prog="python -m data_scripts",
        description="Download a data set from its official source and write its prepared table.",
        epilog=f"data sets:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=sources, metavar="NAME", help="a data set, see below")
    parser.add_argument(
        "--raw",
        type=Path,
        metavar="DIR",
        help="take the official files (plain or .gz; pairs also Parquet) from here; no network",
    )
    parser.add_argument(
        "--home",
        type=Path,
        metavar="DIR",
        help="where prepared tables live (default: $DEMIX_DATA, else ~/.cache/demix_lite)",
    )
    chosen = parser.parse_args(arguments)
    try:
        folder = prepare(sources[chosen.name], chosen.raw, chosen.home)
    except (DemixError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    card = make_card(json.loads((folder / CARD).read_text("utf-8")))
    print(f"wrote {folder}: {card.title}, {card.rows:,} rows")
    if card.notes:
        print(card.notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
