"""How much class activation maps tell, beside a random map and the map upside down.

    python benchmarks/faithfulness.py PICTURES [COUNT]

PICTURES has a folder per synset id. Of the first COUNT (40) pictures, drawn by seed, about which
the starter is right with at least 50 %, the areas under deletion and insertion are averaged.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paired

from resnext import Classifier
from resnext.errors import ImageError
from resnext.explore import cam, faithfulness

SURE = 0.5  # probability of the right class


def main(pictures: str, count: str = "40") -> None:
    """Measure three orders of the pixels of each picture."""
    paths = sorted(Path(pictures).rglob("*.*"))
    random.Random(0).shuffle(paths)
    rng = np.random.default_rng(0)
    scores: dict[str, list[tuple[float, float]]] = {}
    with Classifier("starter", feature_maps=True) as classifier:
        synsets = classifier.document.labels.synset_ids
        assert synsets is not None
        for found in cam.class_activation_map(classifier, [str(path) for path in paths]):
            if isinstance(found, ImageError) or found.target.probability < SURE:
                continue
            if synsets[found.target.index] not in Path(found.name).parts:
                continue
            maps = {
                "class activation map": found.values,
                "a random map": rng.random(found.values.shape, np.float32),
                "the map upside down": -found.values,
            }
            for name, values in maps.items():
                one = faithfulness.measure(
                    classifier.engine, found.pixels, values, found.target.index,
                    temperature=classifier.document.temperature,
                )  # fmt: skip
                scores.setdefault(name, []).append((one.deletion, one.insertion))
            if len(scores["a random map"]) == int(count):
                break
    results: dict[str, Any] = {"pictures": len(scores["a random map"])}
    for name, rows in scores.items():
        error = np.std(rows, axis=0, ddof=1) / np.sqrt(len(rows))
        results[name] = {
            what: {"mean": round(float(mean), 3), "standard error": round(float(spread), 3)}
            for what, mean, spread in zip(
                ("deletion", "insertion"), np.mean(rows, axis=0), error, strict=True
            )
        }
    paired.report("faithfulness", results)


if __name__ == "__main__":
    main(*sys.argv[1:])
