"""Fingerprints of what pictures look like, and pairs that are near.

The fingerprint says which of the 64 lowest frequencies of the grey picture are stronger than
their median ("pHash"). Another quality or size changes a few bits; another picture, half.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32  # px of the picture that is looked at
RADIUS = 8  # bits in which fingerprints of the same picture differ at the most

_BITS = 64
# Of two fingerprints with 9 different bits or fewer, one of 5 bands differs in 1 at the most.
_BANDS = np.array([0, 13, 26, 39, 52, _BITS])
_CHUNK = 1 << 22  # pairs looked at a time: 100 MB
_FREQUENCIES = 12

_DOWN, _RIGHT = np.array(
    sorted(
        ((i, j) for i in range(_FREQUENCIES) for j in range(_FREQUENCIES) if i + j),
        key=lambda place: (sum(place), place),
    )[:_BITS]
).T
_COSINES = np.cos(np.pi / (2 * SIDE) * np.arange(_FREQUENCIES)[:, None] * (2 * np.arange(SIDE) + 1))

Hashes = NDArray[np.uint64]
Pairs = NDArray[np.int64]


def shrink(image: Image.Image) -> Image.Image:
    """Return a picture as `fingerprint` looks at it: 32 pixels a side, whatever its shape."""
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)


def fingerprint(small: Image.Image) -> int:
    """Compute the fingerprint of what `shrink` made."""
    grey = np.asarray(small.convert("L"), np.float64)
    strengths = (_COSINES @ grey @ _COSINES.T)[_DOWN, _RIGHT]
    bits = np.packbits(strengths > np.median(strengths))
    return int.from_bytes(bits.tobytes(), "big")


def distance(first: Hashes, second: Hashes) -> NDArray[np.uint8]:
    """Count the bits that differ."""
    bits: NDArray[np.uint8] = np.bitwise_count(first ^ second)
    return bits


def near_pairs(hashes: Hashes, *, radius: int = RADIUS) -> Pairs:
    """Find all pairs of different fingerprints that are near each other.

    Args:
        hashes: (N,), each there once.
        radius: Most bits that may differ, up to 9.

    Returns:
        (P, 2) positions, the first the smaller one, sorted.
    """
    found = [np.empty((0, 2), np.int64)]
    for band in range(len(_BANDS) - 1):
        width = int(_BANDS[band + 1] - _BANDS[band])
        keys = (hashes >> np.uint64(_BANDS[band])).astype(np.int64) & ((1 << width) - 1)
        for first, second in _same_but_one_bit(keys, width):
            is_near = distance(hashes[first], hashes[second]) <= radius
            found.append(np.stack([first[is_near], second[is_near]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _same_but_one_bit(keys: NDArray[np.int64], width: int) -> Iterator[tuple[Pairs, Pairs]]:
    """Yield blocks of all pairs (i, j), i < j, of keys with at most one bit different."""
    order = np.argsort(keys, kind="stable")
    starts = np.searchsorted(keys[order], np.arange((1 << width) + 1))
    sizes = np.diff(starts)
    for flipped in [0, *(1 << bit for bit in range(width))]:
        partners = keys ^ flipped
        ends = np.cumsum(sizes[partners])
        done = 0
        while done < len(keys):
            before = int(ends[done - 1]) if done else 0
            stop = max(int(np.searchsorted(ends, before + _CHUNK)), done + 1)
            block = np.arange(done, stop)
            counts = sizes[partners[block]]
            first = np.repeat(block, counts)
            offsets = np.arange(len(first)) - np.repeat(ends[block] - counts - before, counts)
            second = order[starts[partners[first]] + offsets]
            ahead = first < second
            yield first[ahead], second[ahead]
            done = stop
