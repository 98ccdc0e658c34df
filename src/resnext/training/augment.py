"""[train] From a picture to a sample, by chance; whole batches mixed.

What is random follows from a key that comes with each picture and each batch, so a run
that is continued draws what it would have drawn.

Source: random crops arXiv:1409.4842; mixup arXiv:1710.09412; cutmix arXiv:1905.04899;
TrivialAugment arXiv:2103.10158; RandAugment arXiv:1909.13719; most transforms are torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from resnext import images, preprocess
from resnext.preprocess import PreprocessSpec
from resnext.training.config import AugmentConfig, DataConfig
from resnext.training.operations import MAX_LEVEL, OPERATIONS, Strength

_MAX_MAGNITUDE = 30  # as `AugmentConfig` counts them
# Eigenvectors times eigenvalues of ImageNet's colors (AlexNet, section 4.1; fb.resnet.torch).
_LIGHTING = np.array(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
) * np.array([0.2175, 0.0188, 0.0045])


def test_spec(data: DataConfig) -> PreprocessSpec:
    """Return the preprocessing of the model that comes out of a run."""
    return PreprocessSpec(
        input_size=data.test_size,
        resize=data.test_resize,
        interpolation=data.interpolation,
        mean=data.mean,
        std=data.std,
    )


class TrainTransform:
    """One picture to (3, S, S) uint8 pixels, by chance.

    Args:
        data: Size and filter.
        augment: What happens to it.
    """

    def __init__(self, data: DataConfig, augment: AugmentConfig) -> None:
        self._transform = v2.Compose([v2.PILToTensor(), *_steps(data, augment)])

    def __call__(self, image: Image.Image, key: int) -> Tensor:
        """Draw from an RGB picture what belongs to `key`, 0 to 2^63 - 1."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            pixels: Tensor = self._transform(image)
        return pixels


class TestTransform:
    """One picture to (3, S, S) uint8 pixels, by the preprocessing of the model.

    Args:
        data: Size and filter.
    """

    __test__ = False  # not for pytest

    def __init__(self, data: DataConfig) -> None:
        self._spec = test_spec(data)

    def __call__(self, image: Image.Image, key: int = 0) -> Tensor:
        """Prepare an RGB picture; nothing is random."""
        pixels = preprocess.apply(image, self._spec)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


class RandomCropTransform:
    """A random crop of random shape, resized and maybe mirrored, as (3, S, S) float32.

    Args:
        spec: Gives the input size, the filter, the mean and the standard deviation.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        self.spec = spec
        data = DataConfig(
            train_size=spec.input_size,
            interpolation=spec.interpolation,
        )
        self._random = v2.Compose(
            [
                v2.PILToTensor(),
                *_steps(data, AugmentConfig()),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(spec.mean, spec.std),
            ]
        )

    def __call__(self, image: Any) -> Tensor:
        """Draw from one picture: path, bytes, PIL image or (H, W, 3) uint8 array.

        Raises:
            ImageError: It cannot be read.
        """
        drawn: Tensor = self._random(images.open_rgb(image, orientation=self.spec.orientation))
        return drawn

    def __repr__(self) -> str:
        return f"RandomCropTransform({self.spec})"


class Lighting(v2.Transform):  # type: ignore[misc]
    """Add a random sum of the principal colors of ImageNet, to uint8 pixels."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the three factors."""
        return {"shift": torch.from_numpy(_LIGHTING) @ torch.randn(3).double() * self.strength}

    def transform(self, image: Any, params: dict[str, Any]) -> Any:
        """Change the colors of (3, H, W) uint8."""
        shift = params["shift"].reshape(3, 1, 1).float() * 255
        return (image.float() + shift).round().clamp(0, 255).to(torch.uint8)


