"""UCI Bike Sharing: how many bicycles are hired in an hour (Washington, D.C., 2011 and 2012)."""

import io
from collections.abc import Mapping

import pandas as pd

from data_scripts.source import RawFile, Source, reading, uci_urls

FILE = "hour.csv"
CATEGORICAL = ["season", "yr", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit"]
NUMERIC = ["temp", "atemp", "hum", "windspeed"]
COLUMNS = [*CATEGORICAL, *NUMERIC, "cnt"]
TYPES = dict.fromkeys(CATEGORICAL, str) | dict.fromkeys(NUMERIC, "float64") | {"cnt": "int64"}


def parse(raw: Mapping[str, bytes]) -> pd.DataFrame:
    """Read ``hour.csv``; codes of categories are kept, as text."""
    with reading(FILE, "UCI Bike Sharing"):
        frame = pd.read_csv(
            io.BytesIO(raw[FILE]), usecols=COLUMNS, dtype=TYPES, keep_default_na=False
        )
    return frame[COLUMNS]


SOURCE = Source(
    name="bike",
    files=(
        RawFile(
            FILE,
            "e03de4ee4ef4dc376ac6e04bf829673c6269e8eba5c60fa121640fa2f829504f",
            uci_urls(
                f"275/bike+sharing+dataset.zip#{FILE}", f"00275/Bike-Sharing-Dataset.zip#{FILE}"
            ),
        ),
    ),
    parse=parse,
    facts={
        "title": "Bike Sharing (hours)",
        "url": "https://archive.ics.uci.edu/dataset/275/bike+sharing+dataset",
        "licence": "CC BY 4.0",
        "numeric": NUMERIC,
        "categorical": CATEGORICAL,
        "target": "cnt",
        "notes": "Left out: instant and dteday (a row's number and date), casual and registered "
        "(they add up to cnt).",
    },
)
