"""`backbone`: what makes other features has another hash, and nothing else has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from resnext import modelfile, testing
from resnext.backbone import hash_backbone, hash_eight_bits
from resnext.quantization import Quantization

TENSORS = {
    "conv1.weight": np.ones((2, 3), np.float32),
    "bn1.bias": np.zeros(2, np.float32),
    "fc.weight": np.ones((4, 2), np.float32),
}


def test_the_last_layer_and_the_order_do_not_count() -> None:
    others = dict(reversed(TENSORS.items())) | {"fc.weight": np.zeros((9, 2), np.float32)}
    assert hash_backbone(others) == hash_backbone(TENSORS)


def test_every_name_value_type_and_shape_of_the_others_counts() -> None:
    weight = TENSORS["conv1.weight"]
    changed = weight.copy()
    changed[1, 2] = 2
    found = {
        hash_backbone(TENSORS),
        hash_backbone(TENSORS | {"conv1.weight": changed}),
        hash_backbone(TENSORS | {"conv1.weight": weight.astype(np.float16)}),
        hash_backbone(TENSORS | {"conv1.weight": weight.reshape(3, 2)}),
        hash_backbone(TENSORS | {"conv2.weight": weight}),
    }
    assert len(found) == 5


def test_eight_bits_count_by_their_ranges(tmp_path: Path) -> None:
    document, _ = modelfile.read(testing.write_tiny_model(tmp_path / "tiny.safetensors"))
    assert hash_eight_bits(document) == ""
    first, second = (
        hash_eight_bits(replace(document, quantization=Quantization(ranges={"input": (0.0, high)})))
        for high in (1.0, 2.0)
    )
    assert "" != first != second
