"""[evaluate] Plots: confusion, reliability, coverage, classes.

K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resnext.evaluation.calibration import Reliability
from resnext.evaluation.selective import RiskCoverage
from resnext.results import figures

NAMED = 40  # classes up to which each has its name beside the matrix
_MAX_LETTERS = 24
_MOST_CELLS = 300  # a side of the matrix; where there are more classes, several share one
_FAINTEST = 0.3  # of the map of colors: what is rare still differs from white
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # %


def draw_confusion(matrix: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix as shares of each row.

    Args:
        matrix: (K, K), or (K, K + 1) with all other answers in the last column.
        names: Of the K classes.
        path: Where to, a PNG.

    Raises:
        OutputError: It cannot be written.
    """
    count = len(names)
    side = min(4.5 + 0.22 * count, 11.5) if count <= NAMED else 9.5
    figure = Figure(figsize=(side + 1.2, side), dpi=110, layout="constrained")
    axis = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # What never happened is white; a single mistake among hundreds is still to be seen.
    shown = np.ma.masked_equal(100 * _joined(shares), 0)
    low = max(min(float(shown.min()) if shown.count() else 1.0, 50.0), 0.1)
    width, height = matrix.shape[1] - 0.5, count - 0.5
    image = axis.imshow(
        shown, cmap=_blues(), norm=LogNorm(low, 100), interpolation="nearest",
        extent=(-0.5, width, height, -0.5),
    )  # fmt: skip
    columns = [*names, "other"] if matrix.shape[1] > count else list(names)
    if count <= NAMED:
        axis.set_xticks(range(len(columns)), _shortened(columns), rotation=90, fontsize=8)
        axis.set_yticks(range(count), _shortened(names), fontsize=8)
        for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
            label.set_parse_math(False)
        if count <= 12:
            _write_counts(axis, matrix, shares)
    axis.set_xlabel("answer" + ("" if count <= NAMED else f" (number of {len(columns)})"))
    axis.set_ylabel("class" + ("" if count <= NAMED else f" (number of {count})"))
    bar = figure.colorbar(image, ax=axis, shrink=0.7)
    ticks = [low, *(tick for tick in _TICKS if tick >= 1.3 * low)]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" if tick < 100 else "100" for tick in ticks])
    bar.minorticks_off()
    bar.set_label("% of the class's pictures", fontsize=9)
    figures.save(figure, path)


