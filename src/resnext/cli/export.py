"""`resnext export`: a model for programs that do not have this package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from resnext.cli import progress, text
from resnext.cli.complete import complete_model
from resnext.cli.options import INPUT_FAILED

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
@click.option(
    "--int8", is_flag=True, help="In 8 bits, ONNX and OpenVINO: a quantized MODEL, or --calibrate."
)
@click.option("--calibrate", "pictures", type=click.Path(),
              help="Quantize MODEL first, on these pictures: file, folder or glob.")  # fmt: skip
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
    int8: bool,
    pictures: str | None,
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
    With --int8 they are those of this package in 8 bits, and near those in float32.
    """
    from resnext import weights
    from resnext.deploy import export as exporting
    from resnext.results.formats import printable

    # Before a download.
    exporting.check_request(output, format, int8=int8, calibrate=pictures)
    with progress.download_bar() as downloaded:
        local = weights.locate(model, offline=offline or None, progress=downloaded)
    with progress.count_bar() as counted:
        done = exporting.export(
            local,
            output,
            format=format,
            input=input,
            top_k=top_k,
            int8=int8,
            calibrate=pictures,
            force=force,
            progress=counted,
        )
    for problem in done.problems:
        print(printable(f"left out: {problem}"), file=sys.stderr)
    for caution in done.cautions:
        print(f"note: {caution}", file=sys.stderr)
    if as_json:
        print(json.dumps(done.to_json()))
        return INPUT_FAILED if done.problems else 0
    for path in done.paths:
        print(printable(f"{path}: {path.stat().st_size / 1e6:.1f} MB"))
    print(f"{done.format}{' in 8 bits' if int8 else ''}, {done.verdict}")
    if done.calibrated is not None:
        print(text.pairs(done.calibrated.findings()))
    return INPUT_FAILED if done.problems else 0
