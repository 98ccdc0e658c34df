"""`training.loop`: one step as others do it, and runs that end where they would have."""

from __future__ import annotations

import copy
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import numpy as np
import torch
from runs import (
    EVERYTHING,
    STEPS,
    batch,
    differences,
    end_of,
    finish,
    history,
    largest_gap,
    launch,
    make,
    newest,
    one_thread,  # noqa: F401
    pictures,
    train,
    wait_for_step,
)
from torch import nn

from resnext.errors import OutOfMemoryError, TrainingError
from resnext.training import checkpoint, dist, loop
from resnext.training.dist import Processes
from resnext.training.state import Run, TrainState, start
from resnext.zoo import create_model

pytestmark = pytest.mark.torch


def _slow(*value: Any) -> Any:
    """Return one of several values of a parameter, for slow tests only."""
    return pytest.param(value[0] if len(value) == 1 else value, marks=pytest.mark.slow)


# ---- one step

STEP = (
    "model.architecture=resnext26_2x4d",
    "model.zero_init_last=true",  # or rounding grows from step to step
    "data.train_size=64",
    "optim.batch_size=2",  # of which all three mix the first with the second
    "channels_last=false",  # as theirs: another layout rounds differently
    "optim.nesterov=true",
    "optim.weight_decay=0.001",
    "optim.norm_weight_decay=0",
    "loss.label_smoothing=0.1",
    "ema.decay=0.9",
)


def _share(run: Run, step: int) -> float:
    """Return the share that mixup draws in a step."""
    rng = np.random.default_rng(loop._key(run.config.seed, step, 0))
    rng.integers(1)
    return float(rng.beta(run.config.augment.mixup_alpha, run.config.augment.mixup_alpha))


def _check_step(state: TrainState, model: nn.Module, mean: nn.Module, atol: float) -> None:
    for ours, theirs in ((state.model, model), (state.mean, mean)):
        assert ours is not None
        for key, value in theirs.state_dict().items():
            if key.endswith(("running_mean", "running_var")):
                torch.testing.assert_close(ours.state_dict()[key], value, atol=1e-6, rtol=5e-6)
            elif value.is_floating_point():
                torch.testing.assert_close(ours.state_dict()[key], value, atol=atol, rtol=0)


def test_steps_are_those_of_torchvision() -> None:
    """Its network, transforms, mixup, loss, groups, optimizer and mean, as its references."""
    from torch.optim.swa_utils import AveragedModel
    from torchvision.models.resnet import Bottleneck, ResNet
    from torchvision.ops._utils import split_normalization_params
    from torchvision.transforms import v2

    run = make(*STEP, "augment.mixup_alpha=0.2", "optim.decay_biases=true")
    state = start(run)
    model = ResNet(Bottleneck, [2, 2, 2, 2], num_classes=3, groups=2, width_per_group=4)
    model.load_state_dict(state.model.state_dict())
    mean = AveragedModel(model, avg_fn=lambda old, new, _: 0.9 * old + 0.1 * new, use_buffers=True)
    single, many = split_normalization_params(model)
    assert model.fc.bias is many[-1], "it decays"
    optimizer = torch.optim.SGD(
        [{"params": many, "weight_decay": 0.001}, {"params": single, "weight_decay": 0.0}],
        lr=run.config.optim.scaled_lr, momentum=0.9, nesterov=True,
    )  # fmt: skip
    normalize = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(run.config.data.mean, run.config.data.std),
        ]
    )
    mixup = v2.MixUp(alpha=0.2, num_classes=3)
    for step in range(3):
        pixels, labels = batch(run, step)
        share = torch.tensor([_share(run, step)])
        mixup._dist = SimpleNamespace(sample=lambda _, share=share: share)
        images, targets = mixup(normalize(pixels), labels)
        for group in optimizer.param_groups:  # cosine, as the schedule has it
            group["lr"] = run.config.optim.scaled_lr * (1 + math.cos(math.pi * step / 26)) / 2
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss(label_smoothing=0.1)(model(images), targets)
        loss.backward()
        optimizer.step()
        mean.update_parameters(model)
        found = loop.train_step(state, pixels, labels, run)
        assert found == pytest.approx(loss.item(), abs=1e-6)
        _check_step(state, model, mean.module, 1e-6)


