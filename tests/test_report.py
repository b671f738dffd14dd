"""Words and tables: what a person reads about a run."""

import math
import re

import pandas as pd
import pytest

from demix_lite import report
from demix_lite.benchmark.ledger import COLUMNS
from demix_lite.benchmark.ledger import VARIANTS as LEDGER_VARIANTS
from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.errors import DemixError
from demix_lite.tasks import TASKS
from demix_lite.tasks.base import Rule

ROW = dict.fromkeys(COLUMNS, 0.25) | {
    "task": "adult",
    "source": "twin",
    "architecture": "mlp1",
    "rule": "executives",
    "train_rows": 12345,
    "metric_name": "accuracy",
    "metric_better": "higher",
    "metric_dirty": 0.80,
    "metric_repaired": 0.84,
    "metric_oracle": 0.85,
    "device": "CPU",
    "versions": "python 3",
}


def flags(*rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(ERROR_TYPES), dtype=bool)


# ------------------------------------------------------------------ tables


def test_the_mean_is_that_of_the_three_types():
    row = ROW | {"f1_label": 0.9, "f1_feature": 0.6, "f1_spurious": 0.3}
    assert report.detection_table(row).loc["mean", "F1"] == pytest.approx(0.6)


def test_performance_has_a_line_per_model():
    table = report.performance_table(ROW)
    assert tuple(report.VARIANTS) == LEDGER_VARIANTS
    assert table.columns.tolist() == ["accuracy", "worst group"]
    clicks = report.performance_table(ROW | {"metric_name": "AUC"})
    assert clicks.columns.tolist() == ["AUC", "worst group (accuracy)"]
    assert table["accuracy"].tolist() == [0.80, 0.84, 0.85, 0.25]


@pytest.mark.parametrize(
    ("repaired", "oracle", "share"), [(0.84, 0.85, 0.8), (0.86, 0.85, 1.2), (0.78, 0.85, -0.4)]
)
def test_recovered_is_a_share_of_the_distance(repaired, oracle, share):
    row = {"metric_dirty": 0.80, "metric_repaired": repaired, "metric_oracle": oracle}
    assert report.recovered(row | {"metric_better": "higher"}) == pytest.approx(share)
    upside_down = {name: 1 - value for name, value in row.items()}
    assert report.recovered(upside_down | {"metric_better": "lower"}) == pytest.approx(share)


def test_nothing_to_recover_is_not_a_number():
    row = {"metric_dirty": 0.8, "metric_repaired": 0.8, "metric_oracle": 0.8}
    for better in ("higher", "lower"):
        assert math.isnan(report.recovered(row | {"metric_better": better}))
    assert math.isnan(report.recovered(row | {"metric_oracle": 0.9, "metric_better": "lower"}))
    assert math.isnan(report.recovered(row | {"metric_oracle": 0.7, "metric_better": "higher"}))


def test_the_report_of_an_error_counts_what_it_lost():
    row = {"metric_dirty": 0.3, "metric_repaired": 0.15, "metric_oracle": 0.1}
    said = report.run_report(ROW | row | {"metric_name": "MSE", "metric_better": "lower"})
    assert "MSE" in said
    assert "gained 75% of what" in said


def test_the_report_says_task_source_rule_and_times():
    said = report.run_report(ROW)
    for part in ("adult (twin)", "executives", "12,345", "80%", "influence 0.2", "CPU"):
        assert part in said, part


def test_the_report_survives_what_does_not_exist():
    nothing = {column: math.nan for column in COLUMNS if column.startswith(("f1_", "ap_"))}
    nothing["metric_oracle"] = ROW["metric_dirty"]
    said = report.run_report(ROW | nothing)
    assert "nan%" not in said
    assert "nothing to gain" in said
    assert "changed accuracy by +0.0400" in said
    assert " nan" not in said


