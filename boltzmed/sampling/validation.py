"""Pictures of a training's validation slices: masks, and what was sampled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.networks.utils import eval_mode
from torch import nn
from torch.utils.data import Dataset

from boltzmed.metrics.overlap import dice
from boltzmed.reports.contact_sheet import Panel, make_contact_sheet
from boltzmed.sampling.pictures import SampledSlice, make_sampling_figure
from boltzmed.sampling.record import record_sampling

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ValidationPreviews:
    """Draws what a network in training makes of some validation slices, always the same ones.

    Args:
        dataset: Of the validation's items.
        batches: Lists of the dataset's keys, the same every time. Slices are taken evenly from all
            of them, so that no data set is left out; of each the first prompt whose target it
            shows, which is the smallest of them.
        network: In training mode or not, which it keeps.
        count: How many slices.
        query: Whose samples are drawn, on the first of the slices.
    """

    def __init__(
        self,
        dataset: Dataset[dict[str, Any]],
        batches: Iterable[list[Any]],
        network: nn.Module,
        *,
        count: int = 8,
        query: int = 0,
    ) -> None:
        self.dataset, self.batches, self.network = dataset, batches, network
        self.count, self.query = count, query

    def __call__(self, title: str) -> dict[str, Figure]:
        """Return two figures, ``masks`` and ``sampling``."""
        keys = [key for batch in self.batches for key in batch]
        places = np.linspace(0, len(keys) - 1, min(self.count, len(keys))).round().astype(int)
        with eval_mode(self.network):
            looks = [self._look(self.dataset[keys[place]]) for place in places]
        panels = [
            Panel(
                title=name,
                image=seen.image[None],
                window=(0.0, 255.0),
                prediction=seen.prediction[None],
                reference=None if seen.reference is None else seen.reference[None],
                pixel_mm=(1.0, 1.0),
                note=_score(seen),
            )
            for name, seen in looks
        ]
        name, first = looks[0]
        heading = f"{title}: {name}, query {self.query + 1}"
        return {
            "masks": make_contact_sheet(panels, title=title),
            "sampling": make_sampling_figure(first, title=heading, query=self.query),
        }

    def _look(self, item: dict[str, Any]) -> tuple[str, SampledSlice]:
        network: Any = self.network
        references = item["label"].numpy() > 0
        number = int(references.any((1, 2)).argmax())  # the first of all where it shows none
        name = f"{item['target'][number]}, {item['case']} slice {item['slice_index']}"
        input_ids = item["input_ids"][None, number : number + 1]
        text = network.encode_text(input_ids.to(next(network.parameters()).device))
        return name, record_sampling(
            network, item["image"][None], text, item["slice_index"], references[number]
        )


def _score(seen: SampledSlice) -> str:
    assert seen.reference is not None
    value = dice(seen.prediction, seen.reference)
    return "no target, no mask" if value is None else f"Dice {value:.2f}"
