"""Find copies: same bytes, same pixels, or nearly the same looks.

Near ones have fingerprints that differ in a few bits, and then have to agree in a small
picture; what the network sees decides where that leaves a doubt. Copies of copies are one
group.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from resnext.doctor import hashes
from resnext.doctor.checks import blank, part_name
from resnext.doctor.facts import Table
from resnext.doctor.findings import Finding
from resnext.doctor.intake import PARTS

# Correlation of the small pictures: of copies at half the size and quality 70 it is 0.98 and
# more, of the nearest two different ones among 100,000 it is 0.98.
SURELY_ALIKE = 0.98
MAYBE_ALIKE = 0.95  # what the network sees decides
MIN_COSINE = 0.85  # of the angle between the features; copies at half the size may have 0.4
MAX_SHADE = 24.0  # levels by which the small pictures may differ on average

_SAME_BYTES, _SAME_PIXELS, _ALIKE = "has the same bytes as", "has the same pixels as", "looks like"
_PER_HASH = 4  # pictures with one fingerprint that are compared with those of another
_COMPARED = 32  # pictures of a group of near copies that another is compared with
_BLOCK = 4096  # pairs compared at a time

Pairs = NDArray[np.int64]


def find_groups(table: Table) -> list[list[int]]:
    """Group the pictures that are copies of each other.

    Returns:
        Positions of each group of two and more, ascending.
    """
    exact = [*_stars(table, "content"), *_stars(table, "pixels")]
    near = near_pairs(table).tolist()
    leader = list(range(len(table)))
    for first, second in (*exact, *near):
        one, other = _leader(leader, first), _leader(leader, second)
        leader[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = defaultdict(list)
    for position in range(len(table)):
        groups[_leader(leader, position)].append(position)
    return [group for group in groups.values() if len(group) > 1]


def near_pairs(table: Table) -> Pairs:
    """Find pairs of pictures with different pixels that look the same.

    Returns:
        (P, 2) positions.
    """
    members = np.flatnonzero(table["readable"] & ~blank(table))
    _, firsts = np.unique(_as_void(table["pixels"][members]), return_index=True)
    members = members[np.sort(firsts)]
    pairs = _candidates(members, table["hash"][members])
    kept = [
        block[_agree(table, block)]
        for block in np.array_split(pairs, max(1, -(-len(pairs) // _BLOCK)))
    ]
    return np.concatenate(kept)


def check_copies(table: Table, groups: Iterable[Sequence[int]]) -> list[Finding]:
    """Find copies in one part, copies across parts, and copies with other labels."""
    found: list[Finding] = []
    for group in groups:
        own = [[n for n in group if table.intake.parts[n] == part] for part in range(len(PARTS))]
        for part, members in enumerate(own):
            later = [n for others in own[part + 1 :] for n in others]
            if members and later:
                found += _leaks(table, members, later)
            found += _repeats(table, members)
    return found


def _leaks(table: Table, members: Sequence[int], later: Sequence[int]) -> Iterator[Finding]:
    """Yield the pictures of a part that are in a later one too, to be judged by."""
    twins = _Twins(table, later)
    for position in members:
        yield _finding(table, "leak", "remove", position, twins.of(position))
    if not _same_labels(table, members[0], later[0]):
        yield _conflict(table, members[0], later[0])


def _repeats(table: Table, members: Sequence[int]) -> Iterator[Finding]:
    twins = _Twins(table, members[:1])
    for position in members[1:]:
        yield _repeat(table, position, twins.of(position))
        twins.add(position)


class _Twins:
    """The pictures of a group that came first, to find the one that is most like another."""

    def __init__(self, table: Table, members: Iterable[int]) -> None:
        self._table = table
        self._by_pixels: dict[bytes, int] = {}
        for position in members:
            self.add(position)

    def add(self, position: int) -> None:
        self._by_pixels.setdefault(self._table["pixels"][position].tobytes(), position)

    def of(self, position: int) -> int:
        same = self._by_pixels.get(self._table["pixels"][position].tobytes())
        if same is not None:
            return same
        # The same subject a thousand times over is one group: no need to compare with all.
        others = list(itertools.islice(self._by_pixels.values(), _COMPARED))
        return min(others, key=lambda other: _relation(self._table, position, other)[0])


def _leader(leader: list[int], position: int) -> int:
    while leader[position] != position:
        leader[position] = position = leader[leader[position]]
    return position


def _stars(table: Table, name: str) -> Iterator[tuple[int, int]]:
    """Yield (first, other) for the pictures with the same value."""
    members = table.readable
    _, group = np.unique(_as_void(table[name][members]), return_inverse=True)
    first: dict[int, int] = {}
    for position, number in zip(members.tolist(), group.tolist(), strict=True):
        if first.setdefault(number, position) != position:
            yield first[number], position


def _as_void(rows: NDArray[np.uint8]) -> NDArray[np.void]:
    return np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).reshape(-1)


def _candidates(members: Pairs, values: NDArray[np.uint64]) -> Pairs:
    """Return pairs of members whose fingerprints are the same or near."""
    order = np.argsort(values, kind="stable")
    unique, starts = np.unique(values[order], return_index=True)
    bunches = [members[bunch] for bunch in np.split(order, starts[1:])]
    pairs = [
        np.stack([bunch[:-k], bunch[k:]], axis=1)
        for bunch in bunches
        for k in range(1, min(len(bunch), _PER_HASH))
    ]
    for one, other in hashes.near_pairs(unique).tolist():
        first, second = bunches[one][:_PER_HASH], bunches[other][:_PER_HASH]
        pairs.append(np.stack([np.repeat(first, len(second)), np.tile(second, len(first))], axis=1))
    return np.sort(np.concatenate([np.empty((0, 2), np.int64), *pairs]), axis=1)


def _agree(table: Table, pairs: Pairs) -> NDArray[np.bool_]:
    first, second = (table["thumbnail"][side].astype(np.float32) for side in pairs.T)
    shade = np.abs(first - second).mean(axis=(1, 2, 3))
    alike = np.where(shade <= MAX_SHADE, correlation(first, second), -1.0)
    agree: NDArray[np.bool_] = alike >= SURELY_ALIKE
    doubtful = (alike >= MAYBE_ALIKE) & ~agree
    if table.store is not None and doubtful.any():
        one, other = (table.features(side[doubtful]) for side in pairs.T)
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        agree[doubtful] = (one * other).sum(axis=1) >= MIN_COSINE * lengths
    return agree


def correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute how alike (N, H, W, C) pictures are, whatever their brightness: -1 to 1."""
    one, other = (rows.reshape(len(rows), math.prod(rows.shape[1:])) for rows in (first, second))
    one = one - one.mean(axis=1, keepdims=True)
    other = other - other.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    result: NDArray[np.float32] = (one * other).sum(axis=1) / np.maximum(lengths, 1e-6)
    return result


