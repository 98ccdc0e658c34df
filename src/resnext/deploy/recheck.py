"""Run an exported model where it belongs; compare its answers with ours."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext import images, preprocess
from resnext.deploy import golden, portable
from resnext.deploy.parity import TOLERANCES
from resnext.engines import select
from resnext.engines.base import EMBEDDING, IMAGE, LOGITS, AbstractEngine, Outputs
from resnext.errors import MissingExtraError, ParityError, counted, import_extra
from resnext.weights import LocalModel

BATCHES = (1, 2, 7)  # so many pictures at once
# That a pixel of the graph may be off from Pillow's. Where both passes of the filter end exactly
# between two levels, weights in float32 may fall to the other side twice: so few may be off by 2.
MOST_LEVELS, FEW_PIXELS = 1, 1e-4
_MOST_STRETCHED = 16  # long over short side: resized whole, a strip takes gigabytes

Batch = npt.NDArray[np.uint8]
Answers = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # logits, features
Run = Callable[[Batch], Answers]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """How far an exported model is from its source.

    Args:
        difference: Largest difference of a logit, as a part of the largest logit.
        levels: Largest difference of a prepared pixel, 0 to 255; None where the preparation
            is left to the program.
        engine: What ran it.
        reference: The engine of this package whose answers it was compared with.
    """

    difference: float
    levels: int | None
    engine: str
    reference: str


def check(path: Path, local: LocalModel, *, picture: bool) -> Found:
    """Run an exported model on golden pictures.

    Args:
        path: The file.
        local: The model it was made of.
        picture: Whether it takes pictures of any size.

    Raises:
        ParityError: Its answers, or its pixels, are not those of the source.
        MissingExtraError: What runs it is not installed.
    """
    run, name = _open(path, picture=picture)
    with select.load(local, precision="fp32") as engine:
        if not picture:
            drawn = golden.pictures()[: sum(BATCHES)]
            prepared = [_prepared(one.content, local) for one in drawn]
            difference = _compare(path, name, run, engine, np.stack(prepared))
            levels = None
        else:
            difference, levels = _compare_pictures(path, name, run, engine, local)
        return Found(difference=difference, levels=levels, engine=name, reference=engine.name)


def _prepared(content: bytes, local: LocalModel) -> Batch:
    return preprocess.apply(images.open_rgb(content), local.document.preprocess)


def _compare(path: Path, name: str, run: Run, engine: AbstractEngine, pixels: Batch) -> float:
    """Compare answers to prepared pixels, in batches of all sizes."""
    expected = engine.run(pixels)
    found, start = [], 0
    for count in BATCHES:
        found.append(run(pixels[start : start + count]))
        start += count
    logits, features = (np.concatenate(part) for part in zip(*found, strict=True))
    return _judge(path, name, expected, (logits, features))


def _compare_pictures(
    path: Path, name: str, run: Run, engine: AbstractEngine, local: LocalModel
) -> tuple[float, int]:
    """Compare pixels with Pillow's, and answers with ours to the same pixels."""
    ort = import_extra("resnext.engines.ort", extra="ort")
    prepare = ort.open_graph(portable.preparation(local.document.preprocess).SerializeToString())
    difference, levels = 0.0, np.zeros(256, np.int64)
    for number, one in enumerate(golden.pictures()):
        image = images.open_rgb(one.content)
        if max(image.size) > _MOST_STRETCHED * min(image.size):
            continue
        batch = np.asarray(image)[None].repeat(BATCHES[number % len(BATCHES)], axis=0)
        [pixels] = prepare({portable.PICTURE: batch}, [portable.PREPARED])
        ours = preprocess.apply(image, local.document.preprocess).astype(np.int16)
        apart = np.abs(pixels[0] - ours)
        if apart.max() > MOST_LEVELS + 1:
            raise ParityError(
                f"{path.name}: the pixels of {one.name} are off by"
                f" {counted(apart.max(), 'level')} of 255;"
                f" expected {MOST_LEVELS}, and nothing was written"
            )
        levels += np.bincount(apart.ravel(), minlength=len(levels))
        difference = max(difference, _judge(path, name, engine.run(pixels), run(batch)))
    more = levels[MOST_LEVELS + 1 :].sum() / levels.sum()
    if more > FEW_PIXELS:
        raise ParityError(
            f"{path.name}: {100 * more:.2g} % of the pixels are off by more than {MOST_LEVELS} of"
            f" 255 levels; expected {100 * FEW_PIXELS:.2g} %, and nothing was written"
        )
    return difference, int(levels.nonzero()[0].max())


def _judge(path: Path, name: str, expected: Outputs, found: Answers) -> float:
    limits, relative = TOLERANCES["fp32"], []
    for what, ours, theirs, limit in (
        ("logits", expected.logits, found[0], limits.logits),
        ("features", expected.embedding, found[1], limits.embedding),
    ):
        relative.append(float(np.abs(theirs - ours).max() / max(np.abs(ours).max(), 1e-9)))
        if not relative[-1] <= limit:  # a NaN is not
            raise ParityError(
                f"{path.name}, run by {name}, gives {what} that are off by {relative[-1]:.2g} of"
                f" the largest; expected at most {limit:g}, and nothing was written"
            )
    return relative[0]


def _open(path: Path, *, picture: bool) -> tuple[Run, str]:
    """Open an exported model with the program it is for."""
    if path.suffix in (".pt", ".pt2"):
        torchscript = import_extra("resnext.deploy.torchscript", extra="torch")
        return functools.partial(torchscript.run, path), "torch"
    if path.suffix == ".onnx":
        try:
            ort: Any = import_extra("resnext.engines.ort", extra="ort")
        except MissingExtraError:
            if picture:
                raise  # OpenVINO reads no filter that is Pillow's
        else:
            name = portable.PICTURE if picture else IMAGE
            return _named(ort.open_graph(path), name), "onnxruntime"
    openvino = importlib.import_module("resnext.engines.openvino")
    return _named(openvino.open_graph(path), IMAGE), "openvino"


def _named(run: Callable[[dict[str, Batch], list[str]], Any], name: str) -> Run:
    def answer(batch: Batch) -> Answers:
        logits, features = run({name: batch}, [LOGITS, EMBEDDING])
        return logits, features

    return answer
