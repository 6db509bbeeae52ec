"""A small study scored for two methods, its report, and a browser to open it in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boltzmed.evaluation import score_mask
from boltzmed.reports.comparison import compare
from boltzmed.reports.pictures import PictureFolders
from boltzmed.reports.report import write_report
from boltzmed.reports.scores import read_scores
from boltzmed.reports.summary import summarise
from boltzmed.results import write_results
from boltzmed.volumes import read_volume, write_image, write_mask

EVIL = "<script>document.write(1)</script>"
METHODS = ("boltz & co", EVIL)
CASES = ("case_1", "case_2<b>", "1.2.840.113619.2.55.3")
SHAPE = (40, 48, 6)
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@dataclass(frozen=True)
class SmallReport:
    """Where the tables and the pictures of the small study lie, and its report. The methods' names,
    hostile last.
    """

    folder: Path
    tables: list[Path]
    pictures: PictureFolders
    page: Path
    methods: tuple[str, str] = METHODS


@pytest.fixture(scope="session")
def small_report(tmp_path_factory: pytest.TempPathFactory) -> SmallReport:
    """The second method misses case_1; headers of the images carry words that must not travel."""
    import nibabel

    folder = tmp_path_factory.mktemp("study")
    affine_ras = np.diag([-1.0, -1.0, 3.0, 1.0])
    rows: dict[str, list[Any]] = {method: [] for method in METHODS}
    places = {"images": folder / "images", "references": folder / "references"}
    places |= {method: folder / f"masks_{number}" for number, method in enumerate(METHODS)}
    for number, case in enumerate(CASES):
        reference = np.zeros(SHAPE, np.uint8)
        reference[8:20, 10 + 4 * number : 26, 2:5] = 1
        predictions = {
            METHODS[0]: reference,
            METHODS[1]: np.roll(reference, 20 if number == 0 else 3, 0),
        }
        path = write_image(
            np.full(SHAPE, -500, np.int16), affine_ras, places["images"] / f"{case}.nii.gz"
        )
        named = nibabel.load(path)
        named.header["descrip"] = b"DOE^JANE 1970-01-01"
        nibabel.save(named, path)
        volume = read_volume(path)
        write_mask(reference, volume, places["references"] / f"{case}.nii.gz")
        for method, prediction in predictions.items():
            write_mask(prediction, volume, places[method] / case / "lung-nodule-in-chest-ct.nii.gz")
            identity = {
                "method": method,
                "dataset": "set",
                "patient": f"Jane {number}",
                "case": case,
                "seed": 0,
            }
            identity |= {"target": "nodule", "prompt": "lung nodule in chest CT"}
            rows[method] += score_mask(prediction, reference, affine_ras, identity=identity)
    tables = [folder / f"results_{number}.csv" for number in range(len(METHODS))]
    for path, scored in zip(tables, rows.values(), strict=True):
        write_results(path, scored)
    scores = read_scores(tables)
    pictures = PictureFolders(
        images=places["images"],
        references=places["references"],
        predictions={method: places[method] for method in METHODS},
        window=(-1000.0, 1000.0),
    )
    summary, comparison = summarise(scores.rows, resamples=50), compare(scores.rows, resamples=50)
    page = write_report(scores, summary, comparison, folder / "report", pictures=pictures)
    return SmallReport(folder, tables, pictures, page)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium of this machine, driven by Playwright."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: no browser tests"
    )
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is on the PATH: no browser tests")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", *WEBGL])
        yield browser
        browser.close()
