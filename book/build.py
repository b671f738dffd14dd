"""Run the notebooks and render the book.

    python book/build.py                     everything that changed, then the HTML
    python book/build.py --quick             each notebook at its smallest setting
    python book/build.py --only tasks/adult  run only this page ("lessons/*" works too)
    python book/build.py --jobs 1            one notebook after the other
    python book/build.py --pdf               the same, and book.pdf next to html/ (needs Chromium)

`_toc.yml` is the list of pages. A page is `book/NAME.md`, or `notebooks/NAME.ipynb` run once, or
one of TASK_PAGES below: one notebook run once per task with its own parameters.

What happens, under `_build/` (or `_build/quick/`):

    executed/   the notebooks with their outputs, and status.json: run times and keys
    source/     pages of prose and executed notebooks side by side, as Jupyter Book wants them
    render/     Jupyter Book's working folder
    html/       the finished book: open html/index.html

A notebook is run again only if its code, its parameters, the package, the files it reads or the
versions of Python and the dependencies have changed. A change of prose keeps the outputs.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import html
import io
import json
import os
import platform
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import partial
from importlib import metadata
from pathlib import Path
from threading import Event
from typing import Any

import joblib
import nbformat
import papermill
import psutil
import yaml
from papermill.exceptions import PapermillExecutionError

sys.path.insert(0, str(Path(__file__).resolve().parent))
import handouts
import kernels

ROOT = Path(__file__).resolve().parent.parent
CELL_TIMEOUT = 1200  # seconds

# notebook: page: its heading, with the text below it after the colon
TASK_PAGES = {
    "tasks/tabular": {
        "tasks/adult": "Adult: People in the census of the United States of 1994: who earns more"
        " than 50,000 dollars a year?",
        "tasks/bank": "Bank Marketing: Phone calls of a Portuguese bank: who takes out a term"
        " deposit?",
        "tasks/credit": "Credit Default: Credit card clients in Taiwan: who will not make next"
        " month's payment?",
        "tasks/covertype": "Covertype: Patches of forest in Colorado: which of seven types of trees"
        " grows there?",
        "tasks/bike": "Bike Sharing: Hours of two years in Washington, D.C.: how many bikes are"
        " rented in an hour?",
        "tasks/air": "Air Quality: Hours at road level in an Italian city: how much benzene is in"
        " the air, judged by other sensors?",
    },
    "tasks/recommendation": {
        "tasks/movielens": "MovieLens: Members of a film site and what they rated: who watches"
        " which film next?",
        "tasks/amazon": "Amazon: Customers of a shop and what they reviewed: who buys which product"
        " next?",
        "tasks/yelp": "Yelp: Guests and the places they reviewed: who goes where next?",
    },
    "tasks/alignment": {
        "tasks/ultrafeedback": "UltraFeedback: Questions to a language model, and two answers to"
        " each: which one is better?",
        "tasks/capybara": "Capybara: Dialogues with a language model, and two ways to go on: which"
        " one is better?",
    },
}

# What Jupyter Book and its theme repeat on other pages: headings, labels, names.
OUTLINE = re.compile(r"^(?:#+ .*|\([^)]+\)=|\s*:(?:name|label): .*)$", re.MULTILINE)

# They decide how the pages look; the notebooks need not run again for them.
RENDERERS = (
    "docutils",
    "myst-nb",
    "myst-parser",
    "pydata-sphinx-theme",
    "sphinx",
    "sphinx-book-theme",
)

# Terms of a glossary begin a line, their explanations are indented.
TERM_OR_OUTLINE = re.compile(rf"{OUTLINE.pattern}|^\S.*$", re.MULTILINE)

# The label of an exercise or a figure.
LABEL = re.compile(r"^:(?:label|name): *(\S+)$", re.MULTILINE)

# A link to a notebook of the book (links to copies in _sources have a different name).
NOTEBOOK_LINK = re.compile(rb'href="((?!\w+:)[\w./-]+)\.ipynb')

# The first of these that is installed prints the PDF.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# What Jupyter says of a kernel that ended before it could be used.
NOT_STARTED = "Kernel died before replying"

# The escape codes for colours in a terminal.
COLOURED = re.compile(r"\x1b\[[\d;]*m")

# The pages use one file of MathJax; its other builds and all source maps are left out.
UNUSED = re.compile(r"^_static/mathjax/(?!tex-chtml\.js)[^/]+\.js$|\.map$")

# Every kernel uses one thread, whatever --jobs is: with more threads, sums are added up in another
# order, and the same seed has to give the same book, bit for bit.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)

ENVIRONMENT = ONE_THREAD | {
    "PYTHONPATH": str(ROOT),
    "PYTHONHASHSEED": "0",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "JUPYTER_PREFER_ENV_PATH": "1",
    "TQDM_DISABLE": "1",
    "NO_COLOR": "1",
}


class BookError(Exception):
    """An error that the author of a page can correct; shown without a traceback."""


@dataclass(frozen=True)
class Page:
    """One page of the book and where it comes from."""

    name: str
    source: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    heading: str = ""

    def notebook(self) -> Any:
        """Read the notebook; at its smallest setting, the code of its solutions is run too."""
        notebook = nbformat.read(self.source, as_version=4)
        return handouts.with_solutions_run(notebook) if self.parameters.get("quick") else notebook


def code_cells(notebook: Any) -> list[Any]:
    """Return the code cells, which are run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@dataclass(frozen=True)
