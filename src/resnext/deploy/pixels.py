"""Preprocessing done twice: ours, and by hand, torchvision or the graph.

Models that went elsewhere are mostly wrong because pictures reach them differently. So
each step is compared: as the package does it, and in the plainest way there is.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from resnext import images, preprocess
from resnext.deploy.golden import Golden
from resnext.errors import BrokenExtraError, MissingExtraError, counted, import_extra
from resnext.preprocess import PreprocessSpec

Status = Literal["passed", "failed", "not installed", "not available"]
Pixels = npt.NDArray[np.uint8]

NORMALIZE_TOLERANCE = 1e-6  # of the largest value; three float32 roundings are 2e-7
_MOST_PIXELS = 64_000_000  # of a strip resized whole; the package makes only its crop


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelCheck:
    """One step of preprocessing, done twice.

    Args:
        step: What was compared with what.
        status: "failed" where the difference is above the tolerance.
        reason: Why nothing was compared, or what is wrong; "" where all is well.
        pictures: How many were compared.
        difference: The largest, in levels of 0 to 255, or of normalized values as a part of
            the largest; None where nothing was compared.
        tolerance: What is allowed.
    """

    step: str
    status: Status
    reason: str = ""
    pictures: int = 0
    difference: float | None = None
    tolerance: float = 0.0


class Tally:
    """Collects differences between pictures, in levels; none is allowed.

    Args:
        step: What is compared with what.
    """

    def __init__(self, step: str) -> None:
        self._step, self._wrong = step, ""
        self._largest, self._count = 0, 0

    def add(self, name: str, ours: Pixels, theirs: Pixels) -> None:
        """Compare one picture, done twice; both are (H, W, 3)."""
        self._count += 1
        if ours.shape != theirs.shape:
            largest, wrong = 255, f"{name} is {ours.shape} here and {theirs.shape} there"
        else:
            largest = int(np.abs(ours.astype(np.int16) - theirs).max())
            wrong = f"{name} is off by {counted(largest, 'level')} of 255"
        if largest > self._largest:
            self._largest, self._wrong = largest, wrong

    def result(self) -> PixelCheck:
        """Return what was found so far."""
        if not self._count:
            reason = "every picture would be too large"
            return PixelCheck(step=self._step, status="not available", reason=reason)
        return PixelCheck(
            step=self._step,
            status="failed" if self._wrong else "passed",
            reason=self._wrong,
            pictures=self._count,
            difference=float(self._largest),
        )


class Preparer:
    """Prepares pictures by `preprocess.apply`, by hand and by torchvision, and compares.

    Args:
        spec: The preprocessing.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        self._spec = spec
        names: Mapping[str, str] = {"crop": "resize and crop", "squash": "resize"}
        what = names.get(spec.mode, spec.mode)
        self._reading = Tally("reading, against Pillow by hand")
        self._by_hand = Tally(f"{what}, against Pillow by hand")
        self._by_peer = Tally(f"{what}, against torchvision")
        self._peer, self._no_peer = _open_peer(spec, f"{what}, against torchvision")

    def read(self, picture: Golden) -> Image.Image:
        """Read a golden picture; only those are read by hand as well."""
        spec = self._spec
        image = images.open_rgb(picture.content, orientation=spec.orientation)
        plain = read_by_hand(picture.content, turn=spec.orientation == "exif")
        self._reading.add(picture.name, np.asarray(image), np.asarray(plain))
        return image

    def prepare(self, name: str, image: Image.Image) -> Pixels:
        """Return an RGB picture as the network takes it, (S, S, 3)."""
        ours = preprocess.apply(image, self._spec)
        if (
            self._spec.mode == "crop"
            and self._spec.resize * _long(image, self._spec) > _MOST_PIXELS
        ):
            return ours  # others would need gigabytes for it
        self._by_hand.add(name, ours, np.asarray(prepare_by_hand(image, self._spec)))
        if self._peer is not None:
            self._by_peer.add(name, ours, self._peer(image))
        return ours

    def checks(self) -> tuple[PixelCheck, ...]:
        """Return what was found so far."""
        peer = self._no_peer or self._by_peer.result()
        return (self._reading.result(), self._by_hand.result(), peer)


