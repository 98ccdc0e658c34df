from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from resnext import preprocess
from resnext.errors import ConfigError, ImageError
from resnext.preprocess import PreprocessSpec

GOLDEN = Path(__file__).parent / "golden"
MAKE = SimpleNamespace(**runpy.run_path(str(GOLDEN / "make_preprocess.py")))
HASHES: dict[str, str] = json.loads((GOLDEN / "preprocess.json").read_text())["sha256"]

each_setting = pytest.mark.parametrize(("resize", "input_size", "interpolation"), MAKE.SETTINGS)
sides = st.integers(1, 90)
interpolations = st.sampled_from(["bilinear", "bicubic"])


def spec(resize: int, input_size: int, interpolation: Any = "bilinear", **more: Any) -> Any:
    return PreprocessSpec(input_size=input_size, resize=resize, interpolation=interpolation, **more)


def by_torchvision(image: Image.Image, settings: PreprocessSpec) -> NDArray[np.uint8]:
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    image = transforms.Resize(settings.resize, InterpolationMode(settings.interpolation))(image)
    return np.asarray(transforms.CenterCrop(settings.input_size)(image))


# --- the same pixels as torchvision ---------------------------------------------------------


@each_setting
@pytest.mark.parametrize("size", MAKE.SIZES, ids=str)
def test_pixels_are_those_torchvision_gave(
    size: tuple[int, int], resize: int, input_size: int, interpolation: str
) -> None:
    result = preprocess.apply(MAKE.picture(*size), spec(resize, input_size, interpolation))
    key = f"{size[0]}x{size[1]} {resize}/{input_size} {interpolation}"
    assert MAKE.digest(result) == HASHES[key]


def test_the_golden_file_holds_every_size_and_setting() -> None:
    assert len(HASHES) == len(MAKE.SIZES) * len(MAKE.SETTINGS) == 72


def compare_with_torchvision(files: list[Path]) -> None:
    assert files
    for file in files:
        image = Image.open(file).convert("RGB")
        for setting in MAKE.SETTINGS:
            wanted = by_torchvision(image, spec(*setting))
            np.testing.assert_array_equal(
                preprocess.apply(image, spec(*setting)), wanted, file.name
            )


@pytest.mark.torch
def test_real_pictures_as_torchvision(shared_data: Path) -> None:
    files = sorted((shared_data / "images" / "imagenet-samples").glob("*.JPEG"))
    compare_with_torchvision(files[::10])


@pytest.mark.slow
@pytest.mark.torch
def test_all_real_pictures_as_torchvision(shared_data: Path) -> None:
    files = sorted((shared_data / "images" / "imagenet-samples").glob("*.JPEG"))
    assert len(files) == 100
    compare_with_torchvision(files)


@pytest.mark.torch
@settings(max_examples=150, deadline=None)
@given(sides, sides, sides, sides, interpolations, st.integers(0, 2**32 - 1))
def test_any_size_as_torchvision(
    width: int, height: int, resize: int, input_size: int, interpolation: str, seed: int
) -> None:
    image = noise(width, height, seed)
    chosen = spec(resize, input_size, interpolation)
    wanted = by_torchvision(image, chosen)
    np.testing.assert_array_equal(preprocess.apply(image, chosen), wanted)


@pytest.mark.torch
def test_normalized_values_as_torchvision() -> None:
    import torch
    from torchvision import transforms

    chosen = spec(224, 224)
    pixels = MAKE.picture(64, 64)
    to_tensor = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(chosen.mean, chosen.std)]
    )
    wanted = torch.permute(to_tensor(pixels), (1, 2, 0)).numpy()
    np.testing.assert_allclose(preprocess.normalize(pixels, chosen), wanted, rtol=0, atol=1e-6)


