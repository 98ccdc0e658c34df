"""`outputs`: files that appear when complete, keep what was done, and say why not."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from resnext.errors import OutputError
from resnext.results import outputs
from resnext.results.outputs import OutputFile, OutputStream

posix = pytest.mark.skipif(os.name != "posix", reason="a POSIX file system")


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@contextmanager
def _room_for(size: int) -> Iterator[None]:
    """Let files grow to `size` bytes: the kernel then stops half way, as a full disk does."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_the_name_appears_at_commit(tmp_path: Path) -> None:
    file = OutputFile(tmp_path / "a.csv")
    file.append("one\n")
    file.append(b"two\n")
    assert "a.csv" not in _names(tmp_path)
    file.commit()
    assert _names(tmp_path) == ["a.csv"]
    assert (tmp_path / "a.csv").read_bytes() == b"one\ntwo\n"


def test_the_old_file_stays_until_then(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_text("old")
    file = OutputFile(target)
    file.append("new")
    assert target.read_text() == "old"
    file.discard()
    assert target.read_text() == "old"
    assert _names(tmp_path) == ["a.csv"]


def test_what_was_written_can_be_kept(tmp_path: Path) -> None:
    file = OutputFile(tmp_path / "a.csv")
    file.append("one\n")
    assert file.keep() == tmp_path / "a.csv.partial"
    assert _names(tmp_path) == ["a.csv.partial"]
    assert (tmp_path / "a.csv.partial").read_text() == "one\n"


def test_a_file_of_that_name_stays_where_a_run_completes(tmp_path: Path) -> None:
    (tmp_path / "a.csv.partial").write_text("somebody's own")
    OutputFile(tmp_path / "a.csv").commit()
    assert (tmp_path / "a.csv.partial").read_text() == "somebody's own"


@posix
def test_permissions_follow_the_umask_and_the_old_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    OutputFile(new := tmp_path / "new").commit()
    assert new.stat().st_mode == plain.stat().st_mode
    plain.chmod(0o600)
    OutputFile(plain).commit()
    assert plain.stat().st_mode & 0o777 == 0o600


@posix
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "real" / "a.csv")
    file = OutputFile(link)
    file.append("x")
    file.commit()
    assert link.is_symlink()
    assert (tmp_path / "real" / "a.csv").read_text() == "x"
    file = OutputFile(link)
    file.append("y")
    kept = file.keep()
    assert kept == Path(os.path.realpath(tmp_path)) / "real" / "a.csv.partial"
    assert kept.read_text() == "y" and not (tmp_path / "link.csv.partial").exists()


@posix
def test_the_longest_name_works(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)
    OutputFile(target).commit()
    assert target.exists()
    file = OutputFile(target)
    assert file.keep() is None  # there is no room for `.partial`
    assert _names(tmp_path) == [target.name]


@posix
def test_a_device_is_written_and_not_replaced() -> None:
    file = OutputFile("/dev/null")
    file.append("x")
    file.commit()
    assert not Path("/dev/null").is_file()
    assert OutputFile("/dev/null").keep() is None


@posix
def test_a_pipe_is_written(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_text()))
    reader.start()
    file = OutputFile(fifo)
    file.append("x")
    file.commit()
    reader.join()
    assert received == ["x"]


def test_a_missing_folder_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no folder .*out\n\nhint: mkdir -p"):
        OutputFile(tmp_path / "out" / "a.csv")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder; expected the name of a file"):
        OutputFile(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_a_full_disk_names_the_path_and_what_is_free() -> None:
    file = OutputFile("/dev/full")
    with pytest.raises(OutputError, match=r"/dev/full: the disk is full \([\d.]+ MB free"):
        file.append("x")
    file.discard()


@posix
@pytest.mark.parametrize("room", range(24))
def test_a_full_disk_leaves_whole_records_only(tmp_path: Path, room: int) -> None:
    target = tmp_path / "a.csv"
    target.write_text("old")
    file = OutputFile(target)
    with _room_for(room), pytest.raises(OutputError, match="a.csv: cannot be written: File too"):
        for index in range(10):
            file.append(f"row {index}\n")
    partial = file.keep()
    assert partial is not None
    assert partial.read_text() == "".join(f"row {index}\n" for index in range(room // 6))
    assert target.read_text() == "old"


def test_an_interruption_leaves_whole_records_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = OutputFile(tmp_path / "a.csv")
    file.append("row 1\n")

    def interrupted(self: Any, data: Any) -> int:
        io.FileIO.write(self, data[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs._WholeFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        file.append(b"row 2\n")
    partial = file.keep()
    assert partial is not None
    assert partial.read_text() == "row 1\n"


@posix
def test_a_killed_process_never_leaves_a_half_file_under_the_name(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_text("old")
    code = (
        "import sys; from resnext.results.outputs import OutputFile\n"
        "file = OutputFile(sys.argv[1]); file.append('new'); print('written', flush=True)\n"
        "sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    assert target.read_text() == "old"


def test_a_stream_is_flushed_and_left_open() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8", newline="")
    output = OutputStream(stream)
    output.append("é\n")
    assert raw.getvalue() == "é\n".encode()
    output.commit()
    assert not stream.closed


class _Broken(io.StringIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def flush(self) -> None:
        raise self.error


def test_a_stream_whose_reader_left_says_so() -> None:
    with pytest.raises(BrokenPipeError):
        OutputStream(_Broken(BrokenPipeError())).append("x")


def test_a_stream_that_fails_is_an_output_error() -> None:
    stream = _Broken(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OutputError, match="the output cannot be written: No space left"):
        OutputStream(stream).append("x")
