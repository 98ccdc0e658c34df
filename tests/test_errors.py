"""`errors`: the tree, what messages look like, exit codes, missing extras."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from resnext import errors
from resnext.errors import ImageError, MissingExtraError, ResNeXtError

KINDS = ResNeXtError.__subclasses__()


@pytest.mark.parametrize("kind", KINDS)
def test_the_docstring_draws_every_error(kind: type[ResNeXtError]) -> None:
    assert f"── {kind.__name__} (" in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        ("ModelNotFoundError", LookupError),
        ("WeightsUnavailableError", OSError),
        ("WeightsCorruptError", OSError),
        ("ModelFileError", ValueError),
        ("ImageError", ValueError),
        ("DatasetError", ValueError),
        ("ConfigError", ValueError),
        ("EngineError", RuntimeError),
        ("MissingExtraError", ImportError),
        ("OutputError", OSError),
        ("OutOfMemoryError", RuntimeError),
    ],
)
def test_each_error_is_what_a_caller_would_expect(kind: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(errors, kind), builtin)
    assert f"{kind} ({builtin.__name__})" in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", KINDS)
def test_exit_codes_are_those_of_the_command_line(kind: type[ResNeXtError]) -> None:
    assert kind.exit_code in {1, 2, 3, 4, 5}


def test_a_hint_follows_after_a_blank_line() -> None:
    error = ResNeXtError("`lr` is -1; expected above 0", hint="--set lr=0.1")
    assert str(error) == "`lr` is -1; expected above 0\n\nhint: --set lr=0.1"
    assert (error.message, error.hint) == ("`lr` is -1; expected above 0", "--set lr=0.1")


def test_without_a_hint_there_is_no_blank_line() -> None:
    assert str(ResNeXtError("no")) == "no"


def test_an_image_error_names_its_file() -> None:
    error = ImageError("a.jpg", "the file is empty")
    assert str(error) == "a.jpg: the file is empty"
    assert (error.path, error.reason) == ("a.jpg", "the file is empty")


def test_errors_of_the_os_kind_show_their_message_too() -> None:
    assert str(errors.OutputError("x.csv: the disk is full")) == "x.csv: the disk is full"


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("kind", [ResNeXtError, *KINDS])
def test_every_error_can_be_pickled_and_copied(kind: type[ResNeXtError], protocol: int) -> None:
    made = ("a.jpg", "is empty") if kind is ImageError else ("a.jpg: is empty",)
    error = kind(*made, hint="copy it again")
    error.add_note("seen in a worker")
    for again in (pickle.loads(pickle.dumps(error, protocol)), copy.deepcopy(error)):
        assert type(again) is kind
        assert (str(again), again.args) == (str(error), error.args)
        assert vars(again) == vars(error)
        assert again.hint == "copy it again"
    assert str(error) == "a.jpg: is empty\n\nhint: copy it again"


def test_closest_names_come_best_first() -> None:
    names = ["resnext50_32x4d", "resnext101_32x8d", "starter"]
    assert errors.closest("resnxt50_32x4d", names)[0] == "resnext50_32x4d"
    assert errors.closest("zebra", names) == []


@pytest.mark.parametrize(
    ("name", "candidate"),
    [
        ("tigr", "tiger"),
        ("lions", "lion"),
        ("quantise", "quantize"),
        ("Starter", "starter"),
        ("optim.lrr", "optim.lr"),
        ("torchvison-v3", "torchvision-v2"),
        ("lr", "optim.lr"),  # a word of it
        ("legacy_seresnext101_32x4d", "seresnext101_32x4d"),
        ("pytorch", "torch"),
        ("interpolate", "interpolation"),
    ],
)
def test_a_slip_of_the_hand_or_a_word_in_common_is_close(name: str, candidate: str) -> None:
    assert errors.closest(name, ["something else", candidate]) == [candidate]


@pytest.mark.parametrize(
    ("name", "candidate"),
    [
        ("dog", "hog"),
        ("bear", "pear"),
        ("ant", "elephant"),
        ("bearing", "bear"),
        ("a1", "b1"),
        ("7", "77"),
        ("", "a"),
    ],
)
def test_what_only_looks_alike_is_not_close(name: str, candidate: str) -> None:
    assert errors.closest(name, [candidate]) == []


def test_a_likely_slip_goes_before_a_word_in_common() -> None:
    names = [
        "dog sled",
        "maltese dog",
        "resnext101_32x4d",
        "resnext50_32x4d",
        "resnext50_32x4d_ssl",
    ]
    assert errors.closest("resnext50_32x4", names)[0] == "resnext50_32x4d"
    assert errors.closest("resnext50", names) == ["resnext50_32x4d", "resnext50_32x4d_ssl"]
    assert errors.closest("dog", names, count=1) == ["dog sled"]


def test_import_extra_gives_the_module() -> None:
    assert errors.import_extra("json", extra="parquet").loads("1") == 1


def test_a_missing_extra_says_what_to_install() -> None:
    with pytest.raises(
        MissingExtraError, match=r"`no_such_module` is not installed; the extra `parquet` brings it"
    ) as info:
        errors.import_extra("no_such_module.part", extra="parquet")
    assert info.value.hint == errors.install_hint("parquet")
    for command in ("pip install 'resnext[parquet]'", "pip install '.[parquet]'"):
        assert command in info.value.hint


@pytest.mark.parametrize("kind", ["RuntimeError", "ImportError", "OSError"])
def test_an_extra_that_does_not_import_says_why(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"broken_{kind}.py").write_text(f"raise {kind}('no such operator\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"cannot be imported: no such operator\n") as info:
        errors.import_extra(f"broken_{kind}", extra="train")
    assert isinstance(info.value, errors.BrokenExtraError)
    assert "extra `train`" in info.value.message


def test_an_error_of_ours_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours.py").write_text("from resnext.errors import *\nraise ConfigError('no')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.ConfigError, match="^no$"):
        errors.import_extra("ours", extra="train")


def test_no_module_words_the_installation_itself() -> None:
    package = Path(errors.__file__).parent
    found = [
        path.name for path in package.rglob("*.py") if "pip install 'resnext[" in path.read_text()
    ]
    assert found == ["errors.py"]


@pytest.mark.parametrize(
    ("number", "given", "text"),
    [
        (0, ("picture",), "0 pictures"),
        (1, ("picture",), "1 picture"),
        (1000, ("picture",), "1,000 pictures"),
        (1, ("class has", "classes have"), "1 class has"),
        (2, ("class has", "classes have"), "2 classes have"),
    ],
)
def test_what_is_counted_agrees_with_its_number(
    number: int, given: tuple[str, ...], text: str
) -> None:
    assert errors.counted(number, *given) == text
