"""Which public weights exist, what they are called and how each is run.

One row per distinct file of weights of the family, from `assets/catalogue.json`, which
`scripts/make_catalogue.py` writes. A row runs at its test size, never at its training
size, and its accuracy is the one published for exactly that preprocessing. A bare
architecture name means the most accurate row whose licence allows commercial use; any
other licence has to be asked for by full name. `docs/models.md` shows all rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

from resnext import arch
from resnext.errors import ConfigError, ModelFileError, ModelNotFoundError, closest
from resnext.predictions import Labels
from resnext.preprocess import PreprocessSpec

FileFormat = Literal["safetensors", "pth"]
KeyLayout = Literal["torchvision", "mmpretrain", "cadene"]

_ASSETS = Path(__file__).with_name("assets")
_LIST_HINT = "`resnext models` lists every name"


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """One place a row's tensors can be had from.

    With neither a hub repository nor a URL the file has no source we trust: it is known
    by its hash, and the user has to bring it.

    Args:
        filename: Name of the file at its source.
        format: How the bytes are read; "pth" needs torch.
        key_layout: How the tensors are named.
        hub_id: Hugging Face repository that holds `filename`.
        url: https address of the file.
        sha256_prefix: First hexadecimal digits of its SHA-256, where its publisher states them.
    """

    filename: str
    format: FileFormat
    key_layout: KeyLayout = "torchvision"
    hub_id: str | None = None
    url: str | None = None
    sha256_prefix: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightSpec:
    """One set of public weights.

    Args:
        architecture: Such as `resnext50_32x4d`.
        tag: What tells it from other weights of that architecture, such as `tv_in1k`.
        files: Where it can be had, best first.
        preprocess: How pictures are prepared when it runs: the published test setting.
        train_size: Side in pixels of the crops it was last trained on, or None if unknown.
        license: Licence its publisher states, as a lower-case SPDX identifier where there is one.
        commercial: Whether that licence allows commercial use; unknown counts as no.
        top1: Published ImageNet-1k top-1 accuracy in percent with `preprocess`, if any.
        top5: The same for top-5.
        accuracy_source: Who published the accuracy.
        params: Number of trainable parameters.
        num_classes: Number of logits; other than 1000 they are not ImageNet-1k's classes, and
            nameless.
        aliases: Names that other tools give to these weights.
        origin_url: Home of the people who trained it.
        notes: What one should know before using it.
    """

    architecture: str
    tag: str
    files: tuple[WeightFile, ...]
    preprocess: PreprocessSpec
    train_size: int | None
    license: str
    commercial: bool
    top1: float | None
    top5: float | None
    accuracy_source: str
    params: int
    num_classes: int = 1000
    aliases: tuple[str, ...]
    origin_url: str
    notes: str

    @property
    def name(self) -> str:
        """Full name, such as `resnext50_32x4d.tv_in1k`."""
        return f"{self.architecture}.{self.tag}"

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON values, with its full name first."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        row["files"] = [asdict(file) for file in self.files]
        row["preprocess"] = self.preprocess.to_json()
        row["aliases"] = list(self.aliases)
        return {"name": self.name, **row}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> WeightSpec:
        """Read a row that `to_json` wrote.

        Raises:
            ModelFileError: A field is missing, unknown or not consistent with the name.
            ConfigError: The preprocessing is not valid.
        """
        values = dict(row)
        name = values.pop("name", None)
        _check_keys(cls, values, name)
        for file in values["files"]:
            _check_keys(WeightFile, file, name)
        values["files"] = tuple(WeightFile(**file) for file in values["files"])
        values["preprocess"] = PreprocessSpec.from_json(values["preprocess"])
        values["aliases"] = tuple(values["aliases"])
        spec = cls(**values)
        if spec.name != name:
            raise ModelFileError(f"catalogue row {name!r} calls itself {spec.name!r}")
        return spec


def _check_keys(cls: type[WeightSpec | WeightFile], row: Mapping[str, Any], name: object) -> None:
    wrong = {field.name for field in fields(cls)} ^ row.keys()
    if wrong:
        raise ModelFileError(
            f"catalogue row {name!r}: missing or unknown in {cls.__name__}:"
            f" {', '.join(sorted(wrong))}"
        )


@cache
def weights() -> tuple[WeightSpec, ...]:
    """Return every row, smallest architecture first, best accuracy first within one."""
    text = (_ASSETS / "catalogue.json").read_text(encoding="utf-8")
    return tuple(WeightSpec.from_json(row) for row in json.loads(text)["weights"])


@cache
def imagenet1k() -> Labels:
    """Return the 1,000 ImageNet-1k class names and synset ids, in the order of the logits."""
    table = json.loads((_ASSETS / "imagenet1k.json").read_text(encoding="utf-8"))
    return Labels(tuple(table["class_names"]), tuple(table["synset_ids"]))


def find(name: str) -> WeightSpec:
    """Return the row a name stands for; capitals, and `-` for `_`, make no difference.

    Args:
        name: A full name (`resnext50_32x4d.tv_in1k`), an alias (`swsl_resnext50_32x4d`),
            a hub repository of the catalogue (`timm/resnext50_32x4d.a1h_in1k`) or a bare
            architecture (`resnext50_32x4d`), which means `default_for` of it.

    Raises:
        ModelNotFoundError: There is no such name, or it is an architecture that has no
            weights with a licence for commercial use.

    Example:
        >>> find("ResNeXt50_32X4D_Weights.IMAGENET1K_V1").name
        'resnext50_32x4d.tv_in1k'
    """
    key = _fold(name)
    row = _index().get(key)
    if row is not None:
        return row
    if _is_architecture(key):
        return default_for(key)
    near = _nearest(key)
    hint = f"did you mean {' or '.join(near)}? {_LIST_HINT}" if near else _LIST_HINT
    raise ModelNotFoundError(f"no model is called {name!r}", hint=hint)


def default_for(architecture: str) -> WeightSpec:
    """Return what a bare architecture name means.

    That is the row with the highest published top-1 accuracy at the size it runs at, among
    those whose licence allows commercial use.

    Args:
        architecture: Its exact name, such as `resnext50_32x4d`.

    Raises:
        ModelNotFoundError: It has no weights, or none with such a licence.
    """
    row = defaults().get(architecture)
    if row is not None:
        return row
    rows = [row for row in weights() if row.architecture == architecture]
    if not rows:
        raise _no_weights(architecture)
    terms = ", ".join(sorted({row.license for row in rows}))
    names = ", ".join(f"{row.name} ({_percent(row.top1)} top-1)" for row in rows)
    raise ModelNotFoundError(
        f"no public weights of {architecture} have a licence that allows commercial use (only"
        f" {terms}), and a bare name never chooses another for you",
        hint=f"if the licence suits your use, give the full name: {names}",
    )


@cache
def defaults() -> Mapping[str, WeightSpec]:
    """Return the row that each bare architecture name means, where there is one."""
    best: dict[str, WeightSpec] = {}
    for row in weights():
        if row.commercial and row.top1 is not None:
            rival = best.get(row.architecture)
            if rival is None or row.top1 > (rival.top1 or 0):
                best[row.architecture] = row
    return best


def identify(sha256: str) -> WeightSpec | None:
    """Return the row that one of whose files has this SHA-256, or None.

    A published `.pth` holds tensors only; this is how a copy of it under any file name
    still gets its preprocessing and class names.

    Args:
        sha256: All 64 hexadecimal digits of the file's hash.
    """
    digest = sha256.lower()
    for row in weights():
        prefixes = [file.sha256_prefix for file in row.files if file.sha256_prefix]
        if any(digest.startswith(prefix) for prefix in prefixes):
            return row
    return None


def search(pattern: str = "*", *, license: str | None = None) -> tuple[WeightSpec, ...]:
    """Return the rows that match, in the order of `weights`.

    Args:
        pattern: Shell pattern for the full name or an alias; without `*`, `?` or `[` it may
            stand anywhere in it. Capitals, and `-` for `_`, make no difference.
        license: A licence such as `apache-2.0`, or `commercial` or `non-commercial`.

    Raises:
        ConfigError: No row has such a licence.
    """
    matches = _matcher(pattern)
    return tuple(
        row
        for row in _with_license(license)
        if any(matches(name) for name in (row.name, *row.aliases))
    )


def list_models(
    pattern: str | Sequence[str] = "*", *, pretrained: bool = False, license: str | None = None
) -> list[str]:
    """Return the architectures that have public weights, or the weights, by name.

    Args:
        pattern: Shell pattern for the name, or several; one without `*` or `?` is found
            anywhere in it. Nothing found is no error.
        pretrained: Whether to return full names of weights, also found by their aliases.
        license: A licence such as `apache-2.0`, or `commercial` or `non-commercial`: only
            such weights, and architectures that have some.

    Returns:
        The names in order, `resnext101` after `resnext50`.

    Raises:
        ConfigError: No weights have such a licence.

    Example:
        >>> list_models("skresnext*"), list_models("skresnext*", pretrained=True)
        (['skresnext50_32x4d'], ['skresnext50_32x4d.ra_in1k'])
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    if pretrained:
        found = {row.name for one in patterns for row in search(one, license=license)}
    else:
        names = {row.architecture for row in _with_license(license)}
        found = {name for one in patterns for name in filter(_matcher(one), names)}
    return sorted(found, key=_natural)


