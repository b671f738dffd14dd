"""The figures of the book: each function draws one picture and returns its axes.

Every error type has the same colour everywhere (Okabe and Ito) and its own marker or line style, so
that the figures can be read without colour. Needs matplotlib and seaborn
(``pip install demix_lite[book]``).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve

from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.errors import DemixError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST_LABEL = 30
"""Maximum characters of a label on one line below a panel in a row of panels."""

INK = "#404040"
"""Colour of the numbers beside the dots: small print in the colour of a dot is hard to read."""

EQUAL_CONTRAST = 0.18
"""Relative luminance at which black and white text can be read equally well (WCAG 2)."""

COLOURS = {
    "none": "#8c8c8c",
    "label": "#0072B2",
    "feature": "#E69F00",
    "spurious": "#009E73",
    "several": "#CC79A7",
}
MARKERS = {"none": ".", "label": "o", "feature": "s", "spurious": "^", "several": "D"}
LINES = {"label": "-", "feature": "--", "spurious": "-."}

SERIES = (
    *(("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^")),
    *(("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P")),
)


def new_axes(width: float = 7.0, height: float = 4.0) -> "Axes":
    """Return the axes of a new figure; sizes in inches.

    Raises
    ------
    DemixError
        If matplotlib or seaborn is not installed.
    """
    axes = _drawing()[0].subplots(figsize=(width, height), layout="constrained")[1]
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _drawing() -> tuple[Any, Any]:
    """Import pyplot and seaborn, which only plotting needs."""
    try:
        import seaborn
        from matplotlib import pyplot
    except ImportError as error:
        raise DemixError(
            "pictures need matplotlib and seaborn; install them with: "
            "pip install 'demix_lite[book]'."
        ) from error
    return pyplot, seaborn


def influence_heatmap(values: Any, kinds: pd.Series) -> "Axes":
    """Draw influence vectors ``(n, M)``, one line per training row; blue: helpful, red: harmful.

    Rows are grouped by error type: ``none``, ``label``, ``feature``, ``spurious`` or ``several``.
    """
    axes = new_axes(7.5, 5.0)
    values = np.asarray(values)
    order = [kind for kind in COLOURS if (kinds == kind).any()]
    rows = np.concatenate([np.flatnonzero(kinds == kind) for kind in order])
    limit = float(np.quantile(np.abs(values), 0.98)) or 1.0
    picture = axes.imshow(
        values[rows], aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest"
    )
    ends = np.cumsum([(kinds == kind).sum() for kind in order])
    starts = np.concatenate([[0], ends[:-1]])
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color="black", linewidth=1)
    axes.set_yticks((starts + ends - 1) / 2, [_said(kind) for kind in order])
    axes.set(xlabel="validation samples", ylabel="training rows")
    bar = axes.figure.colorbar(picture, ax=axes, label="harmful ←  influence (cosine)  → helpful")
    bar.outline.set_visible(False)
    return axes


def error_scatter(points: Any, kinds: pd.Series) -> "Axes":
    """Draw rows as ``points`` of shape ``(n, 2)``, with a colour and a marker per error type."""
    axes = new_axes(6.5, 5.0)
    names = {kind: f"{_said(kind)} ({(kinds == kind).sum()})" for kind in COLOURS}
    order = np.argsort(kinds.map([*COLOURS].index), kind="stable")  # draw errors on top
    said, (x, y) = kinds.map(names).to_numpy()[order], np.asarray(points)[order].T
    how: Any = {"s": 30, "alpha": 0.75, "linewidth": 0, "ax": axes}
    _drawing()[1].scatterplot(
        x=x,
        y=y,
        hue=said,
        style=said,
        palette={names[kind]: colour for kind, colour in COLOURS.items()},
        markers={names[kind]: marker for kind, marker in MARKERS.items()},
        **how,
    )
    axes.set(xticks=[], yticks=[], xlabel="first axis (no unit)", ylabel="second axis (no unit)")
    axes.legend(title="true error (rows)", loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return axes


def precision_recall(probability: pd.DataFrame, flag: pd.DataFrame, errors: pd.DataFrame) -> "Axes":
    """Draw precision against recall per error type; a marker shows the chosen flags."""
    axes = new_axes(6.5, 4.2)
    for kind in (kind for kind in ERROR_TYPES if errors[kind].any()):
        truth, flagged = errors[kind].to_numpy(), flag[kind].to_numpy()
        precision, recall, _ = precision_recall_curve(truth, probability[kind])
        style: Any = {"color": COLOURS[kind], "linestyle": LINES[kind]}
        # The last point of the curve (recall 0, precision 1) belongs to no threshold.
        axes.plot(recall[:-1], precision[:-1], label=f"{kind} ({truth.mean():.0%})", **style)
        hits = (truth & flagged).sum()
        if flagged.any():
            here = (hits / truth.sum(), hits / flagged.sum())
            edge: Any = {"markeredgecolor": "black", "color": COLOURS[kind]}
            axes.plot(*here, marker=MARKERS[kind], markersize=9, linestyle="", **edge)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set(xlabel="recall (share of the errors found)")
    axes.set(ylabel="precision (share of the flags that are right)")
    legend: Any = {"title": "error (share of rows)", "frameon": False}
    if axes.lines:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), **legend)
    return axes


def dots(
    table: pd.DataFrame,
    *,
    unit: str,
    low: pd.DataFrame | None = None,
    high: pd.DataFrame | None = None,
    looks: Mapping[str, tuple[str, str]] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw a table of numbers as labelled dots: rows from top to bottom, one marker per column.

    Parameters
    ----------
    table : DataFrame
        Numbers; NaN is left out.
    unit : str
        Label of the horizontal axis.
    low, high : DataFrame, optional
        Ends of the intervals, same shape.
    looks : mapping, optional
        Maps a column to its colour and marker.
    """
    count = len(table.columns)
    axes = ax or new_axes(7.0, 0.9 + max(0.55, 0.3 * count) * len(table))
    for number, column in enumerate(table.columns):
        colour, marker = (looks or {}).get(column, SERIES[number % len(SERIES)])
        y = np.arange(len(table)) + (number - (count - 1) / 2) * min(0.28, 0.8 / count)
        x = table[column].to_numpy(dtype=float)
        if low is not None and high is not None:
            axes.hlines(y, low[column], high[column], color=colour, linewidth=1.5)
        axes.plot(x, y, marker, color=colour, markersize=7, label=column)
        ends = x if high is None else high[column].to_numpy(dtype=float)
        for end, value, place in zip(ends, x, y, strict=True):
            if np.isfinite(value):
                where: Any = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
                axes.annotate(f"{value:.2f}", (end, place), fontsize=9, color=INK, **where)
    axes.set_yticks(range(len(table)), list(table.index))
    axes.set(xlabel=unit, ylim=(len(table) - 0.4, -0.6))
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.12)
    if count > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return axes


