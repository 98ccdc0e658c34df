"""Nested dataclasses to and from JSON, and values as people write them.

A key such as `optim.lr` is a path of field names; what may stand there is the field's type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from resnext.errors import ConfigError, closest

# What others call a setting, and the last part of its key here.
_ALIASES = {
    "learning_rate": "lr",
    "base_lr": "lr",
    "wd": "weight_decay",
    "bs": "batch_size",
    "batch": "batch_size",
    "optimizer": "optim.name",
    "opt": "optim.name",
    "scheduler": "schedule.kind",
    "lr_scheduler": "schedule.kind",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "workers": "num_workers",
    "dropout": "drop_rate",
    "drop_path": "drop_path_rate",
    "smoothing": "label_smoothing",
    "mixup": "mixup_alpha",
    "cutmix": "cutmix_alpha",
    "grad_clip": "clip_norm",
    "img_size": "train_size",
    "image_size": "train_size",
}


def paths(kind: Any, prefix: str = "") -> list[str]:
    """List every key of a dataclass and of those inside it."""
    found = []
    for name, hint in get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found += paths(hint, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def hint_of(kind: Any, path: str) -> Any:
    """Return the type of the value at a key such as `optim.lr`.

    Raises:
        ConfigError: There is no such key.
    """
    if path not in paths(kind):
        near = _near(path, paths(kind))
        raise ConfigError(
            f"there is no setting {path!r}",
            hint=f"did you mean {near[0]!r}?" if near else f"one of {', '.join(paths(kind))}",
        )
    for name in path.split("."):
        kind = get_type_hints(kind)[name]
    return kind


def _near(path: str, known: Sequence[str]) -> list[str]:
    """Return the keys likely meant: by its last part, which may be in another section, or all."""
    word = path.rpartition(".")[2].lower().replace("-", "_")
    word = _ALIASES.get(word, word)
    same = [key for key in known if f".{key}".endswith(f".{word}")]
    return closest(path, same) or same or closest(path, known)


def to_plain(value: Any) -> Any:
    """Return dataclasses as dictionaries and tuples as lists, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value


def build(kind: Any, values: Any) -> Any:
    """Read what `to_plain` returned; keys with a default may be absent.

    Raises:
        ConfigError: A key is unknown or missing, or a value of another type or out of range.
    """
    return _build(kind, values, kind, "")


def _build(kind: Any, values: Any, root: Any, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{prefix.rstrip('.') or 'the config'} is {values!r}; expected an object")
    hints = get_type_hints(kind)
    if unknown := [key for key in values if key not in hints]:
        hint_of(root, f"{prefix}{unknown[0]}")
    arguments = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            arguments[name] = _build(hint, value, root, f"{prefix}{name}.")
        else:
            arguments[name] = _check(hint, value, f"{prefix}{name}")
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"the config lacks a key: {error}") from error


def _check(hint: Any, value: Any, path: str) -> Any:
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        items = get_args(hint)
        if items[-1] is Ellipsis:
            items = (items[0],) * len(value)
        if len(items) == len(value):
            return tuple(_check(one, item, path) for one, item in zip(items, value, strict=True))
    elif get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise ConfigError(f"{path} is {value!r}; expected {_describe(hint)}")


def parse(hint: Any, text: str, path: str) -> Any:
    """Read a value as people write it: a list with commas, `true` or `yes`, `none` for nothing.

    Args:
        hint: Its type.
        text: As written.
        path: Its key, for messages.

    Raises:
        ConfigError: It is of another type.
    """
    if text == "none" and text not in get_args(hint):  # as `show` writes what is empty
        text = ""
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        return [parse(item, part.strip(), path) for part in text.split(",") if part.strip()]
    if hint is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() in words:
            return words[text.lower()]
    elif hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            pass
    else:
        return _check(hint, text, path)
    raise ConfigError(f"{path} is {text!r}; expected {_describe(hint)}")


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(choice or "none") for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list of {_describe(get_args(hint)[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(hint, "a text")
