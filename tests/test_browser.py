"""The exported graph in a browser: the page of the examples in headless Chromium."""

from __future__ import annotations

import functools
import http.server
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

from resnext import images, modelfile, preprocess, weights
from resnext.deploy import export as exporting
from resnext.deploy import golden, portable, quantize
from resnext.weights import LocalModel

pytestmark = pytest.mark.slow

ORT_WEB = os.environ.get("RESNEXT_ORT_WEB", "")  # node_modules/onnxruntime-web/dist
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


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
