"""[finetune] Photos to a model of one's own: only the last layer learns.

data.open_data -> features.extract -> head.fit_head -> modelfile.write. The pictures go
through the engine that predicts, and through it once: their features are kept. No torch.
"""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resnext import modelfile, sources, weights
from resnext.classifier import Classifier
from resnext.errors import ConfigError, DatasetError, counted
from resnext.modelfile import STORAGE_DTYPES, ModelDocument, Tensors, numpy_dtype
from resnext.predictions import Labels
from resnext.provenance import software
from resnext.training.data import Data
from resnext.training.features import (
    Extraction,
    FeatureStore,
    FeatureTable,
    extract,
    made_with,
    open_store,
)
from resnext.training.head import ClassWeights, Head, Scores, fit_head, score
from resnext.training.listing import Entry, class_name, few
from resnext.training.samples import Sample
from resnext.training.scan import Problem
from resnext.training.split import find_copies, split

RECIPE = "head-only"  # as the provenance of such a file says

_PACKAGES = ("resnext", "numpy", "pillow", "scikit-learn", "openvino", "onnxruntime", "torch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """What came out.

    Args:
        path: The model file.
        sha256: What it states of itself.
        document: What it says.
        problems: Pictures that could not be read, and were left out.
        notes: What one should know of the pictures; one sentence each.
        num_train: Pictures that were learned from.
        num_held_out: Pictures that were kept to measure on.
        num_computed: Pictures whose features were not in the cache.
        seconds: Time it took.
    """

    path: Path
    sha256: str
    document: ModelDocument
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    num_train: int
    num_held_out: int
    num_computed: int
    seconds: float

    def summary(self) -> list[tuple[str, object]]:
        """Return what people want to know, and the command that comes next."""
        metrics, document = self.document.metrics, self.document
        how = "held-out" if self.num_held_out else "cross-validated"
        few_classes = len(document.labels) <= 5  # all of them are among the best five
        top5 = "" if few_classes else _share(metrics["right5"], metrics["pictures"])
        threshold = document.reject_threshold
        learned = f"{self.num_train} learned from, {self.num_held_out} held out"
        return [
            ("file", self.path),
            ("classes", len(document.labels)),
            ("pictures", f"{learned}, {self.num_computed} computed in {self.seconds:.1f} s"),
            ("left out", f"{len(self.problems)} that cannot be read" if self.problems else ""),
            (f"{how} top-1", _share(metrics["right"], metrics["pictures"])),
            (f"{how} top-5", top5),
            ("temperature", document.temperature),
            ("unknown below", "" if threshold is None else f"{100 * threshold:.1f}%"),
            ("license", document.license),
            ("next", shlex.join(["resnext", "predict", "photo.jpg", "-m", str(self.path)])),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return {
            "file": str(self.path),
            "sha256": self.sha256,
            "class_names": list(self.document.labels.class_names),
            "num_train": self.num_train,
            "num_held_out": self.num_held_out,
            "num_computed": self.num_computed,
            "metrics": dict(self.document.metrics),
            "temperature": self.document.temperature,
            "reject_threshold": self.document.reject_threshold,
            "left_out": [{"source": one.name, "error": one.reason} for one in self.problems],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """Pictures to learn: those whose features are known, and samples to compute."""

    labels: Labels
    known: FeatureTable
    samples: tuple[Sample, ...]
    held_out: tuple[bool, ...]  # of each sample
    record: Mapping[str, Any]  # of data and split, for the provenance


@dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    """How it is learned: what was asked for, else as the file was made, else the default."""

    seed: int
    split_seed: int
    val_share: float
    class_weights: ClassWeights

    def __post_init__(self) -> None:
        for name in ("seed", "split_seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ConfigError(
                    f"{name} is {value!r}; expected a whole number, 0 or more", hint="give --seed"
                )
        if not isinstance(self.val_share, int | float) or not 0 <= self.val_share < 1:
            raise ConfigError(
                f"val_share is {self.val_share!r}; expected 0 to below 1", hint="give --val-share"
            )


def check_alone() -> None:
    """Look whether torchrun started several processes, which would all do the same.

    Raises:
        ConfigError: It did.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a last layer is fitted by one process, and torchrun started several",
            hint="run `resnext finetune` itself, or --full",
        )


