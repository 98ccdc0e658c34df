"""Every way of computing on a GPU beside plain PyTorch, with the roofline and a profile.

    python benchmarks/gpu.py                                    # all rows, within 8 minutes
    python benchmarks/gpu.py --models resnext50_32x4d --batches 256 --skip compile,torch-compile
    python benchmarks/gpu.py --rows train                       # training instead of inference
    python benchmarks/gpu.py --device cpu --models resnext29_2x4d --batches 2 --seconds 0.05

A row is a network and a batch size. What is timed begins with uint8 pixels on the GPU and ends
with float32 logits there; `run` is the engine from numpy to numpy. Contenders take turns, round
by round. What the time no longer suffices for is named, not left out in silence; the JSON is
written anew after every row. Weights are random, as they change no time. Without a GPU the
exit code is 5.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paired
import torch
from torch import Tensor

from resnext import arch
from resnext.deploy import gpu, traffic
from resnext.engines import backends, cuda, folded
from resnext.engines.base import BACKENDS
from resnext.modelfile import ModelDocument
from resnext.network import ResNeXt
from resnext.predictions import Labels
from resnext.preprocess import PreprocessSpec, affine

PEERS = ("eager", "torch-compile")
SLOW = ("compile", "torch-compile")  # minutes of compiling: last, and only if there is time
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NO_GPU = 5
LARGEST_ERROR = 0.05  # of a logit, to float32; more is no result

Call = Callable[[], Tensor]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; return the exit code."""
    asked = _parse(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("error: torch finds no GPU here; nothing was measured", file=sys.stderr)
        return NO_GPU
    began = time.monotonic()
    document: dict[str, Any] = {
        "benchmark": "gpu",
        "command": " ".join(Path(word).name for word in sys.argv),
        **paired.machine(),
        "torch": torch.__version__,
        "precision": asked.precision,
        "gpu": _ceilings(asked),
        "rows": [],
    }
    print(json.dumps(document["gpu"]))
    for kind, measure in (("infer", _infer), ("train", _train)):
        if kind in asked.rows:
            for row in measure(asked, document["gpu"], lambda: time.monotonic() - began):
                document["rows"].append(row)
                asked.output.write_text(json.dumps(document, indent=2) + "\n")
    document["seconds"] = round(time.monotonic() - began)
    asked.output.write_text(json.dumps(document, indent=2) + "\n")
    print(f"{asked.output}: {document['seconds']} s")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = functools.partial(str.split, sep=",")
    add = parser.add_argument
    add("--rows", type=words, default=["infer"], help="infer, train, or both")
    add("--models", type=words, default=["resnext50_32x4d", "resnext101_32x8d"])
    add("--batches", type=lambda text: [int(word) for word in text.split(",")],
        default=[256, 1, 32], help="in this order")  # fmt: skip
    add("--precision", choices=("bf16", "fp16", "tf32", "fp32"), default="bf16")
    add("--skip", type=words, default=[], help=f"of {', '.join((*BACKENDS, *PEERS))}")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=0.3, help="length of a turn")
    add("--limit", type=float, default=450.0, help="seconds, after which nothing new begins")
    add("--size", type=int, default=0, help="of the input; default: the paper's")
    add("--device", default="cuda", help="cpu tries the script")
    add("-o", "--output", type=Path, default=Path("gpu.json"))
    # The longest that opening a contender has taken: the next compiling may take as long.
    parser.set_defaults(slowest=0.0)
    return parser.parse_args(arguments)


def _ceilings(asked: argparse.Namespace) -> dict[str, Any]:
    if asked.device != "cpu":
        return gpu.measure([asked.precision], device=asked.device)
    peak = gpu.peak_macs(asked.precision, device="cpu", side=512)
    moved = gpu.bandwidth(device="cpu", count=1 << 26)
    return {"name": "cpu", "peaks": {asked.precision: peak}, "bandwidth": moved}


# Inference


