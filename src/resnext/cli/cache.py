"""`resnext cache`: what is on disk, where, and how to be rid of it."""

from __future__ import annotations

import click

from resnext.cli import text


@click.command(
    short_help="Show or delete what is on disk.",
    epilog="Example:  resnext cache --remove resnext50_32x4d.tv2_in1k",
)
@click.option("--remove", help="Delete one entry by name, or 'all'.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def cache(*, remove: str | None, as_json: bool) -> int:
    """Show weights, compiled models, features, data sets, measurements, and where they are.

    The folder is $RESNEXT_HOME, or the platform's cache folder.
    """
    from resnext import weights

    if remove:
        freed = weights.remove(remove)
        text.dump({"removed": remove, "bytes": freed}) if as_json else print(
            f"removed {remove}: {freed / 1e6:.1f} MB"
        )
        return 0
    entries = weights.cached()
    if as_json:
        text.dump({"folder": str(weights.cache_home()), "entries": [e.to_json() for e in entries]})
        return 0
    print(weights.cache_home())
    if not entries:
        print("(empty)")
        return 0
    rows = [(entry.kind, entry.name, f"{entry.size / 1e6:.1f}") for entry in entries]
    print(text.table(("kind", "name", "MB"), rows, right=("MB",)))
    return 0
