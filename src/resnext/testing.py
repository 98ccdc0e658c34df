"""Public fakes for testing code that uses this package, without waiting.

`ConstantEngine` stands behind the same seam as the real engines; `write_tiny_model`
writes a real model file of about 1.5 MB that every command takes; `write_pictures` writes
a folder of labelled pictures that a network, or a child, can tell apart.
"""

from __future__ import annotations

import colorsys
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from resnext import arch, modelfile
from resnext.engines.base import AbstractEngine, Outputs, Signature
from resnext.predictions import Labels
from resnext.preprocess import PreprocessSpec


class ConstantEngine(AbstractEngine):
    """Gives the same logits for every picture; its embedding is the mean pixel value.

    Args:
        logits: (K,) what every picture gets.
        input_size: Side of the pictures it takes, in pixels.
        embedding_size: Length D of the features.
    """

    name: ClassVar[str] = "constant"

    def __init__(
        self, logits: Sequence[float], *, input_size: int = 32, embedding_size: int = 4
    ) -> None:
        signature = Signature(
            input_size=input_size,
            in_chans=3,
            num_classes=len(logits),
            embedding_size=embedding_size,
        )
        super().__init__(signature, precision="fp32", best_batch_size=4)
        self._logits = np.asarray(logits, np.float32)
        self.batch_sizes: list[int] = []

    def _infer(self, batch_nhwc: npt.NDArray[np.uint8]) -> Outputs:
        self.batch_sizes.append(len(batch_nhwc))
        means = batch_nhwc.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
        return Outputs(
            np.tile(self._logits, (len(batch_nhwc), 1)),
            np.tile(means[:, None], (1, self.embedding_size)),
        )


def write_tiny_model(
    path: str | os.PathLike[str],
    *,
    class_names: Sequence[str] = ("cat", "dog"),
    input_size: int = 32,
    seed: int = 0,
) -> Path:
    """Write a real model file with random weights in a few milliseconds.

    Args:
        path: Where to, usually `*.safetensors`.
        class_names: Names of its classes.
        input_size: Side of its input in pixels.
        seed: Of the random weights.

    Returns:
        The path.
    """
    spec = arch.ArchSpec(depth=29, cardinality=1, base_width=1, num_classes=len(class_names))
    rng = np.random.default_rng(seed)
    tensors = {
        key: rng.uniform(0.5, 1.5, shape) if "running_var" in key else rng.normal(0, 0.1, shape)
        for key, shape in arch.tensor_shapes(spec).items()
    }
    document = modelfile.ModelDocument(
        name="tiny",
        architecture=spec,
        labels=Labels(tuple(class_names)),
        preprocess=PreprocessSpec(
            input_size=input_size, resize=input_size, interpolation="bilinear"
        ),
        license="apache-2.0",
        provenance={"weights": "random, for tests"},
    )
    modelfile.write(path, document, tensors, dtype="float16")
    return Path(path)


def write_pictures(
    folder: Path,
    *,
    classes: Sequence[str] = ("red", "green", "blue"),
    per_class: int = 20,
    size: int = 32,
    seed: int = 0,
) -> Path:
    """Write a folder per class with small pictures that are easy to tell apart.

    Each class has a hue (of three: red, green and blue) and a direction of its stripes;
    width, place and brightness of the stripes and some noise differ from picture to picture.

    Args:
        folder: Where to; made if missing.
        classes: Names of the classes, and of the folders.
        per_class: Pictures of each class.
        size: Side of the pictures in pixels.
        seed: Of what is random; the same seed gives the same bytes.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(seed)
    for index, name in enumerate(classes):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            pixels = _stripes(index / len(classes), size, rng)
            Image.fromarray(pixels).save(place / f"{number:04d}.png")
    return folder


def _stripes(share: float, size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw (size, size, 3) stripes whose hue and direction are a share of all there are."""
    down, right = np.mgrid[:size, :size] / size
    across = right * math.cos(math.pi * share) + down * math.sin(math.pi * share)
    waves = np.sin(2 * math.pi * (rng.uniform(2, 5) * across + rng.uniform()))
    color = np.array(colorsys.hsv_to_rgb(share, 0.8, 1.0))
    light = rng.uniform(0.6, 0.8) + 0.2 * waves
    pixels: npt.NDArray[np.float64] = 255 * light[..., None] * color
    pixels += rng.normal(0, 12, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
