"""`resnext index`: pictures to a file that `resnext search` looks in."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from resnext.cli import progress, text
from resnext.cli.complete import complete_model
from resnext.cli.options import INPUT_FAILED, engine_options, ignore_errors_option


@click.command(
    short_help="Make an index of pictures to search in.",
    epilog="Example:  resnext index photos/ -o photos.index",
)
@click.argument("data", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path),
              help="File to write or replace.")  # fmt: skip
@click.option("-m", "--model", default="starter", show_default=True, shell_complete=complete_model,
              help="Catalogue name, alias, file, or hf-hub:owner/repo.")  # fmt: skip
@click.option("--part", type=click.Choice(["train", "val", "all"]),
              help="Of a data set that has two.  [default: train]")  # fmt: skip
@engine_options
@ignore_errors_option
@click.option("--json", "as_json", is_flag=True, help="The summary as one line of JSON.")
def index(
    *,
    data: str,
    output: Path,
    model: str,
    part: str | None,
    offline: bool,
    ignore_errors: bool,
    as_json: bool,
    **engine: Any,
) -> int:
    """Make an index of pictures to search in.

    DATA is a folder of pictures, or a data set: a folder per class, a table of path,label, tar
    shards; then the index knows their classes. A picture that cannot be read is named and left
    out, and the exit code is 3. The same command goes on where it was stopped.
    """
    import resnext
    from resnext.explore import gather
    from resnext.explore import index as index_
    from resnext.results.formats import printable

    index_.check_output(output)
    pictures = gather.gather(data, part=part)
    for note in pictures.notes:
        print(printable(f"note: {note}"), file=sys.stderr)
    with progress.download_bar() as downloaded:
        classifier = resnext.Classifier(
            model, offline=offline or None, progress=downloaded, **engine
        )
    builder = gather.Builder(classifier, model)
    with progress.count_bar() as counted:
        try:
            count = builder.build(output, pictures, progress=counted)
        finally:
            for error in builder.failed:
                print(printable(f"left out: {error.path}: {error.reason}"), file=sys.stderr)
    facts = {
        "index": str(output),
        "pictures": count,
        "classes": len(pictures.class_names),
        "left_out": len(builder.failed),
        "megabytes": round(os.path.getsize(output) / 1e6, 1),
    }
    print(json.dumps(facts) if as_json else text.pairs(tuple(facts.items())))
    return INPUT_FAILED if builder.failed and not ignore_errors else 0
