"""What happens to pictures on their way into the network, in training and in tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext import preprocess
from resnext.training.config import AugmentConfig, DataConfig
from resnext.training.operations import OPERATIONS, Strength

torch: Any = pytest.importorskip("torch")
pytest.importorskip("torchvision")
augment: Any = pytest.importorskip("resnext.training.augment")

pytestmark = pytest.mark.torch

SMALL = DataConfig(train_size=32, test_size=32, test_resize=36)
EVERYTHING = {
    "nothing": AugmentConfig(crop_area=(1.0, 1.0), flip=0.0),
    "crop": AugmentConfig(),
    "pad": AugmentConfig(pad=4),
    "trivial": AugmentConfig(policy="trivial"),
    "rand": AugmentConfig(policy="rand"),
    "varied": AugmentConfig(policy="rand", rand_magnitude=21, rand_std=1.5, rand_chance=0.5),
    "colors": AugmentConfig(color_jitter=0.4, lighting=0.1),
    "erase": AugmentConfig(erase=1.0),
    "noise": AugmentConfig(erase=1.0, erase_count=3, erase_noise=True),
}


def picture(width: int = 60, height: int = 44, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def grey(value: int = 200, size: int = 40) -> Image.Image:
    return Image.new("RGB", (size, size), (value, value, value))


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_same_key_draws_the_same(name: str) -> None:
    transform = augment.TrainTransform(SMALL, EVERYTHING[name])
    first = transform(picture(), 5)
    assert first.shape == (3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(transform(picture(), 5), first)
    others = [transform(picture(), key) for key in range(6, 14)]
    assert any(not torch.equal(other, first) for other in others) or name == "nothing"


def test_nothing_that_is_drawn_reaches_outside() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    augment.TrainTransform(SMALL, EVERYTHING["noise"])(picture(), 9)
    assert torch.equal(torch.rand(4), expected)


def test_the_largest_key_is_taken() -> None:
    augment.TrainTransform(SMALL, EVERYTHING["crop"])(picture(), 2**63 - 1)


@pytest.mark.parametrize("policy", ["", "trivial", "rand"])
@pytest.mark.parametrize("filter", ["same", "bilinear", "bicubic", "random"])
def test_every_filter_works_with_every_policy(policy: Any, filter: Any) -> None:
    data = DataConfig(train_size=32, interpolation="bicubic", train_interpolation=filter)
    transform = augment.TrainTransform(data, AugmentConfig(policy=policy))
    for key in range(8):
        assert transform(picture(), key).shape == (3, 32, 32)


def test_the_filter_is_drawn_where_it_is_random() -> None:
    whole = AugmentConfig(crop_area=(1.0, 1.0), flip=0.0)

    def made(filter: Any) -> set[bytes]:
        data = DataConfig(train_size=32, train_interpolation=filter)
        transform = augment.TrainTransform(data, whole)
        square = picture(60, 60)  # of which the crop of the whole area is always the same
        return {transform(square, key).numpy().tobytes() for key in range(40)}

    by_chance = made("random")
    assert made("bilinear") <= by_chance
    assert made("bicubic") & by_chance


def test_a_crop_of_the_whole_is_the_resized_picture() -> None:
    whole = AugmentConfig(crop_area=(1.0, 1.0), flip=0.0)
    found = augment.TrainTransform(SMALL, whole)(picture(40, 40), 1).numpy()
    spec = preprocess.PreprocessSpec(input_size=32, resize=32, interpolation="bilinear")
    expected = preprocess.apply(picture(40, 40), spec).transpose(2, 0, 1).astype(int)
    assert np.abs(found - expected).max() <= 1  # torchvision rounds otherwise than Pillow


def test_padding_moves_a_small_picture_by_at_most_its_width() -> None:
    small = DataConfig(train_size=32)
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[16, 16] = 255
    seen = set()
    for key in range(200):
        found = augment.TrainTransform(small, AugmentConfig(pad=4, flip=0.0))(
            Image.fromarray(pixels), key
        )
        (_, down, right) = np.argwhere(found.numpy() == 255)[0]
        seen.add((int(down), int(right)))
    assert {down for down, _ in seen} == set(range(12, 21))
    assert {right for _, right in seen} == set(range(12, 21))


def test_the_border_is_zero_once_normalized() -> None:
    """As the paper's authors have it: they normalize first, and pad with zeros."""
    data = DataConfig(train_size=32, mean=(125.3 / 255, 123.0 / 255, 113.9 / 255))
    white = Image.new("RGB", (32, 32), (255, 255, 255))
    transform = augment.TrainTransform(data, AugmentConfig(pad=4, flip=0.0))
    borders = 0
    for key in range(20):
        found = transform(white, key)
        outside = found[:, (found != 255).all(0)]
        borders += outside.numel() > 0
        assert (outside == torch.tensor([[125], [123], [114]])).all()
    assert borders > 10


