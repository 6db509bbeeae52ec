"""The architecture's rules, checked on the source.

Who imports whom, what stays out, names, sizes, density, randomness, docstrings. Every check lists
its findings as "file:line: what", so that a failure reads as a list of places to mend.
"""

from __future__ import annotations

import ast
import builtins
import configparser
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from benchmarks import density
from tests.source import (
    MODULES,
    PACKAGE,
    REPOSITORY,
    ROOMS,
    SOURCES,
    Definition,
    dotted_name,
    imported_room,
    in_room,
    is_among,
    list_calls,
    list_imports,
    list_public,
    load_at_start,
    read_source,
    used_rooms,
)

ROOM_TABLE = REPOSITORY / "docs" / "architecture.md"
"""The page that says which rooms there are, and what each may import."""

TORCH = ("torch", "torchvision", "monai", "ignite", "timm", "open_clip")
IGNITE = ("ignite", "monai.engines", "monai.handlers")
IMAGE_FILES = ("nibabel", "pydicom", "SimpleITK", "highdicom", "itk", "dcmqi")
ARGUMENTS = ("argparse", "fire", "optparse", "getopt", "click", "sys.argv")
PATHS = ("pathlib", "os", "glob", "tempfile", "shutil", "io")

PACKAGE_GROUPS: dict[str, tuple[str, ...]] = {
    "torch": TORCH,
    "networks of others": ("torch.nn", "torchvision", "timm", "open_clip"),
    "engines of others": IGNITE,
    "image files": IMAGE_FILES,
    "resampling": (
        "monai.transforms",
        "scipy.ndimage",
        "nibabel.processing",
        "torch.nn.functional",
    ),
    "arguments": ARGUMENTS,
    "paths": PATHS,
}
"""Words of the table's last column → the modules they stand for."""

AFFINE_ARITHMETIC = ("nibabel.affines", "nibabel.orientations")
"""The parts of nibabel that know no file: arithmetic on affines, which is what geometry is for."""

MAX_FLOORS = 7
MAX_FILE_LINES = 500

FORBIDDEN_WORDS = ("utils", "helpers", "misc", "common")
FORBIDDEN_ENDINGS = ("2", "_new", "_simple")

TOP_LEVEL = {
    ".ci",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "NOTICE",
    "README.md",
    "SECURITY.md",
    "benchmarks",
    "boltzmed",
    "bundles",
    "constraints.txt",
    "datasets",
    "docs",
    "notebooks",
    "pyproject.toml",
    "setup.cfg",
    "tests",
}


class Room(NamedTuple):
    """What the table says of a room."""

    may_import: frozenset[str]
    stays_out: tuple[str, ...]


def read_rooms() -> dict[str, Room]:
    """Read the page's table, in its order."""
    rooms = {}
    for line in ROOM_TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 4 and cells[0].startswith("`"):
            may_import = frozenset(re.findall(r"`(\w+)`", cells[2]))
            rooms[cells[0].strip("`")] = Room(may_import, read_modules(cells[3]))
    return rooms


def read_modules(cell: str) -> tuple[str, ...]:
    """Return the modules that a cell of the table's last column stands for."""
    modules: list[str] = []
    for module, group in re.findall(r"`([\w.]+)`|([a-z][a-z ]+)", cell):
        if module:
            modules.append(module)
        else:
            modules.extend(PACKAGE_GROUPS[group.strip()])
    return tuple(modules)


TABLE = read_rooms()


def report(places: Iterable[str]) -> None:
    """Fail with the places, one a line."""
    different = list(dict.fromkeys(places))
    if different:
        pytest.fail("\n".join(different), pytrace=False)


def read_settings() -> configparser.ConfigParser:
    """Read ``setup.cfg``."""
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return settings


# Rooms


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_in_the_table(room: str) -> None:
    if room not in TABLE:
        pytest.fail(f"boltzmed/{room}: {ROOM_TABLE.name} has no such room")


@pytest.mark.parametrize("room", sorted(set(ROOMS) & set(TABLE)))
def test_rooms_import_what_the_table_allows(room: str) -> None:
    """Besides the package itself, for its version."""
    allowed = {room, "", *TABLE[room].may_import}
    places = []
    for source in in_room(room):
        for imported in list_imports(source):
            target = imported_room(imported.name)
            if target is not None and target not in allowed:
                places.append(source.place(imported.line, f"{room} imports {target or 'boltzmed'}"))
    report(places)


