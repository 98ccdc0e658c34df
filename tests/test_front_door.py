"""`import resnext`: what it offers, and how little it loads."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import resnext
from resnext.cli import app
from resnext.errors import ResNeXtError, install_hint

HEAVY = {"torch", "torchvision", "openvino", "onnx", "onnxruntime", "PIL", "rich", "click"}
HEAVY |= {"numpy", "huggingface_hub", "safetensors", "pyarrow"}
DOCTESTED = [
    "archspec",
    "catalogue",
    "classifier",
    "errors",
    "predictions",
    "preprocess",
    "results.formats",
    "results.sinks",
    "weights",
]
PROGRAM = ("resnext", ".venv/bin/resnext")
FOR_TORCH = ["create_model", "create_transform", "parameter_groups", "resolve_data_config"]


def _modules_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after `code`."""
    show = "import sys, json; print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return set(json.loads(run.stdout))


def test_importing_loads_nothing_heavy() -> None:
    assert not HEAVY & _modules_after("import resnext")


def test_facts_load_nothing_heavy() -> None:
    assert not HEAVY & _modules_after("import resnext.arch, resnext.errors")


def test_the_classifier_needs_no_torch_and_no_terminal() -> None:
    loaded = _modules_after("from resnext import Classifier")
    assert not {"torch", "torchvision", "rich", "click", "pyarrow", "onnxruntime"} & loaded


def test_all_is_sorted_and_complete() -> None:
    # ASCII order, as sorted() and ruff have it: constants and classes before functions.
    assert resnext.__all__ == sorted(resnext.__all__)
    errors = {kind.__name__ for kind in ResNeXtError.__subclasses__()} | {"ResNeXtError"}
    assert errors <= set(resnext.__all__)


@pytest.mark.parametrize("name", resnext.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(resnext, name)
    assert value.__doc__
    assert name in dir(resnext)
    assert getattr(resnext, name) is value


def test_star_import_gives_all() -> None:
    names: dict[str, object] = {}
    exec("from resnext import *", names)
    assert set(resnext.__all__) <= set(names)


def test_the_names_for_torch_are_the_only_others() -> None:
    has_torch = importlib.util.find_spec("torch") is not None
    assert dir(resnext) == sorted([*resnext.__all__, *(FOR_TORCH if has_torch else [])])
    assert "list_models" in resnext.__all__


@pytest.mark.torch
@pytest.mark.parametrize("name", FOR_TORCH)
def test_the_names_for_torch_are_there_and_documented(name: str) -> None:
    value = getattr(resnext, name)
    assert value is getattr(importlib.import_module("resnext.zoo"), name)
    assert "Args:" in value.__doc__


def test_without_torch_star_import_works_and_its_names_say_what_to_install() -> None:
    code = f"""
import sys
sys.modules["torch"] = None  # as where it is not installed
from resnext import *
import resnext
print(len(list_models("resnext50*")), Classifier.__name__)
for name in {FOR_TORCH}:
    try:
        getattr(resnext, name)
    except MissingExtraError as error:
        print(error.hint)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    first, *hints = run.stdout.splitlines()
    assert first == "2 Classifier"
    assert hints == [install_hint("torch")] * len(FOR_TORCH)


def _commands(page: Path) -> list[list[str]]:
    """Return the words after `resnext` of every such line in the shell blocks of a page."""
    found = []
    blocks = re.findall(r"```(\w*)\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    for language, block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            if language != "sh" and not line.startswith("$ resnext "):  # output, or no shell
                continue
            words = shlex.split(line, comments=True)
            start = next((n for n, word in enumerate(words) if word in PROGRAM), None)
            if start is not None:
                found.append(words[start + 1 :])
    return found


def test_every_command_of_the_readme_and_the_manual_can_be_typed_as_it_is(
    repository: Path,
) -> None:
    pages = [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]
    seen, failed = 0, []
    for page in pages:
        for name, *words in _commands(page):
            context = click.Context(app.app)
            command = app.app.get_command(context, name)
            assert command is not None, (page.name, name)
            try:
                command.make_context(name, list(words), parent=context)
            except click.UsageError as error:
                failed.append(f"{page.name}: resnext {name}: {error.format_message()}")
            seen += 1
    assert not failed
    assert seen > 80


def test_the_pictures_that_the_readme_names_are_there(repository: Path) -> None:
    text = (repository / "README.md").read_text("utf-8")
    names = set(re.findall(r"[\w./-]+\.jpg\b", text))
    assert "examples/cat.jpg" in names
    assert not {name for name in names if not (repository / name).is_file()}


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'resnext' has no attribute 'classify'"):
        resnext.classify  # noqa: B018


def test_the_version_is_that_of_the_changelog(repository: Path) -> None:
    changelog = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {resnext.__version__}" in changelog


@pytest.mark.parametrize("module", DOCTESTED)
def test_the_examples_in_docstrings_are_true(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"resnext.{module}"))
    assert outcome.failed == 0


@pytest.mark.torch
def test_the_example_of_create_model_is_true() -> None:
    outcome = doctest.testmod(importlib.import_module("resnext.zoo"))
    assert (outcome.failed, outcome.attempted) == (0, 2)
