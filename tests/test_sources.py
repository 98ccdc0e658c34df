from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from io import BytesIO, StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from attacks.pictures import encode

from resnext import images, sources
from resnext.errors import ImageError
from resnext.sources import Source, iter_sources, sniff

PICTURE = encode("JPEG")


def names(*inputs: object, **more: object) -> list[str]:
    return [source.name for source in iter_sources(inputs, **more)]  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures at two levels, as the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "sub/deep/d.tif", "notes.txt", ".hidden/e.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"words" if name.endswith("txt") else PICTURE)
    return tmp_path


# --- folders --------------------------------------------------------------------------------


def test_a_folder_gives_its_pictures_in_order(folder: Path) -> None:
    wanted = ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.tif"]
    assert names(folder) == [os.path.join(folder, name) for name in wanted]
    assert names(".") == [os.path.join(".", name) for name in wanted]


def test_hidden_files_are_left_out_unless_named(folder: Path) -> None:
    for name in (".DS_Store", "._b.jpg", "sub/.thumb.jpg"):
        (folder / name).write_bytes(PICTURE)
    assert len(names(folder)) == 4
    assert names(folder / "._b.jpg") == [str(folder / "._b.jpg")]


def test_without_a_known_extension_the_content_decides(tmp_path: Path) -> None:
    for format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        (tmp_path / f"{format}.bak").write_bytes(encode(format))
        (tmp_path / format).write_bytes(encode(format))
    (tmp_path / "BMW.txt").write_text("BMW is a maker of cars, among other things it makes.")
    (tmp_path / "P1.txt").write_text("P12 is a postal district")
    (tmp_path / "empty").touch()
    assert len(names(tmp_path)) == 14
    for source in iter_sources([tmp_path]):
        assert images.open_rgb(source).size == (8, 8)


def test_the_first_picture_comes_before_the_rest_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        (tmp_path / f"{index}").mkdir()
        (tmp_path / f"{index}" / "x.jpg").write_bytes(PICTURE)
    listed = []
    scandir = os.scandir

    def watched(path: str) -> Iterator[os.DirEntry[str]]:
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watched)
    found = iter_sources([tmp_path])
    assert not listed
    next(found)
    assert len(listed) == 2


@pytest.mark.slow
def test_a_folder_of_100_000_files(tmp_path: Path) -> None:
    for index in range(100_000):
        os.close(os.open(tmp_path / f"{index:06}.jpg", os.O_CREAT))
    assert len(names(tmp_path)) == 100_000


def test_links_are_followed_but_not_in_circles(folder: Path) -> None:
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "sub" / "same").symlink_to(folder / "sub")
    (folder / "self").symlink_to(folder / "self")
    (folder / "link.jpg").symlink_to(folder / "b.jpg")
    (folder / "broken.jpg").symlink_to(folder / "nothing")
    (folder / "other").symlink_to(folder / "sub" / "deep")
    found = [os.path.relpath(name, folder) for name in names(folder)]
    # A folder that can be reached in two ways is read by the first.
    assert found == ["a.PNG", "b.jpg", "broken.jpg", "link.jpg", "other/d.tif", "sub/c.webp"]
    assert len(names(folder / "**" / "*.tif")) == 1


