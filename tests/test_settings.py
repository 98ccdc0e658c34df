"""`training.settings`: what does not fit is refused at once, what does nothing is told."""

from __future__ import annotations

from typing import Any

import pytest

from resnext.errors import ConfigError, ModelNotFoundError
from resnext.predictions import Labels
from resnext.training import recipes, settings
from resnext.training.config import ModelConfig, OptimConfig, TrainConfig
from resnext.training.data import Data
from resnext.training.samples import Sample, SampleSet


def _data(count: int = 26, *, multi_label: bool = False, val: bool = True) -> Data:
    samples = [Sample(f"{number}.jpg", b"", (number % 2,)) for number in range(count)]
    part = SampleSet(samples=samples, labels=Labels(("a", "b")), multi_label=multi_label)
    return Data(train=part, val=part if val else None, split={})


def _config(*changes: str, batch_size: int = 4) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(architecture="resnext29_1x1d"), optim=OptimConfig(batch_size=batch_size)
    ).override(changes)


def _refused(*changes: str, batch_size: int = 4, world_size: int = 1, **data: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        settings.check(_config(*changes, batch_size=batch_size), _data(**data),
                       world_size=world_size)  # fmt: skip
    return caught.value


@pytest.mark.parametrize(
    ("batch_size", "parts", "world_size", "sync"),
    [(2, 1, 1, False), (4, 2, 1, False), (5, 2, 1, False), (8, 1, 4, False), (8, 2, 2, False),
     (4, 1, 4, True), (8, 2, 4, True), (26, 0, 1, False)],
)  # fmt: skip
def test_batches_that_do(batch_size: int, parts: int, world_size: int, sync: bool) -> None:
    changes = (f"optim.grad_accum_steps={parts}", f"model.sync_batch_norm={sync}")
    settings.check(_config(*changes, batch_size=batch_size), _data(), world_size=world_size)


@pytest.mark.parametrize(
    ("batch_size", "parts", "world_size", "sync", "least"),
    [(1, 1, 1, False, 2), (4, 1, 4, False, 8), (4, 3, 1, False, 6), (7, 4, 1, False, 8),
     (8, 4, 2, False, 16), (4, 9, 1, False, 18), (1, 1, 1, True, 2)],
)  # fmt: skip
def test_a_batch_norm_gets_two_pictures(
    batch_size: int, parts: int, world_size: int, sync: bool, least: int
) -> None:
    changes = (f"optim.grad_accum_steps={parts}", f"model.sync_batch_norm={sync}")
    error = _refused(*changes, batch_size=batch_size, world_size=world_size)
    assert error.message.startswith(f"optim.batch_size is {batch_size}; expected at least {least}:")
    assert (" process" in error.message) == (least > 2)
    # What it hints at will do.
    assert error.hint == f"--batch-size {least}"
    config = _config(*changes, batch_size=least)
    settings.check(config, _data(), world_size=world_size)


@pytest.mark.parametrize(
    ("batch_size", "world_size", "hint"), [(4, 3, 6), (64, 3, 63), (100, 8, 96), (1, 2, 4)]
)
def test_a_batch_divides_among_processes(batch_size: int, world_size: int, hint: int) -> None:
    error = _refused(batch_size=batch_size, world_size=world_size, count=200)
    assert f"optim.batch_size is {batch_size}; expected a multiple of {world_size}" in error.message
    assert error.hint == f"--batch-size {hint}"
    settings.check(_config(batch_size=hint), _data(200), world_size=world_size)


@pytest.mark.parametrize(
    ("count", "world_size", "batch_size", "steps"),
    [(26, 1, 4, "6 steps"), (39, 1, 8, "4 steps"), (200, 1, 32, "6 steps"), (7, 1, 2, "3 steps"),
     (200, 4, 32, "6 steps"), (63, 4, 8, "7 steps"), (39, 2, 8, "4 steps"), (16, 8, 16, "1 step")],
)  # fmt: skip
def test_a_batch_of_more_than_there_is_is_refused(
    count: int, world_size: int, batch_size: int, steps: str
) -> None:
    error = _refused(batch_size=256, world_size=world_size, count=count)
    assert f"expected at most {count}, the number of training pictures" in error.message
    assert error.hint == f"try --batch-size {batch_size} ({steps} an epoch)"
    settings.check(_config(batch_size=batch_size), _data(count), world_size=world_size)


def test_a_batch_is_given_as_the_command_takes_it() -> None:
    error = _refused("recipe=finetune", batch_size=256, count=39)
    assert error.hint == "try --set optim.batch_size=8 (4 steps an epoch)"


def test_too_few_pictures_for_all_processes_are_said() -> None:
    assert "fewer processes" in _refused(batch_size=64, world_size=32, count=26).hint


@pytest.mark.parametrize(
    ("changes", "data", "said"),
    [
        (["loss.teacher=starter"], {}, "expected both or none"),
        (["loss.distill_weight=0.5"], {}, "expected both or none"),
        ([], {"multi_label": True}, "several labels, and loss.kind is 'cross_entropy'"),
        (
            ["loss.kind=bce", "loss.teacher=starter", "loss.distill_weight=0.5"],
            {"multi_label": True},
            "several labels, and loss.teacher is 'starter'",
        ),
        (["patience=3"], {"val": False}, "patience is 3, and there are no pictures to validate on"),
        (["data.test_sizes=16,32"], {"val": False}, "data.test_sizes is 16, 32, and there are no"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    changes: list[str], data: dict[str, Any], said: str
) -> None:
    error = _refused(*changes, **data)
    assert said in error.message
    assert error.hint


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(ModelNotFoundError, match="'resnext51_32x4d' is no architecture"):
        settings.check(_config("model.architecture=resnext51_32x4d"), _data())


@pytest.mark.parametrize(
    ("batch_size", "world_size", "sync", "most"),
    [(24, 1, False, 12), (7, 1, False, 3), (2, 1, False, 1), (24, 4, False, 3), (24, 4, True, 6),
     (24, 1, True, 12)],
)  # fmt: skip
def test_the_most_parts_leave_enough_for_a_batch_norm(
    batch_size: int, world_size: int, sync: bool, most: int
) -> None:
    config = _config(f"model.sync_batch_norm={sync}", batch_size=batch_size)
    assert settings.most_parts(config, world_size) == most
    config = config.override([f"optim.grad_accum_steps={most}"])
    settings.check(config, _data(), world_size=world_size)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["schedule.milestones=3,5"], "schedule.milestones=3, 5 does nothing without"
         " schedule.kind=step"),
        (["schedule.kind=step", "schedule.final_factor=0.1"], "schedule.final_factor=0.1 does"
         " nothing without schedule.kind=cosine"),
        (["optim.name=lamb", "optim.nesterov=true"], "optim.nesterov=True does nothing without"
         " optim.name=sgd and optim.momentum"),
        (["optim.nesterov=true", "optim.momentum=0"], "optim.nesterov=True does nothing"),
        (["augment.pad=4", "augment.crop_area=0.5,1"], "augment.crop_area=0.5, 1 does nothing"
         " without augment.pad=0"),
        (["loss.bce_threshold=0.2"], "loss.bce_threshold=0.2 does nothing without loss.kind=bce"),
        (["augment.rand_ops=3", "augment.policy=trivial"], "augment.rand_ops=3 does nothing"),
        (["augment.erase_noise=true"], "augment.erase_noise=True does nothing"),
        (["schedule.warmup_factor=0.5"], "schedule.warmup_factor=0.5 does nothing"),
        (["ema.every=4"], "ema.every=4 does nothing without ema.decay"),
        (["ema.scaling=run"], "ema.scaling=run does nothing without ema.decay"),
        (["model.zero_init_last=true", "model.pretrained=starter"], "model.zero_init_last=True"
         " does nothing without model.pretrained=none"),
    ],
)  # fmt: skip
def test_settings_that_do_nothing_are_told(changes: list[str], said: str) -> None:
    (found,) = settings.advice(_config(*changes), _data())
    assert found.startswith(said)


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_have_no_setting_that_does_nothing(name: str) -> None:
    found = recipes.get(name)
    for architecture in (found.config.model.architecture, *found.numbers):
        assert settings._idle(found.config_for(architecture)) == []


