"""`resnext predict`: pictures to named predictions."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

import resnext
from resnext.cli import progress
from resnext.cli.complete import complete_model
from resnext.cli.options import INPUT_FAILED, engine_options, ignore_errors_option
from resnext.files import check_replaceable

FORMATS = ("table", "json", "jsonl", "csv", "parquet")
AT_LEAST_1 = click.IntRange(min=1)


@click.command(
    short_help="Name what is in pictures.",
    epilog="Example:  resnext predict photos/ --model resnext50_32x4d -f csv -o answers.csv",
)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path())
@click.option("-m", "--model", default="starter", show_default=True, shell_complete=complete_model,
              help="Catalogue name, alias, file, or hf-hub:owner/repo.")  # fmt: skip
@click.option("-k", "--top-k", type=AT_LEAST_1, default=5, show_default=True,
              help="Answers a picture.")  # fmt: skip
@click.option("-f", "--format", "format_", type=click.Choice(FORMATS),
              help="Default: as the suffix of -o says, else table.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="Write or replace this file, not stdout.")  # fmt: skip
@click.option("--batch-size", type=AT_LEAST_1,
              help="Pictures per engine call; default: what suits the engine.")  # fmt: skip
@engine_options
@ignore_errors_option
def predict(
    *,
    inputs: tuple[str, ...],
    top_k: int,
    format_: str | None,
    output: Path | None,
    batch_size: int | None,
    offline: bool,
    ignore_errors: bool,
    **engine: Any,
) -> int:
    """Name what is in pictures.

    INPUT is a file, a folder, a glob, an http(s) URL, or - for one path a line on stdin.

    Results go to stdout or -o, in the order of the pictures; talk goes to stderr. A picture
    that cannot be read is reported, the rest are done, and the exit code is 3.
    """
    from resnext import sources
    from resnext.results import sinks
    from resnext.results.formats import printable

    start = time.perf_counter()
    output = None if output == Path("-") else output
    if output is not None:
        check_replaceable(output, inputs=inputs)
    chosen = format_ or (sinks.format_of(output) if output else "table")
    named = sinks.named_format(output) if output else chosen
    if named in FORMATS and named != chosen:
        print(printable(f"note: {output} is written as {chosen}, not {named}"), file=sys.stderr)
    with progress.download_bar() as downloaded:
        classifier = resnext.Classifier(offline=offline or None, progress=downloaded, **engine)
    if assumed := classifier.document.provenance.get("assumed"):
        facts = "; ".join(f"{key}: {value}" for key, value in assumed.items())
        print(f"note: the checkpoint does not say how to use it; assumed {facts}", file=sys.stderr)
    pictures = progress.Lookahead(sources.iter_sources(inputs))
    failed = 0
    with (
        progress.naming_partial(sinks.open_sink(chosen, output or sys.stdout, top_k=top_k)) as sink,
        progress.bar(pictures, quiet=output is None and sys.stdout.isatty()) as advance,
    ):
        for result in classifier.predict(pictures, top_k=top_k, batch_size=batch_size):
            sink.write(result)
            advance()
            if result.error is not None:
                failed += 1
                if output is not None or chosen != "table":  # the table has it already
                    print(printable(f"{result.source}: {result.error}"), file=sys.stderr)
    progress.summarize(pictures.taken, failed, time.perf_counter() - start)
    progress.say_written(output)
    return INPUT_FAILED if failed and not ignore_errors else 0
