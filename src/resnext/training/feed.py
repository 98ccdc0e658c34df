"""[torch] Decode, transform and batch pictures in worker processes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnext import images
from resnext.errors import DatasetError, ImageError, ResNeXtError, TrainingError, counted
from resnext.training import memory
from resnext.training.order import Draw
from resnext.training.samples import Sample, SampleSet
from resnext.training.scan import cores

Transform = Callable[[Image.Image, int], Tensor]
Batch = tuple[Tensor, Tensor]  # (N, 3, S, S) uint8; (N,) class indices or (N, K) of 0 and 1


_PROBE = 64  # pictures decoded before it is known how much memory all take
_PIXEL = 4  # bytes of one in memory, as Pillow keeps it


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a picture that cannot be read: exceptions of workers lose their type."""

    name: str
    reason: str


class Pictures(Dataset[Any]):
    """The pictures of a set by `Draw`.

    Args:
        samples: The set.
        transform: From an RGB picture and a key to (3, S, S) uint8.
        cache: Decode all now and keep them: for small pictures.

    Raises:
        DatasetError: With `cache`, a picture cannot be read.
        OutOfMemoryError: With `cache`, they do not fit into memory.
    """

    def __init__(self, samples: SampleSet, transform: Transform, *, cache: bool = False) -> None:
        self.samples = samples
        self.transform = transform
        self._decoded: list[Image.Image] | None = None
        if cache:
            self._decoded = _decode_all(samples.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor] | Unreadable:
        sample = self.samples.samples[draw.index]
        image = self._decoded[draw.index] if self._decoded else _decode(sample)
        if isinstance(image, Unreadable):
            return image
        return self.transform(image, draw.key), self._target(sample.labels)

    def _target(self, labels: tuple[int, ...]) -> Tensor:
        if not self.samples.multi_label:
            return torch.tensor(labels[0])
        target = torch.zeros(self.samples.num_classes)
        target[list(labels)] = 1
        return target


def feed(
    pictures: Pictures, batches: Iterable[Sequence[Draw]], *, num_workers: int = -1
) -> Iterator[Batch]:
    """Yield the batches, prepared ahead.

    Args:
        pictures: Where they come from.
        batches: What is in each; looked at a few batches ahead.
        num_workers: Processes; 0 prepares them here, -1 takes what suits the machine.

    Raises:
        DatasetError: A picture cannot be read.
        TrainingError: A worker process ended.
    """
    if num_workers < 0:
        num_workers = choose_workers()
    loader: Iterable[Batch | Unreadable] = DataLoader(
        pictures,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=_collate,
        worker_init_fn=_init_worker if num_workers else None,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if num_workers else None,
        # Their random numbers come with each picture; this would draw from the global ones.
        generator=torch.Generator(),
    )
    try:
        for batch in loader:
            if isinstance(batch, Unreadable):
                raise _unreadable(batch)
            yield batch
    except (EOFError, ConnectionError) as error:  # it ended while it handed over a batch
        raise _lost_worker(error) from error


@contextlib.contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Say so when a worker process ended; torch learns that by a signal, and so at any time.

    Raises:
        TrainingError: That is what happened.
    """
    try:
        yield
    except ResNeXtError:
        raise
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _lost_worker(error) from error


def choose_workers() -> int:
    """Return how many worker processes suit: the cores a training process has to itself."""
    if torch.cuda.is_available():
        return min(cores(), 16)
    # The network needs the cores itself. One worker keeps many fed; beside one or two it makes
    # their threads wait for each other: 70 pictures/s with, 86 without (64 pixels, ResNeXt-50).
    return 1 if cores() > 2 else 0


def _decode(sample: Sample) -> Image.Image | Unreadable:
    try:
        return images.open_rgb(sample.source)
    except ImageError as error:
        return Unreadable(sample.name, error.reason)


def _decode_or_raise(sample: Sample) -> Image.Image:
    image = _decode(sample)
    if isinstance(image, Unreadable):
        raise _unreadable(image)
    return image


def _decode_all(samples: Sequence[Sample]) -> list[Image.Image]:
    """Decode pictures to be kept, if the first few say that all fit into memory."""
    with ThreadPoolExecutor(cores(), thread_name_prefix="resnext-cache") as pool:
        decoded = list(pool.map(_decode_or_raise, samples[:_PROBE]))
        size = sum(image.width * image.height for image in decoded) * _PIXEL / len(decoded)
        memory.check_room(
            size * len(samples), f"data.cache=true: {counted(len(samples), 'picture')}",
            hint="--set data.cache=false, with which a run may go on",
        )  # fmt: skip
        return decoded + list(pool.map(_decode_or_raise, samples[_PROBE:]))


def _collate(items: list[tuple[Tensor, Tensor] | Unreadable]) -> Batch | Unreadable:
    for item in items:
        if isinstance(item, Unreadable):
            return item
    pixels, targets = zip(*items, strict=True)
    return torch.stack(pixels), torch.stack(targets)


def _init_worker(_index: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C comes to all; see below
    # Job systems send SIGTERM to all processes at once, and the training process still needs
    # its workers for the step after which it saves: they end when that one says so.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)


def _unreadable(picture: Unreadable) -> DatasetError:
    return DatasetError(
        f"{picture.name}: {picture.reason}",
        hint="put a readable picture in its place, and the same command goes on; a run that begins"
        " with data.scan=true, the default, leaves such pictures out",
    )


def _lost_worker(error: Exception) -> TrainingError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return TrainingError(
        f"a process that prepares pictures ended: {reason}",
        hint="often memory is short: try a smaller data.num_workers; the same command goes on"
        " from the last checkpoint",
    )
