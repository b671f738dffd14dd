"""What the README says, runs."""

import doctest
import re
import shlex
from pathlib import Path

import papermill
import pytest

from demix_lite import cli
from demix_lite.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
INDEX = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT + INDEX, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]


def commands(program: str) -> list[list[str]]:
    words = [shlex.split(command) for command in COMMANDS]
    return [line[1:] for line in words if Path(line[0]).name == program]


def test_the_python_example_runs():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert blocks
    for block in blocks:
        example = doctest.DocTestParser().get_doctest(block, {}, "README", "README.md", 0)
        result = doctest.DocTestRunner().run(example)
        assert result.attempted
        assert not result.failed


def test_make_knows_the_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = commands("make")
    assert named
    for target, *_ in named:
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target


@pytest.mark.parametrize("arguments", commands("demix-lite"), ids=" ".join)
def test_the_command_line_understands(arguments):
    if "--help" not in arguments:
        options = cli._parser().parse_args(arguments)
        assert getattr(options, "task", "adult") in TASKS


def test_papermill_knows_the_parameters():
    for notebook, _, *options in commands("papermill"):
        known = papermill.inspect_notebook(str(ROOT / notebook))
        assert set(options[1::3]) <= set(known)


def test_the_layout_is_that_of_the_repository():
    folders = re.findall(r"^\| `(\w+)/`", TEXT, re.MULTILINE)
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
