"""A local checkpoint of any kind to a document and our tensors.

Read are our own model file, timm's folder (`config.json` with `model.safetensors`), a plain
safetensors `state_dict` and, with torch installed, `.pth`, `.pt` and `.th`. A published
file is recognized by its hash under any name. What a plain `state_dict` does not say is
assumed, and the document's provenance lists what.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import safetensors

from resnext import arch, catalogue, modelfile, preprocess
from resnext.arch import ArchSpec
from resnext.catalogue import WeightSpec
from resnext.checkpoints import keymaps, timmconfig
from resnext.errors import (
    ConfigError,
    ModelFileError,
    ModelNotFoundError,
    closest,
    counted,
    import_extra,
)
from resnext.files import hash_rest
from resnext.modelfile import ModelDocument
from resnext.predictions import Labels

Format = Literal["resnext", "safetensors", "pth"]
Tensors = dict[str, npt.NDArray[Any]]
State = tuple[int, int, int]  # inode, size, time of the last change in ns

FORMATS: Mapping[str, Format] = {
    ".safetensors": "safetensors",
    ".pth": "pth",
    ".pth.tar": "pth",
    ".pt": "pth",
    ".th": "pth",
}
# Suffixes of model files that people have and we do not read, and what to use instead.
_OTHER_FORMATS = {
    ".onnx": "the checkpoint it was exported from: an ONNX graph has the batch norms folded",
    ".bin": "the `model.safetensors` of the same repository",
    ".ckpt": "its weights, saved with torch.save(model.state_dict(), 'weights.pth')",
    ".t7": "the `cadene_in1k` weights of the catalogue, which were converted from Torch7",
    ".pdparams": "the same architecture from the catalogue: `resnext models`",
    ".h5": "the same architecture from the catalogue: `resnext models`",
}
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_IMAGENET_CLASSES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModel:
    """A model on this disk, its bytes checked, its tensors not read yet.

    Args:
        path: The file.
        document: Everything needed to predict with it.
        sha256: Identifies the content: of the file, or what our model file states of itself.
        format: How the bytes are read.
        key_layout: Whose tensor names the file has; where the tensors were not looked at
            yet, whose they are said to be.
        state: Of the file when its bytes were checked: by it one sees that the file was replaced.
    """

    path: Path
    document: ModelDocument
    sha256: str
    format: Format
    key_layout: keymaps.KeyLayout = "torchvision"
    state: State | None = None


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return the suffix that tells a model file's format, "" where none does."""
    name = os.fspath(path).lower()
    known = sorted((*FORMATS, *_OTHER_FORMATS), key=len, reverse=True)
    return next((suffix for suffix in known if name.endswith(suffix)), "")


def open_path(
    path: str | os.PathLike[str],
    *,
    sha256: str = "",
    architecture: str = "",
    state: State | None = None,
) -> LocalModel:
    """Open a checkpoint that the user has.

    Args:
        path: A file, or a folder that holds `model.safetensors`.
        sha256: Hash of the file, where it was just taken.
        architecture: Its name, where the user knows it: anti-aliasing has no tensors.
        state: What `state_of` said before the hash was taken.

    Raises:
        ModelNotFoundError: There is nothing of that name.
        ModelFileError: It is refused; says why and what to do.
        MissingExtraError: It is pickled, and torch is not installed.
    """
    path = _resolve(Path(path))
    format = _format(path)
    _check_regular(path)
    state = state or state_of(path)  # before it is hashed: what is replaced then shows
    if format == "safetensors" and modelfile.is_model_file(path):
        document, stated = modelfile.verify(path)
        return LocalModel(
            path=path, document=document, sha256=stated, format="resnext", state=state
        )
    sha256 = sha256 or sha256_of(path)
    if row := catalogue.identify(sha256):
        return open_row(row, path, format=format, sha256=sha256, state=state)
    shapes = _shapes(path, format)
    with _naming(path):
        names = keymaps.to_torchvision(shapes)
        spec = arch.infer({name: shapes[key] for name, key in names.items()})
        config = _timm_config(path)
        if config:
            document = timmconfig.document(config, spec)
        else:
            document = _assume(path, _like(spec, _stated(path, format)), architecture)
    provenance = {**document.provenance, "file": path.name, "sha256": sha256}
    return LocalModel(
        path=path,
        document=replace(document, provenance=provenance),
        sha256=sha256,
        format=format,
        key_layout=keymaps.detect(shapes),
        state=state,
    )


