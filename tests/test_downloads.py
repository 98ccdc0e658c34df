from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import server as faults
from server import Server, serving

from resnext.errors import OutputError, WeightsCorruptError, WeightsUnavailableError
from resnext.hub import downloads
from resnext.hub.downloads import Policy, Request, download, lock

CONTENT = bytes(range(256)) * 400  # 102,400 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = "/weights/model.safetensors"


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as server:
        server.put(FILE, CONTENT)
        yield server


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def policy(waits: list[float]) -> Policy:
    """Everything as in earnest, but for the waiting."""
    return Policy(sleep=waits.append)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def only(target: Path) -> bool:
    """Tell whether the file is there, right, and nothing else is beside it."""
    return target.read_bytes() == CONTENT and os.listdir(target.parent) == [target.name]


def test_file_arrives_with_receipt_and_progress(http: Server, target: Path, policy: Policy):
    steps: list[tuple[int, int | None]] = []
    receipt = download(
        Request(url=http.url(FILE), sha256=SHA256[:8]),
        target,
        progress=lambda done, total: steps.append((done, total)),
        policy=policy,
    )
    assert only(target)
    assert (receipt.sha256, receipt.size, receipt.url) == (SHA256, len(CONTENT), http.url(FILE))
    assert steps[-1] == (len(CONTENT), len(CONTENT))


def test_dropped_connection_is_resumed(http: Server, target: Path, policy: Policy, waits):
    http.misbehave(FILE, faults.drop(10_000), faults.drop(50_000))
    download(Request(url=http.url(FILE), sha256=SHA256), target, policy=policy)
    assert only(target)
    first, second, third = (seen.headers.get("range") for seen in http.requests(FILE))
    # The second drop ignored the range and so started over; the third request goes on.
    assert (first, second, third) == (None, "bytes=10000-", "bytes=50000-")
    assert len(waits) == 2 and waits[0] <= 0.5 and waits[1] <= 1.0


def test_partial_of_a_dead_process_is_resumed(http: Server, target: Path):
    http.misbehave(FILE, faults.drop(30_000))
    impatient = Policy(tries=1)
    with pytest.raises(WeightsUnavailableError, match="ended after 30000 of 102400 bytes"):
        download(Request(url=http.url(FILE)), target, policy=impatient)
    assert not target.exists()
    download(Request(url=http.url(FILE), sha256=SHA256), target, policy=impatient)
    assert only(target)
    assert http.seen[-1].headers["range"] == "bytes=30000-"


def test_complete_partial_of_a_dead_process_only_takes_its_name(http: Server, target: Path):
    http.misbehave(FILE, faults.wrong_length(+1))
    with pytest.raises(WeightsUnavailableError, match="ended after 102400 of 102401"):
        download(Request(url=http.url(FILE)), target, policy=Policy(tries=1))
    # That server sent no ETag; let the state say what a good one would have.
    state = target.with_name(target.name + ".partial.json")
    etag = '\\"' + hashlib.md5(CONTENT).hexdigest() + '\\"'
    state.write_text(f'{{"url": "{http.url(FILE)}", "validator": "{etag}"}}')
    download(Request(url=http.url(FILE), sha256=SHA256), target, policy=Policy(tries=1))
    assert only(target)


def test_changed_file_is_not_glued_to_the_old_part(http: Server, target: Path):
    http.misbehave(FILE, faults.drop(30_000))
    with pytest.raises(WeightsUnavailableError):
        download(Request(url=http.url(FILE)), target, policy=Policy(tries=1))
    http.put(FILE, CONTENT[::-1])
    download(Request(url=http.url(FILE)), target, policy=Policy(tries=1))
    assert target.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("state", ["", "{", "[]", "null", '{"url": 1, "validator": 2}'])
def test_damaged_state_of_a_partial_starts_over(http: Server, target: Path, state: str):
    target.with_name(target.name + ".partial").write_bytes(b"junk")
    target.with_name(target.name + ".partial.json").write_text(state)
    download(Request(url=http.url(FILE), sha256=SHA256), target)
    assert only(target)
    assert "range" not in http.seen[0].headers


def test_ignored_range_starts_over(http: Server, target: Path, policy: Policy):
    http.misbehave(FILE, faults.drop(10_000), faults.ignore_range)
    download(Request(url=http.url(FILE), sha256=SHA256), target, policy=policy)
    assert only(target)


def test_wrong_part_starts_over(http: Server, target: Path, policy: Policy):
    http.misbehave(FILE, faults.drop(10_000), faults.wrong_part)
    download(Request(url=http.url(FILE)), target, policy=policy)
    assert only(target)
    assert len(http.requests(FILE)) == 3


