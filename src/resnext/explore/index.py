"""An index on disk: embeddings of pictures, their names, who made them.

One `.safetensors` file, readable by any reader of that format: `vectors` (N, D) float32 of
length 1, `labels` (N,) int32 (-1: none), `names` (JSON, as bytes). Its metadata holds the
document, which says what network and preprocessing the vectors come from, and a CRC-32 of
every other byte. It is written as rows come and mapped, not read, when it is opened.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnext.backbone import hash_backbone, hash_eight_bits
from resnext.classifier import Classifier
from resnext.engines.compiled import make_key
from resnext.errors import DatasetError, ModelFileError, ModelNotFoundError
from resnext.explore import neighbors
from resnext.files import atomic, check_place, check_replaceable
from resnext.weights import read_tensors

VERSION = 1

_MOST = 10**12  # rows: the header is as long as it would be with so many
_MAX_HEADER = 64 << 20  # bytes, as safetensors has it
_ALIGNMENT = 64  # bytes
_NO_CHECKSUM = "0" * 8
_CHUNK = 1 << 20  # bytes; what is read stays in the processor's cache for its checksum


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDocument:
    """Where the vectors of an index come from.

    Args:
        model: What the model was called.
        identity: Hash of its file, architecture and preprocessing.
        architecture: Its name.
        preprocess: Its preprocessing, as plain JSON values.
        embedding_size: D.
        features: Hash of what of these makes the features; "" in an old index.
        class_names: What the labels mean; empty where no picture has one.
        version: Of this format.
    """

    model: str
    identity: str
    architecture: str
    preprocess: dict[str, Any]
    embedding_size: int
    features: str = ""
    class_names: tuple[str, ...] = ()
    version: int = VERSION


class Row(NamedTuple):
    """One picture of an index: its name, its (D,) features, its label or -1."""

    name: str
    vector: NDArray[np.float32]
    label: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbor:
    """One picture found.

    Args:
        name: Of the picture.
        similarity: Cosine, 1 for the same.
        label: Name of its class, or None.
    """

    name: str
    similarity: float
    label: str | None


@dataclass(frozen=True, slots=True)
class Index:
    """An opened index.

    Args:
        path: The file.
        document: Where the vectors come from.
        vectors: (N, D) float32 of length 1, mapped from the file.
        labels: (N,) int32, -1 where a picture has none.
        names: Of the N pictures.
    """

    path: Path
    document: IndexDocument
    vectors: NDArray[np.float32]
    labels: NDArray[np.int32]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def check(self, classifier: Classifier) -> None:
        """Refuse a classifier whose vectors cannot be compared with those in here.

        Raises:
            ModelFileError: It is another model, or prepares pictures in another way.
        """
        own, other = self.document, classifier.document
        # The weights are read only where the file is another: its last layer may be all of it.
        if own.identity == identify(classifier) or own.features == identify_features(classifier):
            return
        differs = "other weights"
        if own.preprocess != other.preprocess.to_json():
            differs = "other preprocessing"
        if own.architecture != other.architecture.name:
            differs = f"the architecture {other.architecture.name}"
        raise ModelFileError(
            f"{self.path}: was made by another model, {own.model} ({own.architecture});"
            f" {other.name} in {classifier.local.path} has {differs}",
            hint="take that model, or build the index anew with this one",
        )

    def search(self, queries: NDArray[np.float32], count: int) -> list[tuple[Neighbor, ...]]:
        """Find the nearest pictures.

        Args:
            queries: (Q, D) features of any length.
            count: How many for each; all where there are fewer.

        Returns:
            For each query, nearest first, equally near ones in the order of the index.
        """
        return [self.name(*row) for row in zip(*self.nearest(queries, count), strict=True)]

    def nearest(
        self, queries: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the nearest pictures, as cosines and positions, (Q, count) each."""
        return neighbors.nearest(self.vectors, neighbors.unit(queries), count)

    def name(
        self, products: NDArray[np.float32], positions: NDArray[np.int64]
    ) -> tuple[Neighbor, ...]:
        """Name what `nearest` found for one query."""
        classes = self.document.class_names
        return tuple(
            Neighbor(
                name=self.names[position],
                similarity=min(1.0, float(product)),
                label=classes[label] if (label := self.labels[position]) >= 0 else None,
            )
            for product, position in zip(products, positions, strict=True)
        )

    def classify(
        self,
        queries: NDArray[np.float32],
        count: int,
        *,
        temperature: float = neighbors.TEMPERATURE,
    ) -> NDArray[np.float64]:
        """Classify by the labels of the nearest pictures.

        Args:
            queries: (Q, D) features of any length.
            count: How many pictures vote.
            temperature: Of the vote: `neighbors.vote`.

        Returns:
            (Q, K) shares of the classes.
        """
        products, positions = self.nearest(queries, count)
        classes = len(self.document.class_names)
        return neighbors.vote(self.labels[positions], products, classes, temperature=temperature)


