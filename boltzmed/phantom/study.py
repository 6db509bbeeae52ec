"""A CT phantom of chest and abdomen, made from a seed, that knows every mask.

It is random in anatomy, size, pose, contrast phase, HU, noise, spacing and field of view; left and
right never swap. The parts are in ``torso``: ``anatomy`` draws the organs' shapes, ``tissue`` and
``skeleton`` their HU and painting order, ``vessels`` and ``nodules`` fill the lungs, ``frame``
poses the body, ``painting`` turns shapes into voxels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from boltzmed.files import check_writable, whole_file
from boltzmed.phantom.anatomy import Anatomy
from boltzmed.phantom.frame import Frame
from boltzmed.phantom.nodules import draw_mimics, draw_nodules, paint_nodule
from boltzmed.phantom.painting import Canvas
from boltzmed.phantom.shapes import beside, draw_points, rotation
from boltzmed.phantom.tissue import LUNGS, VESSELS, Torso
from boltzmed.phantom.vessels import grow_tree
from boltzmed.volumes import write_image

PHANTOM_LABELS: dict[str, int] = {
    "background": 0,
    "right lung": 1,
    "left lung": 2,
    "right lung vessel": 3,
    "right lung nodule": 4,
    "heart": 5,
    "aorta": 6,
    "liver": 7,
    "spleen": 8,
    "right kidney": 9,
    "left kidney": 10,
    "spine": 11,
    "rib": 12,
    "body": 13,
    "left lung vessel": 14,
    "left lung nodule": 15,
}
NODULES = {"right": 4, "left": 15}
STREAMS = (
    "anatomy",
    "pose",
    "tissue",
    "texture",
    "vessels",
    "nodules",
    "plane",
    "slices",
    "view",
    "noise",
)


@dataclass(frozen=True)
class Nodule:
    """One nodule: centre in RAS mm, volume-equivalent diameter, kind (solid, part-solid,
    ground-glass), neighbour.
    """

    centre_ras_mm: tuple[float, float, float]
    diameter_mm: float
    kind: str
    touches: str


@dataclass(frozen=True)
class Phantom:
    """A phantom CT.

    Attributes:
        seed: what it was made from.
        image_hu: (I, J, K) int16, Hounsfield units from -1024 to 3071.
        labels: (I, J, K) uint8, values of ``PHANTOM_LABELS``.
        affine_ras: (4, 4) float64, voxel index to RAS mm; I runs to the patient's left, J to
            posterior, K to superior.
        nodules: those with at least one voxel in ``labels``.
    """

    seed: int
    image_hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine_ras: NDArray[np.float64]
    nodules: tuple[Nodule, ...]


def make_phantom(
    seed: int,
    *,
    matrix: int | None = None,
    slice_spacing_mm: float | None = None,
    in_plane_spacing_mm: float | None = None,
) -> Phantom:
    """Makes the phantom of a seed.

    The anatomy depends on the seed alone; the arguments change how it is scanned.

    Args:
        seed: a non-negative integer.
        matrix: rows and columns; None draws 384 to 512. A given matrix with drawn spacing keeps the
            drawn field of view, so that a small matrix gives the same picture with larger pixels.
        slice_spacing_mm: None draws 1.5 to 7 mm. Slices are as thick as they are apart.
        in_plane_spacing_mm: None draws 0.6 to 0.95 mm.

    Returns:
        A phantom that reaches from above the lungs to below the kidneys.

    Raises:
        ValueError: an argument is outside its range.
    """
    _check(seed, matrix, slice_spacing_mm, in_plane_spacing_mm)
    streams = {name: np.random.default_rng([n, seed]) for n, name in enumerate(STREAMS)}
    anatomy = Anatomy(streams["anatomy"])
    pose = _draw_pose(streams["pose"])
    axes, spacing = _draw_grid(
        streams, anatomy, pose, matrix, slice_spacing_mm, in_plane_spacing_mm
    )
    frame = Frame(axes, spacing, *pose)
    canvas = Canvas(frame, streams["texture"])
    torso = Torso(canvas, anatomy, streams["tissue"])
    torso.paint()
    nodules = _fill_lungs(canvas, anatomy, torso, streams)
    image = _acquire(canvas.hu, spacing, streams["noise"])
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = (-axes[0][0], -axes[1][0], axes[2][0])
    return Phantom(seed, image.T, canvas.labels.T, affine, tuple(nodules))


def write_phantoms(
    output: str | Path,
    seeds: Iterable[int],
    *,
    compress: bool = False,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
    matrix: int | None = None,
    slice_spacing_mm: float | None = None,
    in_plane_spacing_mm: float | None = None,
) -> Path:
    """Writes phantoms as NIfTI pairs with a MONAI datalist; cases that stand complete are left as
    they are.

    The datalist names every complete phantom of the folder, those of earlier calls too.

    Args:
        output: folder, made if missing: ``images/phantom_000123.nii``,
            ``labels/phantom_000123.nii``, ``datalist.json``.
        seeds: one phantom each.
        compress: ``.nii.gz`` instead of ``.nii``.
        progress: called with (done, total) after each case; None shows a bar.
        workers: processes to use.
        matrix, slice_spacing_mm, in_plane_spacing_mm: see ``make_phantom``.

    Returns:
        The datalist's path: ``{"training": [{"image", "label", "case", "patient"}]}``, ordered by
        case, paths relative to its folder.

    Raises:
        ValueError: no seeds, a repeated seed, an argument outside its range, or a folder that
            cannot be written.
    """
    folder = Path(output)
    seeds = [int(seed) for seed in seeds]
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(
            f"seeds: expected at least one and no repeats, received {len(seeds)} with {len(set(seeds))}"
            " distinct"
        )
    if workers < 1:
        raise ValueError(f"workers: expected 1 or more, received {workers}")
    settings = {
        "matrix": matrix,
        "slice_spacing_mm": slice_spacing_mm,
        "in_plane_spacing_mm": in_plane_spacing_mm,
    }
    for seed in seeds:
        _check(seed, **settings)  # type: ignore[arg-type]
    suffix = ".nii.gz" if compress else ".nii"
    check_writable(folder)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    entries = [_entry(f"phantom_{seed:06d}{suffix}") for seed in seeds]
    todo = [
        (folder / entry["image"], folder / entry["label"], seed, settings)
        for entry, seed in zip(entries, seeds, strict=True)
        if not ((folder / entry["image"]).exists() and (folder / entry["label"]).exists())
    ]
    bar = tqdm(
        total=len(seeds),
        initial=len(seeds) - len(todo),
        desc="phantoms",
        disable=progress is not None,
    )
    done = len(seeds) - len(todo)
    with bar:
        for _ in _run(todo, workers):
            done += 1
            bar.update()
            if progress is not None:
                progress(done, len(seeds))
    standing = [_entry(path.name) for path in folder.glob("images/phantom_*.nii*")]
    by_case = {
        entry["case"]: entry
        for entry in [*standing, *entries]
        if (folder / entry["label"]).exists()
    }
    entries = [by_case[case] for case in sorted(by_case)]
    datalist = folder / "datalist.json"
    with whole_file(datalist) as temporary:
        temporary.write_text(json.dumps({"training": entries}, indent=1) + "\n", encoding="utf-8")
    return datalist


def _entry(file_name: str) -> dict[str, str]:
    case = file_name.split(".")[0]
    return {
        "image": f"images/{file_name}",
        "label": f"labels/{file_name}",
        "case": case,
        "patient": case,
    }


def _run(todo: list[tuple], workers: int) -> Iterable[None]:
    if workers == 1:
        yield from map(_write_case, todo)
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(_write_case, todo)


def _write_case(job: tuple) -> None:
    image_path, label_path, seed, settings = job
    phantom = make_phantom(seed, **settings)
    for path, array in ((image_path, phantom.image_hu), (label_path, phantom.labels)):
        write_image(array, phantom.affine_ras, path)


def _check(
    seed: int, matrix: int | None, slice_spacing_mm: float | None, in_plane_spacing_mm: float | None
) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed: expected a non-negative integer, received {seed!r}")
    for name, value, low, high in (
        ("matrix", matrix, 32, 1024),
        ("slice_spacing_mm", slice_spacing_mm, 0.5, 10.0),
        ("in_plane_spacing_mm", in_plane_spacing_mm, 0.3, 8.0),
    ):
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name}: expected {low} to {high}, received {value!r}")


def _draw_pose(rng: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
    """Rotation (3, 3), size factors (3,) and the waves (n, 7) of the smooth warp."""
    turn = rotation(*np.clip(rng.normal(0, (2.5, 1.5, 4.0)), (-6, -3.5, -9), (6, 3.5, 9)))
    scale = rng.uniform(0.92, 1.08) * rng.uniform(0.97, 1.03, 3)
    waves = np.zeros((5, 7))
    direction = rng.standard_normal((5, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    wavelength = rng.uniform(140, 300, (5, 1))
    waves[:, :3] = rng.normal(0, 2.2, (5, 3))
    waves[:, 3:6] = direction * 2 * np.pi / wavelength
    waves[:, 6] = rng.uniform(0, 2 * np.pi, 5)
    return turn, scale, waves


def _draw_grid(
    streams: dict[str, np.random.Generator],
    anatomy: Anatomy,
    pose: tuple[NDArray, NDArray, NDArray],
    matrix: int | None,
    slice_spacing_mm: float | None,
    in_plane_spacing_mm: float | None,
) -> tuple[tuple[NDArray, NDArray, NDArray], tuple[float, float, float]]:
    """Voxel centres (scanner LPS mm) and spacing."""
    plane = streams["plane"]
    slices = streams["slices"]
    view = streams["view"]
    field_mm = float(plane.uniform(330, 440))
    drawn_matrix = int(plane.choice([384, 448, 512], p=[0.15, 0.15, 0.7]))
    size = drawn_matrix if matrix is None else int(matrix)
    spacing = field_mm / size
    if matrix is None:
        spacing = float(np.clip(spacing, 0.6, 0.95))
    if in_plane_spacing_mm is not None:
        spacing = float(in_plane_spacing_mm)
    gap = (
        float(np.exp(slices.uniform(np.log(1.5), np.log(7.0))))
        if slice_spacing_mm is None
        else float(slice_spacing_mm)
    )
    centre = view.uniform((-18, -10), (18, 26))
    low = anatomy.low_mm * pose[1][2] + view.uniform(-22, 12)
    high = anatomy.high_mm * pose[1][2] + view.uniform(2, 18)
    count = int(np.ceil((high - low) / gap))
    in_plane = [c + (np.arange(size) - (size - 1) / 2) * spacing for c in centre]
    return (in_plane[0], in_plane[1], low + np.arange(count) * gap), (spacing, spacing, gap)


def _fill_lungs(
    canvas: Canvas, anatomy: Anatomy, torso: Torso, streams: dict[str, np.random.Generator]
) -> list[Nodule]:
    """Grows the vessels and places the nodules; returns those that reached the volume."""
    vessels = streams["vessels"]
    draw = streams["nodules"]
    found: list[Nodule] = []
    for side, label in LUNGS.items():
        sign = -1 if side == "right" else 1
        lung = anatomy.shapes[f"{side} lung"]
        box = anatomy.boxes[f"{side} lung"]
        hilum = anatomy.points[f"{side} hilum"]
        trees = []
        for root in (hilum, np.array(beside(hilum, sign * 4, -4, -18))):
            targets = draw_points(
                vessels, lung, box, int(vessels.integers(200, 320)), -200, -vessels.uniform(2, 5)
            )
            trees.append(grow_tree(vessels, root, targets, float(vessels.uniform(0.55, 0.9))))
            hu = torso.hu["lung vessel"] + vessels.uniform(-12, 12)
            canvas.paint_tubes(trees[-1].tubes(hu, {label: VESSELS[side]}, 4.0))
        for mimic in draw_mimics(vessels, lung, box, trees[0], int(vessels.integers(2, 9))):
            canvas.paint(
                mimic.shape, mimic.box, [(0, mimic.hu, None)], 15.0, 2.0, (label, VESSELS[side])
            )
        count = int(draw.integers(2, 8))
        shapes = draw_nodules(draw, lung, box, trees, count, torso.hu["uptake"])
        if not shapes:
            continue
        centres = canvas.frame.scanner_from_body(np.stack([n.centre for n in shapes]))
        for shape, centre in zip(shapes, centres, strict=True):
            for feeder in shape.feeders:
                canvas.paint_tubes(
                    feeder.tubes(torso.hu["lung vessel"], {label: VESSELS[side]}, 4.0)
                )
            mapping = {label: NODULES[side], VESSELS[side]: NODULES[side]}
            if paint_nodule(canvas, shape, centre, mapping):
                ras = (-float(centre[0]), -float(centre[1]), float(centre[2]))
                found.append(Nodule(ras, shape.diameter_mm, shape.kind, shape.touches))
    return found


def _acquire(
    hu: NDArray[np.float32], spacing: tuple[float, float, float], rng: np.random.Generator
) -> NDArray[np.int16]:
    """Blurs by the scanner's point spread and adds correlated noise; returns int16 HU."""
    blur = rng.uniform(0.35, 0.75) / spacing[0]
    grain = rng.uniform(0.35, 0.8) / spacing[0]
    level = float(np.exp(rng.uniform(np.log(6), np.log(32))))
    # A sharp kernel suppresses the slow part of the noise, a soft one keeps it.
    sharp = rng.uniform(0.0, 0.7)
    out = np.empty(hu.shape, np.int16)
    for k, plane in enumerate(hu):
        noise = ndimage.gaussian_filter(
            rng.standard_normal(plane.shape, dtype=np.float32), grain, truncate=3
        )
        noise -= np.float32(sharp) * ndimage.uniform_filter(noise, 2 * int(3 * grain) + 3)
        noise *= np.float32(level / noise.std())
        picture = ndimage.gaussian_filter(plane, blur, truncate=3) + noise
        out[k] = np.clip(np.rint(picture), -1024, 3071)
    return out
