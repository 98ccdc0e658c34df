"""Class activation maps: the law, pytorch-grad-cam's answers, where they lie on a picture."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import preprocessing, random_batch, random_tensors
from numpy.typing import NDArray
from PIL import Image

from resnext import Classifier, arch, images, modelfile, preprocess, testing
from resnext.engines import graph
from resnext.errors import ConfigError, EngineError, ImageError
from resnext.explore import cam
from resnext.modelfile import ModelDocument
from resnext.predictions import Labels
from resnext.preprocess import PreprocessSpec

GOLDEN: dict[str, Any] = json.loads(
    Path(__file__).with_name("golden").joinpath("cam.json").read_text()
)
CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"
ENGINES = [
    "openvino",
    pytest.param("onnxruntime", marks=pytest.mark.skipif(
        importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")),
    pytest.param("torch", marks=pytest.mark.torch),
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of the golden file, as a model file."""
    spec = arch.parse(GOLDEN["network"], num_classes=10)
    document = ModelDocument(
        name="seeded",
        architecture=spec,
        labels=Labels(tuple("abcdefghij"), tuple(f"n{n:08d}" for n in range(10))),
        preprocess=preprocessing(GOLDEN["input_size"]),
    )
    path = tmp_path_factory.mktemp("cam") / "seeded.safetensors"
    tensors = random_tensors(spec, seed=GOLDEN["seed"])
    modelfile.write(path, document, tensors, dtype="float32")
    return path


@pytest.fixture(scope="module")
def batch() -> NDArray[np.uint8]:
    return random_batch(2, GOLDEN["input_size"], seed=GOLDEN["seed"])


@cache
def opened(model: Path, engine: str = "openvino") -> Classifier:
    return Classifier(model, engine=engine, precision="fp32", threads=1, feature_maps=True)


def maps_of(*arguments: Any, **options: Any) -> list[cam.ActivationMap]:
    found = list(cam.class_activation_map(*arguments, **options))
    assert all(isinstance(one, cam.ActivationMap) for one in found)
    return found  # type: ignore[return-value]


