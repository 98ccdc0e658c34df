"""Choose the values of a network to round, their ranges, and the weights.

The exact network is run once on pictures. Channels of very different size share one range
badly; so each is first multiplied with a number, and the weights that take it are divided by
it (arXiv:1906.04721): where only convolutions, sums and ReLUs are between, nothing changes.
Then the weights are rounded, see `rounding`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from resnext.arch import ArchSpec, layers
from resnext.engines import eightbits, folding, graph, rounding
from resnext.engines.base import IMAGE
from resnext.engines.openvino import open_graph
from resnext.layers import Block, Conv
from resnext.modelfile import ModelDocument, Tensors
from resnext.quantization import LEVELS, Quantization, convolutions

Array = npt.NDArray[Any]
Moments = tuple[Array, Array]  # of the inputs of each group: covariance (G, I, I), mean (G, I)

_BATCH = 4  # pictures at a time, with all values between kept
_TOGETHER = 4  # batches between two products of all inputs with each other
_POSITIONS = 40  # of each picture, of which the moments are taken
# Half of the way, in logarithms: of even channels the weights become as uneven. On the
# starter 0.35, 0.5, 0.75 and 1 move the logits by 1.23, 1.19, 1.2 and 1.5 %; none by 1.48.
_EVENNESS = 0.5
_LEAST = 0.01  # of the largest channel; what is smaller is as good as never there
_LINKS = ("Relu", "Add", "MaxPool", "AveragePool")  # scaled channels in, the same out


@dataclass(frozen=True, kw_only=True, slots=True)
class Alike:
    """Values whose channels have one scale, for they are added or passed on.

    Args:
        values: Their names.
        producers: The convolutions that put them out.
        consumers: Those that take them.
    """

    values: frozenset[str]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is rounded.

    Args:
        inputs: The value that each convolution in 8 bits takes, by the convolution's name.
        sums: The values that are rounded only because they are added.
        alike: The values whose channels can be scaled.
    """

    inputs: Mapping[str, str]
    sums: frozenset[str]
    alike: tuple[Alike, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What was seen on pictures.

    Args:
        lowest: (C,) lowest value of each channel, by the value's name.
        highest: Likewise.
        moments: Of the inputs of each convolution in 8 bits, by its name.
    """

    lowest: Mapping[str, Array]
    highest: Mapping[str, Array]
    moments: Mapping[str, Moments]


def plan(nodes: Iterable[onnx.NodeProto], architecture: ArchSpec, *, kept: str = "") -> Plan:
    """Choose the values of a network that are rounded.

    Args:
        nodes: Its plain graph.
        architecture: The network.
        kept: What the names of values begin with that are left alone.
    """
    by_name = {node.name: node for node in nodes}
    convs = convolutions(architecture)
    block = next(layer for layer in layers(architecture) if isinstance(layer, Block))
    # What the first layer takes, and what the first block does: what is before that is in
    # floating point anyway, so that leaving it alone costs no time, and rounding it would alone
    # move the logits of the starter by 1.2 %.
    firsts = (next(iter(convs)), next(name for name in convs if name.startswith(block.name)))
    ends = {by_name[name].input[0] for name in firsts}

    def may_be(value: str) -> bool:
        is_mean = by_name[value].op_type == "GlobalAveragePool"  # few numbers, much work before
        return not (is_mean or value in ends or (kept and value.startswith(kept)))

    inputs = {name: by_name[name].input[0] for name in convs if may_be(by_name[name].input[0])}
    added = {
        value for name, node in by_name.items() if name.endswith(".add") for value in node.input
    }
    sums = frozenset(value for value in added - set(inputs.values()) if may_be(value))
    return Plan(inputs=inputs, sums=sums, alike=tuple(_alike(by_name, convs, inputs)))


def _alike(
    nodes: Mapping[str, onnx.NodeProto], convs: Mapping[str, Conv], inputs: Mapping[str, str]
) -> Iterator[Alike]:
    leader = {name: name for name in nodes}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    links = [node for node in nodes.values() if node.op_type in _LINKS]
    for node in links:
        for value in set(node.input) & set(nodes):
            leader[find(value)] = find(node.name)
    for top in sorted({find(node.name) for node in links}):
        values = frozenset(name for name in nodes if find(name) == top)
        makers = [name for name in values if nodes[name].op_type not in _LINKS]
        takers = [
            name for name, node in nodes.items() if name not in values and values & set(node.input)
        ]
        if takers and set(makers) <= set(convs) and set(takers) <= set(inputs):
            yield Alike(values=values, producers=tuple(makers), consumers=tuple(takers))


class _Sums:
    """Adds up what is seen of the values of a network."""

    def __init__(self, what: Plan, convs: Mapping[str, Conv]) -> None:
        self._inputs, self._convs = what.inputs, convs
        self._lowest: dict[str, Array] = {}
        self._highest: dict[str, Array] = {}
        self._waiting: dict[str, list[Array]] = {name: [] for name in what.inputs}
        self._totals = {name: _Total() for name in what.inputs}
        self._since = 0
        self._rng = np.random.default_rng(0)

    def add(self, values: Mapping[str, Array]) -> None:
        """Add the (N, C, h, w) values of some pictures."""
        for name, value in values.items():
            low, high = value.min(axis=(0, 2, 3)), value.max(axis=(0, 2, 3))
            self._lowest[name] = np.minimum(self._lowest.get(name, low), low)
            self._highest[name] = np.maximum(self._highest.get(name, high), high)
        for name, value_name in self._inputs.items():
            self._waiting[name].append(_sample(values[value_name], self._convs[name], self._rng))
        self._since += 1
        if self._since == _TOGETHER:
            self._take_moments()

    def _take_moments(self) -> None:
        for name, samples in self._waiting.items():
            if samples:
                seen = np.concatenate(samples, axis=2)
                samples.clear()
                self._totals[name].add(seen)
        self._since = 0

    def result(self) -> Observed:
        """Return what was seen; nothing can be added any more."""
        self._take_moments()
        moments = {name: total.moments() for name, total in self._totals.items()}
        return Observed(lowest=self._lowest, highest=self._highest, moments=moments)


class _Total:
    """The mean of the inputs of a convolution, and the products of what they are off it.

    Of a wide network these are gigabytes: so there is one array of them, in float32.
    """

    def __init__(self) -> None:
        self._products: Array = np.zeros((), np.float32)
        self._mean: Array = np.zeros(())
        self._count = 0

    def add(self, seen: Array) -> None:
        """Add (G, I, n) inputs at n places."""
        count = seen.shape[2]
        # Around the mean, or float32 would lose the variance of what hardly varies.
        mean = seen.mean(axis=2, dtype=np.float64)
        seen -= mean[:, :, None].astype(np.float32)
        products = seen @ seen.transpose(0, 2, 1)
        products += self._products
        share = count / (self._count + count)
        apart = (mean - self._mean).astype(np.float32)
        products += (self._count * share * apart)[:, :, None] * apart[:, None, :]
        self._products, self._mean = products, self._mean + share * (mean - self._mean)
        self._count += count

    def moments(self) -> Moments:
        self._products /= self._count
        return self._products, self._mean


def observe(model: onnx.ModelProto, what: Plan, architecture: ArchSpec, pixels: Array) -> Observed:
    """Run the exact network on pictures and look at its values.

    Args:
        model: Its plain graph, to which outputs are added.
        what: What is rounded.
        architecture: The network.
        pixels: (N, S, S, 3) prepared pictures; about 300 are enough.
    """
    names = sorted({*what.inputs.values(), *what.sums})
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    sums = _Sums(what, convolutions(architecture))
    # Windows cannot remove a file that is mapped: there it stays in the temporary folder.
    with tempfile.TemporaryDirectory(prefix="resnext-", ignore_cleanup_errors=True) as folder:
        run = open_graph(graph.save(model, Path(folder) / "graph.onnx")[0])
        for start in range(0, len(pixels), _BATCH):
            batch = pixels[start : start + _BATCH]
            sums.add(dict(zip(names, run({IMAGE: batch}, names), strict=True)))
    return sums.result()


def _sample(value: Array, conv: Conv, rng: np.random.Generator) -> Array:
    """Return (G, I, n): what a convolution sees at some positions."""
    side, padding = conv.kernel_size, conv.padding
    padded = np.pad(value, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    reach = conv.dilation * (side - 1)
    height, width = ((size - reach - 1) // conv.stride + 1 for size in padded.shape[2:])
    chosen = rng.choice(height * width, min(_POSITIONS, height * width), replace=False)
    offsets = np.arange(side) * conv.dilation
    rows = offsets[:, None, None] + chosen // width * conv.stride
    columns = offsets[None, :, None] + chosen % width * conv.stride
    seen = padded[:, :, rows, columns]  # (N, C, side, side, positions)
    inputs = conv.in_channels // conv.groups * side * side
    seen = seen.reshape(len(value), conv.groups, inputs, len(chosen))
    found: Array = seen.transpose(1, 2, 0, 3).reshape(conv.groups, inputs, -1)
    return found


def solve(document: ModelDocument, tensors: Tensors, what: Plan, seen: Observed) -> Quantization:
    """Choose scales, ranges and levels.

    Args:
        document: The model.
        tensors: Its `state_dict`.
        what: What is rounded.
        seen: What was observed of it.

    Returns:
        The ranges, of the sums too, and the rounded weights.
    """
    scales = _scales(what, seen)
    ranges = {}
    for name in (*dict.fromkeys(what.inputs.values()), *sorted(what.sums)):
        scale = scales.get(name, np.ones(1))
        low, high = (seen.lowest[name] * scale).min(), (seen.highest[name] * scale).max()
        ranges[name] = (min(0.0, float(low)), max(float(high), 1e-6))
    weights: dict[str, Array] = {}
    for name, conv in convolutions(document.architecture).items():
        weight, bias = folding.fold(conv, tensors)
        if name in scales:
            weight, bias = weight * scales[name][:, None, None, None], bias * scales[name]
        if value := what.inputs.get(name):
            scale = scales.get(value, np.ones(conv.in_channels))
            step = (ranges[value][1] - ranges[value][0]) / (LEVELS - 1)
            moments = _scaled(seen.moments[name], scale, noise=step**2 / 12)
            weights |= _rounded(conv, weight, bias, scale=scale, moments=moments)
        elif name in scales:
            weights[f"{name}.scale"] = scales[name].astype(np.float32)
    return Quantization(ranges=ranges, weights=weights)


def _scales(what: Plan, seen: Observed) -> dict[str, Array]:
    """Return the (C,) scales of all values that have some."""
    scales: dict[str, Array] = {}
    for alike in what.alike:
        largest = np.max([seen.highest[name] for name in alike.values if name in seen.highest], 0)
        top = max(float(largest.max()), 1e-30)
        scale = (top / np.maximum(largest, _LEAST * top)) ** _EVENNESS
        scales |= dict.fromkeys(alike.values, scale.astype(np.float32).astype(np.float64))
    return scales


def _scaled(moments: Moments, scale: Array, *, noise: float) -> Moments:
    """Return covariance and mean of scaled inputs that are rounded with this variance."""
    covariance, mean = moments
    by_input = np.repeat(scale, mean.size // scale.size).reshape(mean.shape)
    covariance = covariance.astype(np.float64)
    covariance *= by_input[:, :, None]
    covariance *= by_input[:, None, :]
    diagonal = np.arange(mean.shape[1])
    covariance[:, diagonal, diagonal] += noise
    return covariance, mean * by_input


def _rounded(
    conv: Conv, weight: Array, bias: Array, *, scale: Array, moments: Moments
) -> dict[str, Array]:
    """Return the tensors of a convolution in 8 bits whose inputs are scaled."""
    groups, (covariance, mean) = conv.groups, moments
    inputs = scale.reshape(groups, 1, -1, 1, 1)
    by_group = weight.reshape(groups, -1, *weight.shape[1:]) / inputs
    by_group = by_group.reshape(groups, -1, mean.shape[1])
    step = eightbits.steps(by_group.reshape(len(bias), -1)).astype(np.float32)
    steps = step.astype(np.float64).reshape(groups, -1)
    levels = rounding.round_weight(by_group, steps, covariance)
    rounded = eightbits.values(levels, steps)
    mended = rounding.mend_bias(bias.reshape(groups, -1), by_group, rounded, mean)
    return {
        f"{conv.name}.levels": levels.reshape(weight.shape),
        f"{conv.name}.step": step,
        f"{conv.name}.bias": mended.reshape(-1).astype(np.float32),
    }