def _infer(asked: argparse.Namespace, found: dict[str, Any], spent: Callable[[], float]) -> Any:
    """Yield a result for each network and batch size, the first size of all networks first."""
    profiled: set[str] = set()
    for batch_size in asked.batches:
        for name in asked.models:
            row: dict[str, Any] = {"row": "infer", "model": name, "batch_size": batch_size}
            if spent() > asked.limit:
                yield {**row, "left_out": "there was no time left"}
                continue
            task = _Task(asked, name, batch_size)
            row |= task.compete(found, spent)
            if name not in profiled and row["contenders"]:
                profiled.add(name)
                row["profile"] = task.profile(row["best"])
            _show(row)
            yield row
            del task
            _free()


class _Task:
    """One network at one batch size, and all that compute it.

    Args:
        asked: The options.
        name: Of the network.
        batch_size: Pictures at once.
    """

    def __init__(self, asked: argparse.Namespace, name: str, batch_size: int) -> None:
        self.asked, self.batch_size = asked, batch_size
        self.spec, self.device = arch.parse(name), torch.device(asked.device)
        size = asked.size or self.spec.input_size
        self.preprocess = PreprocessSpec(input_size=size, resize=size, interpolation="bilinear")
        self.model = _random_model(self.spec)
        self.tensors = {key: value.numpy() for key, value in self.model.state_dict().items()}
        self.dtype = DTYPES.get(asked.precision, torch.float32)
        self.lane = cuda.Lane(self.device) if self.device.type == "cuda" else None
        draw = torch.Generator().manual_seed(0)
        shape = (batch_size, size, size, 3)
        self.pixels = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
        self.there = self.pixels.to(self.device)

    def compete(self, found: dict[str, Any], spent: Callable[[], float]) -> dict[str, Any]:
        """Open all contenders, let them take turns, and compare."""
        names = [name for name in (*PEERS, *BACKENDS) if name not in self.asked.skip]
        names.sort(key=lambda name: name in SLOW)
        problems: dict[str, str] = {}
        calls: dict[str, Call] = {}
        expected = self._reference()
        began = {name: 0.0 for name in names}
        for name in names:
            if spent() + (self.asked.slowest if name in SLOW else 0.0) > self.asked.limit:
                problems[name] = "there was no time left"
                continue
            start = time.monotonic()
            try:
                call = self._open(name)
                error = float((call() - expected).abs().max() / expected.abs().max())
                if not error <= LARGEST_ERROR:
                    raise ArithmeticError(f"logits are off by {error:.2g}")
                calls[name] = call
            except Exception as reason:  # whatever a compiler raises: the row says so
                problems[name] = f"{type(reason).__name__}: {str(reason).strip()[:300]}"
            began[name] = time.monotonic() - start
            self.asked.slowest = max(self.asked.slowest, began[name])
        if self.device.type == "cuda" and calls:
            calls["run"] = self._end_to_end()
        results = self._take_turns(calls)
        for name, result in results.items():
            result["start_s"] = round(began.get(name, 0.0), 1)
        own = [name for name in BACKENDS if name in results]
        peers = [name for name in PEERS if name in results]
        rate = {name: result["images_per_s"] for name, result in results.items()}
        best, rival = (max(each, key=rate.__getitem__, default="") for each in (own, peers))
        return {
            "best": best,
            "best_peer": rival,
            "ratio": round(rate[best] / rate[rival], 3) if best and rival else None,
            "contenders": results,
            "did_not_run": problems,
            "roofline": self._roofline(found, rate),
        }

    def _open(self, name: str) -> Call:
        if name in PEERS:
            return self._open_peer(compiled=name == "torch-compile")
        if reason := backends.obstacle(name, self.device):
            raise RuntimeError(reason)
        network = backends.callable_of(name, self._network(name))
        return self._call(lambda: self._program(network).run)

    def _program(self, network: backends.Call) -> cuda.Program:
        return cuda.Program(network, tuple(self.there.shape), self.lane)  # type: ignore[arg-type]

    def _network(self, name: str) -> folded.FoldedNetwork:
        exact = self.asked.precision == "fp32"
        weights = folded.fold(self.spec, self.preprocess, self.tensors, exact=exact)
        kind = backends.operations(name)
        return folded.FoldedNetwork(
            self.spec, weights, kind, device=self.device, dtype=self.dtype
        ).eval()

    def _open_peer(self, *, compiled: bool) -> Call:
        """Return the module as people run it: channels last, normalized on the GPU."""
        module = self.model.to(self.device, self.dtype).to(memory_format=torch.channels_last)
        call: Any = module
        if compiled:
            mode = "max-autotune" if self.device.type == "cuda" else "default"
            call = torch.compile(module, mode=mode)
        scale, shift = (
            torch.from_numpy(values).float().reshape(1, -1, 1, 1).to(self.device)
            for values in affine(self.preprocess)
        )

        def run(pixels: Tensor) -> tuple[Tensor, ...]:
            image = pixels.permute(0, 3, 1, 2).float() * scale + shift
            return (call(image.to(self.dtype)).float(),)

        return self._call(lambda: run)

    def _call(self, open_run: Callable[[], Any]) -> Call:
        """Bind a function to the pixels, in the arithmetic that was asked for."""
        tf32 = self.asked.precision == "tf32"
        with torch.inference_mode(), backends.arithmetic(tf32=tf32):
            run = open_run()
            for _ in range(3):
                run(self.there)

        def call() -> Tensor:
            with torch.inference_mode(), backends.arithmetic(tf32=tf32):
                logits: Tensor = run(self.there)[0]
                return logits

        return call

    def _end_to_end(self) -> Call:
        """Return the engine's own `run`, which chooses its backend."""
        labels = Labels(tuple(map(str, range(self.spec.num_classes))))
        document = ModelDocument(
            name="random", architecture=self.spec, labels=labels, preprocess=self.preprocess
        )
        precision = self.asked.precision
        engine = cuda.CudaEngine(document, self.tensors, precision=precision)
        engine.best_batch_size = max(self.batch_size, 1)
        batch = self.pixels.numpy()
        return lambda: torch.from_numpy(engine.run(batch).logits)

    def _reference(self) -> Tensor:
        """Return the logits of the module in float32."""
        model = self.model.to(self.device, torch.float32)
        scale, shift = (
            torch.from_numpy(values).float().reshape(1, -1, 1, 1).to(self.device)
            for values in affine(self.preprocess)
        )
        with torch.inference_mode(), backends.arithmetic(tf32=False):
            parts = self.there.split(32)
            return torch.cat([
                model(part.permute(0, 3, 1, 2).float() * scale + shift) for part in parts
            ])  # fmt: skip

    def _take_turns(self, calls: dict[str, Call]) -> dict[str, dict[str, Any]]:
        rates: dict[str, list[float]] = {name: [] for name in calls}
        calls_ms: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(self.asked.rounds):
            for name, call in calls.items():
                rate, latencies = _turn(call, self.device, self.asked.seconds)
                rates[name].append(rate * self.batch_size)
                calls_ms[name] += latencies
        return {
            name: {
                "images_per_s": round(statistics.median(found), 1),
                "low": round(min(found), 1),
                "high": round(max(found), 1),
                "p50_ms": round(statistics.median(calls_ms[name]), 4),
            }
            for name, found in rates.items()
        }

    def _roofline(self, found: dict[str, Any], rates: dict[str, float]) -> dict[str, Any]:
        peak, bandwidth = found["peaks"][self.asked.precision], found["bandwidth"]
        size, roofs = self.preprocess.input_size, {}
        for name, whole in (("layers", False), ("blocks", True)):
            work = traffic.kernels(self.spec, size, whole_blocks=whole)
            width = self.dtype.itemsize
            roofs[name] = traffic.images_per_s(
                work, self.batch_size, peak=peak, bandwidth=bandwidth, width=width
            )
        shares = {name: round(rate / roofs["layers"], 3) for name, rate in rates.items()}
        return {**{name: round(rate) for name, rate in roofs.items()}, "share_of_layers": shares}

    def profile(self, backend: str) -> dict[str, Any]:
        """Say where the time of a backend goes: by kind of layer, and by kernel."""
        if backend in ("", "compile"):
            backend = "cudnn"
        network = self._network(backend)
        for module in network.modules():
            if isinstance(module, folded.FoldedConv):
                _label(module, f"{_kind(module.conv)}")
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        tf32 = self.asked.precision == "tf32"
        with torch.inference_mode(), backends.arithmetic(tf32=tf32):
            for _ in range(3):
                network(self.there)
            with torch.profiler.profile(activities=activities) as recorded:
                network(self.there)
                _wait(self.device)
        return {"backend": backend, **_summary(recorded, self.device)}


