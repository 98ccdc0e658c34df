"""The cache of the fastest configurations: only time is lost when it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
here = pytest.importorskip("kernels_here")

from resnext.errors import EngineError  # noqa: E402

tuning = here.load("resnext.kernels.tuning")
pytestmark = pytest.mark.torch

SLOW, FAST, OTHER = ({"BLOCK_M": size, "num_warps": 4} for size in (16, 32, 64))
SECONDS = {16: 3.0, 32: 1.0, 64: 2.0}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pretend that there is a GPU; list what is measured on it."""
    found: list[int] = []

    def seconds(start: Any, config: dict[str, int]) -> float:
        found.append(config["BLOCK_M"])
        return SECONDS[config["BLOCK_M"]]

    monkeypatch.setattr(tuning, "seconds", seconds)
    monkeypatch.setattr(tuning, "_known", {})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Test")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return found


def _choose(key: str = "one", configs: tuple[dict[str, int], ...] = (SLOW, FAST, OTHER)) -> Any:
    return tuning.choose(key, configs, lambda _: None, device=torch.device("cpu"))


def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be another process."""
    monkeypatch.setattr(tuning, "_known", {})


def _file() -> Path:
    return Path(tuning.cache_home()) / tuning.NAME


def test_the_fastest_is_measured_once(measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _choose() == FAST
    assert _choose() == FAST
    _forget(monkeypatch)
    assert _choose() == FAST
    assert measured == [16, 32, 64]


def test_each_call_gpu_and_version_has_its_own(
    measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _choose()
    _choose("another")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Other")
    _forget(monkeypatch)
    _choose()
    monkeypatch.setattr(torch, "__version__", "99.0")
    _forget(monkeypatch)
    _choose()
    assert len(measured) == 4 * 3
    tables = json.loads(_file().read_bytes())
    assert [len(table) for table in tables.values()] == [2, 1, 1]
    assert list(tables)[0].startswith("NVIDIA Test, torch ")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"x": 1}', b"\xff\xfe", b"null"],
    ids=["empty", "cut", "list", "no table", "binary", "null"],
)
def test_a_damaged_cache_is_measured_again_and_mended(
    measured: list[int], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    _choose()
    _file().write_bytes(content)
    _forget(monkeypatch)
    assert _choose() == FAST
    _forget(monkeypatch)
    assert _choose() == FAST
    assert measured == [16, 32, 64] * 2


@pytest.mark.parametrize("entry", [None, 7, [], {}, {"BLOCK_M": 1 << 40, "num_warps": 4}])
def test_a_config_that_is_none_of_ours_is_not_used(
    measured: list[int], monkeypatch: pytest.MonkeyPatch, entry: object
) -> None:
    _choose()
    tables = json.loads(_file().read_bytes())
    for table in tables.values():
        table["one"] = entry
    _file().write_text(json.dumps(tables))
    _forget(monkeypatch)
    assert _choose() == FAST


def test_an_unwritable_cache_costs_only_time(
    measured: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RESNEXT_HOME", str(tmp_path / "file" / "resnext"))
    assert _choose() == FAST
    assert _choose() == FAST
    assert measured == [16, 32, 64]


def test_what_others_wrote_is_kept(measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    _choose("one")
    _forget(monkeypatch)
    _choose("two")
    (table,) = json.loads(_file().read_bytes()).values()
    assert table == {"one": FAST, "two": FAST}


def test_nothing_is_measured_while_a_graph_is_captured(
    measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert _choose() == SLOW
    assert not measured
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert _choose() == FAST
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert _choose() == FAST


def test_what_a_smaller_gpu_cannot_run_is_left_out() -> None:
    def measure(config: dict[str, int]) -> float:
        if config is FAST:
            raise tuning.OutOfResources(300_000, 101_376, "shared memory")
        return SECONDS[config["BLOCK_M"]]

    assert tuning.fastest([SLOW, FAST, OTHER], measure, key="one") == OTHER
    with pytest.raises(EngineError, match="no configuration of the kernel for one runs here"):
        tuning.fastest([FAST], measure, key="one")


@pytest.mark.gpu
def test_a_choice_is_measured_on_this_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    here.skip_without_memory(gigabytes=1)
    pointwise = here.load("resnext.kernels.pointwise").pointwise
    _forget(monkeypatch)
    x, weight, bias = here.random(2, 56, 56, 64), here.random(128, 64), here.random(128)
    first = pointwise(x, weight, bias)
    (table,) = json.loads(_file().read_bytes()).values()
    assert len(table) == 1
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        second = pointwise(x, weight, bias)
    graph.replay()
    torch.testing.assert_close(second, first)