def open_row(
    row: WeightSpec, path: Path, *, format: Format, sha256: str, state: State | None = None
) -> LocalModel:
    """Open a file of the catalogue, whose bytes were checked already.

    Args:
        row: The weights it holds.
        path: The file.
        format: How its bytes are read.
        sha256: Hash of the file.
        state: What `state_of` said before that was taken; None takes that of now.
    """
    layouts = [file.key_layout for file in row.files if file.format == format]
    return LocalModel(
        path=path,
        document=row_document(row, sha256=sha256),
        sha256=sha256,
        format=format,
        key_layout=layouts[0] if layouts else "torchvision",
        state=state or state_of(path),
    )


def row_document(row: WeightSpec, *, sha256: str = "") -> ModelDocument:
    """Return what the catalogue says about a row, in the form a model file says it."""
    metrics = {"top1": row.top1, "top5": row.top5, "source": row.accuracy_source}
    provenance = {"weights": row.name, "origin_url": row.origin_url, "notes": row.notes}
    if sha256:
        provenance["sha256"] = sha256
    count = row.num_classes
    return ModelDocument(
        name=row.name,
        architecture=arch.parse(row.architecture, num_classes=count),
        labels=catalogue.imagenet1k() if count == _IMAGENET_CLASSES else timmconfig.numbered(count),
        preprocess=row.preprocess,
        license=row.license,
        provenance=provenance,
        metrics={key: value for key, value in metrics.items() if value is not None},
    )


def read_tensors(local: LocalModel) -> Tensors:
    """Read the tensors of a model that was opened.

    Returns:
        Exactly the keys and shapes of `arch.tensor_shapes`, in the type they are stored in:
        float16, bfloat16, float32 or float64; every value finite.

    Raises:
        ModelFileError: Tensors are missing, too many, of another shape or type, or not
            finite; lists which. Or the file is another one than was opened.
        MissingExtraError: The file is pickled, and torch is not installed.
    """
    architecture = local.document.architecture
    if local.format == "resnext":
        tensors = modelfile.read_tensors(local.path, architecture)
        _check_same(local)
        return tensors
    raw = _read_raw(local.path, local.format)
    _check_same(local)
    with _naming(local.path):
        tensors = {name: raw[key] for name, key in keymaps.to_torchvision(raw).items()}
        modelfile.check_tensors(architecture, tensors)
        for key, tensor in tensors.items():
            if tensor.dtype.name not in _DTYPES:
                raise ModelFileError(f"{key} is {tensor.dtype}; expected {', '.join(_DTYPES)}")
    return tensors


def sha256_of(path: Path) -> str:
    """Return the sha256 of a regular file in hexadecimal.

    Raises:
        ModelFileError: It is empty, not a regular file, or cannot be read.
    """
    _check_regular(path)
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            hash_rest(file, digest)
            return digest.hexdigest()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check_same(local: LocalModel) -> None:
    """See that the file is the one that was opened; hashed again only if it was touched.

    Its hash is what compiled networks and features are stored under: with other tensors, their
    answers would be those of another model. After reading, so that no moment is missed.
    """
    if local.state is None or state_of(local.path) == local.state:
        return
    own = local.format == "resnext"
    found = modelfile.verify(local.path)[1] if own else sha256_of(local.path)
    if found != local.sha256:
        raise ModelFileError(
            f"{local.path}: the file was replaced since it was opened", hint="open it anew"
        )