def dot_panels(
    mean: pd.DataFrame,
    half: pd.DataFrame | None = None,
    *,
    unit: str | Mapping[str, str],
    looks: Mapping[str, tuple[str, str]],
    columns: int = 3,
    share: bool = True,
    digits: int = 2,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> "list[Axes]":
    """Draw a table as panels side by side: a panel per column, a dot with interval per row.

    Parameters
    ----------
    mean, half : DataFrame
        Numbers and half-widths of their intervals, same shape; NaN is left out.
    unit : str or mapping
        Label of the horizontal axis, for all panels or per panel.
    looks : mapping
        Maps a row to its colour and marker; other rows are grey circles.
    columns : int
        Maximum number of panels side by side.
    share : bool
        Whether all panels share one scale.
    digits : int
        Decimals of the numbers beside the dots.
    bounds : tuple of float
        Limits at which intervals are cut off: (0, 1) for a share, whose t-interval may exceed it.
    """
    columns = max(1, min(columns, len(mean.columns)))
    lines = -(-len(mean.columns) // columns)
    width = 1.9 + max(1.9 * columns, 5.4)  # narrow, so that the text is large on a page
    size = (width, lines * (0.9 + 0.22 * len(mean)))
    how: Any = {"sharex": share, "sharey": True, "squeeze": False, "layout": "constrained"}
    grid = _drawing()[0].subplots(lines, columns, figsize=size, **how)[1]
    drawn: list[Axes] = []
    for axes, name in zip(grid.flat, mean.columns, strict=False):
        widths = np.zeros(len(mean)) if half is None else half[name].fillna(0).to_numpy(float)
        x, y = mean[name].to_numpy(float), np.arange(len(mean))
        low, high = np.clip([x - widths, x + widths], *bounds)
        look = [looks.get(row, ("#595959", "o")) for row in mean.index]
        colours = [colour for colour, _ in look]
        axes.hlines(y, low, high, color=colours, linewidth=1.5)
        for colour, marker in dict.fromkeys(look):  # one call per look; per dot is slow
            alike = [each == (colour, marker) for each in look]
            axes.plot(x[alike], y[alike], marker, color=colour, markersize=6)
        where: Any = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        for row in np.flatnonzero(np.isfinite(x)):
            style: Any = {"fontsize": 8, "color": INK}
            axes.annotate(_written(x[row], digits), (high[row], row), **style, **where)
        axes.set_yticks(range(len(mean)), list(mean.index))
        axes.set_title(name, fontsize="medium")
        axes.set_ylim(len(mean) - 0.4, -0.6)
        axes.tick_params(labelbottom=True)
        if not share or len(drawn) + columns >= len(mean.columns):  # no panel below
            label = unit if isinstance(unit, str) else unit[str(name)]
            long = columns > 1 and len(label) > LONGEST_LABEL
            axes.set_xlabel(label.replace(" (", "\n(") if long else label)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.2)
        axes.locator_params(axis="x", nbins=4)
        drawn.append(axes)
    for axes in grid.flat[len(drawn) :]:
        axes.set_visible(False)
    return drawn


def _written(value: float, digits: int) -> str:
    """Format a number with ``digits`` decimals, or one significant digit if all would be zero.

    Examples
    --------
    >>> _written(0.0376, 3), _written(0.0004, 3), _written(-1e-12, 3)
    ('0.038', '0.0004', '0.000')
    """
    if 1e-6 <= abs(value) < 0.5 * 10**-digits:
        return f"{value:.1g}"
    return f"{round(value, digits) + 0.0:.{digits}f}"  # no negative zero


def curves(
    mean: pd.DataFrame,
    half: pd.DataFrame | None = None,
    *,
    unit: str,
    xlabel: str,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw a table of numbers as lines: index on the horizontal axis, one line per column.

    Parameters
    ----------
    mean, half : DataFrame
        Numbers and half-widths of their intervals, same shape; NaN is left out.
    unit, xlabel : str
        Labels of the vertical and of the horizontal axis.
    """
    axes = ax or new_axes(7.0, 3.8)
    for number, column in enumerate(mean.columns):
        colour, marker = SERIES[number % len(SERIES)]
        known = mean[column].dropna()
        axes.plot(known.index, known, marker=marker, color=colour, label=column)
        if half is not None:
            width = half[column].reindex(known.index).fillna(0)
            ends: Any = {"color": colour, "linewidth": 1.2}
            axes.vlines(known.index, known - width, known + width, **ends)
    axes.set(xlabel=xlabel, ylabel=unit)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return axes


def confusion(table: pd.DataFrame) -> "Axes":
    """Draw counts of true (rows) against predicted errors (columns), shaded by share of the row."""
    axes = new_axes(6.0, 3.8)
    share = table.div(table.sum(axis=1).clip(lower=1), axis=0)
    counts = table.map("{:,}\n".format) + share.map("{:.0%}".format)
    shown = share.rename(index=_said, columns=_said)
    how: Any = {"cmap": "Blues", "vmin": 0, "vmax": 1, "cbar": False, "ax": axes}
    seaborn = _drawing()[1]
    seaborn.heatmap(shown, annot=counts, fmt="", annot_kws={"fontsize": 9}, **how)
    cells: Any = axes.collections[0]
    for count, colour in zip(axes.texts, cells.get_facecolors(), strict=True):
        light = seaborn.utils.relative_luminance(colour) > EQUAL_CONTRAST
        count.set_color("black" if light else "white")
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel="what the detector says (rows, share per true error)", ylabel="true error")
    return axes


def stage_seconds(seconds: Mapping[str, float]) -> "Axes":
    """Draw how long each stage took, in the order of the stages."""
    axes = new_axes(6.5, 0.9 + 0.3 * len(seconds))
    _drawing()[1].barplot(x=seconds.values(), y=seconds.keys(), color="#56B4E9", ax=axes)
    bars: Any = axes.containers[0]
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.margins(x=0.1)
    axes.set(xlabel="seconds")
    return axes


def _said(kind: str) -> str:
    return "no error" if kind == "none" else kind
