"""Names to networks: which weights, into what network, with which preprocessing."""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Tensors, random_tensors
from PIL import Image
from published import put_in_cache
from server import isolate, serving

import resnext
from resnext import arch, catalogue, modelfile, testing
from resnext.arch import ArchSpec
from resnext.errors import (
    ConfigError,
    ImageError,
    MissingExtraError,
    ModelFileError,
    ModelNotFoundError,
    WeightsUnavailableError,
    import_extra,
)
from resnext.predictions import Labels
from resnext.preprocess import PreprocessSpec

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_torch_thread")]
torch = pytest.importorskip("torch")
files = pytest.importorskip("safetensors.torch")
zoo = import_extra("resnext.zoo", extra="torch")
create_model = zoo.create_model

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"
TINY = ArchSpec(depth=29, cardinality=2, base_width=1, num_classes=5)
PAPER = "resnext26_2x2d"  # the smallest with an ImageNet stem and a dilation
TORCHVISION = ("ResNeXt50_32X4D_Weights", "ResNeXt101_32X8D_Weights", "ResNeXt101_64X4D_Weights")


def write(path: Path, spec: ArchSpec = TINY, *, seed: int = 0, dtype: str = "float32") -> Tensors:
    """Write a plain `state_dict`, and return it."""
    tensors = random_tensors(spec, seed=seed)
    stored = {key: torch.from_numpy(t).to(getattr(torch, dtype)) for key, t in tensors.items()}
    if path.suffix == ".pth":
        torch.save(stored, path)
    else:
        files.save_file(stored, path)
    return tensors


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of `TINY`."""
    path = tmp_path_factory.mktemp("tiny") / "net.safetensors"
    write(path)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    """Return a checkpoint of an ImageNet network, and what is in it."""
    path = tmp_path_factory.mktemp("large") / "large.safetensors"
    return path, write(path, arch.parse(PAPER, num_classes=7))


def equals(model: Any, tensors: Tensors, *, but: tuple[str, ...] = ()) -> bool:
    state = model.state_dict()
    return all(
        np.array_equal(state[key].numpy(), tensor)
        for key, tensor in tensors.items()
        if not key.startswith(but or ("-",))
    )


def batch(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(model: Any, images: Any) -> Any:
    with torch.inference_mode():
        return model(images)


def chosen(name: str, *arguments: Any, **options: Any) -> str:
    """Return the catalogue's name of the weights that would be loaded."""
    with pytest.raises(WeightsUnavailableError, match="the network is off") as info:
        create_model(name, *arguments, **options, offline=True)
    return str(info.value.message.partition(" ")[0])


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("resnext50_32x4d", "resnext50_32x4d.a1h_in1k"),
        ("resnext101_32x8d", "resnext101_32x8d.tv2_in1k"),
        ("resnext50d_32x4d", "resnext50d_32x4d.bt_in1k"),
        ("tv_resnext50_32x4d", "resnext50_32x4d.tv_in1k"),
        ("swsl_resnext101_32x8d", "resnext101_32x8d.fb_swsl_ig1b_ft_in1k"),
        ("resnext50_32x4d.ra_in1k", "resnext50_32x4d.ra_in1k"),
        ("ResNeXt50_32X4D_Weights.IMAGENET1K_V1", "resnext50_32x4d.tv_in1k"),
        ("hf-hub:timm/resnext101_64x4d.c1_in1k", "resnext101_64x4d.c1_in1k"),
    ],
)
def test_a_name_means_weights(name: str, row: str) -> None:
    assert chosen(name, pretrained=True) == row
    assert chosen(name, True) == row


