"""Checks of single pictures, and of how many there are of each class."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.doctor.facts import CUT, Table
from resnext.doctor.findings import Finding
from resnext.doctor.intake import PARTS
from resnext.errors import counted
from resnext.training.listing import Entry, few

TINY = 32  # px of the shorter side
LONG = 5.0  # times as long as wide
BLANK = 8  # levels between the darkest and the lightest pixel: one color, with JPEG's noise
BLACK, WHITE = 12, 243  # levels of grey
IMBALANCE = 10.0  # times as many pictures in the largest class
FEW = 5  # pictures of a class

_EXTENSIONS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png",),
    "GIF": ("gif",),
    "BMP": ("bmp", "dib"),
    "WEBP": ("webp",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
}
_KNOWN = {ending for endings in _EXTENSIONS.values() for ending in endings}
_USUAL_MODES = ("RGB", "L", "P", "1")


def about(table: Table, position: int, problem: str, detail: str, action: str) -> Finding:
    """Return a finding on one picture."""
    entry = table.entries[position]
    return Finding(
        problem=problem,
        detail=detail,
        action=action,
        path=entry.name,
        part=part_name(table, position),
        label="|".join(entry.classes),
        positions=(position,),
    )


def part_name(table: Table, position: int) -> str:
    """Return the part of a picture, "" where the data set has only one."""
    parts = table.intake.parts
    return PARTS[parts[position]] if parts.any() else ""


def check_readable(table: Table) -> list[Finding]:
    """Find files that cannot be decoded, and those that end too early."""
    found = []
    for position, reason in sorted(table.problems.items()):
        problem = "truncated" if reason in (CUT, "is empty") else "unreadable"
        # What nobody could look into, such as a folder without permission, may be all right.
        action = "remove" if table["content"][position].any() else "review"
        found.append(about(table, position, problem, reason, action))
    has_end = ["JPEG", "PNG"]
    cut = table["readable"] & np.isin(table["format"], has_end) & ~table["ended"]
    text = "has no end mark: the last rows may be missing"
    found += [about(table, int(n), "truncated", text, "remove") for n in np.flatnonzero(cut)]
    return found


def check_extensions(table: Table) -> list[Finding]:
    """Find names whose ending is that of another format, or of none."""
    found, taken = [], {entry.name.lower() for entry in table.entries}
    for position in table.readable.tolist():
        entry, format = table.entries[position], str(table["format"][position])
        name = os.path.basename(entry.name)
        stem, _, ending = name.rpartition(".")
        is_known = ending.lower() in _KNOWN
        if ending.lower() in _EXTENSIONS[format] or (not is_known and not _is_file(entry.source)):
            continue
        right = _free_name(
            entry, stem if is_known and stem else name, _EXTENSIONS[format][0], taken
        )
        detail = f"is {_article(format)}"
        found.append(about(table, position, "wrong-extension", detail, f"rename:{right}"))
    return found


def _free_name(entry: Entry, stem: str, ending: str, taken: set[str]) -> str:
    """Take a name in the folder of a picture that no file has, and no other one will get.

    Some file systems do not tell A from a: whoever renames there must lose nothing either.
    """
    for number in itertools.count(1):
        name = f"{stem}.{ending}" if number == 1 else f"{stem}-{number}.{ending}"
        below = os.path.join(os.path.dirname(entry.name), name).lower()
        if below not in taken and not _is_beside(entry.source, name):
            break
    taken.add(below)
    return name


def _is_beside(source: Any, name: str) -> bool:
    """Tell whether a file of this name is in the folder of a picture that is a file itself."""
    if not _is_file(source):
        return False
    path = os.fsdecode(source if isinstance(source, str | os.PathLike) else source.name)
    return os.path.lexists(os.path.join(os.path.dirname(path), name))


def check_sizes(table: Table) -> list[Finding]:
    """Find pictures that are far smaller than the others, or very long."""
    positions = table.readable
    width, height = table["width"][positions], table["height"][positions]
    short, long = np.minimum(width, height), np.maximum(width, height)
    usual = float(np.median(short)) if len(short) else 0.0
    found = []
    for n in np.flatnonzero((short < TINY) & (2 * short < usual)).tolist():
        detail = f"is {width[n]}x{height[n]}; half of all have {usual:.0f} pixels or more"
        found.append(about(table, int(positions[n]), "tiny", detail, "review"))
    for n in np.flatnonzero(long > LONG * short).tolist():
        detail = f"is {width[n]}x{height[n]}, {long[n] / short[n]:.1f} times as long as wide"
        found.append(about(table, int(positions[n]), "odd-shape", detail, "review"))
    return found


def check_blank(table: Table) -> list[Finding]:
    """Find pictures of one color, and those that are nearly black or white."""
    found = []
    for position in np.flatnonzero(blank(table)).tolist():
        dark, light = int(table["dark"][position]), int(table["light"][position])
        shade = "black" if light <= BLACK else "white" if dark >= WHITE else "one color"
        found.append(about(table, position, "blank", f"is nearly {shade}", "remove"))
    return found


def blank(table: Table) -> NDArray[np.bool_]:
    """Tell, for each of the N pictures, whether there is nothing to see in it."""
    empty = (table["spread"] <= BLANK) | (table["light"] <= BLACK) | (table["dark"] >= WHITE)
    return np.asarray(table["readable"] & empty)


def check_orientation(table: Table) -> list[Finding]:
    """Note tags that no camera writes: mirrored, or not among 1 to 8."""
    found = []
    for position in table.readable.tolist():
        value = int(table["orientation"][position])
        if value in (0, 1, 3, 6, 8):  # none, upright, and the three other ways to hold it
            continue
        kind = "mirrored" if value in (2, 4, 5, 7) else "not one of 1 to 8, and ignored"
        detail = f"has orientation {value}: {kind}"
        found.append(about(table, position, "orientation", detail, "review"))
    return found


def check_modes(table: Table) -> list[Finding]:
    """Note pixels that become RGB by a choice: CMYK, more than 8 bits, transparency."""
    found = []
    for position in table.readable.tolist():
        record = table.records[position]
        facts = [
            f"has {record['depth']} bits a level" if record["depth"] > 8 else "",
            f"is {record['mode']}"
            if record["mode"] not in _USUAL_MODES and record["depth"] <= 8 and not record["alpha"]
            else "",
            "has transparent parts, shown white" if record["alpha"] else "",
        ]
        if detail := ", ".join(filter(None, facts)):
            found.append(about(table, position, "mode", detail, "none"))
    return found


def check_classes(table: Table) -> list[Finding]:
    """Find classes that are rare in train, and those that only one part has."""
    intake = table.intake
    if not intake.labelled:
        return []
    counts = [_count(table, number) for number in range(len(PARTS))]
    train, found = counts[0], []
    most, name_of_most = max(((count, name) for name, count in train.items()), default=(0, ""))
    for name, count in sorted(train.items()):
        if count * IMBALANCE < most:
            detail = f"has {counted(count, 'picture')}; {name_of_most} has {most:,}"
        elif count < FEW:
            detail = f"has {counted(count, 'picture')}; expected at least {FEW}"
        else:
            continue
        found.append(_about_class(name, detail))
    for number, part in enumerate(PARTS[1:], start=1):
        if only := sorted(counts[number].keys() - train.keys()):
            found += [_about_class(name, f"is in {part}, but not in train") for name in only]
        if counts[number]:
            missing = sorted(train.keys() - counts[number].keys())
            found += [_about_class(name, f"is not in {part}") for name in missing]
    return found


def check_refusal(table: Table) -> list[Finding]:
    """Hand on why training would not take the data set."""
    reason = table.intake.refusal
    return [Finding(problem="refused", detail=reason, action="review")] if reason else []


def unlabelled(table: Table) -> Iterator[str]:
    """Say, where some pictures have labels, which have none."""
    intake = table.intake
    without = [entry.name for entry in intake.entries if not entry.classes]
    if without and intake.labelled and not intake.multi_label:
        yield f"{counted(len(without), 'picture is', 'pictures are')} in no class: {few(without)}"


def class_counts(table: Table) -> list[tuple[str, list[int]]]:
    """Return the number of pictures of each class in each part."""
    counts = [_count(table, number) for number in range(len(PARTS))]
    names: Sequence[str] = sorted(set().union(*counts))
    return [(name, [count[name] for count in counts]) for name in names]


def _count(table: Table, part: int) -> Counter[str]:
    members = np.flatnonzero(table.intake.parts == part).tolist()
    return Counter(name for n in members for name in table.entries[n].classes)


def _about_class(name: str, detail: str) -> Finding:
    return Finding(problem="class-imbalance", detail=detail, action="review", label=name)


def _is_file(source: object) -> bool:
    return isinstance(source, str | os.PathLike) or hasattr(source, "is_url")


def _article(format: str) -> str:
    return f"a {'WebP' if format == 'WEBP' else format} file"
