"""torchvision loads beside any torch, and nothing imports it before `boltzmed.compat`."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NEEDS_TORCHVISION = {"timm", "open_clip", "torchvision"}

MISSING_OPERATOR = "raise RuntimeError('operator torchvision::nms does not exist')"
REPORT = """
import sys
import boltzmed.compat
stand_in = sys.modules['torchvision._meta_registrations']
print(sys.modules['torchvision'].loaded, getattr(stand_in, '__file__', None) is None)
"""


def run_python(code: str, first_on_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter, with a folder before the installed packages if one is
    given.
    """
    path = os.pathsep.join(
        str(folder) for folder in (first_on_path, REPOSITORY) if folder is not None
    )
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )


def write_torchvision(folder: Path, registration: str) -> Path:
    """A torchvision of three files, which imports a submodule, then registers its operators."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from torchvision import extension\nfrom torchvision import _meta_registrations\nloaded ="
        " extension.count()\n"
    )
    (package / "extension.py").write_text(
        "calls = []\ndef count():\n    calls.append(1)\n    return len(calls)\n"
    )
    (package / "_meta_registrations.py").write_text(registration + "\n")
    return folder


def test_matching_builds_are_left_alone(tmp_path: Path) -> None:
    run = run_python(REPORT, write_torchvision(tmp_path, "registered = True"))
    assert run.stdout.split() == ["1", "False"], run.stderr


def test_missing_operators_are_stood_in_for(tmp_path: Path) -> None:
    run = run_python(REPORT, write_torchvision(tmp_path, MISSING_OPERATOR))
    assert run.stdout.split() == ["1", "True"], run.stderr


@pytest.mark.parametrize(
    "registration",
    [
        "raise RuntimeError('no CUDA driver')",
        "raise RuntimeError('file does not exist')",
        "raise ImportError('no PIL')",
    ],
)
def test_other_failures_are_shown(tmp_path: Path, registration: str) -> None:
    run = run_python(REPORT, write_torchvision(tmp_path, registration))
    assert run.returncode != 0
    assert registration.split("'")[1] in run.stderr


@pytest.mark.parametrize(
    "module", ["boltzmed.networks.image_encoder", "boltzmed.networks.text_encoder"]
)
def test_networks_load_in_a_fresh_interpreter(module: str) -> None:
    run = run_python(f"import {module}")
    assert run.returncode == 0, run.stderr


def imported_lines(node: ast.AST) -> list[tuple[int, str]]:
    """(line, full module name) of every import of a file that is ever run, those inside functions
    too.
    """
    if (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    ):
        return []
    if isinstance(node, ast.Import):
        return [(node.lineno, alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return [line for child in ast.iter_child_nodes(node) for line in imported_lines(child)]


def test_compat_is_imported_first() -> None:
    """Sorting imports moves it behind timm and open_clip: `# isort: split` keeps it before them."""
    checked = 0
    for path in REPOSITORY.glob("boltzmed/**/*.py"):
        lines = imported_lines(ast.parse(path.read_text(encoding="utf-8")))
        needing = [line for line, name in lines if name.split(".")[0] in NEEDS_TORCHVISION]
        prepared = [line for line, name in lines if name == "boltzmed.compat"]
        assert not needing or (prepared and min(prepared) < min(needing)), path.name
        checked += bool(needing)
    assert checked >= 2
