"""`explain`, `embed`, `index` and `search`, run as people run them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext import Classifier, modelfile, testing
from resnext.cli import app
from resnext.errors import ConfigError
from resnext.explore import explain

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors"))


@pytest.fixture(autouse=True)
def _shared_cache(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests of this file compile the network once."""
    monkeypatch.setenv("RESNEXT_HOME", str(Path(tiny).with_name("home")))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = testing.write_pictures(tmp_path / "data", per_class=3)
    (folder / "red" / "bad.png").write_bytes(b"nothing")
    return folder


@pytest.mark.parametrize("command", ["explain", "embed", "index", "search"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example:" in out
    assert f"resnext {command}" in out


# --- explain ----------------------------------------------------------------------------------


def test_one_picture_gives_one_file_of_its_size(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, array = tmp_path / "why.png", tmp_path / "why.npy"
    arguments = ["explain", str(CAT), "-m", tiny, "-o", str(out), "--array", str(array)]
    assert app.run([*arguments, "--faithfulness"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == "picture class probability overlay deletion insertion".split()
    assert str(out) in lines[1]
    with Image.open(out) as overlay, Image.open(CAT) as picture:
        assert overlay.size == picture.size
        assert overlay.format == "PNG"
        assert np.load(array).shape == picture.size[::-1]
    assert np.isnan(np.load(array)).any()  # the cat is wider than high: its sides are unseen
    assert sorted(os.listdir(tmp_path)) == ["why.npy", "why.png"]


def test_several_pictures_go_to_a_folder_and_a_bad_one_is_named(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(CAT, other / "cat.jpg")
    inputs = [str(CAT), str(other / "cat.jpg"), "absent.jpg"]
    arguments = ["explain", *inputs, "-m", tiny, "-o", str(tmp_path / "out"), "--json"]
    assert app.run([*arguments, "--class", "dog"]) == 3
    captured = capsys.readouterr()
    first, second, absent = json.loads(captured.out)
    assert first["target"]["label"] == second["target"]["label"] == "dog"
    assert first["map"] == second["map"]
    assert np.shape(first["map"]) == (8, 8)
    assert absent == {"source": "absent.jpg", "error": "there is no such file"}
    assert "absent.jpg" in captured.err
    assert sorted(os.listdir(tmp_path / "out")) == ["cat-2.explained.png", "cat.explained.png"]
    assert app.run([*arguments, "--ignore-errors", "--threads", "1"]) == 0


def test_without_a_name_the_overlay_lies_here(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.run(["explain", str(CAT), "-m", tiny]) == 0
    assert os.listdir(tmp_path) == ["cat.explained.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--class", "dogs"], 2, "did you mean 'dog'"),
        (["--method", "lime"], 2, "lime"),
        (["--layer", "layer3"], 2, "take --method gradcam"),
        (["-o", "/absent/why.png"], 5, "there is no folder /absent"),
        (["-o", "why.jpg"], 2, "expected a name that ends in .png"),
    ],
)
def test_what_explain_refuses(
    tiny: str, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["explain", str(CAT), "-m", tiny, *arguments]) == code
    assert message in capsys.readouterr().err


@pytest.mark.torch
def test_gradients_of_another_layer(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["explain", str(CAT), "-m", tiny, "-o", str(tmp_path / "o.png"), "--json"]
    assert app.run([*arguments, "--method", "gradcam++", "--layer", "layer2"]) == 0
    [answer] = json.loads(capsys.readouterr().out)
    assert (answer["method"], answer["layer"]) == ("gradcam++", "layer2")
    assert np.shape(answer["map"]) == (16, 16)


def test_names_of_outputs_never_collide(tmp_path: Path) -> None:
    names = ["a/x.jpg", "b/X.png", "c/x-2.jpg", "d/x.jpg", ".jpg"]
    paths = explain.name_outputs(names, tmp_path / "new" / "out", ".png")
    assert len({path.name.lower() for path in paths}) == len(names)
    assert (tmp_path / "new" / "out").is_dir()
    assert explain.name_outputs(["a.jpg"], tmp_path, ".png") == [tmp_path / "a.explained.png"]


def test_a_name_without_an_ending_is_a_folder_for_one_picture_too(tmp_path: Path) -> None:
    for folder in ("explained", "out.v2"):
        expected = [tmp_path / folder / "a.explained.png"]
        assert explain.name_outputs(["a.jpg"], tmp_path / folder, ".png") == expected
        assert (tmp_path / folder).is_dir()
    assert explain.name_outputs(["a.jpg"], tmp_path / "b.PNG", ".png") == [tmp_path / "b.PNG"]


@pytest.mark.parametrize(
    ("names", "output", "message"),
    [
        (["a.jpg"], "why.jpg", r"expected a name that ends in \.png"),
        (["a.jpg"], "why.npy", r"expected a name that ends in \.png"),
        (["a.jpg", "b.jpg"], "why.png", "is one file, and there are 2 pictures"),
    ],
)
def test_a_file_of_another_kind_or_for_several_pictures_is_refused(
    names: list[str], output: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        explain.name_outputs(names, tmp_path / output, ".png")
    assert os.listdir(tmp_path) == []


def test_a_class_that_is_not_there_is_refused_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["dog", "tabby, tabby cat", "Egyptian cat"]
    path = testing.write_tiny_model(tmp_path / "m.safetensors", class_names=names)
    command = ["explain", str(CAT), "-m", str(path), "-o", str(tmp_path / "o.png")]
    assert app.run([*command, "--class", "cat"]) == 2
    assert "did you mean 'tabby, tabby cat' or 'Egyptian cat'?" in capsys.readouterr().err
    assert not (tmp_path / "o.png").exists()


def test_an_overlay_never_takes_the_place_of_a_picture(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = testing.write_pictures(tmp_path / "data", classes=("red",), per_class=2) / "red"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    picture = str(folder / "0000.png")
    assert app.run(["explain", picture, "-m", tiny, "-o", picture]) == 2
    assert "is both a file to read and the output" in capsys.readouterr().err
    explained = ["explain", str(folder), "-m", tiny, "-o", str(folder)]
    assert app.run(explained) == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() - before.keys() == {"0000.explained.png", "0001.explained.png"}
    assert {name: after[name] for name in before} == before
    capsys.readouterr()
    assert app.run(explained) == 2  # for it would explain what it has drawn
    assert "is both a file to read and the output" in capsys.readouterr().err


def test_a_file_of_the_same_stem_beside_a_picture_is_kept(tiny: str, tmp_path: Path) -> None:
    shutil.copy(CAT, tmp_path / "cat.jpg")
    for name in ("cat.png", "cat.npy"):
        (tmp_path / name).write_bytes(b"mine")
    command = ["explain", str(tmp_path / "cat.jpg"), "-m", tiny, "-o", str(tmp_path)]
    assert app.run([*command, "--array", str(tmp_path)]) == 0
    assert {(tmp_path / name).read_bytes() for name in ("cat.png", "cat.npy")} == {b"mine"}
    made = {"cat.explained.png", "cat.explained.npy"}
    assert set(os.listdir(tmp_path)) == made | {"cat.jpg", "cat.png", "cat.npy"}


def test_an_answer_that_is_rejected_says_so(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, tensors = modelfile.read(Path(tiny))
    unsure = tmp_path / "unsure.safetensors"
    modelfile.write(unsure, replace(document, reject_threshold=0.999), tensors)
    words = ["explain", str(CAT), "-m", str(unsure), "-o", str(tmp_path / "why.png")]
    for more, said in (([], True), (["--class", "0"], False)):  # not of a class one asks for
        assert app.run([*words, *more]) == 0
        assert ("(rejected)" in capsys.readouterr().out) is said
        assert app.run([*words, *more, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["rejected"] is said


# --- embed ------------------------------------------------------------------------------------


def test_embeddings_as_numpy_are_those_of_the_classifier(
    tiny: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "e.npy"
    arguments = ["embed", str(data), "-m", tiny, "-o", str(out), "--precision", "fp32"]
    assert app.run(arguments) == 3
    assert "bad.png" in capsys.readouterr().err
    rows, names = np.load(out), json.loads((tmp_path / "e.sources.json").read_text())
    assert rows.shape == (9, 1024)
    with Classifier(tiny, precision="fp32") as classifier:
        np.testing.assert_allclose(rows, classifier.embed(names), atol=1e-5)
    capsys.readouterr()
    assert app.run([*arguments, "--ignore-errors"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in shown[:4]] == [
        ["embeddings", str(out)], ["pictures", "9"], ["values", "1024"], ["left_out", "1"]
    ]  # fmt: skip
    assert app.run([*arguments, "--ignore-errors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["embeddings"] == str(out)


def test_embeddings_as_parquet(tiny: str, data: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "e.parquet"
    assert app.run(["embed", str(data), "-m", tiny, "-o", str(out), "--ignore-errors"]) == 0
    table = parquet.read_table(out)
    assert table.column_names == ["source", "embedding"]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[1024]"
    assert table.num_rows == 9


def test_an_unknown_suffix_is_refused(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["embed", str(CAT), "-m", tiny, "-o", "e.xyz"]) == 2
    shown = capsys.readouterr().err
    assert "none of the formats npy, parquet" in shown
    assert "--format" not in shown  # which this command does not have


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_without_one_picture_an_older_file_stays(
    suffix: str, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"e.{suffix}"
    words = ["-m", tiny, "-o", str(out), "--precision", "fp32"]
    assert app.run(["embed", str(CAT), *words]) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "empty").mkdir()
    for wrong in (str(tmp_path / "absent"), str(tmp_path / "empty"), __file__):
        capsys.readouterr()
        assert app.run(["embed", wrong, *words, "--ignore-errors"]) == 3
        shown = capsys.readouterr()
        assert f"{wrong}: there is no picture to embed; nothing is written" in shown.err
        assert "hint: name files that are pictures, or folders that have some" in shown.err
        assert shown.out == ""
        assert {path: path.read_bytes() for path in before} == before
        assert len(list(tmp_path.iterdir())) == len(before) + 1


# --- index and search -------------------------------------------------------------------------


def test_an_index_is_made_and_searched(
    tiny: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, page = tmp_path / "my.index", tmp_path / "sheet.html"
    common = ["--precision", "fp32"]
    assert app.run(["index", str(data), "-m", tiny, "-o", str(place), "--json", *common]) == 3
    captured = capsys.readouterr()
    assert "bad.png" in captured.err
    assert json.loads(captured.out)["pictures"] == 9
    assert app.run(["index", str(data), "-m", tiny, "-o", str(place), "--ignore-errors"]) == 0
    assert app.run(["index", str(data), "-m", tiny, "-o", str(place), *common]) == 3
    capsys.readouterr()
    query = str(data / "green" / "0001.png")
    search = ["search", query, "--index", str(place), "-k", "3", *common]
    capsys.readouterr()
    assert app.run([*search, "--html", str(page)]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"written: {page}\n"
    title, header, first, *_ = captured.out.splitlines()
    assert title.startswith(query)
    assert "vote: " in title
    assert header.split() == ["similarity", "class", "picture"]
    similarity, label, name = first.split()
    assert similarity == "1.000"
    assert Path(name).parent.name == label
    assert page.read_text().count("<figure>") == 4
    assert app.run([*search, "absent.png", "--json"]) == 3
    good, bad = json.loads(capsys.readouterr().out)
    assert len(good["neighbors"]) == 3
    assert bad["error"]
    assert app.run([*search, query]) == 0
    once, again = capsys.readouterr().out.strip().split("\n\n")  # a blank line between the two
    assert once == again
    assert app.run([*search, "absent.png", "--ignore-errors"]) == 0


def test_what_search_refuses(
    tiny: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "my.index"
    assert app.run(["search", str(CAT), "--index", str(place)]) == 3
    assert "no such file" in capsys.readouterr().err
    (data / "red" / "bad.png").unlink()
    assert app.run(["index", str(data), "-m", tiny, "-o", str(place)]) == 0
    other = str(testing.write_tiny_model(tmp_path / "other.safetensors", seed=1))
    assert app.run(["search", str(CAT), "--index", str(place), "-m", other]) == 4
    assert "made by another model" in capsys.readouterr().err
    moved = shutil.copy(tiny, tmp_path / "moved.safetensors")
    assert app.run(["index", str(data), "-m", moved, "-o", str(tmp_path / "b.index")]) == 0
    os.rename(moved, tmp_path / "here.safetensors")
    capsys.readouterr()
    assert app.run(["search", str(CAT), "--index", str(tmp_path / "b.index")]) == 4
    shown = capsys.readouterr().err
    assert f"b.index was made by {moved}, which is not there any more" in shown
    assert "hint: say with --model where" in shown
    words = ["search", str(CAT), "--index", str(tmp_path / "b.index"), "--model"]
    assert app.run([*words, str(tmp_path / "here.safetensors")]) == 0
    assert app.run([*words, str(tmp_path / "absent.safetensors")]) == 4
    assert "absent.safetensors: no such file" in capsys.readouterr().err
    sheet = ["--html", str(tmp_path / "no" / "sheet.html")]
    assert app.run(["search", str(CAT), "--index", str(place), *sheet]) == 5
    captured = capsys.readouterr()
    assert (captured.out, "there is no folder" in captured.err) == ("", True)
    assert app.run(["index", str(data), "-m", tiny, "-o", str(place), "--part", "val"]) == 2
    assert app.run(["search", str(CAT), "--index", str(place), "--temperature", "0"]) == 2
    assert app.run(["index", str(tmp_path / "absent"), "-m", tiny, "-o", str(place)]) == 3
    assert app.run(["index", str(data), "-m", tiny, "-o", "/absent/x.index"]) == 5


def test_an_index_replaces_an_index_but_no_model(
    tiny: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "index.safetensors"
    command = ["index", str(data), "-m", tiny, "--ignore-errors", "-o"]
    assert app.run([*command, str(place)]) == 0
    assert app.run([*command, str(place)]) == 0
    model = Path(shutil.copy(tiny, tmp_path / "mine.safetensors"))
    capsys.readouterr()
    assert app.run([*command, str(model)]) == 2
    assert "has the name of a model: no result replaces it" in capsys.readouterr().err
    assert model.read_bytes() == Path(tiny).read_bytes()
