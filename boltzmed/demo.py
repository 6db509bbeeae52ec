"""The whole pipeline on a phantom: study → masks → scores → picture.

``boltzmed demo`` and ``make demo`` run this.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np

from boltzmed.cards import load_card, look_up_prompt
from boltzmed.errors import OutputError
from boltzmed.evaluation import score_mask
from boltzmed.files import check_writable
from boltzmed.geometry import spacing_mm
from boltzmed.phantom.study import Phantom, make_phantom
from boltzmed.reports.contact_sheet import Panel, draw_contact_sheet
from boltzmed.reports.tables import summarise_by_size
from boltzmed.resources import resource_folder
from boltzmed.results import CaseResult, write_results
from boltzmed.slugs import slug_prompts
from boltzmed.transforms.slices import SlicePlan
from boltzmed.transforms.window import Window
from boltzmed.volumes import map_nifti, write_ct_series, write_image

PROMPTS = (
    "lung nodule in chest CT",
    "liver in abdomen CT",
    "spleen in abdomen CT",
    "left kidney in abdominal CT",
    "right kidney in abdominal CT",
    "aorta in chest CT",
    "heart in chest CT",
    "left lung in chest CT",
)
DEMO_SEED = 910000  # the first seed of the card's test part: never trained on


def run_demo(output: str | Path, *, seed: int = DEMO_SEED) -> int:
    """Make a phantom, segment its DICOM series by the bundle, score and draw the masks.

    Args:
        output: folder for everything: new, empty, or an earlier demo's, whose files are replaced.
        seed: the phantom's.

    Returns:
        The exit status of the bundle's run, 0 when all went well.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    output = Path(output)
    _make_room(output)
    print(f"1/4  Making a phantom chest-abdomen CT (seed {seed}) …", flush=True)
    phantom = make_phantom(seed, matrix=384, slice_spacing_mm=5.0)
    series = output / "dicom"
    write_ct_series(phantom.image_hu, phantom.affine_ras, series, seed=seed)
    write_image(phantom.image_hu, phantom.affine_ras, output / "phantom.nii.gz")
    write_image(phantom.labels, phantom.affine_ras, output / "phantom_labels.nii.gz")

    print("2/4  Segmenting the DICOM series by text, through the MONAI bundle:")
    status = _segment(series, output / "masks")
    if status:
        return status

    print("3/4  Scoring against the phantom's ground truth …", flush=True)
    case = output / "masks" / series.name
    rows, panels = _score(phantom, f"phantom_{seed:06d}", case)
    write_results(output / "results.csv", rows)
    print("\nMean Dice (number of slices) by target and by the object's fraction of the image:\n")
    print(summarise_by_size(rows))

    print("\n4/4  Drawing …", flush=True)
    picture = output / "contact_sheet.png"
    title = "Text-prompted masks of a phantom CT (research software)"
    draw_contact_sheet(panels, picture, title=title)
    print("\nEverything is in", output.resolve())
    meanings = {
        picture: "slice, reference outline and mask of every prompt: look at this one first",
        case: "one NIfTI mask per prompt, segmentation.dcm (DICOM SEG of all), run.json",
        output / "results.csv": "Dice of every slice and volume",
        series: "the phantom as a DICOM series",
        output / "phantom.nii.gz": "the phantom as NIfTI, its labels in phantom_labels.nii.gz",
    }
    for path, meaning in meanings.items():
        print(f"  {path.relative_to(output).as_posix():<18} {meaning}")
    return 0


def _make_room(output: Path) -> None:
    """Empty an earlier demo's folder, and refuse one with anything else."""
    marker = output / ".boltzmed-demo"
    check_writable(output)
    if output.exists() and any(output.iterdir()) and not marker.exists():
        raise OutputError(
            f"{output}: expected a new folder, an empty one or an earlier demo's; choose another"
        )
    for name in ("dicom", "masks"):
        shutil.rmtree(output / name, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _segment(series: Path, masks: Path) -> int:
    """Run the bundle on a series, saying by which command; returns its exit status."""
    bundle = resource_folder("bundles") / "boltzformer"
    command = ["-m", "monai.bundle", "run"]
    command += ["--config_file", str(bundle / "configs" / "inference.yaml")]
    command += ["--bundle_root", str(bundle), "--image", str(series)]
    command += ["--prompts", str(list(PROMPTS)), "--output_dir", str(masks)]
    shown = " ".join(f'"{part}"' if " " in part else part for part in command)
    print(f"     python {shown}", flush=True)
    return subprocess.run([sys.executable, *command], check=False).returncode


def _score(phantom: Phantom, name: str, case: Path) -> tuple[list[CaseResult], list[Panel]]:
    """Score every prompt's mask, and make a panel of each for the picture."""
    card = load_card("phantom")
    plan = SlicePlan.from_affine(phantom.affine_ras, phantom.labels.shape)
    spacing = spacing_mm(phantom.affine_ras)
    pixel_mm = (float(spacing[plan.axes[1]]), float(spacing[plan.axes[2]]))
    rows = []
    panels = []
    for prompt, slug in zip(PROMPTS, slug_prompts(list(PROMPTS)), strict=True):
        target = card.target(str(look_up_prompt(prompt, [card]).target))
        reference = np.isin(phantom.labels, target.labels).astype(np.uint8)
        prediction = map_nifti(case / f"{slug}.nii.gz")[0]
        identity = {
            "method": "boltzformer-tiny",
            "dataset": "phantom",
            "patient": name,
            "case": name,
            "target": target.name,
            "prompt": prompt,
            "seed": 0,
        }
        scored = score_mask(prediction, reference, phantom.affine_ras, identity=identity)
        rows += scored
        panels.append(
            Panel(
                title=prompt,
                image=plan.cut(phantom.image_hu),
                window=cast(Window, target.window),  # CT targets have one
                prediction=plan.cut(prediction),
                reference=plan.cut(reference),
                pixel_mm=pixel_mm,
                note=f"Dice of the volume {scored[-1].dice or 0:.2f}",
            )
        )
    return rows, panels
