"""The last layer: fitted like scikit-learn's, calibrated, scored, the same every time."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: resnext[finetune]")

import threadpoolctl
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from resnext import predictions
from resnext.errors import ConfigError, DatasetError
from resnext.evaluation import arrays
from resnext.training import head
from resnext.training.head import fit_head, score


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep what is done by hand from waiting for a busy core."""
    with threadpoolctl.threadpool_limits(1):
        yield


Features = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def clouds(
    *, classes: int = 3, each: int = 30, width: int = 20, spread: float = 1.0, seed: int = 0
) -> Features:
    """Draw features around one center a class, of very different scale and offset."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(classes, width))
    labels = np.repeat(np.arange(classes), each)
    rows = centers[labels] + spread * rng.normal(size=(len(labels), width))
    return (5 * rows * np.linspace(0.5, 2, width) + 7).astype(np.float32), labels


def nll(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.int64]) -> float:
    shares = predictions.probabilities(logits)
    return float(-np.log(shares[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("width", [20, 120])  # fewer and more than there are pictures
def test_it_is_scikit_learns_regression_on_the_scaled_features(classes: int, width: int) -> None:
    features, labels = clouds(classes=classes, width=width, spread=2)
    found = fit_head(features, labels, num_classes=classes)
    rows = features.astype(np.float64)
    scaled = (rows - rows.mean(axis=0)) / np.sqrt(np.mean((rows - rows.mean(axis=0)) ** 2))
    by_hand = LogisticRegression(C=found.strength, tol=1e-8, max_iter=10_000).fit(scaled, labels)
    logits = found.logits(features)
    shares = predictions.probabilities(logits)
    np.testing.assert_allclose(shares, by_hand.predict_proba(scaled), atol=2e-3)
    assert (logits.argmax(axis=1) == by_hand.predict(scaled)).all()
    assert found.weight.shape == (classes, width)
    assert found.weight.dtype == found.bias.dtype == np.float32


def test_it_is_as_good_as_what_one_tries_by_hand() -> None:
    features, labels = clouds(classes=3, spread=2.5)
    unseen, truth = clouds(classes=3, each=400, spread=2.5, seed=1)
    found = fit_head(features, labels, num_classes=3)
    ours = score(found.logits(unseen), truth, temperature=found.temperature)
    by_hand = LogisticRegression(max_iter=10_000).fit(features, labels)
    assert ours.right / ours.pictures >= by_hand.score(unseen, truth) - 0.01
    assert ours.nll <= nll(by_hand.decision_function(unseen), truth) + 0.01


def test_out_of_fold_scores_foretell_those_of_new_pictures() -> None:
    features, labels = clouds(classes=4, each=60, spread=3)
    unseen, truth = clouds(classes=4, each=500, spread=3, seed=1)
    found = fit_head(features, labels, num_classes=4)
    new = score(found.logits(unseen), truth, temperature=found.temperature)
    foretold = found.out_of_fold
    assert foretold.pictures == 240
    assert foretold.right / foretold.pictures == pytest.approx(new.right / new.pictures, abs=0.08)
    assert foretold.nll == pytest.approx(new.nll, rel=0.2)
    seen = score(found.logits(features), labels)
    assert seen.right > foretold.right  # which is what out of fold is for


def test_labels_without_reason_give_answers_that_claim_nothing() -> None:
    features, labels = clouds(classes=2, width=100)
    found = fit_head(features, np.random.default_rng(0).permutation(labels), num_classes=2)
    unseen, _ = clouds(classes=2, width=100, seed=1)
    shares = predictions.probabilities(found.logits(unseen), temperature=found.temperature)
    assert shares.max() < 0.8
    assert found.out_of_fold.nll == pytest.approx(np.log(2), abs=0.05)


def test_a_signal_under_louder_features_chooses_a_strong_head() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    loud = 10 * rng.normal(size=200)  # in both features; the class is in their difference
    features = np.stack([loud, loud + labels + 0.1 * rng.normal(size=200)], axis=1)
    found = fit_head(features.astype(np.float32), labels, num_classes=2)
    assert found.strength >= 1
    assert found.out_of_fold.right >= 198


def test_the_same_seed_gives_the_same_bits_and_another_other_folds() -> None:
    features, labels = clouds(spread=3)
    first, again, other = (fit_head(features, labels, num_classes=3, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.weight, again.weight)
    assert first.temperature == again.temperature
    assert first.out_of_fold.nll != other.out_of_fold.nll


def test_a_copy_of_a_picture_is_not_learned_from_to_answer_it() -> None:
    """Labels without reason: only who has seen a picture can be right more often than not."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 200)).astype(np.float32)
    labels = np.arange(60) % 2
    twice, copies = np.r_[0:60, 0:60], np.r_[0:60, 0:60]
    leaky = fit_head(features[twice], labels[twice], num_classes=2).out_of_fold
    assert leaky.right > 100
    honest = fit_head(features[twice], labels[twice], num_classes=2, copies=copies).out_of_fold
    assert honest.pictures == 120
    assert honest.right < 80
    assert honest.nll == pytest.approx(np.log(2), abs=0.05)


