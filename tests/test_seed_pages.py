"""The pages for people who come from elsewhere: their code runs, their figures are true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from published import serve
from server import Server, isolate, serving

from resnext import arch, catalogue

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

PICTURE = "https://github.com/pytorch/hub/raw/master/images/dog.jpg"
CHECKOUT = "path/to/resnext"
LARGE = pytest.param("resnext101_32x8d", marks=pytest.mark.slow)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """Stand in for the internet; torch with one thread, beside the server's and OpenVINO's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with serving() as server:
        isolate(monkeypatch, tmp_path, server)
        yield server
    torch.set_num_threads(threads)


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(text: str, replacements: dict[str, str]) -> dict[str, Any]:
    """Run the code of a page from top to bottom; return what it has then."""
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks(text), start=1):
        for old, new in replacements.items():
            block = block.replace(old, new)
        exec(compile(block, f"block {number}", "exec"), names)
    return names


def table(text: str, header: str) -> list[list[str]]:
    """Return the rows of the table that begins with a header cell."""
    lines = text.split(f"| {header} |")[1].splitlines()[2:]
    rows = lines[: next(index for index, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


def check_answer(found: dict[str, Any], printed: str) -> None:
    """Check the thousand probabilities and the five names."""
    assert found["probabilities"].shape == (1000,)
    assert float(found["probabilities"].sum()) == pytest.approx(1, abs=1e-5)
    best = found["top5"]
    names = catalogue.imagenet1k().class_names
    expected = [names[index] for index in found["probabilities"].argsort(descending=True)[:5]]
    lines = [line for line in printed.splitlines() if line.startswith(tuple(expected))]
    assert [line.rpartition(" ")[0] for line in lines[:5]] == expected
    assert best.values.tolist() == sorted(best.values.tolist(), reverse=True)
    assert [float(line.rpartition(" ")[2]) for line in lines[:5]] == pytest.approx(
        best.values.tolist()
    )


@pytest.mark.parametrize("architecture", ["resnext50_32x4d", LARGE])
def test_the_code_for_those_from_pytorch_hub(
    hub: Server, repository: Path, monkeypatch: Any, capsys: Any, architecture: str
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.syspath_prepend(str(repository / "src"))  # as hubconf does, but undone
    serve(hub, f"{architecture}.tv_in1k")
    cat = (repository / "examples" / "cat.jpg").read_bytes()
    text = (repository / "docs" / "from-pytorch-hub.md").read_text(encoding="utf-8")
    assert PICTURE in text and CHECKOUT in text
    enum = {"resnext50_32x4d": "ResNeXt50_32X4D", "resnext101_32x8d": "ResNeXt101_32X8D"}
    found = run(
        text,
        {
            PICTURE: hub.put("/dog.jpg", cat),
            CHECKOUT: str(repository),
            "resnext50_32x4d": architecture,
            "ResNeXt50_32X4D": enum[architecture],
        },
    )
    model, device = found["model"], found["device"]
    assert type(model).__name__ == "ResNeXt" and not model.training
    assert model.document.name == f"{architecture}.tv_in1k"
    assert found["input_batch"].shape == (1, 3, 224, 224)
    assert found["scores"].shape == (1000,)
    with torch.inference_mode():
        expected = model(found["input_batch"].to(device))[0]
    torch.testing.assert_close(found["scores"], expected)
    check_answer(found, capsys.readouterr().out)
    probability = float(found["probabilities"][found["prediction"].index])
    assert found["prediction"].probability == pytest.approx(probability, rel=0.1)  # bf16
    assert len([seen for seen in hub.seen if seen.path.startswith("/timm/")]) == 1
    found["classifier"].close()


@pytest.mark.parametrize("architecture", ["resnext50_32x4d", LARGE])
def test_the_code_for_those_from_timm(
    hub: Server, repository: Path, monkeypatch: Any, capsys: Any, architecture: str
) -> None:
    monkeypatch.chdir(repository)
    row = catalogue.default_for(architecture)
    serve(hub, row.name)
    text = (repository / "docs" / "from-timm.md").read_text(encoding="utf-8")
    found = run(text, {"resnext50_32x4d": architecture})
    size = row.preprocess.input_size
    assert found["model"].document.name == row.name
    assert found["config"]["input_size"] == (3, size, size)
    assert found["tensor"].shape == (1, 3, size, size)
    check_answer(found, capsys.readouterr().out)
    side = -(-size // 32)
    assert found["feature_map"].shape == (1, 2048, side, side)
    assert found["pooled"].shape == (1, 2048)
    torch.testing.assert_close(found["logits"][0].softmax(0), found["probabilities"])
    torch.testing.assert_close(found["embedding"], found["pooled"])
    assert [maps.shape[1] for maps in found["maps"]] == [256, 512, 1024, 2048]
    assert [maps.shape[2] for maps in found["maps"]] == [-(-size // n) for n in (4, 8, 16, 32)]
    torch.testing.assert_close(found["last"], found["feature_map"])
    torch.testing.assert_close(found["some"][0], found["maps"][1])
    assert found["page_transform"]("examples/cat.jpg").shape == (3, 224, 224)
    for model, training in ((found["finetuned"], True), (found["model"], False)):
        assert (model.num_classes, model.training) == (10, training)
    assert found["fresh"].training
    assert found["train_transform"]("examples/cat.jpg").shape == (3, size, size)
    rates = {group["depth"]: group["lr"] for group in found["optimizer"].param_groups}
    assert rates[max(rates)] == 0.01 and rates[0] < 0.001
    assert {name.split(".")[0] for name in found["weights"]} >= {"resnext101_32x8d"}
    assert all(catalogue.find(name).commercial for name in found["weights"])
    assert "resnext50_32x4d" in resolved(found["architectures"], architecture)
    assert len(hub.seen) == 1  # one download for four networks


def resolved(names: list[str], architecture: str) -> list[str]:
    """Return names that a page asked for, where its architecture was exchanged."""
    return names if architecture.startswith("resnext50") else [*names, "resnext50_32x4d"]


def test_the_code_of_the_readme(
    hub: Server, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    serve(hub, "resnext50_32x4d")
    text = (repository / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## In PyTorch\n")[1].split("\n## ")[0]
    found = run(section, {})
    assert found["probabilities"].shape == (1, 1000)
    assert found["probabilities"].sum().item() == pytest.approx(1, abs=1e-5)
    assert found["model"].num_classes == 10
    assert found["backbone"].feature_info.reduction() == [2, 4, 8, 16, 32]
    assert len(hub.seen) == 1


def test_the_error_rates_are_those_of_the_catalogue(repository: Path) -> None:
    text = (repository / "docs" / "from-pytorch-hub.md").read_text(encoding="utf-8")
    rows = table(text, "network")
    assert [row[0] for row in rows] == ["resnext50_32x4d", "resnext101_32x8d"]
    for name, page, first, second, bare in rows:
        for cell, tag in ((first, "IMAGENET1K_V1"), (second, "IMAGENET1K_V2"), (bare, "")):
            assert cell == _errors(f"{name}.{tag}".rstrip("."))
        here = [float(number) for number in first.split(" / ")]
        assert [round(float(number), 2) for number in page.split(" / ")] == here


def _errors(name: str) -> str:
    row = catalogue.find(name)
    assert row.top1 is not None and row.top5 is not None
    return f"{100 - row.top1:.2f} / {100 - row.top5:.2f}"


def _accuracy(name: str) -> str:
    row = catalogue.find(name)
    return f"{row.top1:.2f} / {row.top5:.2f}"


def test_the_model_ids_are_those_of_the_catalogue(repository: Path) -> None:
    text = (repository / "docs" / "from-timm.md").read_text(encoding="utf-8")
    rows = table(text, "model ID")
    assert [row[0] for row in rows] == [
        "resnext101_32x8d",
        "resnext50_32x4d",
        "resnext50d_32x4d",
        "tv_resnext50_32x4d",
    ]
    for name, params, size, _, same, runs_at, accuracy in rows:
        row = catalogue.find(same)
        assert name in (row.architecture, *row.aliases)
        spec, how = arch.parse(row.architecture), row.preprocess
        assert int(params.replace(",", "")) == arch.num_params(spec)
        values = arch.num_params(spec) + sum(
            shape[0] for key, shape in arch.tensor_shapes(spec).items() if "running" in key
        )
        # Four bytes a value, and 1 part in 1000 for names: the file holds just this network.
        assert 0 < int(size.replace(",", "")) - 4 * values < 4 * values / 1000
        assert runs_at == f"{how.input_size} of {how.resize}, {how.interpolation}"
        assert accuracy == _accuracy(same)


def test_the_bare_names_are_those_of_the_catalogue_and_of_timm(repository: Path) -> None:
    text = (repository / "docs" / "from-timm.md").read_text(encoding="utf-8")
    rows = table(text, "name")
    assert len(rows) == 5
    for name, here, there in rows:
        row = catalogue.default_for(name)
        assert here.replace("`", "") == f"{row.tag}, {_accuracy(row.name)}"
        if there == "the same":
            continue
        tag, rest = there.replace("`", "").split(", ", maxsplit=1)
        other = catalogue.find(f"{name}.{tag}")
        assert rest == (_accuracy(other.name) if other.commercial else "not for commercial use")


def test_the_bare_names_of_timm_are_as_the_page_says(repository: Path) -> None:
    timm = pytest.importorskip("timm")
    text = (repository / "docs" / "from-timm.md").read_text(encoding="utf-8")
    [version] = re.findall(r"\| timm ([\d.]+) \|", text)
    if timm.__version__ != version:
        pytest.skip(f"the page is about timm {version}")
    for name, here, there in table(text, "name"):
        tag = (here if there == "the same" else there).replace("`", "").split(",")[0]
        assert timm.get_pretrained_cfg(name).tag == tag


@pytest.mark.parametrize("page", ["from-pytorch-hub.md", "from-timm.md"])
def test_the_links_lead_somewhere(repository: Path, page: str) -> None:
    docs = repository / "docs"
    text = (docs / page).read_text(encoding="utf-8")
    assert f"({page})" in (docs / "index.md").read_text(encoding="utf-8")
    assert f"(docs/{page})" in (repository / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        linked = (docs / (file or page)).read_text(encoding="utf-8")
        if anchor:
            assert anchor in [_anchor(line) for line in linked.splitlines() if line[:1] == "#"]


def _anchor(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower())
    return kept.replace(" ", "-")