@pytest.mark.parametrize(
    ("name", "weights", "tag"),
    [
        ("resnext50_32x4d", "tv_in1k", "tv_in1k"),
        ("resnext50_32x4d", "a1h_in1k", "a1h_in1k"),
        ("resnext50_32x4d", "resnext50_32x4d.gluon_in1k", "gluon_in1k"),
        ("resnext50_32x4d", "IMAGENET1K_V1", "tv_in1k"),
        ("resnext50_32x4d", "IMAGENET1K_V2", "tv2_in1k"),
        ("resnext50_32x4d", "DEFAULT", "tv2_in1k"),
        ("resnext101_32x8d", "IMAGENET1K_V1", "tv_in1k"),
        ("resnext101_32x8d", "IMAGENET1K_V2", "tv2_in1k"),
        ("resnext101_32x8d", "DEFAULT", "tv2_in1k"),
        ("resnext101_64x4d", "IMAGENET1K_V1", "tv_in1k"),
        ("resnext101_64x4d", "DEFAULT", "tv_in1k"),
        ("tv_resnext50_32x4d", "resnext50_32x4d.tv2_in1k", "tv2_in1k"),
    ],
)
def test_weights_are_chosen_and_imply_pretrained(name: str, weights: str, tag: str) -> None:
    expected = f"{name.removeprefix('tv_')}.{tag}"
    assert chosen(name, weights=weights) == expected
    assert chosen(name, pretrained=True, weights=weights) == expected


@pytest.mark.parametrize("enum", TORCHVISION)
def test_members_of_torchvision_are_its_own_files(enum: str) -> None:
    members = getattr(pytest.importorskip("torchvision").models, enum)
    architecture = enum.removesuffix("_Weights").lower()
    for member in members:
        row = catalogue.find(chosen(architecture, weights=member))
        assert member.url in [file.url for file in row.files]
    assert chosen(architecture, weights=members.DEFAULT) == chosen(architecture, weights="DEFAULT")


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"are resnext50_32x4d\.tv2_in1k; .* resnext101_32x8d"):
        create_model("resnext101_32x8d", weights="ResNeXt50_32X4D_Weights.IMAGENET1K_V2")


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("resnext50_32x4", {}, "did you mean resnext50_32x4d"),
        ("resnext50_32x4", {"pretrained": True}, "did you mean resnext50_32x4d"),
        ("tv_resnext50_32x4", {"pretrained": True}, "did you mean tv_resnext50_32x4d"),
        ("resnext50_32x4d.tv3_in1k", {"pretrained": True}, "resnext50_32x4d.tv2_in1k"),
        ("resnext50_32x4d", {"weights": "tv3_in1k"}, "resnext50_32x4d.tv2_in1k"),
        ("resnext50_32x4d", {"weights": "IMAGENET1K_V3"}, "IMAGENET1K_V2"),
        ("./net2.safetensors", {"pretrained": True}, "did you mean net.safetensors"),
    ],
)
def test_a_wrong_name_suggests_the_nearest(
    checkpoint: Path, monkeypatch: Any, name: str, options: Any, hint: str
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    with pytest.raises(ModelNotFoundError) as info:
        create_model(name, **options)
    assert hint in info.value.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnext50_4x24d", "no public weights of resnext50_4x24d are known"),
        ("resnext101_32x48d", "fb_wsl_ig1b_ft_in1k"),
    ],
)
def test_an_architecture_without_weights_says_so(name: str, message: str) -> None:
    with torch.device("meta"):
        assert create_model(name).spec.name == name
        with pytest.raises(ModelNotFoundError, match=message):
            create_model(name, pretrained=True)


