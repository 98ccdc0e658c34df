"""A model's name to a verified file on this disk, and its tensors.

A name is, in this order: `starter`, the model in the package; `hf-hub:owner/repository`,
with `@revision` if wanted; a path, if it has a separator or a known suffix and is there;
a name, alias or architecture of the catalogue. A file or folder without a suffix is
written `./name`. What is in the cache, or a path, never touches the network and never
loads the modules that do.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext import arch, catalogue, modelfile, preprocess
from resnext.arch import ArchSpec
from resnext.catalogue import WeightSpec
from resnext.checkpoints import reader, timmconfig
from resnext.checkpoints.reader import LocalModel, read_tensors
from resnext.errors import (
    MissingExtraError,
    ModelNotFoundError,
    ResNeXtError,
    WeightsCorruptError,
    WeightsUnavailableError,
    install_hint,
)
from resnext.hub import cache
from resnext.hub.cache import Entry, RemoteFile, cache_home, cached, remove
from resnext.modelfile import ModelDocument
from resnext.preprocess import PreprocessSpec

if TYPE_CHECKING:
    from resnext.hub.downloads import Progress

__all__ = [
    "Described",
    "Entry",
    "LocalModel",
    "cache_home",
    "cached",
    "describe",
    "is_offline",
    "locate",
    "read_tensors",
    "remove",
]

STARTER = "starter"

_STARTER_PATH = Path(__file__).with_name("assets") / "starter.safetensors"
_HUB = re.compile(r"hf[-_]hub:([\w-][\w.-]*/[\w-][\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
_HUB_PREFIXES = ("hf-hub:", "hf_hub:")
_OFFLINE_SETTINGS = ("RESNEXT_OFFLINE", "HF_HUB_OFFLINE")

# The file, where it is, its sha256, and its state before that was taken, if it was here.
_Found = tuple[RemoteFile, Path, str, reader.State | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What is known of a model without its tensors.

    Args:
        architecture: The network.
        preprocess: How pictures are prepared when it runs.
        facts: What to show, in order: name, licence, accuracy, preprocessing, source.
    """

    architecture: ArchSpec
    preprocess: PreprocessSpec
    facts: Mapping[str, Any]


def locate(
    model: str | os.PathLike[str],
    *,
    offline: bool | None = None,
    progress: Progress | None = None,
    architecture: str = "",
) -> LocalModel:
    """Find a model on this disk, or bring it here once.

    Args:
        model: `starter`, a catalogue name or alias, a file or folder, or
            `hf-hub:owner/repository[@revision]`.
        offline: True never touches the network; None follows `RESNEXT_OFFLINE` and
            `HF_HUB_OFFLINE`.
        progress: Called while something is downloaded, with the bytes so far and in total,
            None where the total is not known.
        architecture: Name of the network of a file that does not say it itself.

    Raises:
        ModelNotFoundError: Nothing has this name.
        WeightsUnavailableError: It is not here, and cannot be fetched now; names the
            address to get it from and the folder to copy it to.
        WeightsCorruptError: It is here or there, but not what was promised.
        ModelFileError: The file is refused.
        MissingExtraError: It is only to be had pickled, and torch is not installed.
        OutputError: The cache folder cannot be written.

    Example:
        >>> locate("starter").document.architecture.name
        'resnext26_32x4d'
    """
    offline = is_offline(offline)
    found = _resolve(model)
    if isinstance(found, Path):
        return reader.open_path(found, architecture=architecture)
    if isinstance(found, WeightSpec):
        return _locate_row(found, offline=offline, progress=progress)
    return _locate_hub(found, offline=offline, progress=progress)


def is_offline(offline: bool | None = None) -> bool:
    """Tell whether the network is off: by argument or, where that is None, by setting."""
    if offline is not None:
        return offline
    settings = (os.environ.get(name, "").lower() for name in _OFFLINE_SETTINGS)
    return any(setting in ("1", "true", "yes", "on") for setting in settings)


def describe(model: str | os.PathLike[str]) -> Described:
    """Say what a model is; nothing is downloaded.

    Args:
        model: As for `locate`, or an architecture that has no public weights.

    Raises:
        ModelNotFoundError: Nothing has this name.
        WeightsUnavailableError: It is on the hub, and not in the cache.
        ModelFileError: The file is refused.
    """
    try:
        found = _resolve(model)
    except ModelNotFoundError:
        try:
            spec = arch.parse(os.fspath(model))
        except ModelNotFoundError:
            spec = None
        if spec is None:
            raise
        rows = [row.name for row in catalogue.weights() if row.architecture == spec.name]
        known = f"none for commercial use; by full name: {', '.join(rows)}" if rows else "none"
        facts = {"name": spec.name, "public weights": known}
        usual = preprocess.usual(spec.input_size)
        return Described(architecture=spec, preprocess=usual, facts=facts)
    if isinstance(found, WeightSpec):
        document, place = reader.row_document(found), {}
    else:
        local = locate(model, offline=True)
        document, place = local.document, {"file": str(local.path), "sha256": local.sha256}
    return Described(
        architecture=document.architecture,
        preprocess=document.preprocess,
        facts={**_facts(document), **place},
    )


def _facts(document: ModelDocument) -> dict[str, Any]:
    spec = document.preprocess
    return {
        "name": document.name,
        "architecture": document.architecture.name,
        "license": document.license,
        **document.metrics,
        "preprocess": f"{spec.mode}, resize {spec.resize}, input {spec.input_size},"
        f" {spec.interpolation}",
        **{
            key: value
            for key, value in document.provenance.items()
            if value and value != document.name
        },
    }


