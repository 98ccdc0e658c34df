"""[finetune] Features to a classifier: logistic regression, calibrated.

Cross-validation chooses how strongly the weights are held small. The logits that each
picture gets there, from a head that has not seen it, give the temperature and the reject
threshold. Everything is a pure function of arrays and a seed.
N pictures, D features, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import sklearn.linear_model
import threadpoolctl
from numpy.typing import NDArray

from resnext import predictions
from resnext.errors import ConfigError, DatasetError
from resnext.evaluation import arrays, calibration, metrics
from resnext.evaluation.calibration import fit_temperature
from resnext.evaluation.selective import choose_threshold

STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)  # of the data against the prior: C
FOLDS = 5
MAX_VALIDATED = 10_000  # pictures in the cross-validation

_MAX_STEPS = 5000
_MEMORY = 1 << 29  # bytes for heads that are fitted at the same time
_WORSE = 1.05  # times the best loss: stronger ones are not tried any more
# Of the gradient. Where the looser one stops, twice the steps change the likelihood by less
# than 1 % near the best strength (4,000 pictures of 20 classes), and so not the choice.
_CHOOSING_TOLERANCE, _TOLERANCE = 3e-4, 1e-4

ClassWeights = Literal["none", "balanced"]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How good answers are.

    Args:
        pictures: Number of pictures.
        right: How many have the best answer right.
        right5: How many have the right answer among the best five, or all of fewer classes.
        nll: Mean negative log-likelihood of the right class, after the temperature.
        class_pictures: Number of pictures of each class.
        class_right: How many of these have the best answer right.
    """

    pictures: int
    right: int
    right5: int
    nll: float
    class_pictures: tuple[int, ...]
    class_right: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The last layer of a network, and how to read its logits.

    Args:
        weight: (K, D) float32.
        bias: (K,) float32.
        temperature: The logits are divided by it.
        reject_threshold: Below this best probability the answer is "unknown"; None where no
            held-out answer was right.
        strength: scikit-learn's C that was chosen, for features of variance 1 on average.
        folds: Parts of the cross-validation.
        out_of_fold: How good the heads of the cross-validation are on what each had not seen.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    temperature: float
    reject_threshold: float | None
    strength: float
    folds: int
    out_of_fold: Scores

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute (N, K) logits of (N, D) features."""
        return features @ self.weight.T + self.bias


@dataclass(frozen=True, kw_only=True, slots=True)
class OutOfFold:
    """What heads say of pictures that they have not seen.

    Args:
        logits: (N, K) of each picture, by the head of the cross-validation that lacks it.
        temperature: Under which these are likeliest.
        strength: scikit-learn's C that was chosen.
    """

    logits: NDArray[np.floating]
    temperature: float
    strength: float

    def shares(self) -> Iterator[tuple[slice, Floats]]:
        """Yield which pictures, some at a time, and their (n, K) probabilities."""
        for part in arrays.chunks(*self.logits.shape):
            shares = predictions.probabilities(self.logits[part], temperature=self.temperature)
            yield part, shares


def fit_head(
    features: NDArray[np.float32],
    labels: Integers,
    *,
    num_classes: int,
    class_weights: ClassWeights = "none",
    seed: int = 0,
    copies: Integers | None = None,
) -> Head:
    """Fit a multinomial logistic regression.

    Args:
        features: (N, D).
        labels: (N,), each 0 to K - 1.
        num_classes: K, at least 2; every class needs 2 different pictures.
        class_weights: "balanced" counts each class the same, however many pictures it has;
            "none" counts each picture the same.
        seed: Of the division into folds.
        copies: (N,) the same number for what is the same picture, which then is in one fold;
            by default all are different.

    Returns:
        The head for the features as they are: their scaling is folded in.

    Raises:
        ConfigError: Shapes or options do not fit.
        DatasetError: There is one class only, or a class has fewer than 2 different pictures.
    """
    copies = np.arange(len(labels)) if copies is None else copies
    counts = _check(features, labels, copies, num_classes, class_weights)
    weights = np.ones(len(labels))
    if class_weights == "balanced":
        weights = len(labels) / (num_classes * counts[labels])
    rng = np.random.default_rng(seed)
    some = _proportional(labels, copies, MAX_VALIDATED, rng)
    # One thread a fold: linear algebra in many waits for a busy core at every product, up to
    # 20 times as long (2 cores, 4 processes), and its sums differ from run to run.
    with threadpoolctl.threadpool_limits(1):
        center, scale, rows, basis = _reduce(features)
        folds = _deal(labels[some], copies[some], rng)
        strength, unseen = _cross_validate(rows[some], labels[some], weights[some], folds)
        weight, bias = _linear(_regression(strength).fit(rows, labels, weights))
        weight = (weight if basis is None else weight @ basis) / scale
        bias = bias - weight @ center
    temperature = fit_temperature(unseen, labels[some], weights[some])
    shares = predictions.probabilities(unseen, temperature=temperature)
    return Head(
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        temperature=temperature,
        reject_threshold=choose_threshold(
            shares.max(axis=1), shares.argmax(axis=1) == labels[some]
        ),
        strength=strength,
        folds=FOLDS,
        out_of_fold=score(unseen, labels[some], temperature=temperature),
    )


def predict_out_of_fold(
    features: NDArray[np.float32],
    labels: Integers,
    *,
    num_classes: int,
    seed: int = 0,
    copies: Integers | None = None,
) -> OutOfFold:
    """Cross-validate as `fit_head` does, for what the labels look like from outside.

    The strength is chosen on 10,000 pictures at the most; the logits are of all. Of more, they
    are float32, and while a head learns it takes twice the memory that they do.

    Args:
        features: (N, D).
        labels: (N,), each 0 to K - 1.
        num_classes: K, at least 2; every class needs 2 different pictures.
        seed: Of the division into folds.
        copies: As for `fit_head`.

    Raises:
        ConfigError: Shapes do not fit.
        DatasetError: There is one class only, or a class has fewer than 2 different pictures.
    """
    copies = np.arange(len(labels)) if copies is None else copies
    _check(features, labels, copies, num_classes, "none")
    rng, weights = np.random.default_rng(seed), np.ones(len(labels))
    some = _proportional(labels, copies, MAX_VALIDATED, rng)
    with threadpoolctl.threadpool_limits(1):
        _, _, rows, _ = _reduce(features)
        folds = _deal(labels[some], copies[some], rng)
        strength, logits = _cross_validate(rows[some], labels[some], weights[some], folds)
        if len(some) < len(labels):
            folds, rows = _deal(labels, copies, rng), rows.astype(np.float32)
            models = [_regression(strength, _CHOOSING_TOLERANCE) for _ in range(FOLDS)]
            logits = _fit_folds(models, rows, labels, weights, folds)
    temperature = fit_temperature(logits, labels)
    return OutOfFold(logits=logits, temperature=temperature, strength=strength)


def score(logits: NDArray[np.floating], labels: Integers, *, temperature: float = 1.0) -> Scores:
    """Compare answers with what is right.

    Args:
        logits: (N, K); of equal ones the first counts as better, as in `predictions.decide`.
        labels: (N,) right classes.
        temperature: The logits are divided by it.
    """
    num_classes = logits.shape[1]
    if not len(labels):
        none = (0,) * num_classes
        return Scores(pictures=0, right=0, right5=0, nll=0.0, class_pictures=none, class_right=none)
    ranks = metrics.ranks(logits, labels)
    likelihood = calibration.proper_scores(logits, labels, temperature=temperature).nll
    return Scores(
        pictures=len(labels),
        right=int((ranks == 0).sum()),
        right5=int((ranks < 5).sum()),
        nll=float(likelihood.mean()),
        class_pictures=_counts(labels, num_classes),
        class_right=_counts(labels[ranks == 0], num_classes),
    )


def _counts(labels: Integers, num_classes: int) -> tuple[int, ...]:
    return tuple(np.bincount(labels, minlength=num_classes).tolist())


def _check(
    features: NDArray[np.float32],
    labels: Integers,
    copies: Integers,
    num_classes: int,
    class_weights: str,
) -> Integers:
    if class_weights not in ("none", "balanced"):
        raise ConfigError(f"class_weights is {class_weights!r}; expected 'none' or 'balanced'")
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ConfigError(
            f"features are {features.shape} and labels {labels.shape}; expected (N, D) and (N,)"
        )
    if copies.shape != labels.shape:
        raise ConfigError(f"copies are {copies.shape}; expected {labels.shape}, as the labels")
    if num_classes < 2:
        raise DatasetError("there is only one class; expected at least 2")
    different = np.unique(np.stack([labels, copies]), axis=1)[0]
    if few := np.flatnonzero(np.bincount(different, minlength=num_classes) < 2).tolist():
        raise DatasetError(
            f"classes {few} have fewer than 2 different pictures; expected at least 2"
        )
    return np.bincount(labels, minlength=num_classes)


def _reduce(
    features: NDArray[np.float32],
) -> tuple[Floats, float, Floats, Floats | None]:
    """Center and scale the features; with fewer pictures than features, turn them.

    All pictures lie in the space that they span, and so do the weights of the regression:
    computing in its N dimensions instead of D changes nothing but the time.

    One scale for all features keeps their relative sizes: on 2 to 20 classes of Tiny
    ImageNet the head was up to 3 points better so than with each feature scaled alone.

    Returns:
        center (D,), scale, rows (N, R), and the basis (R, D) of R-vectors, None for R = D.
    """
    rows = features.astype(np.float64)
    center = rows.mean(axis=0)
    rows -= center
    scale = float(np.sqrt(np.mean(rows**2))) or 1.0
    rows /= scale
    if len(rows) >= rows.shape[1]:
        return center, scale, rows, None
    squares, axes = np.linalg.eigh(rows @ rows.T)
    kept = squares > max(squares[-1] * 1e-10, 1e-300)
    kept[-1] = True  # of pictures that are all the same
    lengths = np.sqrt(np.maximum(squares[kept], 1e-300))
    return center, scale, axes[:, kept] * lengths, (axes[:, kept] / lengths).T @ rows


def _grouped(labels: Integers, rng: np.random.Generator) -> Integers:
    """Return all positions, class by class, shuffled inside each class."""
    order = rng.permutation(len(labels))
    return order[np.argsort(labels[order], kind="stable")]


def _proportional(
    labels: Integers, copies: Integers, most: int, rng: np.random.Generator
) -> Integers:
    """Choose about `most` pictures, the same share of each class, at least 2 different ones."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = _grouped(labels, rng)
    _, firsts = np.unique(np.stack([labels, copies])[:, order], axis=1, return_index=True)
    again = np.ones(len(order), bool)
    again[firsts] = False
    order = order[np.lexsort([again, labels[order]])]  # copies last in their class
    counts = np.bincount(labels)
    firsts = np.cumsum(counts) - counts
    ranks = np.arange(len(labels)) - firsts[labels[order]]
    wanted = np.maximum(counts * most // len(labels), 2)
    return np.sort(order[ranks < wanted[labels[order]]])


def _deal(labels: Integers, copies: Integers, rng: np.random.Generator) -> Integers:
    """Choose the fold of each picture: the rest of each fold has every class.

    Copies go to one fold, and neighbours of a class to different ones. Only where copies have
    several labels, and a class would be in one fold alone, do some of its pictures go on.
    """
    order = _grouped(labels, rng)
    _, firsts, groups = np.unique(copies[order], return_index=True, return_inverse=True)
    folds = np.empty(len(labels), np.int64)
    folds[order] = firsts.argsort().argsort()[groups] % FOLDS
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if (folds[own] == folds[own[0]]).all():
            folds[own[copies[own] == copies[own[0]]]] += 1
    return folds % FOLDS


def _cross_validate(
    rows: Floats, labels: Integers, weights: Floats, folds: Integers
) -> tuple[float, NDArray[np.floating]]:
    """Choose the strength, and compute the logits of pictures by heads that lack them.

    The stronger the data, the longer a fit takes: once it is clearly worse, no more are
    tried. What counts is the likelihood after the temperature, which follows anyway.

    Returns:
        The strength, and (N, K) logits.
    """
    # Each starts from its last fit.
    models = [_regression(STRENGTHS[0], _CHOOSING_TOLERANCE) for _ in range(FOLDS)]
    best: tuple[float, float, NDArray[np.floating]] | None = None
    for strength in STRENGTHS:
        for model in models:
            model.set_params(C=strength)
        logits = _fit_folds(models, rows, labels, weights, folds)
        temperature = fit_temperature(logits, labels, weights)
        loss = score(logits, labels, temperature=temperature).nll
        if best is None or loss < best[0]:
            best = loss, strength, logits
        elif loss > best[0] * _WORSE:
            break
    assert best is not None
    return best[1], best[2]


def _fit_folds(
    models: Sequence[Any],
    rows: NDArray[np.floating],
    labels: Integers,
    weights: Floats,
    folds: Integers,
) -> NDArray[np.floating]:
    """Compute (N, K) logits by heads that lack them, as many at a time as memory allows."""
    logits = np.empty((len(rows), int(labels.max()) + 1), rows.dtype)

    def fit(fold: int) -> None:
        rest, own = folds != fold, folds == fold
        weight, bias = _linear(models[fold].fit(rows[rest], labels[rest], weights[rest]))
        logits[own] = rows[own] @ weight.T + bias

    each = 2 * logits.nbytes  # its own logits, and their gradient
    workers = max(1, min(FOLDS, os.cpu_count() or 1, _MEMORY // each))
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fit, range(FOLDS)))
    return logits


def _regression(strength: float, tolerance: float = _TOLERANCE) -> Any:
    return sklearn.linear_model.LogisticRegression(
        C=strength, max_iter=_MAX_STEPS, tol=tolerance, warm_start=True
    )


def _linear(model: Any) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return weight (K, R) and bias (K,); of two classes scikit-learn has only the second."""
    weight, bias = model.coef_, model.intercept_
    if len(bias) == 1:
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias
