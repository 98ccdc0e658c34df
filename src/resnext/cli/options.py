"""What several commands share: options, and how they are under torchrun."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from resnext.cli.complete import complete
from resnext.errors import ConfigError, counted

INPUT_FAILED = 3
_PATIENCE = 10.0  # seconds in which torchrun ends the other processes, once the first has ended

ignore_errors_option = click.option(
    "--ignore-errors", is_flag=True, help="Exit 0 even if pictures failed."
)


class TrainingCommand(click.Command):
    """A command of which torchrun starts many: one process on each machine tells of a mistake.

    The others wait until torchrun ends them for it. Had they ended first, it would have ended
    the one that speaks. Where nothing ends them, the mistake is their own, and they say it.
    """

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the arguments."""
        with _one_speaks():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Do it."""
        with _one_speaks():
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_speaks() -> Iterator[None]:
    try:
        yield
    except (click.UsageError, ConfigError):
        if _is_of_torchrun() and os.environ.get("LOCAL_RANK", os.environ["RANK"]) != "0":
            time.sleep(_PATIENCE)
        raise


def _is_of_torchrun() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def code_of_training(left_out: int, *, ignore_errors: bool) -> int:
    """Return the exit code of a run that left so many pictures out.

    torchrun takes any code but 0 for a crash: it prints one, may start the run again, and ends
    with 1 whatever the code was. So under torchrun it is 0, and that is said.
    """
    if not left_out or ignore_errors:
        return 0
    if not _is_of_torchrun():
        return INPUT_FAILED
    if os.environ["RANK"] == "0":
        print(
            f"warning: {counted(left_out, 'picture')} left out; the exit code is 0 and not"
            f" {INPUT_FAILED}, which torchrun would take for a crash",
            file=sys.stderr,
        )
    return 0


def engine_options(command: Any) -> Any:
    """Add `--engine`, `--precision`, `--threads` and `--offline`, in this order."""
    options = (
        click.option("--engine", default="auto", show_default=True,
                     shell_complete=complete("auto openvino onnxruntime torch"),
                     help="auto, openvino, onnxruntime or torch."),
        click.option("--precision", default="auto", show_default=True,
                     shell_complete=complete("auto int8 bf16 fp16 tf32 fp32"),
                     help="auto, int8 (if quantized), bf16, fp32 (exact); on GPUs fp16, tf32."),
        click.option("--threads", type=click.IntRange(min=1),
                     help="CPU threads; default: all."),
        click.option("--offline", is_flag=True, help="Never touch the network."),
    )  # fmt: skip
    for option in reversed(options):  # as decorators, the last is added first
        command = option(command)
    return command
