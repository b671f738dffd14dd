"""The figures: they draw what they are given, with labels, markers and units."""

import builtins

import numpy as np
import pandas as pd
import pytest

from demix_lite import plots
from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.errors import DemixError

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _close():
    plt.switch_backend("agg")
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()  # what cannot be drawn fails here
    plt.close("all")


@pytest.fixture
def errors():
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.random((80, 3)) < 0.3, columns=list(ERROR_TYPES))


KINDS = pd.Series(["none", "label", "feature", "none", "several", "spurious"], index=range(10, 16))


def test_every_error_has_a_colour_and_a_shape_of_its_own():
    assert len(set(plots.COLOURS.values())) == len(plots.COLOURS)
    assert len(set(plots.MARKERS.values())) == len(plots.MARKERS)
    assert len(set(plots.LINES.values())) == len(ERROR_TYPES)
    assert set(ERROR_TYPES) < set(plots.COLOURS)
    assert set(plots.COLOURS) == set(plots.MARKERS)


def test_heatmap_sorts_rows_by_error():
    values = np.arange(18.0).reshape(6, 3) / 20
    axes = plots.influence_heatmap(values, KINDS)
    drawn = axes.images[0].get_array()
    assert drawn[:, 0].tolist() == values[[0, 3, 1, 2, 5, 4], 0].tolist()
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == ["no error", "label", "feature", "spurious", "several"]
    low, high = axes.images[0].get_clim()
    assert low == -high, "white is no influence"


def test_heatmap_of_zeros_and_of_one_group():
    axes = plots.influence_heatmap(np.zeros((2, 3)), pd.Series(["none", "none"]))
    assert not axes.lines


def test_scatter_has_one_entry_per_error():
    axes = plots.error_scatter(np.zeros((6, 2)), KINDS)
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert said == ["no error (2)", "label (1)", "feature (1)", "spurious (1)", "several (1)"]


def test_precision_recall_marks_the_flags(errors):
    probability = errors.astype(float) * 0.6 + 0.2
    flag = errors.copy()
    flag["label"] = True
    axes = plots.precision_recall(probability, flag, errors)
    curves, marks = axes.lines[::2], axes.lines[1::2]
    assert {curve.get_linestyle() for curve in curves} == set(plots.LINES.values())
    x, y = marks[0].get_data()
    assert x[0] == 1
    assert y[0] == pytest.approx(errors["label"].mean())
    x, y = marks[1].get_data()
    assert (x[0], y[0]) == (1, 1)


def test_precision_recall_without_errors_or_flags(errors):
    nothing = errors & False
    assert not plots.precision_recall(errors.astype(float), errors, nothing).lines
    assert len(plots.precision_recall(errors.astype(float), nothing, errors).lines) == 3


def test_dots_show_every_number_and_leave_out_what_is_missing():
    table = pd.DataFrame({"ours": [0.5, np.nan], "theirs": [0.25, 0.75]}, index=["a", "b"])
    axes = plots.dots(table, unit="F1", low=table - 0.1, high=table + 0.1)
    assert sorted(text.get_text() for text in axes.texts) == ["0.25", "0.50", "0.75"]
    assert axes.get_xlabel() == "F1"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]


def test_confusion_shows_counts_and_shares():
    table = pd.DataFrame([[3, 1], [0, 0]], index=["none", "label"], columns=["none", "label"])
    said = [text.get_text() for text in plots.confusion(table).texts]
    assert said == ["3\n75%", "1\n25%", "0\n0%", "0\n0%"]


def test_counts_of_the_confusion_can_be_read_on_every_shade():
    rows = [[k, 20 - k] for k in range(21)]
    axes = plots.confusion(pd.DataFrame(rows, columns=["none", "label"]))
    relative_luminance = pytest.importorskip("seaborn.utils").relative_luminance
    for text, colour in zip(axes.texts, axes.collections[0].get_facecolors(), strict=True):
        light, dark = (relative_luminance(c) for c in (colour, text.get_color()))
        light, dark = max(light, dark), min(light, dark)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_stages_stand_in_order():
    axes = plots.stage_seconds({"load": 1.0, "fit": 2.5})
    assert [bar.get_width() for bar in axes.patches] == [1.0, 2.5]
    assert axes.yaxis_inverted()
    assert axes.get_xlabel() == "seconds"


@pytest.mark.parametrize("library", ["matplotlib", "seaborn"])
def test_without_a_library_of_figures_one_sentence(library, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == library:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DemixError, match=r"pip install 'demix_lite\[book\]'"):
        plots.new_axes()
