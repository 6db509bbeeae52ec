"""BiomedParse's 2D layout: `{train, train_mask, train.json, test, test_mask, test.json}`, a PNG
file per slice.

Pictures are `[IMAGE]_[MODALITY]_[SITE].png`, their masks `[IMAGE]_[MODALITY]_[SITE]_[TARGET].png`
with `+` for a space. Slices become volumes again: the number that ends IMAGE is the slice's, and a
case is what is left of IMAGE, with SITE, since a volume may be there in several windows. Slices
without targets were never published, so slices that follow each other need not be neighbours.
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
from boltzmed.masks.dataset_json import read_json
from boltzmed.data.layouts.label_maps import naming_case, refuse_flat, refuse_problem
from boltzmed.errors import InputError
from boltzmed.geometry import flip_lps_ras
from boltzmed.volumes import read_picture
from boltzmed.volumes.nifti import as_volume

_SUBSETS = {"train": "training", "test": "test"}
_MODALITIES = {"CT": "CT", "MRI": "MR"}
_NAME = re.compile(r"(?P<image>.+)_(?P<modality>[^_]+)_(?P<site>[^_]+)\.png")
_NUMBERED = re.compile(r"(.+)_(\d+)")

_SLICES_AFFINE_RAS = flip_lps_ras(np.eye(4))
"""Columns to the patient's left, rows to the back, slices to the head: axial slices come out as the
pictures are.
"""

_MOST_TARGETS = 64
_MOST_COMBINATIONS = 255


class _Slice(NamedTuple):
    """One picture: its number in its volume (None without one), its file's name, and its masks'
    (None: not named).
    """

    number: int | None
    picture: str
    masks: list[str | None]


def list_cases(source: Path, card: DatasetCard) -> list[SourceCase]:
    """The volumes of the card's modality, by name; the pictures of each are in the order of their
    slice numbers.

    Raises:
        ValueError: no such folder, a part of which something is missing, or a JSON file of another
            form.
    """
    cases = []
    for part in _SUBSETS:
        belongings = (part, f"{part}_mask", f"{part}.json")
        missing = [name for name in belongings if not (source / name).exists()]
        if len(missing) < len(belongings):
            if missing:
                raise ValueError(
                    f"{source}: expected {' and '.join(missing)} beside the others, found none;"
                    " copy it"
                )
            cases += _list_part(source, part, card)
        elif part == "test" and not (source / "train").exists():
            raise ValueError(
                f"{source}: expected a folder with train, train_mask and train.json, or the same of"
                " test, found neither; check the path"
            )
    return sorted(cases, key=lambda found: found.case)


def read_case(found: SourceCase, card: DatasetCard) -> LabelledVolume:
    """Reads the pictures and masks of one volume.

    Masks overlap (a kidney is a left kidney, too), so the labels number the combinations of targets
    that occur, and a target's values are the combinations that have it. A target that the volume
    does not show, but others of its part and site do, has none.

    Raises:
        InputError: a file that cannot be read, pictures or masks of different sizes, masks that are
            not 0 and 255, or more combinations of targets than 255. One line that begins with the
            case.
    """
    refuse_problem(found)
    targets = _name_targets(card)
    folder = found.image[0].parent
    json_path = folder.with_suffix(".json")
    with naming_case(found.case, json_path):
        sites = _targets_by_site(json_path, json_path.stat().st_mtime_ns)
    seen = sites.get(_parse(found.image[0].name)["site"], frozenset())
    names = sorted({targets[target] for target in seen if target in targets})
    if len(names) > _MOST_TARGETS:
        raise InputError(
            f"case {found.case}: expected {_MOST_TARGETS} targets at most, received {len(names)}"
        )
    first = _read(found, found.image[0])
    pixels_KHW = np.empty((len(found.image), *first.shape), np.float32)
    labels_KHW = np.zeros(pixels_KHW.shape, np.uint8)
    combinations = {0: 0}  # which targets, a bit each, -> label value
    for k, picture in enumerate(found.image):
        pixels_KHW[k] = _read(found, picture, first.shape)
        bits_HW = np.zeros(first.shape, np.uint64)
        for mask in found.label:
            if (target := _target_of(mask.name, picture.name)) is not None:
                bits_HW[_read_mask(found, mask, first.shape)] |= np.uint64(
                    1 << names.index(targets[target])
                )
        inside_HW = bits_HW > 0
        occurring, which = np.unique(bits_HW[inside_HW], return_inverse=True)
        numbers = [combinations.setdefault(int(bits), len(combinations)) for bits in occurring]
        if len(combinations) > _MOST_COMBINATIONS + 1:
            raise InputError(
                f"case {found.case}: expected {_MOST_COMBINATIONS} combinations of overlapping"
                f" targets at most, received more up to {picture.name}; ask for fewer targets"
            )
        labels_KHW[k][inside_HW] = np.array(numbers, np.uint8)[which]
    meta = {
        "filename_or_obj": str(folder),
        "case": found.case,
        "modality": card.modality,
        "source_format": "pictures",
    }
    image = as_volume(
        pixels_KHW.transpose(2, 1, 0), _SLICES_AFFINE_RAS, {**meta, "stored_dtype": "uint8"}
    )
    refuse_flat(found, image)
    return LabelledVolume(
        image,
        labels_KHW.transpose(2, 1, 0),
        {
            name: tuple(value for bits, value in combinations.items() if bits >> position & 1)
            for position, name in enumerate(names)
        },
        window=(0.0, 255.0),
        has_spacing=False,
        findings=[
            {"slice": _split_number(_parse(picture.name)["image"])[1]} for picture in found.image
        ],
    )


def _list_part(source: Path, part: str, card: DatasetCard) -> list[SourceCase]:
    pictures, masks = source / part, source / f"{part}_mask"
    # A listing each, since a question per file takes minutes on a network's disk.
    present = set(os.listdir(pictures)), set(os.listdir(masks))
    targets = _name_targets(card)
    volumes: dict[str, list[_Slice]] = defaultdict(list)
    cases = []
    for picture, masks_of in _read_index(source / f"{part}.json").items():
        name = _NAME.fullmatch(picture)
        if name is None:
            case = picture.removesuffix(".png")
            problem = (
                f"case {case}: expected a picture named IMAGE_MODALITY_SITE.png, received"
                f" {picture}; rename it"
            )
            cases.append(
                SourceCase(case, (pictures / picture,), (), _SUBSETS[part], problem=problem)
            )
        elif _MODALITIES.get(name["modality"]) == card.modality:
            volume, number = _split_number(name["image"])
            volumes[f"{volume}_{name['site']}"].append(_Slice(number, picture, masks_of))
    for case, unordered in volumes.items():
        slices = sorted(
            unordered, key=lambda one: (-1 if one.number is None else one.number, one.picture)
        )
        reason = _find_problem(slices, present, targets, card)
        cases.append(
            SourceCase(
                case,
                tuple(pictures / one.picture for one in slices),
                tuple(
                    masks / mask
                    for one in slices
                    for mask in sorted({file for file in one.masks if file})
                ),
                _SUBSETS[part],
                # The same volume in another window is the same patient.
                patient=card.cases.patient_of(case.rpartition("_")[0]),
                problem=reason and f"case {case}: {reason}",
            )
        )
    return cases


def _find_problem(
    slices: list[_Slice],
    present: tuple[set[str], set[str]],
    targets: Mapping[str, str],
    card: DatasetCard,
) -> str | None:
    """Why a volume cannot be read, the first reason found."""
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
            target = _target_of(mask, one.picture)
            if target is None:
                return (
                    f"expected a mask named after {one.picture} and its target, received {mask};"
                    " rename it"
                )
            if target not in targets:
                return (
                    f"expected a target of card {card.name} ({', '.join(card.targets)}), received"
                    f" {target!r} in {mask}"
                )
    return None


def _read_index(path: Path) -> dict[str, list[str | None]]:
    """Picture -> its masks, as a part's JSON file has them; ValueError if it is of another form."""
    content = read_json(path)
    pictures: dict[Any, str] = {}
    masks: dict[str, list[str | None]] = {}
    try:
        for image in content["images"]:
            number, picture = image["id"], _plain_name(image["file_name"])
            if number in pictures or picture in masks:
                raise ValueError(f"two images are {number!r} or {picture}")
            pictures[number], masks[picture] = picture, []
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


