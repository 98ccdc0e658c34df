"""[quantize] Find the ranges with which a network is computed in 8 bits.

NNCF places the roundings and finds their ranges on pictures; of its result only these
ranges are kept, so that the file needs no NNCF to run. If too many answers change, the
layers that suffer most go back to floating point, and if that does not help, nothing is
written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext import weights
from resnext.classifier import Classifier
from resnext.engines import graph, select
from resnext.engines.base import LOGITS
from resnext.engines.openvino import read_graph
from resnext.errors import DatasetError, ImageError, ParityError
from resnext.modelfile import Tensors
from resnext.predictions import Labels
from resnext.provenance import software
from resnext.quantization import Quantization
from resnext.weights import LocalModel

os.environ.setdefault("NNCF_CI", "1")  # or it reports its use over the network

import nncf  # noqa: E402

nncf_logger = logging.getLogger("nncf")
nncf_logger.setLevel(logging.ERROR)

FEW = 300  # pictures that ranges are found on
LEAST = 10

Pixels = npt.NDArray[np.uint8]


def find_ranges(
    local: LocalModel, tensors: Tensors, pixels: Sequence[Pixels], *, kept: Sequence[str] = ()
) -> Quantization:
    """Find which values of a network to round, and between what.

    Args:
        local: The model.
        tensors: Its `state_dict`.
        pixels: (S, S, 3) prepared pictures; about 300 are enough.
        kept: Names of convolutions that stay in floating point.

    Returns:
        The ranges.
    """
    document = local.document
    built = graph.build(document.architecture, document.preprocess, tensors)
    with graph.serialized(built) as content:
        model = read_graph(content)
    batches = [picture[None] for picture in pixels]
    quantized = nncf.quantize(
        model,
        nncf.Dataset(batches),
        subset_size=len(batches),
        preset=nncf.QuantizationPreset.MIXED,
        fast_bias_correction=False,
    )
    return Quantization(ranges=dict(_ranges(quantized)))


def _ranges(model: Any) -> Iterator[tuple[str, tuple[float, float]]]:
    """Read the roundings of values, not those of weights."""
    for op in model.get_ops():
        if op.get_type_name() != "FakeQuantize":
            continue
        source = op.input_value(0).get_node()
        if source.get_type_name() in ("Constant", "Convert", "Multiply"):
            continue
        low, high = (op.input_value(index).get_node().data for index in (1, 2))
        yield source.get_friendly_name(), (float(low.min()), float(high.max()))
