"""UCI Covertype: which trees cover 30 m × 30 m of forest (Roosevelt National Forest, Colorado)."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from data_scripts.source import RawFile, Source, from_folder, known, reading, uci_urls

FILE = "covtype.data"
NUMERIC = [
    "elevation", "aspect", "slope", "horizontal_distance_to_hydrology",
    "vertical_distance_to_hydrology", "horizontal_distance_to_roadways", "hillshade_9am",
    "hillshade_noon", "hillshade_3pm", "horizontal_distance_to_fire_points",
]  # fmt: skip
AREAS = ["Rawah", "Neota", "Comanche Peak", "Cache la Poudre"]
SOILS = [str(number) for number in range(1, 41)]
COVERS = {
    1: "spruce/fir", 2: "lodgepole pine", 3: "ponderosa pine", 4: "cottonwood/willow", 5: "aspen",
    6: "douglas-fir", 7: "krummholz",
}  # fmt: skip
WIDTH = len(NUMERIC) + len(AREAS) + len(SOILS) + 1


def parse(raw: Mapping[str, bytes]) -> pd.DataFrame:
    """Read all rows or a sample of them; each group of 0/1 columns becomes one category."""
    (content,) = raw.values()
    with reading(FILE, "UCI Covertype"):
        cells = pd.read_csv(io.BytesIO(content), header=None)
        if cells.shape[1] != WIDTH:
            raise ValueError(f"rows have {cells.shape[1]} columns instead of {WIDTH}")
        values = cells.astype("int64").to_numpy()
        soil = len(NUMERIC) + len(AREAS)
        frame = pd.DataFrame(values[:, : len(NUMERIC)], columns=NUMERIC)
        frame["wilderness_area"] = _one_of(AREAS, values[:, len(NUMERIC) : soil])
        frame["soil_type"] = _one_of(SOILS, values[:, soil:-1])
        cover = pd.Series(values[:, -1], name="the last column")
        frame["cover_type"] = known(cover, COVERS).map(COVERS)
    return frame


def _one_of(names: Sequence[str], flags: np.ndarray) -> np.ndarray:
    if not (np.isin(flags, (0, 1)).all() and (flags.sum(axis=1) == 1).all()):
        raise ValueError(f"not exactly one of the columns {names[0]} to {names[-1]} is 1 in a row")
    return np.array(names)[flags.argmax(axis=1)]


FACTS = {
    "title": "Covertype",
    "url": "https://archive.ics.uci.edu/dataset/31/covertype",
    "licence": "CC BY 4.0",
    "numeric": NUMERIC,
    "categorical": ["wilderness_area", "soil_type"],
    "target": "cover_type",
    "notes": "The 4 columns of areas and the 40 of soils are one category each.",
}
SAMPLE_FILE = {
    "covtype.subset92962.data": "f21a68ba90b8ff3a7e3bf671bd9ff7fabb260211a8e6fba1d119c43c3988f68b"
}
SAMPLE = Source(
    name="covertype",
    files=from_folder(SAMPLE_FILE),
    parse=parse,
    facts=FACTS
    | {
        "title": "Covertype (sample)",
        "notes": "92,962 of 581,012 rows: a sample, in another order (the public test split of a "
        f"challenge, its scaling undone). {FACTS['notes']}",
    },
)

SOURCE = Source(
    name="covertype",
    files=(
        RawFile(
            f"{FILE}.gz",
            # as in scikit-learn's own loader, whose address is the last one
            "614360d0257557dd1792834a85a1cdebfadc3c4f30b011d56afee7ffb5b15771",
            (
                *uci_urls(f"31/covertype.zip#{FILE}.gz", f"covtype/{FILE}.gz"),
                "https://ndownloader.figshare.com/files/5976039",
            ),
        ),
    ),
    parse=parse,
    facts=FACTS,
    editions=(SAMPLE,),
)
