"""The same weights, the same logits: every engine, every precision.

Each engine that is installed runs the same pictures as the float64 reference; differences
are judged by one row of `TOLERANCES`. What is not installed is listed and never passes.
"Relative" is always a part of the largest value of the reference, over all pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext import images, predictions
from resnext.deploy import golden, pixels
from resnext.deploy.pixels import PixelCheck, Status
from resnext.deploy.reference import Reference
from resnext.engines import graph, select
from resnext.engines.base import AbstractEngine
from resnext.errors import (
    BrokenExtraError,
    ConfigError,
    DatasetError,
    EngineError,
    ImageError,
    MissingExtraError,
    ParityError,
    counted,
    import_extra,
    listed,
)
from resnext.weights import LocalModel, read_tensors

Array = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]

FEW = 8  # pictures that also run one by one, and on one thread


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """What a precision may do to the answers.

    Args:
        logits: Largest relative difference of a logit, to the reference and between one
            picture alone and a batch, or one thread and all.
        embedding: The same for a pooled feature.
        probability: Largest difference of a probability.
        agreement: Share of pictures whose best class is the reference's. Below 1, a few
            pictures cannot tell: so many may differ as would by chance, once in 100.
    """

    logits: float
    embedding: float
    probability: float
    agreement: float


# One row per precision. Found: 1e-6 and 6e-3 on ResNeXt-50 with random weights; on the starter,
# with torch, which rounds after every layer, 0.016 and probabilities off by 0.008 in bf16.
# fp16 and tf32 have 3 bits more than bf16: an eighth of its differences.
TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(logits=1e-4, embedding=1e-4, probability=1e-3, agreement=1.0),
    "tf32": Tolerance(logits=0.01, embedding=0.01, probability=0.02, agreement=0.995),
    "fp16": Tolerance(logits=0.01, embedding=0.01, probability=0.02, agreement=0.995),
    "bf16": Tolerance(logits=0.05, embedding=0.05, probability=0.1, agreement=0.995),
    "int8": Tolerance(logits=0.3, embedding=0.3, probability=0.3, agreement=0.985),
}
OFFERED: Mapping[str, Sequence[str]] = {
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"),
    "torch": ("fp32", "bf16"),
}
ON_A_GPU = ("fp32", "tf32", "bf16", "fp16")  # of torch
# Classes that the reference itself holds for as good are not told apart by anybody.
TIE = 2 * TOLERANCES["fp32"].logits
_BY_CHANCE = 0.01
_REFERENCE_PIXELS = 8 * 224 * 224  # at once: feature maps of 100 MB, and a few copies


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An engine to be compared.

    Args:
        engine: Its name.
        precision: What it computes in; a key of `TOLERANCES`.
        open: Opens it with a number of threads; None is what it takes by itself.
    """

    engine: str
    precision: str
    open: Callable[[int | None], AbstractEngine]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """How far an engine is from the reference.

    Args:
        logits: Largest difference of a logit.
        logits_relative: The same as a part of the largest logit.
        embedding: Largest difference of a feature.
        embedding_relative: The same as a part of the largest feature.
        probability: Largest difference of a probability.
        top1: Number of pictures with the same best class, or one as good.
        top5: Number of pictures with the same five best classes, in any order.
        batch_relative: Largest difference of a logit between a batch and one by one.
        threads_relative: The same between all threads and one.
        worst: The picture with the largest difference of a logit.
    """

    logits: float
    logits_relative: float
    embedding: float
    embedding_relative: float
    probability: float
    top1: int
    top5: int
    batch_relative: float
    threads_relative: float
    worst: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What became of one engine.

    Args:
        engine: Its name.
        precision: What it computes in.
        status: "passed", "failed", "not installed", or "not available" on this machine.
        problems: What is outside the tolerance, or why it did not run.
        figures: How far it is off; None where it did not run.
    """

    engine: str
    precision: str
    status: Status
    problems: tuple[str, ...] = ()
    figures: Figures | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was found.

    Args:
        local: The model.
        pictures: Names of the pictures that the engines ran, golden ones first.
        num_golden: How many of them are golden.
        unreadable: The user's pictures that could not be read.
        input_sha256: Of the pixels that every engine got.
        pixel_checks: Steps of preprocessing, each done twice.
        comparisons: One per engine and precision.
    """

    local: LocalModel
    pictures: tuple[str, ...]
    num_golden: int
    unreadable: tuple[ImageError, ...]
    input_sha256: str
    pixel_checks: tuple[PixelCheck, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything outside its tolerance, one line each."""
        found = [f"{check.step}: {check.reason}" for check in self.pixel_checks if _bad(check)]
        for one in filter(_bad, self.comparisons):
            found += [f"engine {one.engine} ({one.precision}): {text}" for text in one.problems]
        if not any(one.figures for one in self.comparisons):
            found.append("no engine ran; expected at least one")
        return tuple(found)

    def require(self) -> None:
        """Raise if anything is outside its tolerance.

        Raises:
            ParityError: Says which engine, and on which picture.
        """
        if problems := self.problems:
            raise ParityError(
                f"{self.local.document.name}: {listed(problems, most=3)}",
                hint="do not rely on what failed: take another --engine or --precision",
            )


def candidates(local: LocalModel) -> list[Candidate]:
    """Return every engine with every precision it has for a model, opened as by `predict`.

    Where there is a GPU, "torch" runs there; the graphs stay on the processor.
    """
    all_offered = {**OFFERED, **({"torch": ON_A_GPU} if select.has_gpu() else {})}

    def opener(engine: str, precision: str) -> Callable[[int | None], AbstractEngine]:
        return lambda threads: select.load(
            local, engine=engine, precision=precision, threads=threads
        )

    return [
        Candidate(engine=engine, precision=precision, open=opener(engine, precision))
        for engine, offered in all_offered.items()
        for precision in offered
        if precision != "int8" or local.document.quantization is not None
    ]


def choose(inputs: str, limit: int) -> list[images.Source]:
    """Take at most `limit` pictures of a file, folder or glob, evenly spaced.

    Raises:
        DatasetError: There is no such file or folder, or no picture in it.
    """
    if not os.path.exists(inputs) and not set(inputs) & set("*?["):
        raise DatasetError(f"{inputs}: there is no such file or folder")
    found = list(images.iter_sources([inputs]))
    if all(source.problem for source in found):
        raise DatasetError(f"{inputs}: {found[0].problem}")
    count = min(limit, len(found))
    return [found[index * len(found) // count] for index in range(count)]


def verify(
    local: LocalModel,
    *,
    pictures: Iterable[Any] = (),
    engines: Sequence[Candidate] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run a model in every engine and compare.

    Args:
        local: The model.
        pictures: More pictures than the golden ones: what `images.open_rgb` takes.
        engines: What to compare; by default all of `candidates`.
        progress: Called with the pictures done and those of all engines.

    Returns:
        What was found, good or bad; see `Report.require`.

    Raises:
        ModelFileError: The tensors are refused.
    """
    document, drawn = local.document, golden.pictures()
    engines = candidates(local) if engines is None else engines
    preparer = pixels.Preparer(document.preprocess)
    names = [one.name for one in drawn]
    prepared = [preparer.prepare(one.name, preparer.read(one)) for one in drawn]
    unreadable: list[ImageError] = []
    for picture in pictures:  # one at a time: only what the network takes is kept
        try:
            image = images.open_rgb(picture, orientation=document.preprocess.orientation)
        except ImageError as error:
            unreadable.append(error)
            continue
        names.append(str(getattr(picture, "name", picture)))
        prepared.append(preparer.prepare(names[-1], image))
    batch = np.stack(prepared)
    done = _Counter(len(batch) * (1 + len(engines)), progress)
    normalization = _check_normalization(local)
    judge = Judge(names, batch, _run_reference(local, batch, done), document.temperature)
    comparisons = []
    for candidate in engines:
        comparisons.append(judge.compare(candidate))
        done.add(len(batch))
    return Report(
        local=local,
        pictures=tuple(names),
        num_golden=len(drawn),
        unreadable=tuple(unreadable),
        input_sha256=hashlib.sha256(batch.tobytes()).hexdigest(),
        pixel_checks=(*preparer.checks(), normalization),
        comparisons=tuple(comparisons),
    )


def allowed_disagreements(count: int, agreement: float) -> int:
    """Return how many of `count` pictures may differ at a true share of agreement.

    More than this would happen by chance once in 100 times: 1 of 27 and 4 of 200 at 99.5 %.
    """
    if agreement >= 1:
        return 0
    # In logarithms: of 150,000 pictures the chance of no difference is too small for a float.
    share, odds = count * math.log(agreement), math.log(1 - agreement) - math.log(agreement)
    total, allowed = math.exp(share), 0
    while total < 1 - _BY_CHANCE and allowed < count:
        share += math.log((count - allowed) / (allowed + 1)) + odds
        allowed += 1
        total += math.exp(share)
    return allowed


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


class Judge:
    """Holds what all engines are measured against.

    Args:
        names: Of the N pictures.
        batch_nhwc: (N, S, S, C) pixels.
        expected: (N, K) logits and (N, D) features of the reference.
        temperature: Divides the logits before the softmax.
    """

    def __init__(
        self,
        names: Sequence[str],
        batch_nhwc: Pixels,
        expected: tuple[Array, Array],
        temperature: float,
    ) -> None:
        self._names, self._batch, self._temperature = names, batch_nhwc, temperature
        self._logits, self._embedding = expected
        self._scale = float(np.abs(self._logits).max())

    def compare(self, candidate: Candidate) -> Comparison:
        """Run an engine and say what is outside the tolerance of its precision."""
        outcome: dict[str, Any] = {"engine": candidate.engine, "precision": candidate.precision}
        try:
            figures = self._measure(candidate)
        except (BrokenExtraError, ConfigError) as error:  # or a precision not of this processor
            return Comparison(**outcome, status="not available", problems=(error.message,))
        except MissingExtraError as error:
            return Comparison(**outcome, status="not installed", problems=(error.message,))
        except EngineError as error:
            return Comparison(**outcome, status="failed", problems=(error.message,))
        problems = self._judge(figures, TOLERANCES[candidate.precision])
        status: Status = "failed" if problems else "passed"
        return Comparison(**outcome, status=status, problems=problems, figures=figures)

    def _measure(self, candidate: Candidate) -> Figures:
        few = self._batch[:FEW]
        with _threads_kept(candidate.engine):
            with candidate.open(None) as engine:
                outputs = engine.run(self._batch)
                single = np.concatenate([engine.run(one[None]).logits for one in few])
            with candidate.open(1) as engine:
                alone = engine.run(few).logits
        logits, embedding = outputs.logits, outputs.embedding
        apart = np.abs(logits - self._logits).max(axis=1)
        features = float(np.abs(embedding - self._embedding).max())
        shares, expected = (
            predictions.probabilities(each, temperature=self._temperature)
            for each in (logits, self._logits)
        )
        return Figures(
            logits=float(apart.max()),
            logits_relative=self._part(apart.max()),
            embedding=features,
            embedding_relative=features / (float(np.abs(self._embedding).max()) or 1.0),
            probability=float(np.abs(shares - expected).max()),
            top1=self._count_same_best(logits),
            top5=_count_same_five(logits, self._logits),
            batch_relative=self._part(np.abs(single - logits[:FEW]).max()),
            threads_relative=self._part(np.abs(alone - logits[:FEW]).max()),
            worst=self._names[int(apart.argmax())],
        )

    def _judge(self, figures: Figures, tolerance: Tolerance) -> tuple[str, ...]:
        limits = (
            (f"logits of {figures.worst}", figures.logits_relative, tolerance.logits),
            ("features", figures.embedding_relative, tolerance.embedding),
            ("a probability", figures.probability, tolerance.probability),
            ("logits of a batch and one by one", figures.batch_relative, tolerance.logits),
            ("logits on one thread and on all", figures.threads_relative, tolerance.logits),
        )
        problems = [
            f"{what} differ by {found:.2g}; at most {limit:g} is allowed"
            for what, found, limit in limits
            if not found <= limit  # NaN is not
        ]
        count = len(self._batch)
        others = count - figures.top1
        if others > allowed_disagreements(count, tolerance.agreement):
            problems.append(
                f"another best class for {others} of {counted(count, 'picture')}; expected the"
                " same for"
                f" {tolerance.agreement:.1%}"
            )
        return tuple(problems)

    def _part(self, difference: Any) -> float:
        return float(difference) / (self._scale or 1.0)

    def _count_same_best(self, logits: npt.NDArray[np.float32]) -> int:
        rows = np.arange(len(logits))
        lost = self._logits.max(axis=1) - self._logits[rows, logits.argmax(axis=1)]
        return int((lost <= TIE * self._scale).sum())


def _count_same_five(logits: npt.NDArray[np.float32], expected: Array) -> int:
    best, others = (
        np.sort(np.argsort(-each, axis=1, kind="stable")[:, :5]) for each in (logits, expected)
    )
    return int((best == others).all(axis=1).sum())


def _run_reference(local: LocalModel, batch: Pixels, done: _Counter) -> tuple[Array, Array]:
    document = local.document
    reference = Reference(document.architecture, read_tensors(local), document.preprocess)
    logits: list[Array] = []
    embedding: list[Array] = []
    at_once = max(1, _REFERENCE_PIXELS // batch[0, ..., 0].size)
    for start in range(0, len(batch), at_once):
        part = batch[start : start + at_once]
        for rows, found in zip((logits, embedding), reference.run(part), strict=True):
            rows.append(found)
        done.add(len(part))
    return np.concatenate(logits), np.concatenate(embedding)


def _check_normalization(local: LocalModel) -> PixelCheck:
    document = local.document
    model = graph.build(document.architecture, document.preprocess, read_tensors(local))
    return pixels.check_normalization(model, document.preprocess)


@contextlib.contextmanager
def _threads_kept(engine: str) -> Iterator[None]:
    if engine != "torch":
        yield
        return
    eager = import_extra("resnext.engines.eager", extra="torch")
    with eager.threads_kept():
        yield


def _bad(found: PixelCheck | Comparison) -> bool:
    return found.status == "failed"
