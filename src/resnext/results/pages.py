"""One HTML file that loads nothing: its frame, tables, tiles and pictures.

Reports are read years later, offline, and hold names that strangers gave to files: every
text is escaped, the policy in the page forbids all but what is inside it, and the one script,
which sorts tables, is named there by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnext.errors import counted
from resnext.files import atomic
from resnext.results.formats import printable

# A table that goes on below its box ends in a shade, which scrolls out of sight with the last row.
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a202c; background: #fff; margin: 0 auto;
  max-width: 60rem; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; }
.lead { color: #4a5568; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; }
.tile { border: 1px solid #cbd5e0; border-radius: .5rem; padding: .5rem 1rem; min-width: 7rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: #4a5568; font-size: .85rem; }
.notice { border-left: 4px solid #b7791f; background: #fffbeb; padding: .5rem 1rem; }
.notice ul { margin: 0; padding-left: 1.1rem; }
.figure { overflow-x: auto; }
.figure img { width: 100%; min-width: 40rem; height: auto; display: block; }
code { overflow-wrap: anywhere; }
pre { background: #edf2f7; padding: .75rem 1rem; border-radius: .5rem; overflow-x: auto;
  font-size: .9rem; }
.scroll { overflow: auto; max-height: 26rem; border: 1px solid #e2e8f0; border-radius: .5rem;
  background: linear-gradient(#fff, #fff) 0 100% / 100% 2rem no-repeat local,
    linear-gradient(#fff0, #a0aec0) 0 100% / 100% 2rem no-repeat scroll; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .75rem; border-bottom: 1px solid #e2e8f0;
  vertical-align: top; }
td { overflow-wrap: break-word; }
th { background: #f7fafc; position: sticky; top: 0; white-space: nowrap; }
th button { font: inherit; font-weight: bold; color: inherit; background: none; border: 0;
  padding: 0; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\25B4"; }
th[aria-sort=descending] button::after { content: " \\25BE"; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { background: #2b6cb0; height: .7rem; border-radius: 2px; margin-top: .35rem; }
.changed td { background: #fbbf2416; }
.share { width: 40%; min-width: 6rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr));
  gap: 1rem; }
.gallery figure { margin: 0; font-size: .85rem; overflow-wrap: anywhere; }
.gallery img { width: 100%; height: auto; display: block; border-radius: .35rem; }
.gallery img + img { margin-top: .35rem; }
.gallery figcaption { margin-top: .35rem; line-height: 1.35; }
.gallery figcaption span { display: block; padding-left: .8em; text-indent: -.8em; }
.gallery figcaption span:first-child { color: #4a5568; }
.gallery + .scroll, .notice + .scroll, .scroll + .gallery { margin-top: 1rem; }
footer { margin-top: 2.5rem; color: #4a5568; font-size: .85rem; overflow-wrap: anywhere; }
"""
# A click on a heading sorts by it, a second one the other way.
_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => a - b || (isNaN(a - b) ? a.localeCompare(b) : 0);
      const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)) * (up ? 1 : -1));
      body.replaceChildren(...rows);
    });
  });
}
"""
_PERCENT = re.compile(r"(?<=\d) %")
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
    f" script-src 'sha256-{_SCRIPT_HASH}'"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table that is more than its text.

    Args:
        text: What is shown.
        value: What is sorted by.
        markup: HTML in place of the text, made by this module.
    """

    text: str = ""
    value: float | str | None = None
    markup: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure at the top of a page.

    Args:
        value: The figure, such as "92.1 %".
        label: What it is.
    """

    value: str
    label: str


def write(path: Path, title: str, parts: Iterable[str]) -> Path:
    """Write a page atomically.

    Args:
        path: Where to.
        title: Of the window.
        parts: HTML made by the functions of this module; empty ones are left out.

    Returns:
        The path.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic(path) as file:
        file.write(page(title, parts).encode("utf-8", "backslashreplace"))
    return path


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n"
        + (f"<script>{_SCRIPT}</script>\n" if 'class="sortable"' in body else "")
        + "</body>\n</html>\n"
    )


def text(value: str) -> str:
    """Return any text as HTML that shows it, control characters escaped, `5 %` in one line."""
    return _PERCENT.sub("&nbsp;%", html.escape(printable(value)))


