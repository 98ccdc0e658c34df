"""Small training runs for the tests: in this process, in others, or under torchrun.

    python -m torch.distributed.run --nproc-per-node 2 tests/runs.py FOLDER SETTING...

trains in FOLDER with settings such as `optim.lr=0.2`, and writes how it ended beside the
checkpoints, in `end-RANK.txt`.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
from PIL import Image

from resnext.predictions import Labels
from resnext.training import checkpoint, dist, feed, loop
from resnext.training.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
)
from resnext.training.samples import Sample, SampleSet
from resnext.training.state import Run, TrainState

TRAIN, TEST, SIZE = 26, 10, 8  # pictures, and their pixels a side
STEPS = 12  # of a run that nothing was changed about

# All that goes on from step to step, so all that a resumed run must get right.
EVERYTHING = (
    "model.drop_rate=0.1",
    "model.drop_path_rate=0.1",
    "augment.policy=trivial",
    "augment.erase=0.2",
    "augment.mixup_alpha=0.2",
    "augment.cutmix_alpha=1",
    "ema.decay=0.9",
    "schedule.warmup_epochs=1",
    "optim.nesterov=true",
    "loss.label_smoothing=0.1",
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Compute with one thread, as launched processes do."""
    with networks.one_thread():
        yield


def pictures(
    count: int, *, seed: int = 0, multi_label: bool = False, source: Any = None
) -> SampleSet:
    """Draw pictures of 3 classes that a network can tell apart: one color is dark."""
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(count):
        label = index % 3
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        pixels[..., label] //= 8
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        labels = tuple(range(label)) if multi_label else (label,)
        samples.append(Sample(f"{seed}/{index}", source or content.getvalue(), labels))
    names = Labels(("red", "green", "blue"))
    return SampleSet(samples=samples, labels=names, multi_label=multi_label)


def config(*settings: str) -> TrainConfig:
    """Return a run of 2 epochs of 6 steps, with changes such as `optim.lr=0.2`."""
    return TrainConfig(
        model=ModelConfig(architecture="resnext29_1x1d"),
        data=DataConfig(train_size=SIZE, test_size=SIZE, test_resize=SIZE, num_workers=0),
        optim=OptimConfig(lr=0.005, batch_size=4, reference_batch_size=4),
        schedule=ScheduleConfig(epochs=2),
    ).override(settings)


def make(*settings: str, **parts: Any) -> Run:
    """Return a run with changed settings and, by name, other changed parts."""
    usual: dict[str, Any] = {"train": pictures(TRAIN), "test": pictures(TEST, seed=1)}
    return Run(config=config(*settings), **usual | parts)


def batch(run: Run, step: int = 0) -> feed.Batch:
    """Return the batch of a step of the first epoch, as the training loop gets it."""
    transform = loop.augment.TrainTransform(run.config.data, run.config.augment)
    draws = run.order.batch(0, step)
    return next(feed.feed(feed.Pictures(run.train, transform), [draws], num_workers=0))


def newest(folder: Path) -> checkpoint.State:
    """Return the content of the newest checkpoint of a run."""
    return checkpoint.load(checkpoint.found(folder / "checkpoints")[-1])


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Return tensors and plain values of nested lists and dictionaries by path."""
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: value}
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= flatten(part, f"{name}/{key}")
    return found


def differences(first: Any, second: Any) -> list[str]:
    """Return the paths at which two nests differ in a single bit."""
    first, second = flatten(first), flatten(second)
    common = first.keys() & second.keys()
    odd = [key for key in common if not _same(first[key], second[key])]
    return sorted([*odd, *(first.keys() ^ second.keys())])


def largest_gap(first: Any, second: Any) -> float:
    """Return by how much the tensors of two nests differ at most, as a share beyond 1."""
    first, second = flatten(first), flatten(second)
    assert first.keys() == second.keys()
    gaps = [
        float(((value.double() - second[key]).abs() / value.double().abs().clamp(min=1)).max())
        for key, value in first.items()
        if isinstance(value, torch.Tensor)
    ]
    return max(gaps)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    return bool(first == second)


class Diary(loop.Listener):
    """Writes what happens to a file, line by line, so that a kill loses nothing of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("began")

    def write(self, line: str) -> None:
        with open(self.path, "ab", buffering=0) as file:
            file.write(line.encode() + b"\n")

    def stepped(self, state: TrainState, loss: float, run: Run) -> None:
        self.write(f"step {state.step} {loss!r}")

    def epoch_done(self, state: TrainState, report: loop.EpochReport, run: Run) -> None:
        self.write(f"epoch {report.epoch} {report.loss!r} {report.lr!r} {report.scores}")

    def warned(self, text: str) -> None:
        self.write(f"warned {text}")


