"""LIDC-IDRI as published: a folder of DICOM series per patient, and XML files of readers' outlines.

``LIDC-IDRI/LIDC-IDRI-0001/<study>/<series>/`` holds a CT and, as TCIA hands them out, its
annotation file beside it. Where these files lie apart (``LIDC-XML-only/…/158.xml``), the series
they name tells which CT they belong to. Chest radiographs, their annotation files and all other
series are passed over. ``lidc_contours`` reads an annotation file.

UIDs and headers match files and slices, and go no further: names and messages have what folders and
files are called.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from filecmp import cmp
from itertools import filterfalse
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray

from boltzmed.cards import DatasetCard
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
from boltzmed.masks.label_names import labelled_targets
from boltzmed.strata import equivalent_diameters_mm
from boltzmed.volumes import list_series, read_identity, read_volume
from boltzmed.volumes.dicom_series import read_source_headers

_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
_NODULE = 1  # the label value of a nodule
_SLICE_TOLERANCE_GAPS = 0.5
"""How far an outline may lie from its slice, in slice gaps; beyond, another slice is nearer."""


def list_cases(source: Path, card: DatasetCard) -> list[SourceCase]:
    """List the CT series below a folder with their annotation files, sorted by case.

    A case is named after its patient's folder (``LIDC-IDRI-0001``, else the one directly below the
    source), an annotation file without its CT after itself. Cases that would share a name are
    numbered in the order of their paths (``LIDC-IDRI-0132-1``).

    A CT beside exactly one annotation file of a CT is taken to be what this annotates, and no DICOM
    file is opened; ``read_case`` compares the UIDs. Of any other folder the first DICOM file is.

    Raises:
        ValueError: a card without labels, or neither a CT series nor a CT's annotation file below
            the source.
    """
    labelled_targets(card)
    source = source.resolve()
    folders = _list_files(source)
    readings, unpaired = _read_annotations(folders)
    series = _find_series(folders, readings)
    folders_of_series = Counter(series.values())
    annotations: dict[str, list[Path]] = defaultdict(list)
    for path, uid in readings.items():
        if uid in folders_of_series:
            annotations[uid].append(path)
        else:
            unpaired[path] = (
                f"{path.name}: expected the CT that it annotates below {source.name}, found no such"
                " series; add the series, or take the file out"
            )
    patients = {folder: _name_patient(source, folder) for folder in series}
    names = _number_names(patients | {path: path.stem for path in unpaired})
    cases = []
    for path, reason in unpaired.items():
        name = names[path]
        cases.append(SourceCase(name, (), (path,), problem=f"case {name}: {reason}"))
    for folder, uid in series.items():
        files = annotations[uid]
        problem = _describe_pairing(files, folders_of_series[uid], source.name)
        cases.append(
            SourceCase(
                names[folder],
                (folder,),
                tuple(files[:1]),
                patient=patients[folder],
                problem=None if problem is None else f"case {names[folder]}: {problem}",
            )
        )
    if not cases:
        raise InputError(
            f"{source.name}: expected LIDC-IDRI's folders of DICOM series with their annotation"
            " files, found no CT and no annotation of one; check the path"
        )
    return sorted(cases, key=lambda case: case.case)


def read_case(case: SourceCase, card: DatasetCard) -> LabelledVolume:
    """Read a CT and the nodules of at least 3 mm that its readers outlined, where they agree.

    The card's layout has two options: ``consensus``, the fraction of the readers who marked a
    nodule that must include a voxel (0.5 by default, exactly half is enough), and ``min_readers``,
    how many readers must have marked a nodule (1).

    ``findings`` has all nodules from feet to head, those left out too: ``{"nodule": 1, "readers":
    3, "kept": True, "voxels": 310, "volume_mm3": 362.1, "diameter_mm": 8.8, "first_slice": 41,
    "last_slice": 44}``. ``kept`` says whether the nodule is in the labels: enough readers marked
    it, and they agree on a voxel. Slices are indices along K of the consensus, None where that is
    empty.

    Raises:
        InputError: images or annotation file that cannot be read, that belong to different series,
            or whose slices lie elsewhere; one line that begins with the case.
    """
    consensus = card.layout.get("consensus", 0.5)
    min_readers = card.layout.get("min_readers", 1)
    try:
        image, regions = _read_regions(case.image[0], case.label[0])
    except InputError as error:
        raise InputError(f"case {case.case}: {error}") from error
    image.meta["case"] = case.case
    affine_ras = np.asarray(image.affine)
    shape = tuple(image.shape[1:])
    labels = np.zeros(shape, dtype=np.uint8)
    findings = []
    for number, nodule in enumerate(_list_nodules(regions, affine_ras, shape), start=1):
        voxels = take_consensus(nodule, consensus)
        readers = len({region.reader for region in nodule})
        kept = readers >= min_readers and voxels.size > 0
        if kept:
            labels.reshape(-1)[voxels] = _NODULE
        sizes = _measure(voxels, affine_ras, shape)
        findings.append({"nodule": number, "readers": readers, "kept": kept, **sizes})
    values = {target.name: target.labels for target in card.targets.values()}
    return LabelledVolume(image, labels, values, findings=findings)


def _read_regions(folder: Path, path: Path) -> tuple[MetaTensor, list[Region]]:
    """Read a CT and the marks of its annotation file as voxels."""
    reading = read_reading(path)
    if reading.series_uid not in [series.uid for series in list_series(folder)]:
        raise InputError(
            f"{path.name}: expected the annotation of the CT series it is paired with, received"
            " that of another; download both again"
        )
    image = read_volume(folder, series_uid=reading.series_uid, modality="CT")
    slices = {}
    for k, header in enumerate(read_source_headers(image)):
        slices[str(header.get("SOPInstanceUID"))] = k
    _check_slices(path, reading.marks, slices, np.asarray(image.affine))
    shape = tuple(image.shape[1:])
    return image, [trace_mark(mark, slices, shape) for mark in reading.marks]


def _list_nodules(
    regions: Sequence[Region], affine_ras: NDArray[Any], shape: tuple[int, ...]
) -> list[list[Region]]:
    """Return the regions of each nodule, from feet to head."""
    gaps_mm = spacing_mm(affine_ras)
    nodules = []
    # Marks a slice gap apart are of one nodule: a reader may have passed over a slice.
    for group in group_regions(regions, shape, gaps_mm, gaps_mm[2]):
        nodules.append([regions[index] for index in group])
    return sorted(nodules, key=lambda nodule: _height(nodule, affine_ras, shape))


def _measure(
    voxels: NDArray[np.int64], affine_ras: NDArray[Any], shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return the size and the slices of a nodule's consensus as ``findings`` has them."""
    volume_mm3 = voxels.size * float(voxel_volume_mm3(affine_ras))
    slices = voxels % shape[2]
    return {
        "voxels": int(voxels.size),
        "volume_mm3": round(volume_mm3, 3),
        "diameter_mm": round(float(equivalent_diameters_mm(volume_mm3)), 3),
        "first_slice": int(slices.min()) if voxels.size else None,
        "last_slice": int(slices.max()) if voxels.size else None,
    }


