"""[torch] Run the folded network on an NVIDIA GPU, as CUDA graphs.

Pixels go up as uint8 and are normalized there; while one part of a batch is computed, the
next is sent. Everything but graphs and streams also runs on the processor, which is how it
is tested. S pixels a side, C channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resnext.checkpoints.reader import Tensors
from resnext.engines import backends, folded, measured
from resnext.engines.base import BEST_BATCH_SIZE, AbstractEngine, Outputs, Precision, Signature
from resnext.engines.compiled import make_key
from resnext.engines.eager import open_device
from resnext.errors import ConfigError, EngineError
from resnext.modelfile import ModelDocument
from resnext.provenance import versions

PRECISIONS = ("auto", "bf16", "fp16", "tf32", "fp32")
AT_ONCE = 256 * 224 * 224  # pixels; ResNeXt-50 then takes about 2 GB in bfloat16

_DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# Oldest compute capability: Ampere; Volta, the first with tensor cores.
_OLDEST = {"bf16": (8, 0), "tf32": (8, 0), "fp16": (7, 0)}
_WARM_UPS = 3

Pixels = npt.NDArray[np.uint8]


class CudaEngine(AbstractEngine):
    """One network on one GPU.

    Args:
        document: The network and its normalization.
        tensors: Its `state_dict`.
        precision: "bf16", "fp16", "tf32", "fp32" (exact), or "auto": the first of bf16, fp16
            and fp32 that the GPU has tensor cores for.
        backend: One of `base.BACKENDS`, or "auto": what is fastest for each batch size, of
            those that need no minutes to compile.
        device: Such as "cuda:1"; "cpu" runs the same network without graphs and streams.
        threads: Number of processor threads, or None for torch's choice.
        feature_maps: Let the last feature maps out as well.
        cache: Folder for what was measured; None for none.

    Raises:
        ConfigError: Unknown precision, backend or device, or one that the GPU does not have.
        ModelFileError: The tensors are refused.
    """

    name: ClassVar[str] = "torch"

    def __init__(
        self,
        document: ModelDocument,
        tensors: Tensors,
        *,
        precision: str = "auto",
        backend: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        feature_maps: bool = False,
        cache: Path | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}; expected at least 1")
        self._device = open_device(device or "cuda")
        chosen = choose_precision(precision, _capability(self._device))
        if backend != "auto" and (reason := backends.obstacle(backend, self._device)):
            raise ConfigError(f"the backend is {backend!r}, which does not run here: {reason}")
        spec, size = document.architecture, document.preprocess.input_size
        signature = Signature.of(document, feature_maps=feature_maps)
        on_gpu = self._device.type == "cuda"
        batch_size = _batch_size(size) if on_gpu else BEST_BATCH_SIZE
        super().__init__(signature, precision=chosen, best_batch_size=batch_size)
        if threads is not None:
            torch.set_num_threads(threads)
        self._spec, self._backend, self._cache = spec, backend, cache
        exact = chosen == "fp32"
        self._folded = folded.fold(spec, document.preprocess, tensors, exact=exact)
        self._networks: dict[str, backends.Call] = {}
        self._programs: dict[int, Program] = {}
        self._lane = Lane(self._device) if on_gpu else None

    def _infer_all(self, parts: list[Pixels]) -> list[Outputs]:
        """Send each part while the one before it is computed."""
        outputs: list[Outputs] = []
        waiting: Pending | None = None
        for part in parts:
            started: Pending | None = None
            with contextlib.suppress(MemoryError):
                started = self._start(part)
            if waiting is not None:
                outputs.append(self._finish(waiting))
            if started is None:
                outputs.append(self._infer_or_split(np.ascontiguousarray(part)))
            waiting = started
        if waiting is not None:
            outputs.append(self._finish(waiting))
        return outputs

    def _infer(self, batch_nhwc: Pixels) -> Outputs:
        try:
            return self._finish(self._start(batch_nhwc))
        except MemoryError:
            # Or this size would be measured and captured anew for every batch to come.
            self.best_batch_size = max(1, min(self.best_batch_size, len(batch_nhwc) // 2))
            raise

    def _start(self, batch_nhwc: Pixels) -> Pending:
        tf32 = self.precision == "tf32"
        with self._guarded(), torch.inference_mode(), backends.arithmetic(tf32=tf32):
            program = self._open_program(len(batch_nhwc))
            if self._lane is not None:
                return self._lane.start(batch_nhwc, program)
            pixels = np.require(
                batch_nhwc, requirements=("C", "W")
            )  # torch warns of read-only ones
            return Pending(program.run(torch.from_numpy(pixels)), len(batch_nhwc))

    def _finish(self, pending: Pending) -> Outputs:
        with self._guarded():
            outputs = Outputs(*pending.wait())
        self._check_outputs(outputs, count=pending.count)
        return outputs

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            if "not enough memory" in str(error) or "can't allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise EngineError(f"{self} failed: {error}") from error

    def _open_program(self, count: int) -> Program:
        """Return what runs `count` pictures or a few more; one for each power of two."""
        # Minutes for each size: a few of them, which more pictures that do not count fill up.
        step = 4 if self._backend == "compile" else 2
        size = padded_size(count, self.best_batch_size, step=step)
        if size not in self._programs:
            name = self._choose(size)
            self._programs[size] = Program(self._open(name), self._shape(size), self._lane)
        return self._programs[size]

    def _open(self, backend: str) -> backends.Call:
        if backend not in self._networks:
            network = folded.FoldedNetwork(
                self._spec,
                self._folded,
                backends.operations(backend),
                device=self._device,
                dtype=_DTYPES[self.precision],
                feature_maps=self.signature.feature_maps,
            )
            self._networks[backend] = backends.callable_of(backend, network.eval())
        return self._networks[backend]

    def _choose(self, size: int) -> str:
        if self._backend != "auto":
            return self._backend
        names = [name for name in backends.QUICK if not backends.obstacle(name, self._device)]
        if len(names) == 1:
            return names[0]

        def parse(value: Any) -> str:
            if value not in names:
                raise ValueError(value)
            return str(value)

        key = make_key({**self._describe(), "backends": names, "batch_size": size})
        return measured.remember(
            self._cache, "torch_backend", key, lambda: self._measure(names, size), parse
        )

    def _measure(self, names: list[str], size: int) -> str:
        shape = self._shape(size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=self._device)

        def open_program(name: str) -> Any:
            program = Program(self._open(name), shape, self._lane)
            return lambda: program.run(pixels)

        limit = backends.AGREEMENT[self.precision]
        best = backends.fastest(names, open_program, agreement=limit)
        for name in set(self._networks) - {best, *names[:1]}:
            del self._networks[name]
        return best

    def _describe(self) -> dict[str, Any]:
        """Say what the time of a batch depends on: not the weights."""
        return {
            "architecture": self._spec.name,
            "input_size": self.signature.input_size,
            "precision": self.precision,
            "device": describe_device(self._device),
            "software": versions("resnext", "torch", "triton"),
        }

    def _shape(self, size: int) -> tuple[int, int, int, int]:
        side = self.signature.input_size
        return size, side, side, self.signature.in_chans

    def _release(self) -> None:
        self._programs.clear()
        self._networks.clear()
        self._folded.clear()
        self._lane = None


class Pending:
    """Results on their way to the processor's memory.

    Args:
        results: On the processor; whole once `done` has come.
        count: Number of pictures.
        done: Event after the last copy, or None where nothing is waited for.
    """

    def __init__(self, results: tuple[Tensor, ...], count: int, done: Any = None) -> None:
        self._results, self.count, self._done = results, count, done

    def wait(self) -> list[npt.NDArray[np.float32]]:
        """Return the results as arrays of the caller's own."""
        if self._done is not None:
            self._done.synchronize()
        return [np.array(result.numpy()) for result in self._results]


