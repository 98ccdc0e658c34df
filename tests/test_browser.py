"""Pages in headless Chromium: the exported graph at work, and the reports of the commands."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext import images, modelfile, preprocess, testing, weights
from resnext.cli import app
from resnext.deploy import export as exporting
from resnext.deploy import golden, portable, quantize
from resnext.weights import LocalModel

pytestmark = pytest.mark.slow

ORT_WEB = os.environ.get("RESNEXT_ORT_WEB", "")  # node_modules/onnxruntime-web/dist
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CONSOLE = re.compile(r":CONSOLE[(:]\d+[)\]] *(.*)")
NOBODY = "http://127.0.0.1:9"  # a proxy that is not there
BROWSER = "not an origin"  # what the browser's own requests, such as for updates, come from


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def log_message(self, *_: Any) -> None:
        pass


def in_eight_bits(local: LocalModel, path: Path) -> LocalModel:
    document, tensors = local.document, weights.read_tensors(local)
    drawn = [images.open_rgb(one.content) for one in golden.pictures()]
    pixels = np.stack([preprocess.apply(image, document.preprocess) for image in drawn])
    _, found = next(quantize.find(document, tensors, pixels))
    modelfile.write(path, replace(document, quantization=found), tensors)
    return weights.locate(path)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.skipif(
    not (ORT_WEB and CHROMIUM), reason="needs Chromium, and RESNEXT_ORT_WEB: see docs/export.md"
)
def test_the_page_gives_the_answers_of_the_graph(
    int8: bool, repository: Path, tmp_path: Path
) -> None:
    ort: Any = pytest.importorskip("onnxruntime")
    local = weights.locate("starter")
    if int8:
        local = in_eight_bits(local, tmp_path / "eight.safetensors")
    shutil.copy(repository / "examples/browser/index.html", tmp_path)
    shutil.copy(repository / "examples/cat.jpg", tmp_path)
    (tmp_path / "ort").symlink_to(Path(ORT_WEB).resolve())
    names = list(local.document.labels.class_names)
    facts = {"class_names": names, "reject_threshold": local.document.reject_threshold}
    (tmp_path / "classes.json").write_text(json.dumps(facts))
    exporting.export(local, tmp_path / "starter.onnx", input="picture", int8=int8)

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = f"http://127.0.0.1:{server.server_port}/index.html"
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"]
        command += ["--virtual-time-budget=60000", "--timeout=60000", "--dump-dom", page]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
        server.shutdown()
    rows = re.findall(r"<td>([\d.]+)%</td><td>([^<]*)</td>", done.stdout)
    picture = np.asarray(images.open_rgb(str(tmp_path / "cat.jpg")))[None]
    assert '<p id="unsure">The model is not sure.</p>' in done.stdout
    session = ort.InferenceSession(str(tmp_path / "starter.onnx"))
    probabilities, classes = session.run(["probabilities", "classes"], {portable.PICTURE: picture})
    assert [name for _, name in rows] == [names[index] for index in classes[0]], done.stdout[-2000:]
    for (shown, _), expected in zip(rows, probabilities[0], strict=True):
        assert float(shown) == pytest.approx(100 * expected, abs=1.0)  # another JPEG decoder


def open_page(page: Path, folder: Path) -> tuple[str, list[str], list[str]]:
    """Return what a page became, what it said on the console, and what it asked the network."""
    log = folder / "net.json"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", f"--log-net-log={log}", f"--proxy-server={NOBODY}"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = [one["url"] for one in events if one.get("initiator", BROWSER) != BROWSER]
    return done.stdout, CONSOLE.findall(done.stderr), asked


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which each of four commands has written its page."""
    top = tmp_path_factory.mktemp("reports")
    data = testing.write_pictures(top / "data" / "a&b", classes=("<cat>", "dog"), per_class=6)
    shutil.copy(data / "dog" / "0000.png", data / "dog" / "again.png")
    (data / "dog" / "bad.png").write_bytes(b"no picture")
    names = ["<cat>", "dog"]
    one, other = (
        str(testing.write_tiny_model(top / f"{step}.safetensors", class_names=names[::step]))
        for step in (1, -1)  # the other says dog where the first says cat
    )
    fast = ("--precision", "fp32", "--threads", "1")
    query = str(data / "dog" / "0001.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNEXT_HOME", str(top / "home"))
        for words in (
            ("evaluate", data, "-m", one, "-o", top / "evaluate"),
            ("compare", one, other, data, "-o", top / "compare"),
            ("check", data, "-m", one, "-o", top / "check"),
            ("index", data, "-m", one, "-o", top / "my.index"),
            ("search", query, "absent.png", "-i", top / "my.index", "--html", top / "search.html"),
        ):
            assert app.run([*map(str, words), *fast]) == 3, words  # one picture is bad
    return top


@pytest.mark.skipif(
    not CHROMIUM or importlib.util.find_spec("matplotlib") is None,
    reason="needs Chromium, and the extra `evaluate`",
)
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("evaluate/report.html", "&lt;cat&gt;"),
        ("compare/compare.html", "&lt;cat&gt;"),
        ("check/report.html", "again.png"),
        ("search.html", "absent.png"),
    ],
)
def test_a_report_opens_without_a_word_or_a_request(
    name: str, shown: str, reports: Path, tmp_path: Path
) -> None:
    page = reports / name
    text, said, asked = open_page(page, tmp_path)
    assert (said, asked) == ([], [])
    assert shown in text
    assert "<img" in text
    sorts = "<script>" in page.read_text()
    assert sorts or name != "evaluate/report.html"
    assert ('<button type="button">' in text) == sorts  # its script has run
    # The same eyes see what they should: a page that says and asks for something.
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("</body>", '<img src="a.png"></body>'))
    said = open_page(broken, tmp_path)[1]
    assert any("violates the following Content Security Policy" in line for line in said), said


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_what_a_page_says_and_asks_for_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://example.com/a.png"><script>no_such_thing()</script>')
    text, said, asked = open_page(page, tmp_path)
    assert "<img" in text
    assert asked == ["http://example.com/a.png"]
    [line] = said
    assert "ReferenceError: no_such_thing is not defined" in line