# --- long strips: only the crop is computed -------------------------------------------------


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(max_examples=150, deadline=None)
@given(sides, sides, sides, sides, interpolations, st.integers(0, 2**32 - 1))
def test_a_part_resized_alone_is_that_part_of_the_whole(
    width: int, height: int, resize: int, input_size: int, interpolation: str, seed: int
) -> None:
    image, chosen = noise(width, height, seed), spec(resize, input_size, interpolation)
    whole = preprocess.apply(image, chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "_MAX_WHOLE_SIDE", 0)
        np.testing.assert_array_equal(preprocess.apply(image, chosen), whole)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (2, 30_000), (30_000, 3)], ids=str)
def test_a_strip_is_resized_within_little_memory(
    size: tuple[int, int], interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise(*size)
    largest = [0]
    resize = Image.Image.resize

    def watched(self: Image.Image, size: tuple[int, int], *args: Any) -> Image.Image:
        largest[0] = max(largest[0], size[0] * size[1])
        return resize(self, size, *args)

    monkeypatch.setattr(Image.Image, "resize", watched)
    result = preprocess.apply(image, spec(256, 224, interpolation))
    assert largest[0] < 10**6  # the whole would have 655 to 1,966 million pixels
    assert result.shape == (224, 224, 3)
    # Far from the ends of a strip, its middle alone gives the same.
    along = int(size[1] > size[0])
    middle = image.crop((0, 14_936, size[0], 15_064) if along else (14_936, 0, 15_064, size[1]))
    if min(size) != 3:  # 256/3 is no whole number, so the middle falls between pixels
        np.testing.assert_array_equal(
            result, preprocess.apply(middle, spec(256, 224, interpolation))
        )


# --- the three modes ------------------------------------------------------------------------


def test_crop_takes_the_center() -> None:
    pixels = np.zeros((8, 20, 3), np.uint8)
    pixels[:, 6:14] = (10, 20, 30)
    result = preprocess.apply(pixels, spec(8, 8))
    assert (result == (10, 20, 30)).all()


def test_crop_pads_with_black_what_is_smaller() -> None:
    result = preprocess.apply(np.full((4, 4, 3), 255, np.uint8), spec(3, 8))
    assert (result[2:5, 2:5] == 255).all()
    assert result.sum() == 3 * 3 * 3 * 255


def test_letterbox_keeps_the_whole_picture_and_its_shape() -> None:
    pixels = np.full((50, 100, 3), 200, np.uint8)
    result = preprocess.apply(pixels, spec(64, 64, mode="letterbox", fill=(1, 2, 3)))
    assert (result[16:48] == 200).all()
    assert (result[:16] == (1, 2, 3)).all()
    assert (result[48:] == (1, 2, 3)).all()


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (1, 1), (64, 64)], ids=str)
def test_letterbox_of_a_strip_keeps_at_least_a_pixel(size: tuple[int, int]) -> None:
    pixels = np.full((size[1], size[0], 3), 200, np.uint8)
    result = preprocess.apply(pixels, spec(64, 64, mode="letterbox"))
    assert result.shape == (64, 64, 3)
    assert (result == 200).any()


def test_squash_is_a_plain_resize() -> None:
    image = noise(50, 100)
    result = preprocess.apply(image, spec(64, 64, "bicubic", mode="squash"))
    wanted = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(result, wanted)


# --- what goes in and comes out -------------------------------------------------------------


@pytest.mark.parametrize("mode", ["crop", "letterbox", "squash"])
def test_array_and_image_give_the_same_fresh_array(mode: str) -> None:
    image = noise(64, 64)
    before = image.tobytes()
    result = preprocess.apply(image, spec(64, 64, mode=mode))
    np.testing.assert_array_equal(
        result, preprocess.apply(np.asarray(image), spec(64, 64, mode=mode))
    )
    assert result.dtype == np.uint8 and result.flags.c_contiguous and result.flags.writeable
    result[:] = 0
    assert image.tobytes() == before


def test_a_strided_array_is_taken_as_it_looks() -> None:
    pixels = MAKE.picture(80, 60)
    np.testing.assert_array_equal(
        preprocess.apply(pixels[:, ::-1], spec(32, 32)),
        preprocess.apply(pixels[:, ::-1].copy(), spec(32, 32)),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        Image.new("L", (4, 4)),
    ],
    ids=lambda wrong: f"{getattr(wrong, 'shape', '')}{getattr(wrong, 'dtype', 'L')}",
)
def test_what_is_not_rgb_pixels_is_refused(wrong: Any) -> None:
    with pytest.raises(ImageError, match="expected"):
        preprocess.apply(wrong, spec(4, 4))


