"""A CT phantom of chest and abdomen, made from a seed, that knows every mask.

It is random in anatomy, size, pose, contrast phase, HU, noise, spacing and field of view; left and
right never swap. `anatomy` draws the organs' shapes, `tissue` and `skeleton` paint them in HU,
`vessels` and `nodules` fill the lungs, `frame` poses the body, `painting` turns shapes into voxels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from boltzmed.files import check_writable, whole_file
from boltzmed.phantom.anatomy import Anatomy
from boltzmed.phantom.frame import Axes, Frame
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
LOWEST_HU = -1024
HIGHEST_HU = 3071  # of scanners that store 12 bits

# Every purpose has random numbers of its own, by its place in this list: more draws for one of them
# leave the others as they are.
STREAMS = (
    *("anatomy", "pose", "tissue", "texture", "vessels", "nodules"),
    *("plane", "slices", "view", "noise"),
)

Streams = dict[str, np.random.Generator]


@dataclass(frozen=True)
class Nodule:
    """One nodule.

    Attributes:
        centre_ras_mm: its centre, RAS mm.
        diameter_mm: of the sphere of the same volume.
        kind: "solid", "part-solid" or "ground-glass".
        touches: "vessel", "pleura" or "none".
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


class _Scan(NamedTuple):
    """How a phantom is scanned; None is drawn, see `make_phantom`."""

    matrix: int | None
    slice_spacing_mm: float | None
    in_plane_spacing_mm: float | None


class _Pose(NamedTuple):
    """How a body lies, see `Frame`."""

    rotation: NDArray[np.float64]
    scale: NDArray[np.float64]
    waves: NDArray[np.float64]


class _Job(NamedTuple):
    """One phantom to be written."""

    image: Path
    label: Path
    seed: int
    scan: _Scan


def make_phantom(
    seed: int,
    *,
    matrix: int | None = None,
    slice_spacing_mm: float | None = None,
    in_plane_spacing_mm: float | None = None,
) -> Phantom:
    """Make the phantom of a seed.

    The anatomy depends on the seed alone; the arguments change how it is scanned.

    Args:
        seed: a non-negative integer.
        matrix: rows and columns; None draws 384 to 512. A given matrix with drawn spacing keeps the
            drawn field of view, so that a small matrix makes the same picture of larger pixels.
        slice_spacing_mm: None draws 1.5 to 7 mm. Slices are as thick as they are apart.
        in_plane_spacing_mm: None draws 0.6 to 0.95 mm.

    Returns:
        A phantom that reaches from above the lungs to below the kidneys.

    Raises:
        ValueError: an argument is outside its range.
    """
    scan = _Scan(matrix, slice_spacing_mm, in_plane_spacing_mm)
    _check(seed, scan)
    streams = {}
    for number, name in enumerate(STREAMS):
        streams[name] = np.random.default_rng([number, seed])
    anatomy = Anatomy(streams["anatomy"])
    pose = _draw_pose(streams["pose"])
    axes, spacing = _draw_grid(streams, anatomy, pose, scan)
    frame = Frame(axes, spacing, pose.rotation, pose.scale, pose.waves)
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
    """Write phantoms as NIfTI pairs with a MONAI datalist; complete cases are left as they are.

    The datalist names every complete phantom of the folder, those of earlier calls too.

    Args:
        output: folder, made if missing: ``images/phantom_000123.nii``,
            ``labels/phantom_000123.nii``, ``datalist.json``.
        seeds: one phantom each.
        compress: ``.nii.gz`` instead of ``.nii``.
        progress: called with (done, total) after each case; None shows a bar.
        workers: processes to use.
        matrix: see ``make_phantom``.
        slice_spacing_mm: see ``make_phantom``.
        in_plane_spacing_mm: see ``make_phantom``.

    Returns:
        The datalist's path: ``{"training": [{"image", "label", "case", "patient"}]}``, ordered by
        case, paths relative to its folder.

    Raises:
        ValueError: no seeds, a repeated seed, an argument outside its range, or a folder that
            cannot be written.
    """
    folder = Path(output)
    seeds = list(map(int, seeds))
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(
            f"seeds: expected at least one and no repeats, received {len(seeds)} with"
            f" {len(set(seeds))} distinct"
        )
    if workers < 1:
        raise ValueError(f"workers: expected 1 or more, received {workers}")
    scan = _Scan(matrix, slice_spacing_mm, in_plane_spacing_mm)
    for seed in seeds:
        _check(seed, scan)
    check_writable(folder)
    jobs = []
    for seed in seeds:
        name = f"phantom_{seed:06d}{'.nii.gz' if compress else '.nii'}"
        job = _Job(folder / "images" / name, folder / "labels" / name, seed, scan)
        if not (job.image.exists() and job.label.exists()):
            jobs.append(job)
    total = len(seeds)
    done = total - len(jobs)
    with tqdm(total=total, initial=done, desc="phantoms", disable=progress is not None) as bar:
        for _ in _run(jobs, workers):
            done += 1
            bar.update()
            if progress is not None:
                progress(done, total)
    return _write_datalist(folder, suffix=".nii.gz" if compress else ".nii")


