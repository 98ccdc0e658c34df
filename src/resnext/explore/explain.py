"""Explain predictions: maps by any method, as overlays, arrays, numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnext import images
from resnext.classifier import Classifier
from resnext.errors import ConfigError, ImageError, OutputError, import_extra
from resnext.explore import cam, faithfulness
from resnext.explore.cam import ActivationMap
from resnext.explore.faithfulness import Faithfulness
from resnext.files import atomic, check_place, check_replaceable
from resnext.sources import EXTENSIONS

METHODS = ("cam", "gradcam", "gradcam++")

_FILES = EXTENSIONS | {".npy", ".npz"}  # endings by which a name is no folder's


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a picture was given a class.

    Args:
        found: The map, its class and its picture.
        method: How the map was computed.
        layer: Whose maps it is made of.
        score: How faithful it is; None where that was not measured.
    """

    found: ActivationMap
    method: str
    layer: str
    score: Faithfulness | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what is known as plain JSON values, but for the map's pixels."""
        facts: dict[str, Any] = {
            "source": self.found.name,
            "method": self.method,
            "layer": self.layer,
            "target": self.found.target.to_json(),
            "map": [[float(f"{value:.6g}") for value in row] for row in self.found.values],
        }
        if self.score is not None:
            facts["deletion"] = float(f"{self.score.deletion:.6g}")
            facts["insertion"] = float(f"{self.score.insertion:.6g}")
        return facts


def explain(
    classifier: Classifier,
    pictures: Any,
    *,
    target: int | None = None,
    method: str = "cam",
    layer: str = "layer4",
    score: bool = False,
) -> Iterator[Explanation | ImageError]:
    """Say for a stream of pictures where they speak for a class.

    Args:
        classifier: The model; opened with `feature_maps=True` it is opened once only.
        pictures: As for `Classifier.predict`.
        target: Class index; None for the predicted one of each picture.
        method: "cam", or with torch "gradcam" or "gradcam++".
        layer: Of the gradient methods: a stage such as "layer3", or a part of one.
        score: Measure how faithful each map is.

    Yields:
        For each picture, in order, why, or why not; the error's `path` is the name.

    Raises:
        ConfigError: There is no such class, method or layer.
        MissingExtraError: The method needs torch, which is not installed.
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if method == "cam" and layer != "layer4":
        raise ConfigError(
            f"layer is {layer!r}, but a class activation map is of the last maps, layer4",
            hint="take --method gradcam",
        )
    maps = cam.class_activation_map(classifier, pictures, target)
    if method != "cam":
        gradients = import_extra("resnext.explore.gradients", extra="torch")
        maps = _replaced(maps, gradients.GradientMaps(classifier.local, layer=layer), method)
    for found in maps:
        if isinstance(found, ImageError):
            yield found
            continue
        worth = _measure(classifier, found) if score else None
        yield Explanation(found=found, method=method, layer=layer, score=worth)


def name_outputs(names: Sequence[str], output: Path | None, ending: str) -> list[Path]:
    """Say where the results of some pictures go: into a file for one, or into a folder.

    Args:
        names: Of the pictures.
        output: What was asked for: a file for one picture, or a folder, which has no ending of
            a picture or array. None for a file here, or for the folder `explained`.
        ending: Of the files, such as ".png".

    Returns:
        A path for each picture, no two the same; in a folder `<name>.explained<ending>`, so that
        none of the pictures there is replaced. The folder is made.

    Raises:
        ConfigError: `output` is the name of another kind of file, or of one for several.
        OutputError: The folder cannot be made, or no file written where it was asked for.
    """
    stems = [os.path.splitext(os.path.basename(name))[0] or "picture" for name in names]
    if output is None and len(names) == 1:
        return [Path(f"{stems[0]}.explained{ending}")]
    if output is not None and not output.is_dir() and output.suffix.lower() in _FILES:
        if output.suffix.lower() != ending:
            raise ConfigError(f"{output}: expected a name that ends in {ending}, or a folder's")
        if len(names) > 1:
            raise ConfigError(
                f"{output} is one file, and there are {len(names)} pictures",
                hint="give the name of a folder",
            )
        check_place(output)
        check_replaceable(output, inputs=names)
        return [output]
    folder = output or Path("explained")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the folder cannot be made: {error.strerror}") from error
    taken: set[str] = set()
    paths = []
    for stem in stems:
        name, number = stem, 1
        while name.lower() in taken:  # some file systems do not tell A from a
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        paths.append(folder / f"{name}.explained{ending}")
    _check_none_is_read(paths, names)
    return paths


def _check_none_is_read(paths: Sequence[Path], names: Sequence[str]) -> None:
    """Refuse to write over the pictures, as where the folder is theirs."""
    read = {os.path.realpath(name) for name in names}
    for path in paths:
        if os.path.realpath(path) in read:
            raise ConfigError(
                f"{path} is both a file to read and the output", hint="choose another folder"
            )


def write_overlay(
    path: Path, source: Any, explanation: Explanation, classifier: Classifier
) -> None:
    """Write the picture with the map over it as PNG.

    Args:
        path: Where to.
        source: The picture, as it was given to `explain`.
        explanation: Of that picture.
        classifier: The model.

    Raises:
        ImageError: The picture cannot be read any more.
        OutputError: The file cannot be written.
    """
    spec = classifier.document.preprocess
    pixels = images.read(source, orientation=spec.orientation)
    blended = cam.overlay(pixels, explanation.found.values, spec)
    with atomic(path) as file:
        Image.fromarray(blended).save(file, "PNG")


def write_array(path: Path, source: Any, explanation: Explanation, classifier: Classifier) -> None:
    """Write the map at the size of the picture as (H, W) float32, NaN where nothing was seen.

    Args:
        path: Where to.
        source: The picture, as it was given to `explain`.
        explanation: Of that picture.
        classifier: The model.

    Raises:
        ImageError: The picture cannot be read any more.
        OutputError: The file cannot be written.
    """
    spec = classifier.document.preprocess
    size = images.open_rgb(source, orientation=spec.orientation).size
    with atomic(path) as file:
        np.save(file, cam.onto_picture(explanation.found.values, size, spec))


def _replaced(
    maps: Iterator[ActivationMap | ImageError], gradients: Any, method: str
) -> Iterator[ActivationMap | ImageError]:
    for found in maps:
        if isinstance(found, ImageError):
            yield found
            continue
        [values] = gradients(found.pixels[None], [found.target.index], method=method)
        yield ActivationMap(
            name=found.name, target=found.target, values=values, pixels=found.pixels
        )


def _measure(classifier: Classifier, found: ActivationMap) -> Faithfulness:
    return faithfulness.measure(
        classifier.engine,
        found.pixels,
        found.values,
        found.target.index,
        temperature=classifier.document.temperature,
    )
