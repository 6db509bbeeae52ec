"""Dataset cards: the facts about a data set that its images do not carry.

A card is a YAML file in ``datasets/`` (its schema stands in ``datasets/README.md``): modality,
licence, label values and names, the targets that a prompt can ask for with their window, prompt
variants and SNOMED CT codes, and how the data are split. ``load_card`` turns a file into a frozen
``DatasetCard`` and ``look_up_prompt`` returns what a text prompt means. ``fields.py`` reads one
field, ``rules.py`` tells cases, patients and splits apart.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from boltzmed.cards.fields import CardReader, Window
from boltzmed.cards.rules import CaseRule, SplitRule, read_case_rule, read_layout, read_split
from boltzmed.resources import resource_folder

MODALITIES = ("CT", "MR")
PROTOCOLS = ("volume", "biomedparse")

_TARGET_FIELDS = (
    *("labels", "site", "window", "prompts", "held_out_prompts"),
    *("category", "code", "modifier", "region"),
    *("all_labels", "extra_windows", "published_names"),
)


@dataclass(frozen=True)
class Code:
    """A coded concept of DICOM (PS3.3, 8.8), e.g. scheme SCT, value 64033007, meaning Kidney."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Target:
    """One thing that can be asked for.

    Attributes:
        labels: the label values whose union is the target's mask; empty where the card has no label
            map.
        site: body region, in the words of the data set ("abdomen").
        window_name: one of the card's windows, or "custom" when the target gives its own numbers.
        window: (low, high) in HU, or None for volume percentiles.
        prompts: phrasings, the first of which is the usual one; used in training.
        held_out_prompts: phrasings that training never sees; they measure how far wording
            generalises.
        category: segmented property category and type, laterality, anatomic region (DICOM PS3.3,
            C.8.20.4); None where unknown.
        code: as ``category``.
        modifier: as ``category``.
        region: as ``category``.
        all_labels: the published protocol asks for this merged target (both kidneys) only where
            each label is seen.
        extra_windows: further windows in which the published protocol shows its slices again.
        published_names: what the published pictures' file names call it, where that is no good
            prompt ("tumor").
    """

    name: str
    labels: tuple[int, ...]
    site: str
    window_name: str
    window: Window | None
    prompts: tuple[str, ...]
    held_out_prompts: tuple[str, ...] = ()
    category: Code | None = None
    code: Code | None = None
    modifier: Code | None = None
    region: Code | None = None
    all_labels: bool = False
    extra_windows: tuple[str, ...] = ()
    published_names: tuple[str, ...] = ()

    @property
    def window_key(self) -> str:
        """The window's name; where it has none its two numbers, or "percentiles"."""
        if self.window_name != "custom":
            return self.window_name
        if self.window is None:
            return "percentiles"
        return ",".join(repr(hu).removesuffix(".0") for hu in self.window)

    @property
    def phrasings(self) -> frozenset[str]:
        """All that means this target, its name included, as ``normalise_prompt`` writes it."""
        return frozenset(map(normalise_prompt, (self.name, *self.prompts, *self.held_out_prompts)))


@dataclass(frozen=True)
class DatasetCard:
    """One data set; its attributes are the fields of a card's file.

    Attributes (``datasets/README.md`` describes all):
        exhaustive: whether a target without a mask is truly absent from the image.
        shows: body regions that its images show besides those of its targets.
        protocol: which slices count, see ``boltzmed.data.index``.
        layout: how the publisher ships the files: its ``reader`` in ``boltzmed.data.layouts``, and
            that reader's options.
        cases: what a case's name says of its number and patient.
    """

    name: str
    title: str
    modality: str
    licence: str
    citation: str
    source: str
    exhaustive: bool
    labels: Mapping[int, str]
    targets: Mapping[str, Target]
    windows: Mapping[str, Window | None]
    default_window: str
    split: SplitRule | None = None
    protocol: str = "volume"
    layout: Mapping[str, Any] = field(default_factory=dict)
    cases: CaseRule = field(default_factory=CaseRule)
    shows: tuple[str, ...] = ()

    def target(self, name: str) -> Target:
        """Return a target by name.

        Raises:
            ValueError: the card has no such target; the error lists those it has.
        """
        if name not in self.targets:
            raise ValueError(
                f"card {self.name}: no target {name!r}; it has {', '.join(self.targets)}"
            )
        return self.targets[name]

    def target_of(self, normalised_prompt: str) -> Target | None:
        """Return the target that a prompt of ``normalise_prompt`` means, or None."""
        for target in self.targets.values():
            if normalised_prompt in target.phrasings:
                return target
        return None


