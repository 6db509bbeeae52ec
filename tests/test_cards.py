"""The cards that ship, and what happens to wrong ones and odd prompts."""

from __future__ import annotations

import copy
import csv
import json
import pickle
import shutil
from pathlib import Path

import pytest
import yaml

from boltzmed.cards import list_cards, load_card, look_up_prompt, normalise_prompt, resolve_window
from boltzmed.resources import resource_folder

CARDS = list_cards()
ONTOLOGY = Path(__file__).resolve().parents[2] / "shared" / "data" / "ontology"


@pytest.mark.parametrize("name", CARDS)
def test_shipped_cards_are_whole(name):
    card = load_card(name)
    assert card.name == name and card.licence and card.citation
    assert card.default_window in card.windows
    for target in card.targets.values():
        assert target.code is not None and target.category is not None
        assert len(target.prompts) >= 4
        assert target.window == card.windows[target.window_name]
    assert load_card(resource_folder("datasets") / f"{name}.yaml") == card
    assert pickle.loads(pickle.dumps(card)) == card


def test_phantom_card():
    card = load_card("phantom")
    assert list(card.targets) == [
        *("right lung", "left lung", "lung nodule", "heart", "aorta", "liver", "spleen", "right kidney", "left kidney"),
        "spine",
    ]
    assert card.target("right lung").labels == (1, 3, 4)
    assert card.target("left lung").labels == (2, 14, 15)
    assert card.target("lung nodule").labels == (4, 15)
    assert card.label_values["left kidney"] == 10
    for name, target in card.targets.items():
        assert target.window == ((-1000, 1000) if "lung" in name else (-150, 250))
        assert len(target.prompts) >= 5 and len(target.held_out_prompts) >= 2
        # Side words are never left out where there are two.
        side = next((side for side in ("left", "right") if side in name), None)
        if side:
            assert all(side in prompt for prompt in (*target.prompts, *target.held_out_prompts))
    assert card.split is not None
    assert [card.split.part_of(seed) for seed in (0, 899_999, 900_000, 910_000, -1, 10**6)] == [
        *("train", "train", "validation", "test", None, None),
    ]


def test_phantom_card_names_the_phantoms_own_labels():
    from boltzmed.data.phantom import PHANTOM_LABELS

    assert load_card("phantom").label_values == PHANTOM_LABELS


def test_published_windows():
    assert load_card("generic_ct").windows == {
        "abdomen": (-150, 250),
        "lung": (-1000, 1000),
        "pelvis": (-55, 200),
        "liver": (-25, 230),
        "colon": (-68, 187),
        "pancreas": (-100, 200),
    }
    assert load_card("generic_mr").windows == {"percentiles": None}


def test_codes_are_those_of_the_published_lists():
    table = ONTOLOGY / "totalsegmentator_snomed_mapping.csv"
    master = ONTOLOGY / "SegmentationCategoryTypeModifier-DICOM-Master.json"
    if not (table.is_file() and master.is_file()):
        pytest.skip("the published code lists are not beside this checkout (../shared/data/ontology)")
    known = set()
    with open(table, newline="", encoding="utf-8") as file:
        for row in list(csv.reader(file))[1:]:
            known |= {tuple(row[start : start + 3]) for start in range(1, len(row) - 3, 3)}

    def collect(node):
        if isinstance(node, dict):
            if "CodeMeaning" in node:
                known.add((node["CodingSchemeDesignator"], node["CodeValue"], node["CodeMeaning"]))
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(json.loads(master.read_text(encoding="utf-8")))
    for name in CARDS:
        for target in load_card(name).targets.values():
            for code in (target.category, target.code, target.modifier, target.region):
                assert code is None or (code.scheme, code.value, code.meaning) in known, code


def test_a_target_the_card_lacks_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match=r"card phantom: no target 'brain'; it has right lung, left lung, .*spine"):
        load_card("phantom").target("brain")
    with pytest.raises(ValueError, match=r"no card 'lidc2': expected one of generic_ct, .*phantom"):
        load_card("lidc2")
    with pytest.raises(ValueError, match=r"card .*absent\.yaml: no such file"):
        load_card("absent.yaml")
    with pytest.raises(ValueError, match="expected one of bundles, datasets"):
        resource_folder("images")