def _write_datalist(folder: Path, suffix: str) -> Path:
    """List every complete phantom of a folder; of one in both formats, that of this suffix."""
    by_case: dict[str, dict[str, str]] = {}
    for image in sorted(folder.glob("images/phantom_*.nii*")):
        case = image.name.split(".")[0]
        is_complete = (folder / "labels" / image.name).exists()
        if is_complete and (case not in by_case or image.name == case + suffix):
            by_case[case] = {
                "image": f"images/{image.name}",
                "label": f"labels/{image.name}",
                "case": case,
                "patient": case,
            }
    entries = [by_case[case] for case in sorted(by_case)]
    datalist = folder / "datalist.json"
    with whole_file(datalist) as temporary:
        temporary.write_text(json.dumps({"training": entries}, indent=1) + "\n", encoding="utf-8")
    return datalist


def _run(jobs: list[_Job], workers: int) -> Iterator[None]:
    if workers == 1:
        yield from map(_write_case, jobs)
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(_write_case, jobs)


def _write_case(job: _Job) -> None:
    phantom = make_phantom(job.seed, **job.scan._asdict())
    write_image(phantom.image_hu, phantom.affine_ras, job.image)
    write_image(phantom.labels, phantom.affine_ras, job.label)


def _check(seed: int, scan: _Scan) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed: expected a non-negative integer, received {seed!r}")
    for name, value, low, high in (
        ("matrix", scan.matrix, 32, 1024),
        ("slice_spacing_mm", scan.slice_spacing_mm, 0.5, 10.0),
        ("in_plane_spacing_mm", scan.in_plane_spacing_mm, 0.3, 8.0),
    ):
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name}: expected {low} to {high}, received {value!r}")


