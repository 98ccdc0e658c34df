from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from networks import random_tensors, relative_error

from resnext import arch, catalogue, modelfile
from resnext.checkpoints import reader
from resnext.checkpoints.reader import open_path, read_tensors
from resnext.errors import MissingExtraError, ModelFileError, ModelNotFoundError
from resnext.testing import write_tiny_model

SPEC = arch.ArchSpec(depth=29, cardinality=2, base_width=1, num_classes=3)
Tensors = dict[str, np.ndarray]


def make_tensors(spec: arch.ArchSpec = SPEC) -> Tensors:
    rng = np.random.default_rng(0)
    return {
        key: rng.normal(size=shape).astype(np.float32)
        for key, shape in arch.tensor_shapes(spec).items()
    }


@pytest.fixture
def tensors() -> Tensors:
    return make_tensors()


def save(tensors: Tensors, path: Path) -> Path:
    safetensors.numpy.save_file(tensors, path)
    return path


def refused(path: Path, match: str) -> ModelFileError:
    with pytest.raises(ModelFileError, match=match) as info:
        read_tensors(open_path(path))
    assert str(path) in str(info.value)
    return info.value


def test_own_model_file(tmp_path: Path):
    path = write_tiny_model(tmp_path / "mine.safetensors", class_names=["cat", "dog"])
    local = open_path(path)
    document, tensors = modelfile.read(path)
    assert (local.format, local.document, local.path) == ("resnext", document, path)
    assert local.sha256 == modelfile.verify(path)[1]
    assert read_tensors(local).keys() == tensors.keys()


@pytest.mark.parametrize("own", [True, False], ids=["model file", "state_dict"])
def test_a_file_that_was_replaced_since_it_was_opened_is_refused(
    own: bool, tensors: Tensors, tmp_path: Path
):
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for seed, place in enumerate((path, other)):
        if own:
            write_tiny_model(place, seed=seed)
        else:
            save({key: value + seed for key, value in tensors.items()}, place)
    local = open_path(path)
    before = read_tensors(local)
    content, changed = path.read_bytes(), path.stat().st_mtime_ns

    path.write_bytes(content)  # the same bytes at another time: hashed again, and right
    again = read_tensors(local)
    assert all(np.array_equal(again[key], before[key]) for key in before)

    os.utime(other, ns=(changed, changed))
    assert other.stat().st_size == len(content)
    os.replace(other, path)  # of the same size and time, as a copy that keeps times may be
    with pytest.raises(ModelFileError, match=r"a\.safetensors: the file was replaced") as caught:
        read_tensors(local)
    assert caught.value.hint == "open it anew"
    assert read_tensors(open_path(path))


def test_an_unchanged_file_is_hashed_once(monkeypatch, tensors: Tensors, tmp_path: Path):
    local = open_path(write_tiny_model(tmp_path / "tiny.safetensors"))
    monkeypatch.setattr(modelfile, "verify", None)  # whoever calls it fails
    assert read_tensors(local)
    plain = open_path(save(tensors, tmp_path / "plain.safetensors"))
    monkeypatch.setattr(reader, "sha256_of", None)
    assert read_tensors(plain)


def test_flipped_bit_in_own_model_file(tmp_path: Path):
    path = write_tiny_model(tmp_path / "mine.safetensors")
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    refused(path, "has changed since it was written")


def test_plain_state_dict_says_what_was_assumed(tensors: Tensors, tmp_path: Path):
    local = open_path(save(tensors, tmp_path / "net.safetensors"))
    assert local.document.architecture == SPEC
    assert local.document.labels.class_names == ("class_0", "class_1", "class_2")
    spec = local.document.preprocess
    assert (spec.input_size, spec.resize, spec.interpolation) == (32, 32, "bilinear")
    assert set(local.document.provenance["assumed"]) == {
        "architecture",
        "preprocess",
        "class_names",
    }
    assert local.document.name == "net"
    for key, tensor in read_tensors(local).items():
        np.testing.assert_array_equal(tensor, tensors[key])


def test_imagenet_sized_state_dict_gets_imagenet_defaults(tmp_path: Path):
    spec = arch.ArchSpec(depth=26, cardinality=1, base_width=1)
    local = open_path(save(make_tensors(spec), tmp_path / "net.safetensors"))
    preprocess = local.document.preprocess
    assert (preprocess.input_size, preprocess.resize) == (224, 256)
    assert local.document.labels == catalogue.imagenet1k()


