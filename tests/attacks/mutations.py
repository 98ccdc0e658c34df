"""Small pictures of every format, and seeded ways to damage them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from attacks.pictures import encode, exif_orientation, gif, png, png_chunk
from PIL import Image

_EXIF = b"Exif\0\0" + exif_orientation(6)


def seeds() -> dict[str, bytes]:
    """Return pictures that together reach most of the decoders' code, 24x16 pixels each."""
    size = (24, 16)
    pictures = {
        "jpeg": encode("JPEG", size, exif=_EXIF),
        "jpeg progressive": encode("JPEG", size, progressive=True),
        "jpeg cmyk": encode("JPEG", size, "CMYK"),
        "jpeg grey": encode("JPEG", size, "L"),
        "png": encode("PNG", size, exif=_EXIF),
        "png palette": encode("PNG", size, "P", transparency=3),
        "png alpha": encode("PNG", size, "RGBA"),
        "png 16 bits": encode("PNG", size, "I;16"),
        "png 1 bit": encode("PNG", size, "1"),
        "png text": png(8, 8, bytes(72), before=png_chunk(b"tEXt", b"a\0b")),
        "gif": encode("GIF", size, "P"),
        "gif comment": gif(b"\x21\xfe\x05hello\0\x21\xf9\4\x09\0\0\0\0"),
        "bmp": encode("BMP", size),
        "bmp palette": encode("BMP", size, "P"),
        "bmp 1 bit": encode("BMP", size, "1"),
        "webp": encode("WEBP", size, exif=_EXIF),
        "webp lossless alpha": encode("WEBP", size, "RGBA", lossless=True),
        "tiff": encode("TIFF", size),
        "tiff float": encode("TIFF", size, "F"),
        "tiff 16 bits": encode("TIFF", size, "I;16"),
        "tiff cmyk": encode("TIFF", size, "CMYK"),
        "ppm": encode("PPM", size),
        "ppm 16 bits": encode("PPM", size, "I;16"),
        "ppm 1 bit": encode("PPM", size, "1"),
        "ppm text": b"P3\n4 2\n255\n" + b"7 99 200 " * 8,
        "ppm other range": b"P5 8 8 100\n" + bytes(64),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        pictures[f"tiff {compression}"] = encode("TIFF", size, compression=compression)
    pictures["tiff group4"] = encode("TIFF", size, "1", compression="group4")
    frames = [Image.new("P", size, color) for color in (1, 2)]
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        pictures[f"{format.lower()} animated"] = encode(
            format, size, "RGB", save_all=True, append_images=frames
        )
    return pictures


def mutate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Return a damaged copy: bits flipped, cut, bytes overwritten, parts moved or swapped in."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        # Headers are a small part of a file and most of what can go wrong.
        end = len(damaged) if rng.random() < 0.5 else min(len(damaged), 64)
        place = rng.randrange(end) if end else 0
        match rng.randrange(7):
            case 0 if damaged:
                damaged[place] ^= 1 << rng.randrange(8)
            case 1:
                del damaged[place:]
            case 2:
                extreme = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * rng.choice((1, 2, 4))
                damaged[place : place + len(extreme)] = extreme
            case 3:
                start = rng.randrange(len(other))
                damaged[place:] = other[start:]
            case 4:
                del damaged[place : place + rng.randrange(1, 16)]
            case 5:
                damaged[place:place] = damaged[: rng.randrange(1, 64)]
            case _:
                damaged[place : place + 4] = rng.randbytes(4)
    return bytes(damaged)


def mutations(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` damaged pictures, each format in turn, with the name of what it was."""
    rng = random.Random(seed)
    pictures = list(seeds().items())
    for index in range(count):
        name, data = pictures[index % len(pictures)]
        yield f"{name} #{index}", mutate(data, rng, rng.choice(pictures)[1])
