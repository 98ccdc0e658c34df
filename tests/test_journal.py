"""The journal: whole groups stay whatever is cut off, another run is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from resnext.errors import ConfigError, ImageError, OutputError
from resnext.evaluation.journal import GROUPS, LOCK, LOGITS, OWNER, RUN, Journal, Row, hold

WHO = {"model": "a", "data": "b"}
K = 3


def rows(first: int, count: int, *, bad: tuple[int, ...] = ()) -> list[Row]:
    return [
        ImageError("x", f"broken {number}")
        if number in bad
        else np.full(K, number + 0.1, np.float32)
        for number in range(first, first + count)
    ]


def fill(folder: Path) -> None:
    with Journal(folder, WHO, K) as journal:
        journal.append(rows(0, 4, bad=(1,)))
        journal.append(rows(4, 2))
        journal.append(rows(6, 3, bad=(6, 8)))


def test_what_is_appended_is_there_in_the_next_process(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    with Journal(tmp_path / "j", WHO, K) as journal:
        assert journal.done == 9
        assert journal.bad == {1: "broken 1", 6: "broken 6", 8: "broken 8"}
        logits = journal.logits()
        assert logits.dtype == np.float32
        expected = np.array([0, 2, 3, 4, 5, 7], np.float32) + np.float32(0.1)
        np.testing.assert_array_equal(logits, np.repeat(expected[:, None], K, axis=1))


def test_an_empty_one_has_no_rows(tmp_path: Path) -> None:
    with Journal(tmp_path, WHO, K) as journal:
        assert (journal.done, journal.logits().shape) == (0, (0, K))


@pytest.mark.parametrize("name", [LOGITS, GROUPS])
def test_a_cut_at_any_byte_keeps_the_whole_groups(name: str, tmp_path: Path) -> None:
    fill(tmp_path)
    content = (tmp_path / name).read_bytes()
    others = {other: (tmp_path / other).read_bytes() for other in (LOGITS, GROUPS)}
    whole = 3
    for end in range(len(content) - 1, -1, -1):
        for other, kept in others.items():
            (tmp_path / other).write_bytes(kept)
        (tmp_path / name).write_bytes(content[:end])
        with Journal(tmp_path, WHO, K) as journal:
            groups = {0: 0, 4: 1, 6: 2, 9: 3}[journal.done]
            assert groups <= whole
            whole = groups
            good = journal.done - len(journal.bad)
        assert (tmp_path / LOGITS).stat().st_size == good * K * 4
    assert whole == 0


def test_a_run_goes_on_after_a_cut_as_if_nothing_had_been(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    fill(tmp_path / "b")
    with open(tmp_path / "b" / LOGITS, "r+b") as file:
        file.truncate(40)
    with Journal(tmp_path / "b", WHO, K) as journal:
        assert journal.done == 4
        journal.append(rows(4, 2))
        journal.append(rows(6, 3, bad=(6, 8)))
    for name in (RUN, LOGITS, GROUPS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_changed_byte_ends_what_counts(tmp_path: Path) -> None:
    fill(tmp_path)
    content = bytearray((tmp_path / LOGITS).read_bytes())
    content[3 * K * 4] ^= 1  # first byte of the second group
    (tmp_path / LOGITS).write_bytes(content)
    with Journal(tmp_path, WHO, K) as journal:
        assert journal.done == 4
    (tmp_path / GROUPS).write_text("{}\n")
    with Journal(tmp_path, WHO, K) as journal:
        assert journal.done == 0


def test_another_run_is_refused_and_replaced_by_force(tmp_path: Path) -> None:
    fill(tmp_path)
    other = {**WHO, "model": "c"}
    with pytest.raises(ConfigError, match="another run: other model") as caught:
        Journal(tmp_path, other, K)
    assert "--force" in caught.value.hint
    with Journal(tmp_path, WHO, K) as journal:
        assert journal.done == 9
    with Journal(tmp_path, other, K, force=True) as journal:
        assert journal.done == 0
    with pytest.raises(ConfigError, match="classes"):
        Journal(tmp_path, other, K + 1)
    (tmp_path / RUN).write_text("{")
    with pytest.raises(ConfigError):
        Journal(tmp_path, other, K)


def test_force_begins_anew_also_with_the_same_run(tmp_path: Path) -> None:
    fill(tmp_path)
    with Journal(tmp_path, WHO, K, force=True) as journal:
        assert (journal.done, journal.bad) == (0, {})
        journal.append(rows(0, 2))
    with Journal(tmp_path, WHO, K) as journal:
        assert (journal.done, journal.bad, journal.logits().shape) == (2, {}, (2, K))


def test_what_was_learned_from_is_kept_by_position(tmp_path: Path) -> None:
    with Journal(tmp_path, WHO, K) as journal:
        journal.append(rows(0, 3), learned=[2])
        journal.append(rows(3, 2, bad=(3,)), learned=[1])
        assert journal.learned == {2, 4}
    with Journal(tmp_path, WHO, K) as journal:
        assert journal.learned == {2, 4}


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "journal"
    with hold(folder, "pets on photos/\udcff"):
        assert "pets on photos/?" in (folder / OWNER).read_text("utf-8")
        with pytest.raises(ConfigError, match="another run is at work there: pets on") as caught:
            with hold(folder, "starter on photos"):
                pass
        assert f"process {os.getpid()}" in caught.value.message
        (folder / OWNER).unlink()
        with pytest.raises(ConfigError, match=r"at work there\n"):
            with hold(folder, "starter on photos"):
                pass
    with hold(folder, "starter on photos"):
        pass
    assert {path.name for path in folder.iterdir()} <= {LOCK}


def test_the_folder_of_a_run_that_failed_is_free(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with hold(tmp_path, "a"):
            raise ZeroDivisionError
    with hold(tmp_path, "b"):
        assert (tmp_path / OWNER).read_text("utf-8").startswith("b, process")


def test_a_folder_that_cannot_be_held(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        with hold(tmp_path / "file" / "j", "a"):
            pass


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Journal(tmp_path / "file" / "j", WHO, K)


def test_what_is_recorded_can_be_read_by_people(tmp_path: Path) -> None:
    fill(tmp_path)
    assert json.loads((tmp_path / RUN).read_text())["model"] == "a"
    lines = [json.loads(line) for line in (tmp_path / GROUPS).read_text().splitlines()]
    assert [line["count"] for line in lines] == [4, 2, 3]