def test_the_keys_of_settings_that_may_do_nothing_exist() -> None:
    from resnext.training.config import paths

    assert {key for keys, _, _ in settings._NEEDS for key in keys.split()} <= set(paths())


def test_a_rate_that_only_rises_is_told() -> None:
    (said,) = settings.advice(_config("schedule.epochs=10", "schedule.warmup_epochs=10"), _data())
    assert "only rises: 10 epochs, and warm-up takes 10; try --set schedule.warmup_epochs=2" in said


@pytest.mark.parametrize(
    ("changes", "back"),
    [
        # 9 steps an epoch: with every=32 one update each, of 595 epochs.
        (["ema.decay=0.998908", "ema.every=32", "schedule.epochs=600"], 916),
        (["ema.decay=0.999", "schedule.epochs=100", "ema.every=1"], 111),
        (["ema.decay=0.99998", "ema.scaling=run", "ema.every=32", "schedule.epochs=600"], 916),
        (["ema.decay=0.99", "schedule.epochs=100", "ema.every=1"], 0),
    ],
)
def test_a_mean_that_hardly_moves_is_told(changes: list[str], back: int) -> None:
    config = _config("schedule.warmup_epochs=5", *changes, batch_size=1024)
    said = settings.advice(config, _data(10_000))
    if not back:
        assert said == []
        return
    assert f"reaches back {back:,} epochs, and the run has" in said[0]
    words = said[0].rpartition("try ")[2].split()
    assert set(words[::2]) == {"--set"}, "as it can be given"
    assert settings.advice(config.override(words[1::2]), _data(10_000)) == []


