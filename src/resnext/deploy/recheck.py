"""Run an exported model where it belongs; compare its answers with ours."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext import images, preprocess
from resnext.deploy import golden, portable
from resnext.deploy.parity import TOLERANCES
from resnext.engines import select
from resnext.engines.base import EMBEDDING, IMAGE, LOGITS, AbstractEngine, Precision
from resnext.errors import MissingExtraError, ParityError, counted, import_extra
from resnext.weights import LocalModel

BATCHES = (1, 2, 7)  # so many pictures at once
# That a pixel of the graph may be off from Pillow's. Where both passes of the filter end exactly
# between two levels, weights in float32 may fall to the other side twice: so few may be off by 2.
MOST_LEVELS, FEW_PIXELS = 1, 1e-4
_MOST_STRETCHED = 16  # long over short side: resized whole, a strip takes gigabytes
# In 8 bits two programs differ where a value is nearly between two levels, and from there on: on
# the starter by 0.017, on random networks of two classes by up to 0.096. So a file is compared
# with the engine on the same program, as a rule equal to the bit; sums in another order, where
# groups are joined otherwise, may tip a value over. Levels, steps or biases of one layer of the
# starter that are wrong: 0.12 to 0.52 in 10 cases of 12. From fp32 `verify` says what may be.
_IN_EIGHT_BITS = 0.1

_VERIFY_HINT = "`resnext verify MODEL` says which engines of this machine compute it as they should"
_LOSES_HINT = f"--calibrate on more pictures, or more varied ones; {_VERIFY_HINT}"
_PIXELS_HINT = "--input prepared leaves the preparation out; `resnext verify MODEL` checks ours"

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
        from_fp32: Of a file in 8 bits, the difference from fp32; None for others.
        obstacle: Why ONNX Runtime, which an ONNX file is for, did not run it; None where it did.
    """

    difference: float
    levels: int | None
    engine: str
    reference: str
    from_fp32: float | None = None
    obstacle: MissingExtraError | None = None


def check(path: Path, local: LocalModel, *, picture: bool, precision: Precision = "fp32") -> Found:
    """Run an exported model on golden pictures.

    Args:
        path: The file.
        local: The model it was made of.
        picture: Whether it takes pictures of any size.
        precision: What it computes in: "fp32", or "int8" of a model that was quantized.

    Raises:
        ParityError: Its answers, or its pixels, are not those of the source.
        MissingExtraError: What runs it is not installed.
    """
    run, name, obstacle = _open(path, picture=picture, precision=precision)
    with contextlib.ExitStack() as opened:
        judges = [opened.enter_context(judge) for judge in _judges(local, precision, name)]
        levels = None
        if picture:
            levels = _compare_pictures(path, run, judges, local)
        else:
            _compare(run, judges, local)
    differences = [judge.judge(f"{path.name}, run by {name}") for judge in judges]
    return Found(
        difference=differences[0],
        levels=levels,
        engine=name,
        reference=judges[0].engine.name,
        from_fp32=differences[1] if len(judges) > 1 else None,
        obstacle=obstacle,
    )


def _judges(
    local: LocalModel, precision: Precision, program: str
) -> Iterator[contextlib.AbstractContextManager[_Judge]]:
    """Open what a file is compared with; the first has its precision."""
    if precision == "int8":
        yield _open_judge(_IN_EIGHT_BITS, local, engine=program, precision="int8")
    hint = _LOSES_HINT if precision == "int8" else _VERIFY_HINT
    yield _open_judge(TOLERANCES[precision].logits, local, hint=hint, precision="fp32")


@contextlib.contextmanager
def _open_judge(
    limit: float, local: LocalModel, *, hint: str = _VERIFY_HINT, **options: Any
) -> Iterator[_Judge]:
    with select.load(local, **options) as engine:
        yield _Judge(engine, limit, hint)


