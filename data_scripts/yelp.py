"""Yelp: how people rated shops and restaurants (academic data set, or a graph data set of it)."""

import io
from collections.abc import Mapping

import pandas as pd

from data_scripts.amazon import joined_names
from data_scripts.interactions import check_between, joined, read_json_lines
from data_scripts.source import Lines, Source, from_folder, reading
from demix_lite.data.world import add_averages

TITLE = "the Yelp academic data set"
GRAPH_TITLE = "the Yelp graph set"
FILE = "yelp_academic_dataset_{}.json"
REVIEWS, USERS, BUSINESSES = (FILE.format(kind) for kind in ("review", "user", "business"))
COMPLIMENTS = [
    "hot", "more", "profile", "cute", "list", "note", "plain", "cool", "funny", "writer", "photos"
]  # fmt: skip


def parse(raw: Mapping[str, Lines]) -> dict[str, pd.DataFrame]:
    """Read reviews (gigabytes), users and businesses: one JSON object per line."""
    reviews = _reviews(raw[REVIEWS])
    users, businesses = _users(raw[USERS]), _businesses(raw[BUSINESSES])
    described = reviews["user"].isin(users["user"]) & reviews["item"].isin(businesses["item"])
    with reading(REVIEWS, TITLE):
        if not described.any():
            raise ValueError(f"none of its users and businesses is in {USERS} and {BUSINESSES}")
    return joined(reviews[described], TITLE, user=(USERS, users), item=(BUSINESSES, businesses))


def _reviews(lines: Lines) -> pd.DataFrame:
    reviews = read_json_lines(
        lines, TITLE,
        user=("user_id", str), item=("business_id", str), rating=("stars", float),
        time=("date", str),
    )  # fmt: skip
    with reading(REVIEWS, TITLE):
        if reviews[["user", "item", "time"]].isna().to_numpy().any():
            raise ValueError("a review lacks user_id, business_id or date")
        check_between(reviews["rating"], 1, 5)
        when = pd.to_datetime(reviews["time"], format="ISO8601").astype("datetime64[s]")
    return reviews.assign(time=when.astype("int64"))


def _users(lines: Lines) -> pd.DataFrame:
    users = read_json_lines(
        lines, TITLE,
        user=("user_id", str), review_count=("review_count", int),
        average_stars=("average_stars", float),
        **{kind: (f"compliment_{kind}", int) for kind in COMPLIMENTS},
    )  # fmt: skip
    kinds = users[COMPLIMENTS].astype("float64").gt(0).sum(axis=1)
    users = users.assign(compliments=kinds)
    return users[["user", "compliments", "review_count", "average_stars"]]


def _businesses(lines: Lines) -> pd.DataFrame:
    businesses = read_json_lines(
        lines, TITLE,
        item=("business_id", str), city=("city", str), categories=("categories", str),
        stars=("stars", float), review_count=("review_count", int),
    )  # fmt: skip
    joined = businesses["categories"].str.replace(r"\s*,\s*", "|", regex=True)
    return businesses.assign(categories=joined)


def parse_graph(raw: Mapping[str, bytes]) -> dict[str, pd.DataFrame]:
    """Read the links between numbered users, businesses, cities, categories and compliments."""
    ratings = _links(raw, "user_business.dat", ["user", "item", "rating"])
    with reading("user_business.dat", GRAPH_TITLE):
        check_between(ratings["rating"], 1, 5)
    tables = joined(ratings, GRAPH_TITLE)
    users, items = tables["users"], tables["items"]
    kinds = _links(raw, "user_compliment.dat", ["user", "kind", "is_there"])
    counts = kinds.groupby(kinds["user"].astype(str)).size()
    users["compliments"] = users["user"].map(counts).fillna(0).astype("int64")
    cities = _links(raw, "business_city.dat", ["item", "city", "is_there"])
    items["city"] = items["item"].map(joined_names(cities, "item", "city"))
    categories = _links(raw, "business_category.dat", ["item", "category", "is_there"])
    items["categories"] = items["item"].map(joined_names(categories, "item", "category"))
    return add_averages(tables)


def _links(raw: Mapping[str, bytes], name: str, columns: list[str]) -> pd.DataFrame:
    with reading(name, GRAPH_TITLE):
        return pd.read_csv(io.BytesIO(raw[name]), sep="\t", names=columns).astype("int64")


FACTS = {
    "title": "Yelp Open Dataset",
    "url": "https://business.yelp.com/data/resources/open-dataset/",
    "licence": "Yelp terms of use: academic, not commercial, no redistribution",
    "numeric": ["review_count", "average_stars", "compliments", "stars"],
    "categorical": ["city", "categories"],
    "target": "rating",
    "keys": ["user", "item", "time"],
    "notes": "Stars and counts of users and businesses are Yelp's own, over all its reviews. "
    "compliments: how many of the 11 kinds a user got. Left out: texts, names, reviews by users or "
    "of businesses that the other files do not hold.",
}
GRAPH_FILES = {
    "user_business.dat": "d57853e95c3f49f0060f31ee9365ab3fffe1010999c76863c3cd9628b91e994d",
    "business_city.dat": "09c009dfa16709aff52de4831b9cb30f45a16dcfce1db06858d54af6ef5f7d1e",
    "business_category.dat": "d3c1499e406c0a842b3c08c478ffe7bf26a8758b630e0b056d0f4bcf18c01a5b",
    "user_compliment.dat": "e7f5c15155bf0843e3bdf9fb4743bb3ebf76826b4108e9e194fd637e0bb05ed6",
}
GRAPH = Source(
    name="yelp",
    files=from_folder(GRAPH_FILES),
    parse=parse_graph,
    facts=FACTS
    | {
        "title": "Yelp, graph set",
        "url": "https://github.com/librahu/HIN-Datasets-for-Recommendation-and-Network-Embedding",
        "keys": ["user", "item"],
        "notes": "A set derived from a Yelp data set, not the official files: numbers stand for "
        "users, businesses, cities and categories; there are no dates, the order of the rows is "
        "that of the file (by user). Stars and counts of users and businesses are computed from "
        "these very ratings. compliments: how many of the 11 kinds a user got.",
    },
)

SOURCE = Source(
    name="yelp",
    files=from_folder({REVIEWS: "", USERS: "", BUSINESSES: ""}),
    parse=parse,
    facts=FACTS,
    streamed=True,
    by_hand="accept the terms at https://business.yelp.com/data/resources/open-dataset/, download "
    "and unpack the JSON archive, then run: python -m data_scripts yelp --raw FOLDER",
    editions=(GRAPH,),
)
