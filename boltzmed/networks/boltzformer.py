"""BoltzFormer: an image and text prompts in, one mask per prompt out (Figure 1)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from boltzmed.networks.boltzmann import draw_uniforms
from boltzmed.networks.decoder import Decoder, Level
from boltzmed.networks.pixel_decoder import SemanticMap

# Logit of every pixel of a prompt that is not valid: no object, and no gradient.
INVALID_LOGIT = -100.0
# Image sizes are multiples of the coarsest feature's stride.
STRIDE = 32
# Tables of draws kept, one per image size and device met.
_CACHED_TABLES = 4


class ImageFeatures(NamedTuple):
    """What prompts need of an image."""

    scales: list[Tensor]
    """(B, D, h, w) at strides 32, 16, 8: what the queries attend to."""
    semantic_map: SemanticMap
    """Of (B, M, H/4, W/4)."""
    image: Tensor
    """(B, 3, H, W): the normalised image."""
    levels: list[Level] | None = None
    """What prompts share, where it is kept (`keep_for_prompts`)."""


class TextFeatures(NamedTuple):
    """What an image needs of prompts."""

    tokens: Tensor
    """(B, P, T, D)."""
    valid: Tensor
    """(B, P, T) bool, False for padding."""


class BoltzFormer(nn.Module):
    """The whole network, of parts that are built elsewhere (by the bundle's configs).

    `encode_image` and `encode_text` are for keeping: one image meets many prompts, one prompt meets
    many slices.

    Tensor suffixes: B images, P prompts per image, T text tokens, H W pixels.

    Args:
        image_encoder: normalised image → features at strides 4, 8, 16, 32.
        pixel_decoder: these features → three scales and the semantic map.
        text_encoder: token ids (N, T) → tokens and which of them are valid.
        decoder: prompts and image features → queries and their masks.
        pigma: the queries' mask embeddings, the semantic map and the image → one mask per prompt;
            built for the decoder's number of queries.
        pixel_mean: of the three channels, on the scale 0 to 255.
        pixel_std: of the three channels, on the scale 0 to 255.
        seed: decides every draw at inference; may be set later.
        presence: the queries after the last layer (B, P, Q, D) → presence logits (B, P); None as
            published.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        pixel_decoder: nn.Module,
        text_encoder: nn.Module,
        decoder: Decoder,
        pigma: nn.Module,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        seed: int = 0,
        presence: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.pixel_decoder = pixel_decoder
        self.text_encoder = text_encoder
        self.decoder = decoder
        self.pigma = pigma
        self.presence = presence
        self.pixel_mean = tuple(pixel_mean)
        self.pixel_std = tuple(pixel_std)
        self.seed = seed
        self._tables: dict[tuple[Any, ...], list[Tensor]] = {}

    def forward(
        self,
        image: Tensor,
        input_ids: Tensor,
        prompt_valid: Tensor | None = None,
        draw_key: Tensor | None = None,
    ) -> dict[str, Tensor | None]:
        """Segments every prompt in its image.

        Args:
            image: (B, 3, H, W), 0 to 255, H and W divisible by 32.
            input_ids: (B, P, T) token ids, or (1, P, T) for the same prompts in every image.
            prompt_valid: (B, P) bool, False for prompts that only fill the batch; None: all are
                valid.
            draw_key: see `decode`.

        Returns:
            `mask_logits` (B, P, H/2, W/2) and `presence_logits` (B, P), None without a gate.

        Raises:
            ValueError: if a shape or a token id does not fit.
        """
        features = self.encode_image(image, draw_key)
        return self.decode(features, self.encode_text(input_ids), prompt_valid, draw_key=draw_key)

    def encode_image(self, image_BCHW: Tensor, draw_key: Tensor | None = None) -> ImageFeatures:
        """Features of images (B, 3, H, W), 0 to 255: all that depends on the image alone.

        `draw_key` (B,) int64 is for training alone, where the encoder may drop blocks at random.
        """
        if image_BCHW.ndim != 4 or image_BCHW.shape[1] != len(self.pixel_mean):
            raise ValueError(
                f"expected images (B, {len(self.pixel_mean)}, H, W), got {tuple(image_BCHW.shape)}"
            )
        height, width = image_BCHW.shape[2:]
        if height % STRIDE or width % STRIDE or not height or not width:
            raise ValueError(
                f"expected images with height and width divisible by {STRIDE}, got {height}×{width}"
            )
        normalised = self.normalise(image_BCHW)
        scales, semantic_map = self.pixel_decoder(self.image_encoder(normalised, draw_key))
        return ImageFeatures(scales, semantic_map, normalised)

    def keep_for_prompts(self, features: ImageFeatures) -> ImageFeatures:
        """The same features with all that prompts share, for an image that is asked again and
        again.

        `decode` prepares it at every call, for all prompts of the call, and keeps none of it: at
        1024×1024 pixels keys and values of nine layers take 0.26 GB in the published sizes.
        """
        return features._replace(
            levels=self.decoder.keep_levels(features.scales, features.semantic_map)
        )

    def normalise(self, image_BCHW: Tensor) -> Tensor:
        """(image - mean) / standard deviation, channel by channel: what the image encoder and PiGMA
        see.
        """
        mean = torch.tensor(self.pixel_mean, device=image_BCHW.device)[:, None, None]
        std = torch.tensor(self.pixel_std, device=image_BCHW.device)[:, None, None]
        return (image_BCHW - mean) / std

    def encode_text(self, input_ids_BPT: Tensor) -> TextFeatures:
        """Text tokens of prompts (B, P, T): all that depends on the prompts alone."""
        if input_ids_BPT.ndim != 3:
            raise ValueError(f"expected token ids (B, P, T), got {tuple(input_ids_BPT.shape)}")
        tokens, valid = self.text_encoder(input_ids_BPT.flatten(0, 1))
        prompts = input_ids_BPT.shape[:2]
        return TextFeatures(tokens.unflatten(0, prompts), valid.unflatten(0, prompts))

    def decode(
        self,
        image_features: ImageFeatures,
        text_features: TextFeatures,
        prompt_valid: Tensor | None = None,
        *,
        draws: Sequence[Tensor] | None = None,
        draw_key: Tensor | None = None,
        trace: dict[str, list[Any]] | None = None,
    ) -> dict[str, Tensor | None]:
        """Masks of prompts in images that are encoded already.

        Args:
            image_features: of B images.
            text_features: of the images' prompts; with B = 1 they serve every image.
            prompt_valid: (B, P) or (1, P) bool. Masks of prompts that are not valid hold no object.
            draws: a table per layer, as `Decoder.prepare_draws` makes them; come before everything
                below.
            draw_key: (B,) int64, for training: every image draws by its own key, whatever stands
                beside it. None, for inference: one table of uniforms (layer, query, token), made
                from `seed`, serves every image and prompt.
            trace: see `Decoder.forward`.

        Returns:
            `mask_logits` (B, P, H/2, W/2) and `presence_logits` (B, P), None without a gate.

        Raises:
            ValueError: if images, prompts and keys do not fit together.
        """
        # A size, unlike len(), stays symbolic in a program that is exported.
        batch, texts = image_features.image.shape[0], text_features.tokens.shape[0]
        if texts not in (1, batch):
            raise ValueError(
                f"expected the prompts of {batch} images or of one, got prompts of {texts}"
            )
        if draws is None:
            draws = self._draw(image_features, draw_key)
        queries = self.decoder(
            image_features.scales,
            image_features.semantic_map,
            text_features.tokens,
            text_features.valid,
            draws=draws,
            trace=trace,
            levels=image_features.levels,
        )
        presence_logits = None if self.presence is None else self.presence(queries)
        embedding = self.decoder.embed_masks(queries)
        mask_logits = self.pigma(embedding, image_features.semantic_map, image_features.image)
        if prompt_valid is not None:
            if prompt_valid.shape not in ((batch, queries.shape[1]), (1, queries.shape[1])):
                raise ValueError(
                    f"expected prompt_valid {tuple(queries.shape[:2])}, got"
                    f" {tuple(prompt_valid.shape)}"
                )
            blocked = ~prompt_valid.bool()
            mask_logits = mask_logits.masked_fill(blocked[:, :, None, None], INVALID_LOGIT)
            if presence_logits is not None:
                presence_logits = presence_logits.masked_fill(blocked, INVALID_LOGIT)
        return {"mask_logits": mask_logits, "presence_logits": presence_logits}

    def _draw(self, image_features: ImageFeatures, draw_key: Tensor | None) -> list[Tensor]:
        """Draws per layer on the features' device, made on the CPU."""
        device = image_features.image.device
        sizes = tuple((scale.shape[2], scale.shape[3]) for scale in image_features.scales)
        shapes = self.decoder.uniform_shapes(sizes)
        if draw_key is not None:
            if draw_key.shape != (len(image_features.image),):
                raise ValueError(
                    f"expected one draw key per image ({len(image_features.image)}), got"
                    f" {tuple(draw_key.shape)}"
                )
            tables = [draw_uniforms(key, shapes) for key in draw_key.tolist()]
            stacked = [torch.stack(layer) for layer in zip(*tables, strict=True)]
            return [
                draw.to(device, non_blocking=True) for draw in self.decoder.prepare_draws(stacked)
            ]
        cache_key = (
            self.seed,
            tuple(shapes),
            device,
            type(self.decoder),
            self.decoder.sample_ratio,
        )
        draws = self._tables.get(cache_key)
        if draws is None:
            draws = [
                draw.to(device)
                for draw in self.decoder.prepare_draws(draw_uniforms(self.seed, shapes))
            ]
            if self.decoder.keeps_draws:
                while len(self._tables) >= _CACHED_TABLES:
                    del self._tables[next(iter(self._tables))]
                self._tables[cache_key] = draws
        return draws
