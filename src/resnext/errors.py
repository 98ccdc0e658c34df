"""Every exception the package raises on purpose, as one tree.

ResNeXtError
├── ModelNotFoundError (LookupError)      no such name, alias or file
├── WeightsUnavailableError (OSError)     known weights that cannot be fetched now
├── WeightsCorruptError (OSError)         bytes that are not what was promised
├── ModelFileError (ValueError)           a checkpoint or model file we refuse
├── ImageError (ValueError)               one picture that cannot be read; has `.path`
├── DatasetError (ValueError)             a folder or table that cannot be used
├── ConfigError (ValueError)              an option or setting out of range
├── EngineError (RuntimeError)            an inference engine failed
├── MissingExtraError (ImportError)       an optional dependency is not installed
├── TrainingError (RuntimeError)          a run that cannot go on
├── OutOfMemoryError (RuntimeError)       more than the device or the machine can hold
├── ParityError (ResNeXtError)            two engines disagree beyond the tolerance
└── OutputError (OSError)                 a result that cannot be written
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from os.path import commonprefix
from types import ModuleType

# Letters of a word from which on it was likely a slip, if there is one more or less; if one is
# another; if two are wrong. In a shorter one that makes another word: dog, hog; plane, plate.
_SHORT, _MIDDLING, _LONG = 4, 6, 8
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # by module, where pip has it under another name
_ALIKE = 0.75  # of a word at its beginning: interpolate, interpolation
_WORD = 2.5  # slips that a word more or less counts as


class ResNeXtError(Exception):
    """Base of every deliberate failure: what happened, and how to mend it.

    Args:
        message: What happened, with the offending value and what was expected.
        hint: The command or change that mends it; shown after a blank line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}\n\nhint: {hint}" if hint else message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Python's own way calls the class with `args`, which is not what `ImageError` takes.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    kind: type[ResNeXtError], args: tuple[str, ...], state: dict[str, object]
) -> ResNeXtError:
    """Make a pickled error again: its text, and its attributes as they were."""
    error = kind.__new__(kind)
    super(ResNeXtError, error).__init__(*args)
    error.__dict__.update(state)
    return error


class ModelNotFoundError(ResNeXtError, LookupError):
    """No model, alias or file has this name."""

    exit_code = 4


class WeightsUnavailableError(ResNeXtError, OSError):
    """The weights are known but cannot be fetched or read now."""

    exit_code = 5


class WeightsCorruptError(ResNeXtError, OSError):
    """The bytes of a weight file are not the promised ones."""

    exit_code = 4


class ModelFileError(ResNeXtError, ValueError):
    """A checkpoint or model file is refused."""

    exit_code = 4


