"""A model for other programs, checked before it counts.

onnx              ONNX Runtime, onnxruntime-web, TensorRT and most others
openvino          OpenVINO's .xml with a .bin beside it
torchscript       torch.jit.load and C++
exported-program  torch.export.load, AOTInductor
safetensors       the tensors alone, under torchvision's keys

What was written is loaded again and run, see `deploy.recheck`; its answers must be those of
this package's own engine in fp32 or int8, or nothing is left on the disk.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from resnext import interchange, weights
from resnext.deploy import portable, recheck
from resnext.engines import eightbits, graph
from resnext.engines.base import Precision
from resnext.errors import (
    BrokenExtraError,
    ConfigError,
    MissingExtraError,
    closest,
    import_extra,
)
from resnext.files import check_place, output_error, sync_folder
from resnext.weights import LocalModel

if TYPE_CHECKING:
    from resnext.deploy.quantize import Quantized

Format = Literal["onnx", "openvino", "torchscript", "exported-program", "safetensors"]
Input = Literal["prepared", "picture"]
FORMATS: tuple[Format, ...] = get_args(Format)
INPUTS: tuple[Input, ...] = get_args(Input)
IN_EIGHT_BITS: tuple[Format, ...] = ("onnx", "openvino")  # the others keep only floats
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
        precision: "fp32" or "int8".
        from_fp32: For "int8" the difference from fp32, in place of that from the engine.
        left_eight_bits: Whether the model was quantized, and what is written is not.
        calibrated: What quantizing cost, where that was done on the way.
        obstacle: Why ONNX Runtime did not run an ONNX file; None where it did.
    """

    paths: tuple[Path, ...]
    format: Format
    input: Input
    difference: float
    levels: int | None
    checked_with: str
    compared_with: str = ""
    precision: Precision = "fp32"
    from_fp32: float | None = None
    left_eight_bits: bool = False
    calibrated: Quantized | None = None
    obstacle: MissingExtraError | None = None

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def problems(self) -> tuple[str, ...]:
        """Pictures to calibrate on that could not be read."""
        return () if self.calibrated is None else self.calibrated.problems

    @property
    def verdict(self) -> str:
        """What the check found, as half a sentence."""
        if self.format == "safetensors":
            return "read back equal"
        pixels = "" if self.levels is None else f", pixels off by at most {self.levels} of 255"
        logits = f"logits off by {self.difference:.1e} of the largest"
        found = f"run by {self.checked_with}, {logits}{pixels}, compared with {self.compared_with}"
        if self.from_fp32 is None:
            return found
        return f"{found} in 8 bits, and by {self.from_fp32:.1e} with float32"

    @property
    def cautions(self) -> tuple[str, ...]:
        """What one might not expect of the file, or the check does not show, as sentences."""
        found = []
        if self.left_eight_bits:
            found.append(
                "the model was quantized; what is written has its weights in float32, and none of"
                f" its 8 bits; --int8 keeps them, in {' and '.join(IN_EIGHT_BITS)}"
            )
        if self.obstacle is not None:
            broken = isinstance(self.obstacle, BrokenExtraError)
            reason = self.obstacle.message if broken else "onnxruntime is not installed"
            found.append(
                f"{reason}; so {self.checked_with} ran the file: that ONNX Runtime opens it and"
                f" answers the same is not checked; {self.obstacle.hint}"
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
            "precision": self.precision,
            "difference_from_fp32": self.from_fp32,
            "left_eight_bits": self.left_eight_bits,
            "calibration": _facts_of(self.calibrated),
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


def check_request(
    path: Path, format: str | None, *, int8: bool = False, calibrate: str | None = None
) -> Format:
    """Check what can be checked without the model, which may have to be downloaded.

    Args:
        path: The file to write.
        format: As for `format_of`.
        int8: Whether 8 bits are asked for.
        calibrate: Pictures to quantize on, or None.

    Returns:
        The format.

    Raises:
        ConfigError: There is no such format, or 8 bits do not go with the rest.
    """
    chosen = format_of(path, format)
    if int8 and chosen not in IN_EIGHT_BITS:
        raise ConfigError(
            f"{chosen} cannot keep 8 bits; expected one of {', '.join(IN_EIGHT_BITS)}",
            hint=f"-o {path.with_suffix('.onnx')}, or leave out --int8",
        )
    if calibrate is not None and not int8:
        raise ConfigError(
            "there are pictures to calibrate on, and no 8 bits are asked for", hint="add --int8"
        )
    return chosen


def export(
    local: LocalModel,
    path: Path,
    *,
    format: str | None = None,
    input: str = "prepared",
    top_k: int = 5,
    int8: bool = False,
    calibrate: str | None = None,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Exported:
    """Write a model in a format for other programs, and check it.

    Args:
        local: The model.
        path: The file; OpenVINO's weights, and those of ONNX above 1.9 GB, go to a second
            one beside it.
        format: One of `FORMATS`; None lets the ending of `path` say.
        input: "prepared" or "picture"; the second for ONNX only.
        top_k: Number of best classes that ONNX and OpenVINO give.
        int8: Write the graph in 8 bits of a model that was quantized; ONNX and OpenVINO only.
        calibrate: File, folder or glob of pictures to quantize the model on first, as
            `quantize` does by default; for `int8`.
        force: Replace what is there.
        progress: For `calibrate`, called with the ways tried and those there are.

    Raises:
        ConfigError: An option or the name will not do, or the file is there.
        DatasetError: There are too few pictures to quantize on.
        MissingExtraError: A torch format, without torch.
        ModelFileError: The tensors are refused.
        ParityError: What was written does not answer as the source does, or the model loses
            too much in 8 bits.
        OutputError: A file cannot be written.
    """
    chosen = check_request(path, format, int8=int8, calibrate=calibrate)
    takes = _check_options(path, chosen, input, force=force)
    if int8 and calibrate is None and local.document.quantization is None:
        raise ConfigError(
            f"{local.document.name} was not quantized, so its ranges in 8 bits are not known",
            hint="add --calibrate PICTURES, or export what `resnext quantize` makes of it",
        )
    with _source(local, calibrate, progress) as (source, calibrated), _workplace(path) as folder:
        job = _Job(
            source,
            source_sha256=local.sha256,
            input=takes,
            top_k=top_k,
            precision="int8" if int8 else "fp32",
        )
        made = folder / path.name
        _WRITERS[chosen](made, job)
        if chosen == "safetensors":  # read back bit by bit by who wrote it
            found = recheck.Found(difference=0.0, levels=None, engine="safetensors", reference="")
        else:
            picture = takes == "picture"
            found = recheck.check(made, source, picture=picture, precision=job.precision)
        paths = _publish(folder, path)
    return Exported(
        paths=paths,
        format=chosen,
        input=takes,
        difference=found.difference,
        levels=found.levels,
        checked_with=found.engine,
        compared_with=found.reference,
        precision=job.precision,
        from_fp32=found.from_fp32,
        left_eight_bits=source.document.quantization is not None and not int8,
        calibrated=calibrated,
        obstacle=found.obstacle,
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
def _source(
    local: LocalModel, calibrate: str | None, progress: Callable[[int, int], object] | None
) -> Iterator[tuple[LocalModel, Quantized | None]]:
    """Give the model to write, quantized first where there are pictures for it."""
    if calibrate is None:
        yield local, None
        return
    # Here, not above: it brings all that evaluating takes, and most exports do without.
    from resnext.deploy.quantize import quantize

    with tempfile.TemporaryDirectory(prefix="resnext-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.safetensors"
        done = quantize(local, calibrate, path, progress=progress)
        made = weights.locate(path)
        named = replace(made.document, name=local.document.name)
        yield replace(made, document=named), done


def _facts_of(calibrated: Quantized | None) -> dict[str, Any] | None:
    if calibrated is None:
        return None
    return {key: fact for key, fact in calibrated.to_json().items() if key != "file"}


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


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be written."""

    local: LocalModel
    _: KW_ONLY
    source_sha256: str  # of what the user has; a file made on the way is gone
    input: Input
    top_k: int
    precision: Precision

    def build(self) -> Any:
        return portable.build(
            self.local.document,
            weights.read_tensors(self.local),
            picture=self.input == "picture",
            top_k=self.top_k,
            source_sha256=self.source_sha256,
            precision=self.precision,
            group_width=eightbits.GROUP_WIDTH if self.precision == "int8" else 1,
        )


def _write_onnx(path: Path, job: _Job) -> None:
    graph.save(job.build(), path)


def _write_openvino(path: Path, job: _Job) -> None:
    # Here, not above: it takes a fifth of a second, and other formats do without.
    from resnext.engines.openvino import ov, read_graph

    built = job.build()
    with graph.serialized(built) as content:
        model = read_graph(content)
    for fact in built.metadata_props:
        model.set_rt_info(fact.value, ["resnext", fact.key])
    ov.save_model(model, path, compress_to_fp16=False)


def _write_script(path: Path, job: _Job) -> None:
    torchscript = import_extra("resnext.deploy.torchscript", extra="torch")
    document, tensors = job.local.document, weights.read_tensors(job.local)
    torchscript.save_script(path, document, tensors, document.to_json())


def _write_program(path: Path, job: _Job) -> None:
    torchscript = import_extra("resnext.deploy.torchscript", extra="torch")
    document, tensors = job.local.document, weights.read_tensors(job.local)
    torchscript.save_program(path, document, tensors, document.to_json())


def _write_tensors(path: Path, job: _Job) -> None:
    weights.read_tensors(job.local)  # which checks them
    interchange.convert(job.local.path, path, to="safetensors")


_WRITERS: Mapping[Format, Callable[[Path, _Job], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torchscript": _write_script,
    "exported-program": _write_program,
    "safetensors": _write_tensors,
}
