"""Slips of the keyboard and of units: what is mended, what is left, and what a diagnosis says."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_diagnose import LossDetector, people, quick  # noqa: F401  (a fixture)

from demix_lite.debugger import DataDebugger
from demix_lite.debugger.conclude import SLIP
from demix_lite.diagnose import diagnose_frame, write_outcome
from demix_lite.tasks.own_table import own_table
from demix_lite.tasks.slips import (
    in_usual_unit,
    is_far,
    may_be_code,
    mended_numbers,
    misspelt,
    stray_numbers,
    with_more_decimals,
)
from demix_lite.tasks.telltale import tells_alone


def slips_of(frame, target="buys"):
    table = own_table(frame, target)
    return table, table.slips


def towns(rows, share):
    """Half Stockholm, and one word that stands for the rest of a share of the rows."""
    names = np.where(np.arange(rows) % 2, "Stockholm", "Brussels").astype(object)
    names[: round(share * rows)] = "Stokcholm"
    return names


@given(
    st.integers(0, 3),
    st.sampled_from([2.54, 0.4536, 0.001, 0.01]),
    st.integers(0, 2**16),
    st.floats(0.01, 0.08),
)
@settings(max_examples=20, deadline=None)
def test_another_unit_is_seen_by_its_decimals_and_nothing_else_changes(decimals, unit, seed, share):
    frame, rng = people(400), np.random.default_rng(seed)
    right = (rng.integers(10_000, 99_999, 400) / 10**decimals).round(decimals)
    moved = rng.permutation(400) < 400 * share
    wrong = np.where(moved, right * unit, right)
    table, slips = slips_of(frame.assign(length=wrong))
    written = np.array([len(f"{x:.9g}".partition(".")[2]) for x in wrong])
    more, sure = moved & (written > decimals), moved & (written >= decimals + 2)
    of_one_kind = sure.any() and 3 * sure.sum() >= 2 * more.sum()
    assert (slips["length"] == (more if of_one_kind else sure)).all()
    assert table.mended.drop(columns="length").equals(table.frame.drop(columns="length"))
    typical = table.mended["length"][slips["length"]].unique()
    assert len(typical) == 0 or (len(typical) == 1 and 0 <= (right < typical).mean() - 0.4 <= 0.2)
    again = own_table(table.mended, "buys")
    assert not again.slips.any(axis=None)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
def test_halves_and_computed_numbers_are_no_slips(share):
    rng = np.random.default_rng(0)
    some = rng.random(400) < share
    whole = rng.integers(1, 60, 400).astype(float)
    frame = people(400).assign(
        halves=whole + 0.5 * some, computed=np.where(some, rng.normal(size=400), whole / 7)
    )
    assert not slips_of(frame)[1].any(axis=None)


def test_prices_among_whole_numbers_stay_though_a_few_have_another_unit():
    amounts = np.arange(1000.0)
    amounts[:40] += 0.5
    amounts[40:50] *= 0.4536
    _, slips = slips_of(people(1000).assign(amount=amounts))
    assert set(slips.index[slips["amount"]]) == set(range(40, 50))


@pytest.mark.parametrize(("different", "found"), [(4, False), (5, True)])
def test_where_words_are_typed_badly_doubtful_ones_are_slips_too(different, found):
    sure = ["femle", "femalle", "feemale", "femlae", "fmale"][:different]
    names = np.where(np.arange(1000) % 2, "female", "male").astype(object)
    names[:different], doubtful = sure, ["emale", "mle", "ale"]
    names[10:13] = doubtful
    table, slips = slips_of(people(1000).assign(sex=names))
    assert set(slips.index[slips["sex"]]) == {*range(different), *([10, 11, 12] if found else [])}
    meant = table.mended["sex"][10:13].tolist()
    assert meant == (["female", "male", "male"] if found else doubtful)


@pytest.mark.parametrize(("share", "found"), [(0.002, True), (0.008, True), (0.1, False)])
def test_a_rare_word_a_letter_away_is_meant_as_the_frequent_one(share, found):
    table, slips = slips_of(people(1000).assign(town=towns(1000, share)))
    assert slips["town"].sum() == (round(1000 * share) if found else 0)
    assert set(table.mended["town"][slips["town"]]) == ({"Stockholm"} if found else set())


def test_classes_that_differ_in_a_letter_stay():
    names = np.where(np.arange(1000) % 3, "Group A", "Group B").astype(object)
    names[:3] = "Group C"
    assert not slips_of(people(1000).assign(group=names))[1].any(axis=None)


def test_a_cell_that_is_no_number_is_a_slip_unless_its_text_repeats():
    frame = people(400)
    income = frame["income"].astype(str).to_numpy(dtype=object)
    income[[3, 50]], income[60:70], income[80] = ["4O.5", "12k"], "unknown", ""
    table, slips = slips_of(frame.assign(income=income))
    assert set(slips.index[slips.any(axis=1)]) == {3, 50}
    assert table.frame["income"].isna().sum() == 13
    read = pd.to_numeric(pd.Series(income), errors="coerce")
    assert (table.mended.loc[[3, 50], "income"] == read.quantile(0.5, interpolation="lower")).all()
    assert table.mended["income"].isna().sum() == 11
    assert "income: 2 cells that cannot be read like the others (such as '4O.5', rows 4, 51)" in (
        "\n".join(table.checks)
    )
    assert "income: 10 cells with a word for a missing value (such as 'unknown', rows 61" in (
        "\n".join(table.notes)
    )


def test_a_repaired_file_has_a_number_where_none_could_be_read(quick):  # noqa: F811
    frame = people(300, wrong=0)
    age = frame["age"].round().astype(int).astype(str).to_numpy(dtype=object)
    age[[4, 7]] = "3O", ""
    outcome = diagnose_frame(frame.assign(age=age), "buys")
    said = outcome.diagnosis().set_index("row")
    assert said.loc[5, ["feature_error", "suspicious_cells"]].tolist() == [1, "age"]
    assert outcome.repaired()["age"][4] == said.loc[5, "suggested_values"].removeprefix("age = ")
    assert outcome.repaired()["age"][4].isdigit()
    assert outcome.repaired()["age"][7] == ""


def test_a_date_that_is_none_is_a_slip_and_one_without_a_time_of_day_is_not():
    days = pd.date_range("2024-01-20", periods=400, freq="D")
    written = days.strftime("%Y-%m-%d").to_numpy(dtype=object)
    written[5], written[9] = "2024-13-77", "2024-01-29 10:30"
    _, slips = slips_of(people(400).assign(day=written))
    assert set(slips.index[slips.any(axis=1)]) == {5}
    assert set(slips.columns[slips.any()]) == {
        "day (days)",
        "day (month)",
        "day (weekday)",
        "day (hour)",
    }


def test_slips_do_not_count_as_categories():
    rng = np.random.default_rng(2)
    names = np.array([f"place {'abcdefghij'[i % 10] * 4}" for i in range(2000)], dtype=object)
    wrong = rng.permutation(2000)[:120]
    for row in wrong:
        at = rng.integers(7, len(names[row]) - 1)
        names[row] = names[row][:at] + "klmnopqrstuvwxyz"[rng.integers(16)] + names[row][at:]
    table = own_table(people(2000).assign(place=names), "buys")
    assert "(other)" not in set(table.frame["place"])
    assert table.mended["place"].nunique() == 10


def test_a_slip_is_flagged_though_no_error_can_be_seen(quick, tmp_path):  # noqa: F811
    frame = people(300, wrong=0).assign(town=towns(300, 0.006))
    frame.loc[7, "income"] = 0.03962
    outcome = diagnose_frame(frame, "buys")
    said = outcome.diagnosis().set_index("row")
    assert outcome.summary["errors"]["feature"]["slips"] == 3
    assert not outcome.summary["errors"]["feature"]["seen"]
    assert set(said.index[said["feature_error"] == 1]) == {1, 2, 8}
    assert (said.loc[[1, 8], "feature_probability"] == SLIP).all()
    assert said["feature_probability"].count() == 3  # of the others it knows nothing
    assert said.loc[[1, 8], "suspicious_cells"].tolist() == ["town", "income"]
    assert said.loc[1, "suggested_values"] == "town = Stockholm"
    assert "others cannot be seen" in str(outcome)
    mended = outcome.repaired()
    assert mended.loc[:1, "town"].tolist() == ["Stockholm"] * 2
    typical = frame["income"].drop(7).quantile(0.5, interpolation="lower")
    assert mended.loc[7, "income"] == pytest.approx(typical)
    assert "Written unlike its column: income" in write_page(outcome, tmp_path)


def write_page(outcome, folder):
    page = next(path for path in write_outcome(outcome, folder) if path.suffix == ".html")
    return page.read_text()


def test_the_score_is_measured_on_rows_with_usual_features():
    frame = people(300, wrong=0)
    frame.loc[:9, "income"] = frame.loc[:9, "income"] / 1000
    debugger = DataDebugger(detector=LossDetector(), repeats=1)
    debugger.fit(frame[["age", "income"]], frame["buys"])
    flagged = debugger.diagnosis_["feature_error"].sum()
    assert flagged >= 9
    assert debugger.score_.rows == 300 - flagged


@pytest.mark.parametrize(
    ("rare", "frequent"),
    [
        ("asymptomatic", "symptomatic"),
        ("atypical angina", "typical angina"),
        ("Stage III", "Stage II"),
        ("Rating AAA", "Rating AA"),
        ("Size XXL", "Size XL"),
    ],
)
def test_a_rare_name_that_means_something_else_stays(rare, frequent):
    names = [rare] * 8 + [frequent] * 500 + ["recovered"] * 92
    table, slips = slips_of(people(600).assign(name=names))
    assert not slips.any(axis=None)
    assert set(table.mended["name"]) == {rare, frequent, "recovered"}


def test_two_names_one_of_them_rare_are_not_the_same_everywhere():
    table, _ = slips_of(people(600).assign(name=["Stokholm"] * 8 + ["Stockholm"] * 592))
    assert "name" in table.task.categorical
    assert "'Stokholm' (for 'Stockholm'?)" in "\n".join(table.checks)


def test_quarters_of_an_hour_are_no_slips():
    hours = np.where(np.arange(600) % 13, 8.0, 7.75)
    hours[::40] = 3.25
    assert not slips_of(people(600).assign(hours=hours))[1].any(axis=None)


# ------------------------------------------------------------------ by hand


def test_small_numbers_beside_very_large_ones_may_have_as_many_decimals():
    income = np.exp(np.random.default_rng(0).normal(np.log(2e10), 2.3, 400)).round(4)
    assert income.min() < 1e8 < 1e12 < income.max()
    assert not with_more_decimals(income).any()


def test_what_computing_adds_to_a_number_is_no_decimal():
    for size in 10.0 ** np.arange(14):
        numbers = size * np.arange(1, 200) + 0.7
        numbers[::5] = (numbers[::5] + 0.1 + 0.2) * 1.1 / 1.1
        assert not with_more_decimals(numbers).any()


def test_the_typical_number_is_that_of_the_others():
    numbers = pd.Series([*map(float, range(1, 21)), 99.254, 98.254])
    assert mended_numbers(numbers, numbers.astype(str))[20:].tolist() == [10, 10]
    few = np.r_[np.arange(60), 0.254, 1.254]
    assert with_more_decimals(few).nonzero()[0].tolist() == [60, 61]


def test_what_lies_far_outside_in_a_long_tail_is_not_far():
    usual = [float(i % 9) for i in range(80)]
    assert is_far(pd.Series([*usual, *[1000.0] * 20])).sum() == 20
    assert not is_far(pd.Series([*usual, *[1000.0] * 21])).any()


def test_a_group_of_numbers_is_large_and_far_from_the_nearest_other():
    usual = pd.Series([float(i % 100) for i in range(300)])
    for more, found in (
        ([5000.0] * 10, 10),
        ([5000.0], None),  # one number is no group
        ([1000.0] * 10 + [390.0] * 2, None),  # others lie more than a third of the way
    ):
        frame = pd.DataFrame({"x": pd.concat([usual, pd.Series(more)], ignore_index=True)})
        strays = stray_numbers(frame, ["x"])
        assert ({"x": int(strays["x"].sum())} if strays else {}) == ({"x": found} if found else {})


@pytest.mark.parametrize("names", [range(300), [*range(150)] * 2])
def test_another_unit_is_seen_beside_a_column_named_far_and_under_repeated_names_of_rows(names):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"height": rng.normal(170, 10, 300), "far": rng.integers(18, 80, 300)})
    frame.loc[:29, "height"] *= 100
    assert stray_numbers(frame.set_axis(names), ["height"])["height"].sum() == 30


def test_a_code_for_what_is_missing_is_no_unit_and_whole_numbers_are_rounded():
    coded = pd.Series([9.0, 10.0, 11.0, 12.0, 9999.0, 9999.0])
    assert in_usual_unit(coded, coded > 100).tolist() == [9, 10, 11, 12, 10, 10]
    survey = pd.Series([*[8, 12, 16] * 10, 97, 98, 99, 98])
    assert in_usual_unit(survey, survey > 90).tolist()[-4:] == [12] * 4
    whole = pd.Series([170, 180, 190, 17999, 17501])
    assert in_usual_unit(whole, whole > 1000).tolist() == [170, 180, 190, 180, 175]


def test_one_gross_error_does_not_hide_a_code():
    sizes = pd.Series([*np.linspace(3.7, 10.5, 60), *[0.0] * 6])
    assert may_be_code(sizes).sum() == 6
    assert may_be_code(pd.concat([sizes, pd.Series([58.9])], ignore_index=True)).sum() == 6


def test_a_few_late_dates_are_in_no_other_unit():
    dates = [f"2024-07-{i % 28 + 1:02}" for i in range(120)]
    dates[::15] = [f"2027-07-{day:02}" for day in range(1, 9)]
    said = own_table(people(120).assign(day=dates), "buys")
    assert not said.slips["day (days)"].any()
    assert "another unit" not in "\n".join(said.checks)


def test_a_long_tail_has_no_number_far_from_the_others():
    income = people(300)["age"] * 10
    for many, told in ((3, True), (20, False)):
        tail = income.where(income.index >= many, 9000 * (income.index + 1.0))
        checks = own_table(people(300).assign(income=tail), "buys").checks
        assert any("income" in said and "very far" in said for said in checks) == told


def test_a_class_that_the_sample_hardly_has_does_not_count_for_a_telltale_column():
    labels = pd.Series(["a"] * 9000 + ["b"] * 9000 + ["c"] * 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tells_alone(pd.Series(range(18_005)), labels, is_class=True) > 0.99


@pytest.mark.parametrize(("number", "is_code"), [(999, True), (99.9, True), (75.864, False)])
def test_a_code_for_what_is_missing_is_whole_or_made_of_nines(number, is_code):
    assert may_be_code(pd.Series([*range(40, 60), *[number] * 6])).any() == is_code


def test_names_with_a_digit_and_words_that_are_not_so_rare_are_no_slips():
    assert misspelt(pd.Series(["Block A1"] * 300 + ["Block A11"] * 2)) == []
    towns = pd.Series(["Rotterdam"] * 1000 + ["Hamburg"] * 60 + ["Hambrg"] * 15)
    assert misspelt(towns) == []
    assert misspelt(towns.drop(range(1061, 1075))) == [("Hambrg", "Hamburg")]


@pytest.mark.parametrize("digits", [3, 4])
def test_numbers_rounded_to_digits_have_as_many_decimals_as_they_need(digits):
    rng = np.random.default_rng(0)
    measured = np.array([float(f"{x:.{digits}g}") for x in rng.lognormal(0, 1.5, 2000)])
    assert not with_more_decimals(measured).any()
    measured[:3] = [1.2345678, 0.012345678, 12.345678]
    assert with_more_decimals(measured).nonzero()[0].tolist() == [0, 1, 2]
    cents = rng.lognormal(3, 1, 2000).round(2)
    cents[:20] = (cents[:20] / 100).round(4) + 1e-4  # as few digits as the others have
    assert with_more_decimals(cents)[:20].all()
    shares = rng.uniform(0.2, 0.99, 2000).round(2)  # some in per cent, and some by mistake again
    shares[:150] = (shares[:150] * 100).round(2)
    shares[150:300] = (shares[150:300] / 100).round(4)
    assert with_more_decimals(shares)[150:300].mean() > 0.9
