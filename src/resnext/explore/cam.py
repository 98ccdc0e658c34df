"""Class activation maps: which places of a picture speak for a class.

The last feature maps are averaged over their places and then weighed by one linear layer, so
weighing them first says exactly what each place adds (arXiv:1512.04150): the mean of the map
plus the bias of the class is the logit. Needs no gradient and no torch.

Legend: D feature maps of h x w places, S input size, H x W pixels of the picture.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext import predictions, preprocess
from resnext.classifier import Classifier
from resnext.engines import select
from resnext.errors import ConfigError, ImageError
from resnext.predictions import Prediction
from resnext.preprocess import PreprocessSpec
from resnext.weights import read_tensors

Box = tuple[float, float, float, float]  # left, top, right, bottom, between pixels

_HEAT = np.array([[30, 100, 230], [64, 170, 220], [250, 220, 80], [240, 120, 40], [220, 20, 15]])
_LUMA = (0.299, 0.587, 0.114)  # of R, G and B (ITU-R BT.601)
_OPACITY = 0.6  # of the hottest place
_DIMMED = 0.35  # brightness of what the network did not see
_BAND_PIXELS = 500_000  # blended at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationMap:
    """Where one picture speaks for one class.

    Args:
        name: Of the picture.
        target: The class, with the probability that the model gives it.
        values: (h, w) float32, what each place adds to the logit of the class, times h * w;
            below zero it speaks against.
        pixels: (S, S, 3) what the network saw.
    """

    name: str
    target: Prediction
    values: NDArray[np.float32]
    pixels: NDArray[np.uint8]


def class_activation_map(
    classifier: Classifier,
    pictures: Any,
    targets: int | Iterable[int | None] | None = None,
    *,
    batch_size: int | None = None,
) -> Iterator[ActivationMap | ImageError]:
    """Compute the class activation maps of a stream of pictures.

    Costs what predicting them does. A classifier opened with `feature_maps=True` is used as it
    is; of another one the network is opened a second time, while this runs.

    Args:
        classifier: The model.
        pictures: As for `Classifier.predict`.
        targets: Class index for all pictures, or one for each; None for the predicted class.
        batch_size: Pictures per engine call; by default what suits the engine.

    Yields:
        For each picture, in order, its map, or why it has none; the error's `path` is the name.

    Raises:
        ConfigError: There is no such class.
    """
    weight, _ = last_layer(classifier)
    each: Iterator[int | None]
    if targets is None or isinstance(targets, int):
        each = itertools.repeat(targets)
    else:
        each = iter(targets)
    with _seeing(classifier) as seeing:
        for number, row in enumerate(seeing.run_each(pictures, batch_size=batch_size)):
            try:
                wanted = next(each)
            except StopIteration:
                raise ConfigError(f"there are {number} targets for more pictures") from None
            if isinstance(row, ImageError):
                yield row
                continue
            target = _target(classifier, row.outputs.logits, wanted)
            assert row.outputs.features is not None, "the engine was opened with them"
            yield ActivationMap(
                name=row.name,
                target=target,
                values=np.tensordot(weight[target.index], row.outputs.features[0], 1),
                pixels=row.pixels,
            )


def last_layer(classifier: Classifier) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight (K, D) and bias (K,) of the last layer."""
    tensors = read_tensors(classifier.local)
    return tensors["fc.weight"].astype(np.float32), tensors["fc.bias"].astype(np.float32)


