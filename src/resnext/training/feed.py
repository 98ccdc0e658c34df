"""[torch] Decode, transform and batch pictures in worker processes, in a fixed order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnext import images
from resnext.errors import DatasetError, ImageError
from resnext.training.order import Draw
from resnext.training.samples import SampleSet

Transform = Callable[[Image.Image, int], Tensor]
Batch = tuple[Tensor, Tensor]  # (N, 3, S, S) uint8; (N,) class indices or (N, K) of 0 and 1


class Pictures(Dataset[Any]):
    """The pictures of a set by `Draw`.

    Args:
        samples: The set.
        transform: From an RGB picture and a key to (3, S, S) uint8.
        cache: Decode all now and keep them: for small pictures.

    Raises:
        DatasetError: With `cache`, a picture cannot be read.
    """

    def __init__(self, samples: SampleSet, transform: Transform, *, cache: bool = False) -> None:
        self.samples = samples
        self.transform = transform
        self._decoded: list[Image.Image] | None = None
        if cache:
            try:
                self._decoded = [images.open_rgb(sample.source) for sample in samples.samples]
            except ImageError as error:
                raise _unreadable(error) from error

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor] | ImageError:
        sample = self.samples.samples[draw.index]
        try:
            image = self._decoded[draw.index] if self._decoded else images.open_rgb(sample.source)
        except ImageError as error:  # not raised: a worker's exceptions lose their type
            return ImageError(sample.name, error.reason)
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
    """
    if num_workers < 0:
        num_workers = choose_workers()
    loader: Iterable[Batch | ImageError] = DataLoader(
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
    for batch in loader:
        if isinstance(batch, ImageError):
            raise _unreadable(batch)
        yield batch


def choose_workers() -> int:
    """Return how many worker processes suit: the cores a training process has to itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    share = (cores or 1) // processes
    # Without a GPU the network needs the cores itself; one worker keeps it fed.
    return min(share, 16) if torch.cuda.is_available() else 1


def _collate(items: list[tuple[Tensor, Tensor] | ImageError]) -> Batch | ImageError:
    for item in items:
        if isinstance(item, ImageError):
            return item
    pixels, targets = zip(*items, strict=True)
    return torch.stack(pixels), torch.stack(targets)


def _init_worker(_index: int) -> None:
    torch.set_num_threads(1)
    # Where SIGTERM goes to all processes at once, the training process still needs its workers
    # for the step after which it saves; they end with it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unreadable(error: ImageError) -> DatasetError:
    return DatasetError(
        f"{error.path}: {error.reason}", hint="remove it, or find all of them before a long run"
    )
