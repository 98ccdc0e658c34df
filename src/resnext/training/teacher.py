"""[train] A bigger model that is learned from as well.

Source: arXiv:1503.02531. N pictures, K classes.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from resnext.errors import ConfigError, counted
from resnext.network import ResNeXt
from resnext.predictions import Labels
from resnext.training.config import DataConfig
from resnext.zoo import create_model

_SHOWN = 5  # classes named in an error


class Teacher(nn.Module):
    """Gives a model's logits for the classes of the data, on pictures as the student gets them.

    Args:
        model: The bigger model.
        indices: Its number of each class of the data.
        data: Mean and deviation that the pictures are normalized by.
    """

    scale: Tensor
    shift: Tensor
    indices: Tensor

    def __init__(self, model: ResNeXt, indices: list[int], data: DataConfig) -> None:
        super().__init__()
        assert model.document is not None, "a teacher has weights"
        self.model = model.eval().requires_grad_(False)
        spec = model.document.preprocess
        mean, std, own_mean, own_std = (
            torch.tensor(values).reshape(1, 3, 1, 1)
            for values in (data.mean, data.std, spec.mean, spec.std)
        )
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)
        self.register_buffer("indices", torch.tensor(indices))

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Map (N, 3, H, W), normalized for the student, to (N, K) logits."""
        logits: Tensor = self.model(images_nchw * self.scale + self.shift)
        return logits[:, self.indices]


def load_teacher(name: str, labels: Labels, data: DataConfig) -> Teacher:
    """Load a model to learn from.

    Its classes are found by synset id where both have them, else by name; it may know more.

    Args:
        name: What `create_model` takes.
        labels: The classes of the data.
        data: How pictures are normalized.

    Raises:
        ConfigError: It does not know a class of the data.
        ModelNotFoundError: Nothing has this name.
        WeightsUnavailableError: The weights cannot be fetched.
    """
    model = create_model(name, True)
    assert model.document is not None, "pretrained models have a document"
    return Teacher(model, find_classes(name, model.document.labels, labels), data)


def find_classes(name: str, known: Labels, wanted: Labels) -> list[int]:
    """Return the number that a model has for each class.

    Raises:
        ConfigError: It lacks one, or has several of its name.
    """
    if known.synset_ids is not None and wanted.synset_ids is not None:
        have, want = known.synset_ids, wanted.synset_ids
    else:
        have, want = known.class_names, wanted.class_names
    numbers = {key: index for index, key in enumerate(have)}
    missing = [
        label for label, key in zip(wanted.class_names, want, strict=True) if key not in numbers
    ]
    if missing:
        raise ConfigError(
            f"the teacher {name} does not know {len(missing)} of"
            f" {counted(len(want), 'class', 'classes')}, such as"
            f" {', '.join(missing[:_SHOWN])}",
            hint="a teacher must have the classes of the data, by the same names",
        )
    times, own = Counter(have), Counter(want)
    if several := [key for key in want if times[key] > 1 or own[key] > 1]:
        raise ConfigError(
            f"{', '.join(several[:_SHOWN])}: several classes of the data or of the teacher {name}"
            " have the same name",
            hint=_hint_for(several[0], known),
        )
    return [numbers[key] for key in want]


def _hint_for(label: str, known: Labels) -> str:
    if known.synset_ids is None:
        return "leave the teacher out, or take one whose classes have names of their own"
    pairs = zip(known.synset_ids, known.class_names, strict=True)
    same = [synset for synset, other in pairs if other == label]
    return f"name all folders of the data by synset id, such as {' or '.join(same)} for {label}"
