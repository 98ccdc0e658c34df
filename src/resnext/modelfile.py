"""The model file: one `.safetensors` with all that a prediction needs.

Any safetensors reader can open it. Its metadata has three keys: `resnext` (one JSON
document, `ModelDocument`), `resnext.sha256` (over every byte of the file, with the 64
digits of the hash itself read as zeros) and `format` ("pt", which other loaders expect).
Rounded weights, `Quantization.weights`, are tensors too, their names after "int8.".
What the document says, and whether that is valid, is in `document.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from resnext import arch, quantization
from resnext.arch import ArchSpec
from resnext.document import (
    MIN_TEMPERATURE,
    SCHEMA_VERSION,
    ModelDocument,
    check_version,
    document_from_json,
    parse_document,
)
from resnext.errors import ConfigError, ModelFileError, counted, listed
from resnext.files import atomic, check_place, hash_rest

__all__ = [
    "MIN_TEMPERATURE",
    "SCHEMA_VERSION",
    "STORAGE_DTYPES",
    "SUFFIX",
    "ModelDocument",
    "Tensors",
    "check_output",
    "check_tensors",
    "document_from_json",
    "is_model_file",
    "numpy_dtype",
    "read",
    "read_metadata",
    "read_tensors",
    "storage_dtype",
    "verify",
    "write",
]

SUFFIX = ".safetensors"
STORAGE_DTYPES = ("float32", "float16", "bfloat16")

_DTYPE_NAMES = {"I8": "int8", "F32": "float32"}  # as safetensors calls them
_ROUNDED = "int8."  # before the names of rounded weights
_DOCUMENT_KEY, _HASH_KEY = "resnext", "resnext.sha256"
_NO_HASH = "0" * 64
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format

Tensors = Mapping[str, npt.NDArray[Any]]


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Tell whether a safetensors file carries our document (its hash is not checked)."""
    return _DOCUMENT_KEY in read_metadata(path)