@pytest.mark.parametrize("name", ["sgd", _slow("lamb")])
def test_steps_are_those_of_timm(name: str) -> None:
    """Its network, mixup, loss, groups and optimizers; its mean from the first step on."""
    timm = pytest.importorskip("timm")
    from timm.data import Mixup
    from timm.loss import SoftTargetCrossEntropy
    from timm.models.resnet import Bottleneck, ResNet
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV2

    assert timm.__version__
    run = make(*STEP, f"optim.name={name}", "augment.mixup_alpha=0.3", "schedule.kind=step")
    state = start(run)
    model = ResNet(Bottleneck, [2, 2, 2, 2], num_classes=3, cardinality=2, base_width=4)
    model.load_state_dict(state.model.state_dict())
    mean = ModelEmaV2(model, decay=0.9)
    optimizer = create_optimizer_v2(
        model, opt=name, lr=run.config.optim.scaled_lr, weight_decay=0.001, momentum=0.9
    )

    class Drawn(Mixup):
        share = 0.0

        def _params_per_batch(self) -> tuple[float, bool]:
            return self.share, False

    mixup = Drawn(mixup_alpha=0.3, label_smoothing=0.1, num_classes=3)
    for step in range(2):
        pixels, labels = batch(run, step)
        mixup.share = _share(run, step)
        images, targets = mixup(run.normalize(pixels), labels)
        optimizer.zero_grad()
        loss = SoftTargetCrossEntropy()(model(images), targets)
        loss.backward()
        optimizer.step()
        if step == 0:
            mean.set(model)
        else:
            mean.update(model)
        found = loop.train_step(state, pixels, labels, run)
        assert found == pytest.approx(loss.item(), abs=1e-6)
        # LAMB divides by the root of gradients' squares, of tiny ones too.
        _check_step(state, model, mean.module, 1e-6 if name == "sgd" else 5e-6)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_processes_mix_as_one(kind: str) -> None:
    """And each picture with another one, also where it comes twice in a row."""
    settings = (f"augment.{kind}_alpha=1", "optim.batch_size=8", "loss.label_smoothing=0.1")
    run = make(*settings, "data.repeats=2")
    pixels, labels = batch(run)
    mixed, targets = loop.prepare(pixels, labels, run, step=5)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    for rank in range(2):
        part = make(*settings, processes=Processes(rank=rank, world_size=2))
        share, share_targets = loop.prepare(pixels[rank::2], labels[rank::2], part, step=5)
        assert torch.equal(share, mixed[rank::2])
        assert torch.equal(share_targets, targets[rank::2])
    plain = run.normalize(pixels)
    for index in range(8):
        others = [i for i in range(8) if i != index]
        ways = torch.stack([(plain[i] - plain[index]).flatten() for i in others])
        step = (mixed[index] - plain[index]).flatten()
        if kind == "mixup" and step.any():
            closest = nn.functional.cosine_similarity(ways, step[None]).argmax()
            assert others[int(closest)] == (index + 4) % 8
    again, _ = loop.prepare(pixels, labels, run, step=5)
    others = [loop.prepare(pixels, labels, run, step=step)[0] for step in range(6, 10)]
    assert torch.equal(again, mixed)
    assert not all(torch.equal(other, mixed) for other in others)


def test_a_share_that_is_odd_is_mixed_too() -> None:
    run = make("augment.mixup_alpha=1", "optim.batch_size=5")
    pixels, labels = batch(run)
    mixed, targets = loop.prepare(pixels, labels, run, step=0)
    assert not torch.equal(mixed, run.normalize(pixels))
    torch.testing.assert_close(targets.sum(1), torch.ones(5))


