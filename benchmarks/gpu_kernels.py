"""Time each kernel at each layer's shape beside cuDNN: `python benchmarks/gpu_kernels.py`.

`--predict` needs no GPU: it prints the least time of each layer on an H200, the longer of
computing and moving. Without it and without a GPU it says so and ends with 5.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from kernel_layers import PEAK_BYTES, PEAK_FLOPS, Call, calls, prepared, tensors
from torch import Tensor
from torch.nn import functional

from resnext import arch, kernels
from resnext.kernels import tuning


def seconds(run: Callable[[], object]) -> float:
    """Return the time of one run on the GPU, without that of starting it."""

    def start(_: tuning.Config) -> None:
        run()

    return tuning.seconds(start, {})


def ceilings(dtype: torch.dtype) -> tuple[float, float]:
    """Measure what this GPU gives at most: operations and bytes a second."""
    side, length = 8192, 1 << 30
    kind = torch.bfloat16 if dtype == torch.int8 else dtype
    left, right = (torch.randn(side, side, device="cuda").to(kind) for _ in range(2))
    flops = 2 * side**3 / seconds(lambda: left @ right)
    if dtype == torch.int8:
        flops *= 2  # as such GPUs are made
    one, other = (torch.empty(length, dtype=torch.uint8, device="cuda") for _ in range(2))
    return flops, 2 * length / seconds(lambda: other.copy_(one))


def cudnn(one: Call, given: dict[str, Tensor]) -> Callable[[], Tensor]:
    """Return the same by torch's convolutions, batch norm folded, channels last."""
    x = given["x"].permute(0, 3, 1, 2)  # a view: the memory is channels last already
    residual = given["residual"].permute(0, 3, 1, 2) if one.residual else None
    stages: list[tuple[Tensor, Tensor, int, int]] = []
    if one.kind != "pointwise":
        stages.append((given["filters"], given["bias3"], one.stride, one.groups))
    if one.kind != "grouped3x3":
        stride = one.stride if one.kind == "pointwise" else 1
        stages.append((given["weight"][:, :, None, None], given["bias"], stride, 1))
    ready = [
        (weight.to(memory_format=torch.channels_last), bias.to(x.dtype), stride, groups)
        for weight, bias, stride, groups in stages
    ]

    def run() -> Tensor:
        out = x
        for index, (weight, bias, stride, groups) in enumerate(ready):
            padding = weight.shape[-1] // 2
            out = functional.conv2d(out, weight, bias, stride, padding, groups=groups)
            last = index == len(ready) - 1
            if last and residual is not None:
                out += residual
            if not last or one.relu:
                out = functional.relu_(out)
        return out.permute(0, 2, 3, 1)

    return run


def row(one: Call, dtype: torch.dtype, peaks: tuple[float, float]) -> dict[str, Any]:
    """Describe a call and its roofline."""
    size = dtype.itemsize
    least = one.least_seconds(size, flops=peaks[0], bandwidth=peaks[1])
    return {
        "kernel": one.kind,
        "shape": f"{one.batch}x{one.size}x{one.size}x{one.ins}->{one.outs}",
        "groups": one.groups,
        "stride": one.stride,
        "residual": one.residual,
        "count": one.count,
        "macs": one.macs,
        "issued_macs": one.issued_macs,
        "bytes": one.num_bytes(size),
        "least_us": least * 1e6,
        "bound": "memory" if one.num_bytes(size) / peaks[1] >= least else "compute",
    }


