"""Pixel-grounded mask aggregation: the queries' masks and the image's pixels to one mask per prompt
(section 3.3).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boltzmed.networks.inference_attention import allows_inference_forms
from boltzmed.networks.pixel_decoder import SemanticMap

IMAGE_CHANNELS = 3
_TAPS = 4
"""Rows and columns of the transposed convolution's kernel."""
_BILINEAR = (0.25, 0.75, 0.75, 0.25)
"""Resizing to double size (pixel centres in place) as a transposed convolution, inside of the
border.
"""
# Prompts from which, in inference on a CPU, one convolution for each is faster than 17 sums
# (benchmarks/README.md).
_PROMPTS_TO_COMPOSE = 9


class PiGMA(nn.Module):
    """Mean of the query ensemble (Eq. 7) and a pixel-grounded correction (Figure 3), at half the
    image's size.

    The correction is a transposed convolution (4×4, stride 2) of the masks joined with the image at
    stride 4, then a 1×1 convolution of the result joined with the image at stride 2. As in the
    published code there is no non-linearity anywhere, which `forward` makes use of; the two sets of
    weights stay apart as parameters.

    Tensor suffixes: B images, P prompts, Q queries, M width of the semantic map, C intermediate
    channels, H W pixels of the image.

    Args:
        num_queries: Q, masks per prompt.
        intermediate_channels: C, the paper's c.
    """

    def __init__(self, num_queries: int, intermediate_channels: int = 10) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.expand = nn.ConvTranspose2d(
            IMAGE_CHANNELS + num_queries,
            intermediate_channels,
            kernel_size=_TAPS,
            stride=2,
            padding=1,
        )
        self.combine = nn.Conv2d(IMAGE_CHANNELS + intermediate_channels, 1, kernel_size=1)

    def forward(
        self, embedding_BPQM: Tensor, semantic_map: SemanticMap, image_BCHW: Tensor
    ) -> Tensor:
        """Aggregates the masks of every prompt.

        A query's mask is its embedding's product with the semantic map, and all that follows is
        linear in the masks. So 17 sums of the embeddings stand for all queries: their mean, and one
        for each tap of the 4×4 kernel. For many prompts even the sums are folded, into one
        transposed convolution of the semantic map's features for each.

        Args:
            embedding_BPQM: the queries as the semantic map is multiplied with them.
            semantic_map: at stride 4.
            image_BCHW: (B, 3, H, W), the normalised image.

        Returns:
            (B, P, H/2, W/2) logits.

        Raises:
            ValueError: if the number of queries or the sizes do not fit.
        """
        self.check(embedding_BPQM, semantic_map, image_BCHW)
        # 1×1 after 4×4: one 4×4 kernel with a single output channel. Its image part is the same for
        # every prompt.
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
        folds = allows_inference_forms(summed_BPVM) and semantic_map.kernel_MDYX is not None
        composed = folds and embedding_BPQM.shape[1] >= _PROMPTS_TO_COMPOSE
        aggregate = aggregate_composed if composed else aggregate_sums
        return (aggregate(semantic_map, summed_BPVM) + from_image) / 2

    def check(
        self, embedding_BPQM: Tensor, semantic_map: SemanticMap, image_BCHW: Tensor
    ) -> tuple[int, int]:
        """Height and width of the output; raises ValueError where the inputs do not fit."""
        height, width = semantic_map.features_BDHW.shape[2:]
        if embedding_BPQM.shape[2] != self.num_queries:
            raise ValueError(
                f"PiGMA was built for {self.num_queries} queries, got {embedding_BPQM.shape[2]}"
            )
        if image_BCHW.shape != (embedding_BPQM.shape[0], IMAGE_CHANNELS, 4 * height, 4 * width):
            raise ValueError(
                "PiGMA needs images of 4 times the semantic map's size, got a map of"
                f" {height}×{width} for {len(embedding_BPQM)} images and images"
                f" {tuple(image_BCHW.shape)}"
            )
        return 2 * height, 2 * width