def test_class_names_beside_the_file(tensors: Tensors, tmp_path: Path):
    path = save(tensors, tmp_path / "net.safetensors")
    beside = tmp_path / "net.classes.json"
    beside.write_text('["cat", "dog", "owl"]')
    assert open_path(path).document.labels.class_names == ("cat", "dog", "owl")
    for text in ('["cat"]', "{", "[1, 2, 3]", '{"cat": 0}'):
        beside.write_text(text)
        refused(path, r"net\.classes\.json")


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16])
def test_float_types_are_kept(tensors: Tensors, tmp_path: Path, dtype: Any):
    stored = {key: tensor.astype(dtype) for key, tensor in tensors.items()}
    read = read_tensors(open_path(save(stored, tmp_path / "net.safetensors")))
    assert {tensor.dtype for tensor in read.values()} == {np.dtype(dtype)}
    np.testing.assert_array_equal(read["fc.bias"], stored["fc.bias"])


def test_whole_numbers_are_refused(tensors: Tensors, tmp_path: Path):
    tensors["fc.bias"] = np.zeros(3, np.int64)
    refused(save(tensors, tmp_path / "net.safetensors"), "fc.bias is int64; expected float16")


def test_foreign_layout_with_wrapper_and_counters(tensors: Tensors, tmp_path: Path):
    foreign = {
        "module." + (f"head.{key}" if key.startswith("fc.") else f"backbone.{key}"): tensor
        for key, tensor in tensors.items()
    }
    foreign["module.backbone.bn1.num_batches_tracked"] = np.array(7)
    local = open_path(save(foreign, tmp_path / "net.safetensors"))
    assert local.key_layout == "mmpretrain"
    assert list(read_tensors(local)) != list(foreign)
    np.testing.assert_array_equal(read_tensors(local)["fc.bias"], tensors["fc.bias"])


def drop(tensors: Tensors) -> None:
    del tensors["layer1.0.bn2.bias"]


def add(tensors: Tensors) -> None:
    tensors["layer1.0.squeeze.expand.weight"] = np.zeros(3, np.float32)


def excite(tensors: Tensors) -> None:
    tensors["layer1.0.se.fc1.weight"] = np.zeros(3, np.float32)


def reshape(tensors: Tensors) -> None:
    tensors["layer2.1.conv1.weight"] = np.zeros((1, 2, 1, 1), np.float32)


def not_finite(tensors: Tensors) -> None:
    tensors["layer2.0.conv2.weight"][0, 0, 1, 1] = np.nan


def no_resnext(tensors: Tensors) -> None:
    tensors.clear()
    tensors["encoder.weight"] = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (drop, r"1 missing: layer1\.0\.bn2\.bias"),
        (add, r"1 unexpected: layer1\.0\.squeeze\.expand\.weight"),
        (excite, "these tensors are not a ResNeXt: attention is 'se'"),
        (reshape, r"layer2\.1\.conv1\.weight"),
        (not_finite, r"1 tensor holds NaN or infinity: layer2\.0\.conv2\.weight"),
        (no_resnext, "these tensors are not a ResNeXt"),
    ],
)
def test_wrong_tensors_are_named(
    tensors: Tensors, tmp_path: Path, damage: Callable[[Tensors], None], match: str
):
    damage(tensors)
    refused(save(tensors, tmp_path / "net.safetensors"), match)


def test_published_file_is_known_by_its_hash(monkeypatch, tensors: Tensors, tmp_path: Path):
    row = catalogue.find("resnext50_32x4d.tv_in1k")
    path = save(tensors, tmp_path / "renamed.safetensors")
    monkeypatch.setattr(catalogue, "identify", {reader.sha256_of(path): row}.get)
    local = open_path(path)
    assert local.document.name == row.name
    assert local.document.preprocess == row.preprocess
    assert local.document.labels == catalogue.imagenet1k()
    assert local.document.metrics["top1"] == row.top1
    with pytest.raises(ModelFileError, match="the tensors are not resnext50_32x4d's"):
        read_tensors(local)


