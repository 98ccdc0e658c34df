"""`resnext convert`: a model in one format to a file in another."""

from __future__ import annotations

import sys

import click

from resnext.cli import progress
from resnext.cli.complete import complete_model

FORMATS = ("resnext", "torchvision", "timm", "safetensors")
DTYPES = ("float32", "float16", "bfloat16")


@click.command(
    short_help="Write a model in another format.",
    epilog="Example:  resnext convert resnext50_32x4d.tv2_in1k net.pth",
)
@click.argument("source", metavar="A", shell_complete=complete_model)
@click.argument("target", metavar="B", type=click.Path())
@click.option("--to", type=click.Choice(FORMATS), help="Default: as the name of B says.")
@click.option("--dtype", type=click.Choice(DTYPES),
              help="Of the weights, not of batch norms and biases; default: as in A.")  # fmt: skip
@click.option("--architecture", default="", help="Of A, where its tensors do not tell.")
@click.option("--force", is_flag=True, help="Replace B if it is there.")
@click.option("--offline", is_flag=True, help="Never touch the network.")
def convert(
    *,
    source: str,
    target: str,
    to: str | None,
    dtype: str | None,
    architecture: str,
    force: bool,
    offline: bool,
) -> int:
    """Write model A, a catalogue name, file or hf-hub:owner/repo, as B.

    \b
    B              becomes
    x.safetensors  our model file, which carries everything
    x.pth, x.pt    a state_dict for torchvision (needs torch)
    x/             a folder for timm: model.safetensors, config.json
    x.safetensors --to safetensors  the tensors alone

    The tensors are read back and compared bit by bit. What B has no place for is said on
    stderr. A is never overwritten.
    """
    from resnext import interchange
    from resnext.results.formats import printable

    with progress.download_bar() as downloaded:
        done = interchange.convert(
            source,
            target,
            to=to,
            dtype=dtype,
            force=force,
            architecture=architecture,
            offline=offline or None,
            progress=downloaded,
        )
    for note in done.notes:
        print(printable(f"note: {note}"), file=sys.stderr)
    print(
        f"{printable(str(done.path))}: {done.format}, {done.architecture}, {done.dtype},"
        f" {done.num_bytes / 1e6:.1f} MB, read back equal"
    )
    return 0