GOOD = {
    "name": "good",
    "title": "t",
    "modality": "CT",
    "licence": "l",
    "citation": "c",
    "source": "s",
    "exhaustive": True,
    "labels": {0: "background", 1: "liver", 2: "spleen"},
    "windows": {"abdomen": [-150, 250]},
    "default_window": "abdomen",
    "split": {"by": "seed", "train": [[0, 9]], "test": [[10, 19]]},
    "targets": {
        "liver": {"labels": [1], "site": "abdomen", "window": "abdomen", "prompts": ["liver in CT"]},
        "spleen": {"labels": [2], "site": "abdomen", "window": [0, 100], "prompts": ["spleen in CT"]},
    },
}


def write(folder: Path, content: object, name: str = "good.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_minimal_card_and_a_window_in_numbers(tmp_path):
    card = load_card(write(tmp_path, GOOD))
    assert card.target("spleen").window == (0.0, 100.0) and card.target("spleen").window_name == "custom"
    assert card.target("liver").code is None and card.target("liver").held_out_prompts == ()


def test_an_edited_card_is_read_again(tmp_path):
    path = write(tmp_path, GOOD)
    assert load_card(path).title == "t"
    write(tmp_path, {**GOOD, "title": "another"})
    assert load_card(path).title == "another"


@pytest.mark.parametrize(
    "way, value, message",
    [
        (("title",), None, "title: is missing"),
        (("title",), 5, "title: expected text, got 5"),
        (("name",), "other", "name: expected the file's own name 'good', got 'other'"),
        (("modality",), "PT", "modality: expected one of CT, MR, got 'PT'"),
        (("exhaustive",), "yes", "exhaustive: expected true or false, got 'yes'"),
        (("licens",), "x", "licens: unknown field"),
        (("labels",), {1: "a", 2: "a"}, "labels: 'a' names two values"),
        (("labels",), {"1": "a"}, "labels: expected integers from 0 with names"),
        (("windows",), {}, "windows: expected a mapping"),
        (("windows", "abdomen"), [250, -150], r"windows: abdomen: expected \[low, high\]"),
        (("windows", "abdomen"), "none", r"windows: abdomen: expected \[low, high\]"),
        (("default_window",), "lung", "default_window: expected one of abdomen, got 'lung'"),
        (("targets",), ["liver"], "targets: expected a mapping"),
        (("targets", "liver", "labels"), [9], "targets: liver: labels: 9 is not among"),
        (("targets", "liver", "labels"), [], "targets: liver: labels: expected a list of integers"),
        (("targets", "liver", "labels"), [1, 1], "targets: liver: labels: a value is given twice"),
        (("targets", "liver", "labels"), None, "targets: liver: labels: is missing"),
        (("targets", "liver", "window"), "bone", "targets: liver: window: expected one of abdomen"),
        (("targets", "liver", "window"), [0, float("nan")], "targets: liver: window: expected"),
        (("targets", "liver", "prompts"), [], "targets: liver: prompts: expected a list of texts"),
        (("targets", "liver", "prompts"), ["  "], "targets: liver: prompts: expected a list of texts"),
        (("targets", "liver", "held_out_prompts"), ["Spleen in  CT."], "already listed under 'liver'|under 'spleen'"),
        (("targets", "liver", "code"), ["SCT", 10200004, "Liver"], "targets: liver: code: expected .*in quotes"),
        (("targets", "liver", "colour"), "red", "targets: liver: colour: unknown field"),
        (("split", "test"), [[9, 12]], "split: test: 9 already belongs to train"),
        (("split", "test"), [[12, 10]], "split: test: expected a list of"),
        (("split", "by"), None, "split: by: is missing"),
    ],
)
def test_wrong_fields_are_named(tmp_path, way, value, message):
    content = copy.deepcopy(GOOD)
    place = content
    for step in way[:-1]:
        place = place[step]
    if value is None:
        del place[way[-1]]
    else:
        place[way[-1]] = value
    with pytest.raises(ValueError, match=message) as caught:
        load_card(write(tmp_path, content))
    assert "good.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected a mapping"),
        ("- a\n- b", "expected a mapping"),
        ("name: [", "not valid YAML at line"),
        ("name: good\nname: good", "'name' is given twice"),
        ("name: !!python/object:os.system x", "not valid YAML"),
    ],
)
def test_files_that_are_no_cards_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_card(write(tmp_path, text))
    assert "good.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_binary_files_are_refused(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match=r"good\.yaml: cannot be read"):
        load_card(path)


