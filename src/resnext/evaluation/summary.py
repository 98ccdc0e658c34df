"""The figures of an evaluation as plain values, for JSON and people.

Shares are 0 to 1 here; what people read has percent. Every interval is of 95 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from resnext.evaluation import intervals, metrics, multilabel, trust
from resnext.evaluation.intervals import Interval
from resnext.evaluation.judge import Judged
from resnext.evaluation.metrics import ClassCounts, Proportion

MOST_CONFUSED = 30

Figures = dict[str, Any]


def summarize(judged: Judged, *, reject_threshold: float | None) -> Figures:
    """Compute all figures.

    Args:
        judged: The answers.
        reject_threshold: Of the model.
    """
    if judged.multi_label:
        return _of_each_class(judged)
    counts = metrics.class_counts(judged.answers, judged.targets, num_classes=judged.num_classes)
    return {
        **_accuracies(judged),
        "averages": _averages(judged, counts),
        **trust.describe(judged, reject_threshold=reject_threshold),
        "confused": _confused(judged),
        "confusion": _confusion(judged),
        "classes": _classes(judged, counts),
    }


def proportion(found: Proportion) -> Figures:
    """Return accuracy, error and the interval of the accuracy."""
    interval = intervals.wilson(found.right, found.pictures)
    return {
        "accuracy": found.accuracy,
        "error": found.error,
        "low": interval.low,
        "high": interval.high,
        "right": found.right,
        "pictures": found.pictures,
    }


def _accuracies(judged: Judged) -> Figures:
    found: Figures = {
        f"top{k}": proportion(metrics.top_k(judged.ranks, k))
        for k in (1, min(5, judged.num_classes))
    }
    found.setdefault("top5", proportion(metrics.top_k(judged.ranks, 5)))
    found = {key: found[key] for key in ("top1", "top5")}
    if judged.other_ranks is not None:
        found["other_choice"] = {
            f"top{k}": proportion(metrics.top_k(judged.other_ranks, k)) for k in (1, 5)
        }
    return found


def _averages(judged: Judged, counts: ClassCounts) -> Figures:
    """Average the classes that have a picture: of the others nothing is known."""
    labels = judged.present.tolist()
    values = metrics.averages(counts, labels=labels)
    spread = intervals.class_averages(
        judged.answers, judged.targets, num_classes=judged.num_classes, labels=labels
    )
    return {name: {"value": getattr(values, name), **ends(one)} for name, one in spread.items()}


def ends(interval: Interval | None) -> Figures:
    """Return both ends of an interval, None where there is none."""
    if interval is None:
        return {"low": None, "high": None}
    return {"low": interval.low, "high": interval.high}


def _of_each_class(judged: Judged) -> Figures:
    """Return the figures of a model that answers yes or no of each class."""
    scores = multilabel.score(judged.logits, judged.right_sets, labels=judged.present.tolist())
    spread = intervals.multilabel_averages(
        judged.logits, judged.right_sets, labels=judged.present.tolist()
    )
    rows = _classes(judged, scores.counts)
    for row, place in zip(rows, judged.data_classes.tolist(), strict=True):
        known = row["pictures"] > 0
        row["average_precision"] = float(scores.average_precision[place]) if known else None
    return {
        **_accuracies(judged),
        "yes_above": multilabel.YES_ABOVE,
        "averages": {
            name: {"value": getattr(scores, name), **ends(one)} for name, one in spread.items()
        },
        "classes": rows,
    }


def _confused(judged: Judged) -> list[Figures]:
    pairs = metrics.confused_pairs(
        judged.answers, judged.targets, num_classes=judged.num_classes, most=MOST_CONFUSED
    )
    return [
        {
            "class": judged.class_names[pair.target],
            "answer": judged.class_names[pair.answer],
            "pictures": pair.pictures,
            "share": pair.share,
        }
        for pair in pairs
    ]


def _confusion(judged: Judged) -> Figures:
    """Return how many pictures of each class got each answer, by the model's numbers."""
    known = judged.labeled
    cells, pictures = np.unique(
        judged.targets[known] * judged.num_classes + judged.answers[known], return_counts=True
    )
    targets, answers = np.divmod(cells, judged.num_classes)
    return {
        "target": judged.classes[targets].tolist(),
        "answer": judged.classes[answers].tolist(),
        "pictures": pictures.tolist(),
    }


def _classes(judged: Judged, counts: ClassCounts) -> list[Figures]:
    """Return a row for each class of the data; of one without pictures nothing is known."""
    figures = {"precision": counts.precision, "recall": counts.recall, "f1": counts.f1}
    found = []
    for place in judged.data_classes.tolist():
        right, support = int(counts.right[place]), int(counts.support[place])
        found.append(
            {
                "class": judged.class_names[place],
                "index": int(judged.classes[place]),
                "pictures": support,
                "right": right,
                "answered": int(counts.answered[place]),
                **{
                    name: float(values[place]) if support else None
                    for name, values in figures.items()
                },
                **ends(intervals.wilson(right, support) if support else None),
            }
        )
    return found
