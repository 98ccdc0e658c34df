"""`resnext export`: a model for programs that do not have this package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from resnext.cli import progress
from resnext.cli.complete import complete_model

FORMATS = ("onnx", "openvino", "torchscript", "exported-program", "safetensors")


@click.command(
    short_help="Write a model for other programs.",
    epilog="Example:  resnext export starter -o starter.onnx",
)
@click.argument("model", shell_complete=complete_model)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path),
              help="File to write.")  # fmt: skip
@click.option("--format", type=click.Choice(FORMATS), help="Default: as the name of the file says.")
@click.option("--input", type=click.Choice(["prepared", "picture"]), default="prepared",
              show_default=True, help="What it takes; a picture has any size.")  # fmt: skip
@click.option("-k", "--top-k", type=click.IntRange(min=1), default=5, show_default=True,
              help="Best classes that ONNX and OpenVINO give.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option("--json", "as_json", is_flag=True, help="What was written, as one line of JSON.")
@click.option("--offline", is_flag=True, help="Never touch the network.")
def export(
    *,
    model: str,
    output: Path,
    format: str | None,
    input: str,
    top_k: int,
    force: bool,
    as_json: bool,
    offline: bool,
) -> int:
    """Write MODEL for a program that does not have this package.

    \b
    x.onnx         ONNX Runtime, the browser, TensorRT
    x.xml          OpenVINO, with x.bin beside it
    x.pt           TorchScript (needs torch)
    x.pt2          torch.export (needs torch)
    x.safetensors  the tensors alone

    The file is loaded again and run on golden pictures, 1, 2 and 7 at once; if its answers are
    not those of this package, the exit code is 4 and nothing is written. What ran it is printed:
    for ONNX onnxruntime, or OpenVINO where that is not installed; --input picture needs it.
    """
    from resnext import weights
    from resnext.deploy import export as exporting
    from resnext.results.formats import printable

    exporting.format_of(output, format)  # before a download
    with progress.download_bar() as downloaded:
        local = weights.locate(model, offline=offline or None, progress=downloaded)
    done = exporting.export(local, output, format=format, input=input, top_k=top_k, force=force)
    for caution in done.cautions:
        print(f"note: {caution}", file=sys.stderr)
    if as_json:
        print(json.dumps(done.to_json()))
        return 0
    for path in done.paths:
        print(printable(f"{path}: {path.stat().st_size / 1e6:.1f} MB"))
    print(f"{done.format}, {done.verdict}")
    return 0
