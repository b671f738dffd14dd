"""The grid of the benchmark: no row twice, none lost, whatever is killed or runs beside it."""

import multiprocessing
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from demix_lite.baselines import BASELINES, YARDSTICKS, Composite, Oracle, SummaryGBM
from demix_lite.benchmark import COLUMNS, append_row, ledger, protocols, read_ledger, suite
from demix_lite.benchmark.ledger import KEY
from demix_lite.benchmark.protocols import (
    Curriculum,
    curricula,
    curriculum_for,
    detector_for,
    family_tasks,
)
from demix_lite.detector import ErrorDetector
from demix_lite.errors import DemixError
from demix_lite.tasks import get_task

ROOT = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------ the grid


def keys(cells, source="real"):
    return [cell.key(entry, source) for cell in cells for entry in cell.entries]


@pytest.mark.parametrize("quick", [False, True])
def test_no_row_of_the_grid_stands_there_twice(quick):
    counts = Counter(keys(suite.suite("tabular", quick=quick)))
    assert set(counts.values()) == {1}
    assert all(len(key) == len(KEY) for key in counts)


def test_every_method_judges_every_task_at_the_standard_setting():
    standard = [
        c for c in suite.suite("tabular") if (c.architecture, c.clean_ratio) == ("mlp1", 0.5)
    ]
    assert {(c.task, c.seed) for c in standard} == {
        (t, s) for t in family_tasks("tabular") for s in range(5)
    }
    everyone = {"demix_lite", "demix_paper", "summary_gbm", *BASELINES, *YARDSTICKS}
    # They learn from clicks and from preferences, and tables have none.
    everyone -= {"noisy_clicks", "reward_margin"}
    assert all({name for name, _ in cell.entries} == everyone for cell in standard)
    ours = {protocol for name, protocol in standard[0].entries if name == "demix_lite"}
    assert ours == {*suite.PROTOCOLS, "practised"}


def test_the_detector_of_tables_is_tried_on_clicks_at_the_standard_setting():
    tried = [
        c for c in suite.suite("recommendation") if ("demix_lite", "other-family") in c.entries
    ]
    assert {(c.task, c.seed) for c in tried} == {
        (t, s) for t in family_tasks("recommendation") for s in range(5)
    }
    assert {(c.architecture, c.clean_ratio) for c in tried} == {("din", 0.5)}
    plan = curriculum_for("other-family", "yelp", "din")
    assert plan == curricula("tabular")["tabular"]
    assert plan.shipped
    assert not any(
        protocol == "other-family" for c in suite.suite("tabular") for _, protocol in c.entries
    )
    with pytest.raises(DemixError, match="unknown protocol 'other-family'"):
        curriculum_for("other-family", "adult", "mlp1")


def test_what_the_detector_of_another_family_says_stands_under_its_protocol(monkeypatch):
    asked = []
    monkeypatch.setattr(protocols.ErrorDetector, "load", asked.append)
    detector_for("other-family", "yelp", "din")
    assert [path.name for path in asked] == ["tabular"]
    wanted = []
    monkeypatch.setattr(suite, "train_detectors", lambda plans, **_: wanted.extend(plans))
    both = (("demix_lite", "other-family"), ("demix_lite", "unified"))
    table = suite.Cell("bank", "mlp1", 0.5, 0, both[1:])
    suite._train_missing([suite.Cell("yelp", "din", 0.5, 0, both), table])
    assert [plan.name for plan in wanted] == ["tabular", "recommendation"]


def test_every_entry_of_the_grid_has_a_method_and_a_detector():
    known = curricula("tabular")
    for cell in suite.suite("tabular"):
        for name, protocol in cell.entries:
            if name == "demix_lite":
                detector = curriculum_for(protocol, cell.task, cell.architecture).name
                plan = known[detector]
                assert plan.protocol == protocol
                assert (cell.task in plan.tasks) == (protocol != "leave-one-task-out")
                left_out = protocol == "leave-one-architecture-out"
                assert (cell.architecture in plan.architectures) != left_out
            elif name != "demix_paper":
                assert name in {*BASELINES, *YARDSTICKS, SummaryGBM.name}
                assert protocol == "in-task"


