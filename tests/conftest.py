"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# One thread per process, in what the tests start too: `make test` runs several processes, and small
# tensors gain nothing from threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs a CUDA device where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