class _FrozenNorm(nn.BatchNorm2d):
    """A batch norm that stays as it is, as some fine-tune."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias
        )


@pytest.mark.parametrize(
    ("parts", "kind"),  # of 6 pictures: 3 + 3, 2 + 2 + 1 + 1, each alone
    [(2, "cross_entropy"), (4, "cross_entropy"), (7, "bce")],
)
def test_parts_add_up_to_the_batch(parts: int, kind: str) -> None:
    states = []
    for count in (1, parts):
        run = make(
            f"optim.grad_accum_steps={count}", f"loss.kind={kind}", "augment.mixup_alpha=0.2",
            "loss.class_weights=balanced", "optim.batch_size=6", "optim.clip_norm=0.5",
        )  # fmt: skip
        state = start(run)
        for module in state.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = _FrozenNorm
        losses = [loop.train_step(state, *batch(run, step), run) for step in range(2)]
        states.append((state, losses))
    (whole, losses), (added, others) = states
    assert losses == pytest.approx(others, abs=1e-6)
    gap = largest_gap(whole.model.state_dict(), added.model.state_dict())
    assert 0 < gap < 1e-6


@pytest.mark.parametrize(("parts", "sizes"), [(3, [3, 2, 2]), (2, [4, 3]), (9, [1] * 7), (0, [7])])
def test_parts_are_even(parts: int, sizes: list[int]) -> None:
    """The last of 3, 3 and 1 pictures would be too small for a batch norm."""
    run = make(f"optim.grad_accum_steps={parts}", "optim.batch_size=7")
    state, seen = start(run), []
    state.model.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    loop.train_step(state, *batch(run), run)
    assert seen == sizes


def test_gradients_are_clipped() -> None:
    run = make("optim.clip_norm=0.01", "optim.weight_decay=0", "optim.norm_weight_decay=0",
               "optim.lr=1", "optim.momentum=0", "optim.reference_batch_size=4")  # fmt: skip
    state = start(run)
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    loop.train_step(state, *batch(run), run)
    moves = [p.detach() - old for p, old in zip(state.model.parameters(), before, strict=True)]
    length = float(torch.stack([move.norm() for move in moves]).norm())
    assert length == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step() -> None:
    run = make()
    state = start(run)
    loop.train_step(state, *batch(run), run)
    state.model.fc.bias.data[0] = math.nan
    before = copy.deepcopy(state.to_save())
    with pytest.raises(
        TrainingError, match=r"the loss is nan at step 1 \(epoch 0\.17, learning"
    ) as caught:
        loop.train_step(state, *batch(run, 1), run)
    assert "in another folder, with a lower optim.lr" in caught.value.hint, "this one refuses it"
    state.model.fc.bias.data[0] = before["model"]["fc.bias"][0] = 0
    for parts in ("model", "optimizer"):
        changed = differences(before[parts], state.to_save()[parts])
        kept = [key for key in changed if key.startswith("/state") or key.endswith("ght")]
        assert not kept, "weights and moments are as they were"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_as_well(precision: str) -> None:
    run, low = make(), make(f"precision={precision}")
    states = [(start(each), each) for each in (run, low)]
    found = [loop.train_step(state, *batch(each), each) for state, each in states]
    assert found[0] == pytest.approx(found[1], rel=0.05)
    assert found[0] != found[1]
    for step in range(1, 3):
        assert math.isfinite(loop.train_step(states[1][0], *batch(low, step), low))
    assert states[1][0].model.fc.weight.dtype == torch.float32


def test_the_scaler_passes_over_steps_that_overflow() -> None:
    run = make("precision=fp16")
    state = start(run)
    loop.train_step(state, *batch(run), run)
    weights = copy.deepcopy(dict(state.model.named_parameters()))
    state.scaler.update(1e38)
    loop.train_step(state, *batch(run, 1), run)
    assert state.scaler.get_scale() < 1e38
    for key, value in state.model.named_parameters():
        assert torch.equal(value, weights[key])
    assert state.step == 2, "the schedule goes on"


def test_only_the_classifier_learns_while_the_body_is_frozen() -> None:
    run = make("schedule.freeze_epochs=1", "ema.decay=0.9", "optim.weight_decay=0.1")
    state = start(run)
    before = copy.deepcopy(state.to_save())
    for step in range(run.order.steps):
        loop.train_step(state, *batch(run, step), run)
    for network in ("model", "mean"):
        changed = differences(before[network], state.to_save()[network])
        assert changed == ["/fc.bias", "/fc.weight"], "nor have the batch norms' statistics"
    loop.train_step(state, *batch(run, 0), run)
    changed = differences(before["model"], state.model.state_dict())
    assert len(changed) == len(before["model"]), "everything learns"


def _floats(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all but the counters of batches, which no one takes a mean of."""
    return {k: v for k, v in model.state_dict().items() if v.is_floating_point()}


