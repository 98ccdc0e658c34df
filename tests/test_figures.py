"""What the plots of all commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from resnext.errors import OutputError

matplotlib_figure: Any = pytest.importorskip("matplotlib.figure")
figures: Any = pytest.importorskip("resnext.results.figures")


def test_a_name_that_no_font_has_is_drawn_without_a_warning(tmp_path: Path) -> None:
    figure = matplotlib_figure.Figure(figsize=(2, 1), dpi=50)
    axis = figure.subplots()
    axis.set_title("\u0dd4\U0001f9ff")
    figures.make_plain(axis)
    figures.save(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (100, 50)


def test_a_figure_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="none"):
        figures.save(matplotlib_figure.Figure(), tmp_path / "none" / "a.png")


@pytest.mark.parametrize(
    ("name", "drawn"), [("cat", "cat"), ("wolfhound", "wolf…"), ("a\nb", r"a\nb")]
)
def test_a_name_is_cut_to_what_has_room(name: str, drawn: str) -> None:
    assert figures.shorten(name, 5) == drawn