def identify(classifier: Classifier) -> str:
    """Hash what embeddings depend on, and more: the whole file, but reading nothing."""
    document = classifier.document
    return make_key(
        {
            "weights": classifier.local.sha256,
            "architecture": document.architecture.name,
            "preprocess": document.preprocess.to_json(),
        }
    )


def identify_features(classifier: Classifier) -> str:
    """Hash what embeddings depend on: all weights but the last layer's, and preprocessing."""
    document = classifier.document
    return make_key(
        {
            "backbone": hash_backbone(read_tensors(classifier.local)),
            "eight_bits": hash_eight_bits(document),
            "architecture": document.architecture.name,
            "preprocess": document.preprocess.to_json(),
        }
    )


def describe(
    classifier: Classifier, *, model: str, class_names: Sequence[str] = ()
) -> IndexDocument:
    """Describe the index that a classifier is about to make.

    Args:
        classifier: What computes the embeddings.
        model: What to open it by later.
        class_names: What the labels will mean.
    """
    document = classifier.document
    return IndexDocument(
        model=model,
        identity=identify(classifier),
        features=identify_features(classifier),
        architecture=document.architecture.name,
        preprocess=document.preprocess.to_json(),
        embedding_size=document.architecture.embedding_size,
        class_names=tuple(class_names),
    )


def write(path: Path, document: IndexDocument, rows: Iterable[Row]) -> int:
    """Write an index as its rows come; until it is complete, an old one stays.

    Args:
        path: Where to, usually `*.index`.
        document: Where the vectors come from.
        rows: The pictures; only one is held at a time, but for names and labels.

    Returns:
        How many there are.

    Raises:
        DatasetError: There is none.
        OutputError: The file cannot be written.
    """
    names, labels = [], []
    with atomic(path) as file:
        room = len(_header(document, num_rows=_MOST, num_bytes=_MOST, checksum=_NO_CHECKSUM))
        room += -(8 + room) % _ALIGNMENT
        file.write(bytes(8 + room))
        body = _Summed(file)
        for row in rows:
            vector = neighbors.unit(row.vector[None])
            if vector.shape[1] != document.embedding_size:
                raise DatasetError(
                    f"{row.name}: has {vector.shape[1]} features; expected"
                    f" {document.embedding_size}"
                )
            body.write(vector.astype("<f4").tobytes())
            names.append(row.name)
            labels.append(row.label)
        if not names:
            raise DatasetError("there is no picture to put into an index")
        body.write(np.array(labels, "<i4").tobytes())
        text = json.dumps(names).encode()
        body.write(text)
        facts = {"num_rows": len(names), "num_bytes": len(text)}
        blank = _header(document, **facts, checksum=_NO_CHECKSUM).ljust(room)
        checksum = f"{zlib.crc32(blank, body.checksum):08x}"
        file.seek(0)
        file.write(room.to_bytes(8, "little"))
        file.write(_header(document, **facts, checksum=checksum).ljust(room))
    return len(names)


def check_output(path: Path) -> None:
    """Look, before long work, whether an index may be written here; an old one is replaced.

    Raises:
        ConfigError: A model is there.
        OutputError: The folder is missing or read-only.
    """
    check_place(path)
    check_replaceable(path, mark=b'"resnext_index"')


