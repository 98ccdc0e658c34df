"""The figures in words: for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]
Lines = list[tuple[str, str]]


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share of 0 to 1 as text."""
    return "none" if share is None else f"{100 * share:.{digits}f} %"


def with_interval(figure: Figures, digits: int = 2) -> str:
    """Return accuracy or value with the ends of its interval."""
    value = figure["accuracy"] if "accuracy" in figure else figure["value"]
    low, high = (f"{100 * figure[end]:.{digits}f}" for end in ("low", "high"))
    return f"{percent(value, digits)} ({low} to {high})"


def errors(figures: Figures) -> str:
    """Return top-1 and top-5 error as the papers print them."""
    return " / ".join(f"{100 * figures[key]['error']:.2f}" for key in ("top1", "top5"))


def other_choice(figures: Figures) -> str:
    """Name the other choice of classes that the accuracy is known for."""
    restricted = figures["answers"] != "all classes"
    return "among all classes" if restricted else "among the classes of the data"


def describe(figures: Figures) -> Lines:
    """Return what the terminal shows: a name and a text for each line."""
    model, data, averages = figures["model"], figures["data"], figures["averages"]
    lines = [
        ("model", f"{model['name']} ({model['engine']}, {model['precision']})"),
        ("pictures", pictures(data)),
        ("matched", ", ".join(f"{count} by {rule}" for rule, count in data["matched"].items())),
        ("answers", f"{figures['answers']} ({answer_count(figures)})"),
        ("top-1", with_interval(figures["top1"])),
        ("top-5", with_interval(figures["top5"])),
        ("error", f"{errors(figures)} (top-1 / top-5, %)"),
    ]
    if "other_choice" in figures:
        other = figures["other_choice"]
        lines.append(
            ("", f"{other_choice(figures)}: top-1 {percent(other['top1']['accuracy'])},"
                 f" top-5 {percent(other['top5']['accuracy'])}")
        )  # fmt: skip
    for kind in ("macro", "weighted"):
        shown = (
            f"{name} {percent(averages[f'{kind}_{name}']['value'])}"
            for name in ("precision", "recall")
        )
        f1 = with_interval(averages[f"{kind}_f1"])
        lines.append((kind, f"{', '.join(shown)}, F1 {f1}"))
    return lines + _trust(figures) + _where(figures)


def pictures(data: Figures) -> str:
    """Say how many pictures of how many classes there are, and what is missing."""
    text = f"{data['evaluated']:,} of {data['classes']:,} classes"
    unreadable = len(data["unreadable"])
    return text + (f"; {unreadable:,} cannot be read" if unreadable else "")


def answer_count(figures: Figures) -> str:
    """Say how many classes an answer may be."""
    restricted = figures["answers"] != "all classes"
    return f"{(figures['data'] if restricted else figures['model'])['classes']:,}"


def rejecting(figures: Figures) -> str:
    """Say what the model's reject threshold does; nothing where it has none."""
    point = figures["selective"].get("reject_threshold")
    if point is None:
        return ""
    return (
        f"below {percent(point['threshold'], 1)}: answers {percent(point['coverage'])} of the"
        f" pictures, {percent(point['accuracy'])} of these right"
    )


def coverage(figures: Figures) -> str:
    """Say how many pictures can be answered with a wanted accuracy."""
    return ", ".join(
        f"{percent(point['wanted'], 0)} right for {percent(point['coverage'], 1)}"
        for point in figures["selective"]["for_accuracy"]
    )


def label_sets(figures: Figures) -> str:
    """Say how large sets of classes must be to have the right one."""
    return ", ".join(
        f"{percent(one['wanted'], 0)} need {one['mean_size']:.2f} classes"
        for one in figures["conformal"]
    )


def _trust(figures: Figures) -> Lines:
    found = figures["calibration"]
    return [
        (
            "calibration",
            f"ECE {percent(found['ece'])} at temperature {found['temperature']:.3g};"
            f" {percent(found['ece_suggested'])} at {found['suggested_temperature']:.3g}",
        ),
        ("unknown", rejecting(figures)),
        ("coverage", coverage(figures)),
        ("label sets", label_sets(figures)),
    ]


def _where(figures: Figures) -> Lines:
    confused = [
        f"{pair['class']} taken for {pair['answer']} ({pair['pictures']})"
        for pair in figures["confused"][:3]
    ]
    known = [one for one in figures["classes"] if one["pictures"]]
    worst = sorted(known, key=lambda one: (one["recall"], one["class"]))[:3]
    weak = [f"{one['class']} {percent(one['recall'], 0)}" for one in worst]
    return [
        ("worst classes", ", ".join(weak)),
        ("confused", ", ".join(confused)),
        ("time", speed(figures["computed"])),
    ]


def speed(computed: Figures) -> str:
    """Say how long the pictures took that were computed now."""
    count, seconds = computed["pictures"], computed["seconds"]
    if not count:
        return "nothing to compute: all logits were there"
    return (
        f"{count:,} pictures computed in {seconds:.1f} s, {count / max(seconds, 1e-9):.0f} images/s"
    )
