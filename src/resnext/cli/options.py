"""Options that several commands share: what computes, what is ignored."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from resnext.cli.complete import complete
from resnext.errors import counted

INPUT_FAILED = 3

ignore_errors_option = click.option(
    "--ignore-errors", is_flag=True, help="Exit 0 even if pictures failed."
)


def code_of_training(left_out: int, *, ignore_errors: bool) -> int:
    """Return the exit code of a run that left so many pictures out.

    torchrun takes any code but 0 for a crash: it prints one, may start the run again, and ends
    with 1 whatever the code was. So under torchrun it is 0, and that is said.
    """
    if not left_out or ignore_errors:
        return 0
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
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
