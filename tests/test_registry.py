"""What a recipe promises, what it costs, and what is left of it when something changes."""

from __future__ import annotations

import pytest

from resnext import arch
from resnext.errors import ConfigError, counted
from resnext.training import recipes, registry
from resnext.training.config import TrainConfig


def changed(name: str, *settings: str) -> TrainConfig:
    return recipes.get(name).config.override(settings)


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_that_is_kept_to_deviates_in_nothing(name: str) -> None:
    recipe = recipes.get(name)
    own = recipe.config.model.architecture
    for architecture in {own, *recipe.numbers}:
        free = ["seed=3", "data.num_workers=2", "data.scan=false", "data.split_seed=4"]
        config = recipe.config_for(architecture).override(free)
        assert _but_for_what_differs(recipe, architecture, config) == []
        if recipe.dataset is not None:
            data = {
                "num_classes": recipe.dataset.num_classes,
                "num_pictures": recipe.dataset.num_pictures - 12,  # some cannot be read
            }
            assert _but_for_what_differs(recipe, architecture, config, **data) == []


def _but_for_what_differs(
    recipe: registry.Recipe, architecture: str, config: TrainConfig, **data: int
) -> list[str]:
    said = recipes.deviations(config, **data)
    if architecture not in recipe.published:
        return said
    assert f"is not promised: see `resnext recipes {recipe.name}`" in said[-1]
    assert f"{recipe.published[architecture]:g} %" in said[-1]
    assert recipes.promised(config) is None
    return said[:-1]


@pytest.mark.parametrize(
    ("architecture", "batch_size", "norm"),
    [("resnext50_32x4d", 256, 32), ("resnext101_32x8d", 1024, 16)],
)
def test_a_promise_holds_for_the_batch_that_was_trained_with(
    architecture: str, batch_size: int, norm: int
) -> None:
    found = recipes.get("torchvision-v1")
    config = found.config_for(architecture)
    assert config.optim.batch_size == batch_size
    parts = config.override([f"optim.grad_accum_steps={batch_size // norm}"])
    assert recipes.deviations(parts) == []
    assert recipes.promised(parts) == found.expected[architecture]
    on_eight = config.override([f"optim.grad_accum_steps={batch_size // norm // 8}"])
    assert recipes.deviations(on_eight, world_size=8) == []
    other = 1280 - batch_size
    said = recipes.deviations(config.override([f"optim.batch_size={other}"]))
    assert said[0].startswith(f"optim.batch_size is {other}; the recipe has {batch_size}")
    assert "no longer promised" in said[-1]


@pytest.mark.parametrize(
    ("parts", "processes", "seen", "hint"),
    [(256, 1, 1, 8), (1, 1, 256, 8), (1, 2, 128, 4), (3, 1, 86, 8), (1, 16, 16, 0)],
)
def test_batch_norms_that_see_another_number_are_said(
    parts: int, processes: int, seen: int, hint: int
) -> None:
    config = changed("torchvision-v1", f"optim.grad_accum_steps={parts}")
    said = recipes.deviations(config, world_size=processes)
    expected = f"batch norms see {counted(seen, 'picture')} at once; the published run's saw 32"
    assert said[0] == expected + (f" (--set optim.grad_accum_steps={hint})" if hint else "")
    assert said[1:] == ["so the published 77.618 % top-1 is no longer promised"]


def test_synchronized_batch_norms_see_what_all_processes_have() -> None:
    config = changed("torchvision-v1", "optim.grad_accum_steps=1", "model.sync_batch_norm=true")
    said = recipes.deviations(config, world_size=8)
    assert "batch norms see 256 pictures at once; the published run's saw 32" in said


def test_a_change_is_said_with_what_it_was_and_what_it_costs() -> None:
    said = recipes.deviations(changed("torchvision-v1", "optim.batch_size=64"))
    assert said == [
        "optim.batch_size is 64; the recipe has 256 (the learning rate follows, linear: 0.025)",
        "so the published 77.618 % top-1 is no longer promised",
    ]


def test_other_data_is_a_deviation() -> None:
    said = recipes.deviations(changed("rsb-a1"), num_classes=10, num_pictures=500)
    assert "the data has 10 classes; ImageNet-1k has 1,000" in said
    assert "the data has 500 training pictures; ImageNet-1k has 1,281,167" in said
    assert "80.53 %" in said[-1]


def test_another_architecture_has_its_own_number() -> None:
    config = changed("torchvision-v2", "model.architecture=resnext101_64x4d")
    assert recipes.deviations(config) == []
    assert recipes.promised(config) == 83.246
    unsure = recipes.get("torchvision-v2").config_for("resnext101_32x8d")
    assert recipes.promised(unsure) is None
    assert recipes.deviations(unsure)[0].startswith("82.834 % top-1 was published with settings")
    other = changed("torchvision-v2", "model.architecture=resnext26_32x4d")
    assert recipes.promised(other) is None
    assert len(recipes.deviations(other)) == 2


def test_what_was_published_is_known_by_architecture() -> None:
    assert registry.published(changed("torchvision-v1")) == 77.618
    assert registry.published(changed("torchvision-v1", "optim.lr=1")) == 77.618
    assert registry.published(changed("paper-imagenet")) == 77.8, "not promised, but known"
    other = changed("torchvision-v1", "model.architecture=resnext26_32x4d")
    assert registry.published(other) is registry.published(changed("default")) is None


def test_what_has_no_recipe_deviates_in_nothing() -> None:
    config = changed("default", "recipe=custom", "optim.lr=3")
    assert recipes.deviations(config) == []
    assert recipes.promised(config) is None
    assert not recipes.is_published("custom")


def test_own_recipes_promise_nothing() -> None:
    assert recipes.deviations(changed("default", "schedule.epochs=3")) == [
        "schedule.epochs is 3; the recipe has 90"
    ]
    assert not recipes.is_published("default")
    assert recipes.is_published("timm-ra")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'torchvision-v2'"):
        recipes.get("torchvison-v2")
    with pytest.raises(ConfigError, match="one of default, "):
        recipes.get("?")


def test_the_cost_is_pictures_times_work() -> None:
    cost = recipes.get("paper-imagenet").cost()
    assert cost is not None
    assert cost.pictures == 100 * 1_281_167
    assert cost.macs == 3 * cost.pictures * arch.num_macs(arch.parse("resnext50_32x4d"), 224)
    assert str(cost) == "128 M pictures, 1.6e18 MACs"
    larger = recipes.get("paper-imagenet").cost("resnext101_64x4d")
    assert larger is not None
    assert larger.macs > 3 * cost.macs
    assert recipes.get("default").cost() is None


def test_a_decorated_function_is_a_recipe() -> None:
    @registry.recipe("for-a-test", source="here", expected={"resnext50_32x4d": 1.0})
    def build() -> TrainConfig:
        """Do nothing much.

        For a test.
        """
        return changed("default")

    try:
        found = recipes.get("for-a-test")
        assert found.summary == "Do nothing much"
        assert found.text.endswith("For a test.")
        assert found.config.recipe == "for-a-test"
        assert found.to_json()["expected"] == {"resnext50_32x4d": 1.0}
        assert "--recipe for-a-test" in found.command
    finally:
        del registry._RECIPES["for-a-test"]
