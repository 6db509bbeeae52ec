"""The cards that ship, and what happens to wrong ones and odd prompts."""

from __future__ import annotations

import copy
import csv
import gzip
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import yaml

from boltzmed.cards import list_cards, load_card, look_up_prompt, normalise_prompt, resolve_window
from boltzmed.cards.rules import LAYOUTS
from boltzmed.resources import resource_folder

CARDS = list_cards()
PUBLIC = ["amos22_ct", "amos22_mr", "lidc_idri"]
PUBLIC += [f"msd_{name}" for name in ("colon", "hepaticvessel", "hippocampus", "lung", "pancreas")]
SHARED = Path(__file__).resolve().parents[2] / "shared"
ONTOLOGY = SHARED / "data" / "ontology"
SIDES = ("left", "right")


def test_the_cards_that_ship():
    assert sorted([*PUBLIC, "generic_ct", "generic_mr", "phantom", "template"]) == CARDS


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
        "right lung",
        "left lung",
        "lung nodule",
        "heart",
        "aorta",
        "liver",
        "spleen",
        "right kidney",
        "left kidney",
        "spine",
    ]
    assert card.target("right lung").labels == (1, 3, 4)
    assert card.target("left lung").labels == (2, 14, 15)
    assert card.target("lung nodule").labels == (4, 15)
    assert card.labels[10] == "left kidney"
    for name, target in card.targets.items():
        assert target.window == ((-1000, 1000) if "lung" in name else (-150, 250))
        assert len(target.prompts) >= 5 and len(target.held_out_prompts) >= 2
        # Side words are never left out where there are two.
        side = next((side for side in ("left", "right") if side in name), None)
        if side:
            assert all(side in prompt for prompt in (*target.prompts, *target.held_out_prompts))
    assert card.split is not None
    assert [card.split.part_of(seed) for seed in (0, 899_999, 900_000, 910_000, -1, 10**6)] == [
        "train",
        "train",
        "validation",
        "test",
        None,
        None,
    ]


def test_phantom_card_names_the_phantoms_own_labels():
    from boltzmed.phantom.study import PHANTOM_LABELS

    assert {name: value for value, name in load_card("phantom").labels.items()} == PHANTOM_LABELS


@pytest.mark.parametrize("name", [*PUBLIC, "template"])
def test_phrasings_of_the_data_sets(name):
    card = load_card(name)
    shown = {"CT": "CT", "MR": "MRI"}[card.modality]
    for target in card.targets.values():
        assert target.prompts[0] == f"{target.name} in {target.site} {shown}"
        assert len(target.prompts) >= 6 and len(target.held_out_prompts) >= 2
        for prompt in (*target.prompts, *target.held_out_prompts):
            assert look_up_prompt(prompt, [card]).target == target.name
            assert len(prompt.split()) <= 15 and prompt == " ".join(prompt.split())
            # A phrasing names its own side and modality, and never the other.
            words = re.findall(r"\w+", prompt)
            side = next((side for side in SIDES if side in target.name), None)
            if side:
                assert (
                    side in words and next(other for other in SIDES if other != side) not in words
                )
            assert not {"CT": {"MRI", "magnetic"}, "MR": {"CT", "tomography"}}[card.modality] & set(
                words
            )


