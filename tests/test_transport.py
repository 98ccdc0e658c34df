from __future__ import annotations

import hashlib
import socket
import ssl
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
import server as faults
from server import Server, serving

from resnext import transport
from resnext.errors import WeightsCorruptError, WeightsUnavailableError
from resnext.hub.downloads import Policy, Request, download

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
    return Policy(sleep=waits.append)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_redirect_is_followed(http: Server, target: Path, policy: Policy):
    http.misbehave("/old", faults.redirect(FILE))
    download(Request(url=http.url("/old")), target, policy=policy)
    assert target.read_bytes() == CONTENT


def test_redirect_with_odd_characters_is_followed(http: Server, target: Path, policy: Policy):
    http.put("/new%20pl%E9ce", CONTENT)
    http.misbehave("/old", faults.redirect("/new pl\xe9ce"))
    download(Request(url=http.url("/old")), target, policy=policy)
    assert target.read_bytes() == CONTENT


def test_redirect_loop_ends(http: Server, target: Path, policy: Policy):
    http.misbehave(FILE, *[faults.redirect(FILE)] * 20)
    with pytest.raises(WeightsUnavailableError, match="redirected more than 10 times"):
        download(Request(url=http.url(FILE)), target, policy=policy)
    assert len(http.seen) == 11


@pytest.mark.parametrize(
    "place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "//[::1", "//h:x/", "//h:0/"]
)
def test_redirect_to_another_kind_of_address_is_refused(
    http: Server, target: Path, policy: Policy, place: str
):
    http.misbehave(FILE, faults.redirect(place))
    with pytest.raises(WeightsUnavailableError, match="is not an http or https address"):
        download(Request(url=http.url(FILE)), target, policy=policy)


def test_secrets_stay_with_the_first_server(http: Server, target: Path, policy: Policy):
    with serving() as other:
        other.put("/cdn", CONTENT)
        http.misbehave("/old", faults.redirect("/moved"))
        http.misbehave("/moved", faults.redirect(other.url("/cdn")))
        request = Request(url=http.url("/old"), secrets={"Authorization": "Bearer secret"})
        download(request, target, policy=policy)
        assert [seen.headers.get("authorization") for seen in http.seen] == ["Bearer secret"] * 2
        assert "authorization" not in other.seen[0].headers


def test_hash_of_the_hub_is_taken_before_the_redirect(http: Server, target: Path, policy: Policy):
    with serving() as other:
        other.put("/cdn", b"tampered on the way", ETag='"' + "0" * 64 + '"')
        hub = faults.redirect(other.url("/cdn"), X_Linked_Etag=f'"{SHA256}"')
        http.misbehave(FILE, hub, hub)
        request = Request(url=http.url(FILE), etag_is_sha256=True)
        with pytest.raises(WeightsCorruptError, match=f"expected {SHA256[:16]}"):
            download(request, target, policy=policy)
    assert not target.exists()


def test_downgrade_to_http_needs_a_hash(monkeypatch, http: Server, target: Path, policy: Policy):
    # No certificate for a local https server is trusted, so the first hop is played.
    real = transport._send

    def send(url: str, headers: dict[str, str], timeout: float):
        return real(url.replace("https://weights.example", http.url()), headers, timeout)

    monkeypatch.setattr(transport, "_send", send)
    url = "https://weights.example/secure"
    http.misbehave("/secure", *[faults.redirect(http.url(FILE))] * 2)
    with pytest.raises(WeightsUnavailableError, match="redirected from https to http://127"):
        download(Request(url=url), target, policy=policy)
    download(Request(url=url, sha256=SHA256[:8]), target, policy=policy)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "example.org/x", "", "http://", "http://h/\xe9", "http://h/a b"]
)
def test_other_addresses_are_refused(target: Path, policy: Policy, url: str):
    with pytest.raises(WeightsUnavailableError, match="is not an http or https address"):
        download(Request(url=url), target, policy=policy)


def test_server_out_of_reach_is_tried_twice(target: Path, policy: Policy, waits: list[float]):
    with serving() as gone:
        url = gone.url(FILE)
    with pytest.raises(WeightsUnavailableError, match=r"no answer: .* \(tried 2 times\)"):
        download(Request(url=url), target, policy=policy)
    assert len(waits) == 1


def test_unknown_host_is_tried_twice(monkeypatch, target: Path, policy: Policy):
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(WeightsUnavailableError, match=r"service not known \(tried 2 times\)"):
        download(Request(url="http://weights.invalid/x"), target, policy=policy)


def test_untrusted_certificate_is_reported_at_once(monkeypatch, target: Path, policy: Policy):
    class Opener:
        def open(self, *_: object, **__: object) -> None:
            error = ssl.SSLCertVerificationError(1, "certificate verify failed")
            error.verify_message = "self-signed certificate in certificate chain"
            raise urllib.error.URLError(error)

    monkeypatch.setattr(transport, "_opener", Opener)
    with pytest.raises(WeightsUnavailableError, match="not trusted .self-signed.* SSL_CERT_FILE"):
        download(Request(url="https://weights.example/x"), target, policy=policy)


def test_proxy_of_the_environment_is_used(monkeypatch, http: Server, target: Path, policy: Policy):
    with serving() as proxy:
        proxy.put("http://weights.example/x", CONTENT)
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("HTTP_PROXY", proxy.url())
        monkeypatch.setenv("http_proxy", proxy.url())
        transport._opener.cache_clear()
        try:
            download(Request(url="http://weights.example/x"), target, policy=policy)
        finally:
            transport._opener.cache_clear()
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("setting", ["SSL_CERT_FILE", None])
def test_certificates_are_always_checked(monkeypatch, setting: str | None):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    if setting:
        monkeypatch.setenv(setting, ssl.get_default_verify_paths().cafile or "/dev/null")
    transport._tls.cache_clear()
    context = transport._tls()
    transport._tls.cache_clear()
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