def _turn(call: Call, device: torch.device, seconds: float) -> tuple[float, list[float]]:
    """Return calls a second, one after another, and the ms of single ones that are waited for."""
    begin = time.perf_counter()
    call()
    _wait(device)
    each = time.perf_counter() - begin
    count = max(3, int(seconds / max(each, 1e-6)))
    begin = time.perf_counter()
    for _ in range(count):
        call()
    _wait(device)
    rate = count / (time.perf_counter() - begin)
    latencies = []
    for _ in range(min(count, 50)):
        begin = time.perf_counter()
        call()
        _wait(device)
        latencies.append(1000 * (time.perf_counter() - begin))
    return rate, latencies


def _random_model(spec: arch.ArchSpec) -> ResNeXt:
    torch.manual_seed(0)
    model = ResNeXt(spec).eval()
    for name, module in model.named_modules():
        if name.endswith("bn3"):  # or sums of 33 blocks would grow out of fp16
            torch.nn.init.constant_(module.weight, 0.2)  # type: ignore[arg-type]
    return model


def _kind(conv: Any) -> str:
    grouped = ", grouped" if conv.groups > 1 else ""
    stride = f", stride {conv.stride}" if conv.stride > 1 else ""
    return f"layer: {conv.kernel_size}x{conv.kernel_size}{grouped}{stride}"


