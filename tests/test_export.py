"""Models for other programs: written whole, checked, or not at all."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from resnext import modelfile, preprocess, testing, weights
from resnext.cli import app
from resnext.deploy import export as exporting
from resnext.deploy import golden, quantize, recheck
from resnext.engines import openvino, select
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


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("pictures")
    return testing.write_pictures(top, classes=("red", "green"), per_class=15)


@pytest.fixture(scope="module")
def eight(tiny: LocalModel, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """Give a model that was quantized."""
    path = tmp_path_factory.mktemp("eight") / "eight.safetensors"
    quantize.quantize(tiny, str(pictures), path, least_agreement=0.0)
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
    assert captured.err.startswith("note: onnxruntime is not installed; so openvino ran the file")
    assert "not checked; pip install 'resnext[ort]'" in captured.err
    assert app.run(["export", str(path), "-o", str(tmp_path / "a.xml")]) == 0
    assert not capsys.readouterr().err, "OpenVINO is what an .xml is for"


def test_an_onnxruntime_that_does_not_import_is_called_that(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('no libcudart')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("resnext.engines.ort", "onnxruntime"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert app.run(["export", str(path), "-o", str(tmp_path / "a.onnx")]) == 0
    note = capsys.readouterr().err
    assert "is installed, but cannot be imported: no libcudart; so openvino ran the file" in note
    assert "not checked; install it anew" in note


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
    assert "--int8 keeps them, in onnx and openvino" in captured.err


def batch(local: LocalModel) -> Any:
    drawn = golden.pictures()[: max(recheck.BATCHES)]
    return (
        np.concatenate([prepared(local)] * len(drawn))
        + np.arange(len(drawn), dtype=np.uint8)[:, None, None, None]
    )


def test_an_onnx_file_in_8_bits_answers_as_the_engine_does(
    eight: LocalModel, tmp_path: Path
) -> None:
    ort: Any = pytest.importorskip("onnxruntime")
    done = exporting.export(eight, tmp_path / "a.onnx", int8=True)
    assert done.precision == "int8" and not done.cautions
    assert done.from_fp32 is not None and 0 < done.from_fp32 < 0.3 and done.difference == 0
    assert (done.checked_with, done.compared_with) == ("onnxruntime", "onnxruntime")
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}
    exporting.export(eight, tmp_path / "float.onnx")
    assert done.num_bytes < 0.4 * (tmp_path / "float.onnx").stat().st_size
    session = ort.InferenceSession(str(tmp_path / "a.onnx"))
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["precision"], facts["source_sha256"]) == ("int8", eight.sha256)
    assert json.loads(facts["quantization"])["rounded"] == "everything"
    with select.load(eight, engine="onnxruntime", precision="int8") as engine:
        expected = engine.run(batch(eight)).logits
    for count in recheck.BATCHES:
        logits, classes = session.run(["logits", "classes"], {"image": batch(eight)[:count]})
        assert np.array_equal(logits, expected[:count])
        assert np.array_equal(classes[:, 0], expected[:count].argmax(axis=1))


@pytest.mark.slow
def test_openvino_s_own_file_in_8_bits_answers_as_the_engine_does(
    eight: LocalModel, tmp_path: Path
) -> None:
    done = exporting.export(eight, tmp_path / "a.xml", int8=True)
    exporting.export(eight, tmp_path / "float.xml")
    assert done.paths[1].stat().st_size < 0.4 * (tmp_path / "float.bin").stat().st_size
    assert "FakeQuantize" in done.paths[0].read_text()
    run = openvino.open_graph(tmp_path / "a.xml", precision="int8")
    with select.load(eight, engine="openvino", precision="int8") as engine:
        expected = engine.run(batch(eight)).logits
    for count in recheck.BATCHES:
        [logits] = run({"image": batch(eight)[:count]}, ["logits"])
        assert np.abs(logits - expected[:count]).max() < 0.05 * np.abs(expected).max()
    facts = openvino.read_graph(tmp_path / "a.xml").get_rt_info(["resnext", "precision"])
    assert facts.astype(str) == "int8"


def test_what_quantizing_cost_is_told_to_programs(tmp_path: Path) -> None:
    cost = quantize.Quantized(
        path=tmp_path,
        rounded="everything",
        values=3,
        agreement=0.99,
        checked=100,
        drop=None,
        labelled=0,
        problems=("a.png: broken",),
    )
    done = exporting.Exported(
        paths=(),
        format="onnx",
        input="prepared",
        difference=0.01,
        levels=None,
        checked_with="onnxruntime",
        precision="int8",
        from_fp32=0.02,
        calibrated=cost,
    )
    found = done.to_json()
    assert (found["precision"], found["difference_from_fp32"]) == ("int8", 0.02)
    assert found["calibration"]["agreement"] == 0.99 and "file" not in found["calibration"]
    assert found["calibration"]["left_out"] == ["a.png: broken"]


@pytest.mark.slow
def test_pictures_of_any_size_go_into_8_bits_too(eight: LocalModel, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = exporting.export(eight, tmp_path / "a.onnx", int8=True, input="picture")
    assert done.levels in (0, 1, 2) and done.from_fp32 is not None


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.pt", ["--int8"], "torchscript cannot keep 8 bits; expected one of onnx, openvino"),
        ("a.pt2", ["--int8", "--calibrate", "x"], "exported-program cannot keep 8 bits"),
        ("a.safetensors", ["--int8"], "safetensors cannot keep 8 bits"),
        ("a.onnx", ["--int8"], "tiny was not quantized"),
        ("a.onnx", ["--int8"], "add --calibrate PICTURES, or export what `resnext quantize` makes"),
        ("a.onnx", ["--calibrate", "x"], "no 8 bits are asked for"),
    ],
)
def test_what_cannot_be_in_8_bits_is_said_before_the_work(
    name: str, options: list[str], said: str, path: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert app.run(["export", str(path), "-o", str(tmp_path / name), *options]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_8_bits_that_no_model_could_have_are_refused_before_one_is_fetched(
    tmp_path: Path, capsys: Captured
) -> None:
    assert app.run(["export", "absent", "-o", str(tmp_path / "a.pt"), "--int8"]) == 2
    assert "torchscript cannot keep 8 bits" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_is_quantized_on_the_way_and_nothing_else_is_left(
    path: Path, tiny: LocalModel, pictures: Path, tmp_path: Path, capsys: Captured
) -> None:
    broken = pictures / "red" / "broken.png"
    broken.write_bytes(b"no picture")
    target = tmp_path / "a.xml"
    arguments = ["export", str(path), "-o", str(target), "--int8", "--calibrate", str(pictures)]
    try:
        assert app.run(arguments) == 3
    finally:
        broken.unlink()
    captured = capsys.readouterr()
    assert "left out: " in captured.err and "broken.png" in captured.err
    assert "openvino in 8 bits, run by openvino" in captured.out
    assert "same answer as fp32  100.00 % of 10 pictures, too few to be sure" in captured.out
    assert {each.name for each in tmp_path.iterdir()} == {"a.xml", "a.bin"}
    model = openvino.read_graph(target)
    facts = {
        key: model.get_rt_info(["resnext", key]).astype(str) for key in ("name", "source_sha256")
    }
    assert facts == {"name": "tiny", "source_sha256": tiny.sha256}
    assert app.run([*arguments[:-1], str(pictures / "red" / "0000.png"), "--force"]) == 3
    assert "expected at least 10" in capsys.readouterr().err
    assert target.exists(), "what was there stays"
