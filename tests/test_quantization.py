"""8 bits in the model file: what is written is read, what is damaged is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext import modelfile, testing
from resnext.errors import ModelFileError
from resnext.quantization import LEVELS, Quantization, grid

SOME = Quantization(
    ranges={"conv1.relu": (0.0, 5.5), "layer1.0.conv3": (-1.5, 2.0)}, facts={"a": 1}
)


@given(st.floats(-1e6, 0, allow_subnormal=False), st.floats(1e-3, 1e6, allow_subnormal=False))
def test_zero_is_on_the_grid_and_the_ends_are_near_it(low: float, high: float) -> None:
    step, zero = grid(low, high)
    assert 0 <= zero < LEVELS
    assert abs((0 - zero) * step - low) <= step / 2 * (1 + 1e-6)
    assert abs((LEVELS - 1 - zero) * step - high) <= step / 2 * (1 + 1e-6)


def test_a_file_with_ranges_says_schema_two(tmp_path: Path) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document, tensors = modelfile.read(path)
    assert document.quantization is None
    assert document.to_json()["schema_version"] == 1
    modelfile.write(path, replace(document, quantization=SOME), tensors)
    found, _ = modelfile.read(path)
    assert found.quantization == SOME
    metadata = json.loads(modelfile.read_metadata(path)["resnext"])
    assert metadata["schema_version"] == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"ranges": {}},
        {"ranges": {"a": [0]}},
        {"ranges": {"a": ["0", 1]}},
        {"ranges": {"a": [1, 2]}},
        {"ranges": {"a": [0, 0]}},
        {"ranges": {"a": [0, 1e400]}},
        {"ranges": {"a": [True, 1]}},
        {"facts": None},
        {"more": 1},
    ],
)
def test_what_is_damaged_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match="quantization"):
        Quantization.from_json({**SOME.to_json(), **damage})
    with pytest.raises(ModelFileError, match="quantization"):
        Quantization.from_json([1])


def test_the_first_schema_has_no_ranges(tmp_path: Path) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document, _ = modelfile.read(path)
    with pytest.raises(ModelFileError, match="unknown key 'quantization'"):
        modelfile.document_from_json({**document.to_json(), "quantization": SOME.to_json()})
