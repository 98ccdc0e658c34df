"""`training.optim` beside torch's optimizers and schedulers, and timm's LAMB."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim import lr_scheduler  # noqa: E402
from torch.optim.swa_utils import AveragedModel  # noqa: E402

from resnext.training import optim  # noqa: E402
from resnext.training.config import OptimConfig, ScheduleConfig  # noqa: E402
from resnext.zoo import create_model  # noqa: E402

pytestmark = pytest.mark.torch

STEPS = 6  # in an epoch


@pytest.fixture(scope="module")
def model() -> Any:
    return create_model("resnext29_1x1d", num_classes=3)


def _factors(config: ScheduleConfig) -> list[float]:
    return [optim.lr_factor(config, step / STEPS) for step in range(config.epochs * STEPS)]


def _by_torch(epochs: int, make: Any) -> list[float]:
    """Return the rates of a scheduler that is called once an epoch, at every step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(epochs):
        found += [optimizer.param_groups[0]["lr"]] * STEPS
        optimizer.step()
        scheduler.step()
    return found


def test_steps_are_those_of_torch() -> None:
    config = ScheduleConfig(epochs=10, kind="step", every="epoch", milestones=(3, 6, 9))
    expected = _by_torch(10, lambda o: lr_scheduler.MultiStepLR(o, [3, 6, 9], gamma=0.1))
    assert _factors(config) == pytest.approx(expected, abs=1e-12)


def test_warm_up_and_cosine_are_those_of_torch() -> None:
    """As torchvision's references put them together, the rate changing with the epoch."""

    def make(optimizer: Any) -> Any:
        linear = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=3)
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=9, eta_min=0.05)
        return lr_scheduler.SequentialLR(optimizer, [linear, cosine], milestones=[3])

    config = ScheduleConfig(epochs=12, every="epoch", warmup_epochs=3, final_factor=0.05)
    assert _factors(config) == pytest.approx(_by_torch(12, make), abs=1e-12)
    # Without `every`, they agree where epochs begin, and never jump in between.
    smooth = _factors(ScheduleConfig(epochs=12, warmup_epochs=3, final_factor=0.05))
    assert smooth[::STEPS] == pytest.approx(_by_torch(12, make)[::STEPS], abs=1e-12)
    assert max(abs(a - b) for a, b in zip(smooth, smooth[1:], strict=False)) < 0.06


def test_timm_s_cosine_runs_under_the_warm_up() -> None:
    timm_scheduler = pytest.importorskip("timm.scheduler")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = timm_scheduler.CosineLRScheduler(
        optimizer, t_initial=12, warmup_t=3, warmup_lr_init=0.01, lr_min=0.001
    )
    expected = []
    for epoch in range(12):
        scheduler.step(epoch)
        expected += [optimizer.param_groups[0]["lr"]] * STEPS
    config = ScheduleConfig(
        epochs=12, every="epoch", warmup_epochs=3, warmup_inside=True, final_factor=0.001
    )
    assert _factors(config) == pytest.approx(expected, abs=1e-12)


def test_the_rate_ends_where_it_should() -> None:
    config = ScheduleConfig(epochs=4, final_factor=0.25)
    assert optim.lr_factor(config, 0) == 1
    assert optim.lr_factor(config, 2) == pytest.approx(0.625)
    assert optim.lr_factor(config, 4) == optim.lr_factor(config, 9) == 0.25
    only_warm = ScheduleConfig(epochs=3, warmup_epochs=3, warmup_factor=0.1)
    assert optim.lr_factor(only_warm, 2) == pytest.approx(0.7)


