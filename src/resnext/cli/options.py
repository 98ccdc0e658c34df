"""Options that several commands share: what computes, what is ignored."""

from __future__ import annotations

from typing import Any

import click

from resnext.cli.complete import complete

ignore_errors_option = click.option(
    "--ignore-errors", is_flag=True, help="Exit 0 even if pictures failed."
)


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
