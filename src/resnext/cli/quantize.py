"""`resnext quantize`: a model file that runs in 8 bits."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from resnext.cli import progress, text
from resnext.cli.complete import complete_model
from resnext.cli.options import INPUT_FAILED


@click.command(
    short_help="Let a model run in 8 bits, faster.",
    epilog="Example:  resnext quantize pets.safetensors --calibrate photos/ -o pets8.safetensors",
)
@click.argument("model", shell_complete=complete_model)
@click.option("--calibrate", "pictures", required=True, type=click.Path(),
              help="Pictures like those to come: file, folder or glob; 300 do.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path),
              help="Model file to write, *.safetensors.")  # fmt: skip
@click.option("--measure", "labelled", type=click.Path(),
              help="Labelled pictures, to measure the top-1 that is lost.")  # fmt: skip
@click.option("--max-drop", type=click.FloatRange(min=0), default=0.3, show_default=True,
              help="Points of top-1 that may be lost there.")  # fmt: skip
@click.option("--min-agreement", type=click.FloatRange(0, 100), default=98.5, show_default=True,
              help="Percent of --calibrate whose answer must stay.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one line of JSON.")
@click.option("--offline", is_flag=True, help="Never touch the network.")
def quantize(
    *,
    model: str,
    pictures: str,
    output: Path,
    labelled: str | None,
    max_drop: float,
    min_agreement: float,
    force: bool,
    as_json: bool,
    offline: bool,
) -> int:
    """Write MODEL as a file that runs in 8 bits, and in the other precisions as before.

    The exit code is 4, and nothing is written, if too many answers would change.
    """
    from resnext import weights
    from resnext.deploy import quantize as quantizing
    from resnext.results.formats import printable

    with progress.download_bar() as downloaded:
        local = weights.locate(model, offline=offline or None, progress=downloaded)
    with progress.count_bar() as counted:
        done = quantizing.quantize(
            local,
            pictures,
            output,
            labelled=labelled,
            most_drop=max_drop,
            least_agreement=min_agreement / 100,
            force=force,
            progress=counted,
        )
    for problem in done.problems:
        print(printable(f"left out: {problem}"), file=sys.stderr)
    print(json.dumps(done.to_json()) if as_json else text.pairs(done.summary()))
    return INPUT_FAILED if done.problems else 0
