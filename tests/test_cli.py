"""The command line: what it says, what it refuses, what it writes."""

import importlib
import json
import signal
import subprocess
import sys
import threading
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import torch

from demix_lite import cli
from demix_lite.benchmark import protocols, suite
from demix_lite.benchmark.ledger import COLUMNS
from demix_lite.benchmark.protocols import family_tasks
from demix_lite.tasks import TASKS

TINY = ["run", "adult", "--rows", "900", "--architecture", "mlp2", "--validation", "32"]


def refusal(arguments, capsys) -> str:
    """Run a command that is refused; return its one sentence."""
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("demix-lite: ")
    return lines[0]


# ------------------------------------------------------------------ refusals


def test_unknown_task_gets_a_suggestion(capsys):
    said = refusal(["run", "adlut"], capsys)
    assert "unknown task 'adlut'; did you mean 'adult'?" in said


def test_unknown_architecture_gets_a_suggestion(capsys):
    said = refusal(["run", "adult", "--architecture", "mlp"], capsys)
    assert "did you mean 'mlp" in said


def test_unknown_rule_names_the_known_ones(capsys):
    assert "Known: " in refusal([*TINY, "--rule", "nobody"], capsys)


def test_unknown_source_names_the_known_ones(capsys):
    assert "Known: twin, real" in refusal([*TINY, "--source", "fake"], capsys)


@pytest.mark.parametrize("ratio", ["0", "-0.5", "1.01", "nan"])
def test_ratio_outside_the_unit_interval(ratio, capsys):
    assert "the clean ratio must lie in (0, 1]" in refusal(
        [*TINY, f"--clean-ratio={ratio}"], capsys
    )


def test_missing_real_data_names_the_command(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DEMIX_DATA", str(tmp_path))
    said = refusal(["run", "adult", "--source", "real"], capsys)
    assert "python -m data_scripts adult" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    "command", [TINY, ["bench", "--quick"], ["train-detector", "tabular", "--again"]]
)
def test_a_cuda_device_that_is_not_there(command, capsys):
    assert "CUDA" in refusal([*command, "--device", "cuda"], capsys)


def test_too_few_rows(capsys):
    assert "too few" in refusal(["run", "adult", "--rows", "3"], capsys)


def test_no_validation_sample(capsys):
    refusal([*TINY[:-1], "0"], capsys)


def test_a_detector_that_is_not_there(capsys, tmp_path):
    assert "there is no detector" in refusal([*TINY, "--detector", str(tmp_path / "x")], capsys)


@pytest.mark.parametrize("place", ["", "absent/result.json"])
def test_unwritable_json_is_refused_before_the_work(place, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("demix_lite.benchmark.run_pipeline", lambda *a, **k: pytest.fail("worked"))
    assert "cannot write" in refusal([*TINY, "--json", str(tmp_path / place)], capsys)
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_it_says_what_there_is(capsys):
    assert cli.main([]) == 0
    assert "diagnose" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["walk"], ["run"], ["run", "adult", "--seed", "one"]])
