"""One HTML page that holds all it shows: style, scripts, pictures and volumes inline, and a policy
against fetching.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

import boltzmed
from boltzmed.files import whole_file
from boltzmed.reports.viewer import encode_script

_PARTS = files("boltzmed.reports") / "html"


@dataclass(frozen=True)
class Grid:
    """A table of text for the page.

    Attributes:
        columns: Names.
        rows: Cells.
        left: Which columns hold text.
        best: (row, column) of the cells that stand bold.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[bool]
    best: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def of(cls, table: pd.DataFrame, best: frozenset[tuple[int, int]] = frozenset()) -> Grid:
        """Makes a grid of a table of text; columns of which every cell begins like a number stand
        right.
        """
        rows = [[str(cell) for cell in row] for row in table.itertuples(index=False)]
        left = [
            not all(re.match(r"[-+−–]?(\d|$)", row[k]) for row in rows)
            for k in range(len(table.columns))
        ]
        return cls([str(name) for name in table.columns], rows, left, best)


@dataclass(frozen=True)
class Figure:
    """A picture with words: the data URI, what stands under it, and what a reader who can't see it
    is told.
    """

    source: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """A part of the page: paragraphs, then figures, then tables by their captions."""

    id: str
    title: str
    texts: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Mapping[str, Grid] = field(default_factory=dict)


@dataclass(frozen=True)
class FailureCase:
    """One of the worst cases: its numbers, its pictures (caption, data URI), and its place among
    the volumes.
    """

    title: str
    numbers: str
    note: str = ""
    pictures: Sequence[tuple[str, str]] = ()
    volume: int | None = None


@dataclass(frozen=True)
class ObjectTable:
    """The table to sort and filter; the first `texts` columns hold text, the first two data set and
    target.
    """

    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int
    groups: Sequence[str]


@dataclass(frozen=True)
class Page:
    """What `write_page` puts on the page.

    Attributes:
        facts: Short names and values under the heading.
        volumes: Of `embed_case`.
        niivue: Of `find_niivue`; None shows volumes slice by slice.
        colours: "reference" and methods -> "#rrggbb".
    """

    title: str
    about: str
    facts: Mapping[str, str]
    sections: Sequence[Section]
    failures: Sequence[FailureCase]
    objects: ObjectTable
    notes: Sequence[str]
    colours: Mapping[str, str]
    volumes: Sequence[Mapping[str, Any]] = ()
    niivue: str | None = None


def write_page(page: Page, path: str | Path) -> Path:
    """Write the page, whole or not at all. Every text of it is escaped, wherever it comes from.

    Raises:
        OutputError: The folder cannot be written.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    scripts = [_read("table.js"), *([_read("viewer.js")] if page.volumes else [])]
    niivue = page.niivue if page.volumes else None
    hashes = " ".join(_hash(text) for text in [*scripts, *([niivue] if niivue else [])])
    html = environment.from_string(_read("page.html")).render(
        {name: getattr(page, name) for name in page.__dataclass_fields__},
        # Scripts run only if their checksum stands here, so none that a name might carry; nothing
        # is fetched at all.
        policy=(
            f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:;"
            " base-uri 'none'; form-action 'none'"
        ),
        style=Markup(_read("page.css")),
        scripts=[Markup(text) for text in scripts],
        niivue=encode_script(niivue) if niivue else "",
        viewer_text="Scroll through a case and switch masks on and off. The reference is outlined."
        + (" Drag to move the crosshair, pinch or turn the wheel to go on." if niivue else ""),
        viewer_missing=(
            "NiiVue was not installed where this page was made (boltzmed's extra 'report')"
        ),
        version=boltzmed.__version__,
    )
    path = Path(path)
    with whole_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def as_svg_uri(svg: bytes) -> str:
    """Return an SVG file as a data URI: shown as a picture, its scripts, if any, never run."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def _read(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return (
        "'sha256-"
        + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        + "'"
    )
