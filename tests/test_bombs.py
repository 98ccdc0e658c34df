from __future__ import annotations

import io
from pathlib import Path

import pytest
from attacks import pictures
from attacks.pictures import ATTACKS

from resnext import bombs, images
from resnext.errors import ImageError


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(ATTACKS[name]())
    with pytest.raises(ImageError, match=r"picture\.jpg: ") as caught:
        images.open_rgb(path)
    assert caught.value.path == str(path)


@pytest.mark.parametrize(
    "harmless",
    [
        pictures.jpeg_with(pictures.jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)) * 100),
        pictures.jpeg_with(pictures.jpeg_segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 1000),
        pictures.encode("JPEG", (64, 64), progressive=True),
        # A film after the picture, as phones append one: it is full of what looks like markers.
        pictures.encode("JPEG") + b"\xff\xda" * 10_000,
        pictures.gif(b"\x21\xfe" + (b"\xff" + b"c" * 255) * 1000 + b"\0"),
        pictures.png(8, 8, bytes(72), before=pictures.png_chunk(b"prIv", bytes(100)) * 10_000),
        b"P2 # a comment\n# another\n 2 2 255\n1 2 3 # 5\n 4",
        b"P6 2 2 1000\n" + bytes(24),
        pictures.encode("TIFF", (40, 3000)),
        pictures.grey_tiff(8, 8, (273, 4, 1, 8), (279, 4, 1, 64), (34665, 4, 1, 8)),
        pictures.webp_canvas(5000, 4000),
    ],
    ids=[
        "100 ICC segments",
        "60 MB of Exif",
        "progressive",
        "film at the end",
        "256 KB of GIF comment",
        "10,000 PNG chunks",
        "PPM comments",
        "16-bit PPM",
        "TIFF of many strips",
        "TIFF directory in itself",
        "WebP of 20 megapixels",
    ],
)
def test_what_only_looks_odd_is_read(harmless: bytes) -> None:
    assert images.open_rgb(harmless).mode == "RGB"


def test_the_file_is_left_at_its_start() -> None:
    for format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP"):
        file = io.BytesIO(pictures.encode(format))
        file.seek(5)
        bombs.check(format, file)
        assert file.tell() == 0