def draw_reliability(
    before: Reliability, after: Reliability, temperatures: tuple[float, float], path: Path
) -> None:
    """Draw confidence against accuracy, as the model is and under the suggested temperature.

    Args:
        before: Under the model's temperature.
        after: Under the suggested one: each half of the pictures by that of the other half.
        temperatures: Both.
        path: Where to, a PNG.

    Raises:
        OutputError: It cannot be written.
    """
    figure = Figure(figsize=(11, 4.6), dpi=110, layout="constrained")
    axes = figure.subplots(2, 2, height_ratios=(3, 1), sharex=True)
    titles = ("as it is: temperature {:.3g}, ECE {:.2f} %",
              "suggested: temperature {:.3g}, cross-fitted ECE {:.2f} %")  # fmt: skip
    for column, (bars, temperature, title) in enumerate(
        zip((before, after), temperatures, titles, strict=True)
    ):
        top, bottom = axes[0, column], axes[1, column]
        left, width = bars.edges[:-1], np.diff(bars.edges)
        some = bars.pictures > 0
        top.plot([0, 1], [0, 1], color=figures.GREY, linewidth=1, linestyle="--")
        top.bar(
            left[some], bars.accuracy[some], width[some],
            align="edge", color=figures.BLUE, edgecolor="white", label="share of right answers",
        )  # fmt: skip
        top.plot(
            bars.confidence[some], bars.accuracy[some], "o", color=figures.ORANGE, markersize=4,
            clip_on=False, zorder=3, label="at their mean confidence",
        )  # fmt: skip
        top.set_title(title.format(temperature, 100 * bars.expected_error), fontsize=10)
        top.set_ylim(0, 1)
        top.set_xlim(0, 1)
        share = bars.pictures / max(bars.pictures.sum(), 1)
        bottom.bar(left, 100 * share, width, align="edge", color=figures.GREY, edgecolor="white")
        bottom.set_xlabel("confidence", fontsize=9)
        figures.make_plain(top)
        figures.make_plain(bottom)
    axes[0, 0].set_ylabel("accuracy", fontsize=9)
    axes[1, 0].set_ylabel("% of pictures", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    figures.save(figure, path)


def draw_coverage(curve: RiskCoverage, chosen: tuple[float, float] | None, path: Path) -> None:
    """Draw accuracy against the share of pictures that get an answer.

    Args:
        curve: All thresholds.
        chosen: Coverage and accuracy of the model's reject threshold, if it has one.
        path: Where to, a PNG.

    Raises:
        OutputError: It cannot be written.
    """
    figure = Figure(figsize=(9.5, 4.2), dpi=110, layout="constrained")
    axis = figure.subplots()
    axis.plot(100 * curve.coverage, 100 * curve.accuracy, color=figures.BLUE, linewidth=1.8)
    if chosen is not None:
        coverage, accuracy = 100 * chosen[0], 100 * chosen[1]
        axis.plot(
            coverage, accuracy, "o", color=figures.RED, markersize=7,
            label=f"reject threshold: {accuracy:.1f} % right of {coverage:.1f} %",
        )  # fmt: skip
        axis.legend(fontsize=9, frameon=False, loc="lower left")
    axis.set_xlim(0, 100)
    # The first few answers jump up and down.
    settled = 100 * curve.accuracy[curve.coverage >= 0.02]
    low = float(settled.min()) if settled.size else 0.0
    axis.set_ylim(max(0.0, low - 5), 101)
    axis.set_xlabel("pictures that get an answer, %", fontsize=9)
    axis.set_ylabel("of these right, %", fontsize=9)
    figures.make_plain(axis)
    figures.save(figure, path)


def draw_classes(
    names: Sequence[str], recall: NDArray[np.float64], spread: NDArray[np.float64], path: Path
) -> None:
    """Draw the accuracy of each class, worst first, with its interval.

    Args:
        names: Of the K classes.
        recall: (K,) share of right answers.
        spread: (K, 2) interval.
        path: Where to, a PNG.

    Raises:
        OutputError: It cannot be written.
    """
    order = np.argsort(recall, kind="stable")
    named = len(names) <= NAMED
    height = 1.2 + 0.24 * len(names) if named else 4.2
    figure = Figure(figsize=(9.5, height), dpi=110, layout="constrained")
    axis = figure.subplots()
    values, bounds = 100 * recall[order], 100 * spread[order]
    reach = np.abs(bounds.T - values)
    places = np.arange(len(names))
    if named:
        axis.barh(places, values, color=figures.BLUE, xerr=reach, ecolor=figures.GREY)
        axis.set_yticks(places, _shortened([names[index] for index in order]), fontsize=8)
        for label in axis.get_yticklabels():
            label.set_parse_math(False)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_xlim(0, 100)
        axis.set_xlabel("accuracy, %", fontsize=9)
    else:
        axis.fill_between(
            places, bounds[:, 0], bounds[:, 1], color=figures.BLUE, alpha=0.2, step="mid"
        )
        axis.step(places, values, where="mid", color=figures.BLUE, linewidth=1.5)
        axis.set_xlim(-0.5, len(names) - 0.5)
        axis.set_ylim(0, 100)
        axis.set_xlabel("classes, worst first", fontsize=9)
        axis.set_ylabel("accuracy, %", fontsize=9)
    figures.make_plain(axis)
    figures.save(figure, path)


def _joined(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return at most `_MOST_CELLS` a side: where several are one, the largest of them."""
    step = -(-max(shares.shape) // _MOST_CELLS)
    for axis in (0, 1):
        shares = np.maximum.reduceat(shares, range(0, shares.shape[axis], step), axis=axis)
    return shares


def _blues() -> Colormap:
    colors = colormaps["Blues"](np.linspace(_FAINTEST, 1, 256))
    return LinearSegmentedColormap.from_list("blues", colors)


def _write_counts(axis: Any, matrix: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            color = "white" if shares[row, column] > 0.2 else "black"
            axis.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)


def _shortened(names: Sequence[str]) -> list[str]:
    return [figures.shorten(name, _MAX_LETTERS) for name in names]
