"""`samples`: a set is checked when it is made, and knows what it holds."""

from __future__ import annotations

import pickle

import pytest

from resnext.errors import DatasetError
from resnext.predictions import Labels
from resnext.training.samples import Sample, SampleSet

LABELS = Labels(("ant", "bee", "cat"))


def _set(*labels: tuple[int, ...], multi_label: bool = False) -> SampleSet:
    samples = [Sample(f"{n}.jpg", f"{n}.jpg", label) for n, label in enumerate(labels)]
    return SampleSet(samples=samples, labels=LABELS, multi_label=multi_label)


def test_counts_are_by_class() -> None:
    assert _set((0,), (2,), (0,)).counts == (2, 0, 1)
    several = _set((0, 2), (), (2,), multi_label=True)
    assert several.counts == (1, 0, 2)
    assert (len(several), several.num_classes) == (3, 3)


def test_a_set_without_pictures_is_refused() -> None:
    with pytest.raises(DatasetError, match="there is no picture; expected at least one"):
        _set()


@pytest.mark.parametrize("labels", [(), (0, 1)])
def test_one_label_each_unless_there_may_be_several(labels: tuple[int, ...]) -> None:
    with pytest.raises(DatasetError, match=rf"1\.jpg has {len(labels)} labels; expected one"):
        _set((0,), labels)
    assert len(_set((0,), labels, multi_label=True)) == 2


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_of_the_classes_is_refused(label: int) -> None:
    with pytest.raises(DatasetError, match=r"1\.jpg has label .*; there are 3 classes"):
        _set((0,), (label,))


def test_the_fingerprint_tells_names_labels_order_and_classes_apart() -> None:
    base = _set((0,), (1,))
    same = _set((0,), (1,))
    assert base.fingerprint == same.fingerprint
    renamed = SampleSet(samples=[base.samples[0], Sample("x", "", (1,))], labels=LABELS)
    turned = SampleSet(samples=base.samples[::-1], labels=LABELS)
    other = SampleSet(samples=base.samples, labels=Labels(("ant", "bee", "cow")))
    prints = {s.fingerprint for s in (base, _set((0,), (2,)), renamed, turned, other)}
    assert len(prints) == 5


def test_the_fingerprint_does_not_depend_on_where_the_pictures_are() -> None:
    moved = [Sample("a/1.jpg", f"/{disk}/a/1.jpg", (0,)) for disk in ("old", "new")]
    first, second = (SampleSet(samples=[one], labels=LABELS).fingerprint for one in moved)
    assert first == second


def test_a_name_of_any_bytes_has_a_fingerprint_and_can_be_pickled() -> None:
    odd = SampleSet(samples=[Sample("\udcff.jpg", "\udcff.jpg", (0,))], labels=LABELS)
    assert pickle.loads(pickle.dumps(odd)) == odd
    assert len(odd.fingerprint) == 32
