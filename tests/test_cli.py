"""The command line, run as people run it: output, messages and exit codes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import click
import pytest
from PIL import Image

from resnext import modelfile, testing
from resnext.cli import app, text

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    return str(testing.write_tiny_model(path))


def resnext(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "resnext", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_the_first_command_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["predict", str(CAT)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(" (")[0] == str(CAT)
    assert len(lines) == 6
    for line in lines[1:]:
        assert re.fullmatch(r"  +\d+\.\d%  \w.* +n\d{8}", line)


def test_json_of_a_name_that_is_no_unicode(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (os.fsdecode(b"caf\xff.jpg"), "Käfer.jpg"):
        text.dump({"path": name})
        shown = capsys.readouterr().out
        assert shown.encode()
        assert json.loads(shown) == {"path": name}
    assert "Käfer" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--version"]) == 0
    assert re.fullmatch(r"resnext \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "command", [[], ["predict"], ["models"], ["info"], ["cache"], ["check"], ["completion"]]
)
def test_help_has_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"resnext {' '.join(command)}" in out
    assert "Example:" in out


def test_no_arguments_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([]) in (0, 2)  # click changed its mind
    assert "predict" in "".join(capsys.readouterr())


def test_json_lines_one_bad_picture_and_exit_code_3(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(CAT, tmp_path / "b.jpg")
    (tmp_path / "a.jpg").write_bytes(b"not a picture")
    arguments = ["predict", str(tmp_path), "--model", tiny, "--format", "jsonl"]
    assert app.run(arguments) == 3
    captured = capsys.readouterr()
    bad, good = map(json.loads, captured.out.splitlines())
    assert bad["predictions"] == []
    assert "a.jpg" in captured.err
    assert {best["label"] for best in good["predictions"]} == {"cat", "dog"}
    assert app.run([*arguments, "--ignore-errors"]) == 0


def test_paths_on_stdin(tiny: str, tmp_path: Path) -> None:
    names = [f"{i} \N{DOG FACE}.jpg" for i in range(3)]
    for name in names:
        shutil.copy(CAT, tmp_path / name)
    done = resnext(
        "predict", "-", "-m", tiny, "-f", "jsonl", "--top-k", "1",
        input="\n".join(names) + "\n", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["source"] for line in done.stdout.splitlines()] == names
    assert done.stderr == ""


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
def test_output_file(
    tiny: str, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers"
    assert app.run(["predict", str(CAT), "-m", tiny, "-f", format, "-o", str(out)]) == 0
    assert "cat" in out.read_text()
    assert os.listdir(tmp_path) == ["answers"]
    assert f"written: {out}\n" in capsys.readouterr().err


def test_a_file_whose_name_says_another_format_is_noted(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.csv"
    for format, note in (("json", f"note: {out} is written as json, not csv\n"), ("csv", "")):
        assert app.run(["predict", str(CAT), "-m", tiny, "-f", format, "-o", str(out)]) == 0
        assert capsys.readouterr().err == f"{note}written: {out}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict"], 2, "Missing argument"),
        (["predct", "x.jpg"], 2, "Did you mean 'predict'?"),
        (["predict", "x.jpg", "--nonsense"], 2, "No such option"),
        (["predict", "x.jpg", "--top-k", "0"], 2, "top-k"),
        (["predict", "x.jpg", "--format", "xml"], 2, "xml"),
        (["predict", "x.jpg", "--engine", "openvinoo"], 2, "openvino"),
        (["predict", "x.jpg", "--model", "resnext50_32x4"], 4, "did you mean"),
        (["predict", "x.jpg", "--model", "./absent.safetensors"], 4, "absent.safetensors"),
        (["predict", str(CAT), "-o", "/absent/folder/x.csv"], 5, "/absent/folder"),
        (["predict", "x.jpg", "-m", "resnext50_32x4d", "--offline"], 5, "copy it to"),
        (["info", "resnext51_32x4d"], 4, "did you mean"),
        (["models", "--licence", "gpl"], 2, "license"),
    ],
)
def test_usage_and_refusals(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["predict", "x.jpg"], "try a smaller --batch-size"),
        (["embed", "x.jpg", "-o", "x.npy"], "try a smaller --batch-size"),
        (["evaluate", "photos"], "try a smaller model"),
        (["check", "photos"], "try a smaller model"),
        (["verify", "starter"], "try a smaller --limit"),
    ],
)
def test_without_memory_the_hint_is_one_that_the_command_has(
    arguments: list[str], hint: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def run_out(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("resnext.Classifier", run_out)
    monkeypatch.setattr("resnext.weights.locate", run_out)
    assert app.run(arguments) == 5
    assert capsys.readouterr().err == f"error: out of memory\n\nhint: {hint}" + (
        ", or free some memory\n" if "model" in hint else "\n"
    )


@pytest.mark.parametrize(
    "name", ["predict", "explain", "embed", "index", "search", "evaluate", "compare", "verify",
             "finetune", "train"],
)  # fmt: skip
def test_every_command_that_reads_pictures_can_ignore_bad_ones(name: str) -> None:
    command = app.app.get_command(click.Context(app.app), name)
    assert command is not None
    assert "ignore_errors" in {option.name for option in command.params}


def test_a_command_is_imported_when_it_is_asked_for() -> None:
    program = (
        "import sys\nfrom resnext.cli import app\napp.run(['models', '--help'])\n"
        "print(*sorted(n for n in sys.modules if n.startswith('resnext.cli.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert "resnext.cli.models" in loaded
    assert not {"resnext.cli.predict", "resnext.cli.train"} & set(loaded)


def test_a_second_start_imports_no_more_than_it_needs(tiny: str, tmp_path: Path) -> None:
    """Each of these takes milliseconds of every start, and the first answer does without."""
    spared = ["onnx", "ml_dtypes", "secrets", "http.client", "platformdirs", "PIL.PngImagePlugin"]
    picture = tmp_path / "one.jpg"
    Image.new("RGB", (40, 40), "red").save(picture)
    program = (
        "import sys\nfrom resnext.cli import app\napp.set_interpreter()\n"
        f"code = app.run(['predict', {str(picture)!r}, '--model', {tiny!r}])\n"
        f"print(code, [name for name in {spared} if name in sys.modules])"
    )
    environment = {**os.environ, "RESNEXT_HOME": str(tmp_path / "home")}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment
        )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_every_module_of_a_command_is_listed() -> None:
    shared = {"app", "text", "progress", "complete", "options", "__init__"}
    files = {path.stem for path in Path(app.__file__).parent.glob("*.py")} - shared
    assert files | {"completion"} == set(app.app.list_commands(click.Context(app.app)))


def test_debug_shows_the_traceback() -> None:
    for arguments in (["--debug", "info", "nonsense"], ["info", "nonsense", "--debug"]):
        done = resnext(*arguments)
        assert done.returncode == 4
        assert "Traceback" in done.stderr


def test_models_and_info_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["models", "resnext101_32x8d*"]) == 0
    text = capsys.readouterr().out
    assert "* resnext101_32x8d.tv2_in1k" in text
    assert app.run(["models", "--licence", "commercial", "--json"]) == 0
    assert all(row["commercial"] for row in json.loads(capsys.readouterr().out))
    assert app.run(["info", "resnext50_32x4d", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["num_params"] == 25_028_904
    assert app.run(["info", "resnext101_2x40d"]) == 0
    assert "layer4" in capsys.readouterr().out
    assert app.run(["info", "starter"]) == 0
    assert "resnext26_32x4d" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["completion", shell]) == 0
    assert "_RESNEXT_COMPLETE" in capsys.readouterr().out


def test_model_names_are_completed() -> None:
    words = {"COMP_WORDS": "resnext info swsl_resnext50", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", "from resnext.cli.app import main; main()"],
        env={**os.environ, **words, "_RESNEXT_COMPLETE": "bash_complete"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "plain,swsl_resnext50_32x4d\n"


def test_files_are_completed_too() -> None:
    for line, expected in (("resnext predict ca", "file,ca\n"), ("resnext info ./m", "file,./m\n")):
        words = {"COMP_WORDS": line, "COMP_CWORD": "2", "_RESNEXT_COMPLETE": "bash_complete"}
        done = subprocess.run(
            [sys.executable, "-c", "from resnext.cli.app import main; main()"],
            env={**os.environ, **words}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout == expected


def test_the_words_completed_are_those_accepted() -> None:
    from resnext.cli.predict import predict
    from resnext.engines import openvino, select
    from resnext.engines.base import Precision

    completed = {
        option.name: [item.value for item in option.shell_complete(None, "")]  # type: ignore[arg-type]
        for option in predict.params
        if option.name in ("engine", "precision")
    }
    assert sorted(completed["engine"]) == sorted(select.ENGINES)
    assert sorted(completed["precision"]) == sorted(["auto", *get_args(Precision)])
    assert set(openvino.PRECISIONS) <= set(completed["precision"])


def test_the_output_is_never_a_picture_to_read(tmp_path: Path, tiny: str) -> None:
    picture = tmp_path / "cat.jpg"
    shutil.copy(CAT, picture)
    before = picture.read_bytes()
    assert app.run(["predict", str(picture), "-m", tiny, "-f", "csv", "-o", str(picture)]) == 2
    assert picture.read_bytes() == before


def test_a_dash_is_stdout(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["predict", str(CAT), "-m", tiny, "-f", "csv", "-o", "-"]) == 0
    assert capsys.readouterr().out.startswith("source,rank,label")


def test_a_picture_on_stdin_is_explained(tiny: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resnext", "predict", "-", "-m", tiny],
        input=CAT.read_bytes(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"expected one path a line" in done.stderr


def test_no_match_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["models", "nothing"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no weights match 'nothing'\n")


def test_info_of_what_may_not_be_used_commercially(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["info", "resnext101_32x48d"]) == 0
    assert "resnext101_32x48d.fb_wsl_ig1b_ft_in1k" in capsys.readouterr().out


def test_cache_shows_and_removes(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["predict", str(CAT), "-m", tiny]) == 0
    capsys.readouterr()
    assert app.run(["cache", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["entries"][0]["kind"] == "compiled"
    assert {entry["kind"] for entry in listing["entries"][1:]} <= {"measured"}
    assert app.run(["cache"]) == 0
    assert " compiled " in capsys.readouterr().out.replace("\n", " ")
    assert app.run(["cache", "--remove", "all"]) == 0
    capsys.readouterr()
    assert app.run(["cache"]) == 0
    assert "(empty)" in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_error(tiny: str, tmp_path: Path) -> None:
    for i in range(60):
        shutil.copy(CAT, tmp_path / f"{i}.jpg")
    command = f"{sys.executable} -m resnext predict {tmp_path} -m {tiny} -f jsonl"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[1] in ("0", "141")
    assert done.stderr == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_keeps_complete_lines(
    tiny: str, tmp_path: Path, number: int, code: int
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    noise = Image.effect_noise((2000, 2000), 50).convert("RGB")
    noise.save(pictures / "0.png", compress_level=1)
    for i in range(1, 200):
        os.link(pictures / "0.png", pictures / f"{i}.png")
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "resnext", "predict", str(pictures), "-m", tiny]
    process = subprocess.Popen(
        [*command, "-f", "jsonl", "-o", str(out)], stderr=subprocess.PIPE, text=True
    )
    for _ in range(300):
        time.sleep(0.1)
        if any(path.read_bytes().count(b"\n") > 1 for path in tmp_path.glob(".resnext-*.tmp")):
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert not out.exists()
    lines = (tmp_path / "out.jsonl.partial").read_text().splitlines()
    assert lines
    assert all(json.loads(line)["predictions"] for line in lines)
    assert "out.jsonl.partial" in errors
    assert "Traceback" not in errors


def test_an_interrupt_does_not_wait_for_a_server_that_drips(tiny: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.jpg"
        process = subprocess.Popen(
            [sys.executable, "-m", "resnext", "predict", address, "-m", tiny],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n\xff\xd8")
            start = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    assert process.returncode == 143
    assert time.monotonic() - start < 5


def test_pipes_and_devices_as_output(tiny: str) -> None:
    command = f"{sys.executable} -m resnext predict {CAT} -m {tiny} -f csv -o /dev/stdout | cat"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("source,rank,label")


def test_a_full_disk_behind_stdout_is_the_environment(tiny: str) -> None:
    for arguments in ("models", f"predict {CAT} -m {tiny}"):
        command = f"{sys.executable} -m resnext {arguments} > /dev/full; echo $? >&2"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.stderr.splitlines()[-1] == "5", done.stderr


def test_a_model_file_cannot_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document, tensors = modelfile.read(path)
    hostile = dataclasses.replace(document, license="\x1b]0;pwned\x07")
    modelfile.write(path, hostile, tensors)
    assert app.run(["info", str(path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_one_file_per_command_without_logic() -> None:
    folder = Path(app.__file__).parent
    for name in ("cache", "info", "models", "predict"):
        assert len((folder / f"{name}.py").read_text().splitlines()) <= 120, name


def test_convert_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    from resnext import interchange
    from resnext.cli import convert

    assert app.run(["convert", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example:  resnext convert " in out
    assert convert.FORMATS == interchange.FORMATS
    assert set(convert.DTYPES) == set(modelfile.STORAGE_DTYPES)
    assert len(Path(convert.__file__).read_text().splitlines()) <= 120


def test_convert_writes_and_says_what_is_lost(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "b.safetensors"
    arguments = ["convert", tiny, str(target), "--to", "safetensors", "--dtype", "bfloat16"]
    assert app.run(arguments) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(
        rf"{target}: safetensors, resnext29_1x1d, bfloat16, [\d.]+ MB, read back equal\n",
        captured.out,
    )
    notes = captured.err.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    assert any("no place for class names, preprocessing, the licence" in note for note in notes)
    assert any("rounded: float16 to bfloat16" in note for note in notes)
    assert app.run(arguments) == 2
    assert "is there already\n\nhint: --force replaces it" in capsys.readouterr().err
    assert app.run([*arguments, "--force"]) == 0
    assert app.run(["predict", str(CAT), "--model", str(target)]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["TINY"], 2, "Missing argument 'B'"),
        (["TINY", "b"], 2, "the name does not tell the format"),
        (["TINY", "b.safetensors", "--to", "onnx"], 2, "'onnx' is not one of"),
        (["TINY", "b.safetensors", "--dtype", "int8"], 2, "'int8' is not one of"),
        (["TINY", "b.pth", "--to", "timm"], 2, "timm is a folder"),
        (["TINY", "TINY", "--force"], 2, "is the source itself"),
        (["TINY", "b/"], 4, "timm cannot build resnext29_1x1d"),
        (["./absent.safetensors", "b.safetensors"], 4, "no such file"),
        (["resnext50_32x4", "b.safetensors"], 4, "did you mean"),
        (["TINY", "/absent/folder/b.safetensors"], 5, "there is no folder /absent/folder"),
        (["resnext50_32x4d", "b.safetensors", "--offline"], 5, "copy it to"),
    ],
)
def test_convert_refuses(
    tiny: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [tiny if word == "TINY" else word for word in arguments]
    assert app.run(["convert", *words]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.torch
def test_convert_never_runs_code_from_a_pickle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": {}, "x": Bomb()}, tmp_path / "bomb.pth")
    assert app.run(["convert", str(tmp_path / "bomb.pth"), str(tmp_path / "b.safetensors")]) == 4
    captured = capsys.readouterr()
    assert "bomb.pth: not a PyTorch checkpoint that holds only tensors" in captured.err
    assert "hint: save the tensors alone with torch.save" in captured.err
    assert os.listdir(tmp_path) == ["bomb.pth"]


def test_convert_does_not_load_torch_where_it_needs_none(tiny: str, tmp_path: Path) -> None:
    code = (
        "import sys; from resnext.cli import app\n"
        "code = app.run(['convert', *sys.argv[1:]])\n"
        "sys.exit(code or 'torch' in sys.modules or 'openvino' in sys.modules)"
    )
    command = [sys.executable, "-c", code, tiny, str(tmp_path / "b.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
