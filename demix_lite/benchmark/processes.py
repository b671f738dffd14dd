"""Run work of the benchmark in parallel processes."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from joblib import Parallel, cpu_count
from tqdm import tqdm


def side_by_side(work: Sequence[Any], what: str, jobs: int | None = None) -> Iterator[Any]:
    """Yield the results of delayed calls, in their order, with a progress bar named ``what``.

    ``work`` has calls made with ``joblib.delayed``; ``jobs`` of them run at a time, by default one
    per core.

    Examples
    --------
    >>> from joblib import delayed
    >>> list(side_by_side([delayed(abs)(-1), delayed(abs)(-2)], "numbers", jobs=1))
    [1, 2]
    """
    done = Parallel(n_jobs=jobs or cpu_count(), return_as="generator")(work)
    with warnings.catch_warnings():
        # joblib replaces workers whose memory has grown large; this is intended.
        warnings.filterwarnings("ignore", message="A worker stopped")
        yield from tqdm(done, total=len(work), desc=what, disable=None)
