"""`resnext benchmark`: turns, rows, and contenders that do not run."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnext import arch, testing, weights
from resnext.cli import app
from resnext.deploy import benchmark, roofline
from resnext.errors import ConfigError, EngineError
from resnext.weights import LocalModel

Captured = pytest.CaptureFixture[str]
QUICK: dict[str, Any] = {"batch_sizes": (1, 3), "rounds": 2, "seconds": 0.02}


@pytest.fixture(autouse=True, scope="module")
def _peaks_in_no_time() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofline, "_SECONDS", 0.02)
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture(scope="module")
def tiny(path: Path) -> LocalModel:
    return weights.locate(path)


@pytest.fixture(scope="module")
def report(tiny: LocalModel) -> benchmark.Report:
    return benchmark.benchmark(tiny, [("openvino", "fp32"), ("onnxruntime", "bf16")], **QUICK)


def test_a_row_adds_up(report: benchmark.Report) -> None:
    rows = [row for row in report.rows if row.engine == "openvino"]
    assert [row.batch_size for row in rows] == [1, 3]
    for row in rows:
        assert row.images_per_s is not None
        assert row.low <= row.images_per_s <= row.high
        assert 0 < row.p50_ms <= row.p99_ms
        # The rate is that of the calls: their mean is near the median call, not far from it.
        assert row.images_per_s < 20 * row.batch_size * 1000 / row.p50_ms
        assert 0 < row.startup_s < 60
        assert 20 < row.memory_mb < 20_000
        assert row.peak_share is not None and 0 < row.peak_share < 10
        assert (row.gpu, row.roof_share) == ("", None)
    assert report.best in rows


def test_a_report_says_how_to_measure_again(report: benchmark.Report, tiny: LocalModel) -> None:
    asked = report.asked
    assert asked == {
        "engines": ["openvino", "onnxruntime"], "against": [], "precisions": ["fp32", "bf16"],
        "batches": [1, 3], "rounds": 2, "seconds": 0.02, "threads": None,
    }  # fmt: skip
    assert report.sha256 == tiny.sha256
    moment = datetime.datetime.fromisoformat(report.date)
    now = datetime.datetime.now(datetime.UTC)
    assert moment.microsecond == 0 and 0 <= (now - moment).total_seconds() < 3600
    assert report.software["resnext"]


def test_each_number_of_threads_is_a_contender_with_a_peak_of_its_own(
    tiny: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "peak_macs", lambda _precision, *, threads: 1e9 * threads)
    pairs = [("openvino", "fp32"), ("plain-openvino", "auto")]
    found = benchmark.benchmark(tiny, pairs, **QUICK | {"threads": [1, 2], "batch_sizes": [3]})
    assert [(row.engine, row.threads) for row in found.rows] == [
        ("openvino", 1), ("openvino", 2), ("plain-openvino", None),
    ]  # fmt: skip
    assert found.peaks == {"fp32": {"1": 1e9, "2": 2e9}} and found.asked["threads"] == [1, 2]
    macs = arch.num_macs(tiny.document.architecture, found.input_size)
    for row in found.rows[:2]:
        assert row.images_per_s is not None and row.threads is not None
        assert row.peak_share == pytest.approx(row.images_per_s * macs / (1e9 * row.threads))
    assert found.rows[2].peak_share is None
    assert benchmark.header(found)[:4] == ("engine", "precision", "threads", "batch")
    assert [row[2:4] for row in benchmark.table(found)] == [("1", "3"), ("2", "3"), ("auto", "3")]
    assert [row["threads"] for row in json.loads(json.dumps(found.to_json()))["rows"]] == [
        1, 2, None,
    ]  # fmt: skip
    axes, plots = (
        pytest.importorskip(name) for name in ("matplotlib.axes", "resnext.deploy.plots")
    )
    named: list[list[str]] = []
    monkeypatch.setattr(axes.Axes, "set_yticks", lambda _self, _at, names, **_: named.append(names))
    plots.draw(found, tmp_path / "a.png")
    assert named == [[
        "plain-openvino, auto, batch 3", "openvino, fp32, batch 3, 2 threads",
        "openvino, fp32, batch 3, 1 thread",
    ]]  # fmt: skip


def test_one_number_of_threads_needs_no_column(report: benchmark.Report) -> None:
    assert {row.threads for row in report.rows} == {None}
    assert list(report.peaks["fp32"]) == ["auto"]
    one = replace(report, rows=tuple(replace(row, threads=2) for row in report.rows))
    for each in (report, one):
        assert benchmark.header(each) == benchmark.HEADER
        assert {len(row) for row in benchmark.table(each)} == {len(benchmark.HEADER)}


def test_what_was_asked_for_gives_the_same_contenders() -> None:
    pairs = benchmark.choose(["torch"], ["plain-openvino", "timm"], ["fp32"])
    words = benchmark._words(pairs)
    assert words == {"engines": ["torch"], "against": ["plain-openvino", "timm"],
                     "precisions": ["fp32"]}  # fmt: skip
    assert benchmark.choose(*words.values()) == pairs


def test_what_does_not_run_says_why(report: benchmark.Report) -> None:
    [row] = [row for row in report.rows if row.engine == "onnxruntime"]
    assert row.images_per_s is None
    assert "precision" in row.reason or "not installed" in row.reason
    assert {shown[0] for shown in benchmark.table(report)} == {"openvino"}


def test_a_gpu_has_peaks_of_its_own(tiny: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender that says it ran on a GPU is judged by what that one can do."""
    hear = benchmark._Contender._hear

    def on_a_gpu(self: Any) -> dict[str, Any]:
        return {**hear(self), "gpu": "NVIDIA Test", "gpu_memory": 7.0}

    asked: list[Any] = []

    class Module:
        @staticmethod
        def measure(precisions: Any) -> dict[str, Any]:
            asked.append(list(precisions))
            return {"name": "NVIDIA Test", "peaks": {"fp32": 1e12}, "bandwidth": 1e12}

    monkeypatch.setattr(benchmark._Contender, "_hear", on_a_gpu)
    monkeypatch.setattr(benchmark, "import_extra", lambda *_args, **_options: Module)
    found = benchmark.benchmark(tiny, [("openvino", "fp32")], **QUICK)
    assert (asked, found.peaks, found.gpu["name"]) == ([["fp32"]], {}, "NVIDIA Test")
    for row in found.rows:
        assert (row.gpu, row.gpu_memory_mb) == ("NVIDIA Test", 7.0)
        assert row.peak_share is not None and row.roof_share is not None
        # Bytes only make the roof lower.
        assert 0 < row.peak_share <= row.roof_share < 1
    json.dumps(found.to_json())


