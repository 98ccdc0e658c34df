"""What a GPU can do: measured on the processor here, and on a GPU where there is one."""

from __future__ import annotations

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


@pytest.mark.gpu
def test_a_gpu_is_described_and_measured() -> None:
    found = gpu.measure(["fp32", "bf16"])
    assert found["name"] == torch.cuda.get_device_name()
    assert set(found["peaks"]) == {"fp32", "bf16"}
    assert 1e11 < found["peaks"]["fp32"] < 1e16 and 1e10 < found["bandwidth"] < 1e14
