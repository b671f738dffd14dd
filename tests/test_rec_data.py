"""Users and items: parsers, editions, the store of several tables, and their twins."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_scripts import fit_twin, movielens
from data_scripts import fit_world as fitting
from data_scripts.__main__ import main, prepare
from data_scripts.amazon import read_price
from data_scripts.download import choose_edition, read_raw
from data_scripts.fit_world import check_world, fit_world, places
from data_scripts.source import Source, all_sources
from demix_lite.data import load_table, load_tables, save_table, save_tables
from demix_lite.data.store import content_sha256, keep_users, tables_sha256
from demix_lite.data.twin import load_twin
from demix_lite.data.world import add_averages, sample_world, token_matrix
from demix_lite.errors import DemixError

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
NAMES = ["movielens", "amazon", "yelp"]
COLUMNS = {
    "movielens": [
        ["user", "item", "rating", "time"],
        ["user", "gender", "age", "occupation"],
        ["item", "title", "year", "genres"],
    ],
    "amazon": [
        ["user", "item", "rating", "time"],
        ["user"],
        ["item", "brand", "category", "price"],
    ],
    "yelp": [
        ["user", "item", "rating", "time"],
        ["user", "compliments", "review_count", "average_stars"],
        ["item", "city", "categories", "stars", "review_count"],
    ],
}

ML_1M = {
    "ratings.dat": b"""\
1::10::5::978300760
1::20::3::978302109
2::10::4::978298413
1::10::1::978300999
""",
    "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::15::55117\n",
    "movies.dat": b"""\