def test_refused_range_starts_over(http: Server, target: Path, policy: Policy):
    http.misbehave(FILE, faults.drop(10_000), faults.status(416))
    download(Request(url=http.url(FILE)), target, policy=policy)
    assert only(target)


def test_too_long_a_length_is_never_a_file(http: Server, target: Path, policy: Policy):
    http.misbehave(FILE, *[faults.wrong_length(+100)] * 5)
    with pytest.raises(WeightsUnavailableError, match=r"102400 of 102500 bytes \(tried 5 times"):
        download(Request(url=http.url(FILE), sha256=SHA256), target, policy=policy)
    assert not target.exists()


def test_too_short_a_length_is_found_by_the_hash(http: Server, target: Path, policy: Policy):
    http.misbehave(FILE, faults.wrong_length(-100))
    download(Request(url=http.url(FILE), sha256=SHA256), target, policy=policy)
    assert only(target)
    assert len(http.requests(FILE)) == 2


def test_wrong_content_once_is_fetched_again(http: Server, target: Path, policy: Policy):
    http.misbehave(FILE, faults.other_content(b"<html>log in to the hotel</html>"))
    download(Request(url=http.url(FILE), sha256=SHA256[:8]), target, policy=policy)
    assert only(target)


def test_wrong_content_twice_is_corrupt(http: Server, target: Path, policy: Policy):
    target.write_bytes(b"what was there before")
    http.put(FILE, b"tampered")
    with pytest.raises(WeightsCorruptError, match="twice not the promised file: its sha256 is"):
        download(Request(url=http.url(FILE), sha256=SHA256), target, policy=policy)
    assert target.read_bytes() == b"what was there before"
    assert len(http.requests(FILE)) == 2


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 204])
def test_final_status_is_not_tried_again(http: Server, target: Path, policy: Policy, code: int):
    http.misbehave(FILE, faults.status(code))
    with pytest.raises(WeightsUnavailableError, match=f"{FILE}: HTTP {code}"):
        download(Request(url=http.url(FILE)), target, policy=policy)
    assert len(http.seen) == 1
    assert os.listdir(target.parent) == []


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_busy_server_is_tried_again(http: Server, target: Path, policy: Policy, waits, code):
    http.misbehave(FILE, *[faults.status(code)] * 4)
    download(Request(url=http.url(FILE), sha256=SHA256), target, policy=policy)
    assert only(target)
    # Doubled each time, less up to half as jitter.
    assert all(0.25 * 2**i <= wait <= 0.5 * 2**i for i, wait in enumerate(waits))


def test_busy_for_ever_ends_after_five_tries(http: Server, target: Path, policy: Policy):
    http.misbehave(FILE, *[faults.status(503)] * 9)
    with pytest.raises(WeightsUnavailableError, match=r"HTTP 503 .*\(tried 5 times\)"):
        download(Request(url=http.url(FILE)), target, policy=policy)
    assert len(http.seen) == 5


def test_retry_after_is_obeyed(http: Server, target: Path, policy: Policy, waits: list[float]):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    http.misbehave(
        FILE,
        faults.status(429, Retry_After="7"),
        faults.status(503, Retry_After=soon),
        faults.status(503, Retry_After="a while"),
    )
    download(Request(url=http.url(FILE)), target, policy=policy)
    assert waits[0] == 7
    assert 25 < waits[1] <= 30
    assert waits[2] <= 2


def test_retry_after_beyond_the_cap_is_reported_at_once(
    http: Server, target: Path, policy: Policy, waits: list[float]
):
    http.misbehave(FILE, faults.status(429, Retry_After="3600"))
    with pytest.raises(WeightsUnavailableError, match="come back in 3600 seconds"):
        download(Request(url=http.url(FILE)), target, policy=policy)
    assert waits == []


def test_drip_is_cut_off(http: Server, target: Path, waits: list[float]):
    http.misbehave(FILE, faults.drip(0.01))
    policy = Policy(rate_window=0.2, sleep=waits.append)
    download(Request(url=http.url(FILE), sha256=SHA256), target, policy=policy)
    assert only(target)
    assert len(http.seen) == 2


def test_silence_is_cut_off(http: Server, target: Path, waits: list[float]):
    http.misbehave(FILE, faults.silence, faults.silence)
    policy = Policy(stall=0.2, tries=2, sleep=waits.append)
    start = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match="the server fell silent"):
        download(Request(url=http.url(FILE)), target, policy=policy)
    assert time.monotonic() - start < 2


