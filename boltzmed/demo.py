"""The whole line on a phantom: study → masks → scores → picture. ``boltzmed demo`` and ``make
demo`` run this.
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
from boltzmed.phantom.study import make_phantom
from boltzmed.reports.contact_sheet import Panel, draw_contact_sheet
from boltzmed.reports.tables import summarise_by_size
from boltzmed.resources import resource_folder
from boltzmed.results import write_results
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
    """Make a phantom, segment its DICOM series by the bundle, score and draw the masks, and say
    where all is.

    Args:
        output: Folder for everything: new, empty, or an earlier demo's, whose files are replaced.
        seed: The phantom's.

    Returns:
        The exit status of the bundle's run, 0 when all went well.

    Raises:
        OutputError: The folder holds something else, or cannot be written.
    """
    output = Path(output)
    series, masks, marker = output / "dicom", output / "masks", output / ".boltzmed-demo"
    check_writable(output)
    if output.exists() and any(output.iterdir()) and not marker.exists():
        raise OutputError(
            f"{output}: expected a new folder, an empty one or an earlier demo's; choose another"
        )
    for folder in (series, masks):
        shutil.rmtree(folder, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    marker.touch()
    print(f"1/4  Making a phantom chest-abdomen CT (seed {seed}) …", flush=True)
    phantom = make_phantom(seed, matrix=384, slice_spacing_mm=5.0)
    write_ct_series(phantom.image_hu, phantom.affine_ras, series, seed=seed)
    write_image(phantom.image_hu, phantom.affine_ras, output / "phantom.nii.gz")
    write_image(phantom.labels, phantom.affine_ras, output / "phantom_labels.nii.gz")

    bundle = resource_folder("bundles") / "boltzformer"
    command = [
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        str(bundle / "configs" / "inference.yaml"),
    ]
    command += [
        "--bundle_root",
        str(bundle),
        "--image",
        str(series),
        "--prompts",
        str(list(PROMPTS)),
    ]
    command += ["--output_dir", str(masks)]
    print("2/4  Segmenting the DICOM series by text, through the MONAI bundle:")
    print(
        "     python " + " ".join(f'"{part}"' if " " in part else part for part in command),
        flush=True,
    )
    status = subprocess.run([sys.executable, *command], check=False).returncode
    if status:
        return status

    print("3/4  Scoring against the phantom's truth …", flush=True)
    card = load_card("phantom")
    case = masks / series.name
    rows, panels = [], []
    plan = SlicePlan.from_affine(phantom.affine_ras, phantom.labels.shape)
    spacing = np.asarray(spacing_mm(phantom.affine_ras))
    for prompt, slug in zip(PROMPTS, slug_prompts(list(PROMPTS)), strict=True):
        target = card.target(str(look_up_prompt(prompt, [card]).target))
        reference = np.isin(phantom.labels, target.labels).astype(np.uint8)
        prediction = map_nifti(case / f"{slug}.nii.gz")[0]
        identity = {
            "method": "boltzformer-tiny",
            "dataset": "phantom",
            "patient": f"phantom_{seed:06d}",
        }
        identity |= {"case": f"phantom_{seed:06d}", "target": target.name, "prompt": prompt}
        scored = score_mask(
            prediction, reference, phantom.affine_ras, identity={**identity, "seed": 0}
        )
        rows += scored
        panels.append(
            Panel(
                title=prompt,
                image=plan.cut(phantom.image_hu),
                window=cast(Window, target.window),  # CT targets have one
                prediction=plan.cut(prediction),
                reference=plan.cut(reference),
                pixel_mm=(float(spacing[plan.axes[1]]), float(spacing[plan.axes[2]])),
                note=f"Dice of the volume {scored[-1].dice or 0:.2f}",
            )
        )
    write_results(output / "results.csv", rows)
    print("\nMean Dice (number of slices) by target and by the object's share of the image:\n")
    print(summarise_by_size(rows))

    print("\n4/4  Drawing …", flush=True)
    sheet = output / "contact_sheet.png"
    draw_contact_sheet(
        panels, sheet, title="Text-prompted masks of a phantom CT (research software)"
    )
    print("\nEverything is in", output.resolve())
    for path, meaning in (
        (sheet, "slice, reference outline and mask of every prompt: look at this one first"),
        (case, "one NIfTI mask per prompt, segmentation.dcm (DICOM SEG of all), run.json"),
        (output / "results.csv", "Dice of every slice and volume"),
        (series, "the phantom as a DICOM series"),
        (
            output / "phantom.nii.gz",
            "the phantom as NIfTI, its truth beside it in phantom_labels.nii.gz",
        ),
    ):
        print(f"  {path.relative_to(output).as_posix():<18} {meaning}")
    return 0