10::Am\xe9lie \"(of Montmartre)\" (2001)::Comedy|Romance
20::2001: A Space Odyssey (1968)::Sci-Fi
30::Never Seen (1990)::Drama
""",
}
ML_100K = {
    "u.data": b"196\t242\t3\t881250949\n186\t267\t3\t891717742\n",
    "u.user": b"186|39|F|executive|00000\n196|49|M|writer|55105\n",
    "u.item": b"242|Kolya (1996)|24-Jan-1997||http://x|0|0|0|0|0|1|0|0|0|0|0|0|0|0|1|0|0|0|0\n"
    b"267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n",
}
REVIEWS = """\
{"overall": 5.0, "reviewerID": "A1", "asin": "B1", "unixReviewTime": 1529193600, "style": {}}
{"overall": 2.0, "reviewerID": "A2", "asin": "B2", "unixReviewTime": 1528934400}
{"overall": 1.0, "reviewerID": "A1", "asin": "B1", "unixReviewTime": 1529193601}
{"overall": 4, "reviewerID": "A2", "asin": "B3", "unixReviewTime": 1528934400}
"""
PRODUCTS = """\
{"asin": "B1", "brand": "Lush", "main_cat": "All Beauty", "price": "$1,234.50"}
{"asin": "B2", "brand": "", "main_cat": "<img src=\\"x\\"/>", "price": "$1.00 - $9.99"}
{"asin": "B2", "brand": "Copy", "main_cat": "All Beauty", "price": "$3.00"}
{"asin": "B3", "brand": " By\\n Elf ", "main_cat": "<img alt=\\"FASHION\\"/>", "price": null}
{"asin": "B9", "brand": "Unsold", "main_cat": null, "price": ".a-box-inner{"}
"""
AMAZON = {"All_Beauty_5.json": REVIEWS.encode(), "meta_All_Beauty.json": PRODUCTS.encode()}
AMAZON_GRAPH = {
    "user_item.dat": b"7\t1\t5\t1386201600\n8\t2\t4\t1387670400\n",
    "item_brand.dat": b"1,17\n",
    "item_category.dat": b"1,3\n1,0\n2,0\n",
}
YELP = {
    "review": [
        {"user_id": "u", "business_id": "b", "stars": 4.0, "date": "2018-07-07 22:09:11"},
        {"user_id": "u", "business_id": "c", "stars": 2.0, "date": "2016-03-09"},
        {"user_id": "nobody", "business_id": "b", "stars": 1.0, "date": "2016-03-09"},
    ],
    "user": [
        {"user_id": "u", "review_count": 9, "average_stars": 3.5, "compliment_hot": 4,
         "compliment_cool": 1, "compliment_more": 0},
        {"user_id": "silent", "review_count": 0, "average_stars": 0.0},
    ],
    "business": [
        {"business_id": "b", "city": "Tempe", "stars": 4.5, "review_count": 88,
         "categories": "Bars, Nightlife , Food"},
        {"business_id": "c", "city": "Mesa", "stars": 3, "review_count": 5, "categories": None},
    ],
}  # fmt: skip
YELP = {
    f"yelp_academic_dataset_{kind}.json": "".join(json.dumps(row) + "\n" for row in rows).encode()
    for kind, rows in YELP.items()
}
YELP_GRAPH = {
    "user_business.dat": b"1\t5\t5\n1\t6\t2\n2\t5\t4\n",
    "business_city.dat": b"5\t31\t1\n",
    "business_category.dat": b"5\t407\t1\n5\t45\t1\n6\t45\t1\n",
    "user_compliment.dat": b"2\t1\t1\n2\t4\t1\n",
}
EDITIONS = {
    "movielens 1M": ("movielens", 0, ML_1M),
    "movielens 100K": ("movielens", 1, ML_100K),
    "amazon": ("amazon", 0, AMAZON),
    "amazon graph": ("amazon", 2, AMAZON_GRAPH),
    "yelp": ("yelp", 0, YELP),
    "yelp graph": ("yelp", 1, YELP_GRAPH),
}


def fill(folder: Path, files: dict[str, bytes], packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


def unchecked(source: Source) -> Source:
    """Return the source without digests, so that small files pass for official ones."""
    files = tuple(replace(file, sha256="") for file in source.files)
    return replace(source, files=files, editions=tuple(map(unchecked, source.editions)))


def parsed(name: str, folder: Path, files: dict[str, bytes], packed: bool = False) -> dict:
    fill(folder, files, packed)
    source = choose_edition(unchecked(all_sources()[name]), folder)
    return source.parse(read_raw(source, folder))


# ---- parsing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("edition", EDITIONS)
def test_every_edition_is_recognised_and_has_the_same_columns(tmp_path, edition, packed):
    name, number, files = EDITIONS[edition]
    source, raw = unchecked(all_sources()[name]), fill(tmp_path / "raw", files, packed)
    chosen = (source, *source.editions)[number]
    assert choose_edition(source, raw) == chosen
    prepare(source, raw, tmp_path)
    tables, card = load_tables(name, "real", home=tmp_path)
    assert card.title == chosen.facts["title"]
    assert "not verified" in card.notes
    assert card.rows == len(tables["interactions"])
    dated = [c for c in COLUMNS[name][0] if c != "time" or "time" in card.keys]
    assert [list(frame) for frame in tables.values()] == [dated, *COLUMNS[name][1:]]
    assert tables["interactions"]["rating"].dtype == float
    for key in ("user", "item"):
        occurring = tables["interactions"][key].unique().tolist()
        assert tables[f"{key}s"][key].tolist() == occurring
        assert all(isinstance(value, str) for value in occurring)


def test_movielens_reads_latin_1_codes_years_and_keeps_the_first_of_a_repeated_pair(tmp_path):
    tables = parsed("movielens", tmp_path, ML_1M)
    assert tables["interactions"].to_numpy().tolist() == [
        ["1", "10", 5.0, 978300760],
        ["1", "20", 3.0, 978302109],
        ["2", "10", 4.0, 978298413],
    ]
    assert tables["users"].to_numpy().tolist() == [
        ["1", "F", 1, "K-12 student"],
        ["2", "M", 56, "self-employed"],
    ]
    assert tables["items"].to_numpy().tolist() == [
        ["10", 'Amélie "(of Montmartre)" (2001)', 2001, "Comedy|Romance"],
        ["20", "2001: A Space Odyssey (1968)", 1968, "Sci-Fi"],
    ]


def test_the_100k_edition_names_genres_by_flags(tmp_path):
    tables = parsed("movielens", tmp_path, ML_100K)
    assert tables["users"].to_numpy().tolist() == [
        ["196", "M", 49, "writer"],
        ["186", "F", 39, "executive"],
    ]
    assert tables["items"]["genres"].tolist() == ["Comedy|Romance", "unknown"]
    assert tables["items"]["year"].isna().tolist() == [False, True]


def test_amazon_reads_prices_and_takes_markup_and_ranges_for_missing(tmp_path):
    tables = parsed("amazon", tmp_path, AMAZON)
    assert tables["interactions"]["rating"].tolist() == [5, 2, 4]
    items = tables["items"].set_index("item")
    assert items.loc["B1"].tolist() == ["Lush", "All Beauty", 1234.5]
    assert items.loc["B2"].isna().all()
    assert items.loc["B3", ["brand", "category"]].tolist() == ["By Elf", "FASHION"]
    assert not items.index.isin(["B9"]).any()


@pytest.mark.parametrize(
    ("text", "price"),
    [("$1.23", 1.23), (" $1,250.00\n", 1250), ("$7", 7), ("$1 - $2", None), ("1.23", None),
     ("", None), (None, None), ("$", None)],
)  # fmt: skip
def test_prices(text, price):
    assert read_price(text) == price if price else np.isnan(read_price(text))


def test_any_category_of_amazon_works_from_a_folder_that_holds_one(tmp_path):
    category = {"Books_5.json": REVIEWS.encode(), "meta_Books.json": PRODUCTS.encode()}
    prepare(all_sources()["amazon"], fill(tmp_path / "raw", category, packed=True), tmp_path)
    tables, card = load_tables("amazon", "real", home=tmp_path)
    assert len(tables["interactions"]) == 3
    assert card.notes.startswith("Read from Books_5.json.gz and meta_Books.json.gz: not verified")
    fill(tmp_path / "raw", {"Music_5.json": REVIEWS.encode()})
    with pytest.raises(DemixError, match=r"several files \*_5.json: Music_5.json, Books_5.json.gz"):
        prepare(all_sources()["amazon"], tmp_path / "raw", tmp_path)


def test_the_graph_set_of_amazon_names_its_numbers(tmp_path):
    items = parsed("amazon", tmp_path, AMAZON_GRAPH)["items"]
    assert items["brand"].fillna("").tolist() == ["brand 17", ""]
    assert items["category"].tolist() == ["category 0|category 3", "category 0"]
    assert items["price"].isna().all()


def test_yelp_counts_kinds_of_compliments_and_drops_reviews_by_nobody(tmp_path):
    tables = parsed("yelp", tmp_path, YELP)
    assert tables["interactions"].to_numpy().tolist() == [
        ["u", "b", 4.0, 1531001351],
        ["u", "c", 2.0, 1457481600],
    ]
    assert tables["users"].to_numpy().tolist() == [["u", 2, 9, 3.5]]
    assert tables["items"].fillna("").to_numpy().tolist() == [
        ["b", "Tempe", "Bars|Nightlife|Food", 4.5, 88],
        ["c", "Mesa", "", 3.0, 5],
    ]


def test_the_graph_set_of_yelp_computes_stars_and_has_no_time(tmp_path):
    tables = parsed("yelp", tmp_path, YELP_GRAPH)
    assert list(tables["interactions"]) == ["user", "item", "rating"]
    assert tables["users"].to_numpy().tolist() == [["1", 0, 2, 3.5], ["2", 2, 1, 4.0]]
    assert tables["items"].fillna("").to_numpy().tolist() == [
        ["5", "city 31", "category 45|category 407", 4.5, 2],
        ["6", "", "category 45", 2.0, 1],
    ]


M, A, Y = "MovieLens 1M", "Amazon Review Data 2018", "the Yelp academic data set"
FIRST = b'{"overall": 5.0'
BROKEN = {
    "cell short": ("movielens 1M", "ratings.dat", b"::978302109", b"", f"{M}: line 2 has 3 cells"),
    "empty": ("movielens 1M", "ratings.dat", ML_1M["ratings.dat"], b"", f"{M}: it is empty"),
    "six stars": ("movielens 1M", "ratings.dat", b"::4::", b"::6::", "rating holds 6, not 1 to 5"),
    "no such user": ("movielens 1M", "ratings.dat", b"2::10", b"9::10", "users that are not in"),
    "user twice": ("movielens 1M", "users.dat", b"2::M", b"1::M", "users that are not in"),
    "gender": ("movielens 1M", "users.dat", b"::F::", b"::X::", "gender holds 'X'"),
    "occupation": ("movielens 1M", "users.dat", b"::16::", b"::21::", "21, not 0 to 20"),
    "age": ("movielens 1M", "users.dat", b"::56::", b"::old::", "'old'"),
    "flag": ("movielens 100K", "u.item", b"|1|0|0|0|0\n", b"|1|0|0|0|2\n", "a genre holds '2'"),
    "json": ("amazon", "All_Beauty_5.json", b'"A2", "asin": "B3"', b'"A2" "B3"', f"line 4 .* {A}"),
    "list": ("amazon", "meta_All_Beauty.json", b'{"asin": "B9"', b'["B9"]#', "line 5 of meta"),
    "number": ("amazon", "All_Beauty_5.json", FIRST, b'{"overall": "5"', "line 1 .* no float"),
    "no id": ("amazon", "All_Beauty_5.json", b'"A1"', b"null", "lacks reviewerID"),
    "no join": ("amazon", "meta_All_Beauty.json", b'"asin": "B', b'"asin": "C', "none of its prod"),
    "no line": ("amazon", "All_Beauty_5.json", REVIEWS.encode(), b"", "it is empty"),
    "far time": ("amazon", "All_Beauty_5.json", b"1529193600", b"1" * 31, "too large to convert"),
    "comma": ("amazon graph", "item_brand.dat", b"1,17", b"1;17", "item_brand.dat is not"),
    "date": ("yelp", "yelp_academic_dataset_review.json", b"2018-07-07", b"July", "July"),
    "zone": ("yelp", "yelp_academic_dataset_review.json", b"22:09:11", b"22:09:11+02:00", "conv"),
    "strangers": ("yelp", "yelp_academic_dataset_user.json", b'"u"', b'"v"', "none of its users"),
    "stars": ("yelp graph", "user_business.dat", b"\t5\t5\n", b"\t5\tmany\n", "user_business.dat"),
}  # fmt: skip


@pytest.mark.parametrize(("edition", "file", "old", "new", "says"), BROKEN.values(), ids=BROKEN)
def test_parsers_say_which_file_is_wrong_and_where(tmp_path, edition, file, old, new, says):
    name, _, files = EDITIONS[edition]
    broken = files[file].replace(old, new)
    assert broken != files[file]
    with pytest.raises(DemixError, match=says) as caught:
        parsed(name, tmp_path, {**files, file: broken})
    assert "is not in the format of" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_packed_file_that_was_cut_is_damaged(tmp_path):
    fill(tmp_path, AMAZON, packed=True)
    path = tmp_path / "All_Beauty_5.json.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DemixError, match=r"All_Beauty_5\.json\.gz is damaged"):
        prepare(all_sources()["amazon"], tmp_path, tmp_path / "home")
    assert not (tmp_path / "home").exists()


# ---- folders and downloads -----------------------------------------------------------------------


def test_missing_files_are_named_for_every_edition(tmp_path):
    fill(tmp_path, {"users.dat": b"", "u.data": b"", "u.item": b""})
    with pytest.raises(DemixError) as caught:
        prepare(all_sources()["movielens"], tmp_path, tmp_path)
    assert "for MovieLens 1M it lacks ratings.dat and movies.dat" in str(caught.value)
    assert "for MovieLens 100K it lacks u.user" in str(caught.value)


def test_digests_are_checked_where_they_are_known(tmp_path):
    with pytest.raises(DemixError, match="not the official ratings.dat"):
        prepare(movielens.SOURCE, fill(tmp_path, ML_1M), tmp_path)
    with pytest.raises(DemixError, match="not the official user_business.dat"):
        prepare(all_sources()["yelp"], fill(tmp_path, YELP_GRAPH), tmp_path)


def test_yelp_says_how_to_get_what_cannot_be_downloaded(tmp_path, capsys):
    assert main(["yelp", "--home", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: 'yelp' cannot be downloaded: accept the terms at https://")
    assert "python -m data_scripts yelp --raw FOLDER" in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


REAL = {
    "ml-1m": ("movielens", 487_650, 2_999, 3_615, "bd69ddaa368f", "users 1 to 2999 alone"),
    "ml-100k": ("movielens", 100_000, 943, 1_682, "5189dc33f0d8", "exact ages"),
    "amazon/gift_cards_2018": ("amazon", 2_965, 458, 148, "7d0cf1ea0cf4", "not verified"),
    "amazon/hin_amazon": ("amazon", 195_791, 6_170, 2_753, "8448003a6f37", "there are no prices"),
    "yelp_hin": ("yelp", 198_397, 16_239, 14_284, "07fb2516f7ca", "there are no dates"),
}


@pytest.mark.parametrize("folder", REAL)
def test_real_files(folder, tmp_path):
    name, rows, users, items, digest, says = REAL[folder]
    if not (SHARED / folder).exists():
        pytest.skip(f"the files are not in ../shared/data/{folder}")
    prepare(all_sources()[name], SHARED / folder, tmp_path)
    tables, card = load_tables(name, "real", home=tmp_path)
    assert [len(frame) for frame in tables.values()] == [rows, users, items]
    assert card.rows == rows
    assert card.sha256.startswith(digest)
    assert says in card.notes
    assert not tables["interactions"].isna().to_numpy().any()
    assert not tables["interactions"].duplicated(["user", "item"]).any()


def test_real_gift_cards_have_the_prices_and_brands_of_the_manifest(tmp_path):
    folder = SHARED / "amazon" / "gift_cards_2018"
    if not folder.exists():
        pytest.skip("the files are not in ../shared/data/amazon/gift_cards_2018")
    source = choose_edition(all_sources()["amazon"], folder)
    raw = read_raw(source, folder)
    assert sum(1 for _ in raw["*_5.json"]) == 2_972
    tables = source.parse(raw)
    joined = tables["interactions"].merge(tables["items"], on="item")
    assert joined["price"].notna().sum() == 2_512  # 2,519 before the 7 repeated pairs are dropped
    assert joined["category"].eq("Gift Cards").mean() > 0.9


# ---- the store -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twin() -> tuple[dict, object]:
    return load_tables("movielens")


def test_several_tables_make_a_round_trip(tmp_path, twin):
    tables, card = twin
    folder = save_tables(tables, card, tmp_path)
    again, read = load_tables("movielens", "real", home=tmp_path)
    assert read == card
    assert card.rows == len(tables["interactions"])
    assert card.sha256 == tables_sha256(dict(reversed(tables.items())))
    for name, frame in tables.items():
        pd.testing.assert_frame_equal(again[name], frame)
    names = ["card.json", "interactions.parquet", "items.parquet", "users.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_one_table_is_hashed_and_written_as_it_always_was(tmp_path):
    frame, card = load_table("adult", rows=50)
    folder = save_table(frame, card, tmp_path)
    facts = json.loads((folder / "card.json").read_text())
    assert "keys" not in facts
    assert facts["sha256"] == content_sha256(frame)
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "table.parquet"]
    tables, _ = load_tables("adult", "real", home=tmp_path)
    assert list(tables) == ["table"]


def test_a_data_set_of_several_tables_is_not_one(tmp_path, twin):
    with pytest.raises(DemixError, match="'movielens' is 3 tables, not one; load it with"):
        load_table("movielens")
    tables, card = twin
    with pytest.raises(DemixError, match="should be the tables interactions, users, items"):
        save_table(tables["users"], card, tmp_path)
    with pytest.raises(DemixError, match="gender"):
        save_tables({**tables, "users": tables["users"].drop(columns="gender")}, card, tmp_path)
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize("damage", ["gone", "rows", "bytes"])
@pytest.mark.parametrize("table", ["interactions", "users", "items"])
def test_a_damaged_part_is_told_in_one_sentence(tmp_path, twin, table, damage):
    path = save_tables(*twin, tmp_path) / f"{table}.parquet"
    if damage == "gone":
        path.unlink()
    elif damage == "bytes":
        path.write_bytes(b"PAR1 and no more")
    else:
        twin[0][table].iloc[1:].to_parquet(path, index=False)
    with pytest.raises(DemixError, match=r"is damaged .* run again: python") as caught:
        load_tables("movielens", "real", home=tmp_path)
    assert "\n" not in str(caught.value)


def test_fewer_rows_are_whole_users_and_the_items_they_met(tmp_path, twin):
    whole, card = twin
    save_tables(whole, card, tmp_path)
    part, of_part = load_tables("movielens", "real", rows=5000, seed=3, home=tmp_path)
    other, _ = load_tables("movielens", "real", rows=5000, seed=4, home=tmp_path)
    assert 4700 <= of_part.rows == len(part["interactions"]) <= 5000
    assert of_part.sha256 == tables_sha256(part)
    assert of_part.notes.startswith(f"{of_part.rows} of {card.rows} rows, seed 3")
    counts = part["interactions"].value_counts("user").sort_index()
    assert counts.equals(whole["interactions"].value_counts("user")[counts.index])
    for key in ("user", "item"):
        assert set(part[f"{key}s"][key]) == set(part["interactions"][key])
    assert set(part["users"]["user"]) != set(other["users"]["user"])
    with pytest.raises(DemixError, match=f"has {card.rows} rows"):
        load_tables("movielens", "real", rows=card.rows + 1, home=tmp_path)


def test_at_least_one_user_is_kept(twin):
    assert len(keep_users(twin[0], 1, "movielens", 0)["users"]) == 1


# ---- twins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_twins_have_the_schema_of_the_real_tables(name):
    tables, card = load_tables(name)
    facts = all_sources()[name].facts
    assert [list(frame) for frame in tables.values()] == COLUMNS[name]
    assert (list(card.numeric), list(card.categorical)) == (facts["numeric"], facts["categorical"])
    assert (card.source, card.target, list(card.keys)) == ("twin", "rating", facts["keys"])
    assert card.notes.startswith("Synthetic users, items and ratings")
    interactions = tables["interactions"]
    assert set(interactions["rating"]) == {1, 2, 3, 4, 5}
    assert interactions["time"].dtype == np.int64
    assert interactions.groupby("user")["time"].apply(lambda t: t.is_monotonic_increasing).all()
    assert not interactions.duplicated(["user", "item"]).any()
    assert len(interactions) == pytest.approx(40_000, rel=0.1)
    assert len(tables["users"]) == 1_000
    assert 570 <= len(tables["items"]) <= 600
    for key in ("user", "item"):
        assert tables[f"{key}s"][key].is_unique
        assert set(interactions[key]) == set(tables[f"{key}s"][key])
    file = ROOT / "demix_lite" / "data" / "twins" / f"{name}.json"
    assert file.stat().st_size <= 40_000


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_world(name):
    first, again, other = (load_tables(name, seed=seed)[1].sha256 for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_twin_of_any_size(twin):
    small, card = load_tables("movielens", rows=3000)
    assert 2500 <= card.rows <= 3000
    assert set(small["users"]["user"]) <= set(twin[0]["users"]["user"])
    assert load_tables("movielens", rows=100_000)[1].rows == pytest.approx(100_000, rel=0.1)


def test_films_have_tastes_that_depend_on_gender_and_age():
    tables, _ = load_tables("movielens")
    seen = tables["interactions"].merge(tables["users"]).merge(tables["items"], on="item")

    def share(genre: str) -> pd.Series:
        return seen["genres"].str.contains(genre).groupby(seen["gender"]).mean()

    for genre in ("Action", "Sci-Fi"):
        assert share(genre)["F"] < 0.85 * share(genre)["M"]
    for genre in ("Romance", "Children's"):
        assert share(genre)["F"] > 1.15 * share(genre)["M"]
    old = seen["year"].lt(1980).groupby(seen["age"].lt(25)).mean()
    assert old[True] < 0.8 * old[False]


@pytest.mark.parametrize("name", NAMES)
def test_tastes_tell_more_than_popularity(name):
    found = check_world(*load_tables(name))
    assert 0.65 < found["popularity"] < 0.87
    assert found["tastes"] > found["popularity"] + 0.03


def test_every_rule_of_the_paper_selects_enough():
    def seen(name: str) -> pd.DataFrame:
        tables, _ = load_tables(name)
        joined = tables["interactions"].merge(tables["users"], on="user")
        return joined.merge(tables["items"], on="item", suffixes=("_user", ""))

    price = seen("amazon")["price"]
    assert price.between(0, 10).mean() > 0.05
    assert price.between(500, 1000).mean() > 0.003
    yelp = seen("yelp")
    many = yelp["stars"].between(4, 5) & yelp["review_count"].between(100, 10_000)
    few = yelp["review_count"].between(0, 20) & yelp["stars"].between(3, 4)
    assert many.mean() > 0.05
    assert few.mean() > 0.005


def test_averages_are_those_of_the_ratings():
    tables, _ = load_tables("yelp")
    plain = {
        "interactions": tables["interactions"],
        "users": tables["users"].drop(columns=["review_count", "average_stars"]),
        "items": tables["items"].drop(columns=["review_count", "stars"]),
    }
    for name, frame in add_averages(plain).items():
        pd.testing.assert_frame_equal(frame, tables[name])


def test_tokens_of_missing_values():
    assert token_matrix(pd.Series([1.0, np.nan]), {"cuts": [0, 2]}).tolist() == [
        [0, 1, 0, 0],
        [0, 0, 0, 1],
    ]
    texts = pd.Series(["Sci-Fi", np.nan, "Sci-Fi|Other"])
    assert token_matrix(texts, {"levels": ["Sci", "Sci-Fi", ""]}).tolist() == [
        [0, 1, 0],
        [0, 0, 1],
        [0, 1, 0],
    ]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(fitting, "EPOCHS", 2)
    monkeypatch.setattr(fitting, "STRENGTHS", (1,))


@pytest.mark.parametrize("name", NAMES)
def test_a_world_fitted_to_a_world_has_its_schema(name, quick):
    tables, card = load_tables(name)
    world = json.loads(json.dumps(fit_world(tables, card)))
    assert world["card"]["keys"] == list(card.keys)
    drawn = sample_world(world)
    for part, frame in tables.items():
        assert (drawn[part].dtypes == frame.dtypes).all()
    mean = drawn["interactions"]["rating"].mean()
    assert mean == pytest.approx(tables["interactions"]["rating"].mean(), abs=0.1)
    user, item = places(tables["interactions"], tables)
    assert (tables["items"]["item"].to_numpy()[item] == tables["interactions"]["item"]).all()
    assert (tables["users"]["user"].to_numpy()[user] == tables["interactions"]["user"]).all()


def test_undated_and_unpriced_tables_get_invented_ones(quick):
    tables, card = load_tables("amazon")
    tables["interactions"] = tables["interactions"].drop(columns="time")
    tables["items"] = tables["items"].assign(price=np.nan)
    undated = replace(card, keys=("user", "item"))
    world = fit_world(tables, undated)
    assert world["card"]["keys"] == ["user", "item", "time"]
    notes = (world["card"]["notes"], *(load_twin(name)["card"]["notes"] for name in NAMES))
    assert ["times of the twin are invented" in note for note in notes] == [
        True,
        False,
        False,
        True,
    ]
    assert ["prices of the twin are invented" in note for note in notes] == [
        True,
        False,
        True,
        False,
    ]
    drawn = sample_world(world)
    years = pd.to_datetime(drawn["interactions"]["time"], unit="s").dt.year
    assert years.between(2008, 2015).all()
    assert drawn["items"]["price"].median() == pytest.approx(25, rel=0.3)


def test_the_command_line_writes_a_world(tmp_path, monkeypatch, capsys, quick):
    monkeypatch.setattr(fit_twin, "TWINS", tmp_path)
    save_tables(*load_tables("movielens", rows=5000), tmp_path)
    assert fitting.main(["movielens", "--home", str(tmp_path)]) == 0
    assert len(sample_world(json.loads((tmp_path / "movielens.json").read_text()))["users"]) == 1000
    monkeypatch.setattr(fitting, "FIDELITY", tmp_path / "new" / "fidelity.csv")
    for _ in range(2):  # the second time in place of the first
        assert fitting.main(["movielens", "--home", str(tmp_path), "--check", "--seeds", "2"]) == 0
    assert "tastes" in capsys.readouterr().out
    written = pd.read_csv(fitting.FIDELITY)
    assert list(written) == ["task", "table", "seed", "rows", "popularity", "tastes"]
    assert written["table"].tolist() == ["real", "twin"] * 2
    save_table(*load_table("adult", rows=100), tmp_path)
    assert fitting.main(["adult", "--home", str(tmp_path)]) == 2
    assert "fit it with data_scripts.fit_twin" in capsys.readouterr().err