def test_groups_have_their_rate_and_decay(model: Any) -> None:
    config = OptimConfig(
        lr=0.1,
        batch_size=512,
        weight_decay=1e-4,
        norm_weight_decay=1e-6,
        layer_decay=0.5,
        nesterov=True,
    )
    optimizer = optim.make_optimizer(model, config)
    group_of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert len(group_of) == len(list(model.parameters()))
    classifier, stem = group_of[id(model.fc.weight)], group_of[id(model.conv1.weight)]
    assert (classifier["lr"], classifier["weight_decay"]) == (pytest.approx(0.2), 1e-4)
    assert stem["lr"] == pytest.approx(0.2 * 0.5**10), "9 blocks and the stem below it"
    assert group_of[id(model.bn1.weight)]["weight_decay"] == 1e-6
    assert group_of[id(model.fc.bias)]["weight_decay"] == 1e-6
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)
    optim.set_lr(optimizer, 0.5)
    assert (classifier["lr"], classifier["base_lr"]) == (pytest.approx(0.1), pytest.approx(0.2))


def test_the_classifier_s_bias_may_decay_as_weights_do(model: Any) -> None:
    """As in torchvision's references, where only batch norms are apart."""
    ops = pytest.importorskip("torchvision.ops._utils")
    config = OptimConfig(weight_decay=0.25, norm_weight_decay=0.0, decay_biases=True)
    found = {
        id(parameter): group["weight_decay"]
        for group in optim.make_optimizer(model, config).param_groups
        for parameter in group["params"]
    }
    norms, others = ops.split_normalization_params(model)
    assert found == {id(p): 0.0 for p in norms} | {id(p): 0.25 for p in others}
    assert found[id(model.fc.bias)] == 0.25


def test_the_last_rate_may_stay_for_a_while() -> None:
    config = ScheduleConfig(epochs=14, cooldown_epochs=4, warmup_epochs=2, final_factor=0.25)
    curve = ScheduleConfig(epochs=10, warmup_epochs=2, final_factor=0.25)
    for epoch in (0, 1, 2, 5.5, 9.9):
        assert optim.lr_factor(config, epoch) == optim.lr_factor(curve, epoch)
    assert optim.lr_factor(config, 10) == optim.lr_factor(config, 13.9) == 0.25


def test_sgd_without_momentum_takes_no_nesterov(model: Any) -> None:
    optimizer = optim.make_optimizer(model, OptimConfig(momentum=0.0, nesterov=True))
    assert not optimizer.param_groups[0]["nesterov"]


def test_adamw_is_that_of_torch(model: Any) -> None:
    optimizer = optim.make_optimizer(model, OptimConfig(name="adamw", momentum=0.8))
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.999)


