"""A model for other programs, checked before it counts.

onnx              ONNX Runtime, onnxruntime-web, TensorRT and most others
openvino          OpenVINO's .xml with a .bin beside it
torchscript       torch.jit.load and C++
exported-program  torch.export.load, AOTInductor
safetensors       the tensors alone, under torchvision's keys

What was written is loaded again and run, see `deploy.recheck`; its answers must be those of
this package's own fp32 engine, or nothing is left on the disk.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from resnext import interchange, weights
from resnext.deploy import portable, recheck
from resnext.engines import graph
from resnext.errors import ConfigError, closest, import_extra, install_hint
from resnext.files import check_place, output_error, sync_folder
from resnext.modelfile import Tensors
from resnext.weights import LocalModel

Format = Literal["onnx", "openvino", "torchscript", "exported-program", "safetensors"]
Input = Literal["prepared", "picture"]
FORMATS: tuple[Format, ...] = get_args(Format)
INPUTS: tuple[Input, ...] = get_args(Input)
SUFFIXES: Mapping[Format, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torchscript": ".pt",
    "exported-program": ".pt2",
    "safetensors": ".safetensors",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written, and how far it is from the source.

    Args:
        paths: The files.
        format: Their format.
        input: "prepared" pixels of the input size, or a "picture" of any size.
        difference: Largest difference of a logit, as a part of the largest logit.
        levels: Largest difference of a prepared pixel, 0 to 255; None where the preparation
            is left to the program.
        checked_with: What ran it.
        compared_with: The engine of this package whose answers it was compared with; "" where
            the tensors alone were read back.
        left_eight_bits: Whether the model was quantized, which no format keeps.
    """

    paths: tuple[Path, ...]
    format: Format
    input: Input
    difference: float
    levels: int | None
    checked_with: str
    compared_with: str = ""
    left_eight_bits: bool = False

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def verdict(self) -> str:
        """What the check found, as half a sentence."""
        if self.format == "safetensors":
            return "read back equal"
        pixels = "" if self.levels is None else f", pixels off by at most {self.levels} of 255"
        logits = f"logits off by {self.difference:.1e} of the largest"
        return f"run by {self.checked_with}, {logits}{pixels}, compared with {self.compared_with}"

    @property
    def cautions(self) -> tuple[str, ...]:
        """What one might not expect of the file, or the check does not show, as sentences."""
        found = []
        if self.left_eight_bits:
            found.append(
                "the model was quantized; what is written has its weights in float32, and none of"
                " its 8 bits"
            )
        if self.format == "onnx" and self.checked_with != "onnxruntime":
            found.append(
                f"onnxruntime is not installed, so {self.checked_with} ran the file: that ONNX"
                f" Runtime opens it and answers the same is not checked; {install_hint('ort')}"
            )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        return {
            "files": [str(path) for path in self.paths],
            "format": self.format,
            "input": self.input,
            "bytes": self.num_bytes,
            "difference": self.difference,
            "levels": self.levels,
            "batches": list(recheck.BATCHES),
            "checked_with": self.checked_with,
            "compared_with": self.compared_with,
            "left_eight_bits": self.left_eight_bits,
        }


def format_of(path: Path, format: str | None) -> Format:
    """Return the format of a file to write.

    Args:
        path: Its ending decides where `format` is None.
        format: One of `FORMATS`, or None.

    Raises:
        ConfigError: Neither says it, or they contradict each other.
    """
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    if format is None:
        if path.suffix not in by_suffix:
            raise ConfigError(
                f"{path} does not say what it is; expected an ending of {', '.join(by_suffix)}",
                hint=f"or give --format: {', '.join(FORMATS)}",
            )
        return by_suffix[path.suffix]
    for name in FORMATS:
        if format == name:
            if path.suffix != SUFFIXES[name]:
                raise ConfigError(
                    f"{path} is no name for {name}; expected *{SUFFIXES[name]}",
                    hint=f"-o {path.with_suffix(SUFFIXES[name])}",
                )
            return name
    near = closest(format, FORMATS)
    raise ConfigError(
        f"format is {format!r}; expected one of {', '.join(FORMATS)}",
        hint=f"did you mean {near[0]!r}?" if near else "",
    )


