"""[quantize] Find the ranges with which a network is computed in 8 bits.

NNCF finds on pictures which values to round and between what; of its result only these ranges
are kept, so that the file needs no NNCF to run, and holds the weights as they were. Then the
network is run on other pictures. If too many answers change, values that cost little time and
lose much are left alone, and if that does not help, nothing is written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext import images, modelfile, preprocess, weights
from resnext.classifier import Classifier
from resnext.deploy import parity
from resnext.engines import graph, select
from resnext.engines.openvino import read_graph
from resnext.errors import ConfigError, DatasetError, ImageError, ParityError, counted, listed
from resnext.evaluation.evaluate import Question, evaluate
from resnext.modelfile import Tensors
from resnext.provenance import versions
from resnext.quantization import Quantization
from resnext.weights import LocalModel

os.environ.setdefault("NNCF_CI", "1")  # or it reports its use over the network

import nncf

Pixels = npt.NDArray[np.uint8]
Ranges = Mapping[str, tuple[float, float]]
Progress = Callable[[int, int], object]

FOR_RANGES, FOR_CHECK = 300, 1000  # pictures; more change nothing
LEAST = 10

_QUIET = 40  # errors only, as `logging` counts

# First and last layer are a few percent of the work, and what they lose is lost for all.
_KEPT = ("normalize.shift", "embedding")
_BEFORE_POOL = "conv1.relu"

# Which values are left alone, tried in this order; measured on the starter, 1,000 pictures:
# 97.6 %, 98.3 % and 98.7 % of the answers stay, at 1.57, 1.46 and 1.35 times the speed of bf16.
_WAYS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("everything", ()),
    ("all but what is added to a shortcut", (".conv3",)),
    ("all but the sums", (".conv3", ".downsample.0", ".downsample.1")),
    (
        "all but the sums and the second stage",
        (".conv3", ".downsample.0", ".downsample.1", "layer2."),
    ),
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
    """

    path: Path
    rounded: str
    values: int
    agreement: float
    checked: int
    drop: float | None
    labelled: int
    problems: tuple[str, ...]

    def summary(self) -> list[tuple[str, object]]:
        """Return what people want to know."""
        drop = (
            ""
            if self.drop is None
            else f"{self.drop:+.2f} points on {counted(self.labelled, 'picture')}"
        )
        return [
            ("file", self.path),
            ("rounded", f"{self.rounded}, {counted(self.values, 'value')}"),
            (
                "same answer as fp32",
                f"{100 * self.agreement:.2f} % of {counted(self.checked, 'picture')}",
            ),
            ("top-1 lost", drop),
            ("left out", f"{len(self.problems)} that cannot be read" if self.problems else ""),
            ("next", f"resnext predict photo.jpg -m {self.path}"),
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
    ranges = find_ranges(local, tensors, seen)
    check = others if len(others) >= LEAST else seen
    measure = _Measure(local, check, labelled)
    tried: list[_Way] = []
    for words, left_alone in _WAYS:
        kept = {
            name: pair for name, pair in ranges.items() if not any(x in name for x in left_alone)
        }
        tried.append(measure.try_way(words, kept, at_least=least_agreement))
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
        "method": "NNCF, ranges from the lowest to the highest value, weights by channel",
        "software": versions("nncf", "openvino"),
        "pictures": len(seen),
        "rounded": way.words,
        "agreement": round(way.agreement, 5),
        "checked": len(check),
        "checked_on_others": check is others,
        "top1_drop": None if way.drop is None else round(way.drop, 3),
        "labelled": measure.labelled_count,
    }
    quantization = Quantization(ranges=way.ranges, facts=facts)
    document = replace(local.document, name=path.stem, quantization=quantization)
    modelfile.write(path, document, tensors, dtype=modelfile.storage_dtype(tensors))
    return Quantized(
        path=path,
        rounded=way.words,
        values=len(way.ranges),
        agreement=way.agreement,
        checked=len(check),
        drop=way.drop,
        labelled=measure.labelled_count,
        problems=problems,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """One choice of values to round, and what it costs."""

    words: str
    ranges: Ranges
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
        found = (0.0, 0) if labelled is None else _top1(local, labelled, "fp32")
        self._top1, self.labelled_count = found

    def hint(self, most_drop: float) -> str:
        """Say what may help."""
        if self.labelled_count and 100 / self.labelled_count > most_drop:
            return (
                f"one picture of {self.labelled_count} is {100 / self.labelled_count:.2g} points:"
                " measure on more, or allow more"
            )
        return "give --calibrate more pictures of the kind that will come"

    def try_way(self, words: str, ranges: Ranges, *, at_least: float) -> _Way:
        """Measure; the labelled pictures only where the others are content."""
        # As if its file had these ranges.
        quantization = Quantization(ranges=ranges)
        document = replace(self._local.document, quantization=quantization)
        candidate = replace(self._local, document=document)
        with select.load(candidate, precision="int8") as engine:
            answers = engine.run(self._check).logits.argmax(axis=1)
        agreement, drop = float((answers == self._expected).mean()), None
        if self._labelled is not None and agreement >= at_least:
            drop = self._top1 - _top1(candidate, self._labelled, "int8")[0]
        return _Way(words=words, ranges=ranges, agreement=agreement, drop=drop)


def find_ranges(local: LocalModel, tensors: Tensors, pixels: Pixels) -> Ranges:
    """Find which values of a network to round, and between what.

    Args:
        local: The model.
        tensors: Its `state_dict`.
        pixels: (N, S, S, 3) prepared pictures; about 300 are enough.

    Returns:
        Lowest and highest of each value, by its name in the graph.
    """
    document = local.document
    built = graph.build(document.architecture, document.preprocess, tensors)
    with graph.serialized(built) as content:
        model = read_graph(content)
    nncf.set_log_level(_QUIET)
    quantized = nncf.quantize(
        model,
        nncf.Dataset([picture[None] for picture in pixels]),
        subset_size=len(pixels),
        preset=nncf.QuantizationPreset.MIXED,
    )
    names = {node.name for node in built.graph.node}
    return dict(_ranges(quantized, names))


def _ranges(model: Any, names: Container[str]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Read the roundings of values inside the network, not those of weights."""
    for op in model.get_ops():
        name = op.input_value(0).get_node().get_friendly_name() if op.get_input_size() else ""
        if op.get_type_name() != "FakeQuantize" or name not in names or name in _KEPT:
            continue
        low, high = (op.input_value(index).get_node().data for index in (1, 2))
        # The largest of some values is as well rounded after it is taken.
        name = "maxpool" if name == _BEFORE_POOL else name
        yield name, (float(low.min()), float(high.max()))


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


def _top1(local: LocalModel, labelled: str, precision: str) -> tuple[float, int]:
    """Return top-1 in percent on labelled pictures, and their number."""
    with tempfile.TemporaryDirectory(prefix="resnext-") as folder:
        path = Path(folder) / "model.safetensors"
        tensors = weights.read_tensors(local)
        modelfile.write(path, local.document, tensors, dtype=modelfile.storage_dtype(tensors))
        with (
            Classifier(path, precision=precision) as classifier,
            evaluate(classifier, Question(data=labelled)) as found,
        ):
            top1 = found.figures["top1"]
            return 100 * float(top1["accuracy"]), int(found.figures["data"]["evaluated"])
