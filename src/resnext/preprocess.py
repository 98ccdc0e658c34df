"""Way 2: a picture of any size to the square that the network takes.

`PreprocessSpec` is the only definition of resizing, cropping and normalizing. `apply`
gives uint8 pixels identical to torchvision's `Resize` and `CenterCrop` on PIL images;
normalizing is the first node of the inference graph, built from `affine`.

Legend: N pictures, H height, W width, S input size, C channels (always R, G, B).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnext.errors import ConfigError, ImageError, closest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_STATISTIC = 1e6  # of mean and std, which are about 0.5 and 0.2
MAX_SIZE = 2048  # px; a side above this is a mistake, or a model file that wants the memory

Interpolation = Literal["bilinear", "bicubic"]
Mode = Literal["crop", "letterbox", "squash"]
Orientation = Literal["exif", "ignore"]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_REACH = {Image.Resampling.BILINEAR: 1.0, Image.Resampling.BICUBIC: 2.0}  # of the filter, px
_PRECISION_BITS = 22  # of Pillow's fixed-point weights: 32, less 8 of a pixel and 2 spare
_MAX_WHOLE_SIDE = 16_384  # px; of a resized picture with a longer side, only the crop is made


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessSpec:
    """How a picture becomes the input of one network.

    Args:
        input_size: Side S of the square input, 1 to 2048 pixels.
        resize: Short side in pixels after resizing and before the crop; a value below
            `input_size` leaves a black border. Equal to `input_size` for the other modes.
        interpolation: Filter of the resizing, antialiased as in Pillow.
        mode: "crop" keeps the aspect ratio and cuts out the center; "letterbox" keeps the
            aspect ratio and all of the picture, on a background of `fill`; "squash" keeps
            all of it and changes the aspect ratio.
        mean: Subtracted from R, G and B scaled to 0-1.
        std: What the difference is divided by; each from 1e-6 to 1e6.
        orientation: "exif" turns pictures the way the camera was held, "ignore" does not.
        fill: Background R, G and B of "letterbox", 0 to 255.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> PreprocessSpec(input_size=224, resize=256, interpolation="bilinear").crop_pct
        0.875
    """

    input_size: int
    resize: int
    interpolation: Interpolation
    mode: Mode = "crop"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    orientation: Orientation = "exif"
    fill: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        for name in ("input_size", "resize"):
            _check(name, getattr(self, name), _is_size, f"a whole number from 1 to {MAX_SIZE}")
        for name, choices in (
            ("interpolation", get_args(Interpolation)),
            ("mode", get_args(Mode)),
            ("orientation", get_args(Orientation)),
        ):
            _check(name, getattr(self, name), choices.__contains__, " or ".join(choices))
        _check("mean", self.mean, _three(_is_finite), "three numbers from -1e6 to 1e6")
        _check("std", self.std, _three(_is_positive), "three numbers from 1e-6 to 1e6")
        _check("fill", self.fill, _three(_is_byte), "three whole numbers from 0 to 255")
        if self.mode != "crop" and self.resize != self.input_size:
            raise ConfigError(
                f"resize is {self.resize}; expected {self.input_size}, the input_size, because"
                f" mode {self.mode!r} does not crop"
            )

    @property
    def crop_pct(self) -> float:
        """Input size over resize: the part of the short side that the crop keeps."""
        return self.input_size / self.resize

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values, every key present."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> PreprocessSpec:
        """Read what `to_json` wrote.

        Args:
            settings: A JSON object; keys with a default may be absent.

        Raises:
            ConfigError: A key is unknown or missing, or a value is out of range.
        """
        if not isinstance(settings, Mapping):
            raise ConfigError(f"preprocess is {settings!r}; expected an object")
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                near = closest(str(key), known)
                raise ConfigError(
                    f"preprocess has an unknown key {key!r}; expected {', '.join(known)}",
                    hint=f"did you mean {near[0]!r}?" if near else "",
                )
        missing = [key for key in ("input_size", "resize", "interpolation") if key not in settings]
        if missing:
            raise ConfigError(f"preprocess lacks {', '.join(missing)}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in settings.items()
        }
        return cls(**values)


def _check(name: str, value: Any, accepts: Callable[[Any], bool], expected: str) -> None:
    if not accepts(value):
        raise ConfigError(f"{name} is {value!r}; expected {expected}")


def _three(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and len(value) == 3 and all(map(accepts, value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return _is_whole(value) and 1 <= value <= MAX_SIZE


def _is_byte(value: Any) -> bool:
    return _is_whole(value) and 0 <= value <= 255


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and -MAX_STATISTIC <= value <= MAX_STATISTIC  # NaN is not either


def _is_positive(value: Any) -> bool:
    return _is_finite(value) and value >= 1 / MAX_STATISTIC


def usual(input_size: int) -> PreprocessSpec:
    """Return the test setting of the paper, for networks of which no other is known.

    Args:
        input_size: Side in pixels: the short side of the picture is resized to 8/7 of it,
            256 for 224; the 32 pixels of CIFAR are taken whole.
    """
    resize = input_size if input_size <= 32 else input_size * 8 // 7
    return PreprocessSpec(input_size=input_size, resize=resize, interpolation="bilinear")


def apply(image_hwc: Image.Image | NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Resize and crop, letterbox or squash one picture to the input size.

    Args:
        image_hwc: RGB picture as `images.open_rgb` gives it, or (H, W, 3) uint8 array.
        spec: The settings.

    Returns:
        (S, S, 3) uint8, C-contiguous.

    Raises:
        ImageError: The picture is not RGB or not uint8, or has no pixels.
    """
    image = _as_rgb(image_hwc)
    size, resample = spec.input_size, _RESAMPLING[spec.interpolation]
    if spec.mode == "crop":
        image = _resize_and_crop(image, spec.resize, size, resample)
    elif spec.mode == "letterbox":
        image = _letterbox(image, size, resample, spec.fill)
    else:
        image = image.resize((size, size), resample)
    return np.array(image)


