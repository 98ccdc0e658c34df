"""The rules of the house: order of imports, the torch line, sizes, the README's tree."""

from __future__ import annotations

import ast
import re
import runpy
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "src" / "resnext"
TREE = SimpleNamespace(**runpy.run_path(str(REPOSITORY / "scripts" / "readme_tree.py")))

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_POSITIONAL = 500, 80, 5
MAX_SUMMARY, MAX_MORE_LINES = 72, 8

# The torch line: nothing else may import it.
TORCH_MODULES = {
    "modules",
    "network",
    "zoo",
    "checkpoints.pickles",
    "engines.eager",
    "engines.folded",
    "engines.backends",
    "engines.cuda",
    "kernels.tuning",
    "kernels.launch",
    "kernels.pointwise",
    "kernels.grouped",
    "kernels.fused",
    "explore.gradients",
    "deploy.torchscript",
    "deploy.peers",
    "deploy.rivals",
    "deploy.gpu",
}
# Modules that need an extra, and so are reached through `errors.import_extra` only.
EXTRA_OF = {"results.parquet": "parquet", "engines.ort": "ort"} | dict.fromkeys(
    TORCH_MODULES, "torch"
)
EXTRA_OF["training.augment"] = "train"
EXTRA_OF |= {
    f"training.{name}": "train"
    for name in "losses optim dist checkpoint feed state resume score loop".split()
}
EXTRA_OF |= {
    f"training.{name}": "train" for name in "plots outcome log search teacher full refine".split()
}
EXTRA_OF["training.arrow"] = "parquet"
EXTRA_OF["deploy.peers"] = "train"
EXTRA_OF |= dict.fromkeys(("training.head", "training.finetune"), "finetune")
EXTRA_OF |= dict.fromkeys(("evaluation.plots", "deploy.plots"), "evaluate")
EXTRA_OF["deploy.rivals"] = "train"
EXTRA_OF["doctor.mislabels"] = "finetune"
EXTRA_OF["results.figures"] = "evaluate"
# On Linux torch brings Triton, but for builds without CUDA; `kernels.available` looks for it.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "triton": "torch"}

MODULES = {
    str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
each_module = pytest.mark.parametrize("module", MODULES)


def _parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


_tree = cache(_parse)  # to be read, not changed


@cache
def _imports(tree: ast.AST) -> tuple[str, ...]:
    """Return the dotted names that a module imports, anywhere in it."""
    return tuple(_found_imports(tree))


def _found_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports in full, from resnext"
            # `from resnext import images` names a module; `from resnext.images import read`
            # something in one.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_extra":
            assert isinstance(node.args[0], ast.Constant), "import_extra takes a literal name"
            yield node.args[0].value


def _own(name: str) -> str | None:
    """Return the module of ours that an imported name stands for, or None."""
    if name != "resnext" and not name.startswith("resnext."):
        return None
    parts = name.split(".")[1:]
    while parts:
        for module in (".".join(parts), ".".join([*parts, "__init__"])):
            if module in MODULES:
                return module
        parts.pop()
    return "__init__"


def _position(module: str) -> int:
    name = module.removesuffix(".__init__")
    assert name in TREE.ORDER, f"{module} has no place in ORDER of scripts/readme_tree.py"
    return int(TREE.ORDER.index(name))


@each_module
def test_a_module_imports_only_what_stands_above_it(module: str) -> None:
    here = _position(module)
    below = {
        name
        for name in _imports(_tree(module))
        if (own := _own(name)) and own != module and _position(own) >= here
    }
    assert not below, f"{module} imports from below itself"


@each_module
def test_torch_stays_behind_its_line(module: str) -> None:
    if module in TORCH_MODULES or module.startswith("training."):
        return
    assert not {"torch", "torchvision", "timm"} & {
        n.partition(".")[0] for n in _imports(_tree(module))
    }


@each_module
def test_every_import_is_a_declared_dependency(module: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    requirements = list(project["dependencies"])
    if module in EXTRA_OF:
        extras = project["optional-dependencies"]
        requirements += extras[EXTRA_OF[module]]
        # An extra of ours may be among what an extra asks for.
        names = ",".join(re.findall(r"resnext\[([\w,]+)\]", str(requirements)))
        requirements += [text for name in filter(None, names.split(",")) for text in extras[name]]
    declared = {re.split(r"[\[<>=~ ]", text)[0].lower() for text in requirements}
    roots = {name.partition(".")[0] for name in _imports(_tree(module))}
    foreign = roots - set(sys.stdlib_module_names) - {"resnext"}
    assert {DISTRIBUTIONS.get(name, name).lower() for name in foreign} <= declared


@each_module
def test_modules_that_need_an_extra_are_never_imported_outright(module: str) -> None:
    tree = _parse(module)
    for node in ast.walk(tree):  # what only type checkers import is not imported
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    outright = {
        own
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _found_imports(node)
        if (own := _own(name)) in EXTRA_OF
    }
    assert not outright - {module} or module in EXTRA_OF


@each_module
def test_files_and_functions_are_small(module: str) -> None:
    lines = MODULES[module].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_FILE_LINES
    for node in ast.walk(_tree(module)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name
        # A command's parameters are its options: click calls it, by keyword. A kernel's are
        # its launch's; Triton knows no keyword-only ones.
        kernel = "triton.jit" in map(ast.unparse, node.decorator_list)
        if not module.startswith("cli.") and not kernel:
            names = [argument.arg for argument in node.args.posonlyargs + node.args.args]
            assert len([name for name in names if name not in ("self", "cls")]) <= MAX_POSITIONAL


@each_module
def test_the_first_line_says_what_a_module_is_for(module: str) -> None:
    docstring = ast.get_docstring(_tree(module))
    assert docstring, "a module needs a docstring"
    first, *more = docstring.splitlines()
    assert len(first) <= MAX_SUMMARY
    if module != "errors":  # which draws its tree
        assert len([line for line in more if line]) <= MAX_MORE_LINES


def test_the_order_names_only_modules_that_exist() -> None:
    missing = {name for name in TREE.ORDER if not TREE.path_of(name).exists()}
    assert not missing


def test_the_readme_shows_the_tree_as_it_is() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert TREE.BEGIN + TREE.tree() + TREE.END in readme, "run python scripts/readme_tree.py"


def test_no_path_of_one_machine_is_in_the_package() -> None:
    pattern = re.compile(r"(?<![\w/.])/(work|tmp|home|root)\b|\.\./shared")
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in MODULES.values()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found


def test_no_module_is_a_drawer() -> None:
    assert not {"utils", "common", "helpers", "misc"} & {path.stem for path in MODULES.values()}


def test_every_module_has_its_tests() -> None:
    tests = {path.stem.removeprefix("test_") for path in (REPOSITORY / "tests").rglob("test_*.py")}
    modules = {name.rpartition(".")[2] for name in MODULES} - {"__init__", "__main__"}
    covered = tests | {part for name in tests for part in name.split("_")}
    missing = {name for name in modules if name not in covered}
    assert not {name for name in missing if not _is_command(name)}


def _is_command(name: str) -> bool:
    return (PACKAGE / "cli" / f"{name}.py").exists()  # all in test_cli.py
