"""`resnext benchmark`: how fast a model is on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from resnext.cli import progress, text
from resnext.cli.complete import complete, complete_model


@click.command(
    short_help="Time a model on this machine.",
    epilog="Example:  resnext benchmark resnext50_32x4d --against torchvision,timm",
)
@click.argument("model", default="starter", shell_complete=complete_model)
@click.option("--engines", "--engine", "engines", default="",
              shell_complete=complete("openvino onnxruntime torch"),
              help="Of this package, separated by commas; default: all three.")  # fmt: skip
@click.option("--against", default="", help="Other programs: torchvision, timm, torch-compile,"
              " plain-openvino, plain-onnxruntime.")  # fmt: skip
@click.option("--precisions", "--precision", "precisions", default="",
              help="fp32, bf16, int8 (the default: those), on GPUs fp16, tf32.")  # fmt: skip
@click.option("--batches", default="1,8", show_default=True, help="Pictures at once.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True,
              help="Turns of each.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(min=0.01), default=1.0, show_default=True,
              help="Length of a turn.")  # fmt: skip
@click.option("--threads", help="CPU threads, such as 1,2; default: as each likes.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
              help="Write or replace what was measured, as JSON.")  # fmt: skip
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=lambda _ctx, _param, plot: _check_png(plot),
    help="Draw it; write or replace this PNG.",
)
@click.option("--remember", is_flag=True, help="From now on, auto is what was fastest here.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option("--offline", is_flag=True, help="Never touch the network.")
def benchmark(
    *,
    model: str,
    engines: str,
    against: str,
    precisions: str,
    batches: str,
    threads: str | None,
    output: Path | None,
    plot: Path | None,
    remember: bool,
    as_json: bool,
    offline: bool,
    **options: Any,
) -> int:
    """Time MODEL (default: starter) in every engine and precision that is installed.

    Each runs in a process of its own, and they take turns, so that ratios hold on a machine
    that others use as well. "of peak" is the share of what this processor, or GPU, does in a
    large matrix product; "ratio" is to the fastest row. Programs that use torch run on the GPU
    where there is one. What did not run is named on stderr; if nothing did, the exit code is 5.
    """
    from resnext import weights
    from resnext.deploy import benchmark as timing
    from resnext.errors import import_extra
    from resnext.files import atomic, check_place, check_replaceable
    from resnext.results.formats import printable

    names = [_words(given) for given in (engines, against, precisions)]
    timing.choose(*names)  # a name that is unknown is said before a download
    sizes = _numbers("--batches", batches)
    options["threads"] = [] if threads is None else _numbers("--threads", threads)
    if remember:
        timing.check_threads(options["threads"])
    for place in filter(None, (output, plot)):
        check_place(place)
        check_replaceable(place, inputs=[model])
    draw = import_extra("resnext.deploy.plots", extra="evaluate").draw if plot else None
    with progress.download_bar() as downloaded:
        local = weights.locate(model, offline=offline or None, progress=downloaded)
    eight_bits = local.document.quantization is not None
    contenders = timing.choose(*names, eight_bits=eight_bits)
    with progress.count_bar() as counted:
        report = timing.benchmark(local, contenders, batch_sizes=sizes, progress=counted, **options)
    if as_json:
        text.dump(report.to_json())
    elif report.best:
        header = timing.header(report)
        print(text.table(header, timing.table(report), right=header[2:]))
    for note in timing.notes(report):
        print(printable(note), file=sys.stderr)
    if report.best is None:
        print("error: nothing ran", file=sys.stderr)
        return 5
    if output:
        with atomic(output) as file:
            file.write(json.dumps(report.to_json(), indent=2).encode() + b"\n")
    if plot and draw:
        draw(report, plot)
    progress.say_written(output, plot)
    if remember:
        path = timing.remember(local, report)
        print(printable(f"note: kept in {path}"), file=sys.stderr)
    return 0


def _check_png(plot: Path | None) -> Path | None:
    if plot and plot.suffix.lower() != ".png":
        raise click.UsageError(f"--plot is {str(plot)!r}; expected a name that ends in .png.")
    return plot


def _words(given: str) -> list[str]:
    return [word.strip() for word in given.split(",") if word.strip()]


def _numbers(option: str, given: str) -> list[int]:
    try:
        numbers = [int(word) for word in _words(given)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise click.UsageError(f"{option} is {given!r}; expected numbers such as 1,8.")
    return list(dict.fromkeys(numbers))
