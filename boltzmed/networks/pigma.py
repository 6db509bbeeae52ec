"""Pixel-grounded mask aggregation: the queries' masks and the image's pixels to one mask per prompt (section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE_CHANNELS = 3


class PiGMA(nn.Module):
    """Mean of the query ensemble (Eq. 7) and a pixel-grounded correction (Figure 3), at half the image's size.

    The correction is a transposed convolution (4×4, stride 2) of the masks joined with the image at stride 4, then a
    1×1 convolution of the result joined with the image at stride 2. As in the published code there is no non-linearity
    between the two, so `forward` folds them into one; the two sets of weights stay apart as parameters.

    Tensor suffixes: B images, P prompts, Q queries, C intermediate channels, H W pixels of the image.

    Args:
        num_queries: Q, masks per prompt.
        intermediate_channels: C, the paper's c.
    """

    def __init__(self, num_queries: int, intermediate_channels: int = 10) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.expand = nn.ConvTranspose2d(
            IMAGE_CHANNELS + num_queries, intermediate_channels, kernel_size=4, stride=2, padding=1
        )
        self.combine = nn.Conv2d(IMAGE_CHANNELS + intermediate_channels, 1, kernel_size=1)

    def forward(self, mask_logits_BPQHW: Tensor, image_BCHW: Tensor) -> Tensor:
        """Aggregates the masks of every prompt.

        Args:
            mask_logits_BPQHW: (B, P, Q, H/4, W/4) logits.
            image_BCHW: (B, 3, H, W), the normalised image.

        Returns:
            (B, P, H/2, W/2) logits.

        Raises:
            ValueError: if the number of queries or the sizes do not fit.
        """
        batch, prompts, queries, height, width = mask_logits_BPQHW.shape
        if queries != self.num_queries:
            raise ValueError(f"PiGMA was built for {self.num_queries} queries, got masks of {queries}")
        if image_BCHW.shape != (batch, IMAGE_CHANNELS, 4 * height, 4 * width):
            raise ValueError(
                f"PiGMA needs images of 4 times the masks' size, got masks {tuple(mask_logits_BPQHW.shape)} "
                f"and images {tuple(image_BCHW.shape)}"
            )
        half = (2 * height, 2 * width)
        image_quarter = F.interpolate(image_BCHW, size=(height, width), mode="bilinear", align_corners=False)
        image_half = F.interpolate(image_BCHW, size=half, mode="bilinear", align_corners=False)
        masks = mask_logits_BPQHW.flatten(0, 1)

        # 1×1 after 4×4, both linear: one 4×4 kernel with a single output channel. Its image part is the same for every
        # prompt of an image.
        combine_image, combine_expanded = self.combine.weight.split(
            (IMAGE_CHANNELS, self.combine.in_channels - IMAGE_CHANNELS), dim=1
        )
        kernel = torch.einsum("oc,icyx->ioyx", combine_expanded[:, :, 0, 0], self.expand.weight)
        assert self.expand.bias is not None and self.combine.bias is not None
        bias = self.combine.bias + combine_expanded[:, :, 0, 0] @ self.expand.bias
        from_image = F.conv2d(image_half, combine_image, bias) + F.conv_transpose2d(
            image_quarter, kernel[:IMAGE_CHANNELS], stride=2, padding=1
        )
        from_masks = F.conv_transpose2d(masks, kernel[IMAGE_CHANNELS:], stride=2, padding=1)
        correction = from_masks.view(batch, prompts, *half) + from_image

        ensemble = F.interpolate(mask_logits_BPQHW.mean(2), size=half, mode="bilinear", align_corners=False)
        return (correction + ensemble) / 2
