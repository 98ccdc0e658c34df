"""Classes of a folder and of a model: matched as stated, or an error that names both."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnext import catalogue
from resnext.errors import ConfigError, DatasetError
from resnext.evaluation.matching import display_names, find_class, match, read_map
from resnext.predictions import Labels

IMAGENET = catalogue.imagenet1k()
PETS = Labels(("tabby cat", "dog", "tiger, Panthera tigris", "crème brûlée"))


def index_of(name: str, labels: Labels = IMAGENET) -> int | None:
    return match([name], labels).index[name]


@pytest.mark.parametrize(
    ("folder", "rule"),
    [
        ("n02123045", "synset id"),
        ("n02123045-tabby", "synset id"),
        ("n02123045_tabby", "synset id"),
        ("tabby", "name"),
        ("Tabby", "name but for case and punctuation"),
        ("tabby, tabby cat", "several names"),
        ("281", "number"),
        ("00281", "number"),
    ],
)
def test_one_class_under_its_names(folder: str, rule: str) -> None:
    found = match([folder], IMAGENET)
    assert found.index == {folder: 281}
    assert found.rules == {rule: 1}
    assert str(found) == f"1 by {rule}"


@pytest.mark.parametrize(
    ("folder", "index"),
    [
        ("Tabby_Cat", 0),
        ("tabby-cat", 0),
        ("TIGER", 2),
        ("panthera_tigris", 2),
        ("tiger, Panthera tigris", 2),
        ("cre\u0300me bru\u0302le\u0301e", 3),
        ("Crème_Brûlée", 3),
    ],
)
def test_case_underscores_commas_and_accents_make_no_difference(folder: str, index: int) -> None:
    assert index_of(folder, PETS) == index


def test_every_name_and_id_of_imagenet_finds_itself_or_is_refused() -> None:
    ids = IMAGENET.synset_ids
    assert ids is not None
    assert list(match(ids, IMAGENET).index.values()) == list(range(1000))
    unique = [name for name in IMAGENET.class_names if IMAGENET.class_names.count(name) == 1]
    found = match(unique, IMAGENET)
    assert [IMAGENET.class_names[index or 0] for index in found.index.values()] == unique
    assert found.rules == {"name": 996}


@pytest.mark.parametrize("folder", ["crane", "Crane", "crane, bird"])
def test_a_name_of_two_classes_names_both(folder: str) -> None:
    with pytest.raises(DatasetError) as caught:
        match([folder], IMAGENET)
    assert "n02012849, class 134" in caught.value.message
    assert "n03126707, class 517" in caught.value.message
    assert "--map" in caught.value.hint


def test_what_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(
        DatasetError, match=r"none for 2 of the 3 classes .* 'taby' \(nearest: 'tabby'\)"
    ):
        match(["taby", "goldfish", "xyzzy"], IMAGENET)


def test_numbers_count_only_where_all_are_numbers() -> None:
    assert list(match(["0", "2"], PETS).index.values()) == [0, 2]
    with pytest.raises(DatasetError, match="'1'"):
        match(["1", "dog"], PETS)
    with pytest.raises(DatasetError, match="'4'"):
        match(["0", "4"], PETS)
    digits = Labels(("1", "2", "3"))
    assert list(match(["1", "2", "3"], digits).index.values()) == [0, 1, 2]


@pytest.mark.parametrize("names", [("1", "2", "3"), ("1", "2", "3", "4"), ("001", "002")])
def test_numbers_that_may_count_from_1_are_refused_but_by_the_map(names: tuple[str, ...]) -> None:
    with pytest.raises(DatasetError, match="with a 1 and without a 0") as caught:
        match(names, PETS)
    assert "1,1" in caught.value.hint
    first = names[0]
    if len(names) < 4:
        assert match(names, PETS, given={first: "1"}).index[names[1]] == 2
    shifted = {name: str(int(name) - 1) for name in names}
    assert list(match(names, PETS, given=shifted).index.values()) == list(range(len(names)))


def test_several_names_of_two_classes_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"'dog, tabby cat' is 'tabby cat' .* or 'dog' "):
        match(["dog, tabby cat"], PETS)
    assert index_of("Panthera tigris, tiger", PETS) == 2


def test_several_names_of_which_one_is_unknown_are_no_class() -> None:
    with pytest.raises(DatasetError, match=r"none for 1 of the 1 class of the data: 'dog, wolf'"):
        match(["dog, wolf"], PETS)
    assert match(["dog, wolf"], PETS, given={"dog, wolf": "dog"}).index == {"dog, wolf": 1}
    with pytest.raises(ConfigError, match="no class 'wolf, dog'"):
        find_class("wolf, dog", PETS)


def test_two_folders_of_one_class_are_refused_but_by_the_map() -> None:
    with pytest.raises(DatasetError, match="'Dog' and 'dog' are both 'dog'"):
        match(["Dog", "dog"], PETS)
    found = match(["pug", "beagle"], PETS, given={"pug": "dog", "beagle": "dog"})
    assert found.index == {"pug": 1, "beagle": 1}
    assert found.rules == {"the map": 2}


def test_the_map_leaves_out_and_is_matched_by_the_same_rules() -> None:
    found = match(["a", "b", "dog"], PETS, given={"a": "Tabby_cat", "b": ""})
    assert found.index == {"a": 0, "b": None, "dog": 1}
    assert found.rules == {"the map": 2, "name": 1}
    assert found.notes == ()
    assert match(["x"], IMAGENET, given={"x": "n03126707"}).index == {"x": 517}
    with pytest.raises(DatasetError, match="'cat'"):
        match(["a"], PETS, given={"a": "cat"})


def test_a_number_in_the_map_counts_whatever_the_others_are() -> None:
    given = {"birds": "n02012849", "machines": "517", "misc": ""}
    found = match(["birds", "machines", "misc"], IMAGENET, given=given)
    assert found.index == {"birds": 134, "machines": 517, "misc": None}
    assert match(["0", "x"], PETS, given={"x": ""}).index == {"0": 0, "x": None}


def test_rows_of_the_map_that_name_no_class_of_the_data() -> None:
    found = match(["dog"], PETS, given={"dog": "dog", "doge": "dog", "katze": "tabby cat"})
    assert found.index == {"dog": 1}
    assert found.notes == ("the map names 2 classes that the data does not have: doge, katze",)
    with pytest.raises(DatasetError, match=r"1 class .* 'tabbycat' \(nearest: 'tabby cat'\)"):
        match(["dog", "tabby cat"], PETS, given={"dog": "", "tabbycat": ""})


def test_a_map_of_all_of_imagenet_serves_a_part_of_it() -> None:
    """Ids that the data lacks are near to ids that it has, and are no slips of the hand."""
    ids = IMAGENET.synset_ids
    assert ids is not None
    given = {name: str(index) for index, name in enumerate(ids) if index >= 10}
    found = match(ids[:20], IMAGENET, given=given)
    assert [found.index[name] for name in ids[:20]] == [*range(20)]
    assert found.rules == {"the map": 10, "synset id": 10}
    assert found.notes[0].startswith("the map names 980 classes that the data does not have: n0")


def test_a_map_that_names_nothing_of_the_data_is_an_error() -> None:
    with pytest.raises(
        DatasetError, match="names no class of the data: it has katze; the data dog"
    ):
        match(["dog"], PETS, given={"katze": "tabby cat"})
    assert match(["dog"], PETS, given={}).notes == ()


def test_a_map_file(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    rows = 'katze,"tabby, cat"\nhund , dog\n\n rest ,\n'
    path.write_text(f"\ufefffolder,class\n{rows}", "utf-8")
    assert read_map(path) == {"katze": "tabby, cat", "hund": "dog", "rest": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "nothing"),
        ("a,b\n", "begins with a, b"),
        ("folder,class\na\n", "row 2 has 1 cells"),
        ("folder,class\na,b\na,c\n", "'a' twice"),
        ('folder,class\n"a,b\n', "cannot be read"),
    ],
)
def test_what_is_no_map_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(DatasetError, match=message):
        read_map(path)
    with pytest.raises(DatasetError, match="none.csv: cannot be read as CSV: No such file or dir"):
        read_map(tmp_path / "none.csv")


def test_names_that_repeat_are_told_apart() -> None:
    names = display_names(IMAGENET)
    assert len(set(names)) == 1000
    assert names[134] == "crane (n02012849)"
    assert display_names(Labels(("a", "b", "a"))) == ("a (class 0)", "b", "a (class 2)")


CATS = Labels(
    ("dog", "tabby, tabby cat", "Egyptian cat", "crane", "crane", "concatenation", "catamaran"),
    tuple(f"n{number:08d}" for number in range(7)),
)


@pytest.mark.parametrize(
    ("name", "index"),
    [("tabby, tabby cat", 1), ("Tabby", 1), ("tabby_cat", 1), ("1", 1), ("egyptian-cat", 2),
     ("n00000004", 4), ("4", 4)],
)  # fmt: skip
def test_one_class_is_found_as_the_name_of_a_folder_is(name: str, index: int) -> None:
    assert find_class(name, CATS) == index


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cat", "did you mean 'tabby, tabby cat' or 'Egyptian cat'?"),  # whole words first
        ("catamran", "did you mean 'catamaran'?"),
        ("cats", "did you mean 'tabby, tabby cat' or 'Egyptian cat'?"),
        ("", "a class has a name, a number from 0, and may have a synset id"),
        ("7", "a class has a name, a number from 0, and may have a synset id"),
        ("-1", "a class has a name, a number from 0, and may have a synset id"),
    ],
)
def test_a_class_that_is_not_there_gets_the_nearest_as_hint(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="there is no class .* among the 7 of") as info:
        find_class(name, CATS)
    assert info.value.hint == hint


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("dog", ["Maltese dog", "dog sled"]),  # as a word, and what it is comes first
        ("dogs", ["Maltese dog", "dog sled"]),
        ("fish", ["goldfish"]),
        ("maltese dgo", ["Maltese dog"]),
        ("ant", []),
        ("hug", []),
    ],
)
def test_a_class_that_only_looks_alike_is_no_hint(name: str, nearest: list[str]) -> None:
    labels = Labels(("dog sled", "hog", "elephant", "goldfish", "Maltese dog"))
    with pytest.raises(ConfigError) as caught:
        find_class(name, labels)
    expected = f"did you mean {' or '.join(map(repr, nearest))}?"
    assert caught.value.hint == (
        expected if nearest else "a class has a name, a number from 0, and may have a synset id"
    )


def test_of_classes_that_share_a_name_each_is_told_apart() -> None:
    with pytest.raises(ConfigError, match=r"2 classes .*\(n00000003, class 3\).*class 4\)") as info:
        find_class("crane", CATS)
    assert info.value.hint == "name one by its synset id or its number"


@pytest.mark.parametrize("names", [("no such thing",), ("1", "2"), ("dog", "Dog"), ("crane",)])
def test_who_has_no_map_is_told_of_none(names: tuple[str, ...]) -> None:
    labels = Labels(("cat", "dog", "owl", "crane", "crane"))
    with pytest.raises(DatasetError) as with_map:
        match(names, labels)
    with pytest.raises(DatasetError) as without:
        match(names, labels, has_map=False)
    assert "--map" in with_map.value.hint
    assert without.value.hint and "map" not in without.value.hint
    assert without.value.message == with_map.value.message