def export(
    local: LocalModel,
    path: Path,
    *,
    format: str | None = None,
    input: str = "prepared",
    top_k: int = 5,
    force: bool = False,
) -> Exported:
    """Write a model in a format for other programs, and check it.

    Args:
        local: The model.
        path: The file; OpenVINO's weights, and those of ONNX above 1.9 GB, go to a second
            one beside it.
        format: One of `FORMATS`; None lets the ending of `path` say.
        input: "prepared" or "picture"; the second for ONNX only.
        top_k: Number of best classes that ONNX and OpenVINO give.
        force: Replace what is there.

    Raises:
        ConfigError: An option or the name will not do, or the file is there.
        MissingExtraError: A torch format, without torch.
        ModelFileError: The tensors are refused.
        ParityError: What was written does not answer as the source does.
        OutputError: A file cannot be written.
    """
    chosen = format_of(path, format)
    takes = _check_options(path, chosen, input, force=force)
    tensors = weights.read_tensors(local)
    with _workplace(path) as folder:
        made = folder / path.name
        _WRITERS[chosen](made, local, tensors, takes, top_k)
        if chosen == "safetensors":  # read back bit by bit by who wrote it
            found = recheck.Found(difference=0.0, levels=None, engine="safetensors", reference="")
        else:
            found = recheck.check(made, local, picture=takes == "picture")
        paths = _publish(folder, path)
    return Exported(
        paths=paths,
        format=chosen,
        input=takes,
        difference=found.difference,
        levels=found.levels,
        checked_with=found.engine,
        compared_with=found.reference,
        left_eight_bits=local.document.quantization is not None,
    )


def _check_options(path: Path, format: Format, input: str, *, force: bool) -> Input:
    takes = next((known for known in INPUTS if known == input), None)
    if takes is None:
        raise ConfigError(f"input is {input!r}; expected one of {', '.join(INPUTS)}")
    if input == "picture" and format != "onnx":
        raise ConfigError(
            f"input is 'picture', and {format} has no filter that is Pillow's",
            hint=f"-o {path.with_suffix('.onnx')}, or --input prepared",
        )
    check_place(path)
    if os.path.lexists(path) and not force:
        raise ConfigError(f"{path} is there already", hint="--force replaces it")
    return takes


@contextlib.contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """Give a folder beside the target: nobody takes what is in it for the result."""
    try:
        with tempfile.TemporaryDirectory(prefix=".resnext-", dir=path.parent) as name:
            yield Path(name)
    except OSError as error:
        raise output_error(path, error) from error


def _publish(folder: Path, path: Path) -> tuple[Path, ...]:
    """Move what was made to its place, the weights first: no graph ever lacks them."""
    made = sorted(folder.iterdir(), key=lambda each: each.name == path.name)
    for each in made:
        os.replace(each, path.parent / each.name)
    sync_folder(path.parent)
    return tuple(path.parent / each.name for each in reversed(made))


def _write_onnx(path: Path, local: LocalModel, tensors: Tensors, input: Input, top_k: int) -> None:
    graph.save(_build(local, tensors, input, top_k), path)


def _write_openvino(
    path: Path, local: LocalModel, tensors: Tensors, input: Input, top_k: int
) -> None:
    # Here, not above: it takes a fifth of a second, and other formats do without.
    from resnext.engines.openvino import ov, read_graph

    built = _build(local, tensors, input, top_k)
    with graph.serialized(built) as content:
        model = read_graph(content)
    for fact in built.metadata_props:
        model.set_rt_info(fact.value, ["resnext", fact.key])
    ov.save_model(model, path, compress_to_fp16=False)


def _write_script(
    path: Path, local: LocalModel, tensors: Tensors, _input: Input, _top_k: int
) -> None:
    torchscript = import_extra("resnext.deploy.torchscript", extra="torch")
    torchscript.save_script(path, local.document, tensors, local.document.to_json())


def _write_program(
    path: Path, local: LocalModel, tensors: Tensors, _input: Input, _top_k: int
) -> None:
    torchscript = import_extra("resnext.deploy.torchscript", extra="torch")
    torchscript.save_program(path, local.document, tensors, local.document.to_json())


def _write_tensors(
    path: Path, local: LocalModel, _tensors: Tensors, _input: Input, _top_k: int
) -> None:
    interchange.convert(local.path, path, to="safetensors")


_WRITERS: Mapping[Format, Callable[[Path, LocalModel, Tensors, Input, int], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torchscript": _write_script,
    "exported-program": _write_program,
    "safetensors": _write_tensors,
}


def _build(local: LocalModel, tensors: Tensors, input: Input, top_k: int) -> Any:
    return portable.build(
        local.document,
        tensors,
        picture=input == "picture",
        top_k=top_k,
        source_sha256=local.sha256,
    )
