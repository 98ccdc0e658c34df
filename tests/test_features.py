"""Features from the cache: the engine's own, by content, whatever happens to the files."""

from __future__ import annotations

import os
import random
import shutil
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext import modelfile, testing, weights
from resnext.classifier import Classifier
from resnext.engines.base import Precision
from resnext.hub.cache import cache_home
from resnext.quantization import Quantization
from resnext.training import features
from resnext.training.features import (
    FeatureStore,
    FeatureTable,
    extract,
    learned_pictures,
    open_store,
)
from resnext.training.samples import Sample

WIDTH = 1024  # of the tiny model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


def open_classifier(model: Path) -> Classifier:
    return Classifier(
        model, engine=testing.ConstantEngine([0, 0], input_size=32, embedding_size=WIDTH)
    )


@pytest.fixture
def classifier(tiny: Path) -> Classifier:
    return open_classifier(tiny)


@pytest.fixture
def store() -> FeatureStore:
    return FeatureStore(cache_home() / "features" / "net", WIDTH)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return [write(tmp_path / f"{level}.png", level) for level in range(0, 250, 25)]


def write(path: Path, level: int) -> Sample:
    Image.new("RGB", (40, 40), (level, level, level)).save(path)
    return Sample(path.name, str(path), (0,))


def sources(samples: Sequence[Sample]) -> list[str]:
    return [sample.source for sample in samples]


def calls(classifier: Classifier) -> list[int]:
    assert isinstance(classifier.engine, testing.ConstantEngine)
    return classifier.engine.batch_sizes


def test_features_are_those_of_embed_and_come_from_the_disk_next_time(
    classifier: Classifier, samples: list[Sample], store: FeatureStore
) -> None:
    expected = classifier.embed(sources(samples))
    first = extract(classifier, samples, store)
    np.testing.assert_array_equal(first.rows, expected)
    np.testing.assert_array_equal(first.kept, np.arange(10))
    assert (first.num_computed, first.problems) == (10, ())
    done = len(calls(classifier))
    again = extract(classifier, samples[::-1], FeatureStore(store.folder, WIDTH))
    np.testing.assert_array_equal(again.rows, expected[::-1])
    assert again.keys == first.keys[::-1]
    assert (again.num_computed, len(calls(classifier))) == (0, done)


def test_only_what_is_new_is_computed_and_copies_once(
    classifier: Classifier, samples: list[Sample], store: FeatureStore, tmp_path: Path
) -> None:
    extract(classifier, samples[:5], store)
    moved = tmp_path / "elsewhere.png"
    shutil.move(samples[0].source, moved)
    copy = tmp_path / "copy.png"
    shutil.copy(samples[7].source, copy)
    wanted = [Sample("moved", str(moved), (0,)), samples[7], Sample("copy", str(copy), (0,))]
    found = extract(classifier, wanted, store)
    assert found.num_computed == 1
    np.testing.assert_array_equal(found.rows[1], found.rows[2])
    np.testing.assert_array_equal(found.rows, classifier.embed(sources(wanted)))


def test_arrays_and_images_have_content_too(
    classifier: Classifier, samples: list[Sample], store: FeatureStore
) -> None:
    image = Image.open(samples[3].source)
    mixed = [Sample("a", np.asarray(image), (0,)), Sample("b", image, (0,)), samples[3]]
    found = extract(classifier, mixed, store)
    assert found.num_computed == 2  # the file has other bytes than its pixels
    assert (found.rows == found.rows[0]).all()


