"""Likely wrong labels: planted ones come first, and whoever cannot be judged is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: resnext[finetune]")

from resnext.doctor import facts, mislabels
from resnext.doctor.facts import Table
from resnext.doctor.intake import Intake
from resnext.training.features import FeatureStore
from resnext.training.listing import Entry

WIDTH = 8


def make_table(
    folder: Path, labels: list[str], rows: np.ndarray, *, unreadable: tuple[int, ...] = ()
) -> Table:
    """Return a table with these features, whose pictures were never files."""
    count = len(labels)
    entries = tuple(Entry(f"{n}.png", f"{n}.png", (labels[n],)) for n in range(count))
    records = np.zeros(count, facts._RECORD)
    records["readable"], records["spread"], records["light"] = True, 200, 255
    records["readable"][list(unreadable)] = False
    records["dark"], records["light"] = 20, 230
    store = FeatureStore(folder, rows.shape[1])
    for number, row in enumerate(rows):
        key = number.to_bytes(32, "big")
        records["content"][number] = np.frombuffer(key, np.uint8)
        store.add(key, row.astype(np.float32))
    intake = Intake(place="/data", entries=entries, parts=np.zeros(count, np.int8), labelled=True)
    return Table(intake=intake, records=records, problems={}, store=store)


def make_rows(truth: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 1, (truth.max() + 1, WIDTH)) * 3
    return centers[truth] + rng.normal(0, 1, (len(truth), WIDTH))


@pytest.mark.parametrize("kept", [256, 4])
def test_flipped_labels_are_found_with_their_right_class(
    tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mislabels, "WIDTH", kept)
    monkeypatch.setattr(mislabels, "_SAMPLE", 100)
    truth = np.arange(360) % 3
    given = truth.copy()
    flipped = np.random.default_rng(1).choice(360, 18, replace=False)
    given[flipped] = (truth[flipped] + 1) % 3
    table = make_table(tmp_path, [f"class {n}" for n in given], make_rows(truth))
    found, notes = mislabels.check_labels(table)
    assert notes == []
    suspects = [one.positions[0] for one in found]
    assert len(suspects) >= 10
    assert set(suspects) <= set(flipped.tolist())
    ranked = np.argsort(mislabels.judge(table).own)
    assert set(ranked[:18].tolist()) == set(flipped.tolist())
    for one in found:
        assert one.suggested == f"class {truth[one.positions[0]]}"
        assert f"looks like {one.suggested}" in one.detail
    scores = [one.score or 0 for one in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 1 - mislabels.LESS_LIKELY / 3


def test_clean_labels_of_clear_classes_are_not_suspect(tmp_path: Path) -> None:
    truth = np.arange(120) % 3
    table = make_table(tmp_path, [str(n) for n in truth], make_rows(truth))
    assert mislabels.check_labels(table) == ([], [])


def test_the_same_seed_judges_the_same(tmp_path: Path) -> None:
    truth = np.arange(60) % 2
    table = make_table(tmp_path, [str(n) for n in truth], make_rows(truth))
    one, other = (mislabels.judge(table, seed=4).own for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, mislabels.judge(table, seed=5).own)


def test_what_is_kept_of_each_picture_says_the_same_as_all_probabilities(tmp_path: Path) -> None:
    truth = np.arange(200) % 5
    given = np.where(np.arange(200) < 20, (truth + 1) % 5, truth)
    judged = mislabels.judge(make_table(tmp_path, [str(n) for n in given], make_rows(truth) / 2))
    assert judged.unseen is not None
    shares = np.concatenate([part for _, part in judged.unseen.shares()])
    count, labels = len(shares), judged.labels
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    # As it was computed when all probabilities were kept.
    best, own = shares.argmax(axis=1), shares[np.arange(count), labels]
    counts = np.bincount(labels, minlength=5)
    means = np.bincount(labels, own, 5) / counts
    is_claimed = shares[np.arange(count), best] >= means[best]
    odds = own / (counts / count)[labels]
    doubtful = (odds < mislabels.UNLIKELY) | (is_claimed & (odds < mislabels.LESS_LIKELY))
    rows = np.flatnonzero(doubtful & (best != labels))
    assert 5 < len(rows) < 60
    np.testing.assert_array_equal(judged.own, own)
    np.testing.assert_array_equal(judged.best, best)
    np.testing.assert_array_equal(judged.suspects, rows[np.argsort(own[rows], kind="stable")])
    agreement = np.mean([(best == labels)[labels == n].mean() for n in range(5)])
    assert judged.agreement == pytest.approx(agreement)


def test_rare_classes_and_what_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    truth = np.arange(40) % 2
    labels = [str(n) for n in truth]
    labels[:4] = ["rare"] * 4
    table = make_table(tmp_path, labels, make_rows(truth), unreadable=(7, 9))
    judged = mislabels.judge(table)
    assert judged.names == ("0", "1")
    assert not {0, 1, 2, 3, 7, 9} & set(judged.positions.tolist())
    assert len(judged.positions) == 34
    [note] = judged.notes
    assert note.endswith("rare")


def test_one_class_is_not_judged(tmp_path: Path) -> None:
    table = make_table(tmp_path, ["a"] * 20, make_rows(np.zeros(20, np.int64)))
    found, notes = mislabels.check_labels(table)
    assert found is None
    assert "no two classes" in notes[0]


def test_features_that_say_nothing_are_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = [str(n) for n in np.arange(90) % 3]
    table = make_table(tmp_path, labels, rng.normal(0, 1, (90, WIDTH)))
    _, notes = mislabels.check_labels(table)
    assert "hard for the model" in notes[0]


def test_a_rare_class_is_not_suspect_for_being_rare(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = ["rare" if n < 10 else "usual" for n in range(1000)]
    table = make_table(tmp_path, labels, rng.normal(0, 1, (1000, WIDTH)))
    found, notes = mislabels.check_labels(table)
    assert len(found) <= 2
    assert "hard for the model" in notes[0]  # though it agrees with 99 % of the labels


def test_wrong_labels_among_few_and_many_are_found(tmp_path: Path) -> None:
    truth = (np.arange(1000) < 60).astype(int)
    given = truth.copy()
    given[:4] = 0
    table = make_table(tmp_path, [f"class {n}" for n in given], make_rows(truth))
    found, notes = mislabels.check_labels(table)
    assert notes == []
    assert len(found) >= 3
    assert {one.positions[0] for one in found} <= {0, 1, 2, 3}
    assert {one.suggested for one in found} == {"class 1"}


def test_copies_do_not_vouch_for_each_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (60, 300))  # which say nothing of the label
    labels = [str(n) for n in rng.integers(0, 2, 60)]
    table = make_table(tmp_path, labels * 2, np.concatenate([rows, rows]))
    pairs = [[number, number + 60] for number in range(60)]
    assert mislabels.judge(table).agreement > 0.8
    assert mislabels.judge(table, pairs).agreement < 0.7


def test_a_class_of_copies_is_left_out(tmp_path: Path) -> None:
    truth = np.arange(60) % 3
    table = make_table(tmp_path, [str(n) for n in truth], make_rows(truth))
    copies = np.flatnonzero(truth == 2)[:-3].tolist()  # and 3 others: 4 different ones
    judged = mislabels.judge(table, [copies])
    assert judged.names == ("0", "1")
    assert judged.notes == (
        "labels were not checked in classes of fewer than 5 different pictures: 2",
    )