def test_affine_is_normalization_in_one_step() -> None:
    chosen = spec(4, 4, mean=(0.1, 0.5, 0.9), std=(0.2, 0.25, 1.0))
    scale, shift = preprocess.affine(chosen)
    levels = np.arange(256)[:, None]
    wanted = (levels / 255 - np.array(chosen.mean)) / np.array(chosen.std)
    np.testing.assert_allclose(levels * scale + shift, wanted, rtol=1e-12, atol=1e-12)
    result = preprocess.normalize(np.tile(levels, 3).astype(np.uint8), chosen)
    np.testing.assert_array_equal(result, (levels * scale + shift).astype(np.float32))


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 4, 4, 3), (4, 4, 3), (3,)], ids=str)
def test_normalize_takes_any_number_of_pictures(shape: tuple[int, ...]) -> None:
    result = preprocess.normalize(np.zeros(shape, np.uint8), spec(4, 4))
    assert result.shape == shape
    assert result.dtype == np.float32


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4, 1), np.uint8), np.zeros((), np.uint8)], ids=str
)
def test_normalize_refuses_other_arrays(wrong: Any) -> None:
    with pytest.raises(ImageError, match="expected"):
        preprocess.normalize(wrong, spec(4, 4))


# --- the settings ---------------------------------------------------------------------------


def test_settings_survive_json() -> None:
    chosen = spec(
        64,
        64,
        "bicubic",
        mode="letterbox",
        mean=(0.5, 0.5, 0.5),
        fill=(1, 2, 3),
        orientation="ignore",
    )
    text = json.dumps(chosen.to_json())
    assert PreprocessSpec.from_json(json.loads(text)) == chosen
    assert PreprocessSpec.from_json(json.loads(text)).to_json() == chosen.to_json()


def test_settings_with_a_default_may_be_absent() -> None:
    short = {"input_size": 224, "resize": 256, "interpolation": "bilinear"}
    assert PreprocessSpec.from_json(short) == spec(256, 224)
    assert PreprocessSpec.from_json(short).crop_pct == 0.875


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": 0}, "input_size is 0; expected a whole number from 1 to 2048"),
        ({"input_size": True}, "input_size is True"),
        ({"resize": 1e3}, "resize is 1000.0"),
        ({"resize": 4096}, "resize is 4096"),
        ({"interpolation": "nearest"}, "expected bilinear or bicubic"),
        ({"interpolation": ["bilinear"]}, "interpolation is "),
        ({"mode": "letterbox"}, "resize is 256; expected 224"),
        ({"mode": "pad"}, "expected crop or letterbox or squash"),
        ({"mean": [0.5, 0.5]}, "expected three numbers"),
        ({"mean": [0.5, 0.5, float("nan")]}, "expected three numbers"),
        ({"mean": [0.5, 0.5, 10**400]}, "expected three numbers"),
        ({"mean": 0.5}, "expected three numbers"),
        ({"std": [0.5, 0.5, 0]}, "expected three numbers from 1e-6"),
        ({"fill": [0, 0, 256]}, "expected three whole numbers from 0 to 255"),
        ({"orientation": "up"}, "expected exif or ignore"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    valid = {"input_size": 224, "resize": 256, "interpolation": "bilinear"}
    with pytest.raises(ConfigError, match=message):
        PreprocessSpec.from_json(valid | changes)


def test_an_unknown_setting_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'interpolation'"):
        PreprocessSpec.from_json({"input_size": 4, "resize": 4, "interpolate": "bilinear"})


@pytest.mark.parametrize("document", [[], None, "crop", {"input_size": 4}], ids=str)
def test_what_is_no_complete_object_is_refused(document: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected an object|lacks resize, interpolation"):
        PreprocessSpec.from_json(document)
