"""`training.losses` beside torch's and timm's."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from resnext.training import losses  # noqa: E402
from resnext.training.config import LossConfig  # noqa: E402

pytestmark = pytest.mark.torch

N, K = 7, 5
WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.5, 1.3])


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 4, 2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_torch(logits, labels, smoothing) -> None:
    targets = losses.make_targets(labels, K, smoothing=smoothing)
    found = losses.compute(logits, targets, LossConfig())
    expected = nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, labels)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_weighted_cross_entropy_is_that_of_torch(logits, labels) -> None:
    """The mean over pictures; torch divides by the weights where it has class indices."""
    targets = losses.make_targets(labels, K, smoothing=0.1)
    found = losses.compute(logits, targets, LossConfig(), class_weights=WEIGHTS)
    torch.testing.assert_close(found, nn.CrossEntropyLoss(weight=WEIGHTS)(logits, targets))
    plain = losses.make_targets(labels, K, smoothing=0.0)
    found = losses.compute(logits, plain, LossConfig(), class_weights=WEIGHTS)
    expected = nn.CrossEntropyLoss(weight=WEIGHTS)(logits, labels)
    torch.testing.assert_close(found * N / WEIGHTS[labels].sum(), expected)


@pytest.mark.parametrize("kind", ["cross_entropy", "bce"])
def test_the_mean_of_two_halves_is_that_of_the_batch(logits, labels, kind) -> None:
    config = LossConfig(kind=kind, distill_weight=0.3)
    targets, teacher = losses.make_targets(labels, K, smoothing=0.1), logits.flip(0)
    parts = [
        losses.compute(
            logits[cut], targets[cut], config, class_weights=WEIGHTS, teacher=teacher[cut]
        )
        for cut in (slice(0, 3), slice(3, 6))
    ]
    whole = losses.compute(
        logits[:6], targets[:6], config, class_weights=WEIGHTS, teacher=teacher[:6]
    )
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)


def test_mixed_targets_are_shares(logits, labels) -> None:
    """Soft targets as timm takes them."""
    timm_loss = pytest.importorskip("timm.loss")
    targets = losses.make_targets(labels, K, smoothing=0.1)
    mixed = 0.3 * targets + 0.7 * targets.roll(1, 0)
    torch.testing.assert_close(mixed.sum(1), torch.ones(N))
    found = losses.compute(logits, mixed, LossConfig())
    torch.testing.assert_close(found, timm_loss.SoftTargetCrossEntropy()(logits, mixed))
    assert torch.equal(losses.make_targets(mixed, K, smoothing=0.0), mixed), "shares are kept"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_bce_is_that_of_timm(logits, labels, smoothing, threshold) -> None:
    timm_loss = pytest.importorskip("timm.loss")
    config = LossConfig(kind="bce", bce_threshold=threshold)
    found = losses.compute(logits, losses.make_targets(labels, K, smoothing=smoothing), config)
    expected = timm_loss.BinaryCrossEntropy(smoothing=smoothing, target_threshold=threshold or None)
    torch.testing.assert_close(found, expected(logits, labels))


def test_weighted_bce_is_that_of_torch(logits) -> None:
    several = (torch.arange(N * K).reshape(N, K) % 3 == 0).float()
    found = losses.compute(logits, several, LossConfig(kind="bce"), class_weights=WEIGHTS)
    torch.testing.assert_close(found, nn.BCEWithLogitsLoss(weight=WEIGHTS)(logits, several))


def test_distillation_is_a_divergence_from_the_teacher(logits, labels) -> None:
    targets, teacher = losses.make_targets(labels, K, smoothing=0.0), logits.roll(1, 0) * 0.5
    config = LossConfig(distill_weight=0.25, distill_temperature=3.0)
    p, q = (teacher / 3).softmax(1), (logits / 3).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean() * 9
    hard = nn.functional.cross_entropy(logits, labels)
    found = losses.compute(logits, targets, config, teacher=teacher)
    torch.testing.assert_close(found, 0.75 * hard + 0.25 * divergence)
    torch.testing.assert_close(losses.compute(logits, targets, LossConfig(), teacher=teacher), hard)
    same = losses.compute(logits, targets, LossConfig(distill_weight=1.0), teacher=logits)
    assert abs(float(same)) < 1e-6


def test_half_precision_logits_lose_nothing_more(logits, labels) -> None:
    targets = losses.make_targets(labels, K, smoothing=0.0)
    found = losses.compute(logits.bfloat16(), targets, LossConfig())
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, losses.compute(logits.bfloat16().float(), targets, LossConfig())
    )
