"""What a run leaves in its folder, and what it says meanwhile."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext import modelfile
from resnext.errors import OutputError
from resnext.training import records

torch: Any = pytest.importorskip("torch")
pytest.importorskip("matplotlib")
import runs  # noqa: E402

log: Any = pytest.importorskip("resnext.training.log")
loop: Any = pytest.importorskip("resnext.training.loop")

pytestmark = pytest.mark.torch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(folder: Path, *settings: str, stream: Any = None, **parts: Any) -> Any:
    """Train a small run with a log; return its state."""
    torch.set_num_threads(1)
    run = runs.make(*settings, **parts)
    listener = log.RunLog(folder, stream=stream or io.StringIO(), split={"kind": "given"})
    try:
        return loop.fit(run, folder, listener=listener)
    finally:
        listener.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two epochs."""
    path = tmp_path_factory.mktemp("log") / "my run"
    train(path)
    return path


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests quick; `folder` and test_plots.py draw."""
    monkeypatch.setattr(log.plots, "draw_curves", lambda _lines, path: path.touch())
    monkeypatch.setattr(log.plots, "draw_batch", lambda _images, _labels, path: path.touch())


def test_the_folder_has_all_of_it(folder: Path) -> None:
    assert records.read_json(folder / "config.json") == runs.config().to_json()
    assert records.read_json(folder / "data.json")["train_pictures"] == runs.TRAIN
    lines = records.read(folder / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [line["step"] for line in lines] == [6, 12]
    assert {"loss", "lr", "val_loss", "top1", "top5", "images_per_s", "seconds"} <= lines[0].keys()
    assert lines[0]["best"] is True
    for name in ("curves.png", "batch.png"):
        with Image.open(folder / name) as image:
            assert image.format == "PNG"


def test_the_best_and_the_last_model_say_what_they_are(folder: Path) -> None:
    lines = records.read(folder / "metrics.jsonl")
    best = max(lines, key=lambda line: (line["top1"], -line["epoch"]))
    for name, line in (("best", best), ("last", lines[-1])):
        document, _tensors = modelfile.read(folder / f"{name}.safetensors")
        assert document.name == "my run"
        assert document.labels.class_names == ("red", "green", "blue")
        assert document.architecture.num_classes == 3
        assert document.preprocess.input_size == runs.SIZE
        assert document.metrics["top1"] == line["top1"]
        assert document.metrics["epoch"] == line["epoch"]
        assert document.provenance["config"] == runs.config().to_json()
        assert document.provenance["dataset"]["split"] == {"kind": "given"}
        assert "torch " in document.provenance["software"]
        chosen = ", which chose the epoch" if name == "best" else ""
        assert document.metrics["data"] == f"10 validation pictures of the run{chosen}"


def test_the_last_model_answers_as_the_network_does(folder: Path, tmp_path: Path) -> None:
    state = train(tmp_path / "run", "schedule.epochs=1")
    _document, tensors = modelfile.read(tmp_path / "run" / "last.safetensors")
    for name, tensor in state.model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert np.array_equal(tensors[name], tensor.numpy())


def test_without_validation_there_is_no_best(tmp_path: Path) -> None:
    train(tmp_path, "schedule.epochs=1", test=None)
    assert not (tmp_path / "best.safetensors").exists()
    document, _ = modelfile.verify(tmp_path / "last.safetensors")
    assert "top1" not in document.metrics
    assert "top1" not in records.read(tmp_path / "metrics.jsonl")[0]


def test_lines_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    train(tmp_path, "schedule.epochs=1")
    done = records.read(tmp_path / "metrics.jsonl")
    records.append(tmp_path / "metrics.jsonl", done[0] | {"epoch": 2, "step": 12, "loss": 99.0})
    said = io.StringIO()
    train(tmp_path, "schedule.epochs=2", stream=said)
    lines = records.read(tmp_path / "metrics.jsonl")
    assert lines[0] == done[0]
    assert [line["step"] for line in lines] == [6, 12]
    assert lines[1]["loss"] != 99.0
    assert "going on after step 6 of 12" in said.getvalue()


def test_a_line_an_epoch_where_nobody_watches(tmp_path: Path) -> None:
    said = io.StringIO()
    train(tmp_path, stream=said)
    begin, first, second = said.getvalue().splitlines()
    assert begin == "resnext29_1x1d on cpu: 26 pictures, 6 steps an epoch, 2 epochs"
    assert first.startswith("epoch 1/2:  loss ")
    assert "% (best)" in first
    assert first.endswith(" left")
    assert second.startswith("epoch 2/2:  loss ")
    assert "\r" not in said.getvalue()


def test_a_terminal_sees_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("COLUMNS", "200")
    said = Terminal()
    train(tmp_path, "schedule.epochs=1", stream=said)
    steps = [text for text in said.getvalue().split("\r\x1b[K") if "  step " in text]
    assert [text.split()[3] for text in steps] == [f"{number}/6" for number in range(1, 7)]
    assert all("images/s" in text and text.endswith(" left") for text in steps)
    assert said.getvalue().endswith("\n") or said.getvalue().endswith("\r\x1b[K")


def test_a_narrow_terminal_is_not_overrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    said = Terminal()
    talk = log.Talk(said)
    talk.begin(0, runs.make())
    talk.step(1, 1.0, 0.1)
    assert len(said.getvalue().removeprefix("\r\x1b[K")) == 19


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(log.time, "monotonic", clock)
    return clock


def epoch(number: int, **changes: Any) -> dict[str, Any]:
    """Return the record of an epoch of 6 steps of a second, and 2 seconds of evaluation."""
    record = {"epoch": number, "step": 6 * number, "loss": 1.0, "lr": 0.1, "best": False}
    return record | {"images_per_s": 4.0, "seconds": 8.0} | changes


def test_the_time_left_at_first_is_without_the_start(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_ESTIMATE_AFTER", 4)
    said = io.StringIO()
    talk = log.Talk(said)
    talk.begin(0, runs.make())
    clock.now += 100.0  # in which processes start
    for step in range(1, 5):
        clock.now += 1.0
        talk.step(step, 1.0, 0.1)
    # 8 steps, and two evaluations of 10 pictures at three times the speed.
    assert said.getvalue() == "4 images/s at first: about 0:10 left\n"


def test_nothing_is_said_to_be_at_first_after_an_epoch(clock: Clock) -> None:
    said = io.StringIO()
    talk = log.Talk(said)
    talk.begin(0, runs.make("schedule.epochs=9"))
    for step in range(1, 31):
        clock.now += 1.0
        talk.step(step, 1.0, 0.1)
        if step % 6 == 0:
            talk.epoch_done(epoch(step // 6))
    assert "at first" not in said.getvalue()
    assert said.getvalue().count(" left\n") == 5


def test_the_time_left_is_by_the_speed_that_stands_beside_it(clock: Clock) -> None:
    said = io.StringIO()
    talk = log.Talk(said)
    talk.begin(4, runs.make("schedule.epochs=3"))  # goes on in the first epoch
    for step, seconds in ((5, 90.0), (6, 1.0)):
        clock.now += seconds
        talk.step(step, 1.0, 0.1)
    talk.epoch_done(epoch(1, seconds=4.0))
    clock.now += 100.0  # such as a machine that slept
    talk.epoch_done(epoch(2, images_per_s=2.0, seconds=15.0))
    talk.epoch_done(epoch(3))
    first, second, last = said.getvalue().splitlines()
    assert first.endswith("4 images/s  0:16 left"), "12 steps of a second, 2 evaluations of two"
    assert second.endswith("2 images/s  0:15 left"), "6 steps of two seconds, one of three"
    assert last.endswith("4 images/s")


def test_an_epoch_that_lacked_its_evaluation_only_says_no_time(clock: Clock) -> None:
    said = io.StringIO()
    talk = log.Talk(said)
    talk.begin(6, runs.make())  # stopped after the last step of the first epoch
    talk.epoch_done(epoch(1, images_per_s=0.0, seconds=2.0))
    assert said.getvalue().endswith("0 images/s\n")


def test_the_line_of_a_terminal_follows_the_epoch_it_is_in(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    said = Terminal()
    talk = log.Talk(said)
    talk.begin(0, runs.make())
    talk.epoch_done(epoch(1))
    for step in range(7, 10):
        clock.now += 3.0
        talk.step(step, 1.0, 0.1)
    # Half of the epoch took three seconds a step, the last one a second.
    assert said.getvalue().endswith("1 images/s  0:08 left")


def test_only_the_first_process_writes_and_speaks(tmp_path: Path) -> None:
    said = io.StringIO()
    second = runs.dist.Processes(rank=1)
    listener = log.RunLog(tmp_path / "run", processes=second, stream=said)
    listener.warned("something")
    listener.close()
    assert said.getvalue() == ""
    assert not (tmp_path / "run").exists()


def test_warnings_are_said(tmp_path: Path) -> None:
    said = io.StringIO()
    log.RunLog(tmp_path, stream=said).warned("a checkpoint was passed over")
    assert said.getvalue() == "warning: a checkpoint was passed over\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7, "0:07"), (187.4, "3:07"), (3600, "1:00:00"), (188_645, "2d 4:24:05")],
)
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    assert log.duration(seconds) == text


def test_the_batch_is_what_the_network_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("augment.mixup_alpha=1", "optim.batch_size=20", "augment.policy=trivial")
    run = runs.make(*settings)
    drawn: dict[str, Any] = {}

    def remember(images: Any, labels: Any, _path: Path) -> None:
        drawn.update(images=images, labels=labels)

    monkeypatch.setattr(log.plots, "draw_batch", remember)
    log.draw_first_batch(run, tmp_path / "batch.png")

    seen: list[Any] = []
    state = loop.start(run)
    state.model.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()))
    loop.train_step(state, *runs.batch(run), run)
    mean, std = (np.array(v) for v in (run.config.data.mean, run.config.data.std))
    whole = seen[0].permute(0, 2, 3, 1).numpy() * std + mean
    expected = np.concatenate([whole[:8], whole[10:18]])  # the first of both halves
    assert drawn["images"] == pytest.approx(expected.clip(0, 1), abs=1e-5)
    assert len(drawn["labels"]) == 16


def test_the_labels_of_the_batch_are_right(tmp_path: Path, monkeypatch: Any) -> None:
    run = runs.make("optim.batch_size=5", "augment.crop_area=1,1")
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(
        log.plots, "draw_batch", lambda images, labels, _path: drawn.update(i=images, l=labels)
    )
    log.draw_first_batch(run, tmp_path / "batch.png")
    dark = drawn["i"].mean(axis=(1, 2)).argmin(axis=1)  # the class is the color that is dark
    assert drawn["l"] == [("red", "green", "blue")[color] for color in dark]


def test_tensorboard_gets_the_numbers(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (path,) = folder.glob("events.out.tfevents*")
    found: dict[str, list[tuple[int, float]]] = {}
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    lines = records.read(folder / "metrics.jsonl")
    for key in ("loss", "lr", "top1"):
        assert [step for step, _ in found[key]] == [6, 12]
        assert [value for _, value in found[key]] == pytest.approx([line[key] for line in lines])


def test_without_tensorboard_all_else_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log.importlib.util, "find_spec", lambda _name: None)
    train(tmp_path, "schedule.epochs=1")
    assert not list(tmp_path.glob("events*"))
    assert (tmp_path / "curves.png").exists()


def test_a_full_disk_leaves_the_last_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, "schedule.epochs=1")
    before = (tmp_path / "last.safetensors").read_bytes()
    fsync, synced = os.fsync, []

    def full(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if synced[-1].endswith(".tmp") and any(name.endswith(".jsonl") for name in synced):
            raise OSError(errno.ENOSPC, "No space left on device")  # once the line is written
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"last.safetensors: the disk is full"):
        train(tmp_path, "schedule.epochs=2")
    assert (tmp_path / "last.safetensors").read_bytes() == before
    modelfile.verify(tmp_path / "last.safetensors")
