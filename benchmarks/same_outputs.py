"""Compare outputs with an earlier commit's: ``python -m benchmarks.same_outputs COMMIT``.

The commit is checked out into a temporary folder, and both trees run the same commands in the same
environment with one thread: phantoms, masks by text (phantom as NIfTI, weights of the default and
of ``joint``), an evaluation, a prepared cache, training items, and two epochs of a training. Image
voxels, CSV tables, items and weights have to be equal bit by bit; a line says which are.

With ``--hippocampus FOLDER`` (the Medical Segmentation Decathlon's ``Task04_Hippocampus``) real
cases are segmented, prepared and evaluated as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLE = Path("bundles") / "boltzformer"

ITEMS = """
import hashlib, json, sys
from monai.bundle import ConfigParser
parser = ConfigParser()
parser.read_config(sys.argv[1])
parser.update(json.loads(sys.argv[2]))
dataset = parser.get_parsed_content("train#dataset")
for key in ((0, 0, 0), (0, 7, 0), (1, 3, 0), (2, 11, 0), (3, len(dataset) - 1, 0)):
    item = dataset[key]
    digest = hashlib.sha256()
    for name in ("image", "label", "input_ids", "prompt_valid", "draw_key"):
        digest.update(item[name].contiguous().numpy().tobytes())
    names = [item["case"], int(item["slice_index"]), list(item["target"])]
    print(json.dumps([key, names, digest.hexdigest()]))
"""
"""Hashes of some training items, through the config's own path to them."""


def main() -> None:
    """Run both trees and print what is equal; exit status 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--hippocampus", metavar="FOLDER", help="real cases, too")
    parser.add_argument("--keep", metavar="FOLDER", help="outputs stay there; those of COMMIT are")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.keep or temporary).resolve()
        before = work / "before"
        if not (before / "done").exists():
            checkout = Path(temporary) / "checkout"
            _check_out(options.commit, checkout)
            run_commands(checkout, before, options.hippocampus)
            (before / "done").touch()
        shutil.rmtree(work / "after", ignore_errors=True)
        run_commands(REPOSITORY, work / "after", options.hippocampus)
        sys.exit(compare_folders(before, work / "after"))


def _check_out(commit: str, folder: Path) -> None:
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", commit], cwd=REPOSITORY, check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def run_commands(tree: Path, output: Path, hippocampus: str | None) -> None:
    """Run every command of the comparison with one tree's code, and keep what it writes."""
    output.mkdir(parents=True)
    phantoms = output / "phantoms"
    datalist = phantoms / "datalist.json"
    image = phantoms / "images" / "phantom_000003.nii"

    def python(*arguments: object) -> str:
        return _run_python(tree, *arguments)

    def bundle(config: str, **overrides: object) -> None:
        options = [part for name, value in overrides.items() for part in (f"--{name}", value)]
        configs = BUNDLE / "configs" / config
        python(
            "-m", "monai.bundle", "run", "--config_file", configs, "--bundle_root", BUNDLE, *options
        )

    def boltzmed(*arguments: object) -> None:
        python("-m", "boltzmed.cli", *arguments)

    boltzmed("phantom", "--output", phantoms, "--count", 2, "--first-seed", 3)
    prompts = ("--prompt", "lung nodule in chest CT", "--prompt", "liver in abdomen CT")
    boltzmed("predict", image, *prompts, "--modality", "CT", "--output", output / "masks")
    joint = ("--checkpoint", "joint", "--output", output / "masks_joint")
    boltzmed("predict", image, *prompts, "--modality", "CT", *joint)
    bundle("evaluate.yaml", datalist=datalist, output_dir=output / "evaluated")
    train = {"datalist": str(datalist), "validation_datalist": str(datalist), "workers": 0}
    items = python("-c", ITEMS, BUNDLE / "configs" / "train.yaml", json.dumps(train | _root()))
    (output / "items.txt").write_text(items, encoding="utf-8")
    sizes = {"epochs": 2, "samples_per_epoch": 8, "batch_size": 4, "validation_slices": 8}
    bundle("train.yaml", **train, **sizes, tensorboard=False, output_dir=output / "trained")
    if hippocampus is not None:
        _run_real_cases(boltzmed, bundle, Path(hippocampus), output)


def _root() -> dict[str, str]:
    return {"bundle_root": str(BUNDLE)}


def _run_real_cases(
    boltzmed: Callable[..., None], bundle: Callable[..., None], source: Path, output: Path
) -> None:
    """Segment, prepare, evaluate and score real cases of the hippocampus."""
    cache = output / "cache"
    boltzmed("prepare", "msd_hippocampus", "--source", source, "--cache", cache)
    case = sorted((source / "imagesTr").glob("*.nii.gz"))[0]
    prompts = ("--prompt", "anterior hippocampus in brain MRI")
    settings = ("--checkpoint", "joint", "--card", "msd_hippocampus", "--modality", "MR")
    boltzmed("predict", case, *prompts, *settings, "--output", output / "masks_real")
    joint = {"checkpoint": BUNDLE / "models" / "joint.pt", "size": "tiny_gated"}
    bundle("evaluate.yaml", caches=cache, **joint, output_dir=output / "evaluated_real")


def _run_python(tree: Path, *arguments: object) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def compare_folders(before: Path, after: Path) -> int:
    """Print what differs, and how much of each folder is equal; 1 where something differs."""
    equal: Counter[str] = Counter()
    differing: Counter[str] = Counter()
    for name in sorted({*_list_outputs(before), *_list_outputs(after)}):
        folder = name.partition("/")[0]
        paths = (before / name, after / name)
        if all(path.exists() for path in paths) and len(set(map(digest_output, paths))) == 1:
            equal[folder] += 1
        else:
            differing[folder] += 1
            print(f"DIFFERS {name}")
    for folder in sorted({*equal, *differing}):
        print(f"{folder:16} {equal[folder]:4} equal, {differing[folder]} differ")
    return 1 if differing else 0


def _list_outputs(folder: Path) -> Iterator[str]:
    """Yield the files that are compared: images, tables, caches, items and the trained network."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.name.endswith((".nii", ".nii.gz", ".csv", ".safetensors")) or path.name in (
            "items.txt",
            "model.pt",
        ):
            yield name


def digest_output(path: Path) -> str:
    """Return a hash of what a file says: voxels and affine, tensors by name, or bytes."""
    digest = hashlib.sha256()
    if path.name.endswith((".nii", ".nii.gz")):
        image = nibabel.load(path)
        digest.update(np.asanyarray(image.dataobj).tobytes())  # type: ignore[attr-defined]
        digest.update(np.asarray(image.affine).tobytes())  # type: ignore[attr-defined]
    elif path.suffix == ".pt":
        for name, value in sorted(torch.load(path, weights_only=True)["model"].items()):
            digest.update(name.encode())
            digest.update(value.contiguous().numpy().tobytes())
    else:
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
