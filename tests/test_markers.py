"""A column that goes with the label and has nothing else to say: found, and nothing else is."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score
from test_diagnose import quick  # noqa: F401  (a fixture)

from demix_lite.debugger import DataDebugger, conclude
from demix_lite.debugger.conclude import find_pattern, with_pattern
from demix_lite.debugger.judging import Judgement
from demix_lite.debugger.markers import FEWEST_ROWS, marker_pattern
from demix_lite.debugger.patterns import Pattern
from demix_lite.tasks.own_table import own_table

ROWS = FEWEST_ROWS


def patients(rows=ROWS, seed=0):
    """Numbers that make ill, a habit that goes with one of them, and who is ill."""
    rng = np.random.default_rng(seed)
    age, weight, salt = rng.normal(size=(3, rows))
    ill = age + weight + 0.7 * rng.normal(size=rows) > 0
    smokes = age + 0.5 * rng.normal(size=rows) > 0.3
    frame = pd.DataFrame({"age": age, "weight": weight, "salt": salt})
    frame["smokes"] = np.where(smokes, "yes", "no")
    return frame, ill, rng


def collected(ill, rng, minority=0.15):
    """Say where the rows come from: the ill from the north, but for a minority."""
    breaks = rng.random(len(ill)) < minority
    return np.where(ill ^ breaks, "north", "south"), breaks


def sought(frame, label, **options):
    table = own_table(frame.assign(label=label), "label")
    encoder = table.task.encoder(table.mended)
    wrong = np.full(len(frame), 0.02)
    pattern = marker_pattern(table.task, encoder, table.mended, wrong, **options)
    return pattern and pattern.broken


def yes_or_no(ill):
    return np.where(ill, "ill", "well")


def test_where_rows_were_collected_by_their_label_the_minority_is_found():
    frame, ill, rng = patients()
    place, breaks = collected(ill, rng)
    said = sought(frame.assign(place=place), yes_or_no(ill))
    np.testing.assert_array_equal(said > 0.5, breaks)


@pytest.mark.parametrize("kind", ["word", "number"])
def test_an_empty_cell_breaks_no_marker(kind):
    frame, ill, rng = patients()
    place, breaks = collected(ill, rng)
    empty = rng.random(ROWS) < 0.1
    place = pd.Series(place if kind == "word" else np.where(place == "north", 1.5, 2.5))
    said = sought(frame.assign(place=place.mask(empty)), yes_or_no(ill))
    np.testing.assert_array_equal(said > 0.5, breaks & ~empty)


def test_cells_that_are_empty_may_be_the_marker():
    frame, ill, rng = patients()
    place, breaks = collected(ill, rng)
    frame["place"] = pd.Series(rng.choice(["east", "west"], ROWS)).mask(place == "south")
    np.testing.assert_array_equal(sought(frame, yes_or_no(ill)) > 0.5, breaks)


def test_one_of_many_classes_and_a_number_have_markers_too():
    frame, ill, rng = patients()
    kinds = np.where(ill, "ill", np.where(frame["weight"] > 0, "well", "very well"))
    place, breaks = collected(ill, rng)
    said = sought(frame.assign(place=place), kinds)
    np.testing.assert_array_equal(said > 0.5, breaks)
    pressure = 100 + 10 * (frame["age"] + frame["weight"]) + rng.normal(0, 2, len(frame))
    place, breaks = collected((pressure > 105).to_numpy(), rng)
    said = sought(frame.assign(place=place), pressure)
    assert f1_score(breaks, said > 0.5) > 0.9


def test_wrong_labels_blur_a_marker_and_more_of_it_is_forgiven_in_a_dirty_table():
    frame, ill, rng = patients()
    place, breaks = collected(ill, rng)
    wrong = rng.random(len(ill)) < 0.25
    said = sought(frame.assign(place=place), yes_or_no(ill ^ wrong), dirty=1.0)
    np.testing.assert_array_equal(said > 0.5, breaks ^ wrong)


def test_the_label_of_a_row_counts_as_far_as_it_is_trusted():
    frame, ill, rng = patients()
    place, breaks = collected(ill, rng)
    table = own_table(frame.assign(place=place, label=yes_or_no(ill)), "label")
    wrong = np.where(np.arange(len(ill)) < 50, 0.9, 0.1)
    pattern = marker_pattern(table.task, table.task.encoder(table.mended), table.mended, wrong)
    agrees = breaks ^ (wrong > 0.5)
    np.testing.assert_allclose(pattern.broken, np.where(agrees, 0.9, 0.1), atol=1e-6)


@pytest.mark.parametrize("what", ["habit", "lot", "alone", "few rows", "nothing else"])
def test_what_a_table_has_by_nature_is_no_marker(what):
    frame, ill, rng = patients()
    if what == "lot":  # a treatment given by lot, which helps
        given = rng.random(ROWS) < 0.5
        ill = frame["age"] + frame["weight"] - 1.5 * given + 0.7 * rng.normal(size=ROWS) > 0
        frame["given"] = np.where(given, "yes", "no")
    if what == "alone":  # the only column that has to do with the label
        frame["sign"], _ = collected(ill := rng.random(ROWS) < 0.5, rng)
    if what == "few rows":
        frame["place"], _ = collected(ill, rng)
        frame, ill = frame.head(FEWEST_ROWS - 1), ill[: FEWEST_ROWS - 1]
    if what == "nothing else":
        frame = pd.DataFrame({"place": collected(ill, rng)[0]})
    assert sought(frame, yes_or_no(ill), dirty=1.0) is None


def test_the_order_of_the_rows_does_not_matter_to_who_breaks_it():
    frame, ill, rng = patients()
    frame["place"], _ = collected(ill, rng)
    order = rng.permutation(ROWS)
    said = sought(frame, yes_or_no(ill))
    other = sought(frame.iloc[order].reset_index(drop=True), yes_or_no(ill)[order])
    np.testing.assert_allclose(other, said[order])


def judged(frame, label):
    """Return a table and what is said of it: a tenth of everything, of rows and of controls."""
    table = own_table(frame.assign(label=label), "label")
    run = SimpleNamespace(encoder=table.task.encoder(table.mended))
    controls = SimpleNamespace(kind=np.array(["label"]), way=np.array([0]))
    said, outputs = np.full((1, len(frame), 3), 0.1), np.zeros((len(frame), 2))
    judgement = Judgement(said, np.full((1, 3), 0.1), controls, outputs, [(None, run)])
    return judgement, table.task, table.mended


def test_a_table_without_a_pattern_of_its_collection_has_none():
    frame, ill, _ = patients()
    assert find_pattern(*judged(frame, yes_or_no(ill)), dirty=1.0) is None


def test_a_step_beyond_doubt_is_believed_before_what_looks_like_a_marker(monkeypatch):
    frame, ill, rng = patients(2 * ROWS)
    kept = (ill ^ (frame["age"] < 0)) | (rng.random(len(ill)) < 0.15)
    frame, ill = frame[kept].reset_index(drop=True), ill[kept]
    frame["place"], _ = collected(ill, rng)
    table = judged(frame, yes_or_no(ill))
    above = (frame["age"] >= 0).to_numpy()
    assert (find_pattern(*table, dirty=0.0).holds == above).mean() > 0.99
    monkeypatch.setattr(conclude, "BEYOND_DOUBT", np.inf)
    assert (find_pattern(*table, dirty=0.0).holds == above).mean() < 0.9


def test_the_rows_that_break_a_pattern_are_the_spurious_ones_and_no_other_verdict_changes():
    frame, ill, rng = patients()
    judgement, *_ = judged(frame, yes_or_no(ill))
    holds = rng.random(ROWS) < 0.5
    said = with_pattern(judgement, Pattern(holds, np.full(ROWS, 0.9))).by_cut
    np.testing.assert_allclose(said[0, :, 2], np.where(holds, 0.1, 0.9))
    assert (said[:, :, :2] == judgement.by_cut[:, :, :2]).all()


@pytest.mark.usefixtures("quick")
def test_a_diagnosis_names_the_marker_and_flags_the_minority():
    frame, ill, rng = patients()
    place, breaks = collected(ill, rng)
    labels = pd.Series(yes_or_no(ill), name="state")
    debugger = DataDebugger(repeats=1).fit(frame.assign(place=place), labels)
    (shortcut,) = debugger.shortcuts_[:1]
    assert shortcut.rule.condition.keys() == {"place"}
    assert f1_score(breaks, debugger.diagnosis_["spurious_error"]) > 0.8