def aggregate_sums(semantic_map: SemanticMap, summed_BPVM: Tensor) -> Tensor:
    """The mean mask at double size plus the transposed convolution of the 16 taps' maps.

    Args:
        summed_BPVM: 17 vectors to multiply the semantic map with: for the mean mask, then for each
            tap, row by row.

    Returns:
        (B, P, 2 H, 2 W) for a semantic map of (H, W).
    """
    batch, prompts = summed_BPVM.shape[:2]
    product_NVHW = (
        semantic_map.times(summed_BPVM.flatten(1, 2)).unflatten(1, (prompts, -1)).flatten(0, 1)
    )
    half = (2 * product_NVHW.shape[2], 2 * product_NVHW.shape[3])
    # Every tap's map goes to its own place in the 4×4.
    correction = F.fold(product_NVHW[:, 1:].flatten(2), half, _TAPS, stride=2, padding=1)
    ensemble = F.interpolate(product_NVHW[:, :1], size=half, mode="bilinear", align_corners=False)
    return (correction + ensemble).view(batch, prompts, *half)


def aggregate_composed(semantic_map: SemanticMap, summed_BPVM: Tensor) -> Tensor:
    """The same with the semantic map's convolution folded in: 64 products a pixel and prompt
    instead of 17 · 9.

    A 3×3 convolution, then a 4×4 with stride 2, are an 8×8 with stride 2, except on the border,
    where the semantic map ends: that is, with the features' two outermost rows and columns, made by
    `aggregate_sums`.
    """
    features_BDHW, kernel_MDYX, bias_M, _ = semantic_map
    assert kernel_MDYX is not None
    bilinear_T = summed_BPVM.new_tensor(_BILINEAR)
    tap_BPVM = (
        summed_BPVM[:, :, 1:]
        + torch.outer(bilinear_T, bilinear_T).view(-1, 1) * summed_BPVM[:, :, :1]
    )
    batch, prompts = tap_BPVM.shape[:2]
    folded_BPTUDYX = (tap_BPVM @ kernel_MDYX.flatten(1)).view(
        batch, prompts, _TAPS, _TAPS, *kernel_MDYX.shape[1:]
    )
    kernel_BDPYX = tap_BPVM.new_zeros(batch, kernel_MDYX.shape[1], prompts, 2 * _TAPS, 2 * _TAPS)
    for y in range(3):
        for x in range(3):
            rows, columns = slice(4 - 2 * y, 8 - 2 * y), slice(4 - 2 * x, 8 - 2 * x)
            kernel_BDPYX[..., rows, columns] += folded_BPTUDYX[..., y, x].permute(0, 4, 1, 2, 3)
    images = zip(features_BDHW.split(1), kernel_BDPYX, strict=True)
    result = torch.cat(
        [F.conv_transpose2d(image, kernel, stride=2, padding=3) for image, kernel in images]
    )
    if bias_M is not None:
        # Odd taps meet in even pixels, even taps in odd ones.
        phase_BPYX = (tap_BPVM @ bias_M).view(batch, prompts, 2, 2, 2, 2).sum((2, 4)).flip(2, 3)
        result = result + phase_BPYX.repeat(1, 1, *features_BDHW.shape[2:])
    for axis in (2, 3):
        for start, end in ((0, 0), (features_BDHW.shape[axis] - 2, -1)):
            strip = semantic_map._replace(features_BDHW=features_BDHW.narrow(axis, start, 2))
            result.select(axis, end).copy_(aggregate_sums(strip, summed_BPVM).select(axis, end))
    return result


def resize_image(image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The image at strides 4 and 2, bilinear without smoothing."""
    quarter, half = (
        F.interpolate(image_BCHW, scale_factor=1 / stride, mode="bilinear", align_corners=False)
        for stride in (4, 2)
    )
    return quarter, half