def normalize(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale what speaks for a class to 0-1; what speaks against it becomes 0."""
    heat = np.maximum(values, 0)
    heat -= heat.min()
    heat /= max(float(heat.max()), np.finfo(np.float32).tiny)
    return heat


def enlarge(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Interpolate a map to (S, S), the coordinates of the network's input.

    Args:
        values: (h, w).
        size: S.
    """
    return _interpolate(values, (0.0, 0.0, float(size), float(size)), (size, size))


def onto_picture(
    values: NDArray[np.float32], picture_size: tuple[int, int], spec: PreprocessSpec
) -> NDArray[np.float32]:
    """Interpolate a map to the pixels of the picture it belongs to.

    Args:
        values: (h, w).
        picture_size: (W, H) of the upright picture.
        spec: How it was prepared.

    Returns:
        (H, W), NaN where the network did not look.
    """
    return _interpolate(values, preprocess.view(picture_size, spec), picture_size)


def overlay(
    image_hwc: NDArray[np.uint8], values: NDArray[np.float32], spec: PreprocessSpec
) -> NDArray[np.uint8]:
    """Lay a map over its picture, from blue over yellow to red; the unseen rest is dark.

    Args:
        image_hwc: (H, W, 3), upright, as `images.read` gives it.
        values: (h, w), any scale.
        spec: How the picture was prepared.

    Returns:
        (H, W, 3).
    """
    height, width = image_hwc.shape[:2]
    box, heat = preprocess.view((width, height), spec), normalize(values)
    blended = np.empty_like(image_hwc)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        here = _interpolate(heat, box, (width, height), band)
        blended[band] = _blend(image_hwc[band], here)
    return blended


@contextmanager
def _seeing(classifier: Classifier) -> Iterator[Classifier]:
    """Give a classifier whose engine lets the feature maps out."""
    if classifier.engine.signature.feature_maps:
        yield classifier
        return
    engine = classifier.engine
    seeing = copy.copy(classifier)
    seeing.engine = select.load(
        classifier.local, engine=engine.name, precision=engine.precision, feature_maps=True
    )
    with seeing:
        yield seeing


def _target(classifier: Classifier, logits: NDArray[np.float32], wanted: int | None) -> Prediction:
    document = classifier.document
    if wanted is not None and not 0 <= wanted < len(document.labels):
        raise ConfigError(
            f"class {wanted} is none of {document.name}; expected 0 to {len(document.labels) - 1}"
        )
    [ranked] = predictions.decide(
        logits, document.labels, top_k=len(document.labels), temperature=document.temperature
    )
    return next(one for one in ranked if wanted in (None, one.index))


def _interpolate(
    values: NDArray[np.float32],
    box: Box,
    size: tuple[int, int],
    band: slice = slice(None),
) -> NDArray[np.float32]:
    """Interpolate a map that covers a box of a picture, for some rows of its pixels."""
    left, top, right, bottom = box
    down = _shares(size[1], values.shape[0], top, bottom)[band]
    across = _shares(size[0], values.shape[1], left, right)
    return np.asarray(down @ values @ across.T, np.float32)


def _shares(length: int, cells: int, start: float, stop: float) -> NDArray[np.float32]:
    """Return (length, cells): how much of each cell is in each pixel; NaN outside the box.

    Cells and pixels are squares, not points, and between their centers it is linear: as
    OpenCV and torch do it (`align_corners=False`).
    """
    centers = np.arange(length) + 0.5
    place = np.clip((centers - start) / (stop - start) * cells - 0.5, 0, cells - 1)
    distance = np.abs(place[:, None] - np.arange(cells))
    shares: NDArray[np.float32] = np.maximum(1 - distance, 0).astype(np.float32)
    shares[(centers < start) | (centers > stop)] = np.nan
    return shares


def _blend(image_hwc: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    seen = ~np.isnan(heat)[..., None]
    heat = np.nan_to_num(heat)
    steps = np.linspace(0, 1, len(_HEAT))
    color = np.stack([np.interp(heat, steps, channel) for channel in _HEAT.T], axis=-1)
    # On grey: a color of the picture could be taken for one of the map.
    grey = image_hwc @ np.array(_LUMA)
    opacity = _OPACITY * np.sqrt(heat)[..., None]
    mixed = (1 - opacity) * grey[..., None] + opacity * color
    shown = np.where(seen, mixed, _DIMMED * grey[..., None])
    return np.asarray(np.rint(shown), np.uint8)
