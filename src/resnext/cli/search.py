"""`resnext search`: the pictures of an index that are most like a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from resnext.cli import progress, text
from resnext.cli.complete import complete_model
from resnext.cli.options import INPUT_FAILED, engine_options, ignore_errors_option


@click.command(
    short_help="Find the pictures most like a picture.",
    epilog="Example:  resnext search cat.jpg --index photos.index --html nearest.html",
)
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...", type=click.Path())
@click.option("-i", "--index", "path", required=True, type=click.Path(path_type=Path),
              help="What `resnext index` wrote.")  # fmt: skip
@click.option("-k", "count", type=click.IntRange(min=1), default=10, show_default=True,
              help="How many pictures.")  # fmt: skip
@click.option("-m", "--model", shell_complete=complete_model,
              help="Where the model of the index is now; default: as it says.")  # fmt: skip
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), default=0.07,
              show_default=True, help="Of the vote; small: the nearest decides.")  # fmt: skip
@click.option(
    "--html", type=click.Path(path_type=Path), help="Also write or replace a contact sheet."
)
@click.option("--json", "as_json", is_flag=True, help="The answers as JSON.")
@engine_options
@ignore_errors_option
def search(
    *,
    queries: tuple[str, ...],
    path: Path,
    count: int,
    model: str | None,
    temperature: float,
    html: Path | None,
    as_json: bool,
    offline: bool,
    ignore_errors: bool,
    **engine: Any,
) -> int:
    """Find the pictures of an index most like each QUERY: a file, folder, glob or URL.

    Where the index knows classes, the pictures found vote for one, the nearer the more.
    """
    from resnext.explore import lookup, sheet
    from resnext.explore.index import open_index, open_model
    from resnext.files import check_place, check_replaceable
    from resnext.results.formats import printable
    from resnext.sources import iter_sources

    if html is not None:
        check_place(html)
        check_replaceable(html, inputs=(*queries, path))
    index = open_index(path)
    with progress.download_bar() as downloaded:
        classifier = open_model(
            index, model, offline=offline or None, progress=downloaded, **engine
        )
    sources = iter_sources(queries)
    before = ""  # of each block but the first: a blank line
    results = list(lookup.look_up(classifier, index, sources, count, temperature=temperature))
    for found in results:
        if found.error is not None:
            print(printable(f"{found.source.name}: {found.error}"), file=sys.stderr)
        elif not as_json:
            print(f"{before}{_block(found, printable)}")
            before = "\n"
    if as_json:
        text.dump([found.to_json() for found in results])
    if html is not None:
        progress.say_written(sheet.write_sheet(html, index, results))
    failed = any(found.error is not None for found in results)
    return INPUT_FAILED if failed and not ignore_errors else 0


def _block(found: Any, printable: Any) -> str:
    votes = ", ".join(f"{label} {share:.0%}" for label, share in found.votes)
    title = f"{found.source.name}{f' (vote: {votes})' if votes else ''}"
    rows = [
        [f"{one.similarity:.3f}", printable(one.label or ""), printable(one.name)]
        for one in found.neighbors
    ]
    table = text.table(["similarity", "class", "picture"], rows)
    return f"{printable(title)}\n{table}"
