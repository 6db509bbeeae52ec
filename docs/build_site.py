"""Build the documentation site into ``site/``: ``python docs/build_site.py`` (``make docs``).

The pages are the repository's own Markdown files, gathered in ``build/docs/pages`` at the paths
they have here, so that their links to each other hold. The API reference has a page for each room
of ``docs/architecture.md``, made from the docstrings without importing the package. Whatever the
tools remark, and whatever a page would fetch from elsewhere, is an error.
"""

from __future__ import annotations

import ast
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
SITE = REPOSITORY / "site"
BUILD = REPOSITORY / "build" / "docs"

PAGES = (
    *("*.md", "docs/*.md", "docs/*.png", "docs/*.css", "datasets/*.md", "benchmarks/*.md"),
    *("bundles/*/docs/*", "notebooks/*.ipynb", "LICENSE", "CITATION.cff"),
)
"""The files of the site, and what they link to."""

REMARKS = ("griffe:", "mkdocstrings", "autorefs", "Warning", "Error")
"""Words by which a line of the tools' output is known as a remark on a page or a docstring."""

FETCHED = re.compile(
    r"<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)=\"(https?:)?//[^\"]*"
)
"""What a browser fetches when it shows a page; links are followed only by a reader."""


class Room(NamedTuple):
    """A row of the table of rooms."""

    name: str
    holds: str


class Module(NamedTuple):
    """A module of a room."""

    name: str
    members: list[str] | None
    """Those that its page shows; None for all."""


def main() -> int:
    """Build the site; return the exit status."""
    for folder in (BUILD, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    pages = BUILD / "pages"
    copy_pages(pages)
    reference = write_reference(pages / "reference", read_rooms())
    settings = yaml.safe_load((REPOSITORY / "docs" / "mkdocs.yml").read_text(encoding="utf-8"))
    settings["nav"].append({"API reference": reference})
    missing = [page for page in list_pages(settings["nav"]) if not (pages / page).is_file()]
    if missing:
        return fail("docs/mkdocs.yml", [f"nav: no such page: {page}" for page in missing])
    remarks = run_zensical(settings)
    if remarks:
        return fail("the site is not built", remarks)
    shutil.copytree(BUILD / "site", SITE)
    fetched = list_fetched(SITE)
    if fetched:
        return fail("pages fetch from elsewhere", fetched)
    broken = list_broken_links(SITE)
    if broken:
        return fail("links lead nowhere", broken)
    print(f"{len(list(SITE.rglob('*.html')))} pages in {SITE.name}/, begin with index.html")
    return 0


def fail(what: str, lines: list[str]) -> int:
    """Print what is wrong; return the exit status of a failure."""
    print(f"{what}:", *lines, sep="\n  ", file=sys.stderr)
    return 1


def copy_pages(pages: Path) -> None:
    """Copy the files of the site to the same paths below a folder."""
    for pattern in PAGES:
        for path in REPOSITORY.glob(pattern):
            target = pages / path.relative_to(REPOSITORY)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def read_rooms() -> list[Room]:
    """Read names and contents of the rooms from the table in ``docs/architecture.md``."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.MULTILINE)
    return [Room(name, holds.strip()) for name, holds in rows]


def write_reference(folder: Path, rooms: list[Room]) -> list[Any]:
    """Write a page for each room, and one that lists them; return their part of the navigation."""
    folder.mkdir(parents=True)
    index = ["# API reference", "", "| room | holds |", "|---|---|"]
    navigation: list[Any] = ["reference/index.md"]
    for room in rooms:
        index.append(f"| [`{room.name}`]({room.name}.md) | {room.holds} |")
        navigation.append({room.name: f"reference/{room.name}.md"})
        page = [f"# {room.name}", "", f"{room.holds[0].upper()}{room.holds[1:]}.", ""]
        for module in list_modules(room.name):
            page += [f"## {module.name}", "", f"::: {module.name}"]
            if module.members is not None:
                page += ["    options:", f"      members: {json.dumps(module.members)}"]
            page.append("")
        (folder / f"{room.name}.md").write_text("\n".join(page), encoding="utf-8")
    (folder / "index.md").write_text("\n".join([*index, ""]), encoding="utf-8")
    return navigation


def list_modules(room: str) -> Iterator[Module]:
    """List the modules of a room; a package comes before what lies in it."""
    package = REPOSITORY / "boltzmed"
    paths = [package / f"{room}.py", *sorted((package / room).rglob("*.py"))]
    for path in paths:
        if not path.is_file() or not path.stat().st_size or path.name == "__main__.py":
            continue
        parts = list(path.relative_to(REPOSITORY).with_suffix("").parts)
        members = None
        if parts[-1] == "__init__":
            parts.pop()
            members = list_defined(path)
        yield Module(".".join(parts), members)


def list_defined(path: Path) -> list[str]:
    """List the public names that a package defines itself; what it imports has its own page."""
    names: list[str] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names.extend(target.id for target in node.targets if isinstance(target, ast.Name))
    return [name for name in names if not name.startswith("_")]


def list_pages(navigation: list[Any]) -> Iterator[str]:
    """List the pages that a navigation names."""
    for entry in navigation:
        content = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(content, str):
            yield content
        else:
            yield from list_pages(content)


def run_zensical(settings: dict[str, Any]) -> list[str]:
    """Build the site in the build folder; return what is remarked, nothing if all is well."""
    settings |= {"docs_dir": "pages", "site_dir": "site"}
    for plugin in settings["plugins"]:
        if "mkdocstrings" in plugin:
            plugin["mkdocstrings"]["handlers"]["python"]["paths"] = [str(REPOSITORY)]
    (BUILD / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(
        command,
        cwd=BUILD,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        check=False,
    )
    plain = re.sub(r"\x1b\[[\d;]*m", "", done.stdout)
    lines = plain.replace(f"{REPOSITORY}/", "").splitlines()
    if done.returncode:
        return lines
    return [line for line in lines if any(word in line for word in REMARKS)]


def list_fetched(site: Path) -> list[str]:
    """List what pages would fetch from elsewhere, with the page."""
    found = []
    for page in sorted(site.rglob("*.html")):
        for match in FETCHED.finditer(page.read_text(encoding="utf-8")):
            found.append(f"{page.relative_to(site)}: {match[0]}")
    return found


def list_broken_links(site: Path) -> list[str]:
    """List links and pictures within the site that are not there, with the page.

    Zensical checks those between pages, not those to other files.
    """
    broken = []
    for page in sorted(site.rglob("*.html")):
        for link in re.findall(r"\b(?:href|src)=\"([^\"#?]+)", page.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", link) or link.startswith("/"):
                continue
            if not (page.parent / unquote(html.unescape(link))).exists():
                broken.append(f"{page.relative_to(site)}: {link}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