def test_prompts_are_compared_without_case_space_and_final_dot():
    assert normalise_prompt("  Lung   Nodule in\nchest CT. ") == "lung nodule in chest ct"


def test_listed_prompts_find_their_target():
    cards = [load_card("phantom"), load_card("generic_ct")]
    for card in cards:
        for target in card.targets.values():
            for prompt in (target.name, *target.prompts, *target.held_out_prompts):
                assert look_up_prompt(prompt, [card], modality="CT").target == target.name
    nodule = look_up_prompt("Lung nodule in chest CT.", cards)
    assert (nodule.prompt, nodule.target, nodule.card) == ("Lung nodule in chest CT.", "lung nodule", "phantom")
    assert (nodule.modality, nodule.window_name, nodule.window) == ("CT", "lung", (-1000.0, 1000.0))
    assert nodule.code is not None and nodule.code.meaning == "Nodule"
    assert look_up_prompt("liver", cards[::-1]).card == "generic_ct"


def test_free_text_takes_the_generic_card():
    cards = [load_card("phantom")]
    found = look_up_prompt("shadow near the hilum", cards, modality="CT")
    assert (found.target, found.card, found.window, found.code) == (None, "generic_ct", (-150.0, 250.0), None)
    # A CT prompt asked of an MR study is free text there.
    found = look_up_prompt("liver in abdomen CT", cards, modality="MR")
    assert (found.target, found.card, found.window_name, found.window) == (None, "generic_mr", "percentiles", None)
    with pytest.raises(ValueError, match="pass --modality CT or MR"):
        look_up_prompt("shadow near the hilum", cards)
    with pytest.raises(ValueError, match="empty prompt"):
        look_up_prompt(" . ", cards, modality="CT")
    with pytest.raises(ValueError, match="modality: expected one of CT, MR, got 'PT'"):
        look_up_prompt("liver", cards, modality="PT")


def test_windows_by_name_and_by_numbers():
    card = load_card("generic_ct")
    assert resolve_window("lung", card) == ("lung", (-1000.0, 1000.0))
    for window in ("-100,240", "-100 240", "(-100, 240)", [-100, 240], (-100.0, 240.0)):
        assert resolve_window(window, card) == ("custom", (-100.0, 240.0))
    found = look_up_prompt("liver in CT", [card], window="liver")
    assert (found.target, found.window_name, found.window) == ("liver", "liver", (-25.0, 230.0))
    for window in ("bone", "1,2,3", "5,5", "7,-7", "nan,1", "0,inf", ""):
        with pytest.raises(ValueError, match="window: expected one of abdomen"):
            resolve_window(window, card)


def test_the_folder_inside_the_package_is_looked_at_first(tmp_path, monkeypatch):
    import boltzmed.resources as resources

    package = tmp_path / "boltzmed"
    (tmp_path / "datasets").mkdir()
    package.mkdir()
    monkeypatch.setattr(resources, "__file__", str(package / "resources.py"))
    assert resources.resource_folder("datasets") == tmp_path / "datasets"
    (package / "datasets").mkdir()
    assert resources.resource_folder("datasets") == package / "datasets"
    shutil.rmtree(tmp_path / "datasets")
    with pytest.raises(ValueError, match="reinstall boltzmed"):
        resources.resource_folder("bundles")
