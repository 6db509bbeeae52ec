"""The wheel carries the bundle and the cards, and segments far from any checkout."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
RESOURCES = ("bundles", "datasets")

PHANTOM = """
from boltzmed.phantom.study import make_phantom
from boltzmed.volumes import write_ct_series, write_image
phantom = make_phantom(3, matrix=64, slice_spacing_mm=10.0)
write_image(phantom.image_hu[:, :, :4], phantom.affine_ras, "phantom.nii.gz")
write_ct_series(phantom.image_hu[:, :, :4], phantom.affine_ras, "series", seed=3)
"""
WHERE = """
import boltzmed
from boltzmed.resources import resource_folder
print(boltzmed.__file__, resource_folder("bundles"), resource_folder("datasets"), sep="\\n")
"""


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Runs a command in a folder, without anything of the checkout on its path; returns what it
    printed.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def list_files() -> list[str]:
    """The checkout's files, whether committed yet or not, without what git ignores."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("no git repository, so there is no list of its files")
    names = run(
        "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder=REPOSITORY
    ).split("\0")
    return sorted({name for name in names if name and (REPOSITORY / name).is_file()})


def test_setup_lists_every_package() -> None:
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    listed = settings["options"]["packages"].split()
    folders = {
        file.parent.relative_to(REPOSITORY) for file in (REPOSITORY / "boltzmed").rglob("*.py")
    }
    packages = {".".join(folder.parts) for folder in folders}
    assert sorted(listed) == sorted(packages | {f"boltzmed.{name}" for name in RESOURCES})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the checkout, which stays clean."""
    pytest.importorskip(
        "setuptools", minversion="77", reason="the wheel is built without a network"
    )
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in list_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, source / name)
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", ".", *offline, "--wheel-dir", dist, folder=source)
    (built,) = dist.glob("boltzmed-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel, to be put on PYTHONPATH."""
    target = tmp_path_factory.mktemp("installed")
    offline = ("--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "install", *offline, "--target", target, wheel, folder=target)
    return target


@pytest.mark.slow
def test_the_wheel_holds_the_package_the_bundles_and_the_cards(wheel: Path) -> None:
    files = list_files()
    expected = {name for name in files if name.startswith("boltzmed/")}
    expected |= {
        f"boltzmed/{name}"
        for name in files
        if name.startswith(tuple(f"{kind}/" for kind in RESOURCES))
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert held == expected
        for model in ("bundles/boltzformer/models/model.pt", "bundles/boltzformer/models/joint.pt"):
            assert archive.read(f"boltzmed/{model}") == (REPOSITORY / model).read_bytes()
        licences = {
            name.rpartition("/")[2] for name in archive.namelist() if ".dist-info/licenses/" in name
        }
    assert licences == {"LICENSE", "NOTICE"}


@pytest.mark.slow
def test_the_wheel_segments_far_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    path = {"PYTHONPATH": str(installed)}
    package = (installed / "boltzmed").resolve()
    package_file, *folders = run(sys.executable, "-c", WHERE, folder=tmp_path, **path).split("\n")[
        :3
    ]
    assert Path(package_file).resolve() == package / "__init__.py"
    assert [Path(folder) for folder in folders] == [package / name for name in RESOURCES]

    run(sys.executable, "-c", PHANTOM, folder=tmp_path, **path)
    command = [
        sys.executable,
        "-m",
        "boltzmed.cli",
        "predict",
        "phantom.nii.gz",
        "series",
        "--modality",
        "CT",
    ]
    command += ["--prompt", "liver in abdomen CT", "--prompt", "aorta", "--output", "masks"]
    printed = run(*command, folder=tmp_path, **path).split()
    assert [Path(line) for line in printed] == [Path("masks/phantom"), Path("masks/series")]
    for case in ("phantom", "series"):
        files = {file.name for file in (tmp_path / "masks" / case).iterdir()}
        assert files - {"segmentation.dcm"} == {
            "liver-in-abdomen-ct.nii.gz",
            "aorta.nii.gz",
            "run.json",
        }
        assert ("segmentation.dcm" in files) == (case == "series")


@pytest.mark.slow
def test_an_editable_install_uses_the_checkout(tmp_path: Path) -> None:
    """In an environment of its own, which borrows the other packages of this one."""
    pytest.importorskip(
        "setuptools", minversion="77", reason="the package is built without a network"
    )
    source, environment = tmp_path / "checkout", tmp_path / "environment"
    for name in list_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, source / name)
    run(sys.executable, "-m", "venv", "--without-pip", environment, folder=tmp_path)
    python = next(environment.glob("[bS]*/python*"))
    (packages,) = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=tmp_path
    ).split()
    borrowed = [entry for entry in sys.path if entry.endswith("site-packages")]
    Path(packages, "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        *offline,
        "-e",
        source,
        folder=tmp_path,
    )
    package_file, *folders = run(python, "-c", WHERE, folder=tmp_path).split("\n")[:3]
    assert Path(package_file).resolve() == (source / "boltzmed" / "__init__.py").resolve()
    assert [Path(folder) for folder in folders] == [(source / name).resolve() for name in RESOURCES]
