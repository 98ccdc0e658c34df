"""What is fastest for a model on this machine, once that was measured.

`resnext benchmark --remember` measures and writes it down for each precision; `select.load`
asks for it where engine and threads are left open. The key is the model, the processor and how
many threads of it can run, the GPUs and the versions of the runtimes, so an update begins anew.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from resnext import cores
from resnext.engines.base import BACKENDS, Precision
from resnext.engines.compiled import make_key
from resnext.errors import OutputError
from resnext.files import atomic
from resnext.provenance import gpus, machine, versions
from resnext.weights import LocalModel, cache_home

NAME = "tuning.json"

_MOST_BATCH = 1024  # a larger one is no measurement
_ENGINES = ("openvino", "onnxruntime", "torch", *(f"torch:{name}" for name in BACKENDS))
_PRECISIONS = get_args(Precision)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What was fastest.

    Args:
        engine: Its name.
        precision: What it computes in.
        batch_size: Pictures at once.
        images_per_s: How fast that was.
        gpu: Whether it ran on a GPU.
        threads: Of the processor; None for what the engine takes by itself.
    """

    engine: str
    precision: str
    batch_size: int
    images_per_s: float
    gpu: bool
    threads: int | None = None  # which older records lack


def find(local: LocalModel, precision: str = "auto") -> Choice | None:
    """Return what was found for a model here, or None.

    Args:
        local: The model.
        precision: What it shall compute in; "auto" for what was fastest in all.
    """
    # The key takes longer than an answer from a warm cache may: only where there is something.
    entries = _read(cache_home() / NAME)
    found = _by_precision(entries.get(_key(local))) if entries else {}
    if precision == "auto":
        return max(found.values(), key=lambda choice: choice.images_per_s, default=None)
    return found.get(precision)


def remember(local: LocalModel, choices: Iterable[Choice]) -> Path:
    """Write down what is fastest for a model here.

    A precision that is not among them keeps what was found of it before.

    Args:
        local: The model.
        choices: The fastest of each precision that was measured.

    Returns:
        The file.

    Raises:
        OutputError: The cache cannot be written.
    """
    from filelock import FileLock  # rarely needed

    path = cache_home() / NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            entries, key = _read(path), _key(local)
            found = _by_precision(entries.get(key))
            found |= {choice.precision: choice for choice in choices}
            entries[key] = {name: asdict(choice) for name, choice in found.items()}
            with atomic(path) as file:
                file.write(json.dumps(entries, indent=1).encode())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}") from error
    return path


def _key(local: LocalModel) -> str:
    document = local.document
    return make_key(
        {
            "weights": local.sha256,
            "architecture": [document.architecture.name, document.architecture.num_classes],
            "input_size": document.preprocess.input_size,
            "processor": [machine()[key] for key in ("architecture", "processor", "flags")],
            "cores": cores.available(),
            **({"gpus": found} if (found := gpus()) else {}),
            "software": versions("resnext", "openvino", "onnxruntime", "torch"),
        }
    )


def _by_precision(entry: Any) -> dict[str, Choice]:
    found = {}
    for precision in _PRECISIONS:
        with contextlib.suppress(LookupError, TypeError):
            choice = Choice(**entry[precision])
            if _is_sound(choice) and choice.precision == precision:
                found[precision] = choice
    return found


def _is_sound(choice: Choice) -> bool:
    batch, threads = choice.batch_size, choice.threads
    return (
        choice.engine in _ENGINES
        and isinstance(batch, int)
        and 1 <= batch <= _MOST_BATCH
        and isinstance(choice.gpu, bool)
        and isinstance(choice.images_per_s, int | float)
        and (threads is None or (type(threads) is int and 1 <= threads <= cores.available()))
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # absent or damaged: measured again when asked
    return entries if isinstance(entries, dict) else {}
