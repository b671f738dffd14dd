"""UCI Adult: who earns more than 50,000 dollars a year (US census of 1994)."""

import io
from collections.abc import Mapping

import pandas as pd

from data_scripts.source import UCI, RawFile, Source, known, reading

COLUMNS = [
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation",
    "relationship", "race", "sex", "capital_gain", "capital_loss", "hours_per_week",
    "native_country", "income",
]  # fmt: skip
NUMERIC = ["age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"]
INCOME = ["<=50K", ">50K"]


def parse(raw: Mapping[str, bytes]) -> pd.DataFrame:
    """Read ``adult.data`` and ``adult.test`` into one table, in this order.

    ``adult.test`` begins with a comment line, and its labels end with a full stop; ``?`` means
    missing.
    """
    return pd.concat(
        [_read(raw[name], name) for name in ("adult.data", "adult.test")], ignore_index=True
    )


def _read(content: bytes, name: str) -> pd.DataFrame:
    with reading(name, "UCI Adult"):
        frame = pd.read_csv(
            io.BytesIO(content),
            names=COLUMNS,
            na_values="?",
            keep_default_na=False,
            comment="|",
            skipinitialspace=True,
        )
        frame = frame.astype(dict.fromkeys(NUMERIC, "int64"))
        frame["income"] = known(frame["income"].str.rstrip("."), INCOME)
    return frame


def _file(name: str, sha256: str) -> RawFile:
    urls = (
        f"{UCI}/ml/machine-learning-databases/adult/{name}",
        f"{UCI}/static/public/2/adult.zip#{name}",
    )
    return RawFile(name, sha256, urls)


SOURCE = Source(
    name="adult",
    files=(
        _file("adult.data", "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"),
        _file("adult.test", "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05"),
    ),
    parse=parse,
    facts={
        "title": "Adult (Census Income)",
        "url": "https://archive.ics.uci.edu/dataset/2/adult",
        "licence": "CC BY 4.0",
        "numeric": NUMERIC,
        "categorical": [c for c in COLUMNS if c not in NUMERIC and c != "income"],
        "target": "income",
        "notes": "adult.data followed by adult.test.",
    },
)
