"""The ONNX graph for other programs: outputs, papers, and pictures of any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from resnext import modelfile, preprocess, testing
from resnext.deploy import golden, portable
from resnext.errors import ConfigError
from resnext.modelfile import ModelDocument
from resnext.preprocess import PreprocessSpec

ort: Any = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelDocument, modelfile.Tensors]:
    path = testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")
    return modelfile.read(path)


def session(model: onnx.ModelProto) -> Any:
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_the_best_classes_come_out_with_their_probabilities(tiny: Any) -> None:
    document, tensors = tiny
    run = session(portable.build(document, tensors, top_k=2, source_sha256="abc"))
    size = document.preprocess.input_size
    batch = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    names = ["logits", "embedding", "probabilities", "classes"]
    logits, embedding, probabilities, classes = run.run(names, {"image": batch})
    assert embedding.shape == (3, document.architecture.embedding_size)
    scaled = np.exp(logits.astype(np.float64) / document.temperature)
    expected = scaled / scaled.sum(axis=1, keepdims=True)
    order = np.argsort(-expected, axis=1)[:, :2]
    np.testing.assert_array_equal(classes, order)
    np.testing.assert_allclose(probabilities, np.take_along_axis(expected, order, 1), rtol=1e-5)


def test_the_papers_are_in_the_metadata(tiny: Any) -> None:
    document, tensors = tiny
    facts = {
        fact.key: fact.value
        for fact in portable.build(document, tensors, source_sha256="abc").metadata_props
    }
    assert json.loads(facts["class_names"]) == list(document.labels.class_names)
    assert PreprocessSpec.from_json(json.loads(facts["preprocess"])) == document.preprocess
    assert float(facts["temperature"]) == document.temperature
    assert (facts["license"], facts["source_sha256"]) == (document.license, "abc")
    assert facts["precision"] == "fp32" and "quantization" not in facts


def test_there_are_no_more_best_classes_than_classes(tiny: Any) -> None:
    document, tensors = tiny
    model = portable.build(document, tensors, top_k=99)
    [classes] = [one for one in model.graph.output if one.name == "classes"]
    assert classes.type.tensor_type.shape.dim[1].dim_value == len(document.labels)
    with pytest.raises(ConfigError, match="top_k is 0"):
        portable.build(document, tensors, top_k=0)


SPECS = {
    "crop": PreprocessSpec(input_size=64, resize=73, interpolation="bilinear"),
    "bicubic": PreprocessSpec(input_size=96, resize=101, interpolation="bicubic"),
    "border": PreprocessSpec(input_size=96, resize=64, interpolation="bilinear"),
    "squash": PreprocessSpec(input_size=80, resize=80, interpolation="bicubic", mode="squash"),
    "letterbox": PreprocessSpec(
        input_size=75, resize=75, interpolation="bilinear", mode="letterbox", fill=(9, 9, 9)
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_the_graph_prepares_as_pillow_does(name: str) -> None:
    spec = SPECS[name]
    run = session(portable.preparation(spec))
    sizes = [(64, 64), (200, 131), (131, 200), (33, 47), (640, 427), (97, 1), (75, 300)]
    for seed, (width, height) in enumerate(sizes):
        image = golden.scene(width, max(height, 2), seed=seed)
        batch = np.stack([np.asarray(image), np.asarray(image)[::-1]])
        [found] = run.run(None, {"picture": batch})
        for row, pixels in zip(found, batch, strict=True):
            expected = preprocess.apply(Image.fromarray(pixels), spec)
            apart = np.abs(row.astype(int) - expected)
            assert apart.max() <= 1, (width, height)
            assert apart.mean() < 0.01


def test_a_colored_letterbox_has_no_place_in_a_graph() -> None:
    spec = PreprocessSpec(
        input_size=75, resize=75, interpolation="bilinear", mode="letterbox", fill=(1, 2, 3)
    )
    with pytest.raises(ConfigError, match="expected a grey"):
        portable.preparation(spec)


def test_pictures_of_any_size_are_classified(tiny: Any, tmp_path: Path) -> None:
    document, tensors = tiny
    run = session(portable.build(document, tensors, picture=True))
    prepared = session(portable.build(document, tensors))
    prepare = session(portable.preparation(document.preprocess))
    for width, height in ((50, 70), (224, 224)):
        batch = np.asarray(golden.scene(width, height))[None]
        [pixels] = prepare.run(None, {"picture": batch})
        [logits] = run.run(["logits"], {"picture": batch})
        [expected] = prepared.run(["logits"], {"image": pixels})
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
