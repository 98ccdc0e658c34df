"""What evaluation takes: rows in chunks, and refusal of what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from resnext.errors import ConfigError, EngineError
from resnext.evaluation.arrays import (
    UNLABELED,
    check_logits,
    check_pairs,
    check_targets,
    chunks,
    labeled,
)


@pytest.mark.parametrize(("rows", "width"), [(0, 5), (1, 1), (2000, 1000), (3, 10**7), (7, 0)])
def test_chunks_have_each_row_once_and_are_small(rows: int, width: int) -> None:
    parts = list(chunks(rows, width))
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    assert all(
        part.stop - part.start == 1 or (part.stop - part.start) * width <= 2**19 for part in parts
    )


def test_logits_that_are_no_numbers_are_refused_with_their_row() -> None:
    logits = np.zeros((2000, 1000), np.float32)
    check_logits(logits)
    logits[1500, 3], logits[1999, 0] = np.nan, np.inf
    with pytest.raises(EngineError, match="2 of 2,000 pictures .* the first in row 1500"):
        check_logits(logits)
    with pytest.raises(ConfigError, match=r"logits are \(3,\); expected \(N, K\)"):
        check_logits(np.zeros(3))
    with pytest.raises(ConfigError, match="one of each class"):
        check_logits(np.zeros((3, 0)))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.array([0, 1]), r"targets are int64 \(2,\) for logits \(3, 4\)"),
        (np.zeros((3, 3), np.bool_), r"targets are bool \(3, 3\)"),
        (np.zeros((3, 4), np.int64), r"expected \(N,\) class indices or \(N, K\) bool"),
        (np.array([0, 1, 4]), "targets are 0 to 4; expected 0 to 3, or -1"),
        (np.array([0, 1, -2]), "targets are -2 to 1"),
        (np.array([0.0, 1.0, 2.0]), "targets are float64"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_targets(np.zeros((3, 4)), targets)


def test_targets_may_be_unknown_and_answers_may_not() -> None:
    check_targets(np.zeros((2, 3)), np.array([UNLABELED, 2]))
    targets, answers = labeled(np.array([2, UNLABELED, 0]), np.array([1, 2, 0]), num_classes=3)
    assert targets.tolist() == [2, 0]
    assert answers.tolist() == [1, 0]
    with pytest.raises(ConfigError, match="answers are -1 to 2; expected 0 to 2$"):
        labeled(np.array([0, 0]), np.array([-1, 2]), num_classes=3)
    with pytest.raises(ConfigError, match=r"answers and targets are \(1,\) and \(2,\)"):
        labeled(np.array([0, 0]), np.array([1]), num_classes=3)


def test_pairs_have_one_value_a_picture() -> None:
    with pytest.raises(ConfigError, match=r"this and that are \(2, 1\) and \(2, 1\)"):
        check_pairs(np.zeros((2, 1)), np.zeros((2, 1)), names="this and that")
