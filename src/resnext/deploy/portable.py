"""The ONNX graph that leaves: classes, probabilities, its own papers.

It is the graph that the engines run, with the temperature, a softmax and the best classes
behind it, and in its metadata all that a program needs to use it without this package. Its
input is what `preprocess.apply` gives, or with `picture=True` a picture of any size: then
resizing and cropping are its first nodes. N pictures, H x W pixels, S the input size.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from resnext.engines import graph
from resnext.engines.base import IMAGE, LOGITS, Precision
from resnext.errors import ConfigError
from resnext.modelfile import ModelDocument, Tensors
from resnext.preprocess import PreprocessSpec

PICTURE = "picture"  # (N, H, W, 3), the input of a graph for pictures of any size
PROBABILITIES = "probabilities"
CLASSES = "classes"
OPSET = 18  # the first whose Resize filters as Pillow does
PREPARED = "prepare.pixels"

_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_PILLOW_A = -0.5  # of the cubic filter; ONNX's own is -0.75


def build(
    document: ModelDocument,
    tensors: Tensors,
    *,
    picture: bool = False,
    top_k: int = 5,
    source_sha256: str = "",
    precision: Precision = "fp32",
    group_width: int = 1,
) -> onnx.ModelProto:
    """Build the graph of a model for other programs.

    Args:
        document: What the model says of itself.
        tensors: Its `state_dict`.
        picture: Take RGB pictures of any size, (N, H, W, 3) uint8 in "picture", instead of
            prepared ones, (N, S, S, 3) uint8 in "image". Turning a picture upright is left
            to whoever decodes it.
        top_k: Number of best classes; all where there are fewer.
        source_sha256: Of the file the weights come from, for the metadata.
        precision: "fp32", or "int8" for a model that was quantized.
        group_width: As for `graph.build`.

    Returns:
        A model with the outputs "logits" (N, K), "embedding" (N, D), "probabilities"
        (N, top_k) in falling order and "classes" (N, top_k) int64, their indices.

    Raises:
        ConfigError: `top_k` is below 1, or the preprocessing has no place in a graph.
        ModelFileError: The tensors are refused.
    """
    if top_k < 1:
        raise ConfigError(f"top_k is {top_k}; expected at least 1")
    eight_bits = document.quantization if precision == "int8" else None
    model = graph.build(
        document.architecture,
        document.preprocess,
        tensors,
        precision=precision,
        quantization=eight_bits,
        group_width=group_width,
    )
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    parts = _Parts(model.graph)
    if picture:
        _prepare(parts, document.preprocess)
    _decide(parts, document, top_k)
    facts = {
        "name": document.name,
        "class_names": json.dumps(list(document.labels.class_names), ensure_ascii=False),
        "synset_ids": json.dumps(list(document.labels.synset_ids or ())),
        "preprocess": json.dumps(document.preprocess.to_json()),
        "temperature": repr(document.temperature),
        "reject_threshold": json.dumps(document.reject_threshold),
        "license": document.license,
        "source_sha256": source_sha256,
        "precision": precision,
    }
    if eight_bits is not None:
        facts["quantization"] = json.dumps(dict(eight_bits.facts), ensure_ascii=False)
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    return model


def preparation(spec: PreprocessSpec) -> onnx.ModelProto:
    """Build the first nodes alone: a picture of any size to what `preprocess.apply` gives.

    Args:
        spec: The preprocessing.

    Returns:
        A model from "picture" (N, H, W, 3) to (N, S, S, 3), both uint8.

    Raises:
        ConfigError: The preprocessing has no place in a graph.
    """
    alone = onnx.GraphProto(name="preparation")
    parts = _Parts(alone)
    _prepare(parts, spec)
    size = spec.input_size
    shape = ("N", size, size, 3)
    alone.output.append(helper.make_tensor_value_info(PREPARED, TensorProto.UINT8, shape))
    return helper.make_model(
        alone, ir_version=graph.IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )


class _Parts:
    """Adds nodes to a graph; a value is known by its node's name."""

    def __init__(self, whole: onnx.GraphProto) -> None:
        self.graph = whole
        self.first: list[onnx.NodeProto] = []  # nodes that come before those there are

    def constant(self, name: str, value: Any, dtype: npt.DTypeLike = np.int64) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def node(self, op: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.first.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def put_first(self) -> None:
        """Put the nodes that were added in front of the graph's own."""
        own = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*self.first, *own])
        self.first = []

    def put_last(self) -> None:
        """Put the nodes that were added behind the graph's own."""
        self.graph.node.extend(self.first)
        self.first = []


