"""BiomedParse's 2D layout: ``{train, train_mask, train.json}`` and the same of ``test``.

Every slice is a PNG file. Pictures are ``[IMAGE]_[MODALITY]_[SITE].png``, their masks
``[IMAGE]_[MODALITY]_[SITE]_[TARGET].png`` with ``+`` for a space. Slices become volumes again: the
number that ends IMAGE is the slice's, and a case is what is left of IMAGE, with SITE, since a
volume may be there in several windows. Slices without targets were never published, so slices that
follow each other need not be neighbours.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from boltzmed.cards import DatasetCard, normalise_prompt
from boltzmed.data.layouts.case import LabelledVolume, SourceCase
from boltzmed.data.layouts.label_maps import naming_case, refuse_flat, refuse_problem
from boltzmed.errors import InputError
from boltzmed.geometry import flip_lps_ras
from boltzmed.masks.dataset_json import read_json
from boltzmed.volumes import read_picture
from boltzmed.volumes.nifti import as_volume

_SUBSETS = {"train": "training", "test": "test"}
_MODALITIES = {"CT": "CT", "MRI": "MR"}
_NAME = re.compile(r"(?P<image>.+)_(?P<modality>[^_]+)_(?P<site>[^_]+)\.png")
_NUMBERED = re.compile(r"(.+)_(\d+)")

_SLICES_AFFINE_RAS = flip_lps_ras(np.eye(4))
"""Columns to the patient's left, rows to the back, slices to the head.

An axial slice then is its picture as published.
"""

_MOST_TARGETS = 64  # a bit each of a uint64
_MOST_COMBINATIONS = 255  # a label value each, besides 0


class _Slice(NamedTuple):
    """One picture of a volume.

    Attributes:
        number: of the slice in its volume, None where its name has none.
        picture: the file's name.
        masks: names of its masks' files, None for an annotation that names none.
    """

    number: int | None
    picture: str
    masks: list[str | None]


def list_cases(source: Path, card: DatasetCard) -> list[SourceCase]:
    """List the volumes of the card's modality, by name; their pictures in the order of the slices.

    Raises:
        ValueError: no such folder, a part of which something is missing, or a JSON file of another
            form.
    """
    cases = []
    has_parts = False
    for part in _SUBSETS:
        names = (part, f"{part}_mask", f"{part}.json")
        missing = [name for name in names if not (source / name).exists()]
        if len(missing) == len(names):
            continue
        has_parts = True
        if missing:
            raise ValueError(
                f"{source}: expected {' and '.join(missing)} beside the others, found none; copy it"
            )
        cases += _list_part(source, part, card)
    if not has_parts:
        raise ValueError(
            f"{source}: expected a folder with train, train_mask and train.json, or the same of"
            " test, found neither; check the path"
        )
    return sorted(cases, key=lambda case: case.case)


def read_case(case: SourceCase, card: DatasetCard) -> LabelledVolume:
    """Read the pictures and masks of one volume.

    Masks overlap (a kidney is a left kidney, too), so the labels number the combinations of targets
    that occur, and a target's values are the combinations that have it. A target that the volume
    does not show, but others of its part and site do, has none.

    Raises:
        InputError: a file that cannot be read, pictures or masks of different sizes, masks that are
            not 0 and 255, or more combinations of targets than 255. One line that begins with the
            case.
    """
    refuse_problem(case)
    names = _name_targets(card)
    targets = _list_targets(case, names)
    folder = case.image[0].parent
    first = _read(case, case.image[0])
    pixels_KHW = np.empty((len(case.image), *first.shape), np.float32)
    labels_KHW = np.zeros(pixels_KHW.shape, np.uint8)
    combinations = {0: 0}  # which targets, a bit each, -> label value
    for k, picture in enumerate(case.image):
        pixels_KHW[k] = _read(case, picture, first.shape)
        bits_HW = np.zeros(first.shape, np.uint64)
        for mask in case.label:
            name = _target_of(mask.name, picture.name)
            if name is not None:
                target_bit = np.uint64(1 << targets.index(names[name]))
                bits_HW[_read_mask(case, mask, first.shape)] |= target_bit
        _number_combinations(case, picture, bits_HW, combinations, labels_KHW[k])
    meta = {
        "filename_or_obj": str(folder),
        "case": case.case,
        "modality": card.modality,
        "source_format": "pictures",
        "stored_dtype": "uint8",
    }
    image = as_volume(pixels_KHW.transpose(2, 1, 0), _SLICES_AFFINE_RAS, meta)
    refuse_flat(case, image)
    values = {}
    for position, target in enumerate(targets):
        with_target = [value for bits, value in combinations.items() if bits >> position & 1]
        values[target] = tuple(with_target)
    findings = []
    for picture in case.image:
        _, number = _split_number(_parse(picture.name)["image"])
        findings.append({"slice": number})
    return LabelledVolume(
        image,
        labels_KHW.transpose(2, 1, 0),
        values,
        window=(0.0, 255.0),
        has_spacing=False,
        findings=findings,
    )


def _list_targets(case: SourceCase, names: Mapping[str, str]) -> list[str]:
    """Return the card's targets that a case's part shows at its site, sorted."""
    json_path = case.image[0].parent.with_suffix(".json")
    with naming_case(case.case, json_path):
        names_by_site = _read_names_by_site(json_path, json_path.stat().st_mtime_ns)
    site = _parse(case.image[0].name)["site"]
    targets = {names[name] for name in names_by_site.get(site, ()) if name in names}
    if len(targets) > _MOST_TARGETS:
        raise InputError(
            f"case {case.case}: expected {_MOST_TARGETS} targets at most, received {len(targets)}"
        )
    return sorted(targets)


def _number_combinations(
    case: SourceCase,
    picture: Path,
    bits_HW: NDArray[np.uint64],
    combinations: dict[int, int],
    labels_HW: NDArray[np.uint8],
) -> None:
    """Write the label value of each pixel's combination of targets; number those that are new."""
    inside_HW = bits_HW > 0
    occurring, which = np.unique(bits_HW[inside_HW], return_inverse=True)
    numbers = [combinations.setdefault(int(bits), len(combinations)) for bits in occurring]
    if len(combinations) > _MOST_COMBINATIONS + 1:
        raise InputError(
            f"case {case.case}: expected {_MOST_COMBINATIONS} combinations of overlapping targets"
            f" at most, received more up to {picture.name}; ask for fewer targets"
        )
    labels_HW[inside_HW] = np.array(numbers, np.uint8)[which]