def test_padding_takes_all_of_a_large_picture_first() -> None:
    noise = picture(320, 240)
    transform = augment.TrainTransform(DataConfig(train_size=32), AugmentConfig(pad=4))
    found = transform(noise, 0)
    assert found.shape == (3, 32, 32)
    inside = found[:, 8:24, 8:24].float()
    assert float(inside.std()) < float(np.asarray(noise).std()) / 3  # many pixels in each


def test_a_mirror_image_comes_half_of_the_time() -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :8] = 255
    transform = augment.TrainTransform(DataConfig(train_size=32), AugmentConfig(pad=1))
    left = sum(bool(transform(Image.fromarray(pixels), key)[0, 16, 3] == 255) for key in range(400))
    assert 150 < left < 250


def test_erasing_covers_by_the_mean() -> None:
    data = DataConfig(train_size=40)
    whole = AugmentConfig(crop_area=(1.0, 1.0), flip=0.0, erase=1.0)
    found = augment.TrainTransform(data, whole)(grey(), 3)
    covered = (found != 200).any(0)
    assert 0.01 < float(covered.float().mean()) < 0.4
    expected = torch.tensor([round(255 * value) for value in data.mean], dtype=torch.uint8)
    assert (found[:, covered] == expected[:, None]).all()


def test_erasing_with_noise_has_the_data_s_mean_and_deviation() -> None:
    data = DataConfig(train_size=64)
    noisy = AugmentConfig(
        crop_area=(1.0, 1.0), flip=0.0, erase=1.0, erase_count=3, erase_noise=True
    )
    transform = augment.TrainTransform(data, noisy)
    pixels, shares = [], []
    for key in range(60):
        found = transform(grey(size=64), key).float()
        covered = (found != 200).any(0)
        pixels.append(found[:, covered])
        shares.append(float(covered.float().mean()))
    drawn = torch.cat(pixels, 1)
    assert drawn.mean(1) / 255 == pytest.approx(data.mean, abs=0.03)
    assert drawn.std(1) / 255 == pytest.approx(data.std, abs=0.03)
    assert 0.08 < float(np.mean(shares)) < 0.2  # 2 to 33 %, some of it twice


def test_erasing_comes_by_chance() -> None:
    whole = AugmentConfig(
        crop_area=(1.0, 1.0), flip=0.0, erase=0.25, erase_noise=True, erase_count=2
    )
    transform = augment.TrainTransform(DataConfig(train_size=40), whole)
    erased = sum(bool((transform(grey(), key) != 200).any()) for key in range(200))
    assert 30 < erased < 75


def test_varied_operations_come_by_chance_and_vary() -> None:
    data = DataConfig(train_size=40)

    def kinds(**changes: Any) -> int:
        config = AugmentConfig(crop_area=(1.0, 1.0), flip=0.0, policy="rand", **changes)
        transform = augment.TrainTransform(data, config)
        square = picture(40, 40)
        return len({transform(square, key).numpy().tobytes() for key in range(60)})

    never = kinds(rand_chance=0.0)
    fixed = kinds(rand_ops=1, rand_magnitude=15, rand_chance=0.999)
    varied = kinds(rand_ops=1, rand_magnitude=15, rand_std=5.0)
    assert never < fixed < varied