def test_what_one_card_holds_out_no_other_trains_on():
    targets = [target for name in CARDS for target in load_card(name).targets.values()]
    held_out = {
        normalise_prompt(prompt) for target in targets for prompt in target.held_out_prompts
    }
    assert not held_out & {
        normalise_prompt(prompt) for target in targets for prompt in (target.name, *target.prompts)
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_cards_of_public_data_sets_say_how_to_prepare_them(name):
    card = load_card(name)
    readers = {"amos22": "amos22", "lidc": "lidc_idri", "msd": "decathlon"}
    assert card.layout["reader"] == readers[name.split("_")[0]]
    assert card.licence.startswith("CC BY") and card.source.startswith("http")
    assert (
        card.labels[0] == "background"
        and card.split is not None
        and card.split.validation_share == 0.2
    )
    # Every label can be asked for, but for those that AMOS22 leaves out on purpose.
    unasked = (
        set(card.labels)
        - {0}
        - {value for target in card.targets.values() for value in target.labels}
    )
    assert unasked == {"amos22_ct": {15}, "amos22_mr": {14, 15}}.get(name, set())
    # The paper's data sets follow its protocol; the hippocampus is not one of them.
    assert card.protocol == ("volume" if name == "msd_hippocampus" else "biomedparse")
    # Where not all that can be asked for is annotated, no mask does not mean absent.
    assert card.exhaustive == (name not in ("msd_lung", "msd_hepaticvessel"))


def test_published_windows_of_the_data_sets():
    published = load_card("generic_ct").windows
    for name in PUBLIC:
        card = load_card(name)
        for target in card.targets.values():
            if card.modality == "MR":
                assert (target.window_name, target.window) == ("percentiles", None)
            else:
                assert target.window_name == target.site and target.window == published[target.site]
    sites = {name: {target.site for target in load_card(name).targets.values()} for name in PUBLIC}
    assert sites == {
        **{
            "amos22_ct": {"abdomen"},
            "amos22_mr": {"abdomen"},
            "lidc_idri": {"lung"},
            "msd_lung": {"lung"},
        },
        **{"msd_colon": {"colon"}, "msd_hepaticvessel": {"liver"}, "msd_pancreas": {"pancreas"}},
        "msd_hippocampus": {"brain"},
    }
    extra = {
        (name, target.name): target.extra_windows
        for name in PUBLIC
        for target in load_card(name).targets.values()
        if target.extra_windows
    }
    assert extra == {("amos22_ct", "liver"): ("liver",)}


def test_amos_targets_and_labels():
    ct, mr = load_card("amos22_ct"), load_card("amos22_mr")
    assert ct.labels == mr.labels and sorted(ct.labels) == list(range(16))
    # Table 9 of the paper lists the same targets for both, but for the bladder.
    assert set(ct.targets) - set(mr.targets) == {"bladder"} and set(mr.targets) < set(ct.targets)
    assert len(ct.targets) == 16
    merged = {"kidney": (2, 3), "adrenal gland": (11, 12)}
    for card in (ct, mr):
        for target in card.targets.values():
            expected = merged.get(target.name) or tuple(
                value for value, name in card.labels.items() if name == target.name
            )
            assert (target.labels, target.all_labels) == (expected, target.name in merged)
            side = next((side for side in SIDES if side in target.name), None)
            assert (target.modifier.meaning.lower() if target.modifier else None) == side
    assert (ct.layout["numbers"], mr.layout["numbers"]) == ((1, 500), (501, 9999))


def test_other_targets_and_labels():
    labels = {
        name: {target.name: target.labels for target in load_card(name).targets.values()}
        for name in PUBLIC
        if not name.startswith("amos")
    }
    assert labels == {
        "lidc_idri": {"lung nodule": (1,)},
        "msd_colon": {"colon tumor": (1,)},
        "msd_hepaticvessel": {"hepatic vessel": (1,), "liver tumor": (2,)},
        "msd_hippocampus": {
            "hippocampus": (1, 2),
            "anterior hippocampus": (1,),
            "posterior hippocampus": (2,),
        },
        "msd_lung": {"lung tumor": (1,)},
        "msd_pancreas": {"pancreas": (1,), "pancreas tumor": (2,)},
    }


@pytest.mark.parametrize(
    "name, task, last_fifth",
    [
        ("msd_lung", "06", 13),
        ("msd_pancreas", "07", 57),
        ("msd_hepaticvessel", "08", 61),
        ("msd_colon", "10", 26),
    ],
)
def test_decathlon_test_cases_are_the_last_fifth(name, task, last_fifth):
    path = ONTOLOGY / f"dataset_task{task}.json"
    if not path.is_file():
        pytest.skip("the Decathlon's lists are not beside this checkout (../shared/data/ontology)")
    content = json.loads(path.read_text(encoding="utf-8"))
    card = load_card(name)
    assert set(card.labels) == {int(value) for value in content["labels"]}
    numbers = sorted(
        number
        for item in content["training"]
        if (number := card.cases.number_of(Path(item["image"]).name[: -len(".nii.gz")]))
    )
    assert len(numbers) == content["numTraining"] and -(-len(numbers) // 5) == last_fifth
    parts = [card.split.part_of(number) for number in numbers]
    assert parts == ["train"] * (len(numbers) - last_fifth) + ["test"] * last_fifth


@pytest.mark.parametrize(
    "name, results, patients",
    [
        ("msd_pancreas", "MSD-Pancreas", 57),
        ("msd_hepaticvessel", "MSD-HepaticVessel", 61),
        ("lidc_idri", "LIDC-IDRI", 159),
        ("amos22_ct", "AMOS22-CT", 50),
    ],
)
def test_splits_are_those_of_the_published_results(name, results, patients):
    path = SHARED / "results" / f"{results}.csv.gz"
    if not path.is_file():
        pytest.skip("the published results are not beside this checkout (../shared/results)")
    card = load_card(name)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # A row's case is the volume's name with the slice and the target:
    # pancreas_345_28_CT_pancreas_tumor.
    volumes = {re.match(r"LIDC-IDRI-\d{4}|[a-z]+_\d+", row["case"])[0] for row in rows}
    tested = {card.cases.number_of(volume) for volume in volumes}
    assert len(volumes) == len(tested) == patients
    if name == "amos22_ct":
        # The ranges keep none of them for training, so the publisher's validation folder makes them
        # test.
        assert {card.split.part_of(number) for number in tested} == {None}
    else:
        assert {card.split.part_of(number) for number in tested} == {"test"}
    if name == "lidc_idri":
        assert tested == {
            number for first, last in card.split.parts["test"] for number in range(first, last + 1)
        }
    # Targets, sites and windows are named as there.
    named = {
        (target.site, target.name.split()[-1] if "amos" not in name else target.name)
        for target in card.targets.values()
    }
    named |= {
        (window, target.name) for target in card.targets.values() for window in target.extra_windows
    }
    shown = {(re.search(r"_CT_([a-z]+)_", row["case"])[1], row["target"]) for row in rows}
    assert shown == named


def test_parts_of_amos_and_the_hippocampus():
    ct, mr, hippocampus = (
        load_card(name).split for name in ("amos22_ct", "amos22_mr", "msd_hippocampus")
    )
    assert (
        ct.subsets == mr.subsets == {"validation": "test"} and ct.test_share == mr.test_share == 0
    )
    assert [ct.part_of(number) for number in (1, 228, 229, 500)] == ["train", "train", None, None]
    assert [mr.part_of(number) for number in (501, 556, 557, 600)] == ["train", "train", None, None]
    assert (hippocampus.parts, hippocampus.subsets) == ({}, {})
    assert (hippocampus.test_share, hippocampus.validation_share) == (0.2, 0.2)


def test_names_of_cases():
    lidc, hippocampus = load_card("lidc_idri").cases, load_card("msd_hippocampus").cases
    for case, number in (
        ("LIDC-IDRI-0003_R_2", 3),
        ("LIDC-IDRI-0132-1", 132),
        ("LIDC-IDRI-1008", 1008),
    ):
        assert (lidc.number_of(case), lidc.patient_of(case)) == (number, f"LIDC-IDRI-{number:04d}")
    sides = [hippocampus.patient_of(f"hippocampus_{number:03d}") for number in (1, 2, 3, 4)]
    assert sides[0] == sides[1] != sides[2] == sides[3]
    amos = load_card("amos22_ct").cases
    assert (amos.number_of("amos_0233"), amos.patient_of("amos_0233")) == (233, "amos_0233")


def test_template_shows_every_field():
    card = load_card("template")
    assert "TEMPLATE" in card.title and card.source == "none" and card.layout == {"reader": "pairs"}
    assert card.target("liver").labels == (1, 2) and card.target("liver lesion").labels == (2,)
    assert (
        card.cases.number_of("site2_patient017_scan3"),
        card.cases.patient_of("a_patient017_scan3"),
    ) == (17, "patient017")
    text = (resource_folder("datasets") / "template.yaml").read_text(encoding="utf-8")
    fields = {
        "name",
        "title",
        "modality",
        "licence",
        "citation",
        "source",
        "exhaustive",
        "protocol",
        "layout",
        "reader",
        "cases",
        "number",
        "patient",
        "numbers_per_patient",
        "labels",
        "windows",
        "default_window",
        "targets",
        "split",
        "by",
        "train",
        "validation",
        "test",
        "subsets",
        "test_share",
        "validation_share",
        "site",
        "window",
        "all_labels",
        "extra_windows",
        "prompts",
        "held_out_prompts",
        "category",
        "code",
        "modifier",
        "region",
        "shows",
    }
    assert fields <= set(re.findall(r"^\s*(?:# )?(\w+):", text, re.MULTILINE))


def test_a_copy_of_the_template_with_its_remarks_switched_on(tmp_path):
    text = (resource_folder("datasets") / "template.yaml").read_text(encoding="utf-8")
    text = text.replace("name: template", "name: my_livers")
    for field in ("by", "train", "validation", "test", "subsets", "modifier"):
        text = re.sub(rf"^( *)# ({field}: )", r"\1\2", text, flags=re.MULTILINE)
    text = re.sub(r"^( *)patient: .*\n", "", text, flags=re.MULTILINE).replace(
        "# numbers_per", "numbers_per"
    )
    card = load_card(write(tmp_path, text, "my_livers.yaml"))
    assert (
        card.split.part_of(22) == "test"
        and card.split.part_of(99) == "train"
        and card.split.by == "patient number"
    )
    assert card.cases.numbers_per_patient == 2 and card.target("liver").modifier.meaning == "Right"


def test_the_readme_lists_every_card_and_reader():
    text = (resource_folder("datasets") / "README.md").read_text(encoding="utf-8")
    for word in (*CARDS, *LAYOUTS, *(option for options in LAYOUTS.values() for option in options)):
        assert f"`{word}`" in text, word


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


def list_codes(node: object) -> set[tuple[str, str, str]]:
    """Every (scheme, value, meaning) of a nested JSON document."""
    if isinstance(node, list):
        return {code for value in node for code in list_codes(value)}
    if not isinstance(node, dict):
        return set()
    codes = {code for value in node.values() for code in list_codes(value)}
    if "CodeMeaning" in node:
        codes.add((node["CodingSchemeDesignator"], node["CodeValue"], node["CodeMeaning"]))
    return codes


def test_codes_are_those_of_the_published_lists():
    table = ONTOLOGY / "totalsegmentator_snomed_mapping.csv"
    master = ONTOLOGY / "SegmentationCategoryTypeModifier-DICOM-Master.json"
    if not (table.is_file() and master.is_file()):
        pytest.skip(
            "the published code lists are not beside this checkout (../shared/data/ontology)"
        )
    known = list_codes(json.loads(master.read_text(encoding="utf-8")))
    with open(table, newline="", encoding="utf-8") as file:
        for row in list(csv.reader(file))[1:]:
            known |= {tuple(row[start : start + 3]) for start in range(1, len(row) - 3, 3)}
    for name in CARDS:
        for target in load_card(name).targets.values():
            for code in (target.category, target.code, target.modifier, target.region):
                assert code is None or (code.scheme, code.value, code.meaning) in known, code


def test_a_target_the_card_lacks_is_refused_with_those_it_has():
    with pytest.raises(
        ValueError, match=r"card phantom: no target 'brain'; it has right lung, left lung, .*spine"
    ):
        load_card("phantom").target("brain")
    with pytest.raises(ValueError, match=r"no card 'lidc2': expected one of amos22_ct, .*phantom"):
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
    "windows": {"abdomen": [-150, 250], "lung": [-1000, 1000]},
    "default_window": "abdomen",
    "split": {"by": "seed", "train": [[0, 9]], "test": [[10, 19]], "validation_share": 0.2},
    "protocol": "volume",
    "layout": {"reader": "pairs"},
    "cases": {"number": "n([0-9]+)"},
    "targets": {
        "liver": {
            "labels": [1],
            "site": "abdomen",
            "window": "abdomen",
            "prompts": ["liver in CT"],
        },
        "spleen": {
            "labels": [2],
            "site": "abdomen",
            "window": [0, 100],
            "prompts": ["spleen in CT"],
        },
    },
}


def write(folder: Path, content: object, name: str = "good.yaml") -> Path:
    path = folder / name
    path.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8"
    )
    return path


