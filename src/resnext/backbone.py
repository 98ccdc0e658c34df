"""What computes features: hashes of all weights but the last layer's.

Models that differ in the last layer, in a temperature or in names give the same features,
although their files have other hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.document import ModelDocument


def hash_backbone(tensors: Mapping[str, NDArray[Any]]) -> str:
    """Hash names, types, shapes and values of all tensors but those of the last layer."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        if not key.startswith("fc."):
            tensor = np.ascontiguousarray(tensors[key])
            digest.update(f"{key} {tensor.dtype} {tensor.shape}\n".encode())
            digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def hash_eight_bits(document: ModelDocument) -> str:
    """Hash the ranges and rounded weights, which are in no backbone; "" where there are none."""
    if document.quantization is None:
        return ""
    ranges, rounded = document.quantization.ranges, document.quantization.weights
    digest = hashlib.sha256(json.dumps(sorted(ranges.items())).encode())
    digest.update(hash_backbone(rounded).encode())
    return digest.hexdigest()
