"""MovieLens: how people rated films (1 million ratings, or the edition with 100,000)."""

from collections.abc import Mapping

import pandas as pd

from data_scripts.interactions import check_between, joined
from data_scripts.source import RawFile, Source, from_folder, known, reading

ZIP = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
RATINGS, USERS, MOVIES = "ratings.dat", "users.dat", "movies.dat"
# the code list of the README, from 0
OCCUPATIONS = [
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student",
    "customer service", "doctor/health care", "executive/managerial", "farmer", "homemaker",
    "K-12 student", "lawyer", "programmer", "retired", "sales/marketing", "scientist",
    "self-employed", "technician/engineer", "tradesman/craftsman", "unemployed", "writer",
]  # fmt: skip
# u.genre, in the order of the 19 flags
GENRES = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
]  # fmt: skip


def parse(raw: Mapping[str, bytes]) -> dict[str, pd.DataFrame]:
    """Read ``ratings.dat``, ``users.dat`` and ``movies.dat``: separator ``::``, latin-1."""
    ratings_file, users_file, movies_file = raw.values()  # the first name differs in the sample
    with reading(RATINGS, "MovieLens 1M"):
        ratings = _numbers(_cells(ratings_file, 4), ["user", "item", "rating", "time"])
    with reading(USERS, "MovieLens 1M"):
        users = _cells(users_file, 5)
        codes = _numbers(users[[0, 2, 3]], ["user", "age", "occupation"])
        check_between(codes["occupation"], 0, len(OCCUPATIONS) - 1)
        users = codes.assign(
            gender=known(users[1].rename("gender"), ["F", "M"]),
            occupation=codes["occupation"].map(dict(enumerate(OCCUPATIONS))),
        )
    with reading(MOVIES, "MovieLens 1M"):
        cells = _cells(movies_file, 3)
        movies = _films(cells[0], cells[1]).assign(genres=cells[2])
    return _checked(ratings, users, movies, (RATINGS, USERS, MOVIES), "MovieLens 1M")


def parse_100k(raw: Mapping[str, bytes]) -> dict[str, pd.DataFrame]:
    """Read ``u.data`` (tabs), ``u.user`` and ``u.item`` (``|``, latin-1, a flag for each genre)."""
    with reading("u.data", "MovieLens 100K"):
        ratings = _numbers(_cells(raw["u.data"], 4, "\t"), ["user", "item", "rating", "time"])
    with reading("u.user", "MovieLens 100K"):
        users = _cells(raw["u.user"], 5, "|")
        users = _numbers(users[[0, 1]], ["user", "age"]).assign(
            gender=known(users[2].rename("gender"), ["F", "M"]), occupation=users[3]
        )
    with reading("u.item", "MovieLens 100K"):
        cells = _cells(raw["u.item"], 5 + len(GENRES), "|")
        flags = known(cells.iloc[:, 5:].stack().rename("a genre"), ["0", "1"]).unstack() == "1"
        genres = flags.apply(lambda row: "|".join(pd.Series(GENRES)[row.to_numpy()]), axis=1)
        movies = _films(cells[0], cells[1]).assign(genres=genres)
    return _checked(ratings, users, movies, ("u.data", "u.user", "u.item"), "MovieLens 100K")


def _cells(content: bytes, width: int, divider: str = "::") -> pd.DataFrame:
    # without pandas: titles contain quotes, and pandas is slow with the separator "::"
    lines = content.decode("latin-1").splitlines()
    rows = [line.split(divider) for line in lines]
    odd = [number for number, row in enumerate(rows, 1) if len(row) != width]
    if not rows:
        raise ValueError("it is empty")
    if odd:
        cells = len(rows[odd[0] - 1])
        raise ValueError(f"line {odd[0]} has {cells} cells instead of {width}")
    return pd.DataFrame(rows)


def _numbers(cells: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    return cells.set_axis(names, axis=1).astype("int64")


def _films(ids: pd.Series, titles: pd.Series) -> pd.DataFrame:
    """Extract the year from the end of the title; one film of the 100K edition has none."""
    years = titles.str.extract(r".*\((\d{4})\)", expand=False)
    years = years.astype("float64" if years.isna().any() else "int64")
    return pd.DataFrame({"item": ids, "title": titles.str.strip(), "year": years})


def _checked(
    ratings: pd.DataFrame,
    users: pd.DataFrame,
    movies: pd.DataFrame,
    files: tuple[str, str, str],
    title: str,
) -> dict[str, pd.DataFrame]:
    ratings_file, users_file, movies_file = files
    with reading(ratings_file, title):
        check_between(ratings["rating"], 1, 5)
        for key, described, file in (("user", users, users_file), ("item", movies, movies_file)):
            if not ratings[key].astype(str).isin(described[key].astype(str)).all():
                raise ValueError(f"it names {key}s that are not in {file}")
    users = users[["user", "gender", "age", "occupation"]]
    return joined(ratings, title, user=(users_file, users), item=(movies_file, movies))


FACTS = {
    "title": "MovieLens 1M",
    "url": "https://grouplens.org/datasets/movielens/1m/",
    "licence": "GroupLens terms: research, with acknowledgement; no redistribution, not commercial",
    "numeric": ["age", "year"],
    "categorical": ["gender", "occupation", "genres"],
    "target": "rating",
    "keys": ["user", "item", "time", "title"],
    "notes": "Ages are the lower ends of 7 groups. Left out: zip codes, films without a rating. "
    "The title is there to be read, not to learn from.",
}


def _file(name: str, sha256: str) -> RawFile:
    return RawFile(name, sha256, (f"{ZIP}#ml-1m/{name}",))


FILES_100K = {
    "u.data": "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
    "u.user": "f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c",
    "u.item": "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
}
ML_100K = Source(
    name="movielens",
    files=from_folder(FILES_100K),
    parse=parse_100k,
    facts=FACTS
    | {
        "title": "MovieLens 100K",
        "url": "https://grouplens.org/datasets/movielens/100k/",
        "notes": "The 100,000 ratings of 1997 and 1998, another edition than the 1M one: exact "
        "ages, other names of occupations; one film has neither name nor year. Left out: zip "
        "codes, dates of release, addresses. The title is there to be read, not to learn from.",
    },
)
PEOPLE_AND_FILMS = (
    _file(USERS, "1dc3a95300cb19f7c10e027daf29b8cdf1d908dab65b5edfb45950aa389a10a3"),
    _file(MOVIES, "0140fc2356357c1a851d0f52e893a1e4d3696df632c4141cea8d5bc3d621f0b9"),
)
SAMPLE_RATINGS = {
    "ratings.users1-2999.dat": "1273c4edfe3c0ff9e3a0a0d55819faeb947da0ad7df3927333b51ebefbeedc3d"
}
SAMPLE = Source(
    name="movielens",
    files=(*from_folder(SAMPLE_RATINGS), *PEOPLE_AND_FILMS),
    parse=parse,
    facts=FACTS
    | {
        "title": "MovieLens 1M (sample)",
        "notes": "487,650 of 1,000,209 rows: users 1 to 2999 alone, the later members. "
        f"{FACTS['notes']}",
    },
)

SOURCE = Source(
    name="movielens",
    files=(
        _file(RATINGS, "506d64ca44484487c11dc2d9a28de5c54948213e6b96285e298afe28d6ea4e0f"),
        *PEOPLE_AND_FILMS,
    ),
    parse=parse,
    facts=FACTS,
    editions=(ML_100K, SAMPLE),
)