def test_ratios_are_to_the_fastest(report: benchmark.Report) -> None:
    ratios = [float(row[-1]) for row in benchmark.table(report)]
    assert max(ratios) == 1.0
    json.dumps(report.to_json())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((["openvin"], [], []), "'openvin' is unknown"),
        (([], ["tensorflow"], []), "'tensorflow' is unknown"),
        (([], [], ["int3"]), "'int3' is unknown"),
    ],
)
def test_unknown_names_are_said(given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        benchmark.choose(*given)


def test_pairs_are_those_that_exist() -> None:
    assert ("onnxruntime", "bf16") not in benchmark.choose()
    assert not {name for name, _ in benchmark.choose()} & {"torch:triton", "torch:compile"}
    assert benchmark.choose(["torch:triton", "torch"], [], ["fp16", "tf32"]) == [
        ("torch:triton", "tf32"),
        ("torch:triton", "fp16"),
        ("torch", "tf32"),
        ("torch", "fp16"),
    ]
    own_choice = ("plain-openvino", "auto")
    assert own_choice in benchmark.choose(["openvino"], ["plain-openvino"], ["bf16"])
    assert benchmark.choose(["openvino"], ["timm"], ["bf16"]) == [
        ("openvino", "bf16"),
        ("timm", "bf16"),
    ]


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(ConfigError, match="none of openvino computes in fp16") as raised:
        benchmark.choose(["openvino"], [], ["fp16"])
    assert "openvino has fp32, bf16, int8" in raised.value.hint


def test_a_contender_that_dies_is_an_error(
    tiny: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = benchmark._Contender.take_turn

    def killed(self: Any, batch_size: int, seconds: float) -> None:
        self.process.kill()
        self.process.wait()
        take(self, batch_size, seconds)

    monkeypatch.setattr(benchmark._Contender, "take_turn", killed)
    with pytest.raises(EngineError, match="its process ended with -9"):
        benchmark.benchmark(tiny, [("openvino", "fp32")], **QUICK)


def test_a_hint_is_said_once_behind_the_rows_it_is_for() -> None:
    missing = {"reason": "timm is not installed", "hint": "pip install timm", "batch_size": 1}
    rows = (
        benchmark.Row(engine="timm", precision="fp32", **missing),
        benchmark.Row(engine="openvino", precision="fp32", batch_size=1, images_per_s=3.0),
        benchmark.Row(engine="torch", precision="bf16", batch_size=1, reason="it is off"),
        benchmark.Row(engine="timm", precision="bf16", threads=1, **missing),
        benchmark.Row(engine="timm", precision="bf16", threads=2, **missing),
    )
    report = benchmark.Report(
        model="m", architecture="a", input_size=32, rounds=1, rows=rows, peaks={}
    )
    assert benchmark.notes(report) == [
        "note: timm (fp32) did not run: timm is not installed",
        "note: timm (bf16) did not run: timm is not installed",
        "hint: pip install timm",
        "note: torch (bf16) did not run: it is off",
    ]


def test_where_nothing_ran_the_exit_code_says_so(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    refused = {"error": "it is not there", "hint": "get it"}
    monkeypatch.setattr(benchmark._Contender, "_hear", lambda _self: refused)
    out = tmp_path / "a.json"
    arguments = ["benchmark", str(path), "--engine", "openvino", "--precision", "fp32"]
    assert app.run([*arguments, "-o", str(out)]) == 5
    captured = capsys.readouterr()
    assert (captured.out, out.exists()) == ("", False)
    assert captured.err.splitlines() == [
        "note: openvino (fp32) did not run: it is not there",
        "hint: get it",
        "error: nothing ran",
    ]
    assert app.run([*arguments, "--json"]) == 5
    [row] = json.loads(capsys.readouterr().out)["rows"]
    assert (row["reason"], row["hint"]) == ("it is not there", "get it")


def test_the_command_prints_a_table_and_writes_files(
    path: Path, tmp_path: Path, capsys: Captured
) -> None:
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "a.json", tmp_path / "a.png"
    arguments = ["benchmark", str(path), "--engines", "openvino", "--precisions", "fp32"]
    arguments += ["--rounds", "1", "--seconds", "0.02", "--batches", "2"]
    assert app.run([*arguments, "-o", str(out), "--plot", str(plot)]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"written: {out}\nwritten: {plot}\n"
    header, row = captured.out.splitlines()
    assert header.split()[:3] == ["engine", "precision", "batch"]
    assert row.split()[:3] == ["openvino", "fp32", "2"]
    found = json.loads(out.read_text())
    assert math.isclose(found["rows"][0]["images_per_s"], float(row.split()[3]), abs_tol=0.06)
    assert found["asked"]["seconds"] == 0.02 and found["date"].endswith("+00:00")
    assert plot.read_bytes().startswith(b"\x89PNG")
    singular = ["benchmark", str(path), "--engine", "openvino", "--precision", "fp32"]
    assert app.run([*singular, *arguments[6:], "--json"]) == 0  # as other commands spell them
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 1
    assert app.run(["benchmark", str(path), "--batches", "0"]) == 2
    assert "--batches is '0'" in capsys.readouterr().err
    for wrong in ("0", "two", ""):
        assert app.run(["benchmark", str(path), "--threads", wrong]) == 2
        assert f"--threads is '{wrong}'" in capsys.readouterr().err
    assert app.run(["benchmark", str(path), "--plot", "p.txt"]) == 2
    assert "--plot is 'p.txt'; expected a name that ends in .png" in capsys.readouterr().err
