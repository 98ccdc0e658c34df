"""The figures in words: for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnext.errors import counted
from resnext.training.listing import few

Figures = Mapping[str, Any]
Lines = list[tuple[str, str]]

SIGNIFICANT = 0.05  # p-values below it


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share of 0 to 1 as text."""
    return "none" if share is None else f"{100 * share:.{digits}f} %"


def with_interval(figure: Figures, digits: int = 2) -> str:
    """Return accuracy or value with the ends of its interval, if it has one."""
    value = figure["accuracy"] if "accuracy" in figure else figure["value"]
    if figure["low"] is None:
        return percent(value, digits)
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
    model, data = figures["model"], figures["data"]
    lines = [
        ("model", f"{model['name']} ({model['engine']}, {model['precision']})"),
        ("data", pictures(data)),
        ("matched", matched(data)),
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
    if "yes_above" in figures:
        return lines + _of_each_class(figures) + _where(figures)
    return lines + _averages(figures) + _trust(figures) + _where(figures)


def pictures(data: Figures) -> str:
    """Say how many pictures of how many classes there are, and what is missing."""
    text = (
        f"{counted(data['evaluated'], 'picture')} in {counted(data['classes'], 'class', 'classes')}"
    )
    unreadable, without = len(data["unreadable"]), data["without_pictures"]
    text += f"; {unreadable:,} cannot be read" if unreadable else ""
    return text + (f"; none of {few(without)}" if without else "")


def matched(data: Figures) -> str:
    """Say by which rules the classes of the data were found in the model."""
    return ", ".join(f"{count} by {rule}" for rule, count in data["matched"].items())


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
    """Say how many pictures were answered, and how many of these right, for an accuracy."""
    return "; ".join(
        f"for {percent(point['wanted'], 0)}: {percent(point['coverage'], 1)} answered,"
        f" {percent(point['accuracy'], 1)} of these right"
        for point in figures["selective"]["for_accuracy"]
        if point["accuracy"] is not None
    )


def label_sets(figures: Figures) -> str:
    """Say how large sets of classes must be to have the right one."""
    return ", ".join(
        f"{percent(one['wanted'], 0)} need {one['mean_size']:.2f} classes"
        for one in figures["conformal"]
    )


def difference(figure: Figures) -> str:
    """Return a difference in points with its interval and p-value, if it has them."""
    text = f"{100 * figure['difference']:+.2f}"
    if figure["low"] is not None:
        text += f" ({100 * figure['low']:+.2f} to {100 * figure['high']:+.2f})"
    text += " points"
    if "p" not in figure:
        return text
    return f"{text}, p {'< 0.0001' if figure['p'] < 1e-4 else format(figure['p'], '.4f')}"


def verdict(figures: Figures) -> str:
    """Say in one sentence which model is better, where interval and test agree on it."""
    found = figures["top1"]
    if found["p"] < SIGNIFICANT and (found["low"] > 0 or found["high"] < 0):
        better, worse = ("B", "A") if found["low"] > 0 else ("A", "B")
        ends = sorted(abs(found[end]) for end in ("low", "high"))
        text = (
            f"{better} has more right than {worse}, by {100 * ends[0]:.2f} to"
            f" {100 * ends[1]:.2f} points"
        )
        learned = figures[better.lower()]["learned_from"]
        return text + (
            f"; but {better} has learned from {learned:,} of the pictures" if learned else ""
        )
    return "these pictures do not tell which is better"


def names(figures: Figures) -> tuple[str, str]:
    """Name both models; by their files where they have the same name."""
    a, b = figures["a"], figures["b"]
    key = "file" if a["name"] == b["name"] else "name"
    return str(a[key]), str(b[key])


def compared(figures: Figures) -> Lines:
    """Return what the terminal shows of a comparison."""
    lines = [
        (letter.upper(), f"{name} ({model['engine']}, {model['precision']}), top-1"
                         f" {with_interval(model['top1'])}, top-5 {with_interval(model['top5'])}")
        for letter, name in zip("ab", names(figures), strict=True) for model in (figures[letter],)
    ]  # fmt: skip
    top1 = figures["top1"]
    return [
        *lines,
        ("data", pictures(figures["data"])),
        ("answers", figures["answers"]),
        ("B - A, top-1", difference(top1)),
        ("B - A, top-5", difference(figures["top5"])),
        ("only A right", f"{top1['only_a']:,}; only B {top1['only_b']:,}; both {top1['both']:,}"),
        ("same answer", percent(figures["same_answer"])),
        ("gains", _changes(figures, 1)),
        ("losses", _changes(figures, -1)),
        ("speed", race(figures["speed"])),
        ("verdict", verdict(figures)),
    ]


def race(found: Figures) -> str:
    """Say how fast both are, and which is faster where there were turns enough to tell."""
    if not found:
        return "not measured: all logits were there"
    rates = f"A {found['a']:.1f}, B {found['b']:.1f} images/s"
    if "low" not in found:
        return (
            f"{rates} on {counted(found['pictures'], 'picture')}: too few to tell which is faster"
        )
    return (
        f"{rates}: B is {found['ratio']:.2f} times as fast"
        f" ({found['low']:.2f} to {found['high']:.2f})"
    )


def _changes(figures: Figures, sign: int) -> str:
    rows = [row for row in figures["classes"] if sign * row["difference"] > 0]
    rows.sort(key=lambda row: (-sign * row["difference"], row["class"]))
    return ", ".join(f"{row['class']} {100 * row['difference']:+.0f}" for row in rows[:3])


def _averages(figures: Figures) -> Lines:
    found, lines = figures["averages"], []
    for kind in ("macro", "weighted"):
        shown = (
            f"{name} {percent(found[f'{kind}_{name}']['value'])}"
            for name in ("precision", "recall")
        )
        lines.append((kind, f"{', '.join(shown)}, F1 {with_interval(found[f'{kind}_f1'])}"))
    return lines


def _of_each_class(figures: Figures) -> Lines:
    found = {name: with_interval(one) for name, one in figures["averages"].items()}
    return [
        ("mAP", found["mean_average_precision"]),
        ("F1", f"micro {found['micro_f1']}, macro {found['macro_f1']}; yes is above"
               f" {percent(figures['yes_above'], 0)}"),
    ]  # fmt: skip


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
        for pair in figures.get("confused", [])[:3]
    ]
    known = [one for one in figures["classes"] if one["pictures"]]
    measure = "average_precision" if "yes_above" in figures else "recall"
    worst = sorted(known, key=lambda one: (one[measure], one["class"]))[:3]
    weak = [f"{one['class']} {percent(one[measure], 0)}" for one in worst]
    return [
        ("worst classes", ", ".join(weak)),
        ("confused", ", ".join(confused)),
        ("time", speed(figures["computed"])),
    ]


def calibrated(path: Path, figures: Figures) -> str:
    """Say what `--calibrate` has set in the file it wrote."""
    found = figures["suggested"]
    threshold = found["reject_threshold"]
    rejects = "rejects nothing" if threshold is None else f"rejects below {100 * threshold:.1f} %"
    return f"{path}: temperature {found['temperature']:.3f}, {rejects}"


def speed(computed: Figures) -> str:
    """Say how long the pictures took that were computed now."""
    count, seconds = computed["pictures"], computed["seconds"]
    if not count:
        return "nothing to compute: all logits were there"
    rate = count / max(seconds, 1e-9)
    return f"{counted(count, 'picture')} in {seconds:.1f} s, {rate:.0f} images/s"
