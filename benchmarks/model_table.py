"""One model beside another on the same cases: ``python -m benchmarks.model_table --results ours=FILE DynUNet=FILE``.

Mean Dice per volume by data set and target, for nodules by the diameter of the sphere of their volume too, then mean
Dice per slice by the target's share of the image where asked. In brackets stands the 95 % interval of a bootstrap that
draws patients; the last column is the first method minus the second, case by case. Where the reference is empty there
is nothing to overlap with, and nothing is counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from boltzmed.reports.tables import align_columns
from boltzmed.results import CaseResult, read_results
from boltzmed.strata import AREA_BINS, DIAMETER_BINS, assign_area_bins, assign_volume_bins

RESAMPLES, SEED = 10_000, 0
DIAMETERS = {"<6 mm": DIAMETER_BINS[:2], DIAMETER_BINS[2]: DIAMETER_BINS[2:3], "≥10 mm": DIAMETER_BINS[3:]}
AREAS = {**{name: (name,) for name in AREA_BINS[:3]}, "≥1 %": AREA_BINS[3:]}
"""Name of a line → the bins that it unites; small nodules and large masses are too few to stand alone."""

Key = tuple[str, str, str, str, int]


def read_methods(given: Sequence[str]) -> dict[str, dict[Key, CaseResult]]:
    """Read NAME=FILE, a name perhaps several times → name → (data set, target, level, case, slice) → row.

    Raises:
        ValueError: A file is no table of results, has a row twice, or methods were scored on other cases or references.
    """
    methods: dict[str, dict[Key, CaseResult]] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ValueError(f"--results: expected NAME=FILE, received {text!r}")
        rows = methods.setdefault(name, {})
        for row in read_results(file):
            key = (row.dataset, row.target, row.level, row.case, -1 if row.slice_index is None else row.slice_index)
            if key in rows:
                raise ValueError(f"{file}: expected each row of {name} once, found {key} again")
            if not row.reference_empty:
                rows[key] = row
    first, *others = methods
    for other in others:
        for key in methods[first].keys() ^ methods[other].keys():
            has = first if key in methods[first] else other
            raise ValueError(f"expected {first} and {other} on the same cases, found {key} of {has} alone")
        for key, row in methods[first].items():
            if not np.isclose(row.volume_mm3 or 0, methods[other][key].volume_mm3 or 0):
                raise ValueError(f"expected {first} and {other} scored by one reference, found two volumes of {key}")
    return methods


def bootstrap_mean(values: NDArray[np.float64], patients: Sequence[str]) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval: percentiles of the means over patients drawn with replacement."""
    _, owner = np.unique(patients, return_inverse=True)
    sums, counts = np.bincount(owner, values), np.bincount(owner)
    share = np.full(len(counts), 1 / len(counts))
    drawn = np.random.default_rng(SEED).multinomial(len(counts), share, size=RESAMPLES)
    low, high = np.percentile(drawn @ sums / (drawn @ counts), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def make_line(methods: dict[str, dict[Key, CaseResult]], keys: list[Key]) -> list[str]:
    """Numbers of rows and patients, each method's mean, and the difference of the first two."""
    rows = [next(iter(methods.values()))[key] for key in keys]
    patients = [row.patient for row in rows]
    scores = [np.array([found[key].dice for key in keys], dtype=np.float64) for found in methods.values()]
    cells = [str(len(keys)), str(len(set(patients)))]
    cells += ["{:.3f} ({:.3f} to {:.3f})".format(*bootstrap_mean(values, patients)) for values in scores]
    if len(scores) > 1:
        cells.append("{:+.3f} ({:+.3f} to {:+.3f})".format(*bootstrap_mean(scores[0] - scores[1], patients)))
    return cells


def make_table(methods: dict[str, dict[Key, CaseResult]], level: str, diameters: Iterable[str]) -> list[list[str]]:
    """One line for each target of each data set; by size for slices, and for the volumes of ``diameters``."""
    names = list(methods)
    difference = [f"{names[0]} − {names[1]}"] if len(names) > 1 else []
    cells = [["data set", "target", "size", f"{level}s", "patients", *names, *difference]]
    rows = {key: row for key, row in methods[names[0]].items() if row.level == level}
    for dataset, target in dict.fromkeys((row.dataset, row.target) for row in rows.values()):
        keys = [key for key, row in rows.items() if (row.dataset, row.target) == (dataset, target)]
        cells.append([dataset, target, "all", *make_line(methods, keys)])
        if level == "slice":
            numbers, bins, groups = assign_area_bins([rows[key].area_fraction or 0 for key in keys]), AREA_BINS, AREAS
        elif dataset in diameters:
            numbers = assign_volume_bins([rows[key].volume_mm3 or 0 for key in keys])
            bins, groups = DIAMETER_BINS, DIAMETERS
        else:
            continue
        for name, united in groups.items():
            if chosen := [key for key, number in zip(keys, numbers, strict=True) if bins[number] in united]:
                cells.append(["", "", name, *make_line(methods, chosen)])
    return cells


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument(
        "--results", nargs="+", required=True, metavar="NAME=FILE", help="a name may come several times"
    )
    parser.add_argument("--diameters", nargs="*", default=["lidc_idri"], metavar="CARD", help="volumes by diameter")
    parser.add_argument("--slices", nargs="*", default=["phantom"], metavar="CARD", help="slices by share of the image")
    options = parser.parse_args()
    try:
        methods = read_methods(options.results)
    except ValueError as error:
        parser.error(str(error))
    for level, kept in (("volume", None), ("slice", options.slices)):
        chosen = {
            name: {key: row for key, row in rows.items() if kept is None or row.dataset in kept}
            for name, rows in methods.items()
        }
        cells = make_table(chosen, level, options.diameters)
        if len(cells) > 1:
            print(align_columns(cells, [heading in ("data set", "target", "size") for heading in cells[0]]), end="\n\n")
    if not any(row.level == "volume" for rows in methods.values() for row in rows.values()):
        parser.error("expected rows of volumes, found slices alone; prepare the cache with --protocol volume")


if __name__ == "__main__":
    main()