def test_the_table_has_no_room_that_is_not_there_and_no_import_that_nobody_uses() -> None:
    places = []
    for room, entry in TABLE.items():
        if room not in ROOMS:
            places.append(f"{ROOM_TABLE.name}: {room} is not there")
            continue
        for other in sorted(entry.may_import - used_rooms(room)):
            places.append(f"{ROOM_TABLE.name}: {room} imports no {other}")
    report(places)


def test_the_table_stands_ground_floor_first() -> None:
    """A room imports rooms that stand above it in the table, so that no import leads back up."""
    places = []
    above: set[str] = set()
    for room, entry in TABLE.items():
        for other in sorted(entry.may_import - above):
            places.append(f"{ROOM_TABLE.name}: {room} imports {other}, which stands below it")
        above.add(room)
    report(places)


def count_floors(imports: dict[str, set[str]]) -> dict[str, int]:
    """Return the floor of each room, the ground floor being 1.

    Raises:
        CycleError: rooms import each other in a circle.
    """
    floors: dict[str, int] = {}
    for room in TopologicalSorter(imports).static_order():
        below = [floors[other] for other in imports.get(room, ())]
        floors[room] = 1 + max(below, default=0)
    return floors


def test_rooms_form_no_circle_and_few_floors() -> None:
    """Of what is imported, whatever the table says."""
    try:
        floors = count_floors({room: used_rooms(room) for room in ROOMS})
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' → '.join(error.args[1])}", pytrace=False)
    too_high = [f"{room}: floor {floor}" for room, floor in floors.items() if floor > MAX_FLOORS]
    report(too_high)


def test_floors_are_counted_from_the_ground() -> None:
    floors = count_floors({"cellar": set(), "hall": {"cellar"}, "roof": {"cellar", "hall"}})
    assert floors == {"cellar": 1, "hall": 2, "roof": 3}


@pytest.mark.parametrize("room", sorted(set(ROOMS) & set(TABLE)))
def test_what_may_not_enter_stays_out(room: str) -> None:
    places = []
    for source in in_room(room):
        kept_out = TABLE[room].stays_out
        if source.module == "boltzmed.networks.weights":
            # Checkpoints are the one kind of file that networks open.
            kept_out = tuple(name for name in kept_out if name not in PATHS)
        for imported in list_imports(source):
            if is_among(imported.name, kept_out) and not is_among(imported.name, AFFINE_ARITHMETIC):
                places.append(source.place(imported.line, f"{room} imports {imported.name}"))
    report(places)


def list_imports_outside(rooms: tuple[str, ...], modules: tuple[str, ...]) -> list[str]:
    """List where other rooms than these import one of the modules."""
    places = []
    for source in SOURCES:
        if source.room in rooms:
            continue
        for imported in list_imports(source):
            if is_among(imported.name, modules) and not is_among(imported.name, AFFINE_ARITHMETIC):
                places.append(source.place(imported.line, f"imports {imported.name}"))
    return places


def test_volumes_are_the_only_door_to_disk_images() -> None:
    report(list_imports_outside(("volumes",), IMAGE_FILES))


def test_ignite_lives_in_engines_only() -> None:
    """And in the handlers that write a study's outputs: engines know no files."""
    report(list_imports_outside(("engines", "outputs"), IGNITE))


def test_only_the_command_line_parses_arguments() -> None:
    """And ``options`` looks at those of MONAI's, which takes whatever it is given."""
    places = list_imports_outside(("cli", "options"), ARGUMENTS)
    for source in SOURCES:
        if source.room in ("cli", "options"):
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and dotted_name(node) == "sys.argv":
                places.append(source.place(node.lineno, "reads sys.argv"))
    report(places)


def test_engines_define_no_networks() -> None:
    places = []
    for source in in_room("engines"):
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ClassDef):
                continue
            if any(dotted_name(base).endswith("nn.Module") for base in node.bases):
                places.append(source.place(node.lineno, f"{node.name} is a network"))
    report(places)


def test_metrics_threshold_nothing() -> None:
    places = []
    for source in in_room("metrics"):
        for node in ast.walk(source.tree):
            name = ""
            if isinstance(node, ast.arg):
                name = node.arg
            elif isinstance(node, ast.Name):
                name = node.id
            if "threshold" in name:
                places.append(source.place(node.lineno, "thresholds"))
    report(places)


@pytest.mark.parametrize(
    "module", ["geometry", "strata", "cards", "results", "slugs", "resources", "cli"]
)
def test_light_modules_load_without_torch(module: str) -> None:
    """The command line imports heavy modules in the command that needs them."""
    loaded = load_at_start(f"boltzmed.{module}")
    report(chain for name, chain in loaded.items() if is_among(name, TORCH))


