"""`deploy.peers`: torchvision's transforms, asked for the right thing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from resnext.preprocess import PreprocessSpec

pytestmark = pytest.mark.torch
peers = pytest.importorskip("resnext.deploy.peers", reason="needs torchvision")


def test_a_crop_keeps_the_aspect_ratio_and_a_squash_does_not() -> None:
    image = Image.new("RGB", (60, 30), "black")
    image.paste("white", (0, 0, 10, 30))  # a white bar at the left
    crop = PreprocessSpec(input_size=20, resize=30, interpolation="bilinear")
    squash = PreprocessSpec(input_size=20, resize=20, interpolation="bilinear", mode="squash")
    assert peers.transform(crop)(image).max() == 0  # the bar is cut off
    squashed = peers.transform(squash)(image)
    assert (squashed.shape, squashed.dtype) == ((20, 20, 3), np.uint8)
    assert (squashed[:, :2] == 255).all()
