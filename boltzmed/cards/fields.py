"""Reading the fields of a dataset card: a method per kind of field, which names file and field when
it is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

Window = tuple[float, float]


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
    """One mapping of a card file with the way to it, for errors ("phantom.yaml: targets: liver:
    site: …").

    Args:
        where: file name and the fields that lead here.
        fields: the mapping itself.
    """

    def __init__(self, where: str, fields: Mapping[str, Any]) -> None:
        self.where = where
        self.fields = fields

    @classmethod
    def open(cls, path: Path) -> CardReader:
        """Reads a whole file (ValueError when it is unreadable, not YAML, or not a mapping)."""
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
                f"card {path.name}: expected a mapping of fields, got {type(content).__name__}"
            )
        return cls(f"card {path.name}", content)

    @property
    def names(self) -> list[str]:
        """The fields present."""
        return list(self.fields)

    def fail(self, field: str, message: str) -> NoReturn:
        """Raises the ValueError that names file and field."""
        raise ValueError(f"{self.where}: {field}: {message}")

    def only(self, *known: str) -> None:
        """Refuses fields that no reader would look at; most often they are misspelt."""
        for field in self.fields:
            if field not in known:
                self.fail(str(field), f"unknown field; expected some of {', '.join(known)}")

    def _get(self, field: str, required: bool = True) -> Any:
        if field not in self.fields and required:
            self.fail(field, "is missing")
        return self.fields.get(field)

    def text(self, field: str) -> str:
        """A text with something in it."""
        value = self._get(field)
        if not isinstance(value, str) or not value.strip():
            self.fail(field, f"expected text, got {value!r}")
        return value.strip()

    def flag(self, field: str) -> bool:
        """true or false."""
        value = self._get(field)
        if not isinstance(value, bool):
            self.fail(field, f"expected true or false, got {value!r}")
        return value

    def texts(self, field: str, *, required: bool = True) -> tuple[str, ...]:
        """A list of texts, not empty where required."""
        value = self._get(field, required)
        if value is None and not required:
            return ()
        texts = value if isinstance(value, list) else []
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            self.fail(field, f"expected a list of texts, got {value!r}")
        return tuple(text.strip() for text in texts)

    def integers(self, field: str, *, required: bool = True) -> tuple[int, ...]:
        """A list of different integers, not empty where required."""
        value = self._get(field, required)
        if value is None and not required:
            return ()
        if (
            not isinstance(value, list)
            or not value
            or not all(_is_integer(number) for number in value)
        ):
            self.fail(field, f"expected a list of integers, got {value!r}")
        if len(set(value)) != len(value):
            self.fail(field, f"a value is given twice in {value!r}")
        return tuple(value)

    def labels(self, field: str) -> dict[int, str]:
        """Label value -> name, both unique; {} for data without a label map."""
        value = self._get(field)
        if not isinstance(value, dict):
            self.fail(field, f"expected a mapping of value to name, got {value!r}")
        for number, name in value.items():
            if not _is_integer(number) or number < 0 or not isinstance(name, str):
                self.fail(field, f"expected integers from 0 with names, got {number!r}: {name!r}")
        names = list(value.values())
        for name in names:
            if names.count(name) > 1:
                self.fail(field, f"{name!r} names two values")
        return dict(value)

    def windows(self, field: str, *, percentiles: bool) -> dict[str, Window | None]:
        """Window name -> (low, high) in HU; null stands for volume percentiles and is for MR alone."""
        value = self._get(field)
        if (
            not isinstance(value, dict)
            or not value
            or not all(isinstance(name, str) for name in value)
        ):
            self.fail(field, f"expected a mapping of name to [low, high], got {value!r}")
        return {
            name: self._window(f"{field}: {name}", numbers, percentiles)
            for name, numbers in value.items()
        }

    def window(
        self, field: str, named: Mapping[str, Window | None], *, percentiles: bool
    ) -> tuple[str, Window | None]:
        """A target's window: a name from the card's windows, or numbers, then called "custom"."""
        value = self._get(field)
        if not isinstance(value, str):
            return "custom", self._window(field, value, percentiles)
        if value not in named:
            self.fail(field, f"expected one of {', '.join(named)}, or [low, high], got {value!r}")
        return value, named[value]

    def _window(self, field: str, value: Any, percentiles: bool) -> Window | None:
        if value is None and percentiles:
            return None
        numbers = value if isinstance(value, list) and len(value) == 2 else []
        valid = bool(numbers) and all(
            isinstance(n, int | float) and not isinstance(n, bool) for n in numbers
        )
        if not valid or not float("-inf") < numbers[0] < numbers[1] < float("inf"):
            self.fail(field, f"expected [low, high] in HU with low < high, got {value!r}")
        return float(numbers[0]), float(numbers[1])

    def code(self, field: str) -> tuple[str, str, str] | None:
        """[scheme, value, meaning]; the value in quotes, since codes are text (a leading zero
        counts).
        """
        value = self._get(field, required=False)
        if value is None:
            return None
        if (
            not isinstance(value, list)
            or len(value) != 3
            or not all(isinstance(part, str) and part for part in value)
        ):
            self.fail(
                field,
                f'expected [scheme, "value", meaning] with the value in quotes, got {value!r}',
            )
        return value[0], value[1], value[2]

    def ranges(self, field: str) -> tuple[tuple[int, int], ...]:
        """A list of [first, last] and single numbers."""
        value = self._get(field)
        given: list[Any] = value if isinstance(value, list) and value else [None]
        pairs = [[item, item] if _is_integer(item) else item for item in given]
        for pair in pairs:
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or not all(map(_is_integer, pair))
                or pair[0] > pair[1]
            ):
                self.fail(
                    str(field),
                    "expected a list of numbers and [first, last] with first <= last, got"
                    f" {value!r}",
                )
        return tuple((first, last) for first, last in pairs)

    def range(self, field: str) -> tuple[int, int]:
        """[first, last]."""
        value = self._get(field)
        if (
            not isinstance(value, list)
            or len(value) != 2
            or not all(map(_is_integer, value))
            or value[0] > value[1]
        ):
            self.fail(field, f"expected [first, last] with first <= last, got {value!r}")
        return value[0], value[1]

    def count(self, field: str) -> int:
        """A whole number from 0."""
        value = self._get(field)
        if not _is_integer(value) or value < 0:
            self.fail(field, f"expected a whole number from 0, got {value!r}")
        return value

    def share(self, field: str) -> float:
        """A number above 0 and at most 1."""
        value = self._get(field)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
            self.fail(field, f"expected a share above 0 and at most 1, got {value!r}")
        return float(value)

    def pattern(self, field: str, *, groups: Sequence[int]) -> str:
        """A regular expression with one of the given numbers of groups."""
        value = self.text(field)
        try:
            found = re.compile(value).groups
        except re.error as error:
            self.fail(field, f"expected a regular expression, got {value!r} ({error})")
        if found not in groups:
            self.fail(
                field,
                f"expected a regular expression with {groups[-1]} group, got {value!r} with"
                f" {found}",
            )
        return value

    def section(self, field: str, *, required: bool = True) -> CardReader | None:
        """A mapping inside this one."""
        value = self._get(field, required)
        if value is None and not required:
            return None
        if not isinstance(value, dict):
            self.fail(field, f"expected a mapping, got {value!r}")
        return CardReader(f"{self.where}: {field}", value)

    def sections(self, field: str) -> Iterator[tuple[str, CardReader]]:
        """The named mappings inside a mapping, each with its own reader; {} gives none."""
        section = self.section(field)
        for name in section.names if section else []:
            if not isinstance(name, str) or not name.strip():
                self.fail(field, f"expected names, got {name!r}")
            entry = section.section(name) if section else None
            if entry is not None:
                yield name, entry


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
