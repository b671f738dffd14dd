"""What the book offers besides its pages: notebooks to work in, and the run times of its pages.

The lessons are written once, with their solutions. From them are made notebooks that read well in
Jupyter without the book (*solved*), notebooks without the solutions and with room for your own
(*exercises*), and the code of the solutions, which is run so that it stays correct.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell

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

Known = Mapping[str, tuple[str, str]]
"""Maps a key of the bibliography to authors and year."""


def prose_of(notebook: Any) -> list[Any]:
    """Return the cells of text."""
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def body_of(directive: re.Match[str]) -> str:
    """Return the text of a directive, without its options."""
    return OPTIONS.sub("", directive["body"])


# ------------------------------------------------------------------ solutions that are run


def solutions(notebook: Any) -> list[str]:
    """Return the code of the solutions, one string per exercise that has any."""
    prose = "\n\n".join(cell.source for cell in prose_of(notebook))
    code = ["\n\n".join(PYTHON.findall(found["body"])) for found in SOLUTION.finditer(prose)]
    return [source for source in code if source]


def with_solutions_run(notebook: Any) -> Any:
    """Return the notebook with its solutions as hidden cells at the end."""
    hidden = [
        new_code_cell(source, id=f"solution-{number}", metadata={"tags": ["remove-cell"]})
        for number, source in enumerate(solutions(notebook))
    ]
    return nbformat.from_dict(notebook | {"cells": [*notebook.cells, *hidden]})


# ------------------------------------------------------------------ notebooks for Jupyter alone


def authors_and_years(bibliography: Path) -> Known:
    """Return short author names and year of every entry of a bibliography."""
    from pybtex.database import parse_file

    short = {}
    for key, entry in parse_file(str(bibliography)).entries.items():
        names = [" ".join(person.last_names) for person in entry.persons.get("author", [])]
        first = names[0].strip("{}") if names else key
        joined = first if len(names) < 2 else f"{first} et al."
        short[key] = (joined, entry.fields.get("year", "no year"))
    return short


def spelled_out(citation: re.Match[str], known: Known) -> str:
    """Write a citation as authors and year."""
    named = [known[key.strip()] for key in citation[2].split(",")]
    if citation[1] == "t":
        return ", ".join(f"{who} ({year})" for who, year in named)
    return f"({'; '.join(f'{who}, {year}' for who, year in named)})"


def folded(solution: re.Match[str]) -> str:
    """Write a solution so that it is folded in Jupyter."""
    return f"<details><summary>Solution</summary>\n\n{body_of(solution)}\n\n</details>"


def quoted(remark: re.Match[str]) -> str:
    """Write a remark, with its title if it has one, as a quotation."""
    title = f"**{remark['head'].strip()}.** " if remark["head"].strip() else ""
    return "> " + (title + body_of(remark)).replace("\n", "\n> ")


def plain(text: str, known: Known, solved: bool) -> str:
    """Rewrite markup that only the book understands."""
    rewrites: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
        (SOLUTION, folded if solved else lambda _: ""),
        (EXERCISE, lambda found: f"**Exercise.** {body_of(found)}"),
        (GATE, lambda found: f"**{found[1].title()}.**" if found[2] == "start" else ""),
        (REMARK, quoted),
        (DRAWING, lambda found: f"*(A drawing: {found[1]})*"),
        (CITATION, partial(spelled_out, known=known)),
        (ROLE, lambda found: found[1]),
    ]
    for pattern, rewrite in rewrites:
        text = pattern.sub(rewrite, text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def cells_with_room(cell: Any, known: Known) -> list[Any]:
    """Split a cell after each exercise, and insert a cell for the reader's own solution."""
    cells, start = [], 0
    for number, found in enumerate(EXERCISE.finditer(cell.source)):
        part = plain(cell.source[start : found.end()], known, solved=False)
        name = f"{cell.id}-{number}"
        cells.append(cell | {"id": name, "source": part})
        cells.append(new_code_cell("# Your solution\n", id=f"{name}-yours"))
        start = found.end()
    rest = plain(cell.source[start:], known, solved=False)
    return [*cells, cell | {"source": rest}] if rest else cells


def for_jupyter(notebook: Any, known: Known, *, solved: bool) -> Any:
    """Return a notebook that reads well in Jupyter: with folded solutions, or with empty cells."""
    cells: list[Any] = []
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            cells.append(cell)
        elif solved:
            cells.append(cell | {"source": plain(cell.source, known, solved=True)})
        else:
            cells += cells_with_room(cell, known)
    return nbformat.from_dict(notebook | {"cells": cells})


def notebooks_zip(folder: Path, bibliography: Path) -> bytes:
    """Return one archive with all notebooks for Jupyter, the lessons also as exercises."""
    known, buffer = authors_and_years(bibliography), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*.ipynb")):
            if ".ipynb_checkpoints" in path.parts:
                continue
            notebook = nbformat.read(path, as_version=4)
            name = path.relative_to(folder).as_posix()
            places = {name: True}
            if any(EXERCISE.search(cell.source) for cell in prose_of(notebook)):
                places[name.replace("lessons/", "exercises/", 1)] = False
            for place, solved in places.items():
                # A fixed date: otherwise the archive would have other bytes every time.
                entry = zipfile.ZipInfo(f"notebooks/{place}", (2000, 1, 1, 0, 0, 0))
                text = nbformat.writes(for_jupyter(notebook, known, solved=solved))
                archive.writestr(entry, text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


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


def launch_line(notebook: str, address: str) -> str:
    """Return links that open a notebook in the browser; empty without a GitHub address."""
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", address)
    if not found:
        return ""
    colab = f"https://colab.research.google.com/github/{found[1]}/blob/main/{notebook}"
    binder = f"https://mybinder.org/v2/gh/{found[1]}/main?urlpath=lab/tree/{notebook}"
    install = f'%pip install "demix_lite[book,baselines,tabular,llm] @ git+{address}"'
    return f"[Open in Colab]({colab}) (first run `{install}`) · [Open in Binder]({binder})"
