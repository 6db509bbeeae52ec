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
    """Encode prompts as start, tokens, end, padded with the end token.

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
            f"prompts: expected a list of texts, received one text, {prompts!r}; put it in a list"
        )
    ids = torch.full((len(prompts), context_length), END_ID, dtype=torch.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(
                f"prompt: expected some text such as 'liver in abdomen CT', received {prompt!r}"
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
                    f" start and end, received {len(tokens) + 2}; shorten it"
                )
            tokens = tokens[: context_length - 2]
        row[0] = START_ID
        row[1 : len(tokens) + 1] = torch.tensor(tokens)
    return ids


def _shorten(prompt: str, length: int = 60) -> str:
    return prompt if len(prompt) <= length else prompt[:length] + "…"


class TokenizePromptsd(MapTransform):
    """Encode prompts: texts, or what they were looked up to mean, to token ids (P,T) int64.

    Args:
        keys: of the lists of prompts; one.
        output_key: where the token ids go.
        truncate: see ``tokenize_prompts``.
        allow_missing_keys: the list may be absent.
    """

    def __init__(
        self,
        keys: KeysCollection = "prompts",
        *,
        output_key: str = "input_ids",
        truncate: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not isinstance(truncate, bool):
            raise ValueError(f"truncate_prompts: expected True or False, received {truncate!r}")
        self.output_key = output_key
        self.truncate = truncate

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with token ids beside the prompts."""
        item = dict(data)
        for key in self.key_iterator(item):
            texts = [getattr(prompt, "prompt", prompt) for prompt in item[key]]
            item[self.output_key] = tokenize_prompts(texts, truncate=self.truncate)
        return item
