from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import platformdirs
import pytest

from resnext.errors import ModelNotFoundError, WeightsCorruptError
from resnext.hub import cache
from resnext.hub.cache import RemoteFile

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def remote(sha256: str = "", folder: str = "resnext50_32x4d.tv_in1k") -> RemoteFile:
    return RemoteFile(
        folder=folder, filename="model.safetensors", format="safetensors", sha256=sha256
    )


def put(file: RemoteFile, content: bytes = CONTENT) -> Path:
    file.path.parent.mkdir(parents=True, exist_ok=True)
    file.path.write_bytes(content)
    return file.path


def sidecar(file: RemoteFile) -> Path:
    return Path(f"{file.path}.json")


def test_home_is_the_setting_or_the_platforms(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("RESNEXT_HOME", str(tmp_path))
    assert cache.cache_home() == tmp_path
    monkeypatch.setenv("RESNEXT_HOME", "~/models")
    assert cache.cache_home() == Path.home() / "models"
    monkeypatch.setenv("RESNEXT_HOME", "")
    assert cache.cache_home() == platformdirs.user_cache_path("resnext")


def test_layout():
    home = cache.cache_home()
    assert remote().path == home / "weights/resnext50_32x4d.tv_in1k/model.safetensors"
    assert cache.hub_folder("me/pets", "main") == "hf-hub/me--pets"
    assert cache.hub_folder("me/pets", "refs/pr/1") == "hf-hub/me--pets@refs--pr--1"


def test_absent_file_is_none():
    assert cache.verify(remote()) is None


def test_recorded_file_is_right_until_it_changes():
    file = remote()
    path = put(file)
    cache.record(file, SHA256, url="https://example.org/x")
    note = json.loads(sidecar(file).read_text())
    assert (note["sha256"], note["size"]) == (SHA256, len(CONTENT))
    assert note["url"] == "https://example.org/x" and note["date"].endswith("+00:00")
    assert cache.verify(file) == SHA256
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightsCorruptError, match="not the promised file") as info:
        cache.verify(file)
    assert str(path) in info.value.message and "delete" in info.value.hint


def test_file_copied_by_hand_is_checked_and_recorded():
    file = remote(SHA256[:8])
    put(file)
    assert cache.verify(file) == SHA256
    assert json.loads(sidecar(file).read_text())["sha256"] == SHA256
    put(file, b"another")
    with pytest.raises(WeightsCorruptError, match=f"expected {SHA256[:8]}"):
        cache.verify(file)


def test_file_copied_by_hand_over_another_goes_by_the_catalogue():
    file = remote(SHA256[:8])
    put(file)
    cache.record(file, "0" * 64, url="")
    assert cache.verify(file) == SHA256
    assert cache.stated_hash(file.path) == SHA256


def test_file_copied_by_hand_without_any_hash_is_taken_once_and_then_held_to_it():
    file = remote()
    put(file)
    assert cache.verify(file) == SHA256
    assert cache.stated_hash(file.path) == SHA256
    file.path.write_bytes(b"another")
    with pytest.raises(WeightsCorruptError, match="not the promised file"):
        cache.verify(file)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sha256": 3}', "{}", "\x00", "[" * 100_000])
def test_damaged_sidecar_counts_as_none(text: str):
    file = remote()
    put(file)
    sidecar(file).write_text(text)
    assert cache.verify(file) == SHA256


def test_odd_things_at_the_name_are_corrupt():
    file = remote()
    put(file, b"")
    with pytest.raises(WeightsCorruptError, match="the file is empty"):
        cache.verify(file)
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(WeightsCorruptError, match="not a regular file"):
        cache.verify(file)
    file.path.rmdir()
    os.mkfifo(file.path)
    with pytest.raises(WeightsCorruptError, match="not a regular file"):
        cache.verify(file)


def test_sidecar_that_cannot_be_written_is_done_without():
    file = remote(SHA256[:8])
    put(file)
    sidecar(file).mkdir()
    (sidecar(file) / "in the way").touch()
    assert cache.verify(file) == SHA256


def test_listing_and_removing():
    (cache.cache_home() / "machine.json").unlink(missing_ok=True)  # of conftest
    assert cache.cached() == ()
    put(remote())
    put(remote(folder="hf-hub/me--pets"), b"12345")
    compiled = cache.cache_home() / "compiled" / "abc"
    compiled.mkdir(parents=True)
    (compiled / "graph.blob").write_bytes(b"123")
    features = cache.cache_home() / "features" / "net"
    features.mkdir(parents=True)
    for name in ("rows-1.bin", "set-1.bin"):
        (features / name).write_bytes(b"12")
    found = [(entry.kind, entry.name, entry.size) for entry in cache.cached()]
    assert found == [
        ("weights", "resnext50_32x4d.tv_in1k", len(CONTENT)),
        ("weights", "hf-hub:me/pets", 5),
        ("compiled", "abc", 3),
        ("features", "net", 4),
    ]
    assert cache.cached()[2].to_json() == {
        "kind": "compiled",
        "name": "abc",
        "path": str(compiled),
        "size": 3,
    }
    with pytest.raises(ModelNotFoundError, match="did you mean hf-hub:me/pets"):
        cache.remove("hf-hub:me/pet")
    assert cache.remove("hf-hub:me/pets") == 5
    assert cache.remove("net") == 4
    assert not features.exists()
    assert cache.remove("all") == len(CONTENT) + 3
    assert cache.cached() == ()
    assert cache.remove("all") == 0


def test_what_was_measured_is_listed_and_can_be_forgotten():
    home = cache.cache_home()
    for name in ("machine.json", "machine.json.lock", "tuning.json"):
        (home / name).write_bytes(b"{}")
    found = [(entry.kind, entry.name, entry.size) for entry in cache.cached()]
    assert found == [("measured", "machine.json", 2), ("measured", "tuning.json", 2)]
    assert cache.remove("tuning.json") == 2
    assert [path.name for path in home.glob("*.json")] == ["machine.json"]


@pytest.mark.parametrize("name", ["..", ".", "", "/", "../weights", "hf-hub"])
def test_only_entries_can_be_removed(name: str):
    path = put(remote())
    with pytest.raises(ModelNotFoundError):
        cache.remove(name)
    assert path.exists()