def test_the_report_of_a_clean_run_has_no_table_of_errors():
    said = report.run_report(ROW | {"clean_ratio": 1.0})
    assert "No errors were put in" in said
    assert "average precision" not in said
    flagged = {"label": 1200, "feature": 3, "spurious": 0}
    said = report.run_report(ROW | {"clean_ratio": 1.0}, flagged=flagged)
    assert "rows flagged: label 1,200, feature 3, spurious 0" in said


@pytest.mark.parametrize(("repaired", "said"), [(0.78, "did harm"), (0.86, "more than knowing")])
def test_the_report_needs_no_share_beyond_its_ends(repaired, said):
    assert said in report.run_report(ROW | {"metric_repaired": repaired, "metric_dirty": 0.8})


@pytest.mark.parametrize(
    ("flagged", "share", "said"),
    [
        (1, 0.1, "sort diagnosis.csv"),
        (3, 0.1, "sort diagnosis.csv"),
        (4, 0.1, ""),
        (10, 0.1, ""),
        (12, 0.1, ""),
        (13, 0.1, "more flags than"),
        (20, 0.1, "more flags than"),
        (0, None, ""),
    ],
)
def test_flags_stand_beside_the_share(flagged, share, said):
    about = {"judged": 100, "flagged": {"label": flagged}, "errors": {"label": {"share": share}}}
    hint = report.flags_beside_share(about, "label")
    assert said in hint
    assert bool(said) == bool(hint)


def test_an_error_that_falls_is_better():
    fell = {"before": 2.0, "after": 1.0, "better": "smaller", "clear": True}
    assert report.gain_in_words(fell) == "better"
    assert report.gain_in_words(fell | {"after": 3.0}) == "worse"


def test_the_summary_of_a_file_says_every_number_where_it_belongs():
    unseen = {"seen": False, "share": None, "low": None, "high": None, "slips": 0}
    seen = {"seen": True, "share": 0.1, "low": 0.05, "high": 0.2, "slips": 0}
    said = report.diagnosis_summary(
        {
            "file": "f.csv", "judged": 1000, "flagged_any": 60, "kind": "regression", "target": "y",
            "errors": {"label": seen, "feature": unseen | {"slips": 2}, "spurious": unseen},
            "flagged": {"label": 58, "feature": 2, "spurious": 0}, "close_call": "",
            "shortcuts": [
                {"rule": "a = 1 → y = 2", "label_share": 0.8, "label_share_elsewhere": 0.25}
            ],
            "known": None, "checks": [], "notes": ["n"],
            "score": {
                "metric": "MSE", "before": 0.5, "after": 0.25, "rows": 70,
                "better": "smaller", "clear": True,
            },
            "self_check": {"label": {"errors": 40, "recall": 0.5, "precision": 0.75}},
        }
    )  # fmt: skip
    for line in (
        "f.csv: 60 of 1,000 rows are suspicious (regression of y)",
        "    58 flagged; perhaps 100 rows in all (10.0%; 5.0% to 20.0%)",
        "     2 flagged; others cannot be seen in this table",
        "     0 flagged; no shortcut is suspected",
        "suspected shortcut: a = 1 → y = 2 (this label in 80% of the rows with the condition, "
        "in 25% of the others)",
        "MSE on 70 held-out rows of yours: 0.5000 before, 0.2500 after the repair: better",
        "self-check, wrong label: 50% of 40 found, 75% of the flags right (errors put in by us)",
        "note: n",
    ):
        assert line in said, line


# ------------------------------------------------------------------ errors in words


def test_one_word_per_row():
    errors = flags([0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1])
    said = ["none", "label", "spurious", "several", "several"]
    assert report.error_kind(errors).tolist() == said


