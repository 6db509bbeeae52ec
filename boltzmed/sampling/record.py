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
    masks = interpolate(logits.float(), image.shape[-2:], mode="bilinear")[0, 0]
    inside = (masks > math.log(threshold / (1 - threshold))).cpu().numpy()
    sizes = [(int(scale.shape[-2]), int(scale.shape[-1])) for scale in features.scales]
    attended = []
    for layer, sampled in enumerate(trace["attended"]):
        size = sizes[layer % len(sizes)]
        attended.append(_list_attended(sampled, network.decoder.num_queries, size))
    return SampledSlice(
        index=index,
        image=image[0, 1].numpy(),
        attended=attended,
        prediction=inside & (not absent),
        reference=reference,
    )


def _list_attended(
    sampled: Tensor | None, num_queries: int, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return which tokens (Q,h,w) a layer attended to, of the first image's first prompt.

    Args:
        sampled: (B,P,Q,N), with an axis of heads (B,P,A,Q,N), of which any counts; or None from a
            layer that attends to all tokens.
        num_queries: Q.
        size: (h, w) of the layer's tokens, h · w = N.
    """
    if sampled is None:
        return np.ones((num_queries, *size), bool)
    own = sampled[0, 0]
    if own.ndim == 3:
        own = own.any(0)
    attended: NDArray[np.bool_] = own.reshape(num_queries, *size).cpu().numpy()
    return attended
