"""What timm's RandAugment does to a picture, by name and level.

Fifteen operations, each of which does more the higher the level, 0 to 10: the "increasing"
set of timm's `rand-...-inc1`. Needs Pillow only.

Source: arXiv:1909.13719; magnitudes as in timm, timm/data/auto_augment.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageOps

MAX_LEVEL = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Strength:
    """How much an operation does.

    Args:
        level: 0 to 10.
        sign: 1 or -1: to which side it turns, or whether it adds or takes away.
        fill: Color of what comes in from outside, R, G and B of 0 to 255.
        filter: Of turning, shearing and moving.
    """

    level: float
    sign: int = 1
    fill: tuple[int, int, int] = (128, 128, 128)
    filter: Image.Resampling = Image.Resampling.BICUBIC

    @property
    def share(self) -> float:
        """The level as a share of the highest."""
        return self.level / MAX_LEVEL

    @property
    def factor(self) -> float:
        """Factor of colors and the like: 1 changes nothing."""
        return max(0.1, 1 + self.sign * 0.9 * self.share)

    def steps(self, most: int) -> int:
        """Return a whole number up to `most`."""
        return int(self.share * most)


Operation = Callable[[Image.Image, Strength], Image.Image]


def _shift(image: Image.Image, by: Strength, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        resample=by.filter,
        fillcolor=by.fill,
    )


def _rotate(image: Image.Image, by: Strength) -> Image.Image:
    return image.rotate(by.sign * by.share * 30, resample=by.filter, fillcolor=by.fill)


def _shear_x(image: Image.Image, by: Strength) -> Image.Image:
    return _shift(image, by, (1, by.sign * by.share * 0.3, 0, 0, 1, 0))


def _shear_y(image: Image.Image, by: Strength) -> Image.Image:
    return _shift(image, by, (1, 0, 0, by.sign * by.share * 0.3, 1, 0))


def _translate_x(image: Image.Image, by: Strength) -> Image.Image:
    return _shift(image, by, (1, 0, by.sign * by.share * 0.45 * image.width, 0, 1, 0))


def _translate_y(image: Image.Image, by: Strength) -> Image.Image:
    return _shift(image, by, (1, 0, 0, 0, 1, by.sign * by.share * 0.45 * image.height))


def _posterize(image: Image.Image, by: Strength) -> Image.Image:
    step = 2 ** (4 + by.steps(4))  # 4 bits stay, or fewer, down to none
    return image.point([value // step * step for value in range(256)] * 3)


def _solarize(image: Image.Image, by: Strength) -> Image.Image:
    return ImageOps.solarize(image, 256 - by.steps(256))


def _solarize_add(image: Image.Image, by: Strength) -> Image.Image:
    added = by.steps(110)
    brighter = [min(value + added, 255) if value < 128 else value for value in range(256)]
    return image.point(brighter * 3)


def _color(image: Image.Image, by: Strength) -> Image.Image:
    return ImageEnhance.Color(image).enhance(by.factor)


def _contrast(image: Image.Image, by: Strength) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(by.factor)


def _brightness(image: Image.Image, by: Strength) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(by.factor)


def _sharpness(image: Image.Image, by: Strength) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(by.factor)


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": _color,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}