class ImageError(ResNeXtError, ValueError):
    """One picture cannot be read.

    Args:
        path: Name of the picture as the caller gave it.
        reason: Why it cannot be read, without the name.
        hint: How to mend it.
    """

    exit_code = 3

    def __init__(self, path: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path = path
        self.reason = reason


class DatasetError(ResNeXtError, ValueError):
    """A folder or table of pictures cannot be used as a data set."""

    exit_code = 3


class ConfigError(ResNeXtError, ValueError):
    """An option or setting is unknown or out of range."""

    exit_code = 2


class EngineError(ResNeXtError, RuntimeError):
    """An inference engine failed or answered nonsense."""


class MissingExtraError(ResNeXtError, ImportError):
    """An optional dependency is not installed."""

    exit_code = 5


class TrainingError(ResNeXtError, RuntimeError):
    """A training run cannot go on."""


class OutOfMemoryError(ResNeXtError, RuntimeError):
    """Something does not fit into the memory of the device or of the machine."""

    exit_code = 5


class ParityError(ResNeXtError):
    """Two engines disagree by more than the stated tolerance."""

    exit_code = 4


class OutputError(ResNeXtError, OSError):
    """A result cannot be written."""

    exit_code = 5


def closest(name: str, candidates: Iterable[str], *, count: int = 3) -> list[str]:
    """Return what a name that is not there likely means: at most `count`, all as likely.

    That is what a slip of the hand makes of it: letters that changed places, one too many or too
    few, a wrong one in a longer word; or what shares a word with it, or a long beginning. What
    only looks alike, as `hog` does to `dog`, is neither.
    """
    costs: dict[str, float] = {}
    for candidate in candidates:
        cost = _cost(name.casefold(), candidate.casefold())
        if cost is not None:
            costs[candidate] = cost
    lowest = min(costs.values(), default=0)
    return sorted((one for one, cost in costs.items() if cost == lowest), key=len)[:count]


def _cost(name: str, other: str) -> float | None:
    """Return how far a name is from another: its slips, or words too many; None if unlikely."""
    if (slips := _count_slips(name, other)) is not None:
        return slips
    short, long = sorted((name, other), key=len)
    wanted, words = _words(short), _words(long)
    if len(short) < 2 or "".join(wanted).isdigit() or not wanted:
        return None
    cost = _WORD * max(1, len(words) - len(wanted))
    if f" {' '.join(wanted)} " in f" {' '.join(words)} ":
        return cost
    return cost + 1 if _begin_or_end_alike(name, other) else None


def _count_slips(name: str, other: str) -> int | None:
    """Return how many slips of the hand lie between two texts; None if it was no slip."""
    shorter = min(len(name), len(other))
    most = max(2, shorter // 4) if shorter >= _LONG else 1
    if abs(len(name) - len(other)) > most or (edits := _count_edits(name, other)) > most:
        return None
    return edits if not edits or shorter >= _LONG or _is_slip(name, other) else None


def _is_slip(name: str, other: str) -> bool:
    """Tell whether one edit of a short word was a slip, and does not make another word."""
    short, long = sorted((name, other), key=len)
    if len(short) < len(long):
        return len(short) >= _SHORT or long == short + "s"
    if sorted(name) == sorted(other):
        return True  # two letters changed places
    pair = next((a, b) for a, b in zip(name, other, strict=True) if a != b)
    return len(name) >= _MIDDLING and name[0] == other[0] and all(map(str.isalpha, pair))


def _count_edits(name: str, other: str) -> int:
    """Count the letters to add, leave out, replace, or swap with the next one."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, letter in enumerate(name, start=1):
        this = [row]
        for column, wanted in enumerate(other, start=1):
            fewest = min(last[column] + 1, this[-1] + 1, last[column - 1] + (letter != wanted))
            if row > 1 < column and letter == other[column - 2] and wanted == name[row - 2]:
                fewest = min(fewest, before[column - 2] + 1)
            this.append(fewest)
        before, last = last, this
    return last[-1]


def _begin_or_end_alike(name: str, other: str) -> bool:
    """Tell whether one is the beginning or end of the other, or much of both begins alike."""
    if len(name) >= _SHORT and other.startswith(name):
        return True
    short, long = sorted((name, other), key=len)
    same = len(commonprefix((name, other)))
    if same >= _MIDDLING and same >= _ALIKE * len(long):
        return True
    return len(short) > _SHORT and (long.startswith(short) or long.endswith(short))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)


def listed(items: Iterable[str], *, most: int = 9) -> str:
    """Join items for a message: the first `most`, and how many there are more."""
    items = list(items)
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with what it counts: `1 picture`, `1,000 pictures`.

    Args:
        number: How many.
        one: What to say of one, such as "picture" or "class has".
        many: What to say of more, or of none; by default `one` and an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def install_hint(extra: str) -> str:
    """Return the commands that bring an extra: to an installed package, or from a checkout.

    pip takes the first for the package that is there, and asks no index for it.
    """
    return f"pip install 'resnext[{extra}]' (in a checkout: pip install '.[{extra}]')"


def import_extra(module: str, *, extra: str) -> ModuleType:
    """Import a module that needs an optional dependency.

    Args:
        module: Dotted name of the module.
        extra: Name of the extra that installs it.

    Raises:
        MissingExtraError: The module, or one it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = _DISTRIBUTIONS.get((error.name or "").partition(".")[0], error.name)
        raise MissingExtraError(
            f"`{name}` is not installed; the extra `{extra}` brings it",
            hint=install_hint(extra),
        ) from error