class Lane:
    """Two streams of a GPU, one that sends and one that computes, and what both need.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.compute, self._sending = _stream(device), _stream(device)
        # Graphs run one after the other: they may share the memory of what is in between.
        with torch.cuda.device(device):
            self.pool = torch.cuda.graph_pool_handle()
        self._slots = [_Slot(), _Slot()]

    def start(self, batch_nhwc: Pixels, program: Program) -> Pending:
        """Send a batch, compute it, and bring back the results, waiting for none of it."""
        count = len(batch_nhwc)
        self._slots.reverse()  # while one is sent, the other is filled
        slot = self._slots[0]
        with torch.cuda.device(self.device):
            slot.fit(program.pixels)
            slot.sent.synchronize()  # then its memory here may be filled anew
            np.copyto(slot.here[:count].numpy(), batch_nhwc)
            with torch.cuda.stream(self._sending):
                self._sending.wait_event(slot.taken)
                slot.there[:count].copy_(slot.here[:count], non_blocking=True)
                slot.sent.record()
            with torch.cuda.stream(self.compute):
                self.compute.wait_event(slot.sent)
                program.pixels[:count].copy_(slot.there[:count])
                slot.taken.record()
                found = [result[:count] for result in program.replay()]
                results = tuple(torch.empty_like(r, device="cpu", pin_memory=True) for r in found)
                for result, value in zip(results, found, strict=True):
                    result.copy_(value, non_blocking=True)
                done = _event()
                done.record()
        return Pending(results, count, done)


class _Slot:
    """Memory for one batch here (pinned, which can be sent while others work) and there."""

    def __init__(self) -> None:
        self.here = self.there = torch.empty(0, dtype=torch.uint8)
        self.sent, self.taken = _event(), _event()

    def fit(self, pixels: Tensor) -> None:
        """Take as much memory as a batch needs."""
        if self.here.numel() < pixels.numel():
            self.sent.synchronize()
            self.taken.synchronize()
            self.here = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
            self.there = torch.empty_like(pixels)


class Program:
    """A network for batches of one size: on a GPU a graph, which one call starts.

    Args:
        network: What computes.
        shape: (N, S, S, C) of the pixels.
        lane: Streams of the GPU; None on the processor.

    Raises:
        torch.OutOfMemoryError: The size does not fit.
        RuntimeError: The network does not run.
    """

    def __init__(
        self, network: backends.Call, shape: tuple[int, int, int, int], lane: Lane | None
    ) -> None:
        self._network, self._lane = network, lane
        self._graph: Any = None
        if lane is not None:
            with torch.cuda.device(lane.device):
                self._capture(shape, lane)

    def run(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Compute pixels that are on the device; for measuring, and on the processor."""
        if self._lane is None:
            return self._network(pixels)
        compute, caller = self._lane.compute, torch.cuda.current_stream(self._lane.device)
        compute.wait_stream(caller)  # which made the pixels, and takes the results
        with torch.cuda.device(self._lane.device), torch.cuda.stream(compute):
            self.pixels.copy_(pixels)
            results = self.replay()
        caller.wait_stream(compute)
        return results

    def replay(self) -> tuple[Tensor, ...]:
        """Compute what is in `pixels`; the next call writes into the same results."""
        if self._graph is None:
            return self._network(self.pixels)
        self._graph.replay()
        return self._results

    def _capture(self, shape: tuple[int, int, int, int], lane: Lane) -> None:
        self.pixels = torch.zeros(shape, dtype=torch.uint8, device=lane.device)
        lane.compute.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(lane.compute):
            for _ in range(_WARM_UPS):  # compiles, and finds the algorithms for these shapes
                self._network(self.pixels)
        lane.compute.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on using the GPU.
            mode = "thread_local"
            with torch.cuda.graph(
                graph, pool=lane.pool, stream=lane.compute, capture_error_mode=mode
            ):
                self._results = self._network(self.pixels)
            self._graph = graph
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            torch.cuda.synchronize()  # something waits or copies: then it runs as it is


