"""One HTTP request: redirects judged, secrets kept, every wait bounded.

`get` answers with an open response or raises a `Fault`, whose kind says whether another try
can help. It stands on urllib, so that proxies and NO_PROXY are obeyed as everywhere in
Python; certificates are checked against the system's own trust store.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import re
import socket
import ssl
import string
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import truststore

MAX_REDIRECTS = 10
_CHUNK = 1 << 20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED})
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Fault(Exception):
    """A transfer that failed in a way that will not change by itself."""


class PassingFault(Fault):
    """A transfer that failed in a way that may be gone the next time.

    Args:
        reason: What the user is told if it stays.
        wait: Seconds the server asks to wait, if it does.
        unreachable: No connection came about.
    """

    def __init__(self, reason: str, *, wait: float | None = None, unreachable: bool = False):
        super().__init__(reason)
        self.wait = wait
        self.unreachable = unreachable


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to fetch.

    Args:
        url: An http or https address.
        sha256: Expected hash or the first digits of it, "" where unknown.
        secrets: Headers for the server of `url` only, never for where it redirects to.
        etag_is_sha256: Take the expected hash, where unknown, from the server's
            `X-Linked-Etag` or `ETag`, where the Hugging Face hub states it.
    """

    url: str
    sha256: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict)
    etag_is_sha256: bool = False


def get(
    request: Request,
    headers: Mapping[str, str],
    *,
    timeout: float,
    max_redirects: int = MAX_REDIRECTS,
) -> tuple[http.client.HTTPResponse, str]:
    """Follow redirects to an answer of any other status.

    Args:
        request: What to fetch.
        headers: Sent to every server on the way.
        timeout: Longest silence, and longest wait for the headers, in seconds.
        max_redirects: Most redirects that are followed.

    Returns:
        The open response, and the hash the file should have, "" where unknown.

    Raises:
        Fault: There is no answer, or a redirect that must not be followed.
    """
    url, expected = request.url, request.sha256
    _check_url(url)
    for _ in range(max_redirects + 1):
        own = _origin(url) == _origin(request.url)
        response = _send(url, {**headers, **(request.secrets if own else {})}, timeout)
        if request.etag_is_sha256 and own and not expected:
            expected = _stated_hash(response)
        if response.status not in _REDIRECTS:
            return response, expected
        response.close()
        following = _resolve(url, response.headers.get("Location", ""))
        if url.startswith("https:") and following.startswith("http:") and not expected:
            raise Fault(f"redirected from https to {following}, and no hash is known")
        url = following
    raise Fault(f"redirected more than {max_redirects} times, last to {url}")


def chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the body as it comes, in pieces of up to a megabyte.

    Raises:
        PassingFault: The connection broke or fell silent.
    """
    try:
        # read1 gives what has come; read would wait for a whole piece from a slow server.
        while chunk := response.read1(_CHUNK):
            yield chunk
    except TimeoutError as error:
        raise PassingFault("the server fell silent") from error
    except (OSError, http.client.HTTPException) as error:
        raise PassingFault(f"the connection broke: {_reason(error)}") from error


def _send(url: str, headers: dict[str, str], timeout: float) -> http.client.HTTPResponse:
    try:
        response = _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except OSError as error:  # URLError is one, around the real one where there is one
        raise _connection_fault(getattr(error, "reason", error)) from error
    except http.client.HTTPException as error:
        raise PassingFault(f"not an HTTP answer: {_reason(error)}") from error
    assert isinstance(response, http.client.HTTPResponse)
    return response


def _connection_fault(cause: object) -> Fault:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Fault(
            f"the server's certificate is not trusted ({cause.verify_message}); behind a"
            " company proxy set SSL_CERT_FILE to its root certificate"
        )
    unreachable = isinstance(cause, socket.gaierror) or (
        isinstance(cause, OSError) and cause.errno in _UNREACHABLE
    )
    return PassingFault(f"no answer: {_reason(cause)}", unreachable=unreachable)


@cache
def _opener() -> urllib.request.OpenerDirector:
    # Only these handlers: no file:, ftp: or data: addresses, and redirects are ours to judge.
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), _HTTPHandler(), _HTTPSHandler()):
        opener.add_handler(handler)
    return opener


class _DeadlineMixin(http.client.HTTPConnection):
    """Bounds the whole wait for the headers; the socket's timeout bounds each byte's."""

    def getresponse(self) -> http.client.HTTPResponse:
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            with contextlib.suppress(OSError):  # closed already
                # The plain method: SSLSocket's own would pull the session from under the reader.
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

        timer = threading.Timer(self.timeout or 0, expire)
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()
        except (OSError, http.client.HTTPException) as error:
            if expired.is_set():
                raise TimeoutError("timed out") from error
            raise
        finally:
            timer.cancel()
        if expired.is_set():  # cut headers look like complete ones
            response.close()
            raise TimeoutError("timed out")
        return response


class _HTTPConnection(_DeadlineMixin):
    """Plain."""


class _HTTPSConnection(_DeadlineMixin, http.client.HTTPSConnection):
    """Encrypted."""


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HTTPConnection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HTTPSConnection, req, context=_tls())


@cache
def _tls() -> ssl.SSLContext:
    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context()
    # The system's store, where companies put the root certificate of their proxy.
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _check_url(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as an unfinished IPv6 address
        fine = False
    if not fine or not url.isascii() or any(character <= " " for character in url):
        raise Fault(f"{url!r} is not an http or https address")


def _resolve(url: str, location: str) -> str:
    try:
        # Servers send raw bytes here, which http.client reads as Latin-1.
        quoted = urllib.parse.quote(location, safe=string.punctuation, encoding="iso-8859-1")
        following = urllib.parse.urljoin(url, quoted)
    except ValueError:
        following = location
    _check_url(following)
    return following


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc


def _stated_hash(response: http.client.HTTPResponse) -> str:
    for header in ("X-Linked-Etag", "ETag"):
        value: str = response.headers.get(header, "").removeprefix("W/").strip('"')
        if _SHA256.fullmatch(value):
            return value
    return ""


def _reason(error: object) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text or type(error).__name__
