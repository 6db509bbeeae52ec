"""Pixel-grounded mask aggregation: the queries' masks and the image's pixels to one mask per prompt (section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boltzmed.networks.pixel_decoder import SemanticMap

IMAGE_CHANNELS = 3
_TAPS = 4
"""Rows and columns of the transposed convolution's kernel."""


class PiGMA(nn.Module):
    """Mean of the query ensemble (Eq. 7) and a pixel-grounded correction (Figure 3), at half the image's size.

    The correction is a transposed convolution (4×4, stride 2) of the masks joined with the image at stride 4, then a
    1×1 convolution of the result joined with the image at stride 2. As in the published code there is no non-linearity
    anywhere, which `forward` makes use of; the two sets of weights stay apart as parameters.

    Tensor suffixes: B images, P prompts, Q queries, M width of the semantic map, C intermediate channels, H W pixels of
    the image.

    Args:
        num_queries: Q, masks per prompt.
        intermediate_channels: C, the paper's c.
    """

    def __init__(self, num_queries: int, intermediate_channels: int = 10) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.expand = nn.ConvTranspose2d(
            IMAGE_CHANNELS + num_queries, intermediate_channels, kernel_size=_TAPS, stride=2, padding=1
        )
        self.combine = nn.Conv2d(IMAGE_CHANNELS + intermediate_channels, 1, kernel_size=1)

    def forward(self, embedding_BPQM: Tensor, semantic_map: SemanticMap, image_BCHW: Tensor) -> Tensor:
        """Aggregates the masks of every prompt.

        A query's mask is its embedding's product with the semantic map, and all that follows is linear in the masks. So
        17 sums of the embeddings stand for all queries: their mean, and one for each tap of the 4×4 kernel.

        Args:
            embedding_BPQM: the queries as the semantic map is multiplied with them.
            semantic_map: at stride 4.
            image_BCHW: (B, 3, H, W), the normalised image.

        Returns:
            (B, P, H/2, W/2) logits.

        Raises:
            ValueError: if the number of queries or the sizes do not fit.
        """
        half = self.check(embedding_BPQM, semantic_map, image_BCHW)
        batch, prompts = embedding_BPQM.shape[:2]
        # 1×1 after 4×4: one 4×4 kernel with a single output channel. Its image part is the same for every prompt.
        combine_image, combine_expanded = self.combine.weight.split(
            (IMAGE_CHANNELS, self.combine.in_channels - IMAGE_CHANNELS), dim=1
        )
        kernel_IYX = torch.einsum("c,icyx->iyx", combine_expanded[0, :, 0, 0], self.expand.weight)
        assert self.expand.bias is not None and self.combine.bias is not None
        bias = self.combine.bias + combine_expanded[:, :, 0, 0] @ self.expand.bias
        image_quarter, image_half = resize_image(image_BCHW)
        from_image = F.conv2d(image_half, combine_image, bias) + F.conv_transpose2d(
            image_quarter, kernel_IYX[:IMAGE_CHANNELS, None], stride=2, padding=1
        )

        tap_VQ = kernel_IYX[IMAGE_CHANNELS:].flatten(1).T
        mean_1Q = tap_VQ.new_full((1, self.num_queries), 1 / self.num_queries)
        summed_BPVM = torch.cat((mean_1Q, tap_VQ)) @ embedding_BPQM
        product_NVHW = semantic_map.times(summed_BPVM.flatten(1, 2)).unflatten(1, (prompts, -1)).flatten(0, 1)
        # Every tap's map goes to its own place in the 4×4.
        from_masks = F.fold(product_NVHW[:, 1:].flatten(2), half, _TAPS, stride=2, padding=1)
        correction = from_masks.view(batch, prompts, *half) + from_image
        ensemble = F.interpolate(product_NVHW[:, :1], size=half, mode="bilinear", align_corners=False)
        return (correction + ensemble.view(batch, prompts, *half)) / 2

    def check(self, embedding_BPQM: Tensor, semantic_map: SemanticMap, image_BCHW: Tensor) -> tuple[int, int]:
        """Height and width of the output; raises ValueError where the inputs do not fit."""
        height, width = semantic_map.features_BDHW.shape[2:]
        if embedding_BPQM.shape[2] != self.num_queries:
            raise ValueError(f"PiGMA was built for {self.num_queries} queries, got {embedding_BPQM.shape[2]}")
        if image_BCHW.shape != (embedding_BPQM.shape[0], IMAGE_CHANNELS, 4 * height, 4 * width):
            raise ValueError(
                f"PiGMA needs images of 4 times the semantic map's size, got a map of {height}×{width} for "
                f"{len(embedding_BPQM)} images and images {tuple(image_BCHW.shape)}"
            )
        return 2 * height, 2 * width


def resize_image(image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The image at strides 4 and 2, bilinear without smoothing."""
    quarter, half = (
        F.interpolate(image_BCHW, scale_factor=1 / stride, mode="bilinear", align_corners=False) for stride in (4, 2)
    )
    return quarter, half
