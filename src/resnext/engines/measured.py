"""What was measured once on a machine, kept as JSON in the cache folder.

One process measures, alone, while others wait: they would disturb each other and then
disagree. A file that is damaged is measured again; a folder that cannot be written costs
the time of a measurement at each start.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from resnext.errors import OutputError
from resnext.files import atomic

Found = TypeVar("Found")


def once(
    path: Path | None,
    field: str,
    key: str,
    measure: Callable[[], Found],
    parse: Callable[[Any], Found],
) -> Found:
    """Return what was measured before, or measure it and write it down.

    Args:
        path: The file, `{field: {key: value}}`; None keeps nothing.
        field: What is measured.
        key: What it depends on, hashed.
        measure: Measures; what it returns must be a JSON value.
        parse: Makes of a value in the file what `measure` returns; raises ValueError or
            TypeError where it is no such value.
    """
    if path is None:
        return measure()
    with contextlib.suppress(LookupError):
        return _find(path, field, key, parse)
    from filelock import FileLock  # rarely needed

    found: list[Found] = []
    # A folder that cannot be written is reported where it costs more: `CompiledCache`.
    with contextlib.suppress(OutputError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            with contextlib.suppress(LookupError):
                return _find(path, field, key, parse)
            found.append(measure())
            _keep(path, field, key, found[0])
    return found[0] if found else measure()


def _find(path: Path, field: str, key: str, parse: Callable[[Any], Found]) -> Found:
    try:
        return parse(_section(_read(path), field)[key])
    except (ValueError, TypeError) as error:
        raise LookupError(key) from error


def _keep(path: Path, field: str, key: str, value: object) -> None:
    entries = _read(path)
    entries[field] = {**_section(entries, field), key: value}
    with atomic(path) as file:
        file.write(json.dumps(entries, indent=1).encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # absent or damaged
    return entries if isinstance(entries, dict) else {}


def _section(entries: dict[str, Any], field: str) -> dict[str, Any]:
    found = entries.get(field)
    return found if isinstance(found, dict) else {}
