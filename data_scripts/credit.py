"""UCI Default of Credit Card Clients: who does not pay the next bill (Taiwan, 2005)."""

import io
from collections.abc import Mapping

import pandas as pd

from data_scripts.source import RawFile, Source, known, reading, uci_urls
from demix_lite.errors import DemixError

FILE = "default of credit card clients.xls"
SEX = {1: "male", 2: "female"}
# 0, 5 and 6 are in the table but not in its documentation
EDUCATION = {
    1: "graduate school", 2: "university", 3: "high school", 4: "others",
    0: "code 0", 5: "code 5", 6: "code 6",
}  # fmt: skip
MARRIAGE = {1: "married", 2: "single", 3: "others", 0: "code 0"}
DEFAULT = {0: "no", 1: "yes"}
NAMES = {"sex": SEX, "education": EDUCATION, "marriage": MARRIAGE, "default": DEFAULT}
NUMERIC = [
    "limit_bal", "age", "pay_0", *(f"pay_{month}" for month in range(2, 7)),
    *(f"bill_amt{month}" for month in range(1, 7)), *(f"pay_amt{month}" for month in range(1, 7)),
]  # fmt: skip
COLUMNS = ["limit_bal", "sex", "education", "marriage", *NUMERIC[1:], "default"]


def parse(raw: Mapping[str, bytes]) -> pd.DataFrame:
    """Read the workbook, drop its ID and replace the codes of categories by names."""
    frame = _read(raw[FILE])
    frame.columns = frame.columns.astype(str).str.lower()
    frame = frame.rename(columns={"default payment next month": "default"})
    with reading(FILE, "UCI Default of Credit Card Clients"):
        absent = [name for name in COLUMNS if name not in frame]
        if absent:
            raise ValueError(f"columns expected but not found: {absent}")
        frame = frame[COLUMNS].astype("int64")
        for name, names in NAMES.items():
            frame[name] = known(frame[name], names).map(names)
    return frame


def _read(content: bytes) -> pd.DataFrame:
    """Read the second row as the header; the first one only numbers the columns."""
    try:
        import xlrd
    except ImportError as error:
        raise DemixError(
            f"{FILE} cannot be read without xlrd; install it with: python -m pip install xlrd"
        ) from error
    # not with pandas, which is going to drop its support of xlrd
    with reading(FILE, "an Excel workbook", xlrd.XLRDError):
        sheet = xlrd.open_workbook(file_contents=content, logfile=io.StringIO()).sheet_by_index(0)
        _, header, *rows = (sheet.row_values(number) for number in range(sheet.nrows))
    return pd.DataFrame(rows, columns=header)


SOURCE = Source(
    name="credit",
    files=(
        RawFile(
            FILE,
            "30c6be3abd8dcfd3e6096c828bad8c2f011238620f5369220bd60cfc82700933",
            uci_urls(
                f"350/default+of+credit+card+clients.zip#{FILE}",
                f"00350/{FILE.replace(' ', '%20')}",
            ),
        ),
    ),
    parse=parse,
    facts={
        "title": "Default of Credit Card Clients",
        "url": "https://archive.ics.uci.edu/dataset/350/default+of+credit+card+clients",
        "licence": "CC BY 4.0",
        "numeric": NUMERIC,
        "categorical": ["sex", "education", "marriage"],
        "target": "default",
        "notes": "Codes of education and marriage without a documented meaning are kept as codes.",
    },
)
