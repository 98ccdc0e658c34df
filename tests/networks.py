"""Seeded random networks for the tests of engines, the same with and without torch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext import arch
from resnext.arch import ArchSpec
from resnext.modelfile import ModelDocument
from resnext.predictions import Labels
from resnext.preprocess import PreprocessSpec

Tensors = dict[str, npt.NDArray[np.float32]]


def random_tensors(spec: ArchSpec, *, seed: int) -> Tensors:
    """Draw a `state_dict` whose batch norms do something and whose logits stay near 1."""
    rng = np.random.default_rng(seed)
    return {
        key: _draw(rng, key, shape).astype(np.float32)
        for key, shape in arch.tensor_shapes(spec).items()
    }


def _draw(rng: np.random.Generator, key: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    if key.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) > 1:
        return rng.normal(0, 1 / math.sqrt(math.prod(shape[1:])), shape)
    if key.endswith(".weight"):
        # The last norm of a block is made small, or the sum of 33 blocks would explode.
        return rng.uniform(0.5, 1.5, shape) * (0.3 if "bn3" in key else 1)
    return rng.normal(0, 0.1, shape)


def random_batch(count: int, size: int, *, seed: int) -> npt.NDArray[np.uint8]:
    """Draw pictures (N, S, S, 3), every pixel value as likely."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@cache
def random_network(name: str, size: int) -> tuple[ModelDocument, dict[str, npt.NDArray[Any]]]:
    """Return a network of 7 classes and its tensors, as engines take them."""
    spec = arch.parse(name, num_classes=7)
    document = ModelDocument(
        name="net",
        architecture=spec,
        labels=Labels(tuple("abcdefg")),
        preprocess=preprocessing(size),
    )
    return document, random_tensors(spec, seed=0)


def preprocessing(size: int) -> PreprocessSpec:
    """Return ImageNet's mean and standard deviation at an input size."""
    return PreprocessSpec(input_size=size, resize=size, interpolation="bilinear")


def relative_error(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Return the L2 norm of the difference over that of what was expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with torch on one thread, a number of the whole process.

    In thin networks and small pictures several only wait; and sums of two have other bits.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
