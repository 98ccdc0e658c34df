"""`testing`: the fakes keep the promises of what they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext import modelfile, testing
from resnext.errors import ConfigError


def test_the_constant_engine_is_an_engine() -> None:
    engine = testing.ConstantEngine([1, 2, 3], input_size=8, embedding_size=2)
    outputs = engine.run(np.full((3, 8, 8, 3), 7, np.uint8))
    np.testing.assert_array_equal(outputs.logits, [[1, 2, 3]] * 3)
    np.testing.assert_array_equal(outputs.embedding, [[7, 7]] * 3)
    with pytest.raises(ConfigError, match="expected uint8"):
        engine.run(np.zeros((1, 9, 9, 3), np.uint8))


def test_the_tiny_model_is_a_model_file_and_repeatable(tmp_path: Path) -> None:
    first = testing.write_tiny_model(tmp_path / "a.safetensors", class_names=("x", "y", "z"))
    second = testing.write_tiny_model(tmp_path / "b.safetensors", class_names=("x", "y", "z"))
    document, tensors = modelfile.read(first)
    assert document.labels.class_names == ("x", "y", "z")
    assert document.preprocess.input_size == 32
    for key, tensor in modelfile.read(second)[1].items():
        np.testing.assert_array_equal(tensor, tensors[key])
    assert first.stat().st_size < 5e6


def test_the_pictures_are_repeatable_all_different_and_easy_to_tell_apart(tmp_path: Path) -> None:
    names = ("oak", "elm", "ash", "fir", "yew")
    first = testing.write_pictures(tmp_path / "a", classes=names, per_class=4, size=24)
    second = testing.write_pictures(tmp_path / "b", classes=names, per_class=4, size=24)
    paths = sorted(first.rglob("*.png"))
    assert [len(list((first / name).iterdir())) for name in names] == [4] * 5
    assert len({path.read_bytes() for path in paths}) == 20
    for path in paths:
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()
    other = testing.write_pictures(tmp_path / "c", classes=names, per_class=4, size=24, seed=1)
    assert (other / "ash" / "0000.png").read_bytes() != paths[0].read_bytes()
    # Nearest mean color of the first two pictures of each class gives the other two.
    means = np.array([np.asarray(Image.open(path)).mean((0, 1)) for path in paths])
    means = (means / means.sum(1, keepdims=True)).reshape(5, 4, 3)
    centers = means[:, :2].mean(1)
    distances = np.linalg.norm(means[:, 2:, None] - centers, axis=-1)
    assert (distances.argmin(-1) == np.arange(5)[:, None]).all()