@pytest.mark.parametrize("size", [0.01, 10.0])  # of gradients: below and above the limit
def test_lamb_is_that_of_timm(size: float) -> None:
    lamb = pytest.importorskip("timm.optim").Lamb
    start = [torch.randn(5, 4), torch.randn(4), torch.zeros(3, 3), torch.randn(2, 2)]
    nets = []
    for make in (optim.Lamb, lamb):
        own = [nn.Parameter(value.clone()) for value in start]
        groups = [
            {"params": [own[0], own[2], own[3]], "weight_decay": 0.02},
            {"params": [own[1]], "weight_decay": 0.0},
        ]
        nets.append((own, make(groups, lr=0.01)))
    generator = torch.Generator().manual_seed(1)
    for _ in range(8):
        gradients = [torch.randn(v.shape, generator=generator) * size for v in start]
        for own, optimizer in nets:
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    for ours, theirs in zip(nets[0][0], nets[1][0], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
        assert not torch.equal(ours, torch.zeros_like(ours))


def test_lamb_goes_on_from_its_saved_state() -> None:
    parameter = nn.Parameter(torch.randn(4, 4))
    optimizer = optim.Lamb([parameter], lr=0.1, weight_decay=0.01)
    gradients = [torch.randn(4, 4) for _ in range(4)]
    for gradient in gradients[:2]:
        parameter.grad = gradient
        optimizer.step()
    other = nn.Parameter(parameter.detach().clone())
    restored = optim.Lamb([other], lr=0.1, weight_decay=0.01)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for gradient in gradients[2:]:
        parameter.grad, other.grad = gradient, gradient.clone()
        optimizer.step(lambda: 0.0)
        restored.step()
    assert torch.equal(parameter, other)


def test_lamb_without_gradients_does_nothing() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optim.Lamb([parameter], lr=0.1).step()
    parameter.grad = torch.zeros(3)
    optim.Lamb([parameter], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(parameter, torch.ones(3))


def test_the_mean_is_that_of_torch_and_timm(model: Any) -> None:
    timm_utils = pytest.importorskip("timm.utils")
    own, theirs = (create_model("resnext29_1x1d", num_classes=3) for _ in range(2))
    own.load_state_dict(model.state_dict())
    theirs.load_state_dict(model.state_dict())
    timm_mean = timm_utils.ModelEmaV2(theirs, decay=0.9)
    average = AveragedModel(
        theirs, avg_fn=lambda old, new, _: 0.9 * old + 0.1 * new, use_buffers=True
    )
    average.update_parameters(theirs)  # the first copies
    moving = create_model("resnext29_1x1d", num_classes=3)
    for _ in range(3):
        for parameter in moving.parameters():
            parameter.data += 0.1
        moving(torch.randn(2, 3, 8, 8))  # moves the statistics too
        optim.update_mean(own, moving, 0.9)
        timm_mean.update(moving)
        average.update_parameters(moving)
    for key, value in own.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, timm_mean.module.state_dict()[key])
            torch.testing.assert_close(value, average.module.state_dict()[key])
        else:
            assert value == moving.state_dict()[key]


def test_a_mean_that_decays_at_once_is_the_model(model: Any) -> None:
    mean = create_model("resnext29_1x1d", num_classes=3)
    optim.update_mean(mean, model, 0.0)
    for key, value in mean.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


def test_a_mean_of_equal_weights_keeps_their_bits() -> None:
    """A frozen body must come out of the mean as it went in."""
    values = nn.Linear(100, 100)
    mean = nn.Linear(100, 100)
    mean.load_state_dict(values.state_dict())
    optim.update_mean(mean, values, 1 - math.pi / 100)
    assert torch.equal(mean.weight, values.weight)


def _stepped(optimizer: Any, model: Any, count: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_only_gpus_take_one_kernel_for_all_weights(model: Any, name: str) -> None:
    """On the processor nothing changes: runs go on with the bits they had."""
    optimizer = optim.make_optimizer(model, OptimConfig(name=name))  # type: ignore[arg-type]
    assert not any(group.get("fused") for group in optimizer.param_groups)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_gpus_do(model: Any, name: str) -> None:
    there = copy.deepcopy(model).cuda()
    optimizer = optim.make_optimizer(there, OptimConfig(name=name))  # type: ignore[arg-type]
    assert all(group["fused"] for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize(("before", "now"), [(None, True), (True, None), (None, None)])
def test_a_state_goes_on_however_it_is_computed(
    model: Any, name: str, before: Any, now: Any
) -> None:
    """One that fused kernels wrote, by loops, and the other way round."""
    models = [copy.deepcopy(model) for _ in range(2)]
    config = OptimConfig(name=name)  # type: ignore[arg-type]
    first, second = (optim.make_optimizer(one, config) for one in models)
    for optimizer, fused in ((first, before), (second, now)):
        for group in optimizer.param_groups:
            group["fused"] = fused
    _stepped(first, models[0], 2)
    models[1].load_state_dict(models[0].state_dict())
    saved = copy.deepcopy(first.state_dict())
    optim.restore(second, saved)
    assert [group["fused"] for group in second.param_groups] == [now] * len(second.param_groups)
    assert [group["fused"] for group in saved["param_groups"]] == [before] * len(
        saved["param_groups"]
    ), "what is given is left as it is"
    for optimizer, one in ((first, models[0]), (second, models[1])):
        _stepped(optimizer, one, 2, seed=1)
    for one, other in zip(*(each.parameters() for each in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
        if before == now:
            assert torch.equal(one, other)


def test_a_state_of_other_groups_is_refused(model: Any) -> None:
    optimizer = optim.make_optimizer(model, OptimConfig())
    saved = optimizer.state_dict()
    with pytest.raises(ValueError):
        optim.restore(optimizer, {**saved, "param_groups": saved["param_groups"][:-1]})
