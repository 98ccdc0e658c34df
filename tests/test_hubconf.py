"""`hubconf.py` through `torch.hub`: loaded from a checkout, listed, explained."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from resnext import catalogue, testing
from resnext.errors import ConfigError, WeightsUnavailableError

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

OURS = "owner/resnext:main"


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # hubconf puts `src` there


@pytest.fixture
def downloaded(repository: Path) -> str:
    """Make the checkout what `torch.hub` has downloaded; return the name it has then."""
    hub = Path(os.environ["TORCH_HOME"]) / "hub"
    hub.mkdir(parents=True)
    (hub / "owner_resnext_main").symlink_to(repository)
    return OURS


def test_every_architecture_and_nothing_else_is_listed(downloaded: str) -> None:
    names = torch.hub.list(downloaded, trust_repo=True, skip_validation=True)
    architectures = {row.architecture for row in catalogue.weights()}
    assert set(names) == architectures | {"create_model"}
    assert "resnext50_32x4d" in names and "resnext101_32x8d" in names


def test_help_says_which_weights_there_are(downloaded: str) -> None:
    for name in ("resnext50_32x4d", "resnext101_32x8d"):
        text = torch.hub.help(downloaded, name, trust_repo=True, skip_validation=True)
        assert text.startswith(f"Build {name}.")
        assert f"`{catalogue.default_for(name).name}`" in text
        assert "num_classes" in text and "IMAGENET1K_V2" in text
        listed = re.findall(r"^        (\w+): [\d.u]", text, re.MULTILINE)
        assert listed == [row.tag for row in catalogue.weights() if row.architecture == name]
    assert "tv_in1k: 20.69 / 5.47, 224 px, bsd-3-clause" in text
    text = torch.hub.help(downloaded, "resnext101_32x48d", trust_repo=True, skip_validation=True)
    assert "none is for commercial use" in text
    text = torch.hub.help(downloaded, "create_model", trust_repo=True, skip_validation=True)
    assert "an alias, or a checkpoint" in text


def test_a_network_is_built(repository: Path) -> None:
    with torch.device("meta"):
        model = torch.hub.load(str(repository), "resnext50_32x4d", source="local")
    assert model.spec.name == "resnext50_32x4d"
    assert model.training
    with torch.device("meta"):
        model = torch.hub.load(
            str(repository), "resnext50d_32x4d", source="local", num_classes=7, in_chans=1
        )
    assert (model.spec.name, model.num_classes) == ("resnext50d_32x4d", 7)
    assert model.conv1[0].in_channels == 1


def test_weights_are_asked_for_as_by_create_model(repository: Path, tmp_path: Path) -> None:
    def load(*arguments: object, **options: object) -> object:
        return torch.hub.load(str(repository), *arguments, source="local", **options)

    for options, row in (
        ({"pretrained": True}, "resnext50_32x4d.a1h_in1k"),
        ({"weights": "IMAGENET1K_V1"}, "resnext50_32x4d.tv_in1k"),
        ({"weights": "tv2_in1k"}, "resnext50_32x4d.tv2_in1k"),
    ):
        with pytest.raises(WeightsUnavailableError, match=f"^{row} is not on this machine"):
            load("resnext50_32x4d", **options, offline=True)
    with pytest.raises(ConfigError, match="output_stride is 7"):
        load("resnext50_32x4d", output_stride=7)
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    model = load("create_model", path, pretrained=True)
    assert not model.training  # type: ignore[attr-defined]
    assert model.pretrained_cfg["label_names"] == ["cat", "dog"]  # type: ignore[attr-defined]


def test_a_checkout_needs_no_installation(repository: Path, tmp_path: Path) -> None:
    code = (
        f"import torch; torch.hub.load({str(repository)!r}, 'create_model', 'starter', True,"
        " source='local'); import resnext; print(resnext.__file__)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert Path(done.stdout.strip()) == repository / "src" / "resnext" / "__init__.py"


def test_everything_that_loading_imports_is_a_dependency(repository: Path) -> None:
    package = repository / "src" / "resnext"
    order = SimpleNamespace(**runpy.run_path(str(repository / "scripts" / "readme_tree.py")))
    seen, waiting, foreign = set(), {package / "zoo.py", package / "network.py"}, set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for name in _imports(path):
            if not name.startswith("resnext."):
                foreign.add(name.partition(".")[0])
            elif (own := _module(order, name)) is not None:
                waiting |= {order.path_of(own)} - seen
    foreign -= set(sys.stdlib_module_names) | {"resnext", "torchvision"}  # of the extra `train`
    hubconf = ast.parse((repository / "hubconf.py").read_text(encoding="utf-8"))
    [declared] = [
        node.value.func.value.value.split()
        for node in hubconf.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "dependencies"
    ]
    assert set(declared) == foreign


def _imports(path: Path) -> list[str]:
    """Return the dotted names that a module imports anywhere in it, for more than types."""
    names = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _module(order: SimpleNamespace, name: str) -> str | None:
    parts = name.split(".")[1:]
    while parts:
        if ".".join(parts) in order.ORDER:
            return ".".join(parts)
        parts.pop()
    return None
