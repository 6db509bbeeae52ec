"""File names made of prompts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boltzmed.slugs import SLUG_LENGTH, slug_prompts


def test_ordinary_prompts_read_as_themselves():
    assert slug_prompts(["Lung nodule in chest CT.", "left kidney", "Ödem (3 mm)"]) == [
        "lung-nodule-in-chest-ct",
        "left-kidney",
        "odem-3-mm",
    ]


def test_prompts_that_would_collide_or_lose_text_are_told_apart():
    slugs = slug_prompts(["Liver", "liver", "肝臓", "脾臓", "肝臓 liver"])
    assert len(set(slugs)) == 5
    assert all(re.fullmatch(r"(liver|prompt)-[0-9a-f]{8}", slug) for slug in slugs)
    # The same prompts in another order keep their names.
    assert slug_prompts(["liver", "Liver"]) == slugs[1::-1]


def test_names_that_windows_reserves_are_avoided():
    assert all(
        re.fullmatch(r"\w+-[0-9a-f]{8}", slug) for slug in slug_prompts(["CON", "nul.", "com1"])
    )


def test_long_prompts_stay_short_and_different():
    slugs = slug_prompts(["a" * 500, "a" * 501])
    assert all(len(slug) == SLUG_LENGTH for slug in slugs) and slugs[0] != slugs[1]


def test_repeated_and_empty_prompts_are_refused():
    with pytest.raises(ValueError, match="prompt 'liver' is given more than once"):
        slug_prompts(["liver", "spleen", "liver"])
    with pytest.raises(ValueError, match="empty prompt"):
        slug_prompts(["liver", " "])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.text(min_size=1).filter(str.strip), unique=True, max_size=6))
def test_any_text_gives_safe_and_different_names(prompts):
    slugs = slug_prompts(prompts)
    assert len(set(slugs)) == len(prompts)
    for slug in slugs:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", slug) and len(slug) <= SLUG_LENGTH
