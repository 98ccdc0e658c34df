"""What a run is asked to do: typed values, JSON both ways, changes from the command line."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from resnext.errors import ConfigError
from resnext.training import config as configs
from resnext.training.config import ModelConfig, OptimConfig, TrainConfig

PLAIN = TrainConfig(model=ModelConfig(architecture="resnext50_32x4d"))


def test_every_key_goes_to_json_and_back() -> None:
    changed = PLAIN.override(["data.mean=0.1,0.2,0.3", "schedule.milestones=3,5", "ema.decay=0.5"])
    text = json.dumps(changed.to_json())
    assert TrainConfig.from_json(json.loads(text)) == changed
    assert TrainConfig.from_json({"model": {"architecture": "resnext50_32x4d"}}) == PLAIN


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("optim.lr=0.2", "optim.lr", 0.2),
        ("optim.lr=1", "optim.lr", 1.0),
        ("optim.batch_size = 64", "optim.batch_size", 64),
        ("optim.nesterov=yes", "optim.nesterov", True),
        ("optim.name=lamb", "optim.name", "lamb"),
        ("schedule.milestones=30,60", "schedule.milestones", (30, 60)),
        ("schedule.milestones=", "schedule.milestones", ()),
        ("augment.crop_area=0.5,1", "augment.crop_area", (0.5, 1.0)),
        ("augment.policy=", "augment.policy", ""),
        ("model.pretrained=a=b.safetensors", "model.pretrained", "a=b.safetensors"),
        ("seed=7", "seed", 7),
    ],
)
def test_a_setting_has_the_type_of_its_key(setting: str, path: str, value: object) -> None:
    found = configs.value_of(PLAIN.override([setting]), path)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optim.lrr=0.2", "'optim.lrr'.*did you mean 'optim.lr'"),
        ("lr=0.2", "'lr'"),
        ("optim=0.2", "'optim'"),
        ("optim.lr", "expected KEY=VALUE"),
        ("optim.lr=fast", "optim.lr is 'fast'; expected a number"),
        ("optim.lr=nan", "optim.lr is nan"),
        ("optim.batch_size=1.5", "expected a whole number"),
        ("optim.batch_size=0", "optim.batch_size is 0; expected 1 to"),
        ("optim.nesterov=perhaps", "expected true or false"),
        ("optim.name=adam", "expected one of 'sgd', 'adamw', 'lamb'"),
        ("data.mean=0.1,0.2", r"data.mean is \[0.1, 0.2\]; expected a list of a number"),
        ("data.test_sizes=224,4", "data.test_sizes has 4, cut from a short side of 5; expected 8"),
        ("data.test_sizes=1800", "data.test_sizes has 1800, cut from a short side of 2057; expect"),
        ("data.val_share=1", "data.val_share is 1.0; expected 0 to 0.99"),
        ("data.split_seed=-1", "data.split_seed is -1"),
        ("augment.crop_area=0.9,0.1", "augment.crop_area"),
        ("augment.crop_area=0,1", "augment.crop_area"),
        ("augment.erase_count=0", "augment.erase_count"),
        ("precision=fp8", "expected one of"),
        ("augment.policy=best", "expected one of 'none', 'trivial', 'rand'"),
        ("optim.lr", "'optim.lr' has no value; expected KEY=VALUE"),
        ("lr", "'lr' is no setting; expected KEY=VALUE"),
    ],
)
def test_a_setting_that_will_not_do_is_named(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)" + said):
        PLAIN.override([setting])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "model"),
        ({"model": {"architecture": "x"}, "optim": {"lrr": 1}}, "did you mean 'optim.lr'"),
        ({"model": {"architecture": "x"}, "epochs": 3}, "schedule.epochs"),
        ({"model": {"architecture": 5}}, "model.architecture is 5; expected a text"),
        ({"model": {"architecture": "x"}, "seed": True}, "seed is True"),
        ({"model": "x"}, "model is 'x'; expected an object"),
    ],
)
def test_json_that_will_not_do_is_named(values: object, said: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)" + said):
        TrainConfig.from_json(values)  # type: ignore[arg-type]


def test_every_number_has_a_range_that_its_default_is_in() -> None:
    numbers = {path for path in configs.paths() if isinstance(configs.value_of(PLAIN, path), float)}
    assert numbers - set(configs._RANGES) == set()
    for path, (low, high) in configs._RANGES.items():
        assert low <= configs.value_of(PLAIN, path) <= high


def test_the_learning_rate_follows_the_batch() -> None:
    linear = OptimConfig(lr=0.1, reference_batch_size=256, batch_size=64)
    assert math.isclose(linear.scaled_lr, 0.025)
    root = dataclasses.replace(linear, lr_scaling="sqrt")
    assert math.isclose(root.scaled_lr, 0.05)
    assert dataclasses.replace(linear, batch_size=256).scaled_lr == 0.1


def test_another_test_size_keeps_the_share_that_is_cut_away() -> None:
    other = PLAIN.data.at_test_size(288)
    assert (other.test_size, other.test_resize) == (288, 329)
    assert dataclasses.replace(other, test_size=224, test_resize=256) == PLAIN.data
    assert PLAIN.override(["data.test_sizes=1792"]).data.at_test_size(1792).test_resize == 2048


def test_differences_are_named_by_key() -> None:
    changed = PLAIN.override(["optim.lr=0.3", "data.test_sizes=256"])
    assert configs.differences(changed, PLAIN) == ["data.test_sizes", "optim.lr"]
    assert configs.differences(PLAIN, PLAIN) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "0.25"), ((), "none"), ((1, 2), "1, 2"), ("", "none"), (False, "False")],
)
def test_values_are_written_for_people(value: object, text: str) -> None:
    assert configs.show(value) == text


def test_what_is_shown_as_none_can_be_set_so() -> None:
    full = PLAIN.override(["augment.policy=rand", "data.test_sizes=96", "model.pretrained=starter"])
    keys = ("augment.policy", "data.test_sizes", "model.pretrained")
    assert all(configs.show(configs.value_of(PLAIN, key)) == "none" for key in keys)
    assert full.override([f"{key}=none" for key in keys]) == PLAIN
    balanced = full.override(["loss.class_weights=none"])
    assert balanced.loss.class_weights == "none"
