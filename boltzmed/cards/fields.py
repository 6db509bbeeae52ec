"""Read the fields of a dataset card: a method for each kind, whose error names file and field."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import yaml

Window = tuple[float, float]
"""Lowest and highest HU that stay distinguishable; None beside it: percentiles of the volume."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, but a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


class CardReader:
    """One mapping of a card file, and where it stands in the file.

    Args:
        where: the file's name and the fields that lead here, as errors begin
            ("card phantom.yaml: targets: liver").
        fields: the mapping itself.
    """

    def __init__(self, where: str, fields: Mapping[str, Any]) -> None:
        self.where = where
        self.fields = fields

    @classmethod
    def open(cls, path: Path) -> CardReader:
        """Read a whole file; ValueError when it is unreadable, not YAML, or not a mapping."""
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
        except yaml.MarkedYAMLError as error:
            line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
            raise ValueError(f"card {path.name}: not valid YAML{line}: {error.problem}") from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(
                f"card {path.name}: cannot be read as YAML text ({type(error).__name__})"
            ) from error
        if not isinstance(content, dict):
            raise ValueError(
                f"card {path.name}: expected a mapping of fields, received {type(content).__name__}"
            )
        return cls(f"card {path.name}", content)

    @property
    def names(self) -> list[str]:
        """The fields present."""
        return list(self.fields)

    def fail(self, field: str, message: str) -> NoReturn:
        """Raise the ValueError that names file and field."""
        raise ValueError(f"{self.where}: {field}: {message}")

    def only(self, *known: str) -> None:
        """Refuse fields that no reader would look at; most often they are misspelt."""
        for field in self.fields:
            if field not in known:
                self.fail(str(field), f"unknown field; expected some of {', '.join(known)}")

    def text(self, field: str) -> str:
        """Return a text with something in it."""
        value = self._get(field)
        if not _is_text(value):
            self.fail(field, f"expected text, received {value!r}")
        return value.strip()

    def one_of(self, field: str, known: Collection[str], *, default: str | None = None) -> str:
        """Return one of the known words; ``default``, if there is one, for a missing field."""
        if default is not None and field not in self.fields:
            return default
        value = self.text(field)
        if value not in known:
            self.fail(field, f"expected one of {', '.join(known)}, received {value!r}")
        return value

    def flag(self, field: str, *, default: bool | None = None) -> bool:
        """Return true or false; ``default``, if there is one, for a missing field."""
        if default is not None and field not in self.fields:
            return default
        value = self._get(field)
        if not isinstance(value, bool):
            self.fail(field, f"expected true or false, received {value!r}")
        return value

    def texts(self, field: str, *, required: bool = True) -> tuple[str, ...]:
        """Return a list of texts; it is not empty but where the field may be missing and is."""
        value = self._get(field, required)
        if value is None and not required:
            return ()
        if not isinstance(value, list) or not value or not all(map(_is_text, value)):
            self.fail(field, f"expected a list of texts, received {value!r}")
        return tuple(map(str.strip, value))

    def integers(self, field: str, *, required: bool = True) -> tuple[int, ...]:
        """Return a list of different integers; empty only where the field may be missing and is."""
        value = self._get(field, required)
        if value is None and not required:
            return ()
        if not isinstance(value, list) or not value or not all(map(_is_integer, value)):
            self.fail(field, f"expected a list of integers, received {value!r}")
        if len(set(value)) != len(value):
            self.fail(field, f"a value is given twice in {value!r}")
        return tuple(value)

    def labels(self, field: str) -> dict[int, str]:
        """Return label value -> name, both unique; {} for data without a label map."""
        value = self._get(field)
        if not isinstance(value, dict):
            self.fail(field, f"expected a mapping of value to name, received {value!r}")
        for number, name in value.items():
            if not _is_integer(number) or number < 0 or not isinstance(name, str):
                self.fail(
                    field, f"expected integers from 0 with names, received {number!r}: {name!r}"
                )
        names = list(value.values())
        for name in names:
            if names.count(name) > 1:
                self.fail(field, f"{name!r} names two values")
        return dict(value)

    def windows(self, field: str, *, percentiles: bool) -> dict[str, Window | None]:
        """Return window name -> (low, high) in HU; null, volume percentiles, is for MR alone."""
        value = self._get(field)
        named = isinstance(value, dict) and all(isinstance(name, str) for name in value)
        if not value or not named:
            self.fail(field, f"expected a mapping of name to [low, high], received {value!r}")
        windows = {}
        for name, numbers in value.items():
            windows[name] = self._window(f"{field}: {name}", numbers, percentiles)
        return windows

    def window(
        self, field: str, named: Mapping[str, Window | None], *, percentiles: bool
    ) -> tuple[str, Window | None]:
        """Return a target's window: one of the card's by name, or numbers, then called "custom"."""
        value = self._get(field)
        if not isinstance(value, str):
            return "custom", self._window(field, value, percentiles)
        if value not in named:
            self.fail(
                field, f"expected one of {', '.join(named)}, or [low, high], received {value!r}"
            )
        return value, named[value]

    def code(self, field: str) -> tuple[str, str, str] | None:
        """Return [scheme, value, meaning], None where the field is missing.

        The value stands in quotes in the file: codes are text, and a leading zero counts.
        """
        value = self._get(field, required=False)
        if value is None:
            return None
        is_triple = isinstance(value, list) and len(value) == 3
        if not is_triple or not all(isinstance(part, str) and part for part in value):
            self.fail(
                field,
                f'expected [scheme, "value", meaning] with the value in quotes, received {value!r}',
            )
        scheme, code, meaning = value
        return scheme, code, meaning

    def range(self, field: str) -> tuple[int, int]:
        """Return [first, last], both included."""
        value = self._get(field)
        if not _is_range(value):
            self.fail(field, f"expected [first, last] with first <= last, received {value!r}")
        first, last = value
        return first, last

    def ranges(self, field: str) -> tuple[tuple[int, int], ...]:
        """Return a list of [first, last] and single numbers, these as ranges of one."""
        value = self._get(field)
        ranges: list[tuple[int, int]] = []
        for item in value if isinstance(value, list) else ():
            pair = [item, item] if _is_integer(item) else item
            if not _is_range(pair):
                ranges.clear()
                break
            ranges.append((pair[0], pair[1]))
        if not ranges:
            self.fail(
                field,
                "expected a list of numbers and [first, last] with first <= last, received"
                f" {value!r}",
            )
        return tuple(ranges)

    def count(self, field: str) -> int:
        """Return a whole number from 0."""
        value = self._get(field)
        if not _is_integer(value) or value < 0:
            self.fail(field, f"expected a whole number from 0, received {value!r}")
        return value

    def share(self, field: str) -> float:
        """Return a fraction above 0 and at most 1."""
        value = self._get(field)
        if not _is_number(value) or not 0 < value <= 1:
            self.fail(field, f"expected a share above 0 and at most 1, received {value!r}")
        return float(value)

    def pattern(self, field: str, *, groups: Sequence[int]) -> str:
        """Return a regular expression with one of these numbers of groups."""
        value = self.text(field)
        try:
            num_groups = re.compile(value).groups
        except re.error as error:
            self.fail(field, f"expected a regular expression, received {value!r} ({error})")
        if num_groups not in groups:
            self.fail(
                field,
                f"expected a regular expression with {groups[-1]} group, received {value!r} with"
                f" {num_groups}",
            )
        return value

    def section(self, field: str) -> CardReader | None:
        """Return the reader of a mapping inside this one, None where the field is missing."""
        value = self._get(field, required=False)
        return None if value is None else self._section(field, value)

    def sections(self, field: str) -> Iterator[tuple[str, CardReader]]:
        """Yield the named mappings inside a mapping, each with its own reader; {} gives none."""
        section = self._section(field, self._get(field))
        for name, value in section.fields.items():
            if not _is_text(name):
                self.fail(field, f"expected names, received {name!r}")
            yield name, section._section(name, value)

    def _get(self, field: str, required: bool = True) -> Any:
        if field not in self.fields and required:
            self.fail(field, "is missing")
        return self.fields.get(field)

    def _section(self, field: str, value: Any) -> CardReader:
        if not isinstance(value, dict):
            self.fail(field, f"expected a mapping, received {value!r}")
        return CardReader(f"{self.where}: {field}", value)

    def _window(self, field: str, value: Any, percentiles: bool) -> Window | None:
        if value is None and percentiles:
            return None
        is_pair = isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
        if not is_pair or not -math.inf < value[0] < value[1] < math.inf:
            self.fail(field, f"expected [low, high] in HU with low < high, received {value!r}")
        return float(value[0]), float(value[1])


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


# YAML's true and false are integers to Python.


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(value: Any) -> TypeGuard[list[int]]:
    is_pair = isinstance(value, list) and len(value) == 2
    return is_pair and all(map(_is_integer, value)) and value[0] <= value[1]