def test_a_published_file_that_is_replaced_after_its_hash_is_refused(
    monkeypatch, tensors: Tensors, tmp_path: Path
):
    row = catalogue.find("resnext50_32x4d.tv_in1k")
    path = save(tensors, tmp_path / "a.safetensors")
    other = save({key: value + 1 for key, value in tensors.items()}, tmp_path / "b.safetensors")
    sha256 = reader.sha256_of(path)
    monkeypatch.setattr(catalogue, "identify", {sha256: row}.get)

    def hash_then_replace(path: Path) -> str:
        os.replace(other, path)
        return sha256

    with monkeypatch.context() as patch:
        patch.setattr(reader, "sha256_of", hash_then_replace)
        local = open_path(path)
    assert local.document.name == row.name
    with pytest.raises(ModelFileError, match="the file was replaced since it was opened"):
        read_tensors(local)


def test_row_of_an_anti_aliased_network(tmp_path: Path):
    row = catalogue.find("seresnextaa101d_32x8d.ah_in1k")
    path = tmp_path / "net.safetensors"
    local = reader.open_row(row, path, format="safetensors", sha256="0" * 64)
    assert local.document.architecture == arch.parse("seresnextaa101d_32x8d")
    assert local.document.labels == catalogue.imagenet1k()


def test_row_of_other_classes_than_those_of_imagenet1k():
    document = reader.row_document(catalogue.find("seresnextaa101d_32x8d.sw_in12k"))
    assert document.architecture.num_classes == len(document.labels.class_names) == 11821
    assert document.labels.class_names[11820] == "class_11820"
    assert document.labels.synset_ids is None and "top1" not in document.metrics