def test_the_key_is_the_head_of_the_ledger():
    cell = suite.Cell("adult", "mlp2", 0.4, 3, (("random", "in-task"),))
    expected = {
        "task": "adult", "method": "random", "architecture": "mlp2", "clean_ratio": 0.4,
        "seed": 3, "protocol": "in-task", "source": "twin",
    }  # fmt: skip
    assert dict(zip(KEY, cell.key(cell.entries[0], "twin"), strict=True)) == expected


def test_unknown_families_protocols_and_missing_detectors_are_named(monkeypatch, tmp_path):
    with pytest.raises(DemixError, match="unknown family 'tabula'; did you mean 'tabular'"):
        suite.suite("tabula")
    with pytest.raises(DemixError, match="unknown protocol 'in-tusk'; did you mean 'in-task'"):
        detector_for("in-tusk", "adult", "mlp1")
    # The standard architecture is never left out: the protocol is not among those offered.
    with pytest.raises(DemixError, match=r"Known: unified, practised, [a-z, -]+, paper\.$"):
        detector_for("leave-one-architecture-out", "adult", "mlp1")
    monkeypatch.setenv("DEMIX_DATA", str(tmp_path))
    with pytest.raises(DemixError, match="train-detector tabular --only tabular-only-bank"):
        detector_for("in-task", "bank", "mlp1")


# ------------------------------------------------------------------ finished rows


def row(method="random", seed=0, **more) -> dict:
    key = ("adult", method, "mlp1", 0.5, seed, "in-task", "twin")
    return dict.fromkeys(COLUMNS, 0.25) | dict(zip(KEY, key, strict=True)) | more


def cell(*methods, seed=0, architecture="mlp1"):
    return suite.Cell("adult", architecture, 0.5, seed, tuple((m, "in-task") for m in methods))


def test_only_missing_rows_are_left(tmp_path):
    ledger = tmp_path / "ledger.csv"
    cells = [cell("random", "oracle"), cell("random", "oracle", seed=1)]
    assert list(suite._missing(cells, ledger, "twin")) == cells
    for done in (row(), row(seed=1), row("oracle", seed=1)):
        append_row(ledger, done)
    assert list(suite._missing(cells, ledger, "twin")) == [cell("oracle")]
    assert list(suite._missing(cells, ledger, "real")) == cells
    append_row(ledger, row("oracle"))
    assert not list(suite._missing(cells, ledger, "twin"))


@pytest.fixture
def fake_runs(monkeypatch):
    """Runs that cost nothing; returns the keys of those that were judged."""
    judged = []

    def judge(prepared, method, protocol):
        judged.append((prepared.seed, method))
        return SimpleNamespace(row=row(method, prepared.seed, protocol=protocol))

    monkeypatch.setattr(suite, "prepare", lambda task, seed, **_: SimpleNamespace(seed=seed))
    monkeypatch.setattr(suite, "_method", lambda name, *_: name)
    monkeypatch.setattr(suite, "judge", judge)
    monkeypatch.setattr(suite, "fit_methods", lambda *_, **__: None)
    return judged


def test_a_finished_row_is_not_run_again(fake_runs, tmp_path):
    ledger, heard = tmp_path / "ledger.csv", []
    cells = [cell("random", "oracle", seed=seed) for seed in range(3)]
    append_row(ledger, row("oracle", seed=1))
    suite.run_suite(cells, ledger, source="twin", jobs=1, announce=heard.append)
    assert heard == ["5 rows to run, in 3 runs"]
    assert len(fake_runs) == 5
    assert (1, "oracle") not in fake_runs
    before = ledger.read_text()
    suite.run_suite(cells, ledger, source="twin", jobs=1, announce=heard.append)
    assert heard[-1] == "0 rows to run, in 0 runs"
    assert len(fake_runs) == 5
    assert ledger.read_text() == before
    assert Counter(keys(cells, "twin")) == Counter(rows_of(ledger))


