"""`deploy.certificate`: written, read back, and belonging to one file only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import resnext
from resnext import testing, weights
from resnext.deploy import certificate
from resnext.deploy.parity import TOLERANCES, Comparison, Figures, Report
from resnext.deploy.pixels import PixelCheck
from resnext.errors import ImageError, OutputError, ParityError
from resnext.weights import LocalModel


@pytest.fixture
def local(tmp_path: Path) -> LocalModel:
    return weights.locate(testing.write_tiny_model(tmp_path / "tiny.safetensors"))


@pytest.fixture
def report(local: LocalModel) -> Report:
    figures = Figures(
        logits=1e-6,
        logits_relative=2e-7,
        embedding=1e-6,
        embedding_relative=3e-7,
        probability=4e-8,
        top1=2,
        top5=1,
        batch_relative=0.0,
        threads_relative=5e-8,
        worst="b.jpg",
    )
    return Report(
        local=local,
        pictures=("golden", "b.jpg"),
        num_golden=1,
        unreadable=(ImageError("c.jpg", "is empty"),),
        input_sha256="12ab",
        pixel_checks=(PixelCheck(step="reading", status="passed", pictures=2, difference=0.0),),
        comparisons=(
            Comparison(engine="openvino", precision="fp32", status="passed", figures=figures),
            Comparison(
                engine="torch", precision="fp32", status="not installed", problems=("no torch",)
            ),
        ),
    )


@pytest.fixture
def made(report: Report) -> dict[str, Any]:
    return certificate.make(report)


def test_it_comes_back_from_the_disk_and_belongs_to_its_file(
    made: dict[str, Any], local: LocalModel, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.parity.json"
    certificate.write(path, made)
    again = certificate.read(path)
    assert again == json.loads(json.dumps(made))
    assert certificate.check(again, local) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, "tiny.safetensors"]


def test_it_says_what_for_where_and_how(made: dict[str, Any], local: LocalModel) -> None:
    assert made["verdict"] == "passed"
    assert made["model"]["sha256"] == local.sha256
    assert (made["model"]["format"], made["model"]["schema_version"]) == ("resnext", 1)
    assert made["software"]["resnext"] == resnext.__version__
    assert set(made["software"]) == {"python", *certificate.SOFTWARE}
    assert made["machine"]["cores"] >= 1
    assert made["machine"]["processor"]
    assert set(made["tolerances"]) == set(TOLERANCES)
    assert made["pictures"] == {
        "golden": 1,
        "others": 1,
        "unreadable": ["c.jpg"],
        "input_sha256": "12ab",
    }
    assert made["date"].endswith("+00:00")
    assert str(local.path.parent) not in json.dumps(made)  # nobody else's business


def test_the_rows_to_show_have_a_cell_for_each_column(made: dict[str, Any]) -> None:
    first, second = certificate.engine_rows(made)
    assert dict(zip(certificate.ENGINE_HEADER, first, strict=True)) == {
        "engine": "openvino",
        "precision": "fp32",
        "logits": "2.0e-07",
        "features": "3.0e-07",
        "probability": "4.0e-08",
        "top-1": "2/2",
        "top-5": "1/2",
        "batch": "0",
        "threads": "5.0e-08",
        "verdict": "passed",
    }
    assert second == ("torch", "fp32", *"-" * 7, "not installed")
    assert certificate.step_rows(made) == [("reading", "2", "0", "passed")]
    assert ("sha256", made["model"]["sha256"]) in certificate.facts(made)


def test_another_file_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    other = weights.locate(testing.write_tiny_model(tmp_path / "other.safetensors", seed=1))
    with pytest.raises(ParityError, match=r"belongs to another file: it is for tiny with sha256"):
        certificate.check(made, other)


def test_a_failed_one_is_refused_with_its_reason(made: dict[str, Any], local: LocalModel) -> None:
    made |= {"verdict": "failed", "problems": ["engine torch (bf16): far off"]}
    with pytest.raises(ParityError, match=r"tiny failed: engine torch \(bf16\): far off"):
        certificate.check(made, local)


def test_other_software_is_told_and_still_belongs(made: dict[str, Any], local: LocalModel) -> None:
    made["software"] |= {"openvino": "2020.1", "torch": None}
    made["machine"]["processor"] = "Z80"
    changed = certificate.check(made, local)
    assert any(line.startswith("openvino was 2020.1, is ") for line in changed)
    assert any(line.startswith("processor was Z80, is ") for line in changed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable parity certificate"),
        (b"\xff\xfe", "not a readable parity certificate"),  # the start of UTF-16
        (b"[" * 100_000, "not a readable parity certificate"),
        (b"\x80\x02}q\x00.", "no parity certificate: not JSON"),
        (b"\xff\xd8\xff\xe0", "no parity certificate: not JSON"),
        (b"[1]", "JSON, but no parity certificate"),
        (b'{"verdict": "passed"}', "JSON, but no parity certificate"),
        (b'{"certificate": "resnext parity certificate", "version": 9}', "has version 9"),
        (
            b'{"certificate": "resnext parity certificate", "version": 1, "model": 3}',
            "no whole certificate; expected model, machine, software, problems",
        ),
    ],
)
def test_what_is_no_certificate_is_refused_by_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ParityError, match=message) as caught:
        certificate.read(path)
    assert str(path) in str(caught.value)


def test_a_missing_one_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="no such file"):
        certificate.read(tmp_path / "absent.json")
    with pytest.raises(ParityError, match="no parity certificate, which is a JSON file"):
        certificate.read(tmp_path)


def test_where_it_cannot_be_written_is_told(made: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="absent"):
        certificate.write(tmp_path / "absent" / "x.json", made)
