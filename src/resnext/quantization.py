"""8-bit arithmetic: the range of each value that is rounded.

Weights need no more than themselves: each output channel is divided into 255 levels around
zero. A value that flows through the network gets 256 levels between a lowest and a highest,
found on pictures; what lies outside is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resnext.errors import ModelFileError

LEVELS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantization:
    """How a network is computed in 8 bits.

    Args:
        ranges: Lowest and highest of each value that is rounded, by its name in the inference
            graph, such as "layer1.0.conv1.relu"; 0 is always between them.
        facts: How it was found and what it cost: method, pictures, agreement.

    Raises:
        ModelFileError: A range is empty, not finite, or leaves out 0.
    """

    ranges: Mapping[str, tuple[float, float]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            if not (low <= 0 <= high and low < high and math.isfinite(high - low)):
                raise ModelFileError(
                    f"quantization: the range of {name} is {low} to {high}; expected finite"
                    " numbers with 0 between them"
                )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        ranges = {name: list(pair) for name, pair in self.ranges.items()}
        return {"ranges": ranges, "facts": dict(self.facts)}

    @classmethod
    def from_json(cls, value: object) -> Quantization:
        """Read what `to_json` wrote.

        Raises:
            ModelFileError: It is something else.
        """
        if not isinstance(value, dict) or set(value) != {"ranges", "facts"}:
            raise ModelFileError("quantization: expected an object with ranges and facts")
        ranges, facts = value["ranges"], value["facts"]
        if not isinstance(ranges, dict) or not isinstance(facts, dict) or not ranges:
            raise ModelFileError("quantization: expected ranges by name, and facts")
        for name, pair in ranges.items():
            if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_number, pair)):
                raise ModelFileError(f"quantization: the range of {name} is {str(pair)[:60]}")
        return cls(ranges={name: (pair[0], pair[1]) for name, pair in ranges.items()}, facts=facts)


def grid(low: float, high: float) -> tuple[float, int]:
    """Return the step between levels, and the level of 0.

    Args:
        low: Lowest value, at most 0.
        high: Highest value.
    """
    step = (high - low) / (LEVELS - 1)
    return step, min(max(round(-low / step), 0), LEVELS - 1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