def test_two_that_run_side_by_side_write_no_row_twice(fake_runs, tmp_path):
    ledger = tmp_path / "ledger.csv"
    other = suite.judge

    def meanwhile(*arguments, **options):
        append_row(ledger, row("oracle"))  # another process is quicker
        append_row(ledger, row("random"))
        return other(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "judge", meanwhile)
        suite.run_suite([cell("random", "oracle")], ledger, source="twin", jobs=1)
    assert fake_runs == [(0, "random")]
    assert sorted(key[1] for key in rows_of(ledger)) == ["oracle", "random"]


@pytest.mark.parametrize("broken", ["adult,random", "a" + "," * 50])
def test_a_line_that_is_broken_is_named(tmp_path, broken):
    ledger = tmp_path / "ledger.csv"
    append_row(ledger, row())
    ledger.write_text(ledger.read_text() + broken + "\n")
    for use in (read_ledger, lambda path: append_row(path, row(seed=1))):
        with pytest.raises(DemixError, match="line 3 of .* values instead of"):
            use(ledger)


def test_an_empty_ledger_is_told(tmp_path):
    (tmp_path / "ledger.csv").touch()
    with pytest.raises(DemixError, match=r"ledger.csv is empty: take it away"):
        read_ledger(tmp_path / "ledger.csv")


def rows_of(ledger: Path) -> list[tuple]:
    return list(read_ledger(ledger)[list(KEY)].itertuples(index=False, name=None))


# ------------------------------------------------------------------ killed, and side by side


@pytest.fixture(scope="module")
def start():
    """Start a function in a process of its own, all as copies of one that has the libraries."""
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    context.set_forkserver_preload(["tests.test_suite"])

    def begin(function, *arguments):
        process = context.Process(target=function, args=arguments)
        process.start()
        return process

    return begin


def run_slowly(ledger: Path, pause: float) -> None:
    """Run a small suite with a pause after the first row."""
    judge, methods, judged = suite.judge, ("random", "oracle", "composite"), []

    def slowly(*arguments, **options):
        time.sleep(pause if judged else 0)
        judged.append(judge(*arguments, **options))
        return judged[-1]

    suite.judge = slowly
    suite.TUNING_INJECTIONS, suite.TUNING_ROWS = 1, 200
    suite.environment_bank = lambda tasks, **options: {task: [] for task in tasks}
    suite._kept = lambda name, task, source: ledger.parent / f"{name}.json"
    cells = [cell(*methods, seed=seed, architecture="mlp2") for seed in range(2)]
    suite.run_suite(cells, ledger, source="twin", train_rows=250, jobs=1)


@pytest.fixture
def learned(tmp_path):
    """The two baselines of the slow suite, fitted already."""
    from tests.test_environments import environment

    made = [environment()]
    for kind in (BASELINES["random"], Composite):
        kind().fit(made).save(tmp_path / f"{kind.name}.json")


@pytest.mark.slow
def test_a_killed_suite_goes_on_where_it_stopped(tmp_path, learned, start):
    ledger = tmp_path / "ledger.csv"
    process = start(run_slowly, ledger, 60)
    deadline = time.monotonic() + 120
    while len(read_ledger(ledger)) < 1:
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.join()
    first = ledger.read_text()
    assert len(read_ledger(ledger)) == 1
    done = start(run_slowly, ledger, 0)
    done.join()
    assert done.exitcode == 0
    assert ledger.read_text().startswith(first), "the finished row stays as it was"
    expected = {
        ("adult", method, "mlp2", 0.5, seed, "in-task", "twin")
        for method in ("random", Composite.name, Oracle.name)
        for seed in range(2)
    }
    assert Counter(rows_of(ledger)) == dict.fromkeys(expected, 1)
    ledger = read_ledger(ledger)
    assert list(ledger.columns) == list(COLUMNS)
    assert ledger[["f1_any", "metric_repaired", "seconds_refit"]].notna().all(axis=None)
    assert (ledger.loc[ledger["method"] == "oracle", "f1_macro"] == 1).all()
    assert not list(tmp_path.glob("*.part"))