def test_argparse_refuses_with_the_same_code(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: demix-lite" in capsys.readouterr().err


def test_an_interruption_is_one_sentence(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("demix_lite.benchmark.pipeline.run_pipeline", interrupted)
    assert cli.main(TINY) == 130
    assert capsys.readouterr().err == (
        "demix-lite: stopped; nothing half-written was left behind.\n"
    )


# ------------------------------------------------------------------ the benchmark


@pytest.fixture
def no_work(monkeypatch):
    """Nothing may be run or trained; returns what was asked for."""
    asked = []
    monkeypatch.setattr(suite, "run_suite", lambda *a, **k: asked.append((a, k)))
    monkeypatch.setattr(protocols, "train_detectors", lambda *a, **k: asked.append((a, k)))
    return asked


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bench", "--suite", "tabula"], "unknown family 'tabula'; did you mean 'tabular'"),
        (["bench", "--tasks", "adult", "bnak"], "unknown task 'bnak'; did you mean 'bank'"),
        (["bench", "--studies", "--device", "cuda"], "--studies and --ablation run on the CPU"),
        (["bench", "--ledger", "absent/ledger.csv"], "cannot write absent/ledger.csv"),
        (["bench", "--tasks", "yelp"], "unknown task of the suite tabular 'yelp'"),
        (["bench", "--methods", "dcd"], "unknown method 'dcd'; did you mean 'ddc'"),
        (["bench", "--protocols", "in-tusk"], "unknown protocol 'in-tusk'"),
        (["bench", "--quick", "--studies"], "--quick is a slice of the grid"),
        (["bench", "--ablation", "--methods", "deep set"], "unknown variant 'deep set'"),
        (["bench", "--ablation", "--studies"], "leave one of them out"),
        (["bench", "--ablation", "--protocols", "unified"], "leave --protocols out"),
        (["bench", "--studies", "--methods", "ddc"], "leave --methods and --protocols out"),
        (["bench", "--studies", "--protocols", "unified"], "leave --methods and --protocols out"),
        (["bench", "--source", "twim"], "unknown data source 'twim'; did you mean 'twin'"),
        (["bench", "--quick", "--suite", "tabula"], "unknown family 'tabula'"),
        (["bench", "--quick", "--methods", "dcd"], "unknown method 'dcd'"),
        (["bench", "--quick", "--device", "gpu"], "unknown device 'gpu'"),
        (
            ["bench", "--source", "twin", "--ablation", "--methods", "deep set"],
            "unknown variant 'deep set'",
        ),
        (["train-detector", "tabula"], "unknown family 'tabula'; did you mean 'tabular'"),
        (["train-detector", "tabular", "--only", "tabular-only-bnak"], "unknown detector"),
    ],
)
def test_the_benchmark_refuses_unknown_names_before_the_work(
    arguments, sentence, no_work, capsys, tmp_path, monkeypatch
):
    (tmp_path / "book" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert sentence in refusal(arguments, capsys)
    assert no_work == []
    assert [path.name for path in tmp_path.rglob("*")] == ["book", "results"]


@pytest.mark.parametrize("arguments", [["bench", "--jobs", "few"], ["train-detector"]])
def test_argparse_refuses_the_benchmark_with_the_same_code(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: demix-lite" in capsys.readouterr().err


def test_the_benchmark_asks_for_what_was_named(no_work, tmp_path, capsys):
    ledger = tmp_path / "some.csv"
    assert cli.main(["bench", "--tasks", "bank", "air", "--ledger", str(ledger)]) == 0
    (cells, path), options = no_work[0]
    assert {cell.task for cell in cells} == {"bank", "air"}
    assert path == ledger
    assert options["source"] == "real"
    assert cli.main(["bench", "--quick", "--ledger", str(ledger)]) == 0
    (cells, _), options = no_work[1]
    assert (len(cells), options["source"]) == (1, "twin")
    some = ["--quick", "--tasks", "air", "bank", "--methods", "random"]
    assert cli.main(["bench", *some, "--ledger", str(ledger)]) == 0
    assert [(c.task, c.entries) for c in no_work[2][0][0]] == [
        (task, (("random", "in-task"),)) for task in ("bank", "air")
    ]
    every = family_tasks("tabular")
    assert cli.main(["bench", "--quick", "--tasks", *every, "--ledger", str(ledger)]) == 0
    assert [cell.task for cell in no_work[3][0][0]] == list(every)
    assert str(ledger) in capsys.readouterr().out


def test_training_asks_for_the_shipped_detectors_unless_told(no_work):
    for more in ([], ["--only", "tabular-only-bank"], ["--all"]):
        assert cli.main(["train-detector", "tabular", *more]) == 0
    shipped, only, everything = ([plan.name for plan in a[0]] for a, _ in no_work)
    without = [f"tabular-without-{task}" for task in family_tasks("tabular")]
    assert shipped == ["tabular", "tabular-practised", *without]
    assert only == ["tabular-only-bank"]
    assert everything == list(protocols.curricula("tabular"))


def test_too_few_injections_are_refused_before_the_work(capsys):
    few = ["train-detector", "tabular", "--injections", "-1"]
    assert "at least 8 injections per task, not -1" in refusal(few, capsys)


def test_a_folder_that_cannot_be_written_to_is_one_sentence(capsys, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "ledger.csv"))

    monkeypatch.setattr(suite, "run_suite", full)
    said = refusal(["bench", "--quick", "--ledger", str(tmp_path / "ledger.csv")], capsys)
    assert "No space left on device" in said


# ------------------------------------------------------------------ help


def test_help_of_the_benchmark_says_that_it_resumes(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "--help"])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for word in ("goes on where it stopped", "--suite", "--quick", "--ledger", "--tasks", "--jobs"):
        assert word in said, word


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_teaches(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "demix-lite run adult" in said
    assert "python -m data_scripts adult" in said


def test_help_says_what_every_option_of_run_is_for(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    said = " ".join(capsys.readouterr().out.split())  # lines are broken anywhere
    for word in ("twin", "(0, 1]", "mlp1", "ft_transformer", "cuda", "default", "JSON"):
        assert word in said, word


def test_every_example_in_the_help_is_understood():
    lines = [line.strip().split("  ")[0].split() for line in cli.EXAMPLES.splitlines()]
    examples = [words[1:] for words in lines if words[:1] == ["demix-lite"]]
    assert len(examples) >= 3
    for arguments in examples:
        options = cli._parser().parse_args(arguments)
        assert getattr(options, "task", "adult") in TASKS
        assert getattr(options, "suite", "tabular") == getattr(options, "family", "tabular")
    assert {words[0] for words in examples} == {"diagnose", "run", "bench", "train-detector"}


def test_the_command_starts_as_a_module(root):
    command = [sys.executable, "-m", "demix_lite", "--version"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("demix-lite ")


def test_the_tasks_are_those_of_the_registry(capsys):
    assert cli.main(["tasks"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{t.name:14} {t.family:15} {t.metric_name:20} models: {', '.join(t.architectures)}"
        for t in TASKS.values()
    ]


def test_a_terminal_that_lacks_a_character_gets_the_rest(monkeypatch):
    terminal = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(cli, "TASKS", "age → income")
    assert cli.main(["tasks"]) == 0
    terminal.flush()
    assert terminal.buffer.getvalue().split() == [b"age", b"?", b"income"]


def test_the_tasks_are_listed_without_pytorch():
    code = "import sys; from demix_lite import cli; cli.main(['tasks']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split()


# ------------------------------------------------------------------ a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run: what it printed and what it wrote."""
    path = tmp_path_factory.mktemp("cli") / "result.json"
    command = [sys.executable, "-m", "demix_lite", *TINY, "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done, path


def test_json_holds_every_column_of_the_ledger(run):
    row = json.loads(run[1].read_text())
    assert set(row) == {*COLUMNS, "co_occurring", "rows", "detector", "flagged"}
    assert set(row["flagged"]) == {"label", "feature", "spurious"}
    assert row["task"] == "adult"
    assert row["source"] == "twin"
    assert row["validation"] == 32
    assert all(0 <= row[f"metric_{name}"] <= 1 for name in ("dirty", "repaired", "oracle", "clean"))


def test_nothing_half_written_is_left(run):
    assert [path.name for path in run[1].parent.iterdir()] == ["result.json"]


def test_the_table_is_readable(run):
    said = run[0].stdout
    for word in ("label", "feature", "spurious", "worst group", "spurious rule", "seconds", "twin"):
        assert word in said
    *table, _ = said.splitlines()  # the last line is a path
    assert max(map(len, table)) <= 120
    assert "Warning" not in run[0].stderr
    assert "Traceback" not in run[0].stderr


def test_same_seed_same_bits_in_another_process(run, tmp_path, capsys):
    path = tmp_path / "again.json"
    assert cli.main([*TINY, "--json", str(path)]) == 0
    first, same = (json.loads(p.read_text()) for p in (run[1], path))
    measured = {c for c in COLUMNS if not c.startswith("seconds_")} - {"peak_mb", "commit"}
    assert {c: same[c] for c in measured} == {c: first[c] for c in measured}


# ------------------------------------------------------------------ writing


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        cli.write_json(path, {"x": object()})
    assert path.read_text() == "old"


def test_strict_json_has_no_nan(tmp_path):
    path = tmp_path / "result.json"
    cli.write_json(path, {"x": 1.0, "y": float("nan")})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"x": 1.0, "y": None}


def test_trials_stay_out_of_the_ledger_of_the_book(no_work, tmp_path, monkeypatch):
    (tmp_path / "book" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for more in (["--quick"], ["--source", "twin"], []):
        assert cli.main(["bench", *more]) == 0
    trials, twins, real = (arguments[1] for arguments, _ in no_work)
    assert trials == twins == Path("_build/bench/ledger.csv")
    assert real == Path("book/results/ledger.csv")


# ------------------------------------------------------------------ interruptions


@pytest.fixture
def deaf_library(monkeypatch):
    """Importing anything interrupts the program, and loses it as compiled libraries do."""

    def import_module(name):
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            return

    monkeypatch.setattr(importlib, "import_module", import_module)


@pytest.mark.parametrize(
    "arguments",
    [
        ["diagnose", "t.csv", "--target", "y"],
        ["run", "adult"],
        ["bench", "--quick"],
        ["train-detector", "tabular"],
    ],
)
def test_an_interruption_that_a_library_swallows_is_heard(
    arguments, deaf_library, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    raised = signal.getsignal(signal.SIGINT)
    assert cli.main(arguments) == 130
    assert capsys.readouterr().err.startswith("demix-lite: stopped;")
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is raised


@pytest.mark.parametrize(("times", "finished"), [(1, ["torch"]), (2, [])])
def test_one_interruption_lets_an_import_finish_and_two_do_not(times, finished, monkeypatch):
    done = []

    def import_module(name):
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        done.append(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(KeyboardInterrupt):
        cli._import(["torch"])
    assert done == finished


def test_who_ignores_interruptions_goes_on_doing_so(deaf_library):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup does
    try:
        cli._import(["anything"])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_commands_also_run_outside_the_main_thread(capsys):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["tasks"])))
    thread.start()
    thread.join()
    assert codes == [0]
