"""What feature maps a network gives: channels, reduction and module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resnext import arch
from resnext.arch import ArchSpec
from resnext.errors import ConfigError


class FeatureInfo(Sequence[dict[str, Any]]):
    """What each feature map is: `num_chs`, `reduction` in pixels, `module`.

    Args:
        entries: One per map.
        out_indices: Which maps of the network they are; None for all.
    """

    def __init__(
        self, entries: Sequence[dict[str, Any]], out_indices: Sequence[int] | None = None
    ) -> None:
        self._entries = tuple(entries)
        self.out_indices = tuple(range(len(entries)) if out_indices is None else out_indices)

    def __getitem__(self, index: Any) -> Any:
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"FeatureInfo({list(self._entries)})"

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """Return one fact of one map, of some, or of all."""
        if isinstance(idx, int):
            return self[idx][key]
        return [self[index][key] for index in (range(len(self)) if idx is None else idx)]

    def get_dicts(self) -> list[dict[str, Any]]:
        """Return the entries, as copies."""
        return [dict(entry) for entry in self]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the channels of each map."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the input pixels per pixel of each map."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the module whose output each map is."""
        return self.get("module", idx)

    def select(self, indices: int | Sequence[int] | None) -> list[int]:
        """Return positions in order, of a choice as `forward_intermediates` takes it.

        Raises:
            ConfigError: There is no such map.
        """
        count = len(self)
        if indices is None:
            return list(range(count))
        if isinstance(indices, int):
            if not 1 <= indices <= count:
                raise ConfigError(f"{indices} feature maps asked for; there are {count}")
            return list(range(count - indices, count))
        if not indices or not all(-count <= index < count for index in indices):
            raise ConfigError(f"feature maps {list(indices)} asked for; there are 0 to {count - 1}")
        return sorted({index % count for index in indices})


def describe(spec: ArchSpec, output_stride: int) -> FeatureInfo:
    """List the maps of a network: after the stem, and after each stage."""
    cifar = spec.stem == "cifar"
    stem = {"num_chs": spec.stem_channels[-1], "reduction": 1 if cifar else 2, "module": "relu"}
    stages = [
        {
            "num_chs": arch.PLANES * arch.EXPANSION * 2**stage,
            "reduction": min((1 if cifar else 4) * 2**stage, output_stride),
            "module": f"layer{stage + 1}",
        }
        for stage in range(len(spec.blocks))
    ]
    return FeatureInfo([stem, *stages])
