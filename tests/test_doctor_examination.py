"""The whole examination on small data sets: every kind of fault, hostile names, odd files."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from attacks import pictures as attacks
from PIL import Image

from resnext import testing
from resnext.doctor.examination import Examination, examine
from resnext.errors import ConfigError, DatasetError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A clean set of two classes, in train and val."""
    top = tmp_path / "data"
    for part, count, seed in (("train", 5, 0), ("val", 2, 1)):
        clouds(top / part, count=count, seed=seed)
    return top


def clouds(folder: Path, *, count: int, seed: int, classes: str = "ab") -> None:
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            draw(rng).save(folder / name / f"{number}.png")


def draw(rng: np.random.Generator, size: tuple[int, int] = (64, 48)) -> Image.Image:
    coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def listed(examination: Examination) -> list[tuple[str, str, str]]:
    return [(one.problem, one.path, one.action) for one in examination.findings]


def test_a_clean_set_has_no_finding(data: Path) -> None:
    examination = examine(data)
    assert listed(examination) == []
    assert examination.num_problems == 0
    assert examination.to_json()["parts"] == {"train": 10, "val": 4}
    assert examination.notes == ("labels were not judged: that needs a model",)


def plant(data: Path, fault: str) -> None:
    """Put one fault into the data, most often as `x` in class `a`."""
    folder, first = data / "train" / "a", data / "train" / "a" / "0.png"
    content, other = first.read_bytes(), draw(np.random.default_rng(9))
    plants: dict[str, Callable[[], object]] = {
        "not a picture": lambda: (folder / "x.jpg").write_bytes(b"text"),
        "bomb": lambda: (folder / "x.png").write_bytes(attacks.ATTACKS["png strip"]()),
        "cut short": lambda: (folder / "x.png").write_bytes(content[: len(content) // 2]),
        "empty": lambda: (folder / "x.png").write_bytes(b""),
        "without its end": lambda: first.write_bytes(content[:-12]),
        "pipe": lambda: os.mkfifo(folder / "x.jpg"),
        "wrong extension": lambda: first.rename(folder / "0.jpeg"),
        "no extension": lambda: first.rename(folder / "0"),
        "same bytes": lambda: shutil.copy(first, folder / "x.png"),
        "same pixels": lambda: Image.open(first).save(folder / "x.bmp"),
        "near": lambda: Image.open(first).resize((48, 36)).save(folder / "x.jpg", quality=70),
        "leak": lambda: shutil.copy(first, data / "val" / "a" / "x.png"),
        "near leak": lambda: Image.open(first).save(data / "val" / "a" / "x.jpg", quality=70),
        "conflict": lambda: shutil.copy(first, data / "train" / "b" / "x.png"),
        "one color": lambda: Image.new("RGB", (64, 48), (10, 90, 200)).save(folder / "x.png"),
        "black": lambda: Image.new("L", (64, 48), 5).save(folder / "x.png"),
        "tiny": lambda: Image.open(first).crop((0, 0, 20, 20)).save(folder / "x.png"),
        "long": lambda: draw(np.random.default_rng(9), (400, 40)).save(folder / "x.png"),
        "mirrored": lambda: other.save(folder / "x.jpg", exif=turned(4)),
        "rare class": first.unlink,
        "empty class": (data / "train" / "c").mkdir,
    }
    plants[fault]()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("not a picture", ("unreadable", "train/a/x.jpg", "remove")),
        ("bomb", ("unreadable", "train/a/x.png", "remove")),
        ("cut short", ("truncated", "train/a/x.png", "remove")),
        ("empty", ("truncated", "train/a/x.png", "remove")),
        ("without its end", ("truncated", "train/a/0.png", "remove")),
        ("pipe", ("unreadable", "train/a/x.jpg", "review")),
        ("wrong extension", ("wrong-extension", "train/a/0.jpeg", "rename:0.png")),
        ("no extension", ("wrong-extension", "train/a/0", "rename:0.png")),
        ("same bytes", ("duplicate", "train/a/x.png", "keep-one-of")),
        ("same pixels", ("duplicate", "train/a/x.bmp", "keep-one-of")),
        ("near", ("near-duplicate", "train/a/x.jpg", "keep-one-of")),
        ("leak", ("leak", "train/a/0.png", "remove")),
        ("near leak", ("leak", "train/a/0.png", "remove")),
        ("conflict", ("label-conflict", "train/b/x.png", "keep-one-of")),
        ("one color", ("blank", "train/a/x.png", "remove")),
        ("black", ("blank", "train/a/x.png", "remove")),
        ("tiny", ("tiny", "train/a/x.png", "review")),
        ("long", ("odd-shape", "train/a/x.png", "review")),
        ("mirrored", ("orientation", "train/a/x.jpg", "review")),
        ("rare class", ("class-imbalance", "", "review")),
        ("empty class", ("refused", "", "review")),
    ],
)
def test_each_fault_is_the_only_finding(
    data: Path, fault: str, expected: tuple[str, str, str]
) -> None:
    plant(data, fault)
    examination = examine(data)
    assert listed(examination) == [expected]
    assert examination.num_problems == (0 if expected[0] == "orientation" else 1)


