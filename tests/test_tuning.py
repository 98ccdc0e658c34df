"""What was fastest here: kept, found again, forgotten when something changes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from resnext import cores, testing, weights
from resnext.cli import app
from resnext.deploy import benchmark, roofline
from resnext.engines import select, tuning
from resnext.errors import ConfigError, EngineError
from resnext.weights import LocalModel

CHOICE = tuning.Choice(
    engine="openvino", precision="fp32", batch_size=3, images_per_s=9.5, gpu=False
)
REPORT = benchmark.Report(
    model="tiny", architecture="x", input_size=32, rounds=1, rows=(), peaks={}
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return weights.locate(
        testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")
    )


def test_what_is_kept_is_found_and_taken(tiny: LocalModel) -> None:
    assert tuning.find(tiny) is None
    path = tuning.remember(tiny, [CHOICE])
    assert tuning.find(tiny) == CHOICE
    with select.load(tiny) as engine:
        assert (engine.name, engine.precision, engine.best_batch_size) == ("openvino", "fp32", 3)
    with select.load(tiny, threads=1) as engine:
        assert engine.best_batch_size != 3
    # Others are kept beside it.
    other = replace(tiny, sha256="0" * 64)
    tuning.remember(other, [replace(CHOICE, batch_size=5)])
    assert (tuning.find(tiny), len(json.loads(path.read_text()))) == (CHOICE, 2)


def _threads_of(engine: Any) -> int:
    """Return what the runtime itself says."""
    network = engine._request.get_compiled_model()
    return int(network.get_property("INFERENCE_NUM_THREADS"))


def test_the_number_of_threads_is_kept_too(
    tiny: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "available", lambda: 2)
    rows = [
        benchmark.Row(engine="openvino", precision="fp32", batch_size=3, threads=number,
                      images_per_s=rate)
        for number, rate in ((1, 9.0), (2, 8.0))
    ]  # fmt: skip
    benchmark.remember(tiny, replace(REPORT, rows=tuple(rows)))
    found = tuning.find(tiny)
    assert found is not None and found.threads == 1
    with select.load(tiny) as engine:
        assert (engine.threads, _threads_of(engine), engine.best_batch_size) == (1, 1, 3)
    with select.load(tiny, threads=2) as engine:  # as asked for
        assert (engine.threads, _threads_of(engine)) == (2, 2)
    with select.load(tiny, engine="openvino") as engine:
        assert engine.threads is None
    monkeypatch.setattr(cores, "available", lambda: 1)
    assert tuning.find(tiny) is None  # measured where there were more


def test_a_record_without_threads_is_read(tiny: LocalModel) -> None:
    path = tuning.remember(tiny, [CHOICE])
    [(key, entry)] = json.loads(path.read_text()).items()
    assert entry["fp32"].pop("threads") is None
    path.write_text(json.dumps({key: entry}))
    assert tuning.find(tiny) == CHOICE


def test_of_a_gpu_no_number_of_threads_is_kept(tiny: LocalModel) -> None:
    row = benchmark.Row(engine="torch", precision="fp16", batch_size=8, threads=1, gpu="H",
                        images_per_s=9.0)  # fmt: skip
    benchmark.remember(tiny, replace(REPORT, rows=(row,)))
    found = tuning.find(tiny)
    assert found is not None and (found.engine, found.threads) == ("torch", None)


def test_a_precision_has_its_own(tiny: LocalModel) -> None:
    choices = {"fp32": replace(CHOICE, batch_size=5), "bf16": CHOICE}
    path = tuning.remember(tiny, [CHOICE])
    [key] = json.loads(path.read_text())
    entry = {precision: asdict(choice) for precision, choice in choices.items()}
    path.write_text(json.dumps({key: entry}))
    with select.load(tiny, precision="fp32") as engine:
        assert (engine.precision, engine.best_batch_size) == ("fp32", 5)
    assert tuning.find(tiny, "int8") is None  # not measured
    assert tuning.find(tiny, "bf16") is None  # which is not what the record says of it
    with select.load(tiny, engine="openvino", precision="fp32") as engine:
        assert engine.best_batch_size != 5


def test_a_precision_that_is_not_measured_again_stays(tiny: LocalModel) -> None:
    def measure(**rates: float) -> None:
        rows = [
            benchmark.Row(engine="openvino", precision=name, batch_size=8, images_per_s=rate)
            for name, rate in rates.items()
        ]
        benchmark.remember(tiny, replace(REPORT, rows=tuple(rows)))

    def found(precision: str) -> tuple[str, float]:
        choice = tuning.find(tiny, precision)
        assert choice is not None
        return choice.precision, choice.images_per_s

    measure(bf16=30.0, int8=40.0)
    measure(fp32=9.0)
    assert found("auto") == found("int8") == ("int8", 40.0)
    assert (found("bf16"), found("fp32")) == (("bf16", 30.0), ("fp32", 9.0))
    measure(int8=3.0)  # anew, and slower
    assert (found("auto"), found("int8")) == (("bf16", 30.0), ("int8", 3.0))


def test_another_version_begins_anew(tiny: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning.remember(tiny, [CHOICE])
    monkeypatch.setattr(tuning, "versions", lambda *_: {"openvino": "2099.1"})
    assert tuning.find(tiny) is None


def test_another_gpu_begins_anew(tiny: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "gpus", lambda: ["NVIDIA Test"])
    tuning.remember(tiny, [CHOICE])
    assert tuning.find(tiny) == CHOICE
    monkeypatch.setattr(tuning, "gpus", list)
    assert tuning.find(tiny) is None


@pytest.mark.torch
def test_a_backend_can_be_remembered(tiny: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = replace(CHOICE, engine="torch:cudnn", precision="fp16")
    tuning.remember(tiny, [choice])
    with select.load(tiny) as engine:
        assert (engine.name, engine.precision, engine.best_batch_size) == ("torch", "fp16", 3)


@pytest.mark.parametrize(
    "damage",
    [
        "no json",
        "[]",
        {"engine": "abacus"},
        {"batch_size": 0},
        {"batch_size": "8"},
        {"precision": "int2"},
        {"gpu": "yes"},
        {"more": 1},
        {"images_per_s": "fast"},
        {"threads": 0},
        {"threads": 1_000_000},
        {"threads": "1"},
        {"threads": True},
    ],
)
def test_what_is_damaged_counts_as_absent(damage: Any, tiny: LocalModel) -> None:
    path = tuning.remember(tiny, [CHOICE])
    if isinstance(damage, str):
        path.write_text(damage)
    else:
        [(key, entry)] = json.loads(path.read_text()).items()
        path.write_text(json.dumps({key: {"fp32": {**entry["fp32"], **damage}}}))
    assert tuning.find(tiny) is None
    with select.load(tiny) as engine:
        assert engine.name == "openvino"


def test_a_runtime_that_is_gone_is_not_asked_for(
    tiny: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning.remember(tiny, [replace(CHOICE, engine="onnxruntime")])
    monkeypatch.setattr(select, "is_installed", lambda _name: False)
    with select.load(tiny) as engine:
        assert engine.name == "openvino" and engine.best_batch_size != 3


@pytest.mark.torch
def test_a_gpu_that_is_hidden_is_not_asked_for(
    tiny: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning.remember(tiny, [replace(CHOICE, engine="torch", precision="tf32", gpu=True)])
    monkeypatch.setattr(select, "has_gpu", lambda: False)
    with select.load(tiny) as engine:
        assert engine.name == "openvino" and engine.best_batch_size != 3


def test_what_takes_minutes_to_start_is_not_kept(tiny: LocalModel) -> None:
    rows = [
        benchmark.Row(engine=name, precision="bf16", batch_size=8, images_per_s=rate, gpu="H")
        for name, rate in (("torch:compile", 9.0), ("torch", 8.0), ("openvino", 1.0))
    ]
    report = replace(REPORT, rows=tuple(rows))
    benchmark.remember(tiny, report)
    found = tuning.find(tiny)
    assert found is not None and (found.engine, found.gpu) == ("torch", True)
    assert found == tuning.find(tiny, "bf16") and tuning.find(tiny, "fp32") is None
    with pytest.raises(EngineError, match="nothing to remember"):
        benchmark.remember(tiny, replace(report, rows=tuple(rows[:1])))


def test_the_command_keeps_the_fastest(
    tiny: LocalModel, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(roofline, "_SECONDS", 0.02)
    arguments = ["benchmark", str(tiny.path), "--engines", "openvino", "--precisions", "fp32"]
    arguments += ["--rounds", "1", "--seconds", "0.02", "--batches", "1,4", "--remember"]
    # One number, which any machine has: what is kept is the fastest of what was measured.
    assert app.run([*arguments, "--threads", "1"]) == 0
    assert "note: kept in" in capsys.readouterr().err
    found = tuning.find(tiny)
    assert found is not None and found.batch_size in (1, 4) and found.engine == "openvino"
    assert found.threads == 1
    assert app.run(arguments) == 0
    found = tuning.find(tiny)
    assert found is not None and found.threads is None


def test_more_threads_than_can_run_are_not_kept(
    tiny: LocalModel, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(cores, "available", lambda: 2)
    assert app.run(["benchmark", str(tiny.path), "--threads", "1,2,3", "--remember"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""  # nothing was timed
    assert "threads 3: expected at most 2 to remember" in captured.err
    row = benchmark.Row(engine="torch", precision="fp32", batch_size=1, images_per_s=9.0, threads=3)
    with pytest.raises(ConfigError, match="threads 3: expected at most 2"):
        benchmark.remember(tiny, replace(REPORT, rows=(row,)))
    assert tuning.find(tiny) is None


def test_nothing_that_ran_is_nothing_to_keep(tiny: LocalModel) -> None:
    row = benchmark.Row(engine="torch", precision="fp32", batch_size=1, reason="not installed")
    with pytest.raises(EngineError, match="nothing to remember"):
        benchmark.remember(tiny, replace(REPORT, rows=(row,)))