class Book:
    """The pages in reading order and the folder everything is built in."""

    pages: list[Page]
    out: Path

    @property
    def notebooks(self) -> list[Page]:
        """The pages that are run."""
        return [page for page in self.pages if page.source.suffix == ".ipynb"]

    def executed(self, page: Page) -> Path:
        """Path of the notebook with its outputs."""
        return self.out / "executed" / f"{page.name}.ipynb"


# ------------------------------------------------------------------ the plan


def toc_names(node: Any) -> Iterator[str]:
    """Yield the page names of a table of contents, in reading order."""
    if isinstance(node, list):
        for item in node:
            yield from toc_names(item)
    elif isinstance(node, dict):
        yield from (node[key] for key in ("root", "file") if key in node)
        for value in node.values():
            yield from toc_names(value)


def load_page(name: str, quick: bool) -> Page:
    """Find the source of a page and the parameters with which it is run."""
    notebook = next((n for n, pages in TASK_PAGES.items() if name in pages), name)
    heading = TASK_PAGES.get(notebook, {}).get(name, "")
    parameters: dict[str, Any] = {"task": name.removeprefix("tasks/")} if heading else {}
    source, prose = ROOT / "notebooks" / f"{notebook}.ipynb", ROOT / "book" / f"{name}.md"
    if source.is_file():
        return Page(name, source, parameters | ({"quick": True} if quick else {}), heading)
    if prose.is_file():
        return Page(name, prose)
    raise BookError(
        f"_toc.yml lists the page {name}, but there is neither book/{name}.md"
        f" nor notebooks/{notebook}.ipynb"
    )