def _natural(name: str) -> list[str | int]:
    # Text and digits take turns, so the same places hold the same type.
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _matcher(pattern: str) -> Callable[[str], bool]:
    glob = _fold(pattern)
    if not set(glob) & set("*?["):
        glob = f"*{glob}*"
    return lambda name: fnmatchcase(_fold(name), glob)


def _with_license(license: str | None) -> tuple[WeightSpec, ...]:
    if license is None:
        return weights()
    wanted = license.strip().lower()
    if wanted in ("commercial", "non-commercial"):
        return tuple(row for row in weights() if row.commercial == (wanted == "commercial"))
    rows = tuple(row for row in weights() if row.license == wanted)
    if not rows:
        known = sorted({row.license for row in weights()} | {"commercial", "non-commercial"})
        raise ConfigError(
            f"license is {license!r}; expected one of {', '.join(known)}",
            hint=f"did you mean {near[0]}?" if (near := closest(wanted, known)) else "",
        )
    return rows


def _fold(name: str) -> str:
    return name.strip().lower().replace("-", "_")


@cache
def _aliases() -> Mapping[str, WeightSpec]:
    return {alias: row for row in weights() for alias in row.aliases}


@cache
def _index() -> Mapping[str, WeightSpec]:
    """Map every folded name to its row; a test proves that no two rows share one."""
    index = {_fold(alias): row for alias, row in _aliases().items()}
    for row in weights():
        index[_fold(row.name)] = row
        index.update((_fold(file.hub_id), row) for file in row.files if file.hub_id)
    return index


