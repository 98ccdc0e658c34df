"""The one look at each picture: what it notes, that it is one, and the features."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext import images, testing
from resnext.classifier import Classifier
from resnext.doctor import facts
from resnext.doctor.checks import check_readable
from resnext.doctor.facts import gather
from resnext.doctor.intake import take_in
from resnext.training.features import FeatureStore

WIDTH = 1024  # of the tiny model


def write(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(40):
        write(tmp_path / "data" / "ab"[number % 2] / f"{number:02}.png", number)
    return tmp_path / "data"


@pytest.fixture
def classifier(tmp_path: Path) -> Classifier:
    tiny = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    return Classifier(
        tiny, engine=testing.ConstantEngine([0, 0], input_size=32, embedding_size=WIDTH)
    )


def test_every_picture_is_read_and_decoded_once(
    data: Path, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str) -> Any:
        real = getattr(images, name)

        def call(source: Any, **options: Any) -> Any:
            calls[name] += 1
            return real(source, **options)

        return call

    for name in ("read_bytes", "decode", "open_rgb"):
        monkeypatch.setattr(images, name, counted(name))
    store = FeatureStore(tmp_path / "store", WIDTH)
    table = gather(take_in(data), classifier=classifier, store=store)
    assert table.num_computed == 40
    assert calls == {"read_bytes": 40, "decode": 40}


def test_facts_stand_in_the_order_of_the_pictures(data: Path) -> None:
    (data / "a" / "bad.png").write_bytes(b"x")
    table = gather(take_in(data))
    for position, entry in enumerate(table.entries):
        content = Path(entry.source).read_bytes()
        assert table["content"][position].tobytes() == hashlib.sha256(content).digest()
    assert [table.entries[n].name for n in table.problems] == ["a/bad.png"]
    assert len(table.readable) == len(table) - 1


def test_features_are_those_of_the_classifier_and_kept(
    data: Path, classifier: Classifier, tmp_path: Path
) -> None:
    shutil.copy(data / "a" / "00.png", data / "b" / "copy.png")
    intake = take_in(data)
    store = FeatureStore(tmp_path / "store", WIDTH)
    first = gather(intake, classifier=classifier, store=store)
    assert first.num_computed == 40
    expected = classifier.embed([entry.source for entry in intake.entries])
    np.testing.assert_array_equal(first.features(first.readable), expected)
    again = FeatureStore(tmp_path / "store", WIDTH)
    assert gather(intake, classifier=classifier, store=again).num_computed == 0


def test_what_was_computed_is_kept_when_the_work_is_stopped(
    data: Path, classifier: Classifier, tmp_path: Path
) -> None:
    def stop(done: int, _total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    store = FeatureStore(tmp_path / "store", WIDTH)
    with pytest.raises(KeyboardInterrupt):
        gather(take_in(data), classifier=classifier, store=store, progress=stop)
    again = FeatureStore(tmp_path / "store", WIDTH)
    rest = gather(take_in(data), classifier=classifier, store=again).num_computed
    assert 0 < rest <= 32


def test_the_size_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "x.jpg", exif=exif)
    [record] = gather(take_in(tmp_path)).records
    assert (record["width"], record["height"], record["orientation"]) == (30, 40, 6)
    assert (record["format"], record["mode"], record["depth"]) == ("JPEG", "RGB", 8)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_what_stands_behind_the_end_of_a_file_is_no_harm(format: str) -> None:
    buffer = io.BytesIO()
    Image.radial_gradient("L").save(buffer, format)
    content = buffer.getvalue()
    assert facts._has_end(content + bytes(200_000), format)
    assert not facts._has_end(content[: -2 if format == "JPEG" else -12], format)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_file_cut_anywhere_is_truncated(format: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((40, 40)).save(buffer, format)
    content = buffer.getvalue()
    cuts = sorted({*range(16, len(content) - 14, 23), 40, 100})
    for size in cuts:
        (tmp_path / f"{size}.{format.lower()}").write_bytes(content[:size])
    found = check_readable(gather(take_in(tmp_path)))
    assert [one.problem for one in found] == ["truncated"] * len(cuts)


def test_the_end_of_a_thumbnail_is_not_that_of_the_file() -> None:
    thumbnail, buffer = io.BytesIO(), io.BytesIO()
    Image.new("L", (8, 8)).save(thumbnail, "JPEG")
    picture = Image.radial_gradient("L")
    picture.save(buffer, "JPEG", comment=thumbnail.getvalue())
    assert facts._has_end(buffer.getvalue(), "JPEG")
    assert not facts._has_end(buffer.getvalue()[:-2], "JPEG")


def test_pixels_are_hashed_with_their_shape() -> None:
    wide, tall = Image.new("RGB", (6, 4)), Image.new("RGB", (4, 6))
    assert facts._hash_pixels(wide) == facts._hash_pixels(wide.copy())
    assert facts._hash_pixels(wide) != facts._hash_pixels(tall)
