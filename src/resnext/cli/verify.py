"""`resnext verify`: the same weights, the same logits in every engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from resnext.cli import progress, text
from resnext.cli.complete import complete_model
from resnext.cli.options import INPUT_FAILED, ignore_errors_option


@click.command(
    short_help="Prove that a model computes the same in every engine.",
    epilog="Example:  resnext verify mine.safetensors -o mine.parity.json",
)
@click.argument("model", shell_complete=complete_model)
@click.option("--images", "folder", type=click.Path(),
              help="Run these pictures too: a file, folder or glob.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1, 2000), default=200, show_default=True,
              help="Of --images: at most so many, evenly spaced.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="Write or replace the certificate, as JSON.")  # fmt: skip
@click.option("--certificate", "given", type=click.Path(path_type=Path),
              help="Run nothing: tell whether this certificate belongs to MODEL.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the certificate.")
@click.option("--offline", is_flag=True, help="Never touch the network.")
@ignore_errors_option
def verify(
    *,
    model: str,
    folder: str | None,
    limit: int,
    output: Path | None,
    given: Path | None,
    as_json: bool,
    offline: bool,
    ignore_errors: bool,
) -> int:
    """Run MODEL on golden pictures in every engine and precision that is installed.

    Each is compared with a float64 reference. Differences are parts of the largest value;
    "batch" compares eight pictures at once with one by one, "threads" all threads with one.
    The exit code is 4 if anything is outside its tolerance.
    """
    from resnext import weights
    from resnext.deploy import certificate, parity
    from resnext.files import check_place, check_replaceable
    from resnext.results.formats import printable

    if given and (folder or output):
        raise click.UsageError("--certificate runs nothing: give neither --images nor -o.")
    if output:
        check_place(output)
        check_replaceable(output, inputs=[model])
    stated = certificate.read(given) if given else {}  # first: the model may be a long download
    with progress.download_bar() as downloaded:
        local = weights.locate(model, offline=offline or None, progress=downloaded)
    if given:
        return _check(given, stated, local, as_json=as_json)
    pictures = parity.choose(folder, limit) if folder else []
    with progress.count_bar() as advance:
        report = parity.verify(local, pictures=pictures, progress=advance)
    made = certificate.make(report)
    if as_json:
        text.dump(made)
    else:
        _show(made)
    if output:  # last: what took minutes is not lost if the disk is full
        certificate.write(output, made)
        progress.say_written(output)
    for error in report.unreadable:
        print(printable(f"{error.path}: {error.reason}"), file=sys.stderr)
    report.require()
    return INPUT_FAILED if report.unreadable and not ignore_errors else 0


def _check(given: Path, found: Any, local: Any, *, as_json: bool) -> int:
    from resnext.deploy import certificate
    from resnext.results.formats import printable

    changed = certificate.check(found, local)
    if as_json:
        text.dump(found)
    else:
        print(printable(f"{given}: belongs to {local.document.name}, passed {found.get('date')}"))
    for line in changed:
        print(printable(f"note: {line}; to prove it here, verify again"), file=sys.stderr)
    return 0


def _show(made: dict[str, Any]) -> None:
    from resnext.deploy import certificate
    from resnext.results.formats import printable

    engines, steps = certificate.ENGINE_HEADER, certificate.STEP_HEADER
    print(text.pairs(certificate.facts(made)))
    print("\n" + text.table(engines, certificate.engine_rows(made), right=engines[2:-1]))
    print("\n" + text.table(steps, certificate.step_rows(made), right=steps[1:-1]))
    if lines := [f"not available: {line}" for line in certificate.not_available(made)]:
        print("\n" + "\n".join(map(printable, lines)))
    print(f"\nverdict: {made['verdict']}")
