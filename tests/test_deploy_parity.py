"""`deploy.parity`: engines that agree pass, and each way to disagree fails by name."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from resnext import testing, weights
from resnext.deploy import golden, parity
from resnext.deploy.parity import TOLERANCES, Candidate, Comparison, Judge, Report
from resnext.engines import openvino
from resnext.engines.base import AbstractEngine, Outputs, Signature
from resnext.errors import (
    BrokenExtraError,
    ConfigError,
    DatasetError,
    EngineError,
    ImageError,
    MissingExtraError,
    ParityError,
)

COUNT, CLASSES, FEATURES = 20, 12, 6
NAMES = tuple(f"picture {index}" for index in range(COUNT))
BATCH = np.zeros((COUNT, 2, 2, 3), np.uint8)
BATCH[:, 0, 0, 0] = np.arange(COUNT)  # by which an engine knows them

Logits = npt.NDArray[np.float32]
Twist = Callable[[Logits, npt.NDArray[np.int64]], Logits]


class ReplayEngine(AbstractEngine):
    """Gives known logits, twisted in the way a test says."""

    name = "replay"

    def __init__(self, twist: Twist) -> None:
        signature = Signature(
            input_size=2, in_chans=3, num_classes=CLASSES, embedding_size=FEATURES
        )
        super().__init__(signature, precision="fp32", best_batch_size=8)
        self._twist = twist

    def _infer(self, batch_nhwc: npt.NDArray[np.uint8]) -> Outputs:
        which = batch_nhwc[:, 0, 0, 0].astype(np.int64)
        logits, embedding = (rows[which].astype(np.float32) for rows in _expected())
        return Outputs(self._twist(logits, which), embedding)


def _expected() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (COUNT, CLASSES)), rng.normal(0, 1, (COUNT, FEATURES))


def _compare(
    twist: Twist = lambda logits, _: logits,
    *,
    precision: str = "fp32",
    one_thread: Twist | None = None,
) -> Comparison:
    def open_engine(threads: int | None) -> AbstractEngine:
        return ReplayEngine(one_thread if one_thread and threads == 1 else twist)

    candidate = Candidate(engine="replay", precision=precision, open=open_engine)
    return Judge(NAMES, BATCH, _expected(), 1.0).compare(candidate)


def _with_error(size: float) -> Twist:
    def twist(logits: Logits, which: npt.NDArray[np.int64]) -> Logits:
        logits[which == 13, 5] += np.float32(size)
        return logits

    return twist


def _swapped(logits: Logits, _: object) -> Logits:
    return logits[:, [1, 0, *range(2, CLASSES)]]


def test_an_exact_engine_passes_with_all_its_figures() -> None:
    found = _compare()
    assert (found.status, found.problems) == ("passed", ())
    assert found.figures is not None
    assert (found.figures.top1, found.figures.top5) == (COUNT, COUNT)
    assert 0 < found.figures.logits_relative < 1e-7  # rounded to float32
    assert (found.figures.batch_relative, found.figures.threads_relative) == (0, 0)


def test_an_error_is_measured_and_its_picture_named() -> None:
    found = _compare(_with_error(0.5))
    largest = float(np.abs(_expected()[0]).max())
    assert found.status == "failed"
    assert found.figures is not None
    assert found.figures.worst == "picture 13"
    assert found.figures.logits == pytest.approx(0.5, rel=1e-5)
    assert found.figures.logits_relative == pytest.approx(0.5 / largest, rel=1e-5)
    assert found.problems[0] == f"logits of picture 13 differ by {0.5 / largest:.2g}; " + (
        "at most 0.0001 is allowed"
    )


@pytest.mark.parametrize(("precision", "size"), [("fp32", 1e-4), ("bf16", 0.05)])
def test_the_tolerance_is_that_of_the_precision(precision: str, size: float) -> None:
    largest = float(np.abs(_expected()[0]).max())
    # Of every logit of the picture, so that probabilities stay as they are.
    assert _compare(_with_offset(0.9 * size * largest), precision=precision).status == "passed"
    assert _compare(_with_offset(1.1 * size * largest), precision=precision).status == "failed"


def _with_offset(size: float) -> Twist:
    return lambda logits, which: logits + np.float32(size) * (which == 13)[:, None]


@pytest.mark.parametrize("precision", TOLERANCES)
def test_two_classes_that_changed_places_are_found(precision: str) -> None:
    found = _compare(_swapped, precision=precision)
    assert found.status == "failed"
    assert any("best class" in text for text in found.problems)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_engine_that_gives_nan_fails(value: float) -> None:
    found = _compare(_with_error(value))
    assert (found.status, found.figures) == ("failed", None)
    assert "gave NaN or infinity in the logits of 1 of" in found.problems[0]


def test_an_answer_that_depends_on_the_batch_fails() -> None:
    def twist(logits: Logits, which: npt.NDArray[np.int64]) -> Logits:
        return logits + np.float32(0.1 if len(which) == 1 else 0)

    found = _compare(twist)
    assert [text.partition(" differ")[0] for text in found.problems] == [
        "logits of a batch and one by one"
    ]


def test_an_answer_that_depends_on_the_threads_fails() -> None:
    found = _compare(one_thread=_with_offset_all)
    assert [text.partition(" differ")[0] for text in found.problems] == [
        "logits on one thread and on all"
    ]


def _with_offset_all(logits: Logits, _: object) -> Logits:
    return logits + np.float32(0.1)


def test_wrong_features_fail_although_the_logits_are_right(monkeypatch: Any) -> None:
    exact = ReplayEngine._infer

    def infer(self: ReplayEngine, batch: npt.NDArray[np.uint8]) -> Outputs:
        outputs = exact(self, batch)
        return Outputs(outputs.logits, outputs.embedding + np.float32(0.01))

    monkeypatch.setattr(ReplayEngine, "_infer", infer)
    assert [text.partition(" differ")[0] for text in _compare().problems] == ["features"]


def test_classes_that_tie_may_change_places() -> None:
    logits = np.zeros((COUNT, CLASSES))
    logits[:, 0], logits[:, 1] = 1.0, 1.0 + 1e-7

    def swap(_: object, which: npt.NDArray[np.int64]) -> Logits:
        return logits[which][:, [1, 0, *range(2, CLASSES)]].astype(np.float32)

    judge = Judge(NAMES, BATCH, (logits, _expected()[1]), 1.0)
    found = judge.compare(
        Candidate(engine="replay", precision="fp32", open=lambda _: ReplayEngine(swap))
    )
    assert (found.status, found.figures and found.figures.top1) == ("passed", COUNT)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MissingExtraError("`onnxruntime` is not installed"), "not installed"),
        (BrokenExtraError("`onnxruntime` cannot be imported"), "not available"),
        (ConfigError("precision is 'bf16', which this processor does not have"), "not available"),
        (EngineError("engine replay (fp32) refuses the network"), "failed"),
    ],
)
def test_an_engine_that_does_not_open_never_passes(error: Exception, status: str) -> None:
    def refuse(_: int | None) -> AbstractEngine:
        raise error

    judge = Judge(NAMES, BATCH, _expected(), 1.0)
    found = judge.compare(Candidate(engine="replay", precision="fp32", open=refuse))
    assert (found.status, found.figures) == (status, None)
    assert found.problems == (str(error),)


@pytest.mark.parametrize(
    ("count", "agreement", "allowed"),
    [
        (27, 1.0, 0),
        (27, 0.995, 1),
        (200, 0.995, 4),
        (1000, 0.995, 11),
        (50_000, 0.995, 287),
        (200_000, 0.995, 1074),
    ],
)
def test_how_many_may_disagree_by_chance(count: int, agreement: float, allowed: int) -> None:
    assert parity.allowed_disagreements(count, agreement) == allowed
    if agreement < 1:
        draws = np.random.default_rng(0).binomial(count, 1 - agreement, 200_000)
        assert (draws > allowed).mean() < 0.0115
        assert (draws > allowed - 1).mean() > 0.0085


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Every engine that is installed, on a tiny model and some golden pictures."""
    folder = tmp_path_factory.mktemp("verify")
    pictures = testing.write_pictures(folder / "mine", per_class=2)
    (pictures / "red" / "0001.png").write_bytes(b"no picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNEXT_HOME", str(folder / "home"))
        patch.setattr(golden, "pictures", _some_pictures(golden.pictures()))
        local = weights.locate(testing.write_tiny_model(folder / "tiny.safetensors"))
        steps: list[tuple[int, int]] = []
        made = parity.verify(
            local,
            pictures=parity.choose(str(pictures), 6),
            progress=lambda done, total: steps.append((done, total)),
        )
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    return made


