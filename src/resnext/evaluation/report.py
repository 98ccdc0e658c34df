"""What an evaluation leaves in a folder: figures, table, plots, page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.classifier import Classifier
from resnext.errors import counted, import_extra
from resnext.evaluation import evidence, metrics, trust, wording
from resnext.evaluation.evaluate import Evaluation
from resnext.evaluation.evidence import Exhibit
from resnext.evaluation.judge import Judged
from resnext.evaluation.wording import percent, with_interval
from resnext.explore.index import Index
from resnext.files import atomic
from resnext.results import pages
from resnext.results.pages import Cell, Tile

REPORT, METRICS, PREDICTIONS = "report.html", "metrics.json", "predictions.parquet"
CONFUSION, RELIABILITY, COVERAGE, CLASSES = (
    "confusion.png", "reliability.png", "coverage.png", "classes.png"
)  # fmt: skip

Figures = Mapping[str, Any]


def check_extras() -> None:
    """See that all is installed that a report needs, before the long work.

    Raises:
        MissingExtraError: Something is not.
    """
    import_extra("resnext.evaluation.plots", extra="evaluate")
    import_extra("resnext.results.parquet", extra="evaluate")


def write(
    classifier: Classifier, evaluation: Evaluation, folder: Path, *, index: Index | None = None
) -> None:
    """Write all files of an evaluation; each appears whole or not at all.

    Args:
        classifier: The model, which looks at its worst mistakes once more.
        evaluation: Of it.
        folder: Where to; made if missing.
        index: Of pictures, by the same model, of which the nearest to mistakes are shown.

    Raises:
        MissingExtraError: The extra `evaluate` is not installed.
        OutputError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    judged = evaluation.judged
    with atomic(folder / METRICS) as file:
        text = json.dumps(evaluation.figures, indent=1, allow_nan=False)
        file.write(text.encode() + b"\n")
    _write_predictions(evaluation, classifier.document.reject_threshold, folder / PREDICTIONS)
    _draw(evaluation, folder)
    exhibits = evidence.collect(classifier, judged, evidence.worst(judged), index=index)
    _write_page(evaluation, exhibits, folder)


def _write_predictions(evaluation: Evaluation, threshold: float | None, path: Path) -> None:
    parquet = import_extra("resnext.results.parquet", extra="evaluate")
    judged = evaluation.judged
    top = judged.best.shape[1]
    columns = {"path": "string", "target": "string", "target_index": "int32",
               "targets": "string[]", "right": "bool", "rank": "int32",
               "probability": "double", "target_probability": "double",
               "rejected": "bool"}  # fmt: skip
    for place in range(1, top + 1):
        columns |= {f"label_{place}": "string", f"index_{place}": "int32",
                    f"probability_{place}": "double"}  # fmt: skip
    with atomic(path) as file:
        rows = parquet.RowWriter(file, {**columns, "error": "string"})
        for place in range(len(judged.entries)):
            rows.add(_row(judged, place, threshold))
        for problem in evaluation.problems:
            rows.add((_utf8(problem.name), *[None] * (len(columns) - 1), problem.reason))
        rows.close()


def _row(judged: Judged, place: int, threshold: float | None) -> tuple[Any, ...]:
    target, confidence = int(judged.targets[place]), float(judged.confidence[place])
    known = target >= 0
    answers: list[Any] = []
    # What the threshold is for: one class of all.
    rejects = not (judged.restricted or judged.multi_label)
    for index, share in zip(
        judged.best[place].tolist(), judged.shares[place].tolist(), strict=True
    ):
        answers += [_utf8(judged.class_names[index]), int(judged.classes[index]), share]
    return (
        _utf8(judged.entries[place].name),
        _utf8(judged.class_names[target]) if known else None,
        int(judged.classes[target]) if known else None,
        [_utf8(judged.class_names[right]) for right in judged.rights[place]],
        bool(judged.right[place]) if known else None,
        int(judged.ranks[place]) if known else None,
        confidence,
        float(judged.target_shares[place]) if known else None,
        threshold is not None and confidence < threshold if rejects else None,
        *answers,
        None,
    )