def verify(path: str | os.PathLike[str]) -> tuple[ModelDocument, str]:
    """Check the hash of a whole model file and read its document, not its tensors.

    Returns:
        The document, and the file's own sha256 in hexadecimal, which identifies it.

    Raises:
        ModelFileError: Not a model file, a newer schema, or a byte has changed.
    """
    metadata = read_metadata(path)
    if _DOCUMENT_KEY not in metadata:
        raise ModelFileError(f"{path}: a safetensors file without a `resnext` document")
    text = metadata[_DOCUMENT_KEY]
    with _naming(path):
        # The version comes first: a newer schema may also hash differently.
        parsed = parse_document(text)
        check_version(parsed.get("schema_version"))
        with open(path, "rb") as file:
            found, stated = _digest(file), metadata.get(_HASH_KEY, "")
        if found != stated:
            raise ModelFileError(
                f"the file has changed since it was written: its sha256 is {found[:12]}...,"
                f" it states {stated[:12] or 'none'}...",
                hint="copy or download it again",
            )
        document = document_from_json(parsed)
        version = parsed["schema_version"]
        return _with_rounded(Path(path), document, version=version, sha256=found), found


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy type of one of `STORAGE_DTYPES`."""
    import ml_dtypes  # 4 ms that a start can spare

    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def read(path: str | os.PathLike[str]) -> tuple[ModelDocument, dict[str, npt.NDArray[Any]]]:
    """Read a model file.

    Returns:
        The document, and the tensors in their stored type under torchvision's keys.

    Raises:
        ModelFileError: As `verify`; or tensors are missing, too many, of another shape or
            not finite.
    """
    document, _ = verify(path)
    return document, read_tensors(path, document.architecture)


def read_tensors(
    path: str | os.PathLike[str], architecture: ArchSpec
) -> dict[str, npt.NDArray[Any]]:
    """Read and check the tensors of a file whose document was verified already."""
    import ml_dtypes  # noqa: F401  # which lets numpy know bfloat16; 4 ms that a start can spare

    with _naming(path):
        with safetensors.safe_open(path, framework="np") as file:
            keys = [key for key in file.keys() if not key.startswith(_ROUNDED)]
            tensors = {key: file.get_tensor(key) for key in keys}
        check_tensors(architecture, tensors)
    return tensors


def write(
    path: str | os.PathLike[str],
    document: ModelDocument,
    tensors: Tensors,
    *,
    dtype: str = "float32",
) -> str:
    """Write a model file atomically.

    Args:
        path: Where to; an existing file is replaced only when the new one is complete.
        document: What the file says about itself.
        tensors: Every tensor of the architecture, keys and shapes as `arch.tensor_shapes`.
        dtype: "float32", "float16" or "bfloat16" for convolution and classifier weights;
            vectors (batch norm, bias) stay float32, they weigh nothing.

    Returns:
        The sha256 that the file states about itself.

    Raises:
        ModelFileError: Tensors do not fit the architecture, or a value overflows `dtype`.
        ConfigError: Unknown `dtype`.
        OutputError: The file cannot be written.
    """
    if dtype not in STORAGE_DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; expected one of {', '.join(STORAGE_DTYPES)}")
    check_tensors(document.architecture, tensors)
    stored = {key: _store(key, tensors[key], dtype) for key in sorted(tensors)}
    stored |= _rounded(document)
    metadata = {
        "format": "pt",
        _DOCUMENT_KEY: json.dumps(document.to_json(), allow_nan=False),
        _HASH_KEY: _NO_HASH,
    }
    content = bytearray(safetensors.numpy.save(stored, metadata=metadata))
    digest = hashlib.sha256(content).hexdigest()
    start, end = _hash_span(content)
    content[start:end] = digest.encode()
    with atomic(path, size=len(content)) as file:
        file.write(content)
    return digest


def check_output(path: Path, *, force: bool = False) -> None:
    """Look, before long work, whether a model file can be written.

    Raises:
        ConfigError: The name will not do, or there is such a file and `force` is False.
        OutputError: The folder is missing or read-only.
    """
    if path.suffix.lower() != SUFFIX:
        raise ConfigError(
            f"{path} is no name for a model file; expected *{SUFFIX}",
            hint=f"call it {path.with_suffix(SUFFIX)}" if path.name else "",
        )
    is_there = os.path.lexists(path)
    if is_there and not path.is_file() and not path.is_symlink():
        raise ConfigError(f"{path} is not a regular file")
    check_place(path)
    if is_there and not force:
        raise ConfigError(f"{path} is there already", hint="--force replaces it")


def storage_dtype(tensors: Tensors) -> str:
    """Return the type that all matrices are stored in, or "float32" where they differ."""
    kinds = {str(tensor.dtype) for tensor in tensors.values() if tensor.ndim > 1}
    return kinds.pop() if len(kinds) == 1 else "float32"


def check_tensors(architecture: ArchSpec, tensors: Tensors) -> None:
    """Compare keys, shapes and values with what the architecture needs.

    Raises:
        ModelFileError: Lists what is missing, unexpected, of another shape or not finite.
    """
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    if found := arch.differences(architecture, shapes):
        raise ModelFileError(f"the tensors are not {architecture.name}'s; {found}")
    if bad := [key for key, tensor in tensors.items() if not np.isfinite(tensor).all()]:
        raise ModelFileError(
            f"{counted(len(bad), 'tensor holds', 'tensors hold')} NaN or infinity: {listed(bad)}"
        )


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the text metadata of any safetensors file.

    Raises:
        ModelFileError: Not a readable, well-formed safetensors file.
    """
    if not Path(path).is_file():  # opening a FIFO would wait for ever
        raise ModelFileError(f"{path}: no such file, or not a regular one")
    with _naming(path), safetensors.safe_open(path, framework="np") as file:
        return dict(file.metadata() or {})


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let an error say which file it is about."""
    try:
        yield
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error.message}", hint=error.hint) from error
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file: {error}") from error


def _digest(file: BinaryIO) -> str:
    """Hash a model file with the digits of its own hash read as zeros."""
    length = file.read(8)
    header = bytearray(file.read(min(int.from_bytes(length, "little"), _MAX_HEADER)))
    start, end = _hash_span(header)
    header[start:end] = _NO_HASH.encode()
    digest = hashlib.sha256(length + header)
    hash_rest(file, digest)
    return digest.hexdigest()


def _hash_span(content: bytearray) -> tuple[int, int]:
    # Inside the JSON document, itself a JSON string, every quote has a backslash before
    # it, so these bytes can only be the metadata key.
    key = f'"{_HASH_KEY}":"'.encode()
    start = content.find(key) + len(key)
    if start < len(key):
        raise ModelFileError("the file does not state its sha256")
    return start, start + len(_NO_HASH)


def _store(key: str, tensor: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    target = numpy_dtype(dtype) if tensor.ndim > 1 else np.dtype(np.float32)
    with np.errstate(over="ignore"):  # reported below, with the tensor's name
        stored = np.ascontiguousarray(tensor.astype(target))
    if not np.isfinite(stored).all():
        raise ModelFileError(f"{key} does not fit {dtype}", hint="write bfloat16 or float32")
    return stored


class _StoredWeights(Mapping[str, npt.NDArray[Any]]):
    """The rounded weights of a verified file, all read when the first is asked for."""

    def __init__(self, path: Path, names: tuple[str, ...], sha256: str) -> None:
        self._path, self._names, self._sha256 = path, names, sha256

    @cached_property
    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        with _naming(self._path), safetensors.safe_open(self._path, framework="np") as file:
            # Another file may have taken its place: levels of two would mix.
            if (file.metadata() or {}).get(_HASH_KEY) != self._sha256:
                raise ModelFileError(
                    "the file was replaced since it was opened", hint="open it anew"
                )
            tensors = {name: file.get_tensor(_ROUNDED + name) for name in self._names}
            for name, tensor in tensors.items():
                quantization.check_values(name, tensor)
            return tensors

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _with_rounded(
    path: Path, document: ModelDocument, *, version: int, sha256: str
) -> ModelDocument:
    """Let a document know of the rounded weights in its file."""
    with safetensors.safe_open(path, framework="np") as file:
        slices = {key: file.get_slice(key) for key in file.keys() if key.startswith(_ROUNDED)}
        found = {
            key.removeprefix(_ROUNDED): (
                _DTYPE_NAMES.get(one.get_dtype(), one.get_dtype()),
                tuple(one.get_shape()),
            )
            for key, one in slices.items()
        }
    if bool(found) != (version >= 3) or (found and document.quantization is None):
        raise ModelFileError(
            f"{len(found)} rounded weights in a file of schema version {version}; expected some"
            " in version 3, with ranges, and none before"
        )
    if document.quantization is None or not found:
        return document
    ranges = document.quantization.ranges
    quantization.check_layout(document.architecture, found, ranges=ranges)
    weights = _StoredWeights(path, tuple(sorted(found)), sha256)
    return replace(document, quantization=replace(document.quantization, weights=weights))


def _rounded(document: ModelDocument) -> dict[str, npt.NDArray[Any]]:
    """Return the rounded weights of a document as tensors of its file."""
    if document.quantization is None:
        return {}
    weights = dict(document.quantization.weights)
    layout = {name: (tensor.dtype.name, tensor.shape) for name, tensor in weights.items()}
    ranges = document.quantization.ranges
    quantization.check_layout(document.architecture, layout, ranges=ranges)
    for name, tensor in weights.items():
        quantization.check_values(name, tensor)
    return {_ROUNDED + name: np.ascontiguousarray(weights[name]) for name in sorted(weights)}
