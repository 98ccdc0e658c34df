"""[finetune] Find labels that are likely wrong: confident learning.

After Northcutt, Jiang and Chuang, "Confident Learning" (2021, arXiv:1911.00068). Every picture
is classified by a head that has not seen it. A label is suspect if another class is as sure
of the picture as it is, on average, of its own.
N pictures, D features, K classes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from resnext import predictions
from resnext.doctor.checks import about, blank
from resnext.doctor.facts import Table
from resnext.doctor.findings import Finding
from resnext.training.head import FOLDS, predict_out_of_fold
from resnext.training.listing import few, sort_names

WIDTH = 256  # features that are left of more: the directions in which pictures differ most

_SAMPLE = 10_000  # pictures from which these are found
_BLOCK = 4096  # pictures projected at a time

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspects:
    """Labels that are likely wrong.

    Args:
        positions: (M,) of N pictures, the most suspect first.
        suggested: (M,) class that fits each best.
        margin: (N,) probability of the best other class minus that of the label, -1 to 1.
    """

    positions: Integers
    suggested: Integers
    margin: Floats


def check_labels(table: Table, *, seed: int = 0) -> tuple[list[Finding], list[str]]:
    """Find the pictures whose label is likely wrong.

    Args:
        table: With features; each labelled picture has one class.
        seed: Of the division into folds.

    Returns:
        Findings, the most suspect first, and what was left out.
    """
    names, positions, labels, notes = _labelled(table)
    if len(names) < 2:
        return [], [*notes, "labels were not checked: there are not two classes to compare"]
    features = _project(table, positions, np.random.default_rng(seed))
    judged = predict_out_of_fold(features, labels, num_classes=len(names), seed=seed)
    shares = predictions.probabilities(judged.logits, temperature=judged.temperature)
    suspects = find_suspects(shares, labels)
    right = float((judged.logits.argmax(axis=1) == labels).mean())
    if right < 0.5:
        notes.append(
            f"the classes are hard for this model: of pictures it has not seen it agrees with"
            f" {right:.0%} of the labels; a better --model finds wrong ones more surely"
        )
    found = []
    for number, other in zip(suspects.positions, suspects.suggested, strict=True):
        share, own = shares[number, other], shares[number, labels[number]]
        detail = (
            f"looks like {names[other]} ({share:.0%}), not like {names[labels[number]]} ({own:.0%})"
        )
        position, action = int(positions[number]), f"relabel:{names[other]}"
        finding = about(table, position, "likely-mislabel", detail, action)
        found.append(replace(finding, score=float(1 + suspects.margin[number]) / 2))
    return found, notes


def find_suspects(shares: Floats, labels: Integers) -> Suspects:
    """Find labels that another class has a better claim to.

    Args:
        shares: (N, K) probabilities, each picture's by a model that has not seen it.
        labels: (N,) given.
    """
    count, num_classes = shares.shape
    every = np.arange(count)
    # How sure a class is of its own pictures on average: what it takes to claim another's.
    sure = np.array(
        [shares[labels == k, k].mean() if (labels == k).any() else 1.0 for k in range(num_classes)]
    )
    claims = np.where(shares >= sure, shares, -1.0)
    best = claims.argmax(axis=1)
    others = shares.copy()
    others[every, labels] = -1.0
    margin = others.max(axis=1) - shares[every, labels]
    suspect = np.flatnonzero((claims[every, best] >= 0) & (best != labels))
    ranked = suspect[np.argsort(-margin[suspect], kind="stable")]
    return Suspects(positions=ranked, suggested=best[ranked], margin=margin)


def _labelled(table: Table) -> tuple[tuple[str, ...], Integers, Integers, list[str]]:
    """Return class names, positions and labels of the pictures that can be judged."""
    usable = [
        (int(n), table.entries[n].classes[0])
        for n in np.flatnonzero(table["readable"] & ~blank(table))
        if table.entries[n].classes
    ]
    counts = Counter(name for _, name in usable)
    rare = sorted(name for name, count in counts.items() if count < FOLDS)
    names = sort_names(counts.keys() - set(rare))
    index = {name: number for number, name in enumerate(names)}
    kept = [(position, index[name]) for position, name in usable if name in index]
    positions, labels = np.array(kept, np.int64).reshape(-1, 2).T
    text = f"labels were not checked in classes of fewer than {FOLDS} pictures: {few(rare)}"
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
