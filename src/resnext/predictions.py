"""Way 4: logits to probabilities to named predictions.

The order of predictions follows the logits, not the probabilities: it is the same for
every temperature, and it does not tie where a softmax underflows to zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.errors import ConfigError, EngineError, counted


@dataclass(frozen=True, slots=True)
class Labels:
    """What each logit means.

    Args:
        class_names: One name per class, in the order of the logits. Names may repeat:
            ImageNet has two that are called `crane`.
        synset_ids: One WordNet id such as `n02123045` per class, or None where the
            classes have none.

    Raises:
        ConfigError: There is no class, a name is empty or no text, or the lengths differ.
    """

    class_names: tuple[str, ...]
    synset_ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check_texts("class_names", self.class_names)
        if self.synset_ids is None:
            return
        _check_texts("synset_ids", self.synset_ids)
        if len(self.synset_ids) != len(self.class_names):
            raise ConfigError(
                f"there are {len(self.synset_ids)} synset_ids for "
                f"{len(self.class_names)} class_names; expected one for each"
            )

    def __len__(self) -> int:
        return len(self.class_names)


def _check_texts(field: str, texts: object) -> None:
    if not isinstance(texts, tuple) or not texts:
        raise ConfigError(f"{field} is {texts!r}; expected a tuple of at least one text")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise ConfigError(f"{field}[{index}] is {text!r}; expected a text that is not empty")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One named answer for one picture.

    Args:
        label: Name of the class.
        probability: Between 0 and 1, after the temperature.
        index: Position of the class among the logits.
        synset_id: WordNet id of the class, or None where it has none.
    """

    label: str
    probability: float
    index: int
    synset_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object, the probability to six significant digits.

        That is as much as float32 logits hold.
        """
        return {
            "label": self.label,
            "probability": float(f"{self.probability:.6g}"),
            "index": self.index,
            "synset_id": self.synset_id,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """What became of one picture: its predictions, or why there are none.

    Args:
        source: Name of the picture as the caller gave it.
        predictions: Best first; empty where the picture could not be read.
        error: Why the picture could not be read, or None.
        rejected: The best probability is below the reject threshold: the model does not
            claim to know. The predictions are still there to look at.
    """

    source: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None
    rejected: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the result as the JSON object that `--format jsonl` writes."""
        return {
            "source": self.source,
            "predictions": [prediction.to_json() for prediction in self.predictions],
            "rejected": self.rejected,
            "error": self.error,
        }


def probabilities(logits: NDArray[np.floating], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Turn logits into probabilities.

    Args:
        logits: (N, K), any float type.
        temperature: Divides the logits: above 1 is less sure, below 1 is more sure.

    Returns:
        (N, K), each row adding up to 1.

    Raises:
        ConfigError: The temperature is not above zero.
        EngineError: A logit is not finite, or the array is not (N, K).
    """
    check_temperature(temperature)
    _check_logits(logits)
    # float64 and a maximum of zero: no float32 logit, however large, overflows.
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled /= temperature
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not a number above zero.

    Raises:
        ConfigError: It is not.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature is {temperature!r}; expected a number above 0")


def decide(
    logits: NDArray[np.floating], labels: Labels, *, top_k: int = 5, temperature: float = 1.0
) -> list[tuple[Prediction, ...]]:
    """Name the best classes of each picture.

    Args:
        logits: (N, K), any float type; K is the number of labels.
        labels: What each logit means.
        top_k: Predictions per picture, at least 1; all K where K is smaller.
        temperature: Divides the logits before the softmax.

    Returns:
        For each of the N pictures its predictions, best first, ties by class index.

    Raises:
        ConfigError: `top_k` or the temperature is out of range.
        EngineError: A logit is not finite, or there are not as many as labels.

    Example:
        >>> labels = Labels(("cat", "dog"))
        >>> [(best, other)] = decide(np.float32([[0, 1]]), labels)
        >>> best.label, round(best.probability, 3), other.label
        ('dog', 0.731, 'cat')
    """
    if top_k < 1:
        raise ConfigError(f"top_k is {top_k}; expected at least 1")
    shares = probabilities(logits, temperature=temperature)
    if logits.shape[1] != len(labels):
        raise EngineError(
            f"the engine answered {counted(logits.shape[1], 'logit')} a picture; expected"
            f" {len(labels)}, "
            "one for each class name"
        )
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    best = np.take_along_axis(shares, order, axis=1)
    return [
        tuple(_name(labels, index, share) for index, share in zip(indices, row, strict=True))
        for indices, row in zip(order.tolist(), best.tolist(), strict=True)
    ]


def is_rejected(predictions: tuple[Prediction, ...], reject_threshold: float | None) -> bool:
    """Tell whether the best probability is below the threshold; None rejects nothing."""
    if reject_threshold is None or not predictions:
        return False
    return predictions[0].probability < reject_threshold


def _check_logits(logits: NDArray[np.floating]) -> None:
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise EngineError(f"the engine answered shape {logits.shape}; expected (N, K) logits")
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if bad.size:
        raise EngineError(
            f"the engine answered NaN or infinity for {bad.size} of"
            f" {counted(len(logits), 'picture')}, "
            f"the first at position {bad[0]} of the batch",
            hint="try `--precision fp32`; weights that hold NaN cannot be used",
        )


def _name(labels: Labels, index: int, share: float) -> Prediction:
    synset_id = None if labels.synset_ids is None else labels.synset_ids[index]
    return Prediction(
        label=labels.class_names[index], probability=share, index=index, synset_id=synset_id
    )
