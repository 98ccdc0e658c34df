"""[torch] How weights are changed: optimizers, learning rate, EMA.

Source: warm-up and scaling arXiv:1706.02677; LAMB arXiv:1904.00962, Algorithm 2; layer-wise
rates arXiv:1801.06146.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from resnext.network import ResNeXt
from resnext.training.config import OptimConfig, ScheduleConfig
from resnext.zoo import parameter_groups


def make_optimizer(model: ResNeXt, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimizer of a run; each group knows its own `base_lr`.

    On CUDA, SGD and AdamW change all weights in one kernel.
    """
    groups = parameter_groups(
        model,
        lr=config.scaled_lr,
        weight_decay=config.weight_decay,
        norm_weight_decay=config.norm_weight_decay,
        decay_biases=config.decay_biases,
        layer_decay=config.layer_decay,
    )
    for group in groups:
        group["base_lr"] = group["lr"]
    # Not on the processor, where weights would get other bits, and runs go on with these.
    fused = True if next(model.parameters()).device.type == "cuda" else None
    if config.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=config.scaled_lr,
            momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0,
            fused=fused,
        )
    betas = (config.momentum, 0.999)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.scaled_lr, betas=betas, fused=fused)
    return Lamb(groups, lr=config.scaled_lr, betas=betas)


def restore(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take over what `state_dict` returned, perhaps of a run on another kind of device.

    Args:
        optimizer: Changed in place; how it computes stays as it is here.
        saved: Its state, left as it is.

    Raises:
        KeyError: It is no state of an optimizer.
        ValueError: It is of other parameters.
    """
    groups = [dict(group) for group in saved["param_groups"]]
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        group |= {key: own[key] for key in ("fused", "foreach") if key in own}
    optimizer.load_state_dict({**saved, "param_groups": groups})


class Lamb(torch.optim.Optimizer):
    """Adam whose step is as long, in each tensor, as the weights are (arXiv:1904.00962).

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Decay of the means of the gradient and of its square.
        eps: Added to the root of the second mean.
        weight_decay: Decoupled.
        max_grad_norm: The gradient of all is scaled down to it first; 0 for no limit.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.max_grad_norm = max_grad_norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the weights once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = self._scale()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad * scale, group)
        return loss

    def _scale(self) -> Tensor | float:
        norms = [
            p.grad.norm() for g in self.param_groups for p in g["params"] if p.grad is not None
        ]
        if not self.max_grad_norm or not norms:
            return 1.0
        scale: Tensor = self.max_grad_norm / torch.stack(norms).norm()
        return scale.clamp(max=1.0)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        step = int(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        mean = state["exp_avg"] / (1 - beta1**step)
        root = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt_() + group["eps"]
        change = mean / root
        if group["weight_decay"]:
            # As timm and the paper's code: tensors without decay take Adam's plain step.
            change.add_(parameter, alpha=group["weight_decay"])
            weight, length = parameter.norm(), change.norm()
            # Not as a number, which would wait for the GPU once a tensor.
            change.mul_(torch.where((weight > 0) & (length > 0), weight / length, 1.0))
        parameter.add_(change, alpha=-group["lr"])


def lr_factor(config: ScheduleConfig, epoch: float) -> float:
    """Return the share of the learning rate that holds at a moment.

    Args:
        config: The schedule.
        epoch: Epochs done, with a fraction.
    """
    if config.every == "epoch":
        epoch = math.floor(epoch)
    if epoch < config.warmup_epochs:
        done = epoch / config.warmup_epochs
        return config.warmup_factor + (1 - config.warmup_factor) * done
    if config.kind == "step":
        return config.step_factor ** sum(epoch >= mark for mark in config.milestones)
    begin = 0.0 if config.warmup_inside else config.warmup_epochs
    end = config.epochs - config.cooldown_epochs
    done = min((epoch - begin) / max(end - begin, 1e-9), 1.0)
    cosine = (1 + math.cos(math.pi * done)) / 2
    return config.final_factor + (1 - config.final_factor) * cosine


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to a share of its own."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


@torch.no_grad()
def update_mean(mean: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the running mean of the weights a step towards the weights.

    Args:
        mean: Changed in place; whole numbers are copied.
        model: Where to.
        decay: Share of the mean that stays.
    """
    for old, new in zip(mean.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new.to(old.dtype), 1 - decay)
        else:
            old.copy_(new)
