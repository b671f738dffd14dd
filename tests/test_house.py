"""The files of the top level agree with each other, and `make` explains itself."""

import ast
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from people import write

ROOT = Path(__file__).resolve().parent.parent
IMPORT_NAMES = {"scikit-learn": "sklearn", "pyyaml": "yaml"}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> dict[str, Requirement]:
    lines = list(project()["dependencies"])
    for extra in project()["optional-dependencies"].values():
        lines += extra
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in parsed}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "constraints.txt holds exact versions only"
    return {canonicalize_name(name): version for name, version in pairs}


def makefile_extras() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.search(r"^EXTRAS := (.*)$", text, re.MULTILINE).group(1).split(","))


def test_the_table_of_the_newcomers_is_what_its_script_writes(tmp_path):
    write(tmp_path)
    for file in ("people.csv", "people_errors.csv"):
        made = (tmp_path / file).read_bytes()
        assert made == (ROOT / "book" / "_static" / file).read_bytes()


def test_the_method_can_be_read_in_an_afternoon():
    said = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = said.partition("## Reading the code")[2].partition("## ")[0]
    package = ROOT / "demix_lite"
    named = set(re.findall(r"`([a-z_/]+\.py|[a-z]+/)`", section))
    assert named, "the section names what to read"
    assert all((package / n).exists() or list(package.rglob(n)) for n in named)
    method = ("benchmark/pipeline.py", "injection.py", "influence/*.py", "detector/*.py")
    files = [
        f for name in (*method, "repair.py", "benchmark/evaluate.py") for f in package.glob(name)
    ]
    assert sum(len(f.read_text(encoding="utf-8").splitlines()) for f in files) < 4000


# ------------------------------------------------------------------ dependencies


@pytest.mark.parametrize("name", sorted(requirements()))
def test_every_dependency_has_a_lower_bound_and_a_pin_within_it(name):
    requirement = requirements()[name]
    assert any(bound.operator == ">=" for bound in requirement.specifier)
    assert name in pins(), f"{name} stands in pyproject.toml but not in constraints.txt"
    assert requirement.specifier.contains(pins()[name], prereleases=True)


def test_torch_is_the_agreed_one():
    assert pins()["torch"] == "2.13.0"


def test_environment_takes_its_versions_from_the_constraints():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, last = environment["dependencies"]
    constraints, package = last["pip"]
    assert constraints == "-c constraints.txt"
    assert set(re.fullmatch(r"-e \.\[(.*)\]", package).group(1).split(",")) == makefile_extras()
    python = Requirement(next(line for line in conda if line.startswith("python")))
    assert str(project()["requires-python"]) in str(python.specifier)
    assert {Requirement(line).name for line in conda} == {"python", "pip", "make"}


def test_the_versions_of_python_that_are_named_are_those_that_ci_runs():
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    tested = yaml.safe_load(workflow)["jobs"]["pinned"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    named = [line.removeprefix(prefix) for line in project()["classifiers"] if prefix in line]
    assert named == tested
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    chosen = makefile.partition("PYTHON ?=")[2].partition("CONSTRAINTS")[0]
    assert re.findall(r"python(3\.\d+)", chosen)[::-1] == tested
    newest = int(tested[-1].removeprefix("3."))
    assert makefile.count(f"< (3, {newest + 1})") == 2
    for said in (
        makefile,
        *((ROOT / n).read_text("utf-8") for n in ("README.md", "book/index.md")),
    ):
        assert f"{tested[0]} to {tested[-1]}" in said
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    allowed = Requirement(next(line for line in conda if str(line).startswith("python"))).specifier
    assert list(allowed.filter(f"3.{minor}" for minor in range(30))) == tested


def test_make_installs_extras_that_exist():
    assert makefile_extras() <= set(project()["optional-dependencies"])
    assert makefile_extras() == set(project()["optional-dependencies"]), "no test skips in CI"


def third_party_imports(folder: Path) -> set[str]:
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names) - {"demix_lite", "data_scripts"}


@pytest.mark.parametrize("folder", ["demix_lite", "data_scripts"])
def test_everything_imported_is_declared(folder):
    declared = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in requirements()}
    undeclared = third_party_imports(ROOT / folder) - declared
    assert not undeclared, f"{folder} imports {undeclared}; pyproject.toml does not ask for it"


def test_the_core_needs_no_extra():
    core = {canonicalize_name(Requirement(line).name) for line in project()["dependencies"]}
    extras = {IMPORT_NAMES.get(n, n.replace("-", "_")) for n in set(requirements()) - core}
    code = f"""
import sys
for name in {sorted(extras)!r}:
    sys.modules[name] = None  # importing it fails
import demix_lite, demix_lite.cli
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert Version(str(citation["version"])) == Version(project()["version"])


def test_imports_run_downwards_only():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# ------------------------------------------------------------------ make


@pytest.fixture
def checkout(tmp_path):
    """A fresh checkout with nothing installed, as far as make is concerned."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    # What `make test` itself was given, such as CONSTRAINTS, is in the environment.
    given = set(re.findall(r"^(\w+) \?=", (folder / "Makefile").read_text("utf-8"), re.MULTILINE))
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("MAKE") and key not in given
    }
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def script(path: Path, text: str) -> Path:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def refusal(done: subprocess.CompletedProcess, folder: Path) -> str:
    """Return what make said; it has to be one sentence or two, and nothing may be left behind."""
    assert done.returncode != 0
    assert not (folder / ".venv").exists()
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1, done.stderr
    return said[0]


