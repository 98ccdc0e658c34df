"""Numbers found by trial."""

from __future__ import annotations

import math
from typing import Any

import pytest

from resnext.errors import ConfigError, OutOfMemoryError, TrainingError

torch: Any = pytest.importorskip("torch")
import runs  # noqa: E402

search: Any = pytest.importorskip("resnext.training.search")
state: Any = pytest.importorskip("resnext.training.state")

pytestmark = pytest.mark.torch

CUDA = runs.dist.Processes(device=torch.device("cuda"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def curve(steepest: float, blow_up: float) -> tuple[list[float], list[float]]:
    """Return rates and losses that fall around one rate and end at another."""
    lrs = [1e-4 * 10 ** (index / 20) for index in range(101)]
    lrs = [lr for lr in lrs if lr <= blow_up]
    losses = [2.0 - 1.5 / (1 + math.exp(-3 * math.log(lr / steepest))) for lr in lrs]
    return lrs, [*losses[:-1], 9.0]


def test_the_steepest_descent_is_chosen() -> None:
    assert search.choose_lr(*curve(0.03, 0.1)) == pytest.approx(0.03, rel=0.3)


def test_a_tenth_of_the_blow_up_is_chosen_if_that_is_more() -> None:
    lrs, losses = curve(0.003, 1.0)
    assert search.choose_lr(lrs, losses) == pytest.approx(lrs[-1] / 10)


def test_never_more_than_the_rate_with_the_lowest_loss() -> None:
    lrs = [10.0**power for power in range(-8, 2)]
    losses = [2.0, 2.0, 2.0, 2.0, 2.0, 1.9, 1.0, 1.5, 2.5, 9.0]
    assert search.choose_lr(lrs, losses) == 0.01


def test_a_low_loss_by_chance_at_the_start_is_nothing() -> None:
    lrs, losses = curve(0.03, 0.1)
    expected = search.choose_lr(lrs, losses)
    assert search.choose_lr(lrs, [0.2, *losses[1:]]) == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 1.1, 5.0], [1.0 + n for n in range(20)]])
def test_a_loss_that_never_falls_is_an_error(losses: list[float]) -> None:
    lrs = [0.1 * 1.1**n for n in range(len(losses))]
    with pytest.raises(ConfigError, match=f"none of {len(losses)} learning rates lowers"):
        search.choose_lr(lrs, losses)


def test_a_sweep_goes_up_and_stops_when_the_loss_blows_up(monkeypatch: Any) -> None:
    tried = []

    def step(state: Any, _pixels: Any, _labels: Any, run: Any) -> float:
        (lr,) = {group["base_lr"] for group in state.optimizer.param_groups}
        tried.append(lr)
        assert runs.loop.optim.lr_factor(run.config.schedule, len(tried) / 6) == 1
        if lr > 0.2:
            raise TrainingError("the loss is nan")
        return 1.0 - lr

    monkeypatch.setattr(search, "train_step", step)
    found = search.find_lr(runs.make("optim.lr=0.01", "schedule.warmup_epochs=1"), num_steps=30)
    assert tried[0] == pytest.approx(1e-5)
    assert tried[-1] > 0.2
    assert all(after / before == pytest.approx(tried[1] / tried[0])
               for before, after in zip(tried, tried[1:], strict=False))  # fmt: skip
    assert found.lrs == pytest.approx(tried[:-1])
    assert len(found.losses) == len(found.lrs)


def test_rates_of_layers_keep_their_proportions(monkeypatch: Any) -> None:
    seen = []

    def step(state: Any, *_rest: Any) -> float:
        seen.append([group["base_lr"] for group in state.optimizer.param_groups])
        return 1.0 / len(seen)

    monkeypatch.setattr(search, "train_step", step)
    search.find_lr(runs.make("optim.layer_decay=0.5"), num_steps=6)
    first = [lr / seen[0][-1] for lr in seen[0]]
    assert min(first) < 0.1
    assert [lr / seen[5][-1] for lr in seen[5]] == pytest.approx(first)


def test_a_real_sweep_finds_a_rate_that_learns() -> None:
    run = runs.make("optim.batch_size=8", "optim.reference_batch_size=8", "schedule.epochs=8")
    found = search.find_lr(run, num_steps=30)
    assert found.lrs[0] <= found.suggested <= found.lrs[-1]
    fixed = runs.make(
        "optim.batch_size=8",
        "optim.reference_batch_size=8",
        f"optim.lr={found.suggested}",
        "schedule.epochs=8",
    )
    fresh = state.start(fixed)
    steps = [runs.loop.train_step(fresh, *runs.batch(fixed, n % 3), fixed) for n in range(18)]
    assert sum(steps[-6:]) < 0.7 * sum(steps[:6])


