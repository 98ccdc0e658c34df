"""`training.checkpoint`: whole or refused by name, whatever happened to the disk."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import torch
from runs import finish, launch

from resnext.errors import ModelFileError, OutputError
from resnext.training import checkpoint

pytestmark = pytest.mark.torch


def _state(step: int) -> checkpoint.State:
    return {"step": step, "model": {"weight": torch.full((1000,), float(step))}}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "made", 7, _state(7))
    assert path.name == "step-00000007.ckpt"
    loaded = checkpoint.load(path)
    assert loaded["step"] == 7
    assert torch.equal(loaded["model"]["weight"], _state(7)["model"]["weight"])


def test_the_newest_few_stay(tmp_path: Path) -> None:
    for step in (1, 2, 30, 100_000_000):
        checkpoint.save(tmp_path, step, _state(step), keep=2)
    assert [path.name for path in checkpoint.found(tmp_path)] == [
        "step-00000030.ckpt", "step-100000000.ckpt"
    ]  # fmt: skip
    checkpoint.save(tmp_path, 100_000_001, _state(1), keep=0)
    assert len(checkpoint.found(tmp_path)) == 1, "at least one stays"


def test_later_steps_of_an_abandoned_run_do_not_come_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 50, _state(50))
    checkpoint.path_of(tmp_path, 60).mkdir()  # cannot be removed, and does no harm
    checkpoint.save(tmp_path, 10, _state(10), keep=1)
    assert checkpoint.path_of(tmp_path, 10).exists()
    assert not checkpoint.path_of(tmp_path, 50).exists()
    latest = checkpoint.load_latest(tmp_path)
    assert latest is not None
    assert latest[0] == checkpoint.path_of(tmp_path, 10)


def test_all_can_be_removed_to_begin_anew(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, _state(step))
    (tmp_path / "note.txt").touch()
    checkpoint.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    checkpoint.clear(tmp_path / "absent")


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".resnext-0123456789abcdef.tmp"
    left.write_bytes(b"half")
    checkpoint.save(tmp_path, 1, _state(1))
    assert not left.exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _cut_to_the_middle(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def _flip_in_the_hash(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] = 255
    path.write_bytes(content)


def _replace(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def _pickled(path: Path, state: Any) -> None:
    checkpoint._write(path, memoryview(state))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (_replace(Path.touch), r"not a whole checkpoint \(0 bytes\)"),
    "cut short": (_cut, "not a whole checkpoint"),
    "cut in half": (_cut_to_the_middle, "not a whole checkpoint"),
    "a flipped bit": (_flip, "not those that were written"),
    "another hash": (_flip_in_the_hash, "not those that were written"),
    "FIFO": (_replace(os.mkfifo), "not a regular file"),
    "folder": (_replace(Path.mkdir), "not a regular file"),
    "broken link": (_replace(lambda path: path.symlink_to("nothing")), "No such file"),
    "link to itself": (_replace(lambda path: path.symlink_to(path)), "symbolic links"),
    "no pickle": (lambda path: _pickled(path, b"hashed, but nothing of torch's"), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_refused_and_the_one_before_taken(tmp_path: Path, damage: str) -> None:
    good = checkpoint.save(tmp_path, 1, _state(1))
    bad = checkpoint.save(tmp_path, 2, _state(2))
    harm, reason = DAMAGES[damage]
    harm(bad)
    with pytest.raises(ModelFileError, match=f"step-00000002.ckpt: .*{reason}"):
        checkpoint.load(bad)
    taken: list[int] = []
    latest = checkpoint.load_latest(tmp_path, lambda path, state: taken.append(state["step"]))
    assert latest is not None
    assert (latest[0], taken) == (good, [1])
    assert "step-00000002.ckpt" in latest[1][0]


def test_one_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, _state(1))
    path.chmod(0)
    with _nobody(), pytest.raises(ModelFileError, match=r"000001\.ckpt: .*Permission denied"):
        checkpoint.load(path)
    path.parent.chmod(0)
    try:
        with _nobody(), pytest.raises(ModelFileError, match=f"{tmp_path}: .*Permission denied"):
            checkpoint.load_latest(tmp_path)
    finally:
        path.parent.chmod(0o700)


class _nobody:
    """Act as a user who owns nothing, where this one may read all."""

    def __enter__(self) -> None:
        self.root = os.geteuid() == 0
        if self.root:
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        if self.root:
            os.seteuid(0)


def test_nothing_is_no_checkpoint_and_nothing_whole_is_an_error(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path / "absent") is None
    assert checkpoint.load_latest(tmp_path) is None
    checkpoint.path_of(tmp_path, 1).touch()
    checkpoint.path_of(tmp_path, 2).touch()
    with pytest.raises(ModelFileError, match=r"no checkpoint can be used: .*002\.ckpt.*001\.ckpt"):
        checkpoint.load_latest(tmp_path)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = checkpoint.save(tmp_path, 1, {"bomb": Bomb()})
    with pytest.raises(ModelFileError, match="cannot be read"):
        checkpoint.load(path)
    assert not (tmp_path / "exploded").exists()


def test_a_full_disk_leaves_the_old_one_and_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    old = checkpoint.save(tmp_path, 1, _state(1))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"02\.ckpt: the disk is full \(.* free, .* needed\)"):
            checkpoint.save(tmp_path, 2, _state(2), keep=1)
    assert os.listdir(tmp_path) == [old.name]
    assert checkpoint.load(old)["step"] == 1


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)]
    try:
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no disk can be mounted here")
    except OSError:
        pytest.skip("no disk can be mounted here")
    try:
        old = checkpoint.save(tmp_path, 1, _state(1))
        large = {"model": torch.zeros(100_000)}
        with pytest.raises(OutputError, match=r"full \(0\.1 MB free, 0\.4 MB needed\)"):
            checkpoint.save(tmp_path, 2, large)
        assert checkpoint.found(tmp_path) == [old]
        assert checkpoint.load(old)["step"] == 1
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_place_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/checkpoints: cannot be written"):
        checkpoint.save(tmp_path / "file" / "checkpoints", 1, _state(1))


def _save_until_killed(folder: Path, size: int) -> None:
    """Write checkpoint after checkpoint; die for good after so many bytes of files."""
    left = [size]

    class Dying:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: Any) -> None:
            data = memoryview(data)
            if len(data) >= left[0]:
                self.file.write(data[: left[0]])
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= len(data)
            self.file.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    atomic = checkpoint.atomic

    @contextlib.contextmanager
    def dying(path: Path, **options: Any) -> Any:
        with atomic(path, **options) as file:
            yield Dying(file)

    checkpoint.atomic = dying  # type: ignore[assignment]
    for step in itertools.count(1):
        checkpoint.save(folder, step, _state(step), keep=1)


def _kill_at(folder: Path, size: int, length: int) -> None:
    assert finish(_save_until_killed, folder, size) == ["killed"]
    written = (size - 1) // length  # whole checkpoints
    latest = checkpoint.load_latest(folder)
    if not written:
        assert latest is None
        return
    assert latest is not None
    assert latest[0] == checkpoint.path_of(folder, written)
    assert not latest[1], "half a file has a name of its own"
    assert checkpoint.load(latest[0])["step"] == written


def test_a_kill_at_any_byte_leaves_a_whole_one(tmp_path: Path) -> None:
    length = checkpoint.save(tmp_path, 1, _state(1)).stat().st_size
    for size in (2 * length + 1, 3 * length - 1):
        _kill_at(tmp_path / str(size), size, length)


@pytest.mark.slow
def test_a_kill_at_many_bytes_leaves_a_whole_one(tmp_path: Path) -> None:
    length = checkpoint.save(tmp_path, 1, _state(1)).stat().st_size
    rng = random.Random(0)
    for size in [1, length, length + 1] + [rng.randrange(1, 5 * length) for _ in range(17)]:
        _kill_at(tmp_path / str(size), size, length)


def _save_for_ever(folder: Path) -> None:
    for step in itertools.count(1):
        checkpoint.save(folder, step, _state(step), keep=1)


def test_at_every_instant_there_is_a_whole_one(tmp_path: Path) -> None:
    """Read what another process writes, while it writes, then kill it."""
    (process,) = launch(_save_for_ever, tmp_path)
    try:
        while not checkpoint.found(tmp_path):
            pass
        steps = []
        for _ in range(50):
            for path in checkpoint.found(tmp_path)[-1:]:
                try:
                    steps.append(checkpoint.load(path)["step"])
                except ModelFileError as error:
                    # Between listing and reading it was replaced by a newer one.
                    assert "No such file" in str(error)
    finally:
        process.kill()
        process.join()
    assert steps == sorted(steps)
    latest = checkpoint.load_latest(tmp_path)
    assert latest is not None
    assert not latest[1]
