"""The examination: one look at every picture, then every question.

intake.take_in -> facts.gather -> checks, copies, mislabels -> findings -> page, fix list
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext import weights
from resnext.classifier import Classifier
from resnext.doctor import checks
from resnext.doctor.copies import check_copies, find_groups
from resnext.doctor.facts import Table, gather
from resnext.doctor.findings import PROBLEMS, Finding
from resnext.doctor.intake import PARTS, take_in
from resnext.errors import ConfigError, MissingExtraError, closest, import_extra
from resnext.training.features import open_store
from resnext.training.listing import check_outside

MISLABEL = "likely-mislabel"


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """What came out.

    Args:
        table: What is known of each picture.
        findings: What is wrong, by kind, in the order of `PROBLEMS`.
        notes: What was left out, and what the layout says; one sentence each.
        judged: Whether labels were judged; None where there are none, or that was not wanted.
        model: Name of the model that looked, or "".
        seconds: Time it took.
    """

    table: Table
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    judged: bool | None
    model: str
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings of each kind, in the order of `PROBLEMS`."""
        found = Counter(finding.problem for finding in self.findings)
        return {name: found[name] for name in PROBLEMS if found[name]}

    @property
    def num_problems(self) -> int:
        """Number of findings that are more than a note."""
        return sum(not PROBLEMS[finding.problem].is_note for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        intake = self.table.intake
        parts = Counter(PARTS[number] for number in intake.parts.tolist())
        return {
            "data": intake.place,
            "pictures": len(intake),
            "parts": {part: parts[part] for part in PARTS if parts[part]},
            "classes": len(checks.class_counts(self.table)),
            "problems": self.num_problems,
            "counts": self.counts,
            "notes": list(self.notes),
            "labels_judged": self.judged,
            "model": self.model,
            "seconds": round(self.seconds, 3),
        }


def examine(
    path: str | os.PathLike[str],
    *,
    classifier: Classifier | None = None,
    labelled: bool = True,
    ignore: Collection[str] = (),
    seed: int = 0,
    output: Path | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Examination:
    """Look for what is wrong with a data set; nothing in it is changed.

    Args:
        path: Whatever `training.data.open_data` takes, or any folder of pictures.
        classifier: Its features confirm near copies and judge labels; None does without.
        labelled: False takes folders for no classes.
        ignore: Names of problems to leave out.
        seed: Of the folds in which labels are judged.
        output: Folder that the results will go into, which may not be among the pictures.
        progress: Called with the number of pictures done and that of all.

    Raises:
        DatasetError: There is no picture, or the table or shard cannot be read.
        ConfigError: `ignore` names no problem, or `output` is among the pictures.
    """
    start = time.monotonic()
    check_names(ignore)
    intake = take_in(path, labelled=labelled)
    if output is not None:
        check_outside(output, intake.entries)
    store = None
    if classifier is not None:
        tensors = weights.read_tensors(classifier.local)
        store = open_store(classifier, tensors)
    table = gather(intake, classifier=classifier, store=store, progress=progress)
    found = [finding for check in _CHECKS for finding in check(table)]
    groups = find_groups(table)
    found += check_copies(table, groups)
    notes = [*intake.notes, *checks.unlabelled(table)]
    judged = None
    if MISLABEL not in ignore:
        suspects, more = _judge(table, groups, seed)
        judged = suspects is not None if intake.labelled else None
        found += suspects or []
        notes += more
    order = {name: number for number, name in enumerate(PROBLEMS)}
    found.sort(key=lambda finding: order[finding.problem])  # stable: the rest stays in order
    return Examination(
        table=table,
        findings=tuple(finding for finding in found if finding.problem not in ignore),
        notes=tuple(notes),
        judged=judged,
        model="" if classifier is None else classifier.document.name,
        seconds=time.monotonic() - start,
    )


def check_names(names: Collection[str]) -> None:
    """Refuse what is no name of a problem.

    Raises:
        ConfigError: One is unknown.
    """
    for name in names:
        if name not in PROBLEMS:
            near = closest(name, PROBLEMS, count=1)
            raise ConfigError(
                f"{name!r} is no problem; expected one of {', '.join(PROBLEMS)}",
                hint=f"did you mean {near[0]}?" if near else "",
            )


_CHECKS: tuple[Callable[[Table], list[Finding]], ...] = (
    checks.check_refusal,
    checks.check_readable,
    checks.check_extensions,
    checks.check_sizes,
    checks.check_blank,
    checks.check_orientation,
    checks.check_modes,
    checks.check_classes,
)


def _judge(
    table: Table, groups: Sequence[Sequence[int]], seed: int
) -> tuple[list[Finding] | None, list[str]]:
    """Judge the labels, or return None and say why not."""
    intake = table.intake
    if not intake.labelled:
        return None, ["there are no classes, so labels and their balance were not checked"]
    if intake.multi_label:
        return None, ["labels were not judged: pictures have several"]
    if table.store is None:
        return None, ["labels were not judged: that needs a model"]
    try:
        mislabels = import_extra("resnext.doctor.mislabels", extra="finetune")
    except MissingExtraError as error:
        return None, [f"labels were not judged: {error.message}; {error.hint}"]
    found: list[Finding] | None
    notes: list[str]
    found, notes = mislabels.check_labels(table, groups, seed=seed)
    return found, notes