def test_a_minimal_card_and_a_window_in_numbers(tmp_path):
    card = load_card(write(tmp_path, GOOD))
    assert (
        card.target("spleen").window == (0.0, 100.0)
        and card.target("spleen").window_name == "custom"
    )
    assert card.target("liver").code is None and card.target("liver").held_out_prompts == ()
    assert not card.target("liver").all_labels and card.target("liver").extra_windows == ()


def test_without_its_optional_fields_a_card_has_the_defaults(tmp_path):
    content = {
        name: value
        for name, value in GOOD.items()
        if name not in ("split", "protocol", "layout", "cases")
    }
    card = load_card(write(tmp_path, content))
    assert (card.split, card.protocol, card.layout) == (None, "volume", {})
    assert (card.cases.number_of("a_12_b_007"), card.cases.number_of("scan")) == (7, None)
    assert (card.cases.patient_of("a_12_b_007"), card.cases.find_patient("a_12_b_007")) == (
        "a_12_b_007",
        None,
    )


def test_parts_of_a_split(tmp_path):
    split = {
        "by": "case number",
        "train": [[1, 5]],
        "test": [7, [9, 11]],
        "subsets": {"validation": "test"},
    }
    rule = load_card(write(tmp_path, {**GOOD, "split": {**split, "test_share": 1}})).split
    assert [rule.part_of(number) for number in (0, 1, 5, 6, 7, 8, 9, 11, 12)] == [
        None,
        "train",
        "train",
        None,
        "test",
        None,
        "test",
        "test",
        None,
    ]
    assert (rule.subsets, rule.test_share, rule.validation_share) == (
        {"validation": "test"},
        1.0,
        0.0,
    )
    # Shares alone number nothing.
    rule = load_card(
        write(tmp_path, {**GOOD, "split": {"test_share": 0.25, "validation_share": 0.2}})
    ).split
    assert (rule.parts, rule.test_share, rule.part_of(1)) == ({}, 0.25, None)


