from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import server as faults
from server import Server, isolate, serving

from resnext import arch, catalogue, weights
from resnext.checkpoints import reader
from resnext.errors import (
    MissingExtraError,
    ModelFileError,
    ModelNotFoundError,
    WeightsCorruptError,
    WeightsUnavailableError,
)
from resnext.hub import cache, downloads
from resnext.testing import write_tiny_model
from resnext.transport import Fault, Request

NAME = "resnext50_32x4d.tv_in1k"
ON_HUB = f"/timm/{NAME}/resolve/main/model.safetensors"
PICKLED = "resnext50_32x4d.mm_in1k"
CONTENT = b"opened later, checked now" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with serving() as server:
        isolate(monkeypatch, tmp_path, server)
        yield server


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else real(name)
    )


@pytest.fixture
def with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pickled files count as readable, and be asked for, without leaving this machine."""
    real = downloads.get

    def get(request: Request, headers: Any, *, timeout: float) -> Any:
        if "127.0.0.1" not in request.url:
            raise Fault("not in a test")
        return real(request, headers, timeout=timeout)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(downloads, "get", get)


def in_cache(name: str = NAME) -> Path:
    return cache.cache_home() / "weights" / name / "model.safetensors"


def serve_weights(http: Server) -> None:
    http.put(ON_HUB, CONTENT, X_Linked_Etag=f'"{SHA256}"')


def test_name_is_downloaded_once_and_then_found(http: Server):
    serve_weights(http)
    steps: list[tuple[int, int | None]] = []
    local = weights.locate(NAME, progress=lambda done, total: steps.append((done, total)))
    assert (local.path, local.sha256, local.format) == (in_cache(), SHA256, "safetensors")
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    row = catalogue.find(NAME)
    assert local.document.name == NAME
    assert local.document.preprocess == row.preprocess
    assert local.document.labels == catalogue.imagenet1k()
    assert local.document.license == row.license
    again = [weights.locate(NAME), weights.locate(NAME, offline=True)]
    assert again == [local, local]
    assert len(http.seen) == 1


@pytest.mark.parametrize(
    "alias", ["tv_resnext50_32x4d", f"timm/{NAME}", f"hf-hub:timm/{NAME}", f"hf_hub:timm/{NAME}"]
)
def test_aliases_share_one_file(http: Server, alias: str):
    serve_weights(http)
    assert weights.locate(alias).path == in_cache()


def test_cache_hit_loads_no_network_and_no_torch(http: Server, tmp_path: Path):
    serve_weights(http)
    weights.locate(NAME)
    mine = write_tiny_model(tmp_path / "mine.safetensors")
    code = (
        "import sys; from resnext import weights\n"
        f"weights.locate({NAME!r}); weights.read_tensors(weights.locate({str(mine)!r}))\n"
        "heavy = ['urllib.request', 'http.client', 'ssl', 'filelock', 'huggingface_hub', 'torch',"
        " 'truststore', 'httpx', 'openvino', 'onnx', 'resnext.hub.downloads']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert len(http.seen) == 1


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_many_processes_download_once(http: Server, count: int):
    serve_weights(http)
    http.misbehave(ON_HUB, faults.slow_server(0.5))
    code = f"from resnext import weights; print(weights.locate({NAME!r}).sha256)"
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    assert {child.communicate()[0].strip() for child in children} == {SHA256}
    assert len(http.seen) == 1


@pytest.mark.parametrize("setting", ["argument", "RESNEXT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_and_absent_says_what_to_copy_where(http: Server, monkeypatch, setting: str):
    if setting != "argument":
        monkeypatch.setenv(setting, "1")
    start = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match="the network is off") as info:
        weights.locate(NAME, offline=True if setting == "argument" else None)
    assert time.monotonic() - start < 2
    assert str(in_cache()) in info.value.message
    assert f"get {http.url(ON_HUB)} and copy it to {in_cache()}" in info.value.hint
    assert info.value.exit_code == 5
    assert http.seen == []


def test_argument_overrules_the_settings(http: Server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    serve_weights(http)
    assert weights.locate(NAME, offline=False).sha256 == SHA256


def test_file_copied_by_hand_works_offline(http: Server):
    in_cache().parent.mkdir(parents=True)
    in_cache().write_bytes(CONTENT)
    assert weights.locate(NAME, offline=True).sha256 == SHA256


def test_a_file_of_the_cache_that_is_replaced_after_its_hash_shows(
    http: Server, monkeypatch, tmp_path: Path
):
    in_cache().parent.mkdir(parents=True)
    in_cache().write_bytes(CONTENT)
    before = reader.state_of(in_cache())
    real = cache.verify

    def verify_then_replace(file: cache.RemoteFile) -> str | None:
        found = real(file)
        (tmp_path / "other").write_bytes(CONTENT[::-1])
        os.replace(tmp_path / "other", in_cache())
        return found

    monkeypatch.setattr(cache, "verify", verify_then_replace)
    local = weights.locate(NAME, offline=True)
    assert local.sha256 == SHA256 and local.state == before != reader.state_of(in_cache())


def test_copied_folder_works_offline_and_is_checked(http: Server, monkeypatch, tmp_path: Path):
    serve_weights(http)
    weights.locate(NAME)
    copied = tmp_path / "usb" / "weights"
    copied.parent.mkdir()
    os.rename(cache.cache_home() / "weights", copied)
    monkeypatch.setenv("RESNEXT_HOME", str(copied.parent))
    assert weights.locate(NAME, offline=True).sha256 == SHA256


def test_cache_damaged_later_is_fetched_once_more(http: Server):
    serve_weights(http)
    weights.locate(NAME)
    in_cache().write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsCorruptError, match="not the promised file"):
        weights.locate(NAME, offline=True)
    assert weights.locate(NAME).sha256 == SHA256
    assert in_cache().read_bytes() == CONTENT
    assert len(http.seen) == 2


def test_cache_damaged_and_no_network_is_a_clear_error(http: Server, with_torch):
    serve_weights(http)
    weights.locate(NAME)
    in_cache().write_bytes(b"damaged")
    http.misbehave(ON_HUB, *[faults.status(503)] * 9)
    http.contents.clear()
    with pytest.raises(WeightsUnavailableError, match="HTTP 503"):
        weights.locate(NAME)
    assert in_cache().read_bytes() == b"damaged"


def test_private_repository_names_the_token(http: Server):
    path = "/me/pets/resolve/main/model.safetensors"
    http.misbehave(path, faults.status(401))
    with pytest.raises(WeightsUnavailableError, match="HTTP 401(.|\n)*set HF_TOKEN or run"):
        weights.locate("hf-hub:me/pets")


def test_pickled_weights_need_torch(http: Server, no_torch):
    with pytest.raises(MissingExtraError, match=r"needs torch\n\nhint: pip install 'resnext\[tor"):
        weights.locate(PICKLED)
    with pytest.raises(MissingExtraError):
        weights.locate(PICKLED, offline=True)
    assert http.seen == []


def test_without_torch_both_ways_out_are_named(http: Server, no_torch):
    with pytest.raises(WeightsUnavailableError, match="HTTP 404") as info:
        weights.locate(NAME)
    assert f"copy it to {in_cache()}; or pip install 'resnext[torch]'" in info.value.hint


def test_with_torch_the_next_file_is_tried(http: Server, with_torch, monkeypatch):
    name = catalogue.find(NAME).files[1].filename
    with pytest.raises(WeightsUnavailableError, match=f"HTTP 404.*; .*{name}: not in a test"):
        weights.locate(NAME)


def test_own_model_file_on_the_hub(http: Server, tmp_path: Path):
    content = write_tiny_model(tmp_path / "x.safetensors").read_bytes()
    http.put("/me/pets/resolve/v1/model.safetensors", content)
    local = weights.locate("hf-hub:me/pets@v1")
    assert local.format == "resnext"
    assert local.document.labels.class_names == ("cat", "dog")
    assert local.document.provenance["source"] == "hf-hub:me/pets@v1"
    assert local.path == cache.cache_home() / "weights/hf-hub/me--pets@v1/model.safetensors"
    assert weights.locate("hf-hub:me/pets@v1", offline=True) == local
    assert len(http.seen) == 1


def test_timm_repository_on_the_hub(http: Server, tmp_path: Path):
    spec = arch.ArchSpec(depth=29, cardinality=1, base_width=1, num_classes=2)
    tensors = {k: np.ones(v, np.float32) for k, v in arch.tensor_shapes(spec).items()}
    config = {
        "architecture": spec.name,
        "label_names": ["cat", "dog"],
        "pretrained_cfg": {
            "input_size": [3, 32, 32],
            "test_input_size": [3, 40, 40],
            "crop_pct": 1.0,
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        },
    }
    base = "/me/pets/resolve/main/"
    http.put(base + "model.safetensors", safetensors.numpy.save(tensors))
    with pytest.raises(WeightsUnavailableError, match=r"config\.json: HTTP 404"):
        weights.locate("hf-hub:me/pets")
    http.put(base + "config.json", json.dumps(config).encode())
    local = weights.locate("hf-hub:me/pets")
    assert local.document.labels.class_names == ("cat", "dog")
    assert local.document.preprocess.input_size == 40
    assert weights.read_tensors(local).keys() == tensors.keys()
    seen = len(http.seen)
    assert weights.locate("hf-hub:me/pets", offline=True) == local
    assert len(http.seen) == seen


@pytest.mark.parametrize(
    "name",
    ["hf-hub:", "hf-hub:pets", "hf-hub:../../x", "hf-hub:a/..", "hf-hub:a/b/c", "hf-hub:a/b@../x"],
)
def test_odd_hub_names_are_refused(http: Server, name: str):
    with pytest.raises(ModelNotFoundError, match="is not hf-hub:owner/repository"):
        weights.locate(name)
    assert http.seen == []


def test_paths(tmp_path: Path, monkeypatch):
    path = write_tiny_model(tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    for name in (path, str(path), "mine.safetensors", "./mine.safetensors"):
        assert weights.locate(name).format == "resnext"
    with pytest.raises(ModelNotFoundError, match="starter: no such file"):
        weights.locate(Path("starter"))
    with pytest.raises(ModelNotFoundError, match=r"did you mean mine\.safetensors"):
        weights.locate("mine2.safetensors")
    with pytest.raises(ModelFileError, match="hint: use the checkpoint it was exported from"):
        Path("net.onnx").write_bytes(b"x")
        weights.locate("net.onnx")


def test_name_of_the_catalogue_wins_over_a_file_without_suffix(http: Server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    serve_weights(http)
    Path(NAME).write_bytes(b"in the way")
    assert weights.locate(NAME).path == in_cache()
    with pytest.raises(ModelFileError, match="expected one of .safetensors"):
        weights.locate(f"./{NAME}")
    Path("pets").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"for the file write \./pets"):
        weights.locate("pets")


def test_unknown_names_point_somewhere():
    with pytest.raises(ModelNotFoundError, match="for a Hugging Face repository write hf-hub:a/b"):
        weights.locate("a/b")
    with pytest.raises(ModelNotFoundError, match="resnext50_32x4d"):
        weights.locate("resnext50_32x4")


def test_starter_is_in_the_package():
    if not weights._STARTER_PATH.exists():
        pytest.skip("the starter is not made yet")
    local = weights.locate("starter", offline=True)
    assert local.document.name == "starter"
    assert weights.read_tensors(local)["fc.weight"].shape[0] == len(local.document.labels)


def test_describing_downloads_nothing(http: Server, tmp_path: Path):
    row = weights.describe(NAME)
    assert row.architecture.name == "resnext50_32x4d"
    assert row.preprocess == catalogue.find(NAME).preprocess
    assert row.facts["name"] == NAME and row.facts["top1"] == catalogue.find(NAME).top1
    mine = weights.describe(write_tiny_model(tmp_path / "mine.safetensors"))
    assert mine.preprocess.input_size == 32 and mine.facts["file"].endswith("mine.safetensors")
    bare = weights.describe("resnext50_8x14d")
    assert bare.facts == {"name": "resnext50_8x14d", "public weights": "none"}
    with pytest.raises(ModelNotFoundError):
        weights.describe("resnext51_8x14d")
    with pytest.raises(WeightsUnavailableError):
        weights.describe("hf-hub:me/pets")
    assert http.seen == []


def test_every_row_has_a_place_in_the_cache_and_a_way_there(http: Server, with_torch):
    for row in catalogue.weights():
        with pytest.raises(WeightsUnavailableError) as info:
            weights.locate(row.name, offline=True)
        assert f"weights/{row.name}/{row.files[0].filename}" in info.value.hint
    assert http.seen == []
