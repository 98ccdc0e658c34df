"""`deploy.pixels`: what agrees passes, and every kind of disagreement is named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import preprocessing, random_tensors
from onnx import numpy_helper
from PIL import Image

from resnext import arch, images, preprocess
from resnext.deploy import golden, pixels
from resnext.deploy.pixels import PixelCheck, Preparer
from resnext.engines import graph
from resnext.preprocess import PreprocessSpec

SPECS = [
    PreprocessSpec(input_size=32, resize=37, interpolation="bilinear"),
    PreprocessSpec(input_size=48, resize=48, interpolation="bicubic", orientation="ignore"),
    PreprocessSpec(input_size=40, resize=33, interpolation="bicubic"),
    PreprocessSpec(input_size=41, resize=41, interpolation="bicubic", mode="squash"),
    PreprocessSpec(
        input_size=40, resize=40, interpolation="bilinear", mode="letterbox", fill=(9, 8, 7)
    ),
]
DRAWN = golden.pictures()


def _check(spec: PreprocessSpec) -> tuple[PixelCheck, ...]:
    preparer = Preparer(spec)
    for one in DRAWN:
        preparer.prepare(one.name, preparer.read(one))
    return preparer.checks()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.mode}-{spec.resize}")
def test_reading_and_resizing_agree_with_pillow_by_hand(spec: PreprocessSpec) -> None:
    reading, by_hand, _ = _check(spec)
    for check in (reading, by_hand):
        assert (check.status, check.reason, check.difference) == ("passed", "", 0)
        assert check.pictures == len(DRAWN)


@pytest.mark.torch
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.mode}-{spec.resize}")
def test_resizing_agrees_with_torchvision_where_it_can_do_it(spec: PreprocessSpec) -> None:
    pytest.importorskip("torchvision")
    check = _check(spec)[-1]
    if spec.mode == "letterbox":
        assert (check.status, check.reason) == ("not available", "torchvision has no letterbox")
    else:
        assert (check.status, check.difference, check.pictures) == ("passed", 0, len(DRAWN))


def test_what_is_prepared_is_what_the_package_prepares() -> None:
    image = images.open_rgb(DRAWN[0].content)
    found = Preparer(SPECS[0]).prepare("a", image)
    np.testing.assert_array_equal(found, preprocess.apply(image, SPECS[0]))


def test_a_picture_one_level_off_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = preprocess.apply

    def off(image: Image.Image, spec: PreprocessSpec) -> Any:
        prepared = apply(image, spec)
        if image.size == (301, 200):
            prepared[3, 4, 1] ^= 1
        return prepared

    monkeypatch.setattr(preprocess, "apply", off)
    check = _check(SPECS[0])[1]
    assert (check.status, check.difference) == ("failed", 1)
    assert check.reason == "checkerboard-301x200 is off by 1 level of 255"


def test_a_crop_one_pixel_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = lambda length, size: (0, length) if length <= size else (1, size + 1)  # noqa: E731
    monkeypatch.setattr(preprocess, "_center", shifted)
    assert _check(SPECS[0])[1].status == "failed"


def test_a_forgotten_orientation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_turn", lambda image, _: image)
    check = _check(SPECS[0])[0]
    assert check.status == "failed"
    assert "photograph-turned" in check.reason
    assert "here and" in check.reason  # a quarter turn changes the shape


def test_torchvision_that_is_not_installed_never_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    monkeypatch.delitem(sys.modules, "resnext.deploy.peers", raising=False)
    check = _check(SPECS[0])[-1]
    assert (check.status, check.pictures, check.difference) == ("not installed", 0, None)
    assert "torchvision" in check.reason


def test_torchvision_that_does_not_import_never_passes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torchvision").mkdir()
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torchvision" / "__init__.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [*sys.modules]:
        if name.partition(".")[0] == "torchvision" or name == "resnext.deploy.peers":
            monkeypatch.delitem(sys.modules, name)
    check = _check(SPECS[0])[-1]
    assert (check.status, check.pictures, check.difference) == ("not available", 0, None)
    assert "cannot be imported: operator torchvision::nms does not exist" in check.reason


def test_a_strip_that_others_cannot_resize_is_left_out() -> None:
    spec = PreprocessSpec(input_size=224, resize=256, interpolation="bilinear")
    preparer = Preparer(spec)
    assert preparer.prepare("strip", Image.new("RGB", (1, 2000))).shape == (224, 224, 3)
    check = preparer.checks()[1]
    assert (check.status, check.pictures) == ("not available", 0)


@pytest.mark.parametrize("size", [8, 32])
def test_the_graph_normalizes_every_level_as_numpy_does(size: int) -> None:
    check = pixels.check_normalization(_graph(size), preprocessing(size))
    assert check.status == "passed"
    assert 0 < (check.difference or 0) < 2e-7
    assert check.pictures == -(-256 // size**2)


def test_a_graph_with_another_mean_is_found() -> None:
    model = _graph(32)
    for weight in model.graph.initializer:
        if weight.name == "normalize.shift.value":
            shift = numpy_helper.to_array(weight).copy()
            shift[0, 2] += 1e-3
            weight.CopyFrom(numpy_helper.from_array(shift, weight.name))
    check = pixels.check_normalization(model, preprocessing(32))
    assert check.status == "failed"
    assert "off by" in check.reason


def _graph(size: int) -> Any:
    spec = arch.ArchSpec(depth=29, cardinality=1, base_width=1, num_classes=2)
    return graph.build(spec, preprocessing(size), random_tensors(spec, seed=0))
