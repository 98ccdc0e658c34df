"""Which picture comes when: a pure function of seed, epoch, step and rank.

Nothing here has a state, so a run continues in the middle of an epoch by knowing its step,
and any number of processes shares one order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from resnext.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Draw:
    """One picture as it comes in training.

    Args:
        index: Position in the training set.
        key: Seed of what is random about this appearance of it.
    """

    index: int
    key: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """The order of a training set.

    Args:
        count: Pictures in the set.
        batch_size: Global batch size.
        seed: Of the permutations and of what happens to pictures.
        repeats: Times a picture comes in a batch, in neighbouring processes; an epoch then
            sees 1 / repeats of the pictures (arXiv:1902.05509).
        weights: How often each picture is drawn, for balanced sampling; None for once each.

    Raises:
        ConfigError: The set is smaller than a batch.
    """

    count: int
    batch_size: int
    seed: int
    repeats: int = 1
    weights: tuple[float, ...] | None = None
    # Of the last epoch asked for: every batch needs it, 50 to 540 ms at the size of ImageNet.
    _drawn: dict[int, NDArray[np.int64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.count < self.batch_size:
            raise ConfigError(
                f"optim.batch_size is {self.batch_size}; expected at most {self.count}, the"
                " number of training pictures"
            )

    @property
    def steps(self) -> int:
        """Steps of an epoch; what does not fill a batch comes in another epoch."""
        return self.count // self.batch_size

    def batch(self, epoch: int, step: int) -> list[Draw]:
        """Return the global batch of a step.

        Args:
            epoch: From 0.
            step: Of the epoch, from 0.
        """
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        indices = self._permutation(epoch)[places // self.repeats]
        keys = _mix(self.seed, epoch, places)
        return [Draw(int(index), int(key)) for index, key in zip(indices, keys, strict=True)]

    def share(self, epoch: int, step: int, *, rank: int, world_size: int) -> list[Draw]:
        """Return what one of several processes computes of a batch: every n-th picture.

        Raises:
            ConfigError: The batch does not divide among them.
        """
        if self.batch_size % world_size:
            raise ConfigError(
                f"optim.batch_size is {self.batch_size}; expected a multiple of {world_size}, the"
                " number of processes",
                hint=f"--set optim.batch_size={max(self.batch_size // world_size, 2) * world_size}",
            )
        return self.batch(epoch, step)[rank::world_size]

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        drawn = self._drawn.get(epoch)
        if drawn is None:
            rng = np.random.default_rng([self.seed, epoch])
            if self.weights is None:
                drawn = rng.permutation(self.count)
            else:
                chance = np.asarray(self.weights) / np.sum(self.weights)
                drawn = rng.choice(self.count, self.count, p=chance)
            self._drawn.clear()
            self._drawn[epoch] = drawn
        return drawn


def _mix(seed: int, epoch: int, places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a well-mixed number below 2^63 for each place (splitmix64's finalizer)."""
    with np.errstate(over="ignore"):
        start = np.uint64((seed * 1_000_003 + epoch) % 2**64)
        value = (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ start
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
        return (value ^ (value >> np.uint64(31))) >> np.uint64(1)
