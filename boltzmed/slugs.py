"""File-name parts made of prompts."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

SLUG_LENGTH = 80
"""Longest slug; leaves room for endings within the 255 bytes that usual file systems allow a name.
"""


def slug_prompts(prompts: Sequence[str]) -> list[str]:
    """Makes one file-name part per prompt: "Lung nodule in chest CT." -> "lung-nodule-in-chest-ct".

    Lower case ASCII letters, digits and hyphens, at most `SLUG_LENGTH` long, never a device name of
    Windows, all different. Prompts that would share one, or lose text in it, get eight digits of
    their SHA-256; a prompt's slug therefore does not depend on the order.

    Raises:
        ValueError: an empty prompt, or the same prompt twice.
    """
    if duplicates := sorted({prompt for prompt in prompts if list(prompts).count(prompt) > 1}):
        raise ValueError(f"prompt {duplicates[0]!r} is given more than once; give each prompt once")
    plain = [_slug(prompt) for prompt in prompts]
    slugs = []
    for prompt, slug in zip(prompts, plain, strict=True):
        if not prompt.strip():
            raise ValueError(
                "prompt: expected some text such as 'liver in abdomen CT', got an empty prompt"
            )
        # A prompt in another script keeps nothing or only part of itself, and must not pass for the
        # remaining words.
        lost = any(character.isalnum() and not character.isascii() for character in _fold(prompt))
        if (
            not slug
            or lost
            or len(slug) > SLUG_LENGTH
            or plain.count(slug) > 1
            or _WINDOWS_DEVICE.fullmatch(slug)
        ):
            digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            slug = f"{slug[: SLUG_LENGTH - 9].strip('-') or 'prompt'}-{digest}"
        slugs.append(slug)
    return slugs


_WINDOWS_DEVICE = re.compile(r"con|prn|aux|nul|com\d|lpt\d")


def _fold(prompt: str) -> str:
    # Accents go, the letters below them stay.
    decomposed = unicodedata.normalize("NFKD", prompt.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", _fold(prompt)).strip("-")
