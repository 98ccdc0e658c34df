"""`resnext compare`: two models on the same pictures."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from resnext.cli import progress, text
from resnext.cli.complete import complete_model
from resnext.cli.options import INPUT_FAILED, engine_options, ignore_errors_option


@click.command(
    short_help="Say which of two models is better, and where.",
    epilog="Example:  resnext compare starter pets.safetensors photos/val -o report/",
)
@click.argument("a", shell_complete=complete_model)
@click.argument("b", shell_complete=complete_model)
@click.argument("data", type=click.Path())
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for the report; a stopped run goes on there.")  # fmt: skip
@click.option("--labels", type=click.Path(), help="File of right answers, as for evaluate.")
@click.option("--map", "map_", type=click.Path(),
              help="CSV of folder,class where names differ.")  # fmt: skip
@click.option("--restrict", is_flag=True, help="Answer only with classes that DATA has.")
@engine_options
@ignore_errors_option
@click.option("--force", is_flag=True, help="Begin anew in the folder.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON.")
def compare(
    *,
    a: str,
    b: str,
    output: Path | None,
    map_: str | None,
    offline: bool,
    force: bool,
    ignore_errors: bool,
    as_json: bool,
    engine: str,
    precision: str,
    threads: int | None,
    **question: Any,
) -> int:
    """Say which of the models A and B is better on labelled pictures, and where.

    DATA is as for `evaluate`. Differences are B's less A's. Both work by turns on the same
    pictures, so that their speed can be compared as well.
    """
    import resnext
    from resnext.evaluation import compare as comparison
    from resnext.evaluation import versus, wording
    from resnext.evaluation.evaluate import Question, describe_kept
    from resnext.results.formats import printable

    options: dict[str, Any] = {"engine": engine, "precision": precision, "threads": threads}
    with progress.download_bar() as downloaded:
        first, second = (
            resnext.Classifier(name, offline=offline or None, progress=downloaded, **options)
            for name in (a, b)
        )
    asked = Question(map=map_, **question)
    kept = partial(describe_kept, output, force=force, journals=comparison.JOURNALS)
    with progress.naming_kept(kept), first, second, progress.count_bar() as counted:
        with comparison.compare(
            first, second, asked, output=output, force=force, progress=counted
        ) as found:
            if output is not None:
                versus.write(first, found, output)
    for note in found.figures["data"]["notes"]:
        print(printable(f"note: {note}"), file=sys.stderr)
    for problem in found.problems:
        print(printable(f"left out: {problem}"), file=sys.stderr)
    if as_json:
        print(json.dumps(found.figures))
    else:
        report = output and output / versus.REPORT
        print(text.pairs([*wording.compared(found.figures), ("report", report)]))
    return INPUT_FAILED if found.problems and not ignore_errors else 0
