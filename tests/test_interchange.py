"""Every format to every other: bit by bit, by torchvision's and timm's own loaders."""

from __future__ import annotations

import errno
import math
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from networks import random_batch, random_tensors
from test_keymaps import LAYOUTS

from resnext import arch, images, interchange, modelfile, preprocess
from resnext.arch import ArchSpec
from resnext.checkpoints import reader
from resnext.errors import (
    ConfigError,
    MissingExtraError,
    ModelFileError,
    ModelNotFoundError,
    OutputError,
)
from resnext.interchange import convert, format_of
from resnext.modelfile import ModelDocument
from resnext.predictions import Labels
from resnext.preprocess import PreprocessSpec
from resnext.testing import write_tiny_model

Tensors = dict[str, np.ndarray]
SPEC = arch.parse("resnext26_2x4d", num_classes=3)
DOCUMENT = ModelDocument(
    name="resnext26_2x4d.mine",
    architecture=SPEC,
    labels=Labels(("cat", "dog", "owl"), ("n02123045", "n02084071", "n01621127")),
    preprocess=PreprocessSpec(
        input_size=96, resize=101, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.2,) * 3
    ),
    license="mit",
)
SMALL = ArchSpec(depth=29, cardinality=2, base_width=1, num_classes=3)
WRITERS = {"resnext": "b.safetensors", "safetensors": "b.safetensors", "timm": "b"}
CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"


@cache
def draw(spec: ArchSpec) -> Tensors:
    return random_tensors(spec, seed=3)


def write(path: Path, document: ModelDocument = DOCUMENT, **options: Any) -> Path:
    modelfile.write(path, document, draw(document.architecture), **options)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("model") / "a.safetensors")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


def tensors_of(path: Path) -> Tensors:
    return reader.read_tensors(reader.open_path(path))


def equal(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), key
        assert found[key].tobytes() == tensor.tobytes(), key


# Formats


@pytest.mark.parametrize(
    ("target", "to", "format"),
    [
        ("a.safetensors", None, "resnext"),
        ("a.safetensors", "safetensors", "safetensors"),
        ("a.pth", None, "torchvision"),
        ("a.PT", None, "torchvision"),
        ("a.pth.tar", "torchvision", "torchvision"),
        ("a/", None, "timm"),
        ("a", "timm", "timm"),
        (".", None, "timm"),
        ("my.pth/", None, "timm"),
    ],
)
def test_the_name_tells_the_format(target: str, to: str | None, format: str):
    assert format_of(target, to) == format


@pytest.mark.parametrize(
    ("target", "to", "match"),
    [
        ("a", None, r"the name does not tell the format(.|\n)*--to resnext"),
        ("a.onnx", None, "the name does not tell the format"),
        ("a.pth", "resnext", r"resnext is a file that ends in \.safetensors; found \.pth"),
        ("a.safetensors", "torchvision", r"ends in \.pth; found \.safetensors"),
        ("a", "safetensors", "found no suffix"),
        ("a/", "torchvision", "found a folder"),
        ("a.pth", "timm", r"timm is a folder; found a name that ends in \.pth"),
        ("a.pth", "onnx", "to is 'onnx'; expected one of resnext, torchvision, timm"),
    ],
)
def test_names_that_will_not_do(target: str, to: str | None, match: str):
    with pytest.raises(ConfigError, match=match):
        format_of(target, to)


@pytest.mark.parametrize("format", WRITERS)
def test_there_and_back(model: Path, tmp_path: Path, format: str):
    done = convert(model, tmp_path / WRITERS[format], to=format)
    assert (done.format, done.architecture, done.dtype) == (format, SPEC.name, "float32")
    files = [done.path, *done.path.glob("*")]
    assert done.num_bytes == sum(file.stat().st_size for file in files if file.is_file())
    assert os.listdir(tmp_path) == [WRITERS[format]]
    convert(done.path, tmp_path / "c.safetensors")
    equal(tensors_of(tmp_path / "c.safetensors"), tensors_of(model))
    back = reader.open_path(tmp_path / "c.safetensors").document
    assert back.architecture == SPEC
    if format != "safetensors":
        assert replace(back, provenance={}) == DOCUMENT
        assert done.notes == ()


