"""`resnext evaluate`: how good a model is, and where it is wrong."""

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
    short_help="Say how good a model is, and where it is wrong.",
    epilog="Example:  resnext evaluate photos/val -m pets.safetensors -o report/",
)
@click.argument("data", type=click.Path())
@click.option("-m", "--model", default="starter", show_default=True, shell_complete=complete_model,
              help="Catalogue name, alias, file, or hf-hub:owner/repo.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for report, plots and tables; a stopped run goes on there.")  # fmt: skip
@click.option("--labels", type=click.Path(),
              help="File of right answers, for flat pictures or as ReaL's.")  # fmt: skip
@click.option("--map", "map_", type=click.Path(),
              help="CSV of folder,class where names differ.")  # fmt: skip
@click.option("--restrict", is_flag=True, help="Answer only with classes that DATA has.")
@click.option("--index", "index", type=click.Path(path_type=Path),
              help="Index to show the nearest pictures of, beside mistakes.")  # fmt: skip
@click.option("--calibrate", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the model with temperature and threshold that suit.")  # fmt: skip
@engine_options
@ignore_errors_option
@click.option("--force", is_flag=True, help="Begin anew in the folder; replace FILE.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON.")
def evaluate(
    *,
    output: Path | None,
    calibrate: Path | None,
    index: Path | None,
    offline: bool,
    force: bool,
    ignore_errors: bool,
    as_json: bool,
    engine: str,
    precision: str,
    threads: int | None,
    model: str,
    map_: str | None,
    **question: Any,
) -> int:
    """Say how good a model is on labelled pictures, and where it is wrong.

    DATA is what `finetune` takes, of which the part to validate on is used if there is one, or
    ImageNet's validation pictures, in class folders or flat. Its classes are matched to the
    model's by synset id, name or number, or by --map. A picture that cannot be read is named and
    left out, and the exit code is 3.
    """
    import resnext
    from resnext.errors import ConfigError
    from resnext.evaluation import evaluate as evaluation
    from resnext.evaluation import report, wording
    from resnext.explore.index import open_index
    from resnext.results.formats import printable

    if output is not None:
        report.check_extras()
    elif index is not None:
        raise ConfigError("--index is for the report", hint="name its folder with -o")
    with progress.download_bar() as downloaded:
        classifier = resnext.Classifier(
            model, engine=engine, precision=precision, threads=threads, offline=offline or None,
            progress=downloaded,
        )  # fmt: skip
    known = None if index is None else open_index(index)
    if known is not None:
        known.check(classifier)
    asked = evaluation.Question(map=map_, **question)
    notes: list[str] = []
    if calibrate is not None:
        evaluation.check_calibrates(classifier, calibrate, restrict=asked.restrict, force=force)
    kept = partial(evaluation.describe_kept, output, force=force)
    with progress.naming_kept(kept), classifier, progress.count_bar() as counted:
        with evaluation.evaluate(
            classifier, asked, output=output, force=force, progress=counted
        ) as found:
            if output is not None:
                report.write(classifier, found, output, index=known)
            if calibrate is not None:
                notes += evaluation.calibrate(classifier, found, calibrate, force=force)
    figures = found.figures
    for note in [*figures["data"]["notes"], *notes]:
        print(printable(f"note: {note}"), file=sys.stderr)
    for problem in found.problems:
        print(printable(f"left out: {problem}"), file=sys.stderr)
    if as_json:
        print(json.dumps(figures))
        return INPUT_FAILED if found.problems and not ignore_errors else 0
    written = [
        ("report", output and output / report.REPORT),
        ("written", calibrate and wording.calibrated(calibrate, figures)),
    ]
    print(text.pairs([*wording.describe(figures), *written]))
    return INPUT_FAILED if found.problems and not ignore_errors else 0