def _some_pictures(every: list[golden.Golden]) -> Callable[[], list[golden.Golden]]:
    return lambda: every[::9]


def test_the_engines_of_this_machine_agree(report: Report) -> None:
    report.require()
    assert report.problems == ()
    by_name = {(one.engine, one.precision): one for one in report.comparisons}
    assert list(by_name) == [
        (engine, precision)
        for engine, offered in parity.OFFERED.items()
        for precision in offered
        if precision != "int8"  # for models that were quantized
    ]
    assert by_name["openvino", "fp32"].status == "passed"
    for one in report.comparisons:
        assert one.status != "failed", one
        if one.figures and one.precision == "fp32":
            assert one.figures.logits_relative < 1e-5


def test_pictures_of_the_user_run_too_and_bad_ones_are_told(report: Report) -> None:
    assert report.num_golden == 3
    assert len(report.pictures) == 3 + 5
    assert report.pictures[3].endswith("blue/0000.png")
    [bad] = report.unreadable
    assert isinstance(bad, ImageError)
    assert bad.path.endswith("red/0001.png")
    assert [check.pictures for check in report.pixel_checks[:2]] == [3, 8]


def test_a_report_with_a_failure_says_which_engine_and_picture(report: Report) -> None:
    broken = Comparison(
        engine="torch", precision="bf16", status="failed", problems=("logits of a.jpg differ",)
    )
    failed = dataclasses.replace(report, comparisons=(*report.comparisons, broken))
    expected = r"tiny: engine torch \(bf16\): logits of a.jpg differ\n\nhint: "
    with pytest.raises(ParityError, match=expected) as caught:
        failed.require()
    assert caught.value.exit_code == 4