def _relation(table: Table, one: int, other: int) -> tuple[int, str]:
    """Return how far two copies are apart, and how they are the same."""
    if (table["content"][one] == table["content"][other]).all():
        return -2, _SAME_BYTES
    if (table["pixels"][one] == table["pixels"][other]).all():
        return -1, _SAME_PIXELS
    bits = hashes.distance(table["hash"][[one]], table["hash"][[other]])
    return int(bits[0]), _ALIKE


def _same_labels(table: Table, one: int, other: int) -> bool:
    """Tell whether copies have the same labels; one without any is not labelled otherwise."""
    first, second = (set(table.entries[position].classes) for position in (one, other))
    return first == second or not (table.intake.multi_label or (first and second))


def _conflict(table: Table, position: int, other: int) -> Finding:
    return _finding(table, "label-conflict", "keep-one-of", position, other)


def _repeat(table: Table, position: int, other: int) -> Finding:
    if not _same_labels(table, position, other):
        return _conflict(table, position, other)
    is_exact = _relation(table, position, other)[0] < 0
    problem = "duplicate" if is_exact else "near-duplicate"
    return _finding(table, problem, "keep-one-of", position, other)


def _finding(table: Table, problem: str, action: str, position: int, other: int) -> Finding:
    entry, twin = table.entries[position], table.entries[other]
    bits, relation = _relation(table, position, other)
    detail = f"{relation} {twin.name}"
    if part_name(table, position) != part_name(table, other):
        detail += f" in {part_name(table, other)}"
    if not _same_labels(table, position, other):
        detail += f", which is labelled {'|'.join(twin.classes) or 'nothing'}"
    return Finding(
        problem=problem,
        detail=detail,
        action=action,
        path=entry.name,
        part=part_name(table, position),
        label="|".join(entry.classes),
        other=twin.name,
        score=1.0 if bits < 0 else 1 - bits / 64,
        positions=(position, other),
    )
