"""Plant faults into real pictures and count what `resnext check` finds.

    python benchmarks/doctor.py TRAIN VAL LARGE

TRAIN and VAL have one folder per synset id, as Tiny ImageNet unpacks; LARGE is a folder of
ImageNet-sized JPEGs. The starter was trained on TRAIN with its labels, which flatters the figures
for flipped labels there; VAL it has never seen. Everything is drawn by seed. Prints one JSON
document and keeps it in `results/`.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paired
from PIL import Image
from sklearn.metrics import average_precision_score

from resnext import Classifier, weights
from resnext.doctor import mislabels
from resnext.doctor.copies import find_groups
from resnext.doctor.examination import examine
from resnext.doctor.facts import Table, gather
from resnext.doctor.intake import Intake
from resnext.training.features import open_store
from resnext.training.listing import Entry

EACH = 100  # faults of a kind
NOISE = 0.05  # share of labels that are flipped
TRAIN_CLASSES = 20  # of which subsets are drawn
FILE_CLASSES = 10
SEEDS = 3
# What a copy is planted as: quality, and scale of its sides; None copies the bytes.
COPIES = {"bytes": None, "quality": (60, 1.0), "size": (75, 0.75)}


def main(train: str, val: str, large: str) -> None:
    """Run all three parts."""
    rng = random.Random(0)
    synsets = sorted(rng.sample(sorted(os.listdir(train)), TRAIN_CLASSES))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, Classifier("starter") as classifier:
        os.environ.setdefault("RESNEXT_HOME", str(Path(name) / "home"))
        top = Path(name) / "small"
        _copy_classes(Path(train), top / "train", synsets[:FILE_CLASSES])
        _copy_classes(Path(val), top / "val", synsets[:FILE_CLASSES])
        results["files, Tiny ImageNet"] = measure_files(top, classifier, rng)
        top = Path(name) / "large"
        (top / "train").mkdir(parents=True)
        for number, path in enumerate(sorted(Path(large).iterdir())):
            place = top / "train" / "ab"[number % 2] / path.name
            place.parent.mkdir(exist_ok=True)
            shutil.copy(path, place)
            (top / "val" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        results["files, ImageNet-sized"] = measure_files(top, classifier, rng, each=10)
        pool = _gather(Path(train), classifier, synsets)
        results["flipped labels, train (seen by the model)"] = [
            measure_labels(pool, count, seed) for count in (10, 20) for seed in range(SEEDS)
        ]
        pool = _gather(Path(val), classifier, sorted(os.listdir(val)))
        results["flipped labels, val (never seen)"] = [
            measure_labels(pool, count, seed) for count in (10, 20, 200) for seed in range(SEEDS)
        ]
    paired.report("doctor", results)


def measure_files(
    top: Path, classifier: Classifier, rng: random.Random, *, each: int = EACH
) -> dict[str, Any]:
    """Plant faults of files, and compare what is found with what was found before."""
    before = {(one.problem, one.path) for one in examine(top, classifier=classifier).findings}
    pictures = sorted((top / "train").rglob("*.JPEG"))
    rng.shuffle(pictures)
    planted: dict[str, set[tuple[str, str]]] = {}
    for kind in ("truncated", "wrong-extension"):
        planted[kind] = {_damage(kind, pictures.pop(), top, rng) for _ in range(each)}
    for how, form in COPIES.items():
        for kind in ("duplicate", "leak"):
            name = f"{kind}, other {how}" if form else f"{kind}, same {how}"
            planted[name] = {_copy(kind, form, pictures.pop(), top) for _ in range(each)}
    found = {(one.problem, one.path) for one in examine(top, classifier=classifier).findings}
    new = {pair for pair in found - before if pair[0] != "likely-mislabel"}
    wanted = set().union(*planted.values())
    return {
        "pictures": len(list(top.rglob("*.*"))),
        "found before": _tally(before),
        "recall": {name: round(len(pairs & new) / each, 3) for name, pairs in planted.items()},
        "precision": {
            kind: round(sum(pair in wanted for pair in new if pair[0] == kind)
                        / max(1, sum(pair[0] == kind for pair in new)), 3)
            for kind in sorted({pair[0] for pair in new})
        },
    }  # fmt: skip


def measure_labels(pool: Table, num_classes: int, seed: int) -> dict[str, Any]:
    """Flip labels of some classes, and see how early the flipped ones are suspected."""
    rng = np.random.default_rng(seed)
    given = np.array([entry.classes[0] for entry in pool.entries])
    names = rng.choice(np.unique(given), num_classes, replace=False)
    rows = np.flatnonzero(np.isin(given, names))
    flipped = rng.choice(rows, round(NOISE * len(rows)), replace=False)
    labels = given.copy()
    for row in flipped:
        labels[row] = rng.choice(names[names != given[row]])
    entries = tuple(replace(pool.entries[n], classes=(str(labels[n]),)) for n in rows)
    intake = replace(pool.intake, entries=entries, parts=pool.intake.parts[rows])
    table = replace(pool, intake=intake, records=pool.records[rows])
    judged = mislabels.judge(table, find_groups(table))
    wrong = np.isin(rows, flipped)[judged.positions]
    assert judged.unseen is not None
    others = np.concatenate([part for _, part in judged.unseen.shares()])
    joint = _confident_joint(others, judged.labels)
    others[np.arange(len(wrong)), judged.labels] = -1
    suspects = judged.suspects
    place = {name: number for number, name in enumerate(judged.names)}  # of the classes judged
    truth = np.array([place.get(given[rows[n]], -1) for n in judged.positions])
    return {
        "classes": num_classes,
        "pictures": len(rows),
        "flipped": len(flipped),
        "agreement": round(float((judged.best == truth).mean()), 3),
        "average precision": round(average_precision_score(wrong, -judged.own), 3),
        "by margin": round(average_precision_score(wrong, others.max(axis=1) - judged.own), 3),
        "suspects": len(suspects),
        "precision": round(float(wrong[suspects].mean()), 3) if len(suspects) else None,
        "recall": round(float(wrong[suspects].sum() / wrong.sum()), 3),
        "confident joint": [
            int(joint.sum()),
            round(float(wrong[joint].mean()), 3) if joint.any() else None,
            round(float(wrong[joint].sum() / wrong.sum()), 3),
        ],
        "right class suggested": round(
            float((judged.best == truth)[suspects][wrong[suspects]].mean()), 3
        )
        if wrong[suspects].any()
        else None,
    }


def _confident_joint(shares: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Tell which labels are off the diagonal of the confident joint (arXiv:1911.00068)."""
    own = shares[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=shares.shape[1])
    claims = np.where(shares >= np.bincount(labels, own, shares.shape[1]) / counts, shares, -1.0)
    return (claims.max(axis=1) >= 0) & (claims.argmax(axis=1) != labels)


