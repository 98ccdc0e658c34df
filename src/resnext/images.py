"""Way 1: one picture of any kind to upright RGB pixels.

Whatever is wrong with a picture ends as an `ImageError` that names it. Pillow's plugins
are called one by one, by what the file starts with: `Image.open` would warn of large
pictures, and warnings cannot be caught safely while other threads decode.
"""

from __future__ import annotations

import contextlib
import http
import importlib
import io
import os
import re
import string
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from resnext import bombs
from resnext.errors import ImageError, counted
from resnext.sources import (
    SIGNATURE_LENGTH,
    Header,
    NotAFileError,
    Source,
    iter_sources,
    locate,
    open_file,
    sniff,
)

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "Header",
    "Source",
    "decode",
    "is_url",
    "iter_sources",
    "open_rgb",
    "read",
    "read_bytes",
]

MAX_PIXELS = 64_000_000  # 256 MB as Pillow stores RGB
MAX_SIDE = 30_000  # px
MAX_BYTES = 256 * 2**20  # of a file: 64 megapixels at 32 bits
MAX_URL_BYTES = 16 * 2**20
URL_REDIRECTS = 3
URL_SILENCE, URL_TIME = 10.0, 30.0  # longest pause and longest transfer, in seconds

Orientation = Literal["exif", "ignore"]

# Imported when the first such file comes: JPEG's takes 5 ms, the other six 8 ms together.
_PLUGINS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
}
# An opened image or file of the caller's may come more than once, to several threads: it has
# one position, and Pillow's `load` is not made for two callers.
_SHARED = threading.Lock()
_BAND_PIXELS = 500_000  # converted at a time, so that conversions add little memory
_ORIENTATION_TAG = 0x0112
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_UNDO = {6: 8, 8: 6}  # the others undo themselves


def preload() -> None:
    """Import what the first JPEG will need, which is what most pictures are."""
    importlib.import_module(_PLUGINS["JPEG"][0])


def open_rgb(source: Any, *, orientation: Orientation = "exif") -> Image.Image:
    """Read one picture as RGB.

    Transparent parts become white, 16-bit and floating-point levels are scaled to 8 bits,
    of an animation the first frame is taken.

    Args:
        source: A `Source`, a path, an http(s) address, the bytes of an encoded picture, a
            binary file object (read from its start), a PIL image, or a uint8 array, (H, W, 3)
            RGB, (H, W, 4) with alpha or (H, W) grey.
        orientation: "exif" turns the picture the way the camera was held, "ignore" does not.

    Returns:
        An image in mode RGB of at most 64 megapixels and 30,000 pixels a side. It may be
        the PIL image that was given.

    Raises:
        ImageError: The picture is missing, damaged, too large or of a format not supported.
    """
    name = _name(source)
    with _errors_named(name):
        if isinstance(source, Image.Image):
            return _from_image(source, orientation)
        if isinstance(source, np.ndarray):
            return _from_array(source)
        with _open(source) as file:
            return _decode(file, orientation)[0]


def decode(source: Any, *, orientation: Orientation = "exif") -> tuple[Image.Image, Header]:
    """Return what `open_rgb` returns, and what the file says of the picture.

    Args:
        source: As for `open_rgb`, but no PIL image or array: these have no file.
        orientation: As for `open_rgb`.

    Raises:
        ImageError: As for `open_rgb`.
    """
    with _errors_named(_name(source)), _open(source) as file:
        return _decode(file, orientation)


def read(source: Any, *, orientation: Orientation = "exif") -> NDArray[np.uint8]:
    """Read one picture as an array.

    Args:
        source: As for `open_rgb`.
        orientation: As for `open_rgb`.

    Returns:
        (H, W, 3) uint8, RGB, C-contiguous.

    Raises:
        ImageError: As for `open_rgb`.
    """
    image = open_rgb(source, orientation=orientation)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, band in _bands(image):  # at once, Pillow would hold the bytes three times
        pixels[top : top + band.height] = np.asarray(band)
    return pixels


def read_bytes(source: Any) -> bytes:
    """Read an encoded picture without decoding it.

    Args:
        source: As for `open_rgb`, but no PIL image or array: these have no bytes.

    Returns:
        At most one byte more than `open_rgb` takes.

    Raises:
        ImageError: There is nothing that can be read.
    """
    with _errors_named(_name(source)), _open(source) as file:
        return file.read(MAX_BYTES + 1)


