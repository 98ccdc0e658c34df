"""The index file: what comes back, and everything that is refused."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from resnext import Classifier, files, modelfile, testing
from resnext.errors import DatasetError, ModelFileError, OutputError
from resnext.explore import index
from resnext.explore.index import Index, IndexDocument, Row

WIDTH = 8
DOCUMENT = IndexDocument(
    model="tiny",
    identity="00000000ffff",
    architecture="resnext29_1x1d",
    preprocess={"input_size": 32},
    embedding_size=WIDTH,
    class_names=("cat", "dog"),
)


def rows(count: int = 5) -> list[Row]:
    vectors = np.random.default_rng(0).normal(size=(count, WIDTH)).astype(np.float32)
    names = [f"{n} \N{DOG FACE}\udcff.jpg" for n in range(count)]
    return [Row(name, vector, n % 3 - 1) for n, (name, vector) in enumerate(zip(names, vectors))]  # noqa: B905


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "my.index"
    assert index.write(place, DOCUMENT, rows()) == 5
    return place


def test_what_is_written_comes_back(path: Path) -> None:
    opened = index.open_index(path)
    assert opened.document == DOCUMENT
    assert opened.names == [row.name for row in rows()]
    assert opened.labels.tolist() == [-1, 0, 1, -1, 0]
    np.testing.assert_allclose(np.linalg.norm(opened.vectors, axis=1), 1, atol=1e-6)
    for row, vector in zip(rows(), opened.vectors, strict=True):
        np.testing.assert_allclose(vector, row.vector / np.linalg.norm(row.vector), atol=1e-6)
    assert isinstance(opened.vectors, np.memmap)
    assert not opened.vectors.flags.writeable


def test_any_reader_of_safetensors_reads_it(path: Path) -> None:
    tensors = safetensors.numpy.load_file(path)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "vectors": (5, WIDTH),
        "labels": (5,),
        "names": (len(json.dumps([row.name for row in rows()])),),
    }
    np.testing.assert_array_equal(tensors["vectors"], index.open_index(path).vectors)


def test_a_picture_finds_itself_and_its_class(path: Path) -> None:
    opened = index.open_index(path)
    for row in rows():
        [found] = opened.search(1000 * row.vector[None], 2)
        assert found[0].name == row.name
        assert found[0].similarity == pytest.approx(1, abs=1e-6)
        assert found[0].similarity <= 1
        assert found[0].label == (None, "cat", "dog")[row.label + 1]
        assert found[1].similarity < found[0].similarity
    shares = opened.classify(np.stack([rows()[1].vector, rows()[2].vector]), 1)
    np.testing.assert_array_equal(shares, [[1, 0], [0, 1]])


def test_more_neighbors_than_pictures_are_all_of_them(path: Path) -> None:
    [found] = index.open_index(path).search(rows()[0].vector[None], 100)
    assert sorted(one.name for one in found) == [row.name for row in rows()]


def test_duplicates_are_all_found_in_their_order(tmp_path: Path) -> None:
    twice = [Row(f"{n}", rows()[n % 2].vector) for n in range(6)]
    index.write(tmp_path / "i", DOCUMENT, twice)
    [found] = index.open_index(tmp_path / "i").search(rows()[0].vector[None], 4)
    assert [one.name for one in found][:3] == ["0", "2", "4"]
    assert found[0].similarity == found[1].similarity > found[3].similarity


def test_any_flipped_byte_and_any_cut_is_found(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    bad = tmp_path / "bad.index"
    for place in {*range(0, len(content), 7), 0, 7, 8, len(content) - 1}:
        broken = bytearray(content)
        broken[place] ^= 0x10
        bad.write_bytes(broken)
        with pytest.raises(DatasetError, match=r"bad\.index: no index that can be used"):
            index.open_index(bad)
    for length in (0, 3, 8, 100, len(content) // 2, len(content) - 1):
        bad.write_bytes(content[:length])
        with pytest.raises(DatasetError, match="no index that can be used"):
            index.open_index(bad)
    bad.write_bytes(content + b"x")
    with pytest.raises(DatasetError, match="checksum"):
        index.open_index(bad)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        index.open_index(tmp_path / "absent.index")
    with pytest.raises(DatasetError, match="directory"):
        index.open_index(tmp_path)
    model = testing.write_tiny_model(tmp_path / "m.safetensors")
    with pytest.raises(DatasetError, match="does not begin like one"):
        index.open_index(model)
    newer = tmp_path / "newer.index"
    index.write(newer, IndexDocument(**{**_fields(), "version": 99}), rows())
    with pytest.raises(DatasetError, match="version 99"):
        index.open_index(newer)


def test_labels_beyond_the_classes_are_refused(tmp_path: Path) -> None:
    index.write(tmp_path / "i", DOCUMENT, [Row("a", rows()[0].vector, 2)])
    with pytest.raises(DatasetError, match="do not fit together"):
        index.open_index(tmp_path / "i")


def test_nothing_and_other_sizes_are_refused_and_leave_the_old_one(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(DatasetError, match="no picture"):
        index.write(path, DOCUMENT, [])
    with pytest.raises(DatasetError, match="has 3 features; expected 8"):
        index.write(path, DOCUMENT, [Row("a", np.ones(3, np.float32))])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_full_disk_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        index.write(path, DOCUMENT, rows(2))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_rows_that_stop_coming_leave_the_old_one(path: Path) -> None:
    before = path.read_bytes()

    def interrupted() -> Iterator[Row]:
        yield rows()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.write(path, DOCUMENT, interrupted())
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_another_model_or_preprocessing_is_refused(tmp_path: Path) -> None:
    with (
        uncompiled(tmp_path / "a.safetensors") as first,
        uncompiled(tmp_path / "b.safetensors", seed=1) as second,
        uncompiled(tmp_path / "c.safetensors", input_size=40) as third,
    ):
        document = index.describe(first, model="a.safetensors")
        vector = np.ones(document.embedding_size, np.float32)
        index.write(tmp_path / "i", document, [Row("x", vector)])
        opened = index.open_index(tmp_path / "i")
        opened.check(first)
        for other in (second, third):
            with pytest.raises(ModelFileError, match=r"made by another model, a\.safetensors"):
                opened.check(other)


def test_what_differs_is_told(tmp_path: Path) -> None:
    with (
        uncompiled(tmp_path / "tiny.safetensors") as first,
        uncompiled(tmp_path / "new" / "tiny.safetensors", seed=1) as second,
        uncompiled(tmp_path / "c.safetensors", input_size=40) as third,
    ):
        document = index.describe(first, model="tiny.safetensors")
        opened = Index(tmp_path / "i", document, np.empty((0, 1)), np.empty(0, np.int32), ())
        for other, what in ((second, "weights"), (third, "preprocessing")):
            said = f"made by another model, tiny.*; tiny in {other.local.path} has other {what}"
            with pytest.raises(ModelFileError, match=said):
                opened.check(other)


def test_another_last_layer_or_temperature_gives_the_same_features(tmp_path: Path) -> None:
    tiny = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document, tensors = modelfile.read(tiny)
    last = {"fc.weight": 2 * tensors["fc.weight"]}
    body = {"conv1.weight": 2 * tensors["conv1.weight"]}
    for name, part in (("last", last), ("body", body)):
        changed = replace(document, temperature=0.5, reject_threshold=0.1)
        path, dtype = tmp_path / f"{name}.safetensors", modelfile.storage_dtype(tensors)
        modelfile.write(path, changed, {**tensors, **part}, dtype=dtype)

    def open_model(name: str) -> Classifier:
        engine = testing.ConstantEngine([0.0] * document.architecture.num_classes)
        return Classifier(tmp_path / f"{name}.safetensors", engine=engine)

    made = index.describe(open_model("tiny"), model="tiny")
    opened = Index(tmp_path / "i", made, np.empty((0, 1)), np.empty(0, np.int32), ())
    opened.check(open_model("last"))
    with pytest.raises(ModelFileError, match="has other weights"):
        opened.check(open_model("body"))
    old = Index(tmp_path / "i", replace(made, features=""), opened.vectors, opened.labels, ())
    old.check(open_model("tiny"))  # an index from before the features were hashed
    with pytest.raises(ModelFileError, match="has other weights"):
        old.check(open_model("last"))


def test_the_same_file_is_known_without_reading_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with uncompiled(tmp_path / "tiny.safetensors") as classifier:
        made = index.describe(classifier, model="tiny")
        monkeypatch.setattr(index, "read_tensors", None)
        Index(tmp_path / "i", made, np.empty((0, 1)), np.empty(0, np.int32), ()).check(classifier)


def uncompiled(path: Path, **options: Any) -> Classifier:
    """Open a tiny model without the time that compiling it takes."""
    path.parent.mkdir(exist_ok=True)
    model = testing.write_tiny_model(path, **options)
    return Classifier(model, engine=testing.ConstantEngine([0.0, 1.0]))


def _fields() -> dict[str, Any]:
    return {name: getattr(DOCUMENT, name) for name in IndexDocument.__slots__}