def test_without_copies_the_folds_are_what_they_were() -> None:
    features, labels = clouds(spread=3)
    first = fit_head(features, labels, num_classes=3, seed=2)
    other = fit_head(features, labels, num_classes=3, seed=2, copies=np.arange(90)[::-1] + 5)
    np.testing.assert_array_equal(first.weight, other.weight)
    assert (first.temperature, first.out_of_fold) == (other.temperature, other.out_of_fold)


@pytest.mark.parametrize("seed", range(20))
def test_every_class_is_in_two_folds_whatever_the_labels_of_copies(seed: int) -> None:
    """Classes of two pictures each, most of which are in another class as well."""
    rng = np.random.default_rng(seed)
    copies = np.array([rng.choice(6, 2, replace=False) for _ in range(12)]).reshape(-1)
    labels = np.repeat(np.arange(12), 2)
    folds = head._deal(labels, copies, rng)
    assert folds.min() >= 0 and folds.max() < head.FOLDS
    assert all(len(set(folds[labels == label])) == 2 for label in range(12))
    alone = head._deal(copies, copies, rng)  # of one label each: no copy is elsewhere
    assert all(len(set(alone[copies == number])) == 1 for number in copies)


def test_balanced_weights_help_the_rare_class() -> None:
    features, labels = clouds(classes=2, each=300, width=4, spread=3)
    kept = np.r_[0:300, 300:312]
    unseen, truth = clouds(classes=2, each=300, width=4, spread=3, seed=1)
    rare = [
        score(
            fit_head(features[kept], labels[kept], num_classes=2, class_weights=weights).logits(
                unseen
            ),
            truth,
        ).class_right[1]
        for weights in ("none", "balanced")
    ]
    assert rare[1] > rare[0] + 50


def test_two_pictures_a_class_are_enough_and_one_is_not() -> None:
    features, labels = clouds(each=2)
    assert fit_head(features, labels, num_classes=3).out_of_fold.pictures == 6
    with pytest.raises(DatasetError, match=r"classes \[2\] have fewer than 2 different pictures"):
        fit_head(features[:5], labels[:5], num_classes=3)
    with pytest.raises(DatasetError, match=r"classes \[0\] have fewer than 2 different pictures"):
        fit_head(features, labels, num_classes=3, copies=np.array([7, 7, 1, 2, 3, 4]))
    with pytest.raises(DatasetError, match="only one class"):
        fit_head(features[:2], labels[:2], num_classes=1)


def test_options_are_checked() -> None:
    features, labels = clouds()
    with pytest.raises(ConfigError, match="class_weights is 'equal'"):
        fit_head(features, labels, num_classes=3, class_weights="equal")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"labels \(89,\)"):
        fit_head(features, labels[1:], num_classes=3)
    with pytest.raises(ConfigError, match=r"copies are \(2,\); expected \(90,\)"):
        fit_head(features, labels, num_classes=3, copies=np.arange(2))


def test_features_that_are_all_the_same_give_even_chances() -> None:
    found = fit_head(np.ones((8, 5), np.float32), np.arange(8) % 2, num_classes=2)
    shares = predictions.probabilities(found.logits(np.ones((1, 5), np.float32)))
    np.testing.assert_allclose(shares, 0.5, atol=1e-6)


def test_of_many_pictures_a_share_of_each_class_is_cross_validated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head, "MAX_VALIDATED", 50)
    features, labels = clouds(classes=3, each=100)
    kept = np.r_[0:200, 200:203]  # 100, 100 and 3
    found = fit_head(features[kept], labels[kept], num_classes=3)
    assert found.out_of_fold.class_pictures == (24, 24, 2)
    copies = np.r_[0:200, 200, 201, 201]
    for seed in range(5):  # of the two that are chosen, none is the other's copy
        fit_head(features[kept], labels[kept], num_classes=3, copies=copies, seed=seed)


def test_score_counts_as_predictions_are_made() -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (200, 7)).astype(np.float32)  # with many ties
    labels = rng.integers(0, 7, 200)
    found = score(logits, labels, temperature=2.0)
    names = predictions.Labels(tuple("abcdefg"))
    answers = predictions.decide(logits, names, temperature=2.0)
    places = [[one.index for one in best] for best in answers]
    first = [place[0] == label for place, label in zip(places, labels, strict=True)]
    assert found.pictures == 200
    assert found.right == sum(first)
    assert found.right5 == sum(
        label in place[:5] for place, label in zip(places, labels, strict=True)
    )
    assert found.class_pictures == tuple(np.bincount(labels, minlength=7))
    assert found.class_right == tuple(np.bincount(labels[first], minlength=7))
    assert found.nll == pytest.approx(nll(logits / 2, labels))
    assert score(logits[:0], labels[:0]).class_pictures == (0,) * 7


