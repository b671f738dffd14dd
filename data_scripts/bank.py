"""UCI Bank Marketing: who takes a term deposit after a phone call (Portugal, 2008 to 2010)."""

import io
from collections.abc import Mapping

import pandas as pd

from data_scripts.source import RawFile, Source, known, reading, uci_urls

FILE = "bank-full.csv"
COLUMNS = [
    "age", "job", "marital", "education", "default", "balance", "housing", "loan", "contact",
    "day", "month", "duration", "campaign", "pdays", "previous", "poutcome", "y",
]  # fmt: skip
NUMERIC = ["age", "balance", "day", "duration", "campaign", "pdays", "previous"]
ANSWERS = ["no", "yes"]


def parse(raw: Mapping[str, bytes]) -> pd.DataFrame:
    """Read ``bank-full.csv``; "unknown" stays a category of its own."""
    with reading(FILE, "UCI Bank Marketing"):
        frame = pd.read_csv(io.BytesIO(raw[FILE]), sep=";", usecols=COLUMNS, keep_default_na=False)[
            COLUMNS
        ]
        frame = frame.astype(dict.fromkeys(NUMERIC, "int64"))
        frame["y"] = known(frame["y"], ANSWERS)
    return frame


SOURCE = Source(
    name="bank",
    files=(
        RawFile(
            FILE,
            "d1513ec63b385506f7cfce9f2c5caa9fe99e7ba4e8c3fa264b3aaf0f849ed32d",
            uci_urls(f"222/bank+marketing.zip#bank.zip#{FILE}", f"00222/bank.zip#{FILE}"),
        ),
    ),
    parse=parse,
    facts={
        "title": "Bank Marketing",
        "url": "https://archive.ics.uci.edu/dataset/222/bank+marketing",
        "licence": "CC BY 4.0",
        "numeric": NUMERIC,
        "categorical": [c for c in COLUMNS if c not in NUMERIC and c != "y"],
        "target": "y",
        "notes": f"{FILE}, the older and larger of the two tables of the archive.",
    },
)
