"""`testing`: the fakes keep the promises of what they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
