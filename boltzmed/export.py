"""The network for other programs: with its prompts built in (`verify_net_in_out`, `ckpt_export`),
and as ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from boltzmed.files import whole_file
from boltzmed.networks.boltzformer import INVALID_LOGIT, STRIDE, BoltzFormer
from boltzmed.networks.boltzmann import draw_uniforms
from boltzmed.networks.text_encoder import TextEncoder


class PromptedNetwork(nn.Module):
    """A network that segments the same prompts in every image.

    Its weights are the inner network's, under the inner network's names, so that it loads the same
    checkpoints. Draws are those of inference: one table of uniforms from the network's seed for
    each image size. A presence gate empties masks at 0.5, as inference does where nothing else is
    asked for. Traced (`torch.jit.trace`), it holds the tables of the size it was built for, and
    takes no other.

    Args:
        network: The network.
        input_ids: Token ids (P, T) of the prompts.
        image_size: Side of the square images that a traced program is for, in pixels; None for
            none.

    Raises:
        ValueError: No prompts, or not (P, T); an image size not divisible by 32; traced with images
            of another size.
    """

    input_ids: Tensor

    def __init__(
        self, network: BoltzFormer, input_ids: Tensor, image_size: int | None = None
    ) -> None:
        super().__init__()
        if input_ids.ndim != 2 or not len(input_ids):
            raise ValueError(
                "expected token ids (P, T) of one prompt or more, received"
                f" {tuple(input_ids.shape)}"
            )
        self.network = network
        self.image_size = image_size
        self.drawn = None if image_size is None else DrawnNetwork(network, image_size)
        self.register_buffer("input_ids", input_ids, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W), 0 to 255, → mask logits (B, P, H/2, W/2) of every prompt."""
        if self.drawn is not None and tuple(map(int, image.shape[2:])) == (
            self.image_size,
            self.image_size,
        ):
            return _close_gate(*self.drawn(image, self.input_ids[None]))
        if torch.jit.is_tracing():  # the program would draw other numbers at every call
            raise ValueError(
                f"expected images of {self.image_size}×{self.image_size}, got {tuple(image.shape)}"
            )
        return _close_gate(**self.network(image, self.input_ids[None]))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The inner network's."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Into the inner network."""
        return self.network.load_state_dict(state_dict, *args, **kwargs)


def _close_gate(mask_logits: Tensor, presence_logits: Tensor | None = None) -> Tensor:
    """Return mask logits (B,P,h,w), far below 0 where presence (B,P) says absent."""
    if presence_logits is None:
        return mask_logits
    return mask_logits.masked_fill(presence_logits[:, :, None, None] < 0, INVALID_LOGIT)


class DrawnNetwork(nn.Module):
    """A network for one image size, whose draws are constants: images and token ids in, logits out.

    It can be compiled and exported (`torch.compile`, `torch.export`, ONNX): nothing in it depends
    on values.

    Args:
        network: The network; its seed decides the draws.
        image_size: Side of the square images in pixels, divisible by 32.
    """

    def __init__(self, network: BoltzFormer, image_size: int) -> None:
        super().__init__()
        if image_size < STRIDE or image_size % STRIDE:
            raise ValueError(f"image_size: expected a multiple of {STRIDE}, received {image_size}")
        self.network = network
        sides = [image_size // stride for stride in (32, 16, 8)]
        shapes = network.decoder.uniform_shapes([(side, side) for side in sides])
        self.tables = [f"draws_{layer}" for layer in range(len(shapes))]
        draws = network.decoder.prepare_draws(draw_uniforms(network.seed, shapes))
        for name, table in zip(self.tables, draws, strict=True):
            self.register_buffer(name, table, persistent=False)

    def forward(self, image: Tensor, input_ids: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, S, S), 0 to 255, and token ids (B, P, 77) → mask logits (B, P, S/2, S/2).

        Of a network with a presence gate, presence logits (B, P) come second; nothing is emptied by
        them.
        """
        features, text = self.network.encode_image(image), self.network.encode_text(input_ids)
        draws = [getattr(self, name) for name in self.tables]
        logits = self.network.decode(features, text, draws=draws)
        return tuple(
            value
            for value in (logits["mask_logits"], logits["presence_logits"])
            if value is not None
        )


def export_onnx(network: BoltzFormer, path: str | Path, *, image_size: int) -> Path:
    """Write a network as an ONNX program: `image` (B, 3, S, S) and `input_ids` (B, P, 77) →
    `mask_logits`.

    Of a network with a presence gate, `presence_logits` (B, P) is the second output, for the caller
    to empty masks by. Any number of images and prompts; the draws are those of the network's seed.
    Needs the extra ``onnx``.

    Args:
        network: In evaluation mode, on the CPU.
        path: The file, replaced whole.
        image_size: S, in pixels, divisible by 32.

    Raises:
        ValueError: Another image size, or a file that cannot be written.
        ImportError: ONNX is not installed.
    """
    program = DrawnNetwork(network, image_size).eval()
    batch, prompts = (
        torch.export.Dim("batch", min=1, max=64),
        torch.export.Dim("prompts", min=1, max=64),
    )
    text_encoder = network.text_encoder
    assert isinstance(text_encoder, TextEncoder)
    ids = torch.full((2, 3, text_encoder.context_length), text_encoder.end_id)
    with whole_file(path) as temporary:
        torch.onnx.export(
            program,
            (torch.zeros(2, 3, image_size, image_size), ids),
            str(temporary),
            input_names=["image", "input_ids"],
            output_names=(
                ["mask_logits"] if network.presence is None else ["mask_logits", "presence_logits"]
            ),
            dynamic_shapes={"image": {0: batch}, "input_ids": {0: batch, 1: prompts}},
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    return Path(path)