def test_our_model_file_keeps_everything(tmp_path: Path):
    document = replace(
        DOCUMENT, temperature=1.3, reject_threshold=0.2, metrics={"top1": 1.0},
        provenance={"seed": [1, 2]}, preprocess=preprocess.PreprocessSpec(
            input_size=96, resize=96, interpolation="bilinear", mode="letterbox", fill=(1, 2, 3)),
    )  # fmt: skip
    source = write(tmp_path / "a.safetensors", document)
    assert convert(source, tmp_path / "b.safetensors").notes == ()
    assert reader.open_path(tmp_path / "b.safetensors").document == document


def test_bare_tensors_are_as_torch_saves_them(model: Path, tmp_path: Path):
    convert(model, tmp_path / "b.safetensors", to="safetensors")
    with safetensors.safe_open(tmp_path / "b.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        counters = [key for key in file.keys() if key.endswith("num_batches_tracked")]
        norms = [key for key in file.keys() if key.endswith("running_var")]
        assert len(counters) == len(norms) > 0
        assert all(file.get_tensor(key) == np.array(0, np.int64) for key in counters)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("wrapper", ["", "module."])  # FAIR's have `module.`
def test_layouts_of_others_are_read(tmp_path: Path, layout: str, wrapper: str):
    tensors = draw(SMALL)
    theirs = {wrapper + LAYOUTS[layout](key): tensor for key, tensor in tensors.items()}
    theirs[f"{wrapper}x.num_batches_tracked"] = np.array(5)
    safetensors.numpy.save_file(theirs, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    equal(tensors_of(tmp_path / "b.safetensors"), tensors)


def test_a_missing_an_unexpected_and_a_reshaped_tensor_are_all_named(tmp_path: Path):
    tensors = dict(draw(SPEC))
    del tensors["layer2.1.bn2.bias"]
    tensors["layer3.0.conv1.weight"] = tensors["layer3.0.conv1.weight"][:1]
    tensors["head.extra"] = np.zeros(2, np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError) as info:
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    for text in (
        "a.safetensors",
        "resnext26_2x4d",
        "1 missing: layer2.1.bn2.bias",
        "1 unexpected: head.extra",
        "1 of another shape: layer3.0.conv1.weight (1, 512, 1, 1) instead of (32, 512, 1, 1)",
    ):
        assert text in str(info.value)
    assert os.listdir(tmp_path) == ["a.safetensors"]


# Types


@pytest.mark.parametrize(
    ("format", "dtype", "spec"),
    [
        ("resnext", "float32", SMALL),
        ("resnext", "float16", SMALL),
        ("safetensors", "bfloat16", SMALL),
        ("timm", "float32", SPEC),
        pytest.param("torchvision", "bfloat16", SMALL, marks=pytest.mark.torch),
    ],
)
def test_types_are_kept_and_chosen(tmp_path: Path, format: str, dtype: str, spec: ArchSpec):
    document = replace(DOCUMENT, architecture=spec)
    source = write(tmp_path / "a.safetensors", document, dtype=dtype)
    for choice in (None, "float16", "bfloat16"):
        target = tmp_path / {**WRITERS, "torchvision": "b.pth"}[format]
        done = convert(source, target, to=format, dtype=choice, force=True)
        assert done.dtype == (choice or dtype)
        rounded = choice is not None and choice != dtype
        assert any(note == f"rounded: {dtype} to {choice}" for note in done.notes) == rounded
        found, expected = tensors_of(done.path), tensors_of(source)
        assert {t.dtype.name for t in found.values() if t.ndim < 2} == {"float32"}
        for key, tensor in expected.items():
            np.testing.assert_array_equal(found[key], tensor.astype(found[key].dtype))


def test_doubles_stay_doubles_but_in_our_model_file(tmp_path: Path):
    tensors = {key: tensor.astype(np.float64) / 3 for key, tensor in draw(SMALL).items()}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    done = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="safetensors")
    assert done.dtype == "float64"
    equal(tensors_of(done.path), tensors)
    done = convert(done.path, tmp_path / "c.safetensors")
    assert done.dtype == "float32"
    assert "rounded: float64 to float32" in done.notes


def test_widening_is_no_rounding(tiny: Path, tmp_path: Path):
    done = convert(tiny, tmp_path / "b.safetensors", dtype="float32")
    assert (done.dtype, done.notes) == ("float32", ())


def test_a_value_that_does_not_fit_is_named(tmp_path: Path):
    tensors = {**draw(SPEC), "fc.weight": np.full((3, 2048), 1e5, np.float32)}
    modelfile.write(tmp_path / "a.safetensors", DOCUMENT, tensors)
    with pytest.raises(ModelFileError, match=r"fc\.weight does not fit float16"):
        convert(tmp_path / "a.safetensors", tmp_path / "b", to="timm", dtype="float16")
    assert os.listdir(tmp_path) == ["a.safetensors"]


# What is lost


def test_tensors_alone_lose_all_the_rest(tmp_path: Path):
    document = replace(
        DOCUMENT, temperature=1.5, reject_threshold=0.25, metrics={"top1": 1}, provenance={"a": 1}
    )
    source = write(tmp_path / "a.safetensors", document)
    (note,) = convert(source, tmp_path / "b.safetensors", to="safetensors").notes
    for lost in (
        "class names", "preprocessing", "the licence (mit)", "the temperature (1.5)",
        "the reject threshold (0.25)", "metrics", "provenance",
    ):  # fmt: skip
        assert lost in note
    (note,) = convert(source, tmp_path / "timm", to="timm").notes
    assert note == (
        "the timm format has no place for the temperature (1.5), the reject threshold (0.25),"
        " metrics, provenance"
    )


def test_what_was_assumed_is_passed_on(model: Path, tmp_path: Path):
    convert(model, tmp_path / "b.safetensors", to="safetensors")
    (note,) = convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors").notes
    assert "did not say how to use it; assumed architecture: from the shapes" in note


def test_anti_aliasing_does_not_show_in_tensors(tmp_path: Path):
    document = replace(DOCUMENT, architecture=arch.parse("seresnextaa26d_2x4d", num_classes=3))
    source = write(tmp_path / "a.safetensors", document)
    notes = convert(source, tmp_path / "b.safetensors", to="safetensors").notes
    assert any("takes it for seresnext26d_2x4d" in note for note in notes)
    assert convert(source, tmp_path / "timm", to="timm").notes == ()
    convert(tmp_path / "timm", tmp_path / "c.safetensors")
    back = reader.open_path(tmp_path / "c.safetensors").document
    assert back.architecture == document.architecture


# timm


def test_synset_ids_that_timm_cannot_hold_are_said(tmp_path: Path):
    document = replace(DOCUMENT, labels=Labels(("a", "b", "c"), ("x", "y", "z")))
    done = convert(write(tmp_path / "a.safetensors", document), tmp_path / "b", to="timm")
    assert done.notes == ("the timm format has no place for class names",)


def test_surrogates_in_a_name(tmp_path: Path):
    document = replace(DOCUMENT, labels=Labels(("a\ud800", "b\x00", "\N{OWL}")))
    convert(write(tmp_path / "a.safetensors", document), tmp_path / "b", to="timm")
    assert reader.open_path(tmp_path / "b").document.labels == document.labels


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mode": "letterbox", "resize": 96}, "no exact word for letterbox"),
        ({"in_chans": 1}, "no exact word for 1 input channel"),
        ({"depth": 29}, "timm cannot build resnext29_2x4d"),
    ],
)
def test_what_timm_cannot_do_is_refused(changes: dict[str, Any], match: str, tmp_path: Path):
    prepared = {key: value for key, value in changes.items() if key in ("mode", "resize")}
    built = {key: value for key, value in changes.items() if key in ("in_chans", "depth")}
    document = replace(
        DOCUMENT,
        architecture=replace(SPEC, **built),
        preprocess=replace(DOCUMENT.preprocess, **prepared),
    )
    source = write(tmp_path / "a.safetensors", document)
    with pytest.raises(ModelFileError, match=match + r"(.|\n)*hint: --to safetensors"):
        convert(source, tmp_path / "b", to="timm")
    assert os.listdir(tmp_path) == ["a.safetensors"]


