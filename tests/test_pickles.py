from __future__ import annotations

import errno
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from resnext.errors import MissingExtraError, ModelFileError, import_extra

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
pickles = import_extra("resnext.checkpoints.pickles", extra="torch")


@pytest.fixture
def state() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv1.weight": torch.randn(4, 3, 2, 2, generator=generator),
        "bn1.running_mean": torch.randn(4, generator=generator),
        "bn1.num_batches_tracked": torch.tensor(7),
    }


def save(content: object, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(ModelFileError, match=match) as info:
        pickles.read(path)
    assert str(path) in str(info.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_come_back_equal(state, tmp_path: Path, zipped: bool):
    path = save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    tensors = pickles.read(path)
    assert list(tensors) == list(state)
    for key, tensor in state.items():
        np.testing.assert_array_equal(tensors[key], tensor.numpy())


@pytest.mark.parametrize("container", ["state_dict_ema", "model_ema", "state_dict", "model"])
def test_containers_are_unwrapped(state, tmp_path: Path, container: str):
    path = save({"epoch": 3, "args": {"lr": 0.1}, container: state}, tmp_path / "a.pth")
    assert list(pickles.read(path)) == list(state)


def test_average_of_the_weights_goes_first(state, tmp_path: Path):
    other = {key: tensor * 0 for key, tensor in state.items()}
    path = save({"state_dict": other, "model": other, "state_dict_ema": state}, tmp_path / "a.pth")
    np.testing.assert_array_equal(pickles.read(path)["conv1.weight"], state["conv1.weight"])
    path = save({"model": other, "model_ema": None, "epoch": 1}, tmp_path / "b.pth")
    assert not pickles.read(path)["conv1.weight"].any()


def test_a_key_called_model_does_not_hide_the_tensors(state, tmp_path: Path):
    path = save({**state, "model": torch.ones(1)}, tmp_path / "a.pth")
    assert "conv1.weight" in pickles.read(path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_float_types(tmp_path: Path, dtype: str):
    tensor = torch.tensor([1.5, -2.0]).to(getattr(torch, dtype))
    array = pickles.read(save({"x": tensor}, tmp_path / "a.pth"))["x"]
    assert array.dtype.name == dtype
    np.testing.assert_array_equal(array, [1.5, -2.0])


def test_a_transposed_bfloat16_tensor(tmp_path: Path):
    tensor = torch.arange(6.0).reshape(2, 3).t().to(torch.bfloat16)
    array = pickles.read(save({"x": tensor}, tmp_path / "a.pth"))["x"]
    np.testing.assert_array_equal(array.astype(np.float32), [[0, 3], [1, 4], [2, 5]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64"])
def test_what_is_written_is_what_torch_writes(tmp_path: Path, dtype: str):
    tensors = {
        "b": np.arange(6)
        .reshape(2, 3)
        .astype(dtype if dtype != "bfloat16" else ml_dtypes.bfloat16),
        "a": np.array(7, np.int64),
    }
    tensors["b"].flags.writeable = False
    path = tmp_path / "a.pth"
    with open(path, "wb") as file:
        pickles.write(file, tensors)
    state = torch.load(path, weights_only=True)
    assert type(state) is dict
    assert list(state) == ["b", "a"]
    assert (state["b"].dtype, state["a"].shape) == (getattr(torch, dtype), ())
    assert state["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    read = pickles.read(path)
    for key, array in tensors.items():
        assert read[key].dtype == array.dtype
        np.testing.assert_array_equal(read[key], array)


def test_a_write_that_fails_says_why(tmp_path: Path):
    class FullDisk(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() > 50_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    with pytest.raises(OSError, match="No space left") as info:
        pickles.write(FullDisk(), {"x": np.zeros(100_000, np.float32)})
    assert info.value.errno == errno.ENOSPC


def test_parameters_and_shared_views_are_tensors(tmp_path: Path):
    base = torch.arange(6.0).reshape(2, 3)
    content = {"p": torch.nn.Parameter(torch.ones(2)), "v": base.t()}
    tensors = pickles.read(save(content, tmp_path / "a.pth"))
    np.testing.assert_array_equal(tensors["v"], base.numpy().T)
    np.testing.assert_array_equal(tensors["p"], [1, 1])


class Bomb:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_never_runs(state, tmp_path: Path, zipped: bool):
    proof = tmp_path / "ran"
    path = tmp_path / "bomb.pth"
    save({"state_dict": state, "x": Bomb(proof)}, path, _use_new_zipfile_serialization=zipped)
    refused(path, r"holds only tensors: (.|\n)*hint: save the tensors alone")
    path.write_bytes(pickle.dumps(Bomb(proof)))
    refused(path, "holds only tensors")
    assert not proof.exists()


def test_whole_module_is_refused(tmp_path: Path):
    refused(save(torch.nn.Linear(2, 2), tmp_path / "a.pth"), "holds only tensors")


def test_torchscript_is_refused_by_name(tmp_path: Path):
    # Made by hand: torch.jit is deprecated, and its files are told by this entry.
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version", "code/__torch__.py"):
            archive.writestr(f"script/{name}", b"\x80\x02}q\x00.")
    refused(path, "a TorchScript archive, which is a program")


def test_compressed_archive_is_refused(state, tmp_path: Path):
    plain, packed = save(state, tmp_path / "a.pth"), tmp_path / "b.pth"
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    refused(packed, "a compressed archive")


@pytest.mark.parametrize("zipped", [True, False])
def test_tensor_larger_than_its_file_is_refused(tmp_path: Path, zipped: bool):
    huge = torch.zeros(1).expand(1 << 20, 1 << 20)
    path = save({"x": huge}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    refused(path, "its tensors claim 4398046511104 bytes")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1, 2], "expected a state_dict, found list"),
        ({}, "expected a state_dict, found dict"),
        ({"state_dict": {}}, "expected a state_dict, found"),
        ({"epoch": 3}, "found also 'epoch'"),
        ({1: "x"}, "found also 1"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: object, match: str):
    refused(save(content, tmp_path / "a.pth"), match)


def test_tensors_under_other_keys_are_refused(tmp_path: Path):
    refused(save({1: torch.ones(1)}, tmp_path / "a.pth"), "expected tensors under text keys")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_odd_tensors_are_refused(tmp_path: Path):
    refused(save({"x": torch.eye(2).to_sparse()}, tmp_path / "a.pth"), "x is sparse")
    refused(save({"x": torch.ones(2, device="meta")}, tmp_path / "b.pth"), "without values")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_is_refused(state, tmp_path: Path, zipped: bool):
    whole = save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped).read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(1, len(whole), len(whole) // 37):
        path.write_bytes(whole[:length])
        refused(path, "cut.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_random_damage_gives_tensors_or_our_error(state, tmp_path: Path, zipped: bool):
    whole = save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped).read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / "damaged.pth"
    for _ in range(150):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 4):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            pickles.read(path)
        except ModelFileError:
            pass


def test_missing_torch_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "resnext.checkpoints.pickles", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'resnext\[torch\]'"):
        import_extra("resnext.checkpoints.pickles", extra="torch")
