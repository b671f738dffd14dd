"""UCI Air Quality: benzene in the air of an Italian city, from other sensors (2004 and 2005)."""

import io
from collections.abc import Mapping

import pandas as pd

from data_scripts.source import RawFile, Source, reading, uci_urls

FILE = "AirQualityUCI.csv"
# NMHC(GT) is left out: nine tenths of it are missing, which would cost nine tenths of the rows
NAMES = {
    "CO(GT)": "co_gt", "PT08.S1(CO)": "pt08_s1_co", "PT08.S2(NMHC)": "pt08_s2_nmhc",
    "NOx(GT)": "nox_gt", "PT08.S3(NOx)": "pt08_s3_nox", "NO2(GT)": "no2_gt",
    "PT08.S4(NO2)": "pt08_s4_no2", "PT08.S5(O3)": "pt08_s5_o3", "T": "t", "RH": "rh", "AH": "ah",
    "C6H6(GT)": "c6h6_gt",
}  # fmt: skip
NUMERIC = [name for name in NAMES.values() if name != "c6h6_gt"]
CATEGORICAL = ["month", "weekday", "hour"]
MISSING = -200


def parse(raw: Mapping[str, bytes]) -> pd.DataFrame:
    """Read the hours in which every sensor except NMHC(GT) worked.

    Cells are separated by ``;``, and the decimal separator is a comma; two columns and many rows at
    the end are empty.
    """
    with reading(FILE, "UCI Air Quality"):
        frame = pd.read_csv(
            io.BytesIO(raw[FILE]), sep=";", decimal=",", usecols=["Date", "Time", *NAMES]
        )
        numbers = frame[list(NAMES)].astype("float64").rename(columns=NAMES)
        whole = numbers.ne(MISSING).all(axis=1) & numbers.notna().all(axis=1)
        start = frame["Date"][whole] + " " + frame["Time"][whole]
        start = pd.to_datetime(start, format="%d/%m/%Y %H.%M.%S").dt
        # Monday is weekday 0
        parts = {"month": start.month, "weekday": start.day_of_week, "hour": start.hour}
        frame = numbers[whole].assign(**{name: part.astype(str) for name, part in parts.items()})
    return frame[[*NUMERIC, *CATEGORICAL, "c6h6_gt"]].reset_index(drop=True)


SOURCE = Source(
    name="air",
    files=(
        RawFile(
            FILE,
            "13277ae5d8581e80b7be09d47c7d3d06fe9b8e957078f2cf6e859f955e62f996",
            uci_urls(f"360/air+quality.zip#{FILE}", f"00360/AirQualityUCI.zip#{FILE}"),
        ),
    ),
    parse=parse,
    facts={
        "title": "Air Quality",
        "url": "https://archive.ics.uci.edu/dataset/360/air+quality",
        "licence": "CC BY 4.0",
        "numeric": NUMERIC,
        "categorical": CATEGORICAL,
        "target": "c6h6_gt",
        "notes": "Left out: NMHC(GT), nine tenths of which are missing, and then every hour with a "
        "missing value.",
    },
)