def state_of(path: Path) -> State | None:
    """Return what changes when another file takes the name; None where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _check_regular(path: Path) -> None:
    try:
        found = os.stat(path)
        readable = os.access(path, os.R_OK)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(found.st_mode):  # opening a FIFO would wait for ever
        raise ModelFileError(f"{path}: not a regular file")
    if not readable:
        raise ModelFileError(f"{path}: cannot be read: permission denied")
    if found.st_size == 0:
        raise ModelFileError(f"{path}: the file is empty", hint="copy or download it again")


def _resolve(path: Path) -> Path:
    # os.path and not pathlib: its questions answer False where the system says no.
    if os.path.isdir(path):
        if os.path.exists(path / timmconfig.WEIGHTS):
            return path / timmconfig.WEIGHTS
        raise ModelFileError(f"{path}: a folder without {timmconfig.WEIGHTS}; expected a file")
    if not os.path.lexists(path):
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = os.listdir(path.parent)
        near = closest(path.name, names)
        hint = f"did you mean {' or '.join(near)}?" if near else ""
        raise ModelNotFoundError(f"{path}: no such file", hint=hint)
    return path


def _format(path: Path) -> Format:
    suffix = suffix_of(path)
    if suffix in FORMATS:
        return FORMATS[suffix]
    use = _OTHER_FORMATS.get(suffix)
    raise ModelFileError(
        f"{path}: not a kind of model file that can be read; expected one of {', '.join(FORMATS)}",
        hint=f"use {use}" if use else "",
    )


def _stated(path: Path, format: Format) -> str:
    """Return the architecture that a training script wrote beside the tensors, or ""."""
    if format != "pth":
        return ""
    name: str = import_extra("resnext.checkpoints.pickles", extra="torch").stated_name(path)
    return name


def _assume(path: Path, spec: ArchSpec, name: str) -> ModelDocument:
    """Describe a bare `state_dict`, and say what about it is an assumption.

    Args:
        path: Its file.
        spec: The network whose tensors these are.
        name: The architecture as somebody calls it, or "".
    """
    usual = preprocess.usual(spec.input_size)
    structure = "from the shapes of the tensors"
    if name:
        spec, structure = _named(name, spec), f"{name}, as it is called"
    elif spec.antialias:
        structure += " and the name in the checkpoint"
    elif spec.attention != "sk" and spec.stem != "cifar":
        structure += f", which are also those of {replace(spec, antialias=True).name}"
    labels, source = _labels(path, spec.num_classes)
    return ModelDocument(
        name=path.name.removesuffix(suffix_of(path)) or path.name,
        architecture=spec,
        labels=labels,
        preprocess=usual,
        provenance={
            "assumed": {
                "architecture": structure,
                "preprocess": f"resize {usual.resize}, crop {usual.input_size},"
                f" {usual.interpolation}, ImageNet mean and std",
                "class_names": source,
            }
        },
    )


def _like(spec: ArchSpec, stated: str) -> ArchSpec:
    """Return the network with the anti-aliasing that its training script named, if any."""
    try:
        antialias = arch.parse(stated).antialias
    except ModelNotFoundError:  # the script's own name, or none
        return spec
    return replace(spec, antialias=antialias)


def _named(name: str, spec: ArchSpec) -> ArchSpec:
    """Return the network of this name, whose tensors must be those of `spec`."""
    try:
        named = arch.parse(name)
    except ModelNotFoundError as error:
        raise ModelFileError(error.message, hint=error.hint) from error
    named = replace(named, num_classes=spec.num_classes, in_chans=spec.in_chans)
    if arch.tensor_shapes(named) != arch.tensor_shapes(spec):
        raise ModelFileError(f"the tensors are {spec.name}'s; expected those of {named.name}")
    return named


def _labels(path: Path, count: int) -> tuple[Labels, str]:
    beside = Path(f"{os.fspath(path).removesuffix(suffix_of(path))}.classes.json")
    if beside.is_file():
        return _read_labels(beside, count), f"from {beside.name} beside it"
    if count == _IMAGENET_CLASSES:
        return catalogue.imagenet1k(), "ImageNet-1k in its usual order, because there are 1000"
    return timmconfig.numbered(count), "numbers, because the file has no names"


def _read_labels(path: Path, count: int) -> Labels:
    names = _read_json(path)
    if isinstance(names, dict):
        names = names.get("classes")
    if not isinstance(names, list) or len(names) != count:
        raise ModelFileError(f"{path.name}: expected a JSON list of {counted(count, 'class name')}")
    try:
        return Labels(tuple(names))
    except ConfigError as error:
        raise ModelFileError(f"{path.name}: {error.message}") from error


def _timm_config(path: Path) -> dict[str, Any] | None:
    beside = path.with_name("config.json")
    if path.name != timmconfig.WEIGHTS or not beside.is_file():
        return None
    config = _read_json(beside)
    if not isinstance(config, dict):
        raise ModelFileError("config.json beside it is not a JSON object")
    return config


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path.name} beside it cannot be read: {error}") from error


def _shapes(path: Path, format: Format) -> dict[str, tuple[int, ...]]:
    if format == "pth":
        return {key: tensor.shape for key, tensor in _read_raw(path, format).items()}
    with _opened(path) as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}


def _read_raw(path: Path, format: Format) -> Tensors:
    if format == "pth":
        tensors: Tensors = import_extra("resnext.checkpoints.pickles", extra="torch").read(path)
        return tensors
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            yield file
    except (safetensors.SafetensorError, OSError, TypeError, ValueError, KeyError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file: {error}") from error


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before the message of a refusal."""
    try:
        yield
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error.message}", hint=error.hint) from error