@pytest.mark.parametrize(
    ("mode", "suffix", "detail"),
    [
        ("CMYK", "jpg", "is CMYK"),
        ("I;16", "png", "has 16 bits a level"),
        ("RGBA", "png", "has transparent parts, shown white"),
        ("F", "tif", "has 32 bits a level"),
    ],
)
def test_unusual_pixels_are_noted_and_are_no_problem(
    data: Path, mode: str, suffix: str, detail: str
) -> None:
    image = draw(np.random.default_rng(9))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        image.putalpha(Image.radial_gradient("L").resize(image.size))
    else:
        image = image.convert(mode)
    image.save(data / "train" / "a" / f"x.{suffix}")
    [finding] = examine(data).findings
    assert (finding.problem, finding.detail) == ("mode", detail)
    assert examine(data).num_problems == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="may read everything")
def test_what_may_not_be_read_is_not_to_be_removed(data: Path) -> None:
    (data / "train" / "a" / "0.png").chmod(0)
    (data / "train" / "b" / "inner").mkdir(mode=0)
    try:
        assert [one for one in listed(examine(data)) if one[0] == "unreadable"] == [
            ("unreadable", "train/a/0.png", "review"),
            ("unreadable", "train/b/inner", "review"),
        ]
    finally:
        (data / "train" / "b" / "inner").chmod(0o700)


def test_a_tag_that_cameras_write_and_a_palette_are_usual(data: Path) -> None:
    image = draw(np.random.default_rng(9))
    image.save(data / "train" / "a" / "x.jpg", exif=turned(6))
    draw(np.random.default_rng(8)).quantize().save(data / "train" / "a" / "y.gif")
    assert listed(examine(data)) == []


def test_a_copy_across_parts_and_labels_is_both(data: Path) -> None:
    shutil.copy(data / "train" / "a" / "0.png", data / "val" / "b" / "x.png")
    leak, conflict = examine(data).findings
    assert (leak.problem, leak.action, leak.other) == ("leak", "remove", "val/b/x.png")
    assert (conflict.problem, conflict.label) == ("label-conflict", "a")
    assert "which is labelled b" in conflict.detail


def test_many_copies_name_the_first_and_end_soon(data: Path) -> None:
    for number in range(40):
        shutil.copy(data / "train" / "a" / "0.png", data / "train" / "a" / f"x{number}.png")
    found = examine(data).findings
    assert len(found) == 40
    assert {(one.problem, one.other) for one in found} == {("duplicate", "train/a/0.png")}


def test_the_part_test_is_looked_at_too(data: Path) -> None:
    (data / "test" / "a").mkdir(parents=True)
    shutil.copy(data / "train" / "a" / "0.png", data / "test" / "a" / "x.png")
    examination = examine(data)
    assert examination.to_json()["parts"]["test"] == 1
    assert [one for one in listed(examination) if one[0] == "leak"] == [
        ("leak", "train/a/0.png", "remove")
    ]
    assert not any("test" in note for note in examination.notes)


