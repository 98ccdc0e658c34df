"""Refuse pictures that are cheap to send and dear to decode.

The number of pixels is not all that a picture can cost: each rule here stands for a small
file that kept Pillow 13.0.0 busy for 5 to 60 seconds or took more than a gigabyte
(`tests/attacks` makes them). Headers are walked, nothing is decoded.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from PIL import ImageFile

# Each bound keeps what it bounds below 3 seconds on one slow core; real pictures stay far below.
MAX_JPEG_SCANS = 64  # a progressive picture has 10; each costs 35 ms at 64 megapixels
MAX_JPEG_SEGMENTS = 10_000
MAX_WEBP_PIXELS = 32_000_000  # 500 MB: libwebp keeps two frames, Pillow makes two more
MAX_PNG_CHUNKS = 500_000  # 4 GB in the usual 8 KB chunks
MAX_GIF_BLOCKS = 500_000  # before the first frame
MAX_TIFF_ENTRIES = 4096
MAX_TIFF_VALUES = 1_000_000  # of one entry; a 64-megapixel file in 16x16 tiles has 250,000
MAX_PPM_COMMENTS = 1000  # in plain text; each copies the rest of the block
# What Pillow decodes in Python: bytes of the file at 0.2 us, samples of the result at 0.7 us.
MAX_PYTHON_BYTES = 8 * 2**20
MAX_PYTHON_SAMPLES = 4_000_000

_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not stuffing, not a restart
_PPM_SIZE = re.compile(rb"P[1-6](?:(?:\s|#[^\r\n]*[\r\n])+\d+){2}")
_PPM_HEADER_LENGTH = 65_536


class CostlyError(ValueError):
    """Decoding this would take too long or too much memory."""


def check(format: str, file: BinaryIO) -> None:
    """Walk the headers of a picture; the file is left at its start.

    Args:
        format: As `sources.sniff` names it.
        file: Seekable.

    Raises:
        CostlyError: Decoding it would take too long or too much memory.
        ValueError, struct.error: The headers make no sense.
    """
    walk = {"JPEG": _jpeg, "PNG": _png, "GIF": _gif, "TIFF": _tiff, "PPM": _ppm}
    file.seek(0)
    if format in walk:
        walk[format](file)
    file.seek(0)


def check_opened(image: ImageFile.ImageFile, num_bytes: int) -> None:
    """Look at how Pillow is going to decode a picture that it has opened but not loaded.

    Args:
        image: What a plugin made of the headers.
        num_bytes: Length of the file.

    Raises:
        CostlyError: Pillow would decode much of it in Python, or hold many copies.
    """
    if image.format == "WEBP":
        _limit(image.width * image.height, MAX_WEBP_PIXELS, "pixels as WebP")
    codecs = {tile[0] for tile in image.tile}
    if codecs & {"bmp_rle", "ppm_plain"}:
        _limit(num_bytes, MAX_PYTHON_BYTES, "bytes of run lengths or plain text")
    if "ppm" in codecs:
        samples = image.width * image.height * len(image.getbands())
        _limit(samples, MAX_PYTHON_SAMPLES, "samples in a range other than 0 to 255")


def _limit(count: int, most: int, what: str) -> None:
    if count > most:
        raise CostlyError(f"has more than {most:,} {what}, which is not safe to decode")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each segment of a JPEG up to its end: marker, and where its length stands."""
    position = 2
    while (found := _JPEG_MARKER.search(data, position)) is not None:
        marker, position = data[found.start() + 1], found.end()
        if marker == 0xD9:  # end of image; what follows is another one, or a film
            return
        if marker not in (0x01, 0xD8):  # these have no length
            yield marker, position
            position += max(2, int.from_bytes(data[position : position + 2], "big"))


def _jpeg(file: BinaryIO) -> None:
    scans = 0
    for count, (marker, _) in enumerate(jpeg_segments(file.read())):
        scans += marker == 0xDA
        _limit(scans, MAX_JPEG_SCANS, "scans")
        _limit(count, MAX_JPEG_SEGMENTS, "segments")


def _png(file: BinaryIO) -> None:
    file.seek(8)
    count = 0
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        count += 1
        _limit(count, MAX_PNG_CHUNKS, "chunks")
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)


def _gif(file: BinaryIO) -> None:
    flags = file.read(13)[10]
    if flags & 0x80:
        file.seek(3 << ((flags & 7) + 1), os.SEEK_CUR)
    count = 0
    while (kind := file.read(1)) and kind not in b",;":
        count += 1
        if kind == b"!":
            file.seek(1, os.SEEK_CUR)
            while (size := file.read(1)) and size != b"\0":
                count += 1
                _limit(count, MAX_GIF_BLOCKS, "blocks before the first frame")
                file.seek(size[0], os.SEEK_CUR)
        _limit(count, MAX_GIF_BLOCKS, "blocks before the first frame")


def _tiff(file: BinaryIO) -> None:
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = 43 in (head[2], head[3])
    start, counter, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    (offset,) = struct.unpack_from(order + start, head, 8 if big else 4)
    file.seek(min(offset, 2**62))
    (count,) = struct.unpack(order + counter, file.read(struct.calcsize("=" + counter)))
    _limit(count, MAX_TIFF_ENTRIES, "directory entries")
    for _ in range(count):
        row = file.read(20 if big else 12)
        tag, kind, values = struct.unpack_from(order + entry, row)
        # Bytes and text stay what they are; anything else, and every list of places,
        # becomes one Python object a value.
        if kind not in (1, 2, 7) or tag in (273, 279, 324, 325):
            _limit(values, MAX_TIFF_VALUES, f"values in tag {tag}")


def _ppm(file: BinaryIO) -> None:
    head = file.read(_PPM_HEADER_LENGTH)
    if _PPM_SIZE.match(head) is None:
        raise CostlyError(f"has no size in its first {_PPM_HEADER_LENGTH} bytes")
    if head[1:2] in b"123":
        comments = head.count(b"#")
        while comments <= MAX_PPM_COMMENTS and (block := file.read(2**20)):
            comments += block.count(b"#")
        _limit(comments, MAX_PPM_COMMENTS, "comments")