def append(ledger: Path, name: str) -> None:
    """Append 25 rows that cost nothing."""
    suite.prepare = lambda task, seed, **_: SimpleNamespace(seed=seed)
    suite._method = lambda name, *_: name
    suite.judge = lambda p, method, protocol: SimpleNamespace(row=row(method, p.seed))
    for seed in range(25):
        suite._run_cell(cell(name, seed=seed), ledger, "twin", 10, None)


def test_two_processes_append_side_by_side_and_lose_nothing(tmp_path, start):
    ledger, names = tmp_path / "ledger.csv", ("random", "oracle")
    running = [start(append, ledger, name) for name in names]
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0]
    expected = [cell(name, seed=seed) for name in names for seed in range(25)]
    assert Counter(rows_of(ledger)) == Counter(keys(expected, "twin"))


# ------------------------------------------------------------------ learning before judging


def test_the_detectors_that_cells_ask_for_are_trained_first(monkeypatch):
    wanted = []
    monkeypatch.setattr(suite, "train_detectors", lambda plans, **_: wanted.extend(plans))
    entries = (*(("demix_lite", p) for p in suite.PROTOCOLS), ("demix_paper", "in-task"))
    other = ("demix_lite", "leave-one-architecture-out")
    cells = [
        suite.Cell("bank", "mlp1", 0.5, 0, (*entries, ("random", "in-task"))),
        suite.Cell("bank", "mlp2", 0.5, 1, (*entries, other)),
    ]
    suite._train_missing(cells)
    names = ["tabular-only-bank", "tabular-without-bank", "tabular", "tabular-paper-bank"]
    assert [plan.name for plan in wanted] == [*names, "tabular-without-mlp2"]


def test_baselines_that_are_there_are_not_tuned_again(monkeypatch, tmp_path):
    from tests.test_environments import environment

    monkeypatch.setenv("DEMIX_DATA", str(tmp_path))
    asked = []

    def bank(tasks, **options):
        asked.append(tasks)
        assert options["architectures"] == ("mlp1",)
        return {"bank": [environment("mlp1")]}

    monkeypatch.setattr(suite, "environment_bank", bank)
    heard = []
    for _ in range(2):
        suite.fit_methods("bank", {"random", "oracle"}, source="twin", announce=heard.append)
    assert asked == [["bank"]]
    assert heard == ["random: tuned on 1 environments of bank"]
    method = BASELINES["random"].load(suite._kept("random", "bank", "twin"))
    assert method.rates.shape[1] == 3
    table = suite.tuning_table("twin")
    assert table[["task", "method"]].to_numpy().tolist() == [["bank", "random"]]

    path = tmp_path / "tuning.csv"
    kept = "air,ddc,twin,ours,{},old", "bank,random,real,ours,{},old"
    stale = "bank,random,twin,ours,{},old"
    path.write_text("\n".join(["task,method,source,reference,searched,found", *kept, stale]) + "\n")
    suite._record_tuning(path, "twin")
    _, *same, new = path.read_text().splitlines()
    assert tuple(same) == kept
    assert new.startswith("bank,random,twin,")
    assert not new.endswith("old")


class Recorder:
    """Stands for a detector: remembers what it learned from."""

    fitted: ClassVar[list] = []

    def __init__(self, settings):
        self.settings = settings

    def fit(self, environments, *, facts):
        Recorder.fitted.append((facts, [e.name for e in environments]))
        return self

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("there")

    @classmethod
    def load(cls, path):
        if not path.exists():
            raise DemixError("missing")