def test_help_lists_every_target(checkout):
    done = make(checkout, "help", "PYTHON=/nonexistent")
    assert done.returncode == 0
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split()
    assert {"book", "test", "help", "lint", "format", "clean"} <= set(targets)
    for target in targets:
        assert f"make {target} " in done.stdout


def test_help_is_what_make_alone_says(checkout):
    assert make(checkout).stdout == make(checkout, "help").stdout


@pytest.mark.parametrize("target", ["book", "test"])
def test_a_missing_python_is_named(checkout, target):
    said = refusal(make(checkout, target, "PYTHON=/nonexistent"), checkout)
    assert "Python not found: '/nonexistent'" in said
    assert f"make {target} PYTHON=" in said


def test_an_old_python_is_refused(checkout):
    old = script(
        checkout / "old-python",
        'case "$*" in *version_info*) exit 1;; -V) echo Python 3.9.1;; esac\n',
    )
    said = refusal(make(checkout, "book", f"PYTHON={old}"), checkout)
    assert "too old (Python 3.9.1), 3.11 or newer is needed" in said


@pytest.mark.parametrize("newer", [True, False])
def test_a_failed_installation_says_if_python_is_newer_than_tested(checkout, newer):
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    answers = f"*install.py*) exit 1;; *3,*15*) exit {int(not newer)};; -V) echo Python 3.15.0;;"
    script(python, f'case "$*" in {answers} esac\n')
    done = make(checkout, "venv")
    assert done.returncode != 0
    assert ("Python 3.15.0 is newer than those supported" in done.stderr) is newer


def test_a_python_without_venv_is_explained(checkout):
    bare = script(checkout / "bare-python", 'case "$*" in *ensurepip*) exit 1;; esac\n')
    said = refusal(make(checkout, "book", f"PYTHON={bare}"), checkout)
    assert "venv module is missing" in said


def test_a_full_disk_is_noticed_before_the_installation(checkout):
    done = make(checkout, "test", f"PYTHON={sys.executable}", "FREE_MB=812")
    assert "Only 812 MB are free" in refusal(done, checkout)


def test_an_installation_is_not_repeated(checkout):
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    script(python, 'echo "$*" >> calls; exit 0\n')
    for expected in (True, False):
        (checkout / "calls").write_text("")
        assert make(checkout, "venv").returncode == 0
        assert ("install.py" in (checkout / "calls").read_text()) is expected
    os.utime(checkout / "constraints.txt", (4e9, 4e9))
    assert make(checkout, "venv", "TORCH_INDEX=somewhere").returncode == 0
    calls = (checkout / "calls").read_text()
    assert "install.py -c constraints.txt --extra-index-url somewhere -e .[book," in calls


ASKED = ["-c", "constraints.txt", "-e", ".[test]"]


@pytest.fixture
def install(monkeypatch):
    """The installer, and a function that says which programs fail; returns what was run."""
    spec = importlib.util.spec_from_file_location("install", ROOT / ".ci" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*failing: str, settings: str = "") -> list[tuple[str, dict | None]]:
        calls = []

        def pretended(command, env=None, **options):
            line = " ".join(command[2:])
            calls.append((line, env))
            failed = any(line.startswith(name) for name in failing)
            return subprocess.CompletedProcess(command, int(failed), settings, "")

        monkeypatch.setattr(module.subprocess, "run", pretended)
        assert module.main(ASKED) == int("pip --disable-pip-version-check install" in failing)
        return calls

    return run


def test_uv_is_told_what_pip_is_told(install):
    settings = """:env:.extra-index-url='file:///one https://two'
global.cert='/etc/own.pem'
global.extra-index-url='https://three'
install.find-links='/wheels'
global.timeout='60'"""
    (fetched, _), _, (line, environment) = install(settings=settings)
    assert fetched.endswith("install --quiet -c constraints.txt uv")
    assert line.startswith("uv pip install --index-strategy=unsafe-best-match")
    indexes = "--extra-index-url=file:///one --extra-index-url=https://two --find-links=/wheels"
    assert line.endswith(f"{indexes} {' '.join(ASKED)}")
    assert environment["SSL_CERT_FILE"] == "/etc/own.pem"
    assert environment["VIRTUAL_ENV"] == sys.prefix


@pytest.mark.parametrize("failing", ["uv", "pip --disable-pip-version-check install --quiet -c"])
def test_pip_installs_where_uv_cannot(install, failing):
    *_, (line, _) = install(failing)
    assert line.startswith("pip --disable-pip-version-check install --no-compile")
    assert line.endswith(" ".join(ASKED))


def test_an_installation_that_fails_is_a_failure(install):
    install("uv", "pip --disable-pip-version-check install")


@pytest.mark.parametrize("failing", ["venv", "lint", "test", "nothing"])
def test_ci_runs_the_checks_and_the_tests_and_fails_with_either(failing, tmp_path):
    pretended = tmp_path / "make"
    pretended.write_text(f'#!/bin/sh\necho "$1 begins"\necho "$1 ends"\n[ "$1" != {failing} ]\n')
    pretended.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / ".ci" / "run"], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert bool(done.returncode) == (failing != "nothing")
    targets = ["venv"] if failing == "venv" else ["venv", "test", "lint"]
    wanted = [f"{target} {word}" for target in targets for word in ("begins", "ends")]
    assert done.stdout.splitlines() == wanted


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=str)
def test_workflows_only_call_targets_that_exist(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["jobs"]
    called = set(re.findall(r"\bmake ([a-z]+)", path.read_text(encoding="utf-8")))
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert called <= set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split())
