"""Slugs: the part of a mask's file name that comes from its prompt."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

SLUG_LENGTH = 80
"""Longest slug; endings still fit into the 255 bytes that most file systems allow a name."""

_WINDOWS_DEVICE = re.compile(r"con|prn|aux|nul|com\d|lpt\d")
"""Names that Windows keeps for devices, whatever their suffix."""


def slug_prompts(prompts: Sequence[str]) -> list[str]:
    """Make one file-name part per prompt: "Lung nodule in chest CT." -> "lung-nodule-in-chest-ct".

    Slugs are lower-case ASCII letters, digits and hyphens, at most ``SLUG_LENGTH`` long, never a
    device name of Windows, all different. Prompts that would share one, or lose text in it, get
    eight digits of their SHA-256, so that a prompt's slug does not depend on the order.

    Raises:
        ValueError: an empty prompt, or the same prompt twice.
    """
    plain_slugs = list(map(_slug, prompts))
    slugs = []
    for prompt, slug in zip(prompts, plain_slugs, strict=True):
        if not prompt.strip():
            raise ValueError(
                "prompt: expected some text such as 'liver in abdomen CT', received an empty prompt"
            )
        if list(prompts).count(prompt) > 1:
            raise ValueError(f"prompt {prompt!r} is given more than once; give each prompt once")
        is_shared = plain_slugs.count(slug) > 1
        if is_shared or not _says_all(slug, prompt):
            digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            readable = slug[: SLUG_LENGTH - 9].strip("-") or "prompt"
            slug = f"{readable}-{digest}"
        slugs.append(slug)
    return slugs


def _says_all(slug: str, prompt: str) -> bool:
    """Return whether a slug holds all words of its prompt and can be a file's name."""
    # A prompt in another script keeps nothing or only part of itself in ASCII, and must not pass
    # for the words that remain.
    for character in _fold(prompt):
        if character.isalnum() and not character.isascii():
            return False
    return 0 < len(slug) <= SLUG_LENGTH and not _WINDOWS_DEVICE.fullmatch(slug)


def _fold(prompt: str) -> str:
    """Return the prompt in lower case without accents; the letters below them stay."""
    decomposed = unicodedata.normalize("NFKD", prompt.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", _fold(prompt)).strip("-")
