"""Amazon reviews of 2018 (All Beauty or another category), or a graph data set of older ones."""

import io
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from data_scripts.interactions import check_between, joined, read_json_lines
from data_scripts.source import Lines, RawFile, Source, from_folder, reading

HOST = "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2"
TITLE = "Amazon Review Data 2018"
GRAPH_TITLE = "the Amazon graph set"
PRICE = re.compile(r"\$([\d,]+(?:\.\d+)?)")
CAPTION = re.compile(r'<img\b.*\balt="([^"]*)"')


def parse(raw: Mapping[str, Lines]) -> dict[str, pd.DataFrame]:
    """Read the reviews of a category and the metadata of its products: one JSON object per line."""
    review_file, product_file = raw.values()
    reviews = read_json_lines(
        review_file, TITLE,
        user=("reviewerID", str), item=("asin", str), rating=("overall", float),
        time=("unixReviewTime", int),
    )  # fmt: skip
    products = read_json_lines(
        product_file, TITLE,
        item=("asin", str), brand=("brand", str), category=("main_cat", str), price=("price", str),
    )  # fmt: skip
    with reading(review_file.path.name, TITLE):
        if reviews[["user", "item", "time"]].isna().to_numpy().any():
            raise ValueError("a review lacks reviewerID, asin or unixReviewTime")
        check_between(reviews["rating"], 1, 5)
        if not reviews["item"].isin(products["item"]).any():
            raise ValueError(f"none of its products is in {product_file.path.name}")
        reviews = reviews.astype({"time": "int64"})
    products = products.assign(
        brand=products["brand"].map(read_words),
        category=products["category"].map(read_words),
        price=products["price"].map(read_price),
    )
    described = product_file.path.name, products.drop_duplicates("item")
    return joined(reviews, TITLE, item=described)


def read_price(text: str | None) -> float:
    """Return a price in dollars; NaN for a range, for markup or if there is none.

    Examples
    --------
    >>> [read_price(text) for text in ("$1,250.00", "$5.99 - $9.99", None)]
    [1250.0, nan, nan]
    """
    found = PRICE.fullmatch(text.strip()) if isinstance(text, str) else None
    return float(found[1].replace(",", "")) if found else np.nan


def read_words(text: str | None) -> str | float:
    """Return a brand or category, or the caption of a picture; NaN for markup or if there is none.

    Examples
    --------
    >>> [read_words(text) for text in (" Lush", '<img src="x" alt="FASHION"/>', "<b>", "")]
    ['Lush', 'FASHION', nan, nan]
    """
    if not isinstance(text, str):
        return np.nan
    caption = CAPTION.search(text)
    words = " ".join((caption[1] if caption else text).split())
    return np.nan if not words or "<" in words else words


def parse_graph(raw: Mapping[str, bytes]) -> dict[str, pd.DataFrame]:
    """Read ``user_item.dat`` (tabs), ``item_brand.dat`` and ``item_category.dat`` (commas)."""
    names = ["user", "item", "rating", "time"]
    with reading("user_item.dat", GRAPH_TITLE):
        ratings = pd.read_csv(io.BytesIO(raw["user_item.dat"]), sep="\t", names=names)
        ratings = ratings.astype("int64")
        check_between(ratings["rating"], 1, 5)
    tables = joined(ratings, GRAPH_TITLE)
    items = tables["items"]
    for kind in ("brand", "category"):
        with reading(f"item_{kind}.dat", GRAPH_TITLE):
            links = pd.read_csv(io.BytesIO(raw[f"item_{kind}.dat"]), names=["item", kind])
            items[kind] = items["item"].map(joined_names(links, "item", kind))
    items["price"] = np.nan
    return tables


def joined_names(links: pd.DataFrame, key: str, kind: str) -> pd.Series:
    """Give numbered kinds names ("brand 17"), and join those of an item or user with ``|``.

    Examples
    --------
    >>> links = pd.DataFrame({"item": [1, 1, 2], "category": [0, 3, 0]})
    >>> joined_names(links, "item", "category").to_dict()
    {'1': 'category 0|category 3', '2': 'category 0'}
    """
    links = links.astype("int64").sort_values([key, kind]).astype(str)
    return (f"{kind} " + links[kind]).groupby(links[key]).agg("|".join)


FACTS = {
    "title": f"{TITLE}, All Beauty",
    "url": "https://nijianmo.github.io/amazon/index.html",
    "licence": "none stated; research, citing Ni, Li and McAuley (EMNLP 2019)",
    "numeric": ["price"],
    "categorical": ["brand", "category"],
    "target": "rating",
    "keys": ["user", "item", "time"],
    "notes": "Reviews by users and of products with at least five. Prices in dollars; a range of "
    "prices or a badly cut page counts as missing. Left out: texts, names of reviewers.",
}
GRAPH_FACTS = FACTS | {
    "title": "Amazon 2014, graph set",
    "url": "https://github.com/librahu/HIN-Datasets-for-Recommendation-and-Network-Embedding",
    "licence": "none stated; research, citing He and McAuley (WWW 2016)",
    "notes": "A set derived from the Amazon reviews of 2014 (its category is not named), not the "
    "official data of 2018: numbers stand for users, products, brands and categories, and "
    "there are no prices (the column is empty).",
}


GRAPH_FILES = {
    "user_item.dat": "d14fcc5b04f0d701d326149bc4f18d471156f189ff1f4d0fefa14511c4cb42c8",
    "item_brand.dat": "65f4eaddff343a365ad474a6841bbaf541af1b2d96081c4adaeeeb8a7a8a313b",
    "item_category.dat": "17b9158f777fbb0b8b035a9b675c2f7d2e9f7ad81f34919d3e6db4289c9dc6bf",
}
GRAPH = Source(
    name="amazon",
    files=from_folder(GRAPH_FILES),
    parse=parse_graph,
    facts=GRAPH_FACTS,
)
ANY_CATEGORY = Source(
    name="amazon",
    files=from_folder({"*_5.json": "", "meta_*.json": ""}),
    parse=parse,
    facts=FACTS | {"title": f"{TITLE}, another category"},
    streamed=True,
)

SOURCE = Source(
    name="amazon",
    files=(
        RawFile("All_Beauty_5.json", "", (f"{HOST}/categoryFilesSmall/All_Beauty_5.json.gz",)),
        RawFile("meta_All_Beauty.json", "", (f"{HOST}/metaFiles2/meta_All_Beauty.json.gz",)),
    ),
    parse=parse,
    facts=FACTS,
    streamed=True,
    editions=(ANY_CATEGORY, GRAPH),
)