def load_book(out: Path, quick: bool) -> Book:
    """Read the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return Book([load_page(name, quick) for name in toc_names(toc)], out)


# ------------------------------------------------------------------ keys: what a page depends on


def digest(*parts: Any) -> str:
    """Hash anything that can be written as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """Hash names and contents of files."""
    found = sorted(p for p in paths if p.is_file() and "__pycache__" not in p.parts)
    return digest(
        [(str(p.relative_to(ROOT)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in found]
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of all dependencies in pyproject.toml except for tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    wanted = list(project.get("dependencies", []))
    wanted += [line for name, lines in extras.items() if name != "test" for line in lines]
    result = {"python": platform.python_version()}
    for requirement in wanted:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        result[name] = version_of(name)
    return result


def version_of(distribution: str) -> str:
    """Return the installed version of a distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def page_keys(book: Book) -> dict[str, str]:
    """Return a key for every notebook page; a notebook is run again if its key has changed."""
    common = digest(files_digest((ROOT / "demix_lite").rglob("*")), versions(), ONE_THREAD)
    results, nothing = files_digest((ROOT / "book" / "results").rglob("*")), files_digest([])
    keys = {}
    for page in book.notebooks:
        reads = results if page.name.startswith("results/") else nothing
        code = [cell.source for cell in code_cells(page.notebook())]
        keys[page.name] = digest(code, page.parameters, reads, common)
    return keys


# ------------------------------------------------------------------ running the notebooks


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing or broken file gives an empty one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON completely or not at all."""
    write(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def check_parameters(page: Page) -> None:
    """Raise an error for parameters that the notebook does not have."""
    try:
        known = papermill.inspect_notebook(str(page.source))
    except ValueError as error:
        raise BookError(f"{page.source.relative_to(ROOT)}: {error}") from error
    unknown = sorted(set(page.parameters) - set(known))
    if unknown:
        raise BookError(
            f"{page.source.relative_to(ROOT)} has no parameter {', '.join(unknown)}"
            f" (its cell tagged `parameters` has: {', '.join(sorted(known)) or 'nothing'})"
        )


def prepare(page: Page) -> Any:
    """Return the notebook as it is run: with its parameters inserted, and without outputs."""
    fresh = papermill.execute_notebook(
        page.notebook(), None, page.parameters, kernel_name="python3", prepare_only=True
    )
    for cell in fresh.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"
    return fresh


def describe_failure(error: Exception) -> str:
    """Say in which cell a notebook stopped, and why."""
    if not isinstance(error, PapermillExecutionError):
        return f"{type(error).__name__}: {error}"
    source = "\n".join("    " + line for line in error.source.splitlines())
    trace = COLOURED.sub("", "\n".join(error.traceback))
    arrow = re.search(r"^-+> \d+ (.*)$", trace, re.MULTILINE)
    line = f"\nraised by: {arrow.group(1).strip()}" if arrow else ""
    return f"cell {error.cell_index + 1}:\n{source}\n{error.ename}: {error.evalue}{line}"


def execute(page: Page, target: Path) -> None:
    """Run a notebook and write it with its outputs."""
    papermill.execute_notebook(
        page.notebook(),
        str(target),
        page.parameters,
        kernel_name="python3",
        # Not `cwd`: it would change the folder of the whole process, also for other threads.
        resources={"metadata": {"path": str(page.source.parent)}},
        progress_bar=False,
        # What a kernel has done is there if it dies; of minutes it is worth the time.
        request_save_on_cell_execute=not page.parameters.get("quick"),
        execution_timeout=CELL_TIMEOUT,
        # A kernel with PyTorch takes seconds to shut down by itself, and has nothing to save.
        shutdown_kernel="immediate",
    )


def run_notebook(book: Book, page: Page, stopped: Event) -> float:
    """Run one notebook, keep it only if it ran to its end; return the seconds it took."""
    check_parameters(page)
    final = book.executed(page)
    partial = final.with_name(f".{final.stem}.partial.ipynb")
    final.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    try:
        try:
            execute(page, partial)
        except RuntimeError as error:
            # A kernel gets free ports; another program may take one before the kernel does.
            if stopped.is_set() or NOT_STARTED not in str(error):
                raise
            execute(page, partial)
        partial.replace(final)
    except OSError:
        raise
    except Exception as error:
        if stopped.is_set():
            raise
        failed = book.out / "failed" / f"{page.name}.ipynb"
        failed.parent.mkdir(parents=True, exist_ok=True)
        where = partial.replace(failed) if partial.exists() else page.source
        raise BookError(
            f"{page.source.relative_to(ROOT)} failed, {describe_failure(error)}\n"
            f"As far as it ran: {where}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return time.perf_counter() - started


def kill_kernels() -> None:
    """End the kernels and their subprocesses, but not the server that registers their end."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if not child.children():
                child.kill()


@contextmanager
def side_by_side(book: Book, pages: list[Page], jobs: int) -> Iterator[dict[Future[float], Page]]:
    """Run notebooks, several at a time; if the loop ends early, no kernel is left behind."""
    stopped = Event()
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run_notebook, book, page, stopped): page for page in pages}
        try:
            yield futures
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures):
                kill_kernels()
                time.sleep(0.1)
            raise


def isolate(out: Path) -> None:
    """Isolate the kernels from the user's own settings and from needless warnings."""
    profile = out / "ipython"
    config = b"c = get_config()\nc.IPKernelApp.log_level = 'CRITICAL'\n"
    write(profile / "profile_default" / "ipython_kernel_config.py", config)
    os.environ.update(ENVIRONMENT, IPYTHONDIR=str(profile))
    # From Python 3.13 on, forked kernels have the path of this process instead of PYTHONPATH.
    sys.path.insert(0, str(ROOT))


def pages_to_run(
    book: Book, patterns: list[str], keys: dict[str, str], status: dict[str, Any]
) -> list[Page]:
    """Pick the chosen pages that have changed, in order of their last run time, longest first."""

    def is_due(page: Page) -> bool:
        chosen = not patterns or any(fnmatch(page.name, pattern) for pattern in patterns)
        current = status.get(page.name, {}).get("key") == keys[page.name]
        return chosen and not (current and book.executed(page).is_file())

    def shortness(page: Page) -> float:
        return -status.get(page.name, {}).get("seconds", float("inf"))

    return sorted(filter(is_due, book.notebooks), key=shortness)


def run_pages(book: Book, patterns: list[str], jobs: int) -> list[str]:
    """Run the chosen pages that have changed; return the names of the pages out of date."""
    status_file = book.out / "executed" / "status.json"
    keys = page_keys(book)
    status = {name: row for name, row in read_json(status_file).items() if name in keys}
    pages = pages_to_run(book, patterns, keys, status)
    if pages:
        kernels.fork_kernels(cell.source for page in pages for cell in code_cells(page.notebook()))
        jobs = min(jobs, len(pages))
        print(f"Notebooks to run: {len(pages)}, {jobs} at a time", flush=True)
    failures: dict[str, str] = {}
    with side_by_side(book, pages, jobs) as futures:
        for number, future in enumerate(as_completed(futures), start=1):
            page = futures[future]
            print(f"[{number}/{len(pages)}] {page.name}", end=" ", flush=True)
            try:
                seconds = future.result()
            except BookError as error:
                print("failed", flush=True)
                failures[page.name] = str(error)
                continue
            print(f"{seconds:.1f} s", flush=True)
            status[page.name] = {
                "key": keys[page.name],
                "notebook": page.source.relative_to(ROOT).as_posix(),
                "parameters": page.parameters,
                "seconds": round(seconds, 2),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            write_json(status_file, status)
    if failures:
        said = [failures[page.name] for page in book.notebooks if page.name in failures]
        raise BookError("\n\n".join([*said, "Not rendered; the pages that ran are kept."]))
    return [page.name for page in pages_to_run(book, [], keys, status)]


# ------------------------------------------------------------------ from the parts to one folder


def with_outputs(fresh: Any, executed: Path) -> Any:
    """Put the outputs of a run into the current notebook, whose prose may have changed."""
    done = nbformat.read(executed, as_version=4)
    for cell, ran in zip(code_cells(fresh), code_cells(done), strict=True):
        cell["outputs"], cell["execution_count"] = ran["outputs"], ran["execution_count"]
    return fresh


def name_as_own(notebook: Any, page: Page) -> None:
    """Give each page of a notebook with several pages its own heading and its own labels."""
    prose = handouts.prose_of(notebook)
    top = "# " + page.heading.replace(": ", "\n\n", 1)
    prose[0]["source"] = re.sub(r"^# .*", lambda _: top, prose[0]["source"], count=1)
    # A label must be unique in the book.
    labels = {name for cell in prose for name in LABEL.findall(cell["source"])}
    for cell in prose:
        for name in labels:
            own = f"{name}-{page.name.rpartition('/')[2]}"
            cell["source"] = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", own, cell["source"])


def offer_to_run(notebook: Any, page: Page) -> None:
    """Link a lesson or a task to services that run notebooks, if the book's address is known."""
    address = (yaml.safe_load((ROOT / "_config.yml").read_text())["repository"] or {}).get("url")
    where = page.source.relative_to(ROOT).as_posix()
    line = handouts.launch_line(where, address or "")
    if line and not page.name.startswith("results/"):
        first = handouts.prose_of(notebook)[0]
        first["source"] = re.sub(
            r"^# .*", lambda top: f"{top[0]}\n\n{line}", first["source"], count=1
        )


def staged_notebook(book: Book, page: Page, outputs: bool) -> bytes:
    """Return a notebook page as it is given to Jupyter Book."""
    notebook = prepare(page)
    if outputs:
        notebook = with_outputs(notebook, book.executed(page))
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)
        part.metadata.pop("execution", None)
    if page.heading:
        name_as_own(notebook, page)
    offer_to_run(notebook, page)
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def staged_files(book: Book, outputs: bool = True) -> dict[str, bytes]:
    """Return every file of the source folder by its name."""
    files = {name: (ROOT / name).read_bytes() for name in ("_config.yml", "_toc.yml")}
    for path in sorted((ROOT / "book").rglob("*")):
        hidden = any(part.startswith((".", "__")) for part in path.parts[len(ROOT.parts) :])
        if path.is_file() and path.suffix != ".py" and not hidden:
            files[path.relative_to(ROOT / "book").as_posix()] = path.read_bytes()
    for page in book.notebooks:
        files[f"{page.name}.ipynb"] = staged_notebook(book, page, outputs)
    if "status.md" in files:
        status = read_json(book.out / "executed" / "status.json")
        table = handouts.status_table(status, [page.name for page in book.pages])
        files["status.md"] = files["status.md"].replace(b"<!-- run times -->", table.encode())
    bibliography = ROOT / "book" / "references.bib"
    files["notebooks.zip"] = handouts.notebooks_zip(ROOT / "notebooks", bibliography)
    return files


def sync(files: dict[str, bytes], folder: Path) -> None:
    """Make a folder contain exactly these files; unchanged files keep their date."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            write(path, content)


def read_tree(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its name."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


# ------------------------------------------------------------------ rendering


def frame_digest(files: dict[str, bytes]) -> str:
    """Hash what is shown on more than one page; if it changes, every page is rendered again."""
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    look = {name: version_of(name) for name in RENDERERS}
    frame: dict[str, Any] = {"versions": versions() | look, "build.py": own}
    for name, content in files.items():
        if name.endswith(".md"):
            shown = TERM_OR_OUTLINE if b"{glossary}" in content else OUTLINE
            frame[name] = shown.findall(content.decode())
        elif name.endswith(".ipynb"):
            cells = json.loads(content)["cells"]
            prose = [cell["source"] for cell in cells if cell["cell_type"] == "markdown"]
            frame[name] = OUTLINE.findall("\n".join(prose))
        elif name.startswith("_") or name.endswith(".bib"):
            frame[name] = hashlib.sha256(content).hexdigest()
    return digest(frame)


def jupyter_book(source: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Call Jupyter Book and capture its output."""
    call = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", call, "build", str(source), "--path-output", str(target)]
    return subprocess.run(
        [*command, *options],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        env=os.environ | ENVIRONMENT,
    )


def complaints(said: str, source: Path) -> str:
    """Extract the warnings and errors from the output of Jupyter Book."""
    lines = COLOURED.sub("", said).replace(f"{source}{os.sep}", "").splitlines()
    picked = [line for line in lines if re.search(r"WARNING|ERROR|CRITICAL|Error:", line)]
    return "\n".join(dict.fromkeys(picked or lines[-30:]))


def mended(rendered: dict[str, bytes]) -> dict[str, bytes]:
    """Correct what Sphinx gets wrong in the pages.

    The entries of a list of citations are not marked as list items, and a link to a notebook in an
    *output* still points to the notebook instead of its page.
    """
    wrong, right = b'<div role="list" class="citation-list">', b'<div class="citation-list">'

    def to_page(folder: str, link: re.Match[bytes]) -> bytes:
        page = posixpath.normpath(posixpath.join(folder, f"{link[1].decode()}.html"))
        return b'href="%s.html' % link[1] if page in rendered else link[0]

    result = dict(rendered)
    for name in rendered:
        if name.endswith(".html"):
            follow = partial(to_page, posixpath.dirname(name))
            result[name] = NOTEBOOK_LINK.sub(follow, rendered[name].replace(wrong, right))
    return result


def render(book: Book) -> None:
    """Render the staged pages; a warning is an error, and only a complete book is published."""
    files = staged_files(book)
    source, work, stamp = book.out / "source", book.out / "render", book.out / "render.json"
    state = {
        "frame": frame_digest(files),
        "files": digest({name: hashlib.sha256(text).hexdigest() for name, text in files.items()}),
    }
    before = read_json(stamp)
    if state == before and (book.out / "html" / "index.html").is_file():
        print(f"Nothing changed: {book.out / 'html' / 'index.html'}")
        return
    # No stamp means that the last rendering failed: Sphinx would not repeat its warnings.
    stamp.unlink(missing_ok=True)
    if before.get("frame") != state["frame"] and work.exists():
        shutil.rmtree(work)
    sync(files, source)
    if (source / "references.md").is_file():
        (source / "references.md").touch()  # this page lists the citations of other pages
    print(f"rendering {len(book.pages)} pages ...", end=" ", flush=True)
    started = time.perf_counter()
    result = jupyter_book(source, work, "--warningiserror", "--keep-going")
    if result.returncode:
        print("failed", flush=True)
        raise BookError(f"Jupyter Book complained:\n{complaints(result.stdout, source)}")
    rendered = read_tree(work / "_build" / "html")
    kept = {name: content for name, content in rendered.items() if not UNUSED.search(name)}
    sync(mended(kept), book.out / "html")
    write_json(stamp, state)
    print(f"{time.perf_counter() - started:.1f} s\nThe book: {book.out / 'html' / 'index.html'}")


def title_of(book: Book, page: Page) -> str:
    """Return the heading of a finished page."""
    text = (book.out / "html" / f"{page.name}.html").read_text(encoding="utf-8")
    heading = re.search(r"<h1>(.*?)(?:<a class=\"headerlink\"|</h1>)", text, re.DOTALL)
    plain = re.sub(r"<[^>]+>", "", heading[1]) if heading else page.name
    return html.unescape(plain).strip()


def print_pdf(book: Book) -> None:
    """Print every page of the finished book and bind them into one file."""
    from pypdf import PdfWriter

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise BookError("A PDF needs Chromium (on Debian and Ubuntu: apt install chromium).")
    # As root, for example in a container, Chromium does not run with its sandbox.
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    options = ["--headless", "--no-pdf-header-footer", "--virtual-time-budget=20000", *root]
    bound = PdfWriter()
    with tempfile.TemporaryDirectory() as folder:
        sheets = Path(folder) / "page.pdf"
        for page in book.pages:
            address = (book.out / "html" / f"{page.name}.html").as_uri()
            call = [browser, *options, f"--print-to-pdf={sheets}", address]
            subprocess.run(call, check=True, capture_output=True, timeout=300)
            bound.append(sheets, outline_item=title_of(book, page))
    content = io.BytesIO()
    bound.write(content)
    write(book.out / "book.pdf", content.getvalue())
    print(f"The PDF: {book.out / 'book.pdf'}")


def check_links(book: Book) -> None:
    """Check every link of the book; the notebooks need not have been run."""
    folder = book.out / "links"
    sync(staged_files(book, outputs=False), folder / "source")
    result = jupyter_book(folder / "source", folder, "--builder", "linkcheck")
    lines = COLOURED.sub("", result.stdout).splitlines()
    broken = [line for line in lines if re.match(r"\(.*\) broken ", line)]
    if broken or result.returncode:
        text = "\n".join(broken) or complaints(result.stdout, folder / "source")
        raise BookError(f"Links that do not work:\n{text}")
    print("Every link works.")


# ------------------------------------------------------------------ command line


def at_least_one(text: str) -> int:
    """Read a number of jobs, at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="book/build.py", description="Run the notebooks that changed and render the book."
    )
    parser.add_argument("--quick", action="store_true", help="each notebook at its smallest")
    parser.add_argument("--only", nargs="+", default=[], metavar="PAGE", help="run only these")
    parser.add_argument(
        "--jobs", type=at_least_one, metavar="N", help="notebooks at a time (the number of cores)"
    )
    parser.add_argument("--pdf", action="store_true", help="print the book, too (needs Chromium)")
    parser.add_argument("--links", action="store_true", help="check links instead of rendering")
    parser.add_argument("--out", type=Path, help="folder to build in (_build, or _build/quick)")
    return parser.parse_args(arguments)


def build(options: argparse.Namespace) -> None:
    """Do what the command line requests."""
    out = options.out or (ROOT / "_build" / "quick" if options.quick else ROOT / "_build")
    book = load_book(out.resolve(), options.quick)
    for pattern in options.only:
        if not any(fnmatch(page.name, pattern) for page in book.notebooks):
            names = ", ".join(page.name for page in book.notebooks)
            raise BookError(f"No notebook page is called {pattern}; there are: {names}")
    if options.links:
        check_links(book)
        return
    isolate(book.out)
    # The cores that this process may use: a container may have fewer than its machine.
    outdated = run_pages(book, options.only, options.jobs or joblib.cpu_count())
    if outdated:
        print(f"Not rendered, these pages are still to be run: {', '.join(outdated)}")
        return
    render(book)
    if options.pdf:
        print_pdf(book)


def main(arguments: list[str] | None = None) -> int:
    """Build the book; return the exit status."""
    options = parse(arguments)
    try:
        build(options)
    except BookError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The pages that ran are kept; the same command goes on from here.")
        return 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("\nThe disk is full. Free some space and run the command again.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