def _gather(top: Path, classifier: Classifier, synsets: list[str]) -> Table:
    entries = tuple(
        Entry(str(path.relative_to(top)), str(path), (synset,))
        for synset in synsets
        for path in sorted((top / synset).rglob("*.JPEG"))
    )
    parts = np.zeros(len(entries), np.int8)
    intake = Intake(place=str(top), entries=entries, parts=parts, labelled=True)
    store = open_store(classifier, weights.read_tensors(classifier.local))
    return gather(intake, classifier=classifier, store=store)


def _copy_classes(source: Path, target: Path, synsets: list[str]) -> None:
    for synset in synsets:
        shutil.copytree(source / synset, target / synset)


def _damage(kind: str, path: Path, top: Path, rng: random.Random) -> tuple[str, str]:
    if kind == "truncated":
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * rng.uniform(0.1, 0.98))])
    else:
        path = path.rename(path.with_suffix(rng.choice([".png", ".gif", ".tif", ".webp"])))
    return kind, path.relative_to(top).as_posix()


def _copy(kind: str, form: tuple[int, float] | None, path: Path, top: Path) -> tuple[str, str]:
    """Write a copy; return the finding that has to follow."""
    folder = path.parent
    if kind == "leak":
        folder = top / "val" / path.relative_to(top / "train").parts[0]
    copy = folder / f"z-{path.stem}-copy.jpg"  # behind its original
    if form is None:
        shutil.copy(path, copy)
    else:
        quality, scale = form
        with Image.open(path) as image:
            size = (round(image.width * scale), round(image.height * scale))
            small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        small.save(copy, quality=quality)
    if kind == "leak":
        return kind, path.relative_to(top).as_posix()
    problem = "duplicate" if form is None else "near-duplicate"
    return problem, copy.relative_to(top).as_posix()


def _tally(found: set[tuple[str, str]]) -> dict[str, int]:
    kinds = [kind for kind, _ in found]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


if __name__ == "__main__":
    main(*sys.argv[1:4])