def test_public_weights_give_the_logits_of_torchvision() -> None:
    models = pytest.importorskip("torchvision").models
    path = put_in_cache("resnext50_32x4d.tv2_in1k")
    model = create_model("resnext50_32x4d", weights="IMAGENET1K_V2", offline=True)
    assert not model.training
    assert model.document.name == "resnext50_32x4d.tv2_in1k"
    known = model.pretrained_cfg
    assert (known["architecture"], known["tag"]) == ("resnext50_32x4d", "tv2_in1k")
    assert (known["top1"], known["license"]) == (81.198, "bsd-3-clause")
    assert known["label_names"] == list(catalogue.imagenet1k().class_names)
    with torch.device("meta"):
        reference = models.resnext50_32x4d()
    state = files.load_file(path)
    reference.load_state_dict({key: t.float() for key, t in state.items()}, assign=True)
    images = batch(2, 3, 64, 64)
    counted = {key: t for key, t in model.state_dict().items() if "tracked" in key}
    assert all(counter == 0 for counter in counted.values())
    reference.load_state_dict(counted, strict=False, assign=True)
    torch.testing.assert_close(run(model, images), run(reference.eval(), images))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_checkpoint_of_any_float_type_is_loaded(tmp_path: Path, dtype: str, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    tensors = write(path, dtype=dtype)
    model = create_model(path, pretrained=True)
    for key, tensor in tensors.items():
        rounded = torch.from_numpy(tensor).to(getattr(torch, dtype)).float()
        torch.testing.assert_close(model.state_dict()[key], rounded, rtol=0, atol=0)


def test_the_default_type_of_torch_is_that_of_the_network(checkpoint: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = create_model(checkpoint, pretrained=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_a_model_file_says_all(tmp_path: Path) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors", class_names=["cat", "dog"])
    document, tensors = modelfile.read(path)
    model = create_model(path, pretrained=True)
    assert model.document == document
    assert model.pretrained_cfg["label_names"] == ["cat", "dog"]
    assert model.pretrained_cfg["synset_ids"] is None
    assert equals(model, tensors)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_a_repository_of_the_hub_is_loaded(tmp_path: Path, monkeypatch: Any) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    with serving() as server:
        isolate(monkeypatch, tmp_path, server)
        server.put("/me/pets/resolve/main/model.safetensors", path.read_bytes())
        with pytest.raises(WeightsUnavailableError):
            create_model("hf-hub:me/pets")  # not fetched only to be described
        model = create_model("hf-hub:me/pets", pretrained=True)
        assert len(server.seen) == 1
    assert equals(model, modelfile.read(path)[1])
    assert create_model("hf-hub:me/pets", offline=True).num_classes == 2


def test_training_mode_without_weights_and_eval_mode_with(checkpoint: Path) -> None:
    fresh, trained = create_model(checkpoint), create_model(checkpoint, True)
    assert (fresh.training, trained.training) == (True, False)
    assert (fresh.document, fresh.pretrained_cfg) == (None, {})
    assert all(module.training == fresh.training for module in fresh.modules())
    assert all(module.training == trained.training for module in trained.modules())
    assert fresh.spec == trained.spec
    assert not torch.equal(fresh.conv1.weight, trained.conv1.weight)
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_the_number_of_classes_of_a_fresh_network() -> None:
    for name, number, expected in (
        ("resnext29_1x1d", None, 10),
        ("resnext29_1x1d", 3, 3),
        ("resnext29_1x1d", 0, 0),
        (PAPER, None, 1000),
    ):
        model = create_model(name, num_classes=number)
        assert model.num_classes == expected
        assert model.get_classifier().training
        logits = run(model.eval(), torch.zeros(1, 3, 32, 32))
        assert logits.shape[1] == (expected or model.num_features)


def test_other_classes_keep_the_body(checkpoint: Path) -> None:
    tensors = random_tensors(TINY, seed=0)
    for number in (None, 5):
        assert equals(create_model(checkpoint, True, num_classes=number), tensors)
    model = create_model(checkpoint, True, num_classes=3)
    assert equals(model, tensors, but=("fc.",))
    assert (model.fc.weight.shape, model.num_classes) == ((3, 1024), 3)
    assert not model.fc.bias.any()
    assert not model.fc.training
    images = batch(2, 3, 8, 8)
    body = create_model(checkpoint, True, num_classes=0)
    whole = create_model(checkpoint, True)
    assert run(body, images).shape == (2, 1024)
    torch.testing.assert_close(run(whole.fc, run(body, images)), run(whole, images))


@pytest.mark.parametrize("options", [{"num_classes": -1}, {"in_chans": 0}, {"in_chans": -3}])
@pytest.mark.parametrize("pretrained", [True, False])
def test_sizes_below_nothing_are_refused(
    checkpoint: Path, options: dict[str, int], pretrained: bool
) -> None:
    with pytest.raises(ConfigError, match="expected"):
        create_model(checkpoint, pretrained, **options)


@pytest.mark.parametrize(
    ("name", "in_chans"),
    [*(("resnext29_2x1d", count) for count in (1, 2, 3, 4, 6, 7)), ("resnext26d_1x1d", 4)],
)
def test_other_channels_are_adapted_as_timm_does(tmp_path: Path, name: str, in_chans: int) -> None:
    adapt = pytest.importorskip("timm.models._manipulate").adapt_input_conv
    key = "conv1.weight" if name.startswith("resnext29") else "conv1.0.weight"
    tensors = write(tmp_path / "net.pth", arch.parse(name))
    model = create_model(tmp_path / "net.pth", True, in_chans=in_chans)
    expected = adapt(in_chans, torch.from_numpy(tensors[key]))
    torch.testing.assert_close(model.state_dict()[key], expected)
    assert equals(model, tensors, but=(key,))
    assert create_model(name, in_chans=in_chans).state_dict()[key].shape == expected.shape


def test_a_grey_picture_gets_the_logits_it_had_in_rgb(checkpoint: Path) -> None:
    grey = batch(2, 1, 8, 8)
    one, three = (create_model(checkpoint, True, in_chans=channels) for channels in (1, 3))
    torch.testing.assert_close(run(one, grey), run(three, grey.expand(2, 3, 8, 8)))


@pytest.mark.parametrize("out_indices", [None, (1, 2, 3, 4), [0, 2], (-1,)])
def test_feature_maps_with_weights(large: tuple[Path, Tensors], out_indices: Any) -> None:
    path, tensors = large
    body = create_model(path, True, features_only=True, out_indices=out_indices)
    images = batch(1, 3, 64, 64)
    maps = run(body, images)
    whole = create_model(path, True)
    with torch.inference_mode():
        expected = whole.forward_intermediates(images, out_indices, intermediates_only=True)
    assert not body.training
    assert [found.shape[1] for found in maps] == body.feature_info.channels()
    assert [64 // found.shape[2] for found in maps] == body.feature_info.reduction()
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert set(body.state_dict()) <= set(whole.state_dict())
    assert not any(key.startswith("fc.") for key in body.state_dict())
    assert equals(body, {key: tensors[key] for key in body.state_dict() if key in tensors})


def test_features_without_weights_train_and_take_the_other_options() -> None:
    body = create_model(
        "resnext29_1x1d", features_only=True, in_chans=2, zero_init_last=True, drop_path_rate=0.5
    )
    assert body.training
    assert [len(found) for found in body(torch.zeros(4, 2, 8, 8))] == [4] * 4
    assert not body.layer1[0].bn3.weight.any()
    with pytest.raises(ConfigError, match="features_only=True"):
        create_model("resnext29_1x1d", out_indices=(1,))
    with pytest.raises(ConfigError, match="feature maps"):
        create_model("resnext29_1x1d", features_only=True, out_indices=(9,))


def test_zero_init_starts_every_block_as_its_shortcut() -> None:
    for zero in (True, False):
        model = create_model("resnext29_1x1d", zero_init_last=zero)
        assert model.layer3[1].bn3.weight.any() != zero
        assert model.layer3[1].bn2.weight.all()


def test_output_stride_with_weights_is_torchvision_dilated(large: tuple[Path, Tensors]) -> None:
    resnet = pytest.importorskip("torchvision.models.resnet")
    path, tensors = large
    model = create_model(path, True, output_stride=16)
    reference = resnet.ResNet(
        resnet.Bottleneck,
        [2, 2, 2, 2],
        num_classes=7,
        groups=2,
        width_per_group=2,
        replace_stride_with_dilation=[False, False, True],
    )
    state = {key: torch.from_numpy(tensor) for key, tensor in tensors.items()}
    reference.load_state_dict(state, strict=False)
    images = batch(1, 3, 96, 64)
    torch.testing.assert_close(run(model, images), run(reference.eval(), images))
    assert model.forward_features(images).shape[2:] == (6, 4)
    assert model.feature_info.reduction()[-1] == 16


def test_drop_rates_act_in_training_only(checkpoint: Path) -> None:
    images = batch(8, 3, 4, 4)
    plain = create_model(checkpoint, True)
    for options in ({"drop_rate": 0.5}, {"drop_path_rate": 0.5}):
        model = create_model(checkpoint, True, **options)
        torch.testing.assert_close(run(model, images), run(plain, images))
        model.train()
        torch.manual_seed(0)
        first = run(model, images)
        torch.manual_seed(1)
        assert not torch.allclose(run(model, images), first)
        [[name, _]] = options.items()
        with pytest.raises(ConfigError, match=f"{name} is 1.0; expected at least 0 and below 1"):
            create_model(checkpoint, True, **{name: 1.0})


def test_the_largest_network_is_described_without_memory() -> None:
    with torch.device("meta"):
        model = create_model("resnext101_32x48d")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert sum(p.numel() for p in model.parameters()) == arch.num_params(model.spec)


def _lacking(state: dict[str, Any]) -> None:
    del state["layer2.0.conv2.weight"]


def _surplus(state: dict[str, Any]) -> None:
    state["head.weight"] = torch.zeros(3)


def _misshapen(state: dict[str, Any]) -> None:
    state["layer1.1.bn2.bias"] = torch.zeros(99)


def _broken(state: dict[str, Any]) -> None:
    state["fc.bias"][2] = math.nan


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("damage", "key"),
    [
        (_lacking, "layer2.0.conv2.weight"),
        (_surplus, "head.weight"),
        (_misshapen, "layer1.1.bn2.bias"),
        (_broken, "fc.bias"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    tmp_path: Path, damage: Any, key: str, suffix: str
) -> None:
    path = tmp_path / f"net{suffix}"
    state = {name: torch.from_numpy(t) for name, t in random_tensors(TINY, seed=0).items()}
    damage(state)
    torch.save(state, path) if suffix == ".pth" else files.save_file(state, path)
    with pytest.raises(ModelFileError) as info:
        create_model(path, pretrained=True)
    assert str(path) in info.value.message
    assert key in info.value.message


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(_Bomb.target), "w")

    target: Path


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    _Bomb.target = tmp_path / "ran"
    state = {"conv1.weight": torch.zeros(1), "payload": _Bomb()}
    torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelFileError, match="not a PyTorch checkpoint that holds only tensors"):
        create_model(tmp_path / "net.pth", pretrained=True)
    with pytest.raises(ModelFileError):
        create_model(tmp_path / "net.pth")
    assert not _Bomb.target.exists()
    pickle.loads(pickle.dumps(_Bomb())).close()  # it would have run
    assert _Bomb.target.exists()


def test_a_model_is_copied_and_pickled_with_all_it_knows(checkpoint: Path) -> None:
    model = create_model(checkpoint, True)
    images = batch(1, 3, 8, 8)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(saved, weights_only=False),
    ):
        assert (twin.document, twin.spec) == (model.document, model.spec)
        assert twin.pretrained_cfg == model.pretrained_cfg
        assert list(twin.feature_info) == list(model.feature_info)
        assert torch.equal(run(twin, images), run(model, images))
        twin.conv1.weight.data.zero_()
    assert model.conv1.weight.any()
    transform = pickle.loads(pickle.dumps(resnext.create_transform(model)))
    assert torch.equal(transform(CAT), resnext.create_transform(model)(CAT))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Return a photo, and noise of awkward sizes, where one wrong pixel shows."""
    rng = np.random.default_rng(0)
    sizes = [(231, 500, 3), (601, 300, 3), (33, 47, 3)]
    return [Image.open(CAT).convert("RGB")] + [
        Image.fromarray(rng.integers(0, 256, size, np.uint8)) for size in sizes
    ]


@pytest.mark.parametrize("enum", TORCHVISION)
def test_the_transform_is_that_of_torchvision(enum: str, pictures: list[Image.Image]) -> None:
    for member in getattr(pytest.importorskip("torchvision").models, enum):
        ours, theirs = resnext.create_transform(str(member)), member.transforms()
        for picture in pictures:
            torch.testing.assert_close(ours(picture), theirs(picture), rtol=0, atol=1e-6)


def _timm_cases() -> list[str]:
    """Return weights of timm, one per preprocessing."""
    cases = {}
    for row in catalogue.weights():
        # timm has 0.875 for it; the crop here is torchvision's, who trained it.
        if (row.files[0].hub_id or "").startswith("timm/") and row.name != (
            "resnext101_64x4d.tv_in1k"
        ):
            cases.setdefault(row.preprocess, row.name)
    return list(cases.values())


@pytest.mark.parametrize("name", _timm_cases())
def test_the_transform_is_that_of_timm(name: str, pictures: list[Image.Image]) -> None:
    timm = pytest.importorskip("timm")
    settings = timm.get_pretrained_cfg(name).to_dict()
    config = timm.data.resolve_data_config(pretrained_cfg=settings, use_test_size=True)
    theirs, ours = timm.data.create_transform(**config), resnext.create_transform(name)
    for picture in pictures:
        torch.testing.assert_close(ours(picture), theirs(picture), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted({row.name for row in catalogue.weights()}))
def test_the_configuration_of_every_row_gives_its_transform_in_timm(name: str) -> None:
    config, spec = resnext.resolve_data_config(name), catalogue.find(name).preprocess
    assert math.floor(spec.input_size / config["crop_pct"]) == spec.resize == config["resize"]
    assert len(str(config["crop_pct"])) <= 6


@pytest.mark.parametrize(
    ("name", "size", "crop_pct", "interpolation", "resize"),
    [
        ("resnext101_32x8d", 224, 0.965, "bilinear", 232),
        ("resnext50_32x4d", 288, 1.0, "bicubic", 288),
        ("resnext50d_32x4d", 288, 0.95, "bicubic", 303),
        ("tv_resnext50_32x4d", 224, 0.875, "bilinear", 256),
    ],
)
def test_the_configuration_under_timms_names(
    name: str, size: int, crop_pct: float, interpolation: str, resize: int
) -> None:
    assert resnext.resolve_data_config(name) == {
        "input_size": (3, size, size),
        "interpolation": interpolation,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop_mode": "center",
        "crop_pct": crop_pct,
        "resize": resize,
    }


def test_timm_takes_the_configuration(pictures: list[Image.Image]) -> None:
    timm = pytest.importorskip("timm")
    config = resnext.resolve_data_config("resnext50d_32x4d")
    del config["resize"]  # which timm works out
    theirs = timm.data.create_transform(**config)
    ours = resnext.create_transform("resnext50d_32x4d")
    for picture in pictures:
        torch.testing.assert_close(ours(picture), theirs(picture), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("mode", "crop_mode"), [("squash", "squash"), ("letterbox", "border")])
def test_other_modes_have_timms_names(tmp_path: Path, mode: Any, crop_mode: str) -> None:
    spec = PreprocessSpec(input_size=40, resize=40, interpolation="bilinear", mode=mode)
    document = modelfile.ModelDocument(
        name="net", architecture=TINY, labels=Labels(tuple("abcde")), preprocess=spec
    )
    path = tmp_path / "net.safetensors"
    modelfile.write(path, document, random_tensors(TINY, seed=0))
    config = resnext.resolve_data_config(path)
    assert (config["crop_mode"], config["crop_pct"]) == (crop_mode, 1.0)
    assert resnext.create_transform(path)(CAT).shape == (3, 40, 40)


def test_a_model_and_its_name_have_the_same_transform() -> None:
    config = resnext.resolve_data_config("starter")
    assert config["input_size"] == (3, 96, 96)
    for options in ({}, {"features_only": True}, {"num_classes": 0}):
        model = create_model("starter", True, **options)
        assert resnext.resolve_data_config(model) == config
        assert repr(resnext.create_transform(model)) == repr(resnext.create_transform("starter"))


def test_a_fresh_network_has_the_setting_of_the_paper() -> None:
    assert resnext.resolve_data_config(create_model("resnext29_1x1d"))["resize"] == 32
    with torch.device("meta"):
        config = resnext.resolve_data_config(create_model("resnext50_32x4d"))
    assert (config["input_size"], config["resize"]) == ((3, 224, 224), 256)


def test_a_picture_in_any_form_gives_the_same_tensor() -> None:
    transform = resnext.create_transform("resnext50_32x4d.tv_in1k")
    picture = Image.open(CAT).convert("RGB")
    expected = transform(picture)
    assert (expected.shape, expected.dtype) == ((3, 224, 224), torch.float32)
    assert expected.is_contiguous()
    for form in (CAT, str(CAT), CAT.read_bytes(), np.asarray(picture)):
        assert torch.equal(transform(form), expected)
    with pytest.raises(ImageError, match=r"absent\.jpg"):
        transform("absent.jpg")


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    picture = Image.open(CAT).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    transform = resnext.create_transform("starter")
    assert torch.equal(transform(tmp_path / "turned.png"), transform(picture))


def test_what_is_no_model_of_ours_has_no_preprocessing() -> None:
    for call in (resnext.create_transform, resnext.resolve_data_config):
        with pytest.raises(ConfigError, match="model is a Linear; expected what create_model"):
            call(torch.nn.Linear(1, 1))
        with pytest.raises(ModelNotFoundError, match="resnext50_32x4"):
            call("resnext50_32x4")


def test_a_transform_to_train_with_needs_its_extra(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    monkeypatch.delitem(sys.modules, "resnext.training.augment", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'resnext\[train\]'"):
        resnext.create_transform("starter", train=True)


def test_every_parameter_is_in_one_group(checkpoint: Path) -> None:
    model = create_model(checkpoint, True)
    groups = resnext.parameter_groups(model, lr=0.1, weight_decay=1e-4, layer_decay=0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters()}
    assert [group["depth"] for group in groups] == sorted(group["depth"] for group in groups)
    for group in groups:
        assert group["lr"] == pytest.approx(0.1 * 0.5 ** (10 - group["depth"]))
        is_vector = {parameter.ndim == 1 for parameter in group["params"]}
        assert is_vector == {group["weight_decay"] == 0.0}
        assert group["weight_decay"] in (0.0, 1e-4)
    depths = {id(p): group["depth"] for group in groups for p in group["params"]}
    assert depths[id(model.conv1.weight)] == depths[id(model.bn1.weight)] == 0
    assert depths[id(model.layer1[0].conv1.weight)] == 1
    assert depths[id(model.layer1[0].downsample[0].weight)] == 1
    assert depths[id(model.layer3[2].bn3.bias)] == 9
    assert depths[id(model.fc.weight)] == depths[id(model.fc.bias)] == 10


def test_what_is_frozen_is_in_no_group_and_an_optimizer_takes_the_rest(checkpoint: Path) -> None:
    model = create_model(checkpoint, True)
    for parameter in model.layer1.parameters():
        parameter.requires_grad = False
    before = copy.deepcopy(model.state_dict())
    groups = resnext.parameter_groups(model, lr=0.1)
    assert {group["lr"] for group in groups} == {0.1}
    assert not {1, 2, 3} & {group["depth"] for group in groups}
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    model(batch(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert torch.equal(model.layer1[0].conv1.weight, before["layer1.0.conv1.weight"])
    assert not torch.equal(model.fc.weight, before["fc.weight"])


@pytest.mark.parametrize(
    "name", ["resnext50_32x4d", "resnext50d_32x4d", "seresnext50_32x4d", "skresnext50_32x4d"]
)
def test_the_groups_are_those_of_timm(name: str) -> None:
    timm, optim = pytest.importorskip("timm"), pytest.importorskip("timm.optim")
    with torch.device("meta"):
        ours, theirs = create_model(name), timm.create_model(name)
    expected = _by_name(
        theirs,
        optim.param_groups_layer_decay(theirs, weight_decay=0.05, layer_decay=0.7),
        lambda group: group["lr_scale"],
    )
    found = _by_name(
        ours,
        resnext.parameter_groups(ours, lr=1.0, weight_decay=0.05, layer_decay=0.7),
        lambda group: group["lr"],
    )
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values), key


def _by_name(model: Any, groups: Any, rate: Any) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (rate(group), group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }


def test_a_body_without_classifier_has_groups() -> None:
    body = create_model("resnext29_1x1d", features_only=True, out_indices=(1, 2))
    groups = resnext.parameter_groups(body, lr=1.0, layer_decay=0.5)
    assert max(group["depth"] for group in groups) == 6
    assert sum(len(group["params"]) for group in groups) == len(list(body.parameters()))


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -0.1},
        {"lr": 0.1, "weight_decay": -1},
        {"lr": 0.1, "layer_decay": 0},
        {"lr": 0.1, "layer_decay": 1.1},
        {"lr": 0.1, "layer_decay": math.nan},
    ],
)
def test_rates_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected at least 0, at least 0, and above 0"):
        resnext.parameter_groups(create_model("resnext29_1x1d"), **options)


def test_what_is_known_is_plain_json(checkpoint: Path) -> None:
    known = create_model(checkpoint, True).pretrained_cfg
    assert json.loads(json.dumps(known))["num_classes"] == 5
    assert known["sha256"] and known["assumed"]


def test_a_model_of_other_channels_has_no_transform() -> None:
    model = create_model("starter", True, in_chans=1)
    assert resnext.resolve_data_config(model)["input_size"] == (1, 96, 96)
    with pytest.raises(ConfigError, match="takes 1 channel; expected 3"):
        resnext.create_transform(model)


def test_a_wrapped_model_is_looked_into() -> None:
    model = create_model("starter", True)
    for wrapped in (torch.compile(model, backend="eager"), torch.nn.DataParallel(model)):
        assert resnext.resolve_data_config(wrapped) == resnext.resolve_data_config(model)


def test_a_checkpoint_is_of_the_architecture_that_is_named(tmp_path: Path) -> None:
    true = create_model("seresnextaa26_2x4d", num_classes=5)
    path = tmp_path / "net.pth"
    torch.save(true.state_dict(), path)
    assert create_model("seresnextaa26_2x4d", weights=path).spec == true.spec
    with pytest.warns(UserWarning, match="also those of seresnextaa26_2x4d"):
        assert not create_model(path, True).spec.antialias
    with pytest.raises(ModelFileError, match="expected those of seresnext50_32x4d"):
        create_model("seresnext50_32x4d", weights=path)


def test_what_a_training_script_wrote_beside_the_tensors_is_believed(tmp_path: Path) -> None:
    true = create_model("seresnextaa26_2x4d", num_classes=5)
    for number, extra in enumerate(
        ({"arch": "seresnextaa26_2x4d"}, {"args": argparse.Namespace(model="resnextaa50_32x4d")})
    ):
        path = tmp_path / f"{number}.pth"
        torch.save({"state_dict": true.state_dict(), **extra}, path)
        assert create_model(path, True).spec == true.spec


def test_building_on_the_meta_device_imports_no_symbolic_algebra() -> None:
    code = """
import sys, torch, resnext
with torch.device("meta"):
    resnext.create_model("resnext101_32x48d")
print("sympy" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.strip() == "False"
