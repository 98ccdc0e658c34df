"""[train] Evaluate a network during training, each picture exactly once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnext.network import ResNeXt
from resnext.training import augment
from resnext.training.feed import Pictures, feed
from resnext.training.order import Draw
from resnext.training.state import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How good a network is.

    Args:
        pictures: Number of pictures.
        loss: Mean cross entropy, of the softmax or, with `loss.kind` "bce", of a yes or no for
            each class.
        top1: Share of pictures whose best answer is right, in percent.
        top5: Share whose best five (or all, of fewer classes) have the right one.

    Of pictures with several labels any of these is right. A picture without a label has no
    right answer: it counts in `pictures` and in the loss of "bce" only, and the others are 0 if
    there is no other picture.
    """

    pictures: int
    loss: float
    top1: float
    top5: float


@torch.inference_mode()
def evaluate(model: ResNeXt, run: Run, *, batch_size: int = 64) -> Scores:
    """Evaluate on the test pictures, each exactly once over all processes.

    Args:
        model: The network.
        run: Has the pictures.
        batch_size: Pictures at once.
    """
    assert run.test is not None
    rank, world_size = run.processes.rank, run.processes.world_size
    pictures = Pictures(run.test, augment.TestTransform(run.config.data))
    own = [Draw(index, 0) for index in range(rank, len(run.test), world_size)]
    batches = [own[first : first + batch_size] for first in range(0, len(own), batch_size)]
    model.eval()
    several = run.config.loss.kind == "bce"
    sums = torch.zeros(5, dtype=torch.float64)
    for pixels, labels in feed(pictures, batches, num_workers=run.config.data.num_workers):
        with run.autocast:
            logits = model(run.normalize(pixels)).float().cpu()
        sums += _count(logits, labels, several=several)
    sums = run.processes.sum(sums.to(run.processes.device)).cpu()
    count, labelled, loss, first, five = (float(value) for value in sums)
    labelled = max(labelled, 1)
    return Scores(
        pictures=round(count),
        loss=loss / (count if several else labelled),
        top1=100 * first / labelled,
        top5=100 * five / labelled,
    )


def _count(logits: Tensor, labels: Tensor, *, several: bool) -> Tensor:
    """Return the number of pictures, of those with a label, and the sums of loss, top-1 and
    top-5 hits; `several` for a loss of a yes or no for each class.
    """
    targets = labels
    if labels.ndim == 1:
        targets = nn.functional.one_hot(labels, logits.shape[1])
    best = logits.topk(min(5, logits.shape[1])).indices
    hits = targets.gather(1, best) > 0
    if several:
        each = nn.functional.binary_cross_entropy_with_logits
        loss = each(logits, targets.float(), reduction="none").mean(1).sum()
    else:
        shares = targets / targets.sum(1, keepdim=True).clamp(min=1)
        loss = -(shares * logits.log_softmax(1)).sum()
    labelled = targets.any(1).sum()
    return torch.tensor([len(labels), labelled, loss, hits[:, 0].sum(), hits.any(1).sum()]).double()