class _Judge:
    """Compares the answers of a file with those of an engine, over all pictures."""

    def __init__(self, engine: AbstractEngine, limit: float, hint: str) -> None:
        self.engine, self.limit, self.hint = engine, limit, hint
        self.apart, self.largest = np.zeros(2), np.full(2, 1e-9)  # of logits, of features

    def compare(self, pixels: Batch, answers: Answers) -> None:
        """Note how far the answers are from those of the engine to the same pixels."""
        expected = self.engine.run(pixels)
        for index, ours in enumerate((expected.logits, expected.embedding)):
            apart, largest = np.abs(answers[index] - ours).max(), np.abs(ours).max()
            self.apart[index] = np.maximum(self.apart[index], apart)  # keeps a NaN
            self.largest[index] = max(self.largest[index], largest)

    def judge(self, who: str) -> float:
        """Return the difference of a logit, or refuse."""
        relative = self.apart / self.largest
        for what, apart in zip(("logits", "features"), relative, strict=True):
            if not apart <= self.limit:  # a NaN is not
                raise ParityError(
                    f"{who}, gives {what} that are off by {apart:.2g} of the largest of"
                    f" {self.engine}; expected at most {self.limit:g}, and nothing was written",
                    hint=self.hint,
                )
        return float(relative[0])


def _prepared(content: bytes, local: LocalModel) -> Batch:
    return preprocess.apply(images.open_rgb(content), local.document.preprocess)


def _compare(run: Run, judges: Sequence[_Judge], local: LocalModel) -> None:
    """Compare answers to prepared pixels, in batches of all sizes."""
    drawn = golden.pictures()[: sum(BATCHES)]
    pixels = np.stack([_prepared(one.content, local) for one in drawn])
    found, start = [], 0
    for count in BATCHES:
        found.append(run(pixels[start : start + count]))
        start += count
    logits, features = (np.concatenate(part) for part in zip(*found, strict=True))
    for judge in judges:
        judge.compare(pixels, (logits, features))


def _compare_pictures(path: Path, run: Run, judges: Sequence[_Judge], local: LocalModel) -> int:
    """Compare pixels with Pillow's, and answers with ours to the same pixels."""
    ort = import_extra("resnext.engines.ort", extra="ort")
    prepare = ort.open_graph(portable.preparation(local.document.preprocess).SerializeToString())
    levels = np.zeros(256, np.int64)
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
                f" expected {MOST_LEVELS}, and nothing was written",
                hint=_PIXELS_HINT,
            )
        levels += np.bincount(apart.ravel(), minlength=len(levels))
        answers = run(batch)
        for judge in judges:
            judge.compare(pixels, answers)
    more = levels[MOST_LEVELS + 1 :].sum() / levels.sum()
    if more > FEW_PIXELS:
        raise ParityError(
            f"{path.name}: {100 * more:.2g} % of the pixels are off by more than {MOST_LEVELS} of"
            f" 255 levels; expected {100 * FEW_PIXELS:.2g} %, and nothing was written",
            hint=_PIXELS_HINT,
        )
    return int(levels.nonzero()[0].max())


def _open(
    path: Path, *, picture: bool, precision: Precision
) -> tuple[Run, str, MissingExtraError | None]:
    """Open an exported model with the program it is for, or say why with another."""
    obstacle = None
    if path.suffix in (".pt", ".pt2"):
        torchscript = import_extra("resnext.deploy.torchscript", extra="torch")
        return functools.partial(torchscript.run, path), "torch", None
    if path.suffix == ".onnx":
        try:
            ort: Any = import_extra("resnext.engines.ort", extra="ort")
        except MissingExtraError as error:
            if picture:
                raise  # OpenVINO reads no filter that is Pillow's
            obstacle = type(error)(error.message, hint=error.hint)  # without its frames
        else:
            name = portable.PICTURE if picture else IMAGE
            return _named(ort.open_graph(path), name), "onnxruntime", None
    openvino = importlib.import_module("resnext.engines.openvino")
    return _named(openvino.open_graph(path, precision=precision), IMAGE), "openvino", obstacle


def _named(run: Callable[[dict[str, Batch], list[str]], Any], name: str) -> Run:
    def answer(batch: Batch) -> Answers:
        logits, features = run({name: batch}, [LOGITS, EMBEDDING])
        return logits, features

    return answer
