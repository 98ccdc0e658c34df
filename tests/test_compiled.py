"""The cache of compiled networks: damage, bounds, folders that cannot be written."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from resnext.engines.compiled import CompiledCache, make_key

KEY = make_key({"graph": "a"})
BLOB = b"".join(number.to_bytes(4, "little") for number in range(40_000))  # 2 rows, and a rest


@pytest.fixture
def cache(tmp_path: Path) -> CompiledCache:
    return CompiledCache(tmp_path / "deep" / "compiled")


def files(cache: CompiledCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def test_what_was_stored_is_loaded(cache: CompiledCache) -> None:
    assert cache.load(KEY) is None
    cache.store(KEY, BLOB)
    loaded = cache.load(KEY)
    assert loaded is not None and loaded.tobytes() == BLOB
    assert files(cache) == [f"{KEY}.blob"]


def test_writing_into_the_mapping_leaves_the_file(cache: CompiledCache) -> None:
    cache.store(KEY, BLOB)
    first = cache.load(KEY)
    assert first is not None
    first[:] = 0
    again = cache.load(KEY)
    assert again is not None and again.tobytes() == BLOB


def test_a_removed_file_stays_readable_to_who_has_it(cache: CompiledCache) -> None:
    cache.store(KEY, BLOB)
    loaded = cache.load(KEY)
    cache.discard(KEY)
    cache.discard(KEY)
    assert files(cache) == []
    assert loaded is not None and loaded.tobytes() == BLOB


def test_keys_tell_every_fact_apart() -> None:
    facts = [{"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, {"a": 1, "b": 1}]
    assert len({make_key(each) for each in facts}) == len(facts)
    assert make_key({"b": 1, "a": 1}) == make_key({"a": 1, "b": 1})


def _flip(content: bytes) -> bytes:
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda content: content[:-1],
        lambda content: content[:100],
        lambda content: content + b"\0",
        lambda content: b"",
        lambda content: content[-24:],
        lambda content: content[-10:],
        lambda content: os.urandom(len(content)),
        lambda content: content[:-24] + _flip(bytes(5000) + content[-24:])[5000:],
        lambda content: content[:150_000] + b"\0" + content[150_001:],
        lambda content: content[65536:131072] + content[:65536] + content[131072:],
        lambda content: content[:4096] + bytes(4096) + content[8192:],
    ],
)
def test_a_damaged_file_is_removed(cache: CompiledCache, damage: Callable[[bytes], bytes]) -> None:
    cache.store(KEY, BLOB)
    path = cache.folder / f"{KEY}.blob"
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load(KEY) is None
    assert files(cache) == []


def test_a_folder_in_place_of_the_file_is_no_entry(cache: CompiledCache) -> None:
    (cache.folder / f"{KEY}.blob").mkdir(parents=True)
    assert cache.load(KEY) is None
    with pytest.warns(RuntimeWarning, match="not cached"):
        cache.store(KEY, BLOB)


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = CompiledCache(tmp_path / "file" / "compiled")
    with pytest.warns(RuntimeWarning, match="every start compiles it again: .*file") as caught:
        cache.store(KEY, BLOB)
    assert len(caught) == 1
    assert cache.load(KEY) is None


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    size = len(BLOB) + 24
    cache = CompiledCache(tmp_path, max_bytes=3 * size)
    keys = [make_key({"number": number}) for number in range(5)]
    now = time.time()
    for age, key in zip((30, 20, 10), keys[:3], strict=True):
        cache.store(key, BLOB)
        os.utime(tmp_path / f"{key}.blob", (now - age, now - age))
    assert cache.load(keys[0]) is not None  # used now
    cache.store(keys[3], BLOB)
    assert files(cache) == sorted(f"{keys[index]}.blob" for index in (0, 2, 3))


def test_the_newest_is_kept_even_if_it_is_over_the_bound(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path, max_bytes=10)
    cache.store(make_key({"number": 1}), BLOB)
    cache.store(KEY, BLOB)
    assert files(cache) == [f"{KEY}.blob"]


def test_abandoned_temporary_files_go_and_others_stay(cache: CompiledCache) -> None:
    cache.folder.mkdir(parents=True)
    for name, age in ((".old.blob.x1", 90_000), (".new.blob.x2", 10), ("note.txt", 90_000)):
        path = cache.folder / name
        path.write_text("")
        os.utime(path, (time.time() - age,) * 2)
    cache.store(KEY, BLOB)
    assert files(cache) == sorted([".new.blob.x2", f"{KEY}.blob", "note.txt"])


def test_storing_over_a_mapped_file_is_fine(cache: CompiledCache) -> None:
    cache.store(KEY, BLOB)
    old = cache.load(KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.store(KEY, BLOB[::-1])
    new = cache.load(KEY)
    assert old is not None and new is not None
    assert (old.tobytes(), new.tobytes()) == (BLOB, BLOB[::-1])
