"""Work of the benchmark, spread over the cores."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from joblib import Parallel, cpu_count
from tqdm import tqdm


def side_by_side(work: Sequence[Any], what: str, jobs: int | None = None) -> Iterator[Any]:
    """Yield what calls return, in their order, with a progress bar named ``what``.

    ``work`` are calls that joblib delayed, ``jobs`` how many run at a time (by default one a core).

    Examples
    --------
    >>> from joblib import delayed
    >>> list(side_by_side([delayed(abs)(-1), delayed(abs)(-2)], "numbers", jobs=1))
    [1, 2]
    """
    done = Parallel(n_jobs=jobs or cpu_count(), return_as="generator")(work)
    with warnings.catch_warnings():
        # joblib exchanges workers that have grown large, which is meant to be.
        warnings.filterwarnings("ignore", message="A worker stopped")
        yield from tqdm(done, total=len(work), desc=what, disable=None)
