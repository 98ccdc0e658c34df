"""Random crops and flips: where they come from, what they keep, and that a seed repeats them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnext
from resnext.errors import ImageError, import_extra
from resnext.preprocess import PreprocessSpec

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
augment = import_extra("resnext.training.augment", extra="train")

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"
SPEC = PreprocessSpec(
    input_size=64, resize=80, interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2)
)


def draw(picture: object, seed: int, spec: PreprocessSpec = SPEC) -> torch.Tensor:
    torch.manual_seed(seed)
    return augment.RandomCropTransform(spec)(picture)


def plain(color: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (120, 90), color)


def test_create_transform_gives_it() -> None:
    transform = resnext.create_transform("starter", train=True)
    assert isinstance(transform, augment.RandomCropTransform)
    assert transform.spec == resnext.create_transform("starter").spec
    assert transform(CAT).shape == (3, 96, 96)
    assert "RandomCropTransform(PreprocessSpec(input_size=96" in repr(transform)


def test_pixels_are_normalized_as_in_use() -> None:
    drawn = draw(plain((255, 51, 0)), seed=0)
    assert (drawn.shape, drawn.dtype) == ((3, 64, 64), torch.float32)
    for channel, expected in enumerate([(1 - 0.1) / 0.5, 0.0, -0.3 / 0.2]):
        torch.testing.assert_close(drawn[channel], torch.full((64, 64), expected))


def test_a_seed_repeats_and_another_differs() -> None:
    assert torch.equal(draw(CAT, seed=1), draw(CAT, seed=1))
    assert not torch.equal(draw(CAT, seed=1), draw(CAT, seed=2))


def test_crops_have_the_areas_and_the_flips_of_the_paper() -> None:
    # Two ramps: along each axis the colors of a crop tell which part of the picture it is.
    height, width = 200, 300
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0] = np.linspace(0, 255, width)
    ramps[..., 1] = np.linspace(0, 255, height)[:, None]
    spec = PreprocessSpec(
        input_size=64, resize=64, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
    )
    areas, mirrored = [], 0
    for seed in range(200):
        red, green, _ = draw(ramps, seed, spec)
        rows, columns = green.mean(1), red.mean(0)
        areas.append(float((rows[-1] - rows[0]) * (columns[-1] - columns[0]).abs()))
        mirrored += bool(columns[0] > columns[-1])
    assert all(0.06 < area <= 1 for area in areas)
    assert min(areas) < 0.15 and max(areas) > 0.8
    assert 70 < mirrored < 130


def test_the_filter_is_the_one_of_the_preprocessing() -> None:
    other = PreprocessSpec(
        input_size=64, resize=80, interpolation="bilinear", mean=SPEC.mean, std=SPEC.std
    )
    same, differs = draw(CAT, 3), draw(CAT, 3, other)
    assert not torch.equal(same, differs)
    torch.testing.assert_close(same, differs, rtol=0, atol=1.0)  # the same crop, other filter


def test_a_picture_in_any_form_is_read_and_turned_upright(tmp_path: Path) -> None:
    picture = Image.open(CAT).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    expected = draw(picture, seed=4)
    for form in (CAT, str(CAT), CAT.read_bytes(), np.asarray(picture), tmp_path / "turned.png"):
        assert torch.equal(draw(form, seed=4), expected)
    with pytest.raises(ImageError, match=r"absent\.jpg"):
        draw("absent.jpg", seed=4)


def test_a_worker_process_gets_the_same() -> None:
    transform = augment.RandomCropTransform(SPEC)
    twin = pickle.loads(pickle.dumps(transform))
    torch.manual_seed(5)
    expected = transform(CAT)
    torch.manual_seed(5)
    assert torch.equal(twin(CAT), expected)
