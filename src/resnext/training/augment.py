"""[train] Random crops and flips to train with, normalized as in use.

Source: the scale and aspect-ratio augmentation of arXiv:1409.4842, which section 4 of the
ResNeXt paper uses; the transforms are torchvision's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from resnext import images
from resnext.preprocess import PreprocessSpec

CROP_AREA = (0.08, 1.0)  # share of the picture


class RandomCropTransform:
    """A random crop of random shape, resized and maybe mirrored, as (3, S, S) float32.

    Args:
        spec: Gives the input size, the filter, the mean and the standard deviation.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        self.spec = spec
        self._random = v2.Compose(
            [
                v2.PILToTensor(),
                v2.RandomResizedCrop(
                    spec.input_size,
                    scale=CROP_AREA,
                    interpolation=v2.InterpolationMode(spec.interpolation),
                    antialias=True,
                ),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(spec.mean, spec.std),
            ]
        )

    def __call__(self, image: Any) -> Tensor:
        """Draw from one picture: path, bytes, PIL image or (H, W, 3) uint8 array.

        Raises:
            ImageError: It cannot be read.
        """
        rgb = images.open_rgb(image, orientation=self.spec.orientation)
        drawn: Tensor = self._random(rgb)
        return drawn

    def __repr__(self) -> str:
        return f"RandomCropTransform({self.spec})"