def choose_precision(precision: str, capability: tuple[int, int] | None) -> Precision:
    """Return what to compute in.

    Args:
        precision: What was asked for.
        capability: The GPU's compute capability; None for the processor.

    Raises:
        ConfigError: It is unknown, or not for this device.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    order: tuple[Precision, ...] = ("bf16", "fp16", "tf32", "fp32")
    if precision == "auto":
        fast: tuple[Precision, ...] = ("bf16", "fp16")
        if capability is None:
            return "fp32"
        return next((name for name in fast if capability >= _OLDEST[name]), "fp32")
    if capability is None and precision == "tf32":
        raise ConfigError(
            "precision is 'tf32', which only GPUs have, and this is the processor",
            hint="take fp32 or bf16",
        )
    # fp16 is there on older ones too, slow and asked for.
    if capability is not None and precision != "fp16" and capability < _OLDEST.get(precision, (0,)):
        found = ".".join(map(str, capability))
        raise ConfigError(
            f"precision is {precision!r}, which this GPU (compute capability {found}) does not"
            " have",
            hint="take precision auto, fp16 or fp32",
        )
    return next(name for name in order if name == precision)


def padded_size(count: int, most: int, *, step: int = 2) -> int:
    """Return the batch size that `count` pictures are computed in: a power of `step`.

    Example:
        >>> [padded_size(count, 48) for count in (1, 3, 33, 48)]
        [1, 4, 48, 48]
    """
    size = 1
    while size < count:
        size *= step
    return max(count, min(size, most))


def describe_device(device: torch.device) -> str:
    """Return the name of a GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _event() -> Any:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def _batch_size(input_size: int) -> int:
    """Return how many pictures of a size to compute at once: a power of two, at most 256."""
    fits = max(1, AT_ONCE // input_size**2)
    return min(256, 1 << (fits.bit_length() - 1))


def _capability(device: torch.device) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None