class _Refusal(Exception):
    """Why a picture is refused, before it is known whose error that becomes."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@contextlib.contextmanager
def _errors_named(name: str) -> Iterator[None]:
    try:
        yield
    except _Refusal as error:
        raise ImageError(name, error.reason, hint=error.hint) from error.__cause__
    except bombs.CostlyError as error:
        raise ImageError(name, str(error)) from error
    except MemoryError as error:
        raise ImageError(name, "does not fit in memory") from error
    except Exception as error:
        # Plugins raise what their parsing runs into: OSError, ValueError, SyntaxError,
        # TypeError, IndexError, KeyError, ZeroDivisionError, struct.error and more.
        raise ImageError(name, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        named = os.path.splitext(os.fsdecode(error.filename or ""))[1]
        return "there is no such file" + ("" if named else " or folder")
    if isinstance(error, NotAFileError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {error.strerror}"
    text = (str(error) or type(error).__name__).splitlines()[0][:200]
    if "truncated" in text.lower() or "not enough" in text.lower():
        return "is truncated"
    return f"is damaged or of a kind not supported: {text}"


def is_url(source: Any) -> bool:
    """Tell whether reading this source would fetch it from an http or https address."""
    if isinstance(source, str):
        source = locate(source)
    return isinstance(source, Source) and source.is_url


def _name(source: Any) -> str:
    if isinstance(source, Source):
        return source.name
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    name = getattr(source, "filename", "") or getattr(source, "name", "")
    return name if isinstance(name, str) and name else type(source).__name__


def _open(source: Any) -> BinaryIO:
    if isinstance(source, str | os.PathLike):
        source = locate(os.fsdecode(source))
    if isinstance(source, Source):
        if source.problem:
            raise _Refusal(source.problem)
        if source.is_url:
            return io.BytesIO(_fetch(source.name))
        return open_file(source.name)
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if isinstance(source, io.TextIOBase):
        raise _Refusal("is open as text", "open it in binary mode, 'rb'")
    if hasattr(source, "read"):
        with _SHARED:
            if hasattr(source, "seekable") and source.seekable():
                source.seek(0)
            return io.BytesIO(source.read(MAX_BYTES + 1))
    raise _Refusal(
        f"is a {type(source).__name__}; expected a path, address, bytes, binary file, PIL image"
        " or uint8 array"
    )


def _fetch(url: str) -> bytes:
    # With its TLS it takes 25 ms to import: only for those who have an address.
    from resnext import transport

    headers = {"User-Agent": "resnext", "Accept": "image/*", "Accept-Encoding": "identity"}
    # Addresses are often pasted with spaces and letters that HTTP does not allow.
    request = transport.Request(url=urllib.parse.quote(url, safe=string.punctuation))
    end = time.monotonic() + URL_TIME
    body = io.BytesIO()
    try:
        response, _ = transport.get(
            request, headers, timeout=URL_SILENCE, max_redirects=URL_REDIRECTS
        )
        with response:
            if response.status != http.HTTPStatus.OK:
                raise _Refusal(f"the server answered {response.status} {response.reason}")
            for chunk in transport.chunks(response):
                body.write(chunk)
                if body.tell() > MAX_URL_BYTES:
                    raise _Refusal(f"is larger than {MAX_URL_BYTES >> 20} MiB")
                if time.monotonic() > end:
                    raise _Refusal(f"did not arrive within {URL_TIME:.0f} s")
    except transport.Fault as error:
        raise _Refusal(f"cannot be fetched: {error}") from error
    return body.getvalue()


def _decode(file: BinaryIO, orientation: Orientation) -> tuple[Image.Image, Header]:
    """Read an encoded picture; only this sees bytes that nobody has checked."""
    head = file.read(SIGNATURE_LENGTH)
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise _Refusal("is empty")
    if size > MAX_BYTES:
        raise _Refusal(f"has {counted(size, 'byte')}; at most {MAX_BYTES:,} are read")
    format = sniff(head)
    if format is None:
        raise _Refusal(
            "is not a picture that can be read: expected JPEG, PNG, GIF, BMP, WebP, TIFF or PPM",
            "convert it to JPEG or PNG",
        )
    exif = None
    if format == "JPEG":
        file.seek(0)
        file = io.BytesIO(file.read())
        exif = _take_exif(file)
    bombs.check(format, file)
    module, plugin = _PLUGINS[format]
    image: ImageFile.ImageFile = getattr(importlib.import_module(module), plugin)(file, "")
    _check_size(image.width, image.height)
    bombs.check_opened(image, size)
    stored = (image.mode, _depth(image), image.has_transparency_data, *image.size)
    if format == "TIFF":
        turn = _keep_orientation(image)
        image.load()  # turns it
        rgb = _to_rgb(image)
        rgb = rgb if orientation == "exif" else _turn(rgb, _UNDO.get(turn, turn))
    else:
        image.load()
        turn = _orientation(exif or image.info.get("exif"), image.info)
        rgb = _turn(_to_rgb(image), turn if orientation == "exif" else 0)
    # What is upright now must not be turned once more by whoever looks at its metadata.
    rgb.info = {}
    return rgb, Header(format, *stored, turn)


def _depth(image: ImageFile.ImageFile) -> int:
    """Return the bits of a level; Pillow's mode hides those of colors with 16."""
    if image.mode == "1":
        return 1
    if image.mode.startswith("I;16") or any(";16" in str(tile) for tile in image.tile[:1]):
        return 16
    return 32 if image.mode in ("I", "F") else 8