# Targets


def test_what_is_there_is_kept_unless_forced(tiny: Path, tmp_path: Path):
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    (folder / "config.json").write_text("old")
    file = tmp_path / "b.safetensors"
    file.write_bytes(b"old")
    for target, name in ((file, "b.safetensors"), (folder, "config.json")):
        with pytest.raises(ConfigError, match=rf"{name} is there already(.|\n)*--force"):
            convert(tiny, target)
    assert file.read_bytes() == b"old"
    convert(tiny, file, force=True)
    equal(tensors_of(file), tensors_of(tiny))


def test_a_folder_keeps_its_other_files(model: Path, tmp_path: Path):
    (tmp_path / "README.md").write_text("mine")
    convert(model, tmp_path)
    convert(model, tmp_path, force=True, dtype="float16")
    assert sorted(os.listdir(tmp_path)) == ["README.md", "config.json", "model.safetensors"]
    assert reader.open_path(tmp_path).document.architecture == SPEC
    assert tensors_of(tmp_path)["conv1.weight"].dtype == np.float16


def test_the_folder_one_is_in(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    convert(model, ".")
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


def test_the_source_is_never_overwritten(tiny: Path, model: Path, tmp_path: Path):
    source = write_tiny_model(tmp_path / "a.safetensors")
    before = source.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(source)
    os.link(source, tmp_path / "hard.safetensors")
    for name in ("a.safetensors", "link.safetensors", "hard.safetensors"):
        with pytest.raises(ConfigError, match="is the source itself"):
            convert(source, tmp_path / name, force=True)
    assert source.read_bytes() == before
    convert(model, tmp_path / "timm", to="timm")
    for source in (tmp_path / "timm", tmp_path / "timm" / "model.safetensors"):
        with pytest.raises(ConfigError, match="is the source itself"):
            convert(source, tmp_path / "timm", force=True)


def test_targets_that_cannot_be(tiny: Path, tmp_path: Path):
    os.mkfifo(tmp_path / "fifo.safetensors")
    with pytest.raises(ConfigError, match="not a regular file"):
        convert(tiny, tmp_path / "fifo.safetensors", force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; timm's format is a folder"):
        convert(tiny, tmp_path / "file", to="timm", force=True)
    with pytest.raises(OutputError, match="there is no folder .*absent"):
        convert(tiny, tmp_path / "absent" / "b.safetensors")
    with pytest.raises(ConfigError, match="dtype is 'int8'; expected one of float32"):
        convert(tiny, tmp_path / "b.safetensors", dtype="int8")
    with pytest.raises(ModelNotFoundError, match="no such file"):
        convert(tmp_path / "absent.safetensors", tmp_path / "b.safetensors")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder nobody can write to")
def test_a_folder_that_takes_no_files(tiny: Path):
    with pytest.raises(OutputError, match=r"/proc/self/b\.safetensors: cannot be written"):
        convert(tiny, "/proc/self/b.safetensors")


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow beyond 100 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize(
    "target", [*WRITERS.items(), pytest.param(("torchvision", "b.pth"), marks=pytest.mark.torch)]
)
def test_a_write_that_fails_leaves_nothing(model: Path, tmp_path: Path, target: tuple[str, str]):
    (tmp_path / "b.pth").write_bytes(b"old")
    with pytest.raises(OutputError, match=f"{target[1]}: cannot be written: File too large"):
        convert(model, tmp_path / target[1], to=target[0], force=True)
    assert os.listdir(tmp_path) == ["b.pth"]
    assert (tmp_path / "b.pth").read_bytes() == b"old"


def test_a_full_disk_says_how_much_is_needed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"b\.safetensors: the disk is full \(.* MB needed\)"):
        convert(tiny, tmp_path / "b.safetensors")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", WRITERS)
def test_what_reads_back_differently_is_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
):
    old = tmp_path / "b.safetensors"
    old.write_bytes(b"old")
    read = reader.read_tensors

    def flipped(local: reader.LocalModel) -> Tensors:
        tensors = dict(read(local))
        tensors["fc.bias"] = -np.zeros_like(tensors["fc.bias"])
        return tensors

    # Zeros, which are equal to -0 as numbers.
    tensors = {**draw(SPEC), "fc.bias": np.zeros(3, np.float32)}
    modelfile.write(tmp_path / "a.safetensors", DOCUMENT, tensors)
    monkeypatch.setattr(reader, "read_tensors", flipped)
    with pytest.raises(
        OutputError, match=r"1 of \d+ tensors read back as other.* such as fc\.bias"
    ):
        convert(tmp_path / "a.safetensors", tmp_path / WRITERS[format], to=format, force=True)
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors"]
    assert old.read_bytes() == b"old"