def test_varied_operations_do_what_timm_s_do() -> None:
    """One at a time on a picture: what comes out is what timm would have made of it."""
    config = AugmentConfig(
        policy="rand", rand_ops=1, rand_magnitude=21, rand_chance=0.999, crop_area=(1, 1), flip=0
    )
    data = DataConfig(train_size=40, interpolation="bicubic")
    transform = augment.TrainTransform(data, config)
    square, color = picture(40, 40), tuple(round(255 * value) for value in data.mean)
    possible = {
        np.asarray(
            operation(square, Strength(level=7, sign=sign, fill=color))  # type: ignore[arg-type]
        ).tobytes()
        for operation in OPERATIONS.values()
        for sign in (1, -1)
    }
    drawn = {transform(square, key).permute(1, 2, 0).numpy().tobytes() for key in range(300)}
    assert drawn <= possible | {np.asarray(square).tobytes()}
    assert len(drawn) >= len(possible) - 2


def test_light_follows_the_colors_of_imagenet() -> None:
    transform = augment.Lighting(1.0)
    image = torch.full((3, 4, 4), 128, dtype=torch.uint8)
    shifts = []
    for seed in range(400):
        torch.manual_seed(seed)
        found = transform(image)
        assert (found == found[:, :1, :1]).all()  # the same shift everywhere
        shifts.append(found[:, 0, 0].numpy().astype(float) - 128)
    matrix = augment._LIGHTING * 255
    expected = matrix @ matrix.T
    assert np.cov(np.array(shifts).T) == pytest.approx(expected, rel=0.25)


def test_tests_are_prepared_as_the_model_file_says() -> None:
    data = DataConfig(test_size=32, test_resize=36, interpolation="bicubic")
    spec = augment.test_spec(data)
    assert (spec.input_size, spec.resize, spec.interpolation) == (32, 36, "bicubic")
    found = augment.TestTransform(data)(picture())
    assert np.array_equal(found.numpy(), preprocess.apply(picture(), spec).transpose(2, 0, 1))
    assert torch.equal(found, augment.TestTransform(data)(picture(), 77))


def batch(count: int = 4) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 8, 8, generator=generator), torch.eye(count)


def test_mixup_blends_pictures_and_targets_by_one_share() -> None:
    images, targets = batch()
    mixed, shares = images.clone(), targets.clone()
    augment.mix(mixed, shares, AugmentConfig(mixup_alpha=1.0), 7)
    share = float(shares[0, 0])
    assert 0 < share < 1
    assert torch.allclose(shares, share * targets + (1 - share) * targets.roll(1, 0))
    assert torch.allclose(mixed, share * images + (1 - share) * images.roll(1, 0))


def test_cutmix_pastes_a_box_and_counts_its_pixels() -> None:
    images, targets = batch()
    for key in range(12):
        mixed, shares = images.clone(), targets.clone()
        augment.mix(mixed, shares, AugmentConfig(cutmix_alpha=1.0), key)
        own = (mixed == images).all(1)
        assert ((mixed == images.roll(1, 0)).all(1) | own).all()
        assert torch.allclose(shares[0, 0], own[0].float().mean())
        assert torch.allclose(shares.sum(1), torch.ones(4))


def test_either_is_drawn_where_both_are_on() -> None:
    images, targets = batch()
    pasted = 0
    for key in range(200):
        mixed = images.clone()
        augment.mix(mixed, targets.clone(), AugmentConfig(mixup_alpha=1, cutmix_alpha=1), key)
        pasted += bool(((mixed == images) | (mixed == images.roll(1, 0))).all())
    assert 70 < pasted < 130


def test_without_both_nothing_is_mixed() -> None:
    images, targets = batch()
    mixed, shares = images.clone(), targets.clone()
    augment.mix(mixed, shares, AugmentConfig(), 7)
    assert torch.equal(mixed, images)
    assert torch.equal(shares, targets)