def test_extra_windows_and_options_of_a_layout(tmp_path):
    content = copy.deepcopy(GOOD)
    content["targets"]["liver"] |= {"labels": [1, 2], "all_labels": True, "extra_windows": ["lung"]}
    content["layout"] = {"reader": "lidc_idri", "consensus": 0.75, "min_readers": 3}
    card = load_card(write(tmp_path, content))
    assert card.target("liver").all_labels and card.target("liver").extra_windows == ("lung",)
    assert card.layout == content["layout"]


def test_an_edited_card_is_read_again(tmp_path):
    path = write(tmp_path, GOOD)
    assert load_card(path).title == "t"
    write(tmp_path, {**GOOD, "title": "another"})
    assert load_card(path).title == "another"


@pytest.mark.parametrize(
    "way, value, message",
    [
        (("title",), None, "title: is missing"),
        (("title",), 5, "title: expected text, received 5"),
        (("name",), "other", "name: expected the file's own name 'good', received 'other'"),
        (("modality",), "PT", "modality: expected one of CT, MR, received 'PT'"),
        (("exhaustive",), "yes", "exhaustive: expected true or false, received 'yes'"),
        (("licens",), "x", "licens: unknown field"),
        (("labels",), {1: "a", 2: "a"}, "labels: 'a' names two values"),
        (("labels",), {"1": "a"}, "labels: expected integers from 0 with names"),
        (("windows",), {}, "windows: expected a mapping"),
        (("windows", "abdomen"), [250, -150], r"windows: abdomen: expected \[low, high\]"),
        (("windows", "abdomen"), "none", r"windows: abdomen: expected \[low, high\]"),
        (
            ("default_window",),
            "bone",
            "default_window: expected one of abdomen, lung, received 'bone'",
        ),
        (("targets",), ["liver"], "targets: expected a mapping"),
        (("targets", "liver", "labels"), [9], "targets: liver: labels: 9 is not among"),
        (("targets", "liver", "labels"), [], "targets: liver: labels: expected a list of integers"),
        (("targets", "liver", "labels"), [1, 1], "targets: liver: labels: a value is given twice"),
        (("targets", "liver", "labels"), None, "targets: liver: labels: is missing"),
        (("targets", "liver", "window"), "bone", "targets: liver: window: expected one of abdomen"),
        (("targets", "liver", "window"), [0, float("nan")], "targets: liver: window: expected"),
        (("targets", "liver", "prompts"), [], "targets: liver: prompts: expected a list of texts"),
        (
            ("targets", "liver", "prompts"),
            ["  "],
            "targets: liver: prompts: expected a list of texts",
        ),
        (
            ("targets", "liver", "held_out_prompts"),
            ["Spleen in  CT."],
            "already listed under 'liver'|under 'spleen'",
        ),
        (
            ("targets", "liver", "code"),
            ["SCT", 10200004, "Liver"],
            "targets: liver: code: expected .*in quotes",
        ),
        (("targets", "liver", "colour"), "red", "targets: liver: colour: unknown field"),
        (("split", "test"), [[9, 12]], "split: test: 9 already belongs to train"),
        (("split", "test"), [[12, 10]], "split: test: expected a list of"),
        (("split", "by"), None, "split: by: is missing"),
        (("split", "test"), [], "split: test: expected a list of numbers"),
        (("split", "tests"), [1], "split: tests: unknown field"),
        (
            ("split", "subsets"),
            {"validation": "dev"},
            "split: subsets: validation: expected one of train, .*'dev'",
        ),
        (("split", "subsets"), ["validation"], "split: subsets: expected a mapping"),
        (
            ("split", "test_share"),
            0,
            "split: test_share: expected a share above 0 and at most 1, received 0",
        ),
        (("split", "validation_share"), 20, "split: validation_share: expected a share"),
        (
            ("protocol",),
            "slices",
            "protocol: expected one of volume, biomedparse, received 'slices'",
        ),
        (("layout",), "pairs", "layout: expected a mapping"),
        (("layout", "reader"), None, "layout: reader: is missing"),
        (
            ("layout", "reader"),
            "bids",
            "layout: reader: expected one of amos22, .*pairs, received 'bids'",
        ),
        (("layout", "numbers"), [1, 5], "layout: numbers: unknown field"),
        (
            ("layout",),
            {"reader": "amos22", "numbers": [5, 1]},
            r"layout: numbers: expected \[first, last\]",
        ),
        (
            ("layout",),
            {"reader": "amos22", "numbers": [[1, 5]]},
            r"layout: numbers: expected \[first, last\]",
        ),
        (
            ("layout",),
            {"reader": "lidc_idri", "consensus": 2},
            "layout: consensus: expected a share",
        ),
        (
            ("layout",),
            {"reader": "lidc_idri", "min_readers": -1},
            "layout: min_readers: expected a whole number",
        ),
        (("cases", "numbers"), 2, "cases: numbers: unknown field"),
        (
            ("cases", "number"),
            "[0-9]+",
            "cases: number: expected a regular expression with 1 group",
        ),
        (("cases", "number"), "(", "cases: number: expected a regular expression, received"),
        (
            ("cases", "patient"),
            "(a)(b)",
            "cases: patient: expected a regular expression with 1 group",
        ),
        (("cases",), {"patient": "a", "numbers_per_patient": 2}, "cases: patient: .*received both"),
        (
            ("cases",),
            {"numbers_per_patient": 0},
            "cases: numbers_per_patient: expected a number from 1, received 0",
        ),
        (
            ("cases",),
            {"numbers_per_patient": 1.5},
            "cases: numbers_per_patient: expected a whole number",
        ),
        (
            ("targets", "liver", "all_labels"),
            "yes",
            "targets: liver: all_labels: expected true or false",
        ),
        (
            ("targets", "liver", "extra_windows"),
            ["abdomen"],
            "liver: extra_windows: expected others of .*'abdomen'",
        ),
        (
            ("targets", "liver", "extra_windows"),
            ["bone"],
            "liver: extra_windows: expected others of .*'bone'",
        ),
        (
            ("targets", "liver", "extra_windows"),
            "lung",
            "liver: extra_windows: expected a list of texts",
        ),
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
    assert (nodule.prompt, nodule.target, nodule.card) == (
        "Lung nodule in chest CT.",
        "lung nodule",
        "phantom",
    )
    assert (nodule.modality, nodule.window_name, nodule.window) == ("CT", "lung", (-1000.0, 1000.0))
    assert nodule.code is not None and nodule.code.meaning == "Nodule"
    assert look_up_prompt("liver", cards[::-1]).card == "generic_ct"


def test_free_text_takes_the_generic_card():
    cards = [load_card("phantom")]
    found = look_up_prompt("shadow near the hilum", cards, modality="CT")
    assert (found.target, found.card, found.window, found.code) == (
        None,
        "generic_ct",
        (-150.0, 250.0),
        None,
    )
    # A CT prompt asked of an MR study is free text there.
    found = look_up_prompt("liver in abdomen CT", cards, modality="MR")
    assert (found.target, found.card, found.window_name, found.window) == (
        None,
        "generic_mr",
        "percentiles",
        None,
    )
    with pytest.raises(ValueError, match="pass --modality CT or MR"):
        look_up_prompt("shadow near the hilum", cards)
    with pytest.raises(ValueError, match="empty prompt"):
        look_up_prompt(" . ", cards, modality="CT")
    with pytest.raises(ValueError, match="modality: expected one of CT, MR, received 'PT'"):
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
