"""Divide pictures into train and val: by class, copies together.

Where a picture goes follows from a hash of its name, not from a generator's state: it is the
same on every machine, and pictures added later move few of the others.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from resnext.sources import open_file
from resnext.training.listing import Entry, FileSlice

_THREADS = 8  # reading waits for the disk, or for the network
_BLOCK = 256  # pictures of a task
_SAMPLE = 4096  # bytes from the middle of a file, which tell most apart


def find_copies(entries: Sequence[Entry]) -> list[int]:
    """Find pictures with the same bytes.

    Whole files are read only where the size and the middle are the same.

    Returns:
        For each picture the position of the first with the same bytes, often its own.
    """
    slices = [_slice(entry) for entry in entries]
    keys: list[tuple[object, ...]] = [
        (number,) if place is None else ("size", place.size) for number, place in enumerate(slices)
    ]
    for digest in (_middle, _whole):
        counts = Counter(keys)
        shared = [number for number, key in enumerate(keys) if counts[key] > 1]
        found = _in_threads(digest, [place for n in shared if (place := slices[n])])
        for number, value in zip(shared, found, strict=True):
            keys[number] += (value or number,)
    first: dict[tuple[object, ...], int] = {}
    return [first.setdefault(key, number) for number, key in enumerate(keys)]


def split(
    entries: Sequence[Entry], same: Sequence[int], *, seed: int, val_share: float
) -> tuple[list[int], list[int]]:
    """Choose the pictures to validate on.

    Of each class about the share is taken, but never the last picture; the rarest class
    chooses first, which matters where pictures are of several classes.

    Args:
        entries: All pictures.
        same: What `find_copies` says of them: copies stay together.
        seed: Another seed gives another choice.
        val_share: Share to choose, 0 to 1.

    Returns:
        Positions of the pictures in train and in val, ascending.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for number, first in enumerate(same):
        groups[first].append(number)
    classes = {
        first: tuple(sorted({name for number in group for name in entries[number].classes}))
        for first, group in groups.items()
    }
    of_class: dict[str, list[int]] = defaultdict(list)
    for first in sorted(groups, key=lambda first: _rank(seed, entries[first].name)):
        for name in classes[first] or ("",):  # "": of none
            of_class[name].append(first)
    left = {name: len(members) for name, members in of_class.items()}
    chosen: set[int] = set()
    for name in sorted(of_class, key=lambda name: (len(of_class[name]), name)):
        wanted = round(val_share * sum(len(groups[first]) for first in of_class[name]))
        wanted -= sum(len(groups[first]) for first in of_class[name] if first in chosen)
        for first in of_class[name]:
            fits = first not in chosen and len(groups[first]) <= wanted
            if fits and all(left[other] > 1 for other in classes[first]):
                chosen.add(first)
                wanted -= len(groups[first])
                for other in classes[first]:
                    left[other] -= 1
    val = sorted(number for first in chosen for number in groups[first])
    return sorted(set(range(len(entries))) - set(val)), val


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{name}".encode(errors="surrogateescape")).digest()


def _slice(entry: Entry) -> FileSlice | None:
    """Return where the bytes of a picture lie, or None where they cannot be looked at."""
    if isinstance(entry.source, FileSlice):
        return entry.source
    try:
        return FileSlice(entry.name, entry.source, 0, os.stat(entry.source).st_size)
    except (OSError, ValueError):
        return None


def _middle(place: FileSlice) -> bytes | None:
    start = max(0, (place.size - _SAMPLE) // 2)
    return _digest(place, start, min(_SAMPLE, place.size))


def _whole(place: FileSlice) -> bytes | None:
    return _digest(place, 0, place.size)


def _in_threads(
    digest: Callable[[FileSlice], bytes | None], places: Sequence[FileSlice]
) -> list[bytes | None]:
    # In blocks: a task each would cost more than reading from a fast disk.
    blocks = [places[start : start + _BLOCK] for start in range(0, len(places), _BLOCK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        done = pool.map(lambda block: [digest(place) for place in block], blocks)
        return [value for block in done for value in block]


def _digest(place: FileSlice, start: int, size: int) -> bytes | None:
    try:
        with open_file(place.path) as file:
            file.seek(place.offset + start)
            return hashlib.sha256(file.read(size)).digest()
    except (OSError, ValueError):  # ValueError: the path holds a null character
        return None