def test_the_mean_keeps_what_the_batch_and_the_epochs_leave() -> None:
    run = make("ema.decay=0.9", "ema.scaling=run", "schedule.epochs=20", "schedule.warmup_epochs=0")
    state = start(run)
    loop.train_step(state, *batch(run, 0), run)  # a copy; the second step is averaged
    before = copy.deepcopy(state.mean.state_dict())
    loop.train_step(state, *batch(run, 1), run)
    moved = 0.1 * run.config.optim.batch_size / 20
    assert 0.01 < moved < 0.9
    now, mean = state.model.state_dict(), state.mean.state_dict()
    expected = before["fc.weight"].lerp(now["fc.weight"], moved)
    torch.testing.assert_close(mean["fc.weight"], expected)
    assert not torch.equal(mean["fc.weight"], before["fc.weight"])


@pytest.mark.parametrize(("every", "warmup"), [(1, 1), (4, 0), (4, 1.5)])
def test_the_mean_is_that_of_torchvision_s_loop(every: int, warmup: float) -> None:
    """Its references update every so many steps of an epoch, and start anew in the warm-up."""
    from torch.optim.swa_utils import AveragedModel

    run = make("ema.decay=0.5", f"ema.every={every}", f"schedule.warmup_epochs={warmup}")
    state, moved = start(run), []
    theirs = AveragedModel(state.model, avg_fn=lambda old, new, _: old + (new - old) / 2,
                           use_buffers=True)  # fmt: skip
    for epoch in range(3):
        for step in range(run.order.steps):
            before = copy.deepcopy(state.mean.state_dict())
            loop.train_step(state, *batch(run, step), run)
            if step % every == 0:
                theirs.update_parameters(state.model)
                if epoch < warmup:
                    theirs.n_averaged.fill_(0)
            if differences(before, state.mean.state_dict()):
                moved.append(state.step)
            gap = largest_gap(_floats(state.mean), _floats(theirs.module))
            assert gap < 1e-6, f"after step {state.step}"
    assert moved == ([1, 5, 7, 11, 13, 17] if every == 4 else list(range(1, 19)))
    assert differences(state.mean.state_dict(), state.model.state_dict())


def test_a_teacher_is_learned_from() -> None:
    teacher = create_model("resnext29_1x1d", num_classes=3)
    run = make("loss.distill_weight=1", "loss.distill_temperature=3", teacher=teacher)
    state = start(run)
    nn.init.zeros_(state.model.fc.weight)  # says nothing at first: all classes alike
    pixels, labels = batch(run)
    loss = loop.train_step(state, pixels, labels, run)
    with torch.no_grad():
        answers = (teacher(run.normalize(pixels)) / 3).log_softmax(1)
    expected = 9 * (answers.exp() * (answers - math.log(1 / 3))).sum(1).mean()
    assert loss == pytest.approx(float(expected), rel=1e-4)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    other = loop.train_step(start(run), pixels, labels.flip(0), run)
    assert other == loop.train_step(start(run), pixels, labels, run), "labels do not count"


