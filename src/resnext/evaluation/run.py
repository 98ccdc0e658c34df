"""Pictures to logits on the disk: the long part of an evaluation.

What is computed by what is written beside the logits; labels are no part of it, so the same
logits serve other answers, another map, and restricted classes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from resnext.classifier import Classifier
from resnext.engines.base import GRAPH_VERSION
from resnext.errors import ImageError
from resnext.evaluation.journal import Journal, Row
from resnext.provenance import machine, versions
from resnext.training.features import FEATURES_VERSION, identify_picture, learned_pictures
from resnext.training.listing import Entry, FileSlice

_SOFTWARE = ("numpy", "pillow", "openvino", "onnxruntime", "torch")  # logits depend on these
_GROUP_SECONDS = 1.0  # of work that a stopped run loses, or one batch if that takes longer
_GROUP_ROWS = 4096  # pictures in a group at the most: 16 MB of 1,000 classes

Progress = Callable[[int, int], object]


def identify(classifier: Classifier, entries: Sequence[Entry]) -> dict[str, Any]:
    """Say what is computed by what, as plain JSON values.

    Args:
        classifier: What computes.
        entries: The pictures; a file counts as changed with its size or time.
    """
    document, engine = classifier.document, classifier.engine
    return {
        "model": classifier.local.sha256,
        "preprocess": document.preprocess.to_json(),
        "engine": engine.name,
        "precision": engine.precision,
        "batch_size": engine.best_batch_size,
        "code": [GRAPH_VERSION, FEATURES_VERSION],
        "software": versions(*_SOFTWARE),
        "processor": machine(),
        "threads": classifier.threads or engine.threads,  # asked for, or remembered
        "pictures": len(entries),
        "data": fingerprint(entries),
    }


def fingerprint(entries: Sequence[Entry]) -> str:
    """Hash names, sizes and times of pictures, in order; their labels do not count."""
    digest = hashlib.sha256()
    known: dict[str, str] = {}
    for entry in entries:
        where = entry.source
        path = where.path if isinstance(where, FileSlice) else where
        inside = (where.offset, where.size) if isinstance(where, FileSlice) else ()
        if isinstance(path, str) and path not in known:
            known[path] = _state(path)
        state = known[path] if isinstance(path, str) else ""
        line = f"{entry.name}\0{state}\0{inside}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def compute(
    classifier: Classifier,
    entries: Sequence[Entry],
    journal: Journal,
    *,
    progress: Progress | None = None,
) -> None:
    """Compute the logits that the journal does not have yet.

    Where this machine still has the record of what the model has learned from, the journal
    gets to know which of the pictures these are.

    Args:
        classifier: Decodes and computes as it does to predict.
        entries: All pictures.
        journal: Of these pictures and this classifier.
        progress: Called with the number of pictures done and that of all.

    Raises:
        OutputError: The journal cannot be written.
    """

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, len(entries))

    tell(journal.done)
    first = journal.done
    sources: Iterable[Any] = [entry.source for entry in entries[first:]]
    seen: set[int] = set()
    if learned := learned_from(classifier):
        sources = _look_for(learned, sources, seen)
    for rows in _groups(classifier, sources, lambda count: tell(journal.done + count)):
        begin = journal.done - first
        journal.append(rows, learned=[n for n in range(len(rows)) if begin + n in seen])


def learned_from(classifier: Classifier) -> frozenset[bytes]:
    """Return the sha256 of the pictures that a model has learned from, as far as is known here."""
    record = classifier.document.provenance.get("dataset")
    return learned_pictures(str(record.get("set"))) if isinstance(record, dict) else frozenset()


def find_learned(records: Sequence[frozenset[bytes]], sources: Sequence[Any]) -> list[list[int]]:
    """Return for each record the places of the pictures that are in it.

    Args:
        records: As `learned_from` gives them.
        sources: The pictures, read only where a record has any.
    """
    found: list[list[int]] = [[] for _ in records]
    for place, source in enumerate(sources if any(records) else ()):
        with contextlib.suppress(ImageError):  # whoever opens it says what is wrong
            key, _ = identify_picture(source)
            for own, record in zip(found, records, strict=True):
                if key in record:
                    own.append(place)
    return found


def _look_for(learned: frozenset[bytes], sources: Iterable[Any], seen: set[int]) -> Iterator[Any]:
    """Yield each picture as it was read here, once; note the places of those learned from."""
    for place, source in enumerate(sources):
        try:
            key, content = identify_picture(source)
        except ImageError:
            yield source  # whoever opens it says what is wrong
            continue
        if key in learned:
            seen.add(place)
        yield content


def _groups(
    classifier: Classifier, sources: Iterable[Any], count: Callable[[int], object]
) -> Iterator[list[Row]]:
    """Yield rows in groups of whole batches, so that the next one begins with a batch.

    Each row is counted as it comes: how many the group that is not yet whole has.
    """
    batch_size = classifier.engine.best_batch_size
    rows: list[Row] = []
    begun = time.monotonic()
    for row in classifier.logits_each(sources, batch_size=batch_size):
        rows.append(row)
        count(len(rows))
        late = time.monotonic() - begun > _GROUP_SECONDS
        if len(rows) % batch_size == 0 and (late or len(rows) >= _GROUP_ROWS):
            yield rows
            rows, begun = [], time.monotonic()
    if rows:
        yield rows


def _state(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def describe_model(classifier: Classifier) -> Mapping[str, Any]:
    """Say what answered, as plain JSON values."""
    document, engine = classifier.document, classifier.engine
    return {
        "name": document.name,
        "file": classifier.local.path.name,
        "sha256": classifier.local.sha256,
        "architecture": document.architecture.name,
        "classes": len(document.labels),
        "license": document.license,
        "engine": engine.name,
        "precision": engine.precision,
        "preprocess": document.preprocess.to_json(),
        "temperature": document.temperature,
        "reject_threshold": document.reject_threshold,
    }
