"""Pictures with labels: what training, fine-tuning and evaluation take.

Where they come from is `training.data`'s matter.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resnext.errors import DatasetError, counted
from resnext.predictions import Labels


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture.

    Args:
        name: What to call it, such as its path.
        source: What `images.open_rgb` takes; can be pickled.
        labels: Class indices: one, or any number where a picture can be of several classes.
    """

    name: str
    source: Any
    labels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSet:
    """Pictures of some classes.

    Args:
        samples: The pictures, in an order that does not depend on the machine.
        labels: Names of the classes.
        multi_label: Whether a picture may be of several classes, or of none.

    Raises:
        DatasetError: There is no picture, or a label out of range.
    """

    samples: Sequence[Sample]
    labels: Labels
    multi_label: bool = False

    def __post_init__(self) -> None:
        if not self.samples:
            raise DatasetError("there is no picture; expected at least one")
        for sample in self.samples:
            if not self.multi_label and len(sample.labels) != 1:
                raise DatasetError(f"{sample.name} has {len(sample.labels)} labels; expected one")
            if not all(0 <= label < self.num_classes for label in sample.labels):
                raise DatasetError(f"{sample.name} has label {sample.labels}; there are"
                                   f" {counted(self.num_classes, 'class', 'classes')}")  # fmt: skip

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.labels.class_names)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of pictures of each class."""
        found = Counter(label for sample in self.samples for label in sample.labels)
        return tuple(found[index] for index in range(self.num_classes))

    @property
    def fingerprint(self) -> str:
        """Hash of names, labels and class names: tells whether a run sees the same data."""
        digest = hashlib.sha256(repr(self.labels.class_names).encode())
        for sample in self.samples:
            digest.update(f"{sample.name}\0{sample.labels}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:32]
