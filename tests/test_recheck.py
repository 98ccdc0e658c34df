"""Exported models are run before they count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnext import testing, weights
from resnext.deploy import export as exporting
from resnext.deploy import portable, recheck
from resnext.errors import ParityError
from resnext.quantization import Quantization
from resnext.weights import LocalModel


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    path = testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")
    return weights.locate(path)


def test_pictures_of_any_size_are_checked_pixel_by_pixel(
    tiny: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    done = exporting.export(tiny, tmp_path / "a.onnx", input="picture")
    assert done.levels in (0, 1) and done.checked_with == "onnxruntime"
    monkeypatch.setattr(portable, "_PILLOW_A", -0.75)
    monkeypatch.setattr(portable, "_MODES", {"bilinear": "cubic", "bicubic": "cubic"})
    with pytest.raises(
        ParityError, match=r"(?s)pixels of .* are off by \d+ levels.*resnext verify"
    ):
        exporting.export(tiny, tmp_path / "b.onnx", input="picture")
    assert not (tmp_path / "b.onnx").exists()


def test_a_file_that_answers_otherwise_is_not_left_there(
    tiny: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = portable.build

    def spoiled(document: Any, tensors: Any, **options: Any) -> Any:
        return build(document, {**tensors, "fc.bias": tensors["fc.bias"] + 1}, **options)

    monkeypatch.setattr(portable, "build", spoiled)
    (tmp_path / "a.onnx").write_bytes(b"precious")
    with pytest.raises(ParityError, match=r"(?s)logits that are off by.*hint: `resnext verify"):
        exporting.export(tiny, tmp_path / "a.onnx", force=True)
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == b"precious"


def test_8_bits_that_answer_otherwise_than_the_engine_are_refused(
    tiny: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = portable.build
    some = Quantization(ranges={"layer1.0.conv1.relu": (0.0, 8.0)})
    local = replace(tiny, document=replace(tiny.document, quantization=some))
    done = exporting.export(local, tmp_path / "a.xml", int8=True)
    assert done.difference <= 0.1 and done.from_fp32 is not None

    def spoiled(document: Any, tensors: Any, **options: Any) -> Any:
        return build(document, {**tensors, "fc.bias": tensors["fc.bias"] + 9}, **options)

    monkeypatch.setattr(portable, "build", spoiled)
    with pytest.raises(ParityError, match=r"of the largest of engine openvino \(int8\)") as caught:
        exporting.export(local, tmp_path / "b.xml", int8=True)
    assert caught.value.hint.startswith("`resnext verify")
    monkeypatch.setattr(recheck, "_IN_EIGHT_BITS", 99.0)
    with pytest.raises(ParityError, match=r"of the largest of engine openvino \(fp32\)") as caught:
        exporting.export(local, tmp_path / "b.xml", int8=True)
    assert caught.value.hint.startswith("--calibrate on more pictures, or more varied ones")
    assert "resnext verify" in caught.value.hint
    assert {each.name for each in tmp_path.iterdir()} == {"a.xml", "a.bin"}
