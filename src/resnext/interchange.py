"""A model in one format to a file in another, read back before it counts.

resnext      our model file, which alone carries everything
torchvision  a pickled `state_dict` (`.pth`), tensors only; needs torch
timm         a folder, `model.safetensors` and `config.json`, as on the Hugging Face Hub
safetensors  a `state_dict` without pickle, tensors only

What a format has no place for is in the notes that `convert` returns.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from resnext import arch, modelfile, weights
from resnext.checkpoints import reader, timmconfig
from resnext.errors import (
    ConfigError,
    ModelFileError,
    OutputError,
    ResNeXtError,
    counted,
    import_extra,
)
from resnext.files import atomic, output_error, sync_folder, temporary_name
from resnext.modelfile import STORAGE_DTYPES, ModelDocument, Tensors, numpy_dtype

if TYPE_CHECKING:
    from resnext.hub.downloads import Progress

Format = Literal["resnext", "torchvision", "timm", "safetensors"]
FORMATS: tuple[Format, ...] = get_args(Format)

_SUFFIXES: Mapping[Format, Sequence[str]] = {
    "resnext": (".safetensors",),
    "safetensors": (".safetensors",),
    "torchvision": (".pth", ".pth.tar", ".pt", ".th"),
}
# torchvision has functions for these; it has no CIFAR stem, no deep one and no attention.
_TORCHVISION = {
    "resnext50_1x64d": "resnet50",
    "resnext101_1x64d": "resnet101",
    "resnext152_1x64d": "resnet152",
    "resnext50_1x128d": "wide_resnet50_2",
    "resnext101_1x128d": "wide_resnet101_2",
    "resnext50_32x4d": "resnext50_32x4d",
    "resnext101_32x8d": "resnext101_32x8d",
    "resnext101_64x4d": "resnext101_64x4d",
}
# What reading itself notes in the provenance, of this or any later file.
_READER_KEYS = frozenset(("file", "sha256", "assumed", "read_from"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What was written.

    Args:
        path: The file or folder.
        format: Its format.
        architecture: Name of the network.
        dtype: Type of the convolution and classifier weights.
        num_bytes: Size of everything written.
        notes: What the format has no place for, and what else to know; one sentence each.
    """

    path: Path
    format: Format
    architecture: str
    dtype: str
    num_bytes: int
    notes: tuple[str, ...]


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    dtype: str | None = None,
    force: bool = False,
    architecture: str = "",
    offline: bool | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write a model in another format, whole or not at all.

    The tensors are read back and compared bit by bit before the target gets its name.

    Args:
        source: Whatever `weights.locate` takes.
        target: The file, or for timm the folder, to write.
        to: One of `FORMATS`; None lets the target's name decide, see `format_of`.
        dtype: "float32", "float16" or "bfloat16" for convolution and classifier weights,
            with vectors (batch norm, bias) in float32; None keeps the types there are.
        force: Replace what is there. The source is never replaced.
        architecture: Name of the network of a source that does not say it itself.
        offline: True never touches the network; None follows the settings.
        progress: As for `weights.locate`.

    Raises:
        ConfigError: An option or the target's name will not do, or the target is there.
        ModelFileError: The source is refused, or the format cannot hold it.
        OutputError: The target cannot be written, or what was read back differs.
        MissingExtraError: A `.pth` file is read or written, and torch is not installed.
        ModelNotFoundError: Nothing has the name of the source.
        WeightsUnavailableError: The source cannot be fetched.
    """
    format = format_of(target, to)
    if dtype is not None and dtype not in STORAGE_DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; expected one of {', '.join(STORAGE_DTYPES)}")
    path = Path(target)
    _refuse_source(path, [Path(source), Path(source) / timmconfig.WEIGHTS])
    _check_target(path, format, force=force)
    if format == "torchvision":
        import_extra("resnext.checkpoints.pickles", extra="torch")  # before a long download
    local = weights.locate(source, offline=offline, progress=progress, architecture=architecture)
    _refuse_source(path, [local.path])
    read = weights.read_tensors(local)
    found = {key: read[key] for key in arch.tensor_shapes(local.document.architecture)}
    # Our model file has one type for all matrices; the others keep what is there.
    wanted = dtype or (_matrix_dtype(found) if format == "resnext" else None)
    tensors = cast_tensors(found, wanted)
    with _naming(path, needed=sum(tensor.nbytes for tensor in tensors.values())):
        inside = path if path.is_dir() else path.parent
        with _staging_folder(inside) as folder:
            staged = folder / ("timm" if format == "timm" else path.name)
            _write(staged, format, local.document, tensors)
            back = _read_back(staged, path, tensors)
            num_bytes = sum(file.stat().st_size for file in _files(staged, format))
            _check_target(path, format, force=force)  # it may have come in the meantime
            _publish(staged, path, format)
    return Conversion(
        path=path,
        format=format,
        architecture=local.document.architecture.name,
        dtype=_dtype_names(tensors),
        num_bytes=num_bytes,
        notes=tuple(_notes(format, local.document, back, found, tensors)),
    )


def format_of(target: str | os.PathLike[str], to: str | None = None) -> Format:
    """Tell the format to write from the name of the target.

    `.pth`, `.pt` and the like are torchvision's; a folder, or a name that ends in a slash,
    is timm's; `.safetensors` is our model file.

    Args:
        target: The file or folder to write.
        to: The format that was asked for, if any.

    Raises:
        ConfigError: The name says nothing, or not what was asked for.

    Example:
        >>> format_of("net.pth"), format_of("net/"), format_of("net.safetensors")
        ('torchvision', 'timm', 'resnext')
    """
    if to is not None and to not in FORMATS:
        raise ConfigError(f"to is {to!r}; expected one of {', '.join(FORMATS)}")
    suffix = reader.suffix_of(target)
    slash = os.fspath(target).endswith(tuple(mark for mark in (os.sep, os.altsep) if mark))
    folder = slash or os.path.isdir(target)
    if to is None:
        named = (format for format, suffixes in _SUFFIXES.items() if suffix in suffixes)
        guess = "timm" if folder else next(named, None)
        if guess is None:
            raise ConfigError(
                f"{target}: the name does not tell the format; expected .safetensors (our model"
                " file), .pth (torchvision), or a folder, with a / at the end (timm)",
                hint=f"choose with --to {'|'.join(FORMATS)}",
            )
        return guess
    if to != "timm" and (folder or suffix not in _SUFFIXES[to]):
        kind = "a folder" if folder else f"{suffix or 'no suffix'}"
        raise ConfigError(f"{target}: {to} is a file that ends in {_SUFFIXES[to][0]}; found {kind}")
    if to == "timm" and suffix and not folder:
        raise ConfigError(f"{target}: timm is a folder; found a name that ends in {suffix}")
    return to


def cast_tensors(tensors: Tensors, dtype: str | None) -> dict[str, npt.NDArray[Any]]:
    """Convert weights of convolutions and the classifier to a type, vectors to float32.

    Args:
        tensors: A `state_dict`.
        dtype: As for `convert`; None changes nothing.

    Raises:
        ModelFileError: A value overflows.
    """
    if dtype is None:
        return {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
    stored = {}
    for key, tensor in tensors.items():
        target = numpy_dtype(dtype) if tensor.ndim > 1 else np.dtype(np.float32)
        with np.errstate(over="ignore"):  # reported below, with the tensor's name
            stored[key] = np.ascontiguousarray(tensor.astype(target, copy=False))
        if not np.isfinite(stored[key]).all():
            raise ModelFileError(f"{key} does not fit {dtype}", hint="choose bfloat16 or float32")
    return stored


def with_counters(tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
    """Add `num_batches_tracked` to each batch norm, where torch's modules have it; zero.

    Nothing is computed from it, but a module that is loaded strictly may want it.
    """
    state: dict[str, npt.NDArray[Any]] = {}
    for key, tensor in tensors.items():
        state[key] = tensor
        if key.endswith(".running_var"):
            state[key.removesuffix("running_var") + "num_batches_tracked"] = np.array(0, np.int64)
    return state


def _refuse_source(path: Path, sources: Sequence[Path]) -> None:
    for file in (path, path / timmconfig.WEIGHTS):
        for source in sources:
            if file.is_file() and source.is_file() and file.samefile(source):
                raise ConfigError(f"{file} is the source itself, which is never overwritten")


def _check_target(path: Path, format: Format, *, force: bool) -> None:
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise OutputError(f"{path}: cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: cannot be written: the folder {folder} is read-only")
    if format == "timm" and os.path.lexists(path) and not path.is_dir():
        raise ConfigError(f"{path} is a file; timm's format is a folder")
    for file in _files(path, format):
        if os.path.lexists(file):
            if not file.is_file() and not file.is_symlink():
                raise ConfigError(f"{file} is not a regular file")
            if not force:
                raise ConfigError(f"{file} is there already", hint="--force replaces it")


def _files(path: Path, format: Format) -> list[Path]:
    if format != "timm":
        return [path]
    return [path / timmconfig.WEIGHTS, path / timmconfig.CONFIG]


def _matrix_dtype(tensors: Tensors) -> str:
    """Return the narrowest type of a model file that holds all matrices exactly, or float32."""
    names = {tensor.dtype.name for tensor in tensors.values() if tensor.ndim > 1}
    return names.pop() if len(names) == 1 and names <= set(STORAGE_DTYPES) else "float32"


def _dtype_names(tensors: Tensors) -> str:
    return ", ".join(sorted({tensor.dtype.name for tensor in tensors.values() if tensor.ndim > 1}))


def _write(path: Path, format: Format, document: ModelDocument, tensors: Tensors) -> None:
    if format == "resnext":
        modelfile.write(path, document, tensors, dtype=_matrix_dtype(tensors))
        return
    state = with_counters(tensors)
    if format == "torchvision":
        pickles = import_extra("resnext.checkpoints.pickles", extra="torch")
        with atomic(path) as file:
            pickles.write(file, state)
        return
    if format == "timm":
        config = timmconfig.to_config(document)
        path.mkdir()
        with atomic(path / timmconfig.CONFIG) as file:
            file.write(json.dumps(config, indent=1).encode() + b"\n")
        path /= timmconfig.WEIGHTS
    with atomic(path) as file:
        file.write(safetensors.numpy.save(state, metadata={"format": "pt"}))


def _read_back(staged: Path, path: Path, expected: Tensors) -> ModelDocument:
    """Compare what is on the disk with what was meant, and return what it says of itself."""
    try:
        local = reader.open_path(staged)
        found = reader.read_tensors(local)
    except ResNeXtError as error:
        raise OutputError(f"{path}: cannot be read back: {error.message}") from error
    wrong = [key for key in expected if key not in found or not _same(found[key], expected[key])]
    if wrong or len(found) != len(expected):
        raise OutputError(
            f"{path}: {len(wrong)} of {counted(len(expected), 'tensor')} read back as other than"
            " what was"
            f" written, such as {', '.join(wrong[:3])}; nothing is kept",
            hint="check the disk",
        )
    return local.document


def _same(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    # As bytes: 0 and -0 are equal as numbers.
    ours, theirs = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (found, expected))
    return np.array_equal(ours, theirs)


@contextlib.contextmanager
def _staging_folder(parent: Path) -> Iterator[Path]:
    """Make a folder on the disk of the target, gone when the block ends."""
    folder = parent / temporary_name()
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(staged: Path, path: Path, format: Format) -> None:
    if format == "timm" and path.is_dir():
        # Half-way there is no config, rather than one of other weights.
        (path / timmconfig.CONFIG).unlink(missing_ok=True)
        for name in (timmconfig.WEIGHTS, timmconfig.CONFIG):
            os.replace(staged / name, path / name)
        sync_folder(path)
    else:
        os.replace(staged, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def _naming(path: Path, *, needed: int) -> Iterator[None]:
    """Say of a failure that it is the target's, which has not got its name yet."""
    try:
        yield
    except OSError as error:
        reason = error.__cause__ if isinstance(error, OutputError) else error
        if not isinstance(reason, OSError) or isinstance(reason, ResNeXtError):
            raise
        told = output_error(path, reason, needed=needed)
        full = reason.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = told.hint if full else "choose another place for it"
        raise OutputError(told.message, hint=hint) from error