def _list_part(source: Path, part: str, card: DatasetCard) -> list[SourceCase]:
    pictures = source / part
    masks = source / f"{part}_mask"
    # A listing each, since a question per file takes minutes on a network's disk.
    present = (set(os.listdir(pictures)), set(os.listdir(masks)))
    names = _name_targets(card)
    volumes: dict[str, list[_Slice]] = defaultdict(list)
    cases = []
    for picture, picture_masks in _read_index(source / f"{part}.json").items():
        parsed = _NAME.fullmatch(picture)
        if parsed is None:
            case = picture.removesuffix(".png")
            problem = (
                f"case {case}: expected a picture named IMAGE_MODALITY_SITE.png, received"
                f" {picture}; rename it"
            )
            cases.append(
                SourceCase(case, (pictures / picture,), (), _SUBSETS[part], problem=problem)
            )
        elif _MODALITIES.get(parsed["modality"]) == card.modality:
            volume, number = _split_number(parsed["image"])
            volumes[f"{volume}_{parsed['site']}"].append(_Slice(number, picture, picture_masks))
    for case, slices in volumes.items():
        slices.sort(key=_slice_order)
        reason = _find_problem(slices, present, names, card)
        mask_files: list[Path] = []
        for one in slices:
            # A mask is annotated once per phrasing of its target.
            mask_files += [masks / mask for mask in sorted(set(filter(None, one.masks)))]
        cases.append(
            SourceCase(
                case,
                tuple(pictures / one.picture for one in slices),
                tuple(mask_files),
                _SUBSETS[part],
                # The same volume in another window is the same patient.
                patient=card.cases.patient_of(case.rpartition("_")[0]),
                problem=None if reason is None else f"case {case}: {reason}",
            )
        )
    return cases


def _slice_order(one: _Slice) -> tuple[int, str]:
    return -1 if one.number is None else one.number, one.picture


