"""Evaluate a model: find pictures, match, compute, judge, summarize."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnext import modelfile
from resnext.classifier import Classifier
from resnext.errors import ConfigError, DatasetError, counted
from resnext.evaluation import run
from resnext.evaluation.journal import Journal, count_kept, hold
from resnext.evaluation.judge import Judged, check_readable, judge
from resnext.evaluation.matching import Matching, match, read_map
from resnext.evaluation.multilabel import is_multi_label
from resnext.evaluation.summary import summarize
from resnext.evaluation.truth import Truth, open_truth
from resnext.training.listing import check_apart, check_outside
from resnext.training.scan import Problem
from resnext.weights import read_tensors

JOURNAL = "journal"  # folder in the output, for going on and for other questions
SCHEMA_VERSION = 1  # of metrics.json and compare.json

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is to be evaluated on what.

    Args:
        data: As for `truth.open_truth`.
        labels: File of right answers, or None.
        map: CSV of folder,class, or None.
        restrict: Whether an answer may only be a class that the data has.
        has_map: Whether who asks has an option for `map`, which messages then speak of.
    """

    data: PathLike
    labels: PathLike | None = None
    map: PathLike | None = None
    restrict: bool = False
    has_map: bool = True


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """How good a model is on some pictures.

    Args:
        figures: What `metrics.json` has.
        judged: The answers; its logits are there while `evaluate` is not left.
        problems: The pictures that could not be read.
    """

    figures: Mapping[str, Any]
    judged: Judged
    problems: tuple[Problem, ...]


@contextlib.contextmanager
def evaluate(
    classifier: Classifier,
    question: Question,
    *,
    output: Path | None = None,
    force: bool = False,
    progress: run.Progress | None = None,
) -> Iterator[Evaluation]:
    """Evaluate a model; the logits are on the disk until the context is left.

    Args:
        classifier: The model.
        question: On what.
        output: Folder that keeps the logits, so that a stopped run goes on; None keeps
            nothing.
        force: Begin anew there, also with pictures that could not be read.
        progress: Called with the number of pictures done and that of all.

    Yields:
        The evaluation.

    Raises:
        DatasetError: The data cannot be used, its classes do not fit the model's, or no
            picture can be read.
        ConfigError: The output is in the data set, has another run, or one is at work there.
        OutputError: The output cannot be written.
    """
    truth, matching = open_question(classifier, question, output=output)
    identity = run.identify(classifier, truth.entries)
    with _folder(output, f"{classifier.document.name} on {question.data}") as folder:
        begun, done = time.monotonic(), 0
        with Journal(folder, identity, classifier.engine.num_classes, force=force) as journal:
            done = journal.done
            run.compute(classifier, truth.entries, journal, progress=progress)
            seconds = time.monotonic() - begun
            logits, bad, learned = journal.logits(), dict(journal.bad), set(journal.learned)
        entries = check_readable(truth.entries, bad)
        document = classifier.document
        judged = judge(
            logits,
            entries,
            matching,
            document.labels,
            restrict=question.restrict,
            multi_label=is_multi_label(document),
            temperature=document.temperature,
            scratch=folder,
        )
        computed = sum(place not in bad for place in range(done, len(truth.entries)))
        known = count_learned(truth, judged, learned)
        figures = {
            "schema_version": SCHEMA_VERSION,
            "model": run.describe_model(classifier),
            "data": {
                **describe_data(question, truth, judged, bad),
                "learned_from": known,
                "notes": [*truth.notes, *note_learned("the model", known, judged)],
                "matched": dict(matching.rules),
                "fingerprint": identity["data"],
            },
            "answers": "classes of the data" if question.restrict else "all classes",
            "computed": {"pictures": computed, "seconds": round(seconds, 3)},
            **summarize(judged, reject_threshold=document.reject_threshold),
        }
        problems = tuple(Problem(truth.entries[n].name, reason) for n, reason in bad.items())
        yield Evaluation(figures=figures, judged=judged, problems=problems)


def describe_kept(output: Path | None, *, force: bool, journals: Sequence[str] = (JOURNAL,)) -> str:
    """Say what is kept of a run that was stopped.

    Args:
        output: The folder that it was given.
        force: Whether it was told to begin anew, which it would do again.
        journals: Their names in there.
    """
    if output is None:
        return "nothing is kept without a folder for it: -o"
    kept = {output / name: count_kept(output / name) for name in journals}
    if not any(kept.values()):
        return "nothing is kept yet"
    found = ", ".join(f"{place} of {counted(count, 'picture')}" for place, count in kept.items())
    again = "the same command without --force" if force else "the same command"
    return f"what was computed is in {found}; {again} goes on from there"