@pytest.mark.slow
def test_real_features_are_as_good_as_by_hand(shared_data: Path) -> None:
    """The starter's features of 10 classes of Tiny ImageNet, 50 pictures each to learn from."""
    import resnext

    pictures, labels = tiny_imagenet(shared_data, classes=10, each=150)
    with resnext.Classifier("starter") as classifier:
        features = classifier.embed(pictures)
    learned = np.arange(len(labels)) % 150 < 50
    found = fit_head(features[learned], labels[learned], num_classes=10)
    ours = score(found.logits(features[~learned]), labels[~learned])
    assert ours.pictures == 1000
    for steps in ((), (StandardScaler(),)):
        by_hand = make_pipeline(*steps, LogisticRegression(max_iter=10_000))
        by_hand.fit(features[learned], labels[learned])
        theirs = by_hand.score(features[~learned], labels[~learned])
        assert ours.right / ours.pictures >= theirs - 0.01


def tiny_imagenet(
    shared_data: Path, *, classes: int, each: int
) -> tuple[list[bytes], npt.NDArray[np.int64]]:
    """Read the first pictures of the first classes, which stand first in the archive."""
    found: dict[str, list[bytes]] = {}
    with tarfile.open(shared_data / "tiny-imagenet-200" / "train.tar.xz", "r|xz") as archive:
        for member in archive:
            if not member.isfile():
                continue
            name = Path(member.name).parent.name
            if name not in found and len(found) == classes:
                break
            file = archive.extractfile(member)
            if file is not None and len(found.setdefault(name, [])) < each:
                found[name].append(file.read())
    assert [len(pictures) for pictures in found.values()] == [each] * classes
    pictures = [picture for pictures in found.values() for picture in pictures]
    return pictures, np.repeat(np.arange(classes), each)


def test_out_of_fold_predictions_are_by_heads_that_lack_the_picture() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    rows = rng.normal(0, 1, (60, 5)) + 4 * np.eye(3, 5)[labels]
    labels[0] = 1  # it is of class 0
    found = head.predict_out_of_fold(rows.astype(np.float32), labels, num_classes=3)
    [(_, shares)] = found.shares()
    assert shares.shape == (60, 3)
    assert shares[0].argmax() == 0
    assert (shares.argmax(axis=1) == labels).mean() > 0.9
    assert found.temperature > 0
    assert found.strength in head.STRENGTHS


def test_out_of_fold_predictions_are_of_all_where_some_choose_the_strength(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    rows = (rng.normal(0, 1, (80, 4)) + 3 * labels[:, None]).astype(np.float32)
    monkeypatch.setattr(head, "MAX_VALIDATED", 20)
    found = head.predict_out_of_fold(rows, labels, num_classes=2)
    [(_, shares)] = found.shares()
    assert shares.shape == (80, 2)
    assert (shares.argmax(axis=1) == labels).mean() > 0.95


@pytest.mark.parametrize("most", [10_000, 60])
def test_probabilities_a_few_pictures_at_a_time_are_those_of_all_logits(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 4
    rows = (rng.normal(0, 1, (240, 6)) + 2 * np.eye(4, 6)[labels]).astype(np.float32)
    monkeypatch.setattr(head, "MAX_VALIDATED", most)
    monkeypatch.setattr(head, "_CHOOSING_TOLERANCE", 1e-5)
    monkeypatch.setattr(arrays, "_CHUNK", 28)  # 7 pictures
    monkeypatch.setattr(head, "_deal", lambda labels, *_: np.arange(len(labels)) // 4 % 5)
    found = head.predict_out_of_fold(rows, labels, num_classes=4)
    parts = list(found.shares())
    assert len(parts) == 35
    centered = rows.astype(float) - rows.mean(axis=0, dtype=float)
    centered /= np.sqrt(np.mean(centered**2))
    logits = np.empty((240, 4))
    for fold in range(head.FOLDS):
        own = np.arange(240) // 4 % 5 == fold
        model = head._regression(found.strength, 1e-9).fit(centered[~own], labels[~own])
        logits[own] = model.decision_function(centered[own])
    expected = predictions.probabilities(logits, temperature=found.temperature)
    np.testing.assert_allclose(np.concatenate([part for _, part in parts]), expected, atol=2e-3)
    assert found.temperature == pytest.approx(head.fit_temperature(logits, labels), rel=1e-3)


def test_fewer_heads_are_fitted_at_a_time_where_they_need_much_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            workers.append(count)
            super().__init__(count)

    monkeypatch.setattr(head, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    rows = (rng.normal(0, 1, (60, 5)) + 4 * np.eye(3, 5)[labels]).astype(np.float32)
    found = []
    for memory in (1 << 29, 3 * 16 * 60 * 3, 1):
        monkeypatch.setattr(head, "_MEMORY", memory)
        [(_, shares)] = head.predict_out_of_fold(rows, labels, num_classes=3).shares()
        found.append((workers[-1], shares.tobytes()))
    assert [count for count, _ in found] == [4, 3, 1]
    assert len({shares for _, shares in found}) == 1