def _label(module: torch.nn.Module, name: str) -> None:
    """Let the profiler know when a module begins and ends."""
    open_ones: list[Any] = []

    def enter(*_: Any) -> None:
        open_ones.append(torch.profiler.record_function(name))
        open_ones[-1].__enter__()

    def leave(*_: Any) -> None:
        open_ones.pop().__exit__(None, None, None)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave)


def _summary(recorded: Any, device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    name = "device_time_total" if on_gpu else "cpu_time_total"
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = recorded.key_averages()
    layers: dict[str, float] = {}
    for one in events:
        if one.key.startswith("layer: "):  # a GPU may have an entry of its own for it
            layers[one.key] = max(layers.get(one.key, 0.0), getattr(one, name))
    kernels = [one for one in events if not one.key.startswith("layer: ")]
    if on_gpu:  # kernels, and not the functions that started them
        kernels = [one for one in kernels if one.device_type == torch.autograd.DeviceType.CUDA]
    kernels.sort(key=lambda one: -getattr(one, own))
    return {
        "total_us": round(sum(getattr(one, own) for one in kernels), 1),
        "by_layer_us": {key: round(value, 1) for key, value in layers.items()},
        "by_kernel": [
            {"kernel": one.key[:120], "us": round(getattr(one, own), 1), "calls": one.count}
            for one in kernels[:20]
        ],
    }


def _show(row: dict[str, Any]) -> None:
    print(f"\n{row['model']}, batch {row['batch_size']}; roofline {row['roofline']['layers']}"
          f" (layers), {row['roofline']['blocks']} (blocks) images/s")  # fmt: skip
    for name, one in row["contenders"].items():
        share = row["roofline"]["share_of_layers"][name]
        print(
            f"  {name:14s} {one['images_per_s']:10.1f} ({one['low']:.0f}-{one['high']:.0f})"
            f"  p50 {one['p50_ms']:8.3f} ms  {share:6.1%} of roofline, start {one['start_s']} s"
        )
    for name, reason in row["did_not_run"].items():
        print(f"  {name:14s} did not run: {reason.splitlines()[0] if reason else ''}")
    print(f"  {row['best']} / {row['best_peer']}: {row['ratio']}", flush=True)


def _free() -> None:
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Training


def _train(asked: argparse.Namespace, _: dict[str, Any], spent: Callable[[], float]) -> Any:
    """Yield a result for each network: our step beside a plain loop, on pixels in memory."""
    import gpu_training  # needs the extra train

    for name in asked.models:
        for batch_size in asked.batches:
            row: dict[str, Any] = {"row": "train", "model": name, "batch_size": batch_size}
            if spent() > asked.limit:
                yield {**row, "left_out": "there was no time left"}
                continue
            row |= gpu_training.compete(asked, name, batch_size, spent)
            print(json.dumps(row), flush=True)
            yield row
            _free()


if __name__ == "__main__":
    sys.exit(main())
