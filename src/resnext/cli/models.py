"""`resnext models`: the public weights, with accuracy and licence."""

from __future__ import annotations

import sys
from typing import Any

import click

from resnext.cli import text

_LEGEND = """
* is what the bare architecture name means: the best published top-1 at the size it runs
  at, among licences that allow commercial use. `starter` comes with the package."""


@click.command(
    short_help="List the public weights, with accuracy and licence.",
    epilog="Example:  resnext models 'resnext101*' --licence commercial",
)
@click.argument("pattern", default="*")
@click.option("--licence", "--license", "licence",
              help="'commercial', 'non-commercial', or one such as bsd-3-clause.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def models(*, pattern: str, licence: str | None, as_json: bool) -> int:
    """List the public weights: accuracy at the size they run at, and licence.

    PATTERN is a name, a part of one, or a glob; without it all are listed. A star marks
    what a bare architecture name means: the most accurate weights, as published for the
    size they run at, whose licence allows commercial use.
    """
    from resnext import catalogue

    found = catalogue.search(pattern, license=licence)
    if as_json:
        text.dump([{**row.to_json(), "default": _is_default(row)} for row in found])
        return 0
    if not found:
        near = " (`starter` is no public one: resnext info starter)" if pattern == "starter" else ""
        print(f"no weights match {pattern!r}{near}", file=sys.stderr)
        return 0
    header = ("  name", "top-1", "top-5", "pixels", "M params", "licence")
    rows = [
        (
            f"{'*' if _is_default(row) else ' '} {row.name}",
            "-" if row.top1 is None else f"{row.top1:.2f}",
            "-" if row.top5 is None else f"{row.top5:.2f}",
            str(row.preprocess.input_size),
            f"{row.params / 1e6:.1f}",
            row.license,
        )
        for row in found
    ]
    print(text.table(header, rows, right=header[1:5]))
    if any(_is_default(row) for row in found):
        print(_LEGEND)
    return 0


def _is_default(row: Any) -> bool:
    from resnext import catalogue

    return catalogue.defaults().get(row.architecture) is row
