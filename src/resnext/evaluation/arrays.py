"""What the figures are computed from: checked arrays, some rows at a time.

N pictures, K classes. The logits of 100,000 pictures and 1,000 classes are 400 MB: no
function copies them whole, each goes through them in chunks and computes in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.errors import ConfigError, EngineError, counted

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Logits = NDArray[np.floating]
Targets = NDArray[np.integer[Any]] | Booleans  # (N,) right classes, or (N, K) which ones are right

UNLABELED = -1  # the target of a picture whose class nobody knows: it is left out

_CHUNK = 2**19  # numbers: 4 MiB of float64


def chunks(rows: int, width: int = 1) -> Iterator[slice]:
    """Divide rows into parts of about half a million numbers, at least one row each.

    Args:
        rows: How many there are.
        width: Numbers of each.
    """
    step = max(1, _CHUNK // max(1, width))
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))


def check_logits(logits: Logits) -> None:
    """Refuse logits that are not (N, K) finite numbers.

    Raises:
        ConfigError: They have another shape.
        EngineError: One is not finite.
    """
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ConfigError(f"logits are {logits.shape}; expected (N, K), one of each class")
    # The extremes of all tell it without a mask as large as a quarter of them.
    if not logits.size or (np.isfinite(logits.max()) and np.isfinite(logits.min())):
        return
    bad = [
        part.start + int(row)
        for part in chunks(*logits.shape)
        for row in np.flatnonzero(~np.isfinite(logits[part]).all(axis=1))
    ]
    raise EngineError(
        f"logits of {len(bad)} of {counted(len(logits), 'picture')} are NaN or infinite, the"
        f" first in row {bad[0]}",
        hint="try `--precision fp32`; weights that hold NaN cannot be used",
    )


def check_classes(classes: Targets, num_classes: int, *, name: str) -> None:
    """Refuse what is not (N,) class indices.

    Args:
        classes: 0 to K - 1; targets may be `UNLABELED`.
        num_classes: K.
        name: What they are, for the error.

    Raises:
        ConfigError: They have another shape or type, or one is out of range.
    """
    if classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise ConfigError(
            f"{name} are {classes.dtype} {classes.shape}; expected whole numbers (N,)"
        )
    least, rest = (
        (UNLABELED, f", or {UNLABELED} where none is known") if name == "targets" else (0, "")
    )
    if classes.size and not (least <= classes.min() and classes.max() < num_classes):
        raise ConfigError(
            f"{name} are {classes.min()} to {classes.max()}; expected 0 to {num_classes - 1}{rest}"
        )


def check_targets(logits: Logits, targets: Targets) -> None:
    """Refuse targets that do not fit logits.

    Args:
        logits: (N, K).
        targets: (N,) class indices, `UNLABELED` where none is known, or (N, K) bool.

    Raises:
        ConfigError: A shape, type or index does not fit.
        EngineError: A logit is not finite.
    """
    check_logits(logits)
    fits = logits.shape if targets.dtype == np.bool_ else logits.shape[:1]
    if targets.shape != fits:
        raise ConfigError(
            f"targets are {targets.dtype} {targets.shape} for logits {logits.shape}; expected "
            "(N,) class indices or (N, K) bool"
        )
    if targets.ndim == 1:
        check_classes(targets, logits.shape[1], name="targets")


def check_pairs(first: NDArray[np.generic], second: NDArray[np.generic], *, names: str) -> None:
    """Refuse two arrays that are not both (N,).

    Args:
        first: One value of each picture.
        second: Another one.
        names: What they are, for the error.

    Raises:
        ConfigError: They have other or different shapes.
    """
    if first.ndim != 1 or first.shape != second.shape:
        raise ConfigError(
            f"{names} are {first.shape} and {second.shape}; expected (N,) of the same pictures"
        )


def labeled(
    targets: NDArray[np.integer], *answers: NDArray[np.integer], num_classes: int
) -> tuple[Integers, ...]:
    """Return targets and answers of the pictures that have a target.

    Args:
        targets: (N,) class indices, or `UNLABELED`.
        answers: (N,) class indices, of one model or several.
        num_classes: K.

    Raises:
        ConfigError: Shapes or indices do not fit.
    """
    check_classes(targets, num_classes, name="targets")
    for answer in answers:
        check_pairs(answer, targets, names="answers and targets")
        check_classes(answer, num_classes, name="answers")
    kept = targets >= 0
    return tuple(array[kept].astype(np.int64) for array in (targets, *answers))
