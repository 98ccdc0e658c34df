"""What a network sees in pictures, computed once and kept on the disk.

    <cache_home>/features/<network>/rows-<any>.bin   features by the hash of the picture
    <cache_home>/features/<network>/set-<hash>.bin   which of them a model was made from

The key is the sha256 of the picture's bytes, so a picture that moves or comes twice is
computed once. `<network>` stands for the weights below the last layer, the preprocessing,
the engine and its precision. Nothing here needs torch or scikit-learn.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import struct
import threading
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnext import images, weights
from resnext.backbone import hash_backbone, hash_eight_bits
from resnext.classifier import DEFAULT_MODEL, Classifier
from resnext.engines.base import GRAPH_VERSION
from resnext.engines.compiled import make_key
from resnext.errors import ImageError, OutputError
from resnext.files import atomic
from resnext.hub.cache import cache_home
from resnext.modelfile import Tensors
from resnext.training.samples import Sample
from resnext.training.scan import Problem
from resnext.weights import LocalModel

FEATURES_VERSION = 1  # raised with every change to how pictures are decoded or prepared
MAX_BYTES = 2 << 30  # of one network: 260,000 pictures of 2048 features

_KEY = 32  # bytes of a sha256
_FLUSH = 4096  # pictures after which what is new is written
_MOST_ROWS = 1 << 32  # of one file
_PART = 1 << 20  # bytes read at a time
_MAGIC = b"resnextf"
_TRAILER = struct.Struct("<8sQI")  # magic, bytes before it, their CRC-32
_SET = np.dtype([("key", "u1", (_KEY,)), ("label", "<i4"), ("held_out", "u1")])


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureTable:
    """Features of labelled pictures.

    Args:
        keys: sha256 of each of the N pictures.
        rows: (N, D) features.
        labels: (N,) classes.
        held_out: (N,) whether a picture is one to validate on.
    """

    keys: tuple[bytes, ...]
    rows: NDArray[np.float32]
    labels: NDArray[np.int64]
    held_out: NDArray[np.bool_]

    def __add__(self, other: FeatureTable) -> FeatureTable:
        return FeatureTable(
            keys=self.keys + other.keys,
            rows=np.concatenate([self.rows, other.rows]),
            labels=np.concatenate([self.labels, other.labels]),
            held_out=np.concatenate([self.held_out, other.held_out]),
        )

    def number(self) -> NDArray[np.int64]:
        """Return (N,) numbers, the same for pictures with the same bytes."""
        numbers: dict[bytes, int] = {}
        return np.array([numbers.setdefault(key, len(numbers)) for key in self.keys], np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extraction:
    """What became of some pictures.

    Args:
        kept: Positions of the M pictures that have features, ascending.
        keys: sha256 of each of these.
        rows: (M, D) their features.
        problems: The other pictures, and why they have none.
        num_computed: How many different ones were computed, and not in the cache.
    """

    kept: NDArray[np.int64]
    keys: tuple[bytes, ...]
    rows: NDArray[np.float32]
    problems: tuple[Problem, ...]
    num_computed: int


class FeatureStore:
    """The features of one network on this disk.

    Rows stay in their files, which are mapped: memory holds the keys, 150 bytes each, and what
    is not written yet. A file that is damaged is removed, and its pictures are computed again;
    a folder that cannot be written costs a warning, and the memory for the rows. Processes may
    share the folder.

    Args:
        folder: Where they are; made when there is something to write.
        width: Number of features D.
        max_bytes: What the rows may take on the disk.
    """

    def __init__(self, folder: Path, width: int, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.width = width
        self._max_bytes = max_bytes
        self._dtype = np.dtype([("key", "u1", (_KEY,)), ("row", "<f4", (width,))])
        self._rows: dict[bytes, NDArray[np.float32]] = {}  # of pictures that are in no file
        self._places: dict[bytes, int] = {}  # number of a file x _MOST_ROWS + row in it
        self._files: list[NDArray[Any]] = []
        self._new: list[bytes] = []
        self._written: list[Path] = []
        for path in _oldest_first(folder):
            parts = _read_parts(path, self._dtype, lambda part: part["key"].copy())
            if parts:
                self._map(path, [key.tobytes() for part in parts for key in part])

    def __contains__(self, key: bytes) -> bool:
        # In this order: meanwhile another thread may move it from here to there.
        return key in self._rows or key in self._places

    def __getitem__(self, key: bytes) -> NDArray[np.float32]:
        row = self._rows.get(key)
        if row is None:
            file, position = divmod(self._places[key], _MOST_ROWS)
            row = self._files[file]["row"][position]
        return row

    @property
    def has_room(self) -> bool:
        """Whether the disk will keep what is added now: that much this run has not written."""
        return len(self._written) * _FLUSH * self._dtype.itemsize < self._max_bytes

    def add(self, key: bytes, row: NDArray[np.float32]) -> None:
        """Keep the features of a picture; written with many others, or at `flush`."""
        self._rows[key] = row
        self._new.append(key)
        if len(self._new) >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write what is new."""
        if not self._new:
            return
        entries = np.empty(len(self._new), self._dtype)
        entries["key"] = _as_array(self._new)
        entries["row"] = [self._rows[key] for key in self._new]
        new, self._new = self._new, []
        path = self.folder / f"rows-{secrets.token_hex(8)}.bin"
        if self._write(path.name, entries):
            self._written.append(path)
            if self._map(path, new):
                for key in new:
                    self._rows.pop(key, None)
            self._prune()

    def _map(self, path: Path, keys: Sequence[bytes]) -> bool:
        """Take the rows of a file from there."""
        try:
            entries = np.memmap(path, self._dtype, "r", shape=(len(keys),))
        except (OSError, ValueError):  # another process may have removed it
            return False
        first = len(self._files) * _MOST_ROWS
        self._files.append(np.asarray(entries))
        self._places.update(zip(keys, range(first, first + len(keys)), strict=True))
        return True

    def save_set(self, table: FeatureTable) -> str:
        """Note which pictures a model is made from, so that a class can be added later.

        Returns:
            A name for `load_set`, which follows from the pictures and labels.
        """
        entries = np.empty(len(table.keys), _SET)
        entries["key"] = _as_array(table.keys)
        entries["label"], entries["held_out"] = table.labels, table.held_out
        name = hashlib.sha256(entries.tobytes()).hexdigest()[:32]
        self._write(f"set-{name}.bin", entries)
        return name

    def load_set(self, name: str) -> FeatureTable | None:
        """Return pictures that were noted, or None unless all of them are here."""
        entries = _read(self.folder / f"set-{name}.bin", _SET) if name.isalnum() else None
        if entries is None:
            return None
        keys = tuple(key.tobytes() for key in entries["key"])
        if not all(key in self for key in keys):
            return None
        return FeatureTable(
            keys=keys,
            rows=self.rows_of(keys),
            labels=entries["label"].astype(np.int64),
            held_out=entries["held_out"].astype(bool),
        )

    def rows_of(self, keys: Sequence[bytes]) -> NDArray[np.float32]:
        """Return (N, D) features of pictures that are all here."""
        rows = np.empty((len(keys), self.width), np.float32)
        for number, key in enumerate(keys):
            rows[number] = self[key]
        return rows

    def _write(self, name: str, entries: NDArray[Any]) -> bool:
        body = entries.tobytes()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic(self.folder / name) as file:
                file.write(body)
                file.write(_TRAILER.pack(_MAGIC, len(body), zlib.crc32(body)))
        except (OutputError, OSError) as error:
            reason = error.message if isinstance(error, OutputError) else str(error)
            warnings.warn(
                f"the features are not cached, the next run computes them again: {reason}",
                RuntimeWarning,
                stacklevel=3,
            )
            return False
        return True

    def _prune(self) -> None:
        """Remove rows beyond the bound: the oldest, and of this run the last.

        The other way round, a run over more pictures than fit would leave the next one only
        those that it comes to last, after it has removed them. What is mapped can be read all
        the same until this process ends.
        """
        room = self._max_bytes
        others = [path for path in _oldest_first(self.folder) if path not in self._written]
        for number, path in enumerate([*self._written, *reversed(others)]):
            with contextlib.suppress(OSError):  # another process may be pruning too
                room -= path.stat().st_size
                if room < 0 and number > 0:
                    path.unlink()


