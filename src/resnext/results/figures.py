"""[evaluate] What all plots share: colors, axes, and how one is saved.

matplotlib comes with the extras `evaluate` and `train`.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from resnext.files import atomic
from resnext.results.formats import printable

BLUE, ORANGE, GREY, RED = "#2b6cb0", "#c05621", "#718096", "#c53030"
GREEN = "#2f855a"


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Args:
        figure: What was drawn.
        path: Where to.

    Raises:
        OutputError: It cannot be written.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names in a script that the font lacks are drawn as boxes, which says enough.
        warnings.simplefilter("ignore")
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png")
    with atomic(path) as file:
        file.write(buffer.getvalue())


def shorten(name: str, letters: int) -> str:
    """Return a name as text that can be drawn, cut to so many letters."""
    text = printable(name)
    return text if len(text) <= letters else text[: letters - 1] + "…"


def make_plain(axis: Any) -> None:
    """Give an axis a light grid behind what is drawn, and no frame at the top and right."""
    axis.tick_params(labelsize=8)
    axis.grid(color="#e2e8f0", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
