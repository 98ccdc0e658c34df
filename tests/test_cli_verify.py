"""`resnext verify`, as people run it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from resnext import testing, weights
from resnext.cli import app
from resnext.deploy import certificate, golden, parity, pixels
from resnext.deploy.parity import Candidate
from resnext.engines import select
from resnext.engines.base import AbstractEngine, Outputs
from resnext.errors import BrokenExtraError, OutputError
from resnext.weights import LocalModel

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"


class Twisted(AbstractEngine):
    """A real engine whose logits are tampered with."""

    name = "twisted"

    def __init__(self, inner: AbstractEngine, twist: Callable[[Any], Any]) -> None:
        super().__init__(inner.signature, precision="fp32", best_batch_size=8)
        self._inner, self._twist = inner, twist

    def _infer(self, batch_nhwc: npt.NDArray[np.uint8]) -> Outputs:
        outputs = self._inner.run(batch_nhwc)
        return Outputs(self._twist(outputs.logits), outputs.embedding)

    def _release(self) -> None:
        self._inner.close()


def _candidates(twist: Callable[[Any], Any]) -> Callable[[LocalModel], list[Candidate]]:
    def candidates(local: LocalModel) -> list[Candidate]:
        return [
            Candidate(
                engine="openvino",
                precision="fp32",
                open=lambda threads: Twisted(
                    select.load(local, engine="openvino", precision="fp32", threads=threads), twist
                ),
            )
        ]

    return candidates


@pytest.fixture(autouse=True)
def one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare one engine on a few pictures: the whole is tested without the command line."""
    few = golden.pictures()[::13]
    monkeypatch.setattr(golden, "pictures", lambda: few)
    monkeypatch.setattr(parity, "candidates", _candidates(lambda logits: logits))


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return str(testing.write_tiny_model(tmp_path / "tiny.safetensors"))


def test_table_certificate_and_round_trip(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.parity.json"
    assert app.run(["verify", tiny, "-o", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"written: {path}\n"
    assert captured.out.splitlines()[-1] == "verdict: passed"
    assert "openvino  fp32" in captured.out
    assert weights.locate(tiny).sha256 in captured.out
    assert json.loads(path.read_bytes())["verdict"] == "passed"

    assert app.run(["verify", tiny, "--certificate", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{path}: belongs to tiny, passed 20")
    assert captured.err == ""
    other = str(testing.write_tiny_model(tmp_path / "other.safetensors", seed=1))
    assert app.run(["verify", other, "--certificate", str(path)]) == 4
    assert "belongs to another file" in capsys.readouterr().err
    flipped = bytearray(Path(tiny).read_bytes())
    flipped[-100] ^= 1
    Path(tiny).write_bytes(flipped)
    assert app.run(["verify", tiny, "--certificate", str(path)]) == 4
    assert "the file has changed since it was written" in capsys.readouterr().err


def test_what_is_not_available_says_why(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenExtraError("torchvision cannot be imported: no nms")

    monkeypatch.setattr(pixels, "import_extra", broken)
    assert app.run(["verify", tiny]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("not available") for line in shown) == 1
    step = "resize and crop, against torchvision"
    assert f"not available: {step}: torchvision cannot be imported: no nms" in shown


@pytest.mark.parametrize("content", [b"no JSON", b"\x80\x02}.", b"{}", None])
def test_what_is_no_certificate_is_told_before_the_model_is_looked_for(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    for command in (["verify", "no-such-model"], ["verify", "starter", "--json"]):
        assert app.run([*command, "--certificate", str(path)]) == 4
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: {path}: ")
        assert "resnext verify MODEL -o FILE" in captured.err
        assert captured.out == ""


def _nan(logits: Any) -> Any:
    logits[0, 0] = np.nan
    return logits


@pytest.mark.parametrize(
    ("twist", "message"),
    [
        (lambda logits: logits + np.float32(1e-3), "logits of "),
        (lambda logits: logits[:, ::-1].copy(), "another best class for "),
        (_nan, "gave NaN or infinity in the logits of 1 of"),
    ],
    ids=["error", "swap", "nan"],
)
def test_a_broken_engine_exits_4_and_is_named(
    twist: Callable[[Any], Any],
    message: str,
    tiny: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(parity, "candidates", _candidates(twist))
    path = tmp_path / "bad.json"
    assert app.run(["verify", tiny, "-o", str(path)]) == 4
    captured = capsys.readouterr()
    assert "error: tiny: engine openvino (fp32): " in captured.err
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out.splitlines()[-1] == "verdict: failed"
    assert json.loads(path.read_bytes())["verdict"] == "failed"
    assert app.run(["verify", tiny, "--certificate", str(path)]) == 4
    assert "says that tiny failed: engine openvino" in capsys.readouterr().err


def test_pictures_of_ones_own_as_json_and_a_bad_one(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(CAT, folder / "b.jpg")
    (folder / "a.jpg").write_bytes(b"no picture")
    assert app.run(["verify", tiny, "--images", str(folder), "--json"]) == 3
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["pictures"]["others"] == 1
    assert found["pictures"]["unreadable"] == [str(folder / "a.jpg")]
    assert captured.err.startswith(f"{folder / 'a.jpg'}: is not a picture")
    assert found["verdict"] == "passed"
    assert app.run(["verify", tiny, "--images", str(folder), "--ignore-errors"]) == 0


def test_a_certificate_that_cannot_be_written_is_told_before_the_work(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(parity, "verify", None)  # whoever calls it fails otherwise
        assert app.run(["verify", tiny, "-o", str(tmp_path / "no" / "where.json")]) == 5
    assert "there is no folder" in capsys.readouterr().err


def test_a_disk_that_fills_up_costs_the_file_and_not_the_table(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(certificate, "write", full)
    assert app.run(["verify", tiny, "-o", str(tmp_path / "a.json")]) == 5
    assert capsys.readouterr().out.splitlines()[-1] == "verdict: passed"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["verify"], 2, "Missing argument"),
        (["verify", "resnext50_32x4"], 4, "did you mean"),
        (["verify", "starter", "--certificate", "absent.json"], 4, "absent.json: no such file"),
        (["verify", "starter", "--certificate", "a", "-o", "b"], 2, "runs nothing"),
        (["verify", "starter", "--limit", "0"], 2, "limit"),
        (["verify", "starter", "--limit", "2001"], 2, "limit"),
    ],
)
def test_usage_and_refusals(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["verify", "--help"]) == 0
    assert "Example:  resnext verify" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["verify", "-o"], ["benchmark", "-o"], ["benchmark", "--plot"], ["predict", "-o"]]
)
def test_no_result_takes_the_place_of_a_model(
    words: list[str], tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(tiny).read_bytes()
    command, option = words
    more = ["-f", "csv"] if command == "predict" else []
    assert app.run([command, tiny, *more, option, tiny]) == 2
    wrong = "that ends in .png" if option == "--plot" else "is both a file to read and the output"
    assert wrong in capsys.readouterr().err
    assert Path(tiny).read_bytes() == before


def test_the_rule_of_outputs_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--help"]) == 0
    assert "are there are replaced; models only with --force" in capsys.readouterr().out
    replaced = {"benchmark", "check", "embed", "explain", "index", "predict", "search", "verify"}
    kept = {"compare", "convert", "evaluate", "export", "finetune", "quantize"}
    for name in sorted(replaced | kept):
        assert app.run([name, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert ("or replace" in text) == (name in replaced), name
        assert ("--force" in text) == (name in kept), name
