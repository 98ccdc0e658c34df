"""8-bit arithmetic: the ranges of values, and the rounded weights.

A value that flows through the network gets 256 levels between a lowest and a highest, found
on pictures; what lies outside is clipped. Each output channel of a weight has 255 levels
around zero: to the nearest, or as a file says, which may have done better.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext.arch import ArchSpec, layers
from resnext.errors import ModelFileError, listed
from resnext.layers import Block, Conv, Layer, Pool, SelectiveKernel, SqueezeExcite

LEVELS = 256
MOST = 127  # the highest level of a weight; the lowest is its negative

Array = npt.NDArray[Any]

_DTYPES: dict[str, npt.DTypeLike] = {
    "levels": np.int8,
    "step": np.float32,
    "bias": np.float32,
    "scale": np.float32,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantization:
    """How a network is computed in 8 bits.

    Args:
        ranges: Lowest and highest of each value that is rounded, by its name in the inference
            graph, such as "layer1.0.conv1.relu"; 0 is always between them.
        facts: How it was found and what it cost: method, pictures, agreement.
        weights: The rounded weights, or nothing where each is rounded to its nearest level:
            for convolution X either "X.levels" with "X.step" (a weight is the one times the
            other) and "X.bias", or "X.scale", with which the channels are multiplied that
            it puts out in floating point. A file's are read when the first is asked for.

    Raises:
        ModelFileError: A range is empty, not finite, or leaves out 0.
    """

    ranges: Mapping[str, tuple[float, float]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Array] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            if not (low <= 0 <= high and low < high and math.isfinite(high - low)):
                raise ModelFileError(
                    f"quantization: the range of {name} is {low} to {high}; expected finite"
                    " numbers with 0 between them"
                )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        ranges = {name: list(pair) for name, pair in self.ranges.items()}
        return {"ranges": ranges, "facts": dict(self.facts)}

    @classmethod
    def from_json(cls, value: object) -> Quantization:
        """Read what `to_json` wrote.

        Raises:
            ModelFileError: It is something else.
        """
        if not isinstance(value, dict) or set(value) != {"ranges", "facts"}:
            raise ModelFileError("quantization: expected an object with ranges and facts")
        ranges, facts = value["ranges"], value["facts"]
        if not isinstance(ranges, dict) or not isinstance(facts, dict) or not ranges:
            raise ModelFileError("quantization: expected ranges by name, and facts")
        for name, pair in ranges.items():
            if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_number, pair)):
                raise ModelFileError(f"quantization: the range of {name} is {str(pair)[:60]}")
        return cls(ranges={name: (pair[0], pair[1]) for name, pair in ranges.items()}, facts=facts)


def grid(low: float, high: float) -> tuple[float, int]:
    """Return the step between levels, and the level of 0.

    Args:
        low: Lowest value, at most 0.
        high: Highest value.
    """
    step = (high - low) / (LEVELS - 1)
    return step, min(max(round(-low / step), 0), LEVELS - 1)


def convolutions(architecture: ArchSpec) -> dict[str, Conv]:
    """Return the convolutions of a network that have a batch norm, by their names."""
    return {conv.name: conv for layer in layers(architecture) for conv in _convolutions(layer)}


def _convolutions(layer: object) -> Iterable[Conv]:
    if isinstance(layer, Conv):
        yield layer
    parts: tuple[object, ...] = ()
    if isinstance(layer, Block):
        parts = (*layer.body, *layer.shortcut)
    elif isinstance(layer, SelectiveKernel):
        parts = (*layer.paths, layer.reduce)
    for part in parts:
        yield from _convolutions(part)


def inputs(architecture: ArchSpec) -> dict[str, str]:
    """Return the value of the inference graph that each of `convolutions` takes, by its name."""
    found: dict[str, str] = {}
    value = "normalize.shift"
    for layer in layers(architecture):
        value = _follow(layer, value, found)
    return found


def _follow(layer: Layer, value: str, found: dict[str, str]) -> str:
    """Note what convolutions take where a layer takes `value`; return what it puts out."""
    if isinstance(layer, Conv):
        found[layer.name] = value
        return f"{layer.name}.relu" if layer.relu else layer.name
    if isinstance(layer, Pool):
        return "maxpool"
    if isinstance(layer, SelectiveKernel):
        found |= {path.name: value for path in layer.paths}
        found[layer.reduce.name] = f"{layer.name}.mean"
        return layer.name
    if isinstance(layer, Block):
        for parts, pool in ((layer.body, "aa"), (layer.shortcut, "avgpool")):
            inner = value
            for part in parts:
                is_pool = isinstance(part, Pool)
                inner = f"{layer.name}.{pool}" if is_pool else _follow(part, inner, found)
        return f"{layer.name}.relu"
    return layer.name if isinstance(layer, SqueezeExcite) else value


def check_layout(
    architecture: ArchSpec,
    found: Mapping[str, tuple[str, tuple[int, ...]]],
    *,
    ranges: Container[str],
) -> None:
    """Compare the rounded weights of a network with it and with the ranges.

    Args:
        architecture: The network.
        found: Type and shape of each weight by name, as in `Quantization.weights`.
        ranges: The names of the values that have some.

    Raises:
        ModelFileError: Names the tensor that does not fit, or the convolution that has levels
            where its input has no range, or the reverse.
    """
    _check_tensors(architecture, found)
    takes = inputs(architecture).items()
    unfit = [name for name, value in takes if (value in ranges) != (f"{name}.levels" in found)]
    if found and unfit:
        raise ModelFileError(
            f"quantization: {unfit[0]} has levels and its input no range, or the reverse"
        )


def _check_tensors(
    architecture: ArchSpec, found: Mapping[str, tuple[str, tuple[int, ...]]]
) -> None:
    convs = convolutions(architecture)
    parts: dict[str, set[str]] = {}
    for key, (dtype, shape) in found.items():
        name, _, part = key.rpartition(".")
        if name not in convs or part not in _DTYPES:
            raise ModelFileError(f"quantization: unexpected tensor {key}")
        whole = convs[name].weight_shape
        expected: tuple[int, ...] = whole if part == "levels" else whole[:1]
        if (dtype, shape) != (np.dtype(_DTYPES[part]).name, expected):
            raise ModelFileError(
                f"quantization: {key} is {dtype} {shape}; expected"
                f" {np.dtype(_DTYPES[part]).name} {expected}"
            )
        parts.setdefault(name, set()).add(part)
    wholes = ({"levels", "step", "bias"}, {"scale"})
    if broken := [name for name, has in parts.items() if has not in wholes]:
        raise ModelFileError(
            f"quantization: the tensors of {listed(broken)} are not complete; expected levels,"
            " step and bias, or a scale"
        )


def check_values(key: str, tensor: Array) -> None:
    """Look whether a rounded weight, or what belongs to it, has values that can be.

    Args:
        key: Its name, as in `Quantization.weights`.
        tensor: Its values.

    Raises:
        ModelFileError: A level is -128, a step or scale is not positive, a number is not finite.
    """
    if key.endswith(".levels"):
        fits, expected = tensor.min(initial=0) >= -MOST, f"levels of {-MOST} to {MOST}"
    elif key.endswith(".bias"):
        fits, expected = np.isfinite(tensor).all(), "finite numbers"
    else:
        fits = (np.isfinite(tensor) & (tensor > 0)).all()
        expected = "finite numbers above 0"
    if not fits:
        raise ModelFileError(f"quantization: {key} has other values; expected {expected}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
