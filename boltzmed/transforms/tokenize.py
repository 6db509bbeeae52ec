"""Prompts to token ids: CLIP's byte-pair encoding, with the vocabulary that open_clip carries in
its package.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer

START_ID = 49406
END_ID = 49407
"""Also the padding: the first one ends the prompt."""
CONTEXT_LENGTH = 77


@lru_cache(maxsize=1)
def _tokenizer() -> SimpleTokenizer:
    import boltzmed.compat  # noqa: F401, I001  (lets torchvision, which open_clip imports, load beside any torch)
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@lru_cache(maxsize=4096)
def _encode(prompt: str) -> tuple[int, ...]:
    return tuple(_tokenizer().encode(prompt))


def tokenize_prompts(
    prompts: Sequence[str], *, context_length: int = CONTEXT_LENGTH, truncate: bool = False
) -> torch.Tensor:
    """Encodes prompts as start, tokens, end, padded with the end token.

    Args:
        prompts: P texts; case does not matter, the encoding lower-cases.
        context_length: ids per prompt, T.
        truncate: cut a longer prompt to start + the first T-2 tokens + end instead of refusing it.

    Returns:
        (P,T) int64. An empty sequence gives (0,T).

    Raises:
        ValueError: an empty prompt, one that spells a start or end token, or one longer than T
            tokens.
    """
    if isinstance(prompts, str):
        raise ValueError(
            f"prompts: expected a list of texts, got the one text {prompts!r}; put it in a list"
        )
    ids = torch.full((len(prompts), context_length), END_ID, dtype=torch.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(
                f"prompt: expected some text such as 'liver in abdomen CT', got {prompt!r}"
            )
        tokens = _encode(prompt)
        if not tokens or START_ID in tokens or END_ID in tokens:
            raise ValueError(
                f"prompt {prompt!r}: it must hold words, and no start or end marker of the"
                " tokenizer"
            )
        if len(tokens) + 2 > context_length:
            if not truncate:
                raise ValueError(
                    f"prompt {_shorten(prompt)!r}: expected at most {context_length} tokens with"
                    f" start and end, got {len(tokens) + 2}; shorten it"
                )
            tokens = tokens[: context_length - 2]
        row[0] = START_ID
        row[1 : len(tokens) + 1] = torch.tensor(tokens)
    return ids


def _shorten(prompt: str, length: int = 60) -> str:
    return prompt if len(prompt) <= length else prompt[:length] + "…"


class TokenizePromptsd(MapTransform):
    """Encodes the prompts of a dictionary: `keys` hold lists of texts, `output_keys` get (P,T)
    int64.

    Args:
        keys: entries that hold lists of prompts.
        output_keys: one per key; the default "input_ids" serves a single key.
        context_length: see `tokenize_prompts`.
        truncate: see `tokenize_prompts`.
        allow_missing_keys: entries may be absent.
    """

    def __init__(
        self,
        keys: KeysCollection = "prompts",
        output_keys: str | Sequence[Hashable] = "input_ids",
        *,
        context_length: int = CONTEXT_LENGTH,
        truncate: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_keys = (output_keys,) if isinstance(output_keys, str) else tuple(output_keys)
        if len(self.output_keys) != len(self.keys):
            raise ValueError(
                f"output_keys: expected one for each of {self.keys}, got {self.output_keys}"
            )
        self.context_length = context_length
        self.truncate = truncate

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key, output_key in self.key_iterator(result, self.output_keys):
            result[output_key] = tokenize_prompts(
                result[key], context_length=self.context_length, truncate=self.truncate
            )
        return result
