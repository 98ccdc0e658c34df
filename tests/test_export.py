"""Models for other programs: written whole, checked, or not at all."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnext import modelfile, preprocess, testing, weights
from resnext.cli import app
from resnext.deploy import export as exporting
from resnext.deploy import golden, recheck
from resnext.engines import openvino
from resnext.errors import ConfigError, OutputError
from resnext.quantization import Quantization
from resnext.weights import LocalModel

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture(scope="module")
def tiny(path: Path) -> LocalModel:
    return weights.locate(path)


def prepared(local: LocalModel) -> Any:
    image = golden.scene(90, 70)
    return preprocess.apply(image, local.document.preprocess)[None]


@pytest.mark.parametrize(
    ("name", "files"),
    [("a.onnx", {"a.onnx"}), ("a.xml", {"a.xml", "a.bin"}), ("a.safetensors", {"a.safetensors"})],
)
def test_what_is_written_is_told(
    name: str, files: set[str], tiny: LocalModel, tmp_path: Path
) -> None:
    done = exporting.export(tiny, tmp_path / name)
    assert {path.name for path in done.paths} == files
    assert {path.name for path in tmp_path.iterdir()} == files
    assert done.paths[0].name == name
    assert done.difference <= 1e-4
    assert done.num_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_openvino_s_own_file_answers_and_says_what_it_is(tiny: LocalModel, tmp_path: Path) -> None:
    exporting.export(tiny, tmp_path / "a.xml", top_k=1)
    run = openvino.open_graph(tmp_path / "a.xml")
    [logits, classes] = run({"image": prepared(tiny)}, ["logits", "classes"])
    assert classes.tolist() == [[int(logits.argmax())]]
    model = openvino.read_graph(tmp_path / "a.xml")
    names = json.loads(model.get_rt_info(["resnext", "class_names"]).astype(str))
    assert names == list(tiny.document.labels.class_names)


def test_what_will_not_do_is_said_before_the_work(tiny: LocalModel, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"precious")
    with pytest.raises(ConfigError, match="is there already"):
        exporting.export(tiny, tmp_path / "a.onnx")
    with pytest.raises(OutputError, match="there is no folder"):
        exporting.export(tiny, tmp_path / "absent" / "a.onnx")
    with pytest.raises(ConfigError, match="no filter that is Pillow's"):
        exporting.export(tiny, tmp_path / "a.xml", input="picture")


@pytest.mark.parametrize(
    ("name", "format", "said"),
    [
        ("a.bin", None, "does not say what it is"),
        ("a.onnx", "openvino", "is no name for openvino"),
        ("a.onnx", "onx", "format is 'onx'"),
    ],
)
def test_names_and_formats_that_do_not_fit(name: str, format: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        exporting.format_of(Path(name), format)


def test_the_command_says_what_it_found(path: Path, tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "a.onnx"
    assert app.run(["export", str(path), "-o", str(target)]) == 0
    shown = capsys.readouterr().out
    assert f"{target}: " in shown and "logits off by" in shown
    assert app.run(["export", str(path), "-o", str(target), "--json", "--force"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["compared_with"] == "openvino"
    assert facts["batches"] == list(recheck.BATCHES) and facts["files"] == [str(target)]
    assert app.run(["export", str(path), "-o", str(target)]) == 2
    assert "--force replaces it" in capsys.readouterr().err


def test_without_onnxruntime_the_command_claims_no_more_than_was_checked(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.delitem(sys.modules, "resnext.engines.ort", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert app.run(["export", str(path), "-o", str(tmp_path / "a.onnx")]) == 0
    captured = capsys.readouterr()
    assert "onnx, run by openvino, logits off by" in captured.out
    assert captured.out.endswith("of the largest, compared with openvino\n")
    assert captured.err.startswith("note: onnxruntime is not installed, so openvino ran the file")
    assert "not checked; pip install 'resnext[ort]'" in captured.err
    assert app.run(["export", str(path), "-o", str(tmp_path / "a.xml")]) == 0
    assert not capsys.readouterr().err, "OpenVINO is what an .xml is for"


def test_with_onnxruntime_there_is_nothing_to_add(
    path: Path, tmp_path: Path, capsys: Captured
) -> None:
    pytest.importorskip("onnxruntime")
    assert app.run(["export", str(path), "-o", str(tmp_path / "a.onnx")]) == 0
    captured = capsys.readouterr()
    assert "onnx, run by onnxruntime, logits off by" in captured.out and not captured.err


def test_of_a_quantized_model_the_float_weights_are_exported_and_a_note_says_so(
    path: Path, tmp_path: Path, capsys: Captured
) -> None:
    document, tensors = modelfile.read(path)
    eight = tmp_path / "eight.safetensors"
    ranges = {"layer1.0.conv1.relu": (0.0, 5.5)}
    modelfile.write(eight, replace(document, quantization=Quantization(ranges=ranges)), tensors)
    assert app.run(["export", str(eight), "-o", str(tmp_path / "a.xml"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["left_eight_bits"] is True
    assert captured.err.startswith("note: the model was quantized; what is written has its weights")
