"""What a comparison leaves in a folder: its figures, and one page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnext.classifier import Classifier
from resnext.errors import counted
from resnext.evaluation import evidence, wording
from resnext.evaluation.compare import Compared
from resnext.evaluation.wording import percent, with_interval
from resnext.files import atomic
from resnext.results import pages
from resnext.results.pages import Cell, Tile

REPORT, FIGURES = "compare.html", "compare.json"
MOST = 12  # pictures of each kind that are shown

Figures = Mapping[str, Any]


def write(classifier: Classifier, compared: Compared, folder: Path) -> None:
    """Write the files of a comparison; each appears whole or not at all.

    Args:
        classifier: Reads the pictures that are shown.
        compared: The comparison.
        folder: Where to; made if missing.

    Raises:
        OutputError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = compared.figures
    with atomic(folder / FIGURES) as file:
        file.write(json.dumps(figures, indent=1, allow_nan=False).encode() + b"\n")
    a, b = wording.names(figures)
    names = f"{a} and {b}"
    parts = [
        pages.heading(names, level=1),
        pages.paragraph(f"A is {a}, B is {b}: {wording.verdict(figures)}.", lead=True),
        _tiles(figures),
        pages.notice(figures["data"]["notes"]),
        _models(figures),
        _differences(figures),
        _classes(figures),
        _pictures(classifier, compared, better=1),
        _pictures(classifier, compared, better=0),
        pages.footer(
            f"A sha256 {figures['a']['sha256']}",
            f"B sha256 {figures['b']['sha256']}",
            "Intervals are of 95 %: Tango's for paired differences, Wilson's for shares, bootstrap"
            " within classes for averages (none where a class has a single picture, or no draw"
            " changes them). p-values are McNemar's, mid-p: of a difference this large where there"
            " is none.",
        ),
    ]  # fmt: skip
    pages.write(folder / REPORT, f"{names}: comparison", parts)


def _tiles(figures: Figures) -> str:
    tiles = [
        Tile(percent(figures["a"]["top1"]["accuracy"]), "top-1 of A"),
        Tile(percent(figures["b"]["top1"]["accuracy"]), "top-1 of B"),
        Tile(f"{100 * figures['top1']['difference']:+.2f}", "points, B less A"),
        Tile(percent(figures["same_answer"]), "same answer"),
    ]
    if "low" in figures["speed"]:
        tiles.append(Tile(f"{figures['speed']['ratio']:.2f}", "B's speed to A's"))
    return pages.tiles(tiles)


def _models(figures: Figures) -> str:
    rows = [
        (
            letter.upper(),
            name,
            model["architecture"],
            f"{model['engine']}, {model['precision']}",
            with_interval(model["top1"]),
            with_interval(model["top5"]),
        )
        for letter, name in zip("ab", wording.names(figures), strict=True)
        for model in (figures[letter],)
    ]
    columns = ("", "model", "architecture", "engine", "top-1", "top-5")
    return (
        pages.heading("The models")
        + pages.table(columns, rows, sortable=False)
        + pages.paragraph(
            f"On {wording.pictures(figures['data'])}; answers may be {figures['answers']}."
            f" Speed, decoding included, by turns on the same pictures:"
            f" {wording.race(figures['speed'])}."
        )
    )


def _differences(figures: Figures) -> str:
    rows = [(f"top-{k}", wording.difference(figures[f"top{k}"])) for k in (1, 5)]
    rows += [
        (name.replace("_", " ").replace("f1", "F1"), wording.difference(found))
        for name, found in figures["averages"].items()
    ]
    found = figures["top1"]
    counts = [("A right", found["both"], found["only_a"]),
              ("A wrong", found["only_b"], found["neither"])]  # fmt: skip
    return (
        pages.heading("B less A")
        + pages.table(("figure", "difference"), rows, sortable=False)
        + pages.heading("Pictures")
        + pages.table(("", "B right", "B wrong"), counts, sortable=False)
    )


def _classes(figures: Figures) -> str:
    rows = [
        (
            row["class"],
            row["pictures"],
            Cell(percent(row["a"], 1), row["a"]),
            Cell(percent(row["b"], 1), row["b"]),
            Cell(f"{100 * row['difference']:+.1f}", row["difference"]),
            row["gained"],
            row["lost"],
        )
        for row in sorted(figures["classes"], key=lambda row: (row["difference"], row["class"]))
    ]
    columns = ("class", "pictures", "A", "B", "points", "gained", "lost")
    return pages.heading("Classes") + pages.table(columns, rows)


def _pictures(classifier: Classifier, compared: Compared, *, better: int) -> str:
    """Show pictures that one model has right, and where the other is wrong and surest."""
    one, other = compared.judged[better], compared.judged[1 - better]
    places = np.flatnonzero(one.labeled & one.right & ~other.right)
    chosen = places[np.argsort(-other.confidence[places], kind="stable")][:MOST].tolist()
    if not chosen:
        return ""
    items = []
    for place in chosen:
        pixels = evidence.read(one.entries[place].source, classifier)
        name = one.entries[place].name
        picture = "" if pixels is None else pages.picture(pixels, name)
        lines = [
            f"{letter}: {judged.class_names[int(judged.answers[place])]}"
            f" {percent(float(judged.confidence[place]), 1)}"
            for letter, judged in zip("AB", compared.judged, strict=True)
        ]
        items.append((picture, [name, *lines]))
    shown = "All of them" if len(places) <= MOST else f"{MOST} of them"
    order = f"{shown}, first those where {'AB'[1 - better]} is surest of a wrong answer."
    return (
        pages.heading(f"Only {'AB'[better]} is right: {counted(len(places), 'picture')}")
        + (pages.paragraph(order) if len(places) > 1 else "")
        + pages.gallery(items)
    )
