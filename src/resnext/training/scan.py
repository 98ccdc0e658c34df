"""Decode every picture before a long run, and name those that fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from resnext import images
from resnext.errors import ImageError
from resnext.training.samples import Sample, SampleSet

_AHEAD = 16  # pictures for each thread, between two looks at what is done


@dataclass(frozen=True, slots=True)
class Problem:
    """A picture that cannot be read.

    Args:
        name: Name of the picture.
        reason: Why not, such as "is truncated".
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def scan(
    sample_set: SampleSet,
    *,
    share: slice = slice(None),
    progress: Callable[[int, int], object] | None = None,
    threads: int | None = None,
) -> list[Problem]:
    """Decode all pictures as training will.

    Args:
        sample_set: The pictures.
        share: Which of them to look at.
        progress: Called now and then with the number of pictures done and that of all.
        threads: How many decode at once; by default one for each of `cores`.

    Returns:
        What is wrong, in the order of the set.
    """
    threads = threads or cores()
    samples, problems = sample_set.samples[share], []
    with ThreadPoolExecutor(threads, thread_name_prefix="resnext-scan") as pool:
        for start in range(0, len(samples), threads * _AHEAD):
            block = samples[start : start + threads * _AHEAD]
            problems += [problem for problem in pool.map(_look, block) if problem]
            if progress is not None:
                progress(start + len(block), len(samples))
    return problems


def cores() -> int:
    """Return the cores that a process has to itself, of those that torchrun started here."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max((found or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def without(sample_set: SampleSet, problems: Iterable[Problem]) -> SampleSet:
    """Return the set without the pictures that have problems.

    Raises:
        DatasetError: There is no other picture.
    """
    names = {problem.name for problem in problems}
    kept = [sample for sample in sample_set.samples if sample.name not in names]
    return replace(sample_set, samples=kept)


def _look(sample: Sample) -> Problem | None:
    try:
        images.open_rgb(sample.source)
    except ImageError as error:
        return Problem(sample.name, error.reason)
    return None
