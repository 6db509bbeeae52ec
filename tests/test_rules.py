"""The architecture's rules, checked on the source: who imports whom, what stays out, names, sizes,
randomness, words.

Every check collects lines "file:line: what", so that a failure reads as a list of places to mend.
"""

from __future__ import annotations

import ast
import builtins
import configparser
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "boltzmed"

ROOM_TABLE = REPOSITORY / "docs" / "architecture.md"
"""The page that says which rooms there are, and what each may import."""


def read_rooms() -> dict[str, tuple[set[str], tuple[str, ...]]]:
    """Room → (the rooms it may import, the outside packages that stay out), as the page's table has them."""
    rooms = {}
    for line in ROOM_TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 4 and cells[0].startswith("`"):
            room = cells[0].strip("`")
            rooms[room] = (set(re.findall(r"`(\w+)`", cells[2])), _read_packages(cells[3]))
    return rooms


def _read_packages(cell: str) -> tuple[str, ...]:
    """Module names that a cell of the table's last column stands for."""
    names: list[str] = []
    for word in re.findall(r"`([\w.]+)`|([a-z][a-z ]+)", cell):
        names += PACKAGE_GROUPS.get(word[1].strip(), ()) if word[1] else [word[0]]
    return tuple(names)


TORCH = ("torch", "torchvision", "monai", "ignite", "timm", "open_clip")
MODELS = ("torch.nn", "torchvision", "timm", "open_clip")
IGNITE = ("ignite", "monai.engines", "monai.handlers")
IMAGE_FILES = ("nibabel", "pydicom", "SimpleITK", "highdicom", "itk", "dcmqi")
RESAMPLING = ("monai.transforms", "scipy.ndimage", "nibabel.processing", "torch.nn.functional")
ARGUMENTS = ("argparse", "fire", "optparse", "getopt", "click", "sys.argv")
PATHS = ("pathlib", "os", "glob", "tempfile", "shutil", "io")

AFFINE_ARITHMETIC = ("nibabel.affines", "nibabel.orientations")
"""The parts of nibabel that know no file: arithmetic on affines, which is what geometry is for."""


PACKAGE_GROUPS: dict[str, tuple[str, ...]] = {
    "torch": TORCH,
    "networks of others": MODELS,
    "engines of others": IGNITE,
    "image files": IMAGE_FILES,
    "resampling": RESAMPLING,
    "arguments": ARGUMENTS,
    "paths": PATHS,
}
"""Words of the table's last column → the modules they stand for."""

ALLOWED = read_rooms()
"""Room → what it may import, and what stays out of it."""

LINES = 500
"""A file has at most as many lines."""

FORBIDDEN_WORDS = ("utils", "helpers", "misc", "common")
FORBIDDEN_ENDINGS = ("2", "_new", "_simple")
TOP_LEVEL = {
    *(
        "boltzmed",
        "bundles",
        "datasets",
        "benchmarks",
        "docs",
        "notebooks",
        "tests",
        "setup.cfg",
        "pyproject.toml",
    ),
    *(
        "Makefile",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "NOTICE",
        ".ci",
        ".gitignore",
        ".pre-commit-config.yaml",
    ),
    "constraints.txt",
}


class Import(NamedTuple):
    """One imported name: `from torch import nn` is "torch.nn"."""

    line: int
    name: str
    at_start: (
        bool  # run when the module is imported, not inside a function and not for the type checker
    )


class Source(NamedTuple):
    """One file of the package."""

    path: Path
    module: str
    tree: ast.Module
    lines: int

    @property
    def room(self) -> str:
        """The folder or file directly inside the package; "" for the package's own `__init__`."""
        return self.module.partition(".")[2].partition(".")[0]

    def place(self, line: int, what: str) -> str:
        """A line of a failure's list."""
        return f"{self.path.relative_to(REPOSITORY).as_posix()}:{line}: {what}"


def read_source(path: Path) -> Source:
    """Parses one file."""
    text = path.read_text(encoding="utf-8")
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Source(path, module, ast.parse(text), len(text.splitlines()))