@pytest.mark.parametrize(
    ("batch_size", "size", "world_size", "parts"),
    # At most so many that two pictures are left for a batch norm.
    [
        (32, 224, 1, 1),
        (256, 224, 1, 8),
        (256, 224, 8, 1),
        (256, 32, 1, 1),
        (3, 2048, 1, 1),
        (8, 1600, 1, 4),
        (8, 1600, 2, 2),
    ],
)
def test_parts_on_the_processor(
    batch_size: int, size: int, world_size: int, parts: int, monkeypatch: Any
) -> None:
    processes = runs.dist.Processes(world_size=world_size)
    monkeypatch.setattr(runs.dist.Processes, "gather", lambda _self, value: [value])
    run = runs.make(
        f"optim.batch_size={batch_size}", f"data.train_size={size}", processes=processes
    )
    assert search.find_parts(run) == parts


def memory_for(monkeypatch: Any, pictures: int, error: str = "CUDA out of memory") -> list[int]:
    """Let a step with more pictures in a part run out of memory; return the parts tried."""
    tried: list[int] = []

    def step(_state: Any, pixels: Any, labels: Any, run: Any) -> float:
        assert len(pixels) == len(labels)
        parts = run.config.optim.grad_accum_steps
        tried.append(parts)
        if math.ceil(len(pixels) / parts) > pictures:
            raise (torch.OutOfMemoryError if "out of" in error else RuntimeError)(error)
        return 1.0

    monkeypatch.setattr(search, "train_step", step)
    monkeypatch.setattr(search, "start", lambda _run: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return tried


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("pictures", "parts"), [(24, 1), (12, 2), (7, 4), (3, 8), (2, 12)])
def test_parts_on_a_device_are_as_few_as_fit(
    pictures: int, parts: int, multi_label: bool, monkeypatch: Any
) -> None:
    tried = memory_for(monkeypatch, pictures)
    train = runs.pictures(runs.TRAIN, multi_label=multi_label)
    run = runs.make("optim.batch_size=24", processes=CUDA, train=train)
    assert search.find_parts(run) == parts
    assert tried[-1] == parts
    assert sorted(tried) == tried


def test_what_the_libraries_below_say_is_understood(monkeypatch: Any) -> None:
    memory_for(monkeypatch, 12, "cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling")
    assert search.find_parts(runs.make("optim.batch_size=24", processes=CUDA)) == 2
    memory_for(monkeypatch, 12, "an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal"):
        search.find_parts(runs.make("optim.batch_size=24", processes=CUDA))


def test_the_mean_is_there_when_memory_is_tried(monkeypatch: Any) -> None:
    memory_for(monkeypatch, 24)
    kept: list[float] = []
    monkeypatch.setattr(search, "start", lambda run: kept.append(run.config.ema.decay))
    search.find_parts(runs.make("optim.batch_size=24", "ema.decay=0.99", processes=CUDA))
    assert kept == [0.99]


@pytest.mark.parametrize("pictures", [0, 1])
def test_pictures_that_do_not_fit_are_an_error(pictures: int, monkeypatch: Any) -> None:
    memory_for(monkeypatch, pictures)
    with pytest.raises(OutOfMemoryError, match="2 pictures of 8 pixels, the fewest for a batch"):
        search.find_parts(runs.make(processes=CUDA))


@pytest.mark.parametrize(("world_size", "parts"), [(1, 1), (2, 2)])
def test_what_processes_exchange_takes_memory_too(
    world_size: int, parts: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(runs.dist.Processes, "gather", lambda _self, value: [value])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    held: list[int] = []
    buckets = search._buckets

    def exchanged(state: Any) -> Any:
        made = buckets(state)
        held.append(sum(tensor.numel() for tensor in made))
        if len(held) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made

    monkeypatch.setattr(search, "_buckets", exchanged)
    on_cpu = runs.dist.Processes(world_size=world_size)
    run = runs.make("optim.batch_size=8", processes=on_cpu)
    assert search._largest(run, 8 // world_size, 2) == parts
    weights = sum(p.numel() for p in state.start(runs.make()).model.parameters())
    assert held == ([] if world_size == 1 else [weights, weights])


def test_another_size_keeps_the_share_that_is_cut_away() -> None:
    run = runs.make("data.test_size=224", "data.test_resize=256")
    other = search.at_test_size(run, 288).config.data
    assert (other.test_size, other.test_resize) == (288, 329)
    assert run.config.data.test_size == 224


def test_every_size_is_evaluated_on_every_picture() -> None:
    run = runs.make()
    model = state.start(run).model
    found = search.find_test_size(model, run, (16, 12))
    assert list(found) == [8, 12, 16]
    assert all(scores.pictures == runs.TEST for scores in found.values())
    assert found[8] == runs.loop.evaluate(model, run)
    assert len({scores.loss for scores in found.values()}) == 3
