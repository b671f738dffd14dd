"""The chapters of the tasks refuse wrong parameters at once."""

from pathlib import Path

import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

CHAPTERS = Path(__file__).resolve().parent.parent / "notebooks" / "tasks"


@pytest.mark.book
@pytest.mark.slow
@pytest.mark.parametrize(
    ("chapter", "parameters", "sentence"),
    [
        ("tabular", {"sede": 3}, "unknown parameter 'sede'; did you mean 'seed'"),
        ("tabular", {"clean_ratio": 1.5}, "the clean ratio must lie in"),
        ("tabular", {"task": "yelp"}, "yelp is not a tabular task"),
        ("recommendation", {"sede": 3}, "unknown parameter 'sede'; did you mean 'seed'"),
        ("recommendation", {"architecture": "mlp1"}, "unknown architecture of movielens 'mlp1'"),
        ("recommendation", {"task": "adult"}, "adult is not a recommendation task"),
    ],
)
def test_wrong_parameters_are_refused_before_any_work(chapter, parameters, sentence, tmp_path):
    with pytest.raises(PapermillExecutionError) as stop:
        papermill.execute_notebook(
            str(CHAPTERS / f"{chapter}.ipynb"),
            str(tmp_path / "out.ipynb"),
            parameters,
            progress_bar=False,
        )
    assert sentence in stop.value.evalue
    assert stop.value.cell_index <= 6
