"""Labelled pictures in tar files as WebDataset writes them.

`KEY.jpg` belongs to `KEY.cls`, and so does `KEY.any.jpg`. Only headers and labels are
read here; a picture is read where it lies when it is needed, so shards serve in any order, like
files. Headers are parsed here because Python's tarfile takes three times as long.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from resnext.errors import DatasetError, counted
from resnext.sources import EXTENSIONS, open_file
from resnext.training.listing import Entry, FileSlice, class_name, few

CLASSES_FILES = ("classes.txt", "classnames.txt")

_BLOCK = 512
_MAX_SIDE_BYTES = 2**20  # of a label, or of a long name
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LABEL_KEYS = ("label", "labels", "cls", "class", "class_name")
_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


_Group = dict[str, FileSlice]  # the files of a key, by what follows it: "jpg", "cls"


def expand(pattern: str) -> list[str]:
    """Return the paths that a name such as `shard-{0000..0009}.tar` stands for, in order."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    return [
        path
        for number in range(int(first), int(last) + 1)
        for path in expand(
            f"{pattern[: match.start()]}{number:0{len(first)}d}{pattern[match.end() :]}"
        )
    ]


def read_classes(folder: str) -> tuple[str, ...] | None:
    """Return the lines of `classes.txt` in a folder, or None where there is no such file.

    Raises:
        DatasetError: It is no text, or a line is empty or comes twice.
    """
    for name in CLASSES_FILES:
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            continue
        try:
            with open(path, encoding="utf-8-sig") as file:
                lines = [class_name(line.strip()) for line in file.read().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: cannot be read as UTF-8 text: {error}") from error
        if not lines or "" in lines or len(set(lines)) < len(lines):
            raise DatasetError(
                f"{path}: a class is empty or named twice; expected one name a line, each once"
            )
        return tuple(lines)
    return None


def read_shards(
    paths: Sequence[str], classes: tuple[str, ...] | None, *, top: str
) -> tuple[list[Entry], bool]:
    """Read what is in tar files.

    Args:
        paths: Absolute paths of the files.
        classes: Names that integer labels count, or None: then they are names themselves.
        top: Folder that names are given below.

    Returns:
        The pictures in the order of the files, and whether labels are lists.

    Raises:
        DatasetError: A file is missing or damaged, or a picture without a usable label.
    """
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {counted(len(paths), 'shard')} missing: {few(missing)}"
        )
    entries: list[Entry] = []
    bad: list[str] = []
    alone: list[str] = []
    several = False
    known = None
    if classes is not None:  # a number is a position, whatever the names look like
        known = {name: name for name in classes}
        known |= {str(number): name for number, name in enumerate(classes)}
    for path in paths:
        shown = os.path.relpath(path, top).replace(os.sep, "/")
        with _open(path) as file:
            for key, group in _groups(file, path, shown).items():
                value = _label(file, group, f"{shown}/{key}")
                picture = _picture(group, path, key)
                if picture is None:
                    if value is not None:
                        alone.append(f"{shown}/{key} ({', '.join(group)})")
                    continue
                names = _names(value, known)
                if names is None:
                    bad.append(f"{picture.name} ({_shorten(value)})")
                    continue
                several = several or isinstance(value, list)
                entries.append(Entry(picture.name, picture, names))
    if alone:
        raise DatasetError(
            f"{counted(len(alone), 'label has', 'labels have')} no picture: {few(alone)};"
            " expected KEY.jpg, KEY.png, ...",
            hint="pack other kinds of picture as JPEG, or leave their labels out",
        )
    if bad:
        names_of = f"; {CLASSES_FILES[0]} has {counted(len(classes), 'name')}" if classes else ""
        raise DatasetError(
            f"{counted(len(bad), 'picture has', 'pictures have')} no usable label:"
            f" {few(bad)}{names_of}",
            hint="each KEY.jpg needs a KEY.cls, or a KEY.json with `label`",
        )
    return entries, several