class VariedRandAugment(v2.Transform):  # type: ignore[misc]
    """timm's RandAugment: operations that come by chance, with a level that varies.

    Args:
        augment: Number, chance, magnitude and its standard deviation, each of 0 to 30.
        filters: Of turning, shearing and moving, one by chance.
        fill: Color of what comes in from outside, R, G and B of 0 to 255.
    """

    def __init__(
        self,
        augment: AugmentConfig,
        *,
        filters: Sequence[v2.InterpolationMode],
        fill: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.augment = augment
        self.filters = [Image.Resampling[filter.name] for filter in filters]
        self.fill = fill

    def forward(self, image: Tensor) -> Tensor:
        """Change (3, H, W) uint8."""
        picture = v2.functional.to_pil_image(image)
        names = list(OPERATIONS)
        for _ in range(self.augment.rand_ops):
            if torch.rand(()) < self.augment.rand_chance:
                name = names[int(torch.randint(len(names), ()))]
                picture = OPERATIONS[name](picture, self._draw())
        changed: Tensor = v2.functional.pil_to_tensor(picture)
        return changed

    def _draw(self) -> Strength:
        """Draw how much an operation does."""
        drawn = torch.randn(()) * self.augment.rand_std + self.augment.rand_magnitude
        return Strength(
            level=float(drawn.clamp(0, _MAX_MAGNITUDE)) / _MAX_MAGNITUDE * MAX_LEVEL,
            sign=1 if torch.rand(()) < 0.5 else -1,
            fill=self.fill,
            filter=self.filters[int(torch.randint(len(self.filters), ()))],
        )


class Erasing(v2.Transform):  # type: ignore[misc]
    """Cover rectangles with noise or the mean color (arXiv:1708.04896).

    Args:
        augment: Chance, most rectangles, and whether noise.
        data: Mean and deviation of the noise.
    """

    def __init__(self, augment: AugmentConfig, data: DataConfig) -> None:
        super().__init__()
        self.augment = augment
        self._mean, self._std = (
            torch.tensor(values).reshape(3, 1, 1) * 255 for values in (data.mean, data.std)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Change (3, H, W) uint8."""
        if torch.rand(()) >= self.augment.erase:
            return image
        image = image.clone()
        count = int(torch.randint(1, self.augment.erase_count + 1, ()))
        for _ in range(count):
            self._cover(image, 1 / count)
        return image

    def _cover(self, image: Tensor, share: float) -> None:
        """Cover 2 to 33 % of a picture, of side ratio 0.3 to 3.3, or a share of that."""
        height, width = image.shape[-2:]
        area = float(torch.empty(()).uniform_(0.02, 0.33)) * share * height * width
        ratio = math.exp(float(torch.empty(()).uniform_(math.log(0.3), math.log(3.3))))
        tall = min(round(math.sqrt(area * ratio)), height)
        wide = min(round(math.sqrt(area / ratio)), width)
        top = int(torch.randint(0, height - tall + 1, ()))
        left = int(torch.randint(0, width - wide + 1, ()))
        noise = torch.randn(3, tall, wide) if self.augment.erase_noise else torch.zeros(())
        fill = (self._mean + self._std * noise).round().clamp(0, 255)
        image[:, top : top + tall, left : left + wide] = fill.to(torch.uint8)


def _steps(data: DataConfig, augment: AugmentConfig) -> list[v2.Transform]:
    steps = [_crop(data, augment)]
    if augment.flip:
        steps.append(v2.RandomHorizontalFlip(augment.flip))
    if augment.policy:
        steps.append(_policy(data, augment))
    if augment.color_jitter:
        steps.append(v2.ColorJitter(*[augment.color_jitter] * 3))
    if augment.lighting:
        steps.append(Lighting(augment.lighting))
    if augment.erase and (augment.erase_noise or augment.erase_count > 1):
        steps.append(Erasing(augment, data))
    elif augment.erase:
        steps.append(v2.RandomErasing(augment.erase, value=list(_mean_color(data))))
    return steps


def _crop(data: DataConfig, augment: AugmentConfig) -> v2.Transform:
    filters = _filters(data)
    if augment.pad:
        whole = v2.Resize(data.train_size, interpolation=filters[-1], antialias=True)
        # The mean color is what zeros around a normalized picture are.
        crop = v2.RandomCrop(data.train_size, padding=augment.pad, fill=list(_mean_color(data)))
        return v2.Compose([whole, crop])
    crops = [
        v2.RandomResizedCrop(
            data.train_size, scale=augment.crop_area, interpolation=filter, antialias=True
        )
        for filter in filters
    ]
    return crops[0] if len(crops) == 1 else v2.RandomChoice(crops)


def _policy(data: DataConfig, augment: AugmentConfig) -> v2.Transform:
    filter = v2.InterpolationMode.BILINEAR  # torchvision rotates tensors in no better way
    if augment.policy == "trivial":
        return v2.TrivialAugmentWide(interpolation=filter)
    if augment.rand_std or augment.rand_chance < 1:
        return VariedRandAugment(augment, filters=_filters(data), fill=_mean_color(data))
    return v2.RandAugment(augment.rand_ops, augment.rand_magnitude, interpolation=filter)


def _mean_color(data: DataConfig) -> tuple[int, int, int]:
    """Return the color that is black once it is normalized, R, G and B of 0 to 255."""
    red, green, blue = (round(255 * value) for value in data.mean)
    return red, green, blue


def _filters(data: DataConfig) -> list[v2.InterpolationMode]:
    """Return the filters that training pictures are resized with, by chance."""
    name = data.train_interpolation
    if name == "random":
        return [v2.InterpolationMode.BILINEAR, v2.InterpolationMode.BICUBIC]
    return [v2.InterpolationMode(data.interpolation if name == "same" else name)]


def mix(images_nchw: Tensor, targets: Tensor, augment: AugmentConfig, key: int) -> None:
    """Mix each picture of a batch and its target with another, in place.

    Args:
        images_nchw: (N, 3, S, S) float.
        targets: (N, K) float, shares of each class.
        augment: How: mixup, cutmix, or one of the two by chance; or not at all.
        key: Seed of what is random.
    """
    choices = [
        kind
        for kind, alpha in (("mixup", augment.mixup_alpha), ("cutmix", augment.cutmix_alpha))
        if alpha
    ]
    if not choices:
        return
    rng = np.random.default_rng(key)
    kind = choices[int(rng.integers(len(choices)))]
    alpha = augment.mixup_alpha if kind == "mixup" else augment.cutmix_alpha
    share = float(rng.beta(alpha, alpha))
    if kind == "mixup":
        _blend(images_nchw, share)
    else:
        share = _paste(images_nchw, share, rng)
    _blend(targets, share)


def _blend(values: Tensor, share: float) -> None:
    """Mix each with its neighbour, in place; the neighbours are taken before that."""
    neighbours = values.roll(1, 0)
    values.mul_(share).add_(neighbours, alpha=1 - share)


def _paste(images_nchw: Tensor, share: float, rng: np.random.Generator) -> float:
    """Put a box of the neighbour into each picture; return the share that stays."""
    height, width = images_nchw.shape[-2:]
    cut = (1 - share) ** 0.5
    middle_y, middle_x = int(rng.integers(height)), int(rng.integers(width))
    half_y, half_x = int(height * cut) // 2, int(width * cut) // 2
    top, bottom = max(middle_y - half_y, 0), min(middle_y + half_y, height)
    left, right = max(middle_x - half_x, 0), min(middle_x + half_x, width)
    box = (..., slice(top, bottom), slice(left, right))
    images_nchw[box] = images_nchw.roll(1, 0)[box]
    return 1 - (bottom - top) * (right - left) / (height * width)
