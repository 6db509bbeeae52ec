"""The documentation: what it links to, names and promises is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import boltzmed

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("", "docs", "datasets", "benchmarks", "bundles/boltzformer/docs")
PAGES = sorted(page for folder in FOLDERS for page in (REPOSITORY / folder).glob("*.md"))
NAMES = [page.relative_to(REPOSITORY).as_posix() for page in PAGES]

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
NAMED_PATH = re.compile(r"`((?:boltzmed|bundles|benchmarks|datasets|docs|tests)/[\w./-]*)`")


def list_nav_pages(navigation: list[Any]) -> Iterator[str]:
    for entry in navigation:
        content = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(content, str):
            yield content
        else:
            yield from list_nav_pages(content)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files(name: str) -> None:
    page = REPOSITORY / name
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    files = [target for target in targets if not target.startswith(("http:", "https:"))]
    missing = [target for target in files if not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md"])
def test_paths_that_are_named_are_there(name: str) -> None:
    """But for those of an example, which a contributor is to make."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    paths = {path for path in NAMED_PATH.findall(text) if "my_" not in path and "mine" not in path}
    assert paths
    missing = [path for path in sorted(paths) if not (REPOSITORY / path).exists()]
    assert missing == []


def test_the_site_has_every_page() -> None:
    settings = yaml.safe_load((REPOSITORY / "docs" / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(list_nav_pages(settings["nav"])) == NAMES


def test_targets_of_make_that_are_named_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        named = re.findall(r"(?:^|`)make ((?:[\w-]+ ?)+)", text, re.MULTILINE)
        assert named, name
        for words in named:
            assert set(words.split()) <= targets, f"{name}: make {words}"


def test_one_version_everywhere() -> None:
    version = boltzmed.__version__
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    metadata = REPOSITORY / "bundles" / "boltzformer" / "configs" / "metadata.json"
    assert citation["version"] == version
    assert json.loads(metadata.read_text(encoding="utf-8"))["version"] == version
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d\S*) – (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert versions[0] == (version, str(citation["date-released"]))


def test_the_changelog_has_a_line_a_change() -> None:
    wrong = []
    for line in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()[4:]:
        if line and not re.fullmatch(r"#{2,3} .+|- .{1,138}", line):
            wrong.append(line)
    assert wrong == []
