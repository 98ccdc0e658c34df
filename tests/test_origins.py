from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import server as faults
from server import Server, isolate, serving

from resnext.errors import OutputError, WeightsCorruptError, WeightsUnavailableError
from resnext.hub import cache, origins
from resnext.hub.cache import RemoteFile

CONTENT = b"weights" * 10_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ON_HUB = RemoteFile(
    folder="hf-hub/me--pets", filename="model.safetensors", format="safetensors", hub_id="me/pets"
)
HUB_PATH = "/me/pets/resolve/main/model.safetensors"


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with serving() as server:
        isolate(monkeypatch, tmp_path, server)
        yield server


@pytest.fixture
def pickled(http: Server) -> RemoteFile:
    """A file with a plain address, as torchvision publishes them."""
    return RemoteFile(
        folder="resnext50_32x4d.tv_in1k",
        filename="resnext50_32x4d-7cdf4587.pth",
        format="pth",
        sha256=SHA256[:8],
        url=http.url("/models/resnext50_32x4d-7cdf4587.pth"),
    )


def note(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(f"{path}.json").read_text())
    return found


def test_file_comes_from_its_address(http: Server, pickled: RemoteFile):
    http.put("/models/" + pickled.filename, CONTENT)
    assert origins.fetch(pickled) == SHA256
    assert pickled.path.read_bytes() == CONTENT
    assert note(pickled.path)["url"] == pickled.url
    assert origins.fetch(pickled) == SHA256
    assert len(http.seen) == 1


def test_hub_states_the_hash(http: Server):
    http.put(HUB_PATH, CONTENT, X_Linked_Etag=f'"{SHA256}"')
    assert origins.fetch(ON_HUB) == SHA256
    http.put(HUB_PATH, CONTENT, X_Linked_Etag=f'"{"0" * 64}"')
    cache.remove("all")
    with pytest.raises(WeightsCorruptError, match="expected 0000000000000000"):
        origins.fetch(ON_HUB)
    assert not ON_HUB.path.exists()


def test_addresses(monkeypatch, pickled: RemoteFile):
    assert origins.address(pickled) == pickled.url
    monkeypatch.delenv("HF_ENDPOINT")
    assert origins.address(ON_HUB) == f"https://huggingface.co{HUB_PATH}"
    branch = replace(ON_HUB, revision="refs/pr/1")
    assert origins.address(branch).endswith("/resolve/refs%2Fpr%2F1/model.safetensors")
    assert origins.address(replace(pickled, url=None)) == ""


def test_mirror_goes_first_and_notes_the_hash(monkeypatch, http: Server):
    with serving() as mirror:
        place = "/w/hf-hub/me--pets/model.safetensors"
        mirror.put(place, CONTENT)
        mirror.put(place + ".json", json.dumps({"sha256": SHA256}).encode())
        monkeypatch.setenv("RESNEXT_MIRROR", mirror.url("/w/"))
        assert origins.fetch(ON_HUB) == SHA256
        assert [seen.path for seen in mirror.seen] == [place + ".json", place]
        assert http.seen == []

        mirror.put(place, b"damaged in the mirror")
        http.put(HUB_PATH, CONTENT, X_Linked_Etag=SHA256)
        cache.remove("all")
        assert origins.fetch(ON_HUB) == SHA256
        assert len(http.seen) == 1


@pytest.mark.parametrize("text", [b"", b"[]", b'{"sha256": 1}', b"<html>", b"x" * 200_000])
def test_mirror_that_states_no_hash_is_not_trusted(monkeypatch, http: Server, text: bytes):
    place = "/w/hf-hub/me--pets/model.safetensors"
    http.put(place, b"whatever the mirror says")
    http.put(place + ".json", text)
    http.put(HUB_PATH, CONTENT, X_Linked_Etag=SHA256)
    monkeypatch.setenv("RESNEXT_MIRROR", http.url("/w"))
    assert origins.fetch(ON_HUB) == SHA256
    assert place not in [seen.path for seen in http.seen]