def history(folder: Path, rank: int = 0) -> dict[str, list[str]]:
    """Return what happened in each step and epoch, as of the last time that it was done.

    Returns:
        By "step 3" or "epoch 1": the line, after the draws that came before it.
    """
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (folder / f"diary-{rank}.txt").read_text().splitlines():
        lines = [] if line == "began" else [*lines, line]
        if line.startswith(("step", "epoch")):
            found[" ".join(line.split()[:2])] = lines
            lines = []
    return found


def train(
    folder: Path, settings: Iterable[str] = (), seconds: float = 0.0, **parts: Any
) -> TrainState:
    """Train in a folder and keep a diary; a checkpoint every so many seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    with dist.joined("cpu", timeout=20) as processes:
        diary = Diary(folder / f"diary-{processes.rank}.txt")
        (folder / f"pid-{processes.rank}.txt").write_text(str(os.getpid()))
        with recorded(diary):
            run = make(*settings, processes=processes, **parts)
            return loop.fit(run, folder, listener=diary, checkpoint_seconds=seconds)


@contextlib.contextmanager
def recorded(diary: Diary) -> Iterator[None]:
    """Write every training picture that is prepared in this process into a diary."""
    get = feed.Pictures.__getitem__

    def recording(pictures: feed.Pictures, draw: Any) -> Any:
        if draw.key:  # in evaluation there is nothing random
            diary.write(f"draw {draw.index} {draw.key}")
        return get(pictures, draw)

    feed.Pictures.__getitem__ = recording  # type: ignore[method-assign]
    try:
        yield
    finally:
        feed.Pictures.__getitem__ = get  # type: ignore[method-assign]


# Other processes. A server imports torch once and forks, so that each starts in no time.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["resnext.training.loop", "pytest"])


def launch(work: Callable[..., Any], folder: Path, *arguments: Any, ranks: int = 1) -> list[Any]:
    """Start a function of a folder in processes of their own, joined if more than one."""
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port() if ranks > 1 else 0
    started = []
    for rank in range(ranks):
        (folder / f"end-{rank}.txt").unlink(missing_ok=True)
        names = {"RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port} if ranks > 1 else {}
        process = _SERVER.Process(target=_enter, args=(work, folder, arguments, names))
        process.start()
        started.append(process)
    return started


def finish(work: Callable[..., Any], folder: Path, *arguments: Any, ranks: int = 1) -> list[str]:
    """Do `launch` and wait; return how each process ended: "done", or its exception."""
    for process in launch(work, folder, *arguments, ranks=ranks):
        process.join(100)
        process.kill()
    return [end_of(folder, rank) for rank in range(ranks)]


def end_of(folder: Path, rank: int = 0) -> str:
    """Return how a process ended."""
    path = folder / f"end-{rank}.txt"
    return path.read_text() if path.exists() else "killed"


def wait_for_step(folder: Path, step: int, rank: int = 0, *, seconds: float = 60.0) -> None:
    """Wait until a process has done so many steps since it began, or has ended."""
    diary, end = folder / f"diary-{rank}.txt", folder / f"end-{rank}.txt"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not end.exists():
        text = diary.read_text() if diary.exists() else ""
        if text.rpartition("began")[2].count("\nstep ") >= step:
            return
        time.sleep(0.005)


def _enter(work: Any, folder: Path, arguments: Any, names: dict[str, int]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    # Of the processes that decode; the server's way is inherited, and starts another server.
    multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if names:
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        os.environ |= {name: str(value) for name, value in names.items()}
    _noting_the_end(work, folder, *arguments)


def _noting_the_end(work: Callable[..., Any], folder: Path, *arguments: Any) -> None:
    end = folder / f"end-{os.environ.get('RANK', '0')}.txt"
    try:
        work(folder, *arguments)
    except BaseException as error:
        end.write_text(f"{type(error).__name__}: {error}")
        raise
    end.write_text("done")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    _noting_the_end(train, Path(sys.argv[1]), sys.argv[2:])
