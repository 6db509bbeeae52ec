"""The least that a nodule's crop gives away: ``python -m benchmarks.threshold --cache CACHE
--output DIR``.

A nodule is what is brighter than a threshold in the crop's middle and hangs together at its centre.
Threshold and middle are those with the best mean Dice on the training part; ``DIR/results.csv`` has
the test part's rows, as `benchmarks.dynunet` writes them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label
from tqdm import tqdm

from benchmarks.dynunet import score_studies
from boltzmed.data.cache import SliceCache
from boltzmed.data.studies import open_labelled_studies
from boltzmed.files import check_writable
from boltzmed.metrics.overlap import dice

THRESHOLDS_HU = range(-800, -299, 50)
SHARES = (0.3, 0.4, 0.5, 1.0)
"""Of the crop's width: how far from its axis a nodule may reach, so that walls and vessels are cut
off.
"""


def segment_centre(voxels_hu: NDArray, threshold_hu: float, share: float) -> NDArray[np.bool_]:
    """The component above the threshold that holds the central voxel or, else, comes closest to it.

    Args:
        voxels_hu: Rows, columns, slices.
        share: Only voxels within an upright ellipse of this share of the rows and columns count.
    """
    rows, columns = (2 * (np.arange(side) + 0.5) / side - 1 for side in voxels_hu.shape[:2])
    inside = rows[:, None] ** 2 + columns[None] ** 2 <= share**2
    components, count = label((voxels_hu > threshold_hu) & inside[..., None])
    if not count:
        return np.zeros(voxels_hu.shape, bool)
    centre = tuple(side // 2 for side in voxels_hu.shape)
    if not components[centre]:
        nearest = distance_transform_edt(
            components == 0, return_distances=False, return_indices=True
        )
        centre = tuple(nearest[(slice(None), *centre)])
    return components == components[centre]


def main() -> None:
    """Chooses threshold and middle, then scores."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument(
        "--cache", required=True, metavar="DIR", help="of crops around nodules in CT"
    )
    parser.add_argument("--output", required=True, metavar="DIR")
    options = parser.parse_args()
    cache, output = SliceCache.open(options.cache), Path(options.output)
    if cache.card.modality != "CT" or len(cache.card.targets) != 1:
        parser.error(f"{options.cache}: expected CT with one target, found {cache.card.name}")
    check_writable(output)
    opened = {"caches": options.cache, "card": cache.card, "plane": cache.plane}
    training: Any = open_labelled_studies(**opened, part="train")
    tried, scores = list(product(THRESHOLDS_HU, SHARES)), []
    for index in tqdm(range(len(training)), desc="threshold"):
        voxels_hu, reference = read_crop(training[index])
        scores.append([dice(segment_centre(voxels_hu, *one), reference) for one in tried])
    means = np.nanmean(np.array(scores, dtype=float), axis=0)
    threshold_hu, share = tried[int(means.argmax())]
    print(
        f"above {threshold_hu} HU within {share:g}: mean Dice of {len(scores)} training volumes"
        f" {means.max():.3f}"
    )
    score_studies(
        open_labelled_studies(**opened, part="test"),
        lambda study: {
            study["prompts"][0].target: segment_centre(read_crop(study)[0], threshold_hu, share)
        },
        method="HU threshold, centre component",
        seed=0,
        plane=cache.plane,
        path=output / "results.csv",
    )


def read_crop(study: Mapping[str, Any]) -> tuple[NDArray, NDArray]:
    """A study's HU and the mask of its target."""
    voxels_hu = np.asarray(study["image"])[0]
    return voxels_hu, study["study"].reference(study["prompts"][0].target)


if __name__ == "__main__":
    main()
