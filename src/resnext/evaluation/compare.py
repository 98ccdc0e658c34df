"""Two models on the same pictures: which is better, where, how fast.

Differences are B's less A's. Both work by turns on the same few pictures, so that whatever
else the machine does meets both alike.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnext.classifier import Classifier
from resnext.errors import ConfigError
from resnext.evaluation import intervals, paired, run, summary
from resnext.evaluation.arrays import UNLABELED, Booleans, Integers
from resnext.evaluation.evaluate import JOURNAL, SCHEMA_VERSION, Question, open_question
from resnext.evaluation.intervals import Interval
from resnext.evaluation.journal import Journal, hold
from resnext.evaluation.judge import Judged, check_readable, judge
from resnext.evaluation.matching import Matching
from resnext.evaluation.metrics import top_k
from resnext.evaluation.paired import Comparison
from resnext.evaluation.truth import Truth
from resnext.training.scan import Problem

ROUND = 64  # pictures of a turn, about

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Compared:
    """How two models did.

    Args:
        figures: What `compare.json` has.
        judged: The answers of A and of B, to the same pictures.
        problems: The pictures that could not be read.
    """

    figures: Mapping[str, Any]
    judged: tuple[Judged, Judged]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Turn:
    """Pictures that both computed, one after the other."""

    pictures: int
    seconds: tuple[float, float]


@contextlib.contextmanager
def compare(
    first: Classifier,
    second: Classifier,
    question: Question,
    *,
    output: Path | None = None,
    force: bool = False,
    progress: run.Progress | None = None,
) -> Iterator[Compared]:
    """Compare two models; their logits are on the disk until the context is left.

    Args:
        first: Model A.
        second: Model B.
        question: On what.
        output: Folder that keeps the logits, so that a stopped run goes on; or None.
        force: Begin anew there, also with pictures that could not be read.
        progress: Called with the number of pictures done and that of all.

    Yields:
        The comparison.

    Raises:
        DatasetError: The data cannot be used, or its classes do not fit a model's.
        ConfigError: The output has another run.
        OutputError: The output cannot be written.
    """
    models = (first, second)
    truth, matching = open_question(first, question)
    matchings = (matching, open_question(second, question)[1])
    with contextlib.ExitStack() as stack:
        folder = output
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="resnext-")))
        folders = tuple(folder / f"{JOURNAL}-{letter}" for letter in "ab")
        for place in folders:
            stack.enter_context(hold(place, f"{first.document.name}, {second.document.name}"))
        turns, judged, bad = _work(
            models, truth, matchings, folders, question, force=force, progress=progress
        )
        figures = {
            "schema_version": SCHEMA_VERSION,
            "a": _describe(first, judged[0]),
            "b": _describe(second, judged[1]),
            "data": {
                "path": str(question.data),
                "layout": truth.layout,
                "pictures": len(truth.entries),
                "evaluated": int(judged[0].labeled.sum()),
                "classes": len(truth.classes),
                "unreadable": {truth.entries[n].name: reason for n, reason in bad.items()},
                "notes": list(truth.notes),
            },
            "answers": "classes of the data" if question.restrict else "all classes",
            **_differences(judged, truth, matchings),
            "speed": _speed(turns),
        }
        problems = tuple(Problem(truth.entries[n].name, reason) for n, reason in bad.items())
        yield Compared(figures=figures, judged=judged, problems=problems)


def _work(
    models: tuple[Classifier, Classifier],
    truth: Truth,
    matchings: tuple[Matching, Matching],
    folders: Sequence[Path],
    question: Question,
    *,
    force: bool,
    progress: run.Progress | None,
) -> tuple[list[_Turn], tuple[Judged, Judged], dict[int, str]]:
    with contextlib.ExitStack() as stack:
        journals = [
            stack.enter_context(
                Journal(
                    folder,
                    run.identify(model, truth.entries),
                    model.engine.num_classes,
                    force=force,
                )
            )
            for model, folder in zip(models, folders, strict=True)
        ]
        turns = _take_turns(models, journals, truth, progress)
        bad = dict(journals[0].bad)
        if bad.keys() != journals[1].bad.keys():
            raise ConfigError(
                "pictures changed while the models looked at them", hint="begin anew with --force"
            )
        logits = [journal.logits() for journal in journals]
    entries = check_readable(truth.entries, bad)
    judged = [
        judge(
            rows,
            entries,
            matching,
            model.document.labels,
            restrict=question.restrict,
            temperature=model.document.temperature,
            scratch=folder / "chosen.bin",
        )
        for rows, matching, model, folder in zip(logits, matchings, models, folders, strict=True)
    ]
    return turns, (judged[0], judged[1]), bad


def _take_turns(
    models: Sequence[Classifier],
    journals: Sequence[Journal],
    truth: Truth,
    progress: run.Progress | None,
) -> list[_Turn]:
    """Let each model compute the same pictures, the first one changing from turn to turn."""
    step = math.lcm(*(model.engine.best_batch_size for model in models))
    step *= math.ceil(ROUND / step)
    turns = []
    for number, start in enumerate(range(0, len(truth.entries), step)):
        part = [entry.source for entry in truth.entries[start : start + step]]
        seconds = [0.0, 0.0]
        missing = [which for which in (0, 1) if journals[which].done <= start]
        for which in missing if number % 2 else reversed(missing):
            begun = time.perf_counter()
            size = models[which].engine.best_batch_size
            rows = list(models[which].logits_each(part, batch_size=size))
            seconds[which] = time.perf_counter() - begun
            journals[which].append(rows)
        if len(missing) == 2:
            turns.append(_Turn(pictures=len(part), seconds=(seconds[0], seconds[1])))
        if progress is not None:
            progress(start + len(part), len(truth.entries))
    return turns


def _describe(model: Classifier, judged: Judged) -> Figures:
    return {
        **run.describe_model(model),
        **{f"top{k}": summary.proportion(top_k(judged.ranks, k)) for k in (1, 5)},
    }


def _differences(
    judged: tuple[Judged, Judged], truth: Truth, matchings: tuple[Matching, Matching]
) -> Figures:
    names = [
        name for name in truth.classes if all(one.index[name] is not None for one in matchings)
    ]
    targets = _targets(judged[0], names)
    answers = [
        _answers(one, matching, names) for one, matching in zip(judged, matchings, strict=True)
    ]
    known = judged[0].labeled
    figures: Figures = {}
    for k in (1, 5):
        right = [(one.ranks < k)[known] for one in judged]
        figures[f"top{k}"] = _difference(paired.compare(right[0], right[1]))
    # One class more for all answers that are no class of the data.
    spread = intervals.class_average_differences(
        answers[0],
        answers[1],
        targets,
        num_classes=len(names) + 1,
        labels=list(range(len(names))),
    )
    figures["averages"] = {name: _ends(one) for name, one in spread.items()}
    figures["same_answer"] = _same_answers(judged, answers, len(names))
    figures["classes"] = _classes(judged, targets, names)
    return figures


def _targets(judged: Judged, names: Sequence[str]) -> Integers:
    """Number the first class of each picture by its place in the data."""
    place = {name: number for number, name in enumerate(names)}
    return np.array(
        [
            next((place[name] for name in entry.classes if name in place), UNLABELED)
            for entry in judged.entries
        ],
        np.int64,
    )


def _answers(judged: Judged, matching: Matching, names: Sequence[str]) -> Integers:
    """Number answers by the data's classes; what is none of them gets the next number."""
    place = {matching.index[name]: number for number, name in reversed(list(enumerate(names)))}
    every = np.array([place.get(int(index), len(names)) for index in judged.classes], np.int64)
    return every[judged.answers]


