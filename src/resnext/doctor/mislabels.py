"""[finetune] Find labels that are likely wrong: confident learning.

After Northcutt, Jiang and Chuang, "Confident Learning" (2021, arXiv:1911.00068): every picture
is classified by a head that has seen neither it nor a copy of it, and what counts is the
probability of the given label. `docs/check.md` has this ranking beside theirs.
N pictures, D features, K classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.doctor.checks import about, blank
from resnext.doctor.facts import Table
from resnext.doctor.findings import Finding
from resnext.training.head import FOLDS, OutOfFold, predict_out_of_fold
from resnext.training.listing import few, sort_names

# Probability of the given label, as a multiple of chance, which is the share of the pictures that
# bear it, below which it is likely wrong:
UNLIKELY = 0.2  # in any case
LESS_LIKELY = 0.5  # if another class is as sure of the picture as of its own on average
WIDTH = 256  # features that are left of more: the directions in which pictures differ most

_SAMPLE = 10_000  # pictures from which these are found
_BLOCK = 4096  # pictures projected at a time

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What the labels of pictures look like from outside.

    Args:
        names: Of the K classes.
        positions: (N,) of the pictures in the table.
        labels: (N,) given classes.
        own: (N,) probability of each given label, by a head that has not seen the picture or a
            copy of it.
        best: (N,) class that this head finds likeliest.
        highest: (N,) probability of that class.
        unseen: The heads, for all probabilities; None where nothing was judged.
        notes: What was left out; one sentence each.
    """

    names: tuple[str, ...]
    positions: Integers
    labels: Integers
    own: Floats
    best: Integers
    highest: Floats
    unseen: OutOfFold | None
    notes: tuple[str, ...]

    @property
    def suspects(self) -> Integers:
        """Rows of the labels that are likely wrong, the most suspect first."""
        # How sure each class is of the pictures that bear its label: what a claim takes.
        is_claimed = self.highest >= self._by_class(self.own)[self.best]
        # Against chance, for the head learns from the wrong labels as well: where 5 % are
        # wrong it gives about 5 % to the other classes together, however clear a picture is.
        # A class of one picture in a hundred gets 1 % of what the head knows nothing about.
        odds = self.own / (self._counts / max(len(self.labels), 1))[self.labels]
        doubtful = (odds < UNLIKELY) | (is_claimed & (odds < LESS_LIKELY))
        doubtful &= self.best != self.labels
        rows = np.flatnonzero(doubtful)
        return rows[np.argsort(self.own[rows], kind="stable")]

    @property
    def agreement(self) -> float:
        """Share of the labels that the head gives as well; each class counts the same."""
        return float(self._by_class(self.best == self.labels).mean())

    @property
    def _counts(self) -> Integers:
        return np.bincount(self.labels, minlength=len(self.names))

    def _by_class(self, values: NDArray[Any]) -> Floats:
        """Return the mean of what each picture has, for each class."""
        sums = np.bincount(self.labels, values, len(self.names))
        means: Floats = sums / np.maximum(self._counts, 1)
        return means


def check_labels(
    table: Table, groups: Iterable[Sequence[int]] = (), *, seed: int = 0
) -> tuple[list[Finding] | None, list[str]]:
    """Find the pictures whose label is likely wrong.

    Args:
        table: With features; each labelled picture has one class.
        groups: Positions of pictures that are copies of each other: `copies.find_groups`.
        seed: Of the division into folds.

    Returns:
        Findings, the most suspect first, None where there is nothing to judge; and notes.
    """
    judged = judge(table, groups, seed=seed)
    names, notes = judged.names, list(judged.notes)
    if not len(judged.labels):
        return None, notes
    agreed = judged.agreement
    if agreed < (1 + 1 / len(names)) / 2:  # nearer to chance than to all
        notes.append(
            f"these classes are hard for the model: of pictures it has not seen it agrees with"
            f" {agreed:.0%} of the labels, each class counting the same; another model finds wrong"
            f" ones more surely"
        )
    found = []
    for row in judged.suspects.tolist():
        other, given, own = int(judged.best[row]), int(judged.labels[row]), float(judged.own[row])
        detail = (
            f"looks like {names[other]} ({judged.highest[row]:.1%}),"
            f" not like {names[given]} ({own:.1%})"
        )
        position, action = int(judged.positions[row]), f"relabel:{names[other]}"
        finding = about(table, position, "likely-mislabel", detail, action)
        found.append(replace(finding, score=1 - own))
    return found, notes


def judge(table: Table, groups: Iterable[Sequence[int]] = (), *, seed: int = 0) -> Judgement:
    """Classify every labelled picture by a head that has seen neither it nor a copy."""
    numbers = np.arange(len(table))  # the same for copies
    for group in groups:
        numbers[list(group)] = group[0]
    names, positions, labels, notes = _labelled(table, numbers)
    if len(names) < 2:
        notes.append("labels were not judged: there are no two classes to compare")
        positions, labels, unseen = positions[:0], labels[:0], None
    else:
        unseen = predict_out_of_fold(
            _project(table, positions, np.random.default_rng(seed)),
            labels,
            num_classes=len(names),
            seed=seed,
            copies=numbers[positions],
        )
    own, highest = np.empty((2, len(labels)))
    best = np.empty(len(labels), np.int64)
    for some, shares in unseen.shares() if unseen else ():
        own[some] = np.take_along_axis(shares, labels[some, None], axis=1)[:, 0]
        best[some], highest[some] = shares.argmax(axis=1), shares.max(axis=1)
    return Judgement(
        names=names, positions=positions, labels=labels, own=own, best=best, highest=highest,
        unseen=unseen, notes=tuple(notes),
    )  # fmt: skip


def _labelled(
    table: Table, numbers: Integers
) -> tuple[tuple[str, ...], Integers, Integers, list[str]]:
    """Return class names, positions and labels of the pictures that can be judged."""
    usable = [
        (n, table.entries[n].classes[0])
        for n in np.flatnonzero(table["readable"] & ~blank(table)).tolist()
        if table.entries[n].classes
    ]
    different = defaultdict(set)
    for position, name in usable:
        different[name].add(numbers[position])
    rare = sorted(name for name, found in different.items() if len(found) < FOLDS)
    names = sort_names(different.keys() - set(rare))
    index = {name: number for number, name in enumerate(names)}
    kept = [(position, index[name]) for position, name in usable if name in index]
    positions, labels = np.array(kept, np.int64).reshape(-1, 2).T
    text = (
        f"labels were not checked in classes of fewer than {FOLDS} different pictures: {few(rare)}"
    )
    return names, positions, labels, [text] if rare else []


def _project(table: Table, positions: Integers, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return (N, W) features, fewer where there are many: 8 times faster, and as good."""
    some = positions
    if len(positions) > _SAMPLE:
        some = np.sort(rng.choice(positions, _SAMPLE, replace=False))
    sample = table.features(some)
    if sample.shape[1] <= WIDTH or len(positions) <= WIDTH:
        return table.features(positions)
    center = sample.mean(axis=0)
    sample -= center
    _, axes = np.linalg.eigh(sample.T @ sample)  # ascending
    blocks = np.array_split(positions, -(-len(positions) // _BLOCK))
    return np.concatenate([(table.features(block) - center) @ axes[:, -WIDTH:] for block in blocks])
