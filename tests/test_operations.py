"""The operations of RandAugment, pixel by pixel those of timm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext.training.operations import OPERATIONS, Strength

NAMES = {  # timm's, where they are others
    "TranslateX": "TranslateXRel",
    "TranslateY": "TranslateYRel",
} | {
    name: f"{name}Increasing"
    for name in ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
}
ALIKE = {"AutoContrast", "Equalize", "Invert"}  # at every level
FILL = (124, 116, 104)


def picture(width: int = 50, height: int = 37) -> Image.Image:
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 220, width)[None, :, None] * np.ones((height, 1, 3))
    noise = rng.normal(0, 25, (height, width, 3))
    return Image.fromarray((ramp + noise).clip(0, 255).astype(np.uint8))


def by_timm(name: str, level: float, sign: int, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    timm: Any = pytest.importorskip("timm.data.auto_augment")
    monkeypatch.setattr(timm, "_randomly_negate", lambda value: sign * value)
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    operation = timm.AugmentOp(NAMES.get(name, name), prob=1.0, magnitude=level, hparams=hparams)
    made: Image.Image = operation(picture())
    return made


@pytest.mark.torch
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("level", [0, 0.4, 6, 7, 7.3, 9.9])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_is_timm_s(
    name: str, level: float, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = OPERATIONS[name](picture(), Strength(level=level, sign=sign, fill=FILL))
    assert np.array_equal(found, by_timm(name, level, sign, monkeypatch))


@pytest.mark.torch
def test_there_are_as_many_as_in_timm() -> None:
    timm: Any = pytest.importorskip("timm.data.auto_augment")
    theirs = timm.rand_augment_choices("", increasing=True)
    assert [NAMES.get(name, name) for name in OPERATIONS] == theirs


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - ALIKE))
def test_a_higher_level_does_more(name: str) -> None:
    plain = np.asarray(picture()).astype(float)

    def change(level: float) -> float:
        return float(np.abs(OPERATIONS[name](picture(), Strength(level=level)) - plain).mean())

    assert change(2) < change(9)


def test_two_bits_stay_at_level_seven() -> None:
    found = OPERATIONS["Posterize"](picture(), Strength(level=7))
    assert set(np.unique(np.asarray(found))) == {0, 64, 128, 192}


def test_nothing_stays_at_the_highest_level() -> None:
    found = OPERATIONS["Posterize"](picture(), Strength(level=10))
    assert not np.asarray(found).any()


def test_what_comes_in_has_the_color_asked_for() -> None:
    found = np.asarray(OPERATIONS["TranslateX"](picture(), Strength(level=10, fill=FILL)))
    assert (found[:, -20:] == FILL).all()
