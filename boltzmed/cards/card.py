"""Dataset cards: the facts about a data set that its images do not carry.

A card is a YAML file in `datasets/` (its schema stands in `datasets/README.md`): modality, licence,
label values and names, the targets one can ask for with their window, phrasings and SNOMED CT
codes, and how the data are split. `load_card` turns a file into a frozen `DatasetCard`;
`look_up_prompt` finds what a text prompt means.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from boltzmed.cards.fields import CardReader
from boltzmed.cards.rules import CaseRule, SplitRule, read_case_rule, read_layout, read_split
from boltzmed.resources import resource_folder

MODALITIES = ("CT", "MR")
PROTOCOLS = ("volume", "biomedparse")
Window = tuple[float, float]
"""Lowest and highest HU that stay distinguishable; None stands for percentiles of the volume (MR).
"""


@dataclass(frozen=True)
class Code:
    """A coded concept as DICOM writes it (PS3.3, 8.8): scheme, value and meaning, e.g. SCT 64033007
    Kidney.
    """

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
        category, code, modifier, region: segmented property category and type, laterality, anatomic
            region (DICOM PS3.3, C.8.20.4); None where unknown.
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
        return (
            "percentiles"
            if self.window is None
            else ",".join(repr(v).removesuffix(".0") for v in self.window)
        )

    @property
    def phrasings(self) -> frozenset[str]:
        """All that means this target, its name included, as `normalise_prompt` writes it."""
        return frozenset(map(normalise_prompt, (self.name, *self.prompts, *self.held_out_prompts)))


@dataclass(frozen=True)
class DatasetCard:
    """One data set.

    Attributes (`datasets/README.md` has all):
        exhaustive: a target without a mask is truly absent from the image. shows: body regions that
        its images show besides those of its targets. protocol: which slices count, see
        `boltzmed.data.index`. layout: how the publisher ships the files: its `reader` in
        `boltzmed.data.layouts`, and that reader's options. cases: what a case's name says of its
        number and patient.
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
        """Returns a target by name; one the card does not have is refused with those it has
        (ValueError).
        """
        if name not in self.targets:
            raise ValueError(
                f"card {self.name}: no target {name!r}; it has {', '.join(self.targets)}"
            )
        return self.targets[name]