def heading(title: str, *, level: int = 2) -> str:
    """Return a heading; level 1 is the page's own."""
    return f"<h{level}>{text(title)}</h{level}>"


def paragraph(sentence: str, *, lead: bool = False) -> str:
    """Return a paragraph; the lead, under the page's heading, is grey."""
    return f"<p{' class=lead' if lead else ''}>{text(sentence)}</p>"


def code(lines: str) -> str:
    """Return a block of commands or code, of one line or several."""
    shown = "\n".join(html.escape(printable(line)) for line in lines.split("\n"))
    return f"<pre>{shown}</pre>"


def footer(*lines: str) -> str:
    """Return what stands at the end of a page, a line each."""
    return f"<footer>{'<br>'.join(text(line) for line in lines)}</footer>"


def notice(sentences: Iterable[str]) -> str:
    """Return a box of sentences that should not be missed; nothing where there are none."""
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f'<div class="notice"><ul>{items}</ul></div>' if items else ""


def count_tile(number: int, one: str, many: str = "") -> Tile:
    """Return the tile of a number of things, its label as `errors.counted` says it."""
    figure, _, label = counted(number, one, many).partition(" ")
    return Tile(figure, label)


def tiles(figures: Iterable[Tile]) -> str:
    """Return a row of figures."""
    cells = "".join(
        f'<div class="tile"><b>{text(tile.value)}</b><span>{text(tile.label)}</span></div>'
        for tile in figures
    )
    return f'<div class="tiles">{cells}</div>'


def bar(share: float) -> Cell:
    """Return a cell with a bar of 0 to 1 of its width."""
    width = 100 * min(max(share, 0.0), 1.0)
    return Cell(value=share, markup=f'<div class="bar" style="width:{width:.1f}%"></div>')


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | int | float | Cell]],
    *,
    sortable: bool = True,
    marked: Collection[int] = (),
) -> str:
    """Return a table that scrolls inside its own box.

    Args:
        columns: Headings.
        rows: Numbers stand to the right; a `float` is shown with 6 significant digits: give
            a `Cell` with text and value for another form.
        sortable: Whether a click on a heading sorts.
        marked: Positions of rows that stand out.
    """
    shown = [[cell if isinstance(cell, Cell) else _cell(cell) for cell in row] for row in rows]
    numeric = [
        bool(shown) and all(isinstance(row[n].value, int | float) and row[n].text for row in shown)
        for n in range(len(columns))
    ]
    kinds = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(
        f"<th{kind}>{text(name)}</th>" for kind, name in zip(kinds, columns, strict=True)
    )
    body = "".join(
        f"<tr{' class=changed' if n in marked else ''}>"
        + "".join(_render(cell, kind) for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for n, row in enumerate(shown)
    )
    name = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll"><table{name}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(path: Path, description: str) -> str:
    """Return a PNG file as wide as the page, or nothing where there is no such file."""
    if not path.exists():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<div class="figure"><img alt="{text(description)}"'
        f' src="data:image/png;base64,{content}"></div>'
    )


def picture(image_hwc: NDArray[np.uint8], description: str, *, size: int = 192) -> str:
    """Return a small picture.

    Args:
        image_hwc: (H, W, 3).
        description: For who cannot see it.
        size: Longest side in pixels; larger pictures are reduced to it.
    """
    small = Image.fromarray(image_hwc)
    small.thumbnail((size, size))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{text(description)}" src="data:image/jpeg;base64,{content}">'


def gallery(items: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return pictures side by side.

    Args:
        items: For each the HTML of its pictures, from `picture`, and the lines below it.
    """
    figures = "".join(
        f"<figure>{image}<figcaption>{''.join(map(_line, lines))}</figcaption></figure>"
        for image, lines in items
    )
    return f'<div class="gallery">{figures}</div>' if figures else ""


def _line(line: str) -> str:
    """Return a line of a caption; a long path breaks after a slash, not within a name."""
    return f"<span>{text(line).replace('/', '/<wbr>')}</span>"


def _cell(value: str | int | float) -> Cell:
    if isinstance(value, str):
        return Cell(value)
    return Cell(f"{value:,}" if isinstance(value, int) else f"{value:.6g}", value)


def _render(cell: Cell, kind: str) -> str:
    value = "" if cell.value is None else f' data-value="{text(str(cell.value))}"'
    return f"<td{kind}{value}>{cell.markup or text(cell.text)}</td>"
