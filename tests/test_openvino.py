"""OpenVINO: import manners, precision, the compiled cache, memory, the starter's accuracy."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from networks import preprocessing, random_batch, random_tensors, relative_error
from PIL import Image

from resnext import preprocess, weights
from resnext.arch import ArchSpec
from resnext.engines import graph, openvino, select
from resnext.engines.base import GraphSource, Precision, Signature
from resnext.engines.openvino import OpenVINOEngine
from resnext.errors import ConfigError, EngineError

SPEC = ArchSpec(depth=29, cardinality=2, base_width=2, num_classes=5)
SIGNATURE = Signature(input_size=32, in_chans=3, num_classes=5, embedding_size=1024)
BATCH = random_batch(3, 32, seed=1)
HAS_BF16 = "BF16" in openvino.ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor has no bfloat16")


class Network:
    """A graph source that counts how often it was asked to build."""

    def __init__(self, identity: str = "tiny", *, seed: int = 0) -> None:
        self.seed = seed
        self.built: list[Precision] = []
        self.source = GraphSource(signature=SIGNATURE, build=self._build, identity=identity)

    def _build(self, precision: Precision, /, *, group_width: int = 1) -> onnx.ModelProto:
        self.built.append(precision)
        self.group_width = group_width
        tensors = random_tensors(SPEC, seed=self.seed)
        return graph.build(
            SPEC, preprocessing(32), tensors, precision=precision, group_width=group_width
        )


def logits_of(network: Network, **options: Any) -> npt.NDArray[np.float32]:
    with OpenVINOEngine(network.source, **{"precision": "fp32", **options}) as engine:
        return engine.run(BATCH).logits


def blobs(home: Path) -> list[Path]:
    return sorted((home / "compiled").glob("*.blob"))


@pytest.fixture(scope="module")
def expected() -> npt.NDArray[np.float32]:
    return logits_of(Network())


def run_python(code: str, home: Path) -> str:
    # With CI set, OpenVINO's converter sends nothing when it is asked for on purpose.
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "CI": "true"}
    environment["PYTHONPATH"] = ":".join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_importing_brings_no_converter_and_no_telemetry(tmp_path: Path) -> None:
    code = """
import sys
from resnext.engines.openvino import ov
print([name for name in sys.modules if "telemetry" in name or "tools.ovc" in name])
import openvino
print(openvino is ov, "onnx" in sys.modules)
try:
    openvino.absent
except AttributeError as error:
    print(error)
print(callable(openvino.convert_model))
from openvino.tools.ovc import convert_model
print(convert_model is openvino.convert_model)
"""
    lines = run_python(code, tmp_path).splitlines()
    said = "module 'openvino' has no attribute 'absent'"
    assert lines == ["[]", "True False", said, "True", "True"]


def test_an_openvino_that_is_imported_already_is_left_alone(tmp_path: Path) -> None:
    code = """