def _open_peer(
    spec: PreprocessSpec, step: str
) -> tuple[Callable[[Image.Image], Pixels] | None, PixelCheck | None]:
    """Return torchvision's transform, or why there is none."""
    if spec.mode == "letterbox":
        reason = "torchvision has no letterbox"
        return None, PixelCheck(step=step, status="not available", reason=reason)
    try:
        peers = import_extra("resnext.deploy.peers", extra="train")
    except MissingExtraError as error:
        broken = isinstance(error, BrokenExtraError)
        status: Status = "not available" if broken else "not installed"
        return None, PixelCheck(step=step, status=status, reason=error.message)
    return peers.transform(spec), None


def check_normalization(model: Any, spec: PreprocessSpec) -> PixelCheck:
    """Compare the first nodes of a graph with `preprocess.normalize`, on every level.

    Args:
        model: What `graph.build` returned for "fp32".
        spec: The preprocessing it was built with.
    """
    side, levels = spec.input_size, 256 * 3
    shape = (-(-levels // (side * side * 3)), side, side, 3)
    batch: Pixels = np.resize(np.arange(256, dtype=np.uint8).repeat(3), shape)
    scale, shift = preprocess.affine(spec)
    largest = float((255 * np.abs(scale) + np.abs(shift)).max())
    found = run_normalization(model, batch).transpose(0, 2, 3, 1)
    apart = np.subtract(found, preprocess.normalize(batch, spec))
    difference = float(np.abs(apart).max()) / largest
    passed = difference <= NORMALIZE_TOLERANCE  # a NaN is not
    return PixelCheck(
        step="normalization, in the graph against NumPy",
        status="passed" if passed else "failed",
        reason="" if passed else f"off by {difference:.2g} of the largest value",
        pictures=len(batch),
        difference=difference,
        tolerance=NORMALIZE_TOLERANCE,
    )


def run_normalization(model: Any, batch_nhwc: Pixels) -> npt.NDArray[np.float32]:
    """Run the nodes of a graph that normalize, one by one, in NumPy.

    Args:
        model: What `graph.build` returned for "fp32".
        batch_nhwc: (N, S, S, C) pixels.

    Returns:
        (N, C, S, S), the input of the first convolution.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    nodes = [node for node in model.graph.node if node.name.startswith("normalize.")]
    needed = {name for node in nodes for name in node.input}
    last = nodes[-1].output[0]
    graph = onnx.helper.make_graph(
        nodes,
        "normalize",
        list(model.graph.input),
        [onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None)],
        [weight for weight in model.graph.initializer if weight.name in needed],
    )
    alone = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    result: Any = ReferenceEvaluator(alone).run(None, {model.graph.input[0].name: batch_nhwc})
    return np.asarray(result[0], np.float32)


def read_by_hand(content: bytes, *, turn: bool) -> Image.Image:
    """Read a golden picture as any tutorial does: upright, on white, in RGB."""
    image: Image.Image = Image.open(io.BytesIO(content))
    if turn:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        levels = np.rint(np.asarray(image, np.float64) / 65535 * 255)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "RGBA"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def prepare_by_hand(image: Image.Image, spec: PreprocessSpec) -> Image.Image:
    """Resize and crop an RGB picture as any tutorial does, with Pillow alone."""
    size, (width, height) = spec.input_size, image.size
    filter = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    resample = filter[spec.interpolation]
    if spec.mode == "squash":
        return image.resize((size, size), resample)
    canvas = Image.new("RGB", (size, size), spec.fill if spec.mode == "letterbox" else 0)
    if spec.mode == "letterbox":
        ratio = size / max(width, height)
        sides = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        image = image.resize(sides, resample)
        canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
        return canvas
    long = _long(image, spec)
    sides = (spec.resize, long) if width <= height else (long, spec.resize)
    image = image.resize(sides, resample)
    left, top = (max(0, round((side - size) / 2)) for side in sides)
    image = image.crop((left, top, min(left + size, sides[0]), min(top + size, sides[1])))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def _long(image: Image.Image, spec: PreprocessSpec) -> int:
    return int(spec.resize * max(image.size) / min(image.size))