def open_index(path: Path) -> Index:
    """Open an index and check every byte of it: 0.6 s for 100,000 pictures.

    Raises:
        DatasetError: It is not there, no index, damaged, or of a newer version.
    """
    try:
        with open(path, "rb") as file:
            room = int.from_bytes(file.read(8), "little")
            if not 2 <= room <= _MAX_HEADER:
                raise _Damage("does not begin like one")
            header = file.read(room)
            document, checksum = _read_document(header)
            if _sum(file, header.replace(checksum.encode(), _NO_CHECKSUM.encode(), 1)) != checksum:
                raise _Damage("is damaged or cut short: its checksum is another")
        return _map(path, 8 + room, json.loads(header), document)
    except (_Damage, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, _Damage) else _reason(error)
        raise DatasetError(
            f"{path}: no index that can be used: {reason}",
            hint="`resnext index PICTURES -o FILE` makes one",
        ) from error


def open_model(index: Index, model: str | None, **options: Any) -> Classifier:
    """Open the model that an index was made by, for `Classifier`'s options.

    Args:
        index: The index.
        model: Where the model is now; None for where it was.

    Raises:
        ModelNotFoundError: It is not there.
    """
    try:
        return Classifier(model or index.document.model, **options)
    except ModelNotFoundError as error:
        if model is not None:
            raise
        raise ModelNotFoundError(
            f"{index.path} was made by {index.document.model}, which is not there any more",
            hint="say with --model where that model is now, or name one with the same features",
        ) from error


class _Damage(Exception):
    """Why a file is no index."""


class _Summed:
    """A file that keeps the CRC-32 of what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.checksum = 0

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self.checksum = zlib.crc32(content, self.checksum)


def _header(document: IndexDocument, *, num_rows: int, num_bytes: int, checksum: str) -> bytes:
    vectors = 4 * num_rows * document.embedding_size
    labels = vectors + 4 * num_rows
    shape = [num_rows, document.embedding_size]
    header = {
        # First, so that no text of the document can be taken for it.
        "__metadata__": {"crc32": checksum, "resnext_index": json.dumps(asdict(document))},
        "vectors": {"dtype": "F32", "shape": shape, "data_offsets": [0, vectors]},
        "labels": {"dtype": "I32", "shape": [num_rows], "data_offsets": [vectors, labels]},
        "names": {
            "dtype": "U8",
            "shape": [num_bytes],
            "data_offsets": [labels, labels + num_bytes],
        },
    }
    return json.dumps(header).encode()


def _read_document(header: bytes) -> tuple[IndexDocument, str]:
    metadata = json.loads(header)["__metadata__"]
    facts, checksum = json.loads(metadata["resnext_index"]), metadata["crc32"]
    if not isinstance(facts["version"], int) or facts["version"] > VERSION:
        raise _Damage(f"has version {facts['version']}; this package reads up to {VERSION}")
    if not isinstance(checksum, str) or len(checksum) != len(_NO_CHECKSUM):
        raise _Damage("states no checksum")
    return IndexDocument(**{**facts, "class_names": tuple(facts["class_names"])}), checksum


def _sum(file: BinaryIO, header: bytes) -> str:
    checksum = 0
    while chunk := file.read(_CHUNK):
        checksum = zlib.crc32(chunk, checksum)
    return f"{zlib.crc32(header, checksum):08x}"


def _map(path: Path, start: int, header: dict[str, Any], document: IndexDocument) -> Index:
    num_rows, width = header["vectors"]["shape"]
    [num_bytes] = header["names"]["shape"]
    facts = {"num_rows": num_rows, "num_bytes": num_bytes}
    checksum = header["__metadata__"]["crc32"]
    if json.loads(_header(document, **facts, checksum=checksum)) != header:
        raise _Damage("its parts do not fit together")
    after = start + 4 * num_rows * width
    vectors = np.memmap(path, "<f4", "r", start, (num_rows, width))
    labels = np.fromfile(path, "<i4", num_rows, offset=after)
    text = np.fromfile(path, np.uint8, num_bytes, offset=after + 4 * num_rows)
    names = json.loads(text.tobytes())
    known = len(document.class_names)
    if len(names) != num_rows or len(labels) != num_rows or labels.max(initial=-1) >= known:
        raise _Damage("its parts do not fit together")
    return Index(path, document, vectors, labels, names)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "does not begin like one"