def tune_head(
    classifier: Classifier,
    data: Data | None,
    path: Path,
    *,
    added: Sequence[tuple[str, str | os.PathLike[str]]] = (),
    val_share: float | None = None,
    seed: int | None = None,
    class_weights: ClassWeights | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Tuned:
    """Give a network a last layer for other classes, and write it as a model file.

    Args:
        classifier: The network to start from.
        data: Labelled pictures; None for those the file was made from, if they are in the cache.
        path: The file to write; replaced if it is there.
        added: Classes to add: the name of each, and the folder of its pictures.
        val_share: Share of their pictures to measure on, none if there are none of the data; by
            default the data's, or 0.2 where that came in parts.
        seed: Of that choice and of the cross-validation; by default those of the file's making
            if `data` is None, else of the data's split and 0.
        class_weights: "balanced" counts each class the same, "none" each picture; by default as
            the file was made if `data` is None, else "none".
        progress: Called with the number of pictures done and that of all.

    Returns:
        What was written. Pictures that cannot be read are named there, and left out.

    Raises:
        ConfigError: An option will not do, or a class to add is there already.
        DatasetError: The pictures cannot be used, or are too few to learn from.
        OutputError: The file cannot be written.
    """
    start = time.perf_counter()
    tensors = weights.read_tensors(classifier.local)
    store = open_store(classifier, tensors)
    task = _of_file(classifier, store, added) if data is None else _of_data(data, store)
    made = classifier.document.provenance if data is None else {}
    options = _choose(task, made, seed=seed, val_share=val_share, class_weights=class_weights)
    for name, folder in added:
        task = _with_class(task, name, folder, options)
    extraction = extract(classifier, task.samples, store, progress=progress)
    table = _join(task, extraction)
    _check_counts(table, task.labels, extraction.problems)
    dtype = _matrix_dtype(tensors)
    head, scores = _fit(table, len(task.labels), dtype, options)
    left = {} if data is None else {"split": dict(data.without(extraction.problems).split)}
    dataset = {
        **task.record,
        **left,
        "set": store.save_set(table),
        "left_out": len(extraction.problems),
    }
    document = replace(
        classifier.document,
        name=path.stem,
        architecture=replace(classifier.document.architecture, num_classes=len(task.labels)),
        labels=task.labels,
        temperature=head.temperature,
        reject_threshold=head.reject_threshold,
        provenance=_provenance(classifier, dataset, options, head),
        metrics={"precision": classifier.engine.precision, **_metrics(table, head, scores)},
    )
    tensors = {**tensors, "fc.weight": head.weight, "fc.bias": head.bias}
    return Tuned(
        path=path,
        sha256=modelfile.write(path, document, tensors, dtype=dtype),
        document=document,
        problems=extraction.problems,
        notes=_notes_on_copies(table, task.labels) if added else (),
        num_train=int((~table.held_out).sum()),
        num_held_out=int(table.held_out.sum()),
        num_computed=extraction.num_computed,
        seconds=time.perf_counter() - start,
    )


def _of_data(data: Data, store: FeatureStore) -> _Task:
    if data.train.multi_label:
        raise DatasetError(
            "pictures of this data have several labels; a last layer alone is fitted to one each",
            hint="`resnext finetune --full` learns several",
        )
    parts = [data.train] if data.val is None else [data.train, data.val]
    return _Task(
        labels=data.train.labels,
        known=_empty(store),
        samples=tuple(sample for part in parts for sample in part.samples),
        held_out=tuple(part is data.val for part in parts for _ in part.samples),
        record={"split": dict(data.split)},
    )


def _of_file(
    classifier: Classifier,
    store: FeatureStore,
    added: Sequence[tuple[str, str | os.PathLike[str]]],
) -> _Task:
    """Take the pictures that a file of `tune_head` was made from."""
    path, provenance = classifier.local.path, classifier.document.provenance
    words = [word for name, folder in added for word in ("--add-class", name, str(folder))]
    again = shlex.join([*words, "-m", str(path)])
    hint = (
        f"give the pictures of all classes: resnext finetune DATA {again} -o NEW{modelfile.SUFFIX}"
    )
    if not added:
        raise ConfigError("there is nothing to learn; expected DATA, or a class to add")
    record = provenance.get("dataset")
    if provenance.get("recipe") != RECIPE or not isinstance(record, dict):
        raise ConfigError(
            f"{path} was not made by `resnext finetune --head-only`; expected such a file to add"
            " a class to",
            hint=hint,
        )
    known = store.load_set(str(record.get("set")))
    if known is None:
        if made := made_with(classifier.local):
            hint = f"they are those of {' and '.join(made.values())}: open the model with these"
        raise DatasetError(
            f"the features of the pictures that {path} was made from are not in {store.folder}",
            hint=hint,
        )
    return _Task(
        labels=classifier.document.labels,
        known=known,
        samples=(),
        held_out=(),
        record={key: value for key, value in record.items() if key not in ("set", "left_out")},
    )


def _choose(
    task: _Task,
    made: Mapping[str, Any],
    *,
    seed: int | None,
    val_share: float | None,
    class_weights: ClassWeights | None,
) -> _Options:
    """Complete the options, so that a class that is added is as one that was there before."""
    split = task.record.get("split")
    split = split if isinstance(split, dict) else {}
    first = made.get("seed", 0) if seed is None else seed
    return _Options(
        seed=first,
        split_seed=split.get("seed", first) if seed is None else seed,
        val_share=split.get("val_share", 0.2) if val_share is None else val_share,
        class_weights=class_weights or made.get("class_weights", "none"),
    )


def _with_class(task: _Task, name: str, folder: str | os.PathLike[str], options: _Options) -> _Task:
    name = class_name(name)
    if name in task.labels.class_names:
        raise ConfigError(
            f"there is a class {name!r} already",
            hint="to give it more pictures, put them into its folder and fine-tune again",
        )
    top = os.path.abspath(folder)
    if not os.path.isdir(top):
        raise DatasetError(f"{folder} is no folder; expected one with pictures of {name}")
    entries = []
    for source in sources.iter_sources([top]):
        if source.problem:
            raise DatasetError(f"{source.name}: {source.problem}")
        below = os.path.relpath(source.name, top).replace(os.sep, "/")
        entries.append(Entry(f"{name}/{below}", source.name, (name,)))  # as in one folder of all
    has_held_out = bool(task.known.held_out.any()) or any(task.held_out)
    share = options.val_share if has_held_out else 0
    _, held_out = split(entries, find_copies(entries), seed=options.split_seed, val_share=share)
    index = len(task.labels)
    class_names = (*task.labels.class_names, name)
    more = {"class": name, "pictures": len(entries), "val": len(held_out)}
    return replace(
        task,
        labels=Labels(class_names),  # nobody gave the new one a synset id
        samples=task.samples
        + tuple(Sample(entry.name, entry.source, (index,)) for entry in entries),
        held_out=task.held_out + tuple(number in set(held_out) for number in range(len(entries))),
        record={**task.record, "added": [*task.record.get("added", ()), more]},
    )


def _join(task: _Task, extraction: Extraction) -> FeatureTable:
    """Return the features of all pictures that have some."""
    labels = np.array([sample.labels[0] for sample in task.samples], np.int64)
    held_out = np.array(task.held_out, bool)
    return task.known + FeatureTable(
        keys=extraction.keys,
        rows=extraction.rows,
        labels=labels[extraction.kept],
        held_out=held_out[extraction.kept],
    )


def _notes_on_copies(table: FeatureTable, labels: Labels) -> tuple[str, ...]:
    """Say which classes share pictures; `open_data` said so of the data's own."""
    of_picture: dict[bytes, set[int]] = defaultdict(set)
    for key, label in zip(table.keys, table.labels.tolist(), strict=True):
        of_picture[key].add(label)
    shared = Counter(tuple(sorted(found)) for found in of_picture.values() if len(found) > 1)
    return tuple(
        f"{counted(count, 'picture is', 'pictures are')} the same in"
        f" {' and '.join(labels.class_names[i] for i in classes)}"
        for classes, count in sorted(shared.items())
    )


def _empty(store: FeatureStore) -> FeatureTable:
    return FeatureTable(
        keys=(), rows=store.rows_of(()), labels=np.array([], np.int64), held_out=np.array([], bool)
    )


def _check_counts(table: FeatureTable, labels: Labels, problems: tuple[Problem, ...]) -> None:
    pairs = zip(table.labels.tolist(), table.keys, table.held_out, strict=True)
    learned = {(label, key) for label, key, held_out in pairs if not held_out}
    counts = Counter(label for label, _ in learned)
    poor = [
        f"{name} ({counts[label]})"
        for label, name in enumerate(labels.class_names)
        if counts[label] < 2
    ]
    if not poor:
        return
    unread = [str(problem) for problem in problems]
    why = f"; {len(unread)} could not be read: {few(unread)}" if unread else ""
    raise DatasetError(
        f"too few pictures to learn from: {few(poor)}; expected at least 2 different ones of each"
        f" class{why}",
        hint="add pictures, or remove the class; --val-share 0 keeps none of them to measure on",
    )


def _fit(
    table: FeatureTable, num_classes: int, dtype: str, options: _Options
) -> tuple[Head, Scores]:
    """Fit the head as it will be stored, and measure that."""
    learned = ~table.held_out
    head = fit_head(
        table.rows[learned],
        table.labels[learned],
        num_classes=num_classes,
        class_weights=options.class_weights,
        seed=options.seed,
        copies=table.number()[learned],
    )
    stored = head.weight.astype(numpy_dtype(dtype)).astype(np.float32)
    head = replace(head, weight=stored)
    if not table.held_out.any():
        return head, head.out_of_fold
    logits = head.logits(table.rows[table.held_out])
    return head, score(logits, table.labels[table.held_out], temperature=head.temperature)


def _provenance(
    classifier: Classifier, dataset: Mapping[str, Any], options: _Options, head: Head
) -> dict[str, Any]:
    return {
        "recipe": RECIPE,
        "base": _base(classifier),
        "dataset": dict(dataset),
        "seed": options.seed,
        "class_weights": options.class_weights,
        "strength": head.strength,
        "folds": head.folds,
        "software": software(*_PACKAGES),
        "engine": classifier.engine.name,
    }


def _metrics(table: FeatureTable, head: Head, scores: Scores) -> dict[str, Any]:
    if table.held_out.any():
        text = f"{counted(scores.pictures, 'picture')} not learned from"
    else:
        text = (
            f"cross-validation over {counted(scores.pictures, 'picture')}, each answered by a"
            " head that had not seen it; the head in the file has learned from all"
        )
    learned = np.bincount(table.labels[~table.held_out], minlength=len(scores.class_pictures))
    return {
        "data": text,
        "pictures": scores.pictures,
        "top1": _percent(scores.right, scores.pictures),
        "top5": _percent(scores.right5, scores.pictures),
        "right": scores.right,
        "right5": scores.right5,
        "nll": round(scores.nll, 4),
        "class_pictures": list(scores.class_pictures),
        "class_right": list(scores.class_right),
        "class_learned": learned.tolist(),
        "cross_validation_top1": _percent(head.out_of_fold.right, head.out_of_fold.pictures),
    }


def _share(count: int, total: int) -> str:
    return f"{_percent(count, total):.2f} %, {count} of {counted(total, 'picture')}"


def _percent(count: int, total: int) -> float:
    return round(100 * count / total, 2)


def _base(classifier: Classifier) -> dict[str, Any]:
    """Say whose network it is; through any number of last layers it stays the same."""
    document = classifier.document
    before = document.provenance.get("base")
    if document.provenance.get("recipe") == RECIPE and isinstance(before, dict):
        return before
    facts = {
        "name": document.name,
        "sha256": classifier.local.sha256,
        "license": document.license,
        "source": document.provenance.get("source") or document.provenance.get("origin_url"),
    }
    return {key: value for key, value in facts.items() if value}


def _matrix_dtype(tensors: Tensors) -> str:
    """Return the type of the convolutions if a model file has it, else float32."""
    name = tensors["fc.weight"].dtype.name
    return name if name in STORAGE_DTYPES else "float32"