def _take_exif(file: io.BytesIO) -> bytes | None:
    """Take the Exif out of a JPEG: Pillow would parse it for nothing and warn of its flaws."""
    data, taken = file.getvalue(), None
    for marker, place in bombs.jpeg_segments(data):
        if marker == 0xDA:  # the pixels
            break
        if marker == 0xE1 and data.startswith(b"Exif\0\0", place + 2):
            taken = (
                taken or data[place + 2 : place + int.from_bytes(data[place : place + 2], "big")]
            )
            file.getbuffer()[place + 2] = 0  # in this copy it is called something else now
    return taken


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise _Refusal(f"has no pixels: {width}x{height}")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise _Refusal(
            f"is too large: {width}x{height}; at most {MAX_PIXELS // 10**6} megapixels and"
            f" {MAX_SIDE:,} pixels a side are read",
            "make it smaller first: networks see a few hundred pixels a side",
        )


def _orientation(exif: Any, info: Mapping[Any, Any]) -> int:
    """Find the orientation as Pillow's `exif_transpose` does: in Exif, else in XMP; or 0."""
    if exif is None and "Raw profile type exif" in info:  # ImageMagick's way in PNG
        with contextlib.suppress(ValueError):
            exif = bytes.fromhex("".join(str(info["Raw profile type exif"]).split("\n")[3:]))
    found = _exif_orientation(exif.removeprefix(b"Exif\0\0")) if isinstance(exif, bytes) else None
    if found is not None:
        return found
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    match = _XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else xmp)
    return int(match[1]) if match else 0


def _exif_orientation(exif: bytes) -> int | None:
    order = "<" if exif[:2] == b"II" else ">"
    try:
        (offset,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, offset)
        for index in range(count):
            entry = struct.unpack_from(order + "HHIH", exif, offset + 2 + 12 * index)
            if entry[:3] == (_ORIENTATION_TAG, 3, 1):  # one 16-bit number
                return int(entry[3])
    except struct.error:  # cut short
        return None
    return None


def _keep_orientation(image: Image.Image) -> int:
    """Return the orientation of an opened TIFF, by which Pillow turns it when it loads.

    All other metadata is dropped: what is wrong with it must not decide about the pixels.
    """
    with contextlib.suppress(Exception):
        image.getexif()  # keeps what it has read so far
    exif = image.getexif()
    found = exif.get(_ORIENTATION_TAG)
    exif.clear()
    if not isinstance(found, int):
        return 0
    exif[_ORIENTATION_TAG] = found
    return found


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _from_image(image: Image.Image, orientation: Orientation) -> Image.Image:
    _check_size(image.width, image.height)
    with _SHARED:
        image.load()
    turn = 0
    if orientation == "exif":
        with contextlib.suppress(Exception):  # as above
            turn = int(image.getexif().get(_ORIENTATION_TAG, 0))
    rgb = _turn(_to_rgb(image), turn)
    if rgb is not image:
        rgb.info = {}
    return rgb


def _from_array(array: NDArray[Any]) -> Image.Image:
    shape = array.shape
    if array.dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] not in ((), (3,), (4,)):
        raise _Refusal(
            f"has shape {shape} and type {array.dtype}; expected uint8, (H, W, 3) RGB, (H, W, 4)"
            " with alpha or (H, W) grey",
            "move the channels last with array.transpose(1, 2, 0)"
            if len(shape) == 3 and shape[0] in (3, 4)
            else "",
        )
    _check_size(shape[1], shape[0])
    return _to_rgb(Image.fromarray(array))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _by_bands(image, _level_scaler(image))
    if image.has_transparency_data:
        return _by_bands(image, _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(band: Image.Image) -> Image.Image:
    rgba = band.convert("RGBA")
    white = Image.new("RGBA", band.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _level_scaler(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return what makes 8-bit RGB of levels that are 16-bit, 32-bit or floating-point.

    The range is 0-65535 for whole numbers and 0-1 or 0-255 for others, or, for levels
    outside of that, from the lowest to the highest.
    """
    low, high = _level_range(image)

    def to_rgb(band: Image.Image) -> Image.Image:
        levels = (np.asarray(band, np.float64) - low) * 255 / (high - low)
        levels = np.clip(np.rint(np.nan_to_num(levels)), 0, 255)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")

    return to_rgb


def _level_range(image: Image.Image) -> tuple[float, float]:
    usual = ((0.0, 1.0), (0.0, 255.0)) if image.mode == "F" else ((0.0, 65535.0),)
    if image.mode.startswith("I;16"):
        return usual[0]
    # Of a picture with one band, which these have, it is a pair of numbers.
    low, high = map(float, cast("tuple[float, float]", image.getextrema()))
    if not (isfinite(low) and isfinite(high)):
        raise _Refusal("has levels that are infinite or not a number")
    for first, last in usual:
        if first <= low and high <= last:
            return first, last
    return low, max(high, low + 1)


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    rgb = Image.new("RGB", image.size)
    for top, band in _bands(image):
        rgb.paste(convert(band), (0, top))
    return rgb


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))