def _notes(
    format: Format,
    document: ModelDocument,
    back: ModelDocument,
    found: Tensors,
    tensors: Tensors,
) -> Iterator[str]:
    spec = document.architecture
    if assumed := document.provenance.get("assumed"):
        if format in ("resnext", "timm"):
            facts = "; ".join(f"{key}: {value}" for key, value in assumed.items())
            yield f"the checkpoint that this came from did not say how to use it; assumed {facts}"
    if lost := list(_lost(format, document, back)):
        yield f"the {format} format has no place for {', '.join(lost)}"
    if back.architecture != spec:
        yield (
            f"the tensors do not show the anti-aliasing of {spec.name}: whoever reads the file"
            f" has to know, or takes it for {back.architecture.name}"
        )
    if format == "torchvision" and spec.name not in _TORCHVISION:
        yield _beyond_torchvision(document)
    if narrowed := _narrowed(found, tensors):
        yield f"rounded: {narrowed}"


def _lost(format: Format, document: ModelDocument, back: ModelDocument) -> Iterator[str]:
    tensors_only = format in ("torchvision", "safetensors")
    if tensors_only or back.labels != document.labels:
        yield "class names"
    if tensors_only or back.preprocess != document.preprocess:
        yield "preprocessing"
    if tensors_only or back.license != document.license:
        yield f"the licence ({document.license})"
    if back.temperature != document.temperature:
        yield f"the temperature ({document.temperature:g})"
    if back.reject_threshold != document.reject_threshold:
        yield f"the reject threshold ({document.reject_threshold:g})"
    if document.metrics and not back.metrics:
        yield "metrics"
    if format != "resnext" and not document.provenance.keys() <= _READER_KEYS:
        yield "provenance"


def _beyond_torchvision(document: ModelDocument) -> str:
    spec = document.architecture
    if spec.variant or spec.attention or spec.antialias or spec.stem == "cifar":
        return (
            f"torchvision cannot build {spec.name}; load this with"
            f" resnext.create_model({spec.name!r}, weights=PATH)"
        )
    return (
        f"torchvision has no function for {spec.name}; it is ResNet(Bottleneck,"
        f" {list(spec.blocks)}, groups={spec.cardinality}, width_per_group={spec.base_width},"
        f" num_classes={spec.num_classes})"
    )


def _narrowed(found: Tensors, tensors: Tensors) -> str:
    changes = {
        (found[key].dtype.name, tensor.dtype.name)
        for key, tensor in tensors.items()
        if found[key].dtype != tensor.dtype
        and not np.array_equal(tensor.astype(found[key].dtype), found[key])
    }
    return ", ".join(f"{before} to {after}" for before, after in sorted(changes))
