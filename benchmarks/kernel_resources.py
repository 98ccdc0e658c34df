"""Compile every kernel for a GPU that need not be here; say what each takes and uses.

`python benchmarks/kernel_resources.py [--model NAME] [--capability 90] [-o FILE]`:
registers and spilled bytes a thread, shared memory a program, and whether the products are
`wgmma` (Hopper's), `mma` or none of the tensor cores'.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
from kernel_layers import call, calls
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from resnext import arch
from resnext.kernels import launch

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int8: "i8"}


def source(kernel: Any, arguments: Mapping[str, Any], config: Mapping[str, int]) -> Any:
    """Describe a kernel as Triton would specialise it for these arguments."""
    constants = {p.name: p.num for p in kernel.params if p.is_constexpr}
    values = {**arguments, **config}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for place, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if parameter.name in constants:
            signature[parameter.name] = "constexpr"
            continue
        tensor = isinstance(value, torch.Tensor)
        signature[parameter.name] = f"*{TYPES[value.dtype]}" if tensor else _scalar(value)
        if tensor or (isinstance(value, int) and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, {name: values[name] for name in constants}, attributes)


def _scalar(value: float) -> str:
    return "i32" if isinstance(value, int) else "fp32"


def resources(
    kernel: Any, arguments: Mapping[str, Any], config: Mapping[str, int], capability: int
) -> dict[str, Any]:
    """Compile one kernel with one configuration; return what it takes."""
    options = {name: config[name] for name in ("num_warps", "num_stages")}
    compiled = triton.compile(
        source(kernel, arguments, config),
        target=GPUTarget("cuda", capability, 32),
        options={**options, "enable_fp_fusion": True},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        usage = subprocess.check_output([tool, "-res-usage", file.name], text=True)
    found = {name: int(re.findall(rf"{name}:(\d+)", usage)[-1]) for name in ("REG", "STACK")}
    ptx = compiled.asm["ptx"]
    products = re.findall(r"(wgmma\.mma_async\S*|mma\.sync\S*)", ptx)
    return {
        "config": dict(config),
        "registers": found["REG"],
        "stack_bytes": found["STACK"],
        "shared_bytes": compiled.metadata.shared,
        "products": sorted({_short(name) for name in products}),
        "cached_copies": ptx.count("cp.async.ca"),
        "copies": ptx.count("cp.async.c"),
        "in_flight": max(map(int, re.findall(r"async_wait.*num = (\d+)", compiled.asm["ttgir"]))),
    }


def _short(instruction: str) -> str:
    kind = "wgmma" if instruction.startswith("wgmma") else "mma"
    return f"{kind} {''.join(re.findall(r'm[0-9]+n[0-9]+k[0-9]+', instruction))}"


def collect(
    model: str,
    capability: int,
    *,
    all_configs: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    only: str = "",
) -> list[dict[str, Any]]:
    """Compile what a network calls at batch 256; return a row for each kernel and config."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()

    def run(
        kernel: Any,
        arguments: Mapping[str, Any],
        grid: Callable[[Any], int],
        *,
        key: str,
        configs: Sequence[Mapping[str, int]],
    ) -> None:
        for config in configs if all_configs else configs[:1]:
            made = source(kernel, arguments, config)
            name = f"{kernel.fn.__name__} {made.signature} {made.constants} {made.attrs} {config}"
            if name not in seen:
                seen.add(name)
                rows.append({"key": key, **resources(kernel, arguments, config, capability)})

    original, launch.run = launch.run, run
    try:
        for layer in calls(arch.parse(model), batch=256, dtype=dtype):
            if only and layer.kind != only:
                continue
            call(layer, dtype=dtype, device="meta")
    finally:
        launch.run = original
    return rows


def main() -> int:
    """Compile, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnext50_32x4d")
    parser.add_argument("--capability", type=int, default=90)
    parser.add_argument(
        "--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32", "int8"]
    )
    parser.add_argument("--only", default="", help="pointwise, grouped3x3 or grouped_pointwise")
    parser.add_argument("--all", action="store_true", help="all configurations, not the first")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    rows = collect(
        options.model,
        options.capability,
        all_configs=options.all,
        dtype=getattr(torch, options.dtype),
        only=options.only,
    )
    for row in rows:
        blocks = " ".join(
            f"{name.lower()}={value}"
            for name, value in row["config"].items()
            if name.startswith(("BLOCK", "num")) or name == "ROWS"
        )
        print(
            f"{row['key']:72s} {blocks:60s} {row['registers']:4d} registers"
            f" {row['stack_bytes']:5d} B stack {row['shared_bytes'] / 1024:6.1f} KiB shared"
            f" {', '.join(row['products']) or 'no tensor cores'}"
            f" {row['cached_copies']}/{row['copies']} copies by L1, {row['in_flight']} in flight"
        )
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