def test_folders_nested_deeper_than_recursion_allows(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d"] * 300)
    folder.mkdir(parents=True)
    (folder / "x.jpg").write_bytes(PICTURE)
    limit, frame, depth = sys.getrecursionlimit(), sys._getframe(), 0
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    sys.setrecursionlimit(depth + 100)
    try:
        found = names(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert len(found) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="names are Unicode there")
@pytest.mark.parametrize(
    "name",
    [
        b"with space.jpg",
        "käse-\N{CAT FACE}.jpg".encode(),
        b"not-\xff\xfe-utf8.jpg",
        b"line\nbreak.jpg",
        b"-rf.jpg",
        b"--help.jpg",
        b"star*[a]?.jpg",
        b"l" * 251 + b".jpg",
        b"%41 \x07.jpg",
    ],
)
def test_any_name_leads_back_to_its_file(
    name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        (tmp_path / os.fsdecode(name)).write_bytes(PICTURE)
    except OSError:
        pytest.skip("this file system does not allow the name")
    (found,) = iter_sources([tmp_path])
    assert os.fsencode(found.name) == os.fsencode(tmp_path) + b"/" + name
    assert images.open_rgb(found).size == (8, 8)
    monkeypatch.chdir(tmp_path)
    assert [os.fsencode(given) for given in names(name)] == [name]
    assert [os.fsencode(given) for given in names("*.jpg")] == [name]
    if b"\n" not in name:
        assert [os.fsencode(given) for given in names("-", stdin=[name + b"\n"])] == [name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.timeout(10)
def test_pipes_and_sockets_neither_hang_nor_hide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the path of a socket must be short
        server.bind("socket.jpg")
    found = list(iter_sources([tmp_path]))
    assert [os.path.basename(source.name) for source in found] == ["pipe.jpg", "socket.jpg"]
    for source, kind in zip(found, ("a named pipe", "a socket"), strict=True):
        with pytest.raises(ImageError, match=f"is {kind}, not a file"):
            images.open_rgb(source)
    with pytest.raises(ImageError, match="is a device, not a file"):
        images.open_rgb("/dev/zero")


def test_what_became_a_pipe_after_the_look_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(tmp_path / "x.jpg")
    monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(st_mode=0o100644))
    with pytest.raises(sources.NotAFileError, match="named pipe"):
        sources.open_file(str(tmp_path / "x.jpg"))


# --- what cannot be read is handed on -------------------------------------------------------


def test_a_folder_without_pictures_is_reported_and_the_rest_done(folder: Path) -> None:
    (folder / "none").mkdir()
    empty, good = iter_sources([folder / "none", folder / "b.jpg"])
    with pytest.raises(ImageError, match="none: there are no pictures in this folder"):
        images.open_rgb(empty)
    assert images.open_rgb(good).size == (8, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing.jpg", "there is no such file"),
        ("missing/", "there is no such file or folder"),
        ("missing", "there is no such file or folder"),
        ("*.gif", "no picture matches"),
        ("nowhere/*.jpg", "no picture matches"),
        ("ftp://host/x.jpg", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("x" * 5000, "cannot be read"),
        ("nul\0byte.jpg", "null"),
        ("", "no such file"),
    ],
)
def test_an_input_that_leads_nowhere_gives_one_source_that_says_so(
    given: str, message: str, folder: Path
) -> None:
    (found,) = iter_sources([given])
    assert found.name == given
    with pytest.raises(ImageError, match=message):
        images.open_rgb(found)


def test_a_folder_that_cannot_be_listed_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    *_, last = iter_sources([folder])
    assert last == Source(
        str(folder / "sub" / "deep"), problem="cannot be listed: Permission denied"
    )


# --- globs, stdin, addresses ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.jpg", ["b.jpg"]),
        ("*", ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.tif"]),
        ("**", ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.tif"]),
        ("**/*.tif", ["sub/deep/d.tif"]),
        ("**/*.jpg", ["b.jpg"]),
        ("sub/**/*.webp", ["sub/c.webp"]),
        ("s*/*.webp", ["sub/c.webp"]),
        ("s?b", ["sub/c.webp", "sub/deep/d.tif"]),
        ("[ab].*", ["a.PNG", "b.jpg"]),
        ("[!a].*", ["b.jpg"]),
        ("sub/*", ["sub/c.webp", "sub/deep/d.tif"]),
        ("**/deep/*", ["sub/deep/d.tif"]),
    ],
)
def test_globs(pattern: str, wanted: list[str], folder: Path) -> None:
    assert names(pattern) == wanted
    assert names(str(folder / pattern)) == [os.path.join(folder, name) for name in wanted]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder: Path) -> None:
    (folder / "[b].jpg").write_bytes(PICTURE)
    assert names("[b].jpg") == ["[b].jpg"]


@pytest.mark.parametrize(
    "stream", [BytesIO(b"b.jpg\r\n\n*.PNG\nx\xff\n"), StringIO("b.jpg\n*.PNG\nx\udcff")]
)
def test_a_dash_reads_inputs_from_stdin(stream: object, folder: Path) -> None:
    assert names("sub", "-", stdin=stream)[2:] == ["b.jpg", "a.PNG", "x\udcff"]


def test_stdin_is_read_as_bytes_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=BytesIO(b"caf\xe9.jpg\n")))
    assert [os.fsencode(name) for name in names("-")] == [b"caf\xe9.jpg"]


def test_one_path_alone_is_not_taken_for_its_letters(folder: Path) -> None:
    assert [source.name for source in iter_sources("b.jpg")] == ["b.jpg"]
    assert [source.name for source in iter_sources(folder / "b.jpg")] == [str(folder / "b.jpg")]


def test_addresses_are_handed_on_unopened() -> None:
    given = "HTTPS://example.org/a*b?c=[d]"
    assert list(iter_sources([given])) == [Source(given)]
    assert Source(given).is_url
    assert not Source("http:/x.jpg").is_url


def test_sniff_looks_at_the_start_only() -> None:
    assert sniff(b"") is None
    assert sniff(b" " + PICTURE) is None
    assert sniff(b"%!PS-Adobe-3.0 EPSF-3.0") is None
    assert sniff(b"<svg xmlns='http://www.w3.org/2000/svg'/>") is None
