"""`training.feed`: the right pictures in the right order, or an error that names one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import numpy as np
import torch
from runs import (
    Diary,
    config,
    finish,
    launch,
    make,
    one_thread,  # noqa: F401
    pictures,
    wait_for_step,
)

from resnext import images
from resnext.errors import DatasetError, OutOfMemoryError
from resnext.training import augment, feed, loop
from resnext.training.order import Draw, Order
from resnext.training.state import Run, TrainState

pytestmark = pytest.mark.torch

ORDER = Order(count=26, batch_size=4, seed=0)
BATCHES = [ORDER.batch(0, step) for step in range(3)]


def _pictures(*settings: str, **parts: Any) -> feed.Pictures:
    asked = config("augment.policy=trivial", *settings)
    transform = augment.TrainTransform(asked.data, asked.augment)
    return feed.Pictures(pictures(26, **parts), transform)


def test_batches_hold_what_was_drawn() -> None:
    """Against each picture decoded and transformed by hand."""
    own = _pictures()
    batches = list(feed.feed(own, BATCHES, num_workers=0))
    assert [pixels.shape for pixels, _ in batches] == [(4, 3, 8, 8)] * 3
    for draws, (pixels, labels) in zip(BATCHES, batches, strict=True):
        assert pixels.dtype == torch.uint8
        assert labels.tolist() == [draw.index % 3 for draw in draws]
        for draw, found in zip(draws, pixels, strict=True):
            image = images.open_rgb(own.samples.samples[draw.index].source)
            assert torch.equal(found, own.transform(image, draw.key))


def test_the_key_decides_and_not_what_came_before() -> None:
    own = _pictures()
    first, again, other = own[Draw(3, 7)], own[Draw(3, 7)], own[Draw(3, 8)]
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_the_global_random_numbers_are_left_alone() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    list(feed.feed(_pictures("augment.erase=1"), BATCHES, num_workers=0))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_batches_are_asked_for_when_they_are_needed() -> None:
    """An epoch of a large set is millions of draws."""
    asked = 0

    def endless() -> Iterator[list[Draw]]:
        nonlocal asked
        while True:
            asked += 1
            yield BATCHES[0]

    with contextlib.closing(feed.feed(_pictures(), endless(), num_workers=0)) as fed:
        next(fed)
    assert asked == 1


def test_no_batches_are_no_batches() -> None:
    assert list(feed.feed(_pictures(), [], num_workers=0)) == []


def test_several_labels_become_ones() -> None:
    own = _pictures(multi_label=True)
    assert own[Draw(2, 1)][1].tolist() == [1, 1, 0]
    assert own[Draw(0, 1)][1].tolist() == [0, 0, 0], "a picture of no class"


@pytest.mark.parametrize("cache", [False, True])
def test_an_unreadable_picture_is_named(cache: bool) -> None:
    own = pictures(4, source=b"no picture")
    with pytest.raises(DatasetError, match=r"^0/\d: is not a picture"):
        broken = feed.Pictures(own, _pictures().transform, cache=cache)
        list(feed.feed(broken, [[Draw(1, 0)]], num_workers=0))


def test_cached_pictures_are_the_same(monkeypatch: Any) -> None:
    own = _pictures()
    cached = feed.Pictures(own.samples, own.transform, cache=True)
    expected = own[Draw(5, 9)]
    monkeypatch.setattr(images, "open_rgb", None)
    assert torch.equal(cached[Draw(5, 9)][0], expected[0])
    assert len(cached) == 26


def test_pictures_that_do_not_fit_into_memory_are_refused(monkeypatch: Any) -> None:
    own = _pictures()
    needed = 26 * 8 * 8 * 4  # bytes, as Pillow keeps a pixel in four
    monkeypatch.setattr(feed.memory, "free", lambda: needed)
    feed.Pictures(own.samples, own.transform, cache=True)
    monkeypatch.setattr(feed, "_PROBE", 3)
    monkeypatch.setattr(feed.memory, "free", lambda: needed - 1)
    with pytest.raises(OutOfMemoryError, match="^data.cache=true: 26 pictures would take") as error:
        feed.Pictures(own.samples, own.transform, cache=True)
    assert "data.cache=false" in error.value.hint


def test_processes_share_the_cores(monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert feed.choose_workers() == 1, "without a GPU the network needs the cores"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert feed.choose_workers() == 0, "beside two cores a worker is in the way"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert feed.choose_workers() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert feed.choose_workers() == 3


def _compare_with_a_worker(folder: Path) -> None:
    torch.manual_seed(3)
    alone = list(feed.feed(_pictures("augment.erase=0.5"), BATCHES, num_workers=0))
    torch.manual_seed(4)
    helped = list(feed.feed(_pictures("augment.erase=0.5"), BATCHES, num_workers=2))
    for (pixels, labels), (others, other_labels) in zip(alone, helped, strict=True):
        assert torch.equal(pixels, others)
        assert torch.equal(labels, other_labels)
    broken = feed.Pictures(pictures(4, source=b"no picture"), _pictures().transform)
    with pytest.raises(DatasetError, match="^0/1: "):
        list(feed.feed(broken, [[Draw(1, 0)]], num_workers=1))


def test_workers_give_the_same_bits_and_the_same_errors(tmp_path: Path) -> None:
    assert finish(_compare_with_a_worker, tmp_path) == ["done"]


def _train_with_a_worker(folder: Path) -> None:
    os.setsid()  # a group of its own, which a signal can go to
    loop.fit(make("data.num_workers=1"), folder, listener=Diary(folder / "diary-0.txt"))


def test_sigterm_to_all_processes_at_once_still_saves(tmp_path: Path) -> None:
    """As a job system or a service manager sends it."""
    (process,) = launch(_train_with_a_worker, tmp_path)
    wait_for_step(tmp_path, 2)
    os.killpg(process.pid, signal.SIGTERM)
    process.join(60)
    end = (tmp_path / "end-0.txt").read_text()
    assert end.startswith("Stopped: stopped after step "), end
    step = int(end.split()[4].rstrip(";"))
    assert loop.checkpoint.found(tmp_path / "checkpoints")[-1].name == f"step-{step:08d}.ckpt"


class _Killer(loop.Listener):
    def stepped(self, state: TrainState, loss: float, run: Run) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)


def _lose_the_worker(folder: Path) -> None:
    loop.fit(make("data.num_workers=1"), folder, listener=_Killer())


def test_a_lost_worker_is_named(tmp_path: Path) -> None:
    (end,) = finish(_lose_the_worker, tmp_path)
    assert end.startswith("TrainingError: a process that prepares pictures ended: "), end
    assert "data.num_workers" in end
