from __future__ import annotations

import pytest

from resnext import arch
from resnext.checkpoints import keymaps
from resnext.errors import ModelFileError

SPEC = arch.parse("resnext101_32x4d")
KEYS = tuple(arch.tensor_shapes(SPEC))


def mmpretrain(key: str) -> str:
    return f"head.{key}" if key.startswith("fc.") else f"backbone.{key}"


def nvidia(key: str) -> str:
    if not key.startswith("layer"):
        return key
    stage, rest = key.removeprefix("layer").split(".", 1)
    return f"layers.{int(stage) - 1}.{rest}"


def cadene(key: str) -> str:
    """Number the containers of Torch7's network, as `resnext101_32x4d_features` nests them."""
    module, parameter = key.rsplit(".", 1)
    if not module.startswith("layer"):
        return {"conv1": "features.0", "bn1": "features.1", "fc": "last_linear"}[
            module
        ] + f".{parameter}"
    stage, block, part = module.removeprefix("layer").split(".", 2)
    concat_table = f"features.{int(stage) + 3}.{block}.0"
    branch, shortcut = f"{concat_table}.0", f"{concat_table}.1"
    inner = f"{branch}.0"
    place = {
        "conv1": f"{inner}.0",
        "bn1": f"{inner}.1",
        "conv2": f"{inner}.3",
        "bn2": f"{inner}.4",
        "conv3": f"{branch}.1",
        "bn3": f"{branch}.2",
        "downsample.0": f"{shortcut}.0",
        "downsample.1": f"{shortcut}.1",
    }[part]
    return f"{place}.{parameter}"


LAYOUTS = {
    "torchvision": lambda key: key,
    "mmpretrain": mmpretrain,
    "nvidia": nvidia,
    "cadene": cadene,
}


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("name", ["seresnext26t_32x4d", "skresnext50_32x4d"])
def test_keys_of_the_variants_keep_their_names(name: str, prefix: str):
    keys = tuple(arch.tensor_shapes(arch.parse(name)))
    assert keymaps.detect(prefix + key for key in keys) == "torchvision"
    assert keymaps.to_torchvision(prefix + key for key in keys) == {
        key: prefix + key for key in keys
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_every_key_of_every_layout_gets_our_name(layout: str, prefix: str):
    foreign = {prefix + LAYOUTS[layout](key): key for key in KEYS}
    assert keymaps.detect(foreign) == layout
    assert keymaps.to_torchvision(foreign) == {ours: theirs for theirs, ours in foreign.items()}


def test_names_read_off_the_published_code():
    # pretrainedmodels/models/resnext_features/resnext101_32x4d_features.py
    names = keymaps.to_torchvision(
        [
            "features.0.weight",
            "features.4.0.0.0.0.0.weight",
            "features.4.0.0.0.0.4.running_mean",
            "features.5.3.0.0.1.weight",
            "features.7.0.0.1.0.weight",
            "features.7.0.0.1.1.bias",
            "last_linear.bias",
        ]
    )
    assert list(names) == [
        "conv1.weight",
        "layer1.0.conv1.weight",
        "layer1.0.bn2.running_mean",
        "layer2.3.conv3.weight",
        "layer4.0.downsample.0.weight",
        "layer4.0.downsample.1.bias",
        "fc.bias",
    ]


def test_counters_are_left_out():
    keys = ["bn1.num_batches_tracked", "num_batches_tracked", "n_averaged", "bn1.weight"]
    assert keymaps.to_torchvision(keys) == {"bn1.weight": "bn1.weight"}
    assert keymaps.to_torchvision(["module.n_averaged", "module.bn1.bias"]) == {
        "bn1.bias": "module.bn1.bias"
    }


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (["features.0.weight", "features.4.0.0.0.0.2.weight"], "features.4.0.0.0.0.2.weight"),
        (["features.0.weight", "features.x"], "features.x"),
        (["backbone.conv1.weight", "neck.weight"], "neck.weight"),
        (["layers.0.weight", "layers.x.weight"], "layers.x.weight"),
        (["classifier"], "classifier"),
    ],
)
def test_what_is_not_part_of_the_network_keeps_its_name(keys: list[str], name: str):
    assert keymaps.to_torchvision(keys)[name] == keys[-1]


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(ModelFileError, match=r"module\.fc\.bias and fc\.bias are both fc\.bias"):
        keymaps.to_torchvision(["fc.bias", "module.fc.bias"])
