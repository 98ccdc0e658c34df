"""Plain aligned tables and JSON on stdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from resnext.results.formats import printable


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()
) -> str:
    """Align columns by spaces.

    Args:
        header: Name of each column.
        rows: One text per column.
        right: Names of the columns to align right.

    Returns:
        The lines, without trailing spaces or newline.
    """
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    to_right = [name in right for name in header]
    lines = []
    for row in (header, *rows):
        cells = zip(row, widths, to_right, strict=True)
        lines.append(
            "  ".join(
                cell.rjust(width) if rights else cell.ljust(width) for cell, width, rights in cells
            ).rstrip()
        )
    return "\n".join(lines)


def pairs(facts: Sequence[tuple[str, object]]) -> str:
    """Align `name  value` lines; facts without a value are left out."""
    known = [(name, _plain(value)) for name, value in facts if value not in (None, "", (), {})]
    width = max((len(name) for name, _ in known), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in known)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{printable(str(key))}: {_plain(part)}" for key, part in value.items())
    # Printable: a model file of a stranger must not drive the terminal.
    if isinstance(value, float):  # two digits after the point, or three that count
        return f"{value:.2f}" if abs(value) >= 0.1 or not value else f"{value:.3g}"
    return printable(str(value))


def dump(value: Any) -> None:
    """Print one JSON document; in ASCII where a name in it is no Unicode."""
    shown = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        shown.encode()
    except UnicodeEncodeError:  # a file name of other bytes: JSON has an escape for these
        shown = json.dumps(value, indent=2)
    print(shown)
