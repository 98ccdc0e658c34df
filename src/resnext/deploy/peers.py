"""[train] torchvision's own preprocessing, to compare ours with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from resnext.preprocess import PreprocessSpec


def transform(spec: PreprocessSpec) -> Callable[[Image.Image], npt.NDArray[np.uint8]]:
    """Return torchvision's transforms for a preprocessing.

    Args:
        spec: In mode "crop" or "squash"; torchvision has no letterbox.

    Returns:
        A function of an RGB picture; it returns (S, S, 3).
    """
    interpolation, size = InterpolationMode(spec.interpolation), spec.input_size
    if spec.mode == "squash":
        steps = [Resize((size, size), interpolation)]
    else:
        steps = [Resize(spec.resize, interpolation), CenterCrop(size)]
    chain = Compose(steps)
    return lambda image: np.asarray(chain(image))
