"""One file over HTTP: resumed, retried, checked, whole or not there.

The bytes go to `<file>.partial` and take the final name only after their number and their
sha256 are right. What a server can do wrong falls into two kinds: passing faults (dropped,
slow, busy, damaged), tried again with backoff and resumed where the server can prove that
the file is still the same; and final ones (404, 401, a redirect loop), reported at once.
Loaded only when something must be downloaded; a cache hit never imports this module.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO, NoReturn

import filelock

from resnext.errors import OutputError, WeightsCorruptError, WeightsUnavailableError, counted
from resnext.files import atomic, sync_folder
from resnext.transport import Fault, PassingFault, Request, chunks, get

_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})

Progress = Callable[[int, int | None], None]
"""Told the bytes there are so far and the bytes there will be, None where unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How patient a download is; durations in seconds.

    Args:
        tries: Requests to one origin before giving up.
        unreachable_tries: The same where no connection comes about at all, so that a
            machine without a network hears it soon.
        backoff: Wait before the second try; it doubles every time.
        longest_wait: Longest wait, also where `Retry-After` asks for more.
        stall: Longest silence of a connection.
        min_rate: Bytes per second below which a connection counts as dead ...
        rate_window: ... on the average of this long.
        max_bytes: Size beyond which a file is no model; the largest public one has 3.3 GB.
        sleep: Called to wait.
    """

    tries: int = 5
    unreachable_tries: int = 2
    backoff: float = 0.5
    longest_wait: float = 60.0
    stall: float = 20.0
    min_rate: float = 1024.0
    rate_window: float = 30.0
    max_bytes: int = 32 << 30
    sleep: Callable[[float], None] = time.sleep


POLICY = Policy()


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What was fetched: full sha256 in hexadecimal, size in bytes, from where."""

    sha256: str
    size: int
    url: str


def download(
    request: Request,
    target: Path,
    *,
    progress: Progress | None = None,
    policy: Policy | None = None,
) -> Receipt:
    """Fetch one file to `target`; whoever calls holds `lock(target)`.

    Args:
        request: What to fetch.
        target: Final name; appears or changes only when the file is complete and right.
        progress: Called after every piece, which may be small.
        policy: How patient to be, by default `POLICY`.

    Raises:
        WeightsUnavailableError: The file cannot be had from there now.
        WeightsCorruptError: Twice it was not the file that was promised.
        OutputError: It cannot be written here; says how much space it needs.
    """
    policy = policy or POLICY
    partial = _Partial(target)
    mismatches = 0
    for attempt in range(1, policy.tries + 1):
        try:
            expected = _transfer(request, partial, progress, policy)
            found = partial.sha256()
            if found.startswith(expected):
                return Receipt(sha256=found, size=partial.publish(), url=request.url)
            partial.discard()
            mismatches += 1
            fault = f"its sha256 is {found[:16]}..., expected {expected[:16]}..."
            if mismatches == 2:
                raise WeightsCorruptError(f"{request.url}: twice not the promised file: {fault}")
        except PassingFault as error:
            fault, out_of_reach = str(error), error.unreachable
            if attempt == (policy.unreachable_tries if out_of_reach else policy.tries):
                break
            _wait(request.url, attempt, error, policy)
        except Fault as error:
            raise WeightsUnavailableError(f"{request.url}: {error}") from error
    raise WeightsUnavailableError(f"{request.url}: {fault} (tried {counted(attempt, 'time')})")