def _decide(parts: _Parts, document: ModelDocument, top_k: int) -> None:
    """Add softmax and best classes."""
    count = min(top_k, document.architecture.num_classes)
    temperature = parts.constant("decide.temperature", document.temperature, np.float32)
    value = parts.node("Div", "decide.scores", [LOGITS, temperature])
    value = parts.node("Softmax", "decide.probabilities", [value], axis=1)
    number = parts.constant("decide.count", [count])
    best = helper.make_node(
        "TopK", [value, number], [PROBABILITIES, CLASSES], name="decide.best", axis=1
    )
    parts.first.append(best)
    parts.put_last()
    for name, dtype in ((PROBABILITIES, TensorProto.FLOAT), (CLASSES, TensorProto.INT64)):
        parts.graph.output.append(helper.make_tensor_value_info(name, dtype, ("N", count)))


def _prepare(parts: _Parts, spec: PreprocessSpec) -> None:
    """Add what `preprocess.apply` does, and let the rest begin with its result."""
    if spec.mode == "letterbox" and len(set(spec.fill)) > 1:
        raise ConfigError(
            f"the background of the letterbox is {spec.fill}; expected a grey, the only one a"
            " graph can fill with",
            hint="export the graph for prepared pictures instead",
        )
    value = parts.node("Transpose", "prepare.nchw", [PICTURE], perm=[0, 3, 1, 2])
    sides = parts.node("Shape", "prepare.sides", [value], start=2, end=4)  # height, width
    new_sides = _new_sides(parts, spec, sides)
    channels = parts.node("Shape", "prepare.others", [value], start=0, end=2)
    value = _resize(parts, spec, value, (channels, sides, new_sides))
    if spec.mode != "squash":
        value = _crop(parts, spec, value, new_sides)
        value = _pad(parts, spec, value, new_sides)
    size = parts.constant("prepare.square", [spec.input_size] * 2)
    shape = parts.node("Concat", "prepare.square.shape", [channels, size], axis=0)
    value = parts.node("Reshape", "prepare.squared", [value, shape])  # says how large it is
    parts.node("Transpose", PREPARED, [value], perm=[0, 2, 3, 1])
    for node in parts.graph.node:
        for index, name in enumerate(node.input):
            if name == IMAGE:
                node.input[index] = PREPARED
    parts.put_first()
    del parts.graph.input[:]
    shape_in = ("N", "H", "W", 3)
    parts.graph.input.append(helper.make_tensor_value_info(PICTURE, TensorProto.UINT8, shape_in))


def _new_sides(parts: _Parts, spec: PreprocessSpec, sides: str) -> str:
    """Add the computation of height and width after resizing, as in `preprocess`."""
    if spec.mode == "squash":
        return parts.constant("prepare.new_sides", [spec.input_size] * 2)
    target = parts.constant("prepare.target", [spec.resize])
    if spec.mode == "crop":
        # Whole numbers: torchvision truncates the long side, and so does their division.
        short = parts.node("ReduceMin", "prepare.short", [sides], keepdims=1)
        grown = parts.node("Mul", "prepare.grown", [sides, target])
        return parts.node("Div", "prepare.new_sides", [grown, short])
    long = parts.node("ReduceMax", "prepare.long", [sides], keepdims=1)
    grown = parts.node("Mul", "prepare.grown", [sides, target])
    exact, divisor = (
        parts.node("Cast", f"prepare.{name}.exact", [value], to=TensorProto.DOUBLE)
        for name, value in (("grown", grown), ("long", long))
    )
    share = parts.node("Div", "prepare.share", [exact, divisor])
    whole = parts.node("Round", "prepare.rounded", [share])  # a half to the even number
    whole = parts.node("Cast", "prepare.whole", [whole], to=TensorProto.INT64)
    least = parts.constant("prepare.least", [1])
    return parts.node("Max", "prepare.new_sides", [whole, least])