SOURCES = [read_source(path) for path in sorted(PACKAGE.rglob("*.py"))]
MODULES = {source.module: source for source in SOURCES}
ROOMS = sorted({source.room for source in SOURCES} - {""})


def list_imports(source: Source) -> list[Import]:
    """Every import of a file, wherever it stands."""
    package = (
        source.module if source.path.name == "__init__.py" else source.module.rpartition(".")[0]
    )
    return list(_walk_imports(source.tree, package, at_start=True))


def _walk_imports(node: ast.AST, package: str, *, at_start: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(node.lineno, alias.name, at_start) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
        origin = ".".join([*above, *([node.module] if node.module else [])])
        yield from (Import(node.lineno, f"{origin}.{alias.name}", at_start) for alias in node.names)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        at_start = False
    typing_only = isinstance(node, ast.If) and dotted_name(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )
    for child in ast.iter_child_nodes(node):
        yield from _walk_imports(child, package, at_start=at_start and not typing_only)


def dotted_name(node: ast.AST) -> str:
    """`torch.nn.init` of such an expression, "" of any other; calls and indices end it."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        start = dotted_name(node.value)
        return f"{start}.{node.attr}" if start else ""
    return ""


def is_among(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the modules or lies in one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def imported_room(name: str) -> str | None:
    """The room of our own package that a name comes from, "" for the package itself; None for other
    packages.
    """
    parts = name.split(".")
    if parts[0] != "boltzmed":
        return None
    return parts[1] if len(parts) > 1 and f"boltzmed.{parts[1]}" in MODULES else ""


def list_calls(source: Source) -> list[tuple[ast.Call, str]]:
    """Calls by name, with local names resolved: `F.dropout` is "torch.nn.functional.dropout"."""
    full: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            full |= {
                alias.asname or alias.name.split(".")[0]: alias.name
                for alias in node.names
                if alias.asname
            }
        elif isinstance(node, ast.ImportFrom):
            full |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    calls = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            first, dot, rest = (
                dotted_name(node.func) or f"?.{getattr(node.func, 'attr', '')}"
            ).partition(".")
            calls.append((node, full.get(first, first) + dot + rest))
    return calls


def report(places: list[str]) -> None:
    """Fails with the places, one a line."""
    if places:
        pytest.fail("\n".join(dict.fromkeys(places)), pytrace=False)


def in_room(room: str) -> list[Source]:
    """The files of a room."""
    return [source for source in SOURCES if source.room == room]


# Rooms


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_in_the_table(room: str) -> None:
    if room not in ALLOWED:
        pytest.fail(f"boltzmed/{room}: {ROOM_TABLE.name} has no such room")


@pytest.mark.parametrize("room", sorted(set(ROOMS) & set(ALLOWED)))
def test_rooms_import_what_the_table_allows(room: str) -> None:
    allowed = {room, "", *ALLOWED[room][0]}  # "" is the package itself, for its version
    places = [
        source.place(found.line, f"{room} imports {target or 'boltzmed'}")
        for source in in_room(room)
        for found in list_imports(source)
        if (target := imported_room(found.name)) is not None and target not in allowed
    ]
    report(places)


def test_the_table_has_no_room_that_is_not_there_and_no_import_that_nobody_uses() -> None:
    places = [
        f"{ROOM_TABLE.name}: {room} is not there" for room in sorted(set(ALLOWED) - set(ROOMS))
    ]
    for room in sorted(set(ALLOWED) & set(ROOMS)):
        used = {
            imported_room(found.name) for source in in_room(room) for found in list_imports(source)
        }
        unused = ALLOWED[room][0] - used
        places += [f"{ROOM_TABLE.name}: {room} imports no {other}" for other in sorted(unused)]
    report(places)


@pytest.mark.parametrize("room", sorted(set(ROOMS) & set(ALLOWED)))
def test_what_may_not_enter_stays_out(room: str) -> None:
    places = []
    for source in in_room(room):
        kept_out = ALLOWED[room][1]
        if source.module == "boltzmed.networks.weights":
            # "paths other than checkpoints": these are the checkpoints
            kept_out = tuple(name for name in kept_out if name not in PATHS)
        for found in list_imports(source):
            if is_among(found.name, kept_out) and not is_among(found.name, AFFINE_ARITHMETIC):
                places.append(source.place(found.line, f"{room} imports {found.name}"))
    report(places)


def list_imports_outside(rooms: tuple[str, ...], modules: tuple[str, ...]) -> list[str]:
    """Where other rooms than these import one of the modules."""
    return [
        source.place(found.line, f"imports {found.name}")
        for source in SOURCES
        if source.room not in rooms
        for found in list_imports(source)
        if is_among(found.name, modules) and not is_among(found.name, AFFINE_ARITHMETIC)
    ]


def test_volumes_are_the_only_door_to_disk_images() -> None:
    report(list_imports_outside(("volumes",), IMAGE_FILES))


def test_ignite_lives_in_engines_only() -> None:
    """And in the handlers that write a study's outputs, which may not be in engines: engines know
    no files.
    """
    report(list_imports_outside(("engines", "outputs"), IGNITE))


def test_only_the_command_line_parses_arguments() -> None:
    """And `options` looks at those of MONAI's, which takes whatever it is given."""
    places = list_imports_outside(("cli", "options"), ARGUMENTS)
    places += [
        source.place(node.lineno, "reads sys.argv")
        for source in SOURCES
        if source.room not in ("cli", "options")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and dotted_name(node) == "sys.argv"
    ]
    report(places)


def test_engines_define_no_networks() -> None:
    places = [
        source.place(node.lineno, f"{node.name} is a network")
        for source in in_room("engines")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
        and any(dotted_name(base).endswith("nn.Module") for base in node.bases)
    ]
    report(places)


def test_metrics_threshold_nothing() -> None:
    places = [
        source.place(node.lineno, "thresholds")
        for source in in_room("metrics")
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.arg) and "threshold" in node.arg)
        or (isinstance(node, ast.Name) and "threshold" in node.id)
    ]
    report(places)


