"""The notebooks run, the book renders without a warning, and it opens without a network."""

import importlib.util
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(
    path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
)

spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
build = importlib.util.module_from_spec(spec)
sys.modules["book_build"] = build
spec.loader.exec_module(build)
handouts = build.handouts


def run_build(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(root / "book" / "build.py"), *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


# ------------------------------------------------------------------ the notebooks as stored


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs"), "clear the outputs before you commit"
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_typed_and_commented(path):
    parameters = papermill.inspect_notebook(str(path))
    assert parameters, "no cell tagged `parameters`"
    for name, parameter in parameters.items():
        assert parameter["inferred_type_name"] != "None", f"{name}: type = default"
        assert parameter["help"], f"{name} has no comment"
    assert parameters["quick"]["inferred_type_name"] == "bool"
    assert parameters["quick"]["default"] == "False"


LESSONS = sorted((ROOT / "notebooks" / "lessons").glob("*.ipynb"))
QUESTION = re.compile(r"^\*\*\d\. ", re.MULTILINE)
ANSWER = re.compile(
    r"<details( class=\"right\")?><summary>(.+?)</summary>\n\n(.+?)\n</details>", re.DOTALL
)


def prose(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_all_its_parts(path):
    text = prose(path)
    for part in ("What you will be able to do", "What you need", "Time and memory"):
        assert f"**{part}**" in text
    assert re.search(r"about \d+ minutes", text)
    for heading in ("Quiz", "Check yourself", "What can go wrong", "Take-away", "References"):
        assert f"\n## {heading}\n" in text
    last = nbformat.read(path, as_version=4).cells[-1]
    assert "remove-cell" in last.metadata.get("tags", [])
    assert last.source.count("assert ") >= 3


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_exercise_has_a_folded_solution(path):
    text = prose(path)
    exercises = re.findall(r"^`{3,}\{exercise\}\n:label: (\S+)$", text, re.MULTILINE)
    solved = re.findall(r"^`{3,}\{solution\} (\S+)\n:class: dropdown$", text, re.MULTILINE)
    assert len(exercises) >= 2
    assert exercises == solved


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_answer_of_a_quiz_is_told_why(path):
    quiz = prose(path).partition("## Quiz\n")[2].partition("## Check yourself")[0]
    questions = QUESTION.split(quiz)[1:]
    assert len(questions) >= 2
    for question in questions:
        answers = ANSWER.findall(question)
        assert len(answers) == question.count("<details") >= 2
        assert sum(bool(right) for right, _, _ in answers) == 1
        assert all(len(why) > 20 for _, _, why in answers)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_asks_to_predict_before_it_shows(path):
    boxes = re.findall(
        r"^```\{admonition\} Predict first\n:class: tip\n\n(.+?)\n```$", prose(path), re.M | re.S
    )
    assert boxes
    assert all(len(box) > 60 for box in boxes)


RESULTS = sorted((ROOT / "notebooks" / "results").glob("*.ipynb"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_page_of_results_answers_before_anything_else(path):
    """The answer is computed, and no figure, table or other code with an output comes before it."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    at = [n for n, cell in enumerate(code) if "in-short" in cell.metadata.get("tags", [])]
    assert len(at) == 1
    assert "**In short**" in code[at[0]].source or "**In short.**" in code[at[0]].source
    assert "plt.show()" not in "".join(cell.source for cell in code[: at[0]])


def test_every_page_is_in_the_table_of_contents():
    book = build.load_book(ROOT / "_build", quick=True)
    shown = {page.source for page in book.pages}
    prose = {path for path in (ROOT / "book").rglob("*.md") if path.name != "README.md"}
    assert (prose | set(NOTEBOOKS)) - shown == set(), "add these pages to _toc.yml"
    assert len({page.name for page in book.pages}) == len(book.pages)


# ------------------------------------------------------------------ the book


@pytest.fixture(scope="module")
def book(book_folder):
    """The whole book, each notebook at its smallest setting."""
    return build.load_book(book_folder, quick=True)


def outputs(path: Path) -> list:
    cells = nbformat.read(path, as_version=4).cells
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.mark.book
@pytest.mark.slow
def test_every_page_is_rendered(book):
    for page in book.pages:
        assert (book.out / "html" / f"{page.name}.html").stat().st_size > 1000
    status = json.loads((book.out / "executed" / "status.json").read_text())
    assert set(status) == {page.name for page in book.notebooks}
    assert all(row["seconds"] > 0 for row in status.values())


@pytest.mark.book
@pytest.mark.slow
def test_notebooks_show_results_and_no_errors_or_warnings(book):
    for page in book.notebooks:
        found = outputs(book.executed(page))
        assert found, f"{page.name} shows nothing"
        assert "error" not in {output.output_type for output in found}
        said = [o.text for o in found if o.output_type == "stream" and o.name == "stderr"]
        assert not any("Warning" in text for text in said), f"{page.name}: {said}"


@pytest.mark.book
@pytest.mark.slow
def test_the_row_of_the_page_of_reproduction_came_out_again(book):
    (page,) = (page for page in book.notebooks if page.name == "results/reproduction")
    said = [o.text for o in outputs(book.executed(page)) if o.output_type == "stream"]
    assert re.search(r"within 0\.01: True", "".join(said))


@pytest.mark.book
@pytest.mark.slow
def test_a_cell_that_checks_the_parameters_shows_nothing(book):
    for page in book.notebooks:
        cells = nbformat.read(book.executed(page), as_version=4).cells
        checks = [c for c in cells if c.cell_type == "code" and "check_parameters(" in c.source]
        assert checks, page.name
        assert [cell.outputs for cell in checks] == [[]] * len(checks), page.name


@pytest.mark.book
@pytest.mark.slow
def test_nothing_says_where_it_was_made(book):
    private = [str(ROOT / "demix_lite"), str(ROOT / "notebooks"), str(book.out), sys.prefix]
    for path in (book.out / "html").rglob("*"):
        if path.suffix in {".html", ".ipynb", ".md", ".js"} and "_static" not in path.parts:
            text = path.read_text(encoding="utf-8")
            assert not [part for part in private if part in text], path.name


FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class References(HTMLParser):
    """Collect what a browser fetches by itself, and the pictures without a description."""

    def __init__(self):
        super().__init__()
        self.fetched, self.mute = [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        address = found.get(FETCHED.get(tag, ""))
        if address and found.get("rel") not in {"canonical", "next", "prev", "index", "search"}:
            self.fetched.append(address)
        alt = found.get("alt") or ""
        if tag == "img" and (not alt or "_images/" in alt):
            self.mute.append(address)


def references(page: Path) -> References:
    parser = References()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


@pytest.mark.book
@pytest.mark.slow
def test_pages_need_no_network(book):
    folder = book.out / "html"
    pages = [page for page in folder.rglob("*.html") if "_static" not in page.parts]
    for page in pages:
        for address in references(page).fetched:
            assert not re.match(r"(https?:)?//", address), f"{page.name} fetches {address}"
            if not address.startswith("data:"):
                target = (page.parent / address.split("?")[0].split("#")[0]).resolve()
                assert target.is_file(), f"{page.name} asks for {address}"
    for sheet in folder.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", text), sheet.name


@pytest.mark.book
@pytest.mark.slow
def test_formulas_are_set_by_the_mathjax_that_comes_along(book):
    pages = [page.read_text(encoding="utf-8") for page in (book.out / "html").rglob("*.html")]
    with_formulas = [text for text in pages if 'class="math' in text]
    assert with_formulas
    assert all("_static/mathjax/tex-chtml.js" in text for text in with_formulas)
    fonts = book.out / "html" / "_static" / "mathjax" / "output" / "chtml" / "fonts" / "woff-v2"
    assert len(list(fonts.glob("*.woff"))) > 20


@pytest.mark.book
@pytest.mark.slow
def test_every_picture_has_a_description(book):
    for page in book.pages:
        mute = references(book.out / "html" / f"{page.name}.html").mute
        assert not mute, f"{page.name}: set mystnb.image.alt in the metadata of the cell"


def test_every_reference_can_be_looked_up():
    entries = re.split(r"^@", (ROOT / "book" / "references.bib").read_text(), flags=re.MULTILINE)
    for entry in entries[1:]:
        assert re.search(r"^  (doi|url|howpublished) = \{", entry, re.MULTILINE), entry


# ------------------------------------------------------------------ what is handed out


LESSON = """Text with {cite:p}`deng2026demix` and a {term}`word`.

```{exercise}
:label: one

What is asked?
```

````{solution} one
:class: dropdown

```python
answer = 6 * 7
```

That.
````

The end."""


def lesson(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="m")])


def sources(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells]


def test_the_code_of_solutions_is_found_and_run_last():
    assert handouts.solutions(lesson(LESSON)) == ["answer = 6 * 7"]
    run = handouts.with_solutions_run(lesson(LESSON))["cells"][-1]
    assert run["source"] == "answer = 6 * 7"
    assert run["metadata"]["tags"] == ["remove-cell"]


def test_an_exercise_notebook_has_room_and_no_solution():
    known = {"deng2026demix": ("Deng et al.", "2026")}
    solved = "".join(sources(handouts.for_jupyter(lesson(LESSON), known, solved=True)))
    assert "(Deng et al., 2026) and a word." in solved
    assert "<details><summary>Solution</summary>" in solved
    asked, room, rest = sources(handouts.for_jupyter(lesson(LESSON), known, solved=False))
    assert asked.endswith("**Exercise.** What is asked?")
    assert room == "# Your solution\n"
    assert rest == "The end."


def test_the_zip_holds_every_notebook_and_every_lesson_as_exercises():
    archive = handouts.notebooks_zip(ROOT / "notebooks", ROOT / "book" / "references.bib")
    assert archive == handouts.notebooks_zip(ROOT / "notebooks", ROOT / "book" / "references.bib")
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        names = set(opened.namelist())
        exercises = {f"notebooks/exercises/{path.name}" for path in LESSONS}
        notebooks = {f"notebooks/{p.relative_to(ROOT / 'notebooks').as_posix()}" for p in NOTEBOOKS}
        assert names == exercises | notebooks
        for name in names:
            read = nbformat.reads(opened.read(name).decode(), as_version=4)
            nbformat.validate(read)
            text = "\n".join(cell.source for cell in read.cells if cell.cell_type == "markdown")
            assert not re.search(
                r"\{(cite|term|doc|exercise|solution|note|admonition|image)\b", text
            ), name
            assert name not in exercises or "Solution</summary>" not in text


@pytest.mark.parametrize("address", ["", "https://example.org/a/b", "https://github.com/a"])
def test_without_an_address_nothing_is_offered_to_run(address):
    assert handouts.launch_line("notebooks/lessons/traps.ipynb", address) == ""


def test_one_address_opens_a_notebook_in_both_services():
    line = handouts.launch_line("notebooks/lessons/traps.ipynb", "https://github.com/me/book")
    assert (
        "colab.research.google.com/github/me/book/blob/main/notebooks/lessons/traps.ipynb" in line
    )
    assert "mybinder.org/v2/gh/me/book/main?urlpath=lab/tree/notebooks/lessons/traps.ipynb" in line


def test_the_landing_page_lists_the_course_in_order_with_the_minutes_of_its_lessons():
    index = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \d+ \| \{doc\}`lessons/(\w+)` \|.*\| (\d+) \|$", index, re.MULTILINE)
    names = [page.name for page in build.load_book(ROOT / "_build", quick=True).pages]
    lessons = [name.removeprefix("lessons/") for name in names if name.startswith("lessons/")]
    assert [name for name, _ in listed] == lessons
    for name, minutes in listed:
        assert f"about {minutes} minutes" in prose(ROOT / "notebooks" / "lessons" / f"{name}.ipynb")


@pytest.mark.book
@pytest.mark.slow
def test_the_status_page_names_every_page_that_was_run(book):
    text = (book.out / "html" / "status.html").read_text(encoding="utf-8")
    for page in book.notebooks:
        assert f'href="{page.name}.html"' in text


# ------------------------------------------------------------------ book/build.py, on a tiny book


def notebook(*code: str) -> str:
    new = nbformat.v4
    parameters = "quick: bool = False  # the smallest setting"
    cells = [new.new_markdown_cell("# A lesson", id="m")]
    cells.append(new.new_code_cell(parameters, id="p", metadata={"tags": ["parameters"]}))
    cells += [new.new_code_cell(source, id=f"c{i}") for i, source in enumerate(code)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.writes(new.new_notebook(cells=cells, metadata=metadata))


@pytest.fixture
def tiny(tmp_path):
    """A book of one page of prose, one lesson and the references, with its own package."""
    root = tmp_path / "tiny"
    for name in ("book", "demix_lite", "notebooks"):
        (root / name).mkdir(parents=True)
    for name in (
        "pyproject.toml",
        "_config.yml",
        "book/build.py",
        "book/handouts.py",
        "book/kernels.py",
        "book/references.bib",
    ):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    toc = {"format": "jb-book", "root": "index", "chapters": []}
    toc["chapters"] = [{"file": "lesson"}, {"file": "references"}]
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    (root / "demix_lite" / "__init__.py").write_text("answer = 6 * 7\n")
    (root / "book" / "index.md").write_text("# Tiny\n\n{cite:p}`lee2019settransformer`\n")
    (root / "book" / "references.md").write_text("# References\n\n```{bibliography}\n```\n")
    lesson = notebook("import demix_lite", "print('quick' if quick else 'full', demix_lite.answer)")
    (root / "notebooks" / "lesson.ipynb").write_text(lesson)
    return root


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def built(root: Path, *arguments: str) -> str:
    done = run_build(root, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.book
@pytest.mark.slow
def test_what_other_pages_show_is_part_of_the_frame(monkeypatch):
    page = "# Words\n\n```{glossary}\nclean ratio\n    The share of clean rows.\n```\n"

    def frame(text=page):
        return build.frame_digest({"glossary.md": text.encode()})

    before = frame()
    assert frame(page.replace("The share", "A share")) == before
    assert frame(page.replace("\nclean ratio", "\nshare of clean rows")) != before
    assert frame(page.replace("# Words", "# Terms")) != before
    monkeypatch.setattr(build, "version_of", lambda name: "new" if name == "sphinx" else "old")
    one = frame()
    monkeypatch.setattr(build, "version_of", lambda name: "old")
    assert frame() != one


def test_only_what_changed_is_done_again(tiny):
    html = tiny / "_build" / "html"
    first = built(tiny)
    assert "[1/1] lesson" in first
    assert "rendering 3 pages" in first
    assert "full 42" in (html / "lesson.html").read_text()

    assert built(tiny).startswith("Nothing changed")

    replace(tiny / "notebooks" / "lesson.ipynb", "# A lesson", "# A better lesson")
    prose = built(tiny)
    assert "[1/1] lesson" not in prose
    assert "A better lesson" in (html / "index.html").read_text(), "the side bar is stale"
    assert "full 42" in (html / "lesson.html").read_text()

    before = (html / "lesson.html").stat().st_mtime_ns
    replace(tiny / "book" / "index.md", "{cite:p}", "{cite:p}`lin2017focal`, {cite:p}")
    built(tiny)
    assert "ense object" in (html / "references.html").read_text()
    assert (html / "lesson.html").stat().st_mtime_ns == before

    (tiny / "demix_lite" / "__init__.py").write_text("answer = 43\n")
    assert "[1/1] lesson" in built(tiny)
    assert "full 43" in (html / "lesson.html").read_text()


@pytest.mark.book
@pytest.mark.slow
def test_a_failing_cell_is_named_and_nothing_is_published(tiny):
    replace(tiny / "notebooks" / "lesson.ipynb", 'import demix_lite"', '1 / 0"')
    done = run_build(tiny)
    assert done.returncode == 1
    assert "notebooks/lesson.ipynb failed, cell 3:\n    1 / 0\nZeroDivisionError" in done.stderr
    assert "\nraised by: 1 / 0\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tiny / "_build" / "html").exists()
    assert not list((tiny / "_build" / "executed").rglob("*.ipynb"))
    assert (tiny / "_build" / "failed" / "lesson.ipynb").is_file()


def test_a_failure_is_described_without_colours():
    trace = [
        "\x1b[31m-----------\x1b[39m",
        "\x1b[31mZeroDivisionError\x1b[39m   Traceback (most recent call last)",
        "\x1b[36mCell\x1b[39m\x1b[36m \x1b[39m\x1b[32mIn[3]\x1b[39m\x1b[32m, line 2\x1b[39m",
        "\x1b[32m      1\x1b[39m x = \x1b[32m0\x1b[39m",
        "\x1b[32m----> \x1b[39m\x1b[32m2\x1b[39m \x1b[32;43m1\x1b[39;49m / x",
    ]
    error = PapermillExecutionError(2, 3, "x = 0\n1 / x", "ZeroDivisionError", "by zero", trace)
    assert build.describe_failure(error) == (
        "cell 3:\n    x = 0\n    1 / x\nZeroDivisionError: by zero\nraised by: 1 / x"
    )
    assert build.describe_failure(RuntimeError("Kernel died")) == "RuntimeError: Kernel died"


MEETING = """
import os, pathlib, time
pathlib.Path("{here}").write_text(os.environ["OMP_NUM_THREADS"])
while not pathlib.Path("{there}").exists():
    time.sleep(0.05)
"""


@pytest.mark.book
@pytest.mark.slow
def test_pages_run_side_by_side_with_one_thread_each(tiny):
    for name, other in (("lesson", "other"), ("other", "lesson")):
        waits = notebook(MEETING.format(here=f"{name}.txt", there=f"{other}.txt"))
        (tiny / "notebooks" / f"{name}.ipynb").write_text(waits)
    (tiny / "notebooks" / "wrong.ipynb").write_text(notebook("1 / 0"))
    replace(tiny / "_toc.yml", "- file: lesson", "- file: wrong\n- file: lesson\n- file: other")
    done = run_build(tiny, "--jobs", "3")
    assert done.returncode == 1
    first, *pages = done.stdout.splitlines()
    assert first == "Notebooks to run: 3, 3 at a time"
    assert [line.split()[0] for line in pages] == ["[1/3]", "[2/3]", "[3/3]"]
    assert sum(line.endswith("] wrong failed") for line in pages) == 1
    assert "notebooks/wrong.ipynb failed, cell 3:" in done.stderr
    status = json.loads((tiny / "_build" / "executed" / "status.json").read_text())
    assert set(status) == {"lesson", "other"}
    for name in status:
        assert (tiny / "notebooks" / f"{name}.txt").read_text() == "1"


@pytest.mark.book
@pytest.mark.skipif(sys.platform != "linux", reason="kernels are copied on Linux only")
def test_a_kernel_is_born_with_what_its_page_imports(tiny):
    lesson = notebook("import sys\nprint('there:', 'mailbox' in sys.modules)\nimport mailbox")
    (tiny / "notebooks" / "lesson.ipynb").write_text(lesson)
    built(tiny, "--only", "lesson")
    assert "there: True" in (tiny / "_build" / "executed" / "lesson.ipynb").read_text()
    (tiny / "demix_lite" / "__init__.py").write_text("answer = (")
    (tiny / "notebooks" / "lesson.ipynb").write_text(notebook("import demix_lite"))
    done = run_build(tiny)
    assert done.returncode == 1
    assert "SyntaxError: '(' was never closed" in done.stderr


@pytest.mark.book
def test_a_kernel_whose_port_was_taken_is_started_again(tiny):
    (tiny / "book" / "taken.py").write_text(
        "import socket, sys\n"
        "import build\n"
        "from jupyter_client.connect import LocalPortCache\n"
        "taken = socket.create_server(('127.0.0.1', 0))\n"
        "ports, free = [taken.getsockname()[1]], LocalPortCache.find_available_port\n"
        "def find(cache, ip):\n"
        "    return ports.pop() if ports else free(cache, ip)\n"
        "LocalPortCache.find_available_port = find\n"
        "if __name__ == '__main__':\n"
        "    status = build.main(['--only', 'lesson'])\n"
        "    sys.exit(status or bool(ports))\n"
    )
    command = [sys.executable, str(tiny / "book" / "taken.py")]
    done = subprocess.run(command, cwd=tiny, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Address already in use" in done.stderr


@pytest.mark.book
@pytest.mark.slow
def test_an_interruption_leaves_no_kernel_and_nothing_half_written(tiny):
    endless = notebook(
        "import os, pathlib, time",
        "pathlib.Path(f'{os.getpid()}.pid').touch()\nwhile True: time.sleep(1)",
    )
    for name in ("lesson", "other", "third"):
        (tiny / "notebooks" / f"{name}.ipynb").write_text(endless)
    replace(tiny / "_toc.yml", "- file: lesson", "- file: lesson\n- file: other\n- file: third")
    command = [sys.executable, str(tiny / "book" / "build.py"), "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(1200):
        kernels = [int(path.stem) for path in (tiny / "notebooks").glob("*.pid")]
        if len(kernels) == 2 or process.poll() is not None:
            break
        time.sleep(0.1)
    assert all(psutil.pid_exists(kernel) for kernel in kernels)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "goes on from here" in out
    assert len(kernels) == len(list((tiny / "notebooks").glob("*.pid"))) == 2
    assert not any(psutil.pid_exists(kernel) for kernel in kernels)
    assert not list((tiny / "_build").rglob("*.ipynb"))


@pytest.mark.parametrize("jobs", ["0", "-1", "two", "1.5"])
def test_a_number_of_jobs_that_is_none_is_refused(jobs, capsys):
    with pytest.raises(SystemExit):
        build.parse([f"--jobs={jobs}"])
    assert f"--jobs: {jobs} is not a whole number from 1 on" in capsys.readouterr().err


@pytest.mark.book
@pytest.mark.slow
def test_a_warning_stays_an_error_until_it_is_mended(tiny):
    index = tiny / "book" / "index.md"
    index.write_text("# Tiny\n\n{cite:p}`nobody2020`\n")
    for _ in range(2):  # the second time Sphinx would have forgotten it
        done = run_build(tiny)
        assert done.returncode == 1
        assert 'index.md:3: WARNING: could not find bibtex key "nobody2020"' in done.stderr
        assert not (tiny / "_build" / "html").exists()
    index.write_text("# Tiny\n\n{cite:p}`lee2019settransformer`\n")
    built(tiny)


@pytest.mark.book
def test_only_runs_the_named_pages_and_says_what_is_missing(tiny):
    shutil.copy(tiny / "notebooks" / "lesson.ipynb", tiny / "notebooks" / "other.ipynb")
    replace(tiny / "_toc.yml", "- file: lesson", "- file: lesson\n- file: other")
    assert "Not rendered, these pages are still to be run: other" in built(tiny, "--only", "lesson")
    done = run_build(tiny, "--only", "lessons")
    assert done.returncode == 1
    assert "No notebook page is called lessons; there are: lesson, other" in done.stderr


def test_a_page_without_a_source_is_named(tiny):
    replace(tiny / "_toc.yml", "- file: lesson", "- file: lesson\n- file: absent")
    done = run_build(tiny)
    assert done.returncode == 1
    assert "neither book/absent.md nor notebooks/absent.ipynb" in done.stderr


def test_a_notebook_without_the_parameter_is_refused(tiny):
    replace(tiny / "notebooks" / "lesson.ipynb", "quick: bool", "fast: bool")
    done = run_build(tiny, "--quick")
    assert done.returncode == 1
    assert "notebooks/lesson.ipynb has no parameter quick" in done.stderr


def test_a_full_disk_and_an_interruption_end_in_one_sentence(monkeypatch, capsys):
    def full(options):
        raise OSError(build.errno.ENOSPC, "No space left on device")

    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build", full)
    assert build.main([]) == 1
    assert "The disk is full" in capsys.readouterr().err
    monkeypatch.setattr(build, "build", interrupted)
    assert build.main([]) == 130
    assert "goes on from here" in capsys.readouterr().out