def open_store(classifier: Classifier, tensors: Tensors) -> FeatureStore:
    """Open the features of a network.

    Models that differ in the last layer only, as before and after `finetune --head-only`,
    share theirs.

    Args:
        classifier: What computes them.
        tensors: Its weights.
    """
    document, engine = classifier.document, classifier.engine
    facts = {
        "backbone": hash_backbone(tensors),
        "architecture": document.architecture.name,
        "preprocess": document.preprocess.to_json(),
        "versions": [GRAPH_VERSION, FEATURES_VERSION],
        **({"eight_bits": hash_eight_bits(document)} if engine.precision == "int8" else {}),
    }
    parts = (document.architecture.name, engine.name, engine.precision, make_key(facts)[:16])
    return FeatureStore(
        cache_home() / "features" / "-".join(parts), document.architecture.embedding_size
    )


def made_with(local: LocalModel) -> dict[str, str]:
    """Return the engine and precision of a file's making, where its features are kept for them.

    Args:
        local: A file of `finetune --head-only`, or another: then nothing is returned.
    """
    document = local.document
    record = document.provenance.get("dataset")
    name = str(record.get("set")) if isinstance(record, dict) else ""
    made = (document.provenance.get("engine"), document.metrics.get("precision"))
    for path in (cache_home() / "features").glob(f"*/set-{name}.bin") if name.isalnum() else ():
        architecture, *parts, _ = path.parent.name.rsplit("-", 3)  # as `open_store` names it
        if (architecture, *parts) == (document.architecture.name, *made):
            return dict(zip(("engine", "precision"), parts, strict=True))
    return {}