def load_at_start(module: str) -> dict[str, str]:
    """External modules that importing one of ours loads → the chain of ours that leads there."""
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
        for found in list_imports(MODULES[name]):
            if not found.at_start:
                continue
            if not is_among(found.name, ("boltzmed",)):
                loaded.setdefault(found.name, f"{chain} → {found.name}")
                continue
            target = found.name if found.name in MODULES else found.name.rpartition(".")[0]
            waiting.append((target, f"{chain} → {target}"))
    return loaded


@pytest.mark.parametrize(
    "module", ["geometry", "strata", "cards", "results", "slugs", "resources", "cli"]
)
def test_light_modules_load_without_torch(module: str) -> None:
    """The table keeps torch out of the first four; the command line imports heavy modules in the
    command.
    """
    loaded = load_at_start(f"boltzmed.{module}")
    report([chain for name, chain in loaded.items() if is_among(name, TORCH)])


def test_only_geometry_knows_the_flip_between_ras_and_lps() -> None:
    places = []
    for source in SOURCES:
        for node in ast.walk(source.tree):
            if source.room != "geometry" and isinstance(node, ast.List | ast.Tuple):
                try:
                    values = ast.literal_eval(node)
                except ValueError:
                    continue
                if tuple(values) in ((-1, -1, 1), (-1, -1, 1, 1)):
                    places.append(source.place(node.lineno, "the flip between RAS and LPS"))
    report(places)


# Randomness and numbers

TORCH_DRAWS = {
    *(
        "rand",
        "randn",
        "randint",
        "randperm",
        "rand_like",
        "randn_like",
        "randint_like",
        "normal",
        "multinomial",
    ),
    *("bernoulli", "poisson"),
}
TENSOR_DRAWS = {
    "normal_",
    "uniform_",
    "random_",
    "bernoulli_",
    "exponential_",
    "geometric_",
    "cauchy_",
    "log_normal_",
}
NUMPY_GENERATORS = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64", "Philox"}
GLOBAL_SEEDS = {
    "torch.manual_seed",
    "torch.seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
}