@contextlib.contextmanager
def lock(target: Path) -> Iterator[None]:
    """Let one process at a time, of all on this machine, fetch `target`.

    Makes the folder. Released by the system when a process dies.

    Raises:
        OutputError: The folder cannot be written.
    """
    guard = filelock.FileLock(f"{target}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        guard.acquire()
    except (OSError, NotImplementedError) as error:
        refuse_write(target, error)
    try:
        yield
    finally:
        guard.release()


def refuse_write(target: Path, error: Exception, *, needed: int | None = None) -> NoReturn:
    """Raise the OutputError for a cache file that cannot be written.

    Args:
        target: The file.
        error: Why.
        needed: Bytes it still needs, where known.
    """
    hint = "set RESNEXT_HOME to a folder on a disk that can be written"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(target.parent).free
        need = f"{needed / 1e6:.1f} MB needed, " if needed is not None else ""
        message = f"{target}: the disk is full: {need}{free / 1e6:.1f} MB free"
        raise OutputError(message, hint=f"free some space, or {hint}") from error
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    raise OutputError(f"{target}: cannot be written: {reason}", hint=hint) from error


class _Partial:
    """The unfinished file, and beside it what proves that the rest still fits."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = Path(f"{target}.partial")
        self._state = Path(f"{target}.partial.json")

    def resumable(self, url: str) -> tuple[int, str]:
        """Return the bytes there are and the validator they came with, or (0, "")."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            if state["url"] == url and state["validator"]:
                return self.path.stat().st_size, str(state["validator"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # Nothing usable is there: start from the first byte.
        return 0, ""

    def open(self, url: str, validator: str, *, offset: int) -> BinaryIO:
        """Open for writing at `offset`; at 0 whatever was there is dropped."""
        try:
            if offset == 0:
                self.path.unlink(missing_ok=True)
                with atomic(self._state) as file:
                    file.write(json.dumps({"url": url, "validator": validator}).encode())
            return open(self.path, "ab")
        except OSError as error:
            refuse_write(self.target, error)

    def sha256(self) -> str:
        """Return the sha256 of what is on disk, whichever tries it came by."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def discard(self) -> None:
        """Drop what is there."""
        self.path.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def publish(self) -> int:
        """Give the finished file its final name; return its size in bytes."""
        try:
            size = self.path.stat().st_size
            os.replace(self.path, self.target)
            self._state.unlink(missing_ok=True)
            sync_folder(self.target.parent)
        except OSError as error:
            refuse_write(self.target, error)
        return size


def _transfer(
    request: Request, partial: _Partial, progress: Progress | None, policy: Policy
) -> str:
    """Bring the partial file to its end; return the hash it should have."""
    offset, validator = partial.resumable(request.url)
    headers = {"User-Agent": "resnext", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    response, expected = get(request, headers, timeout=policy.stall)
    with contextlib.closing(response):
        if response.status == 416:
            if response.headers.get("Content-Range") == f"bytes */{offset}":
                return expected  # Complete already: killed between the last byte and the name.
            partial.discard()
            raise PassingFault("the server refused to go on where the last try ended")
        offset = _check_start(response, partial, offset)
        if response.length is None and not response.chunked and not expected:
            # A cut connection would look like the end of the file.
            raise Fault("the server does not say how long the file is, and no hash is known")
        validator = _validator(response)
        with partial.open(request.url, validator, offset=offset) as file:
            _receive(
                response, file, partial.target, offset=offset, progress=progress, policy=policy
            )
    return expected


def _check_start(response: http.client.HTTPResponse, partial: _Partial, offset: int) -> int:
    """Return the position of the first byte that the answer brings."""
    if response.status == 200:
        return 0  # No range was asked for, or the server does not do ranges.
    if response.status == 206:
        if offset and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            return offset
        partial.discard()
        raise PassingFault("the server sent another part of the file than was asked for")
    reason = f"HTTP {response.status} {response.reason}".rstrip()
    if response.status in _BUSY:
        raise PassingFault(reason, wait=_retry_after(response.headers.get("Retry-After")))
    raise Fault(reason)


def _validator(response: http.client.HTTPResponse) -> str:
    # RFC 9110 section 13.1.5: only a strong ETag, or a date, may guard a range.
    etag: str = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _receive(
    response: http.client.HTTPResponse,
    file: BinaryIO,
    target: Path,
    *,
    offset: int,
    progress: Progress | None,
    policy: Policy,
) -> None:
    remaining = response.length
    done, total = offset, None if remaining is None else offset + remaining
    if remaining is not None and remaining > shutil.disk_usage(target.parent).free:
        refuse_write(target, OSError(errno.ENOSPC, "disk full"), needed=remaining)
    window_start, window_done = time.monotonic(), done
    for chunk in chunks(response):
        try:
            file.write(chunk)
        except OSError as error:
            refuse_write(target, error, needed=None if total is None else total - done)
        done += len(chunk)
        if done > policy.max_bytes:
            raise Fault(f"the file has more than {policy.max_bytes} bytes")
        if progress is not None:
            progress(done, total)
        elapsed = time.monotonic() - window_start
        if elapsed >= policy.rate_window:
            rate = (done - window_done) / elapsed
            if rate < policy.min_rate:
                raise PassingFault(f"the server sends only {rate:.0f} bytes a second")
            window_start, window_done = time.monotonic(), done
    if total is not None and done != total:
        raise PassingFault(f"the connection ended after {done} of {total} bytes")
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        refuse_write(target, error, needed=0)


def _retry_after(value: str | None) -> float | None:
    """Read seconds or a date (RFC 9110 section 10.2.3); None where it is neither."""
    if value is None:
        return None
    try:
        return float(int(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _wait(url: str, attempt: int, fault: PassingFault, policy: Policy) -> None:
    if fault.wait is not None and fault.wait > policy.longest_wait:
        raise WeightsUnavailableError(
            f"{url}: {fault}; the server asks to come back in {fault.wait:.0f} seconds"
        )
    # Jitter: many machines that were turned away together should not come back together.
    backoff = min(policy.backoff * 2 ** (attempt - 1), policy.longest_wait)
    policy.sleep(backoff * random.uniform(0.5, 1.0) if fault.wait is None else fault.wait)
