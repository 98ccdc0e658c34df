"""`resnext finetune`: labelled pictures to a model of one's own."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from resnext.cli import progress, text
from resnext.cli.complete import complete_model
from resnext.cli.options import (
    TrainingCommand,
    code_of_training,
    engine_options,
    ignore_errors_option,
)
from resnext.results.formats import printable


@click.command(cls=TrainingCommand, short_help="Make a model for your own classes.",
               epilog="Example:  resnext finetune photos/ -o pets.safetensors")  # fmt: skip
@click.argument("data", required=False, type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path),
              help="Model file to write, *.safetensors.")  # fmt: skip
@click.option("-m", "--model", default="starter", show_default=True, shell_complete=complete_model,
              help="Model to start from.")  # fmt: skip
@click.option("--head-only", is_flag=True, help="Fit the last layer: the default without CUDA.")
@click.option("--full", is_flag=True, help="Fit all layers: the default with CUDA.")
@click.option("--add-class", "added", nargs=2, multiple=True, metavar="NAME FOLDER",
              help="Add a class; without DATA, to a file of `finetune --head-only`.")  # fmt: skip
@click.option("--val-share", type=click.FloatRange(0, 1, max_open=True),
              help="Share to measure on, where DATA has none.  [default: 0.2]")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="Of what is drawn.  [default: 0]")
@click.option("--class-weights", type=click.Choice(["none", "balanced"]),
              help="balanced: rare classes count as much.  [default: none]")  # fmt: skip
@click.option("--lr", help="With --full: learning rate at batch 64, or auto to find it.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="With --full: change any number of the recipe `finetune`.")  # fmt: skip
@engine_options
@ignore_errors_option
@click.option("--force", is_flag=True, help="Replace the output if it is there, and its run.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one line of JSON.")
def finetune(
    *,
    data: str | None,
    output: Path,
    head_only: bool,
    full: bool,
    ignore_errors: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Make a model for your own classes.

    DATA is a folder per class, with or without train/ and val/, a table of path,label, tar
    shards, or a Hugging Face data set on the disk. A picture that cannot be read is named and
    left out, and the exit code is 3. Without DATA, --val-share, --seed and --class-weights are by
    default those that the file was made with.
    """
    if head_only and full:
        raise click.UsageError("--head-only and --full exclude each other; give one of them.")
    if not (head_only or full):  # a class is added to a head only, which has no settings
        for_all = bool(options["settings"] or options["lr"])
        head_only = not for_all and (data is None or bool(options["added"]) or not _has_cuda())
    given = {key: value for key, value in options.items() if value is not None}
    tuned = (_tune_head if head_only else _tune_all)(data, output, **given)
    if head_only or tuned.is_first:
        _say("left out", tuned.problems)
        print(json.dumps(tuned.to_json()) if as_json else text.pairs(tuned.summary()))
    return code_of_training(len(tuned.problems), ignore_errors=ignore_errors)


def _tune_head(
    data: str | None, output: Path, *, force: bool, offline: bool, settings: Any, **options: Any
) -> Any:
    import resnext
    from resnext import modelfile
    from resnext.errors import ConfigError, import_extra

    if settings or "lr" in options:
        raise ConfigError("--lr and --set change how all layers learn", hint="--full")
    tuning = import_extra("resnext.training.finetune", extra="finetune")
    from resnext.training.data import open_data
    from resnext.training.features import open_as_made

    tuning.check_alone()
    modelfile.check_output(output, force=force)
    names = ("added", "val_share", "seed", "class_weights")
    fit = {key: options.pop(key) for key in names if key in options}
    split = {key: fit[key] for key in ("val_share", "seed") if key in fit}
    opened = None if data is None else open_data(data, **split)
    _say("note", () if opened is None else opened.notes)
    with progress.download_bar() as downloaded:
        opens = open_as_made if data is None else resnext.Classifier
        classifier = opens(offline=offline or None, progress=downloaded, **options)
    with classifier, progress.count_bar() as counted:
        tuned = tuning.tune_head(classifier, opened, output, progress=counted, **fit)
    _say("note", tuned.notes)
    return tuned


def _tune_all(
    data: str | None, output: Path, *, added: Any, engine: str, settings: Any, **options: Any
) -> Any:
    from resnext.errors import ConfigError, import_extra

    if data is None or added:
        raise ConfigError("--full needs DATA with all classes, and takes no --add-class")
    if engine not in ("auto", "torch"):
        raise ConfigError(f"--engine is {engine}; expected torch, which --full computes with")
    refine = import_extra("resnext.training.refine", extra="train")
    lr = options.pop("lr", "")
    changes = [f"optim.lr={lr}"] if lr not in ("", "auto") else []
    options |= {"settings": [*changes, *settings], "find_lr": lr == "auto"}
    try:
        return refine.tune_all(data, output, **options)
    except refine.Stopped as stopped:
        print(f"{stopped}; the same command goes on from there", file=sys.stderr)
        raise click.exceptions.Exit(stopped.exit_code) from stopped


def _say(word: str, things: Iterable[object]) -> None:
    for thing in things:
        print(printable(f"{word}: {thing}"), file=sys.stderr)


def _has_cuda() -> bool:
    from resnext.errors import import_extra

    has_torch = importlib.util.find_spec("torch") is not None
    return has_torch and bool(import_extra("resnext.training.dist", extra="train").has_cuda())