def test_only_geometry_knows_the_flip_between_ras_and_lps() -> None:
    places = []
    for source in SOURCES:
        for node in ast.walk(source.tree):
            if source.room == "geometry" or not isinstance(node, ast.List | ast.Tuple):
                continue
            try:
                values = ast.literal_eval(node)
            except ValueError:
                continue
            if tuple(values) in ((-1, -1, 1), (-1, -1, 1, 1)):
                places.append(source.place(node.lineno, "the flip between RAS and LPS"))
    report(places)


# Randomness and numbers

TORCH_DRAWS = {
    "bernoulli",
    "multinomial",
    "normal",
    "poisson",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
}
TENSOR_DRAWS = {
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "normal_",
    "random_",
    "uniform_",
}
NUMPY_GENERATORS = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64", "Philox"}
GLOBAL_SEEDS = {
    "torch.manual_seed",
    "torch.seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
}


def draws_from_global_stream(call: ast.Call, name: str) -> bool:
    """Return whether a call takes its random numbers from a stream that all code shares."""
    first, _, last = name.rpartition(".")
    keyed = any(keyword.arg == "generator" for keyword in call.keywords)
    if name in GLOBAL_SEEDS or is_among(name, ("random", "monai.utils.set_determinism")):
        return True
    if first == "torch" and last in TORCH_DRAWS:
        return not keyed
    if first in ("np.random", "numpy.random"):
        seeded = bool(call.args or call.keywords)
        return last not in NUMPY_GENERATORS or (last == "default_rng" and not seeded)
    # Initial weights (torch.nn.init) are not drawn in training or inference, and torch's own layers
    # draw theirs alike.
    return last in TENSOR_DRAWS and not first.endswith("nn.init") and not keyed


def test_no_randomness_from_global_streams() -> None:
    places = []
    for source in SOURCES:
        for call, name in list_calls(source):
            if draws_from_global_stream(call, name):
                places.append(source.place(call.lineno, f"{name} draws from a global stream"))
    report(places)


def test_weights_are_never_loaded_loosely() -> None:
    places = []
    for source in SOURCES:
        for call, name in list_calls(source):
            if name.rpartition(".")[2] != "load_state_dict":
                continue
            for keyword in call.keywords:
                value = getattr(keyword.value, "value", None)
                if keyword.arg == "strict" and value is not True:
                    places.append(source.place(call.lineno, "load_state_dict with strict=False"))
    report(places)


def test_checkpoints_are_loaded_as_weights_only() -> None:
    """A pickle may run code; SECURITY.md promises that none is unpickled."""
    places = []
    for source in SOURCES:
        for imported in list_imports(source):
            # UnpicklingError is what torch raises for a file that it refuses.
            if is_among(imported.name, ("pickle", "joblib")) and not imported.name.endswith(
                ".UnpicklingError"
            ):
                places.append(source.place(imported.line, f"imports {imported.name}"))
        for call, name in list_calls(source):
            values = {keyword.arg: keyword.value for keyword in call.keywords}
            weights_only = getattr(values.get("weights_only"), "value", None)
            allow_pickle = getattr(values.get("allow_pickle"), "value", None)
            if name == "torch.load" and weights_only is not True:
                places.append(source.place(call.lineno, "torch.load without weights_only=True"))
            if allow_pickle not in (None, False):
                places.append(source.place(call.lineno, f"{name} with allow_pickle"))
    report(places)


def test_nothing_warns() -> None:
    """What changes a number is raised or recorded in ``run.json``, never warned about.

    But for options by their former names, which change none.
    """
    places = []
    for source in SOURCES:
        if source.room == "options":
            continue
        for call, name in list_calls(source):
            warns = name in ("warnings.warn", "logging.warning")
            if warns or name.endswith(("logger.warning", "log.warning")):
                places.append(source.place(call.lineno, name))
    report(places)


def is_other_error(name: str) -> bool:
    """Return whether a name is that of a built-in exception which is no ``ValueError``."""
    kind = getattr(builtins, name, None)
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        return False
    return not issubclass(kind, ValueError)


def test_callers_get_value_errors() -> None:
    places = []
    for source in SOURCES:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                if is_other_error(dotted_name(raised)):
                    places.append(source.place(node.lineno, f"raises {dotted_name(raised)}"))
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    if is_other_error(dotted_name(base)):
                        places.append(source.place(node.lineno, f"{node.name} is no ValueError"))
    report(places)


# Names, sizes, density, docstrings


def test_files_are_short() -> None:
    places = []
    for source in SOURCES:
        if source.lines > MAX_FILE_LINES:
            places.append(source.place(source.lines, f"{source.lines} lines"))
    report(places)