def _open(path: str) -> BinaryIO:
    try:
        return open_file(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error


def _groups(file: BinaryIO, path: str, shown: str) -> dict[str, _Group]:
    """Gather the members of a shard by key: all before the first dot of the file's name."""
    groups: dict[str, _Group] = {}
    for name, offset, size in _members(file, path):
        folder, slash, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        if not stem:  # a hidden file
            continue
        group, ending = groups.setdefault(folder + slash + stem, {}), ending.lower()
        if ending in group and _is_picture(ending):
            raise _several_pictures(path, folder + slash + stem, [name, name])
        group[ending] = FileSlice(f"{shown}/{name}", path, offset, size)
    return groups


def _is_picture(ending: str) -> bool:
    return "." + ending.rpartition(".")[2] in EXTENSIONS


def _picture(group: _Group, path: str, key: str) -> FileSlice | None:
    """Return `KEY.jpg` or, where no name is as short, the only `KEY.any.jpg`."""
    found = [ending for ending in group if _is_picture(ending)]
    found = [ending for ending in found if "." not in ending] or found
    if len(found) > 1:
        raise _several_pictures(path, key, [f"{key}.{ending}" for ending in found])
    return group[found[0]] if found else None


def _several_pictures(path: str, key: str, names: Sequence[str]) -> DatasetError:
    return DatasetError(
        f"{path}: {key} has {len(names)} pictures: {few(names)}; expected one",
        hint="files belong together that have the same name up to the first dot",
    )


def _members(file: BinaryIO, path: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of the regular files in a tar."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        raise DatasetError(f"{path}: is empty")
    place, long_name, long_size = 0, None, None
    while place < end:
        block = _read(file, place, _BLOCK)
        if block.count(0) == len(block):  # the end, or nothing at all after a cut
            return
        kind = _check(block, path, place)
        data = place + _BLOCK
        size = _number(block[124:136]) if long_size is None else long_size
        if data + size > end:
            raise DatasetError(
                f"{path}: is cut short: {end:,} bytes, at least {data + size:,} expected"
            )
        place = data + -(-size // _BLOCK) * _BLOCK
        if kind in b"xL":
            extra = _read(file, data, min(size, _MAX_SIDE_BYTES))
            if kind == b"L":  # GNU's long name
                long_name = extra.rstrip(b"\0")
            else:
                fields = _pax_fields(extra)
                long_name = fields.get(b"path", long_name)
                long_size = int(fields[b"size"]) if b"size" in fields else None
            continue
        if kind in b"07":
            yield os.fsdecode(long_name or _name(block)).removeprefix("./"), data, size
        if kind not in b"gK":
            long_name = long_size = None


def _check(block: bytes, path: str, place: int) -> bytes:
    """Return the type of a header, "0" for a regular file."""
    for start, name in _PACKED:
        if place == 0 and block.startswith(start):
            raise DatasetError(
                f"{path}: is packed with {name}; expected a plain tar, to read from its middle",
                hint="unpack it: pictures hardly get smaller that way",
            )
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    sound = len(block) == _BLOCK and _number(block[124:136]) >= 0
    if not sound or _number(block[148:156]) != total:
        raise DatasetError(f"{path}: is no tar file, or damaged, at byte {place:,}")
    kind = block[156:157]
    return b"0" if kind == b"\0" else kind


def _number(digits: bytes) -> int:
    """Read an octal number, or GNU's binary one; -1 for what is neither."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:], "big")
    text = digits.strip(b" \0")
    try:
        return int(text or b"0", 8)
    except ValueError:
        return -1


def _name(block: bytes) -> bytes:
    name, prefix = block[:100].partition(b"\0")[0], b""
    if block[257:263] == b"ustar\0":  # GNU's has something else there
        prefix = block[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _pax_fields(extra: bytes) -> dict[bytes, bytes]:
    """Parse records of the form "LENGTH KEY=VALUE\\n"."""
    fields: dict[bytes, bytes] = {}
    place = 0
    while (space := extra.find(b" ", place)) > 0:
        length = extra[place:space]
        if not length.isdigit() or int(length) <= space - place:
            break
        key, _, value = extra[space + 1 : place + int(length) - 1].partition(b"=")
        fields[key] = value
        place += int(length)
    return fields


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _label(file: BinaryIO, group: _Group, where: str) -> Any:
    """Return the label of a picture: text, number, list of these, or None."""
    if (text := _text(file, group, "cls")) is not None:
        return text.strip()
    if (text := _text(file, group, "json")) is None:
        return None
    try:
        document = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{where}.json: is no JSON: {error}") from error
    if not isinstance(document, dict):
        return None
    return next((document[key] for key in _LABEL_KEYS if key in document), None)


def _text(file: BinaryIO, group: _Group, kind: str) -> str | None:
    """Return what is in `KEY.cls` or, where there is none, in the only `KEY.any.cls`."""
    found = [ending for ending in group if ending.rpartition(".")[2] == kind]
    if kind not in group and len(found) != 1:
        return None
    place = group[kind if kind in group else found[0]]
    content = _read(file, place.offset, min(place.size, _MAX_SIDE_BYTES))
    return content.decode(errors="surrogateescape")


def _names(value: Any, known: Mapping[str, str] | None) -> tuple[str, ...] | None:
    """Return the class names of a label, or None where it is none."""
    if isinstance(value, list):
        each = [_names(item, known) for item in value]
        if any(names is None for names in each):
            return None
        return tuple(dict.fromkeys(name for names in each for name in names or ()))
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        return None
    name = class_name(str(value))
    if name.isascii() and name.isdigit():
        name = str(int(name))  # "007" is 7
    if known is None:
        return (name,)
    return (known[name],) if name in known else None


def _shorten(value: Any) -> str:
    return "no label" if value in (None, "") else repr(value)[:60]
