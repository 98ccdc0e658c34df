"""The recipes: their numbers, as they were published."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import pytest

from resnext import arch
from resnext.training import config as configs
from resnext.training import recipes
from resnext.training.config import TrainConfig

FAIR = {
    "optim.name": "sgd",
    "optim.lr": 0.1,
    "optim.momentum": 0.9,
    "optim.nesterov": True,
    "schedule.kind": "step",
    "schedule.step_factor": 0.1,
    "augment.flip": 0.5,
    "loss.kind": "cross_entropy",
    "loss.label_smoothing": 0.0,
}
CIFAR = FAIR | {
    "optim.batch_size": 128,
    "optim.weight_decay": 5e-4,
    "optim.norm_weight_decay": 5e-4,
    "schedule.epochs": 300,
    "schedule.milestones": (150, 225),
    "augment.pad": 4,
    "data.train_size": 32,
    "data.test_size": 32,
}
RSB = {
    "optim.name": "lamb",
    "optim.batch_size": 2048,
    "optim.norm_weight_decay": 0.0,
    "schedule.kind": "cosine",
    "schedule.warmup_epochs": 5.0,
    "loss.kind": "bce",
    "loss.bce_threshold": 0.2,
    "schedule.every": "epoch",
    "model.zero_init_last": True,
    "augment.cutmix_alpha": 1.0,
    "augment.policy": "rand",
    "augment.rand_std": 1.5,
    "data.interpolation": "bicubic",
    "data.test_size": 224,
}
# From the papers, the published commands and MMPretrain's configs; by hand, not from the code.
PUBLISHED: dict[str, dict[str, Any]] = {
    "paper-imagenet": FAIR
    | {
        "optim.batch_size": 256,
        "optim.weight_decay": 1e-4,
        "optim.norm_weight_decay": 1e-4,
        "schedule.epochs": 100,
        "schedule.milestones": (30, 60, 90),
        "augment.color_jitter": 0.4,
        "augment.lighting": 0.1,
        "data.train_size": 224,
        "data.test_resize": 256,
        "data.interpolation": "bicubic",
    },
    "paper-cifar10": CIFAR,
    "paper-cifar100": CIFAR,
    "torchvision-v1": {
        "optim.name": "sgd",
        "optim.nesterov": False,
        "optim.lr": 0.1,
        "optim.batch_size": 256,
        "optim.weight_decay": 1e-4,
        "schedule.epochs": 100,
        "schedule.milestones": (30, 60, 90),
        "data.interpolation": "bilinear",
        "data.test_resize": 256,
        "augment.color_jitter": 0.0,
    },
    "torchvision-v2": {
        "optim.name": "sgd",
        "optim.lr": 0.5,
        "optim.batch_size": 1024,
        "optim.weight_decay": 2e-5,
        "optim.norm_weight_decay": 0.0,
        "optim.decay_biases": True,
        "schedule.epochs": 600,
        "schedule.warmup_epochs": 5.0,
        "schedule.warmup_factor": 0.01,
        "loss.label_smoothing": 0.1,
        "augment.mixup_alpha": 0.2,
        "augment.cutmix_alpha": 1.0,
        "augment.policy": "trivial",
        "augment.erase": 0.1,
        "data.train_size": 176,
        "data.test_resize": 232,
        "data.repeats": 4,
        "ema.decay": 0.99998,
        "ema.every": 32,
        "ema.scaling": "run",
    },
    "timm-ra": {
        "optim.lr": 0.6,
        "optim.batch_size": 8 * 192,
        "optim.weight_decay": 1e-4,
        "schedule.epochs": 250,
        "schedule.cooldown_epochs": 10,
        "schedule.warmup_epochs": 5.0,
        "augment.policy": "rand",
        "augment.rand_magnitude": 21,  # 7 of 10
        "augment.rand_std": 1.5,  # 0.5 of 10
        "augment.erase": 0.4,
        "augment.erase_count": 3,
        "augment.erase_noise": True,
    },
    "rsb-a1": RSB
    | {
        "optim.lr": 5e-3,
        "optim.weight_decay": 0.01,
        "schedule.epochs": 600,
        "loss.label_smoothing": 0.1,
        "model.drop_path_rate": 0.05,
        "augment.mixup_alpha": 0.2,
        "augment.rand_magnitude": 21,
        "data.train_size": 224,
        "data.repeats": 3,
    },
    "rsb-a2": RSB
    | {
        "optim.lr": 5e-3,
        "optim.weight_decay": 0.02,
        "schedule.epochs": 300,
        "loss.label_smoothing": 0.0,
        "model.drop_path_rate": 0.05,
        "augment.mixup_alpha": 0.1,
        "augment.rand_magnitude": 21,
        "data.train_size": 224,
        "data.repeats": 3,
    },
    "rsb-a3": RSB
    | {
        "optim.lr": 8e-3,
        "optim.weight_decay": 0.02,
        "schedule.epochs": 100,
        "loss.label_smoothing": 0.0,
        "model.drop_path_rate": 0.0,
        "augment.mixup_alpha": 0.1,
        "augment.rand_magnitude": 18,
        "data.train_size": 160,
        "data.repeats": 1,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_numbers_are_the_published_ones(name: str) -> None:
    config = recipes.get(name).config
    found = {path: configs.value_of(config, path) for path in PUBLISHED[name]}
    assert found == PUBLISHED[name]


def test_every_published_recipe_is_checked() -> None:
    assert {name for name in recipes.names() if recipes.is_published(name)} == set(PUBLISHED)


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_says_where_it_comes_from(name: str) -> None:
    recipe = recipes.get(name)
    assert recipe.source
    assert recipe.measured
    assert len(recipe.text.splitlines()) > 2
    assert 0 < len(recipe.summary) < 80
    assert not set(recipe.expected) & set(recipe.published)
    assert ("differs" in recipe.text.lower()) == bool(recipe.published)
    for architecture in (recipe.config.model.architecture, *recipe.numbers):
        arch.parse(architecture)
    assert TrainConfig.from_json(recipe.to_json()["config"]) == recipe.config


@pytest.mark.parametrize(
    ("name", "architecture", "error"),
    [
        ("paper-imagenet", "resnext50_32x4d", 22.2),
        ("paper-imagenet", "resnext101_32x4d", 21.2),
        ("paper-imagenet", "resnext101_64x4d", 20.4),
        ("paper-cifar10", "resnext29_8x64d", 3.65),
        ("paper-cifar10", "resnext29_16x64d", 3.58),
        ("paper-cifar100", "resnext29_8x64d", 17.77),
        ("paper-cifar100", "resnext29_16x64d", 17.31),
    ],
)
def test_the_paper_s_errors(name: str, architecture: str, error: float) -> None:
    assert recipes.get(name).published[architecture] == pytest.approx(100 - error)


@pytest.mark.parametrize(
    ("name", "batch_size", "lr"),
    [
        ("paper-cifar10", 64, 0.05),  # both in the README of the authors' code
        ("paper-cifar10", 32, 0.025),
        ("torchvision-v1", 1024, 0.4),  # as resnext101_32x8d was trained
        ("torchvision-v2", 512, 0.25),
        ("rsb-a1", 512, 2.5e-3),
    ],
)
def test_the_learning_rate_at_other_batches(name: str, batch_size: int, lr: float) -> None:
    config = recipes.get(name).config.override([f"optim.batch_size={batch_size}"])
    assert config.optim.scaled_lr == pytest.approx(lr)


def test_an_architecture_has_settings_of_its_own() -> None:
    own = recipes.get("torchvision-v1").config_for("resnext101_32x8d")
    assert (own.optim.batch_size, own.model.architecture) == (1024, "resnext101_32x8d")
    assert own.optim.scaled_lr == pytest.approx(0.4)
    assert recipes.get("torchvision-v1").config.optim.batch_size == 256


def test_only_what_produced_a_number_promises_it() -> None:
    promised = {name: set(recipes.get(name).expected) for name in recipes.names()}
    assert {name: found for name, found in promised.items() if found} == {
        "torchvision-v1": {"resnext50_32x4d", "resnext101_32x8d"},
        "torchvision-v2": {"resnext101_64x4d"},
    }


@pytest.mark.parametrize(
    ("world_size", "batch_size", "epochs", "every"),
    [(8, 128, 600, 32), (8, 64, 600, 32), (1, 256, 90, 32), (2, 96, 30, 7), (16, 2**16, 1, 32)],
)
def test_torchvision_s_mean_of_the_weights(
    world_size: int, batch_size: int, epochs: int, every: int
) -> None:
    """By the rule of its script, where a batch is that of a process."""
    adjust = world_size * batch_size * every / epochs
    alpha = min(1.0, (1 - 0.99998) * adjust)
    config = recipes.get("torchvision-v2").config.override(
        [f"optim.batch_size={world_size * batch_size}", f"schedule.epochs={epochs}",
         f"ema.every={every}"]
    )  # fmt: skip
    assert config.ema_decay == pytest.approx(1 - alpha, abs=1e-12)


def test_the_mean_of_the_published_run_is_what_it_says() -> None:
    assert f"{recipes.get('torchvision-v2').config.ema_decay:.6f}" == "0.998908"
    assert "= 0.998908" in (recipes.torchvision_v2.__doc__ or "")


@pytest.mark.parametrize("name", sorted(set(recipes.names()) - {"torchvision-v2"}))
def test_the_mean_of_other_recipes_is_as_stated(name: str) -> None:
    config = recipes.get(name).config.override(["optim.batch_size=32", "schedule.epochs=7"])
    assert config.ema_decay == pytest.approx(config.ema.decay)


def test_cifar_is_normalized_by_the_paper_s_numbers() -> None:
    data = recipes.get("paper-cifar10").config.data
    assert [round(255 * value, 1) for value in data.mean] == [125.3, 123.0, 113.9]
    assert [round(255 * value, 1) for value in data.std] == [63.0, 62.1, 66.7]


def test_the_manual_has_the_recipes_as_they_are(repository: Path) -> None:
    script = runpy.run_path(str(repository / "scripts" / "make_recipes.py"))
    text = script["PAGE"].read_text(encoding="utf-8")
    assert script["page"](text) == text, "run python scripts/make_recipes.py"
    assert all(f"### `{name}`" in text for name in recipes.names())


def factors(name: str) -> list[float]:
    """Return the share of the learning rate that each epoch of a recipe begins with."""
    from resnext.training import optim

    schedule = recipes.get(name).config.schedule
    return [optim.lr_factor(schedule, float(epoch)) for epoch in range(schedule.epochs)]


@pytest.mark.torch
def test_the_schedule_of_torchvision_v2_is_torchvision_s() -> None:
    import torch
    from torch.optim import lr_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    warmup = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=5)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=595)
    schedule = lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[5])
    expected = []
    for _ in range(600):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert factors("torchvision-v2") == pytest.approx(expected, abs=1e-9)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["paper-imagenet", "torchvision-v1", "paper-cifar10"])
def test_the_schedule_in_steps(name: str) -> None:
    found = factors(name)
    marks = recipes.get(name).config.schedule.milestones
    expected = [0.1 ** sum(epoch >= mark for mark in marks) for epoch in range(len(found))]
    assert found == pytest.approx(expected)
    assert math.isclose(found[-1], 0.1 ** len(marks))


@pytest.mark.torch
def test_a_schedule_by_epoch_stays_through_it() -> None:
    from resnext.training import optim

    schedule = recipes.get("torchvision-v2").config.schedule
    assert optim.lr_factor(schedule, 100.99) == optim.lr_factor(schedule, 100.0)
    by_step = recipes.get("default").config.schedule
    assert optim.lr_factor(by_step, 60.99) < optim.lr_factor(by_step, 60.0)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "epochs", "lr", "last"),
    [
        ("timm-ra", 240, 0.6, 1e-5),
        ("rsb-a1", 600, 5e-3, 1e-6),
        ("rsb-a2", 300, 5e-3, 1e-6),
        ("rsb-a3", 100, 8e-3, 1e-6),
    ],
)
def test_the_schedules_of_timm_s_recipes(name: str, epochs: int, lr: float, last: float) -> None:
    import torch

    scheduler = pytest.importorskip("timm.scheduler")
    config = recipes.get(name).config
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    theirs = scheduler.CosineLRScheduler(
        optimizer, t_initial=epochs, lr_min=last, warmup_t=5, warmup_lr_init=1e-4
    )
    expected = [theirs._get_lr(epoch)[0] for epoch in range(config.schedule.epochs)]
    found = [config.optim.scaled_lr * factor for factor in factors(name)]
    assert found == pytest.approx(expected, rel=1e-9)
    assert found[0] == pytest.approx(1e-4)


@pytest.mark.torch
def test_the_targets_of_resnet_strikes_back_are_timm_s() -> None:
    import torch

    from resnext.training import losses

    loss = pytest.importorskip("timm.loss").BinaryCrossEntropy
    config = recipes.get("rsb-a2").config.loss
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.zeros(4, 5)
    targets[:, 0] = torch.tensor([0.15, 0.25, 0.5, 1.0])
    targets[:, 3] = 1 - targets[:, 0]
    theirs = loss(smoothing=0.0, target_threshold=0.2)(logits, targets)
    torch.testing.assert_close(losses.compute(logits, targets, config), theirs)