def test_a_detector_learns_from_the_tasks_and_architectures_of_its_plan_once(monkeypatch, tmp_path):
    monkeypatch.setenv("DEMIX_DATA", str(tmp_path))
    monkeypatch.setattr(protocols, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(protocols, "ErrorDetector", Recorder)
    monkeypatch.setattr(Recorder, "fitted", [])
    environments = {
        task: [
            SimpleNamespace(architecture=a, practice=asked, name=f"{task} {a}{' asked' * asked}")
            for a in ("mlp1", "mlp2")
            for asked in (False, True)
        ]
        for task in ("adult", "air")
    }
    practising = protocols.DetectorSettings(practises=True)
    plans = [
        Curriculum("one", "in-task", ("air",), ("mlp1", "mlp2")),
        Curriculum("two", "leave-one-architecture-out", ("adult", "air"), ("mlp2",)),
        Curriculum("three", "leave-one-task-out", ("air",), ("mlp1",), practising),
    ]
    monkeypatch.setattr(protocols, "environment_bank", lambda tasks, **_: environments)
    for _ in range(2):
        protocols.train_detectors(plans, source="twin")
    learned = [names for _, names in Recorder.fitted]
    assert learned == [
        ["air mlp1", "air mlp2"],
        ["adult mlp2", "air mlp2"],
        ["air mlp1", "air mlp1 asked"],
    ]
    facts = Recorder.fitted[1][0]
    assert set(facts["data_sha256"]) == {"adult", "air"}
    assert facts["protocol"] == "leave-one-architecture-out"
    protocols.train_detectors(plans[:1], source="twin", again=True)
    assert len(Recorder.fitted) == 4


def test_detectors_of_pairs_begin_with_that_of_the_tables(monkeypatch, tmp_path):
    plans = curricula("alignment")
    plan = plans["alignment"]
    steps = curricula("tabular")["tabular"].settings.training.steps
    assert plan.settings.training.steps == steps // protocols.HEAD_START
    assert plans["alignment-paper-capybara"].begins_with is None
    start = ErrorDetector.shipped(plan.begins_with).first.state_dict()
    begun = []

    def fit(self, environments, **_):
        begun.append(self)
        self.calibration = np.tile([1.0, 0.0], (len(self.chains), 3, 1))
        return self

    monkeypatch.setenv("DEMIX_DATA", str(tmp_path))
    monkeypatch.setattr(ErrorDetector, "fit", fit)
    monkeypatch.setattr(protocols, "environment_bank", lambda tasks, **_: {t: [] for t in tasks})
    plan = replace(plan, protocol="in-task")  # so that nothing is written into the package
    protocols.train_detectors([plan], source="twin")
    for name, weights in begun[0].first.state_dict().items():
        assert torch.equal(weights, start[name])


def test_the_paper_is_compared_with_its_own_channels_and_network():
    settings = curricula("tabular")["tabular-paper-adult"].settings
    assert settings.channels == protocols.PAPER_CHANNELS
    assert (settings.relative, settings.pooling, settings.rounds) == (False, "isab", 0)
    shipped = [name for name, plan in curricula("tabular").items() if plan.shipped]
    without = (f"tabular-without-{task}" for task in family_tasks("tabular"))
    assert shipped == ["tabular", "tabular-practised", *without]


def test_at_other_ratios_and_architectures_the_main_methods_judge():
    left_out = ("demix_lite", "leave-one-architecture-out")
    for cell in suite.suite("tabular"):
        if (cell.architecture, cell.clean_ratio) == ("mlp1", 0.5):
            continue
        assert {name for name, _ in cell.entries} <= set(suite.MAIN)
        assert ("demix_lite", "unified") in cell.entries
        assert (left_out in cell.entries) == (cell.architecture != "mlp1")
    assert {c.clean_ratio for c in suite.suite("tabular")} == {0.5, *suite.RATIOS}


def test_some_rows_have_both_the_method_and_the_protocol():
    cells = suite.suite("tabular")
    chosen = suite.some(cells, methods=["demix_lite", "random"], protocols=["unified"])
    assert {entry for cell in chosen for entry in cell.entries} == {("demix_lite", "unified")}
    assert {c.task for c in chosen} == set(family_tasks("tabular"))


@pytest.mark.parametrize("train_rows", [None, 123])
def test_a_cell_is_run_as_the_grid_says(fake_runs, monkeypatch, tmp_path, train_rows):
    asked = []

    def prepare(task, **options):
        asked.append({"task": task, **options})
        return SimpleNamespace(seed=options["seed"])

    monkeypatch.setattr(suite, "prepare", prepare)
    cells = [suite.Cell("bike", "mlp2", 0.4, 3, (("random", "in-task"),))]
    suite.run_suite(cells, tmp_path / "l.csv", source="twin", train_rows=train_rows, jobs=1)
    wanted = {"task": "bike", "source": "twin", "clean_ratio": 0.4, "architecture": "mlp2"}
    rows = train_rows or get_task("bike").judged_rows
    assert asked == [{**wanted, "seed": 3, "train_rows": rows, "device": None}]


@pytest.mark.parametrize(("source", "other"), [("twin", "real"), ("real", "twin")])
def test_baselines_are_tuned_on_few_rows_and_kept_by_source(monkeypatch, tmp_path, source, other):
    monkeypatch.setenv("DEMIX_DATA", str(tmp_path))
    asked = []

    def bank(tasks, **options):
        asked.append(options)
        return {"bank": ["environments of bank"]}

    def fit(method, environments):
        assert environments == ["environments of bank"]
        return method

    monkeypatch.setattr(suite, "environment_bank", bank)
    for kind in (BASELINES["random"], SummaryGBM):
        monkeypatch.setattr(kind, "fit", fit)
    suite.fit_methods("bank", {"random", SummaryGBM.name}, source=source, jobs=2)
    everything, few = asked
    assert everything == {"source": source, "jobs": 2}
    assert (few["source"], few["sample"], few["jobs"]) == (source, None, 2)
    assert (few["injections"], few["rows"]) == (suite.TUNING_INJECTIONS, suite.TUNING_ROWS)
    for name in ("random", SummaryGBM.name):
        assert suite._kept(name, "bank", source).exists()
        assert not suite._kept(name, "bank", other).exists()


def test_detectors_learn_from_the_source_and_the_practice_that_they_ask_for(monkeypatch, tmp_path):
    asked = []

    def bank(tasks, **options):
        asked.append(options)
        return {task: [] for task in tasks}

    def task(name):
        return SimpleNamespace(load=lambda s: SimpleNamespace(card=SimpleNamespace(sha256=s)))

    monkeypatch.setenv("DEMIX_DATA", str(tmp_path))
    monkeypatch.setattr(protocols, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(protocols, "ErrorDetector", Recorder)
    monkeypatch.setattr(Recorder, "fitted", [])
    monkeypatch.setattr(protocols, "environment_bank", bank)
    monkeypatch.setattr(protocols, "get_task", task)
    plain = Curriculum("one", "in-task", ("air",), ("mlp1",))
    practising = protocols.DetectorSettings(practises=True)
    asks = Curriculum("two", "practised", ("air",), ("mlp1",), practising)
    for plans in ([plain], [plain, asks]):
        protocols.train_detectors(plans, source="twin", injections=9, again=True, jobs=2)
    shared = {"source": "twin", "injections": 9, "jobs": 2, "device": None}
    assert asked == [{**shared, "practice": False}, {**shared, "practice": True}]
    for facts, _ in Recorder.fitted:
        assert (facts["source"], facts["injections"]) == ("twin", 9)
        assert facts["data_sha256"] == {"air": "twin"}
    protocols.train_detectors([plain], injections=9, again=True)
    assert (asked[-1]["source"], Recorder.fitted[-1][0]["data_sha256"]) == ("real", {"air": "real"})


def test_environments_are_made_of_the_rows_of_their_source(monkeypatch):
    asked, sampled = [], []

    def made(task, splits, number, *, practice, **options):
        asked.append((task.name, splits, number, practice, options))
        return [SimpleNamespace(sample=sampled.append)]

    monkeypatch.setattr(protocols, "_splits", lambda name, source: f"{name} {source}")
    monkeypatch.setattr(protocols, "injection_environments", made)
    assert len(protocols._make("air", "real", 3, 50, True, rows=9)) == 2
    assert asked == [("air", "air real", 3, practice, {"rows": 9}) for practice in (False, True)]
    assert sampled == [50, 50]
    assert len(protocols._make("air", "real", 3, None, False)) == 1
    assert sampled == [50, 50]


def test_every_protocol_has_its_steps_and_its_practice():
    for family in ("tabular", "recommendation"):
        for plan in curricula(family).values():
            settings = plan.settings
            assert settings.training.steps == protocols.STEPS[plan.protocol]
            with_practice = plan.protocol in ("practised", "leave-one-task-out")
            assert settings.practises == (with_practice and family == "tabular")
            assert settings.plain_support
    assert not curricula("alignment")["alignment"].settings.plain_support


def test_a_family_without_a_detector_borrows_one(monkeypatch, tmp_path):
    monkeypatch.setattr(protocols, "SHIPPED", tmp_path)
    monkeypatch.setattr(protocols.ErrorDetector, "shipped", lambda name: name)
    assert protocols.shipped_detector("alignment") == "tabular"
    assert protocols.shipped_detector("tabular") == "tabular"
    (tmp_path / "alignment.json").touch()
    assert protocols.shipped_detector("alignment") == "alignment"


# ------------------------------------------------------------------ the ledger comes out again

AIR = ROOT.parent / "shared" / "data" / "air_quality"
TOLERANCE = 0.01
"""How far a score of a rerun may lie from the ledger: another machine, other last bits."""


@pytest.mark.slow
@pytest.mark.skipif(not AIR.is_dir(), reason="the raw Air Quality files are not there")
def test_two_rows_of_the_ledger_come_out_again(monkeypatch, tmp_path):
    from data_scripts.__main__ import prepare
    from data_scripts.air import SOURCE

    prepare(SOURCE, AIR, tmp_path)
    monkeypatch.setenv("DEMIX_DATA", str(tmp_path))
    entries = (("demix_lite", "unified"), ("oracle", "in-task"))
    cells = [suite.Cell("air", "mlp1", 0.5, 0, entries)]
    suite.run_suite(cells, tmp_path / "ledger.csv", jobs=1)
    again = read_ledger(tmp_path / "ledger.csv").set_index(list(KEY))
    ledger = read_ledger(ROOT / "book" / "results" / "ledger.csv").set_index(list(KEY))
    kept = ledger.loc[again.index]
    assert (again["data_sha256"] == kept["data_sha256"]).all()
    for column in ("f1_label", "f1_feature", "f1_spurious", "ap_label", "ap_spurious"):
        np.testing.assert_allclose(again[column], kept[column], atol=TOLERANCE)
    harm = (kept["metric_dirty"] - kept["metric_clean"]).abs().max()
    for column in ("metric_dirty", "metric_repaired", "metric_oracle", "metric_clean"):
        np.testing.assert_allclose(again[column], kept[column], atol=2 * TOLERANCE * harm)


@pytest.mark.parametrize("commit", ["1e99999", "0012345"])
def test_a_commit_is_no_number(commit, tmp_path):
    path = tmp_path / "ledger.csv"
    append_row(path, {**dict.fromkeys(COLUMNS, 1), "commit": commit})
    assert read_ledger(path)["commit"].tolist() == [commit]


def test_rows_of_the_ledger_do_not_make_the_code_dirty(monkeypatch, tmp_path):
    def git(*arguments):
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@y.z", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    code, rows = tmp_path / "package" / "ledger.py", tmp_path / "book" / "results" / "ledger.csv"
    for file in (code, rows):
        file.parent.mkdir(parents=True)
        file.write_text("first\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr(ledger, "__file__", str(code))
    clean = ledger._commit()
    assert 7 <= len(clean) <= 40
    rows.write_text("another row\n")
    assert ledger._commit() == clean
    code.write_text("changed\n")
    assert ledger._commit() == f"{clean}-dirty"
    monkeypatch.setattr(ledger, "__file__", str(code.with_name("installed_here.py")))
    assert ledger._commit() == "unknown"


@pytest.mark.usefixtures("hurried")
def test_the_study_of_samples_counts_shares_of_what_is_there(monkeypatch):
    from demix_lite.benchmark import pipeline, studies

    monkeypatch.setattr(studies, "SHARES", (0.25, 1.0))
    settings = {"source": "twin", "rows": 1500, "seed": 0}
    detector = ErrorDetector.shipped("tabular")
    some, everyone = studies.samples_study(pipeline.prepare("adult", **settings), detector)
    assert some["validation"] == round(0.25 * everyone["validation"])
    # Of 1,500 rows 210 were split off, and the shortcut drops some of them.
    assert 100 < everyone["validation"] < 210
    assert (some["share"], everyone["share"]) == (0.25, 1.0)
    assert set(studies.SAMPLES_COLUMNS) <= set(some)
    few = pipeline.prepare("adult", validation=some["validation"], **settings)
    alone = pipeline.judge(few, detector).row
    for column in ("validation", *(name for name in alone if "f1_" in name)):
        assert some[column] == alone[column]


def test_the_studies_go_on_where_they_stopped(monkeypatch, tmp_path):
    from demix_lite.benchmark import studies

    def study(prepared, _):
        ran.append(tuple(prepared.values()))
        every = dict.fromkeys((*studies.REPAIR_COLUMNS, *studies.SAMPLES_COLUMNS), 0)
        yield every | prepared

    def prepare(task, *, train_rows, **setting):
        return Setting(task=task, **setting)

    class Setting(dict):
        task = SimpleNamespace(family="tabular")

    ran: list[tuple] = []
    monkeypatch.setattr(studies, "SEEDS", (0,))
    monkeypatch.setattr(studies, "prepare", prepare)
    for name in ("repair_study", "samples_study"):
        monkeypatch.setattr(studies, name, study)
    for _ in range(2):
        studies.run_studies(["adult"], tmp_path, source="twin", jobs=1)
    assert len(ran) == len(set(ran)) == 4  # three of repairs, one of samples
    # Two commands at once: both find a run missing, and the later one writes nothing.
    monkeypatch.setattr(studies, "keys_of", lambda path, key: set())
    before = (tmp_path / "repair.csv").read_text()
    studies.run_studies(["adult"], tmp_path, source="twin", jobs=1)
    assert (tmp_path / "repair.csv").read_text() == before
    assert ran[4:] == ran[:4]
    del ran[4:]
    for name in ("samples.csv", "repair.csv"):
        (tmp_path / name).write_text("task,seed\nadult,0\n")
        with pytest.raises(DemixError, match=f"{name} has other columns"):
            studies.run_studies(["adult"], tmp_path, source="twin", jobs=1)
    assert len(ran) == 4


def test_the_study_of_repairs_tries_every_repair_with_our_verdicts_and_the_true_ones():
    from demix_lite.benchmark import studies
    from demix_lite.benchmark.pipeline import prepare

    prepared = prepare("adult", rows=3000, seed=0)
    rows = pd.DataFrame(studies.repair_study(prepared, studies.ErrorDetector.shipped("tabular")))
    told = rows.pivot_table(index="variant", columns="diagnosis", values="metric")
    assert set(told.index) == {*studies.REPAIRS, studies.DROP}
    assert set(studies.REPAIR_COLUMNS) <= set(rows)
    usual = told["oracle"]["each in its own way"]
    assert usual == prepared.evaluations["oracle"].metric
    # Someone certain has nothing to hedge.
    assert told["oracle"]["labels flipped"] == pytest.approx(usual, abs=0.02)
    assert told["demix_lite"].nunique() > 2


def test_the_ablation_trains_no_model_of_the_architecture_left_out(monkeypatch, tmp_path):
    from demix_lite.benchmark import ablation

    asked, trained_on = [], []

    def bank(tasks, **how):
        trained_on.append(list(tasks))
        asked.append(how)
        return {name: [] for name in tasks}

    monkeypatch.setattr(ablation, "environment_bank", bank)
    monkeypatch.setattr(ablation, "_judged", lambda tasks, source: [])
    untrained = SimpleNamespace(fit=lambda environments: None)
    monkeypatch.setattr(ablation, "ErrorDetector", lambda settings: untrained)
    ablation.run_ablation(["yelp"], tmp_path / "ablation.csv", source="twin", names=["deep sets"])
    assert asked == [{"source": "twin", "architectures": ("din",), "jobs": None}]
    assert trained_on == [["movielens", "amazon", "yelp"]], "all tasks, though one is judged"