def test_silence_before_the_answer_is_cut_off(http: Server, target: Path, waits: list[float]):
    http.misbehave(FILE, faults.slow_server(1), faults.slow_server(1))
    policy = Policy(stall=0.2, tries=2, sleep=waits.append)
    with pytest.raises(WeightsUnavailableError, match="no answer: timed out"):
        download(Request(url=http.url(FILE)), target, policy=policy)


def test_dripping_headers_are_cut_off(http: Server, target: Path, waits: list[float]):
    http.misbehave(FILE, faults.dripping_headers(0.05))
    policy = Policy(stall=0.3, tries=2, sleep=waits.append)
    download(Request(url=http.url(FILE), sha256=SHA256), target, policy=policy)
    assert only(target)


def test_gibberish_is_tried_again(http: Server, target: Path, policy: Policy):
    http.misbehave(FILE, faults.gibberish)
    download(Request(url=http.url(FILE), sha256=SHA256), target, policy=policy)
    assert only(target)


def test_unframed_answer_needs_a_hash(http: Server, target: Path, policy: Policy):
    http.misbehave(FILE, faults.unframed)
    with pytest.raises(WeightsUnavailableError, match="does not say how long the file is"):
        download(Request(url=http.url(FILE)), target, policy=policy)
    http.misbehave(FILE, faults.unframed)
    download(Request(url=http.url(FILE), sha256=SHA256), target, policy=policy)
    assert only(target)


def test_chunked_answer_is_read(http: Server, target: Path, policy: Policy):
    http.misbehave(FILE, faults.chunked)
    download(Request(url=http.url(FILE)), target, policy=policy)
    assert only(target)


def test_answer_without_end_is_cut_off(http: Server, target: Path, waits: list[float]):
    http.misbehave(FILE, faults.chunked)
    policy = Policy(max_bytes=50_000, sleep=waits.append)
    with pytest.raises(WeightsUnavailableError, match="more than 50000 bytes"):
        download(Request(url=http.url(FILE)), target, policy=policy)


def test_cut_chunked_answer_is_not_a_file(http: Server, target: Path, policy: Policy):
    http.misbehave(FILE, faults.cut_chunked)
    download(Request(url=http.url(FILE)), target, policy=policy)
    assert only(target)
    assert len(http.seen) == 2


def test_full_disk_is_found_before_the_first_byte(
    monkeypatch, http: Server, target: Path, policy: Policy
):
    target.write_bytes(b"old")
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: SimpleNamespace(free=50_000))
    with pytest.raises(OutputError, match="the disk is full: 0.1 MB needed, 0.1 MB free") as info:
        download(Request(url=http.url(FILE)), target, policy=policy)
    assert str(target) in str(info.value) and "RESNEXT_HOME" in str(info.value)
    assert target.read_bytes() == b"old"


def test_disk_that_fills_up_is_reported(monkeypatch, http: Server, target: Path, policy: Policy):
    target.write_bytes(b"old")

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads._Partial, "open", lambda *_, **__: Full())
    with pytest.raises(OutputError, match="the disk is full"):
        download(Request(url=http.url(FILE)), target, policy=policy)
    assert target.read_bytes() == b"old"


def test_folder_that_cannot_be_made_names_the_setting(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written: .*\n\nhint: set RESNEXT_HOME"):
        with lock(tmp_path / "file" / "weights" / "model.safetensors"):
            pass


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_read_only_folder_names_the_setting(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="RESNEXT_HOME"), lock(tmp_path / "model"):
        pass


def test_lock_lets_one_thread_in_at_a_time(target: Path):
    inside, most = [], []

    def enter() -> None:
        with lock(target):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6


def test_process_killed_while_it_downloads_leaves_no_file_and_no_lock(http: Server, target: Path):
    http.misbehave(FILE, faults.drip(0.01))
    code = (
        "import sys; from pathlib import Path; from resnext.hub.downloads import *\n"
        "with lock(Path(sys.argv[2])): download(Request(url=sys.argv[1]), Path(sys.argv[2]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, http.url(FILE), str(target)])
    while not target.with_name(target.name + ".partial").exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert not target.exists()
    with lock(target):
        download(Request(url=http.url(FILE), sha256=SHA256), target)
    assert target.read_bytes() == CONTENT


def test_default_policy_is_bounded():
    policy = downloads.POLICY
    assert policy.tries == 5
    assert replace(policy, tries=1).tries == 1
    assert policy.stall <= 30 and policy.longest_wait <= 60
