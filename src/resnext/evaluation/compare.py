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
from resnext.errors import ConfigError, DatasetError
from resnext.evaluation import intervals, metrics, paired, run, summary
from resnext.evaluation.arrays import UNLABELED, Integers
from resnext.evaluation.evaluate import (
    SCHEMA_VERSION,
    Question,
    count_learned,
    describe_data,
    note_learned,
    open_question,
)
from resnext.evaluation.journal import Journal, hold
from resnext.evaluation.judge import Judged, check_readable, judge
from resnext.evaluation.matching import Matching
from resnext.evaluation.metrics import top_k
from resnext.evaluation.multilabel import is_multi_label
from resnext.evaluation.paired import Comparison
from resnext.evaluation.truth import Truth
from resnext.training.scan import Problem

JOURNALS = ("journal-a", "journal-b")  # folders in the output, for going on
ROUND = 64  # pictures of a turn, about

Figures = dict[str, Any]
_Classes = dict[tuple[int, int], list[str]]  # the data's names by the index of A and of B


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
    """Pictures that both computed, one after the other; those that could be read."""

    pictures: int
    seconds: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Common:
    """Answers of both models in the same numbers: those of the data's classes.

    Args:
        classes: The model's index of each class, of A and of B.
        folders: The data's names of each; a map may join several.
        answers: (N,) of A and of B; what is no class of the data has the next number.
        targets: (N,) of A and of B.
    """

    classes: list[tuple[int, int]]
    folders: list[str]
    answers: tuple[Integers, Integers]
    targets: tuple[Integers, Integers]


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
        ConfigError: The output is in the data set, or has another run.
        OutputError: The output cannot be written.
    """
    models = (first, second)
    truth, matching = open_question(first, question, output=output)
    matchings = (matching, open_question(second, question)[1])
    classes = _join(matchings)
    with contextlib.ExitStack() as stack:
        folder = output
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="resnext-")))
        folders = tuple(folder / name for name in JOURNALS)
        for place in folders:
            stack.enter_context(hold(place, f"{first.document.name}, {second.document.name}"))
        identities = [run.identify(model, truth.entries) for model in models]
        with contextlib.ExitStack() as opened:
            journals = [
                opened.enter_context(
                    Journal(place, identity, model.engine.num_classes, force=force)
                )
                for place, identity, model in zip(folders, identities, models, strict=True)
            ]
            turns = _take_turns(models, journals, truth, progress)
        bad = _unreadable(journals)
        judged = _judge(models, truth, matchings, journals, question=question, scratch=folder)
        figures = {
            "schema_version": SCHEMA_VERSION,
            **{
                letter: _describe(model, one, own, count_learned(truth, one, journal.learned))
                for letter, model, one, own, journal in zip(
                    "ab", models, judged, matchings, journals, strict=True
                )
            },
            "data": {
                **describe_data(question, truth, judged[0], bad),
                "evaluated": int(judged[0].labeled.sum()),
                "fingerprint": identities[0]["data"],
            },
            "answers": "classes of the data" if question.restrict else "all classes",
            **_differences(judged, classes),
            "speed": _speed(turns),
        }
        figures["data"]["notes"] = [
            *truth.notes,
            *_notes(figures, judged),
            *_note_classes(models, restrict=question.restrict),
        ]
        problems = tuple(Problem(truth.entries[n].name, reason) for n, reason in bad.items())
        yield Compared(figures=figures, judged=judged, problems=problems)


def _unreadable(journals: Sequence[Journal]) -> dict[int, str]:
    """Return why pictures could not be read, by position; both have looked at all of them."""
    first, second = journals
    if first.bad.keys() != second.bad.keys():
        raise ConfigError(
            "pictures changed while the models looked at them", hint="begin anew with --force"
        )
    return first.bad


def _judge(
    models: Sequence[Classifier],
    truth: Truth,
    matchings: Sequence[Matching],
    journals: Sequence[Journal],
    *,
    question: Question,
    scratch: Path,
) -> tuple[Judged, Judged]:
    entries = check_readable(truth.entries, journals[0].bad)
    first, second = (
        judge(
            journal.logits(),
            entries,
            matching,
            model.document.labels,
            restrict=question.restrict,
            multi_label=is_multi_label(model.document),
            temperature=model.document.temperature,
            scratch=scratch,
        )
        for journal, matching, model in zip(journals, matchings, models, strict=True)
    )
    return first, second


def _take_turns(
    models: Sequence[Classifier],
    journals: Sequence[Journal],
    truth: Truth,
    progress: run.Progress | None,
) -> list[_Turn]:
    """Let each model compute the same pictures, the first one changing from turn to turn."""
    step = math.lcm(*(model.engine.best_batch_size for model in models))
    step *= math.ceil(ROUND / step)
    records = [run.learned_from(model) for model in models]
    turns = []
    for number, start in enumerate(range(0, len(truth.entries), step)):
        part = [entry.source for entry in truth.entries[start : start + step]]
        # Of a run that goes on, one may have more than the other, by turns of another size.
        known = [min(max(journal.done - start, 0), len(part)) for journal in journals]
        missing = [which for which in (0, 1) if known[which] < len(part)]
        learned = run.find_learned(records, part if missing else ())  # in no model's time
        seconds = [0.0, 0.0]
        for which in missing if number % 2 else reversed(missing):
            begun = time.perf_counter()
            size = models[which].engine.best_batch_size
            rows = list(models[which].logits_each(part[known[which] :], batch_size=size))
            seconds[which] = time.perf_counter() - begun
            own = [place - known[which] for place in learned[which] if place >= known[which]]
            journals[which].append(rows, learned=own)
        readable = sum(start + place not in journals[0].bad for place in range(len(part)))
        if not any(known) and readable:
            turns.append(_Turn(pictures=readable, seconds=(seconds[0], seconds[1])))
        if progress is not None:
            progress(start + len(part), len(truth.entries))
    return turns


def _describe(model: Classifier, judged: Judged, matching: Matching, learned: int) -> Figures:
    return {
        **run.describe_model(model),
        "matched": dict(matching.rules),
        "learned_from": learned,
        **{f"top{k}": summary.proportion(top_k(judged.ranks, k)) for k in (1, 5)},
    }


def _note_classes(models: Sequence[Classifier], *, restrict: bool) -> list[str]:
    """Say that one model has more to choose from, which is no fault of its answers."""
    counts = [len(model.document.labels.class_names) for model in models]
    if restrict or counts[0] == counts[1]:
        return []
    return [
        f"A chooses among {counts[0]:,} classes and B among {counts[1]:,}, where the one with fewer"
        " is more often right by chance: --restrict lets both choose among those of the data"
    ]


def _notes(figures: Figures, judged: tuple[Judged, Judged]) -> list[str]:
    notes = [
        note
        for letter, one in zip("ab", judged, strict=True)
        for note in note_learned(letter.upper(), figures[letter]["learned_from"], one)
    ]
    if any(one.multi_label for one in judged):
        notes.append(
            "a model answers yes or no of each class: its best answers are compared, and averages"
            " of classes are left out, which `resnext evaluate` has"
        )
    return notes


def _differences(judged: tuple[Judged, Judged], classes: _Classes) -> Figures:
    common = _number(judged, classes)
    known = judged[0].labeled
    figures: Figures = {}
    for k in (1, 5):
        right = [(one.ranks < k)[known] for one in judged]
        figures[f"top{k}"] = _difference(paired.compare(right[0], right[1]))
    several = any(one.multi_label for one in judged)
    figures["averages"] = {} if several else _averages(common)
    figures["same_answer"] = _same_answers(judged, common)
    figures["classes"] = _classes(judged, common)
    return figures


def _join(matchings: tuple[Matching, Matching]) -> _Classes:
    """Bring together what the data's names are in both models.

    Raises:
        DatasetError: Names are one class of one model, and several of the other.
    """
    found: _Classes = {}
    for name, first in matchings[0].index.items():
        second = matchings[1].index[name]
        if first is not None and second is not None:
            found.setdefault((first, second), []).append(name)
    if any(len(set(own)) < len(found) for own in zip(*found, strict=True)):
        raise DatasetError(
            "--map joins folders that are one class of one model, and several of the other",
            hint="join those that are the same in both models, or leave them out",
        )
    return found


def _number(judged: tuple[Judged, Judged], classes: _Classes) -> _Common:
    """Number answers and targets by the place of their class among those of the data."""
    answers, targets = [], []
    for one, own in zip(judged, zip(*classes, strict=True), strict=True):
        place = {index: number for number, index in enumerate(own)}
        every = np.array([place.get(index, len(classes)) for index in one.classes.tolist()])
        answers.append(every[one.answers])
        targets.append(np.where(one.labeled, every[one.targets], UNLABELED))
    return _Common(
        classes=list(classes),
        folders=[", ".join(names) for names in classes.values()],
        answers=(answers[0], answers[1]),
        targets=(targets[0], targets[1]),
    )


def _averages(common: _Common) -> Figures:
    """Return differences of averages over the classes that have a picture."""
    # One class more for all answers that are no class of the data.
    count = len(common.classes) + 1
    counts = [
        metrics.class_counts(answers, targets, num_classes=count)
        for answers, targets in zip(common.answers, common.targets, strict=True)
    ]
    labels = np.flatnonzero((counts[0].support > 0) & (counts[1].support > 0)).tolist()
    if not labels:
        return {}
    first, second = (metrics.averages(one, labels=labels) for one in counts)
    spread = intervals.class_average_differences(
        common.answers, common.targets, num_classes=count, labels=labels
    )
    return {
        name: {"difference": getattr(second, name) - getattr(first, name), **summary.ends(one)}
        for name, one in spread.items()
    }


def _same_answers(judged: tuple[Judged, Judged], common: _Common) -> float:
    """Return the share of pictures with the same answer; what the data lacks goes by name."""
    names = [
        np.array(one.class_names, object)[one.answers] if len(one.answers) else np.empty(0, object)
        for one in judged
    ]
    first, second = common.answers
    foreign = (first == len(common.classes)) & (second == len(common.classes))
    same = (first == second) & (~foreign | (names[0] == names[1]))
    return float(same.mean())


def _difference(found: Comparison) -> Figures:
    return {
        "difference": found.difference,
        **summary.ends(found.interval),
        "p": found.mid_p,
        "p_exact": found.exact,
        "both": found.both,
        "only_a": found.only_a,
        "only_b": found.only_b,
        "neither": found.neither,
    }


def _classes(judged: tuple[Judged, Judged], common: _Common) -> list[Figures]:
    """Return a row for each class that has pictures; of several right ones A's choice counts."""
    first, second = judged
    changes = paired.class_changes(
        first.right, second.right, common.targets[0], num_classes=len(common.classes)
    )
    names = dict(zip(first.classes.tolist(), first.class_names, strict=True))
    return [
        {
            "class": names[index],
            "folder": common.folders[place],
            "pictures": int(changes.support[place]),
            "a": float(first.right[common.targets[0] == place].mean()),
            "b": float(second.right[common.targets[0] == place].mean()),
            "gained": int(changes.gained[place]),
            "lost": int(changes.lost[place]),
            "difference": float(changes.difference[place]),
        }
        for place, (index, _) in enumerate(common.classes)
        if changes.support[place]
    ]


def _speed(turns: Sequence[_Turn]) -> Figures:
    """Return images/s of both, and how much faster B is; the first turn warms up.

    One turn alone, which warms up as well, has no spread: it does not tell which is faster.
    """
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