def test_torchvision_s_mean_is_right_for_its_own_data() -> None:
    config = recipes.get("torchvision-v2").config
    assert settings._long_mean(config, 1_281_167) == []


def test_what_several_labels_mean_is_told() -> None:
    (said,) = settings.advice(_config("loss.kind=bce"), _data(multi_label=True))
    assert "`resnext predict` shares one softmax" in said
    assert settings.advice(_config(), _data()) == []


def test_graphs_are_for_whole_batches() -> None:
    error = _refused("compile=reduce-overhead", "optim.grad_accum_steps=2")
    assert error.message.startswith("compile is 'reduce-overhead', and optim.grad_accum_steps 2;")
    for changes in (
        ("compile=reduce-overhead",),
        ("compile=reduce-overhead", "optim.grad_accum_steps=0"),
        ("compile=default", "optim.grad_accum_steps=2"),
    ):
        settings.check(_config(*changes), _data())


def test_what_a_processor_does_not_compute_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="precision is 'fp16', .* expected bf16 or fp32"
    ) as caught:
        settings.suited_to(_config("precision=fp16"), "cpu")
    assert caught.value.hint == "--precision bf16, or --precision fp32"
    default = recipes.get("default").config.override(["precision=fp16"])
    with pytest.raises(ConfigError, match="precision is 'fp16'"):
        settings.suited_to(default, "cpu")
    for precision, device in (("fp16", "cuda"), ("bf16", "cpu"), ("fp32", "cpu")):
        config = _config(f"precision={precision}")
        assert settings.suited_to(config, device) == (config, ())


@pytest.mark.parametrize(
    "name", [name for name in recipes.names() if recipes.get(name).config.precision == "fp16"]
)
def test_a_recipe_in_fp16_is_in_fp32_on_a_processor(name: str) -> None:
    config = recipes.get(name).config
    suited, (said,) = settings.suited_to(config, "cpu")
    assert suited == config.override(["precision=fp32"])
    assert "the recipe says fp16" in said and "this run is in fp32" in said
    assert settings.suited_to(config, "cuda") == (config, ())