def test_a_picture_that_fails_is_named_and_tried_again(
    classifier: Classifier, samples: list[Sample], store: FeatureStore, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(Path(samples[1].source).read_bytes()[:60])
    shutil.copy(tmp_path / "bad.png", tmp_path / "worse.png")
    bad = [Sample(name, str(tmp_path / name), (0,)) for name in ("bad.png", "worse.png")]
    gone = Sample("gone.png", str(tmp_path / "gone.png"), (0,))
    url = Sample("url", "https://example.org/a.jpg", (0,))
    mixed = [samples[0], bad[0], gone, samples[1], bad[1], url]
    found = extract(classifier, mixed, store)
    np.testing.assert_array_equal(found.kept, [0, 3])
    np.testing.assert_array_equal(found.rows, classifier.embed(sources(samples[:2])))
    assert [problem.name for problem in found.problems] == [
        "bad.png",
        "gone.png",
        "worse.png",
        "url",
    ]
    assert "there is no such file" in str(found.problems[1])
    assert "is an address" in str(found.problems[3])
    write(tmp_path / "bad.png", 99)
    assert extract(classifier, [bad[0]], store).problems == ()


def test_progress_counts_every_picture_once(
    classifier: Classifier, samples: list[Sample], store: FeatureStore
) -> None:
    extract(classifier, samples[:4], store)
    seen: list[tuple[int, int]] = []
    missing = Sample("missing", "/nowhere.png", (0,))
    extract(classifier, [*samples, missing], store, progress=lambda *pair: seen.append(pair))
    assert seen == [(number, 11) for number in range(1, 12)]


def test_an_interrupted_run_keeps_what_it_has(
    classifier: Classifier, samples: list[Sample], store: FeatureStore
) -> None:
    def stop(done: int, _total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(classifier, samples, store, progress=stop)
    found = extract(classifier, samples, FeatureStore(store.folder, WIDTH))
    assert found.num_computed == 4
    np.testing.assert_array_equal(found.rows, classifier.embed(sources(samples)))


def test_many_pictures_are_written_in_parts(
    classifier: Classifier,
    samples: list[Sample],
    store: FeatureStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(features, "_FLUSH", 4)
    extract(classifier, samples, store)
    assert len(list(store.folder.iterdir())) == 3


def test_a_damaged_file_is_removed_and_its_pictures_computed_again(
    classifier: Classifier, samples: list[Sample], store: FeatureStore
) -> None:
    samples = samples[:2]
    first = extract(classifier, samples, store)
    [path] = store.folder.iterdir()
    whole, rng = path.read_bytes(), random.Random(0)
    for trial in range(40):
        damaged = bytearray(whole)
        if trial % 2:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        else:
            del damaged[rng.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        again = FeatureStore(store.folder, WIDTH)
        assert not path.exists()
        assert not any(key in again for key in first.keys)
        path.write_bytes(whole)
    path.write_bytes(whole[:-1])
    found = extract(classifier, samples, FeatureStore(store.folder, WIDTH))
    assert found.num_computed == 2
    np.testing.assert_array_equal(found.rows, first.rows)


def test_a_file_of_another_width_is_not_taken(store: FeatureStore) -> None:
    store.add(b"k" * 32, np.ones(WIDTH, np.float32))
    store.flush()
    assert b"k" * 32 not in FeatureStore(store.folder, WIDTH - 1)


def test_a_folder_that_cannot_be_written_costs_a_warning(
    classifier: Classifier, samples: list[Sample]
) -> None:
    cache_home().mkdir(parents=True, exist_ok=True)
    (cache_home() / "features").write_text("in the way")
    store = FeatureStore(cache_home() / "features" / "net", WIDTH)
    with pytest.warns(RuntimeWarning, match="features are not cached"):
        found = extract(classifier, samples, store)
    np.testing.assert_array_equal(found.rows, classifier.embed(sources(samples)))


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    one = 32 + 4 * 8 + 20
    for number in range(6):
        store = FeatureStore(tmp_path, 8, max_bytes=3 * one)
        store.add(bytes([number]) * 32, np.zeros(8, np.float32))
        store.flush()
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1000 + number, 1000 + number))
    store = FeatureStore(tmp_path, 8)
    assert [bytes([number]) * 32 in store for number in range(6)] == [False] * 3 + [True] * 3
    store = FeatureStore(tmp_path, 8, max_bytes=1)  # less than the newest alone
    store.add(b"n" * 32, np.zeros(8, np.float32))
    store.flush()
    assert len(list(tmp_path.iterdir())) == 1
    assert b"n" * 32 in FeatureStore(tmp_path, 8)


def fill(store: FeatureStore, count: int, *, start: int = 0) -> None:
    for number in range(start, start + count):
        store.add(number.to_bytes(32, "big"), np.full(store.width, number, np.float32))


def test_rows_stay_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_FLUSH", 250)
    tracemalloc.start()
    try:
        store = FeatureStore(tmp_path, WIDTH)
        fill(store, 4000)  # 16 MB
        assert tracemalloc.get_traced_memory()[0] < 3e6
        tracemalloc.reset_peak()
        again = FeatureStore(tmp_path, WIDTH)
        assert tracemalloc.get_traced_memory()[1] < 6e6
    finally:
        tracemalloc.stop()
    for each in (store, again):
        rows = each.rows_of([number.to_bytes(32, "big") for number in (3999, 0, 777)])
        np.testing.assert_array_equal(rows, np.full((WIDTH, 3), (3999, 0, 777)).T)


def test_a_run_over_more_than_fits_keeps_its_first_and_reads_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_FLUSH", 10)
    size = 10 * (32 + 4 * 8) + 20
    fill(old := FeatureStore(tmp_path, 8), 20)
    store = FeatureStore(tmp_path, 8, max_bytes=3 * size)
    assert store.has_room
    fill(store, 50, start=100)
    assert not store.has_room
    keys = [number.to_bytes(32, "big") for number in (*range(20), *range(100, 150))]
    np.testing.assert_array_equal(store.rows_of(keys)[:, 0], [*range(20), *range(100, 150)])
    np.testing.assert_array_equal(old.rows_of(keys[:20])[:, 0], range(20))
    again = FeatureStore(tmp_path, 8)
    assert [key in again for key in keys] == [False] * 20 + [True] * 30 + [False] * 20


@pytest.mark.parametrize("kept", [0, 1])
def test_another_process_may_remove_the_rows_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    listed = features._oldest_first

    def remove_then_list(folder: Path) -> list[Path]:
        found = listed(folder)
        for path in found:
            path.unlink()
        return found[: kept * len(found)]

    store = FeatureStore(tmp_path, 8)
    monkeypatch.setattr(features, "_oldest_first", remove_then_list)
    store.add(b"k" * 32, np.ones(8, np.float32))
    store.flush()
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(store[b"k" * 32], 1)


def test_processes_may_share_a_folder(tmp_path: Path) -> None:
    first, second = FeatureStore(tmp_path, 2), FeatureStore(tmp_path, 2)
    for store, key in ((first, b"1" * 32), (second, b"2" * 32), (first, b"3" * 32)):
        store.add(key, np.ones(2, np.float32))
        store.flush()
    assert all(key in FeatureStore(tmp_path, 2) for key in (b"1" * 32, b"2" * 32, b"3" * 32))


def test_a_set_of_pictures_is_found_again_while_all_are_there(store: FeatureStore) -> None:
    keys = tuple(bytes([number]) * 32 for number in range(5))
    for number, key in enumerate(keys):
        store.add(key, np.full(WIDTH, number, np.float32))
    store.flush()
    table = FeatureTable(
        keys=keys,
        rows=store.rows_of(keys),
        labels=np.array([0, 1, 2, 0, 1]),
        held_out=np.array([False, True, False, False, True]),
    )
    name = store.save_set(table)
    assert store.save_set(table) == name
    found = FeatureStore(store.folder, WIDTH).load_set(name)
    assert found is not None
    assert found.keys == keys
    for field in ("rows", "labels", "held_out"):
        np.testing.assert_array_equal(getattr(found, field), getattr(table, field))
    both = table + found
    assert (len(both.keys), both.rows.shape, both.labels.shape) == (10, (10, WIDTH), (10,))
    [rows] = store.folder.glob("rows-*")
    rows.unlink()
    assert FeatureStore(store.folder, WIDTH).load_set(name) is None
    assert store.load_set("0" * 32) is None
    assert store.load_set(f"../net/set-{name}") is None


def test_what_was_learned_from_is_known_without_the_features(store: FeatureStore) -> None:
    keys = tuple(bytes([number]) * 32 for number in range(4))
    table = FeatureTable(
        keys=keys,
        rows=np.zeros((4, WIDTH), np.float32),
        labels=np.arange(4),
        held_out=np.array([False, True, False, True]),
    )
    name = store.save_set(table)
    assert learned_pictures(name) == {keys[0], keys[2]}
    assert learned_pictures("0" * 32) == frozenset()
    assert learned_pictures(f"../net/set-{name}") == frozenset()
    [path] = store.folder.glob("set-*")
    path.write_bytes(path.read_bytes()[:-1])
    assert learned_pictures(name) == frozenset()


def rewrite(tiny: Path, path: Path, key: str, **changes: object) -> Path:
    """Write the tiny model with one tensor, or its preprocessing, changed."""
    document, tensors = modelfile.read(tiny)
    tensors[key] = tensors[key] + np.ones_like(tensors[key])
    preprocess = replace(document.preprocess, **changes)
    modelfile.write(path, replace(document, preprocess=preprocess), tensors, dtype="float16")
    return path


def test_models_share_features_if_they_differ_in_the_last_layer_only(
    tiny: Path, tmp_path: Path
) -> None:
    def folder(model: Path) -> Path:
        classifier = open_classifier(model)
        return open_store(classifier, weights.read_tensors(classifier.local)).folder

    own = folder(tiny)
    assert own.parent == cache_home() / "features"
    assert own.name.startswith("resnext29_1x1d-constant-fp32-")
    assert folder(rewrite(tiny, tmp_path / "head.safetensors", "fc.weight")) == own
    others = {
        folder(rewrite(tiny, tmp_path / "conv.safetensors", "conv1.weight")),
        folder(rewrite(tiny, tmp_path / "bn.safetensors", "bn1.running_mean")),
        folder(rewrite(tiny, tmp_path / "size.safetensors", "fc.bias", resize=36)),
        folder(rewrite(tiny, tmp_path / "mode.safetensors", "fc.bias", mode="squash")),
    }
    assert len(others) == 4
    assert own not in others
    classifier = open_classifier(tiny)
    classifier.engine.precision = "bf16"
    assert open_store(classifier, weights.read_tensors(classifier.local)).folder != own


def test_features_in_eight_bits_are_those_of_the_ranges_and_rounded_weights(
    tiny: Path, tmp_path: Path
) -> None:
    document, tensors = modelfile.read(tiny)
    ranges = {"layer1.0.conv1.relu": (0.0, 1.0)}
    wide = {"layer1.0.conv1.relu": (0.0, 2.0)}
    shape = tensors["layer1.0.conv2.weight"].shape
    levels = {
        "layer1.0.conv2.levels": np.ones(shape, np.int8),
        "layer1.0.conv2.step": np.ones(shape[0], np.float32),
        "layer1.0.conv2.bias": np.zeros(shape[0], np.float32),
    }

    def write(name: str, head: float = 0.0, **how: Any) -> Path:
        path = tmp_path / f"{name}.safetensors"
        changed = tensors | {"fc.bias": tensors["fc.bias"] + head}
        modelfile.write(path, replace(document, quantization=Quantization(**how)), changed)
        return path

    def folder(path: Path, precision: Precision) -> Path:
        classifier = open_classifier(path)
        classifier.engine.precision = precision
        return open_store(classifier, weights.read_tensors(classifier.local)).folder

    one, other_head = write("one", ranges=ranges), write("head", 1.0, ranges=ranges)
    two, rounded = write("two", ranges=wide), write("rounded", ranges=ranges, weights=levels)
    assert folder(one, "int8") == folder(other_head, "int8")
    assert len({folder(path, "int8") for path in (one, two, rounded)}) == 3
    assert len({folder(path, "fp32") for path in (one, two, rounded)}) == 1


def test_copies_have_the_same_number() -> None:
    keys = (b"b" * 32, b"a" * 31 + b"\0", b"b" * 32, b"a" * 32)
    rows, none = np.zeros((4, 2), np.float32), np.zeros(4, bool)
    table = FeatureTable(keys=keys, rows=rows, labels=np.arange(4), held_out=none)
    assert table.number().tolist() == [0, 1, 0, 2]
    assert (table + table).number().tolist() == [0, 1, 0, 2] * 2