@dataclass(frozen=True)
class PromptTarget:
    """What a prompt means: its card's target, or free text with the window of the modality's
    generic card.

    `target` is None for free text, and then so are the codes. `window` is None for percentiles of
    the volume.
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
    """Returns the names of the cards that come with boltzmed, sorted."""
    return sorted(path.stem for path in resource_folder("datasets").glob("*.yaml"))


def load_card(name_or_path: str | Path) -> DatasetCard:
    """Loads and checks a card.

    Args:
        name_or_path: a name of `list_cards()`, or a path that ends in .yaml or .yml.

    Raises:
        ValueError: no such card, not readable as YAML, or a field is missing, unknown or wrong; one
            line that names the file and the field.
    """
    path = card_path(name_or_path)
    return _load_file(path.resolve(), path.stat().st_mtime_ns)


def card_path(name_or_path: str | Path) -> Path:
    """Returns the file of a card (see `load_card`); ValueError if there is none."""
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


@lru_cache(maxsize=64)
def _load_file(path: Path, _modified_ns: int) -> DatasetCard:
    reader = CardReader.open(path)
    reader.only(
        *(
            "name",
            "title",
            "modality",
            "licence",
            "citation",
            "source",
            "exhaustive",
            "labels",
            "targets",
            "windows",
        ),
        *("default_window", "split", "protocol", "layout", "cases", "shows"),
    )
    name = reader.text("name")
    if name != path.stem:
        reader.fail("name", f"expected the file's own name {path.stem!r}, got {name!r}")
    modality = reader.text("modality")
    if modality not in MODALITIES:
        reader.fail("modality", f"expected one of {', '.join(MODALITIES)}, got {modality!r}")
    labels = reader.labels("labels")
    windows = reader.windows("windows", percentiles=modality == "MR")
    default_window = reader.text("default_window")
    if default_window not in windows:
        reader.fail(
            "default_window", f"expected one of {', '.join(windows)}, got {default_window!r}"
        )
    protocol = reader.text("protocol") if "protocol" in reader.names else PROTOCOLS[0]
    if protocol not in PROTOCOLS:
        reader.fail("protocol", f"expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    targets = {
        target_name: _read_target(target_name, entry, labels, windows, modality)
        for target_name, entry in reader.sections("targets")
    }
    owner: dict[str, str] = {}
    for target in targets.values():
        for prompt in (*target.prompts, *target.held_out_prompts):
            key = normalise_prompt(prompt)
            if key in owner:
                reader.fail(
                    f"targets: {target.name}",
                    f"prompt {prompt!r} is already listed under {owner[key]!r}",
                )
            owner[key] = target.name
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
    entry.only(
        *(
            "labels",
            "site",
            "window",
            "prompts",
            "held_out_prompts",
            "category",
            "code",
            "modifier",
            "region",
        ),
        *("all_labels", "extra_windows", "published_names"),
    )
    values = entry.integers("labels", required=bool(labels))
    for value in values:
        if value not in labels:
            entry.fail("labels", f"{value} is not among the card's label values {sorted(labels)}")
    window_name, window = entry.window("window", windows, percentiles=modality == "MR")
    extra_windows = entry.texts("extra_windows", required=False)
    for extra in extra_windows:
        if extra not in windows or extra == window_name:
            entry.fail("extra_windows", f"expected others of {', '.join(windows)}, got {extra!r}")
    code_fields = ("category", "code", "modifier", "region")
    codes = {name: Code(*parts) if (parts := entry.code(name)) else None for name in code_fields}
    return Target(
        name=name,
        labels=values,
        site=entry.text("site"),
        window_name=window_name,
        window=window,
        prompts=entry.texts("prompts"),
        held_out_prompts=entry.texts("held_out_prompts", required=False),
        all_labels="all_labels" in entry.names and entry.flag("all_labels"),
        extra_windows=extra_windows,
        published_names=entry.texts("published_names", required=False),
        **codes,
    )


def normalise_prompt(prompt: str) -> str:
    """Returns the form in which prompts are compared: case, runs of white space and trailing dots
    do not matter.
    """
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split()).rstrip(".").rstrip()


def resolve_window(window: str | Sequence[float], card: DatasetCard) -> tuple[str, Window | None]:
    """Reads a window given by the user: a name of the card, or two numbers.

    Args:
        window: "lung", "-1000,1000", "-1000 1000" or (low, high), in HU (in the file's own units
            for MR).
        card: whose window names count.

    Returns:
        (name, (low, high)), the name "custom" for numbers; (name, None) for volume percentiles.

    Raises:
        ValueError: neither a window of the card nor two numbers of which the first is lower.
    """
    if isinstance(window, str):
        if window in card.windows:
            return window, card.windows[window]
        parts: Sequence[str | float] = re.split(r"[,\s]+", window.strip().strip("[]()"))
    else:
        parts = window
    try:
        low, high = (float(part) for part in parts)
        valid = low < high and abs(low) != float("inf") and abs(high) != float("inf")
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"window: expected one of {', '.join(card.windows)} (card {card.name}) or LOW,HIGH with"
            f" LOW < HIGH, got {window!r}"
        )
    return "custom", (low, high)


def look_up_prompt(
    prompt: str,
    cards: Iterable[DatasetCard],
    *,
    modality: str | None = None,
    window: str | Sequence[float] | None = None,
) -> PromptTarget:
    """Finds which target of which card a prompt means.

    A prompt means a target when it equals one of its phrasings (held-out ones included) or its
    name, as `normalise_prompt` compares. The first card in the given order wins. A prompt that no
    card lists is free text: it gets the default window of the modality's generic card
    (`generic_ct`, `generic_mr`).

    Args:
        prompt: the text.
        cards: the cards to look in.
        modality: "CT" or "MR", the study's; cards of another modality are passed over. None
            (unknown) is enough as long as cards of one modality alone list the prompt.
        window: overrides the card's window, see `resolve_window`.

    Raises:
        ValueError: an empty prompt, an unknown modality or window, or a modality that nothing
            tells.
    """
    key = normalise_prompt(prompt)
    if not key:
        raise ValueError(
            "prompt: expected some text such as 'liver in abdomen CT', got an empty prompt"
        )
    if modality is not None and modality not in MODALITIES:
        raise ValueError(f"modality: expected one of {', '.join(MODALITIES)}, got {modality!r}")
    cards = [card for card in cards if modality is None or card.modality == modality]
    listing = [
        card for card in cards if any(key in target.phrasings for target in card.targets.values())
    ]
    if len({card.modality for card in listing}) > 1:
        raise ValueError(
            f"prompt {prompt!r}: cards of CT and of MR list it; pass --modality CT or MR"
        )
    for card in listing:
        for target in card.targets.values():
            if key in target.phrasings:
                name, numbers = target.window_name, target.window
                if window is not None:
                    # A window's name may be another card's: the phantom's card knows two, the
                    # generic CT card more.
                    naming = [other for other in (card, *cards) if window in other.windows]
                    name, numbers = resolve_window(window, naming[0] if naming else card)
                codes = (target.category, target.code, target.modifier, target.region)
                return PromptTarget(
                    prompt, target.name, card.name, card.modality, name, numbers, *codes
                )
    if modality is None:
        raise ValueError(
            f"prompt {prompt!r}: no card lists it, so its modality must be said; pass --modality CT"
            " or MR"
        )
    generic_name = f"generic_{modality.lower()}"
    generic = next((card for card in cards if card.name == generic_name), None) or load_card(
        generic_name
    )
    name, numbers = resolve_window(generic.default_window if window is None else window, generic)
    return PromptTarget(prompt, None, generic.name, modality, name, numbers)
