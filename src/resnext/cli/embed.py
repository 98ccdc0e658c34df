"""`resnext embed`: pictures to the features before the last layer."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from resnext.cli import progress, text
from resnext.cli.complete import complete_model
from resnext.cli.options import INPUT_FAILED, engine_options, ignore_errors_option


@click.command(
    short_help="Turn pictures into vectors.",
    epilog="Example:  resnext embed photos/ -o photos.parquet",
)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path),
              help="File to write or replace: .parquet or .npy.")  # fmt: skip
@click.option("-m", "--model", default="starter", show_default=True, shell_complete=complete_model,
              help="Catalogue name, alias, file, or hf-hub:owner/repo.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1),
              help="Pictures per engine call; default: what suits the engine.")  # fmt: skip
@engine_options
@ignore_errors_option
@click.option("--json", "as_json", is_flag=True, help="The summary as one line of JSON.")
def embed(
    *,
    inputs: tuple[str, ...],
    output: Path,
    batch_size: int | None,
    offline: bool,
    ignore_errors: bool,
    as_json: bool,
    **engine: Any,
) -> int:
    """Turn pictures into vectors: the pooled features that the last layer takes.

    INPUT is a file, a folder, a glob, an http(s) URL, or - for one path a line on stdin.

    Parquet has the columns source and embedding; .npy an array, with the names of its rows
    in .sources.json beside it. A picture that cannot be read is named on stderr and left out,
    and the exit code is 3. Without one picture nothing is written. The same command goes on
    where it was stopped.
    """
    import resnext
    from resnext import sources
    from resnext.errors import DatasetError, ImageError, listed
    from resnext.explore.embedding import embed_items
    from resnext.results import sinks
    from resnext.results.formats import printable

    start = time.perf_counter()
    format_ = sinks.format_of(output, sinks.EMBEDDING_FORMATS)
    with progress.download_bar() as downloaded:
        classifier = resnext.Classifier(offline=offline or None, progress=downloaded, **engine)
    size = classifier.document.architecture.embedding_size
    pictures = progress.Lookahead(sources.iter_sources(inputs))
    failed = 0
    opened = sinks.open_embedding_sink(format_, output, embedding_size=size)
    found = embed_items(
        classifier, pictures, lambda source: source, batch_size=batch_size, keep=True
    )
    with (
        progress.naming_partial(opened) as sink,
        progress.bar(pictures, quiet=False) as advance,
        contextlib.closing(found) as rows,
    ):
        for source, row in rows:
            advance()
            if isinstance(row, ImageError):
                failed += 1
                print(printable(f"{source.name}: {row.reason}"), file=sys.stderr)
            else:
                sink.write(sinks.Embedding(source.name, row))
        if not sink.count:  # here, where it leaves an older file as it is
            raise DatasetError(
                f"{listed(inputs)}: there is no picture to embed; nothing is written",
                hint="name files that are pictures, or folders that have some",
            )
    progress.summarize(pictures.taken, failed, time.perf_counter() - start)
    facts = {
        "embeddings": str(output),
        "pictures": sink.count,
        "values": size,
        "left_out": failed,
        "megabytes": round(os.path.getsize(output) / 1e6, 1),
    }
    print(json.dumps(facts) if as_json else text.pairs(tuple(facts.items())))
    return INPUT_FAILED if failed and not ignore_errors else 0