def test_pictures_of_several_classes_are_learned(tmp_path: Path) -> None:
    several = {"train": pictures(26, multi_label=True), "test": pictures(6, multi_label=True)}
    settings = ("loss.kind=bce", "augment.mixup_alpha=0.2", "optim.batch_size=8")
    heard = _Hearing()
    state = loop.fit(make(*settings, **several), tmp_path, listener=heard)
    assert state.step == 6
    assert all(map(math.isfinite, heard.losses))


# ---- runs


class _Hearing(loop.Listener):
    def __init__(self, *, until: int | None = None, stop: int | None = None) -> None:
        self.losses: list[float] = []
        self.reports: list[loop.EpochReport] = []
        self.starts: list[int] = []
        self.until, self.stop = until, stop

    def started(self, state: TrainState, run: Run) -> None:
        self.starts.append(state.step)

    def stepped(self, state: TrainState, loss: float, run: Run) -> None:
        self.losses.append(loss)
        if state.step == self.until:
            raise KeyboardInterrupt
        if state.step == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)

    def epoch_done(self, state: TrainState, report: loop.EpochReport, run: Run) -> None:
        self.reports.append(report)


def _facts(report: loop.EpochReport) -> loop.EpochReport:
    return replace(report, seconds=0, images_per_s=0)


def test_a_run_reports_what_it_did(tmp_path: Path) -> None:
    heard = _Hearing()
    state = loop.fit(make(), tmp_path, listener=heard)
    assert (state.step, state.epoch, heard.starts) == (STEPS, 2, [0])
    first, second = heard.reports
    assert (first.epoch, first.step, first.best) == (1, 6, True)
    assert first.loss == pytest.approx(sum(heard.losses[:6]) / 6)
    assert first.scores is not None
    assert first.scores.pictures == 10
    assert second.lr == pytest.approx(0.005 * (1 + math.cos(math.pi * 11 / 12)) / 2)
    assert second.images_per_s > 0
    assert [path.name for path in checkpoint.found(tmp_path / "checkpoints")] == [
        "step-00000006.ckpt", "step-00000012.ckpt"
    ]  # fmt: skip
    again = _Hearing()
    loop.fit(make(), tmp_path, listener=again)
    assert (again.starts, again.losses, again.reports) == ([STEPS], [], [])