def test_folder_mirror_that_states_no_hash_is_not_trusted(monkeypatch, tmp_path: Path):
    place = tmp_path / "hf-hub" / "me--pets" / "model.safetensors"
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    monkeypatch.setenv("RESNEXT_MIRROR", str(tmp_path))
    assert origins.adopt(ON_HUB) is None
    Path(f"{place}.json").write_text(json.dumps({"sha256": SHA256}))
    assert origins.adopt(ON_HUB) is not None


def test_dripping_note_of_a_mirror_is_cut_off(monkeypatch, http: Server):
    place = "/w/hf-hub/me--pets/model.safetensors"
    http.put(HUB_PATH, CONTENT, X_Linked_Etag=SHA256)
    http.put(place + ".json", b" " * 1000)
    http.misbehave(place + ".json", faults.drip(0.01))
    monkeypatch.setattr(origins, "_NOTE_SECONDS", 0.1)
    monkeypatch.setenv("RESNEXT_MIRROR", http.url("/w"))
    assert origins.fetch(ON_HUB) == SHA256


def test_next_place_is_asked_and_every_answer_told(monkeypatch, http: Server, pickled: RemoteFile):
    monkeypatch.setenv("RESNEXT_MIRROR", http.url("/mirror"))
    http.misbehave("/models/" + pickled.filename, faults.status(403))
    with pytest.raises(WeightsUnavailableError) as info:
        origins.fetch(pickled)
    assert f"/mirror/{pickled.folder}/{pickled.filename}: HTTP 404" in info.value.message
    assert f"/models/{pickled.filename}: HTTP 403" in info.value.message


def test_corruption_anywhere_is_reported_as_that(monkeypatch, http: Server, pickled: RemoteFile):
    monkeypatch.setenv("RESNEXT_MIRROR", http.url("/mirror"))
    http.put(f"/mirror/{pickled.folder}/{pickled.filename}", b"another")
    with pytest.raises(WeightsCorruptError, match="twice not the promised file(.|\n)*HTTP 404"):
        origins.fetch(pickled)
    assert not pickled.path.exists()


def test_file_without_an_address_says_so(pickled: RemoteFile):
    with pytest.raises(WeightsUnavailableError, match="no source is known"):
        origins.fetch(replace(pickled, url=None))


def test_token_goes_to_the_hub_only(monkeypatch, http: Server, pickled: RemoteFile):
    monkeypatch.setattr(origins, "get_token", lambda: "secret")
    http.put(HUB_PATH, CONTENT)
    http.put("/models/" + pickled.filename, CONTENT)
    monkeypatch.setenv("RESNEXT_MIRROR", http.url("/mirror"))
    origins.fetch(ON_HUB)
    origins.fetch(pickled)
    sent = {seen.path: seen.headers.get("authorization") for seen in http.seen}
    assert {path for path, value in sent.items() if value} == {HUB_PATH}
    assert sent[HUB_PATH] == "Bearer secret"


def test_token_never_goes_over_plain_http(monkeypatch):
    monkeypatch.setattr(origins, "get_token", lambda: "secret")
    assert origins._authorization("http://mirror.example/x") == {}
    assert origins._authorization("https://huggingface.co/x") == {"Authorization": "Bearer secret"}


def hub_cache(folder: Path, content: bytes, name: str, *, filename: str = "model.safetensors"):
    """Lay a file out as `huggingface_hub` does: blobs by hash, snapshots of links."""
    repository = folder / "hub" / "models--me--pets"
    for part in ("blobs", "refs", "snapshots/abc"):
        (repository / part).mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "blobs" / name).write_bytes(content)
    link = repository / "snapshots" / "abc" / filename
    link.symlink_to(f"../../blobs/{name}")
    return link


