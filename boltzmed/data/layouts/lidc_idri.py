"""LIDC-IDRI as its publisher ships it: a folder of DICOM series per patient, and XML files of four
readers' outlines.

`LIDC-IDRI/LIDC-IDRI-0001/<study>/<series>/` holds a CT and, as TCIA hands them out, its annotation
file beside it. Where these files lie apart (`LIDC-XML-only/…/158.xml`), the series they name tells
which CT they belong to. Chest radiographs, their annotation files and all other series are passed
over. `lidc_contours` reads an annotation file.

UIDs and headers match files and slices, and go no further: names and messages have what folders and
files are called.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from filecmp import cmp
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boltzmed.cards import DatasetCard
from boltzmed.masks.label_names import labelled_targets
from boltzmed.data.layouts.case import LabelledVolume, SourceCase
from boltzmed.data.layouts.lidc_contours import (
    Mark,
    Region,
    group_regions,
    read_reading,
    read_series_uid,
    take_consensus,
    trace_mark,
)
from boltzmed.errors import InputError
from boltzmed.geometry import spacing_mm, voxel_volume_mm3
from boltzmed.strata import equivalent_diameters_mm
from boltzmed.volumes import list_series, read_identity, read_volume
from boltzmed.volumes.dicom_series import read_source_headers

_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
_NODULE = 1  # the label value of a nodule
_SLICE_TOLERANCE_GAPS = 0.5
"""How far an outline may lie from the slice it names, in slice gaps; beyond this another slice is
nearer.
"""


def list_cases(source: Path, card: DatasetCard) -> list[SourceCase]:
    """The CT series below a folder with their annotation files, sorted by case.

    A case is named after its patient's folder (`LIDC-IDRI-0001`, else the one directly below the
    source), an annotation file without its CT after itself. Cases that would share a name are
    numbered in the order of their paths (`LIDC-IDRI-0132-1`).

    A CT beside exactly one annotation file of a CT is taken to be what this annotates, and no DICOM
    file is opened; `read_case` compares the UIDs. Of any other folder the first DICOM file is.

    Raises:
        ValueError: a card without labels, or neither a CT series nor a CT's annotation file below
            the source.
    """
    labelled_targets(card)
    source = source.resolve()
    folders = {
        Path(folder): sorted(name for name in names if name[0] != ".")
        for folder, _, names in os.walk(source)
        if not any(part[0] == "." for part in Path(folder).relative_to(source).parts)
    }
    readings, broken = _read_annotations(folders)
    series = _find_series(folders, readings)
    places = Counter(series.values())
    annotations: dict[str, list[Path]] = {uid: [] for uid in places}
    alone = dict(broken)
    for path, uid in readings.items():
        if uid in places:
            annotations[uid].append(path)
        else:
            alone[path] = (
                f"{path.name}: expected the CT that it annotates below {source.name}, found no such"
                " series; add the series, or take the file out"
            )
    patients = {folder: _patient(source, folder) for folder in series}
    names = _number_names(patients | {path: path.stem for path in alone})

    cases = [
        SourceCase(names[path], (), (path,), problem=f"case {names[path]}: {problem}")
        for path, problem in alone.items()
    ]
    for folder, uid in series.items():
        files, problem = (
            annotations[uid],
            _pairing_problem(annotations[uid], places[uid], source.name),
        )
        problem = problem and f"case {names[folder]}: {problem}"
        cases.append(
            SourceCase(
                names[folder],
                (folder,),
                tuple(files[:1]),
                patient=patients[folder],
                problem=problem,
            )
        )
    if not cases:
        raise InputError(
            f"{source.name}: expected LIDC-IDRI's folders of DICOM series with their annotation"
            " files, found no CT and no annotation of one; check the path"
        )
    return sorted(cases, key=lambda case: case.case)


def read_case(found: SourceCase, card: DatasetCard) -> LabelledVolume:
    """A CT and the nodules of at least 3 mm that its readers outlined, where they agree.

    The card's layout has two options: `consensus`, the share of the readers who marked a nodule
    that must include a voxel (0.5 by default, exactly half is enough), and `min_readers`, how many
    readers must have marked a nodule (1).

    `findings` has all nodules from feet to head, those left out too: ``{"nodule": 1, "readers": 3,
    "kept": True, "voxels": 310, "volume_mm3": 362.1, "diameter_mm": 8.8, "first_slice": 41,
    "last_slice": 44}``. `kept` says whether the nodule is in the labels: enough readers marked it,
    and they agree on a voxel. Slices are indices along K of the consensus, None where that is
    empty.

    Raises:
        InputError: images or annotation file that cannot be read, that belong to different series,
            or whose slices lie elsewhere; one line that begins with the case.
    """
    consensus, min_readers = card.layout.get("consensus", 0.5), card.layout.get("min_readers", 1)
    folder, path = found.image[0], found.label[0]
    try:
        reading = read_reading(path)
        if reading.series_uid not in [series.uid for series in list_series(folder)]:
            raise InputError(
                f"{path.name}: expected the annotation of the CT series it is paired with, got that"
                " of another; download both again"
            )
        image = read_volume(folder, series_uid=reading.series_uid, modality="CT")
        image.meta["case"] = found.case
        slices = {
            str(header.get("SOPInstanceUID")): k
            for k, header in enumerate(read_source_headers(image))
        }
        affine_ras, shape = np.asarray(image.affine), tuple(image.shape[1:])
        _check_slices(path, reading.marks, slices, affine_ras)
        regions = [trace_mark(mark, slices, shape) for mark in reading.marks]
    except InputError as error:
        raise InputError(f"case {found.case}: {error}") from error

    gap_mm = spacing_mm(affine_ras)
    groups = [
        [regions[n] for n in group] for group in group_regions(regions, shape, gap_mm, gap_mm[2])
    ]
    labels = np.zeros(shape, dtype=np.uint8)
    findings = []
    for number, nodule in enumerate(
        sorted(groups, key=lambda group: _height(group, affine_ras, shape)), start=1
    ):
        voxels = take_consensus(nodule, consensus)
        readers = len({region.reader for region in nodule})
        kept = readers >= min_readers and voxels.size > 0
        if kept:
            labels.reshape(-1)[voxels] = _NODULE
        planes = voxels % shape[2]
        volume_mm3 = voxels.size * float(voxel_volume_mm3(affine_ras))
        findings.append(
            {
                "nodule": number,
                "readers": readers,
                "kept": kept,
                "voxels": int(voxels.size),
                "volume_mm3": round(volume_mm3, 3),
                "diameter_mm": round(float(equivalent_diameters_mm(volume_mm3)), 3),
                "first_slice": int(planes.min()) if voxels.size else None,
                "last_slice": int(planes.max()) if voxels.size else None,
            }
        )
    values = {target.name: target.labels for target in card.targets.values()}
    return LabelledVolume(image, labels, values, findings=findings)


def _read_annotations(
    folders: Mapping[Path, Sequence[str]],
) -> tuple[dict[Path, str], dict[Path, str]]:
    """The annotation files of CTs with the UIDs they name, and the XML files that cannot be read
    with the reason.
    """
    readings, broken = {}, {}
    for path in sorted(
        folder / name for folder, names in folders.items() for name in names if _is_xml(name)
    ):
        try:
            uid = read_series_uid(path)
        except InputError as error:
            broken[path] = str(error)
            continue
        if uid is not None:
            readings[path] = uid
    return readings, broken


def _find_series(
    folders: Mapping[Path, Sequence[str]], readings: Mapping[Path, str]
) -> dict[Path, str]:
    """The folders that hold a CT, sorted, and the UIDs of their series."""
    annotations: dict[Path, list[Path]] = {folder: [] for folder in folders}
    for path in readings:
        annotations[path.parent].append(path)
    series = {}
    for folder, beside in sorted(annotations.items()):
        others = [name for name in folders[folder] if not _is_xml(name)]
        if len(beside) == 1 and any(name.lower().endswith(".dcm") for name in others):
            series[folder] = readings[beside[0]]
        elif (
            others and (identity := read_identity(folder)) is not None and identity.modality == "CT"
        ):
            series[folder] = identity.uid
    return series


def _pairing_problem(files: Sequence[Path], num_folders: int, below: str) -> str | None:
    """Why a CT series in so many folders, and the annotation files that name it, do not make one
    case.
    """
    if not files:
        return (
            f"expected an annotation file of its CT below {below}, no annotation file names its"
            " series; add LIDC's XML"
        )
    if any(not cmp(files[0], other, shallow=False) for other in files[1:]):
        listed = ", ".join(path.name for path in files)
        return (
            f"expected one annotation file of its CT, got {len(files)} that differ ({listed});"
            " keep one"
        )
    if num_folders > 1:
        return (
            f"expected one folder with the CT that {files[0].name} annotates, got {num_folders};"
            " keep one, with its own annotation file"
        )
    return None


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


def _patient(source: Path, folder: Path) -> str:
    """The folder named LIDC-IDRI-dddd on the way, else the one directly below the source, else the
    source.
    """
    below, above = folder.relative_to(source).parts, source.parts
    return next(
        (part for part in (*above, *below) if _PATIENT.fullmatch(part)), (*below, above[-1])[0]
    )


def _number_names(names: Mapping[Path, str]) -> dict[Path, str]:
    """Names that several paths share get -1, -2 in the order of the paths."""
    shared = Counter(names.values())
    given: Counter[str] = Counter()
    numbered = {}
    for path in sorted(names):
        name = names[path]
        given[name] += 1
        numbered[path] = f"{name}-{given[name]}" if shared[name] > 1 else name
    return numbered


def _check_slices(
    path: Path, marks: Sequence[Mark], slices: Mapping[str, int], affine_ras: NDArray[Any]
) -> None:
    """Raises InputError where an outline names no slice of the series, or one at another height
    than its own.
    """
    outlines = [outline for mark in marks for outline in mark.outlines]
    unknown = sum(outline.instance_uid not in slices for outline in outlines)
    if unknown:
        raise InputError(
            f"{path.name}: expected {len(outlines)} outlines on slices of the CT series, got"
            f" {unknown} on others; the file belongs to another series, or slices are missing:"
            " download both again"
        )
    heights_mm = affine_ras[2, 3] + affine_ras[2, 2] * np.arange(len(slices))
    off_mm = [
        abs(o.z_mm - heights_mm[slices[o.instance_uid]]) for o in outlines if o.z_mm is not None
    ]
    limit_mm = _SLICE_TOLERANCE_GAPS * float(spacing_mm(affine_ras)[2])
    if wrong := [distance for distance in off_mm if not distance <= limit_mm]:
        raise InputError(
            f"{path.name}: expected outlines within {limit_mm:g} mm of their slices' positions, got"
            f" {len(wrong)} of {len(outlines)} farther off ({max(wrong):.2f} mm at most); download"
            " both again"
        )


def _height(
    nodule: Sequence[Region], affine_ras: NDArray[Any], shape: tuple[int, ...]
) -> tuple[float, ...]:
    """The nodule's centre as (S, R, A) mm, to sort by from feet to head."""
    extent = np.concatenate([region.extent for region in nodule])
    centre = [
        float(index.mean()) if index.size else 0.0 for index in np.unravel_index(extent, shape)
    ]
    right, anterior, superior = (affine_ras[:3, :3] @ centre + affine_ras[:3, 3]).tolist()
    return superior, right, anterior
