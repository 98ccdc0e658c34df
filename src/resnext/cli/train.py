"""`resnext train`: a recipe on pictures, to a folder with a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from resnext.cli import text
from resnext.cli.complete import complete, complete_model
from resnext.cli.options import TrainingCommand, code_of_training, ignore_errors_option


@click.command(
    cls=TrainingCommand,
    short_help="Train a network by a recipe.",
    epilog="Example:  resnext train photos/ --recipe default -o runs/photos --epochs 30",
)
@click.argument("data", type=click.Path())
@click.option("-r", "--recipe", default="default", show_default=True,
              help="A name that `resnext recipes` lists.")  # fmt: skip
@click.option("-o", "--output", "folder", required=True, type=click.Path(path_type=Path),
              help="Folder of the run.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="Change any number of the recipe, such as optim.weight_decay=1e-4.")  # fmt: skip
@click.option("-m", "--model", shell_complete=complete_model, help="Another architecture.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the pictures.")
@click.option("--batch-size", type=click.IntRange(min=1),
              help="Global batch size; the learning rate follows.")  # fmt: skip
@click.option("--lr", help="Learning rate at the recipe's batch size, or auto to find it.")
@click.option("--teacher", shell_complete=complete_model, help="A bigger model to learn from too.")
@click.option("--resume", type=click.Choice(["auto", "never"]), default="auto", show_default=True,
              help="Whether to go on with the run in the folder.")  # fmt: skip
@click.option("--device", shell_complete=complete("cpu cuda"), help="cpu or cuda; default: cuda"
              " where there is one.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=0), help="Processes that decode pictures.")
@click.option("--seed", type=click.IntRange(min=0), help="Of everything drawn at random.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]),
              help="Of the network; fp16 on GPUs.")  # fmt: skip
@click.option("--deterministic", is_flag=True, help="Only algorithms that repeat bit by bit.")
@ignore_errors_option
@click.option("--json", "as_json", is_flag=True, help="The summary as one line of JSON.")
def train(
    *,
    data: str,
    recipe: str,
    folder: Path,
    settings: tuple[str, ...],
    lr: str | None,
    teacher: str | None,
    resume: str,
    device: str | None,
    deterministic: bool,
    ignore_errors: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Train a network on labelled pictures.

    DATA is a folder per class, with or without train/ and val/, a table of path,label, tar
    shards, or a Hugging Face data set on the disk.

    The folder gets the best and the last model, numbers, curves and report.html. A run that
    was stopped goes on when the same command is given again. A picture that cannot be read is
    named and left out, and the exit code is 3. On several GPUs:

    \b
      torchrun --nproc-per-node 8 -m resnext train DATA -o runs/a
    """
    from resnext.errors import import_extra
    from resnext.results.formats import printable
    from resnext.training import recipes

    changes = [f"{_KEYS[name]}={value}" for name, value in options.items() if value is not None]
    changes += ["deterministic=true"] if deterministic else []
    changes += [f"optim.lr={lr}"] if lr not in (None, "auto") else []
    config = recipes.get(recipe).config_for(options["model"] or "")
    config = config if teacher is None else config.taught_by(teacher)
    config = config.override([*changes, *settings])

    dist = import_extra("resnext.training.dist", extra="train")
    full = import_extra("resnext.training.full", extra="train")
    from resnext.training.data import open_data

    opened = open_data(data, seed=config.data.split_seed, val_share=config.data.val_share)
    with dist.joined(device) as processes:
        try:
            outcome = full.run(
                opened,
                config,
                folder,
                resume=resume == "auto",
                find_lr=lr == "auto",
                processes=processes,
            )
        except full.Stopped as stopped:
            print(f"{stopped}; the same command goes on from there", file=sys.stderr)
            return int(stopped.exit_code)
        if processes.is_first:
            print(json.dumps(outcome.to_json()) if as_json else text.pairs(outcome.summary()))
            for problem in outcome.left_out:
                print(printable(f"left out: {problem}"), file=sys.stderr)
    return code_of_training(len(outcome.left_out), ignore_errors=ignore_errors)


_KEYS = {
    "model": "model.architecture",
    "epochs": "schedule.epochs",
    "batch_size": "optim.batch_size",
    "workers": "data.num_workers",
    "seed": "seed",
    "precision": "precision",
}