def draws_from_global_stream(call: ast.Call, name: str) -> bool:
    """Whether a call takes its random numbers from a stream that all code shares."""
    first, _, last = name.rpartition(".")
    keyed = any(keyword.arg == "generator" for keyword in call.keywords)
    if name in GLOBAL_SEEDS or is_among(name, ("random", "monai.utils.set_determinism")):
        return True
    if first == "torch" and last in TORCH_DRAWS:
        return not keyed
    if first in ("np.random", "numpy.random"):
        return last not in NUMPY_GENERATORS or (
            last == "default_rng" and not call.args and not call.keywords
        )
    # Initial weights (torch.nn.init) are not drawn in training or inference, and torch's own layers
    # draw theirs alike.
    return last in TENSOR_DRAWS and not first.endswith("nn.init") and not keyed


def test_no_randomness_from_global_streams() -> None:
    places = [
        source.place(call.lineno, f"{name} draws from a global stream")
        for source in SOURCES
        for call, name in list_calls(source)
        if draws_from_global_stream(call, name)
    ]
    report(places)


def test_weights_are_never_loaded_loosely() -> None:
    places = []
    for source in SOURCES:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load_state_dict":
                for keyword in node.keywords:
                    if (
                        keyword.arg == "strict"
                        and getattr(keyword.value, "value", None) is not True
                    ):
                        places.append(
                            source.place(node.lineno, "load_state_dict with strict=False")
                        )
    report(places)


def test_nothing_warns() -> None:
    """What changes a number is raised or recorded in run.json, never warned about."""
    places = [
        source.place(call.lineno, name)
        for source in SOURCES
        for call, name in list_calls(source)
        if name in ("warnings.warn", "logging.warning")
        or name.endswith(("logger.warning", "log.warning"))
    ]
    report(places)


def test_callers_get_value_errors() -> None:
    places = []
    for source in SOURCES:
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Raise) or node.exc is None:
                continue
            name = dotted_name(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            kind = getattr(builtins, name, ValueError)
            if (
                isinstance(kind, type)
                and issubclass(kind, BaseException)
                and not issubclass(kind, ValueError)
            ):
                places.append(source.place(node.lineno, f"raises {name}"))
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                kinds = [getattr(builtins, dotted_name(base), ValueError) for base in node.bases]
                if any(
                    issubclass(kind, BaseException) and not issubclass(kind, ValueError)
                    for kind in kinds
                ):
                    places.append(source.place(node.lineno, f"{node.name} is no ValueError"))
    report(places)


# Names, sizes, docstrings


def test_files_are_short() -> None:
    report(
        [
            source.place(source.lines, f"{source.lines} lines")
            for source in SOURCES
            if source.lines > LINES
        ]
    )


def test_names_say_what_they_name() -> None:
    places = []
    for source in SOURCES:
        names = [(1, part) for part in source.module.split(".")]
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        names += [
            (node.lineno, node.name) for node in ast.walk(source.tree) if isinstance(node, kinds)
        ]
        for line, name in names:
            words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)
            if any(word.lower() in FORBIDDEN_WORDS for word in words) or name.endswith(
                FORBIDDEN_ENDINGS
            ):
                places.append(source.place(line, name))
    report(places)


def test_masks_are_called_prediction_and_reference() -> None:
    """MONAI's `pred` and `label` stay at its boundary: keys of its dictionaries, the engines'
    handlers.
    """
    wrong = {"pred", "preds", "gt", "ground_truth", "y_pred", "y_true"}
    places = [
        source.place(node.lineno, f"a parameter named {node.arg}")
        for source in SOURCES
        if source.room != "engines"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.arg) and node.arg in wrong
    ]
    report(places)


def list_public(
    source: Source,
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Public functions and classes of a file, and the classes' public methods."""
    for node in source.tree.body:
        if isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ) and not node.name.startswith("_"):
            yield node.name, node
            for member in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(
                    member, ast.FunctionDef | ast.AsyncFunctionDef
                ) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", member


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_have_docstrings(room: str) -> None:
    places = []
    for source in in_room(room):
        if source.tree.body and not ast.get_docstring(source.tree):
            places.append(source.place(1, "the module has no docstring"))
        for name, node in list_public(source):
            if not ast.get_docstring(node):
                places.append(source.place(node.lineno, f"{name} has no docstring"))
    report(places)


