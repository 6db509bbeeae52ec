"""Whether changing the prompt changes the organ: ``python -m benchmarks.prompts --datalist FILE``.

Every target of the phantom's card is asked for in every case by the bundle's network. A row of the
table says where that prompt's mask lies: the percentage of its voxels in the reference of each
target, summed over the cases, and the percentage in none. The diagonal is the mask's precision;
what stands beside it is confused with it. Targets that contain each other (a nodule lies in its
lung) share voxels, so that a row may add up to more than 100.
"""

from __future__ import annotations

import argparse

import numpy as np
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from tqdm import tqdm

from boltzmed.cards import load_card
from boltzmed.data.slice_sources import read_datalist
from boltzmed.data.studies import LabelledStudyDataset, list_labelled_cases
from boltzmed.resources import resource_folder


def count_overlaps(masks: list[NDArray], references: list[NDArray]) -> NDArray[np.int64]:
    """Voxels of every mask (row) inside every reference (column), then inside none, then in all."""
    parts = [*references, ~np.any(references, axis=0), np.ones_like(references[0])]
    return np.array([[np.count_nonzero(mask & part) for part in parts] for mask in masks])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datalist", required=True, help="as `boltzmed phantom` writes it")
    parser.add_argument("--cases", type=int, default=5, help="how many of it, from the first on")
    parser.add_argument("--prompt_variants", default="first", choices=["first", "held_out"])
    options = parser.parse_args()
    bundle = resource_folder("bundles") / "boltzformer"
    config = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / "evaluate.yaml"))
    config["bundle_root"] = str(bundle)
    config["inferer"]["progress"] = None
    network, inferer = config.get_parsed_content("network"), config.get_parsed_content("inferer")
    cases = list_labelled_cases(
        read_datalist(options.datalist)[: options.cases],
        load_card(config["card"]),
        prompt_variants=options.prompt_variants,
    )
    dataset = LabelledStudyDataset(cases)
    names = [str(prompt.target) for prompt in cases[0].prompts]
    counts = np.zeros((len(names), len(names) + 2), np.int64)
    for index in tqdm(range(len(dataset)), desc="cases"):
        study = dataset[index]
        masks = inferer(
            study["image"],
            network,
            study["input_ids"],
            [prompt.window for prompt in study["prompts"]],
        )
        counts += count_overlaps(
            [masks.volume(prompt) > 0 for prompt in range(len(names))],
            [study["study"].reference(name) > 0 for name in names],
        )
    width = max(map(len, names))
    print(" " * width + "".join(f"{name:>14}" for name in [*names, "none"]))
    for name, row in zip(names, counts, strict=True):
        print(
            f"{name:<{width}}"
            + "".join(f"{100 * part / max(row[-1], 1):>14.1f}" for part in row[:-1])
        )


if __name__ == "__main__":
    main()
