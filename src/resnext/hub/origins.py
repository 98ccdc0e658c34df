"""Where a weight file can come from when our cache does not have it.

In this order: the caches of torch and of the Hugging Face hub on this machine, the mirror
(`RESNEXT_MIRROR`, a folder or an address that holds a copy of somebody's `weights`
folder), the hub or the publisher's address. Loaded only when the cache misses.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import get_token, try_to_load_from_cache

from resnext.checkpoints.reader import sha256_of
from resnext.errors import (
    ModelFileError,
    OutputError,
    WeightsCorruptError,
    WeightsUnavailableError,
)
from resnext.files import atomic
from resnext.hub import cache
from resnext.hub.cache import RemoteFile
from resnext.hub.downloads import Progress, download, lock
from resnext.transport import Fault, Request, chunks, get

HUB = "https://huggingface.co"

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_NOTE = 1 << 16  # bytes; a sidecar has about 250
_NOTE_SECONDS = 10.0


def adopt(file: RemoteFile) -> tuple[Path, str] | None:
    """Take the file from another cache on this machine, or from a mirror that is a folder.

    From a cache it is linked where the file system can, and used where it is if our cache
    cannot be written.

    Returns:
        Where it is now and its sha256, or None where nobody has it.
    """
    for source, is_cache in _local_sources(file):
        with contextlib.suppress(ModelFileError):  # unreadable: as good as not there
            found = sha256_of(source)
            if not _is_right(file, source, found, is_cache=is_cache):
                continue
            try:
                with lock(file.path):
                    _place(source, file.path, link=is_cache)
                    cache.record(file, found, url=source.resolve().as_uri())
            except OutputError:
                return source, found
            return file.path, found
    return None


def fetch(file: RemoteFile, *, progress: Progress | None = None) -> str:
    """Download the file into the cache, from the first place that has it.

    Args:
        file: What to fetch.
        progress: Told the bytes so far and in total.

    Returns:
        Its sha256.

    Raises:
        WeightsUnavailableError: No place has it now; says what each answered.
        WeightsCorruptError: The same, and one served another file than was promised.
        OutputError: The cache cannot be written.
    """
    refusals: list[WeightsUnavailableError | WeightsCorruptError] = []
    with lock(file.path):
        with contextlib.suppress(WeightsCorruptError):
            if found := cache.verify(file):  # another process was faster
                return found
        for request in _requests(file):
            try:
                receipt = download(request, file.path, progress=progress)
            except (WeightsUnavailableError, WeightsCorruptError) as error:
                refusals.append(error)
                continue
            cache.record(file, receipt.sha256, url=receipt.url)
            return receipt.sha256
    raise gather(refusals)


def gather(
    refusals: Sequence[WeightsUnavailableError | WeightsCorruptError],
    *,
    subject: str = "",
    hint: str = "",
) -> WeightsUnavailableError | WeightsCorruptError:
    """Make one error of all that was tried for a subject; it is corruption if any was."""
    tried = "; ".join(refusal.message for refusal in refusals) or "no source is known"
    message = f"{subject} cannot be fetched: {tried}" if subject else tried
    if any(isinstance(refusal, WeightsCorruptError) for refusal in refusals):
        return WeightsCorruptError(message, hint=hint)
    return WeightsUnavailableError(message, hint=hint)


def address(file: RemoteFile) -> str:
    """Return the public address of a file, "" where it has none."""
    if file.hub_id is None:
        return file.url or ""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
    revision = urllib.parse.quote(file.revision, safe="")
    return f"{endpoint}/{file.hub_id}/resolve/{revision}/{urllib.parse.quote(file.filename)}"


def _requests(file: RemoteFile) -> Iterator[Request]:
    mirror = os.environ.get("RESNEXT_MIRROR", "").rstrip("/")
    if _is_url(mirror):
        url = f"{mirror}/{urllib.parse.quote(f'{file.folder}/{file.filename}')}"
        if sha256 := file.sha256 or _noted_hash(url):
            yield Request(url=url, sha256=sha256)
    url = address(file)
    if file.hub_id is not None:
        yield Request(url=url, sha256=file.sha256, secrets=_authorization(url), etag_is_sha256=True)
    elif url:
        yield Request(url=url, sha256=file.sha256)


def _noted_hash(url: str) -> str:
    """Return the sha256 that a mirror notes beside a file, "" where it does not."""
    try:
        response, _ = get(
            Request(url=f"{url}.json"), {"User-Agent": "resnext"}, timeout=_NOTE_SECONDS
        )
        with contextlib.closing(response):
            text = _read_briefly(response) if response.status == 200 else b"{}"
            note = json.loads(text)
    except (Fault, OSError, http.client.HTTPException, ValueError, RecursionError):
        return ""  # The file itself is asked for next, and that reports what is wrong.
    found = note.get("sha256", "") if isinstance(note, dict) else ""
    return found if isinstance(found, str) and _SHA256.fullmatch(found) else ""


def _read_briefly(response: http.client.HTTPResponse) -> bytes:
    text, end = b"", time.monotonic() + _NOTE_SECONDS
    for chunk in chunks(response):
        text += chunk
        if len(text) > _MAX_NOTE or time.monotonic() > end:
            raise Fault("that is no note")
    return text


def _authorization(url: str) -> dict[str, str]:
    parts = urllib.parse.urlsplit(url)
    token = get_token() if parts.scheme == "https" or parts.hostname in _LOCAL_HOSTS else None
    return {"Authorization": f"Bearer {token}"} if token else {}


def _local_sources(file: RemoteFile) -> Iterator[tuple[Path, bool]]:
    """Yield files that may be it, and whether each lies in a cache that others manage."""
    if file.hub_id is not None:
        found = try_to_load_from_cache(file.hub_id, file.filename, revision=file.revision)
        if isinstance(found, str):
            yield Path(found), True
    elif file.sha256:
        yield _torch_home() / "hub" / "checkpoints" / file.filename, True
    mirror = os.environ.get("RESNEXT_MIRROR", "")
    if mirror and not _is_url(mirror):
        folder = Path(mirror.removeprefix("file://")).expanduser()
        yield folder.joinpath(*file.folder.split("/"), file.filename), False


def _is_right(file: RemoteFile, source: Path, found: str, *, is_cache: bool) -> bool:
    if file.sha256:
        return found.startswith(file.sha256)
    if not is_cache:  # of a file that nobody states the hash of, the mirror has to
        return found == cache.stated_hash(source)
    # The hub's cache names a file by its hash: sha256, or for small ones git's.
    name = source.resolve().name
    if _GIT_SHA1.fullmatch(name):
        content = source.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == name
    return found == name


def _place(source: Path, target: Path, *, link: bool) -> None:
    if link:
        temporary = Path(f"{target}.partial")
        with contextlib.suppress(OSError):  # another disk, or no links there: copy
            temporary.unlink(missing_ok=True)
            os.link(source.resolve(), temporary)
            os.replace(temporary, target)
            return
    with open(source, "rb") as original, atomic(target) as copy:
        shutil.copyfileobj(original, copy, 1 << 20)


def _torch_home() -> Path:
    if home := os.environ.get("TORCH_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "torch"


def _is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))
