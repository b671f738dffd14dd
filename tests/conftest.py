"""What all tests share."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# One thread per process, in what the tests start too: `make test` runs several processes, and small
# tensors gain nothing from threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell lets what it starts in the background ignore interruptions; what the tests start and
# interrupt must not inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time: a red test is red for everyone.
settings.register_profile("demix", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("demix")


@pytest.fixture(scope="session")
def root() -> Path:
    """The top level of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Keep PyTorch to one thread: small tensors gain nothing from more, and wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Learn little: a few trees, a few steps, and intervals from a few draws."""
    from demix_lite.debugger import evidence
    from demix_lite.detector import second_pass, shortcuts

    for trees in (second_pass.CONSENSUS_TREES, second_pass.SUPPORT_TREES):
        patch.setitem(trees, "max_iter", 8)
    patch.setattr(shortcuts, "STEPS", 40)
    patch.setattr(evidence, "DRAWS", 20)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not look at what the verdicts are worth."""
    hurry(monkeypatch)


@pytest.fixture(scope="session")
def book_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the whole book, each notebook at its smallest: once, however many processes ask."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    out, verdict = shared / "book", shared / "book.txt"
    with FileLock(shared / "book.lock"):
        if not verdict.exists():
            command = [sys.executable, "book/build.py", "--quick", "--out", str(out)]
            done = subprocess.run(command, cwd=root, capture_output=True, text=True)
            verdict.write_text(done.stdout + done.stderr if done.returncode else "")
    assert not verdict.read_text(), verdict.read_text()
    return out


BOOK_FIRST, NEED_THE_BOOK = "test_book.py", ("test_browser.py", "test_prose.py")
"""The file that builds the book, which takes longest, and those that read it."""

WHILE_READ = "test_q"
"""Files from here on, by name, come after those that read the book: enough before them that nobody
waits for the book, enough after them that nobody stands idle at the end."""

LONG = ("test_suite.py", "test_twin.py")
"""Of those the ones that take a minute; whoever came to one last would be waited for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Read the book when it is built; leave out what needs a missing GPU."""

    def turn(item: pytest.Item) -> tuple[float, bool]:
        name = item.path.name
        if name in NEED_THE_BOOK:
            return 1 + NEED_THE_BOOK.index(name) / 2, "book_folder" in item.fixturenames
        if name == BOOK_FIRST:
            return -1, False
        return (3 - (name in LONG) if name > WHILE_READ else 0, False)

    items.sort(key=turn)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
