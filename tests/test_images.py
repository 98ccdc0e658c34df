from __future__ import annotations

import io
import struct
import threading
import urllib.parse
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import server as faults
from attacks import pictures
from attacks.mutations import mutations, seeds
from attacks.pictures import encode, exif_orientation
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from server import Server, serving

from resnext import images
from resnext.errors import ImageError
from resnext.sources import Source

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")


def marked(width: int = 6, height: int = 4) -> Image.Image:
    """Return a picture that no turn or flip leaves the same."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 40, y * 60, x * y * 10], axis=-1).astype(np.uint8))


def test_bytes_are_read_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode("JPEG", (20, 10))
    path = tmp_path / "picture"
    path.write_bytes(data)
    for source in (path, str(path), Source(str(path)), data, io.BytesIO(data)):
        assert images.read_bytes(source) == data
    for nothing in (tmp_path, tmp_path / "missing", 3, np.zeros((2, 2, 3), np.uint8)):
        with pytest.raises(ImageError):
            images.read_bytes(nothing)
    monkeypatch.setattr(images, "MAX_BYTES", 10)  # one more, and `open_rgb` knows it is too large
    assert images.read_bytes(path) == data[:11]


# --- every way in gives the same pixels -----------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_every_way_in_gives_the_same_pixels(format: str, tmp_path: Path) -> None:
    data = encode(format, (20, 10))
    path = tmp_path / "picture"
    path.write_bytes(data)
    with path.open("rb") as file, Image.open(path) as image:
        file.seek(3)
        wanted = np.asarray(image.convert("RGB"))
        for source in (path, str(path), Source(str(path)), data, bytearray(data), file, image):
            pixels = images.read(source)
            np.testing.assert_array_equal(pixels, wanted)
            assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
            assert pixels.flags.writeable
            assert images.open_rgb(source).mode == "RGB"
        assert not file.closed
        np.testing.assert_array_equal(images.read(wanted), wanted)


def test_a_stream_that_cannot_seek_is_read(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.rest = io.BytesIO(encode("PNG"))

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            return self.rest.readinto(buffer)

    assert images.open_rgb(io.BufferedReader(Pipe())).size == (8, 8)


def test_real_pictures_as_pillow_reads_them(shared_data: Path) -> None:
    for path in sorted((shared_data / "images" / "imagenet-samples").glob("*.JPEG"))[::10]:
        with Image.open(path) as image:
            wanted = ImageOps.exif_transpose(image).convert("RGB")
        np.testing.assert_array_equal(images.read(path), np.asarray(wanted))


# --- orientation ----------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", range(10))
def test_orientation_is_the_same_for_every_way_in(value: int, format: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    options = {"lossless": True} if format == "WEBP" else {}
    path = tmp_path / "picture"
    marked().save(path, format, exif=exif, **options)
    lying = images.read(path, orientation="ignore")
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    if 5 <= value <= 8:
        assert upright.shape == (6, 4, 3)
        assert lying.shape == (4, 6, 3)
    if format != "JPEG":
        np.testing.assert_array_equal(lying, np.asarray(marked()))
    (from_folder,) = images.iter_sources([tmp_path])
    with Image.open(path) as image, path.open("rb") as file:
        for source in (path, path.read_bytes(), file, image, from_folder):
            np.testing.assert_array_equal(images.read(source), upright)


def test_what_is_upright_is_not_turned_again() -> None:
    data = encode("JPEG", (20, 10), exif=b"Exif\0\0" + exif_orientation(6))
    once = images.open_rgb(data)
    assert once.size == (10, 20)
    assert images.open_rgb(once).size == (10, 20)
    assert ImageOps.exif_transpose(once).size == (10, 20)
    with Image.open(io.BytesIO(data)) as image:
        turned = images.open_rgb(image)
        assert images.open_rgb(turned).size == (10, 20)
        assert image.getexif()[0x0112] == 6


def test_orientation_in_xmp_counts_where_exif_has_none() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    assert images.open_rgb(encode("JPEG", (20, 10), xmp=xmp)).size == (10, 20)
    both = encode("JPEG", (20, 10), xmp=xmp, exif=b"Exif\0\0" + exif_orientation(1))
    assert images.open_rgb(both).size == (20, 10)


def test_orientation_as_imagemagick_stores_it_in_png() -> None:
    exif = b"Exif\0\0" + exif_orientation(6)
    text = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(exif), exif.hex().encode())
    data = pictures.png(2, 1, b"\0\1\2", before=pictures.png_chunk(b"tEXt", text))
    assert images.open_rgb(data).size == (1, 2)


@pytest.mark.parametrize(
    "exif",
    [
        exif_orientation(6, order=">"),
        exif_orientation(6, order="<"),
        exif_orientation(9),
        exif_orientation(6, kind=2),
        exif_orientation(6, count=2),
        exif_orientation(6)[:12],
        exif_orientation(6)[:4] + b"\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"II",
        b"",
        b"nonsense",
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_flawed_exif_never_decides_the_outcome(exif: bytes, format: str) -> None:
    data = encode(format, (20, 10), exif=b"Exif\0\0" + exif)
    turned = exif in (exif_orientation(6), exif_orientation(6, order=">"))
    assert images.open_rgb(data).size == ((10, 20) if turned else (20, 10))


# --- modes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_transparent_parts_become_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 2), (200, 0, 0, 255))
    image.paste((0, 200, 0, 0), (2, 0, 4, 2))  # a colour hidden by full transparency
    pixels = images.read(image.convert("P").convert(mode) if mode == "PA" else image.convert(mode))
    assert (pixels[:, 2:] == 255).all() or mode == "PA"
    assert (pixels[:, :2, 1:] < 100).all()


def test_half_transparent_is_half_white() -> None:
    pixels = images.read(Image.new("RGBA", (1, 1), (0, 100, 200, 128)))
    np.testing.assert_allclose(pixels[0, 0], (127, 177, 227), atol=1)


@pytest.mark.parametrize(
    ("mode", "value", "transparency"),
    [("P", 5, 5), ("L", 9, 9), ("RGB", (1, 2, 3), (1, 2, 3)), ("1", 0, 0), ("P", 1, b"\xff\0\xff")],
)
def test_a_transparent_colour_becomes_white(mode: str, value: Any, transparency: Any) -> None:
    buffer = io.BytesIO()
    image = Image.new(mode, (2, 2), value)
    if mode == "P":
        image.putpalette(bytes(range(240)))
    image.save(buffer, "PNG", transparency=transparency)
    assert (images.read(buffer.getvalue()) == 255).all()


def test_a_transparent_gif_is_white_behind() -> None:
    buffer = io.BytesIO()
    Image.new("P", (2, 2), 3).save(buffer, "GIF", transparency=3)
    assert (images.read(buffer.getvalue()) == 255).all()


def test_sixteen_bit_grey_keeps_its_levels() -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    for format in ("PNG", "TIFF", "PPM"):
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, format)
        np.testing.assert_array_equal(images.read(buffer.getvalue())[0, :, 0], [0, 1, 128, 255])
    big_endian = Image.frombytes("I;16B", (4, 1), levels.astype(">u2").tobytes())
    np.testing.assert_array_equal(images.read(big_endian)[0, :, 2], [0, 1, 128, 255])


@pytest.mark.parametrize(
    ("levels", "wanted"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 128.2, 255.0]], np.float32), [0, 128, 255]),
        (np.array([[-10.0, 0.0, 10.0]], np.float32), [0, 128, 255]),
        (np.array([[7e8, 7e8, 7e8]], np.float32), [0, 0, 0]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
        (np.array([[0, 1 << 30, (1 << 31) - 1]], np.int32), [0, 128, 255]),
    ],
    ids=str,
)
def test_deep_levels_are_scaled_to_eight_bits(levels: NDArray[Any], wanted: list[int]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "TIFF")
    for source in (buffer.getvalue(), Image.fromarray(levels)):
        np.testing.assert_array_equal(images.read(source)[0, :, 1], wanted)


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinite_levels_are_refused(bad: float) -> None:
    with pytest.raises(ImageError, match="infinite"):
        images.read(Image.fromarray(np.array([[bad, 1.0]], np.float32)))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_levels_that_are_not_a_number_become_black_or_are_refused(place: int) -> None:
    levels = np.array([[0.0, 1.0, 0.5]], np.float32)
    levels[0, place] = np.nan
    try:
        assert images.read(Image.fromarray(levels))[0, place, 0] == 0
    except ImageError as error:
        assert "not a number" in error.reason


def test_cmyk_is_read_as_the_file_means_it() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for format in ("JPEG", "TIFF"):
        buffer = io.BytesIO()
        red.save(buffer, format)
        np.testing.assert_allclose(images.read(buffer.getvalue())[8, 8], (254, 0, 0), atol=4)
    # Adobe stores CMYK inverted and says so in a marker; others do the same without it.
    buffer = io.BytesIO()
    red.save(buffer, "JPEG")
    adobe = buffer.getvalue()
    start = adobe.index(b"\xff\xee")
    plain = adobe[:start] + adobe[start + 16 :]
    assert b"Adobe" in adobe and b"Adobe" not in plain
    np.testing.assert_array_equal(images.read(plain), images.read(adobe))


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV", "RGBX"])
def test_other_modes_are_converted(mode: str) -> None:
    image = marked().convert(mode)
    np.testing.assert_array_equal(images.read(image), np.asarray(image.convert("RGB")))


def test_conversion_by_bands_hides_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for image in (
        Image.fromarray(rng.integers(0, 256, (37, 23, 4), dtype=np.uint8)),
        Image.fromarray(rng.integers(0, 65536, (37, 23), dtype=np.uint16)),
    ):
        whole = images.read(image)
        with monkeypatch.context() as patch:
            patch.setattr(images, "_BAND_PIXELS", 100)
            np.testing.assert_array_equal(images.read(image), whole)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(images.read(buffer.getvalue())[4, 4], (255, 0, 0), atol=6)


def test_a_multi_picture_jpeg_gives_the_first(tmp_path: Path) -> None:
    path = tmp_path / "mpo.jpg"
    marked(16, 16).save(path, "MPO", save_all=True, append_images=[marked(8, 8)])
    assert images.open_rgb(path).size == (16, 16)


# --- arrays ---------------------------------------------------------------------------------


def test_arrays_with_three_four_or_no_channels() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(images.read(pixels), pixels)
    np.testing.assert_array_equal(images.read(pixels[::-1, ::2]), pixels[::-1, ::2])
    grey = pixels[..., 0]
    np.testing.assert_array_equal(images.read(grey), np.repeat(grey[..., None], 3, axis=-1))
    clear = np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=-1)
    assert (images.read(clear) == 255).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "type float32; expected uint8"),
        (np.zeros((4, 4, 3), np.uint16), "type uint16"),
        (np.zeros((3, 8, 8), np.uint8), "transpose"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape"),
        (np.zeros(4, np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((1, 30_001), np.uint8), "too large: 30001x1"),
        (np.array(["x"]), "type <U1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_arrays_are_refused(array: NDArray[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        images.read(array)


# --- refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_truncated_files_are_refused_by_name(format: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / f"half.{format}"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path, format)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"half\.{format}: is (truncated|damaged)"):
        images.read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"<html></html>", "is not a picture that can be read: expected JPEG, PNG"),
        (b"\0\0\0\x18ftypheic", "hint: convert it to JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "is not a picture"),
        (b"\xff\xd8\xff", "is truncated|is damaged"),
        (pictures.png(30_001, 1, b""), "too large: 30001x1"),
        (pictures.png(8001, 8000, b""), "at most 64 megapixels"),
        (pictures.png(0, 8, b""), "damaged"),
    ],
    ids=str,
)
def test_what_is_no_picture_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        images.open_rgb(data)


def test_exactly_the_limits_are_allowed() -> None:
    images._check_size(8000, 8000)
    images._check_size(30_000, 2133)
    assert images.open_rgb(encode("PNG", (30_000, 1), "1")).size == (30_000, 1)


def test_too_large_is_known_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(self: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    with pytest.raises(ImageError, match="too large: 13000x13000"):
        images.open_rgb(pictures.ATTACKS["png of 179 megapixels, of which Pillow only warns"]())


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "vast.jpg"
    with path.open("wb") as file:
        file.write(encode("JPEG"))
        file.truncate(images.MAX_BYTES + 1)  # a hole: it takes no space on disk
    with pytest.raises(ImageError, match="at most 268,435,456 are read"):
        images.open_rgb(path)


@pytest.mark.parametrize(
    "source",
    [None, 5, ["a.jpg"], io.StringIO("x"), object()],
    ids=lambda value: type(value).__name__,
)
def test_other_objects_are_refused(source: Any) -> None:
    with pytest.raises(ImageError, match="expected a path|open as text"):
        images.open_rgb(source)


def test_errors_carry_the_name_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "gone.jpg"
    with pytest.raises(ImageError) as caught:
        images.open_rgb(path)
    assert (caught.value.path, caught.value.reason) == (str(path), "there is no such file")
    path.write_bytes(b"")
    with path.open("rb") as file, pytest.raises(ImageError, match=r"gone\.jpg: is empty"):
        images.open_rgb(file)
    with pytest.raises(ImageError, match="is a folder, not a file"):
        images.open_rgb(tmp_path)


def test_a_closed_or_failing_file_object_is_an_image_error() -> None:
    file = io.BytesIO(encode("PNG"))
    file.close()
    with pytest.raises(ImageError, match="closed file"):
        images.open_rgb(file)


# --- Pillow's global settings ---------------------------------------------------------------


def test_global_settings_are_left_alone_and_no_warning_escapes() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # an application that allows less, or more
        assert images.open_rgb(encode("PNG", (2, 3))).size == (2, 3)
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        with pytest.raises(ImageError, match="too large"):
            images.open_rgb(pictures.png(100_000, 100_000, b""))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters)


def test_threads_do_not_disturb_each_other() -> None:
    good = {name: images.read(data) for name, data in seeds().items()}
    large = pictures.png(13_000, 13_000, b"")
    started = threading.Barrier(4)

    def work(seed: int) -> None:
        started.wait(10)
        for _ in range(3):
            for name, data in seeds().items():
                np.testing.assert_array_equal(images.read(data), good[name])
            with pytest.raises(ImageError, match="too large"):
                images.read(large)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


# --- damaged pictures -----------------------------------------------------------------------


def test_undamaged_seeds_are_read() -> None:
    for name, data in seeds().items():
        assert images.read(data).size, name


def attempt_all(count: int, seed: int) -> tuple[int, int]:
    """Read damaged pictures; anything but pixels or an `ImageError` ends the test."""
    read = refused = 0
    for name, data in mutations(count, seed):
        with warnings.catch_warnings():
            # Pillow warns of flaws in TIFF tags; an application may show that or not.
            warnings.filterwarnings("ignore", module="PIL")
            try:
                assert images.read(data).dtype == np.uint8
                read += 1
            except ImageError as error:
                assert error.reason, name
                refused += 1
    return read, refused


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.timeout(60)
def test_damaged_pictures_give_pixels_or_an_image_error(seed: int) -> None:
    read, refused = attempt_all(100, seed)
    assert read > 5
    assert refused > 30


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_10_000_damaged_pictures() -> None:
    read, refused = attempt_all(10_000, seed=20261001)
    assert read + refused == 10_000


# --- addresses ------------------------------------------------------------------------------


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as server:
        yield server


def test_an_address_is_fetched(http: Server) -> None:
    data = encode("PNG", (20, 10))
    url = http.put("/picture.jpg?size=large", data, Content_Type="text/html")  # content decides
    np.testing.assert_array_equal(images.read(url), images.read(data))
    np.testing.assert_array_equal(images.read(Source(url)), images.read(data))


def test_an_address_with_spaces_and_letters(http: Server) -> None:
    http.put(urllib.parse.quote("/käse (1).jpg", safe="/()"), encode("PNG"))
    assert images.open_rgb(http.url("/käse (1).jpg")).size == (8, 8)


def test_redirects_are_followed_but_not_out_of_http(http: Server) -> None:
    url = http.put("/a.png", encode("PNG"))
    http.misbehave("/b.png", faults.redirect("/a.png"))
    assert images.open_rgb(http.url("/b.png")).size == (8, 8)
    for location in ("file:///etc/hostname", "ftp://127.0.0.1/x.png", "data:image/png;base64,AA"):
        http.misbehave("/c.png", faults.redirect(location))
        with pytest.raises(ImageError, match="not an http or https address"):
            images.open_rgb(http.url("/c.png"))
    for _ in range(20):
        http.misbehave("/a.png", faults.redirect("/a.png"))
    with pytest.raises(ImageError, match="redirected more than"):
        images.open_rgb(url)


def test_an_answer_that_is_no_picture_is_refused(http: Server) -> None:
    with pytest.raises(ImageError, match="the server answered 404 Not Found"):
        images.open_rgb(http.url("/missing.jpg"))
    with pytest.raises(ImageError, match="is not a picture"):
        images.open_rgb(http.put("/page.jpg", b"<html>", Content_Type="image/jpeg"))
    with pytest.raises(ImageError, match="is empty"):
        images.open_rgb(http.put("/empty.jpg", b""))
    http.put("/cut.png", encode("PNG", (64, 64)))
    http.misbehave("/cut.png", faults.drop(100))
    with pytest.raises(ImageError, match="cannot be fetched|truncated|damaged"):
        images.open_rgb(http.url("/cut.png"))


def test_the_size_is_counted_while_it_streams(
    http: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_URL_BYTES", 2**20)
    url = http.put("/large.jpg", encode("JPEG") + bytes(2**20))
    with pytest.raises(ImageError, match="is larger than 1 MiB"):
        images.open_rgb(url)


def test_a_slow_answer_ends_in_time(http: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = http.put("/slow.jpg", encode("JPEG"))
    monkeypatch.setattr(images, "URL_TIME", 0.3)
    http.misbehave("/slow.jpg", faults.drip(0.05))
    with pytest.raises(ImageError, match="did not arrive within"):
        images.open_rgb(url)
    monkeypatch.setattr(images, "URL_SILENCE", 0.3)
    http.misbehave("/slow.jpg", faults.silence)
    with pytest.raises(ImageError, match="silent|did not arrive"):
        images.open_rgb(url)


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://host:port/x", "https://\0/x"])
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(ImageError):
        images.open_rgb(url)


def test_nobody_there_is_an_image_error(http: Server) -> None:
    with pytest.raises(ImageError, match="cannot be fetched: no answer"):
        images.open_rgb("http://127.0.0.1:1/x.jpg")


@pytest.mark.parametrize(
    ("format", "mode", "expected"),
    [
        ("JPEG", "RGB", ("JPEG", "RGB", 8, False)),
        ("JPEG", "CMYK", ("JPEG", "CMYK", 8, False)),
        ("PNG", "RGBA", ("PNG", "RGBA", 8, True)),
        ("PNG", "I;16", ("PNG", "I;16", 16, False)),
        ("PNG", "1", ("PNG", "1", 1, False)),
        ("TIFF", "F", ("TIFF", "F", 32, False)),
    ],
)
def test_decode_says_what_the_file_says(
    format: str, mode: str, expected: tuple[object, ...]
) -> None:
    content = encode(format, (9, 7), mode)
    image, header = images.decode(content)
    assert (header.format, header.mode, header.depth, header.alpha) == expected
    assert (header.width, header.height, header.orientation) == (9, 7, 0)
    assert image.tobytes() == images.open_rgb(content).tobytes()


def test_decode_finds_16_bits_behind_a_mode_of_8() -> None:
    header = pictures.png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    pixels = pictures.png_chunk(b"IDAT", zlib.compress(bytes(2 * 13)))
    content = b"\x89PNG\r\n\x1a\n" + header + pixels + pictures.png_chunk(b"IEND", b"")
    assert images.decode(content)[1].depth == 16
