"""One page of what was found, with small pictures of the suspects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from resnext import images
from resnext.doctor import checks
from resnext.doctor.examination import MISLABEL, Examination
from resnext.doctor.findings import PROBLEMS, Finding
from resnext.doctor.intake import PARTS
from resnext.errors import ImageError, counted
from resnext.results import pages
from resnext.results.pages import Cell
from resnext.training.listing import make_labels

SHOWN = 24  # suspects of a kind with their pictures
LISTED = 1000  # rows of a table; the fix list has all

_SIDE = 176  # px of a small picture
_SYNSET_ID = re.compile(r"(?<![\w./\\-])n\d{8}[\w-]*(?![\w./\\-])")
_NO_PICTURE = ("refused", "unreadable", "class-imbalance")


def write(path: Path, examination: Examination, *, fixes: str) -> Path:
    """Write the page.

    Args:
        path: Where to.
        examination: What it shows.
        fixes: Name of the fix list, which has every finding.

    Raises:
        OutputError: The file cannot be written.
    """
    place = Path(examination.table.intake.place)
    names = _names(examination)
    parts = [
        pages.heading(f"Check of {place.name}", level=1),
        pages.paragraph(_lead(examination), lead=True),
        _tiles(examination),
        pages.notice(examination.notes),
        _overview(examination),
        *(_section(examination, problem, fixes, names) for problem in examination.counts),
        _classes(examination, names),
        pages.footer(
            str(place), f"{examination.seconds:.1f} s, model {examination.model or 'none'}"
        ),
    ]
    return pages.write(path, f"{place.name}: data set check", parts)


def _names(examination: Examination) -> Mapping[str, str]:
    """Return what to call each class: a synset id gets its name as well."""
    given = tuple(name for name, _ in checks.class_counts(examination.table))
    if not given:
        return {}
    labels = make_labels(given)
    if labels.synset_ids is None:
        return {name: name for name in given}
    return {
        name: f"{shown} ({name})" for name, shown in zip(given, labels.class_names, strict=True)
    }


def _lead(examination: Examination) -> str:
    num = examination.num_problems
    count = len(examination.table)
    verdict = counted(num, "problem") if num else "No problem"
    judged = " Labels were not judged." if examination.judged is False else ""
    return f"{verdict} in {counted(count, 'picture')}.{judged} Nothing was changed."


def _tiles(examination: Examination) -> str:
    table = examination.table
    figures = [
        pages.count_tile(len(table), "picture"),
        pages.count_tile(len(checks.class_counts(table)), "class", "classes"),
        pages.count_tile(examination.num_problems, "problem"),
        pages.count_tile(len(examination.findings) - examination.num_problems, "note"),
    ]
    return pages.tiles(figures)


def _overview(examination: Examination) -> str:
    rows = [
        (PROBLEMS[name].title, name, count, PROBLEMS[name].advice)
        for name, count in examination.counts.items()
    ]
    return pages.table(("what", "in the fix list", "count", "do"), rows) if rows else ""


def _section(examination: Examination, problem: str, fixes: str, names: Mapping[str, str]) -> str:
    found = [finding for finding in examination.findings if finding.problem == problem]
    rest = len(found) - LISTED
    return (
        pages.heading(f"{PROBLEMS[problem].title}: {len(found):,}")
        + _confusions(found, names)
        + pages.gallery(_gallery(examination, found, names))
        + pages.table(_COLUMNS, [_row(finding, names) for finding in found[:LISTED]])
        + (pages.paragraph(f"{rest:,} more are in {fixes}.") if rest > 0 else "")
    )


_COLUMNS = ("picture", "part", "label", "found", "do", "score")


def _row(finding: Finding, names: Mapping[str, str]) -> Sequence[str | Cell]:
    score = finding.score
    return (
        finding.path,
        finding.part,
        names.get(finding.label, finding.label),
        _named(finding.detail, names),
        _named(finding.action, names),
        Cell("", -1.0) if score is None else Cell(f"{score:.3f}", score),
    )


def _named(sentence: str, names: Mapping[str, str]) -> str:
    """Put the name of a class before its synset id, where that is no part of a path."""
    return _SYNSET_ID.sub(lambda found: names.get(found[0], found[0]), sentence)


def _confusions(found: Sequence[Finding], names: Mapping[str, str]) -> str:
    """Count which labels are given where which are suggested."""
    pairs = Counter(
        (finding.label, finding.suggested) for finding in found if finding.problem == MISLABEL
    )
    if len(pairs) < 2:
        return ""
    rows = [(names[given], names[other], count) for (given, other), count in pairs.most_common(50)]
    return pages.table(("given", "suggested", "pictures"), rows)


def _gallery(
    examination: Examination, found: Sequence[Finding], names: Mapping[str, str]
) -> Iterator[tuple[str, Sequence[str]]]:
    for finding in found[:SHOWN]:
        if finding.problem in _NO_PICTURE or not finding.positions:
            continue
        shown = "".join(_small(examination, position) for position in finding.positions)
        if not shown:
            continue
        given = names.get(finding.label, finding.label)
        lines = [
            finding.path,
            f"label: {given}" if given else "",
            f"suggested: {names[finding.suggested]}"
            if finding.suggested
            else _named(finding.detail, names),
        ]
        yield shown, [line for line in lines if line]


def _small(examination: Examination, position: int) -> str:
    """Return a picture small, or nothing where it cannot be read, or no longer."""
    entry = examination.table.entries[position]
    try:
        image = images.open_rgb(entry.source)
    except ImageError:
        return ""
    image.thumbnail((_SIDE, _SIDE), reducing_gap=3.0)
    return pages.picture(images.read(image), entry.name, size=_SIDE)


def _classes(examination: Examination, names: Mapping[str, str]) -> str:
    counts = checks.class_counts(examination.table)
    if not counts:
        return ""
    suspects = Counter(
        finding.label for finding in examination.findings if finding.problem == MISLABEL
    )
    used = [number for number in range(len(PARTS)) if any(row[number] for _, row in counts)]
    most = max(max(row) for _, row in counts)
    judged = ["suspect labels"] if examination.judged else []
    rows: list[tuple[str | int | Cell, ...]] = [
        (names[name], *(row[number] for number in used), *(suspects[name] for _ in judged),
         pages.bar(row[used[0]] / most))
        for name, row in counts
    ]  # fmt: skip
    columns = ("class", *(PARTS[number] for number in used), *judged, "size")
    return pages.heading("Classes") + pages.table(columns, rows)
