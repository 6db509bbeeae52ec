"""The package's source as the rules see it: files, rooms, imports, calls, public names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "boltzmed"

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


class Import(NamedTuple):
    """One imported name: ``from torch import nn`` is ``torch.nn``."""

    line: int
    name: str
    at_start: bool
    """Run when the module is imported: not inside a function, not for the type checker alone."""


class Source(NamedTuple):
    """One file of the package."""

    path: Path
    module: str
    tree: ast.Module
    lines: int

    @property
    def room(self) -> str:
        """The folder or file directly inside the package; "" for the package's ``__init__``."""
        return self.module.partition(".")[2].partition(".")[0]

    def place(self, line: int, what: str) -> str:
        """Return a line of a failure's list."""
        return f"{self.path.relative_to(REPOSITORY).as_posix()}:{line}: {what}"


def read_source(path: Path) -> Source:
    """Parse one file."""
    text = path.read_text(encoding="utf-8")
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Source(path, module, ast.parse(text), len(text.splitlines()))


SOURCES = [read_source(path) for path in sorted(PACKAGE.rglob("*.py"))]
MODULES = {source.module: source for source in SOURCES}
ROOMS = sorted({source.room for source in SOURCES} - {""})


def in_room(room: str) -> list[Source]:
    """Return the files of a room."""
    return [source for source in SOURCES if source.room == room]


def list_imports(source: Source) -> list[Import]:
    """List every import of a file, wherever it stands."""
    package = source.module
    if source.path.name != "__init__.py":
        package = source.module.rpartition(".")[0]
    return list(_walk_imports(source.tree, package, at_start=True))


def _walk_imports(node: ast.AST, package: str, *, at_start: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(node.lineno, alias.name, at_start)
    elif isinstance(node, ast.ImportFrom):
        origin = _find_origin(node, package)
        for alias in node.names:
            yield Import(node.lineno, f"{origin}.{alias.name}", at_start)
    if isinstance(node, Function | ast.Lambda):
        at_start = False
    if isinstance(node, ast.If) and dotted_name(node.test).endswith("TYPE_CHECKING"):
        at_start = False
    for child in ast.iter_child_nodes(node):
        yield from _walk_imports(child, package, at_start=at_start)


def _find_origin(node: ast.ImportFrom, package: str) -> str:
    """Return the module that names are imported from; leading dots count from the package."""
    parts: list[str] = []
    if node.level:
        folders = package.split(".")
        parts = folders[: len(folders) + 1 - node.level]
    if node.module:
        parts.append(node.module)
    return ".".join(parts)


def imported_room(name: str) -> str | None:
    """Return the room that an imported name comes from.

    Returns:
        "" for the package itself, None for other packages.
    """
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return None
    if len(parts) > 1 and f"{PACKAGE.name}.{parts[1]}" in MODULES:
        return parts[1]
    return ""


def used_rooms(room: str) -> set[str]:
    """Return the other rooms that a room imports."""
    names: set[str] = set()
    for source in in_room(room):
        for imported in list_imports(source):
            names.add(imported_room(imported.name) or "")
    return names - {"", room}


def load_at_start(module: str) -> dict[str, str]:
    """Return the outside modules that importing one of ours loads.

    Returns:
        Module → the chain of our modules that leads to it.
    """
    loaded: dict[str, str] = {}
    seen: set[str] = set()
    waiting = [(module, module)]
    while waiting:
        name, chain = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if "." in name:
            waiting.append((name.rpartition(".")[0], chain))
        for imported in list_imports(MODULES[name]):
            if not imported.at_start:
                continue
            if not is_among(imported.name, (PACKAGE.name,)):
                loaded.setdefault(imported.name, f"{chain} → {imported.name}")
                continue
            target = imported.name
            if target not in MODULES:
                target = target.rpartition(".")[0]
            waiting.append((target, f"{chain} → {target}"))
    return loaded


def list_calls(source: Source) -> list[tuple[ast.Call, str]]:
    """List calls by name, with local names resolved.

    ``F.dropout`` is ``torch.nn.functional.dropout``; of a call on a call's result the name begins
    with "?".
    """
    full_names: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    full_names[alias.asname] = alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full_names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    calls = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            name = dotted_name(node.func) or f"?.{getattr(node.func, 'attr', '')}"
            first, dot, rest = name.partition(".")
            calls.append((node, full_names.get(first, first) + dot + rest))
    return calls


def list_public(source: Source) -> Iterator[tuple[str, Definition]]:
    """List public functions and classes of a file, and the classes' public methods."""
    for node in source.tree.body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        if any(dotted_name(decorator) == "overload" for decorator in node.decorator_list):
            continue  # the definition that follows has the docstring
        yield node.name, node
        if not isinstance(node, ast.ClassDef):
            continue
        for member in node.body:
            if isinstance(member, Function) and not member.name.startswith("_"):
                yield f"{node.name}.{member.name}", member


def dotted_name(node: ast.AST) -> str:
    """Return ``torch.nn.init`` of such an expression, "" of any other; calls and indices end it."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        start = dotted_name(node.value)
        return f"{start}.{node.attr}" if start else ""
    return ""


def is_among(name: str, modules: tuple[str, ...]) -> bool:
    """Return whether a dotted name is one of the modules or lies in one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)
