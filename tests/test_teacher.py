"""A bigger model that is learned from: its classes and its pixels are found by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from resnext import preprocess, testing
from resnext.errors import ConfigError
from resnext.predictions import Labels
from resnext.training.config import DataConfig

torch: Any = pytest.importorskip("torch")
teaching: Any = pytest.importorskip("resnext.training.teacher")

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("teacher") / "tiny.safetensors"
    return str(testing.write_tiny_model(path, class_names=("cat", "dog", "cow")))


def test_its_answers_are_for_the_classes_of_the_data(tiny: str) -> None:
    data = DataConfig()
    teacher = teaching.load_teacher(tiny, Labels(("cow", "cat")), data)
    images = torch.rand(2, 3, 32, 32)
    found = teacher(images)
    expected = teacher.model(images)
    assert found.shape == (2, 2)
    assert torch.equal(found, expected[:, [2, 0]])
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.model.training


def test_its_pictures_are_normalized_its_own_way(tiny: str) -> None:
    data = DataConfig(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    teacher = teaching.load_teacher(tiny, Labels(("cat", "dog", "cow")), data)
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (data.mean, data.std))
    own_mean = torch.tensor(preprocess.IMAGENET_MEAN).reshape(1, 3, 1, 1)
    own_std = torch.tensor(preprocess.IMAGENET_STD).reshape(1, 3, 1, 1)
    found = teacher((pixels - mean) / std)
    expected = teacher.model((pixels - own_mean) / own_std)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_classes_are_found_by_synset_before_name() -> None:
    known = Labels(("crane", "crane"), ("n02012849", "n03126707"))
    wanted = Labels(("Kran", "Kranich"), ("n03126707", "n02012849"))
    assert teaching.find_classes("big", known, wanted) == [1, 0]


def test_a_name_of_several_classes_is_refused() -> None:
    known = Labels(("crane", "owl", "crane"), ("n02012849", "n01622779", "n03126707"))
    assert teaching.find_classes("big", known, Labels(("owl",))) == [1]
    with pytest.raises(ConfigError, match="^crane: several classes .* teacher big have") as caught:
        teaching.find_classes("big", known, Labels(("owl", "crane")))
    assert "synset id, such as n02012849 or n03126707 for crane" in caught.value.hint
    # Two of the data, one of the teacher.
    plain = Labels(("crane", "owl"))
    with pytest.raises(ConfigError, match="^crane, crane: several classes") as caught:
        teaching.find_classes("big", plain, Labels(("crane", "crane"), ("n02012849", "n03126707")))
    assert "leave the teacher out" in caught.value.hint


def test_the_names_that_imagenet_has_twice_are_refused() -> None:
    from resnext.catalogue import imagenet1k

    for name in ("crane", "maillot"):
        with pytest.raises(ConfigError, match=f"^{name}: several classes"):
            teaching.find_classes("big", imagenet1k(), Labels((name,)))


def test_a_class_it_does_not_know_is_named() -> None:
    with pytest.raises(ConfigError, match="teacher big does not know 1 of 2 classes, such as owl"):
        teaching.find_classes("big", Labels(("cat", "dog")), Labels(("dog", "owl")))
