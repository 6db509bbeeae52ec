"""Text prompts as token ids → text tokens, by open_clip's causal transformer (section 3.1: "text
embeddings T").
"""

from functools import partial

import torch
from torch import Tensor, nn

import boltzmed.compat  # noqa: F401  (before open_clip, which imports torchvision)

# isort: split
from open_clip.transformer import LayerNormFp32, QuickGELU, Transformer

# Of the layer norms; far below the usual 1e-5, which is why they are computed in float32.
NORM_EPSILON = 1e-12


class TextEncoder(nn.Module):
    """CLIP's text transformer with a linear projection of every token.

    Pre-norm layers with QuickGELU, learned positions, causal attention: a token sees those before
    it only, hence tokens after the end token change nothing before them and are cut away.

    Tensor suffixes: N prompts, T tokens.

    Args:
        vocabulary_size: number of token ids (49408 for CLIP's byte-pair encoding).
        width: of the transformer.
        num_layers: of the transformer.
        num_heads: of its attention.
        output_dim: width of the returned tokens.
        context_length: largest number of tokens of a prompt, start and end token included.
        end_id: id of the end token, which also pads.
        projection_std: spread of the projection's initial weights; 1 as published.
    """

    # What stands after the end token is not computed; a subclass may do so, as published.
    whole_context = False

    def __init__(
        self,
        vocabulary_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        output_dim: int,
        context_length: int = 77,
        end_id: int = 49407,
        projection_std: float = 1.0,
    ) -> None:
        super().__init__()
        norm_layer = partial(LayerNormFp32, eps=NORM_EPSILON)
        self.vocabulary_size = vocabulary_size
        self.context_length = context_length
        self.end_id = end_id
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.transformer = Transformer(
            width, num_layers, num_heads, act_layer=QuickGELU, norm_layer=norm_layer
        )
        self.ln_final = norm_layer(width)
        self.projection = nn.Parameter(torch.empty(width, output_dim))
        self._initialise(projection_std)

    def _initialise(self, projection_std: float) -> None:
        for module in self.transformer.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.MultiheadAttention):
                nn.init.xavier_uniform_(module.in_proj_weight)
                nn.init.zeros_(module.in_proj_bias)
        nn.init.trunc_normal_(self.token_embedding.weight, std=0.02)
        nn.init.trunc_normal_(self.positional_embedding, std=0.02)
        nn.init.normal_(self.projection, std=projection_std)

    def forward(self, input_ids_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes prompts.

        Args:
            input_ids_NT: (N, T) int64, T ≤ context_length: start token, words, end token, then
                anything.

        Returns:
            tokens (N, T', output_dim), valid (N, T') bool: True through the first end token. T' is
            the length of the longest prompt; what stands at positions that are not valid has no
            meaning.

        Raises:
            ValueError: if the shape is not (N, T), the prompts are too long, an id is outside the
                vocabulary, or a prompt has no end token.
        """
        if input_ids_NT.ndim != 2 or not 0 < input_ids_NT.shape[1] <= self.context_length:
            raise ValueError(
                f"expected token ids (N, T) with T from 1 to {self.context_length}, got"
                f" {tuple(input_ids_NT.shape)}"
            )
        ended_NT = (input_ids_NT == self.end_id).cumsum(1) > 0
        valid_NT = torch.cat((torch.ones_like(ended_NT[:, :1]), ~ended_NT[:, :-1]), dim=1)
        longest = input_ids_NT.shape[1]
        if not torch.compiler.is_compiling():
            # Each check waits for the device; an exported program takes the ids as they come, at
            # full length.
            self._check_ids(input_ids_NT, ended_NT)
            longest = int(valid_NT.any(0).sum())
            if not self.whole_context:
                input_ids_NT = input_ids_NT[:, :longest]

        length = input_ids_NT.shape[1]
        hidden_NTD = self.token_embedding(input_ids_NT) + self.positional_embedding[:length]
        # open_clip wants an additive mask: minus infinity above the diagonal hides the later
        # tokens.
        causal_TT = torch.full((length, length), -torch.inf, device=hidden_NTD.device).triu(1)
        hidden_NTD = self.transformer(hidden_NTD, attn_mask=causal_TT)
        return (self.ln_final(hidden_NTD) @ self.projection)[:, :longest], valid_NT[:, :longest]

    def _check_ids(self, input_ids_NT: Tensor, ended_NT: Tensor) -> None:
        if input_ids_NT.numel() == 0:
            raise ValueError("expected at least one prompt, got none")
        smallest, largest = int(input_ids_NT.min()), int(input_ids_NT.max())
        if smallest < 0 or largest >= self.vocabulary_size:
            raise ValueError(
                f"expected token ids from 0 to {self.vocabulary_size - 1}, got {smallest} to"
                f" {largest}; the tokenizer and the checkpoint do not fit together"
            )
        if not bool(ended_NT[:, -1].all()):
            raise ValueError(
                f"expected an end token ({self.end_id}) in every prompt, got a prompt without one; "
                "pad and end prompts, unused ones too, with the end token"
            )
