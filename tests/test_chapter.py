"""The chapter of the tabular tasks refuses wrong parameters at once."""

from pathlib import Path

import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "tasks" / "tabular.ipynb"


@pytest.mark.book
@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"sede": 3}, "unknown parameter 'sede'; did you mean 'seed'"),
        ({"clean_ratio": 1.5}, "the clean ratio must lie in"),
    ],
)
def test_wrong_parameters_are_refused_before_any_work(parameters, sentence, tmp_path):
    with pytest.raises(PapermillExecutionError) as stop:
        papermill.execute_notebook(
            str(CHAPTER), str(tmp_path / "out.ipynb"), parameters, progress_bar=False
        )
    assert sentence in stop.value.evalue
    assert stop.value.cell_index <= 6