def _utf8(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _draw(evaluation: Evaluation, folder: Path) -> None:
    plots = import_extra("resnext.evaluation.plots", extra="evaluate")
    judged, figures = evaluation.judged, evaluation.figures
    rows = _worst_first(figures)
    plots.draw_classes(
        [row["class"] for row in rows],
        np.array([row["recall"] for row in rows]),
        np.array([(row["low"], row["high"]) for row in rows]),
        folder / CLASSES,
    )
    if judged.multi_label:
        return
    names = [judged.class_names[index] for index in judged.data_classes]
    plots.draw_confusion(_confusion(judged), names, folder / CONFUSION)
    found = figures["calibration"]
    bars = [trust.reliability_of(found[key]) for key in ("bins", "bins_suggested")]
    temperatures = (judged.temperature, found["suggested_temperature"])
    plots.draw_reliability(bars[0], bars[1], temperatures, folder / RELIABILITY)
    point = figures["selective"].get("reject_threshold")
    chosen = None
    if point is not None and point["accuracy"] is not None:
        chosen = (point["coverage"], point["accuracy"])
    plots.draw_coverage(trust.risk_coverage_of(judged), chosen, folder / COVERAGE)


def _confusion(judged: Judged) -> NDArray[np.int64]:
    """Return the rows of the data's classes; answers of any other class in one last column."""
    matrix = metrics.confusion_matrix(
        judged.answers, judged.targets, num_classes=judged.num_classes
    )[judged.data_classes]
    inside = matrix[:, judged.data_classes]
    other = matrix.sum(axis=1) - inside.sum(axis=1)
    if len(judged.data_classes) == judged.num_classes:
        return inside
    return np.concatenate([inside, other[:, None]], axis=1)


def _write_page(evaluation: Evaluation, exhibits: Sequence[Exhibit], folder: Path) -> None:
    figures = evaluation.figures
    model, data = figures["model"], figures["data"]
    parts = [
        pages.heading(f"{model['name']} on {Path(data['path']).name or data['path']}", level=1),
        pages.paragraph(_lead(figures), lead=True),
        _tiles(figures),
        pages.notice(_notes(figures)),
        _gallery(evaluation.judged, exhibits),
        *(_of_each_class if evaluation.judged.multi_label else _of_one_class)(figures, folder),
        _unreadable(data["unreadable"]),
        pages.footer(
            f"model sha256 {model['sha256']}",
            f"data {data['fingerprint']}; engine {model['engine']} {model['precision']}; input"
            f" {model['preprocess']['input_size']} px",
            "Intervals are of 95 %: Wilson's for shares, bootstrap for averages (within classes; of"
            " all pictures where the answers are yes or no of each class). These have none where a"
            " class has a single picture, where no draw changes them, and where pictures x classes"
            " are too many to draw again.",
        ),
    ]
    pages.write(folder / REPORT, f"{model['name']}: evaluation", parts)


def _of_one_class(figures: Figures, folder: Path) -> list[str]:
    return [
        _figure(folder / CONFUSION, "Confusion", "Classes against answers", _CONFUSION_TEXT),
        _confused(figures),
        _classes(figures, folder),
        _averages(figures),
        _calibration(figures, folder),
        _coverage(figures, folder),
        _label_sets(figures),
    ]


def _of_each_class(figures: Figures, folder: Path) -> list[str]:
    return [_classes(figures, folder), _averages(figures)]


def _lead(figures: Figures) -> str:
    return (
        f"{wording.pictures(figures['data'])} (matched:"
        f" {wording.matched(figures['data'])}); answers may be {figures['answers']}"
        f" ({wording.answer_count(figures)})."
    )


def _tiles(figures: Figures) -> str:
    top1, top5 = figures["top1"], figures["top5"]
    tiles = [
        Tile(percent(top1["accuracy"]), f"top-1 ({_range(top1)})"),
        Tile(percent(top5["accuracy"]), f"top-5 ({_range(top5)})"),
        Tile(wording.errors(figures), "error, % (top-1 / top-5)"),
        Tile(percent(figures["averages"]["macro_f1"]["value"]), "macro F1"),
    ]
    if "yes_above" in figures:
        precision = figures["averages"]["mean_average_precision"]["value"]
        tiles.append(Tile(percent(precision), "mean average precision"))
    else:
        tiles.append(Tile(percent(figures["calibration"]["ece"]), "calibration error"))
    if "other_choice" in figures:
        other = figures["other_choice"]["top1"]
        tiles.append(Tile(percent(other["accuracy"]), f"top-1 {wording.other_choice(figures)}"))
    return pages.tiles(tiles)


def _range(figure: Figures) -> str:
    return f"{100 * figure['low']:.2f} to {100 * figure['high']:.2f}"


def _notes(figures: Figures) -> list[str]:
    data = figures["data"]
    notes = list(data["notes"])
    if "yes_above" in figures:
        notes.append(
            "the model answers yes or no of each class: a probability is of its class alone, and"
            " top-1 and top-5 count any right class. Confusion, calibration, reject threshold and"
            " label sets are for one class a picture, and are left out"
        )
    elif data["several_labels"]:
        notes.append(
            "a picture may have several right classes: any of them counts; tables of classes use"
            " the one that the model finds likeliest, and so do calibration and label sets"
        )
    if data["unreadable"]:
        notes.append(
            f"{counted(len(data['unreadable']), 'picture')} cannot be read: not among these"
        )
    return notes


def _gallery(judged: Judged, exhibits: Sequence[Exhibit]) -> str:
    if not exhibits:
        return ""
    items = []
    for one in exhibits:
        name = judged.entries[one.place].name
        shown = [] if one.picture is None else [pages.picture(one.picture, name, size=256)]
        if one.heat is not None:
            shown.append(pages.picture(one.heat, "where the answer was seen", size=256))
        near = [
            pages.picture(pixels, near.name) for near, pixels in one.neighbors if pixels is not None
        ]
        lines = [
            f"near ({near.similarity:.2f}): {near.label or ''} {Path(near.name).name}"
            for near, _ in one.neighbors
        ]
        items.append(("".join([*shown, *near]), [*_caption(judged, one.place), *lines]))
    return (
        pages.heading("The worst mistakes")
        + pages.paragraph(
            "Wrong answers that the model is surest of, with their probability, that of the right"
            " class, and the answers that came next. The second picture shows where it saw what it"
            " answered: red speaks most for it."
            + (" Below are the nearest pictures of the index." if exhibits[0].neighbors else "")
        )
        + pages.gallery(items)
    )


def _caption(judged: Judged, place: int) -> list[str]:
    """Say which picture it is, what is right, what was answered, and what came next."""
    right = judged.class_names[int(judged.targets[place])]
    shares = zip(judged.best[place].tolist(), judged.shares[place].tolist(), strict=True)
    first, *others = (f"{judged.class_names[index]} {percent(share, 1)}" for index, share in shares)
    return [
        judged.entries[place].name,
        f"answer: {first}",
        f"right: {right} {percent(float(judged.target_shares[place]), 1)}",
        *([f"then: {', '.join(others)}"] if others else []),
    ]


_CONFUSION_TEXT = (
    "A row for each class: which answers its pictures got. The darker, the more; the scale is"
    " logarithmic, so that rare confusions are seen as well. Where there are too many classes for"
    " their names, the numbers are those in the table of classes below."
)


def _worst_first(figures: Figures) -> list[Figures]:
    """Return the classes that have pictures, with their numbers in the confusion matrix.

    Those of one accuracy stand in the order of their names.
    """
    numbered = enumerate(figures["classes"])
    known = [{**row, "number": number} for number, row in numbered if row["pictures"]]
    return sorted(known, key=lambda row: (row["recall"], row["class"]))


def _figure(path: Path, title: str, description: str, sentence: str) -> str:
    return pages.heading(title) + pages.paragraph(sentence) + pages.figure(path, description)


def _confused(figures: Figures) -> str:
    rows = [
        (pair["class"], pair["answer"], pair["pictures"], _share(pair["share"]))
        for pair in figures["confused"]
    ]
    if not rows:
        return ""
    return pages.heading("Most confused") + pages.table(
        ("class", "taken for", "pictures", "of the class"), rows
    )


def _classes(figures: Figures, folder: Path) -> str:
    extra = {"average precision": "average_precision"} if "yes_above" in figures else {}
    rows = [
        (
            row["class"],
            row["number"],
            row["pictures"],
            Cell(f"{percent(row['recall'], 1)} ({_range1(row)})", row["recall"]),
            _share(row["precision"]),
            _share(row["f1"]),
            *(_share(row[key]) for key in extra.values()),
            row["answered"],
        )
        for row in _worst_first(figures)
    ]
    without = figures["data"]["without_pictures"]
    return (
        pages.heading("Classes")
        + pages.paragraph("Worst first; a click on a heading sorts.")
        + pages.figure(folder / CLASSES, "Accuracy of each class")
        + pages.table(
            (
                "class",
                "number",
                "pictures",
                "accuracy (recall)",
                "precision",
                "F1",
                *extra,
                "answered",
            ),
            rows,
        )
        + (pages.paragraph(f"No pictures: {', '.join(without)}.") if without else "")
    )


def _averages(figures: Figures) -> str:
    found = figures["averages"]
    rows = [
        (name.replace("_", " ").replace("f1", "F1"), with_interval(value))
        for name, value in found.items()
    ]
    return pages.heading("Averages of the classes") + pages.table(
        ("figure", "value"), rows, sortable=False
    )


def _calibration(figures: Figures, folder: Path) -> str:
    found = figures["calibration"]
    some = "" if found["fitted_to"] == found["pictures"] else f"{found['fitted_to']:,} of "
    sentence = (
        f"Answers are {percent(found['mean_confidence'], 1)} sure on average and"
        f" {percent(figures['top1']['accuracy'], 1)} right. At temperature"
        f" {found['temperature']:.3g} the expected calibration error is {percent(found['ece'])};"
        f" at {found['suggested_temperature']:.3g}, fitted to {some}these pictures,"
        f" {percent(found['ece_suggested'])} (each half by the temperature of the other)."
        f" Negative log-likelihood {found['nll']:.4f}, Brier score {found['brier']:.4f}."
    )
    return _figure(folder / RELIABILITY, "Calibration", "Confidence against accuracy", sentence)


def _coverage(figures: Figures, folder: Path) -> str:
    rejecting = wording.rejecting(figures)
    known = f"The model's reject threshold: {rejecting}. " if rejecting else ""
    points = [
        (
            percent(point["wanted"], 0),
            "none reaches it" if point["threshold"] is None else percent(point["threshold"], 1),
            with_interval(point, 1),
            percent(point["coverage"], 1),
        )
        for point in figures["selective"]["for_accuracy"]
    ]
    return _figure(
        folder / COVERAGE,
        "Coverage against accuracy",
        "Accuracy of the surest answers",
        known + "If only the surest answers are given, more of them are right. The thresholds in"
        " the table were chosen by one half of the pictures, and measured on the other.",
    ) + pages.table(
        ("wanted", "threshold", "right", "of the pictures answered"), points, sortable=False
    )


def _label_sets(figures: Figures) -> str:
    rows = [
        (
            percent(one["wanted"], 0),
            f"{percent(one['coverage'])} ({_range(one)})",
            f"{one['mean_size']:.2f}",
            percent(one["one_class"], 1),
            "all" if one["probability"] is None else percent(one["probability"]),
        )
        for one in figures["conformal"]
    ]
    if not rows:
        return ""
    some = figures["conformal"][0]
    return (
        pages.heading("Label sets")
        + pages.paragraph(
            "Sets of classes that have the right one in them as often as promised (conformal"
            " prediction): all classes at or above a probability, found on"
            f" {counted(some['calibrated_on'], 'picture')} and measured on {some['pictures']:,}"
            " others."
        )
        + pages.table(
            ("promised", "measured", "classes in a set", "sets of one class", "probability from"),
            rows,
            sortable=False,
        )
    )


def _unreadable(problems: Mapping[str, str]) -> str:
    if not problems:
        return ""
    return pages.heading("Pictures that cannot be read") + pages.table(
        ("picture", "reason"), list(problems.items())
    )


def _share(value: float) -> Cell:
    return Cell(percent(value, 1), value)


def _range1(row: Figures) -> str:
    return f"{100 * row['low']:.0f} to {100 * row['high']:.0f}"
