"""One look at each picture: bytes, header, fingerprint, features.

Every file is read once and decoded once, in threads, while the engine computes; what is
ahead is bounded. A picture leaves 560 bytes here beside its names, and features in the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnext import bombs, images, prefetch, preprocess
from resnext.classifier import Classifier
from resnext.doctor import hashes
from resnext.doctor.intake import Intake
from resnext.errors import ImageError
from resnext.preprocess import PreprocessSpec
from resnext.sources import SIGNATURE_LENGTH, Header, sniff
from resnext.training.features import FeatureStore
from resnext.training.listing import Entry

CUT = "is truncated"  # as `images` says
THUMBNAIL = 12  # px a side

_PIXELS = 0xDA  # the marker before them in a JPEG
_PER_BATCH, _AHEAD = 16, 48  # pictures, where no engine says how many suit it
# Of what stays of a picture. `dark` and `light` are the extremes of the shrunk grey picture,
# `spread` the largest difference of levels in a channel of the whole.
_RECORD = np.dtype(
    [
        ("readable", "?"),
        ("content", "u1", (32,)),
        ("pixels", "u1", (16,)),
        ("hash", "<u8"),
        ("thumbnail", "u1", (THUMBNAIL, THUMBNAIL, 3)),
        ("format", "U5"),
        ("mode", "U8"),
        ("depth", "u1"),
        ("alpha", "?"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("orientation", "<i4"),
        ("spread", "u1"),
        ("dark", "u1"),
        ("light", "u1"),
        ("ended", "?"),
    ]
)


@dataclass(slots=True)
class Look:
    """What one look at one picture gave.

    Args:
        content: sha256 of its bytes, b"" where they cannot be read.
        problem: Why it has no pixels, or "".
        record: Values for the fields of the table.
        prepared: (S, S, 3) for the engine, None where there is none or features are known.
    """

    content: bytes = b""
    problem: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    prepared: NDArray[np.uint8] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The facts on N pictures.

    Args:
        intake: Which pictures.
        records: (N,) with a field for each fact.
        problems: Why a picture cannot be read, by position.
        store: Features by the hash of the content; None where none were wanted.
        num_computed: How many features were not in the store before.
    """

    intake: Intake
    records: NDArray[Any]
    problems: dict[int, str]
    store: FeatureStore | None = None
    num_computed: int = 0

    def __getitem__(self, name: str) -> NDArray[Any]:
        values: NDArray[Any] = self.records[name]
        return values

    def __len__(self) -> int:
        return len(self.records)

    @property
    def entries(self) -> Sequence[Entry]:
        """The pictures."""
        return self.intake.entries

    @property
    def readable(self) -> NDArray[np.int64]:
        """Positions of the pictures that have pixels, ascending."""
        return np.flatnonzero(self["readable"])

    def features(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (M, D) features of readable pictures; there must be a store."""
        assert self.store is not None, "nobody asks without one"
        return self.store.rows_of([key.tobytes() for key in self["content"][positions]])


def gather(
    intake: Intake,
    *,
    classifier: Classifier | None = None,
    store: FeatureStore | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Table:
    """Look at every picture once.

    Args:
        intake: Which pictures.
        classifier: Computes features, with `store`; without one there are none.
        store: Of that classifier.
        progress: Called with the number of pictures done and that of all.
    """
    records = np.zeros(len(intake), _RECORD)
    problems: dict[int, str] = {}
    computed, done = 0, 0
    try:
        for looks in _looks(intake.entries, classifier, store):
            for look in looks:
                _keep(look, done, records, problems)
                done += 1
            if classifier is not None and store is not None:
                computed += _compute(looks, classifier, store)
            if progress is not None:
                progress(done, len(intake))
    finally:
        if store is not None:
            store.flush()
    return Table(
        intake=intake, records=records, problems=problems, store=store, num_computed=computed
    )


def look(
    entry: Entry, *, spec: PreprocessSpec | None = None, store: FeatureStore | None = None
) -> Look:
    """Read and decode one picture; whatever is wrong with it is in the result."""
    try:
        content = images.read_bytes(entry.source)
    except ImageError as error:
        return Look(problem=error.reason)
    found = Look(content=hashlib.sha256(content).digest())
    try:
        image, header = images.decode(content)
        found.record = _record(content, image, header)
        if spec is not None and store is not None and found.content not in store:
            upright = spec.orientation == "exif"
            seen = image if upright else images.open_rgb(content, orientation="ignore")
            found.prepared = preprocess.apply(seen, spec)
    except ImageError as error:
        # Cut so short that the header is damaged, it is truncated all the same.
        format = sniff(content[:SIGNATURE_LENGTH])
        found.problem = error.reason if format is None or _has_end(content, format) else CUT
        found.record = {}
    return found


def _looks(
    entries: Sequence[Entry], classifier: Classifier | None, store: FeatureStore | None
) -> Iterator[list[Look]]:
    spec = None if classifier is None else classifier.document.preprocess
    size = _PER_BATCH if classifier is None else classifier.engine.best_batch_size
    return prefetch.batches(
        entries,
        lambda _position, entry: look(entry, spec=spec, store=store),
        batch_size=size,
        ahead=max(_AHEAD, 2 * size),
        patience=1.0,  # files come soon enough; a batch that is full is worth a wait
    )


def _keep(look: Look, position: int, records: NDArray[Any], problems: dict[int, str]) -> None:
    record = records[position]
    if look.content:
        record["content"] = np.frombuffer(look.content, np.uint8)
    for name, value in look.record.items():
        record[name] = value
    if look.problem:
        problems[position] = look.problem
    else:
        record["readable"] = True


def _compute(looks: Sequence[Look], classifier: Classifier, store: FeatureStore) -> int:
    new = {
        look.content: look.prepared
        for look in looks
        if look.prepared is not None and look.content not in store
    }
    if new:
        outputs = classifier.engine.run(np.stack(list(new.values())))
        for key, row in zip(new, outputs.embedding, strict=True):
            store.add(key, row)
    return len(new)


def _record(content: bytes, image: Image.Image, header: Header) -> dict[str, Any]:
    small = hashes.shrink(image)
    thumbnail = small.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    dark, light = small.convert("L").getextrema()
    ranges = image.getextrema()
    return {
        "pixels": np.frombuffer(_hash_pixels(image), np.uint8),
        "hash": hashes.fingerprint(small),
        "thumbnail": np.asarray(thumbnail),
        "format": header.format,
        "mode": header.mode,
        "depth": header.depth,
        "alpha": header.alpha,
        "width": image.width,
        "height": image.height,
        "orientation": header.orientation,
        "spread": max(high - low for low, high in ranges),  # type: ignore[misc]
        "dark": dark,
        "light": light,
        "ended": _has_end(content, header.format),
    }


def _has_end(content: bytes, format: str) -> bool:
    """Tell whether a JPEG or PNG has its end mark; some programs add more behind it."""
    if format == "PNG":
        return content.rfind(b"IEND") >= 0
    if format != "JPEG":
        return True
    segments = bombs.jpeg_segments(content)
    pixels = next((place for marker, place in segments if marker == _PIXELS), 0)
    return content.find(b"\xff\xd9", pixels) >= 0


def _hash_pixels(image: Image.Image) -> bytes:
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    rows = max(1, 2**20 // image.width)
    for top in range(0, image.height, rows):  # in bands, which add little memory
        digest.update(image.crop((0, top, image.width, min(image.height, top + rows))).tobytes())
    return digest.digest()