# --- the law, and others' answers -------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_the_mean_of_the_map_and_the_bias_are_the_logit(
    engine: str, model: Path, batch: NDArray[np.uint8]
) -> None:
    classifier = opened(model, engine)
    _, bias = cam.last_layer(classifier)
    logits = classifier.engine.run(batch).logits
    for found, row in zip(maps_of(classifier, batch, [9, 0]), logits, strict=True):
        assert found.values.shape == (5, 5)
        assert found.values.dtype == np.float32
        index = found.target.index
        assert found.values.mean() + bias[index] == pytest.approx(row[index], abs=1e-4)
        assert found.values.std() > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_the_map_is_that_of_pytorch_grad_cam(
    engine: str, model: Path, batch: NDArray[np.uint8]
) -> None:
    targets, size, step = GOLDEN["targets"], GOLDEN["input_size"], GOLDEN["step"]
    for found, expected in zip(
        maps_of(opened(model, engine), batch, targets),
        GOLDEN["maps"]["gradcam layer4"],
        strict=True,
    ):
        heat = cam.normalize(cam.enlarge(cam.normalize(found.values), size))
        sample = heat[step // 2 :: step, step // 2 :: step]
        np.testing.assert_allclose(sample, expected, atol=1e-4)


def test_the_graph_without_maps_is_the_same_to_the_byte(model: Path) -> None:
    spec = arch.parse("resnext29_2x4d", num_classes=3)
    arguments = (spec, preprocessing(32), random_tensors(spec, seed=0))
    plain, with_maps = graph.build(*arguments), graph.build(*arguments, feature_maps=True)
    assert [output.name for output in with_maps.graph.output][:2] == ["logits", "embedding"]
    # What was added, taken away again, leaves the graph that everybody has in a cache.
    added = next(node for node in with_maps.graph.node if node.op_type == "Identity")
    for node in with_maps.graph.node:
        node.input[:] = [added.input[0] if name == "features" else name for name in node.input]
    with_maps.graph.node.remove(added)
    del with_maps.graph.output[2]
    assert with_maps.SerializeToString() == plain.SerializeToString()


# --- classes and pictures ---------------------------------------------------------------------


def test_without_a_class_it_is_the_predicted_one(model: Path, batch: NDArray[np.uint8]) -> None:
    classifier = opened(model)
    for found, pixels in zip(maps_of(classifier, batch), batch, strict=True):
        assert found.target == classifier(pixels)[0]
        [again] = maps_of(classifier, [pixels], found.target.index)
        np.testing.assert_allclose(found.values, again.values, atol=1e-5)


def test_each_picture_can_have_its_own_class(model: Path, batch: NDArray[np.uint8]) -> None:
    found = maps_of(opened(model), batch, [4, None])
    assert found[0].target.index == 4
    assert found[0].target.label == "e"
    assert found[1].target == opened(model)(batch[1])[0]


@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_the_probability_of_a_class_is_the_models(
    temperature: float, model: Path, batch: NDArray[np.uint8], tmp_path: Path
) -> None:
    document, tensors = modelfile.read(model)
    document = dataclasses.replace(document, temperature=temperature)
    path = tmp_path / "warm.safetensors"
    modelfile.write(path, document, tensors, dtype="float32")
    with Classifier(path, precision="fp32", threads=1, feature_maps=True) as classifier:
        logits = classifier.engine.run(batch).logits.astype(np.float64)
        shares = np.exp(logits / temperature)
        shares /= shares.sum(axis=1, keepdims=True)
        for targets in (None, 3):
            for found, row in zip(maps_of(classifier, batch, targets), shares, strict=True):
                index = found.target.index
                assert index == (row.argmax() if targets is None else targets)
                assert found.target.probability == pytest.approx(row[index], rel=1e-4)


def test_a_picture_that_cannot_be_read_keeps_its_place(
    model: Path, batch: NDArray[np.uint8]
) -> None:
    first, bad, last = cam.class_activation_map(
        opened(model), [batch[0], b"nothing", batch[1]], [1, 2, 3], batch_size=2
    )
    assert isinstance(bad, ImageError)
    assert bad.path == "image 1"
    assert isinstance(first, cam.ActivationMap)
    assert isinstance(last, cam.ActivationMap)
    assert (first.target.index, last.target.index) == (1, 3)
    np.testing.assert_array_equal(last.pixels, batch[1])


def test_a_classifier_without_maps_is_opened_a_second_time(
    model: Path, batch: NDArray[np.uint8]
) -> None:
    with Classifier(model, precision="fp32", threads=1) as classifier:
        assert classifier.engine.run(batch).features is None
        [found] = maps_of(classifier, batch[:1], 2)
        assert classifier.engine.run(batch).features is None
    [expected] = maps_of(opened(model), batch[:1], 2)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5)


def test_a_class_that_is_not_there_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match="expected 0 to 9"):
        list(cam.class_activation_map(opened(model), [CAT], 10))


def test_an_engine_that_promises_maps_and_gives_none_is_found_out() -> None:
    engine = testing.ConstantEngine([1.0, 2.0])
    object.__setattr__(engine.signature, "feature_maps", True)
    with pytest.raises(EngineError, match="gave features as nothing"):
        engine.run(np.zeros((1, 32, 32, 3), np.uint8))


# --- where it lies ----------------------------------------------------------------------------

SPECS = [
    PreprocessSpec(input_size=64, resize=64, interpolation="bilinear"),
    PreprocessSpec(input_size=56, resize=64, interpolation="bicubic"),
    PreprocessSpec(input_size=64, resize=50, interpolation="bilinear"),
    PreprocessSpec(input_size=64, resize=64, interpolation="bilinear", mode="letterbox"),
    PreprocessSpec(input_size=64, resize=64, interpolation="bilinear", mode="squash"),
]
SIZES = [(200, 200), (300, 100), (100, 300), (40, 37), (2000, 64)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.mode} {spec.crop_pct:.2f}")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_view_is_where_the_pixels_come_from(
    spec: PreprocessSpec, size: tuple[int, int]
) -> None:
    """Pictures whose levels rise by one direction say where each input pixel was."""
    width, height = size
    left, top, right, bottom = preprocess.view(size, spec)
    for axis, length, start, stop in ((1, width, left, right), (0, height, top, bottom)):
        ramp = np.linspace(0, 255, length, dtype=np.float64)
        levels = np.broadcast_to(ramp if axis else ramp[:, None], (height, width))
        image = np.repeat(np.rint(levels).astype(np.uint8)[..., None], 3, axis=2)
        seen = preprocess.apply(image, spec)[..., 0].max(axis=1 - axis).astype(float)
        centers = start + (np.arange(spec.input_size) + 0.5) * (stop - start) / spec.input_size
        inside = (centers > 0.1 * length) & (centers < 0.9 * length)  # a border has no ramp
        expected = np.interp(centers, np.arange(length) + 0.5, ramp)
        # Half a level, and half a pixel of the input for the truncated length.
        room = 1.5 + 0.75 * 255 * (stop - start) / spec.input_size / length
        np.testing.assert_allclose(seen[inside], expected[inside], atol=room)