def test_memory_that_does_not_suffice_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(state: TrainState, *_rest: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(OutOfMemoryError, match="CUDA out of memory") as caught:
        loop.fit(make("optim.grad_accum_steps=2"), tmp_path)
    assert "optim.grad_accum_steps=4" in caught.value.hint


def test_a_network_learns(tmp_path: Path) -> None:
    heard = _Hearing()
    run = make("model.zero_init_last=true", "optim.batch_size=8", "schedule.epochs=6")
    loop.fit(run, tmp_path, listener=heard)
    assert heard.reports[-1].scores.top1 >= 90, "by chance it would be 33"
    assert heard.reports[-1].loss < heard.reports[0].loss / 2


@pytest.mark.parametrize(
    "settings",
    [
        EVERYTHING,
        _slow("precision=bf16", "optim.name=lamb"),
        _slow("precision=fp16", "optim.name=adamw"),
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    run = make(*settings, "optim.batch_size=8")
    whole, before, after = _Hearing(), _Hearing(until=5), _Hearing()
    loop.fit(run, tmp_path / "whole", listener=whole)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(run, tmp_path / "cut", listener=before, checkpoint_seconds=0)
    loop.fit(run, tmp_path / "cut", listener=after)
    assert after.starts == [4]
    assert before.losses[:4] + after.losses == whole.losses
    assert _facts(after.reports[-1]) == _facts(whole.reports[-1])
    assert not differences(newest(tmp_path / "cut"), newest(tmp_path / "whole"))


def test_sigterm_saves_at_that_step_and_stops(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    whole, cut, after = _Hearing(), _Hearing(stop=4), _Hearing()
    loop.fit(make(*EVERYTHING, "optim.batch_size=8"), tmp_path / "whole", listener=whole)
    with pytest.raises(loop.Stopped, match="stopped after step 4; a checkpoint was written"):
        loop.fit(make(*EVERYTHING, "optim.batch_size=8"), tmp_path / "cut", listener=cut)
    assert signal.getsignal(signal.SIGTERM) is handler
    loop.fit(make(*EVERYTHING, "optim.batch_size=8"), tmp_path / "cut", listener=after)
    assert after.starts == [4]
    assert cut.losses + after.losses == whole.losses
    assert [*map(_facts, cut.reports + after.reports)] == [*map(_facts, whole.reports)]
    assert not differences(newest(tmp_path / "cut"), newest(tmp_path / "whole"))


@pytest.mark.parametrize("stop", [3, _slow(6)])
def test_sigterm_before_an_evaluation_does_not_lose_it(tmp_path: Path, stop: int) -> None:
    whole, cut, after = _Hearing(), _Hearing(stop=stop), _Hearing()
    loop.fit(make("optim.batch_size=8"), tmp_path / "whole", listener=whole)
    with pytest.raises(loop.Stopped) as stopped:
        loop.fit(make("optim.batch_size=8"), tmp_path / "cut", listener=cut)
    assert stopped.value.step == stop
    loop.fit(make("optim.batch_size=8"), tmp_path / "cut", listener=after)
    found = [*map(_facts, cut.reports + after.reports)]
    assert found == [*map(_facts, whole.reports)]
    assert not differences(newest(tmp_path / "cut"), newest(tmp_path / "whole"))


def test_sigterm_in_an_evaluation_stops_after_it(tmp_path: Path) -> None:
    class Ending(_Hearing):
        def epoch_done(self, state: TrainState, report: loop.EpochReport, run: Run) -> None:
            super().epoch_done(state, report, run)
            os.kill(os.getpid(), signal.SIGTERM)

    cut, after = Ending(), _Hearing()
    with pytest.raises(loop.Stopped):
        loop.fit(make(), tmp_path, listener=cut)
    assert newest(tmp_path)["epoch"] == 1
    loop.fit(make(), tmp_path, listener=after)
    assert (after.starts, len(after.reports)) == ([6], 1)


def test_a_run_that_gets_no_better_stops_once_and_for_all(tmp_path: Path) -> None:
    run = make("patience=2", "optim.lr=0", "schedule.epochs=50", "optim.batch_size=26")
    heard, again = _Hearing(), _Hearing()
    loop.fit(run, tmp_path, listener=heard)
    assert len(heard.reports) <= 5, "statistics settle, and then nothing changes"
    loop.fit(run, tmp_path, listener=again)
    assert not again.losses
    blind = loop.fit(make("patience=1", "optim.batch_size=26", test=None), tmp_path / "blind")
    assert blind.epoch == 2, "without test pictures there is nothing to wait for"


def test_a_new_start_in_an_old_folder_forgets_the_old_run(tmp_path: Path) -> None:
    run = make("optim.batch_size=13")
    loop.fit(run, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(run, tmp_path, resume=False, listener=_Hearing(until=3))
    heard = _Hearing()
    loop.fit(run, tmp_path, listener=heard)
    assert heard.starts == [2]


def test_deterministic_runs_are_the_same(tmp_path: Path) -> None:
    try:
        for name in "ab":
            run = make("deterministic=true", *EVERYTHING, "optim.batch_size=13")
            loop.fit(run, tmp_path / name)
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    assert not differences(newest(tmp_path / "a"), newest(tmp_path / "b"))


# ---- processes that are killed


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a process of its own that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert finish(train, folder, EVERYTHING) == ["done"]
    return folder


def _run_with_kills(folder: Path, seed: int, settings: tuple[str, ...], *, ranks: int = 1) -> int:
    """Kill a run again and again at moments that a seed draws, then let it end.

    Returns:
        How often the kill came before its end.
    """
    rng, kills = random.Random(seed), 0
    for _ in range(rng.randint(1, 3)):
        processes = launch(train, folder, settings, ranks=ranks)
        wait_for_step(folder, rng.randrange(STEPS * 2 // 3))
        time.sleep(rng.uniform(0, 0.1))  # about a step and the checkpoint after it
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        kills += processes[0].exitcode == -signal.SIGKILL
    assert finish(train, folder, settings, ranks=ranks) == ["done"] * ranks
    return kills


def _check_trial(folder: Path, unbroken: Path, seed: int) -> None:
    kills = _run_with_kills(folder, seed, EVERYTHING)
    assert kills, "no kill came in time"
    assert not differences(newest(folder), newest(unbroken))
    # Draws of every step, losses, reports: what was done last is what would have been done.
    assert history(folder) == history(unbroken)


def test_no_picture_is_drawn_twice_in_an_epoch(unbroken: Path) -> None:
    steps = history(unbroken)
    for epoch in range(2):
        lines = [line for step in range(6) for line in steps[f"step {6 * epoch + step + 1}"]]
        drawn = [line.split()[1] for line in lines if line.startswith("draw")]
        assert len(drawn) == len(set(drawn)) == 24


@pytest.mark.parametrize("seed", [0, _slow(1)])
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, unbroken: Path, seed: int) -> None:
    _check_trial(tmp_path, unbroken, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_twenty_killed_runs_end_with_the_same_bits(
    tmp_path: Path, unbroken: Path, seed: int
) -> None:
    _check_trial(tmp_path, unbroken, seed)


# ---- two processes

ALIKE = (
    "model.sync_batch_norm=true",
    "model.zero_init_last=true",  # or rounding grows from step to step
    "augment.policy=trivial",
    "augment.mixup_alpha=0.2",
    "augment.cutmix_alpha=1",
    "ema.decay=0.9",
    "loss.label_smoothing=0.1",
    "optim.nesterov=true",
)


def _check_alike(one: Path, two: Path) -> float:
    """Compare a run of one process with one of two; return the largest gap of a tensor."""
    first, second = newest(one), newest(two)
    assert first["step"] == second["step"] == STEPS
    assert first["loss_sum"] == second["loss_sum"] == 0
    assert first["best"] == second["best"], "exact evaluation, without doubled pictures"
    drawn = [history(two, rank) for rank in range(2)]
    for key, lines in history(one).items():
        if key.startswith("step"):
            both = [line for part in drawn for line in part[key] if line.startswith("draw")]
            assert sorted(both) == sorted(line for line in lines if line.startswith("draw"))
    return max(largest_gap(first[key], second[key]) for key in ("model", "mean"))


def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    assert finish(train, tmp_path / "one", ALIKE) == ["done"]
    assert finish(train, tmp_path / "two", ALIKE, ranks=2) == ["done"] * 2
    gap = _check_alike(tmp_path / "one", tmp_path / "two")
    assert 0 < gap < 1e-6


def _stop_one(folder: Path) -> None:
    class Stopping(_Hearing):
        def stepped(self, state: TrainState, loss: float, run: Run) -> None:
            if state.step == 5 and not run.processes.is_first:
                os.kill(os.getpid(), signal.SIGTERM)

    with dist.joined("cpu", timeout=20) as processes:
        loop.fit(make(*EVERYTHING, processes=processes), folder, listener=Stopping())


@pytest.mark.slow
def test_sigterm_to_one_process_stops_both_and_loses_nothing(tmp_path: Path) -> None:
    """Batch norms are not synchronized here: each process sees its own batches."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert finish(train, whole, EVERYTHING, ranks=2) == ["done"] * 2
    ends = finish(_stop_one, cut, ranks=2)
    assert ends == ["Stopped: stopped after step 5; a checkpoint was written"] * 2
    assert finish(train, cut, EVERYTHING, ranks=2) == ["done"] * 2
    assert not differences(newest(cut), newest(whole))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_two_killed_processes_end_with_the_same_bits(tmp_path: Path, seed: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert finish(train, whole, EVERYTHING, ranks=2) == ["done"] * 2
    assert _run_with_kills(cut, seed, EVERYTHING, ranks=2)
    assert not differences(newest(cut), newest(whole))
    for rank in range(2):
        assert history(cut, rank) == history(whole, rank)


@pytest.mark.slow
def test_the_other_process_says_that_one_was_killed(tmp_path: Path) -> None:
    first, second = launch(train, tmp_path, EVERYTHING, ranks=2)
    wait_for_step(tmp_path, 4)
    began = time.monotonic()
    second.kill()
    first.join(60)
    assert time.monotonic() - began < 20
    assert end_of(tmp_path, 0).startswith("TrainingError: process 0 lost another of the 2")
    assert end_of(tmp_path, 1) == "killed"


@pytest.mark.slow
def test_a_body_is_frozen_and_thawed_in_two_processes(tmp_path: Path) -> None:
    settings = ("schedule.freeze_epochs=1", *ALIKE)
    assert finish(train, tmp_path / "one", settings) == ["done"]
    assert finish(train, tmp_path / "two", settings, ranks=2) == ["done"] * 2
    assert _check_alike(tmp_path / "one", tmp_path / "two") < 1e-6


@pytest.mark.slow
def test_two_processes_add_up_parts(tmp_path: Path) -> None:
    """Their gradients are averaged once, after the last part."""
    settings = ("schedule.freeze_epochs=2", "optim.batch_size=8", "schedule.epochs=2")
    parts = (*settings, "optim.grad_accum_steps=3")  # of 4 pictures: 2 + 2
    assert finish(train, tmp_path / "one", settings) == ["done"]
    assert finish(train, tmp_path / "two", parts, ranks=2) == ["done"] * 2
    gap = largest_gap(newest(tmp_path / "one")["model"], newest(tmp_path / "two")["model"])
    assert gap < 1e-6


@pytest.mark.slow
def test_under_torchrun(tmp_path: Path) -> None:
    """Kill a process of two; the other ends, torchrun says so, and a new start is exact."""
    script = Path(__file__).with_name("runs.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def torchrun(folder: Path) -> subprocess.Popen[str]:
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                   "--standalone", str(script), str(folder), *ALIKE]  # fmt: skip
        return subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    assert finish(train, tmp_path / "one", ALIKE) == ["done"]
    running = torchrun(tmp_path / "two")
    wait_for_step(tmp_path / "two", 3, rank=1)
    os.kill(int((tmp_path / "two" / "pid-1.txt").read_text()), signal.SIGKILL)
    _, said = running.communicate(timeout=90)
    assert running.returncode
    assert "SIGKILL" in said, "the root cause, by torchrun"
    again = torchrun(tmp_path / "two")
    again.communicate(timeout=90)
    assert again.returncode == 0
    assert _check_alike(tmp_path / "one", tmp_path / "two") < 1e-6


def test_ctrl_c_saves_and_a_second_one_ends_at_once(tmp_path: Path) -> None:
    class Pressing(loop.Listener):
        def stepped(self, state: Any, loss: float, run: Any) -> None:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    times = 1
    with pytest.raises(loop.Stopped, match="after step 1; a checkpoint was written") as stopped:
        loop.fit(make(), tmp_path, listener=Pressing())
    assert stopped.value.exit_code == 130
    assert newest(tmp_path)["step"] == 1
    times = 2
    with pytest.raises(KeyboardInterrupt):
        loop.fit(make(), tmp_path, listener=Pressing())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture(autouse=True)
def _sigterm_is_as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is before