@pytest.mark.parametrize(
    ("count", "most"),
    [
        ("comprehensions", density.MAX_COMPREHENSIONS),
        ("conditionals", density.MAX_CONDITIONALS),
        ("tuple_assignments", density.MAX_TUPLE_ASSIGNMENTS),
    ],
)
def test_source_is_not_dense(count: str, most: float) -> None:
    rooms = density.measure_rooms()
    total = density.add_rooms(rooms)
    if total.per_1000(getattr(total, count)) <= most:
        return
    lines = [f"{count} per 1000 lines, at most {most:g} in all rooms together:"]
    for room, measured in [("all", total), *rooms.items()]:
        value = measured.per_1000(getattr(measured, count))
        if value > most:
            lines.append(f"{room}: {value:.1f}")
    report(lines)


def test_no_room_is_large() -> None:
    rooms = density.measure_rooms()
    total = density.add_rooms(rooms)
    places = []
    for room, measured in rooms.items():
        share = measured.lines / total.lines
        if share > density.MAX_ROOM_SHARE:
            places.append(f"boltzmed/{room}: {share:.1%} of the lines")
    report(places)


STILL_LARGE = {
    "cli/evaluate.py": ("add_evaluate",),
    "cli/reports.py": ("add_reports",),
    "evaluation/scores.py": ("score_target",),
    "networks/boltzformer.py": ("__init__",),
    "networks/decoder.py": ("__init__",),
    "reports/comparison.py": ("compare", "_test_cells"),
    "reports/gallery.py": ("make_gallery",),
    "reports/report.py": ("report_methods", "write_report"),
    "reports/scores.py": ("select_objects",),
    "reports/sections.py": ("make_pairs",),
}
"""Functions that are to be split, or to take an object of options; the list only gets shorter."""


def test_large_functions_give_a_reason() -> None:
    places = []
    for function in density.list_large_functions():
        file = function.path.relative_to(PACKAGE).as_posix()
        if function.what.partition(":")[0] in STILL_LARGE.get(file, ()):
            continue
        path = function.path.relative_to(REPOSITORY).as_posix()
        places.append(f"{path}:{function.line}: {function.what}; say why in a comment above it")
    report(places)


DENSE = '''
def join(first, second, third, fourth, fifth, sixth, seventh, eighth, ninth):
    """Join."""
    left, right = first, second
    return [left if item else right for item in third]
'''


def test_density_counts_what_it_says(tmp_path: Path) -> None:
    counted = density.measure_source(DENSE)
    assert counted == density.Density(5, comprehensions=1, conditionals=1, tuple_assignments=1)
    (tmp_path / "room.py").write_text(DENSE, encoding="utf-8")
    (function,) = density.list_large_functions(tmp_path)
    assert (function.line, function.what) == (2, "join: 9 parameters, at most 8")


@pytest.mark.parametrize(
    "reasoned",
    [
        DENSE.replace("def", "# Nine things are joined.\ndef"),
        DENSE.replace("ninth):", "ninth,  # the last one\n):"),
    ],
    ids=["above", "in the signature"],
)
def test_a_comment_is_a_reason(reasoned: str, tmp_path: Path) -> None:
    (tmp_path / "room.py").write_text(reasoned, encoding="utf-8")
    assert density.list_large_functions(tmp_path) == []


def test_a_note_for_a_linter_is_no_reason(tmp_path: Path) -> None:
    noted = DENSE.replace("ninth):", "ninth):  # noqa: PLR0913")
    (tmp_path / "room.py").write_text(noted, encoding="utf-8")
    assert len(density.list_large_functions(tmp_path)) == 1


def test_names_say_what_they_name() -> None:
    places = []
    for source in SOURCES:
        names = [(1, part) for part in source.module.split(".")]
        for node in ast.walk(source.tree):
            if isinstance(node, Definition):
                names.append((node.lineno, node.name))
        for line, name in names:
            words = {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)}
            if words.intersection(FORBIDDEN_WORDS) or name.endswith(FORBIDDEN_ENDINGS):
                places.append(source.place(line, name))
    report(places)


def test_masks_are_called_prediction_and_reference() -> None:
    """MONAI's ``pred`` and ``label`` stay at its boundary, in the engines."""
    other_names = {"pred", "preds", "gt", "ground_truth", "y_pred", "y_true"}
    places = []
    for source in SOURCES:
        if source.room == "engines":
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.arg) and node.arg in other_names:
                places.append(source.place(node.lineno, f"a parameter named {node.arg}"))
    report(places)


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


