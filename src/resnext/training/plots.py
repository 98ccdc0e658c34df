"""[train] Pictures of a run: its curves, and what the network sees.

N pictures of S pixels a side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from resnext.results import figures

MAX_PICTURES = 16  # of a batch that are shown
_COLUMNS = 8
_MAX_LETTERS = 20  # of a class name over a picture; more would run into the next
_FEW = 30  # points that each get a mark

Record = Mapping[str, Any]


def draw_curves(records: Sequence[Record], path: Path) -> None:
    """Draw loss, top-1 and learning rate over the epochs.

    Args:
        records: Lines of `metrics.jsonl`, at least one.
        path: Where to, a PNG.

    Raises:
        OutputError: It cannot be written.
    """
    figure = Figure(figsize=(12, 3.4), dpi=110, layout="constrained")
    losses, scores, rates = figure.subplots(1, 3)
    _line(losses, records, "loss", "training", figures.BLUE)
    _line(losses, records, "val_loss", "validation", figures.ORANGE)
    _title(losses, "loss")
    if any(record.get("top1") is not None for record in records):
        _line(scores, records, "top5", "top-5", figures.GREY)
        _line(scores, records, "top1", "top-1", figures.ORANGE)
        best = max(records, key=lambda record: record.get("top1") or -1)
        scores.plot(best["epoch"], best["top1"], "o", color=figures.ORANGE, markersize=7)
        _title(scores, f"validation accuracy, %: best top-1 {best['top1']:.2f}")
    else:
        scores.text(0.5, 0.5, "no validation pictures", ha="center", transform=scores.transAxes)
        scores.axis("off")
    _line(rates, records, "lr", "", figures.GREY)
    _title(rates, "learning rate")
    rates.set_ylim(bottom=0)
    last = records[-1]["epoch"]
    for axis in (losses, scores, rates):
        axis.set_xlim(0.5 if last <= 20 else 0, last + max(0.5, last / 40))
    figures.save(figure, path)


def draw_batch(images: NDArray[np.float32], labels: Sequence[str], path: Path) -> None:
    """Draw the first pictures of a batch as the network gets them.

    Args:
        images: (N, S, S, 3), 0 to 1.
        labels: What to write over each, one class a line.
        path: Where to, a PNG.

    Raises:
        OutputError: It cannot be written.
    """
    count = min(len(images), MAX_PICTURES)
    columns = min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    lines = max(label.count("\n") + 1 for label in labels[:count])
    size = (1.7 * columns, (1.7 + 0.17 * lines) * rows)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, image, label in zip(axes, images[:count], labels, strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(label, fontsize=8, parse_math=False)
    figures.save(figure, path)


def describe_target(target: NDArray[np.float32], names: Sequence[str], *, floor: float) -> str:
    """Name the classes of a target, the largest two, one a line.

    Args:
        target: (K,) shares.
        names: Of the K classes.
        floor: Share that every class has from label smoothing.
    """
    best = [int(index) for index in np.argsort(-target, kind="stable")[:2]]
    shown = [index for index in best if target[index] > floor + 1e-3]
    one = len(shown) == 1
    return "\n".join(
        figures.shorten(names[index], _MAX_LETTERS) + ("" if one else f" {target[index]:.2f}")
        for index in shown
    )


def _line(axis: Any, records: Sequence[Record], key: str, label: str, color: str) -> None:
    points = [(r["epoch"], r[key]) for r in records if r.get(key) is not None]
    if not points:
        return
    epochs, values = zip(*points, strict=True)
    mark = "." if len(points) <= _FEW else ""
    axis.plot(epochs, values, color=color, label=label or None, marker=mark, linewidth=1.5)


def _title(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("epoch", fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    figures.make_plain(axis)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=8, frameon=False)
