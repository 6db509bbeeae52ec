"""Record what one prompt's queries sampled on a slice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from boltzmed.sampling.pictures import SampledSlice


def record_sampling(
    network: Any,
    image: Tensor,
    text: Any,
    index: int,
    reference: NDArray[np.bool_] | None,
    threshold: float = 0.5,
    presence_threshold: float = 0.5,
) -> SampledSlice:
    """Segment one image by one prompt, and return what was sampled on it.

    Args:
        network: a BoltzFormer.
        image: (1,3,S,S), 0 … 255.
        text: the prompt's text features.
        index: the slice's, in the network's order.
        reference: mask (S,S), or None.
        threshold: probability from which a pixel belongs to the mask.
        presence_threshold: presence below which the mask is empty, where there is a presence head.
    """
    features = network.encode_image(image.to(next(network.parameters()).device))
    trace: dict[str, list[Any]] = {}
    output = network.decode(features, text, trace=trace)
    logits, presence = output["mask_logits"], output["presence_logits"]
    absent = presence is not None and float(presence[0, 0].sigmoid()) < presence_threshold
    sizes = [tuple(scale.shape[-2:]) for scale in features.scales]
    masks = interpolate(logits.float(), image.shape[-2:], mode="bilinear")
    return SampledSlice(
        index=index,
        image=image[0, 1].numpy(),
        attended=[
            sampled[0, 0].reshape(-1, *sizes[layer % len(sizes)]).cpu().numpy()
            for layer, sampled in enumerate(trace["attended"])
        ],
        prediction=((masks[0, 0] > math.log(threshold / (1 - threshold))) & (not absent))
        .cpu()
        .numpy(),
        reference=reference,
    )
