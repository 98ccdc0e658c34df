"""`training.state`: what a run is made of, and what of it is saved."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import torch
from runs import batch, differences, largest_gap, make, one_thread, pictures  # noqa: F401

from resnext.errors import ConfigError, DatasetError, ModelFileError
from resnext.predictions import Labels
from resnext.training import loop
from resnext.training.dist import SyncedBatchNorm
from resnext.training.samples import SampleSet
from resnext.training.state import balance, start
from resnext.zoo import create_model

pytestmark = pytest.mark.torch


@pytest.fixture
def deterministic() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def test_a_run_starts_from_its_seed() -> None:
    first, again, other = (start(make(f"seed={seed}")) for seed in (1, 1, 2))
    assert not differences(first.to_save(), again.to_save())
    assert differences(first.to_save(), other.to_save())


def test_a_run_starts_from_weights(tmp_path: Any) -> None:
    from resnext.testing import write_tiny_model

    path = write_tiny_model(tmp_path / "tiny.safetensors")
    run = make(f"model.pretrained={path}", "model.drop_rate=0.5")
    model = start(run).model
    weights = create_model(path, True).state_dict()
    for key, value in model.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(value, weights[key])
    assert model.fc.weight.shape == (3, 1024), "as many classes as the pictures have"
    assert model.drop_rate == 0.5
    with pytest.raises(ConfigError, match=r"resnext29_1x1d; expected resnext50_32x4d") as caught:
        start(make(f"model.pretrained={path}", "model.architecture=resnext50_32x4d"))
    assert caught.value.hint == "--set model.architecture=resnext29_1x1d"


def test_what_is_saved_is_all_that_changed() -> None:
    run = make("ema.decay=0.9", "precision=fp16", "optim.name=adamw")
    state = start(run)
    loop.train_step(state, *batch(run), run)
    state.epoch, state.loss_sum, state.best, state.waited = 1, 2.5, 50.0, 3
    state.scaler.update(1234.0)
    saved = copy.deepcopy(state.to_save())
    other = start(make("ema.decay=0.9", "precision=fp16", "optim.name=adamw", "seed=9"))
    assert differences(saved, other.to_save())
    other.restore(saved)
    assert not differences(saved, other.to_save())
    assert saved["scaler"]["scale"] == 1234.0
    losses = [loop.train_step(each, *batch(run, 1), run) for each in (state, other)]
    assert losses[0] == losses[1]
    assert not differences(state.to_save(), other.to_save())


def test_what_does_not_fit_is_refused() -> None:
    saved = start(make("ema.decay=0.9")).to_save()
    wide = start(make("model.architecture=resnext29_2x1d", "ema.decay=0.9"))
    with pytest.raises(ModelFileError, match="it does not fit: .*size mismatch"):
        wide.restore(saved)
    fresh = start(make("ema.decay=0.9"))
    with pytest.raises(ModelFileError, match="it lacks 'waited'"):
        fresh.restore({key: saved[key] for key in saved if key != "waited"})
    with pytest.raises(ModelFileError, match="it does not fit"):
        fresh.restore(saved | {"mean": None})


def test_the_mean_learns_nothing_by_itself() -> None:
    state = start(make("ema.decay=0.9"))
    assert state.evaluated is state.mean is not None
    assert not any(parameter.requires_grad for parameter in state.mean.parameters())
    assert all(parameter.requires_grad for parameter in state.model.parameters())
    plain = start(make())
    assert plain.evaluated is plain.model


def test_options_reach_the_network() -> None:
    model = start(
        make("model.sync_batch_norm=true", "model.zero_init_last=true", "model.drop_path_rate=0.3")
    ).model
    assert isinstance(model.bn1, SyncedBatchNorm)
    assert not model.layer1[0].bn3.weight.any()
    assert model.layer3[-1].drop_path.chance == pytest.approx(0.3)
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_pixels_are_normalized() -> None:
    run = make("data.mean=0.5,0.25,0", "data.std=0.5,0.25,1")
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(1, 3, 1, 1)
    torch.testing.assert_close(run.normalize(pixels).flatten(), torch.tensor([-1.0, 3.0, 0.2]))


def _uneven(counts: tuple[int, ...]) -> SampleSet:
    labels = [index for index, count in enumerate(counts) for _ in range(count)]
    drawn = pictures(len(labels)).samples
    samples = [
        type(sample)(sample.name, sample.source, (label,))
        for sample, label in zip(drawn, labels, strict=True)
    ]
    return SampleSet(samples=samples, labels=Labels(("red", "green", "blue")))


def test_balanced_classes_weigh_the_same() -> None:
    counts = (20, 5, 1)
    weights = balance(_uneven(counts))
    assert (weights * torch.tensor(counts)).tolist() == pytest.approx([26 / 3] * 3)
    run = make("loss.class_weights=balanced", train=_uneven(counts))
    assert run.class_weights is not None
    assert torch.equal(run.class_weights, weights)
    assert make().class_weights is None
    given = make("loss.class_weights=balanced", class_weights=torch.ones(3))
    assert given.class_weights.tolist() == [1, 1, 1]


def test_a_class_without_pictures_cannot_be_weighed() -> None:
    with pytest.raises(DatasetError, match="'green' has no training picture"):
        make("loss.class_weights=balanced", train=_uneven((20, 0, 6)))


def test_balanced_sampling_draws_every_class_as_often() -> None:
    run = make("data.balanced=true", train=_uneven((300, 30, 3)))
    drawn = [0, 0, 0]
    for epoch in range(2):
        for step in range(run.order.steps):
            for draw in run.order.batch(epoch, step):
                drawn[run.train.samples[draw.index].labels[0]] += 1
    assert sum(drawn) == 664
    assert min(drawn) > 180, "each class is a third, give or take four deviations"


def test_several_labels_need_a_loss_for_several() -> None:
    several = pictures(26, multi_label=True)
    with pytest.raises(ConfigError, match="loss.kind is 'cross_entropy'.*expected 'bce'"):
        start(make(train=several))
    start(make("loss.kind=bce", train=several))


def test_the_teacher_only_answers() -> None:
    teacher = create_model("resnext29_1x1d", num_classes=3)
    assert teacher.training
    start(make("loss.distill_weight=0.5", teacher=teacher))
    assert not teacher.training


def test_deterministic_is_a_promise_of_torch(deterministic: None, monkeypatch: Any) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    start(make("deterministic=true"))
    assert torch.are_deterministic_algorithms_enabled()
    import os

    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
    start(make())
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune-no-cudagraphs"])
def test_compiling_keeps_channels_last(mode: str, monkeypatch: Any) -> None:
    asked: list[dict[str, Any]] = []

    def watch(model: Any, **options: Any) -> Any:
        asked.append(options)
        return model

    monkeypatch.setattr(torch, "compile", watch)
    state = start(make(f"compile={mode}"))
    start(make(f"compile={mode}", "channels_last=false"))
    start(make())
    assert state.parallel is state.model
    assert [one["dynamic"] for one in asked] == [False, False]
    last, first = (one["options"] for one in asked)
    assert last["force_layout_optimization"] and "force_layout_optimization" not in first
    assert bool(last.get("triton.cudagraphs")) == (mode == "reduce-overhead")
    assert bool(last.get("max_autotune")) == (mode == "max-autotune-no-cudagraphs")


def test_graphs_take_no_batch_in_parts() -> None:
    with pytest.raises(ConfigError, match="compile is 'reduce-overhead', and optim.grad_accum"):
        start(make("compile=reduce-overhead", "optim.grad_accum_steps=2"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_learns_the_same() -> None:
    """Whole batches and parts, a frozen body and a free one; what is saved has usual names."""
    settings = ("precision=fp32", "schedule.freeze_epochs=1", "ema.decay=0.9")
    states = {}
    for mode in ("none", "default"):
        run = make(f"compile={mode}", *settings)
        state = states[mode] = start(run)
        for step in (0, 1):
            loop.train_step(state, *batch(run, step), run)
        state.step = run.order.steps
        loop.train_step(state, *batch(run, 2), run)
    saved = {mode: state.to_save() for mode, state in states.items()}
    assert saved["none"]["model"].keys() == saved["default"]["model"].keys()
    assert states["default"].parallel is not states["default"].model
    for part in ("model", "mean"):
        assert largest_gap(saved["none"][part], saved["default"][part]) < 1e-4
    assert differences(saved["none"]["model"], saved["default"]["model"]), "it was compiled"
