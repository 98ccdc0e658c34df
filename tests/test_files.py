"""`files.atomic`: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnext import files
from resnext.errors import ConfigError, OutputError


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    with files.atomic(target) as file:
        file.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), files.atomic(target) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_a_full_disk_is_named_with_the_space_left(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"out\.bin: the disk is full \([\d.]+ MB free\)"):
        with files.atomic(target):
            raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputError, match=r"the disk is full \([\d.]+ MB free, 5.0 MB needed\)"):
        with files.atomic(target, size=5_000_000):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_bytes() == b"old"


def test_the_rest_of_a_file_is_hashed(tmp_path: Path) -> None:
    content = os.urandom((9 << 20) + 5)  # chunks, and a piece of one
    path = tmp_path / "file"
    path.write_bytes(content)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(3)
        files.hash_rest(file, digest)
    assert digest.digest() == hashlib.sha256(content[3:]).digest()


def test_names_of_temporary_files_are_hidden_and_differ() -> None:
    names = {files.temporary_name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(".resnext-") and name.endswith(".tmp") for name in names)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        with files.atomic(tmp_path / "absent" / "out.bin"):
            pass


def test_the_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    with files.atomic(tmp_path / "a"):
        pass
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    code = (
        "import os, signal, sys; from resnext import files\n"
        "with files.atomic(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -9
    assert target.read_bytes() == b"old"


def test_where_nothing_can_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    files.check_place(tmp_path / "new.json")
    with pytest.raises(OutputError, match="there is no folder") as raised:
        files.check_place(tmp_path / "absent" / "new.json")
    assert "mkdir" in raised.value.hint
    with pytest.raises(OutputError, match="is a folder; expected the name of a file"):
        files.check_place(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="may write everywhere")
def test_a_read_only_folder_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="read-only"):
        files.check_place(tmp_path / "locked" / "new.json")


def test_a_result_replaces_a_result_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"old")
    for name in ("a.csv", "new.csv", "new.safetensors"):
        files.check_replaceable(tmp_path / name, inputs=[tmp_path / "none.jpg", "-"])
    files.check_replaceable(Path(os.devnull))


@pytest.mark.parametrize("name", ["a.safetensors", "a.PTH", "a.onnx"])
def test_a_result_replaces_no_model_unless_it_is_one_of_its_own(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"12345678 own kind")
    with pytest.raises(ConfigError, match=f"{name} is there, and has the name of a model"):
        files.check_replaceable(tmp_path / name)
    with pytest.raises(ConfigError, match="name of a model"):
        files.check_replaceable(tmp_path / name, mark=b"another")
    files.check_replaceable(tmp_path / name, mark=b"own kind")


def test_a_result_replaces_no_picture_in_a_folder_it_is_made_from(tmp_path: Path) -> None:
    inner = tmp_path / "photos" / "cats"
    inner.mkdir(parents=True)
    for name in ("a.JPG", "a.json"):
        (inner / name).write_bytes(b"old")
    with pytest.raises(ConfigError, match=r"a\.JPG is both a file to read and the output"):
        files.check_replaceable(inner / "a.JPG", inputs=[tmp_path / "photos"])
    files.check_replaceable(inner / "a.JPG", inputs=[tmp_path / "others"])
    files.check_replaceable(inner / "a.json", inputs=[tmp_path / "photos"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"old")
    (tmp_path / "a.onnx").chmod(0)
    with pytest.raises(OutputError, match="Permission denied"):
        files.check_replaceable(tmp_path / "a.onnx")


def test_a_result_replaces_nothing_that_it_is_made_from(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    os.link(tmp_path / "a.png", tmp_path / "b.png")
    with pytest.raises(ConfigError, match=r"b\.png is both a file to read and the output"):
        files.check_replaceable(tmp_path / "b.png", inputs=[tmp_path / "a.png"])
