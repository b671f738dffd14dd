"""The store of prepared tables: round trip, all or nothing, clear errors."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demix_lite.data import Card, data_home, load_table, save_table
from demix_lite.data.store import content_sha256, keep_users, known_tables
from demix_lite.errors import DemixError

FRAME = pd.DataFrame(
    {
        "size": [1.5, np.nan, 0.1 + 0.2, -3.0],
        "count": [1, 2, 3, 4],
        "colour": ["red", np.nan, 'a "quoted", one', ""],
        "kind": ["x", "y", "x", "y"],
    }
)
CARD = Card("toy", "real", "Toy", "", "CC0", 0, "", ("size", "count"), ("colour",), "kind", "n")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_round_trip(tmp_path):
    folder = save_table(FRAME, CARD, tmp_path)
    frame, card = load_table("toy", "real", home=tmp_path)
    pd.testing.assert_frame_equal(frame, FRAME)
    assert card.rows == 4
    assert card.sha256 == content_sha256(FRAME)
    assert card.columns == ("size", "count", "colour", "kind")
    assert sorted(contents(folder)) == ["card.json", "table.parquet"]


def test_home_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DEMIX_DATA", str(tmp_path))
    assert data_home() == tmp_path
    save_table(FRAME, CARD)
    assert load_table("toy", "real")[1].rows == 4
    monkeypatch.delenv("DEMIX_DATA")
    assert data_home() == Path.home() / ".cache" / "demix_lite"


def test_hash_is_of_the_documented_bytes():
    expected = (
        b"size,count,colour,kind\n1.5,1,red,x\n,2,,y\n"
        b'0.30000000000000004,3,"a ""quoted"", one",x\n-3.0,4,,y\n'
    )
    assert content_sha256(FRAME) == hashlib.sha256(expected).hexdigest()
    assert content_sha256(FRAME) == content_sha256(FRAME.astype({"colour": object}))


@settings(max_examples=25, deadline=None)
@given(
    row=st.integers(0, 3),
    column=st.sampled_from(["size", "count", "colour", "kind"]),
    data=st.data(),
)
def test_hash_notices_any_changed_cell(row, column, data):
    number = column in ("size", "count")
    value = data.draw(st.integers(-9, 9) if number else st.text("abxy", min_size=1, max_size=2))
    changed = FRAME.copy()
    changed.loc[row, column] = value
    same = changed.loc[row, column] == FRAME.loc[row, column]
    assert (content_sha256(changed) == content_sha256(FRAME)) == bool(same)


@pytest.mark.parametrize("stage", ["to_parquet", "write_text", "rename"])
@pytest.mark.parametrize("replaces", [False, True], ids=["new", "replaces"])
def test_a_failed_save_changes_nothing(tmp_path, monkeypatch, stage, replaces):
    if replaces:
        save_table(FRAME.head(2), CARD, tmp_path)
    before = contents(tmp_path)
    owner = pd.DataFrame if stage == "to_parquet" else Path
    real = getattr(owner, stage)

    def fail(self, *args, **kwargs):
        if stage == "rename" and Path(self).name != "new":
            return real(self, *args, **kwargs)
        raise OSError("disk full")

    monkeypatch.setattr(owner, stage, fail)
    with pytest.raises(OSError, match="disk full"):
        save_table(FRAME, CARD, tmp_path)
    assert contents(tmp_path) == before
    assert [p.name for p in (tmp_path / "tables").iterdir()] == (["toy"] if replaces else [])


def test_save_replaces_an_earlier_table(tmp_path):
    save_table(FRAME.head(2), CARD, tmp_path)
    save_table(FRAME, CARD, tmp_path)
    assert load_table("toy", "real", home=tmp_path)[1].rows == 4


def test_save_refuses_a_card_that_does_not_fit(tmp_path):
    with pytest.raises(DemixError, match="colour"):
        save_table(FRAME.drop(columns="colour"), CARD, tmp_path)
    assert not (tmp_path / "tables").exists()


def test_unknown_names_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(DemixError, match=r"unknown table 'adlut'; did you mean 'adult'"):
        load_table("adlut", home=tmp_path)
    with pytest.raises(DemixError, match=r"unknown data source 'reel'.*twin, real"):
        load_table("adult", "reel", home=tmp_path)
    save_table(FRAME, CARD, tmp_path)
    with pytest.raises(DemixError, match="unknown twin 'toy'"):
        load_table("toy", "twin", home=tmp_path)


def test_a_table_not_prepared_is_answered_with_the_command(tmp_path):
    with pytest.raises(DemixError, match="run: python -m data_scripts adult"):
        load_table("adult", "real", home=tmp_path)


def card_with(folder: Path, **changes: object) -> None:
    facts = json.loads((folder / "card.json").read_text()) | changes
    kept = {key: value for key, value in facts.items() if value is not None}
    (folder / "card.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "card.json").write_text("{"),
        lambda folder: (folder / "card.json").write_text("[]"),
        lambda folder: card_with(folder, target=None),
        lambda folder: card_with(folder, colour="red"),
        lambda folder: card_with(folder, sha256="0" * 64),
        lambda folder: (folder / "table.parquet").unlink(),
        lambda folder: (folder / "table.parquet").write_bytes(b"PAR1 and no more"),
        lambda folder: FRAME.iloc[::-1].to_parquet(folder / "table.parquet", index=False),
    ],
    ids=["json", "list", "lacks", "extra", "hash", "gone", "parquet", "rows"],
)
def test_a_damaged_table_is_told_in_one_sentence(tmp_path, damage):
    damage(save_table(FRAME, CARD, tmp_path))
    with pytest.raises(DemixError, match=r"is damaged .* run again: python") as caught:
        load_table("toy", "real", home=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [0, -1, 2.0, True, "3"])
def test_rows_must_be_a_count(rows):
    with pytest.raises(DemixError, match="whole number"):
        load_table("adult", rows=rows)


def test_subsample_of_a_real_table(tmp_path):
    frame = pd.concat([FRAME] * 50, ignore_index=True).assign(count=range(200))
    save_table(frame, CARD, tmp_path)
    part, card = load_table("toy", "real", rows=80, seed=3, home=tmp_path)
    again, _ = load_table("toy", "real", rows=np.int64(80), seed=3, home=tmp_path)
    other, _ = load_table("toy", "real", rows=80, seed=4, home=tmp_path)
    pd.testing.assert_frame_equal(part, again)
    assert part["count"].is_monotonic_increasing
    assert part["count"].is_unique
    assert not part["count"].equals(other["count"])
    pd.testing.assert_frame_equal(part, frame.loc[part["count"]].reset_index(drop=True))
    assert card.rows == 80
    assert card.sha256 == content_sha256(part)
    with pytest.raises(DemixError, match="has 200 rows"):
        load_table("toy", "real", rows=201, home=tmp_path)


def test_users_are_kept_as_long_as_they_fit_and_others_with_another_seed():
    users = [f"u{n}" for n in range(9)]
    met = pd.DataFrame({"user": np.repeat(users, 2), "item": "x"})
    tables = {
        "interactions": met,
        "users": pd.DataFrame({"user": users}),
        "items": pd.DataFrame({"item": ["x"]}),
    }
    kept = [frozenset(keep_users(tables, 4, "toy", seed)["users"]["user"]) for seed in range(6)]
    assert {len(names) for names in kept} == {2}
    assert len(set(kept)) > 1


def test_a_table_that_is_half_written_is_not_known(tmp_path):
    folder = save_table(FRAME, CARD, tmp_path)
    folder.rename(folder.parent / ".toy-1")
    assert "toy" not in known_tables(tmp_path)
    assert not [name for name in known_tables(tmp_path) if name.startswith(".")]


def test_another_seed_makes_other_pairs():
    one, same, other = (load_table("capybara", rows=40, seed=seed)[0] for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)