def test_docstrings_are_in_google_style() -> None:
    """Sections with a colon; no reStructuredText fields, no underlined sections, types in the
    signature alone.
    """
    other_style = re.compile(
        r"^\s*:(param|type|returns?|rtype|raises)\b|^\s*(Parameters|Returns|Raises)\n\s*---", re.M
    )
    typed = re.compile(
        r"^\s+\w+ \((int|float|str|bool|list|tuple|dict|optional|Tensor|np\.)[^)]*\):", re.M
    )
    places = []
    for source in SOURCES:
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            text = ast.get_docstring(node)
            if text and (other_style.search(text) or typed.search(text)):
                places.append(
                    source.place(
                        node.lineno, f"the docstring of {node.name} is not in Google style"
                    )
                )
    report(places)


def test_public_functions_are_annotated() -> None:
    """Types stand in the signature, so the signature has them all."""
    places = []
    for source in SOURCES:
        for name, node in list_public(source):
            if isinstance(node, ast.ClassDef):
                continue
            signature = node.args
            named = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
            bare = [a.arg for a in named if a.annotation is None and a.arg not in ("self", "cls")]
            if bare or node.returns is None:
                places.append(
                    source.place(
                        node.lineno, f"{name} lacks types: {', '.join(bare) or 'its result'}"
                    )
                )
    report(places)


# Around the package


def test_bundles_and_datasets_hold_no_python_and_no_images() -> None:
    wrong = [
        path for folder in ("bundles", "datasets") for path in (REPOSITORY / folder).rglob("*.py*")
    ]
    wrong += [
        path for path in (REPOSITORY / "datasets").iterdir() if path.suffix not in (".yaml", ".md")
    ]
    report([path.relative_to(REPOSITORY).as_posix() for path in wrong])


def list_targets(value: Any) -> Iterator[str]:
    """Every name of ours that a config speaks of: `_target_: boltzmed…` and `$from boltzmed… import
    name`.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "_target_" and isinstance(inner, str) and inner.startswith("boltzmed."):
                yield inner
            yield from list_targets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from list_targets(inner)
    elif isinstance(value, str) and (
        found := re.match(r"\$from (boltzmed\S*) import (\w+)", value)
    ):
        yield f"{found[1]}.{found[2]}"


def test_bundles_name_classes_that_exist() -> None:
    places = []
    for path in sorted((REPOSITORY / "bundles").glob("*/configs/*.yaml")):
        for target in list_targets(yaml.safe_load(path.read_text(encoding="utf-8"))):
            module, _, name = target.rpartition(".")
            tree = MODULES[module].tree if module in MODULES else ast.Module([], [])
            if name.startswith("_") or name not in {
                getattr(node, "name", None) for node in tree.body
            }:
                places.append(f"{path.relative_to(REPOSITORY).as_posix()}: {target}")
    report(places)


def test_benchmarks_use_public_names_only() -> None:
    places = []
    for path in sorted((REPOSITORY / "benchmarks").rglob("*.py")):
        source = read_source(path)
        for found in list_imports(source):
            private = is_among(found.name, ("boltzmed",)) and any(
                p.startswith("_") for p in found.name.split(".")
            )
            if private or is_among(found.name, ("tests",)):
                places.append(source.place(found.line, f"imports {found.name}"))
    report(places)


def test_top_level_holds_no_more() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("no git repository, so there is no list of its files")
    listing = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    report(sorted({line.split("/")[0] for line in listing.splitlines()} - TOP_LEVEL))


def test_settings_have_one_place() -> None:
    """pip needs pyproject.toml; it holds the build system and ruff, the rest is in setup.cfg."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project) == {"build-system", "tool"} and set(project["tool"]) == {"ruff"}
    assert project["tool"]["ruff"]["line-length"] <= 100
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    assert {"metadata", "options", "tool:pytest", "mypy"} <= set(settings)
