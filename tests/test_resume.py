"""`training.resume`: from the newest checkpoint of the same run, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from runs import STEPS, differences, finish, make, newest, one_thread, pictures  # noqa: F401

from resnext.errors import ConfigError, DatasetError, ModelFileError
from resnext.predictions import Labels
from resnext.training import checkpoint, dist, loop
from resnext.training.resume import check_alike, restore_latest
from resnext.training.state import Run, start

pytestmark = pytest.mark.torch

SETTINGS = ("schedule.epochs=1", "optim.batch_size=13")  # two steps


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with a checkpoint of each; to be copied and not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    loop.fit(make(*SETTINGS), folder, checkpoint_seconds=0)
    assert len(checkpoint.found(folder / "checkpoints")) == 2
    return folder


@pytest.fixture
def begun(trained: Path, tmp_path: Path) -> Path:
    """The checkpoints of that run, of which each test has its own."""
    places = tmp_path / "checkpoints"
    places.mkdir()
    for path in checkpoint.found(trained / "checkpoints"):
        os.link(path, places / path.name)
    return places


def _restore(places: Path, run: Run | None = None) -> tuple[str, int]:
    run = run or make(*SETTINGS)
    state = start(run)
    return restore_latest(state, run, places), state.step


def test_the_newest_is_taken(begun: Path, tmp_path: Path) -> None:
    assert _restore(begun) == ("", 2)
    assert _restore(tmp_path / "absent") == ("", 0)


def _damaged(path: Path, harm: Callable[[Path], Any]) -> None:
    path.unlink()
    harm(path)


HARMS = {
    "empty": Path.touch,
    "FIFO": os.mkfifo,
    "folder": Path.mkdir,
    "noise": lambda path: path.write_bytes(os.urandom(5000)),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_one_is_passed_over_and_named(begun: Path, harm: str) -> None:
    bad = checkpoint.path_of(begun, 2)
    _damaged(bad, HARMS[harm])
    warning, step = _restore(begun)
    assert step == 1
    assert warning.startswith(f"{bad}: not a ")
    assert warning.endswith(f"; going on from {checkpoint.path_of(begun, 1)}")


def test_the_run_goes_on_from_the_one_before_to_the_same_bits(begun: Path, trained: Path) -> None:
    _damaged(checkpoint.path_of(begun, 2), Path.touch)
    said: list[str] = []

    class Listener(loop.Listener):
        def warned(self, text: str) -> None:
            said.append(text)

    loop.fit(make(*SETTINGS), begun.parent, listener=Listener())
    assert len(said) == 1
    assert "step-00000002.ckpt: not a whole checkpoint" in said[0]
    assert not differences(newest(begun.parent), newest(trained))


def test_by_default_a_warning_goes_to_stderr(begun: Path, capsys: Any) -> None:
    _damaged(checkpoint.path_of(begun, 2), Path.touch)
    loop.fit(make(*SETTINGS), begun.parent)
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("warning: ")
    assert "step-00000002.ckpt" in err


def test_one_of_another_network_is_passed_over(begun: Path, tmp_path: Path) -> None:
    other = make(*SETTINGS, "model.architecture=resnext29_2x1d")
    saved = start(other).to_save() | other.origin
    checkpoint.save(begun, 5, saved, keep=3)
    warning, step = _restore(begun)
    assert step == 2
    assert (
        "step-00000005.ckpt: of another network: model.architecture is 'resnext29_2x1d';"
        " expected 'resnext29_1x1d'" in warning
    )
    with pytest.raises(ModelFileError, match=r"no checkpoint can be used: .*'resnext50_32x4d'"):
        _restore(begun, make(*SETTINGS, "model.architecture=resnext50_32x4d"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"step": 3}, "lacks 'config'; expected a checkpoint of a run"),
        ({"config": {"model": {"no": 1}}}, "its settings cannot be read"),
        ({"model": {}}, "it does not fit: .*Missing key"),
    ],
)
def test_one_of_something_else_is_passed_over(begun: Path, content: Any, reason: str) -> None:
    whole = {} if "step" in content else checkpoint.load(checkpoint.path_of(begun, 2))
    checkpoint.save(begun, 7, whole | content, keep=3)
    assert _restore(begun)[1] == 2
    with pytest.raises(AssertionError):
        assert _restore(begun)[0] == ""
    checkpoint.path_of(begun, 2).unlink()
    checkpoint.path_of(begun, 1).unlink()
    with pytest.raises(ModelFileError, match=f"07.ckpt: {reason}"):
        _restore(begun)


def _renamed(run: Run, names: tuple[str, ...]) -> Run:
    return replace(run, train=replace(run.train, labels=Labels(names)))


def test_other_data_stops_the_run(begun: Path) -> None:
    run = make(*SETTINGS)
    with pytest.raises(DatasetError, match="000002.ckpt: the class list was another"):
        _restore(begun, _renamed(run, ("green", "red", "blue")))
    fewer = replace(run, train=replace(run.train, samples=run.train.samples[:-1]))
    with pytest.raises(DatasetError, match="the training set was another when the run began"):
        _restore(begun, fewer)
    for test in (None, pictures(4, seed=5)):
        with pytest.raises(DatasetError, match="the test set was another"):
            _restore(begun, replace(run, test=test))


def test_other_settings_stop_the_run(begun: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"02\.ckpt: the run began with optim.lr=0.005; now it is "
    ):
        _restore(begun, make(*SETTINGS, "optim.lr=0.01"))
    with pytest.raises(ConfigError, match=r"optim.batch_size=13; now it is 4") as caught:
        _restore(begun, make(SETTINGS[0]))
    assert f"start anew in another folder, or remove {begun.parent}" in caught.value.hint


def test_what_does_not_change_the_result_may_change(begun: Path) -> None:
    free = ("data.num_workers=3", "patience=4", "schedule.epochs=9", "optim.grad_accum_steps=2",
            "data.split_seed=7", "data.val_share=0.3")  # fmt: skip
    assert _restore(begun, make(*SETTINGS, *free)) == ("", 2)


def _differ(folder: Path, what: str) -> None:
    with dist.joined("cpu", timeout=20) as processes:
        settings = ["seed=1"] if what == "settings" and processes.is_first else []
        run = make(*settings, processes=processes)
        if what == "files" and not processes.is_first:
            run = make(train=pictures(25), processes=processes)
        if what == "class map" and not processes.is_first:
            run = _renamed(run, ("green", "red", "blue"))
        if what == "folder":
            folder /= str(processes.rank)
            if processes.is_first:
                loop.checkpoint.save(folder / "checkpoints", 1, start_alone())
        loop.fit(run, folder)


def start_alone() -> checkpoint.State:
    run = make()
    return start(run).to_save() | run.origin | {"step": 1}


@pytest.mark.parametrize(
    ("what", "end"),
    [
        ("files", "DatasetError: process 1 has another training set than process 0"),
        ("class map", "DatasetError: process 1 has another class list than process 0"),
        ("settings", "ConfigError: process 1 has another config than process 0"),
        ("folder", "TrainingError: process 1 goes on after step 0, process 0 after step 1"),
    ],
)
def test_processes_that_differ_do_not_start(tmp_path: Path, what: str, end: str) -> None:
    ends = finish(_differ, tmp_path, what, ranks=2)
    assert ends[0].startswith(end), ends
    assert ends[1].startswith(end.partition(":")[0]), ends


def test_a_batch_that_does_not_divide_is_refused_at_the_start() -> None:
    with pytest.raises(
        ConfigError, match="(?s)expected a multiple of 3, the number of processes.*batch_size=6$"
    ):
        check_alike(make(processes=dist.Processes(world_size=3)))
    with pytest.raises(ConfigError, match="expected at most 26, the number of training pictures"):
        check_alike(make("optim.batch_size=27"))
    assert make().order.steps * 2 == STEPS
