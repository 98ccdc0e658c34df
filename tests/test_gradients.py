"""Grad-CAM and Grad-CAM++: equal to pytorch-grad-cam's, and to the class activation map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import preprocessing, random_batch, random_tensors
from numpy.typing import NDArray

from resnext import Classifier, arch, modelfile, testing, weights
from resnext.errors import ConfigError, import_extra
from resnext.explore import cam
from resnext.modelfile import ModelDocument
from resnext.predictions import Labels

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_torch_thread")]
torch = pytest.importorskip("torch")
gradients = import_extra("resnext.explore.gradients", extra="torch")

GOLDEN: dict[str, Any] = json.loads(
    Path(__file__).with_name("golden").joinpath("cam.json").read_text()
)
TARGETS, SIZE, STEP = GOLDEN["targets"], GOLDEN["input_size"], GOLDEN["step"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = arch.parse(GOLDEN["network"], num_classes=10)
    document = ModelDocument(
        name="seeded",
        architecture=spec,
        labels=Labels(tuple("abcdefghij")),
        preprocess=preprocessing(SIZE),
    )
    path = tmp_path_factory.mktemp("gradients") / "seeded.safetensors"
    modelfile.write(path, document, random_tensors(spec, seed=GOLDEN["seed"]), dtype="float32")
    return path


@pytest.fixture(scope="module")
def batch() -> NDArray[np.uint8]:
    return random_batch(2, SIZE, seed=GOLDEN["seed"])


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_the_maps_are_those_of_pytorch_grad_cam(
    layer: str, model: Path, batch: NDArray[np.uint8]
) -> None:
    network = gradients.GradientMaps(weights.locate(model), layer=layer)
    for method in gradients.METHODS:
        maps = network(batch, TARGETS, method=method)
        for values, expected in zip(maps, GOLDEN["maps"][f"{method} {layer}"], strict=True):
            heat = cam.normalize(cam.enlarge(cam.normalize(values), SIZE))
            sample = heat[STEP // 2 :: STEP, STEP // 2 :: STEP]
            np.testing.assert_allclose(sample, expected, atol=1e-4)


def test_on_the_last_maps_grad_cam_is_the_class_activation_map_to_scale(
    model: Path, batch: NDArray[np.uint8]
) -> None:
    found = gradients.GradientMaps(weights.locate(model))(batch, TARGETS)
    with Classifier(model, precision="fp32", threads=1, feature_maps=True) as classifier:
        for values, one in zip(
            found, cam.class_activation_map(classifier, batch, TARGETS), strict=True
        ):
            assert isinstance(one, cam.ActivationMap)
            np.testing.assert_allclose(values * values.size, one.values, atol=1e-4)


def test_a_cifar_network_has_its_last_maps_in_layer4_too(tmp_path: Path) -> None:
    path = testing.write_tiny_model(tmp_path / "m.safetensors")
    local = weights.locate(path)
    pixels = random_batch(2, 32, seed=0)
    found = gradients.GradientMaps(local)(pixels, [0, 1])
    assert found.shape == (2, 8, 8)
    np.testing.assert_array_equal(
        found, gradients.GradientMaps(local, layer="layer3")(pixels, [0, 1])
    )


def test_one_network_can_be_asked_again(model: Path, batch: NDArray[np.uint8]) -> None:
    network = gradients.GradientMaps(weights.locate(model), layer="layer2.0")
    first = network(batch, [0, 0], method="gradcam++")
    np.testing.assert_array_equal(first, network(batch, [0, 0], method="gradcam++"))
    alone = network(batch[1:], [0], method="gradcam++")
    np.testing.assert_allclose(first[1:], alone, atol=1e-4 * np.abs(first).max())


def test_unknown_layers_and_methods_are_refused(model: Path, batch: NDArray[np.uint8]) -> None:
    local = weights.locate(model)
    with pytest.raises(ConfigError, match="did you mean 'layer4'"):
        gradients.GradientMaps(local, layer="layr4")
    with pytest.raises(ConfigError, match="expected one of layer1"):
        gradients.GradientMaps(local, layer="fc")
    with pytest.raises(ConfigError, match="expected one of gradcam, gradcam"):
        gradients.GradientMaps(local)(batch, [0, 1], method="cam")
