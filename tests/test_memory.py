"""`training.memory`: what does not fit is named, with what helps."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import torch
from runs import config

from resnext.errors import ConfigError, OutOfMemoryError
from resnext.training import memory

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_does_not_suffice_is_named(error: RuntimeError) -> None:
    with (
        pytest.raises(OutOfMemoryError, match="^memory does not suffice: ") as caught,
        memory.naming_short_memory(config("optim.grad_accum_steps=4")),
    ):
        raise error
    assert "more" not in caught.value.message
    assert "--set optim.grad_accum_steps=8" in caught.value.hint
    assert caught.value.exit_code == 5
    assert caught.value.__cause__ is error


def test_a_real_allocation_that_fails_is_named() -> None:
    with pytest.raises(OutOfMemoryError), memory.naming_short_memory(config()):
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize("error", [RuntimeError("shape"), ConfigError("out of memory"), OSError()])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory.naming_short_memory(config()):
        raise error
    assert caught.value is error


def test_what_does_not_fit_is_refused_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda: 10_000_000_000)
    memory.check_room(9e9, "it", hint="less")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(OutOfMemoryError, match=r"it would take 72\.0 GB of memory; 10\.0 GB are"):
        memory.check_room(9e9, "it", hint="less")
    monkeypatch.setattr(memory, "free", lambda: None)
    memory.check_room(9e18, "it", hint="where no one says, it is tried")


def test_what_is_free_is_the_least_of_machine_and_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_LIMIT", tmp_path)
    assert memory.free() is None
    (tmp_path / "meminfo").write_text("MemTotal:  900 kB\nMemAvailable:   700 kB\n")
    assert memory.free() == 700 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\nslab 5\n")
    assert memory.free() == 700 * 1024
    (tmp_path / "memory.max").write_text("500000\n")
    assert memory.free() == 300_000
