"""[evaluate] The plot of a benchmark."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from resnext.deploy.benchmark import Report
from resnext.errors import counted
from resnext.results import figures

_COLORS = {
    "fp32": figures.GREY,
    "tf32": "#4a5568",
    "bf16": figures.BLUE,
    "fp16": "#6b46c1",
    "int8": figures.GREEN,
    "auto": "#c9c9c9",  # a runtime's own choice
}


def draw(report: Report, path: Path) -> None:
    """Draw pictures a second as bars, with the slowest and the fastest round.

    Args:
        report: What was measured.
        path: Where to, a PNG.

    Raises:
        OutputError: It cannot be written.
    """
    rows = [row for row in report.rows if row.images_per_s is not None][::-1]
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(rows)), dpi=110, layout="constrained")
    axis = figure.subplots()
    rates = [row.images_per_s or 0 for row in rows]
    spans = [
        [rate - row.low for rate, row in zip(rates, rows, strict=True)],
        [row.high - rate for rate, row in zip(rates, rows, strict=True)],
    ]
    colors = [_COLORS[row.precision] for row in rows]
    axis.barh(range(len(rows)), rates, color=colors, xerr=spans, error_kw={"capsize": 3})
    names = [f"{row.engine}, {row.precision}, batch {row.batch_size}" for row in rows]
    if report.tells_threads:
        names = [
            name + (f", {counted(row.threads, 'thread')}" if row.threads else "")
            for name, row in zip(names, rows, strict=True)
        ]
    axis.set_yticks(range(len(rows)), names, fontsize=8)
    for index, (rate, row) in enumerate(zip(rates, rows, strict=True)):
        axis.text(row.high, index, f"  {rate:.1f}", va="center", fontsize=8)
    axis.set_xlim(0, 1.15 * max((row.high for row in rows), default=1))
    axis.set_xlabel("pictures a second")
    axis.set_title(f"{report.architecture}, {report.input_size} px", fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    figures.save(figure, path)