def test_bare_tensors_are_read_without_anti_aliasing_and_that_is_said(tmp_path: Path):
    spec = arch.parse("seresnext26d_1x1d", num_classes=3)
    document = open_path(save(make_tensors(spec), tmp_path / "net.safetensors")).document
    assert document.architecture == spec
    assert document.provenance["assumed"]["architecture"] == (
        "from the shapes of the tensors, which are also those of seresnextaa26d_1x1d"
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run torch on one thread: for tiny layers, two wait for each other when others work."""
    torch = pytest.importorskip("torch")
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.mark.torch
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("seresnext26d_32x4d", {"cardinality": 2, "base_width": 4}),
        ("seresnext26t_32x4d", {"cardinality": 2, "base_width": 4}),
        ("seresnextaa101d_32x8d", {"cardinality": 2, "base_width": 1}),
        ("skresnext50_32x4d", {"cardinality": 2, "base_width": 4}),
    ],
)
def test_folder_that_timm_wrote_gives_timms_logits(
    name: str, widths: dict[str, int], tmp_path: Path
):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    from resnext.modules import filled
    from resnext.network import ResNeXt

    spec = replace(arch.parse(name), num_classes=5, **widths)
    tensors = random_tensors(spec, seed=0)
    theirs = timm.create_model(name, num_classes=5, **widths).eval()
    state = {key: torch.from_numpy(tensor) for key, tensor in tensors.items()}
    theirs.load_state_dict(theirs.state_dict() | state)
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True)

    local = open_path(tmp_path)
    assert local.document.architecture == spec
    read = read_tensors(local)
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 96, 96))).float()
    with torch.inference_mode():
        expected = theirs(image).numpy()
        found = filled(lambda: ResNeXt(spec), read).eval()(image).numpy()
    assert relative_error(found, expected) < 1e-5
    if spec.antialias:  # the name matters
        plain = replace(spec, antialias=False)
        with torch.inference_mode():
            wrong = filled(lambda: ResNeXt(plain), read).eval()(image).numpy()
        assert relative_error(wrong, expected) > 1e-2


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def bytes_of(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


OVERLAP = header(
    '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    '"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
) + bytes(12)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (make_fifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "cannot be read: No such file"),
        (lambda path: path.symlink_to(path.name), "cannot be read: Too many levels"),
        (Path.mkdir, r"a folder without model\.safetensors"),
        (bytes_of(b""), "the file is empty"),
        (bytes_of(b"x"), "not a readable safetensors file"),
        (bytes_of(struct.pack("<Q", 1 << 60) + b"{}"), "not a readable safetensors file"),
        (bytes_of(struct.pack("<Q", 1 << 20) + b"{}"), "not a readable safetensors file"),
        (bytes_of(header("[" * 5000)), "not a readable safetensors file"),
        (bytes_of(header('{"a": 1}')), "not a readable safetensors file"),
        (bytes_of(OVERLAP), "not a readable safetensors file"),
        (bytes_of(b"\x80\x02}q\x00."), "not a readable safetensors file"),
        (bytes_of(header("{}")), "these tensors are not a ResNeXt"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, make: Callable[[Path], object], match: str):
    path = tmp_path / "net.safetensors"
    make(path)
    refused(path, match)


def test_truncated_file_is_refused(tensors: Tensors, tmp_path: Path):
    path = save(tensors, tmp_path / "net.safetensors")
    whole = path.read_bytes()
    for length in (7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path, "not a readable safetensors file")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_unreadable_file_is_refused(tensors: Tensors, tmp_path: Path):
    path = save(tensors, tmp_path / "net.safetensors")
    path.chmod(0)
    refused(path, "permission denied")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("net.onnx", "expected one of .safetensors(.|\n)*hint: use the checkpoint it was"),
        ("net.ckpt", "hint: use its weights, saved with torch.save"),
        ("net.txt", "expected one of .safetensors"),
        ("net", "expected one of .safetensors"),
    ],
)
def test_other_formats_are_refused_with_the_way_out(tmp_path: Path, name: str, match: str):
    (tmp_path / name).write_bytes(b"content")
    refused(tmp_path / name, match)


def test_missing_file_names_its_neighbour(tensors: Tensors, tmp_path: Path):
    save(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelNotFoundError, match=r"did you mean model\.safetensors\?"):
        open_path(tmp_path / "models.safetensors")
    with pytest.raises(ModelNotFoundError, match="no such file"):
        open_path(tmp_path / ("x" * 5000 + ".pth"))
    with pytest.raises(ModelNotFoundError, match="no such file"):
        open_path(tmp_path / "no" / "folder.pth")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.PTH.tar", ".pth.tar"),
        ("a.pt", ".pt"),
        ("a.tv_in1k", ""),
        ("x.SafeTensors", ".safetensors"),
    ],
)
def test_suffixes(name: str, suffix: str):
    assert reader.suffix_of(name) == suffix


def write_timm(folder: Path, tensors: Tensors, **settings: Any) -> Path:
    config = {
        "architecture": SPEC.name,
        "num_classes": 3,
        "pretrained_cfg": {"input_size": [3, 48, 48], "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    (folder / "config.json").write_text(json.dumps(config | settings))
    save(tensors, folder / "model.safetensors")
    return folder


def test_timm_folder(tensors: Tensors, tmp_path: Path):
    for path in (write_timm(tmp_path, tensors), tmp_path / "model.safetensors"):
        document = open_path(path).document
        assert document.preprocess.input_size == 48
        assert "assumed" not in document.provenance
    write_timm(tmp_path, tensors, architecture="resnetblur50")
    refused(tmp_path, "'resnetblur50' is not a known ResNeXt")
    (tmp_path / "config.json").write_text("[]")
    refused(tmp_path, "config.json beside it is not a JSON object")


@pytest.mark.torch
def test_pickled_state_dict(tensors: Tensors, tmp_path: Path):
    torch = pytest.importorskip("torch")
    state = {f"module.{key}": torch.from_numpy(tensor) for key, tensor in tensors.items()}
    path = tmp_path / "net.pth"
    torch.save({"epoch": 1, "model": state}, path)
    local = open_path(path)
    assert (local.format, local.document.architecture) == ("pth", SPEC)
    read = read_tensors(local)
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(read[key], tensor)


def test_pickled_file_without_torch_names_the_extra(monkeypatch, tmp_path: Path):
    def missing(module: str, *, extra: str) -> None:
        raise MissingExtraError("`torch` is not installed", hint=f"resnext[{extra}]")

    monkeypatch.setattr(reader, "import_extra", missing)
    (tmp_path / "net.pth").write_bytes(b"content")
    with pytest.raises(MissingExtraError, match=r"resnext\[torch\]"):
        open_path(tmp_path / "net.pth")
