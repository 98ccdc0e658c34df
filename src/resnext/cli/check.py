"""`resnext check`: what is wrong with a data set."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from resnext.cli import progress, text
from resnext.cli.complete import complete_model
from resnext.cli.options import engine_options

FOUND, PAGE, FIXES = 3, "report.html", "fixes.jsonl"


@click.command(
    short_help="Find what is wrong with a data set.",
    epilog="Example:  resnext check photos/ -o photos-check",
)
@click.argument("data", type=click.Path())
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help=f"Folder in which to write or replace {PAGE}, {FIXES};"
              " default: NAME-check.")  # fmt: skip
@click.option("-m", "--model", default="starter", show_default=True, shell_complete=complete_model,
              help="Model whose features judge labels and near copies.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Without a model: labels are not judged.")
@click.option("--no-classes", is_flag=True, help="The folders are no classes.")
@click.option("--ignore", multiple=True, metavar="PROBLEM",
              help="Leave out a kind of problem, such as tiny; may be repeated.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of the folds in which labels are judged.")  # fmt: skip
@engine_options
@click.option("--json", "as_json", is_flag=True, help="The summary as one line of JSON.")
def check(*, data: str, output: Path | None, as_json: bool, **options: Any) -> int:
    """Find what is wrong with a data set; nothing in it is changed.

    DATA is what `finetune` and `train` take, or any folder of pictures. Looks for damaged
    files, copies, copies across train and val, wrong labels and names, and odd pictures. The
    exit code is 0 if there is no problem, 3 if there are some.
    """
    from resnext.doctor import findings, page
    from resnext.results.formats import printable

    place = Path(output or _name_output(data))
    findings.check_output(place, Path(data))
    examination = _examine(data, place, **options)
    place.mkdir(exist_ok=True)
    fixes = findings.write(place / FIXES, examination.findings)
    report = page.write(place / PAGE, examination, fixes=FIXES)
    for note in examination.notes:
        print(printable(f"note: {note}"), file=sys.stderr)
    if as_json:
        print(json.dumps(examination.to_json() | {"report": str(report), "fixes": str(fixes)}))
    else:
        _show(examination, report, fixes)
    return FOUND if examination.num_problems else 0


def _name_output(data: str) -> str:
    return f"{Path(data).resolve().name or 'data'}-check"


def _examine(
    data: str,
    place: Path,
    *,
    quick: bool,
    no_classes: bool,
    offline: bool,
    ignore: Any,
    seed: int,
    **model: Any,
) -> Any:
    import contextlib

    import resnext
    from resnext.doctor.examination import check_names, examine

    check_names(ignore)
    with contextlib.ExitStack() as stack:
        classifier = None
        if not quick:
            with progress.download_bar() as downloaded:
                classifier = resnext.Classifier(
                    offline=offline or None, progress=downloaded, **model
                )
            stack.enter_context(classifier)
        counted = stack.enter_context(progress.count_bar())
        return examine(data, classifier=classifier, labelled=not no_classes, ignore=ignore,
                       seed=seed, output=place, progress=counted)  # fmt: skip


def _show(examination: Any, report: Path, fixes: Path) -> None:
    from resnext.doctor.findings import PROBLEMS
    from resnext.errors import counted
    from resnext.results.formats import printable

    rows = [
        (name, f"{count:,}", PROBLEMS[name].title, PROBLEMS[name].advice)
        for name, count in examination.counts.items()
    ]
    if rows:
        print(text.table(("problem", "count", "", "do"), rows, right=("count",)) + "\n")
    pictures = counted(len(examination.table), "picture")
    problems = counted(examination.num_problems, "problem")
    judged = "; labels were not judged" if examination.judged is False else ""
    print(f"{pictures}, {problems}, {examination.seconds:.1f} s{judged}")
    print(printable(str(report)), printable(str(fixes)), sep="\n")