def _draw_pose(rng: np.random.Generator) -> _Pose:
    turn = rotation(*np.clip(rng.normal(0, (2.5, 1.5, 4.0)), (-6, -3.5, -9), (6, 3.5, 9)))
    scale = rng.uniform(0.92, 1.08) * rng.uniform(0.97, 1.03, 3)
    waves = np.zeros((5, 7))
    direction = rng.standard_normal((5, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    wavelength = rng.uniform(140, 300, (5, 1))
    waves[:, :3] = rng.normal(0, 2.2, (5, 3))
    waves[:, 3:6] = direction * 2 * np.pi / wavelength
    waves[:, 6] = rng.uniform(0, 2 * np.pi, 5)
    return _Pose(turn, scale, waves)


def _draw_grid(
    streams: Streams, anatomy: Anatomy, pose: _Pose, scan: _Scan
) -> tuple[Axes, tuple[float, float, float]]:
    """Return voxel centres (scanner LPS mm) and spacing (mm) along x, y, z.

    What the scan fixes is drawn all the same, so that the other draws stay what they are.
    """
    plane = streams["plane"]
    view = streams["view"]
    field_mm = float(plane.uniform(330, 440))
    drawn_matrix = int(plane.choice([384, 448, 512], p=[0.15, 0.15, 0.7]))
    size = drawn_matrix if scan.matrix is None else int(scan.matrix)
    spacing = field_mm / size
    if scan.matrix is None:
        spacing = float(np.clip(spacing, 0.6, 0.95))
    if scan.in_plane_spacing_mm is not None:
        spacing = float(scan.in_plane_spacing_mm)
    drawn_gap = float(np.exp(streams["slices"].uniform(np.log(1.5), np.log(7.0))))
    gap = drawn_gap if scan.slice_spacing_mm is None else float(scan.slice_spacing_mm)
    centre_x, centre_y = view.uniform((-18, -10), (18, 26))
    low = anatomy.low_mm * pose.scale[2] + view.uniform(-22, 12)
    high = anatomy.high_mm * pose.scale[2] + view.uniform(2, 18)
    count = int(np.ceil((high - low) / gap))
    from_centre = (np.arange(size) - (size - 1) / 2) * spacing
    axes = (centre_x + from_centre, centre_y + from_centre, low + np.arange(count) * gap)
    return axes, (spacing, spacing, gap)


def _fill_lungs(canvas: Canvas, anatomy: Anatomy, torso: Torso, streams: Streams) -> list[Nodule]:
    """Grow the vessels, place mimics and nodules; return the nodules that reached the volume."""
    rng = streams["vessels"]
    vessel_hu = torso.hu["lung vessel"]
    nodules: list[Nodule] = []
    for side, label in LUNGS.items():
        sign = -1 if side == "right" else 1
        vessel_labels = {label: VESSELS[side]}
        lung = anatomy.shapes[f"{side} lung"]
        box = anatomy.boxes[f"{side} lung"]
        hilum = anatomy.points[f"{side} hilum"]
        trees = []
        for root in (hilum, np.array(beside(hilum, sign * 4, -4, -18))):
            count = int(rng.integers(200, 320))
            targets = draw_points(rng, lung, box, count, -200, -rng.uniform(2, 5))
            tree = grow_tree(rng, root, targets, float(rng.uniform(0.55, 0.9)))
            hu = vessel_hu + rng.uniform(-12, 12)
            canvas.paint_tubes(tree.tubes(hu, vessel_labels, 4.0))
            trees.append(tree)
        over = (label, VESSELS[side])
        for mimic in draw_mimics(rng, lung, box, trees[0], int(rng.integers(2, 9))):
            canvas.paint(mimic.shape, mimic.box, [(0, mimic.hu, None)], 15.0, 2.0, over)
        draw = streams["nodules"]
        count = int(draw.integers(2, 8))
        shapes = draw_nodules(draw, lung, box, trees, count, torso.hu["uptake"])
        if not shapes:
            continue
        centres = canvas.frame.scanner_from_body(np.stack([shape.centre for shape in shapes]))
        for shape, centre in zip(shapes, centres, strict=True):
            for feeder in shape.feeders:
                canvas.paint_tubes(feeder.tubes(vessel_hu, vessel_labels, 4.0))
            nodule_labels = dict.fromkeys(over, NODULES[side])
            if paint_nodule(canvas, shape, centre, nodule_labels):
                ras = (-float(centre[0]), -float(centre[1]), float(centre[2]))
                nodules.append(Nodule(ras, shape.diameter_mm, shape.kind, shape.touches))
    return nodules


def _acquire(
    hu: NDArray[np.float32], spacing: tuple[float, float, float], rng: np.random.Generator
) -> NDArray[np.int16]:
    """Blur by the scanner's point spread and add correlated noise; return int16 HU [K, J, I]."""
    blur = rng.uniform(0.35, 0.75) / spacing[0]
    grain = rng.uniform(0.35, 0.8) / spacing[0]
    level = float(np.exp(rng.uniform(np.log(6), np.log(32))))
    # A sharp kernel suppresses the slow part of the noise, a soft one keeps it.
    sharp = rng.uniform(0.0, 0.7)
    out = np.empty(hu.shape, np.int16)
    for k, plane in enumerate(hu):
        white = rng.standard_normal(plane.shape, dtype=np.float32)
        noise = ndimage.gaussian_filter(white, grain, truncate=3)
        noise -= np.float32(sharp) * ndimage.uniform_filter(noise, 2 * int(3 * grain) + 3)
        noise *= np.float32(level / noise.std())
        picture = ndimage.gaussian_filter(plane, blur, truncate=3) + noise
        out[k] = np.clip(np.rint(picture), LOWEST_HU, HIGHEST_HU)
    return out
