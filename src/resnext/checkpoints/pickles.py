"""[torch] The only reader and writer of pickled checkpoints; never code.

`torch.load(weights_only=True)` runs no code from the file, and there is no fallback to
anything else. A file in the zip format is mapped, not read: only tensors that are used
come into memory.
"""

from __future__ import annotations

import argparse
import os
import re
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch

from resnext.errors import ModelFileError

# The first that is there is taken, as in timm: an exponential moving average of the
# weights is what a recipe that keeps one is published by.
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_SAFE_WAY = (
    "save the tensors alone with torch.save(model.state_dict(), ...), or with safetensors,"
    " in the program that made the file"
)


def read(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """Read the tensors of a `.pth`, `.pt` or `.th` file.

    Args:
        path: A regular file (a FIFO would be waited for).

    Returns:
        The tensors under the names and in the types they have in the file.

    Raises:
        ModelFileError: Not a checkpoint, or it holds anything but tensors where the
            `state_dict` should be.
    """
    state = _unwrap(path, _load(path))
    size = os.path.getsize(path)
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if claimed > size:
        # Strides of zero make a tensor of any size out of a single number.
        raise ModelFileError(f"{path}: its tensors claim {claimed} bytes, the file has {size}")
    return {key: _array(path, key, tensor) for key, tensor in state.items()}


def stated_name(path: str | os.PathLike[str]) -> str:
    """Return the architecture that timm's training script wrote beside the tensors, or "".

    Args:
        path: A file that `read` takes.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        return ""
    name = content.get("arch") or getattr(content.get("args"), "model", "")
    return name if isinstance(name, str) else ""


def write(file: BinaryIO, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a `state_dict`, as `torch.save(model.state_dict(), file)` does.

    Args:
        file: Open for writing.
        tensors: By name, in the order to keep.

    Raises:
        OSError: The file cannot be written.
    """
    state = {key: _tensor(array) for key, array in tensors.items()}
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # Where a write fails, torch reports the position it did not reach.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def _load(path: str | os.PathLike[str]) -> object:
    try:
        archive = zipfile.is_zipfile(path)
        if archive:
            _check_archive(path)
        # Training scripts keep their options beside the tensors; a Namespace runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive or None)
    except ModelFileError:
        raise
    except Exception as error:  # whatever a hostile pickle makes the unpickler raise
        raise ModelFileError(
            f"{path}: not a PyTorch checkpoint that holds only tensors{_culprit(error)}",
            hint=_SAFE_WAY,
        ) from error


def _check_archive(path: str | os.PathLike[str]) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.split("/", 1)[-1] == "constants.pkl" for entry in entries):
        raise ModelFileError(
            f"{path}: a TorchScript archive, which is a program and not only tensors",
            hint=_SAFE_WAY,
        )
    # torch.save never compresses; a compressed entry can unpack to a thousand times its size.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ModelFileError(f"{path}: a compressed archive, which torch.save never writes")


def _unwrap(path: str | os.PathLike[str], content: object) -> dict[str, torch.Tensor]:
    if isinstance(content, Mapping):
        for name in CONTAINERS:
            if isinstance(content.get(name), Mapping):
                content = content[name]
                break
    if not isinstance(content, Mapping) or not content:
        found = type(content).__name__
        raise ModelFileError(f"{path}: expected a state_dict, found {found}", hint=_SAFE_WAY)
    others = [key for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if others or not all(isinstance(key, str) for key in content):
        names = ", ".join(repr(key)[:40] for key in others[:5])
        raise ModelFileError(
            f"{path}: expected tensors under text keys, found also {names or 'other keys'}",
            hint=_SAFE_WAY,
        )
    return dict(content)


def _array(path: str | os.PathLike[str], key: str, tensor: torch.Tensor) -> npt.NDArray[Any]:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ModelFileError(f"{path}: {key} is sparse, quantized or without values")
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # which numpy knows by ml_dtypes only
        return np.asarray(tensor.view(torch.int16)).view(ml_dtypes.bfloat16)
    try:
        array: npt.NDArray[Any] = np.asarray(tensor)
    except TypeError as error:
        raise ModelFileError(f"{path}: {key} is {tensor.dtype}, which cannot be read") from error
    return array


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    if not array.flags.writeable:
        array = array.copy()  # a tensor of what is read-only would be a way around that
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _culprit(error: Exception) -> str:
    """Name what the unpickler would not load; the rest of its text advises the unsafe way."""
    match = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f": it refers to {match[1]}" if match else ""
