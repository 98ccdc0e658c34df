"""What every test gets: no network, a cache of its own, and the shared data if there."""

from __future__ import annotations

import gc
import importlib.util
import ipaddress
import itertools
import os
import socket
import sys
import tempfile
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
_USER_SETTINGS = (
    "HF_ENDPOINT",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "NO_COLOR",
    "RESNEXT_MIRROR",
    "RESNEXT_OFFLINE",
)

# Read once, when huggingface_hub is imported: nobody's cache and token are there.
os.environ["HF_HOME"] = os.path.join(tempfile.gettempdir(), "resnext-tests-have-no-hub-cache")

if _PROCESSES := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Each gets its share of the cores, or their threads wait for one another.
    _share = max(1, (os.cpu_count() or 1) // int(_PROCESSES))
    os.environ.setdefault("OMP_NUM_THREADS", str(_share))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import all tests, and keep what that made away from the garbage collector."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or Triton's bindings complain, at exit, that it leaks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `torch` where torch is not installed, and `gpu` without a GPU."""
    if importlib.util.find_spec("torch") is None:
        reason, names = "torch is not installed: pip install 'resnext[torch]'", {"torch", "gpu"}
    elif any("gpu" in item.keywords for item in items) and not _has_gpu():
        reason, names = "there is no NVIDIA GPU", {"gpu"}
    else:
        return
    for item in items:
        if names & set(item.keywords):
            item.add_marker(pytest.mark.skip(reason=reason))


# These share what takes seconds to import: the server that forks, and torch's compilers.
_TOGETHER = dict.fromkeys(("checkpoint", "dist", "feed", "resume", "score"), "loop")
_TOGETHER["torchscript"] = "network"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the tests of a file, and of some files together, to one process."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(super()._split_scope(nodeid)).stem.removeprefix("test_")
            return _TOGETHER.get(file, file)

    return Together(config, log)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture
def shared_data() -> Path:
    """Folder with real pictures and checkpoints, which are no part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def train_and_val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three classes in two parts, 6 and 2 of each; to be copied, not changed."""
    from resnext import testing

    folder = tmp_path_factory.mktemp("pictures") / "data"
    testing.write_pictures(folder / "train", per_class=6)
    testing.write_pictures(folder / "val", per_class=2, seed=1)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that takes milliseconds; to be copied, not changed."""
    from resnext import testing

    return testing.write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # `mktemp` looks at all that it made before: with thousands of tests, at millions.
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@cache
def _measured() -> bytes:
    """Return what every engine with an empty cache would measure anew, for half a second."""
    from resnext.engines import measured, openvino

    core = openvino.open_core()
    with tempfile.TemporaryDirectory() as folder:
        openvino._choose_precision(core, "auto", Path(folder))
        openvino._choose_group_width(core, "bf16", Path(folder))
        path = Path(folder, measured.FILE)
        return path.read_bytes() if path.exists() else b"{}"


@pytest.fixture(autouse=True)
def _clean_environment(_homes: Iterator[Path], monkeypatch: Any) -> None:
    """Give every test an empty cache folder, and none of the user's settings."""
    for name in _USER_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    home = next(_homes)
    (home / "resnext").mkdir(parents=True)
    if "openvino" in sys.modules:  # or it would be imported for tests that do without
        (home / "resnext" / "machine.json").write_bytes(_measured())
    monkeypatch.setenv("RESNEXT_HOME", str(home / "resnext"))
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: Any) -> None:
    """Let tests reach this machine only, except those marked `network`."""
    if request.node.get_closest_marker("network"):
        return
    connect, connect_ex, getaddrinfo = (
        socket.socket.connect,
        socket.socket.connect_ex,
        socket.getaddrinfo,
    )

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _check_local(address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _check_local(address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        _check_local((host,))
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)


class NetworkUsedError(BaseException):
    """A test tried to leave this machine; no retry may catch it."""


def _check_local(address: Any) -> None:
    if not isinstance(address, tuple):
        return  # the path of a Unix socket
    host = address[0].decode() if isinstance(address[0], bytes) else address[0]
    if host in (None, "", "localhost"):
        return
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise NetworkUsedError(f"a test tried to reach {host}; mark it `network` or use a server")


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Let small networks not wait for threads."""
    from networks import one_thread

    with one_thread():
        yield
