"""The chapters of the tasks refuse wrong parameters at once."""

from pathlib import Path

import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from demix_lite.errors import DemixError

CHAPTERS = Path(__file__).resolve().parent.parent / "notebooks" / "tasks"


def first_error(chapter: Path, parameters: dict) -> tuple[int, Exception]:
    """Run the cells as a kernel does, without the seconds that one takes to start."""
    prepared = papermill.execute_notebook(str(chapter), None, parameters, prepare_only=True)
    names = {}
    for at, cell in enumerate(prepared.cells):
        if cell.cell_type == "code":
            try:
                exec(cell.source, names)
            except Exception as error:
                return at, error
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize(
    ("chapter", "parameters", "sentence"),
    [
        ("tabular", {"sede": 3}, "unknown parameter 'sede'; did you mean 'seed'"),
        ("tabular", {"clean_ratio": 1.5}, "the clean ratio must lie in"),
        ("tabular", {"task": "yelp"}, "yelp is not a tabular task"),
        ("recommendation", {"sede": 3}, "unknown parameter 'sede'; did you mean 'seed'"),
        ("recommendation", {"architecture": "mlp1"}, "unknown architecture of movielens 'mlp1'"),
        ("recommendation", {"task": "adult"}, "adult is not a recommendation task"),
        ("alignment", {"sede": 3}, "unknown parameter 'sede'; did you mean 'seed'"),
        ("alignment", {"architecture": "din"}, "unknown architecture of ultrafeedback 'din'"),
        ("alignment", {"task": "yelp"}, "yelp is not an alignment task"),
    ],
)
def test_wrong_parameters_are_refused_before_any_work(chapter, parameters, sentence):
    at, error = first_error(CHAPTERS / f"{chapter}.ipynb", parameters)
    assert isinstance(error, DemixError)
    assert sentence in str(error)
    assert at <= 6


@pytest.mark.book
@pytest.mark.slow
def test_a_refusal_stops_papermill(tmp_path):
    with pytest.raises(PapermillExecutionError, match="did you mean 'seed'") as stop:
        papermill.execute_notebook(
            str(CHAPTERS / "tabular.ipynb"),
            str(tmp_path / "out.ipynb"),
            {"sede": 3},
            progress_bar=False,
        )
    assert "unknown parameter 'sede'" in stop.value.evalue
    assert stop.value.cell_index <= 6