@lru_cache(maxsize=4)
def _targets_by_site(path: Path, _modified_ns: int) -> Mapping[str, frozenset[str]]:
    """Site -> what is annotated there anywhere in a part; kept, since every case of the part asks."""
    sites: dict[str, set[str]] = defaultdict(set)
    for picture, masks in _read_index(path).items():
        if name := _NAME.fullmatch(picture):
            sites[name["site"]].update(
                target for mask in masks if mask and (target := _target_of(mask, picture))
            )
    return {site: frozenset(targets) for site, targets in sites.items()}


def _name_targets(card: DatasetCard) -> dict[str, str]:
    """What masks may be called -> the card's target: its names, any of its phrasings; a name is
    nobody else's.
    """
    phrasings = {
        phrasing: target.name for target in card.targets.values() for phrasing in target.phrasings
    }
    names = {
        normalise_prompt(name): t.name
        for t in card.targets.values()
        for name in (*t.published_names, t.name)
    }
    return phrasings | names


def _target_of(mask: str, picture: str) -> str | None:
    """What a mask shows, as prompts are compared; None for another picture's mask."""
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


def _read(found: SourceCase, path: Path, shape: Iterable[int] | None = None) -> NDArray[np.uint8]:
    with naming_case(found.case, path):
        pixels = read_picture(path)
    if shape is not None and pixels.shape != tuple(shape):
        raise InputError(
            f"case {found.case}: expected pictures and masks of {tuple(shape)} pixels, received"
            f" {pixels.shape} in {path.name}; make them of one size"
        )
    return pixels


def _read_mask(found: SourceCase, path: Path, shape: Iterable[int]) -> NDArray[np.bool_]:
    pixels = _read(found, path, shape)
    inside = pixels == 255
    if not (inside | (pixels == 0)).all():
        value = int(pixels[~inside & (pixels > 0)].flat[0])
        raise InputError(
            f"case {found.case}: expected a mask of 0 and 255, received {value} in {path.name}"
        )
    return inside
