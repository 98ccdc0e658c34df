"""`resnext info`: one model's structure, sizes, source and licence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from resnext.cli import text
from resnext.cli.complete import complete_model

_LONG = 400  # letters; such as the whole config of a training run


@click.command(
    short_help="Show layers, parameters, MACs, accuracy and licence.",
    epilog="Example:  resnext info resnext50_32x4d",
)
@click.argument("model", shell_complete=complete_model)
@click.option("--size", type=click.IntRange(min=1), help="Input side in pixels for the MACs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def info(*, model: str, size: int | None, as_json: bool) -> int:
    """Show what a model is: layers, parameters, MACs, preprocessing, accuracy, licence.

    MODEL is a catalogue name, an alias, an architecture or a file. Nothing is downloaded.
    """
    from resnext import arch, weights

    described = weights.describe(model)
    spec = described.architecture
    pixels = size or described.preprocess.input_size
    stages = arch.summarize(spec, pixels)
    if as_json:
        text.dump(_as_json(described.facts, spec, stages, pixels))
        return 0
    short = {key: value for key, value in described.facts.items() if len(str(value)) <= _LONG}
    print(text.pairs([*short.items(), *_counts(spec, pixels)]))
    if long := [key for key in described.facts if key not in short]:
        print(f"in --json: {', '.join(long)}")
    header = ("stage", "blocks", "channels", "output", "params", "MACs")
    rows = [
        (
            row.name,
            str(row.num_blocks or ""),
            str(row.channels),
            f"{row.output_size}x{row.output_size}",
            f"{row.num_params:,}",
            f"{row.num_macs:,}",
        )
        for row in stages
    ]
    print("\n" + text.table(header, rows, right=header[1:]))
    return 0


def _structure(spec: Any) -> str:
    attention = {"se": "squeeze-and-excitation", "sk": "selective kernels"}
    channels = "-".join(str(count) for count in spec.stem_channels)
    parts = [
        f"{spec.stem} stem of {channels} channels",
        attention.get(spec.attention),
        "anti-aliased by average pools" if spec.antialias else None,
    ]
    return ", ".join(part for part in parts if part)


def _counts(spec: Any, pixels: int) -> list[tuple[str, object]]:
    from resnext import arch

    return [
        ("structure", _structure(spec)),
        ("parameters", f"{arch.num_params(spec):,}"),
        ("MACs", f"{arch.num_macs(spec, pixels):,} at {pixels}x{pixels}"),
        ("embedding", f"{spec.embedding_size} values"),
        ("classes", spec.num_classes),
    ]


def _as_json(facts: Mapping[str, Any], spec: Any, stages: list[Any], pixels: int) -> dict[str, Any]:
    from dataclasses import asdict

    from resnext import arch

    return {
        **facts,
        "architecture": spec.name,
        "structure": _structure(spec),
        "num_params": arch.num_params(spec),
        "num_macs": arch.num_macs(spec, pixels),
        "input_size": pixels,
        "embedding_size": spec.embedding_size,
        "num_classes": spec.num_classes,
        "stages": [asdict(row) for row in stages],
    }
