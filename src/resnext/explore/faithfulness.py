"""How much a map tells: take its highest pixels away, or bring them back.

Deletion: the probability of the class as the highest-ranked pixels are replaced, a share more
at each step; the sooner it falls, the smaller the area. Insertion: the reverse, from nothing;
the sooner it rises, the larger the area (Petsiuk et al., arXiv:1806.07421, section 3.3). What
stands in for a pixel, in both, is the same one of the picture blurred: no edges to be mistaken
for something, unlike black.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from resnext.engines.base import AbstractEngine
from resnext.errors import ConfigError
from resnext.explore.cam import enlarge
from resnext.predictions import probabilities

STEPS = 16
# Standard deviation of the blur over the side of the input: 14 pixels of 224, which leaves
# no object recognizable.
BLUR = 1 / 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Faithfulness:
    """What a map is worth.

    Args:
        deletion: Area under the deletion curve, 0 to 1; small is good.
        insertion: Area under the insertion curve, 0 to 1; large is good.
        deletion_curve: (STEPS + 1,) probability of the class, by the share deleted.
        insertion_curve: (STEPS + 1,) probability of the class, by the share inserted.
    """

    deletion: float
    insertion: float
    deletion_curve: NDArray[np.float64]
    insertion_curve: NDArray[np.float64]


def measure(
    engine: AbstractEngine,
    pixels: NDArray[np.uint8],
    values: NDArray[np.float32],
    target: int,
    *,
    steps: int = STEPS,
    temperature: float = 1.0,
) -> Faithfulness:
    """Measure how faithful a map is to the network.

    Args:
        engine: The network; it computes 2 * (steps + 1) pictures.
        pixels: (S, S, 3) what the network saw.
        values: (h, w) the map.
        target: Class that the map is about.
        steps: Number of equal shares that the pixels are divided into, at least 1.
        temperature: Divides the logits.

    Raises:
        ConfigError: There is no step.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}; expected at least 1")
    size = len(pixels)
    rank = np.empty(size * size, np.int64)
    rank[np.argsort(-enlarge(values, size).ravel(), kind="stable")] = np.arange(size * size)
    kept = np.linspace(0, size * size, steps + 1).round()
    first = (rank < kept[:, None]).reshape(-1, size, size, 1)  # the highest-ranked so many
    blurred = blur(pixels)
    batch = np.concatenate([np.where(first, blurred, pixels), np.where(first, pixels, blurred)])
    logits = engine.run(batch).logits
    curve = probabilities(logits, temperature=temperature)[:, target]
    deletion, insertion = curve[: steps + 1], curve[steps + 1 :]
    return Faithfulness(
        deletion=_area(deletion),
        insertion=_area(insertion),
        deletion_curve=deletion,
        insertion_curve=insertion,
    )


def blur(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blur (S, S, 3) pixels beyond recognition: what stands in for pixels taken away."""
    radius = len(pixels) * BLUR
    return np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _area(curve: NDArray[np.float64]) -> float:
    return float(np.trapezoid(curve) / (len(curve) - 1))
