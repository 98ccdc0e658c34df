"""Write a model file that runs in 8 bits, if its answers stay the same.

Ranges and rounded weights are found on pictures, see `levels`; the file holds the weights
as they were beside them. Then the network is run on other pictures. If too many answers
change, values that cost little time and lose much are left alone, and if that does not help,
nothing is written.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext import images, modelfile, preprocess, weights
from resnext.classifier import Classifier
from resnext.deploy import levels, parity
from resnext.engines import graph, select
from resnext.errors import ConfigError, DatasetError, ImageError, ParityError, counted, listed
from resnext.evaluation.evaluate import Question, evaluate
from resnext.modelfile import ModelDocument, Tensors
from resnext.provenance import versions
from resnext.quantization import Quantization
from resnext.weights import LocalModel

Pixels = npt.NDArray[np.uint8]
Progress = Callable[[int, int], object]

FOR_RANGES, FOR_CHECK = 300, 1000  # pictures; more change nothing
LEAST = 10
FEW = 200  # of which 1.5 % are three pictures

# What is left alone, tried in this order: whether the sums, and the values whose names begin
# so. Of the starter's answers on 5,000 pictures 99.1, 99.3 and 99.5 % stay, at 1.77, 1.61 and
# 1.37 times the speed of bf16 on AMX.
_WAYS: Sequence[tuple[str, bool, str]] = (
    ("everything", False, ""),
    ("all but the sums", True, ""),
    ("all but the sums and the first stage", True, "layer1."),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantized:
    """What came out.

    Args:
        path: The model file.
        rounded: Which values are rounded, in words.
        values: How many.
        agreement: Share of pictures whose best class is that of fp32, 0 to 1.
        checked: Number of these pictures.
        drop: Top-1 lost on labelled pictures, in points; None without such.
        labelled: Number of these.
        problems: Pictures that could not be read.
        before: What was tried before, and what it cost, in words.
    """

    path: Path
    rounded: str
    values: int
    agreement: float
    checked: int
    drop: float | None
    labelled: int
    problems: tuple[str, ...]
    before: tuple[str, ...] = ()

    def summary(self) -> list[tuple[str, object]]:
        """Return what people want to know."""
        what_next = f"resnext predict photo.jpg -m {self.path}"
        return [("file", self.path), *self.findings(), ("next", what_next)]

    def findings(self) -> list[tuple[str, object]]:
        """Return what people want to know but the file, which may be on its way elsewhere."""
        drop = (
            ""
            if self.drop is None
            else f"{self.drop:+.2f} points on {counted(self.labelled, 'picture')}"
        )
        return [
            ("rounded", f"{self.rounded}, {counted(self.values, 'value')}"),
            (
                "same answer as fp32",
                f"{100 * self.agreement:.2f} % of {counted(self.checked, 'picture')}"
                + (", too few to be sure" if self.checked < FEW else ""),
            ),
            ("tried before", "; ".join(self.before)),
            ("top-1 lost", drop),
            ("left out", f"{len(self.problems)} that cannot be read" if self.problems else ""),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return {
            "file": str(self.path),
            "rounded": self.rounded,
            "values": self.values,
            "agreement": self.agreement,
            "checked": self.checked,
            "top1_drop": self.drop,
            "labelled": self.labelled,
            "left_out": list(self.problems),
            "tried_before": list(self.before),
        }


def quantize(
    local: LocalModel,
    pictures: str,
    path: Path,
    *,
    labelled: str | None = None,
    most_drop: float = 0.3,
    least_agreement: float = 0.985,
    force: bool = False,
    progress: Progress | None = None,
) -> Quantized:
    """Write a model file that runs in 8 bits, and as before where that is asked for.

    Args:
        local: The model.
        pictures: File, folder or glob of pictures like those to come; labels play no part.
        path: The file to write.
        labelled: Labelled pictures, as for `evaluate`, to measure the top-1 that is lost.
        most_drop: Points of top-1 that may be lost there.
        least_agreement: Share of `pictures` whose best class must stay, 0 to 1.
        force: Replace what is there.
        progress: Called with the ways tried and those there are.

    Raises:
        ConfigError: The path will not do, or is there, or a limit is out of range.
        DatasetError: There are too few pictures.
        ParityError: Too many answers change, whatever is left alone.
        OutputError: It cannot be written.
    """
    if not 0 <= least_agreement <= 1:
        raise ConfigError(f"least_agreement is {least_agreement}; expected 0 to 1")
    modelfile.check_output(path, force=force)
    seen, others, problems = _open(pictures, local)
    tensors = weights.read_tensors(local)
    check = others if len(others) >= LEAST else seen
    measure = _Measure(local, check, labelled)
    tried: list[_Way] = []
    for words, quantization in find(local.document, tensors, seen):
        tried.append(measure.try_way(words, quantization, at_least=least_agreement))
        if progress is not None:
            progress(len(tried), len(_WAYS))
        if tried[-1].is_within(least_agreement, most_drop):
            break
    else:
        raise ParityError(
            f"{local.document.name} loses too much in 8 bits:"
            f" {listed(map(str, tried), most=len(_WAYS))}; expected"
            f" {100 * least_agreement:g} % and at most {most_drop:g} points lost",
            hint=measure.hint(most_drop),
        )
    way = tried[-1]
    facts = {
        "method": "ranges from the lowest to the highest value, channels evened out, GPTQ",
        "software": versions("openvino"),
        "pictures": len(seen),
        "rounded": way.words,
        "agreement": round(way.agreement, 5),
        "checked": len(check),
        "checked_on_others": check is others,
        "top1_drop": None if way.drop is None else round(way.drop, 3),
        "labelled": measure.labelled_count,
    }
    quantization = replace(way.quantization, facts=facts)
    document = replace(local.document, name=path.stem, quantization=quantization)
    modelfile.write(path, document, tensors, dtype=modelfile.storage_dtype(tensors))
    return Quantized(
        path=path,
        rounded=way.words,
        values=len(way.quantization.ranges),
        agreement=way.agreement,
        checked=len(check),
        drop=way.drop,
        labelled=measure.labelled_count,
        problems=problems,
        before=tuple(map(str, tried[:-1])),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """One choice of values to round, and what it costs."""

    words: str
    quantization: Quantization
    agreement: float
    drop: float | None

    def is_within(self, least_agreement: float, most_drop: float) -> bool:
        return self.agreement >= least_agreement and (self.drop is None or self.drop <= most_drop)

    def __str__(self) -> str:
        lost = "" if self.drop is None else f", {self.drop:.2f} points lost"
        return f"{self.words}: {100 * self.agreement:.2f} % stay{lost}"


class _Measure:
    """Measures what 8 bits cost, on the same pictures each time."""

    def __init__(self, local: LocalModel, check: Pixels, labelled: str | None) -> None:
        self._local, self._check, self._labelled = local, check, labelled
        with select.load(local, precision="fp32") as engine:
            self._expected = engine.run(check).logits.argmax(axis=1)
        found = (0.0, 0)
        if labelled is not None:
            with _written(local, local.document) as path:
                found = _top1(path, labelled, "fp32")
        self._top1, self.labelled_count = found

    def hint(self, most_drop: float) -> str:
        """Say what may help."""
        if self.labelled_count and 100 / self.labelled_count > most_drop:
            return (
                f"one picture of {self.labelled_count} is {100 / self.labelled_count:.2g} points:"
                " measure on more, or allow more"
            )
        return "give --calibrate more pictures of the kind that will come"

    def try_way(self, words: str, quantization: Quantization, *, at_least: float) -> _Way:
        """Measure; the labelled pictures only where the others are content."""
        drop = None
        with _written(
            self._local, replace(self._local.document, quantization=quantization)
        ) as path:
            with select.load(weights.locate(path), precision="int8") as engine:
                answers = engine.run(self._check).logits.argmax(axis=1)
            agreement = float((answers == self._expected).mean())
            if self._labelled is not None and agreement >= at_least:
                drop = self._top1 - _top1(path, self._labelled, "int8")[0]
        return _Way(words=words, quantization=quantization, agreement=agreement, drop=drop)


def find(
    document: ModelDocument, tensors: Tensors, pixels: Pixels
) -> Iterator[tuple[str, Quantization]]:
    """Find ranges and rounded weights, the fastest that there are first.

    Args:
        document: The model.
        tensors: Its `state_dict`.
        pixels: (N, S, S, 3) prepared pictures; about 300 are enough.

    Yields:
        What is rounded, in words, and how.
    """
    architecture = document.architecture
    model = graph.build(architecture, document.preprocess, tensors)
    nodes = list(model.graph.node)
    what = levels.plan(nodes, architecture)
    seen = levels.observe(model, what, architecture, pixels)
    solved: dict[str, Quantization] = {}
    for words, is_without_sums, kept in _WAYS:
        what = levels.plan(nodes, architecture, kept=kept)
        if kept not in solved:
            solved = {kept: levels.solve(document, tensors, what, seen)}
        left_alone = what.sums if is_without_sums else frozenset()
        ranges = {
            name: pair for name, pair in solved[kept].ranges.items() if name not in left_alone
        }
        yield words, replace(solved[kept], ranges=ranges)


@contextlib.contextmanager
def _written(local: LocalModel, document: ModelDocument) -> Iterator[Path]:
    """Give a model as the file that it would be."""
    with tempfile.TemporaryDirectory(prefix="resnext-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.safetensors"
        tensors = weights.read_tensors(local)
        modelfile.write(path, document, tensors, dtype=modelfile.storage_dtype(tensors))
        yield path


def _open(pictures: str, local: LocalModel) -> tuple[Pixels, Pixels, tuple[str, ...]]:
    """Prepare pictures: some to find ranges on, others to check them on."""
    chosen = parity.choose(pictures, FOR_RANGES + FOR_CHECK)
    spec = local.document.preprocess
    pixels, problems = [], []
    for source in chosen:
        try:
            image = images.open_rgb(source, orientation=spec.orientation)
        except ImageError as error:
            problems.append(str(error))
            continue
        pixels.append(preprocess.apply(image, spec))
    if len(pixels) < LEAST:
        raise DatasetError(
            f"{pictures}: {counted(len(pixels), 'picture')} that can be read; expected at least"
            f" {LEAST},"
            f" better {FOR_RANGES}",
        )
    # Evenly, so that both parts have something of everything; of few, two of three.
    count = len(pixels)
    seen = min(FOR_RANGES, count - count // 3)
    first = np.zeros(count, bool)
    first[np.arange(seen) * count // seen] = True
    batch = np.stack(pixels)
    return batch[first], batch[~first], tuple(problems)


def _top1(path: Path, labelled: str, precision: str) -> tuple[float, int]:
    """Return top-1 in percent on labelled pictures, and their number."""
    with (
        Classifier(path, precision=precision) as classifier,
        evaluate(classifier, Question(data=labelled, has_map=False)) as found,
    ):
        top1 = found.figures["top1"]
        return 100 * float(top1["accuracy"]), int(found.figures["data"]["evaluated"])