def _list_files(source: Path) -> dict[Path, list[str]]:
    """Return folder -> its files by name, below and with the source; hidden ones are left out."""
    folders = {}
    for folder, _, names in os.walk(source):
        parts = Path(folder).relative_to(source).parts
        if not any(map(_is_hidden, parts)):
            folders[Path(folder)] = sorted(filterfalse(_is_hidden, names))
    return folders


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _read_annotations(
    folders: Mapping[Path, Sequence[str]],
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Return CTs' annotation files -> series UID, and XML files that cannot be read -> reason."""
    paths = []
    for folder, names in folders.items():
        paths += [folder / name for name in filter(_is_xml, names)]
    readings = {}
    broken = {}
    for path in sorted(paths):
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
    """Return the folders that hold a CT, sorted -> the UIDs of their series."""
    annotations: dict[Path, list[Path]] = {folder: [] for folder in folders}
    for path in readings:
        annotations[path.parent].append(path)
    series = {}
    for folder, beside in sorted(annotations.items()):
        others = [name for name in folders[folder] if not _is_xml(name)]
        if not others:
            continue
        if len(beside) == 1 and any(name.lower().endswith(".dcm") for name in others):
            series[folder] = readings[beside[0]]
            continue
        identity = read_identity(folder)
        if identity is not None and identity.modality == "CT":
            series[folder] = identity.uid
    return series


def _describe_pairing(files: Sequence[Path], num_folders: int, below: str) -> str | None:
    """Return why a CT series and the annotation files that name it do not make one case.

    Args:
        files: the annotation files that name the series.
        num_folders: how many folders hold the series.
        below: name of the source's folder.
    """
    if not files:
        return (
            f"expected an annotation file of its CT below {below}, no annotation file names its"
            " series; add LIDC's XML"
        )
    for other in files[1:]:
        if not cmp(files[0], other, shallow=False):
            listed = ", ".join(path.name for path in files)
            return (
                f"expected one annotation file of its CT, received {len(files)} that differ"
                f" ({listed}); keep one"
            )
    if num_folders > 1:
        return (
            f"expected one folder with the CT that {files[0].name} annotates, received"
            f" {num_folders}; keep one, with its own annotation file"
        )
    return None


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


def _name_patient(source: Path, folder: Path) -> str:
    """Return the name of the folder on the way to a series that stands for the patient.

    It is the first named LIDC-IDRI-dddd, else the one directly below the source, else the source.
    """
    below = folder.relative_to(source).parts
    for part in (*source.parts, *below):
        if _PATIENT.fullmatch(part):
            return part
    return below[0] if below else source.name


def _number_names(names: Mapping[Path, str]) -> dict[Path, str]:
    """Append -1, -2 in the order of the paths to names that several paths share."""
    occurrences = Counter(names.values())
    last_numbers: Counter[str] = Counter()
    numbered = {}
    for path in sorted(names):
        name = names[path]
        last_numbers[name] += 1
        numbered[path] = f"{name}-{last_numbers[name]}" if occurrences[name] > 1 else name
    return numbered


def _check_slices(
    path: Path, marks: Sequence[Mark], slices: Mapping[str, int], affine_ras: NDArray[Any]
) -> None:
    """Raise InputError where an outline names no slice of the series, or one at another height."""
    heights_mm = affine_ras[2, 3] + affine_ras[2, 2] * np.arange(len(slices))
    limit_mm = _SLICE_TOLERANCE_GAPS * float(spacing_mm(affine_ras)[2])
    outlines = [outline for mark in marks for outline in mark.outlines]
    unknown = 0
    too_far_mm = []
    for outline in outlines:
        if outline.instance_uid not in slices:
            unknown += 1
        elif outline.z_mm is not None:
            off_mm = abs(outline.z_mm - heights_mm[slices[outline.instance_uid]])
            if not off_mm <= limit_mm:  # NaN is too far, too
                too_far_mm.append(off_mm)
    if unknown:
        raise InputError(
            f"{path.name}: expected {len(outlines)} outlines on slices of the CT series, received"
            f" {unknown} on others; the file belongs to another series, or slices are missing:"
            " download both again"
        )
    if too_far_mm:
        raise InputError(
            f"{path.name}: expected outlines within {limit_mm:g} mm of their slices' positions,"
            f" received {len(too_far_mm)} of {len(outlines)} farther off"
            f" ({max(too_far_mm):.2f} mm at most); download both again"
        )


def _height(
    nodule: Sequence[Region], affine_ras: NDArray[Any], shape: tuple[int, ...]
) -> tuple[float, float, float]:
    """Return the nodule's centre as (S, R, A) mm, to sort by from feet to head."""
    extent = np.concatenate([region.extent for region in nodule])
    centre = np.zeros(3)
    if extent.size:
        centre = np.mean(np.unravel_index(extent, shape), axis=1)
    right, anterior, superior = (affine_ras[:3, :3] @ centre + affine_ras[:3, 3]).tolist()
    return superior, right, anterior
