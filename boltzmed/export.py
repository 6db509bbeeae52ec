"""The network with its prompts built in, for programs that feed an image alone (`verify_net_in_out`, `ckpt_export`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from boltzmed.networks.boltzformer import BoltzFormer


class PromptedNetwork(nn.Module):
    """A network that segments the same prompts in every image.

    Its weights are the inner network's, under the inner network's names, so that it loads the same checkpoints. Draws
    are those of inference: one table of uniforms from the network's seed for each image size. Exported by tracing, it
    holds the tables of one image size.

    Args:
        network: The network.
        input_ids: Token ids (P, T) of the prompts.

    Raises:
        ValueError: No prompts, or not (P, T).
    """

    input_ids: Tensor

    def __init__(self, network: BoltzFormer, input_ids: Tensor) -> None:
        super().__init__()
        if input_ids.ndim != 2 or not len(input_ids):
            raise ValueError(f"expected token ids (P, T) of one prompt or more, received {tuple(input_ids.shape)}")
        self.network = network
        self.register_buffer("input_ids", input_ids, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W), 0 to 255, → mask logits (B, P, H/2, W/2) of every prompt."""
        return self.network(image, self.input_ids[None])["mask_logits"]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The inner network's."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Into the inner network."""
        return self.network.load_state_dict(state_dict, *args, **kwargs)
