"""`deploy.golden`: the same everywhere, and awkward in every way that is claimed."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from resnext.deploy import golden


@pytest.fixture(scope="module")
def drawn() -> dict[str, Image.Image]:
    return {one.name: Image.open(io.BytesIO(one.content)) for one in golden.pictures()}


def test_they_are_the_same_pixels_on_every_machine(drawn: dict[str, Image.Image]) -> None:
    digest = hashlib.sha256()
    for image in drawn.values():
        if (image.format, image.mode) == ("PNG", "RGB"):  # the others are made by Pillow
            digest.update(np.asarray(image).tobytes())
    digest.update(np.asarray(golden.scene(320, 213)).tobytes())
    assert digest.hexdigest() == "432b6d530c3d783ce0a46257b1922ce3d26e74f84b3d63367ecc31a09d2a2484"


def test_they_are_drawn_the_same_twice() -> None:
    assert golden.pictures() == golden.pictures()


def test_names_are_unique_and_state_the_size(drawn: dict[str, Image.Image]) -> None:
    assert len(drawn) == len(golden.pictures())
    for name, image in drawn.items():
        assert name.endswith(f"-{image.width}x{image.height}")


def test_every_mode_and_orientation_is_there(drawn: dict[str, Image.Image]) -> None:
    modes = {image.mode for image in drawn.values()}
    assert {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"} <= modes
    assert {image.getexif().get(0x0112, 1) for image in drawn.values()} == set(range(1, 9))


def test_scenes_differ_and_are_no_plain_areas() -> None:
    first, second = (np.asarray(golden.scene(40, 30, seed=seed)) for seed in (0, 1))
    assert first.shape == second.shape == (30, 40, 3)
    assert (first != second).any()
    assert first.std() > 20