OTHER_STYLE = re.compile(
    r"^\s*:(param|type|returns?|rtype|raises)\b"  # reStructuredText fields
    r"|^\s*(Parameters|Returns|Raises)\n\s*---"  # NumPy's underlined sections
    r"|:(func|class|meth|mod|attr|data):`",  # Sphinx roles
    re.M,
)
TYPED_ENTRY = re.compile(
    r"^\s+\w+ \((int|float|str|bool|list|tuple|dict|optional|Tensor|np\.)[^)]*\):", re.M
)


def test_docstrings_are_in_google_style() -> None:
    """Sections with a colon, names in double backticks, types in the signature alone."""
    places = []
    for source in SOURCES:
        for node in ast.walk(source.tree):
            if not isinstance(node, Definition | ast.Module):
                continue
            text = ast.get_docstring(node) or ""
            if OTHER_STYLE.search(text) or TYPED_ENTRY.search(text):
                line = getattr(node, "lineno", 1)
                name = getattr(node, "name", "the module")
                places.append(source.place(line, f"the docstring of {name} is not in Google style"))
    report(places)


def test_public_functions_are_annotated() -> None:
    """Types stand in the signature, so the signature has them all."""
    places = []
    for source in SOURCES:
        for name, node in list_public(source):
            if isinstance(node, ast.ClassDef):
                continue
            untyped = []
            for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
                if argument.annotation is None and argument.arg not in ("self", "cls"):
                    untyped.append(argument.arg)
            if node.returns is None:
                untyped.append("its result")
            if untyped:
                places.append(source.place(node.lineno, f"{name} lacks types: {untyped}"))
    report(places)


# Around the package


def test_bundles_and_datasets_hold_no_python_and_no_images() -> None:
    wrong: list[Path] = []
    for folder in ("bundles", "datasets"):
        wrong.extend((REPOSITORY / folder).rglob("*.py*"))
    for path in (REPOSITORY / "datasets").iterdir():
        if path.suffix not in (".yaml", ".md"):
            wrong.append(path)
    report(path.relative_to(REPOSITORY).as_posix() for path in wrong)


def list_targets(value: Any) -> Iterator[str]:
    """List every name of ours that a config speaks of.

    ``_target_: boltzmed…`` and ``$from boltzmed… import name``.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "_target_" and isinstance(inner, str) and inner.startswith("boltzmed."):
                yield inner
            yield from list_targets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from list_targets(inner)
    elif isinstance(value, str):
        statement = re.match(r"\$from (boltzmed\S*) import (\w+)", value)
        if statement:
            yield f"{statement[1]}.{statement[2]}"


def test_bundles_name_classes_that_exist() -> None:
    places = []
    for path in sorted((REPOSITORY / "bundles").glob("*/configs/*.yaml")):
        for target in list_targets(yaml.safe_load(path.read_text(encoding="utf-8"))):
            module, _, name = target.rpartition(".")
            body = MODULES[module].tree.body if module in MODULES else []
            names = {getattr(node, "name", None) for node in body}
            if name.startswith("_") or name not in names:
                places.append(f"{path.relative_to(REPOSITORY).as_posix()}: {target}")
    report(places)


def test_benchmarks_use_public_names_only() -> None:
    places = []
    for path in sorted((REPOSITORY / "benchmarks").rglob("*.py")):
        source = read_source(path)
        for imported in list_imports(source):
            private = any(part.startswith("_") for part in imported.name.split("."))
            ours = is_among(imported.name, (PACKAGE.name,))
            if (ours and private) or is_among(imported.name, ("tests",)):
                places.append(source.place(imported.line, f"imports {imported.name}"))
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
    ruff = project["tool"]["ruff"]
    assert ruff["line-length"] <= 100
    assert "C901" in ruff["lint"]["select"] and ruff["lint"]["mccabe"]["max-complexity"] <= 10
    assert {"metadata", "options", "tool:pytest", "mypy"} <= set(read_settings())


def test_types_are_strict_but_for_a_list_of_rooms() -> None:
    """A section ``[mypy-boltzmed.ROOM.*]`` of setup.cfg is a room that is not strict yet."""
    settings = read_settings()
    assert settings.getboolean("mypy", "strict")
    assert (PACKAGE / "py.typed").is_file()
    places = []
    for section in settings.sections():
        lax_room = re.fullmatch(r"mypy-boltzmed\.(\w+)\.\*", section)
        if lax_room and lax_room[1] not in ROOMS:
            places.append(f"setup.cfg: [{section}] names no room")
        if section.startswith("mypy-boltzmed") and not lax_room:
            places.append(f"setup.cfg: [{section}] should be [mypy-boltzmed.ROOM.*]")
    report(places)
