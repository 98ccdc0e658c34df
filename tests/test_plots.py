"""The pictures that a run draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")
plots: Any = pytest.importorskip("resnext.training.plots")

pytestmark = pytest.mark.torch

LINE = {"epoch": 1, "loss": 1.0, "lr": 0.1, "val_loss": 1.1, "top1": 40.0, "top5": 90.0}


def colors(path: Path) -> set[tuple[int, ...]]:
    image = Image.open(path).convert("RGB")
    return {color for _, color in image.getcolors(1_000_000)}


@pytest.mark.parametrize("count", [1, 2, 50])
def test_curves_show_losses_accuracy_and_rate(count: int, tmp_path: Path) -> None:
    lines = [LINE | {"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, count + 1)]
    plots.draw_curves(lines, tmp_path / "curves.png")
    found = colors(tmp_path / "curves.png")
    assert {(0x2B, 0x6C, 0xB0), (0xC0, 0x56, 0x21), (0x71, 0x80, 0x96)} <= found


def test_curves_without_evaluation(tmp_path: Path) -> None:
    lines = [{"epoch": 1, "loss": 1.0, "lr": 0.1}, {"epoch": 2, "lr": 0.1}]  # 2: was not finite
    plots.draw_curves(lines, tmp_path / "curves.png")
    assert (0xC0, 0x56, 0x21) not in colors(tmp_path / "curves.png")


@pytest.mark.parametrize("count", [1, 3, 20])
def test_a_batch_is_drawn_as_it_is(count: int, tmp_path: Path) -> None:
    images = np.zeros((count, 8, 8, 3), np.float32)
    images[..., 0] = 1.0
    images[..., 2] = 0.4
    plots.draw_batch(images, ["a"] * count, tmp_path / "batch.png")
    image = Image.open(tmp_path / "batch.png").convert("RGB")
    counted = {color: number for number, color in image.getcolors(1_000_000)}
    share = counted[(255, 0, 102)] / (image.width * image.height)
    assert share > 0.5 or count == 20  # whose second row is not full


def test_names_that_drawing_could_trip_over(tmp_path: Path) -> None:
    names = ["$x_{", "猫", "a\x1b[31mb", "%s\\", "👩‍🚀 " * 30]
    target = np.eye(5, dtype=np.float32)
    labels = [plots.describe_target(row, names, floor=0) for row in target]
    assert "\x1b" not in "".join(labels)
    assert max(map(len, labels)) <= 20
    plots.draw_batch(np.zeros((5, 8, 8, 3), np.float32), labels, tmp_path / "batch.png")


@pytest.mark.parametrize(
    ("target", "floor", "text"),
    [
        ([0.0, 1.0, 0.0], 0.0, "dog"),
        ([0.05, 0.9, 0.05], 0.05, "dog"),  # smoothed
        ([0.7, 0.3, 0.0], 0.0, "cat 0.70\ndog 0.30"),
        ([0.1, 0.2, 0.7], 0.05, "cow 0.70\ndog 0.20"),
        ([0.0, 0.0, 0.0], 0.0, ""),  # of several labels, none
    ],
)
def test_a_target_is_named(target: list[float], floor: float, text: str) -> None:
    names = ("cat", "dog", "cow")
    assert plots.describe_target(np.float32(target), names, floor=floor) == text
