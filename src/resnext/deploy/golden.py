"""Golden pictures: drawn here, the same everywhere, awkward on purpose.

They go through what commonly differs between programs: odd sizes, strips, one pixel, fine
patterns, camera orientations, grey, palettes, transparency, 16 bits, CMYK. Their pixels are
whole-number arithmetic; all are stored without loss but the photographs, which are JPEG.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

_ORIENTATION_TAG = 0x0112

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Golden:
    """One picture as a file would hold it.

    Args:
        name: What it is, and what is awkward about it.
        content: The encoded picture, PNG or JPEG.
    """

    name: str
    content: bytes


def pictures() -> list[Golden]:
    """Draw all golden pictures, in a few hundredths of a second."""
    made = [
        Golden(f"{name}-{image.width}x{image.height}", _png(image))
        for name, image in (*_patterns(), *_modes())
    ]
    made += [
        Golden("photograph-320x213", _jpeg(scene(320, 213))),
        Golden("photograph-portrait-150x225", _jpeg(scene(150, 225, seed=1))),
        Golden("photograph-cmyk-96x64", _jpeg(scene(96, 64, seed=2).convert("CMYK"))),
    ]
    made += [
        Golden(f"photograph-turned-{turn}-{90 + turn}x61", _jpeg(scene(90 + turn, 61), turn=turn))
        for turn in range(2, 9)
    ]
    return made


def scene(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Draw something with the statistics of a photograph: a sky, hills, texture, shades.

    Args:
        width: In pixels.
        height: In pixels.
        seed: Another one is another scene.
    """
    down, right = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    pixels = np.stack([90 + down * 120 // height, 140 + down * 60 // height, 230 - right // 9], -1)
    for color in rng.integers(30, 200, (4, 3)):  # each hill hides some of those behind it
        x, y = rng.integers(0, width), rng.integers(height // 3, height)
        radius = int(rng.integers(height // 6 + 1, height // 2 + 2))
        distance = (right - x) ** 2 + (down - y) ** 2 * 2
        shade = color - (distance * 40 // radius**2)[..., None]
        pixels = np.where((distance < radius**2)[..., None], shade, pixels)
    pixels = pixels + rng.integers(-9, 10, (height, width, 1))
    return _image(pixels)


def _patterns() -> list[tuple[str, Image.Image]]:
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3))
    return [
        ("gradient", _image(_gradient(256, 192))),
        ("noise", _image(noise)),
        ("checkerboard", _image(_checkerboard(301, 200, cell=16))),
        ("checkerboard-of-pixels", _image(_checkerboard(257, 257, cell=1))),
        ("black", _image(np.zeros((64, 64, 3), np.int64))),
        ("white", _image(np.full((65, 63, 3), 255))),
        ("one-pixel", _image(np.full((1, 1, 3), (200, 30, 90)))),
        ("small", _image(noise[:12, :17])),
        ("strip", _image(_gradient(600, 9))),
        ("pole", scene(5, 420)),
        ("levels", _image(np.arange(256).reshape(16, 16, 1).repeat(3, axis=-1))),
    ]


def _modes() -> list[tuple[str, Image.Image]]:
    base = scene(121, 77, seed=3)
    clear = Image.fromarray(_gradient(121, 77)[..., 0].astype(np.uint8))
    deep = np.arange(66 * 100, dtype=np.uint16).reshape(66, 100) * 9
    convert: dict[str, Callable[[], Image.Image]] = {
        "grey": lambda: base.convert("L"),
        "grey-and-alpha": lambda: Image.merge("LA", (base.convert("L"), clear)),
        "alpha": lambda: Image.merge("RGBA", (*base.split(), clear)),
        "palette": lambda: base.quantize(16, dither=Image.Dither.NONE),
        "bilevel": lambda: base.convert("1", dither=Image.Dither.NONE),
        "16-bit": lambda: Image.fromarray(deep),
    }
    return [(name, make()) for name, make in convert.items()]


def _gradient(width: int, height: int) -> npt.NDArray[np.int64]:
    down, right = np.mgrid[:height, :width]
    first, second = right * 255 // max(width - 1, 1), down * 255 // max(height - 1, 1)
    pixels: npt.NDArray[np.int64] = np.stack([first, second, (first + second) // 2], -1)
    return pixels


def _checkerboard(width: int, height: int, *, cell: int) -> npt.NDArray[np.int64]:
    down, right = np.mgrid[:height, :width]
    dark = ((down // cell + right // cell) % 2)[..., None]
    pixels: npt.NDArray[np.int64] = np.where(dark, (20, 40, 60), (250, 240, 200))
    return pixels


def _image(pixels: npt.NDArray[np.int64]) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _jpeg(image: Image.Image, *, turn: int = 1) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[_ORIENTATION_TAG] = turn
    image.save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()
