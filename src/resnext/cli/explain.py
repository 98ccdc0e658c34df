"""`resnext explain`: where in a picture the network saw a class."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from resnext.cli import progress, text
from resnext.cli.complete import complete_model
from resnext.cli.options import INPUT_FAILED, engine_options, ignore_errors_option


@click.command(
    short_help="Show where a picture speaks for a class.",
    epilog="Example:  resnext explain cat.jpg -o why.png",
)
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE...", type=click.Path())
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="PNG to write or replace; or a folder, as for several pictures.")  # fmt: skip
@click.option("-m", "--model", default="starter", show_default=True, shell_complete=complete_model,
              help="Catalogue name, alias, file, or hf-hub:owner/repo.")  # fmt: skip
@click.option("--class", "class_", metavar="NAME",
              help="Name, synset id or number of a class; default: the predicted one.")  # fmt: skip
@click.option("--method", type=click.Choice(["cam", "gradcam", "gradcam++"]), default="cam",
              show_default=True, help="cam is exact; the others need torch.")  # fmt: skip
@click.option("--layer", default="layer4", show_default=True,
              help="Of gradcam and gradcam++: layer1 to layer4, or a part.")  # fmt: skip
@click.option("--array", type=click.Path(path_type=Path),
              help="Also the map as .npy; or a folder of them.")  # fmt: skip
@click.option("--faithfulness", is_flag=True, help="Score the map by deletion and insertion.")
@click.option("--json", "as_json", is_flag=True, help="The answers as JSON.")
@engine_options
@ignore_errors_option
def explain(
    *,
    inputs: tuple[str, ...],
    output: Path | None,
    class_: str | None,
    array: Path | None,
    faithfulness: bool,
    as_json: bool,
    offline: bool,
    ignore_errors: bool,
    method: str,
    layer: str,
    **engine: Any,
) -> int:
    """Show where a picture speaks for a class.

    IMAGE is a file, a folder, a glob or an http(s) URL. The picture is written in grey with
    what speaks for the class in color; what the network did not see is dark.
    """
    import resnext
    from resnext.errors import ImageError
    from resnext.evaluation.matching import find_class
    from resnext.explore import explain as explaining
    from resnext.predictions import is_rejected
    from resnext.results.formats import printable
    from resnext.sources import iter_sources

    sources = list(iter_sources(inputs))
    names = [source.name for source in sources]
    overlays = explaining.name_outputs(names, output, ".png")
    arrays = explaining.name_outputs(names, array, ".npy") if array else []
    with progress.download_bar() as downloaded:
        classifier = resnext.Classifier(
            offline=offline or None, progress=downloaded, feature_maps=True, **engine
        )
    target = None if class_ is None else find_class(class_, classifier.document.labels)
    threshold = classifier.document.reject_threshold
    answers: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    failed = 0
    found = explaining.explain(
        classifier, sources, target=target, method=method, layer=layer, score=faithfulness
    )
    with progress.count_bar() as counted:
        for number, (source, one) in enumerate(zip(sources, found, strict=True)):
            try:
                if isinstance(one, ImageError):
                    raise one
                explaining.write_overlay(overlays[number], source, one, classifier)
                if arrays:
                    explaining.write_array(arrays[number], source, one, classifier)
            except ImageError as error:
                failed += 1
                print(printable(f"{source.name}: {error.reason}"), file=sys.stderr)
                answers.append({"source": source.name, "error": error.reason})
                continue
            unsure = class_ is None and is_rejected((one.found.target,), threshold)
            answers.append({**one.to_json(), "rejected": unsure,
                            "overlay": str(overlays[number]), "error": None})  # fmt: skip
            rows.append(_row(one, overlays[number], unsure, printable))
            if counted:
                counted(number + 1, len(sources))
    if as_json:
        text.dump(answers)
    elif rows:
        header = ["picture", "class", "probability", "overlay"]
        header += ["deletion", "insertion"] if faithfulness else []
        print(text.table(header, rows, right=("probability", "deletion", "insertion")))
    return INPUT_FAILED if failed and not ignore_errors else 0


def _row(one: Any, overlay: Path, unsure: bool, printable: Any) -> list[str]:
    target, score = one.found.target, one.score
    label = f"{target.label} (rejected)" if unsure else target.label
    row = [one.found.name, label, f"{target.probability:.1%}", str(overlay)]
    row += [f"{score.deletion:.3f}", f"{score.insertion:.3f}"] if score else []
    return [printable(cell) for cell in row]
