"""`training.dist`: processes that do together what one does."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import torch
from runs import end_of, finish, launch, make, one_thread  # noqa: F401
from torch import distributed, nn

from resnext.errors import ConfigError, TrainingError
from resnext.training import dist
from resnext.zoo import create_model

pytestmark = pytest.mark.torch


def test_without_torchrun_there_is_one_process() -> None:
    with dist.joined("cpu") as processes:
        assert (processes.rank, processes.world_size, processes.is_first) == (0, 1, True)
        assert processes.sum(torch.tensor(3.0)) == processes.mean(torch.tensor(3.0)) == 3
        assert processes.gather("a") == ["a"]
        assert processes.any(True, False) == [True, False]
        assert processes.agree(object())
        processes.wait()
    model = nn.Linear(2, 2)
    assert dist.wrap(model, processes) is model


def test_devices_of_one_kind_have_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU like {device.type}")
    assert dist.kind_of(torch.device("cpu")) == "cpu"
    assert dist.kind_of(torch.device("cuda", 3)) == "a GPU like cuda"


def test_an_error_of_one_process_stays_what_it_is() -> None:
    alone = dist.Processes()
    for error in (RuntimeError("gloo: lost"), ValueError("other"), ConfigError("wrong")):
        with pytest.raises(type(error)) as caught, dist.naming_lost_processes(alone):
            raise error
        assert caught.value is error
    two = dist.Processes(world_size=2)
    with pytest.raises(RuntimeError, match="^shape") as caught, dist.naming_lost_processes(two):
        raise RuntimeError("shape mismatch")
    assert not isinstance(caught.value, TrainingError)


def test_synchronizing_keeps_a_network_what_it_was() -> None:
    model = create_model("skresnext50_1x1d", num_classes=3)
    for buffer in model.buffers():
        buffer += 1
    inputs = torch.randn(2, 3, 32, 32)
    before, names = model.eval()(inputs), list(model.state_dict())
    norms = sum(type(module) is nn.BatchNorm2d for module in model.modules())
    dist.synchronize_batch_norm(model)
    assert sum(isinstance(m, dist.SyncedBatchNorm) for m in model.modules()) == norms > 50
    assert list(model.state_dict()) == names
    assert torch.equal(model.eval()(inputs), before)


def _check_collectives(folder: Path) -> None:
    with dist.joined("cpu", timeout=20) as processes:
        rank = processes.rank
        assert processes.world_size == 2
        assert processes.is_first == (rank == 0)
        assert processes.sum(torch.tensor([1.0, rank])).tolist() == [2, 1]
        assert processes.mean(torch.tensor([1.0, rank])).tolist() == [1, 0.5]
        assert processes.any(False, rank == 1) == [False, True]
        assert processes.gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
        assert processes.agree("same")
        assert not processes.agree(rank)
        _check_statistics(processes)
        _check_synced(processes, 0.0)
        _check_synced(processes, 300.0)  # where the square of the mean drowns the variance


def _check_statistics(processes: dist.Processes) -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), dist.SyncedBatchNorm(2), nn.BatchNorm2d(2).eval())
    for norm in model:
        norm.running_mean.fill_(float(processes.rank))
        norm.running_var.fill_(processes.rank + 1.0)
    dist.average_statistics(model, processes)
    assert model[0].running_mean.tolist() == [0.5, 0.5]
    assert model[0].running_var.tolist() == [1.5, 1.5]
    for left_alone in model[1:]:
        assert left_alone.running_mean.tolist() == [processes.rank] * 2


def _check_synced(processes: dist.Processes, shift: float) -> None:
    """Compare with torch's own on the whole batch: outputs, gradients, statistics."""
    generator = torch.Generator().manual_seed(0)
    whole = nn.BatchNorm2d(4)
    whole.weight.data.uniform_(0.5, 2, generator=generator)
    whole.running_mean.fill_(shift)
    synced = dist.SyncedBatchNorm(4)
    synced.load_state_dict(whole.state_dict())
    pixels = torch.randn(6, 4, 3, 3, generator=generator) + shift
    weights = torch.randn(6, 4, 3, 3, generator=generator)
    own = slice(processes.rank, None, 2)

    inputs, share = pixels.clone().requires_grad_(), pixels[own].clone().requires_grad_()
    outputs, result = whole(inputs), synced(share)
    (outputs * weights).sum().backward()
    (result * weights[own]).sum().backward()
    for parameter in synced.parameters():
        processes.sum(parameter.grad)
    pairs = [
        (outputs[own], result),
        (inputs.grad[own], share.grad),
        (whole.weight.grad, synced.weight.grad),
        (whole.bias.grad, synced.bias.grad),
        (whole.running_mean, synced.running_mean),
        (whole.running_var, synced.running_var),
    ]
    for expected, found in pairs:
        # Pixels around 300 are themselves off by 2e-5.
        tolerance = 2e-4 if shift else 2e-6
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert whole.num_batches_tracked == synced.num_batches_tracked


def test_two_processes_add_and_normalize_as_one(tmp_path: Path) -> None:
    assert finish(_check_collectives, tmp_path, ranks=2) == ["done", "done"]


def _wait_for_the_other(folder: Path, harm: str, seconds: float) -> None:
    with dist.joined("cpu", timeout=seconds) as processes:
        processes.wait()
        if processes.rank == 1 and harm == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if processes.rank == 1 and harm == "hung":
            time.sleep(60)
        with dist.naming_lost_processes(processes):
            processes.sum(torch.zeros(1))


@pytest.mark.parametrize(("harm", "seconds"), [("killed", 60.0), ("hung", 2.0)])
def test_a_lost_process_is_named_in_time(tmp_path: Path, harm: str, seconds: float) -> None:
    began = time.monotonic()
    waiting, lost = launch(_wait_for_the_other, tmp_path, harm, seconds, ranks=2)
    waiting.join(60)
    lost.kill()
    lost.join()
    assert time.monotonic() - began < 30
    end = end_of(tmp_path, 0)
    assert end.startswith("TrainingError: process 0 lost another of the 2 processes, which"), end
    assert "the same command goes on from the last checkpoint" in end


def test_the_timeout_is_handed_on(monkeypatch: Any) -> None:
    asked = {}
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(distributed, "init_process_group", lambda *a, **k: asked.update(k))
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 1)
    with dist.joined("cpu", timeout=7):
        assert asked["timeout"] == timedelta(seconds=7)


def _join_nobody(folder: Path) -> None:
    os.environ |= {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    with dist.joined("cpu", timeout=1):
        pass


def test_processes_that_are_not_there_are_named(tmp_path: Path) -> None:
    (end,) = finish(_join_nobody, tmp_path)
    process = "TrainingError: process 1 cannot reach the others: "
    assert end.startswith(process), end


@pytest.mark.parametrize("device", ["gpu", "cuda:1", "mps"])
def test_an_unknown_device_is_named(device: str) -> None:
    with pytest.raises(ConfigError, match=f"the device is '{device}'; expected cpu or cuda"):
        dist.joined(device).__enter__()


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not dist.has_cuda()
    with pytest.raises(ConfigError, match="the device is cuda, and torch finds none here"):
        dist.joined("cuda").__enter__()