def _resolve(name: str | os.PathLike[str]) -> Path | WeightSpec | RemoteFile:
    """Tell what a name means, without looking into any file."""
    if not isinstance(name, str):
        return Path(name)
    name = name.removeprefix("local-dir:")  # as timm calls a folder
    if name == STARTER:
        return _STARTER_PATH
    if name.startswith(_HUB_PREFIXES):
        return _resolve_hub(name)
    suffix = reader.suffix_of(name)
    separators = [mark for mark in (os.sep, os.altsep, "/") if mark]
    separated = any(mark in name for mark in separators)
    if suffix or (separated and os.path.exists(name)):
        return Path(name)
    try:
        return catalogue.find(name)  # an alias may have a slash: timm/resnext50_32x4d.a1_in1k
    except ModelNotFoundError as error:
        if os.path.exists(name):
            raise ModelNotFoundError(error.message, hint=f"for the file write ./{name}") from error
        if separated:
            raise ModelNotFoundError(
                f"{name}: no such file, and no weights of the catalogue",
                hint=f"for a Hugging Face repository write hf-hub:{name}",
            ) from error
        raise


def _resolve_hub(name: str) -> WeightSpec | RemoteFile:
    match = _HUB.fullmatch(name)
    if match is None or ".." in name:
        raise ModelNotFoundError(f"{name!r} is not hf-hub:owner/repository[@revision]")
    hub_id, revision = match[1], match[2] or "main"
    if match[2] is None:
        for row in catalogue.weights():
            # One truth for both names: the row knows its hashes and other places.
            if any(file.hub_id == hub_id for file in row.files):
                return row
    return RemoteFile(
        folder=cache.hub_folder(hub_id, revision),
        filename=timmconfig.WEIGHTS,
        format="safetensors",
        hub_id=hub_id,
        revision=revision,
    )


def _locate_row(row: WeightSpec, *, offline: bool, progress: Progress | None) -> LocalModel:
    files = [
        RemoteFile(
            folder=row.name,
            filename=file.filename,
            format=file.format,
            sha256=file.sha256_prefix or "",
            hub_id=file.hub_id,
            url=file.url,
        )
        for file in row.files
    ]
    file, path, sha256, state = _obtain(row.name, files, offline=offline, progress=progress)
    return reader.open_row(row, path, format=file.format, sha256=sha256, state=state)


def _locate_hub(file: RemoteFile, *, offline: bool, progress: Progress | None) -> LocalModel:
    name = f"hf-hub:{file.hub_id}"
    _, path, sha256, state = _obtain(name, [file], offline=offline, progress=progress)
    if not modelfile.is_model_file(path):
        config = replace(file, filename=timmconfig.CONFIG)
        _obtain(name, [config], offline=offline, progress=None)
    local = reader.open_path(path, sha256=sha256, state=state)
    provenance = {**local.document.provenance, "source": f"{name}@{file.revision}"}
    return replace(local, document=replace(local.document, provenance=provenance))


def _obtain(
    name: str, files: Sequence[RemoteFile], *, offline: bool, progress: Progress | None
) -> _Found:
    """Return the first of the files that is here or can be had."""
    has_torch = importlib.util.find_spec("torch") is not None
    usable = [file for file in files if has_torch or file.format != "pth"]
    if not usable:
        raise MissingExtraError(
            f"{name} is not to be had as safetensors, and its .pth file needs torch",
            hint=install_hint("torch")
            + ("" if files[0].path.exists() else f"; then {_by_hand(files[0])}"),
        )
    damaged: WeightsCorruptError | None = None
    for file in usable:
        try:
            state = reader.state_of(file.path)
            if sha256 := cache.verify(file):
                return file, file.path, sha256, state
        except WeightsCorruptError as error:
            damaged = damaged or error
    from resnext.hub import origins  # loads the network: not where the cache has the file

    for file in usable:
        if adopted := origins.adopt(file):
            return file, *adopted, None
    if not offline:
        return _fetch(name, files, usable, progress)
    raise damaged or WeightsUnavailableError(
        f"{name} is not on this machine: {files[0].path} is missing, and the network is off"
        f" (--offline or {' or '.join(_OFFLINE_SETTINGS)})",
        hint=_by_hand(files[0]),
    )


def _fetch(
    name: str,
    files: Sequence[RemoteFile],
    usable: Sequence[RemoteFile],
    progress: Progress | None,
) -> _Found:
    from resnext.hub import origins

    refusals: list[WeightsUnavailableError | WeightsCorruptError] = []
    for file in usable:
        try:
            return file, file.path, origins.fetch(file, progress=progress), None
        except (WeightsUnavailableError, WeightsCorruptError) as error:
            refusals.append(error)
    hint = _by_hand(files[0], refusals)
    if len(usable) < len(files):
        hint += f"; or {install_hint('torch')}, and its .pth file will do"
    if mirror := os.environ.get("RESNEXT_MIRROR"):
        hint += f"; the mirror {mirror} does not have it, or not the `.json` with its hash"
    raise origins.gather(refusals, subject=name, hint=hint)


def _by_hand(file: RemoteFile, refusals: Sequence[ResNeXtError] = ()) -> str:
    from resnext.hub import origins

    check = f" (its sha256 begins with {file.sha256})" if file.sha256 else ""
    hint = f"get {origins.address(file) or file.filename}{check} and copy it to {file.path}"
    if any("HTTP 401" in refusal.message or "HTTP 403" in refusal.message for refusal in refusals):
        hint += "; if the repository is private or gated, set HF_TOKEN or run `hf auth login`"
    return hint