import openvino
before = dict(vars(openvino))
from resnext.engines.openvino import ov
print(ov is openvino, vars(openvino) == before, "convert_model" in before)
"""
    assert run_python(code, tmp_path).split() == ["True"] * 3


def test_a_warm_start_builds_nothing(tmp_path: Path, expected: npt.NDArray[np.float32]) -> None:
    cold, warm = Network(), Network()
    np.testing.assert_array_equal(logits_of(cold, cache=tmp_path), expected)
    np.testing.assert_array_equal(logits_of(warm, cache=tmp_path), expected)
    assert (cold.built, warm.built) == (["fp32"], [])
    assert len(blobs(tmp_path)) == 1


def test_without_a_cache_or_an_identity_nothing_is_written(tmp_path: Path) -> None:
    logits_of(Network(), cache=None)
    logits_of(Network(""), cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_network_or_precision_is_another_entry(tmp_path: Path) -> None:
    first = logits_of(Network("one"), cache=tmp_path)
    second = logits_of(Network("two", seed=1), cache=tmp_path)
    assert relative_error(second, first) > 0.1
    assert len(blobs(tmp_path)) == 2
    if HAS_BF16:
        logits_of(Network("one"), cache=tmp_path, precision="bf16")
        assert len(blobs(tmp_path)) == 3


def test_the_number_of_threads_is_no_other_entry(
    tmp_path: Path, expected: npt.NDArray[np.float32]
) -> None:
    for threads in (None, 1, 2):
        found = logits_of(Network(), cache=tmp_path, threads=threads)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(blobs(tmp_path)) == 1


@pytest.mark.parametrize("key", ["openvino", "processor", "capabilities"])
def test_another_runtime_or_processor_is_another_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    logits_of(Network(), cache=tmp_path)
    described = openvino._describe_machine(openvino.ov.Core())
    monkeypatch.setattr(openvino, "_describe_machine", lambda _: {**described, key: "other"})
    again = Network()
    logits_of(again, cache=tmp_path)
    assert again.built == ["fp32"]


def test_another_version_of_the_graph_is_another_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits_of(Network(), cache=tmp_path)
    monkeypatch.setattr(openvino, "GRAPH_VERSION", openvino.GRAPH_VERSION + 1)
    again = Network()
    logits_of(again, cache=tmp_path)
    assert again.built == ["fp32"]


@pytest.mark.parametrize("where", [0.0, 0.01, 0.5, 0.99])
def test_a_flipped_bit_is_mended(
    tmp_path: Path, expected: npt.NDArray[np.float32], where: float
) -> None:
    logits_of(Network(), cache=tmp_path)
    (path,) = blobs(tmp_path)
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 4
    path.write_bytes(content)
    again = Network()
    np.testing.assert_array_equal(logits_of(again, cache=tmp_path), expected)
    assert again.built == ["fp32"]
    assert path.read_bytes() != bytes(content)


def test_a_whole_file_that_the_runtime_refuses_is_mended(
    tmp_path: Path, expected: npt.NDArray[np.float32]
) -> None:
    logits_of(Network(), cache=tmp_path)
    (path,) = blobs(tmp_path)
    openvino.CompiledCache(tmp_path / "compiled").store(path.stem, b"no network at all" * 99)
    again = Network()
    np.testing.assert_array_equal(logits_of(again, cache=tmp_path), expected)
    assert again.built == ["fp32"]
    np.testing.assert_array_equal(logits_of(Network(), cache=tmp_path), expected)


def test_a_cache_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, expected: npt.NDArray[np.float32]
) -> None:
    home = tmp_path / "file"
    home.write_text("")
    with pytest.warns(RuntimeWarning, match="the compiled network is not cached"):
        found = logits_of(Network(), cache=home)
    np.testing.assert_array_equal(found, expected)


def test_many_starts_at_once_share_the_cache(
    tmp_path: Path, expected: npt.NDArray[np.float32]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: logits_of(Network(), cache=tmp_path), range(4)))
    for logits in found:
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert len(blobs(tmp_path)) == 1
    assert [path.name for path in (tmp_path / "compiled").iterdir()] == [blobs(tmp_path)[0].name]


def test_a_network_outlives_its_file(tmp_path: Path, expected: npt.NDArray[np.float32]) -> None:
    logits_of(Network(), cache=tmp_path)
    with OpenVINOEngine(Network().source, precision="fp32", cache=tmp_path) as engine:
        for path in blobs(tmp_path):
            path.unlink()
        np.testing.assert_array_equal(engine.run(BATCH).logits, expected)


def test_an_engine_that_nobody_closed_ends_well(tmp_path: Path) -> None:
    logits_of(Network(), cache=tmp_path)
    for _ in range(3):
        engine = OpenVINOEngine(Network().source, precision="fp32", cache=tmp_path)
        engine.run(BATCH)
        del engine
        gc.collect()


def test_weights_too_large_for_one_message_go_through_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, expected: npt.NDArray[np.float32]
) -> None:
    saved = []
    save = graph.save
    monkeypatch.setattr(graph, "MAX_INLINE_BYTES", 1000)
    monkeypatch.setattr(graph, "save", lambda *args: saved.append(save(*args)) or saved[-1])
    np.testing.assert_array_equal(logits_of(Network(), cache=tmp_path), expected)
    np.testing.assert_array_equal(logits_of(Network(), cache=tmp_path), expected)
    ((path, data),) = saved
    assert not path.exists() and not data.exists()


def test_outputs_belong_to_the_caller() -> None:
    with OpenVINOEngine(Network().source, precision="fp32") as engine:
        first = engine.run(BATCH)
        kept = first.logits.copy(), first.embedding.copy()
        engine.run(BATCH[::-1])
        np.testing.assert_array_equal(first.logits, kept[0])
        np.testing.assert_array_equal(first.embedding, kept[1])
        first.logits[:] = 0  # and can be written


def test_a_closed_engine_says_so() -> None:
    engine = OpenVINOEngine(Network().source, precision="fp32")
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match=r"openvino \(fp32\) is closed"):
        engine.run(BATCH)


class FailingRequest:
    """Fails as OpenVINO does above a number of pictures."""

    def __init__(self, request: Any, *, fits: int, message: str) -> None:
        self.request, self.fits, self.message = request, fits, message
        self.sizes: list[int] = []

    def infer(self, inputs: dict[str, npt.NDArray[np.uint8]], **options: Any) -> None:
        self.sizes.append(len(inputs["image"]))
        if self.sizes[-1] > self.fits:
            raise RuntimeError(f"Exception from src/core/allocator.cpp:79:\n{self.message}\n\n")
        self.request.infer(inputs, **options)

    def get_tensor(self, name: str) -> Any:
        return self.request.get_tensor(name)


def test_out_of_memory_splits_the_batch(expected: npt.NDArray[np.float32]) -> None:
    with OpenVINOEngine(Network().source, precision="fp32") as engine:
        engine._request = FailingRequest(engine._request, fits=1, message="std::bad_alloc")
        np.testing.assert_allclose(engine.run(BATCH).logits, expected, atol=1e-5)
        assert engine._request.sizes == [3, 1, 2, 1, 1]


def test_another_failure_is_an_engine_error_with_its_last_line() -> None:
    with OpenVINOEngine(Network().source, precision="fp32") as engine:
        engine._request = FailingRequest(engine._request, fits=0, message="no such kernel")
        with pytest.raises(EngineError, match=r"openvino \(fp32\) failed: no such kernel"):
            engine.run(BATCH)


def test_a_graph_that_openvino_refuses_is_an_engine_error() -> None:
    def broken(precision: Precision, /, *, group_width: int = 1) -> onnx.ModelProto:
        model = Network()._build(precision)
        model.graph.node[-1].op_type = "NoSuchOp"
        return model

    with pytest.raises(EngineError, match="refuses the network"):
        OpenVINOEngine(GraphSource(signature=SIGNATURE, build=broken), precision="fp32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision is 'int4'; expected one of auto, bf16, fp32, int8"),
        ({"precision": "int8"}, "precision is 'int8', and the model was not quantized"),
        ({"threads": 0}, "threads is 0; expected at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    network = Network()
    with pytest.raises(ConfigError, match=message):
        OpenVINOEngine(network.source, **options)
    assert network.built == []


def _machine(monkeypatch: pytest.MonkeyPatch, *, bf16: bool, speedup: float) -> list[float]:
    """Pretend to be on another machine; returns the list of measurements made."""
    made: list[float] = []
    described = {"openvino": "1", "processor": "Test CPU", "capabilities": ["FP32"]}
    if bf16:
        described["capabilities"] = ["BF16", "FP32"]
    monkeypatch.setattr(openvino, "_describe_machine", lambda _: described)
    monkeypatch.setattr(
        openvino, "_measure_bf16_speedup", lambda _: made.append(speedup) or speedup
    )
    return made


def choose(precision: str, cache: Path | None) -> Precision:
    return openvino._choose_precision(openvino.ov.Core(), precision, cache)


def test_bf16_is_chosen_where_it_is_there_and_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = _machine(monkeypatch, bf16=True, speedup=1.9)
    assert choose("auto", tmp_path / "home") == "bf16"
    assert choose("auto", tmp_path / "home") == "bf16"
    assert made == [1.9], "measured once, then read"
    assert choose("fp32", tmp_path / "home") == "fp32"


@pytest.mark.parametrize(("bf16", "speedup"), [(True, 1.05), (True, 0.3), (False, 2.0)])
def test_fp32_is_chosen_where_bf16_is_absent_or_no_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bf16: bool, speedup: float
) -> None:
    _machine(monkeypatch, bf16=bf16, speedup=speedup)
    assert choose("auto", tmp_path) == "fp32"


def test_bf16_asked_for_is_not_measured_but_must_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = _machine(monkeypatch, bf16=True, speedup=0.5)
    assert choose("bf16", tmp_path) == "bf16"
    assert made == []
    _machine(monkeypatch, bf16=False, speedup=0.5)
    with pytest.raises(ConfigError, match=r"'bf16', which this processor \(Test CPU\) does not"):
        choose("bf16", tmp_path)


def test_measuring_needs_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _machine(monkeypatch, bf16=True, speedup=1.9)
    assert choose("auto", None) == "bf16"
    (tmp_path / "file").write_text("")
    assert choose("auto", tmp_path / "file") == "bf16"


@needs_bf16
def test_the_measurements_give_plausible_ratios() -> None:
    assert 0.05 < openvino._measure_bf16_speedup(openvino.open_core()) < 20
    assert 0.05 < openvino._measure_widening_speedup(openvino.open_core()) < 20


@pytest.mark.parametrize(
    ("precision", "bf16", "speedup", "width"),
    [
        ("bf16", True, 1.3, 32),
        ("int8", True, 1.3, 64),
        ("bf16", True, 0.9, 1),
        ("int8", False, 1.3, 1),  # without bfloat16 there is no AMX
        ("fp32", True, 1.3, 1),
    ],
)
def test_groups_are_joined_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    precision: Precision,
    bf16: bool,
    speedup: float,
    width: int,
) -> None:
    _machine(monkeypatch, bf16=bf16, speedup=1.9)
    made: list[float] = []
    monkeypatch.setattr(
        openvino, "_measure_widening_speedup", lambda _: made.append(speedup) or speedup
    )
    core = openvino.open_core()
    for _ in range(2):
        assert openvino._choose_group_width(core, precision, tmp_path) == width
    assert len(made) <= 1, "measured once, then read"


@needs_bf16
def test_a_network_of_joined_groups_is_cached_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for speedup, width in ((0.9, 1), (1.3, 32), (1.3, 32)):
        (tmp_path / "machine.json").unlink(missing_ok=True)
        monkeypatch.setattr(
            openvino, "_measure_widening_speedup", lambda _, speedup=speedup: speedup
        )
        network = Network()
        logits_of(network, precision="bf16", cache=tmp_path)
        assert not network.built or network.group_width == width
    assert len(blobs(tmp_path)) == 2
    assert network.built == [], "the third came from the cache"


@needs_bf16
def test_bf16_stays_near_fp32(expected: npt.NDArray[np.float32]) -> None:
    network = Network()
    with OpenVINOEngine(network.source, precision="bf16") as engine:
        assert (engine.precision, str(engine)) == ("bf16", "engine openvino (bf16)")
        error = relative_error(engine.run(BATCH).logits, expected)
    assert network.built == ["bf16"]
    assert 1e-6 < error < 0.02, "0 would mean that it computed in fp32"


@pytest.mark.slow
def test_the_starter_reaches_its_published_accuracy(shared_data: Path) -> None:
    folder = shared_data / "tiny-imagenet-200"
    local = weights.locate("starter")
    synset_ids = local.document.labels.synset_ids
    assert synset_ids is not None
    pictures, targets = [], []
    with tarfile.open(folder / "val.tar.xz") as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                picture = Image.open(io.BytesIO(file.read())).convert("RGB")
                pictures.append(preprocess.apply(picture, local.document.preprocess))
                targets.append(synset_ids.index(member.name.split("/")[-2]))
    batch, target = np.stack(pictures), np.array(targets)
    with select.load(local, precision="fp32") as engine:
        logits = engine.run(batch).logits
    order = np.argsort(-logits, axis=1)
    assert len(target) == 5000
    assert 100 * (order[:, 0] == target).mean() == pytest.approx(51.52, abs=0.1)
    assert 100 * (order[:, :5] == target[:, None]).any(axis=1).mean() == pytest.approx(
        76.60, abs=0.1
    )
    if HAS_BF16:
        with select.load(local, precision="bf16") as engine:
            agreement = (engine.run(batch).logits.argmax(axis=1) == order[:, 0]).mean()
        print(f"bf16 agrees with fp32 on {100 * agreement:.2f} % of top-1")  # pytest -s
        assert agreement >= 0.995


def test_a_signal_is_survived_whatever_order_engines_end_in() -> None:
    """Two runtimes that ended as they began left the thread without a stack for signals."""
    code = """
import signal
from resnext import Classifier
first, second = Classifier("starter"), Classifier("starter")
for classifier in (first, second):
    classifier("examples/cat.jpg")
del classifier, first
del second
signal.signal(signal.SIGTERM, lambda number, frame: print("heard"))
signal.raise_signal(signal.SIGTERM)
"""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