def normalize(batch_nhwc: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.float32]:
    """Scale pixels to 0-1, subtract the mean and divide by the standard deviation.

    Inference does not need it (the graph does the same), training and notebooks do.

    Args:
        batch_nhwc: (..., 3) uint8 pixels.
        spec: Gives the mean and the standard deviation.

    Returns:
        float32 of the same shape, the exact values rounded once.

    Raises:
        ImageError: The array is not uint8 or has not three channels.
    """
    if batch_nhwc.dtype != np.uint8 or batch_nhwc.ndim == 0 or batch_nhwc.shape[-1] != 3:
        raise ImageError("array", f"{_describe(batch_nhwc)}; expected (..., 3) uint8")
    scale, shift = affine(spec)
    # A pixel has only 256 values: looking them up is exact and needs no float64 batch.
    table = (np.arange(256)[:, None] * scale + shift).astype(np.float32)
    result = np.empty(batch_nhwc.shape, np.float32)
    for channel in range(3):
        result[..., channel] = table[:, channel][batch_nhwc[..., channel]]
    return result


def affine(spec: PreprocessSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and shift, (3,) each, with normalized = pixel * scale + shift."""
    mean, std = np.array(spec.mean, np.float64), np.array(spec.std, np.float64)
    return 1 / (255 * std), -mean / std


def _as_rgb(image_hwc: Image.Image | NDArray[np.uint8]) -> Image.Image:
    if isinstance(image_hwc, Image.Image):
        if image_hwc.mode != "RGB" or 0 in image_hwc.size:
            raise ImageError(
                "PIL image",
                f"its mode is {image_hwc.mode} and its size {image_hwc.size}; expected RGB pixels",
                hint="open it with resnext.images.open_rgb, which converts every mode",
            )
        return image_hwc
    shape = image_hwc.shape
    if image_hwc.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ImageError("array", f"{_describe(image_hwc)}; expected (H, W, 3) uint8")
    return Image.fromarray(image_hwc)


def _describe(array: NDArray[Any]) -> str:
    return f"its shape is {array.shape} and its type {array.dtype}"


def view(picture_size: tuple[int, int], spec: PreprocessSpec) -> tuple[float, float, float, float]:
    """Say which part of a picture the network sees.

    Args:
        picture_size: (W, H) of the upright picture.
        spec: The settings.

    Returns:
        Left, top, right and bottom of the square input in pixels of the picture, whole numbers
        between pixels; beyond the picture where the input has a border.
    """
    size, (width, height) = spec.input_size, picture_size
    if spec.mode == "squash":
        return 0.0, 0.0, float(width), float(height)
    fit = _resized if spec.mode == "crop" else _fitted
    new_width, new_height = fit(picture_size, spec.resize)
    left, top = (_offset(side, size) for side in (new_width, new_height))
    across, down = width / new_width, height / new_height
    return left * across, top * down, (left + size) * across, (top + size) * down


def _offset(length: int, size: int) -> int:
    """Return where the input begins along one side of the resized picture."""
    return _center(length, size)[0] if length > size else -((size - length) // 2)


def _fitted(picture_size: tuple[int, int], size: int) -> tuple[int, int]:
    longest = max(picture_size)
    width, height = (max(1, round(side * size / longest)) for side in picture_size)
    return width, height


def _resized(picture_size: tuple[int, int], resize: int) -> tuple[int, int]:
    width, height = picture_size
    short, long = min(width, height), max(width, height)
    new_long = int(resize * long / short)  # torchvision truncates, it does not round
    return (resize, new_long) if width <= height else (new_long, resize)


def _letterbox(
    image: Image.Image, size: int, resample: Image.Resampling, fill: tuple[int, int, int]
) -> Image.Image:
    width, height = _fitted(image.size, size)
    canvas = Image.new("RGB", (size, size), fill)
    resized = image.resize((width, height), resample)
    canvas.paste(resized, ((size - width) // 2, (size - height) // 2))
    return canvas


def _resize_and_crop(
    image: Image.Image, resize: int, size: int, resample: Image.Resampling
) -> Image.Image:
    """Do what torchvision does: the short side to `resize`, then the center, `size` square."""
    new_size = _resized(image.size, resize)
    left, right = _center(new_size[0], size)
    top, bottom = _center(new_size[1], size)
    if max(new_size) > _MAX_WHOLE_SIDE:
        image = _resize_part(image, new_size, (left, top, right, bottom), resample)
    else:
        # One call, though two (rows, cropped, then columns) would save 0.2 of 1.4 ms: which
        # pass comes first shows in the rounding and is Pillow's choice, new in version 13.
        image = image.resize(new_size, resample).crop((left, top, right, bottom))
    if image.size == (size, size):
        return image
    canvas = Image.new("RGB", (size, size))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def _center(length: int, size: int) -> tuple[int, int]:
    """Return the first pixel of a center crop along one side, and the one after its last."""
    if length <= size:
        return 0, length
    start = round((length - size) / 2)  # a half goes to the even number, as in torchvision
    return start, start + size


def _resize_part(
    image: Image.Image,
    new_size: tuple[int, int],
    box: tuple[int, int, int, int],
    resample: Image.Resampling,
) -> Image.Image:
    """Return `image.resize(new_size, resample).crop(box)` without the pixels outside `box`.

    A strip of 1x30000 pixels resized to a width of 256 would be 256x7,680,000: 8 GB. The
    arithmetic is that of Pillow's Resample.c, one pass along each side.
    """
    (width, height), (new_width, new_height) = image.size, new_size
    left, top, right, bottom = box
    columns, column_weights = _taps(width, new_width, left, right, resample)
    rows, row_weights = _taps(height, new_height, top, bottom, resample)
    left, top = int(columns.min()), int(rows.min())
    needed = image.crop((left, top, int(columns.max()) + 1, int(rows.max()) + 1))
    pixels = np.asarray(needed)
    # Pillow 13 starts with the height where that loses more than twice what the width does
    # (python-pillow/Pillow#9549); each pass rounds to whole levels, so the order shows.
    height_first = new_height < height and height - new_height > 2 * (width - new_width)
    for along_height in (height_first, not height_first):
        if along_height:
            pixels = _weigh(pixels.swapaxes(0, 1), rows - top, row_weights).swapaxes(0, 1)
        else:
            pixels = _weigh(pixels, columns - left, column_weights)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _taps(
    old_length: int, new_length: int, start: int, stop: int, resample: Image.Resampling
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Compute which old pixels make up the new pixels `start` to `stop`, and how much of each.

    Returns:
        Indices of old pixels and their weights times 2**22, (taps, stop - start) each.
    """
    scale = old_length / new_length
    stretch = max(scale, 1.0)  # of the filter: above 1 when shrinking, against aliasing
    reach = _REACH[resample] * stretch
    center = (np.arange(start, stop) + 0.5) * scale
    first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((center + reach + 0.5).astype(np.int64), old_length)
    index = np.arange((end - first).max())[:, None] + first
    share = np.where(index < end, _filter((index - center + 0.5) * (1 / stretch), resample), 0.0)
    share /= share.cumsum(axis=0)[-1]  # cumsum adds in Pillow's order, sum does not
    weights = np.trunc(share * 2**_PRECISION_BITS + np.copysign(0.5, share))
    return np.minimum(index, old_length - 1), weights.astype(np.int64)


def _weigh(
    pixels: NDArray[np.uint8], index: NDArray[np.int64], weights: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Sum the old pixels along the second axis into new ones, rounded to whole levels."""
    half = 2 ** (_PRECISION_BITS - 1)
    total = np.full((pixels.shape[0], index.shape[1], 3), half, np.int64)
    for tap, weight in zip(index, weights, strict=True):
        total += pixels[:, tap] * weight[:, None]
    levels: NDArray[np.uint8] = np.clip(total >> _PRECISION_BITS, 0, 255).astype(np.uint8)
    return levels


def _filter(x: NDArray[np.float64], resample: Image.Resampling) -> NDArray[np.float64]:
    """Evaluate Pillow's triangle or cubic (a = -0.5) filter, term by term as it does."""
    x = np.abs(x)
    if resample is Image.Resampling.BILINEAR:
        return np.maximum(1 - x, 0.0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    weight: NDArray[np.float64] = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weight