@pytest.mark.parametrize("no_classes", [True, False])
def test_a_folder_without_classes_is_checked_but_for_labels(
    tmp_path: Path, no_classes: bool
) -> None:
    clouds(tmp_path / "data", count=3, seed=0, classes="a")
    photos = tmp_path / "data" if no_classes else tmp_path / "data" / "a"
    shutil.copy(tmp_path / "data" / "a" / "0.png", tmp_path / "data" / "a" / "copy.png")
    examination = examine(photos, labelled=not no_classes)
    assert [one.problem for one in examination.findings] == ["duplicate"]
    assert "there are no classes" in examination.notes[0]
    assert examination.to_json()["classes"] == 0


def test_one_picture_is_a_set(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    draw(np.random.default_rng(0)).save(tmp_path / "data" / "only.png")
    assert listed(examine(tmp_path / "data")) == []


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there are no pictures"):
        examine(tmp_path)
    with pytest.raises(DatasetError, match="no such file"):
        examine(tmp_path / "nowhere")


def test_loops_of_links_end(data: Path) -> None:
    (data / "train" / "a" / "loop").symlink_to(data / "train")
    (data / "train" / "a" / "self").symlink_to(data / "train" / "a" / "self")
    assert len(examine(data).table) == 14


@pytest.mark.parametrize("name", ["a b\n.png", "-rf.png", "\udcff.png", "é💥.png", "<b>&.png"])
def test_any_name_is_named_back(data: Path, name: str) -> None:
    try:
        shutil.copy(data / "train" / "a" / "0.png", data / "train" / "b" / name)
    except (OSError, UnicodeError):
        pytest.skip("the file system takes no such name")
    [finding] = examine(data).findings
    assert (finding.problem, finding.path) == ("label-conflict", f"train/b/{name}")


def test_tables_and_shards_are_checked_like_folders(data: Path, tmp_path: Path) -> None:
    files = sorted((data / "train").rglob("*.png"))
    table = tmp_path / "table.csv"
    rows = [f"{path},{path.parent.name},train" for path in files]
    rows += [f"{path},{path.parent.name},val" for path in sorted((data / "val").rglob("*.png"))]
    shutil.copy(files[0], data / "copy.png")
    table.write_text("\n".join(["path,label,split", *rows, f"{data / 'copy.png'},a,val"]))
    assert [one.problem for one in examine(table).findings] == ["leak"]
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number, path in enumerate([*files, files[0]]):
            for suffix, content in ((".png", path.read_bytes()), (".cls", path.parent.name)):
                raw = content if isinstance(content, bytes) else content.encode()
                info = tarfile.TarInfo(f"{number:03}{suffix}")
                info.size = len(raw)
                tar.addfile(info, io.BytesIO(raw))
    assert [one.problem for one in examine(tmp_path / "0.tar").findings] == ["duplicate"]


def test_several_labels_are_not_judged(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    files = sorted((data / "train" / "a").glob("*.png"))
    table.write_text("path,label\n" + "".join(f"{path},x|y\n" for path in files))
    assert examine(table).notes == ("labels were not judged: pictures have several",)


def test_what_is_ignored_is_left_out(data: Path) -> None:
    plant(data, "leak")
    plant(data, "black")
    assert [one.problem for one in examine(data, ignore=["leak"]).findings] == ["blank"]
    with pytest.raises(ConfigError, match=r"expected one of.*\n\nhint: did you mean blank"):
        examine(data, ignore=["blnk"])


def test_nothing_in_the_data_is_changed(data: Path) -> None:
    plant(data, "cut short")

    def state() -> dict[str, tuple[bytes, int]]:
        files = [path for path in sorted(data.rglob("*")) if path.is_file()]
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = state()
    examine(data)
    assert state() == before


def test_progress_counts_to_the_end(data: Path) -> None:
    seen: list[tuple[int, int]] = []
    examine(data, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (14, 14)
    assert seen == sorted(seen)


def test_pictures_for_children_are_no_copies(tmp_path: Path) -> None:
    testing.write_pictures(tmp_path / "data", per_class=4)
    assert {one.problem for one in examine(tmp_path / "data").findings} <= {
        "class-imbalance", "near-duplicate",
    }  # fmt: skip