def test_confusion_counts_every_row_once():
    truth = flags([0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1])
    said = flags([0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1])
    table = report.confusion_table(said, truth)
    assert table.to_numpy().sum() == 4
    assert table.loc["feature", "label"] == 1
    assert table.loc["several", "spurious"] == 1
    assert table.index.tolist() == table.columns.tolist()


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_rule_can_be_said(task):
    for rule in task.rules:
        said = report.rule_in_words(rule, task.target)
        claim = f"= {rule.target}"
        if isinstance(rule.target, tuple):
            claim = "from {:g} to {:g}".format(*rule.target)
        assert said.endswith(f"→ {task.target} {claim}")
        assert all(column in said for column in rule.condition)


def test_conditions_are_joined():
    condition = {"sex": frozenset(["f"]), "race": frozenset(["b", "a"])}
    said = report.rule_in_words(Rule("x", condition, (600, 1000)), "rides")
    assert said == "sex = f and race = a or b → rides from 600 to 1000"


# ------------------------------------------------------------------ cells before and after


def test_changed_cells_are_marked_and_say_both_values():
    before = pd.DataFrame({"age": [30, 40], "stars": [4.5, None]}, index=[7, 9])
    after = pd.DataFrame({"age": [30, 41], "stars": [1 / 3, None]}, index=[7, 9])
    below = pd.DataFrame({"age": ["x"], "stars": ["<y>"]}, index=["note"])
    styled = report.before_after(before, after, below)
    assert styled.data.to_numpy().tolist() == [
        ["30", "4.5 → 0.333333"],
        ["40 → 41", "–"],
        ["x", "<y>"],
    ]
    html = styled.to_html()
    assert "&lt;y&gt;" in html
    assert set(re.findall(r"#T_\w+_(row\d_col\d)", html)) == {"row0_col1", "row1_col0"}


def test_no_rows_make_an_empty_table():
    nothing = pd.DataFrame({"age": []})
    assert report.before_after(nothing, nothing).data.empty


def test_a_change_behind_the_sixth_digit_is_shown_and_noise_behind_the_fifteenth_is_none():
    before, after = pd.DataFrame({"a": [1234567.0, 0.1 + 0.2]}), pd.DataFrame({"a": [1234568, 0.3]})
    assert report.before_after(before, after).data["a"].tolist() == ["1234567 → 1234568", "0.3"]


# ------------------------------------------------------------------ parameters of notebooks

KNOWN = {"task": str, "clean_ratio": float, "seed": int, "quick": bool}
GIVEN = {"task": "adult", "clean_ratio": 0.5, "seed": 0, "quick": False}


def test_good_parameters_pass_and_the_rest_of_the_namespace_is_ignored():
    others = {"_": "x", "In": [], "Out": {}, "pd": pd, "print": print}
    report.check_parameters(GIVEN | others, KNOWN)
    report.check_parameters(GIVEN | {"clean_ratio": 1}, KNOWN)


def test_a_task_of_another_family_is_sent_to_its_chapter():
    report.check_family(TASKS["adult"], "tabular")
    with pytest.raises(DemixError, match=r"^adult is not a recommendation .*/tabular\.ipynb\.$"):
        report.check_family(TASKS["adult"], "recommendation")


def test_a_negative_seed_is_refused():
    with pytest.raises(DemixError, match="'seed' must be 0 or larger, not -1"):
        report.check_parameters({"seed": -1}, {"seed": int})


def test_an_unknown_parameter_gets_a_suggestion():
    with pytest.raises(DemixError, match="unknown parameter 'sede'; did you mean 'seed'"):
        report.check_parameters(GIVEN | {"sede": 1}, KNOWN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "zero"),
        ("seed", 1.5),
        ("seed", True),
        ("seed", None),
        ("quick", 1),
        ("quick", "yes"),
        ("task", 3),
        ("clean_ratio", "half"),
        ("clean_ratio", True),
    ],
)
def test_an_ill_typed_parameter_is_named(name, value):
    with pytest.raises(DemixError, match=f"parameter '{name}' must be of type"):
        report.check_parameters(GIVEN | {name: value}, KNOWN)