def test_an_interrupt_leaves_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reader, "open_path", lambda path, open_path=reader.open_path, **options: (
        interrupted(path) if ".resnext-" in str(path) else open_path(path, **options)
    ))  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        convert(tiny, tmp_path / "b.safetensors")
    assert os.listdir(tmp_path) == []


def test_a_pth_without_torch_names_the_extra(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "resnext.checkpoints.pickles", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"content")
    for source, target in ((tiny, "b.pth"), (tmp_path / "a.pth", "b.safetensors")):
        with pytest.raises(MissingExtraError, match=r"pip install 'resnext\[torch\]'"):
            convert(source, tmp_path / target)
    assert os.listdir(tmp_path) == ["a.pth"]


# torchvision and timm


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    """Torch on one thread: for tiny layers, two wait for each other when others work."""
    torch = pytest.importorskip("torch")
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(count)


def logits(model: Any, size: int = 64) -> np.ndarray:
    import torch

    batch = torch.from_numpy(random_batch(2, size, seed=5)).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        return model.eval()(batch).numpy()


def torchvision_model(spec: ArchSpec) -> Any:
    resnet = pytest.importorskip("torchvision.models.resnet")
    return resnet.ResNet(
        resnet.Bottleneck,
        list(spec.blocks),
        groups=spec.cardinality,
        width_per_group=spec.base_width,
        num_classes=spec.num_classes,
    )


