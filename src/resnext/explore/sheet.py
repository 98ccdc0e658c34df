"""The contact sheet: pictures and the nearest to each, as one page."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnext import images
from resnext.errors import ImageError, counted
from resnext.explore.index import Index
from resnext.explore.lookup import Found
from resnext.results import pages


def write_sheet(path: Path, index: Index, results: Iterable[Found]) -> Path:
    """Write the nearest pictures of each picture as a page that loads nothing.

    A picture that is no longer where it was, or lies in a larger file, is named without it.

    Args:
        path: Where to.
        index: Where they were found.
        results: What was found.

    Raises:
        OutputError: The file cannot be written.
    """
    facts = index.document
    made = f"by {facts.model} ({facts.architecture})"
    lead = f"{counted(len(index), 'picture')} in {index.path.name}, {made}"
    parts = [pages.heading("Nearest pictures", level=1), pages.paragraph(lead, lead=True)]
    for found in results:
        parts += _section(found)
    parts.append(pages.footer("Below each picture: cosine similarity, its class, its file."))
    return pages.write(path, "Nearest pictures", parts)


def _section(found: Found) -> list[str]:
    title = pages.heading(os.path.basename(found.source.name))
    if found.error is not None:
        return [title, pages.notice([f"{found.source.name}: {found.error}"])]
    votes = ", ".join(f"{label} {share:.0%}" for label, share in found.votes)
    items = [(_picture(found.source, found.source.name), ["the picture asked for"])]
    for one in found.neighbors:
        lines = [f"{one.similarity:.3f}", *filter(None, [one.label]), os.path.basename(one.name)]
        items.append((_picture(one.name, one.name), lines))
    return [title, pages.paragraph(f"Vote: {votes}") if votes else "", pages.gallery(items)]


def _picture(source: Any, name: str) -> str:
    if images.is_url(source):  # a page is made of what is here
        return ""
    try:
        return pages.picture(images.read(source), name)
    except ImageError:
        return ""