def _same_answers(
    judged: tuple[Judged, Judged], answers: Sequence[Integers], num_classes: int
) -> float:
    """Return the share of pictures with the same answer; what the data lacks goes by name."""
    names = [
        np.array(one.class_names, object)[one.answers] if len(one.answers) else np.empty(0, object)
        for one in judged
    ]
    foreign = (answers[0] == num_classes) & (answers[1] == num_classes)
    same = (answers[0] == answers[1]) & (~foreign | (names[0] == names[1]))
    return float(same.mean())


def _difference(found: Comparison) -> Figures:
    return {
        "difference": found.difference,
        **_ends(found.interval),
        "p": found.mid_p,
        "p_exact": found.exact,
        "both": found.both,
        "only_a": found.only_a,
        "only_b": found.only_b,
        "neither": found.neither,
    }


def _ends(interval: Interval) -> Figures:
    return {"low": interval.low, "high": interval.high}


def _classes(
    judged: tuple[Judged, Judged], targets: Integers, names: Sequence[str]
) -> list[Figures]:
    right: list[Booleans] = [one.right for one in judged]
    changes = paired.class_changes(right[0], right[1], targets, num_classes=len(names))
    found = []
    for place, name in enumerate(names):
        own = targets == place
        found.append(
            {
                "class": _display(judged[0], own, name),
                "folder": name,
                "pictures": int(changes.support[place]),
                "a": float(right[0][own].mean()) if own.any() else 0.0,
                "b": float(right[1][own].mean()) if own.any() else 0.0,
                "gained": int(changes.gained[place]),
                "lost": int(changes.lost[place]),
                "difference": float(changes.difference[place]),
            }
        )
    return found


def _display(judged: Judged, own: Booleans, name: str) -> str:
    """Return what A calls a class."""
    places = np.flatnonzero(own)
    return judged.class_names[int(judged.targets[places[0]])] if len(places) else name


def _speed(turns: Sequence[_Turn]) -> Figures:
    """Return images/s of both, and how much faster B is; the first turn warms up."""
    counted = turns[1:] if len(turns) > 1 else turns
    if not counted:
        return {}
    total = sum(turn.pictures for turn in counted)
    rates = [total / sum(turn.seconds[which] for turn in counted) for which in (0, 1)]
    found: Figures = {
        "pictures": total,
        "turns": len(counted),
        "a": rates[0],
        "b": rates[1],
        "ratio": rates[1] / rates[0],
    }
    if len(counted) > 1:
        logs = np.array([math.log(turn.seconds[0] / turn.seconds[1]) for turn in counted])
        interval = intervals.mean(logs)
        found |= {"low": math.exp(interval.low), "high": math.exp(interval.high)}
    return found