CORNERS = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("corner", CORNERS, ids=str)
@pytest.mark.parametrize("size", [(120, 120), (300, 100), (100, 300)], ids=str)
def test_a_hot_corner_stays_in_its_corner(corner: tuple[int, int], size: tuple[int, int]) -> None:
    values = np.zeros((4, 4), np.float32)
    values[-corner[0], -corner[1]] = 1
    for spec in (SPECS[0], SPECS[3], SPECS[4]):
        found = cam.onto_picture(values, size, spec)
        assert found.shape == size[::-1]
        down, across = np.unravel_index(np.nanargmax(found), found.shape)
        left, top, right, bottom = preprocess.view(size, spec)
        place = (down + 0.5 - top) / (bottom - top), (across + 0.5 - left) / (right - left)
        for share, wanted in zip(place, corner, strict=True):
            assert abs(share - wanted) < 0.5
        unseen = np.isnan(found)
        assert unseen.any() == (spec.mode == "crop" and size[0] != size[1])
        if size == (300, 100) and spec.mode == "crop":
            assert unseen[:, :100].all()
            assert unseen[:, 200:].all()
            assert not unseen[:, 100:200].any()


def test_the_overlay_is_warm_where_the_map_is_high_and_dark_where_nothing_was_seen() -> None:
    grey = np.full((100, 300, 3), 128, np.uint8)
    values = np.zeros((4, 4), np.float32)
    values[3, 0] = 5
    shown = cam.overlay(grey, values, SPECS[0]).astype(int)
    assert shown.shape == grey.shape
    redness = shown[..., 0] - shown[..., 2]
    assert np.unravel_index(redness.argmax(), redness.shape)[0] > 75
    assert 100 <= np.unravel_index(redness.argmax(), redness.shape)[1] < 125
    assert (shown[:, 200:] < 64).all()
    np.testing.assert_array_equal(shown[10, 190], 128)
    red, green, blue = shown[99, 100]  # neither pink nor violet, which the cold end is near
    assert red > 150
    assert abs(green - blue) < 10


def test_bands_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.float32([[0, 1], [1, 0]])
    grey = np.full((70, 50, 3), 100, np.uint8)
    whole = cam.overlay(grey, values, SPECS[0])
    monkeypatch.setattr(cam, "_BAND_PIXELS", 50 * 16 + 1)
    np.testing.assert_allclose(cam.overlay(grey, values, SPECS[0]), whole, atol=1)


def test_the_overlay_follows_the_orientation(model: Path) -> None:
    """What is hot at the bottom left of the file is hot at the top left once it is upright."""
    pixels = np.full((90, 120, 3), 90, np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: the bottom left becomes the top left
    file = io.BytesIO()
    pixels[60:, :30] = (250, 30, 30)
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, quality=95)
    classifier = opened(model)
    [found] = maps_of(classifier, [file.getvalue()], 0)
    upright = images.read(file.getvalue())
    assert upright.shape == (120, 90, 3)
    expected = preprocess.apply(upright, classifier.document.preprocess)
    np.testing.assert_array_equal(found.pixels, expected)
    corner = np.zeros((4, 4), np.float32)
    corner[0, 0] = 1
    shown = cam.onto_picture(corner, (90, 120), SPECS[4])
    red = upright[..., 0].astype(int) - upright[..., 2] > 100
    assert np.nanmean(shown[red]) > 5 * np.nanmean(shown[~red])


def test_a_map_that_speaks_against_everywhere_shows_nothing() -> None:
    assert (cam.normalize(np.full((3, 3), -2, np.float32)) == 0).all()
    heat = cam.normalize(np.float32([[-1, 1], [2, 3]]))
    np.testing.assert_allclose(heat, [[0, 1 / 3], [2 / 3, 1]], atol=1e-6)