@dataclass(frozen=True)
class PromptTarget:
    """What a prompt means: a card's target, or free text that no card lists.

    Attributes:
        target: the card's name of the target; None for free text, and then so are the codes.
        card: where the target, or for free text the window, comes from.
        window: None for percentiles of the volume.
        category: see ``Target``.
        code: see ``Target``.
        modifier: see ``Target``.
        region: see ``Target``.
    """

    prompt: str
    target: str | None
    card: str | None
    modality: str
    window_name: str
    window: Window | None
    category: Code | None = None
    code: Code | None = None
    modifier: Code | None = None
    region: Code | None = None


def list_cards() -> list[str]:
    """Return the names of the cards that come with boltzmed, sorted."""
    return sorted(path.stem for path in resource_folder("datasets").glob("*.yaml"))


def load_card(name_or_path: str | Path) -> DatasetCard:
    """Load and check a card.

    Args:
        name_or_path: a name of ``list_cards()``, or a path that ends in .yaml or .yml.

    Raises:
        ValueError: no such card, not readable as YAML, or a field is missing, unknown or wrong; one
            line that names the file and the field.
    """
    path = card_path(name_or_path)
    return _load_file(path.resolve(), path.stat().st_mtime_ns)


def card_path(name_or_path: str | Path) -> Path:
    """Return the file of a card (see ``load_card``); ValueError if there is none."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"card {path}: no such file")
        return path
    if str(name_or_path) not in list_cards():
        raise ValueError(
            f"no card {str(name_or_path)!r}: expected one of {', '.join(list_cards())}, or a .yaml"
            " file"
        )
    return resource_folder("datasets") / f"{name_or_path}.yaml"


# The time of modification is part of the key, so that a card edited meanwhile is read again.
@lru_cache(maxsize=64)
def _load_file(path: Path, _modified_ns: int) -> DatasetCard:
    reader = CardReader.open(path)
    reader.only(*(attribute.name for attribute in fields(DatasetCard)))
    name = reader.text("name")
    if name != path.stem:
        reader.fail("name", f"expected the file's own name {path.stem!r}, received {name!r}")
    modality = reader.one_of("modality", MODALITIES)
    labels = reader.labels("labels")
    windows = reader.windows("windows", percentiles=modality == "MR")
    default_window = reader.one_of("default_window", windows)
    protocol = reader.one_of("protocol", PROTOCOLS, default=PROTOCOLS[0])
    targets = {}
    for target_name, entry in reader.sections("targets"):
        targets[target_name] = _read_target(target_name, entry, labels, windows, modality)
    _refuse_shared_prompts(targets, reader)
    return DatasetCard(
        name=name,
        title=reader.text("title"),
        modality=modality,
        licence=reader.text("licence"),
        citation=reader.text("citation"),
        source=reader.text("source"),
        exhaustive=reader.flag("exhaustive"),
        labels=labels,
        targets=targets,
        windows=windows,
        default_window=default_window,
        split=read_split(reader),
        protocol=protocol,
        layout=read_layout(reader),
        cases=read_case_rule(reader),
        shows=reader.texts("shows", required=False),
    )


def _read_target(
    name: str,
    entry: CardReader,
    labels: Mapping[int, str],
    windows: Mapping[str, Window | None],
    modality: str,
) -> Target:
    entry.only(*_TARGET_FIELDS)
    values = entry.integers("labels", required=bool(labels))
    for value in values:
        if value not in labels:
            entry.fail("labels", f"{value} is not among the card's label values {sorted(labels)}")
    window_name, window = entry.window("window", windows, percentiles=modality == "MR")
    extra_windows = entry.texts("extra_windows", required=False)
    for extra in extra_windows:
        if extra not in windows or extra == window_name:
            entry.fail(
                "extra_windows", f"expected others of {', '.join(windows)}, received {extra!r}"
            )
    return Target(
        name=name,
        labels=values,
        site=entry.text("site"),
        window_name=window_name,
        window=window,
        prompts=entry.texts("prompts"),
        held_out_prompts=entry.texts("held_out_prompts", required=False),
        category=_read_code(entry, "category"),
        code=_read_code(entry, "code"),
        modifier=_read_code(entry, "modifier"),
        region=_read_code(entry, "region"),
        all_labels=entry.flag("all_labels", default=False),
        extra_windows=extra_windows,
        published_names=entry.texts("published_names", required=False),
    )


def _read_code(entry: CardReader, field_name: str) -> Code | None:
    parts = entry.code(field_name)
    return None if parts is None else Code(*parts)


def _refuse_shared_prompts(targets: Mapping[str, Target], reader: CardReader) -> None:
    """Fail where two targets list one prompt: it would mean both."""
    owners: dict[str, str] = {}
    for target in targets.values():
        for prompt in (*target.prompts, *target.held_out_prompts):
            key = normalise_prompt(prompt)
            if key in owners:
                reader.fail(
                    f"targets: {target.name}",
                    f"prompt {prompt!r} is already listed under {owners[key]!r}",
                )
            owners[key] = target.name


def normalise_prompt(prompt: str) -> str:
    """Return the form in which prompts are compared.

    Case, runs of white space and trailing dots do not matter.
    """
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split()).rstrip(".").rstrip()


def resolve_window(window: str | Sequence[float], card: DatasetCard) -> tuple[str, Window | None]:
    """Read a window that the user passed: a name of the card, or two numbers.

    Args:
        window: "lung", "-1000,1000", "-1000 1000" or (low, high), in HU (in the file's own units
            for MR).
        card: whose window names count.

    Returns:
        (name, (low, high)), the name "custom" for numbers; (name, None) for volume percentiles.

    Raises:
        ValueError: neither a window of the card nor two numbers of which the first is lower.
    """
    parts: Sequence[str | float] = window
    if isinstance(window, str):
        if window in card.windows:
            return window, card.windows[window]
        parts = re.split(r"[,\s]+", window.strip().strip("[]()"))
    try:
        low, high = map(float, parts)
    except (TypeError, ValueError):
        low = high = math.nan  # no comparison holds, so the check below refuses it
    if not -math.inf < low < high < math.inf:
        raise ValueError(
            f"window: expected one of {', '.join(card.windows)} (card {card.name}) or LOW,HIGH with"
            f" LOW < HIGH, received {window!r}"
        )
    return "custom", (low, high)


def look_up_prompt(
    prompt: str,
    cards: Iterable[DatasetCard],
    *,
    modality: str | None = None,
    window: str | Sequence[float] | None = None,
) -> PromptTarget:
    """Return which target of which card a prompt means.

    A prompt means a target when it equals one of its prompt variants (held-out ones included) or
    its name, as ``normalise_prompt`` compares. The first card in the order of ``cards`` wins. A
    prompt that no card lists is free text: it gets the default window of the modality's generic
    card (``generic_ct``, ``generic_mr``).

    Args:
        prompt: the text.
        cards: the cards to look in.
        modality: "CT" or "MR", the study's; cards of another modality are passed over. None
            (unknown) is enough as long as cards of one modality alone list the prompt.
        window: overrides the card's window, see ``resolve_window``.

    Raises:
        ValueError: an empty prompt, an unknown modality or window, or a modality that neither the
            caller nor a card gives.
    """
    key = normalise_prompt(prompt)
    if not key:
        raise ValueError(
            "prompt: expected some text such as 'liver in abdomen CT', received an empty prompt"
        )
    if modality is not None and modality not in MODALITIES:
        raise ValueError(
            f"modality: expected one of {', '.join(MODALITIES)}, received {modality!r}"
        )
    cards = [card for card in cards if modality in (None, card.modality)]
    matches = []
    for card in cards:
        target = card.target_of(key)
        if target is not None:
            matches.append((card, target))
    if len({card.modality for card, _ in matches}) > 1:
        raise ValueError(
            f"prompt {prompt!r}: cards of CT and of MR list it; pass --modality CT or MR"
        )
    if matches:
        card, target = matches[0]
        return _describe_target(prompt, card, target, window, cards)
    if modality is None:
        raise ValueError(
            f"prompt {prompt!r}: unknown modality: neither the file nor a dataset card gives it;"
            " pass --modality CT or MR"
        )
    return _describe_free_text(prompt, modality, window, cards)


def _describe_target(
    prompt: str,
    card: DatasetCard,
    target: Target,
    window: str | Sequence[float] | None,
    cards: Sequence[DatasetCard],
) -> PromptTarget:
    window_name = target.window_name
    numbers = target.window
    if window is not None:
        # A window's name may be another card's: the phantom's card has two, the generic CT card
        # more.
        naming = [other for other in (card, *cards) if window in other.windows]
        window_name, numbers = resolve_window(window, naming[0] if naming else card)
    return PromptTarget(
        prompt=prompt,
        target=target.name,
        card=card.name,
        modality=card.modality,
        window_name=window_name,
        window=numbers,
        category=target.category,
        code=target.code,
        modifier=target.modifier,
        region=target.region,
    )


def _describe_free_text(
    prompt: str,
    modality: str,
    window: str | Sequence[float] | None,
    cards: Sequence[DatasetCard],
) -> PromptTarget:
    generic_name = f"generic_{modality.lower()}"
    own_generic = [card for card in cards if card.name == generic_name]
    generic = own_generic[0] if own_generic else load_card(generic_name)
    window_name, numbers = resolve_window(
        generic.default_window if window is None else window, generic
    )
    return PromptTarget(prompt, None, generic.name, modality, window_name, numbers)
