"""Which device kernels run on, what they ask of tensors, and how one is started."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import pytest

from resnext import kernels

torch = pytest.importorskip("torch")
here = pytest.importorskip("kernels_here")

launch = here.load("resnext.kernels.launch")
pytestmark = pytest.mark.torch


def test_the_kernels_are_available_where_they_are_tested() -> None:
    assert kernels.available(here.DEVICE) == ""


def test_a_missing_package_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "triton" else find(name)
    )
    assert kernels.available("cuda") == "triton is not installed"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pretend that there is one GPU of Hopper's generation, and no interpreter."""
    monkeypatch.setattr(launch, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setenv("CC", "cc")
    return monkeypatch


def test_a_new_gpu_has_no_obstacle(gpu: pytest.MonkeyPatch) -> None:
    assert launch.obstacle("cuda") == ""
    assert launch.obstacle(torch.device("cuda", 0)) == ""


def test_obstacles_are_named(gpu: pytest.MonkeyPatch) -> None:
    assert "run on NVIDIA GPUs; the device is cpu" in launch.obstacle("cpu")
    assert "torch finds no GPU cuda:1" in launch.obstacle("cuda:1")
    assert "nonsense" in launch.obstacle("nonsense")


def test_an_old_gpu_is_an_obstacle(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert launch.obstacle("cuda") == "the GPU has compute capability 7.5; the kernels need 8.0"


def test_a_missing_compiler_is_an_obstacle(gpu: pytest.MonkeyPatch) -> None:
    gpu.delenv("CC")
    gpu.setattr(launch.shutil, "which", lambda _: None)
    assert "neither gcc nor clang" in launch.obstacle("cuda")


def test_torch_for_amd_is_an_obstacle(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.version, "hip", "7.0")
    assert "made for AMD's" in launch.obstacle("cuda")


def test_the_package_loads_neither_torch_nor_triton() -> None:
    code = "import sys, resnext.kernels; print({'torch', 'triton', 'numpy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "set()", found.stderr


def test_float32_is_rounded_as_torch_is_told() -> None:
    assert launch.precision(torch.float32) == "ieee"
    torch.set_float32_matmul_precision("high")
    try:
        assert launch.precision(torch.float32) == "tf32"
        assert launch.precision(torch.float16) == "ieee"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_compiled_kernel_is_started_with_what_tuning_chose(
    gpu: pytest.MonkeyPatch,
) -> None:
    import contextlib

    started = []

    class Kernel:
        def __getitem__(self, grid: tuple[int]) -> object:
            return lambda **arguments: started.append((grid, arguments))

    def choose(key: str, configs: list[dict[str, int]], start: object, *, device: object) -> object:
        assert (key, str(device)) == ("key tf32", "meta")  # a choice for each precision
        return configs[1]

    gpu.setattr(launch.tuning, "choose", choose)
    gpu.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    x = torch.empty(4, device="meta")
    configs = [{"BLOCK_M": 128}, {"BLOCK_M": 64}]
    given = {"x": x, "PRECISION": "tf32"}
    launch.run(Kernel(), given, lambda config: config["BLOCK_M"] + 1, key="key", configs=configs)
    assert started == [((65,), {**given, "BLOCK_M": 64, "enable_fp_fusion": True})]


@pytest.mark.parametrize(("count", "rounded"), [(0, 1), (1, 1), (2, 2), (49, 64), (64, 64)])
def test_counts_alike_share_a_bucket(count: int, rounded: int) -> None:
    assert launch.bucket(count) == rounded
