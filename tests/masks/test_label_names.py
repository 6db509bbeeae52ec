"""Names of label values, as a user or a card gives them."""

from __future__ import annotations

import pytest

from boltzmed.cards import load_card
from boltzmed.masks.label_names import (
    check_names,
    labelled_targets,
    name_by_card,
    name_labels,
    parse_labels,
)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("1=liver", {"liver": (1,)}),
        ("1=a, 2 = b c ,1+2=both", {"a": (1,), "b c": (2,), "both": (1, 2)}),
    ],
)
def test_labels(text, labels):
    assert parse_labels(text) == labels


@pytest.mark.parametrize(
    "text", ["", "liver", "1=", "x=liver", "1=a,1", "1=a,2=a", "0=background", "1=a,", "-1=a"]
)
def test_other_labels_are_refused(text):
    with pytest.raises(ValueError, match="labels: expected such as 1=anterior"):
        parse_labels(text)


def test_a_target_is_found_by_its_name_however_it_is_written() -> None:
    names = name_labels({"Lung nodule": (1, 2)})
    assert names.find("lung-nodule") == {1, 2} and names.find("lung") is None
    assert names.known is None and names.source == "--labels"


def test_names_that_file_names_cannot_tell_apart_are_refused() -> None:
    check_names(["lung nodule", "lung"])
    with pytest.raises(ValueError, match="received 'lung nodule' and 'Lung-Nodule'; rename one"):
        check_names(["lung nodule", "Lung-Nodule"])


def test_a_card_names_its_own_values() -> None:
    card = load_card("msd_hippocampus")
    names = name_by_card(card)
    assert names.targets["hippocampus"] == {1, 2} and names.known == {0, 1, 2}
    assert (names.source, names.dataset) == ("card msd_hippocampus", "msd_hippocampus")


def test_a_card_without_labels_scores_nothing():
    assert [
        target.name for target in labelled_targets(load_card("phantom"), ["spleen", "liver"])
    ] == [
        "spleen",
        "liver",
    ]
    assert len(labelled_targets(load_card("phantom"))) == 10
    with pytest.raises(
        ValueError, match="card generic_ct: expected a card that maps label values to targets"
    ):
        labelled_targets(load_card("generic_ct"))
    with pytest.raises(ValueError, match="no target 'gills'"):
        labelled_targets(load_card("phantom"), ["gills"])
