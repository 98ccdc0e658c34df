"""Ways to compute: all the same result; the fastest that runs and agrees is taken."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from networks import preprocessing, random_batch, random_tensors

from resnext import arch
from resnext.errors import ConfigError, import_extra

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
folded = import_extra("resnext.engines.folded", extra="torch")
backends = import_extra("resnext.engines.backends", extra="torch")

F = torch.nn.functional
CPU = torch.device("cpu")
SIZE = 64


@cache
def weights(name: str, exact: bool = True) -> Any:
    spec = arch.parse(name, num_classes=7)
    return spec, folded.fold(spec, preprocessing(SIZE), random_tensors(spec, seed=0), exact=exact)


def run(
    name: str, operations: Any, device: Any = CPU, dtype: Any = torch.float32, exact: Any = None
) -> Any:
    spec, found = weights(name, dtype == torch.float32 if exact is None else exact)
    module = folded.FoldedNetwork(spec, found, operations, device=device, dtype=dtype)
    with torch.inference_mode():
        return module(torch.from_numpy(random_batch(2, SIZE, seed=1)).to(device))[0].cpu()


def _convolve_relu(x: Any, weight: Any, bias: Any, *geometry: Any) -> Any:
    return F.conv2d(x, weight, bias, *geometry).relu()


def _convolve_add_relu(
    x: Any, weight: Any, added: Any, alpha: float, bias: Any, *geometry: Any
) -> Any:
    return (F.conv2d(x, weight, bias, *geometry) + alpha * added).relu()


@pytest.mark.parametrize("name", ["resnext26d_4x2d", "seresnextaa26d_4x2d", "skresnext26_4x2d"])
def test_fused_functions_get_what_they_need(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of cuDNN's two, which no processor has, stands what they are to compute."""
    monkeypatch.setattr(torch, "cudnn_convolution_relu", _convolve_relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", _convolve_add_relu)
    expected = run(name, folded.Operations())
    torch.testing.assert_close(run(name, backends.Epilogues()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnext26_32x4d", "seresnextaa26d_4x2d", "skresnext26_4x2d"])
def test_wide_groups_compute_the_same(name: str) -> None:
    expected = run(name, folded.Operations())
    torch.testing.assert_close(run(name, backends.Wide()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_wide_groups_take_a_stem_of_whole_numbers(precision: str) -> None:
    """It has twice the channels and more."""
    dtypes = {"tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    options = {"dtype": dtypes[precision], "exact": False}
    expected = run("resnext26_4x2d", folded.Operations(), **options)
    found = run("resnext26_4x2d", backends.Wide(), **options)
    assert (found - expected).abs().max() <= backends.AGREEMENT[precision] * expected.abs().max()


@pytest.fixture
def _as_before() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    for place in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        place.fp32_precision = "none"


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize("together", ["highest", "high", "medium"])
@pytest.mark.parametrize("on_cuda", [None, "none", "tf32"])
def test_arithmetic_is_put_back(together: str, on_cuda: str | None) -> None:
    torch.set_float32_matmul_precision(together)
    if on_cuda is not None:
        torch.backends.cuda.matmul.fp32_precision = on_cuda
    before = _settings()
    with backends.arithmetic(tf32=together == "highest"):
        assert _settings() != before
    assert _settings() == before


def _settings() -> list[str]:
    places = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    try:
        together = torch.get_float32_matmul_precision()
    except RuntimeError:
        together = "mixed"
    return [together, *(place.fp32_precision for place in places)]


def test_arithmetic_is_that_of_one_thread_at_a_time() -> None:
    seen: list[str] = []

    def other() -> None:
        with backends.arithmetic(tf32=True):
            seen.append(torch.get_float32_matmul_precision())

    thread = threading.Thread(target=other)
    with backends.arithmetic(tf32=False):
        thread.start()
        thread.join(timeout=0.2)
        assert torch.get_float32_matmul_precision() == "highest" and not seen
    thread.join()
    assert seen == ["high"]


def test_groups_are_joined_as_far_as_they_should() -> None:
    spec, found = weights("resnext26_32x4d")
    module = folded.FoldedNetwork(spec, found, backends.Wide(), device=CPU, dtype=torch.float32)
    shapes = [
        (one.conv.out_channels, tuple(one.weight.shape[1:]))
        for one in module.modules()
        if isinstance(one, folded.FoldedConv) and one.conv.groups > 1
    ]
    assert {shape for _, shape in shapes} == {(backends.GROUP_WIDTH, 3, 3)}


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["cudnn", "wide", "fused", "triton", "pairs"])
@pytest.mark.parametrize("name", ["resnext26_32x4d", "seresnextaa26d_4x2d", "skresnext26_4x2d"])
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_all_compute_the_same_on_a_gpu(name: str, backend: str, dtype: str, limit: float) -> None:
    gpu = torch.device("cuda")
    if reason := backends.obstacle(backend, gpu):
        pytest.skip(reason)
    expected = run(name, folded.Operations())
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = run(name, backends.operations(backend), gpu, getattr(torch, dtype))
    assert (found - expected).abs().max() <= limit * expected.abs().max()


KERNELS = """
import sys; sys.path[:0] = sys.argv[1:3]
import torch, test_backends as t
torch.set_num_threads(1)
reason = t.backends.obstacle("triton", t.CPU)
assert not reason, reason
t.SIZE = 8
for backend, dtype, limit in (("triton", "float32", 1e-4), ("pairs", "float16", 0.01)):
    operations = t.backends.operations(backend)
    joined = []
    joins = operations.joins
    operations.joins = lambda *pair: joined.append(joins(*pair)) or joined[-1]
    expected = t.run("resnext29_4x8d", t.folded.Operations())
    found = t.run("resnext29_4x8d", operations, dtype=getattr(torch, dtype))
    assert (found - expected).abs().max() <= limit * expected.abs().max(), backend
    assert any(joined) == (backend == "pairs")
print("equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("resnext.kernels") or not importlib.util.find_spec("triton"),
    reason="there are no kernels, or no triton",
)
def test_kernels_compute_the_same_in_triton_s_interpreter(repository: Path) -> None:
    """In a process of its own: Triton looks at the variable when it is imported."""
    places = [str(repository / "src"), str(repository / "tests")]
    done = subprocess.run(
        [sys.executable, "-c", KERNELS, *places],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_computes_the_same() -> None:
    spec, found = weights("resnext29_2x4d")
    module = folded.FoldedNetwork(spec, found, folded.Operations(), device=CPU, dtype=torch.float32)
    compiled = backends.callable_of("compile", module)
    with torch.inference_mode():
        for count in (1, 2):
            pixels = torch.from_numpy(random_batch(count, 32, seed=count))
            for one, other in zip(compiled(pixels), module(pixels), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_backends_say_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    assert backends.obstacle("cudnn", CPU) == backends.obstacle("compile", CPU) == ""
    assert backends.obstacle("fused", gpu) == ""
    assert "GPU" in backends.obstacle("fused", CPU)
    with pytest.raises(ConfigError, match="the backend is 'cuda'; expected one of cudnn, wide"):
        backends.obstacle("cuda", CPU)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert backends.obstacle("compile", gpu) == "triton is not installed"
    monkeypatch.setitem(sys.modules, "resnext.kernels", None)
    assert backends.obstacle("triton", gpu).startswith("there are no kernels")


def _program(seconds: float, logits: Any) -> Callable[[], Any]:
    def call() -> Any:
        time.sleep(seconds)
        return (logits,)

    return call


def test_the_fastest_that_runs_and_agrees_is_taken() -> None:
    right = torch.tensor([[1.0, -2.0]])
    programs = {
        "slow": _program(0.006, right),
        "wrong": _program(0.0, right + 0.1),
        "void": _program(0.0, right * float("nan")),
        "fast": _program(0.0005, right + 0.001),
    }
    failures = {"memory": torch.OutOfMemoryError("x"), "compiler": SyntaxError("y")}

    def open_program(name: str) -> Callable[[], Any]:
        if name in failures:
            raise failures[name]
        return programs[name]

    names = ["slow", "wrong", "memory", "void", "compiler", "fast"]
    assert backends.fastest(names, open_program, agreement=0.01) == "fast"
    assert backends.fastest(names, open_program, agreement=1e-5) == "slow"
    with pytest.raises(SyntaxError):
        backends.fastest(["compiler", "fast"], open_program, agreement=1)