def test_a_wrong_step_of_preprocessing_fails_the_report(report: Report) -> None:
    check = dataclasses.replace(report.pixel_checks[1], status="failed", reason="a.jpg is off by 3")
    failed = dataclasses.replace(report, pixel_checks=(check,))
    with pytest.raises(ParityError, match="against Pillow by hand: a.jpg is off by 3"):
        failed.require()


def test_nothing_compared_is_no_proof(report: Report) -> None:
    with pytest.raises(ParityError, match="no engine ran"):
        dataclasses.replace(report, comparisons=()).require()


def test_missing_extras_are_listed(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "torch", "resnext.engines.ort", "resnext.engines.eager"):
        monkeypatch.setitem(sys.modules, name, None)
    judge = Judge(NAMES, BATCH, _expected(), 1.0)
    for candidate in parity.candidates(report.local):
        if candidate.engine != "openvino":
            found = judge.compare(candidate)
            assert (found.status, found.figures) == ("not installed", None)
            assert "is not installed" in found.problems[0]


def test_every_precision_an_engine_offers_is_compared() -> None:
    offered = {"openvino": openvino.PRECISIONS}
    for name, module in (("onnxruntime", "ort"), ("torch", "eager")):
        if name in sys.modules or _is_installed(name):
            offered[name] = pytest.importorskip(f"resnext.engines.{module}").PRECISIONS
    for name, precisions in offered.items():
        assert set(parity.OFFERED[name]) == set(precisions) - {"auto"}
    rows = (*parity.OFFERED.values(), parity.ON_A_GPU)
    assert {name for row in rows for name in row} == set(TOLERANCES)
    if _is_installed("torch"):
        gpu = pytest.importorskip("resnext.engines.cuda")
        assert set(parity.ON_A_GPU) == set(gpu.PRECISIONS) - {"auto"}


def test_a_gpu_is_verified_where_there_is_one(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    for there in (False, True):
        monkeypatch.setattr(parity.select, "has_gpu", lambda there=there: there)
        found = [one.precision for one in parity.candidates(report.local) if one.engine == "torch"]
        assert found == (["fp32", "tf32", "bf16", "fp16"] if there else ["fp32", "bf16"])


def _is_installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


@pytest.mark.torch
def test_the_threads_of_torch_are_as_they_were() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()

    def open_engine(threads: int | None) -> AbstractEngine:
        if threads:
            torch.set_num_threads(before + 1)
        return ReplayEngine(lambda logits, _: logits)

    judge = Judge(NAMES, BATCH, _expected(), 1.0)
    judge.compare(Candidate(engine="torch", precision="fp32", open=open_engine))
    assert torch.get_num_threads() == before


def test_pictures_are_taken_evenly(tmp_path: Path) -> None:
    for index in range(10):
        (tmp_path / f"{index}.png").write_bytes(b"")
    chosen = parity.choose(str(tmp_path), 4)
    assert [Path(one.name).name for one in chosen] == ["0.png", "2.png", "5.png", "7.png"]
    assert len(parity.choose(str(tmp_path), 99)) == 10


@pytest.mark.slow
def test_the_starter_agrees_everywhere() -> None:
    found = parity.verify(weights.locate("starter"))
    found.require()
    exact = [one.figures for one in found.comparisons if one.precision == "fp32"]
    assert all(one.logits_relative < 1e-5 for one in exact if one)


def test_a_folder_that_is_not_there_or_empty_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no such file or folder"):
        parity.choose("no/where", 5)
    with pytest.raises(DatasetError, match="there are no pictures in this folder"):
        parity.choose(str(tmp_path), 5)
    with pytest.raises(DatasetError, match=r"no picture matches"):
        parity.choose(str(tmp_path / "*.png"), 5)