def test_file_of_the_hubs_cache_is_linked(http: Server, tmp_path: Path):
    found = hub_cache(tmp_path, CONTENT, SHA256)
    assert origins.adopt(ON_HUB) == (ON_HUB.path, SHA256)
    assert os.path.samefile(ON_HUB.path, found) and not ON_HUB.path.is_symlink()
    assert cache.verify(ON_HUB) == SHA256
    cache.remove("all")
    assert found.read_bytes() == CONTENT
    assert http.seen == []


def test_small_file_of_the_hubs_cache_goes_by_gits_hash(http: Server, tmp_path: Path):
    config = replace(ON_HUB, filename="config.json")
    name = hashlib.sha1(b"blob 2\0{}").hexdigest()
    hub_cache(tmp_path, b"{}", name, filename="config.json")
    adopted = origins.adopt(config)
    assert adopted and adopted[0].read_bytes() == b"{}"


def test_damaged_file_of_the_hubs_cache_is_left_alone(http: Server, tmp_path: Path):
    hub_cache(tmp_path, b"damaged", SHA256)
    assert origins.adopt(ON_HUB) is None
    assert not ON_HUB.path.exists()


def test_file_of_torchs_cache_is_linked(pickled: RemoteFile, tmp_path: Path):
    found = tmp_path / "torch" / "hub" / "checkpoints" / pickled.filename
    found.parent.mkdir(parents=True)
    found.write_bytes(b"damaged")
    assert origins.adopt(pickled) is None
    found.write_bytes(CONTENT)
    assert origins.adopt(pickled) == (pickled.path, SHA256)
    assert os.path.samefile(pickled.path, found)


def test_torchs_cache_is_where_torch_says(monkeypatch, tmp_path: Path):
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert origins._torch_home() == tmp_path / "torch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert origins._torch_home() == Path.home() / ".cache" / "torch"


def test_without_links_the_file_is_copied(monkeypatch, http: Server, tmp_path: Path):
    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    found = hub_cache(tmp_path, CONTENT, SHA256)
    monkeypatch.setattr(os, "link", link)
    assert origins.adopt(ON_HUB) == (ON_HUB.path, SHA256)
    assert not os.path.samefile(ON_HUB.path, found)
    assert ON_HUB.path.read_bytes() == CONTENT


def test_unwritable_cache_uses_the_file_where_it_is(monkeypatch, http: Server, tmp_path: Path):
    found = hub_cache(tmp_path, CONTENT, SHA256)
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNEXT_HOME", str(tmp_path / "file" / "home"))
    assert origins.adopt(ON_HUB) == (found, SHA256)


def test_mirror_may_be_a_folder(monkeypatch, http: Server, tmp_path: Path, pickled: RemoteFile):
    source = tmp_path / "mirror" / pickled.folder / pickled.filename
    source.parent.mkdir(parents=True)
    monkeypatch.setenv("RESNEXT_MIRROR", str(tmp_path / "mirror"))
    assert origins.adopt(pickled) is None
    source.write_bytes(b"damaged")
    assert origins.adopt(pickled) is None
    source.write_bytes(CONTENT)
    assert origins.adopt(pickled) == (pickled.path, SHA256)
    assert not os.path.samefile(pickled.path, source)


def test_mirror_folder_is_checked_by_its_note(monkeypatch, http: Server, tmp_path: Path):
    source = tmp_path / "mirror" / ON_HUB.folder / ON_HUB.filename
    source.parent.mkdir(parents=True)
    source.write_bytes(CONTENT)
    Path(f"{source}.json").write_text(json.dumps({"sha256": "0" * 64}))
    monkeypatch.setenv("RESNEXT_MIRROR", (tmp_path / "mirror").as_uri())
    assert origins.adopt(ON_HUB) is None
    Path(f"{source}.json").write_text(json.dumps({"sha256": SHA256}))
    assert origins.adopt(ON_HUB) == (ON_HUB.path, SHA256)


def test_unwritable_cache_is_named(monkeypatch, http: Server, tmp_path: Path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNEXT_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(OutputError, match="RESNEXT_HOME"):
        origins.fetch(ON_HUB)
