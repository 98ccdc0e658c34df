"""What a GPU can do: measured on the processor here, and on a GPU where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resnext.errors import import_extra

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
gpu = import_extra("resnext.deploy.gpu", extra="torch")


def test_more_work_takes_more_time_and_rates_stay() -> None:
    """Plausible figures of a processor: 0.1 to 100,000 GMAC/s, 0.1 to 10,000 GB/s."""
    assert 1e8 < gpu.peak_macs("fp32", device="cpu", side=256) < 1e14
    assert 1e8 < gpu.bandwidth(device="cpu", count=1 << 22) < 1e13


def test_products_are_of_the_type_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    product = torch.mm

    def watch(left: Any, right: Any) -> Any:
        seen.append((left.dtype, torch.get_float32_matmul_precision()))
        assert left.count_nonzero() > 0 and not torch.equal(left, right)
        return product(left, right)

    monkeypatch.setattr(torch, "mm", watch)
    for name in ("fp32", "tf32", "bf16", "fp16"):
        gpu.peak_macs(name, device="cpu", side=16)
    assert set(seen) == {
        (torch.float32, "highest"),
        (torch.float32, "high"),
        (torch.bfloat16, "highest"),
        (torch.float16, "highest"),
    }
    assert torch.get_float32_matmul_precision() == "highest"


def _benchmark(repository: Path, *arguments: str) -> Any:
    script = str(repository / "benchmarks" / "gpu.py")
    environment = {**os.environ, "PYTHONPATH": str(repository / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, script, *arguments],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


@pytest.mark.slow
def test_the_benchmark_says_that_there_is_no_gpu(repository: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = _benchmark(repository, "-o", str(tmp_path / "gpu.json"))
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1].startswith("error: torch finds no GPU here")
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.slow
def test_the_benchmark_compares_on_a_processor_too(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = _benchmark(
        repository, "--device", "cpu", "--models", "resnext29_2x4d", "--batches", "2",
        "--seconds", "0.02", "--rounds", "2", "--skip", "compile,torch-compile", "-o", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    [row] = json.loads(out.read_text())["rows"]
    assert set(row["contenders"]) >= {"eager", "cudnn"}
    assert (row["best_peer"], row["profile"]["backend"]) == ("eager", row["best"])
    assert "it needs a GPU" in row["did_not_run"]["fused"]
    assert row["profile"]["by_layer_us"]["layer: 3x3, grouped"] > 0
    for name, one in row["contenders"].items():
        assert 0 < one["low"] <= one["images_per_s"] <= one["high"]
        assert row["roofline"]["share_of_layers"][name] > 0


@pytest.mark.gpu
def test_a_gpu_is_described_and_measured() -> None:
    found = gpu.measure(["fp32", "bf16"])
    assert found["name"] == torch.cuda.get_device_name()
    assert set(found["peaks"]) == {"fp32", "bf16"}
    assert 1e11 < found["peaks"]["fp32"] < 1e16 and 1e10 < found["bandwidth"] < 1e14