def randomize(torch: Any, model: Any) -> Any:
    """Fill a module, its batch norms too, with numbers whose logits differ."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("num_batches_tracked"):
                tensor.fill_(0)
            elif key.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                scale = 1 / math.sqrt(math.prod(tensor.shape[1:])) if tensor.ndim > 1 else 0.1
                tensor.normal_(0, scale, generator=generator)
    return model


def same_state(torch: Any, found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


@pytest.mark.torch
def test_torchvision_there_and_back(torch: Any, tmp_path: Path):
    theirs = randomize(torch, torchvision_model(SPEC))
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "ours.safetensors")
    done = convert(tmp_path / "ours.safetensors", tmp_path / "b.pth")
    state = torch.load(tmp_path / "b.pth", weights_only=True)
    same_state(torch, state, theirs.state_dict())
    again = torchvision_model(SPEC)
    again.load_state_dict(state, strict=True)
    assert (logits(again) == logits(theirs)).all()
    assert np.ptp(logits(theirs)) > 0.1
    assert any("torchvision has no function for resnext26_2x4d" in note for note in done.notes)


@pytest.mark.torch
def test_modules_of_others_load_ours_and_ours_load_theirs(torch: Any, model: Path, tmp_path: Path):
    network = pytest.importorskip("resnext.network")
    convert(model, tmp_path / "b.pth")
    state = torch.load(tmp_path / "b.pth", weights_only=True)
    ours, theirs = network.ResNeXt(SPEC), torchvision_model(SPEC)
    for module in (ours, theirs):
        module.load_state_dict(state, strict=True)
    assert (logits(ours) == logits(theirs)).all()
    convert(tmp_path / "b.pth", tmp_path / "bare.safetensors", to="safetensors")
    bare = pytest.importorskip("safetensors.torch").load_file(tmp_path / "bare.safetensors")
    torchvision_model(SPEC).load_state_dict(bare, strict=True)
    assert all(torch.equal(bare[key], tensor) for key, tensor in state.items())
    randomize(torch, theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert (logits(ours) == logits(theirs)).all()


@pytest.mark.torch
@pytest.mark.parametrize("name", ["resnext26d_2x4d", "resnext29_2x4d"])
def test_what_torchvision_cannot_build_is_said(torch: Any, tmp_path: Path, name: str):
    spec = arch.parse(name, num_classes=3)
    source = write(tmp_path / "a.safetensors", replace(DOCUMENT, architecture=spec))
    done = convert(source, tmp_path / "b.pth")
    assert any(f"torchvision cannot build {name}" in note for note in done.notes)
    equal(tensors_of(tmp_path / "b.pth"), tensors_of(source))


@pytest.mark.torch
def test_torchvision_has_the_functions_that_we_think(torch: Any):
    models = pytest.importorskip("torchvision.models")
    for ours, name in interchange._TORCHVISION.items():
        with torch.device("meta"):
            state = getattr(models, name)().state_dict()
        shapes = {k: tuple(t.shape) for k, t in state.items() if "num_batches" not in k}
        assert shapes == arch.tensor_shapes(arch.parse(ours))


TIMM = [
    "resnext26_2x4d",
    "seresnextaa26d_2x4d",
    "skresnext26t_2x4d",
    pytest.param("resnext50_32x4d", marks=pytest.mark.slow),
    pytest.param("skresnext50_32x4d", marks=pytest.mark.slow),
]


@pytest.mark.torch
@pytest.mark.parametrize("name", TIMM)
def test_a_chain_through_all_formats(torch: Any, tmp_path: Path, name: str):
    timm = pytest.importorskip("timm")
    from resnext.checkpoints import timmnames

    spec = arch.parse(name, num_classes=4)
    function, arguments = timmnames.to_timm(spec)
    theirs = randomize(torch, timm.create_model(function, num_classes=4, **arguments))
    timm.models.save_for_hf(theirs, tmp_path / "a", safe_serialization=True)
    chain = ["a", "b.safetensors", "c.pth", "d.safetensors", "e"]
    for before, after in zip(chain, chain[1:], strict=False):
        convert(
            tmp_path / before,
            tmp_path / after,
            to="timm" if after == "e" else None,
            # A .pth does not tell of anti-aliasing.
            architecture=name if before == "c.pth" else "",
        )
    again = timm.create_model(f"local-dir:{tmp_path / 'e'}", pretrained=True)
    same_state(torch, again.state_dict(), theirs.state_dict())
    assert (logits(again) == logits(theirs)).all()
    assert np.ptp(logits(theirs)) > 0.1
    checkpoint = tmp_path / "e" / "model.safetensors"
    loaded = timm.create_model(
        function, checkpoint_path=str(checkpoint), num_classes=4, **arguments
    )
    same_state(torch, loaded.state_dict(), theirs.state_dict())


@pytest.mark.torch
@pytest.mark.parametrize(
    ("mode", "resize", "interpolation"),
    [("crop", 101, "bicubic"), ("crop", 80, "bilinear"), ("squash", 96, "bicubic")],
)
def test_timm_prepares_pictures_as_we_do(
    torch: Any, tmp_path: Path, mode: Any, resize: int, interpolation: Any
):
    timm = pytest.importorskip("timm")
    spec = replace(DOCUMENT.preprocess, mode=mode, resize=resize, interpolation=interpolation)
    document = replace(DOCUMENT, preprocess=spec)
    done = convert(write(tmp_path / "a.safetensors", document), tmp_path / "b", to="timm")
    assert done.notes == ()
    model = timm.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True)
    assert model.pretrained_cfg["label_descriptions"]["n02123045"] == "cat"
    assert model.pretrained_cfg["license"] == "mit"
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    picture = images.open_rgb(CAT)
    expected = preprocess.normalize(preprocess.apply(picture, spec), spec)
    found = transform(picture).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_another_architecture_than_the_tensors_have_is_refused(tiny: Path, tmp_path: Path):
    bare = tmp_path / "bare.safetensors"
    convert(tiny, bare, to="safetensors")
    with pytest.raises(ModelFileError, match="expected those of resnext50_32x4d"):
        convert(bare, tmp_path / "b.safetensors", architecture="resnext50_32x4d")
    with pytest.raises(ModelFileError, match="is no architecture"):
        convert(bare, tmp_path / "b.safetensors", architecture="resnet")


def test_a_target_that_came_in_the_meantime_stays(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "b.safetensors"
    read = interchange._read_back

    def late(*arguments: Any) -> Any:
        target.write_text("somebody else's")
        return read(*arguments)

    monkeypatch.setattr(interchange, "_read_back", late)
    with pytest.raises(ConfigError, match="--force"):
        convert(tiny, target)
    assert target.read_text() == "somebody else's"
