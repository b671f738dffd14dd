"""What the book hands out beside its pages: notebooks to work in, and how long its pages took.

The lessons are written once, with their solutions. From them come notebooks that Jupyter shows well
without the book (*solved*), notebooks without the solutions and with room for your own
(*exercises*), and the code of the solutions, which is run so that it stays right.
"""

from __future__ import annotations

import copy
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

FENCE = r"^(?P<fence>`{{3,}})\{{{name}\}}(?P<head>[^\n]*)\n(?P<body>.*?)\n(?P=fence)$"
EXERCISE = re.compile(FENCE.format(name="exercise"), re.MULTILINE | re.DOTALL)
SOLUTION = re.compile(FENCE.format(name="solution"), re.MULTILINE | re.DOTALL)
REMARK = re.compile(FENCE.format(name="(?:note|warning|tip|admonition)"), re.MULTILINE | re.DOTALL)
DRAWING = re.compile(
    r"^```\{image\}[^\n]*\n(?::(?!alt)\w+: [^\n]*\n)*:alt: (.*)\n(?::\w+: .*\n)*```$", re.M
)
GATE = re.compile(r"^```\{(exercise|solution)-(start|end)\}.*\n(?::\w+: .*\n)*```$", re.MULTILINE)
OPTIONS = re.compile(r"\A(?::\w+: [^\n]*\n)+\n?")
PYTHON = re.compile(r"^```python\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
CITATION = re.compile(r"\{cite:([pt])\}`([^`]+)`")
ROLE = re.compile(r"\{(?:term|doc|ref)\}`([^`<]+?)\s*(?:<[^`]*>)?`")
COLOURED = re.compile(r"\[([^\]]+)\]\{\.error-\w+\}")

Rewrite = Callable[[re.Match[str]], str]


def is_prose(cell: Mapping[str, Any]) -> bool:
    """Whether a cell is text."""
    return bool(cell["cell_type"] == "markdown")


def text_of(cell: Mapping[str, Any]) -> str:
    """Return the source of a cell as one string."""
    return "".join(cell["source"])


def has_exercise(cell: Mapping[str, Any]) -> bool:
    """Whether a cell asks something of the reader."""
    return is_prose(cell) and bool(EXERCISE.search(text_of(cell)))


def body_of(directive: re.Match[str]) -> str:
    """Return what a directive says, without its options."""
    return OPTIONS.sub("", directive["body"])


def code_cell(source: str, name: str, *tags: str) -> dict[str, Any]:
    """Return a code cell that has not been run."""
    return {
        "cell_type": "code",
        "id": name,
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source,
        "execution_count": None,
        "outputs": [],
    }


# ------------------------------------------------------------------ solutions that are run


def solutions(notebook: Mapping[str, Any]) -> list[str]:
    """Return the code of the solutions, one string per exercise that has any."""
    prose = "\n\n".join(text_of(cell) for cell in notebook["cells"] if is_prose(cell))
    code = ["\n\n".join(PYTHON.findall(found["body"])) for found in SOLUTION.finditer(prose)]
    return [source for source in code if source]


def with_solutions_run(notebook: Any) -> Any:
    """Return the notebook with its solutions as hidden cells at the end."""
    notebook = copy.deepcopy(notebook)
    for number, source in enumerate(solutions(notebook)):
        cell = code_cell(source, f"solution-{number}", "remove-cell")
        notebook["cells"].append(type(notebook["cells"][0])(cell))
    return notebook


# ------------------------------------------------------------------ notebooks for Jupyter alone


def authors_and_years(bibliography: Path) -> dict[str, tuple[str, str]]:
    """Return short author names and year of every entry of a bibliography."""
    from pybtex.database import parse_file

    short = {}
    for key, entry in parse_file(str(bibliography)).entries.items():
        names = [" ".join(person.last_names) for person in entry.persons.get("author", [])]
        first = names[0].strip("{}") if names else key
        joined = first if len(names) < 2 else f"{first} et al."
        short[key] = (joined, entry.fields.get("year", "no year"))
    return short


def spelled_out(citation: re.Match[str], known: Mapping[str, tuple[str, str]]) -> str:
    """Write a citation as people do without a bibliography."""
    named = [known[key.strip()] for key in citation[2].split(",")]
    if citation[1] == "t":
        return ", ".join(f"{who} ({year})" for who, year in named)
    return f"({'; '.join(f'{who}, {year}' for who, year in named)})"


def folded(solution: re.Match[str]) -> str:
    """Write a solution so that Jupyter folds it."""
    return f"<details><summary>Solution</summary>\n\n{body_of(solution)}\n\n</details>"


def quoted(remark: re.Match[str]) -> str:
    """Write a remark with its title, if it has one, as a quotation."""
    title = f"**{remark['head'].strip()}.** " if remark["head"].strip() else ""
    return "> " + (title + body_of(remark)).replace("\n", "\n> ")


def plain(text: str, known: Mapping[str, tuple[str, str]], solved: bool) -> str:
    """Rewrite what only the book understands."""
    rewrites: list[tuple[re.Pattern[str], Rewrite]] = [
        (SOLUTION, folded if solved else lambda _: ""),
        (EXERCISE, lambda found: f"**Exercise.** {body_of(found)}"),
        (GATE, lambda found: f"**{found[1].title()}.**" if found[2] == "start" else ""),
        (REMARK, quoted),
        (DRAWING, lambda found: f"*(A drawing: {found[1]})*"),
        (CITATION, partial(spelled_out, known=known)),
        (ROLE, lambda found: found[1]),
        (COLOURED, lambda found: found[1]),
    ]
    for pattern, rewrite in rewrites:
        text = pattern.sub(rewrite, text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def cells_with_room(cell: dict[str, Any], known: Mapping[str, tuple[str, str]]) -> list[Any]:
    """Cut a cell behind each exercise and leave a cell there for the reader's own solution."""
    text, cells, start = text_of(cell), [], 0
    for number, found in enumerate(EXERCISE.finditer(text)):
        part = plain(text[start : found.end()], known, solved=False)
        name = f"{cell['id']}-{number}"
        cells.append(cell | {"id": name, "source": part})
        cells.append(code_cell("# Your solution\n", f"{name}-yours"))
        start = found.end()
    rest = plain(text[start:], known, solved=False)
    return [*cells, cell | {"source": rest}] if rest else cells


def for_jupyter(
    notebook: dict[str, Any], known: Mapping[str, tuple[str, str]], *, solved: bool
) -> dict[str, Any]:
    """Return a notebook that reads well in Jupyter, with or without the solutions.

    Parameters
    ----------
    notebook : dict
        A notebook of the book, as stored.
    known : mapping
        Authors and year by the key of the bibliography.
    solved : bool
        Keep the solutions, folded; otherwise leave them out and make room for the reader's.
    """
    cells: list[Any] = []
    for cell in notebook["cells"]:
        if not is_prose(cell):
            cells.append(cell)
        elif solved:
            cells.append(cell | {"source": plain(text_of(cell), known, solved=True)})
        else:
            cells += cells_with_room(cell, known)
    return notebook | {"cells": cells}


def zipped(files: Mapping[str, str]) -> bytes:
    """Return a zip archive; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(files.items()):
            entry = zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0))
            archive.writestr(entry, text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def notebooks_zip(folder: Path, bibliography: Path) -> bytes:
    """Return all notebooks for Jupyter, the lessons also as exercises, as one archive."""
    known, files = authors_and_years(bibliography), {}
    for path in sorted(folder.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        notebook = json.loads(path.read_text(encoding="utf-8"))
        name = path.relative_to(folder).as_posix()
        for solved in (True, False):
            if not (solved or any(map(has_exercise, notebook["cells"]))):
                continue
            place = name if solved else name.replace("lessons/", "exercises/", 1)
            text = json.dumps(for_jupyter(notebook, known, solved=solved), indent=1)
            files[f"notebooks/{place}"] = text + "\n"
    return zipped(files)


# ------------------------------------------------------------------ pages that say how they ran


def status_table(status: Mapping[str, Mapping[str, Any]], order: list[str]) -> str:
    """Return a table of how long every page took and when it was run."""
    lines = ["| page | seconds | parameters | run (UTC) |", "|:--|--:|:--|:--|"]
    for name in order:
        row = status.get(name)
        if not row:
            continue
        settings = ", ".join(f"{k} = {v}" for k, v in row["parameters"].items()) or "as written"
        when = row["finished"][:16].replace("T", " ")
        lines.append(f"| {{doc}}`/{name}` | {row['seconds']:.0f} | {settings} | {when} |")
    total = sum(row["seconds"] for row in status.values())
    lines.append(f"| **all** | **{total:.0f}** | | |")
    return "\n".join(lines)


def launch_line(notebook: str, address: str, branch: str = "main") -> str:
    """Return links that open a notebook in the browser; nothing without a GitHub address.

    Parameters
    ----------
    notebook : str
        Path of the notebook in the repository.
    address : str
        Address of the repository, such as ``https://github.com/OWNER/NAME``; may be empty.
    branch : str
        The branch that is opened.
    """
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", address)
    if not found:
        return ""
    colab = f"https://colab.research.google.com/github/{found[1]}/blob/{branch}/{notebook}"
    binder = f"https://mybinder.org/v2/gh/{found[1]}/{branch}?urlpath=lab/tree/{notebook}"
    install = f'%pip install "demix_lite[book,baselines,tabular] @ git+{address}"'
    return f"[Open in Colab]({colab}) (first run `{install}`) · [Open in Binder]({binder})"
