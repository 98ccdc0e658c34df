"""[torch] What is minimized: cross entropy, or a yes or no for each class.

N pictures, K classes. Targets are shares, (N, K) that sum to 1, or (N, K) of 0 and 1 for
several labels a picture.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from resnext.training.config import LossConfig


def make_targets(labels: Tensor, num_classes: int, *, smoothing: float) -> Tensor:
    """Turn class indices into shares.

    Args:
        labels: (N,) class indices, or (N, K) shares, which are kept.
        num_classes: K.
        smoothing: Share spread over all classes (arXiv:1512.00567, section 7).

    Returns:
        (N, K) float32.
    """
    if labels.ndim == 2:
        targets = labels.float()
    else:
        targets = functional.one_hot(labels, num_classes).float()
    return targets * (1 - smoothing) + smoothing / num_classes


def compute(
    logits: Tensor,
    targets: Tensor,
    config: LossConfig,
    *,
    class_weights: Tensor | None = None,
    teacher: Tensor | None = None,
) -> Tensor:
    """Compute the mean loss of a batch.

    Args:
        logits: (N, K).
        targets: (N, K) shares.
        config: Which loss.
        class_weights: (K,) factor of each class, or None.
        teacher: (N, K) logits of the teacher, or None.

    Returns:
        A scalar, the mean over pictures, weighted or not: so the mean over parts of a batch
        is that of the batch. "bce" is the sum over classes of the binary cross entropy,
        divided by K, as in arXiv:2110.00476.
    """
    logits = logits.float()
    if config.kind == "bce":
        if config.bce_threshold:
            targets = (targets > config.bce_threshold).float()
        each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        each = each if class_weights is None else each * class_weights
        loss = each.mean()
    else:
        loss = functional.cross_entropy(logits, targets, weight=class_weights)
    if teacher is None or config.distill_weight == 0:
        return loss
    return torch.lerp(loss, _distill(logits, teacher, config), config.distill_weight)


def _distill(logits: Tensor, teacher: Tensor, config: LossConfig) -> Tensor:
    """Compare with the teacher's softened answers (arXiv:1503.02531).

    With "bce" too, as in DeiT (arXiv:2012.12877) with that loss: for one class a picture, which
    most teachers learned by a softmax. What may be of several classes has no teacher.
    """
    t = config.distill_temperature
    return functional.kl_div(
        functional.log_softmax(logits / t, dim=1),
        functional.log_softmax(teacher.float() / t, dim=1),
        reduction="batchmean",
        log_target=True,
    ) * (t * t)
