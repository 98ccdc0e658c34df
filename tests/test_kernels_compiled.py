"""Kernels compiled for a GPU that is not here: what only the interpreter takes is caught."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
triton = pytest.importorskip("triton")
pytestmark = [pytest.mark.torch, pytest.mark.slow]

_TRITON = tuple(map(int, triton.__version__.split(".")[:2]))
FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
HOPPER_SHARED, SMALLEST_SHARED = 227 * 1024, 99 * 1024  # bytes a program may have


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent / "src")}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(FOLDER / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def _compile(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    output = tmp_path / "rows.json"
    done = _run("kernel_resources.py", *arguments, "-o", str(output))
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(output.read_bytes())
    return rows


@pytest.mark.parametrize("model", ["resnext50_32x4d", "resnext101_32x48d"])
def test_on_hopper_every_kernel_is_made_as_planned(model: str, tmp_path: Path) -> None:
    for row in _compile(tmp_path, "--model", model):
        assert row["stack_bytes"] == 0, f"registers are spilled: {row}"
        assert all(name.startswith("wgmma") for name in row["products"]), row
        assert row["products"], row
        # Were an address not known to be aligned, loads would be of single numbers, and no
        # copy could overlap with the products.
        assert row["in_flight"] > 1, row
        # Triton before 3.9 leaves the first-level cache out of copies of 16 bytes.
        if _TRITON >= (3, 9):
            assert (row["cached_copies"] > 0) == row["key"].startswith("grouped"), row
        assert row["shared_bytes"] <= HOPPER_SHARED, row


def test_older_and_smaller_gpus_have_the_room(tmp_path: Path) -> None:
    for row in _compile(tmp_path, "--capability", "80", "--dtype", "float16"):
        assert row["products"] == ["mma m16n8k16"], row
        assert row["shared_bytes"] <= SMALLEST_SHARED, row


def test_int8_has_the_tensor_cores_of_hopper(tmp_path: Path) -> None:
    for row in _compile(tmp_path, "--dtype", "int8"):
        assert row["stack_bytes"] == 0, row
        assert row["products"], row
        assert all(name.startswith("wgmma") for name in row["products"]), row
        assert row["in_flight"] > 1, row


def test_float32_compiles(tmp_path: Path) -> None:
    rows = _compile(tmp_path, "--dtype", "float32")
    assert {row["key"].split()[0] for row in rows} == {"pointwise", "grouped3x3"}
    assert not any(row["products"] for row in rows), "exact products are not the tensor cores'"


def test_the_prediction_is_the_roofline_of_the_blocks() -> None:
    done = _run("gpu_kernels.py", "--predict")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "H200, computed: 790 TFLOP/s, 4.30 TB/s"
    apart, fused = (int(line.split(" at least ")[1].split()[0]) for line in lines[-2:])
    assert 3500 < apart < 4600  # of 256 / 55,100 s, the stem, the pool and the head left out
    assert fused < apart


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is not None and __import__("torch").cuda.is_available(),
    reason="there is a GPU",
)
def test_without_a_gpu_nothing_is_timed() -> None:
    done = _run("gpu_kernels.py")
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr.startswith("nothing to time: torch finds no GPU")
    assert done.stderr.count("\n") == 1