def open_as_made(
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    engine: str = "auto",
    precision: str = "auto",
    **options: Any,
) -> Classifier:
    """Open a file of `finetune.tune_head` so that the features it was made from are found again.

    Args:
        model: As for `Classifier`.
        engine: "auto" for that of its making, if the features are here.
        precision: The same.
        options: More for `Classifier`.
    """
    local = weights.locate(model, offline=options.get("offline"), progress=options.get("progress"))
    made = made_with(local)
    if made and engine in ("auto", made["engine"]) and precision in ("auto", made["precision"]):
        engine, precision = made["engine"], made["precision"]
    return Classifier(model, engine=engine, precision=precision, **options)


def extract(
    classifier: Classifier,
    samples: Sequence[Sample],
    store: FeatureStore,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> Extraction:
    """Compute the features of pictures, each only where the store does not have it.

    What is new is stored, also where the work is interrupted.

    Args:
        classifier: Decodes and computes as it does to predict.
        samples: The pictures; their labels are not looked at.
        store: Of that classifier.
        progress: Called with the number of pictures done and that of all.
    """
    keys: list[bytes | None] = [None] * len(samples)
    reasons: dict[bytes | int, str] = {}  # by key or, without one, by position
    asked: set[bytes] = set()
    waiting: deque[bytes] = deque()
    count = _Count(len(samples), progress)

    def unseen() -> Iterator[Any]:  # runs in a thread of its own, ahead of the engine
        for position, sample in enumerate(samples):
            try:
                key, source = identify_picture(sample.source)
            except ImageError as error:
                reasons[position] = error.reason
                count.add()
                continue
            keys[position] = key
            if key in store or key in asked:
                count.add()
                continue
            asked.add(key)
            waiting.append(key)
            yield source

    try:
        for row in classifier.embed_each(unseen()):
            computed = waiting.popleft()
            if isinstance(row, ImageError):
                reasons[computed] = row.reason
            else:
                store.add(computed, row)
            count.add()
    finally:
        store.flush()
    kept = [position for position, key in enumerate(keys) if key is not None and key in store]
    found = tuple(key for position in kept if (key := keys[position]) is not None)
    return Extraction(
        kept=np.array(kept, np.int64),
        keys=found,
        rows=store.rows_of(found),
        problems=_problems(samples, keys, reasons),
        num_computed=len(asked.difference(reasons)),
    )


def learned_pictures(name: str) -> frozenset[bytes]:
    """Return the sha256 of the pictures that a model has learned from, as far as is known.

    Args:
        name: What `save_set` of any network returned.

    Returns:
        None of those held out, and none at all where there is no such set on this disk.
    """
    if name.isalnum():
        for path in (cache_home() / "features").glob(f"*/set-{name}.bin"):
            entries = _read(path, _SET)
            if entries is not None:
                return frozenset(key.tobytes() for key in entries["key"][entries["held_out"] == 0])
    return frozenset()


class _Count:
    """Pictures done, by two threads."""

    def __init__(self, total: int, progress: Callable[[int, int], object] | None) -> None:
        self._done, self._total = 0, total
        self._progress = progress
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)


def _problems(
    samples: Sequence[Sample], keys: Sequence[bytes | None], reasons: Mapping[bytes | int, str]
) -> tuple[Problem, ...]:
    named = (
        (sample.name, reasons.get(position if key is None else key))
        for position, (sample, key) in enumerate(zip(samples, keys, strict=True))
    )
    return tuple(Problem(name, reason) for name, reason in named if reason is not None)


def identify_picture(source: Any) -> tuple[bytes, Any]:
    """Return the sha256 of a picture, and what to decode it from.

    Args:
        source: What `images.open_rgb` takes, but no address.

    Raises:
        ImageError: It cannot be read.
    """
    if isinstance(source, np.ndarray | Image.Image):
        pixels = images.read(source)
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest(), pixels
    if images.is_url(source):
        raise ImageError(str(source), "is an address; expected a file")
    content = images.read_bytes(source)
    return hashlib.sha256(content).digest(), content


def _as_array(keys: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY)


def _oldest_first(folder: Path) -> list[Path]:
    found = []
    for path in folder.glob("rows-*.bin"):
        with contextlib.suppress(OSError):  # another process may have removed it
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def _read(path: Path, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Read what `_write` wrote; None if it is not there or, then removed, not whole."""
    parts = _read_parts(path, dtype, np.copy)
    return None if parts is None else np.concatenate([np.empty(0, dtype), *parts])


def _read_parts(
    path: Path, dtype: np.dtype[Any], keep: Callable[[NDArray[Any]], NDArray[Any]]
) -> list[NDArray[Any]] | None:
    """Read as `_read` does, but keep of each part only what is wanted."""
    kept: list[NDArray[Any]] = []
    checksum, step = 0, max(1, _PART // dtype.itemsize) * dtype.itemsize
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size - _TRAILER.size
            is_whole = size >= 0 and size % dtype.itemsize == 0
            for start in range(0, size if is_whole else 0, step):
                part = file.read(min(step, size - start))
                checksum = zlib.crc32(part, checksum)
                kept.append(keep(np.frombuffer(part, dtype)))
            if is_whole and file.read() == _TRAILER.pack(_MAGIC, size, checksum):
                return kept
    except (OSError, ValueError):  # ValueError: it became shorter meanwhile
        return None
    with contextlib.suppress(OSError):
        path.unlink()
    return None
