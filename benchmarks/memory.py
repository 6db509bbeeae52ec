"""Peak memory of segmenting a large study by many prompts: ``python -m benchmarks.memory``.

The study is a phantom whose slices are repeated up to the number asked for. It is segmented twice
by the bundle's inference in a process of its own: as a NIfTI file, which gives NIfTI masks, and as
a DICOM series, which gives a DICOM SEG as well. With ``--full`` every mask covers the whole volume,
which is the most that masks and SEG can ever hold.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from boltzmed.cards import load_card
from boltzmed.phantom.study import make_phantom
from boltzmed.resources import resource_folder
from boltzmed.volumes import write_ct_series, write_image


def write_study(folder: Path, *, matrix: int, slices: int) -> None:
    """Writes ``study.nii`` and the folder ``series``."""
    phantom = make_phantom(910000, matrix=matrix, slice_spacing_mm=5.0)
    count = phantom.image_hu.shape[2]
    image_hu = phantom.image_hu[:, :, np.arange(slices) * count // slices]
    affine_ras = phantom.affine_ras.copy()
    affine_ras[:3, 2] *= count / slices
    write_image(image_hu, affine_ras, folder / "study.nii")
    write_ct_series(image_hu, affine_ras, folder / "series", seed=0)


def measure_peak(command: list[str]) -> tuple[float, float]:
    """Runs a command; returns the peak of its resident memory in GB (1e9 bytes) and its time in
    seconds.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return usage.ru_maxrss * unit / 1e9, time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matrix", type=int, default=512, help="pixels along a slice's side")
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--prompts", type=int, default=15)
    parser.add_argument(
        "--full", action="store_true", help="every voxel in every mask: the upper bound"
    )
    options = parser.parse_args()
    phrasings = [target.prompts for target in load_card("phantom").targets.values()]
    prompts = [prompt for same_rank in zip(*phrasings, strict=False) for prompt in same_rank][
        : options.prompts
    ]
    if len(prompts) < options.prompts:
        parser.error(
            f"--prompts: the phantom's card has {len(prompts)} for it, received {options.prompts}"
        )
    bundle = resource_folder("bundles") / "boltzformer"
    print(
        f"{options.matrix}×{options.matrix}×{options.slices} voxels, {len(prompts)} prompts,"
        f" {platform.machine()}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_study(folder, matrix=options.matrix, slices=options.slices)
        for study, output in (
            ("study.nii", "NIfTI masks"),
            ("series", "NIfTI masks and DICOM SEG"),
        ):
            command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(bundle)]
            command += [
                "--config_file",
                str(bundle / "configs" / "inference.yaml"),
                "--modality",
                "CT",
            ]
            command += ["--image", str(folder / study), "--prompts", str(prompts)]
            command += ["--threshold", "1e-30" if options.full else "0.5"]
            peak_gb, seconds = measure_peak([*command, "--output_dir", str(folder / "masks")])
            print(f"{output:<28}{peak_gb:6.2f} GB at most{seconds:8.0f} s", flush=True)


if __name__ == "__main__":
    main()