def _nearest(key: str) -> list[str]:
    """Return the names most like a folded one: of its architecture, if it names one."""
    names = {row.architecture for row in weights()} | {row.name for row in weights()}
    names.add("starter")  # no row, but what one may have meant
    names |= _aliases().keys()
    of_architecture = {name for name in names if name.startswith(key.partition(".")[0] + ".")}
    spelled = {_fold(name): name for name in sorted(of_architecture or names)}
    return [spelled[match] for match in closest(key, spelled)]


def _is_architecture(name: str) -> bool:
    try:
        arch.parse(name)
    except ModelNotFoundError:
        return False
    return True


def _no_weights(architecture: str) -> ModelNotFoundError:
    try:
        spec = arch.parse(architecture)
    except ModelNotFoundError as error:
        return error
    modified = spec.attention or spec.antialias
    if (spec.cardinality, spec.base_width) == (1, 64) and not modified:
        return ModelNotFoundError(
            f"{architecture} is ResNet-{spec.depth}{spec.variant.upper()}, and the catalogue"
            " holds weights of ResNeXt only",
            hint="give the path of a ResNet checkpoint with torchvision's tensor names",
        )
    return ModelNotFoundError(
        f"no public weights of {architecture} are known",
        hint=f"give the path of a checkpoint; {_LIST_HINT} that has weights",
    )


def _percent(value: float | None) -> str:
    return "unpublished" if value is None else f"{value:.1f} %"
