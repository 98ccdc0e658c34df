"""Beside a mistake: its picture, a heat map, the nearest pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext import images
from resnext.classifier import Classifier
from resnext.errors import ImageError
from resnext.evaluation.judge import Judged
from resnext.explore import cam
from resnext.explore.index import Index, Neighbor

MOST = 24  # mistakes that are shown
_OF_A_KIND = 2  # of the same class and answer
_NEAREST = 3  # pictures of an index beside each
_SHOWN_SIDE = 320  # pixels of a picture that is kept for the page

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Exhibit:
    """One mistake.

    Args:
        place: Position among the judged pictures.
        picture: (H, W, 3), or None where it cannot be read any more.
        heat: The same with a class activation map of the answer, or None.
        neighbors: The nearest pictures of an index, each with its pixels or None.
    """

    place: int
    picture: Pixels | None
    heat: Pixels | None
    neighbors: tuple[tuple[Neighbor, Pixels | None], ...] = ()


def worst(judged: Judged, *, most: int = MOST) -> list[int]:
    """Return the surest wrong answers, no more than two with the same class and answer."""
    wrong = np.flatnonzero(judged.labeled & ~judged.right)
    seen: dict[tuple[int, int], int] = {}
    chosen: list[int] = []
    for place in wrong[np.argsort(-judged.confidence[wrong], kind="stable")].tolist():
        kind = (int(judged.targets[place]), int(judged.answers[place]))
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= _OF_A_KIND:
            chosen.append(place)
        if len(chosen) == most:
            break
    return chosen


def collect(
    classifier: Classifier, judged: Judged, places: Sequence[int], *, index: Index | None = None
) -> list[Exhibit]:
    """Read pictures again, and find what their answers were seen in.

    Args:
        classifier: The model.
        judged: Its answers.
        places: Which pictures.
        index: Pictures, such as those trained on, of which the nearest are found.
    """
    sources = [judged.entries[place].source for place in places]
    answers = [int(judged.classes[judged.answers[place]]) for place in places]
    heats = _heat_maps(classifier, sources, answers)
    near = _nearest(classifier, sources, index)
    return [
        Exhibit(place=place, picture=read(source, classifier), heat=heat, neighbors=found)
        for place, source, heat, found in zip(places, sources, heats, near, strict=True)
    ]


def _nearest(
    classifier: Classifier, sources: Sequence[Any], index: Index | None
) -> list[tuple[tuple[Neighbor, Pixels | None], ...]]:
    """Find the pictures of an index that look most alike to the network."""
    if index is None or not sources:
        return [()] * len(sources)
    found = []
    for row in classifier.embed_each(sources):
        near = () if isinstance(row, ImageError) else index.search(row[None], _NEAREST)[0]
        found.append(tuple((one, read(one.name, classifier)) for one in near))
    return found


def _heat_maps(
    classifier: Classifier, sources: Sequence[Any], answers: Sequence[int]
) -> list[Pixels | None]:
    """Lay class activation maps of the answers over the pictures, as the network saw them."""
    if not sources:
        return []
    maps = cam.class_activation_map(classifier, sources, answers)
    spec = classifier.document.preprocess
    found: list[Pixels | None] = []
    for source, one in zip(sources, maps, strict=True):
        picture = None if isinstance(one, ImageError) else read(source, classifier)
        found.append(
            None
            if picture is None or isinstance(one, ImageError)
            else cam.overlay(picture, one.values, spec)
        )
    return found


def read(source: Any, classifier: Classifier) -> Pixels | None:
    """Return a picture, small, or None where it cannot be read any more."""
    if images.is_url(source):  # a page is made of what is here
        return None
    try:
        image = images.open_rgb(source, orientation=classifier.document.preprocess.orientation)
    except ImageError:
        return None
    image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    return np.asarray(image)