def _resize(parts: _Parts, spec: PreprocessSpec, value: str, names: tuple[str, str, str]) -> str:
    """Add the resizing, one side after the other, in the order that Pillow would take.

    Each pass rounds to whole levels, so the order shows. Pillow 13 begins with the height where
    that loses more than twice what the width does (python-pillow/Pillow#9549).
    """
    channels, sides, new_sides = names
    zero, one = parts.constant("prepare.height", [0]), parts.constant("prepare.width", [1])
    lost = parts.node("Sub", "prepare.lost", [sides, new_sides])
    height = parts.node("Gather", "prepare.lost.height", [lost, zero])
    width = parts.node("Gather", "prepare.lost.width", [lost, one])
    nothing = parts.constant("prepare.nothing", [0])
    twice = parts.node("Add", "prepare.lost.twice", [width, width])
    more = parts.node("Greater", "prepare.loses_more", [height, twice])
    some = parts.node("Greater", "prepare.loses", [height, nothing])
    height_first = parts.node("And", "prepare.height_first", [more, some])
    order = parts.constant("prepare.order", [True, False], np.bool_)
    changes = parts.node("Equal", "prepare.first.changes", [height_first, order])
    between = parts.node("Where", "prepare.first.sides", [changes, new_sides, sides])
    for name, target in (("first", between), ("second", new_sides)):
        shape = parts.node("Concat", f"prepare.{name}.shape", [channels, target], axis=0)
        value = parts.node(
            "Resize",
            f"prepare.{name}",
            [value, "", "", shape],
            mode=_MODES[spec.interpolation],
            antialias=1,
            coordinate_transformation_mode="half_pixel",
            cubic_coeff_a=_PILLOW_A,
            exclude_outside=1,
        )
    return value


def _crop(parts: _Parts, spec: PreprocessSpec, value: str, sides: str) -> str:
    """Add the center crop; a side that is short already stays."""
    size = parts.constant("prepare.crop.size", [spec.input_size])
    none = parts.constant("prepare.none", [0])
    spare = parts.node("Sub", "prepare.spare", [sides, size])
    spare = parts.node("Max", "prepare.spare.some", [spare, none])
    exact = parts.node("Cast", "prepare.spare.exact", [spare], to=TensorProto.DOUBLE)
    half = parts.constant("prepare.half", [0.5], np.float64)
    middle = parts.node("Mul", "prepare.middle", [exact, half])
    middle = parts.node("Round", "prepare.start.exact", [middle])  # as torchvision
    start = parts.node("Cast", "prepare.start", [middle], to=TensorProto.INT64)
    stop = parts.node("Add", "prepare.stop", [start, size])  # Slice ends with the picture
    axes = parts.constant("prepare.axes", [2, 3])
    return parts.node("Slice", "prepare.crop", [value, start, stop, axes])


def _pad(parts: _Parts, spec: PreprocessSpec, value: str, sides: str) -> str:
    """Add the border of what is smaller than the input; most pictures have none."""
    if spec.mode == "crop" and spec.resize >= spec.input_size:
        return value
    lacking = parts.node("Sub", "prepare.lacking", ["prepare.crop.size", sides])
    lacking = parts.node("Max", "prepare.border", [lacking, "prepare.none"])
    two = parts.constant("prepare.two", [2])
    before = parts.node("Div", "prepare.before", [lacking, two])
    after = parts.node("Sub", "prepare.after", [lacking, before])
    pads = parts.node("Concat", "prepare.pads", [before, after], axis=0)
    fill = spec.fill[0] if spec.mode == "letterbox" else 0
    level = parts.constant("prepare.fill", fill, np.uint8)
    return parts.node("Pad", "prepare.pad", [value, pads, level, "prepare.axes"])
