"""Pages: harmless whatever is in them, and whole."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext.results import pages
from resnext.results.pages import Cell, Tile

HOSTILE = "<script>alert('x')</script>\x1b[31m\udcff\""


class Tags(html.parser.HTMLParser):
    """Collects tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag]


def test_a_caption_has_a_line_for_each_and_breaks_paths_after_slashes() -> None:
    gallery = pages.gallery([("", ["a/<b>.jpg", "right: cat"])])
    assert "<span>a/<wbr>&lt;b&gt;.jpg</span><span>right: cat</span>" in gallery
    assert "".join(Tags(gallery).text) == "a/<b>.jpgright: cat"


def test_every_text_is_shown_and_none_is_run() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    parts = [
        pages.heading(HOSTILE, level=1),
        pages.paragraph(HOSTILE, lead=True),
        pages.code(HOSTILE),
        pages.notice([HOSTILE]),
        pages.tiles([Tile(HOSTILE, HOSTILE)]),
        pages.table([HOSTILE], [[HOSTILE], [Cell(HOSTILE, HOSTILE)]], sortable=False),
        pages.gallery([(pages.picture(image, HOSTILE), [HOSTILE])]),
        pages.footer(HOSTILE),
    ]
    page = Tags(pages.page(HOSTILE, parts))
    assert not page.attributes("script")
    assert sum("alert('x')" in text for text in page.text) == 12
    assert not any("\x1b" in text for text in page.text)
    assert "alert" in (page.attributes("img")[0]["alt"] or "")
    assert "alert" in (page.attributes("td")[1]["data-value"] or "")


def test_the_policy_allows_just_the_script_that_is_there() -> None:
    text = pages.page("t", [pages.table(["a"], [[1]])])
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (meta,) = [a for a in Tags(text).attributes("meta") if "http-equiv" in a]
    policy = meta["content"] or ""
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "http" not in text.replace("http-equiv", "")


def test_numbers_stand_to_the_right_and_sort_as_numbers() -> None:
    rows = [["b", 1234, Cell("12 %", 0.12), pages.bar(0.5)], ["a", 5, Cell("3 %", 0.03), Cell()]]
    page = Tags(pages.table(["name", "count", "share", ""], rows))
    assert [head.get("class") for head in page.attributes("th")] == [None, "number", "number", None]
    values = [cell.get("data-value") for cell in page.attributes("td")]
    assert values == [None, "1234", "0.12", "0.5", None, "5", "0.03", None]
    assert "1,234" in page.text
    assert "width:50.0%" in (page.attributes("div")[1]["style"] or "")


def test_rows_can_stand_out() -> None:
    page = Tags(pages.table(["name"], [["a"], ["b"]], marked=[1]))
    assert [row.get("class") for row in page.attributes("tr")] == [None, None, "changed"]


def test_a_picture_is_reduced_and_a_small_one_is_not() -> None:
    image = np.full((300, 600, 3), 200, np.uint8)
    for size, expected in ((192, (192, 96)), (1000, (600, 300))):
        source = Tags(pages.picture(image, "a wall", size=size)).attributes("img")[0]["src"] or ""
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as shown:
            assert shown.size == expected
            assert abs(int(np.asarray(shown).mean()) - 200) <= 1


def test_what_is_missing_leaves_nothing(tmp_path: Path) -> None:
    assert pages.figure(tmp_path / "none.png", "curves") == ""
    assert pages.notice([]) == ""
    assert pages.gallery([]) == ""
    assert pages.write(tmp_path / "page.html", "t", ["", "<p>x</p>"]).read_text().count("<p>") == 1


def test_a_number_and_its_percent_stay_in_one_line() -> None:
    written = pages.table(("figure", "value"), [("top-1", "51.5 % (50.1 to 52.9)")])
    assert "51.5&nbsp;% (50.1 to 52.9)" in written
    assert "<b>51.5&nbsp;%</b>" in pages.tiles([pages.Tile("51.5 %", "top-1")])
    assert "5 %</pre>" in pages.code("5 %")  # to be copied as it is


def test_code_keeps_its_lines_and_nothing_else_that_controls() -> None:
    block = pages.code("resnext predict <a>\n\n    x.Classifier('b')\x1b[31m\r")
    (shown,) = Tags(block).text
    assert shown == "resnext predict <a>\n\n    x.Classifier('b')\\x1b[31m\\r"


@pytest.mark.parametrize(("number", "label"), [(1, "class"), (1000, "classes")])
def test_the_tile_of_a_count_agrees_in_number(number: int, label: str) -> None:
    tile = pages.count_tile(number, "class", "classes")
    assert (tile.value, tile.label) == (f"{number:,}", label)
