"""How dense the source is: ``python -m benchmarks.density``.

Prints, room by room, comprehensions, conditional expressions and tuple assignments per 1000 lines,
then the functions that are long or take many parameters without a comment that says why.
``tests/test_rules.py`` holds the package to the bars below.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1] / "boltzmed"

MAX_COMPREHENSIONS = 23.2
MAX_CONDITIONALS = 14.6
MAX_TUPLE_ASSIGNMENTS = 4.0
"""Each per 1000 lines of the package. They only go down: 20, 14 and 4 are where they shall end."""

MAX_ROOM_SHARE = 0.17
"""Of the package's lines, in one room."""

MAX_FUNCTION_LINES = 60
"""Docstring not counted."""

MAX_PARAMETERS = 8
"""``self`` and ``cls`` not counted."""

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Density:
    """Counts over some lines of source."""

    lines: int = 0
    comprehensions: int = 0
    conditionals: int = 0
    tuple_assignments: int = 0

    def add(self, other: Density) -> None:
        """Add the counts of other lines."""
        self.lines += other.lines
        self.comprehensions += other.comprehensions
        self.conditionals += other.conditionals
        self.tuple_assignments += other.tuple_assignments

    def per_1000(self, count: int) -> float:
        """Return a count per 1000 lines; 0 where there are no lines."""
        return 1000 * count / max(self.lines, 1)


class LargeFunction(NamedTuple):
    """A function over one of the bars, without a reason beside it."""

    path: Path
    line: int
    what: str


def measure_source(text: str) -> Density:
    """Count in the text of one file."""
    density = Density(lines=len(text.splitlines()))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _COMPREHENSIONS):
            density.comprehensions += 1
        elif isinstance(node, ast.IfExp):
            density.conditionals += 1
        elif isinstance(node, ast.Assign) and _assigns_tuple(node):
            density.tuple_assignments += 1
    return density


def measure_rooms(package: Path = PACKAGE) -> dict[str, Density]:
    """Return the counts of each folder or file directly inside a package, by name."""
    rooms: dict[str, Density] = {}
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        density = measure_source(path.read_text(encoding="utf-8"))
        rooms.setdefault(room, Density()).add(density)
    return rooms


def add_rooms(rooms: dict[str, Density]) -> Density:
    """Return the counts of all rooms together."""
    total = Density()
    for density in rooms.values():
        total.add(density)
    return total


def list_large_functions(package: Path = PACKAGE) -> list[LargeFunction]:
    """List the functions that are too long or take too many parameters, and do not say why.

    A reason is a comment directly above the function, or between its ``def`` and its first
    statement.
    """
    large: list[LargeFunction] = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        comments = _list_comments(text)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, _Function) and not _gives_reason(node, comments):
                for what in _list_excesses(node):
                    large.append(LargeFunction(path, node.lineno, f"{node.name}: {what}"))
    return large


def _assigns_tuple(node: ast.Assign) -> bool:
    """Whether it is ``a, b = x, y``; taking a call's result apart is not."""
    to_tuple = any(isinstance(target, ast.Tuple) for target in node.targets)
    return to_tuple and isinstance(node.value, ast.Tuple)


def _list_excesses(node: _Function) -> Iterator[str]:
    lines = _count_lines(node)
    if lines > MAX_FUNCTION_LINES:
        yield f"{lines} lines, at most {MAX_FUNCTION_LINES}"
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
    if len(names) > MAX_PARAMETERS:
        yield f"{len(names)} parameters, at most {MAX_PARAMETERS}"


def _count_lines(node: _Function) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines


def _list_comments(text: str) -> set[int]:
    """Return the lines with a comment for readers; those for linters and type checkers are none."""
    comments = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        words = token.string.lstrip("# ")
        if token.type == tokenize.COMMENT and not words.startswith(("noqa", "type:")):
            comments.add(token.start[0])
    return comments


def _gives_reason(node: _Function, comments: set[int]) -> bool:
    """Whether a comment stands above a function, in its signature or before its first statement."""
    start = min(part.lineno for part in [*node.decorator_list, node])
    statements = node.body
    if ast.get_docstring(node) is not None:
        statements = node.body[1:]
    end = (node.end_lineno or node.lineno) + 1
    if statements:
        end = statements[0].lineno
    return any(line in comments for line in range(start - 1, end))


def main() -> None:
    """Print the table."""
    rooms = measure_rooms()
    total = add_rooms(rooms)
    print(f"{'room':14s} {'lines':>6s} {'share':>6s} {'compr.':>7s} {'cond.':>6s} {'tuples':>6s}")
    for name, density in [*sorted(rooms.items()), ("all", total)]:
        print(
            f"{name:14s} {density.lines:6d} {density.lines / total.lines:6.1%}"
            f" {density.per_1000(density.comprehensions):7.1f}"
            f" {density.per_1000(density.conditionals):6.1f}"
            f" {density.per_1000(density.tuple_assignments):6.1f}"
        )
    for function in list_large_functions():
        print(f"{function.path.relative_to(PACKAGE.parent)}:{function.line}: {function.what}")


if __name__ == "__main__":
    main()
