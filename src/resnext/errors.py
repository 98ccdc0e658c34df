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
│   └── BrokenExtraError                  ... or is, and cannot be imported
├── TrainingError (RuntimeError)          a run that cannot go on
├── OutOfMemoryError (RuntimeError)       more than the device or the machine can hold
├── ParityError (ResNeXtError)            two engines disagree beyond the tolerance
└── OutputError (OSError)                 a result that cannot be written
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from types import ModuleType

_ALIKE = 0.76  # of all letters, in both names: dog and hog share two thirds, bear and pear 0.75
_WORD = re.compile(r"[^\W_]+")
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # by module, where pip has it under another name


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


class BrokenExtraError(MissingExtraError):
    """An optional dependency is installed and cannot be imported."""


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
    """Return what a name that is not there likely means: at most `count`, best first.

    That is what is spelled nearly so; or else what has all its words, the shortest first. What
    only looks alike, as `hog` does to `dog`, is neither.
    """
    wanted, names = name.casefold(), {one.casefold(): one for one in candidates}
    near = difflib.get_close_matches(wanted, names, n=count, cutoff=_ALIKE)
    if not near and (words := set(_WORD.findall(wanted))):
        near = sorted((one for one in names if words <= set(_WORD.findall(one))), key=len)
    return [names[one] for one in near[:count]]


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
        BrokenExtraError: It is, but its import fails, as where versions do not fit together.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = _DISTRIBUTIONS.get((error.name or "").partition(".")[0], error.name)
        raise MissingExtraError(
            f"`{name}` is not installed; the extra `{extra}` brings it",
            hint=install_hint(extra),
        ) from error
    except (ResNeXtError, MemoryError):
        raise
    except Exception as error:  # libraries fail in any way: ImportError, OSError, RuntimeError
        raise broken_extra(f"what the extra `{extra}` brings", error) from error


def broken_extra(what: str, error: Exception) -> BrokenExtraError:
    """Return what to raise where the import of something that is installed failed."""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return BrokenExtraError(
        f"{what} is installed, but cannot be imported: {reason}",
        hint="install it anew, in one command with what it needs, so that the versions fit",
    )
