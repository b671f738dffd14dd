"""Every block of code and every command in prose runs: README, pages of the book, notebooks.

The code of solutions stands in the notebooks, after which it is run: `test_book.py` builds the book
with it, and here it is looked for among the cells that were.
"""

import argparse
import doctest
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from conftest import hurry
from test_book import LESSONS, NOTEBOOKS, build, handouts, prose

from data_scripts.source import all_sources
from demix_lite import cli
from demix_lite.debugger import judging
from demix_lite.tasks import TASKS, get_task

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").rglob("*.md"))]
FENCE = re.compile(
    r"^(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=fence)$", re.M | re.S
)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PROGRAMS = ("demix-lite", "make", "papermill", "python", "conda", "pip", "apt", "jupyter")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, what it is written in and what it says."""

    where: str
    language: str
    code: str


@cache
def texts() -> dict[str, str]:
    """Return all prose by the file that it stands in."""
    pages = {path: path.read_text(encoding="utf-8") for path in PAGES}
    pages |= {path: prose(path) for path in NOTEBOOKS}
    return {path.relative_to(ROOT).as_posix(): text for path, text in pages.items()}


def fenced(where: str, text: str) -> Iterator[Block]:
    """Yield the blocks of a text, those within exercises and solutions too."""
    for found in FENCE.finditer(text):
        language = found["info"].strip().split(" ")[0]
        if language.startswith("{"):
            yield from fenced(where, found["code"])
        else:
            yield Block(where, language, found["code"])


BLOCKS = [block for where, text in texts().items() for block in fenced(where, text)]


def test_blocks_are_found_inside_directives_too():
    text = "````{solution} one\n\n```python\nx = 1\n```\n````\n\n```sh\nmake book\n```\n"
    assert [block.code for block in fenced("", text)] == ["x = 1\n", "make book\n"]


def test_a_block_says_what_it_is_written_in():
    """Another name would hide code from the tests below; a drawing has none."""
    for block in BLOCKS:
        assert block.language in {"python", "sh", ""}, block
        drawing = re.search("[─►┐┘┴┬├]", block.code)
        assert bool(block.language) != bool(drawing), block


# ------------------------------------------------------------------ Python


def test_python_outside_of_solutions_runs():
    """Examples of one page follow each other; what they print is compared."""
    solved = {code for path in NOTEBOOKS for code in handouts.PYTHON.findall(solutions_of(path))}
    open_blocks: dict[str, list[str]] = {}
    for block in BLOCKS:
        if block.language == "python" and block.code.rstrip("\n") not in solved:
            open_blocks.setdefault(block.where, []).append(block.code)
    assert "README.md" in open_blocks
    for where, codes in open_blocks.items():
        names: dict = {}
        for code in codes:
            example = doctest.DocTestParser().get_doctest(code, names, where, where, 0)
            if not example.examples:
                exec(compile(code, where, "exec"), names)
                continue
            result = doctest.DocTestRunner().run(example, clear_globs=False)
            assert not result.failed, where
            names |= example.globs


def solutions_of(path: Path) -> str:
    return "\n\n".join(found["body"] for found in handouts.SOLUTION.finditer(prose(path)))


@pytest.mark.book
@pytest.mark.slow
def test_the_code_of_every_solution_was_run(book_folder):
    book, run = build.load_book(book_folder, quick=True), 0
    for page in book.notebooks:
        cells = nbformat.read(book.executed(page), as_version=4).cells
        code = [c for c in cells if c.cell_type == "code" and c.execution_count]
        for solution in handouts.PYTHON.findall(solutions_of(page.source)):
            assert any(solution in cell.source for cell in code), f"{page.name}: {solution}"
            run += 1
    assert run > len(LESSONS)


# ------------------------------------------------------------------ commands


def words(line: str) -> list[str]:
    """Split a command; the folder of a program does not matter."""
    first, *rest = shlex.split(line, comments=True) or [""]
    return [Path(first).name, *rest]


def commands(program: str) -> list[list[str]]:
    """Return what is passed to a program anywhere in prose, in blocks and in spans of code."""
    lines = [
        line
        for block in BLOCKS
        if block.language == "sh"
        for line in block.code.replace("\\\n", " ").splitlines()
    ]
    lines += [span for text in texts().values() for span in SPAN.findall(text)]
    split = [words(line) for line in lines if re.match(r"[\w./-]+(\s|$)", line)]
    found = [tuple(rest) for first, *rest in split if first == program and rest]
    return [list(rest) for rest in dict.fromkeys(found)]


def test_every_line_of_a_shell_block_calls_a_program_that_is_tested():
    for block in BLOCKS:
        if block.language == "sh":
            for line in block.code.replace("\\\n", " ").splitlines():
                assert words(line)[0] in {"", *PROGRAMS}, f"{block.where}: {line}"


def test_make_knows_the_targets_and_the_variables():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert commands("make")
    for target, *given in commands("make"):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
        for name, equals, _ in (part.partition("=") for part in given):
            assert equals
            assert re.search(rf"^#   {name} ", makefile, re.MULTILINE), name


def calls_of_the_command_line() -> list[list[str]]:
    return [c for c in commands("demix-lite") if "--help" not in c and c[0] != "completion"]


@pytest.mark.parametrize("arguments", calls_of_the_command_line(), ids=" ".join)
def test_the_command_line_understands(arguments):
    if arguments == ["diagnose"]:  # the name of the command, in a sentence
        return
    options = cli._parser().parse_args(arguments)
    assert getattr(options, "task", "adult") in TASKS


DIAGNOSED = 200
"""Rows of a file that is diagnosed."""


def small(arguments: list[str]) -> list[str]:
    """Return a command as it stands, on fewer rows."""
    fewer = "320" if "ultrafeedback" in arguments else "900"
    return (
        [*arguments, "--rows", fewer, "--validation", "64"] if arguments[0] == "run" else arguments
    )


def calls_to_run() -> list[list[str]]:
    """Return the calls that need no real data; of those that differ only in their file, one."""
    calls = [c for c in calls_of_the_command_line() if c[0] in ("run", "diagnose") and c[1:]]
    calls.sort(key=lambda call: (ROOT / call[1]).is_file())  # a file that is there comes last
    kinds = {tuple(c if c[0] == "run" else c[2:]): c for c in calls if "real" not in c}
    return list(kinds.values())


@pytest.mark.slow
@pytest.mark.parametrize("arguments", calls_to_run(), ids=" ".join)
def test_the_command_runs(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(judging, "MOST_REPEATS", 1)
    hurry(monkeypatch)  # what they would say is not looked at
    if arguments[0] == "diagnose":
        people = get_task("adult").load().train
        if (ROOT / arguments[1]).is_file():
            people = pd.read_csv(ROOT / arguments[1])
        people = people.sample(DIAGNOSED, random_state=0)
        (tmp_path / arguments[1]).parent.mkdir(parents=True, exist_ok=True)
        people.to_csv(tmp_path / arguments[1], index=False)
        if "--known" in arguments:
            checked = pd.DataFrame({"label": [0, 1] * (len(people) // 2)})
            checked.to_csv(tmp_path / arguments[arguments.index("--known") + 1], index=False)
    assert cli.main(small(arguments)) == 0
    assert capsys.readouterr().out
    if "--json" in arguments:
        assert json.loads((tmp_path / arguments[arguments.index("--json") + 1]).read_text())
    if arguments[0] == "diagnose":
        made = {path.suffix for path in tmp_path.glob("*-diagnosis/*")}
        assert {".html", ".csv"} <= made


def test_papermill_knows_the_notebooks_and_parameters():
    calls = [c for c in commands("papermill") if c[0].endswith(".ipynb")]
    assert len(calls) >= 3
    for notebook, _, *options in calls:
        known = papermill.inspect_notebook(str(ROOT / notebook))
        assert set(options[1::3]) <= set(known)
        assert set(options[::3]) <= {"-p"}


def test_python_calls_modules_and_scripts_that_are_there():
    calls = commands("python")
    assert calls
    for first, *rest in calls:
        if first.endswith(".py"):
            assert (ROOT / first).is_file(), first
        elif rest[:1] == ["data_scripts"]:
            assert rest[1] in all_sources()


def test_the_builder_of_the_book_understands():
    for script, *rest in commands("python"):
        if script == "book/build.py":
            assert isinstance(build.parse(rest), argparse.Namespace)


# ------------------------------------------------------------------ the README alone


def test_the_layout_is_that_of_the_repository():
    folders = re.findall(r"^\| `(\w+)/`", README, re.MULTILINE)
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