def _find_problem(
    slices: list[_Slice],
    present: tuple[set[str], set[str]],
    names: Mapping[str, str],
    card: DatasetCard,
) -> str | None:
    """Return the first reason why a volume cannot be read, None where there is none.

    Args:
        slices: the volume's, sorted.
        present: the files of the folder of pictures and of that of masks.
        names: what masks may be called, see ``_name_targets``.
        card: the data set's card.
    """
    pictures, masks = present
    repeated = Counter(one.number for one in slices)
    for one in slices:
        if repeated[one.number] > 1:
            return (
                f"expected one picture of each slice, received several of slice {one.number}, such"
                f" as {one.picture}"
            )
        if one.picture not in pictures:
            return f"expected picture {one.picture}, found nothing there; copy it again"
        for mask in one.masks:
            if mask is None:
                return (
                    f"expected a mask_file in every annotation, found none in one of {one.picture}"
                )
            if mask not in masks:
                return f"expected mask {mask}, found nothing there; copy it again"
            name = _target_of(mask, one.picture)
            if name is None:
                return (
                    f"expected a mask named after {one.picture} and its target, received {mask};"
                    " rename it"
                )
            if name not in names:
                return (
                    f"expected a target of card {card.name} ({', '.join(card.targets)}), received"
                    f" {name!r} in {mask}"
                )
    return None


def _read_index(path: Path) -> dict[str, list[str | None]]:
    """Return picture -> its masks as a part's JSON has them; ValueError if it has another form."""
    content = read_json(path)
    pictures: dict[Any, str] = {}
    masks: dict[str, list[str | None]] = {}
    try:
        for image in content["images"]:
            number = image["id"]
            picture = _plain_name(image["file_name"])
            if number in pictures or picture in masks:
                raise ValueError(f"two images are {number!r} or {picture}")
            pictures[number] = picture
            masks[picture] = []
        for annotation in content["annotations"]:
            file = annotation.get("mask_file")
            masks[pictures[annotation["image_id"]]].append(_plain_name(file) if file else None)
    except KeyError as error:
        raise ValueError(
            f"{path.name}: expected images and annotations that belong together, {error} is missing"
        ) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path.name}: expected images and annotations as BiomedParse has them, {error}"
        ) from error
    return masks


def _plain_name(file: Any) -> str:
    if not isinstance(file, str) or Path(file).name != file:
        raise ValueError(f"received {file!r} for a file's name")
    return file


# Kept, since every case of a part needs it; the time of modification tells a file that changed.
@lru_cache(maxsize=4)
def _read_names_by_site(path: Path, _modified_ns: int) -> Mapping[str, frozenset[str]]:
    """Return site -> names of what is annotated there anywhere in a part."""
    names: dict[str, set[str]] = defaultdict(set)
    for picture, masks in _read_index(path).items():
        parsed = _NAME.fullmatch(picture)
        if parsed is None:
            continue
        for mask in filter(None, masks):
            name = _target_of(mask, picture)
            if name is not None:
                names[parsed["site"]].add(name)
    return {site: frozenset(site_names) for site, site_names in names.items()}


def _name_targets(card: DatasetCard) -> dict[str, str]:
    """Return what masks may be called -> the card's target: its names, or any of its phrasings."""
    targets = {}
    for target in card.targets.values():
        for phrasing in target.phrasings:
            targets[phrasing] = target.name
    # Last, so that a target's name is no phrasing of another.
    for target in card.targets.values():
        for name in (*target.published_names, target.name):
            targets[normalise_prompt(name)] = target.name
    return targets


def _target_of(mask: str, picture: str) -> str | None:
    """Return what a mask shows, as ``normalise_prompt`` writes it; None for another picture's."""
    start = picture.removesuffix("png").removesuffix(".") + "_"
    if not mask.startswith(start) or not mask.endswith(".png"):
        return None
    return normalise_prompt(mask[len(start) : -len(".png")].replace("+", " ")) or None


def _parse(picture: str) -> re.Match[str]:
    name = _NAME.fullmatch(picture)
    assert name is not None, "listed by this name"
    return name


def _split_number(image: str) -> tuple[str, int | None]:
    match = _NUMBERED.fullmatch(image)
    return (match[1], int(match[2])) if match else (image, None)


def _read(case: SourceCase, path: Path, shape: Iterable[int] | None = None) -> NDArray[np.uint8]:
    with naming_case(case.case, path):
        pixels = read_picture(path)
    if shape is not None and pixels.shape != tuple(shape):
        raise InputError(
            f"case {case.case}: expected pictures and masks of {tuple(shape)} pixels, received"
            f" {pixels.shape} in {path.name}; make them of one size"
        )
    return pixels


def _read_mask(case: SourceCase, path: Path, shape: Iterable[int]) -> NDArray[np.bool_]:
    pixels = _read(case, path, shape)
    inside: NDArray[np.bool_] = pixels == 255
    if not (inside | (pixels == 0)).all():
        value = int(pixels[~inside & (pixels > 0)].flat[0])
        raise InputError(
            f"case {case.case}: expected a mask of 0 and 255, received {value} in {path.name}"
        )
    return inside