def measure(one: Call, dtype: torch.dtype, peaks: tuple[float, float]) -> dict[str, Any]:
    """Time a call and cuDNN's, alternately, and compare what they compute."""
    torch.manual_seed(0)
    given = tensors(one, dtype=dtype, device="cuda")
    own, described = prepared(one, given), row(one, dtype, peaks)
    times: dict[str, list[float]] = {"us": []}
    runs = {"us": own}
    if dtype != torch.int8:  # which torch's convolutions do not take on a GPU
        runs["cudnn_us"] = peer = cudnn(one, given)
        found, wanted = own().float(), peer().float()
        described["difference"] = ((found - wanted).abs().max() / wanted.abs().max()).item()
    for _ in range(3):
        for name, run in runs.items():
            times.setdefault(name, []).append(seconds(run) * 1e6)
    described |= {name: sorted(column)[1] for name, column in times.items()}
    described["gigabytes_per_s"] = described["bytes"] / described["us"] / 1e3
    described["share_of_roofline"] = described["least_us"] / described["us"]
    return described


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Draw the rows for people, with the sum over the network."""
    lines = []
    for found in rows:
        line = (
            f"{found['count']:2d} x {found['kernel']:18s} {found['shape']:26s}"
            f" /{found['stride']} {'+' if found['residual'] else ' '}"
            f" {found['macs'] / 1e9:8.2f} GMAC {found['bytes'] / 1e6:7.1f} MB"
            f" at least {found['least_us']:7.1f} us ({found['bound']})"
        )
        if "us" in found:
            line += (
                f"; {found['us']:7.1f} us, {found['gigabytes_per_s']:6.0f} GB/s,"
                f" {found['share_of_roofline']:4.0%} of the roofline"
            )
        if "cudnn_us" in found:
            line += (
                f"; cuDNN {found['cudnn_us']:7.1f} us, {found['cudnn_us'] / found['us']:.2f}x;"
                f" difference {found['difference']:.1e}"
            )
        lines.append(line)
    return "\n".join(lines + [total(rows, fused) for fused in (False, True)])


def total(rows: Sequence[dict[str, Any]], fused: bool) -> str:
    """Sum the blocks of a network, either with the fused calls or with the two they replace."""
    kept = [found for found in rows if found["kernel"] != "grouped_pointwise"]
    if fused:
        kept = _with_fused(rows)
    text = f"all blocks{', fused where it fits' if fused else ''}:"
    for name, key in (("at least", "least_us"), ("measured", "us"), ("cuDNN", "cudnn_us")):
        if all(key in found for found in kept):
            text += f" {name} {sum(found[key] * found['count'] for found in kept):.0f} us"
    return text


def _with_fused(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out of the rows, as often as they are called, the pairs of fused ones."""
    left = [dict(found) for found in rows]
    for fused in (found for found in left if found["kernel"] == "grouped_pointwise"):
        image, _, channels = fused["shape"].rpartition("x")
        ins, outs = channels.split("->")
        middle = f"{image}x{ins}->{ins}"
        _take(left, fused["count"], "grouped3x3", middle, fused["stride"])
        batch, side = (int(text) for text in image.split("x")[:2])
        inner = (side - 1) // fused["stride"] + 1
        _take(left, fused["count"], "pointwise", f"{batch}x{inner}x{inner}x{ins}->{outs}", 1)
    return left


def _take(rows: list[dict[str, Any]], count: int, kernel: str, shape: str, stride: int) -> None:
    for found in rows:
        named = (found["kernel"], found["shape"], found["stride"]) == (kernel, shape, stride)
        if named and (found["residual"] or kernel == "grouped3x3"):
            found["count"] -= count


def main() -> int:
    """Predict or measure; print a table; write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnext50_32x4d")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32", "int8"]
    )
    parser.add_argument("--predict", action="store_true", help="the least time on an H200")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    listed = calls(arch.parse(options.model), batch=options.batch, dtype=dtype)
    if options.predict:
        device, peaks = "H200, computed", (PEAK_FLOPS, PEAK_BYTES)
        rows = [row(one, dtype, peaks) for one in listed]
    elif reason := kernels.available("cuda"):
        print(f"nothing to time: {reason}", file=sys.stderr)
        return 5
    else:
        device, peaks = torch.cuda.get_device_name(), ceilings(dtype)
        rows = [measure(one, dtype, peaks) for one in listed]
    print(f"{device}: {peaks[0] / 1e12:.0f} TFLOP/s, {peaks[1] / 1e12:.2f} TB/s")
    print(table(rows))
    if options.output:
        head = {"device": device, "model": options.model, "batch": options.batch}
        head |= {"dtype": options.dtype, "torch": torch.__version__, "flops": peaks[0]}
        document = {**head, "bytes_per_s": peaks[1], "rows": rows}
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
