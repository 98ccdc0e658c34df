"""The GPU engine, on the processor; what needs a GPU is marked so."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import (
    Tensors,
    random_batch,
    random_network,
    relative_error,
)

from resnext import testing, weights
from resnext.engines import select
from resnext.errors import ConfigError, EngineError, import_extra
from resnext.modelfile import ModelDocument

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_torch_thread")]
torch = pytest.importorskip("torch")
cuda = import_extra("resnext.engines.cuda", extra="torch")
eager = import_extra("resnext.engines.eager", extra="torch")
backends = import_extra("resnext.engines.backends", extra="torch")

SIZE = 64
NAMES = ["resnext26_4x2d", "seresnextaa26d_4x2d", "skresnext26_4x2d"]
on_gpu = pytest.mark.gpu


def network(name: str = NAMES[0]) -> tuple[ModelDocument, Tensors]:
    return random_network(name, SIZE)


def open_cpu(name: str = NAMES[0], **options: Any) -> Any:
    return cuda.CudaEngine(*network(name), device="cpu", backend="cudnn", **options)


@pytest.mark.parametrize("name", NAMES)
def test_it_agrees_with_the_module(name: str) -> None:
    pixels = random_batch(3, SIZE, seed=1)
    with (
        open_cpu(name, feature_maps=True) as folded,
        eager.EagerEngine(*network(name), device="cpu", feature_maps=True) as module,
    ):
        assert (folded.name, folded.precision) == ("torch", "fp32")
        found, expected = folded.run(pixels), module.run(pixels)
    for part in ("logits", "embedding", "features"):
        assert relative_error(getattr(found, part), getattr(expected, part)) < 1e-5, part


@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.05), ("fp16", 0.005)])
def test_few_digits_are_near(precision: str, limit: float) -> None:
    pixels = random_batch(4, SIZE, seed=3)
    with open_cpu(precision=precision) as half, open_cpu(precision="fp32") as full:
        assert half.precision == precision
        found, expected = half.run(pixels), full.run(pixels)
    assert found.logits.dtype == np.float32
    assert 1e-5 < relative_error(found.logits, expected.logits) < limit


def test_parts_are_started_before_the_last_one_is_waited_for() -> None:
    events: list[str] = []
    with open_cpu() as engine:
        expected = [engine.run(random_batch(count, SIZE, seed=4)).logits for count in (2, 2, 1)]
        start, finish = engine._start, engine._finish
        engine._start = lambda part: events.append("start") or start(part)
        engine._finish = lambda pending: events.append("finish") or finish(pending)
        engine.best_batch_size = 2
        batches = [random_batch(count, SIZE, seed=4) for count in (2, 2, 1)]
        found = engine.run(np.concatenate(batches)).logits
    assert events == ["start", "start", "finish", "start", "finish", "finish"]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_halved_in_its_place() -> None:
    pixels = random_batch(7, SIZE, seed=6)
    with open_cpu() as engine:
        expected = engine.run(pixels).logits
        start = engine._start

        def narrow(part: Any) -> Any:
            if len(part) > limit:
                raise MemoryError
            return start(part)

        engine._start, engine.best_batch_size, limit = narrow, 3, 2
        np.testing.assert_allclose(engine.run(pixels).logits, expected, rtol=1e-4, atol=1e-5)
        limit = 0
        with pytest.raises(EngineError, match="not enough memory for one picture of 64 pixels"):
            engine.run(pixels)


def test_what_does_not_fit_is_not_tried_for_every_batch() -> None:
    pixels, tried = random_batch(8, SIZE, seed=6), []
    with open_cpu() as engine:
        open_program = engine._open_program

        def narrow(count: int) -> Any:
            tried.append(count)
            if count > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return open_program(count)

        engine._open_program, engine.best_batch_size = narrow, 8
        engine.run(pixels)
        assert max(tried) == 8 and engine.best_batch_size == 2
        tried.clear()
        engine.run(pixels)
    assert tried == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "has not enough memory for one picture"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "has not enough memory"),
        (RuntimeError("device-side assert"), r"engine torch \(fp32\) failed: device-side assert"),
    ],
)
def test_errors_are_told_apart(error: Exception, message: str) -> None:
    def fail(_pixels: Any) -> Any:
        raise error

    with open_cpu() as engine:
        engine._networks["cudnn"] = fail
        with pytest.raises(EngineError, match=message):
            engine.run(random_batch(1, SIZE, seed=0))


def test_results_that_are_no_numbers_are_refused() -> None:
    with open_cpu() as engine:
        engine.run(random_batch(1, SIZE, seed=0))
        network = engine._networks["cudnn"]
        network.head_bias.fill_(float("nan"))
        with pytest.raises(EngineError, match="gave NaN or infinity in the logits of 3 of 3"):
            engine.run(random_batch(3, SIZE, seed=0))


def test_empty_is_fine_and_closed_is_closed() -> None:
    engine = open_cpu()
    assert engine.run(random_batch(0, SIZE, seed=0)).logits.shape == (0, 7)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        engine.run(random_batch(1, SIZE, seed=0))


def test_read_only_pixels_are_taken() -> None:
    pixels = random_batch(2, SIZE, seed=0)
    pixels.setflags(write=False)
    with open_cpu() as engine:
        assert engine.run(pixels).logits.shape == (2, 7)


def test_arithmetic_is_as_before_afterwards() -> None:
    seen: list[str] = []

    def watch(pixels: Any) -> Any:
        seen.append(torch.get_float32_matmul_precision())
        return torch.zeros(len(pixels), 7), torch.zeros(len(pixels), 2048)

    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            with open_cpu() as engine:
                engine._networks["cudnn"] = watch
                engine.run(random_batch(1, SIZE, seed=0))
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest", "highest"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "precision is 'int8'; expected one of auto, bf16, fp16, tf32"),
        ({"precision": "tf32"}, "precision is 'tf32', which only GPUs have"),
        ({"threads": 0}, "threads is 0; expected at least 1"),
        ({"backend": "fused"}, "the backend is 'fused', which does not run here: it needs a GPU"),
        ({"backend": "cuda"}, "the backend is 'cuda'; expected one of cudnn, wide, fused"),
        ({"device": "cuda:99"}, "device is 'cuda:99', which torch does not have"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cuda.CudaEngine(*network(), **{"device": "cpu", **options})


@pytest.mark.parametrize(
    ("precision", "capability", "chosen"),
    [
        ("auto", (9, 0), "bf16"),
        ("auto", (8, 0), "bf16"),
        ("auto", (7, 5), "fp16"),
        ("auto", (6, 1), "fp32"),
        ("auto", None, "fp32"),
        ("tf32", (8, 6), "tf32"),
        ("fp16", (6, 1), "fp16"),
        ("fp32", (9, 0), "fp32"),
        ("bf16", None, "bf16"),
    ],
)
def test_precisions_are_those_of_the_gpu(precision: str, capability: Any, chosen: str) -> None:
    assert cuda.choose_precision(precision, capability) == chosen


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_an_old_gpu_refuses_what_it_lacks(precision: str) -> None:
    with pytest.raises(ConfigError, match=r"which this GPU \(compute capability 7.5\) does not"):
        cuda.choose_precision(precision, (7, 5))


def test_sizes_are_few_and_hold_the_batch() -> None:
    for most in (1, 48, 256):
        sizes = {cuda.padded_size(count, most) for count in range(1, most + 1)}
        assert len(sizes) <= 9 and max(sizes) == most
        for count in range(1, most + 1):
            assert count <= cuda.padded_size(count, most) <= 2 * count
    assert {cuda.padded_size(count, 256, step=4) for count in range(1, 257)} == {1, 4, 16, 64, 256}
    assert cuda.padded_size(300, 256) == 300


@pytest.mark.parametrize(("size", "batch"), [(32, 256), (224, 256), (320, 64), (4096, 1)])
def test_large_pictures_come_in_smaller_batches(size: int, batch: int) -> None:
    assert cuda._batch_size(size) == batch


def test_a_backend_is_measured_once_for_each_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[Any, ...]] = []

    def fastest(names: Any, open_program: Any, *, agreement: float) -> str:
        logits = [open_program(name)()[0] for name in names]
        measured.append((*names, agreement, len(logits[0])))
        return str(names[-1])

    monkeypatch.setattr(
        backends, "obstacle", lambda name, _device: "" if name in ("cudnn", "fused") else name
    )
    monkeypatch.setattr(backends, "operations", lambda _name: cuda.folded.Operations())
    monkeypatch.setattr(backends, "fastest", fastest)
    for _ in range(2):
        with cuda.CudaEngine(*network(), device="cpu", cache=tmp_path) as engine:
            engine.run(random_batch(3, SIZE, seed=0))
            engine.run(random_batch(4, SIZE, seed=0))
            engine.run(random_batch(1, SIZE, seed=0))
            assert "fused" in engine._networks
    assert measured == [("cudnn", "fused", 1e-4, 4), ("cudnn", "fused", 1e-4, 1)]
    with cuda.CudaEngine(*network(), device="cpu", cache=tmp_path, precision="bf16") as engine:
        engine.run(random_batch(1, SIZE, seed=0))
    assert measured[2:] == [("cudnn", "fused", 0.05, 1)]


def test_the_command_line_can_name_a_backend(tmp_path: Path) -> None:
    local = weights.locate(testing.write_tiny_model(tmp_path / "tiny.safetensors"))
    batch = random_batch(2, 32, seed=0)
    with (
        select.load(local, engine="torch:cudnn", precision="fp16", device="cpu") as folded,
        select.load(local, engine="torch", precision="fp32", device="cpu") as module,
    ):
        assert (type(folded), type(module)) == (cuda.CudaEngine, eager.EagerEngine)
        error = relative_error(folded.run(batch).logits, module.run(batch).logits)
    assert error < 0.01


class _Instant:
    """A stream, an event: on this stand-in for a GPU everything happens at once."""

    def __init__(self, *_: Any) -> None:
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name not in ("record", "synchronize", "wait_event", "wait_stream"):
            raise AttributeError(name)
        return lambda *_: self.seen.append(name)


class _Graph:
    """Computes again what was computed between its beginning and its end."""

    replays = 0

    def capture(self, program: Any) -> None:
        self.program = program

    def replay(self) -> None:
        type(self).replays += 1
        found = self.program._network(self.program.pixels)
        for result, value in zip(self.program._results, found, strict=True):
            result.copy_(value)


@pytest.fixture
def gpu_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand-ins for streams and graphs, so that the steps between them run everywhere."""
    same, cuda_module = contextlib.nullcontext(), torch.cuda
    for name in ("Stream", "Event"):
        monkeypatch.setattr(cuda_module, name, _Instant)
    for name in ("device", "stream", "graph"):
        monkeypatch.setattr(cuda_module, name, lambda *_args, **_options: same)
    monkeypatch.setattr(cuda_module, "current_stream", lambda *_: _Instant())
    monkeypatch.setattr(cuda_module, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(cuda_module, "CUDAGraph", _Graph)
    for name in ("empty", "empty_like"):  # without a GPU no memory can be pinned
        make = getattr(torch, name)
        monkeypatch.setattr(
            torch, name, lambda *a, make=make, pin_memory=False, **options: make(*a, **options)
        )
    capture = cuda.Program._capture

    def captured(program: Any, shape: Any, lane: Any) -> None:
        capture(program, shape, lane)
        if program._graph is not None:
            program._graph.capture(program)

    monkeypatch.setattr(cuda.Program, "_capture", captured)
    monkeypatch.setattr(_Graph, "replays", 0)
    return lambda: cuda.Lane(torch.device("cpu"))


def test_what_is_sent_and_padded_comes_back_in_order(gpu_on_the_processor: Any) -> None:
    pixels = random_batch(21, SIZE, seed=5)
    with open_cpu(feature_maps=True) as plain:
        expected = plain.run(pixels)
    with open_cpu(feature_maps=True) as engine:
        engine._lane = gpu_on_the_processor()
        engine.best_batch_size = 8
        for count in (1, 3, 8, 21):  # 21 is 8, 8 and 5, which is filled up to 8
            found = engine.run(pixels[:count])
            for part in ("logits", "embedding", "features"):
                expected_part = getattr(expected, part)[:count]
                assert relative_error(getattr(found, part), expected_part) < 1e-5, (count, part)
        first = engine.run(pixels[:2])
        before = first.logits.copy()
        engine.run(pixels[5:7])
        np.testing.assert_array_equal(first.logits, before)
        assert sorted(engine._programs) == [1, 2, 4, 8]
        assert _Graph.replays == 1 + 1 + 1 + 3 + 2


def test_what_cannot_be_captured_runs_as_it_is(
    gpu_on_the_processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def refuse(*_: Any, **__: Any) -> Iterator[None]:
        raise RuntimeError("operation not permitted when stream is capturing")
        yield

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    pixels = random_batch(3, SIZE, seed=5)
    with open_cpu() as engine:
        expected = engine.run(pixels).logits
        engine._programs.clear()
        engine._lane = gpu_on_the_processor()
        assert relative_error(engine.run(pixels).logits, expected) < 1e-5
        assert _Graph.replays == 0

        def too_much(*_: Any, **__: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(torch.cuda, "graph", too_much)
        engine._programs.clear()
        with pytest.raises(EngineError, match="has not enough memory for one picture"):
            engine.run(pixels)


def test_backends_are_measured_with_graphs(
    gpu_on_the_processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("cudnn", "wide")
    monkeypatch.setattr(backends, "obstacle", lambda name, _: "" if name in names else name)
    with cuda.CudaEngine(*network(), device="cpu") as engine:
        engine._lane = gpu_on_the_processor()
        assert engine._measure(list(names), 2) in names
        assert _Graph.replays > 2 * 5
        assert engine.run(random_batch(2, SIZE, seed=5)).logits.shape == (2, 7)


@on_gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("precision", "limit"), [("fp32", 1e-4), ("tf32", 0.01), ("fp16", 0.01), ("bf16", 0.05)]
)
def test_a_gpu_agrees_with_the_processor(name: str, precision: str, limit: float) -> None:
    """Whole batches, partial ones that are padded, and more than one part."""
    pixels = random_batch(21, SIZE, seed=5)
    with (
        cuda.CudaEngine(*network(name), precision=precision, feature_maps=True) as fast,
        eager.EagerEngine(*network(name), precision="fp32", device="cpu") as exact,
    ):
        expected = exact.run(pixels).logits
        fast.best_batch_size = 8
        for count in (1, 3, 8, 21):
            found = fast.run(pixels[:count])
            assert relative_error(found.logits, expected[:count]) < limit
            assert found.features is not None and len(found.features) == count
        assert all(program._graph is not None for program in fast._programs.values())


@on_gpu
def test_the_same_pictures_give_the_same_bits_from_many_threads() -> None:
    pixels = random_batch(32, SIZE, seed=6)
    with cuda.CudaEngine(*network()) as engine:
        engine.best_batch_size = 8
        expected = engine.run(pixels).logits
        found: list[Any] = []
        threads = [
            threading.Thread(target=lambda: found.append(engine.run(pixels).logits))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 4
    for logits in found:
        np.testing.assert_array_equal(logits, expected)


@on_gpu
def test_a_gpu_is_taken_where_torch_is_asked_for(tmp_path: Path) -> None:
    local = weights.locate(testing.write_tiny_model(tmp_path / "tiny.safetensors"))
    with select.load(local, engine="torch") as engine:
        assert isinstance(engine, cuda.CudaEngine)
        assert engine.run(random_batch(3, 32, seed=0)).logits.shape == (3, 2)
