"""Write the annotated tree of README.md from the first lines of the modules.

`python scripts/readme_tree.py` rewrites it; `tests/test_architecture.py` compares it and
checks every import against `ORDER`.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "resnext"
BEGIN, END = "<!-- tree: scripts/readme_tree.py -->\n", "<!-- end of tree -->\n"

# A module may import only what stands above it. This is also the order to read them in.
ORDER = """
errors files provenance cores transport layers archspec arch featureinfo sources bombs images
preprocess predictions quantization catalogue document backbone modelfile
evaluation evaluation.arrays evaluation.metrics evaluation.multilabel
evaluation.intervals evaluation.paired evaluation.calibration evaluation.selective
evaluation.conformal
checkpoints checkpoints.keymaps checkpoints.timmnames checkpoints.timmconfig
checkpoints.pickles checkpoints.reader
hub hub.downloads hub.cache hub.origins weights
results results.formats results.pages results.outputs results.parquet results.sinks
results.figures
kernels kernels.tuning kernels.launch kernels.pointwise kernels.grouped kernels.fused
engines engines.base engines.eightbits engines.rounding engines.folding engines.graph
engines.compiled
engines.measured engines.openvino engines.ort
modules network engines.eager engines.folded engines.backends engines.cuda
engines.tuning engines.select
prefetch classifier
explore explore.cam explore.gradients explore.faithfulness explore.neighbors explore.index
training training.typed training.config training.registry training.recipes training.samples
training.listing training.folders training.shards training.rows training.arrow training.tables
training.layouts training.split training.scan training.data training.settings training.order
training.operations
training.augment zoo interchange testing
training.losses training.optim training.dist training.memory training.checkpoint
training.feed training.state training.resume training.score training.loop
training.records training.plots training.report training.outcome training.log training.search
training.teacher training.full training.head training.features training.finetune training.refine
deploy deploy.reference deploy.golden deploy.peers deploy.pixels deploy.parity deploy.certificate
deploy.portable deploy.torchscript deploy.recheck
deploy.rivals deploy.contender deploy.roofline deploy.traffic deploy.gpu
deploy.benchmark deploy.plots
evaluation.truth evaluation.matching evaluation.journal evaluation.run evaluation.judge
evaluation.trust
evaluation.summary evaluation.wording evaluation.evaluate evaluation.plots evaluation.evidence
evaluation.report evaluation.compare evaluation.versus
deploy.levels deploy.quantize deploy.export
doctor doctor.intake doctor.hashes doctor.facts doctor.findings doctor.checks doctor.copies
doctor.mislabels doctor.examination doctor.page
explore.explain explore.embedding explore.lookup explore.sheet explore.gather
__init__
cli cli.text cli.progress cli.complete cli.options cli.models cli.predict cli.info cli.convert
cli.finetune cli.recipes cli.train cli.check cli.cache
cli.explain cli.embed cli.index cli.search cli.evaluate cli.compare cli.verify cli.export
cli.benchmark cli.quantize
cli.app
__main__
""".split()

FILES = {
    "assets/starter.safetensors": "the model in the package: 200 everyday classes",
    "assets/catalogue.json": "the public weights: where, which preprocessing, which licence",
    "assets/imagenet1k.json": "the 1,000 synset ids and names of ImageNet-1k",
    "assets/ilsvrc2012.json": "the same synset ids in the order of their ILSVRC ids",
}


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return (docstring or "").partition("\n")[0]


def path_of(module: str) -> Path:
    """Return the file of a module in `ORDER`; of a package, its `__init__.py`."""
    path = PACKAGE / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def tree() -> str:
    """Draw the package: each file with what it is for, in the order to read them."""
    lines, last = ["```", "src/resnext/"], ""
    for module in ORDER:
        depth, path = module.count("."), path_of(module)
        if not path.exists():
            continue
        package, before = module.partition(".")[0], last
        if depth and package != before:
            lines.append(f"  {package}/".ljust(20) + "(goes on)")
        last = package
        name = module.rpartition(".")[2] + (
            "/" if path.stem == "__init__" and depth == 0 else ".py"
        )
        if module == "__init__":
            name = "__init__.py"
        lines.append("  " + f"{'  ' * depth}{name}".ljust(18) + first_line(path).rstrip("."))
    for name, purpose in FILES.items():
        if (PACKAGE / name).exists():
            lines.append("  " + name.ljust(18) + "  " + purpose)
    return "\n".join([*lines, "```", ""])


def main() -> None:
    """Replace what stands between the markers."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(before + BEGIN + tree() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