def open_question(
    classifier: Classifier, question: Question, *, output: Path | None = None
) -> tuple[Truth, Matching]:
    """Find the pictures, and the model's class of each of theirs.

    Args:
        classifier: The model.
        question: On what.
        output: Folder of the results, or None.

    Raises:
        DatasetError: The data cannot be used, or its classes do not fit the model's.
        ConfigError: The output is among the pictures.
    """
    if output is not None:
        check_apart(output, question.data)
    truth = open_truth(question.data, labels=question.labels)
    if output is not None:
        check_outside(output, truth.entries)
    given = None if question.map is None else read_map(question.map)
    matching = match(
        truth.classes, classifier.document.labels, given=given, has_map=question.has_map
    )
    if not any(index is not None for index in matching.index.values()):
        raise DatasetError(f"{question.map}: leaves out every class of the data")
    return replace(truth, notes=truth.notes + matching.notes), matching


def describe_data(
    question: Question, truth: Truth, judged: Judged, bad: Mapping[int, str]
) -> dict[str, Any]:
    """Say what was answered, as plain JSON values."""
    return {
        "path": os.fsdecode(question.data),
        "layout": truth.layout,
        "pictures": len(truth.entries),
        "evaluated": judged.counted,
        "unreadable": {truth.entries[n].name: reason for n, reason in bad.items()},
        "classes": len(judged.data_classes),
        "without_pictures": list(judged.without_pictures),
        "several_labels": judged.several,
    }


def count_learned(truth: Truth, judged: Judged, learned: Iterable[int]) -> int:
    """Count the pictures with a class that are among those learned from.

    Args:
        truth: All pictures.
        judged: Those that count.
        learned: Positions among all.
    """
    pairs = zip(judged.entries, judged.labeled, strict=True)
    names = {entry.name for entry, labeled in pairs if labeled}
    return sum(truth.entries[place].name in names for place in learned)


def note_learned(who: str, known: int, judged: Judged) -> list[str]:
    """Say of whom one should know that pictures are known to it, if some are."""
    if not known:
        return []
    pictures = counted(int(judged.labeled.sum()), "picture")
    return [
        f"{who} has learned from {known:,} of these {pictures}: on others it is right less often"
    ]


def calibrate(
    classifier: Classifier, evaluation: Evaluation, path: Path, *, force: bool
) -> tuple[str, ...]:
    """Write the model with the temperature and reject threshold that the pictures suggest.

    Args:
        classifier: The model.
        evaluation: Of it.
        path: Where to, *.safetensors.
        force: Replace what is there.

    Returns:
        What one should know of it, one sentence each.

    Raises:
        ConfigError: As for `check_calibrates`.
        OutputError: It cannot be written.
    """
    check_calibrates(classifier, path, restrict=evaluation.judged.restricted, force=force)
    suggested = evaluation.figures["suggested"]
    document, data = classifier.document, evaluation.figures["data"]
    top1 = evaluation.figures["top1"]
    changed = replace(
        document,
        temperature=suggested["temperature"],
        reject_threshold=suggested["reject_threshold"],
        provenance={
            **document.provenance,
            "calibration": {
                "model_sha256": classifier.local.sha256,
                "data_fingerprint": data["fingerprint"],
                "pictures": data["evaluated"],
                "learned_from": data["learned_from"],
                "answers": evaluation.figures["answers"],
                "top1": round(100 * top1["accuracy"], 3),
            },
        },
    )
    tensors = read_tensors(classifier.local)
    modelfile.write(path, changed, tensors, dtype=modelfile.storage_dtype(tensors))
    if not data["learned_from"]:
        return ()
    return (
        f"{path} is calibrated on pictures that it has learned from: it will be too sure of others",
    )


def check_calibrates(classifier: Classifier, path: Path, *, restrict: bool, force: bool) -> None:
    """Refuse what `calibrate` cannot do, before the long work.

    Args:
        classifier: The model.
        path: Where the calibrated one is to be.
        restrict: Whether an answer may only be a class that the data has.
        force: Replace what is there.

    Raises:
        ConfigError: The path will not do, or is there; answers are restricted; or the model
            answers yes or no of each class.
    """
    modelfile.check_output(path, force=force)
    if restrict:
        raise ConfigError(
            "restricted answers have other probabilities than the model's in use; expected"
            " answers of all classes to calibrate it",
            hint="leave out --restrict or --calibrate",
        )
    if is_multi_label(classifier.document):
        raise ConfigError(
            f"{classifier.document.name} answers yes or no of each class; a temperature and a"
            " reject threshold are for models that choose one class",
            hint="leave out --calibrate",
        )


@contextlib.contextmanager
def _folder(output: Path | None, who: str) -> Iterator[Path]:
    """Give the folder of the journal: in the output, or one that goes when we do."""
    if output is not None:
        with hold(output / JOURNAL, who):
            yield output / JOURNAL
        return
    with tempfile.TemporaryDirectory(prefix="resnext-") as temporary:
        yield Path(temporary)
