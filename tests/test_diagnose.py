"""``demix-lite diagnose`` as a user meets it: files in, verdicts out, and every way to go wrong."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import warnings
from decimal import Decimal
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import hurry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import expit

from demix_lite.cli import main
from demix_lite.data import user_file
from demix_lite.data.user_file import read_user_file
from demix_lite.debugger import DataDebugger, judging
from demix_lite.debugger.estimator import Score, _as_written, _compare, _joined
from demix_lite.debugger.evidence import Evidence
from demix_lite.debugger.shortcut_names import NamedShortcut
from demix_lite.detector import ErrorDetector
from demix_lite.diagnose import (
    command,
    diagnose_file,
    diagnose_frame,
    files,
    page,
    write_outcome,
)
from demix_lite.diagnose.known import check_known
from demix_lite.errors import DemixError
from demix_lite.models.training import predict
from demix_lite.repair import Repaired
from demix_lite.tasks import reading
from demix_lite.tasks.base import Rule
from demix_lite.tasks.own_table import (
    KEPT_CATEGORIES,
    OTHER,
    DataError,
    own_table,
    without_label,
)


class LossDetector:
    """Stands in for the shipped weights: a row with a large loss has a wrong label."""

    def predict_proba(self, *runs):
        judged = []
        for run in runs:
            outputs = predict(run.trained.model, run.samples[0])
            judged.append(run.task.loss(outputs, run.samples[1]).double().numpy())
        wrong = expit(4 * (np.concatenate(judged) - 1))
        return np.column_stack([wrong, np.full_like(wrong, 0.1), np.full_like(wrong, 0.1)])


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(ErrorDetector, "shipped", classmethod(lambda cls, name: LossDetector()))
    monkeypatch.setattr(judging, "MOST_REPEATS", 2)
    hurry(monkeypatch)


def people(rows=300, wrong=30):
    """A table whose label follows two columns; the first labels are wrong."""
    rng = np.random.default_rng(0)
    age, income = rng.integers(18, 80, rows), rng.normal(40, 12, rows).round(1)
    buys = np.where(age / 40 + income / 40 > 2.2, "yes", "no")
    buys[:wrong] = np.where(buys[:wrong] == "yes", "no", "yes")
    return pd.DataFrame({"age": age, "income": income, "buys": buys})


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "people.csv"
    people().to_csv(path, index=False)
    return path


def refused(capsys, *arguments):
    """Return the one sentence with which the command refuses."""
    code = main(["diagnose", *map(str, arguments)])
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.startswith("demix-lite: ")
    assert said.err.strip().count("\n") == 0
    return said.err


def test_finds_wrong_labels_and_writes_everything(quick, table, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["diagnose", f"{table}", "--target", "buys", "--out", f"{out}", "--repaired"]) == 0
    assert "rows are suspicious" in capsys.readouterr().out
    said = pd.read_csv(out / "diagnosis.csv", keep_default_na=False)
    assert said["row"].tolist() == list(range(1, 301))
    flagged = set(said.loc[said["label_error"] == 1, "row"])
    assert len(flagged & set(range(1, 31))) >= 12
    assert len(flagged) <= 40
    before, after = pd.read_csv(table), pd.read_csv(out / "repaired.csv")
    changed = set(before.index[before["buys"] != after["buys"]] + 1)
    assert changed == flagged
    suggested = said.set_index("row").loc[sorted(flagged), "suggested_label"]
    assert suggested.tolist() == after["buys"].iloc[[r - 1 for r in sorted(flagged)]].tolist()
    assert before.drop(columns="buys").equals(after.drop(columns="buys"))
    assert sorted(p.name for p in out.iterdir()) == [
        "diagnosis.csv",
        "repaired.csv",
        "report.html",
    ]


def test_json_is_the_only_thing_on_stdout(quick, table, tmp_path, capsys):
    command = ["diagnose", f"{table}", "--target", "buys", "--out", f"{tmp_path / 'o'}", "--json"]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rows"] == said["judged"] == 300
    assert said["kind"] == "classification"
    assert said["errors"]["feature"]["seen"] is False  # the stand-in says the same of every row
    assert said["flagged"]["feature"] == 0


def test_known_errors_say_how_right_the_flags_are(quick, table, tmp_path, capsys):
    known, out = tmp_path / "known.csv", tmp_path / "out"
    # Nobody looked at the second half; nothing is said of features at all.
    truth = [int(row < 30) if row < 150 else "" for row in range(300)]
    pd.DataFrame({"label": truth, "who": "me"}).to_csv(known, index=False)
    command = ["diagnose", f"{table}", "--target", "buys", "--out", f"{out}", "--known", f"{known}"]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["known"]
    flags = pd.read_csv(out / "diagnosis.csv")["label_error"].eq(1)[:150]
    hits = int(flags[:30].sum())
    assert said == {
        "label": {
            "precision": hits / flags.sum(),
            "recall": hits / 30,
            "errors": 30,
            "rows": 150,
        }
    }
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{hits / 30:.0%} of 30 found" in page
    # What is known does not change what is said.
    assert main([*command[:-2], "--json"]) == 0
    assert flags.equals(pd.read_csv(out / "diagnosis.csv")["label_error"].eq(1)[:150])


def test_known_errors_are_matched_by_position_and_unlabelled_rows_count_as_not_flagged(quick):
    frame = people().astype(object)
    frame.loc[:9, "buys"] = None
    known = pd.DataFrame({"label": [1] * 20 + [0] * 280}, index=range(1000, 1300))
    outcome = diagnose_frame(frame, "buys", known=known)
    flags = outcome.diagnosis()["label_error"].to_numpy(bool)
    assert not flags[:10].any()
    assert outcome.summary["known"]["label"]["recall"] == flags[:20].sum() / 20


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ("label\n1\n", "has 1 rows, the table 300"),
        ("wrong\n" + "1\n" * 300, "none of the columns label, feature, spurious"),
        ("label,x\n" + "maybe,1\n" * 300, "says 'maybe'"),
    ],
)
def test_known_errors_that_do_not_fit_are_refused_at_once(
    quick, table, tmp_path, capsys, known, words
):
    (tmp_path / "known.csv").write_text(known)
    assert words in refused(capsys, table, "--target", "buys", "--known", tmp_path / "known.csv")


def test_parquet_keeps_its_types_and_takes_own_validation_rows(quick, tmp_path, capsys):
    frame = people().assign(buys=lambda f: (f["buys"] == "yes").astype(int), since="2020-01-05")
    frame.loc[7, "income"] = 0.03962  # something to repair
    frame["since"] = pd.to_datetime(frame["since"]) + pd.to_timedelta(frame.index, unit="D")
    frame.to_parquet(tmp_path / "t.parquet")
    frame.iloc[100:160].to_parquet(tmp_path / "v.parquet")
    out, valid = tmp_path / "o", tmp_path / "v.parquet"
    command = ["diagnose", f"{tmp_path / 't.parquet'}", "--target", "buys", "--out", f"{out}"]
    assert main([*command, "--validation", f"{valid}", "--repaired"]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<th scope="row">60 rows</th>' in page  # the score is measured on the validation rows
    assert "Measured on your validation rows" in page
    assert "validation row" in page
    repaired = pd.read_parquet(out / "repaired.parquet")
    assert repaired.dtypes.astype(str).tolist() == frame.dtypes.astype(str).tolist()


class Page(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "srcset", "action")]


def test_report_escapes_the_file_and_needs_nothing_else(quick, tmp_path):
    frame = people()
    frame["<script>x</script>"] = np.where(frame.index % 2, "<img src=x onerror=alert(1)>", "=1+1")
    frame["buys"] = frame["buys"].replace("yes", "<b>yes</b>")
    path = tmp_path / "<i>.csv"
    frame.to_csv(path, index=False)
    assert main(["diagnose", f"{path}", "--target", "buys", "--out", f"{tmp_path / 'o'}"]) == 0
    text = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not {"script", "img", "i", "link", "iframe"} & set(page.tags)
    assert "b" not in set(re.findall(r"<(b)>yes", text))
    assert page.addresses == []
    assert "&lt;b&gt;yes&lt;/b&gt;" in text
    assert len(re.findall(r"<svg", text)) >= 2  # how many there are, and where
    assert "Validation rows behind the verdict" in text
    for figure in re.findall(r"<svg.*?>", text):
        assert 'role="img"' in figure
        assert "aria-label=" in figure


def test_formulas_are_disarmed():
    frame = pd.DataFrame({"=a": ["=1+1", "+x", "-3", "@x", "ok", 5]})
    said = files.without_formulas(frame)
    assert said.columns.tolist() == ["'=a"]
    assert said.iloc[:, 0].tolist() == ["'=1+1", "'+x", "-3", "'@x", "ok", 5]


def test_self_check_reports_every_error_type(quick, table, tmp_path, capsys):
    people(700, wrong=0).to_csv(table, index=False)
    command = ["diagnose", f"{table}", "--target", "buys", "--out", f"{tmp_path / 'o'}"]
    assert main([*command, "--self-check", "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)["self_check"]
    assert set(checked) == {"label", "feature", "spurious"}
    assert checked["label"]["recall"] > 0.05
    assert checked["label"]["precision"] > 0.2  # 0.15 by chance
    assert all(line["errors"] > 20 for line in checked.values())
    assert "Self-check" in (tmp_path / "o" / "report.html").read_text(encoding="utf-8")


BAD_FILES = {
    "empty": (b"", "is empty"),
    "names only": (b"a,b\n", "no rows"),
    "one row": (b"a,b\n1,x\n", "1 row with a label"),
    "one class": (b"a,b\n" + b"1,x\n2,x\n" * 20, "only 1 class"),
    "no label": (b"a,b\n" + b"1,\n2,\n" * 20, "there is no label"),
    "free text label": (
        b"a,b\n" + b"".join(b"%d,word %d\n" % (i % 7, i) for i in range(60)),
        "too many for classes",
    ),
    "nothing to learn from": (b"a,b\n" + b"1,x\n1,y\n" * 20, "no column to learn"),
    "only the label": (b"b\n" + b"x\ny\n" * 20, "no column besides"),
    "ragged": (b"a,b\n1,x\n1,2,3,4\n", "rows of equal length"),
    "separator at the end": (
        b"a,b\n1,x,\n2,y,z\n",  # without the z, pandas 2 reads it without a loss
        "a row has more cells than there are column names",
    ),
    "wrong encoding": ("a,b\nä,x\n".encode("latin-1"), "--encoding"),
    "zero bytes": (b"a,b\n\0,x\n", "holds zero bytes): give a CSV"),
    "UTF-16 without a mark": ("a,b\n1,2\n".encode("utf-16-be"), "say --encoding utf-16-be"),
    "same name twice": (b"a,a,b\n1,2,x\n", "more than one column named 'a'"),
    "many columns": (b",".join(b"c%d" % i for i in range(100_000)) + b"\n", "the limit is"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_get_one_sentence(name, tmp_path, capsys):
    content, reason = BAD_FILES[name]
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    assert reason in refused(capsys, path, "--target", "b", "--out", tmp_path / "o")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.csv"]


def test_other_mistakes_get_one_sentence(table, tmp_path, capsys, monkeypatch):
    out = ("--out", tmp_path / "o")
    assert "did you mean 'buys'" in refused(capsys, table, "--target", "Bus", *out)
    assert "there is no file" in refused(capsys, tmp_path / "x.csv", "--target", "a", *out)
    assert "cannot write" in refused(capsys, table, "--target", "buys", "--out", table / "o")
    assert "unknown encoding" in refused(
        capsys, table, "--target", "buys", "--encoding", "utf-99", *out
    )
    text = ("--target", "buys", "--kind", "regression")
    assert "not a number everywhere" in refused(capsys, table, *text, *out)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    assert "not a Parquet file" in refused(capsys, tmp_path / "bad.parquet", "--target", "a", *out)
    monkeypatch.setattr(user_file, "MOST_BYTES", 100)
    assert "the limit is" in refused(capsys, table, "--target", "buys", *out)


def test_marks_quotes_and_separators_are_read(tmp_path):
    path = tmp_path / "t.csv"
    wanted = {"a": ["1", "2"], "b c": ["x;\ny", ""]}
    text = 'a;b c\r\n1;"x;\ny"\r\n2;\r\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(text.encode(encoding))
        assert read_user_file(path).to_dict("list") == wanted
        assert read_user_file(path, encoding="utf-8").to_dict("list") == wanted  # the mark is right
    path.write_bytes("a\tb\nä\tß\n".encode("latin-1"))
    assert read_user_file(path, encoding="latin-1").to_dict("list") == {"a": ["ä"], "b": ["ß"]}


def test_an_empty_line_on_top_of_a_single_column_is_no_header(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\nlabel\n1\n\n0\n")
    assert read_user_file(path)["label"].tolist() == ["1", "", "0"]


def test_a_table_with_too_many_rows_is_told_without_a_number_that_nobody_counted(monkeypatch):
    monkeypatch.setattr(user_file, "MOST_ROWS", 10)
    with pytest.raises(DemixError, match="t has more than 10 rows"):
        user_file.check_shape(11, ["a"], "t")


def test_stopping_leaves_nothing_behind(quick, table, tmp_path, capsys, monkeypatch):
    out = tmp_path / "o"
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["diagnose", f"{table}", "--target", "buys", "--out", f"{out}"]) == 130
    assert not out.exists()
    out.mkdir()
    (out / "diagnosis.csv").write_text("old")

    def fails(path):
        raise OSError(28, "disk full")

    writers = {"diagnosis.csv": lambda path: path.write_text("new"), "b": fails}
    with pytest.raises(DemixError, match="disk full"):
        files.write_together(out, writers)
    assert [p.name for p in out.iterdir()] == ["diagnosis.csv"]
    assert (out / "diagnosis.csv").read_text() == "old"


def test_two_runs_may_write_into_one_folder(tmp_path, monkeypatch):
    def meanwhile(path):
        path.write_text("first")
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: -1)
            files.write_together(tmp_path, {"a": lambda path: path.write_text("second")})
        assert (tmp_path / "a").read_text() == "second"

    files.write_together(tmp_path, {"a": meanwhile})
    assert (tmp_path / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_slips_and_far_cells_are_seen_without_a_model():
    frame = people(600).assign(city=lambda f: np.where(f.index % 2, "Stockholm", "Amsterdam"))
    frame.loc[[7, 9], "city"] = ["Stokcholm", "Brussels"]
    frame.loc[3, "income"] = 40_000
    checks = "\n".join(own_table(frame, "buys").checks)
    assert "'Stokcholm' (for 'Stockholm'?)" in checks
    assert "Brussels" not in checks
    assert "income: 1 cell very far from the others (row 4" in checks
    paid = frame["age"].where(frame.index != 5, 4000.0)
    checks = own_table(frame.assign(buys=paid), "buys").checks
    assert any(line.startswith("buys: 1 cell very far from the others (row 6") for line in checks)


def test_lines_that_end_early_are_told(quick, tmp_path, capsys):
    path = tmp_path / "cut.csv"
    whole = people().assign(note="").to_csv(index=False).splitlines()
    whole[3], whole[8] = whole[3].removesuffix(","), "33,41.5"
    path.write_text("\n".join([*whole[:5], "", "  ", *whole[5:]]) + "\n")
    assert main(["diagnose", f"{path}", "--target", "age", "--out", f"{tmp_path / 'o'}"]) == 0
    said = "Lines with fewer cells than columns, read as empty there: 2 (rows 3, 8)."
    assert said in capsys.readouterr().out
    assert said in (tmp_path / "o" / "report.html").read_text()


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ('a,b\n1,"x\ny"\n2\n', [1]),  # a cell of two lines
        ("a,b\n1,2\n,\n3,\n", []),  # empty is not missing
        ("a\n1\n\n2\n", []),  # of a single column a blank line is a row
        ("a,b\n" + "x" * 200_000 + "\n1,2\n", []),  # more than the second reader takes
    ],
)
def test_lines_that_end_early_are_counted_as_rows(text, short, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert read_user_file(path).attrs["short_rows"] == short


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("income, in USD;age, years;y\n1;2;a\n3;4;b\n", 3),  # more commas than semicolons
        ("a|b|c|d,x,y\n1,2,3\n4,5,6\n", 3),
        ("text\nhello\nyou\n", 1),
        ("a,b,c\n1,2\n3,4,5\n6\n", 3),  # lines that end early
        ("a,b\n1\n3,4\n", 2),  # as many of them as whole ones
        ("first name,y\nAnn Lee,1\nBo Li,2\n", 2),  # blanks split just as well
        ("a remark\nsome words here\nfew words\n", 1),
    ],
)
def test_the_separator_is_what_divides_the_first_lines(text, columns, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert len(read_user_file(path).columns) == columns


def test_an_aligned_table_is_read_and_written_with_single_blanks(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text('  age  "home town"   buys \n   7  "New York"   yes\n 123   Rome       no \n')
    read = read_user_file(path)
    assert read.to_dict("list") == {
        "age": ["7", "123"],
        "home town": ["New York", "Rome"],
        "buys": ["yes", "no"],
    }
    again = read.to_csv(index=False, sep=read.attrs["sep"], header=read.attrs["header"])
    assert again == 'age "home town" buys\n7 "New York" yes\n123 Rome no\n'


def test_a_first_line_that_is_a_row_is_told(quick, tmp_path, capsys):
    path = tmp_path / "t.csv"
    people().to_csv(path, index=False, header=False)
    first = people().astype(str).iloc[0]
    assert main(["diagnose", f"{path}", "--target", first["buys"], "--out", f"{tmp_path}"]) == 0
    assert "The first line was read as the names of the columns" in capsys.readouterr().out
    said = refused(capsys, path, "--target", "buys")
    assert "put a line of column names above it" in said
    path.write_text("0,1,0,0\n1,2,3,4\n")
    assert "put a line of column names above it" in refused(capsys, path, "--target", "y")
    path.write_text("|1x3 Cross validator\n1,2,a\n3,4,b\n")
    assert "is it the line of column names?" in refused(capsys, path, "--target", "y")


def test_what_may_stand_for_a_missing_value_is_asked_about():
    frame = people(600)
    frame.loc[:19, "income"] = -200.0
    gas = frame["age"] * 10.0 + 1000
    frame["gas"] = gas.mask(frame.index % 8 == 3, -200)  # not far for an eighth of the rows
    question = "income (20 cells), gas (75 cells): -200 is far from all other numbers: a code"
    assert any(said.startswith(question) for said in own_table(frame, "buys").checks)
    label = own_table(frame, "gas")
    assert any(said.startswith(question) for said in label.checks)
    assert label.codes.sum().to_dict() == {"age": 0, "income": 20, "gas": 75}
    counted = frame.assign(income=0).drop(columns="gas").assign(visits=frame.index % 4)
    assert not any("a code" in said for said in own_table(counted, "buys").checks)


@pytest.mark.parametrize(("often", "asked"), [(0, False), (999, True)])
def test_most_rows_may_have_a_code_but_a_zero_that_most_have_is_a_count(often, asked):
    frame = people(600)
    frame["loss"] = (1400 + frame.index // 20).where(frame.index % 20 == 0, often)
    assert any("loss" in said for said in own_table(frame, "buys").checks) == asked


def test_a_column_that_tells_the_label_alone_is_asked_about():
    frame = people(600)
    rng = np.random.default_rng(0)
    agrees = rng.random(600) < 0.96
    frame["channel"] = np.where((frame["buys"] == "yes") == agrees, "app", "web")
    asked = [said for said in own_table(frame, "buys").checks if "Is it known before" in said]
    assert len(asked) == 1
    said = "channel: it alone nearly always tells rows of different labels apart."
    assert asked[0].startswith(said)
    frame["cents"] = frame["income"] * 100 + rng.normal(size=600)
    asked = [said for said in own_table(frame, "income").checks if "Is it known before" in said]
    assert len(asked) == 1
    assert asked[0].startswith("cents: it alone nearly always tells the label.")
    rare = frame.assign(buys=["once", *frame["buys"][1:]])  # a class too rare for any tree
    assert any(said.startswith("channel: it alone") for said in own_table(rare, "buys").checks)


def test_a_rule_that_no_row_breaks_is_no_suspected_shortcut():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"town": rng.choice(list("abc"), 200), "job": rng.choice(list("xyz"), 200)}
    )
    frame["y"] = np.where(frame["town"] == "a", "u", "v")
    outcome = diagnose_frame(frame, "y", repeats=1)
    assert all(shortcut.breaks.any() for shortcut in outcome.debugger.shortcuts_)
    assert bool(outcome.summary["flagged"]["spurious"]) == bool(outcome.debugger.shortcuts_)
    assert any(said.startswith("town: it alone") for said in outcome.summary["checks"])


def test_cells_far_from_the_others_are_named_in_the_diagnosis(quick, table, tmp_path):
    frame = people().astype({"age": object})
    frame.loc[frame.index % 40 == 7, "income"] = 4000.0
    frame.loc[7, "age"] = 900
    frame.loc[50, "buys"] = ""
    frame.to_csv(table, index=False)
    notes = diagnose_file(table, "buys").diagnosis().set_index("row")["note"]
    assert notes[8] == "far from the others: age, income"
    assert notes[48] == "far from the others: income"
    assert notes[51] == "not judged: it has no label"
    assert (notes != "").sum() == 9


def test_points_between_thousands_are_no_decimals(quick, tmp_path):
    frame = people()
    rent = (frame["income"] * frame["age"]).round().astype(int)  # up to some thousands
    frame["rent"] = rent.map("{:,}".format).str.replace(",", ".")
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False, sep=";")
    read = own_table(read_user_file(path), "buys")
    assert read.frame["rent"].tolist() == rent.tolist()
    assert "rent: points were read as separators of thousands." in read.notes
    weight = frame.assign(rent=(rent / 1000).map("{:.3f}".format))  # three decimals everywhere
    assert own_table(weight, "buys").frame["rent"].tolist() == (rent / 1000).round(3).tolist()
    short = frame.assign(rent=(rent / 1000).map("{:g}".format))  # or as many as it takes
    assert own_table(short, "buys").frame["rent"].max() < 10


def test_columns_are_read_for_what_they_are():
    n = 60
    frame = pd.DataFrame(
        {
            "id": range(n),
            "number": ["abc", "inf", "", *(f"{i}.5" for i in range(n - 3))],
            "day": pd.date_range("2024-01-20", periods=n).strftime("%d.%m.%Y"),
            "american": pd.date_range("2024-01-20", periods=n).strftime("%m/%d/%Y 10:30"),
            "flag": [True, False] * (n // 2),
            "text": [f"thank you very much {i}" for i in range(n)],
            "same": "x",
            "city": ["Rome", "Oslo", "rare"] * (n // 3),
            "label": np.arange(n) * 1.5,
        }
    )
    read = own_table(frame, "label")
    dates = ("(days)", "(month)", "(weekday)")
    assert read.task.numeric == (
        "number",
        *(f"{c} {d}" for c in ("day", "american") for d in dates),
    )
    assert read.task.categorical == ("flag", "city")
    assert read.task.label.classes == 0
    assert read.frame["day (days)"].tolist() == read.frame["american (days)"].tolist()
    assert read.frame["number"].isna().sum() == 3
    notes = "\n".join(read.notes)
    since = "day is a date, the day before the month; read as days since 2024-01-20"
    left = ("id was left out", "text was left out: it is free text", "same")
    for word in (since, *left):
        assert word in notes
    assert "number: 2 cells that cannot be read like the others (such as 'abc', rows 1, 2)" in (
        "\n".join(read.checks)
    )


@pytest.mark.parametrize(
    ("write", "read", "note"),
    [
        (lambda x: f"${x:,.2f}", lambda x: round(x, 2), "'$'"),
        (lambda x: f"{x:.1f} kg", lambda x: round(x, 1), "'kg'"),
        (lambda x: f"{x:.0f}%", round, "'%'"),
        (lambda x: f"{x:_.2f} €".replace(".", ",").replace("_", "."), lambda x: round(x, 2), "'€'"),
    ],
    ids=["dollars", "kilograms", "per cent", "German euros"],
)
def test_numbers_with_a_unit_are_numbers_and_are_mended_with_it(write, read, note, quick):
    frame = people(300, wrong=0)
    paid = 1000 + 40 * frame["income"]
    cells = paid.map(write).to_numpy(dtype=object)
    cells[5] = "twelve"
    frame["income"] = cells
    outcome = diagnose_frame(frame, "buys")
    table = outcome.debugger.table_
    assert "income" in table.task.numeric
    assert np.allclose(table.frame["income"].drop(5), paid.map(read).drop(5))
    assert f"income was read without its unit, {note}." in table.notes
    mended = outcome.repaired()["income"]
    kept = ~outcome.diagnosis()["suspicious_cells"].str.contains("income")
    assert mended[kept].equals(frame["income"][kept])
    usual = own_table(frame.assign(income=mended), "buys").frame["income"]
    assert usual.notna().all()
    assert usual[5] == pytest.approx(table.mended["income"][5], rel=1e-4)


@pytest.mark.parametrize("cell", ["Q{}", "room {}", "{}st A", "{}-{}", "{}:3"])
def test_names_with_a_digit_are_no_numbers_with_a_unit(cell):
    names = [
        cell.format(i % 4, i % 4) if cell != "{}st A" else f"{i % 4}{'snrt'[i % 4]}"
        for i in range(60)
    ]
    frame = people(60).assign(name=names)
    assert "name" in own_table(frame, "buys").task.categorical


def test_spellings_of_a_class_are_one_class(quick):
    frame = people(300, wrong=0)
    given = frame["buys"].to_numpy(dtype=object)
    given[[0, 1, 2]] = [" " + given[0].upper(), given[1].title(), given[2] + " "]
    outcome = diagnose_frame(frame.assign(buys=given), "buys")
    assert outcome.debugger.table_.task.label.names == ("no", "yes")
    assert "were read as another spelling of" in "\n".join(outcome.debugger.table_.notes)
    assert set(outcome.repaired()["buys"]) <= set(given)
    numbers = frame.assign(buys=np.where(frame["buys"] == "yes", "1", "0.0"))
    numbers.loc[:3, "buys"] = numbers["buys"].loc[:3].map({"1": "1.0", "0.0": "0"})
    assert own_table(numbers, "buys").task.label.names == ("0.0", "1")
    letters = frame.assign(buys=np.where(frame["buys"] == "yes", "A", "a"))
    assert own_table(letters, "buys").task.label.names == ("A", "a")


@pytest.mark.parametrize("words", [("none", "mild"), ("+", "-")])
def test_a_class_may_be_called_none_or_minus(words):
    frame = people(60).assign(buys=lambda f: f["buys"].map({"no": words[0], "yes": words[1]}))
    assert not without_label(frame["buys"]).any()
    assert own_table(frame, "buys").task.label.names == tuple(sorted(words))


def test_a_few_odd_cells_do_not_turn_thousands_into_decimals():
    sizes = ["1,030", "678", "651", "1,415"] * 50
    sizes[4:12:2] = "1,25O", "unknown, ask Bob", "12,50", "1,250 USD"
    read = own_table(people(200).assign(size=sizes), "buys").frame["size"]
    assert read.drop([4, 6, 8, 10]).between(651, 1415).all()
    german = ["1.065,4", "80,0", "k.A.", "7,5"] * 3 + ["1.065,4", "80,0", "7,5"] * 96
    read = own_table(people(300).assign(size=german), "buys").frame["size"]
    assert set(read.dropna()) == {1065.4, 80.0, 7.5}


def test_codes_paid_amounts_and_names_of_parts_are_read_for_what_they_are():
    rng = np.random.default_rng(0)
    n = 400
    frame = people(n).assign(
        zip=[f"{z:05d}" for z in rng.choice([1234, 2345, 98765], n)],
        amount_paid=rng.permutation(n) + 1000,
        userId=rng.permutation(n) + 1000,
    )
    day = pd.date_range("2024-01-20", periods=n)
    written = day.strftime("%m/%d/%Y").to_numpy(dtype=object)
    written[3] = "13/01/2023"
    frame["sent"], frame["sent (days)"] = written, rng.integers(0, 9, n)
    read = own_table(frame, "buys")
    assert "zip" in read.task.categorical
    assert {"amount_paid", "sent (days)", "sent (days)_"} <= set(read.task.numeric)
    assert "userId was left out" in "\n".join(read.notes)
    assert read.frame["sent (days)"].equals(frame["sent (days)"])
    assert read.frame["sent (days)_"].isna().sum() == 1


def test_nobody_is_told_to_write_other_or_missing(quick):
    rng = np.random.default_rng(0)
    frame = people(1500).assign(
        town=[f"Town {chr(65 + i % 26)}{chr(97 + i // 26)}" for i in rng.integers(0, 400, 1500)]
    )
    outcome = diagnose_frame(frame, "buys")
    assert OTHER in set(outcome.debugger.table_.frame["town"])
    said = outcome.diagnosis()["suggested_values"]
    assert not said.str.contains(OTHER, regex=False).any()
    assert not said.str.contains("missing", regex=False).any()
    assert set(outcome.repaired()["town"]) <= set(frame["town"])


def test_nobody_is_told_to_empty_a_cell():
    table = own_table(people().assign(left=["Y", ""] * 150), "buys")
    swapped = table.frame.assign(left=table.frame["left"][::-1].to_numpy())
    repaired = Repaired(swapped, swapped, torch.ones(300), swapped != table.frame, pd.Index([]))
    said = _as_written(repaired, table.task, table.frame)
    assert said.cells["left"].tolist() == [False, True] * 150
    assert set(said.frame["left"]) == {"Y"}


def test_known_errors_may_be_some_rows_in_any_order():
    known = pd.DataFrame({"row": ["3", "1"], "label": ["1", "0"]})
    assert np.array_equal(
        check_known(known, 4, "k")["label"], [0, np.nan, 1, np.nan], equal_nan=True
    )
    for rows in (["3", "3"], ["0", "1"], ["5", "1"], ["x", "1"]):
        with pytest.raises(DataError, match="row"):
            check_known(known.assign(row=rows), 4, "k")


def test_a_column_of_python_numbers_is_mended_with_numbers(quick):
    frame = people(300, wrong=0)
    income = [*map(int, frame["income"][:150]), *frame["income"][150:]]
    frame["income"] = pd.Series(income, dtype=object)
    frame.loc[7, "income"] = 0.000039623
    mended = diagnose_frame(frame, "buys").repaired()["income"]
    assert all(isinstance(cell, int | float) for cell in mended)


def test_decimals_categories_and_lists_of_a_parquet_file_end_in_files(quick, tmp_path):
    frame = people(300, wrong=0)
    frame["income"] = [Decimal(f"{x:.2f}") for x in frame["income"]]
    frame.loc[7, "income"] = Decimal("0.03962")
    frame["age"] = frame["age"].round().astype(int).astype("category")
    frame["tags"] = [["a", "b"], ["c"]] * 150
    missing = np.arange(300) % 3 == 1
    frame["visits"] = pd.array(np.arange(300) % 7, "Int64").to_numpy(object)
    frame["visits"] = frame["visits"].mask(missing).astype("Int64")  # row 8 is shown without
    frame["asked"] = frame["visits"].eq(4).mask(missing)
    outcome = diagnose_frame(frame, "buys")
    assert outcome.diagnosis()["feature_error"][7] == 1
    written = write_outcome(outcome, tmp_path, repaired=".parquet")
    assert len(written) == 3


def test_numbers_of_single_precision_have_the_decimals_they_show():
    prices = pd.Series(np.arange(300) / 100).where(np.arange(300) != 7, 0.12345)
    for kind in ("float32", "Float32", pd.ArrowDtype(pa.float32()), "float64"):
        read = own_table(people(300).assign(price=prices.astype(kind)), "buys")
        assert "price: 1 cell with more decimals than the others (row 8)." in read.checks, kind
        assert read.frame["price"].tolist() == prices.tolist(), kind


def test_categories_of_numbers_are_names_by_their_type():
    codes = pd.Series(np.arange(300) % 40 + 100)
    read = own_table(people(300).assign(code=codes.astype("category")), "buys")
    assert read.task.categorical == ("code",)
    assert read.frame["code"].tolist() == codes.astype(str).tolist()
    assert own_table(people(300).assign(code=codes), "buys").task.categorical == ()
    labels = people(300).assign(buys=pd.Series(np.arange(300) % 20))
    assert own_table(labels, "buys").task.label.classes == 0
    assert own_table(labels.astype({"buys": "category"}), "buys").task.label.classes == 20


def test_categories_stay_names_beside_validation_rows_with_others(quick):
    def coded(n, first):
        codes = pd.Categorical(np.arange(n) % 9 + first)
        return people(n).assign(code=codes)

    outcome = diagnose_frame(coded(300, 100), "buys", validation=coded(90, 104))
    assert outcome.debugger.table_.task.categorical == ("code",)


def test_types_of_arrow_are_read_like_others():
    days, hours = pd.date_range("2024-01-20", periods=60), pd.to_timedelta(np.arange(60), "h")
    columns = {
        "day": (pa.date32(), days.date),
        "seen": (pa.timestamp("us", "UTC"), days.tz_localize("UTC")),
        "waited": (pa.duration("s"), hours.to_pytimedelta()),
        "clock": (pa.time64("us"), (days[0] + hours).time),
        "paid": (pa.decimal128(8, 2), [Decimal(i) / 4 for i in range(60)]),
        "member": (pa.bool_(), [True, False] * 30),
        "town": (pa.string(), ["Rome", "Oslo"] * 30),
        "land": (pa.dictionary(pa.int32(), pa.string()), ["Italy", "Norway"] * 30),
    }
    frame = people(60)
    for gap in ([], [7]):
        for name, (kind, cells) in columns.items():
            cells = [None if i in gap else cell for i, cell in enumerate(cells)]
            cells = pa.array(cells, kind if not pa.types.is_dictionary(kind) else kind.value_type)
            frame[name] = pd.Series(cells.cast(kind), dtype=pd.ArrowDtype(kind))
        table = own_table(frame.set_axis(frame.index + 100), "buys")
        dates = [f"{name} ({part})" for name in ("day", "seen") for part in ("days", "month")]
        read = {*dates, "waited (days)", "clock (hours since midnight)", "paid"}
        assert read <= set(table.task.numeric)
        assert table.task.categorical == ("member", "town", "land")
        assert (table.frame[[*read]].isna().sum() == len(gap)).all()


def test_a_decimal_stays_one_with_no_more_decimals_than_its_column():
    read, new = pd.Series([1.5, 2.25, np.nan]), pd.Series([0.1234, 7])
    objects = pd.Series([Decimal("1.5"), Decimal("2.25"), None])
    for raw in (objects, objects.astype(pd.ArrowDtype(pa.decimal128(4, 2)))):
        mended = pd.Series(command._as_in_file(raw, read, new), dtype=object).astype(raw.dtype)
        assert mended.tolist() == [Decimal("0.12"), Decimal(7)]


def test_an_ordered_category_stays_one_in_the_repaired_table(quick):
    sizes = pd.Categorical(
        np.where(np.arange(300) % 2, "small", "large"),
        categories=["smaell", "small", "large", "huge"],
        ordered=True,
    )
    frame = people(300).assign(size=sizes)
    frame.loc[7, "size"] = "smaell"
    after = diagnose_frame(frame, "buys").repaired()["size"]
    assert after[7] == "small"
    assert after.dtype == frame["size"].dtype


def test_what_parquet_cannot_hold_becomes_csv_and_the_outcome_can_be_kept(quick, tmp_path):
    mixed = np.array([1, "a", "b"] * 100, dtype=object)
    outcome = diagnose_frame(people(300).assign(mixed=mixed), "buys")
    again = pickle.loads(pickle.dumps(outcome))
    pd.testing.assert_frame_equal(again.diagnosis(), outcome.diagnosis())
    written = write_outcome(again, tmp_path, repaired=".parquet")
    assert [path.name for path in written] == ["diagnosis.csv", "report.html", "repaired.csv"]


def test_what_is_no_frame_is_refused():
    with pytest.raises(DataError, match="your table must be a pandas DataFrame, not a ndarray"):
        diagnose_frame(people(300).to_numpy(), "buys")


# ------------------------------------------------------------------ how people write


def with_prices(n=400):
    rng = np.random.default_rng(0)
    size, age = rng.normal(100, 20, n).round(1), rng.integers(20, 70, n)
    price = (3 * size + 2 * age + rng.normal(0, 15, n)).round(1)
    return pd.DataFrame({"size": size, "age": age, "price": price})


def test_another_unit_in_a_tenth_of_the_rows_is_found_and_taken_back(quick):
    frame = with_prices()
    given = frame.assign(size=frame["size"].where(frame.index >= 40, frame["size"] * 1000))
    outcome = diagnose_frame(given, "price")
    said = outcome.diagnosis()
    assert said["feature_error"].tolist() == [1] * 40 + [0] * 360
    assert (said["suspicious_cells"][:40] == "size").all()
    np.testing.assert_allclose(outcome.repaired()["size"], frame["size"], rtol=1e-5)
    assert any("apart from all others" in check for check in outcome.summary["checks"])


def test_a_group_of_numbers_that_another_column_explains_is_no_mistake():
    frame = with_prices()
    far = frame["size"].where(frame.index >= 40, frame["size"] * 1000)
    explained = frame.assign(size=far, unit=np.where(frame.index < 40, "mm", "m"))
    assert not own_table(explained, "price").slips.any(axis=None)
    assert own_table(explained.drop(columns="unit"), "price").slips["size"].sum() == 40


def test_a_few_far_targets_do_not_set_the_scale(quick):
    frame = with_prices()
    given = frame.assign(price=frame["price"].where(frame.index >= 6, frame["price"] * 100))
    outcome = diagnose_frame(given, "price")
    label = outcome.debugger.table_.task.label
    assert label.high == frame["price"][6:].max()
    assert label.encode(given["price"]).max() == 1
    doubted(outcome, 6)
    repaired = outcome.repaired()["price"]
    assert repaired[:6].isna().all(), "nobody knows the right one"
    assert repaired[6:].eq(given["price"][6:]).all()


def doubted(outcome, rows):
    lines = outcome.debugger.diagnosis_
    outcome.debugger.diagnosis_ = lines.assign(label_error=lines.index < rows)


def test_a_slip_in_one_label_does_not_empty_the_others(quick):
    frame = people()
    frame.loc[299, "buys"] = "yess"
    outcome = diagnose_frame(frame, "buys")
    doubted(outcome, 5)
    assert outcome.repaired()["buys"].notna().all()
    assert any("the class 'yess' (1 row): a slip?" in said for said in outcome.summary["checks"])
    three = people().assign(buys=lambda f: f["buys"].where(f["age"] < 60, "perhaps"))
    outcome = diagnose_frame(three, "buys")
    doubted(outcome, 5)
    assert outcome.repaired()["buys"][:5].isna().all()


def test_a_doubtful_one_of_many_whole_labels_is_emptied_in_a_parquet_file(quick, tmp_path):
    frame = with_prices().assign(price=lambda f: f["price"].round().astype(int))
    outcome = diagnose_frame(frame, "price")
    doubted(outcome, 5)
    write_outcome(outcome, tmp_path, repaired=".parquet")
    again = pd.read_parquet(tmp_path / "repaired.parquet")["price"]
    assert again[:5].isna().all()
    assert again[5:].tolist() == frame["price"][5:].tolist()


@pytest.mark.parametrize("unit", ["", "$"])
def test_a_word_for_what_is_missing_keeps_a_column_one_of_numbers(unit):
    frame = people(200)
    income = [f"{unit}{i}" for i in range(1000, 1200)]
    income[:16] = ["prefer not to say"] * 16
    table = own_table(frame.assign(income=income), "buys")
    assert "income" in table.task.numeric
    assert table.frame["income"].isna().sum() == 16
    assert any("word for a missing value" in note for note in table.notes)
    few = [f"{unit}{i % 5}" if i % 4 else "none of these" for i in range(200)]
    assert "income" in own_table(frame.assign(income=few), "buys").task.categorical


def test_a_cell_with_a_digit_that_repeats_and_cannot_be_read_is_no_word_for_a_missing_value():
    age = [*["90+"] * 4, *["secret"] * 5, *map(str, range(18, 89)), *map(str, range(18, 88))]
    table = own_table(people(150).assign(age=age), "buys")
    assert table.frame["age"].isna().sum() == 9
    unread = (
        "age: 4 cells that cannot be read, and count as missing (such as '90+', rows 1, 2, 3, 4)."
    )
    assert unread in table.checks
    assert any("age: 5 cells with a word for a missing value" in note for note in table.notes)
    assert not table.slips["age"].any()


def test_a_number_below_what_could_be_measured_is_that_number():
    cells = ["<0.5" if i % 3 == 0 else f"{i / 10}" for i in range(200)]
    table = own_table(people(200).assign(lead=cells), "buys")
    assert table.frame["lead"][0] == 0.5
    assert table.frame["lead"].notna().all()
    assert any("67 cells < or > was" in note for note in table.notes)


def test_names_of_groups_with_smaller_and_larger_are_no_numbers():
    frame = people(200)
    pay = np.where(frame["buys"] == "yes", ">50K", "<=50K")
    assert own_table(frame.assign(buys=pay), "buys").task.label.names == ("<=50K", ">50K")
    assert "pay" in own_table(frame.assign(pay=pay), "buys").task.categorical
    few = np.where(frame.index % 3, "30", "<30")
    assert own_table(frame.assign(buys=few), "buys").task.label.names == ("30", "<30")
    again = np.where(frame.index % 2, "NO", np.where(frame.index % 3, "<30", ">30"))
    assert own_table(frame.assign(buys=again), "buys").task.label.names == ("<30", ">30", "NO")
    assert "again" in own_table(frame.assign(again=again), "buys").task.categorical


@pytest.mark.parametrize(
    ("written", "note"),
    [("2024/{m}/{d}", ""), ("{d}-{name}-2024", ""), ("{name} {d}, 2024", ""),
     ("{m}/{d}/2024 3:05 PM", ", the month before the day"),
     ("{d}.{m}.2024", ", the day before the month")],
)  # fmt: skip
def test_dates_in_many_ways_of_writing(written, note):
    days = pd.date_range("2024-01-01", periods=200)
    cells = [written.format(d=day.day, m=day.month, name=f"{day:%b}") for day in days]
    table = own_table(people(200).assign(seen=cells), "buys")
    assert table.frame["seen (days)"].tolist() == list(range(200))
    assert any(said.startswith(f"seen is a date{note};") for said in table.notes)


def test_a_repaired_file_has_the_types_and_the_line_ends_of_the_file(quick, tmp_path):
    frame = with_prices().assign(rooms=pd.array([None, 2, 3, 4] * 100, dtype="Int64"))
    frame.to_parquet(tmp_path / "t.parquet")
    outcome = diagnose_file(tmp_path / "t.parquet", "price")
    write_outcome(outcome, tmp_path, repaired=".parquet")
    before, after = (pq.read_schema(tmp_path / f"{name}.parquet") for name in ("t", "repaired"))
    assert after.field("rooms").type == before.field("rooms").type == pa.int64()
    frame.to_csv(tmp_path / "t.csv", index=False, lineterminator="\r\n")
    outcome = diagnose_file(tmp_path / "t.csv", "price")
    write_outcome(outcome, tmp_path, repaired=".csv")
    given, written = ((tmp_path / f"{name}.csv").read_bytes() for name in ("t", "repaired"))
    assert written.count(b"\r\n") == given.count(b"\r\n") == written.count(b"\n")


@pytest.mark.parametrize("index", ["shuffled", "text", "levels"])
def test_the_repaired_table_has_the_index_and_the_names_that_were_given(quick, index):
    frame = people().rename(columns={"age": 0})
    if index == "shuffled":
        frame = frame.sample(frac=1, random_state=0)
    elif index == "text":
        frame.index = [f"p{row}" for row in range(len(frame))]
    else:
        frame.index = pd.MultiIndex.from_arrays([frame["buys"], range(len(frame))])
    outcome = diagnose_frame(frame, "buys")
    for table in (outcome.repaired(), outcome.diagnosis()):
        pd.testing.assert_index_equal(table.index, frame.index)
    assert list(outcome.repaired()) == [0, "income", "buys"]
    changed = outcome.repaired()["buys"] != frame["buys"]
    assert changed.tolist() == outcome.diagnosis()["label_error"].eq(1).tolist()


def test_what_parquet_cannot_hold_is_written_as_csv(quick, tmp_path, capsys):
    frame = people()
    frame["extra"] = [[("a", row)] for row in range(len(frame))]
    kind = pa.map_(pa.string(), pa.int64())
    columns = [pa.array(frame[c], kind if c == "extra" else None) for c in frame]
    pq.write_table(pa.table(columns, names=list(frame)), tmp_path / "t.parquet")
    main(["diagnose", str(tmp_path / "t.parquet"), "--target", "buys", "--repaired",
          "--out", str(tmp_path / "out")])  # fmt: skip
    said = capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "diagnosis.csv", "report.html", "repaired.csv",
    }  # fmt: skip
    assert "note: Parquet cannot hold the repaired table" in said
    outcome = diagnose_file(tmp_path / "t.parquet", "buys")
    assert (tmp_path / "b" / "repaired.csv") in write_outcome(
        outcome, tmp_path / "b", repaired="parquet"
    )


def test_files_beside_one_in_another_encoding_may_be_utf_8(quick, tmp_path):
    frame = people().assign(city="Zürich")
    frame.to_csv(tmp_path / "t.csv", index=False, encoding="latin-1")
    for encoding in ("utf-8", "latin-1"):
        frame[:90].to_csv(tmp_path / "v.csv", index=False, encoding=encoding)
        outcome = diagnose_file(
            tmp_path / "t.csv", "buys", validation_file=tmp_path / "v.csv", encoding="latin-1"
        )
        assert set(outcome.validation["city"]) == {"Zürich"}


def test_long_numbers_of_a_parquet_file_keep_their_digits(tmp_path):
    long = {"signed": [2**53 + 1, None], "unsigned": [None, 2**64 - 1], "whole": [2**53 + 1, 1]}
    types = {"signed": pa.int64(), "unsigned": pa.uint64(), "whole": pa.int64()}
    table = {name: pa.array(values, types[name]) for name, values in long.items()}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    frame = read_user_file(tmp_path / "t.parquet").astype(object)
    assert frame.where(frame.notna(), None).to_dict("list") == long


def test_a_label_that_is_no_number_everywhere_is_named_with_its_row(capsys, tmp_path):
    frame = people(100).astype(str)
    frame.loc[4, "income"] = "12O"
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    said = refused(capsys, path, "--target", "income", "--kind", "regression")
    assert "1 row, such as '12O' in row 5" in said
    assert "All but 1 row, such as '12O' in row 5 are numbers" in refused(
        capsys, path, "--target", "income"
    )


def test_the_line_that_names_the_separator_is_no_header(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("sep=;\r\nname, given;age\r\nA;1\r\n", newline="")
    assert read_user_file(path).to_dict("list") == {"name, given": ["A"], "age": ["1"]}


def test_a_word_stands_for_what_is_missing_if_it_repeats_and_there_are_few_such_words():
    numbers = [str(number) for number in range(20)]

    def missing(*words):
        text = pd.Series([*numbers, *words])
        found = reading.stands_for_missing(text, pd.to_numeric(text, errors="coerce"))
        return text[found].tolist()

    assert missing(*["secret"] * 3, "soon", "5+", "5+", "5+") == ["secret"] * 3
    assert missing(*list("abc") * 3) == list("abc") * 3
    assert missing(*list("abcd") * 3) == []


def test_a_unit_stands_at_nearly_every_number():
    assert reading.unit_of(pd.Series(["5 kg"] * 19 + ["7 lb"])) == ("", " kg")
    assert reading.unit_of(pd.Series(["5 kg"] * 17 + ["7 lb"] * 3)) == ("", "")
    assert reading.unit_of(pd.Series(["5 kg"] * 17 + ["room 7, left"] * 3)) == ("", "")


def test_a_minus_is_read_like_a_hyphen():
    for cells in (["\u22125", "3"], ["\u2212$5", "$3"], ["\u22125 kg", "3 kg"]):
        assert reading.as_numbers(pd.Series(cells)).tolist() == [-5, 3]


def test_lakhs_are_no_slips():
    cells = [f"{n // 1000},{n % 1000:03}" for n in range(20_000, 99_000, 400)]
    cells[::15] = [f"1,{n},500" for n in range(10, 10 + len(cells[::15]))]
    table = own_table(people(len(cells)).assign(income=cells), "buys")
    assert not table.slips["income"].any()
    assert table.frame["income"].max() == 123_500


def test_thousands_and_millions_are_told_apart_by_their_letters(quick):
    paid = (10 ** (4 + people()["income"] / 25)).round(-5).clip(1e5)
    cells = [f"€{x / 1e6:.1f}M" if x >= 1e6 else f"€{x / 1e3:.0f}K" for x in paid]
    cells[7] = "€19O"
    frame = people().assign(value=cells)
    table = own_table(frame, "buys")
    assert table.frame["value"].drop(7).tolist() == paid.drop(7).tolist()
    assert "value: K, M and B were read as thousands, millions and billions." in table.notes
    mended = diagnose_frame(frame, "buys").repaired()
    again = own_table(mended, "buys").frame["value"]
    assert again[7] == table.mended["value"][7]
    assert again.drop(7).isin(paid).all()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1/31/40", "2040-01-31 00:00"), ("1/31/41", "1941-01-31 00:00"),
        ("7/21/2024 12:05 PM", "2024-07-21 12:05"), ("7/21/2024 12:05 am", "2024-07-21 00:05"),
        ("2024/7/21 3:05", "2024-07-21 03:05"), ("3.4.2024", "2024-04-03 00:00"),
        ("3/4/2024", "2024-03-04 00:00"), ("9:30", "1970-01-01 09:30"),
        ("21-Jul-24", "2024-07-21 00:00"), ("5 Jan 99 7:30", "1999-01-05 07:30"),
        ("2015-01-01 09:05:00 UTC", "2015-01-01 09:05"),
        ("2015-01-01T09:05:00 GMT", "2015-01-01 09:05"),
        ("7/21/2024, 10:00:00 PM", "2024-07-21 22:00"), ("2011-11", "2011-11-01 00:00"),
        ("Dec-2011", "2011-12-01 00:00"), ("Okt. 2011", "2011-10-01 00:00"),
    ],
)  # fmt: skip
def test_a_date_by_hand(written, read):
    assert str(reading.as_dates(pd.Series([written]))[0])[:16] == read


@pytest.mark.parametrize("other", ["2012-13", "2011-2", "4711-12", "soon"])
def test_a_year_and_two_digits_are_a_month_only_where_all_cells_are(other):
    cells = [f"{year}-{month:02}" for year in (2011, 2012, 2013) for month in range(1, 13)] * 4
    assert reading.as_dates(pd.Series(cells)).dt.month.tolist() == [*range(1, 13)] * 12
    assert reading.as_dates(pd.Series([*cells, other])).isna().all()


def test_codes_have_one_width():
    assert reading.are_codes(pd.Series(["01234", "98765"]))
    assert not reading.are_codes(pd.Series(["01234", "987"]))
    assert not reading.are_codes(pd.Series(["12345", "98765"]))


def test_codes_that_are_nearly_all_different_are_an_identifier():
    codes = [f"{n * 331:05d}" for n in range(60)]
    table = own_table(people(60).assign(zip=codes), "buys")
    assert "zip" not in table.task.features
    assert "zip was left out: it is an identifier (nearly every cell is different)." in table.notes


def test_checks_of_rows_and_classes_by_hand():
    frame = people(300, wrong=0).assign(x=1.5 * np.arange(300))
    once = "\n".join(own_table(frame, "buys").checks)
    assert "identical" not in once
    twice = pd.concat([frame, frame.head(4)], ignore_index=True)
    twice.loc[300, "buys"] = "no" if frame["buys"][0] == "yes" else "yes"
    said = "\n".join(own_table(twice, "buys").checks)
    assert "3 rows identical to an earlier one; each is judged, by models that may have" in said
    assert "1 group of rows identical but for their label (2 rows): nothing in them" in said
    for count, told in ((9, True), (10, False)):
        rare = frame.assign(buys=frame["buys"].where(frame.index >= count, "perhaps"))
        checks = "\n".join(own_table(rare, "buys").checks)
        assert ("perhaps" in checks) == told
        assert "a slip" not in checks
    far = frame.assign(income=frame["income"].where(frame.index % 10 > 0, 99_999.0))
    checks = [said for said in own_table(far, "buys").checks if said.startswith("income")]
    assert len(checks) == 1
    assert "apart from all others" in checks[0]


def test_rows_that_differ_in_what_the_features_leave_out_are_not_identical():
    names = [f"{a}{b} street" for a in "ABCDEFGHIJ" for b in "abcdefgh"]
    frame = pd.DataFrame(
        {
            "row": range(160),
            "code": [f"R{i}" for i in range(160)],
            "review": [f"this is review {i}" for i in range(160)],
            "stars": [1, 2] * 80,
            "buys": ["no", "yes"] * 80,
        }
    )
    rare = frame.drop(columns="review").assign(stars=0, street=[*names, *reversed(names)])
    for differ, kept in ((frame, "stars"), (rare, "street")):
        table = own_table(differ, "buys")
        assert table.task.features[-1] == kept
        assert not any("identical to an earlier" in said for said in table.checks)
    assert own_table(rare, "buys").frame["street"].eq(OTHER).any()
    assert any("80 groups of rows identical but" in said for said in own_table(rare, "buys").checks)
    twice = pd.concat([frame, frame.tail(3).assign(code="R")], ignore_index=True)
    assert any("3 rows identical to an earlier" in said for said in own_table(twice, "buys").checks)


def test_columns_that_number_the_rows_are_left_out_and_others_stay():
    frame = people(120).assign(
        n=range(7, 127),
        group_id=lambda f: f["age"] % 9,
        born=pd.date_range("1960-01-01", periods=120),
        town=[f"Town {chr(65 + i % 26)}{chr(97 + i % 4)}" for i in range(120)],
    )
    table = own_table(pd.concat([frame] * 2, ignore_index=True), "buys")
    assert {"group_id", "born (days)", "n"} <= set(table.task.numeric)
    assert table.frame["town"].nunique() == 52
    assert "n was left out: it numbers the rows." in own_table(frame, "buys").notes
    gaps = own_table(frame.drop(index=[3, 50]), "buys")
    assert "n was left out: it numbers the rows." in gaps.notes
    many = [f"{a}{b} street" for a in "ABCDEFGHIJ" for b in "abcdefgh"]
    kept = own_table(people(400).assign(town=many * 5), "buys").frame["town"]
    assert kept.nunique() == KEPT_CATEGORIES
    assert kept.eq(OTHER).sum() == 5 * (80 - KEPT_CATEGORIES + 1)
    part = table.take(slice(5, 9))
    assert part.frame.index.tolist() == part.mended.index.tolist() == [0, 1, 2, 3]
    assert part.frame["age"].tolist() == frame["age"][5:9].tolist()


@pytest.mark.parametrize(
    ("name", "distinct", "said"),
    [
        ("column 1", 120, "was left out: it numbers the rows."),
        ("Unnamed: 0", 120, "was left out: it numbers the rows."),
        ("rownames", 120, "was left out: it numbers the rows."),
        ("ID", 100, "was left out: it is an identifier (nearly every cell is different)."),
        ("ID", 30, "was read as a number; leave it out if it only tells what a row is about."),
    ],
)
def test_numbers_named_like_an_identifier_are_left_out_or_mentioned(name, distinct, said):
    numbers = 3 * np.random.default_rng(0).permutation(np.arange(120) % distinct)
    table = own_table(people(120).assign(**{name: numbers}), "buys")
    assert f"{name} {said}" in "\n".join(table.notes)
    assert (name in table.task.features) == (distinct == 30)


@pytest.mark.parametrize("kind", [int, str])
def test_an_identifier_may_have_more_digits_than_a_float(kind):
    numbers = np.random.default_rng(0).integers(10**17, 10**18, 120)
    table = own_table(people(120).assign(user_id=numbers.astype(kind)), "buys")
    assert "user_id was left out: it numbers the rows." in table.notes
    assert "user_id" not in table.task.features


def test_the_spelling_that_is_written_most_is_the_name():
    frame = people(200).assign(buys=lambda f: f["buys"].str.title())
    frame.loc[:60, "buys"] = frame["buys"][:61].str.upper()
    assert own_table(frame, "buys").task.label.names == ("No", "Yes")


def test_a_label_of_few_numbers_says_that_it_was_read_as_classes():
    frame = people(120).assign(buys=lambda f: (f["age"] % 4).astype(str))
    said = "buys has only 4 different numbers and was read as classes; choose regression"
    assert said in "\n".join(own_table(frame, "buys").notes)
    assert said not in "\n".join(own_table(frame, "buys", kind="classification").notes)


def test_none_is_a_word_among_words_and_missing_among_numbers():
    bags = pd.Series(["None", "Driver", "Both", "NA"] * 30)
    table = own_table(people(120).assign(bags=bags), "buys")
    assert set(table.frame["bags"].dropna()) == {"None", "Driver", "Both"}
    assert "Cells read as missing ('NA'): bags (30)." in table.notes
    both = own_table(people(120).assign(bags=bags, doors=bags[::-1].to_numpy()), "buys").notes
    assert "Cells read as missing ('NA'): bags (30), doors (30)." in both
    numbers = pd.Series(["None", "5", "6", "7"] * 30)
    assert own_table(people(120).assign(n=numbers), "buys").frame["n"].isna().sum() == 30


def test_a_mean_filled_in_among_whole_numbers_is_no_thousand():
    frame = people(120).assign(years=["10.251" if i % 5 == 0 else f"{i % 17}" for i in range(120)])
    assert own_table(frame, "buys").frame["years"].max() == 16


def test_three_decimals_among_small_whole_numbers_are_no_thousands():
    grades = ["1.125", "2.250", "3.375", "3.500", "4"] * 24
    assert own_table(people(120).assign(grade=grades), "buys").frame["grade"].max() == 4


def test_numbers_beyond_what_is_exact_are_not_whole():
    assert (
        own_table(people(40).assign(x=2.0**60 + 2.0**30 * np.arange(40)), "buys").frame["x"].dtype
        == float
    )
    assert own_table(people(40).assign(x=3.0 * np.arange(40)), "buys").frame["x"].dtype == int


CELLS = st.one_of(
    st.sampled_from(["", "NA", "inf", "1", "2.5", "-3", "yes", "no", "2020-01-02", "<b>", "=1"]),
    st.text(max_size=6),
)


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), rows=st.integers(0, 24), columns=st.integers(1, 4))
def test_no_table_ends_in_a_traceback(quick, tmp_path, capsys, data, rows, columns):
    names = ["y", *(f"c{i}" for i in range(columns))]
    some = data.draw(st.lists(CELLS, min_size=2, max_size=6))
    body = [[data.draw(st.sampled_from(some)) for _ in names] for _ in range(rows)]
    path = tmp_path / "fuzz.csv"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pd.DataFrame(body, columns=names).to_csv(path, index=False)
        code = main(["diagnose", f"{path}", "--target", "y", "--out", f"{tmp_path / 'o'}"])
    said = capsys.readouterr()
    assert code in (0, 2)
    assert ("are suspicious" in said.out) == (code == 0)
    assert said.err.count("\n") == (0 if code == 0 else 1)


def test_a_frame_in_memory_is_diagnosed_like_its_file(quick, table, tmp_path):
    frame = people().set_axis(np.arange(300) + 1000)
    frame.attrs = {"from": "a test"}
    ours, theirs = diagnose_frame(frame, "buys"), diagnose_file(table, "buys")
    theirs_here = theirs.diagnosis().set_axis(frame.index)
    pd.testing.assert_frame_equal(ours.diagnosis(), theirs_here)
    assert str(ours).startswith("your table: ")
    assert str(ours).partition(": ")[2] == str(theirs).partition(": ")[2]
    write_outcome(ours, tmp_path / "out", repaired=".csv")
    assert len(pd.read_csv(tmp_path / "out" / "repaired.csv")) == 300
    with pytest.raises(ValueError, match="two columns named 'age'"):
        diagnose_frame(frame.assign(x=1).rename(columns={"x": "age"}), "buys")
    with pytest.raises(ValueError, match="did you mean 'buys'"):
        diagnose_frame(frame, "buy")


def test_few_validation_rows_are_noted(quick):
    frame = people()
    for count, said in ((1, "1 held-out row of"), (40, "40 held-out rows of")):
        outcome = diagnose_frame(frame, "buys", validation=frame[:count])
        assert said in str(outcome)
        few = [note for note in outcome.summary["notes"] if note.startswith("Validation rows:")]
        assert few == ["Validation rows: 1. So few say little."][: count < 30]


def test_a_frame_may_have_numbers_for_names_and_validation_rows_of_any_index(quick):
    frame = people().set_axis([0, 1, 2], axis=1)
    held = frame.iloc[:80].set_axis([f"row {i}" for i in range(80)])
    outcome = diagnose_frame(frame, 2, validation=held)
    assert outcome.summary["target"] == "2"
    assert outcome.summary["score"]["rows"] == 80


def test_decimal_commas_are_read_and_written_back(quick, tmp_path):
    frame = people().astype(str).assign(income=lambda f: f["income"].str.replace(".", ","))
    frame.loc[5, "income"] = "999,0"
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False, sep=";")
    assert own_table(frame, "buys").task.numeric == ("age", "income")
    assert own_table(frame, "income").frame["income"].max() == 999
    outcome = diagnose_file(str(path), "buys")
    outcome.debugger.repaired_ = outcome.debugger.repaired_.assign(income=1.5)
    assert outcome.repaired()["income"].unique().tolist() == ["1,5"]
    write_outcome(outcome, tmp_path / "out", repaired=".csv")
    again = pd.read_csv(tmp_path / "out" / "repaired.csv", sep=";", dtype=str)
    assert again.columns.tolist() == frame.columns.tolist()
    assert again["income"].unique().tolist() == ["1,5"]


@pytest.mark.parametrize(
    ("mark", "said"), [(b"PK\x03\x04", "as CSV"), (b"\x1f\x8b", "unpack it first")]
)
def test_what_is_no_text_is_named(tmp_path, capsys, mark, said):
    path = tmp_path / "t.csv"
    path.write_bytes(mark + bytes(20))
    assert said in refused(capsys, path, "--target", "y")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!DOCTYPE html>\n<p>Not found", "a web page or XML: save the table as CSV first"),
        ('[{"age": 1, "buys": "no"},', "JSON: save the table as CSV first"),
        ('age  buys\n"1"  22  no\n"2"  33  yes\n', "or a first column without a name?"),
        ("age,buys\n1,22,no\n2,33,yes\n", "or a first column without a name?"),
    ],
)
def test_a_text_that_is_no_table_says_why(tmp_path, capsys, text, said):
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert said in refused(capsys, path, "--target", "buys")


def test_checks_name_rows_as_the_file_counts_them():
    frame = people().astype(str)
    frame.loc[200, "income"] = "9999999"
    frame.loc[:2, "buys"] = "perhaps"
    for index, row in ((frame.index, "row 201"), ("r" + frame.index.astype(str), "row r200")):
        checks = own_table(frame.set_axis(index).iloc[1:], "buys").checks
        assert any(f"({row})" in said for said in checks)
        assert any("learn the class 'perhaps' (2 rows)" in said for said in checks)


def test_the_error_of_a_number_is_in_its_own_unit(quick, tmp_path):
    path = tmp_path / "t.csv"
    people().replace({"age": {18: 18.25}}).to_csv(path, index=False)  # a slip: something to repair
    outcome = diagnose_file(path, "income")
    said, score = outcome.summary["score"], outcome.debugger.score_
    low, high = people()["income"].agg(["min", "max"])
    assert said["metric"] == "root mean squared error"
    assert said["before"] == pytest.approx(score.before**0.5 * (high - low), abs=1e-3)


@pytest.mark.skipif(os.name == "nt", reason="sends a signal of Unix")
@pytest.mark.parametrize("seconds", [1, 3])
def test_a_user_who_stops_it_finds_nothing_half_written(seconds, table, tmp_path):
    people(9000).to_csv(table, index=False)  # enough to be still at work
    command = [sys.executable, "-m", "demix_lite", "diagnose", table, "--target", "buys"]
    with subprocess.Popen([*command, "--out", tmp_path / "o"], stderr=subprocess.PIPE) as running:
        time.sleep(seconds)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=60)[1].decode()
    assert running.returncode in (130, -signal.SIGINT)
    if running.returncode == 130:
        assert said.splitlines() == ["demix-lite: stopped; nothing half-written was left behind."]
    assert [p.name for p in tmp_path.iterdir()] == [table.name]


def test_small_commands_say_what_is_there(capsys):
    assert main(["tasks"]) == 0
    assert "adult" in capsys.readouterr().out
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "demix_lite" in said
    assert "torch" in said
    for shell in ("bash", "zsh"):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert "--self-check" in script
        assert "train-detector" in script


def test_what_spreadsheets_write_is_read():
    hours = [f"{hour}:{minute:02}" for hour in range(10) for minute in range(0, 60, 15)]
    frame = pd.DataFrame(
        {
            "day": [f"{1 + i % 28}/10/{20 + i % 5}" for i in range(200)],
            "clock": hours * 5,
            "ratio": ["#DIV/0!" if i % 8 == 0 else f"{i / 7:.3f}" for i in range(200)],
            "waited": pd.to_timedelta(np.arange(200) % 9, unit="h"),
            "buys": ["no", "yes"] * 100,
        }
    )
    table = own_table(frame, "buys")
    assert table.source == {
        **{f"day ({part})": "day" for part in ("days", "weekday")},
        "clock (hours since midnight)": "clock",
        "ratio": "ratio",
        "waited (days)": "waited",
    }
    assert table.frame["clock (hours since midnight)"].head(3).tolist() == [0, 0.25, 0.5]
    assert table.frame["ratio"].isna().sum() == 25
    assert "Cells read as missing ('#DIV/0!'): ratio (25)." in table.notes


def test_a_span_of_time_without_two_values_is_left_out():
    frame = people().assign(waited=pd.Timedelta(hours=3), took=pd.to_timedelta(np.nan))
    table = own_table(frame, "buys")
    assert not {"waited", "took"} & set(table.source.values())
    assert "waited was left out: it is the same everywhere." in table.notes
    assert "took was left out: it is empty." in table.notes


@pytest.mark.parametrize("longest", ["24:10", "75:30"])
def test_spans_that_no_clock_shows_are_no_times_of_day(longest):
    calls = [f"{i % 24}:{i % 60:02}" for i in range(299)]
    table = own_table(people().assign(call=[*calls, longest]), "buys")
    assert "call (hours or minutes)" in table.task.numeric
    assert "call is a span of time; read as hours or minutes." in table.notes
    minutes, seconds = map(int, longest.split(":"))
    assert table.frame["call (hours or minutes)"].iloc[-1] == minutes + seconds / 60
    assert not table.slips.any(axis=None)
    for odd in ("9:10", "1:02:30", "70:60", "75:30 pm", "soon"):
        table = own_table(people().assign(call=[*calls, odd]), "buys")
        assert "call (hours since midnight)" in table.task.numeric


def test_a_word_for_nothing_beside_one_other_word_is_a_category():
    frame = people().assign(alley=lambda f: np.where(f["age"] > 50, "None", "Brick"))
    table = own_table(frame, "buys")
    assert "alley" in table.task.categorical
    assert set(table.frame["alley"]) == {"None", "Brick"}


@pytest.mark.parametrize("value", ["Y", "1", "2024-01-01", True, 1.0, pd.Timedelta(hours=3)])
def test_one_value_or_none_is_a_category_and_reaches_the_check_of_telltales(value):
    frame = people().assign(left=lambda f: f["buys"].map({"yes": value, "no": None}))
    if isinstance(value, str):
        frame["left"] = frame["left"].fillna("")
    table = own_table(frame, "buys")
    assert "left" in table.task.categorical
    assert table.frame["left"].notna().all()
    assert table.frame["left"].nunique() == 2
    assert any(note.startswith("left is ") for note in table.notes)
    assert any(said.startswith("left: it alone nearly always") for said in table.checks)
    for same in (value, None):
        notes = own_table(people().assign(left=pd.Series([same] * 300)), "buys").notes
        assert any(note.startswith("left was left out: it is") for note in notes)


def test_numbers_with_many_words_among_them_are_no_identifier():
    cells = [f"soon {i}" if i % 9 == 0 else f"{i / 7:.3f}" for i in range(300)]
    notes = own_table(people().assign(when=cells), "buys").notes
    assert "when was left out: it is numbers except for 34 cells, such as 'soon 0'" in notes[0]


def test_columns_that_differ_in_slips_alone_are_nothing_to_learn_from():
    frame = pd.DataFrame({"land": ["Germany"] * 199 + ["Gremany"], "buys": ["no", "yes"] * 100})
    with pytest.raises(DataError, match="no column to learn 'buys' from"):
        own_table(frame, "buys")


def test_validation_labels_that_no_row_has_are_refused(quick, tmp_path):
    rows = people()
    valid = rows.head(60).assign(buys=lambda f: f["buys"].str.upper() + "!")
    with pytest.raises(DataError, match="only validation rows have the label 'NO!'"):
        diagnose_frame(rows, "buys", validation=valid)
    again = diagnose_frame(rows, "buys", validation=rows.head(60)).summary["checks"]
    assert again == diagnose_frame(rows, "buys").summary["checks"]


def test_new_numbers_have_the_decimals_of_their_column(quick, tmp_path):
    rng = np.random.default_rng(0)
    frame = people(wrong=0).assign(price=rng.uniform(10, 99, 300).round(2))
    frame["price"] = frame["price"].astype(object)
    frame.loc[5, "price"] = "12O.5"
    frame.to_csv(tmp_path / "t.csv", index=False)
    outcome = diagnose_file(tmp_path / "t.csv", "buys")
    suggested = outcome.diagnosis()["suggested_values"][5]
    assert suggested == f"price = {outcome.repaired()['price'][5]}"
    assert len(suggested.partition(".")[2]) <= 2


def test_a_repaired_file_keeps_the_names_of_the_columns_as_they_stand_there(quick, tmp_path):
    path = tmp_path / "t.csv"
    people().rename(columns={"buys": " buys ", "age": ""}).to_csv(path, index=False)
    written = write_outcome(diagnose_file(path, " buys "), str(tmp_path / "o"), repaired=".csv")
    assert written[-1].read_text().splitlines()[0] == path.read_text().splitlines()[0]


@pytest.mark.parametrize("wrong", [{"kind": "regress"}, {"repeats": 0}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(DataError):
        DataDebugger(**wrong).fit(people()[["age", "income"]], people()["buys"])


def test_two_columns_of_one_name_are_refused():
    twice = people()[["age", "income", "income"]]
    with pytest.raises(DataError, match="your table has two columns named 'income'"):
        DataDebugger().fit(twice, people()["buys"])


def test_the_label_may_be_a_table_of_one_column():
    features, label = people()[["age", "income"]], people()[["buys"]]
    assert _joined(features, label)[1] == "buys"
    assert _joined(features, label.set_axis(["name"], axis=1))[1] == "name"


def test_a_repair_that_changes_nothing_makes_no_clear_difference():
    task = own_table(people(), "buys").task
    targets = torch.arange(300) % 2
    one, two = (torch.randn(300, 2, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    right = torch.stack([1 - targets, targets], 1).float()
    assert not _compare(task, [(one, one, targets)]).clear
    assert not _compare(task, [(one, two, targets)]).clear
    # One row of 300: most draws have it, and those that lack it are ties in both directions.
    nearly = right.index_put((torch.tensor(0),), right[0].flip(0))
    assert not _compare(task, [(right, nearly, targets)]).clear
    assert not _compare(task, [(nearly, right, targets)]).clear
    found = _compare(task, [(one, right, targets)])
    assert found.clear
    assert (found.after, found.rows) == (1.0, 300)


# ------------------------------------------------------------------ parts of the page


def small_outcome(rows=6, **summary):
    """Row 2 of the file has no label; row 1 has two errors, row 4 a slip, row 5 an odd cell."""
    raw = pd.DataFrame(
        {"z": [1.0, 2, 3, 4, 5, 6], "a": [1, 2, 3, 400, 5, 6], "b": list("uvwxyz")}
    ).assign(y=["no", None, "yes", "no", "yes", "no"])
    index = pd.Index([0, 2, 3, 4, 5])
    said = {
        "label": [True, True, False, False, False],
        "feature": [False, False, True, True, False],
        "spurious": [True, False, False, False, True],
    }
    chance = {
        f"{k}_probability": np.where(v, [0.9, 0.8, 0.7, 0.6, 0.5], 0.1) for k, v in said.items()
    }
    lines = pd.DataFrame(
        {
            **chance,
            **{f"{kind}_error": flags for kind, flags in said.items()},
            "suspicious_cells": ["", "", "a", "a; b", ""],
            "suggested_label": ["yes", "perhaps", "", "", ""],
            "suggested_values": ["", "", "a = 3", "a = 3; b = x", ""],
        },
        index=index,
    )
    slips = pd.DataFrame({"a": [0, 0, 1, 1, 0], "b": [0] * 5}, index=range(5)).astype(bool)
    witnesses = [(0, 4, 0.5), (0, 2, -0.5), (3, 2, 0.1), (4, 5, 0.1)]
    debugger = SimpleNamespace(
        diagnosis_=lines,
        table_=SimpleNamespace(slips=slips, moved=None, source={"a": "a", "b": "b"}),
        witnesses_=pd.DataFrame(witnesses, columns=["row", "validation_row", "influence"]),
        shortcuts_=[SimpleNamespace(breaks=np.array([True, False, False, False, False]))],
    )
    about = {"kind": "classification", "shortcuts": [{"rule": "b = u → y = yes"}], **summary}
    return SimpleNamespace(raw=raw, target="y", debugger=debugger, summary=about, validation=None)


def test_a_row_is_shown_once_and_by_its_number_in_the_file():
    groups = {group["kind"]: group for group in page._groups(small_outcome())}
    numbers = {kind: [card["number"] for card in group["cards"]] for kind, group in groups.items()}
    assert numbers == {"label": [1, 3], "feature": [4, 5], "spurious": [6]}
    assert dict(groups["label"]["bars"]) == {"no → yes": 1, "yes → perhaps": 1}
    assert groups["feature"]["bars"] == [("a", 2), ("b", 1)]


def test_labels_of_a_categorical_type_are_counted_in_the_report():
    outcome = small_outcome()
    outcome.raw = outcome.raw.astype({"y": "category"})
    assert dict(page._counts(outcome, "label")[1]) == {"no → yes": 1, "yes → perhaps": 1}


def test_a_card_says_why_and_begins_with_what_matters():
    outcome = small_outcome()
    both, slip, odd, other = (page._card(outcome, row) for row in (0, 3, 4, 5))
    assert both["flags"] == [("label", 0.9), ("spurious", 0.9)]
    assert "The label is no;" in both["reasons"][0]
    assert "yes fits better" in both["reasons"][0]
    assert "shortcut b = u → y = yes: one side holds without" in both["reasons"][1]
    assert other["reasons"] == ["It goes against a pattern that most rows follow."]
    assert [cell["column"] for cell in both["cells"]] == ["y", "z", "a", "b"]
    assert [cell["column"] for cell in slip["cells"]] == ["y", "a", "z", "b"]
    assert [cell["mark"] for cell in slip["cells"]] == ["lab", "mark", "", ""]
    assert slip["reasons"] == ["Written unlike its column: a. Suggested: a = 3."]
    assert "unlike its column: a. Unusual for a row of its label: b." in odd["reasons"][0]
    # Harm first; of a row with nothing but a slip the witnesses say nothing.
    assert [(w["name"], w["influence"]) for w in both["witnesses"]] == [
        ("row 3", -0.5),
        ("row 5", 0.5),
    ]
    assert slip["witnesses"] == []
    assert [w["name"] for w in odd["witnesses"]] == ["row 6"]
    assert [line[0] for line in both["compared"]] == ["y", "a", "b"]


def test_a_long_whole_number_beside_other_numbers_is_shown_with_all_its_digits():
    outcome = small_outcome()
    outcome.raw = pd.DataFrame({"z": np.linspace(0, 1, 6), "y": 2**60 + np.arange(6)})
    card = page._card(outcome, 0)
    assert [cell["value"] for cell in card["cells"]] == [f"{2**60}", "0"]
    assert card["compared"] == [["y", f"{2**60}", f"{2**60 + 2}", f"{2**60 + 4}"]]


def test_flagged_rows_are_counted_along_the_file():
    outcome = small_outcome()
    outcome.raw = pd.DataFrame(index=range(150))
    flags = pd.Series(np.isin(np.arange(150), [5, 6, 149]), index=range(150))
    outcome.debugger.diagnosis_ = pd.DataFrame(
        {"label_error": flags, "feature_error": False, "spurious_error": False}
    )
    places = page._places(outcome)
    assert (places["most"], places["each"], list(places["lines"])) == (2, 3, ["label"])
    assert np.flatnonzero(places["lines"]["label"]).tolist() == [2, 59]
    assert [places["lines"]["label"][part] for part in (2, 59)] == [1, 0.5]


def test_the_page_says_what_is_not_seen_how_small_a_table_is_and_how_large_a_share(quick):
    outcome = diagnose_frame(people(), "buys")
    about, blind, small = outcome.summary, "Wrong {}: the detector cannot see", "Small table:"
    label = about["errors"]["label"]
    label |= {"seen": True, "share": 0.04, "low": 0.03}
    # The bar of a share ends at the next round share.
    for rows, high, end in ((200, 0.05, 5), (199, 0.051, 10), (1, 1.0, 100), (1, 1.2, 100)):
        about["judged"], label["high"] = rows, high
        said = page.report_page(outcome)
        assert blind.format("features") in said
        assert blind.format("label") not in said
        assert (small in said) == (rows < 200)
        assert f'<text x="234" y="38" text-anchor="end">{end}%</text>' in said


# ------------------------------------------------------------------ parts of the command


def test_a_category_is_written_as_it_mostly_is_and_a_whole_number_without_a_point():
    raw, read = pd.Series(["Yes", "YES", "Yes", "no"]), pd.Series(["yes", "yes", "yes", "no"])
    assert command._as_in_file(raw, read, pd.Series(["no", "yes"])) == ["no", "Yes"]
    numbers = pd.Series([1.0, 2.0, np.nan])
    assert command._as_in_file(pd.Series(["1", "2", ""]), numbers, pd.Series([3.0])) == ["3"]


def test_a_number_keeps_its_unit_where_most_cells_are_empty():
    raw, read = pd.Series(["12 kg", "7 kg", *[""] * 5]), pd.Series([12.0, 7.0, *[np.nan] * 5])
    assert command._as_in_file(raw, read, pd.Series([8.0])) == ["8 kg"]


def test_the_point_of_a_unit_is_no_decimal_point():
    raw = pd.Series(["kr. 5,50", "kr. 7,25", "kr. 1,75"])
    assert command._as_in_file(raw, reading.as_numbers(raw), pd.Series([6.5])) == ["kr. 6,5"]


def test_the_summary_has_every_number_in_its_place():
    table = own_table(people(60), "buys")
    diagnosis = pd.DataFrame(
        {"label_error": [True, True, False], "feature_error": [True, False, False],
         "spurious_error": False}
    )  # fmt: skip
    debugger = SimpleNamespace(
        table_=table,
        diagnosis_=diagnosis,
        evidence_=[Evidence("label", True, 0.2, 0.1, 0.3, 0.5, 0.6, slips=4)],
        shortcuts_=[],
        score_=Score("accuracy", True, 0.7, 0.8, True, 50),
    )
    said = command._summary("f", pd.DataFrame(index=range(5)), debugger, None, None, 3, 1.0)
    assert said["flagged"] == {"label": 2, "feature": 1, "spurious": 0}
    assert (said["flagged_any"], said["rows"], said["judged"], said["seed"]) == (2, 5, 3, 3)
    assert said["errors"]["label"] == {
        "seen": True, "share": 0.2, "low": 0.1, "high": 0.3, "controls_found": 0.6, "slips": 4,
    }  # fmt: skip
    score = {"metric": "accuracy", "better": "larger", "before": 0.7, "after": 0.8}
    assert said["score"] == {**score, "clear": True, "rows": 50}
    number = own_table(people(60), "income")
    debugger.table_, debugger.score_ = number, Score("MSE", False, 0.04, 0.01, False, 9)
    assert command._score(debugger)["better"] == "smaller"


def test_a_shortcut_is_counted_by_the_side_that_stands_alone():
    rows = pd.DataFrame({"town": list("aaabbb"), "y": ["u", "u", "v", "u", "v", "v"]})
    rule = Rule("r", {"town": frozenset("a")}, "u")
    breaks = np.array([False, False, True, True, False, False])
    breaks[5] = True  # as if it had town b and label u, too
    said = command._shortcut(NamedShortcut(rule, 1.0, breaks), rows, "y")
    assert said == {
        "rule": "town = a → y = u", "rows": 3, "both_sides": 2, "condition_alone": 1,
        "label_alone": 2, "label_share": 2 / 3, "label_share_elsewhere": 1 / 3,
    }  # fmt: skip


def test_what_is_asked_for_reaches_the_debugger_and_the_self_check(monkeypatch):
    asked = []

    class Debugger:
        def __init__(self, **options):
            asked.append(options)
            self.table_ = own_table(people(60), "buys")

        def fit(self, *_):
            return self

    def check(*_, **options):
        asked.append(options)
        raise InterruptedError

    monkeypatch.setattr(command, "DataDebugger", Debugger)
    monkeypatch.setattr(command, "self_check", check)
    options = {"kind": "classification", "seed": 7, "detector": LossDetector()}
    with pytest.raises(InterruptedError):
        diagnose_frame(people(60), "buys", with_self_check=True, **options)
    assert (asked[0]["kind"], asked[0]["random_state"]) == ("classification", 7)
    assert asked[0]["detector"] is options["detector"]
    assert asked[1]["seed"] == 7


def test_files_beside_are_read_as_utf_8_or_in_the_encoding_that_was_named(monkeypatch, tmp_path):
    read = []

    def remember(path, *, encoding=None):
        read.append((path.name, encoding))
        if encoding is None:
            raise DemixError("not UTF-8")
        return path.name

    monkeypatch.setattr(command, "read_user_file", remember)
    monkeypatch.setattr(command, "diagnose_frame", lambda raw, target, **beside: (raw, beside))
    files = {f"{name}_file": tmp_path / name for name in ("validation", "known")}
    raw, beside = diagnose_file(tmp_path / "rows", "y", encoding="latin-1", **files)
    beside_it = [(name, way) for name in ("validation", "known") for way in (None, "latin-1")]
    assert read == [("rows", "latin-1"), *beside_it]
    assert (raw, beside["validation"], beside["known"]) == ("rows", "validation", "known")


def test_known_errors_are_numbers_or_words():
    said = ["TRUE", "False", " 1.0", "0", "nan", None]
    known = check_known(pd.DataFrame({"label": said}), 6, "k")["label"]
    np.testing.assert_array_equal(known, [1, 0, 1, 0, np.nan, np.nan])
