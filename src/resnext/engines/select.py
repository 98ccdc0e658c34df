"""Choose the engine for a model: its name, its precision, its threads."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from resnext.engines import tuning
from resnext.engines.base import AbstractEngine, GraphSource, Precision, Signature
from resnext.engines.compiled import make_key
from resnext.errors import ConfigError, ModelFileError, closest, import_extra
from resnext.weights import LocalModel, cache_home, read_tensors

if TYPE_CHECKING:
    import onnx

ENGINES = ("auto", "openvino", "onnxruntime", "torch")


def load(
    local: LocalModel,
    *,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    feature_maps: bool = False,
) -> AbstractEngine:
    """Open an engine for a model.

    Args:
        local: A model on this disk; its tensors are only read if no compiled network of it
            is in the cache.
        engine: "openvino", "onnxruntime", "torch" (CUDA where there is a device), or
            "auto", which is OpenVINO.
        precision: "fp32", "bf16", "int8" for a model that was quantized, or "auto" for what
            is fastest on this machine. Where `resnext benchmark --remember` has measured, and
            engine, precision and threads are all open, it is what was fastest there.
        threads: Number of processor threads, or None for what suits the machine.
        feature_maps: Let the last feature maps out as well.

    Raises:
        ConfigError: Unknown engine or precision, or one that this machine does not have.
        MissingExtraError: The engine is not installed.
        ModelFileError: The tensors are refused.
        EngineError: The runtime refuses the network.
    """
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ConfigError(f"threads is {threads!r}; expected a whole number of at least 1")
    if engine not in ENGINES:
        near = closest(engine, ENGINES)
        raise ConfigError(
            f"engine is {engine!r}; expected one of {', '.join(ENGINES)}",
            hint=f"did you mean {near[0]!r}?" if near else "",
        )
    choice = None
    if (engine, precision, threads) == ("auto", "auto", None):
        choice = tuning.find(local)
    if choice is not None and is_installed(choice.engine):
        engine, precision = choice.engine, choice.precision
    opened = _open(local, engine, precision=precision, threads=threads, feature_maps=feature_maps)
    if choice is not None and opened.name == choice.engine:
        opened.best_batch_size = choice.batch_size
    return opened


def is_installed(engine: str) -> bool:
    """Tell whether an engine's runtime is there, without importing it."""
    return importlib.util.find_spec(engine) is not None


def _open(
    local: LocalModel, engine: str, *, precision: str, threads: int | None, feature_maps: bool
) -> AbstractEngine:
    channels = local.document.architecture.in_chans
    if channels != 3:
        raise ModelFileError(
            f"{local.path}: takes {channels} channels; expected 3, pictures are RGB"
        )
    if engine == "torch":
        eager = import_extra("resnext.engines.eager", extra="torch")
        opened: AbstractEngine = eager.EagerEngine(
            local.document,
            read_tensors(local),
            precision=precision,
            threads=threads,
            feature_maps=feature_maps,
        )
        return opened
    source = describe(local, feature_maps=feature_maps)
    if engine == "onnxruntime":
        ort = import_extra("resnext.engines.ort", extra="ort")
        opened = ort.ORTEngine(source, precision=precision, threads=threads)
        return opened
    # Here, not above: whoever takes another engine does not wait for this one.
    from resnext.engines.openvino import OpenVINOEngine

    return OpenVINOEngine(source, precision=precision, threads=threads, cache=cache_home())


def preload(engine: str = "auto") -> None:
    """Import what `load` will need; nothing goes wrong here that does not go wrong there."""
    if engine in ("auto", "openvino"):
        importlib.import_module("resnext.engines.openvino")


def describe(local: LocalModel, *, feature_maps: bool = False) -> GraphSource:
    """Say where the graph of a model comes from, without reading its tensors."""
    document = local.document
    architecture, preprocess = document.architecture, document.preprocess
    eight_bits = document.quantization

    def build(precision: Precision) -> onnx.ModelProto:
        from resnext.engines import graph  # brings onnx, 80 ms

        tensors = read_tensors(local)
        return graph.build(
            architecture,
            preprocess,
            tensors,
            precision=precision,
            feature_maps=feature_maps,
            quantization=eight_bits,
        )

    return GraphSource(
        signature=Signature(
            input_size=preprocess.input_size,
            in_chans=architecture.in_chans,
            num_classes=architecture.num_classes,
            embedding_size=architecture.embedding_size,
            feature_maps=feature_maps,
        ),
        build=build,
        eight_bits=eight_bits is not None,
        # The file alone does not tell: for foreign checkpoints the rest comes from elsewhere.
        identity=make_key(
            {
                "weights": local.sha256,
                "architecture": [architecture.name, architecture.num_classes],
                "preprocess": [preprocess.input_size, preprocess.mean, preprocess.std],
                **({"outputs": "feature maps"} if feature_maps else {}),
                # Rounded weights are in the file, whose hash is above.
                **({"ranges": dict(eight_bits.ranges)} if eight_bits else {}),
                **({"rounded": len(eight_bits.weights)} if eight_bits else {}),
            }
        ),
    )
