"""Build the one inference graph, in ONNX, from layer table and weights.

Raw uint8 pixels (N, S, S, C) go in and are normalized by the first nodes; "logits" (N, K)
and "embedding" (N, D) come out. Batch norm is folded into the convolutions, in float64.
Every engine and every export runs this graph; torch has no part in it. N pictures,
S pixels a side, C channels, K classes, D features. A change to what `build` returns must
raise `base.GRAPH_VERSION`, or compiled graphs in users' caches would outlive it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from resnext import arch
from resnext.arch import ArchSpec
from resnext.engines import eightbits
from resnext.engines.base import EMBEDDING, FEATURES, GRAPH_VERSION, IMAGE, LOGITS, Precision
from resnext.engines.folding import fold, fold_stem, join_groups, narrow, round_stem, take
from resnext.errors import ModelFileError, counted
from resnext.files import atomic
from resnext.layers import (
    Block,
    Conv,
    GlobalPool,
    Layer,
    Linear,
    Pool,
    SelectiveKernel,
    SqueezeExcite,
)
from resnext.preprocess import PreprocessSpec, affine
from resnext.quantization import Quantization, grid

OPSET = 17
IR_VERSION = 8  # the format of ONNX 1.10 to 1.13, which brought opset 17
MAX_INLINE_BYTES = 1_900_000_000  # a protobuf message ends at 2 GiB
_MIN_EXTERNAL_BYTES = 1024  # biases stay in the graph: shape inference may want small tensors
_ALIGNMENT = 4096  # bytes; a page, so that a runtime can map the weights

Tensors = Mapping[str, npt.NDArray[Any]]
Array = npt.NDArray[Any]


def build(
    architecture: ArchSpec,
    preprocess: PreprocessSpec,
    tensors: Tensors,
    *,
    precision: Precision = "fp32",
    feature_maps: bool = False,
    quantization: Quantization | None = None,
    group_width: int = 1,
) -> onnx.ModelProto:
    """Build the graph of a network with its weights and its normalization.

    Args:
        architecture: The network.
        preprocess: Gives the input size, the mean and the standard deviation.
        tensors: A `state_dict` in torchvision's keys, of any float type.
        precision: What the runtime will compute in. For "bf16" the first convolution takes
            whole numbers and has weights of bfloat16; otherwise the function is the same.
        feature_maps: Let the last feature maps (N, D, h, w) out as well, as "features".
        quantization: For "int8": which values are rounded to 8 bits, and how.
        group_width: Least number of channels in a group: narrower groups are joined to
            wider ones with weights of zero between them. The function is the same.

    Returns:
        A model in float32 with a dynamic number of pictures; for "int8", values on the way
        are rounded. Above `MAX_INLINE_BYTES` it can only be written by `save`.

    Raises:
        ModelFileError: A tensor is missing, of another shape, or makes weights that are
            not finite.
    """
    rounded = quantization if precision == "int8" else None
    builder = _Builder(tensors, rounded or Quantization(ranges={}), group_width=group_width)
    scale, shift = affine(preprocess)
    if scale.shape != (architecture.in_chans,):
        raise ModelFileError(
            f"the network takes {counted(architecture.in_chans, 'channel')}, its mean has"
            f" {len(scale)}"
        )
    first, *rest = arch.layers(architecture)
    if precision == "bf16" and isinstance(first, Conv):
        value = builder.whole_stem(first, scale, shift)
    else:
        value = builder.add(first, builder.normalize(scale, shift))
    outputs = [
        _value(LOGITS, TensorProto.FLOAT, ("N", architecture.num_classes)),
        _value(EMBEDDING, TensorProto.FLOAT, ("N", architecture.embedding_size)),
    ]
    for layer in rest:
        if feature_maps and isinstance(layer, GlobalPool):
            value = builder.name(value, FEATURES)
            shape = ("N", architecture.embedding_size, "h", "w")
            outputs.append(_value(FEATURES, TensorProto.FLOAT, shape))
        value = builder.add(layer, value)
    size = preprocess.input_size
    graph = helper.make_graph(
        builder.nodes,
        architecture.name,
        [_value(IMAGE, TensorProto.UINT8, ("N", size, size, architecture.in_chans))],
        outputs,
        builder.weights,
    )
    model = helper.make_model(
        graph,
        producer_name="resnext",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    facts = {"architecture": architecture.name, "graph_version": str(GRAPH_VERSION)}
    helper.set_model_props(model, facts)
    return model


def save(
    model: onnx.ModelProto,
    path: str | os.PathLike[str],
    *,
    max_inline_bytes: int | None = None,
) -> tuple[Path, ...]:
    """Write a model atomically, the weights of a large one to `<path>.data` beside it.

    Args:
        model: What `build` returned; it is left as it is.
        path: Where to, usually `*.onnx`; the folder must exist.
        max_inline_bytes: Weights of more bytes than this go to the second file; by
            default `MAX_INLINE_BYTES`.

    Returns:
        The files written.

    Raises:
        OutputError: A file cannot be written.
    """
    target = Path(path)
    if _weight_bytes(model) <= (MAX_INLINE_BYTES if max_inline_bytes is None else max_inline_bytes):
        with atomic(target) as file:
            file.write(model.SerializeToString())
        return (target,)
    data = target.with_name(f"{target.name}.data")
    # The weights come first: a crash in between leaves no graph that lacks its weights.
    with atomic(data) as file:
        outline = _move_weights(model, file, location=data.name)
    with atomic(target) as file:
        file.write(outline.SerializeToString())
    return (target, data)


@contextlib.contextmanager
def serialized(model: onnx.ModelProto) -> Iterator[bytes | Path]:
    """Give a model the way a runtime takes it: as bytes, or if too large as a file.

    Args:
        model: What `build` returned.

    Yields:
        The bytes, or the path of a file that is removed when the block ends; a runtime
        that has mapped it keeps what it mapped.

    Raises:
        OutputError: The temporary file cannot be written.
    """
    if _weight_bytes(model) <= MAX_INLINE_BYTES:
        yield model.SerializeToString()
        return
    # Windows cannot remove a file that is mapped: there it stays in the temporary folder.
    with tempfile.TemporaryDirectory(prefix="resnext-", ignore_cleanup_errors=True) as folder:
        yield save(model, Path(folder) / "graph.onnx")[0]


class _Builder:
    """Collects the nodes and weights of one graph; a value is known by its node's name."""

    def __init__(self, tensors: Tensors, quantization: Quantization, *, group_width: int) -> None:
        self.tensors = tensors
        self.ranges = quantization.ranges
        self.stored = quantization.weights
        self.group_width = group_width
        self.rounded: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def normalize(self, scale: Array, shift: Array) -> str:
        value = self._node("Transpose", "normalize.nchw", [IMAGE], perm=[0, 3, 1, 2])
        value = self._node("Cast", "normalize.float", [value], to=TensorProto.FLOAT)
        for op, name, factor in (("Mul", "scale", scale), ("Add", "shift", shift)):
            constant = self._weight(f"normalize.{name}.value", factor.reshape(1, -1, 1, 1))
            value = self._node(op, f"normalize.{name}", [value, constant])
        return value

    def whole_stem(self, conv: Conv, scale: Array, shift: Array) -> str:
        """Add normalization and first convolution as `fold_stem` has them."""
        weight, bias, centers = fold_stem(self._fold(conv), scale, shift)
        value = self._node("Transpose", "normalize.nchw", [IMAGE], perm=[0, 3, 1, 2])
        one = self._constant("normalize.one", np.array(1, np.uint8))
        pads = self._constant("normalize.pads", np.array([0, 0, 0, 0, 0, 1, 0, 0]))
        value = self._node("Pad", "normalize.ones", [value, pads, one])
        value = self._node("Cast", "normalize.float", [value], to=TensorProto.FLOAT)
        constant = self._weight("normalize.center.value", centers.reshape(1, -1, 1, 1))
        value = self._node("Sub", "normalize.center", [value, constant])
        return self._conv(conv, value, folded=(round_stem(weight), bias))

    def name(self, value: str, name: str) -> str:
        """Give a value a name by which it can come out."""
        return self._node("Identity", name, [value])

    def add(self, layer: Layer, value: str) -> str:
        if isinstance(layer, Conv):
            return self._conv(layer, value)
        if isinstance(layer, Pool):
            return self._pool(layer, value, name="maxpool")
        if isinstance(layer, SqueezeExcite):
            return self._squeeze_excite(layer, value)
        if isinstance(layer, SelectiveKernel):
            return self._selective_kernel(layer, value)
        if isinstance(layer, Block):
            return self._block(layer, value)
        if isinstance(layer, GlobalPool):
            value = self._node("GlobalAveragePool", "avgpool", [value])
            return self._node("Flatten", EMBEDDING, [value], axis=1)
        return self._linear(layer, value)

    def _block(self, block: Block, value: str) -> str:
        shortcut = body = value
        for part in block.body:
            if isinstance(part, Pool):
                body = self._pool(part, body, name=f"{block.name}.aa")
            else:
                body = self.add(part, body)
        for part in block.shortcut:
            if isinstance(part, Pool):
                shortcut = self._pool(part, shortcut, name=f"{block.name}.avgpool")
            else:
                shortcut = self._conv(part, shortcut)
        parts = [self._rounded(body), self._rounded(shortcut)]
        value = self._node("Add", f"{block.name}.add", parts)
        return self._node("Relu", f"{block.name}.relu", [value])

    def _fold(self, conv: Conv) -> tuple[Array, Array]:
        weight, bias = fold(conv, self.tensors)
        if f"{conv.name}.scale" not in self.stored:
            return weight, bias
        scale = self.stored[f"{conv.name}.scale"].astype(np.float64)
        return weight * scale[:, None, None, None], bias * scale

    def _conv(self, conv: Conv, value: str, *, folded: tuple[Array, Array] | None = None) -> str:
        if value in self.ranges:
            name, bias, groups = self._rounded_weight(conv, value)
        else:
            weight, bias = folded or self._fold(conv)
            # A tile holds half as many bfloat16 as bytes, in a network that is in 8 bits elsewhere.
            width = self.group_width // 2 if self.ranges else self.group_width
            weight, groups = join_groups(weight, conv.groups, width=width)
            name = self._weight(f"{conv.name}.weight", weight)
        value = self._node(
            "Conv",
            conv.name,
            [self._rounded(value), name, self._weight(f"{conv.name}.bias", bias)],
            kernel_shape=[conv.kernel_size] * 2,
            strides=[conv.stride] * 2,
            pads=[conv.padding] * 4,
            dilations=[conv.dilation] * 2,
            group=groups,
        )
        return self._node("Relu", f"{conv.name}.relu", [value]) if conv.relu else value

    def _pool(self, pool: Pool, value: str, *, name: str) -> str:
        window: dict[str, Any] = {
            "kernel_shape": [pool.kernel_size] * 2,
            "strides": [pool.stride] * 2,
            "pads": [pool.padding] * 4,
        }
        if pool.kind == "max":
            return self._node("MaxPool", name, [value], **window)
        assert pool.kind != "avg_same", "only in networks with another output stride"
        ceil = int(pool.kind == "avg_ceil")
        return self._node(
            "AveragePool", name, [value], ceil_mode=ceil, count_include_pad=0, **window
        )

    def _squeeze_excite(self, part: SqueezeExcite, value: str) -> str:
        gate = self._node("GlobalAveragePool", f"{part.name}.mean", [value])
        gate = self._pointwise(f"{part.name}.fc1", (part.hidden, part.channels), gate)
        gate = self._node("Relu", f"{part.name}.relu", [gate])
        gate = self._pointwise(f"{part.name}.fc2", (part.channels, part.hidden), gate)
        gate = self._node("Sigmoid", f"{part.name}.gate", [gate])
        return self._node("Mul", part.name, [value, gate])

    def _selective_kernel(self, part: SelectiveKernel, value: str) -> str:
        paths = [self._conv(path, value) for path in part.paths]
        total = self._node("Sum", f"{part.name}.sum", paths)
        score = self._node("GlobalAveragePool", f"{part.name}.mean", [total])
        score = self._conv(part.reduce, score)
        key = f"{part.name}.attn.fc_select"
        score = self._pointwise(key, part.select_shape[:2], score, bias=False)
        # One axis for the paths, to take the softmax over it: (N, P, C, 1, 1).
        shape = np.array([0, len(paths), part.channels, 1, 1])
        shape_name = self._constant(f"{part.name}.shape", shape)
        score = self._node("Reshape", f"{part.name}.scores", [score, shape_name])
        shares = self._node("Softmax", f"{part.name}.shares", [score], axis=1)
        weighted = []
        for index, path in enumerate(paths):
            number = self._constant(f"{part.name}.path{index}", np.array(index))
            share = self._node("Gather", f"{part.name}.share{index}", [shares, number], axis=1)
            weighted.append(self._node("Mul", f"{part.name}.weighted{index}", [path, share]))
        return self._node("Sum", part.name, weighted)

    def _pointwise(self, key: str, shape: tuple[int, int], value: str, *, bias: bool = True) -> str:
        """Add a 1x1 convolution without batch norm."""
        weight = take(self.tensors, f"{key}.weight", (*shape, 1, 1))
        inputs = [value, self._weight(f"{key}.weight", weight)]
        if bias:
            added = take(self.tensors, f"{key}.bias", shape[:1])
            inputs.append(self._weight(f"{key}.bias", added))
        return self._node("Conv", key, inputs, kernel_shape=[1, 1])

    def _linear(self, layer: Linear, value: str) -> str:
        shape = (layer.out_features, layer.in_features)
        weight = take(self.tensors, f"{layer.name}.weight", shape)
        bias = take(self.tensors, f"{layer.name}.bias", shape[:1])
        inputs = [value, self._weight(f"{layer.name}.weight", weight)]
        inputs.append(self._weight(f"{layer.name}.bias", bias))
        return self._node("Gemm", LOGITS, inputs, transB=1)

    def _rounded(self, value: str) -> str:
        """Round a value to the levels of its range, once for all who take it."""
        if value not in self.ranges:
            return value
        if value not in self.rounded:
            step, zero = grid(*self.ranges[value])
            constants = [
                self._constant(f"{value}.step", np.array(step, np.float32)),
                self._constant(f"{value}.zero", np.array(zero, np.uint8)),
            ]
            levels = self._node("QuantizeLinear", f"{value}.levels", [value, *constants])
            self.rounded[value] = self._node(
                "DequantizeLinear", f"{value}.rounded", [levels, *constants]
            )
        return self.rounded[value]

    def _rounded_weight(self, conv: Conv, value: str) -> tuple[str, Array, int]:
        """Add the weight that takes `value`, in levels around zero of each output channel.

        Returns:
            Its name, the bias, and the number of groups.
        """
        name = f"{conv.name}.weight"
        if self.stored:
            levels, step, bias = (
                self.stored[f"{conv.name}.{part}"] for part in ("levels", "step", "bias")
            )
        else:
            weight, bias = self._fold(conv)
            step = eightbits.steps(weight)
            levels = eightbits.nearest(weight, step)
        value_step, _ = grid(*self.ranges[value])
        levels, step = eightbits.widen(levels, step, bias, value_step=value_step)
        self._weight(f"{name}.step", step)
        levels, groups = join_groups(levels, conv.groups, width=self.group_width)
        self._constant(f"{name}.levels", levels)
        self._constant(f"{name}.zero", np.zeros(len(step), np.int8))
        parts = [f"{name}.{part}" for part in ("levels", "step", "zero")]
        return self._node("DequantizeLinear", name, parts, axis=0), bias, groups

    def _weight(self, name: str, value: Array) -> str:
        return self._constant(name, narrow(name, value))

    def _constant(self, name: str, value: Array) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def _node(self, op: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name


def _weight_bytes(model: onnx.ModelProto) -> int:
    return sum(weight.ByteSize() for weight in model.graph.initializer)


def _value(name: str, dtype: int, shape: tuple[str | int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def _move_weights(model: onnx.ModelProto, file: BinaryIO, *, location: str) -> onnx.ModelProto:
    """Write the large weights of a model to `file`; return a copy that points at them."""
    # Built field by field: a copy of the whole would hold the weights twice, and onnx's own
    # converter empties the model it is given.
    outline = onnx.ModelProto(
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        opset_import=model.opset_import,
        metadata_props=model.metadata_props,
    )
    outline.graph.name = model.graph.name
    outline.graph.node.extend(model.graph.node)
    outline.graph.input.extend(model.graph.input)
    outline.graph.output.extend(model.graph.output)
    for weight in model.graph.initializer:
        content = weight.raw_data
        if len(content) < _MIN_EXTERNAL_BYTES:
            outline.graph.initializer.append(weight)
            continue
        file.write(bytes(-file.tell() % _ALIGNMENT))
        moved = outline.graph.initializer.add(
            name=weight.name,
            dims=weight.dims,
            data_type=weight.data_type,
            data_location=TensorProto.EXTERNAL,
        )
        place = {"location": location, "offset": file.tell(), "length": len(content)}
        for key, entry in place.items():
            moved.external_data.add(key=key, value=str(entry))
        file.write(content)
    return outline
