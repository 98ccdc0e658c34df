"""What the doctor can find, and the list of it that a program can read.

One JSON object a line: `path`, `part`, `label`, `problem`, `detail`, `action`, `other`,
`score`. New problems and keys may come; what is there keeps its meaning.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.errors import ConfigError
from resnext.files import atomic, check_place
from resnext.training.listing import check_apart


@dataclass(frozen=True, slots=True)
class Problem:
    """A kind of finding.

    Args:
        name: As in the list.
        title: For people.
        advice: What to do.
        is_note: Whether it is only worth knowing: a data set may be clean all the same.
    """

    name: str
    title: str
    advice: str
    is_note: bool = False


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("refused", "Training refuses the data set", "see what it says"),
        Problem("unreadable", "Files that cannot be read", "look; replace or remove them"),
        Problem("truncated", "Files that are cut short", "copy or download them again"),
        Problem("leak", "In two of train, val and test", "remove the ones listed"),
        Problem("label-conflict", "Copies with different labels", "keep the right one"),
        Problem("duplicate", "The same pixels twice", "keep one of each"),
        Problem("near-duplicate", "Nearly the same picture twice", "look, and keep one"),
        Problem("likely-mislabel", "Labels that are likely wrong", "look, and relabel"),
        Problem("wrong-extension", "Names that say another format", "rename them"),
        Problem("blank", "Nothing to see", "remove them"),
        Problem("tiny", "Much smaller than the others", "look; find larger ones"),
        Problem("odd-shape", "Very long and narrow", "look, or crop them"),
        Problem("class-imbalance", "Classes with few pictures", "add some, or weigh classes"),
        Problem("orientation", "Mirrored or impossible orientation tags", "look at them", True),
        Problem("mode", "Unusual kinds of pixels", "nothing: they are converted", True),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong.

    Args:
        problem: A name in `PROBLEMS`.
        detail: What was found, for people.
        action: "remove", "relabel:CLASS", "rename:NAME", "keep-one-of" (`path` and `other`),
            "review" (a person has to decide) or "none".
        path: Name of the picture, below the data set; "" where it is about a class or all.
        part: "train", "val", "test" or "".
        label: Its class or classes, with a | between; or the class it is about.
        other: The picture that it is a copy of, or "".
        score: How sure, 0 to 1, where that is known; the list is in order of it.
        positions: Of the picture and the other in the intake.
    """

    problem: str
    detail: str
    action: str
    path: str = ""
    part: str = ""
    label: str = ""
    other: str = ""
    score: float | None = None
    positions: tuple[int, ...] = ()

    @property
    def suggested(self) -> str:
        """The class that `action` suggests, or ""."""
        verb, _, label = self.action.partition(":")
        return label if verb == "relabel" else ""

    def to_json(self) -> dict[str, Any]:
        """Return what the list says of it."""
        return {
            "path": self.path,
            "part": self.part,
            "label": self.label,
            "problem": self.problem,
            "detail": self.detail,
            "action": self.action,
            "other": self.other,
            "score": None if self.score is None else round(self.score, 4),
        }


def write(path: Path, findings: Iterable[Finding]) -> Path:
    """Write the list, one JSON object a line, in ASCII: any name can be read back.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic(path) as file:
        for finding in findings:
            file.write(json.dumps(finding.to_json()).encode() + b"\n")
    return path


def check_output(folder: Path, data: Path) -> None:
    """Look, before the work, whether the results can be written beside the data.

    Raises:
        ConfigError: The folder is in the data set, which is not to be changed, or no folder.
        OutputError: The folder above is missing, or it is read-only.
    """
    check_apart(folder, data)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(
            f"{folder} is a file; expected a folder for the results",
            hint="choose another name with -o",
        )
    check_place(folder / "any" if folder.exists() else folder)
