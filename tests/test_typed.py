"""Nested dataclasses and JSON, and values as people write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from resnext.errors import ConfigError
from resnext.training import typed
from resnext.training.config import TrainConfig


@dataclass(frozen=True)
class Inner:
    share: float = 0.5
    sizes: tuple[int, ...] = ()
    kind: Literal["", "plain", "odd"] = ""


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    quick: bool = False


def test_the_keys_are_paths_of_fields() -> None:
    assert typed.paths(Outer) == ["name", "inner.share", "inner.sizes", "inner.kind", "quick"]


def test_what_is_written_is_read_again() -> None:
    outer = Outer("a", Inner(sizes=(1, 2), kind="odd"), quick=True)
    plain = typed.to_plain(outer)
    assert plain["inner"] == {"share": 0.5, "sizes": [1, 2], "kind": "odd"}
    assert typed.build(Outer, plain) == outer
    assert typed.build(Outer, {"name": "b", "inner": {"share": 1}}) == Outer("b", Inner(1.0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "lacks a key"),
        ({"name": 1}, "name is 1; expected a text"),
        ({"name": "a", "inner": 1}, "inner is 1; expected an object"),
        ({"name": "a", "inner": {"shard": 1}}, "(?s)no setting 'inner.shard'.*'inner.share'"),
        ({"name": "a", "inner": {"kind": "even"}}, "expected one of 'none', 'plain', 'odd'"),
        ({"name": "a", "inner": {"sizes": [1, "2"]}}, "inner.sizes is '2'; expected a whole"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        typed.build(Outer, values)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("optim.learning_rate", "optim.lr"),
        ("learning-rate", "optim.lr"),
        ("lr", "optim.lr"),
        ("optim.wd", "optim.weight_decay"),
        ("bs", "optim.batch_size"),
        ("data.batch", "optim.batch_size"),
        ("optim.epochs", "schedule.epochs"),
        ("epochs", "schedule.epochs"),
        ("optimizer", "optim.name"),
        ("scheduler.kind", "schedule.kind"),
        ("mixup", "augment.mixup_alpha"),
        ("optim.momentun", "optim.momentum"),
    ],
)
def test_the_usual_words_lead_to_the_key(path: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"no setting '{path}'") as raised:
        typed.hint_of(TrainConfig, path)
    assert raised.value.hint == f"did you mean {key!r}?"


def test_every_alias_is_of_a_setting_that_exists() -> None:
    keys = typed.paths(TrainConfig)
    for word, meant in typed._ALIASES.items():
        assert any(f".{key}".endswith(f".{meant}") for key in keys), word
        assert word not in {key.rpartition(".")[2] for key in keys}


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("name", "none", ""),
        ("quick", "yes", True),
        ("inner.share", "0.2", 0.2),
        ("inner.sizes", "3, 4", [3, 4]),
        ("inner.sizes", "none", []),
        ("inner.kind", "none", ""),
    ],
)
def test_values_are_read_as_people_write_them(path: str, text: str, value: object) -> None:
    assert typed.parse(typed.hint_of(Outer, path), text, path) == value
