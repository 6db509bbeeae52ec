"""The worst cases: numbers, thumbnails, volumes for the viewer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from boltzmed.errors import InputError
from boltzmed.reports.failures import choose_slice, choose_worst, draw_thumbnails
from boltzmed.reports.names import ShownNames
from boltzmed.reports.page import FailureCase
from boltzmed.reports.pictures import CasePicture, PictureFolders, ScoredObject
from boltzmed.reports.viewer import embed_case

NO_PICTURE = (
    "No picture: the image, the reference or a mask is missing, damaged or on another grid."
)
_CASE = ("dataset", "case", "target")
_FIXED_MEGABYTES = 4.0  # NiiVue, tables and figures
_THUMBNAILS_MEGABYTES = 0.3  # of one case


@dataclass
class Gallery:
    """What the page shows of single cases.

    Attributes:
        failures: The worst, with thumbnails where pictures were found.
        volumes: Of `embed_case`, for the viewer.
        notes: Why something isn't shown.
    """

    failures: list[FailureCase] = field(default_factory=list)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def make_gallery(
    pairs: pd.DataFrame,
    colours: Mapping[str, str],
    folders: PictureFolders,
    names: ShownNames,
    *,
    scale: float,
    worst: int,
    cases: Collection[tuple[str, str]],
    viewed: int,
    page_megabytes: float,
    report: Callable[[str], None] | None = None,
) -> Gallery:
    """Show the worst objects of each target, and some cases' volumes.

    Args:
        pairs: Of `pair_scores`, with names as they are shown.
        colours: Of the methods, and of "reference".
        folders: Where pictures lie, by the tables' own names; none are shown without.
        names: What leads from the shown names to those.
        scale: What a score is multiplied by (100 for percent).
        worst: How many objects.
        cases: Which cases' volumes: (data set, case), as they are shown; the worst `viewed` by
            default.
        viewed: See `cases`.
        page_megabytes: What the page may take.
        report: Called with each line on why there is no picture.

    Raises:
        InputError: The pictures of one of `cases` are missing or broken.
    """
    gallery = Gallery()
    places: dict[tuple[str, ...], int] = {}
    methods = [name for name in colours if name != "reference"]
    chosen = [key in cases for key in zip(pairs["dataset"], pairs["case"], strict=True)]
    asked = pairs.loc[chosen].drop_duplicates(list(_CASE))
    room = page_megabytes - _FIXED_MEGABYTES - worst * _THUMBNAILS_MEGABYTES
    megabytes = max(0.5, room / max(1, len(asked) if cases else viewed))

    def show(row: Mapping[Any, Any], picture: CasePicture, index: int) -> None:
        places[_key(row)] = len(gallery.volumes)
        gallery.volumes.append(embed_case(picture, colours, slice_index=index, megabytes=megabytes))

    for row in asked.to_dict("records"):
        picture = _read(folders, names, row, methods)
        show(row, picture, choose_slice(picture, _slice_of(row)))
    for row in choose_worst(pairs, worst).to_dict("records"):
        title, numbers = _describe(row, methods, scale)
        if not folders.given:
            gallery.failures.append(FailureCase(title, numbers))
            continue
        try:
            picture = _read(folders, names, row, methods)
        except InputError as error:
            # What a library or a path says about a file may hold names, which patterns alone do not
            # find.
            gallery.failures.append(FailureCase(title, numbers, NO_PICTURE))
            if report is not None:
                report(f"no picture: {' '.join(str(error).split())}")
            continue
        index = choose_slice(picture, _slice_of(row))
        if _key(row) not in places and not cases and len(gallery.volumes) < viewed:
            show(row, picture, index)
        shown = draw_thumbnails(picture, index, colours)
        note = f"Slice {index} of {len(picture.image)}; the frame is what the other pictures show."
        gallery.failures.append(FailureCase(title, numbers, note, shown, places.get(_key(row))))
    if not folders.given:
        gallery.notes.append(
            "No pictures: --images and --references, or --cache, and --predictions METHOD=DIR say"
            " where they lie."
        )
    without = [
        method for method in methods if names.find_name("method", method) not in folders.predictions
    ]
    if folders.given and without:
        gallery.notes.append(
            f"No masks to show of {', '.join(without)}: --predictions METHOD=DIR says where they"
            " lie."
        )
    return gallery


def _read(
    folders: PictureFolders, names: ShownNames, row: Mapping[Any, Any], methods: Sequence[str]
) -> CasePicture:
    """A picture found by the tables' own names, with the shown ones."""
    dataset, target = (names.find_name(column, row[column]) for column in ("dataset", "target"))
    case = names.find_case(dataset, row["case"])
    own = {names.find_name("method", method): method for method in methods}
    picture = folders.read(
        ScoredObject(dataset, case, target, row["axis"], _slice_of(row), row["prompt"]), list(own)
    )
    predictions = {own[method]: mask for method, mask in picture.predictions.items()}
    return replace(picture, title=", ".join(_key(row)), predictions=predictions)


def _key(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in _CASE)


def _slice_of(row: Mapping[Any, Any]) -> int | None:
    return int(row["slice_index"]) if row["slice_index"] >= 0 else None


def _describe(row: Mapping[Any, Any], methods: Sequence[str], scale: float) -> tuple[str, str]:
    """A heading, and each method's score."""
    where = _slice_of(row)
    title = f"{row['dataset']}: {row['target']}, {row['case']}" + (
        f", slice {where}" if where is not None else ""
    )
    scores = {name: row[f"score:{name}"] for name in methods}
    texts = [
        f"{name} {scale * score:.1f}" if not np.isnan(score) else f"{name} –"
        for name, score in scores.items()
    ]
    return title, ", ".join(texts) + "."
