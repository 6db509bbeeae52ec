"""The bundle's configs: every size builds, training resumes, inference runs from any folder, the
metadata is valid.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events
from ignite.metrics import Metric
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import MetaTensor

from boltzmed.cards import load_card, look_up_prompt
from boltzmed.export import PromptedNetwork
from boltzmed.losses import PromptLoss
from boltzmed.metrics.overlap import dice
from boltzmed.networks.weights import load_checkpoint, read_record, save_checkpoint
from boltzmed.options import RENAMED
from boltzmed.phantom.study import make_phantom, write_phantoms
from boltzmed.reports.training import read_training
from boltzmed.resources import resource_folder
from boltzmed.results import read_results
from boltzmed.slugs import slug_prompts
from boltzmed.transforms.network_input import InputSize
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.volumes import write_image
from boltzmed.workflow import (
    SaveTrained,
    build_network,
    digest_file,
    network_settings,
    read_definition,
    read_inference,
    run_inference,
    start_weights,
    training_recipe,
)

BUNDLE = resource_folder("bundles") / "boltzformer"
CONFIGS = BUNDLE / "configs"
REPOSITORY = BUNDLE.parents[1]
BATCH = ("image", "input_ids", "prompt_valid", "label")
PARAMETERS = {
    "tiny": 5_191_416,
    "tiny_gated": 5_195_833,
    "hiera_s": 170_887_640,
    "hiera_bp": 205_677_464,
    "focal_l": 343_267_856,
}
PARAMETERS |= {
    f"{size}_gated": PARAMETERS[size] + 264_705 for size in ("hiera_s", "hiera_bp", "focal_l")
}


def run_bundle(
    folder: Path, config: str, *arguments: str, root: str = ""
) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle run`` from a folder, as a user types it; paths of config and bundle
    as given.
    """
    configs = config if config.startswith("[") else str(Path(root or BUNDLE) / "configs" / config)
    given = ("--config_file", configs, "--bundle_root", root or str(BUNDLE), *arguments)
    return run_monai("run", *given, folder=folder)


def run_monai(
    command: str, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A command of ``python -m monai.bundle``."""
    return run_program("-m", "monai.bundle", command, *arguments, folder=folder)


def run_program(
    *arguments: str, program: str = sys.executable, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A program on one thread and without a GPU."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [program, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def list_causes(error: BaseException) -> str:
    """The lines of an error and of what it was raised from."""
    lines = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        lines.append(str(error))
    return "\n".join(lines)


@pytest.mark.parametrize("size", sorted(PARAMETERS))
def test_every_size_builds(size: str) -> None:
    with torch.device("meta"):
        network = build_network(CONFIGS / f"{size}.yaml")
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == PARAMETERS[size]


@pytest.mark.parametrize("size", sorted(PARAMETERS))
@pytest.mark.parametrize("config", ["inference", "evaluate", "train"])
def test_a_size_overlays_every_config(size: str, config: str) -> None:
    parser = ConfigParser()
    base = ConfigParser.load_config_file(CONFIGS / f"{size}.yaml").get("base")
    parser.read_config([str(CONFIGS / f"{name}.yaml") for name in (config, base, size) if name])
    assert parser["size"] == size and parser["image_size"] == (512 if "tiny" in size else 1024)
    with torch.device("meta"):
        definition = parser.get_parsed_content("network_def").definition
    assert definition["_target_"] == "boltzmed.networks.boltzformer.BoltzFormer"
    assert definition == read_definition(CONFIGS / f"{size}.yaml")
    assert ("presence" in definition) == size.endswith("_gated")


@pytest.mark.parametrize("size", [name for name in PARAMETERS if name.endswith("_gated")])
def test_a_checkpoint_of_a_gated_size_is_known_as_such(size: str, tmp_path: Path) -> None:
    config = CONFIGS / f"{size}.yaml"
    plain, gated = (
        network_settings(path, 64)["network"] for path in (CONFIGS / f"{size[:-6]}.yaml", config)
    )
    assert {name: part for name, part in gated.items() if name != "presence"} == plain
    assert gated["presence"]["hidden_dim"] == plain["decoder"]["hidden_dim"]
    file, weights = tmp_path / "model.pt", torch.nn.Linear(1, 1)
    save_checkpoint(
        file, weights, config=network_settings(config, 64), orientation="axial", channels="repeat"
    )
    parser = read_inference(checkpoint=file)
    trained = [parser.get_parsed_content(name) for name in ("size", "image_size", "channels")]
    assert trained == [size, 64, "repeat"]


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"huge\.yaml: no such size.*tiny, tiny_gated, hiera_s, .*, focal_l and focal_l_gated",
    ):
        build_network(CONFIGS / "huge.yaml")


def test_removed_and_unknown_options_are_refused_from_python() -> None:
    with pytest.raises(ValueError, match="form: the network's literal form is for benchmarks"):
        read_inference(form="literal")
    with pytest.raises(ValueError, match=r"treshold: expected an option of inference\.yaml"):
        read_inference(treshold=0.3)


SHARED = ("bundle_root", "device", "size_config")
"""What MONAI gives three configs no way to share: a file that stands alone from any folder cannot
name another one beside it (a macro's path is relative to the working folder).
"""


@pytest.mark.parametrize("name", ["evaluate", "inference"])
def test_what_configs_share_stands_there_alike(name: str) -> None:
    train, other = (ConfigParser.load_config_file(CONFIGS / f"{f}.yaml") for f in ("train", name))
    assert {key: other[key] for key in SHARED} == {key: train[key] for key in SHARED}
    parts = {key: other["network_def"][key] for key in other["network_def"] if key != "checkpoint"}
    assert parts == train["network_def"]
    inference = ConfigParser.load_config_file(CONFIGS / "inference.yaml")
    for key in ("trained", "network_def", "network", "size", "image_size", "channels", "plane"):
        assert other[key] == inference[key]


@pytest.fixture
def own_size(tmp_path: Path) -> Path:
    """A size of one's own, which differs from a shipped one."""
    path = tmp_path / "sizes" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("base: tiny\nnetwork_def#decoder#num_layers: 2\n")
    return path


def test_a_size_of_ones_own_may_lie_anywhere(
    own_size: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = read_definition(CONFIGS / "tiny.yaml")
    definition["decoder"]["num_layers"] = 2
    monkeypatch.chdir(tmp_path)
    for file in (own_size, Path("sizes/mine.yaml")):
        assert read_definition(file) == definition
    assert training_recipe(own_size) == training_recipe(CONFIGS / "tiny.yaml")
    own_size.write_text("base: mine\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: expected another size as its base"):
        read_definition(own_size)


def test_a_checkpoint_records_the_network_that_was_trained_and_brings_it_along(
    tmp_path: Path, phantoms: Path, own_size: Path
) -> None:
    overrides = {"size_config": str(own_size), "network_def#decoder#boltzmann": False}
    run_training(prepare_training(tmp_path, phantoms, samples_per_epoch=2, **overrides))
    own_size.unlink()
    model = tmp_path / "run" / "model.pt"
    recorded = read_record(model)
    assert recorded["network"]["decoder"].items() >= {"num_layers": 2, "boltzmann": False}.items()
    card = load_card("phantom")
    trained_on = recorded["trained_on"]["phantom"]
    assert trained_on["modality"] == "CT" and set(trained_on["targets"]) == set(card.targets)
    parser = read_inference(checkpoint=model)
    assert parser.get_parsed_content("network").definition == recorded["network"]
    assert parser.get_parsed_content("size") is None


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            {"network_def#decoder#num_layers": 6},
            r"network\.decoder\.num_layers: this run expects 6, the checkpoint was trained with 3",
        ),
        (
            {"size": "tiny_gated"},
            r"network\.presence: this run expects {.*, .*trained with nothing",
        ),
        ({"image_size": 512}, r"image_size: this run expects 512, .* trained with 64"),
    ],
)
@pytest.mark.parametrize("config", ["evaluate", "inference"])
def test_what_contradicts_a_checkpoint_is_refused(
    config: str, override: dict[str, Any], line: str, untrained: Path
) -> None:
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / f"{config}.yaml"))
    parser.update({"bundle_root": str(BUNDLE), "checkpoint": str(untrained), **override})
    with pytest.raises(Exception) as told:
        parser.get_parsed_content("network")
    assert re.search(line, list_causes(told.value))


def test_a_checkpoint_with_a_class_from_elsewhere_needs_the_size_that_names_it(
    tmp_path: Path, own_size: Path
) -> None:
    own_size.write_text(
        "base: tiny\n"
        "network_def#decoder#_target_: monai.networks.nets.BasicUNet\n"
        "network_def#pigma#_target_: boltzmed.networks.pigma.PiGMA\n"
    )
    path = tmp_path / "model.pt"
    config = network_settings(own_size, 64)
    weights = torch.nn.Linear(1, 1)
    save_checkpoint(path, weights, config=config, orientation="axial", channels="repeat")
    with pytest.raises(ValueError, match=r"expected classes of boltzmed\.networks, .*BasicUNet"):
        build_network(checkpoint=path)


def test_a_networks_own_tree_is_refused_where_it_cannot_be_recorded() -> None:
    with pytest.raises(ValueError, match="received a Linear that was built otherwise"):
        SaveTrained(
            torch.nn.Linear(1, 1),
            image_size=64,
            input_sizes=None,
            orientation="axial",
            channels="repeat",
            sources=[],
            fp16_checkpoint=False,
        )


def test_the_training_config_has_what_monai_looks_for(tmp_path: Path, phantoms: Path) -> None:
    lists = {"datalist": str(phantoms), "validation_datalist": str(phantoms)}
    workflow = ConfigWorkflow(
        str(CONFIGS / "train.yaml"),
        workflow_type="train",
        logging_file=False,
        output_dir=str(tmp_path / "run"),
        samples_per_epoch=2,
        validation_slices=2,
        image_size=64,
        **lists,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.val_interval == 1 and len(workflow.train_handlers) == 7


def test_handlers_have_names(tmp_path: Path, phantoms: Path) -> None:
    parser = prepare_training(tmp_path, phantoms, **{"train#gradient_clipping#max_norm": 0.5})
    assert parser.get_parsed_content("train#handlers")[2].max_norm == 0.5
    with pytest.raises(Exception) as told:
        prepare_training(tmp_path, phantoms, **{"train#handlers#2#max_norm": 0.5})
    assert "expected --train#gradient_clipping#max_norm 0.5, received" in list_causes(told.value)


MAY_CHANGE = {
    *("bundle_root", "output_dir", "dataset_dir", "caches", "datalist", "validation_datalist"),
    *("card", "size", "size_config", "resume", "device", "epochs", "workers"),
    *("early_stopping_patience", "fp16_checkpoint", "tensorboard", "log_interval"),
    *("preview_interval", "val_interval", "tracking_uri", "experiment_name", "run_name"),
    "save_execute_config",
}
"""Options that a training may have otherwise when it goes on: where things lie, how long, what is
shown. Data are compared by their cards and number of slices, the size by the network.
"""


def test_every_other_option_is_compared_when_a_training_goes_on() -> None:
    config = ConfigParser.load_config_file(CONFIGS / "train.yaml")
    sections = {"imports", "initialize", "run"} | set(RENAMED)
    sections |= {name for name, value in config.items() if isinstance(value, dict)}
    options = set(config) - sections - MAY_CHANGE
    assert options <= set(config["train"]["checkpoints"]["settings"])


@pytest.mark.parametrize("kind", ["boltzmed", "upstream", "sam2", "seem"])
def test_a_file_that_is_no_checkpoint_starts_no_training(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "start.pt"
    file.write_text("no weights")
    network = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"start\.pt: expected a checkpoint"):
        start_weights(network, file, kind, "cpu")
    with pytest.raises(
        ValueError, match="expected one of boltzmed, upstream, sam2, seem, received 'guess'"
    ):
        start_weights(network, file, "guess", "cpu")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datalist of two coarse phantoms."""
    return write_phantoms(
        tmp_path_factory.mktemp("phantoms"), range(2), matrix=64, slice_spacing_mm=10.0
    )


def train(folder: Path, phantoms: Path, *arguments: str) -> list[str]:
    """The losses of a short training, as printed."""
    quick = [
        "--image_size",
        "64",
        "--samples_per_epoch",
        "8",
        "--batch_size",
        "2",
        "--prompts_per_image",
        "2",
    ]
    lists = [
        "--datalist",
        str(phantoms),
        "--validation_datalist",
        str(phantoms),
        "--validation_slices",
        "4",
    ]
    done = run_bundle(
        folder, "train.yaml", *lists, *quick, "--output_dir", str(folder / "run"), *arguments
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return re.findall(r"Epoch: (\d+/\d+, Iter: \d+/\d+ -- loss: [\d.]+)", done.stdout + done.stderr)


def test_training_goes_on_where_it_stopped(tmp_path: Path, phantoms: Path) -> None:
    frames = {"phantom": [{"image_size": 64, "min_side": 64}]}
    given = ["--epochs", "2", "--log_interval", "1", "--input_sizes", str(frames)]
    whole = train(tmp_path, phantoms, *given)
    assert [line.split(",")[0] for line in whole] == ["1/2"] * 4 + ["2/2"] * 4
    run = tmp_path / "run"
    assert (run / "model.pt").is_file() and len(list(run.glob("events.*"))) >= 1
    (run / "checkpoint_epoch=2.pt").unlink()
    assert train(tmp_path, phantoms, *given) == whole[4:]

    # What it wrote is a checkpoint for inference, and for another training to start from.
    settings = {"config": network_settings(CONFIGS / "tiny.yaml", 64), "orientation": "axial"}
    network = build_network(CONFIGS / "tiny.yaml")
    held = load_checkpoint(run / "model.pt", network, channels="neighbours", **settings)
    assert held["input_sizes"] == frames
    again = [
        "--resume",
        "False",
        "--init_checkpoint",
        str(run / "model.pt"),
        "--learning_rate",
        "0.0001",
    ]
    assert train(tmp_path, phantoms, "--epochs", "1", "--log_interval", "1", *again)[0] != whole[0]


@pytest.mark.parametrize("size", sorted(PARAMETERS))
@pytest.mark.parametrize("overlay", [False, True])
def test_a_size_brings_its_rates_to_training(size: str, overlay: bool) -> None:
    parser = ConfigParser()
    parser.read_config(
        [str(CONFIGS / f"{name}.yaml") for name in (["train", size] if overlay else ["train"])]
    )
    parser.update({"bundle_root": str(BUNDLE), "size": size})
    recipe = tuple(
        parser.get_parsed_content(name) for name in ("learning_rate", "weight_decay", "schedule")
    )
    assert recipe == ((1e-3, 0.01, "one_cycle") if "tiny" in size else (2e-5, 0.01, "constant"))
    parser.update({"learning_rate": 4e-5, "weight_decay": 1e-4})
    assert (
        parser.get_parsed_content("learning_rate"),
        parser.get_parsed_content("weight_decay"),
    ) == (4e-5, 1e-4)
    assert set(network_settings(CONFIGS / f"{size}.yaml", 64)) == {"network", "image_size"}


def test_a_size_without_a_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("network_def: {}\nrecipe: {learning_rate: 1.0e-4}\n")
    with pytest.raises(
        ValueError,
        match=r"own\.yaml: expected a recipe.*, received none for weight_decay, schedule",
    ):
        training_recipe(tmp_path / "own.yaml")


def describe_training(folder: Path, phantoms: Path, **settings: Any) -> ConfigParser:
    """The config of a short training: three steps an epoch at a constant rate."""
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "train.yaml"))
    quick = {
        "image_size": 64,
        "samples_per_epoch": 6,
        "batch_size": 2,
        "prompts_per_image": 2,
        "validation_slices": 4,
    }
    lists = {
        "bundle_root": str(BUNDLE),
        "datalist": str(phantoms),
        "validation_datalist": str(phantoms),
    }
    places = {"output_dir": str(folder / "run"), "device": torch.device("cpu")}
    parser.update({**lists, **quick, **places, "epochs": 1, "schedule": "constant", **settings})
    return parser


def prepare_training(folder: Path, phantoms: Path, **settings: Any) -> ConfigParser:
    """Such a training in this process, ready to run."""
    torch.manual_seed(0)
    parser = describe_training(folder, phantoms, **settings)
    parser.get_parsed_content("validate#early_stop").set_trainer(
        parser.get_parsed_content("train#trainer")
    )
    return parser


def run_training(parser: ConfigParser) -> list[float]:
    """Its losses, step by step."""
    losses: list[float] = []
    trainer = parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: losses.append(trainer.state.output["loss"].item())
    )
    trainer.run()
    return losses


def test_what_is_tracked_changes_nothing_that_is_trained(tmp_path: Path, phantoms: Path) -> None:
    """Without tracking, and with pictures after every epoch: the same weights, averages, draws and
    checkpoints.
    """
    states = []
    for name in ("untracked", "tracked"):
        settings = {
            "tensorboard": name == "tracked",
            "preview_interval": 1,
            "log_interval": 1,
            "size": "tiny_gated",
        }
        losses = run_training(
            prepare_training(tmp_path / name, phantoms, epochs=2, samples_per_epoch=4, **settings)
        )
        run = tmp_path / name / "run"
        states.append(
            (torch.load(run / "checkpoint_epoch=2.pt", weights_only=True), torch.get_rng_state())
        )
        assert len(list(run.glob("events.*"))) == (name == "tracked")
    (untracked, draws), (tracked, other_draws) = states
    assert torch.equal(draws, other_draws)
    assert untracked.keys() == tracked.keys()
    for part in ("network", "average"):
        assert all(
            torch.equal(value, tracked[part][name]) for name, value in untracked[part].items()
        )
    assert untracked["trainer"] == tracked["trainer"] and untracked["best"] == tracked["best"]

    table = read_training(run)
    assert table["loss"].to_dict() == pytest.approx(
        {1: np.mean(losses[:2]), 2: np.mean(losses[2:])}
    )
    assert {"val_loss", "val_dice", "learning_rate", "images_per_second"} <= set(table.columns)
    assert (
        table[["val_sensitivity", "val_specificity"]].apply(lambda of: of.between(0, 1)).all(None)
    )
    parts = table["loss_dice"] + table["loss_bce"] + table["loss_presence"]
    assert parts.to_list() == pytest.approx(table["loss"].to_list(), abs=1e-5)


@pytest.mark.parametrize("absent_dice", [True, False])
def test_validation_loss_is_the_mean_over_prompts(
    tmp_path: Path, phantoms: Path, absent_dice: bool
) -> None:
    settings = {
        "validation_slices": 5,
        "prompts_per_image": 4,
        "size": "tiny_gated",
        "loss#absent_dice": absent_dice,
    }
    parser = prepare_training(tmp_path, phantoms, **settings)
    evaluator, network = (
        parser.get_parsed_content("validate#evaluator"),
        parser.get_parsed_content("average").module,
    )
    evaluator.run()
    losses: dict[str, list[float]] = {"dice": [], "bce": [], "presence": []}
    counts = []
    with torch.no_grad():
        for batch in parser.get_parsed_content("validate#dataloader"):
            for image, ids, valid, label in zip(*(batch[k] for k in BATCH), strict=True):
                for prompt in valid.nonzero().flatten().tolist():
                    output = network(image[None], ids[None, prompt : prompt + 1])
                    parts = PromptLoss().parts(output, label[None, prompt : prompt + 1])
                    for name in losses:
                        if name != "dice" or absent_dice or label[prompt].any():
                            losses[name].append(float(parts[name]))
                counts.append(int(valid.sum()))
    assert len(set(counts)) > 1, "every slice has as many prompts: a mean over slices would pass"
    assert (len(losses["dice"]) < len(losses["bce"])) == (not absent_dice)
    assert evaluator.state.metrics["val_loss"] == pytest.approx(
        sum(map(np.mean, losses.values())), rel=1e-4
    )


class Scripted(Metric):
    """Gives these values, one an epoch."""

    def __init__(self, *values: float) -> None:
        self.values = iter(values)
        super().__init__(lambda output: (0,))

    def reset(self) -> None:
        pass

    def update(self, output: Any) -> None:
        pass

    def compute(self) -> float:
        return next(self.values)


def test_training_stops_early_by_the_loss_and_keeps_the_best_dice(
    tmp_path: Path, phantoms: Path
) -> None:
    loss, scores = Scripted(3.0, 2.0, 2.5, 2.4, 1.0), Scripted(0.1, 0.3, 0.2, 0.4, 0.9)
    metrics = {"additional_metrics": {"val_loss": loss}, "key_val_metric": {"val_dice": scores}}
    overrides = {f"validate#evaluator#{name}": value for name, value in metrics.items()}
    quick = {
        "epochs": 6,
        "early_stopping_patience": 2,
        "samples_per_epoch": 2,
        "validation_slices": 2,
    }
    parser = prepare_training(tmp_path, phantoms, **quick, **overrides)
    best, saved = parser.get_parsed_content("validate#best"), []
    best.save = lambda path: saved.append(best.best)
    run_training(parser)
    assert parser.get_parsed_content("train#trainer").state.epoch == 4
    assert saved == [0.1, 0.3, 0.4]

    # Once more it has nothing left to do.
    again = prepare_training(tmp_path, phantoms, **quick, **overrides)
    run_training(again)
    trainer = again.get_parsed_content("train#trainer")
    assert trainer.state.epoch == 4 and trainer.state.iteration == 4
    assert not (tmp_path / "run" / "checkpoint_epoch=5.pt").exists()


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("fp16_checkpoint", "false", "fp16_checkpoint: expected True or False, received 'false'"),
        ("quarter_turns", 1, "quarter_turns: expected True, False or some of phantom, received 1"),
        (
            "quarter_turns",
            ["fantom"],
            "quarter_turns: expected True, False or some of phantom, received ['fantom']",
        ),
        ("epochs", "ten", "epochs: expected a whole number, received 'ten'"),
        ("batch_size", 2.5, "batch_size: expected a whole number, received 2.5"),
        (
            "samples_per_epoch",
            "most",
            "samples: expected a number from 1, or 'all', received 'most'; raise samples_per_epoch",
        ),
        ("prompts_per_image", 0, "prompts_per_image: expected 1 or more, received 0"),
        ("card_fractions", 0.5, "card_fractions: expected a number from 0 for each card, "),
        ("learning_rate", "fast", "learning_rate: expected a number, received 'fast'"),
        ("image_size", 100, "image_size: expected a multiple of 32, received 100"),
        (
            "input_sizes",
            {"phantom": {"image_size": 50}},
            "input_sizes: phantom: image_size: expected a multiple of 32, received 50",
        ),
        ("negative_probability", 20, "negative_probability: expected 0 to 1, received 20"),
        (
            "input_sizes",
            {"fantom": {"image_size": 64}},
            "input_sizes: expected some of phantom, received fantom",
        ),
    ],
)
def test_options_that_are_none_are_told(
    tmp_path: Path, phantoms: Path, name: str, value: Any, line: str
) -> None:
    with pytest.raises(Exception) as told:
        parser = describe_training(tmp_path, phantoms, **{name: value})
        for index, expression in enumerate(parser.get("initialize")):
            if "check_writable" not in expression:
                parser.get_parsed_content(f"initialize#{index}")
    assert line in list_causes(told.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, untrained: Path) -> Path:
    """The folder of a training of one epoch that started from a file, `untrained`."""
    folder = tmp_path_factory.mktemp("finished")
    run_training(
        prepare_training(folder, phantoms, samples_per_epoch=2, init_checkpoint=str(untrained))
    )
    return folder


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("ema_decay", 0.5, None),
        ("negative_probability", 0.9, None),
        ("balance", ["size"], None),
        ("init_checkpoint", None, None),
        ("init_kind", "upstream", None),
        ("empty_slices", True, None),
        ("validation_slices", 2, None),
        ("loss#presence_weight", 0.5, "presence_weight"),
        ("loss#absent_dice", False, "absent_dice"),
        ("optimizer#betas", [0.9, 0.95], "betas"),
        ("optimizer#eps", 1e-6, "eps"),
        ("schedules#one_cycle#pct_start", 0.3, "pct_start"),
        ("schedules#one_cycle#cycle_momentum", False, "cycle_momentum"),
    ],
)
def test_other_samples_or_steps_or_starts_do_not_go_on(
    finished: Path, phantoms: Path, untrained: Path, option: str, value: Any, name: str | None
) -> None:
    parser = describe_training(
        finished,
        phantoms,
        **{"samples_per_epoch": 2, "init_checkpoint": str(untrained), option: value},
    )
    settings = parser.get_parsed_content("train#checkpoints#settings")
    recorded = torch.load(finished / "run" / "checkpoint_epoch=1.pt", weights_only=True)["settings"]
    assert {key for key, held in recorded.items() if held != settings[key]} == {name or option}


def test_another_start_does_not_go_on_and_the_same_one_may_lie_elsewhere(
    finished: Path, phantoms: Path, untrained: Path, tmp_path: Path
) -> None:
    moved, other = shutil.copy(untrained, tmp_path / "moved.pt"), tmp_path / "other.pt"
    assert (
        run_training(
            prepare_training(finished, phantoms, samples_per_epoch=2, init_checkpoint=moved)
        )
        == []
    )
    settings = network_settings(CONFIGS / "tiny.yaml", 64)
    save_checkpoint(
        other,
        build_network(CONFIGS / "tiny.yaml"),
        config=settings,
        orientation="axial",
        channels="neighbours",
    )
    with pytest.raises(
        ValueError,
        match=r"checkpoint_epoch=1\.pt: expected a training with init_checkpoint [0-9a-f]{16},"
        r" received ",
    ):
        run_training(
            prepare_training(finished, phantoms, samples_per_epoch=2, init_checkpoint=str(other))
        )
    with pytest.raises(
        ValueError,
        match=r"away\.pt: expected the checkpoint that the training starts from, received none",
    ):
        digest_file(tmp_path / "away.pt")


def test_all_slices_make_an_epoch(tmp_path: Path, phantoms: Path) -> None:
    parser = describe_training(tmp_path, phantoms, samples_per_epoch="all", batch_size=1)
    assert (
        len(parser.get_parsed_content("train#sampler"))
        == len(parser.get_parsed_content("train#dataset"))
        > 2
    )


def test_the_first_beta_cycles_unless_told_otherwise(tmp_path: Path, phantoms: Path) -> None:
    for cycled in (True, False):
        given = {
            "optimizer#betas": [0.8, 0.99],
            "schedules#one_cycle#cycle_momentum": cycled,
            "schedule": "one_cycle",
        }
        parser = describe_training(tmp_path, phantoms, **given)
        parser.get_parsed_content("scheduler")
        first, second = parser.get_parsed_content("optimizer").param_groups[0]["betas"]
        assert second == 0.99 and (0.85 <= first <= 0.95 if cycled else first == 0.8)


def test_training_in_bfloat16_has_nearly_the_same_loss(tmp_path: Path, phantoms: Path) -> None:
    losses = [
        run_training(prepare_training(tmp_path / str(amp), phantoms, amp=amp, learning_rate=1e-5))
        for amp in (False, True)
    ]
    assert losses[0] != losses[1] and len(losses[1]) == 3
    assert losses[1] == pytest.approx(losses[0], abs=0.02)


def test_a_frozen_text_encoder_stays_while_the_rest_learns(
    tmp_path: Path, phantoms: Path, untrained: Path
) -> None:
    frozen = {
        "freeze_text": True,
        "init_checkpoint": str(untrained),
        "weight_decay": 0.5,
        "gradient_accumulation": 2,
    }
    start = torch.load(untrained, weights_only=True)["model"]
    whole = run_training(prepare_training(tmp_path, phantoms, epochs=2, **frozen))
    (tmp_path / "run" / "checkpoint_epoch=2.pt").unlink()
    parser = prepare_training(tmp_path, phantoms, epochs=2, **frozen)
    assert len(whole) == 6 and run_training(parser) == whole[3:]
    networks = [parser.get_parsed_content("network"), parser.get_parsed_content("average").module]
    for weights in (network.state_dict() for network in networks):
        moved = {
            name.split(".")[0]
            for name, value in weights.items()
            if not torch.equal(value, start[name])
        }
        assert moved == {"image_encoder", "pixel_decoder", "decoder", "pigma"}
    held = {
        id(value)
        for group in parser.get_parsed_content("optimizer").param_groups
        for value in group["params"]
    }
    assert held.isdisjoint(map(id, networks[0].text_encoder.parameters()))
    assert all(value.grad is None for value in networks[0].text_encoder.parameters())
    assert load_checkpoint(tmp_path / "run" / "model.pt", build_network(CONFIGS / "tiny.yaml"))


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (False, "boltzmed", "received no checkpoint"),
        (True, "sam2", "--init_kind boltzmed or upstream.*received one of kind sam2"),
        (True, "seem", "received one of kind seem"),
    ],
)
def test_a_text_encoder_without_weights_is_not_frozen(
    given: bool, kind: str, message: str, untrained: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        start_weights(
            torch.nn.Linear(1, 1), untrained if given else None, kind, "cpu", freeze_text=True
        )
    with pytest.raises(ValueError, match="freeze_text: expected True or False, received 'false'"):
        start_weights(torch.nn.Linear(1, 1), None, "boltzmed", "cpu", freeze_text="false")  # type: ignore[arg-type]


def test_training_without_data_ends_with_one_line(tmp_path: Path) -> None:
    done = run_bundle(tmp_path, "train.yaml")
    assert done.returncode != 0
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith("ValueError: expected --datalist FILE.json (")
    )


def test_training_into_a_folder_that_cannot_be_written_ends_with_one_line(
    tmp_path: Path, phantoms: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    lists = ["--datalist", str(phantoms), "--validation_datalist", str(phantoms)]
    done = run_bundle(
        tmp_path, "train.yaml", *lists, "--output_dir", str(tmp_path / "file" / "run")
    )
    assert (
        done.returncode != 0
        and "expected a folder to write into" in done.stderr.strip().splitlines()[-1]
    )


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny size for 64 × 64 pixels, not trained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    settings = network_settings(CONFIGS / "tiny.yaml", 64)
    network = build_network(CONFIGS / "tiny.yaml")
    save_checkpoint(path, network, config=settings, orientation="axial", channels="neighbours")
    return path


def test_evaluation_writes_results(tmp_path: Path, phantoms: Path, untrained: Path) -> None:
    """Of three cases, one damaged."""
    datalist = Path(shutil.copytree(phantoms.parent, tmp_path / "phantoms")) / phantoms.name
    content = json.loads(datalist.read_text())
    (records,) = (value for value in content.values() if isinstance(value, list))
    records.insert(1, {**records[0], "case": "damaged", "label": "damaged.nii.gz"})
    (datalist.parent / "damaged.nii.gz").write_bytes(b"damaged")
    datalist.write_text(json.dumps(content))
    arguments = ["--datalist", str(datalist), "--checkpoint", str(untrained), "--image_size", "64"]
    arguments += ["--targets", "['liver','lung nodule']", "--prompt_variants", "held_out"]
    arguments += ["--output_dir", str(tmp_path / "new" / "folder")]
    done = run_bundle(tmp_path, "evaluate.yaml", *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = read_results(tmp_path / "new" / "folder" / "results.csv")
    assert {row.target for row in rows} == {"liver", "lung nodule"}
    assert {row.prompt for row in rows} == {
        "hepatic tissue in abdomen CT",
        "nodular lesion in the lungs on CT",
    }
    assert {row.level for row in rows} == {"slice", "volume"} and len(
        {row.case for row in rows}
    ) == 2
    assert (
        "lung nodule" in done.stdout and "\nExcluded: case damaged: damaged.nii.gz: " in done.stdout
    )
    left_out = pd.read_csv(tmp_path / "new" / "folder" / "left_out.csv")
    assert left_out["kind"].tolist() == ["excluded"] and left_out["line"][0].startswith(
        "case damaged: "
    )
    assert {row.nsd_tolerance_mm for row in rows if row.level == "volume"} == {2.0}
    lesions = pd.read_csv(tmp_path / "new" / "folder" / "lesions.csv")
    predicted = lesions[lesions.kind == "prediction"]
    assert len(predicted) == sum(
        row.predicted_lesions or 0 for row in rows if row.level == "volume"
    )
    assert ((predicted.score >= 0.5) & (predicted.score <= 1)).all()
    measures = pd.read_csv(tmp_path / "new" / "folder" / "measures.csv").set_index("table")
    assert set(measures.loc["Lesions", "rule"]) == {"26 neighbours, match overlap"}
    tables = [
        title
        for title in done.stdout.splitlines()
        if title.startswith(("Lesions, 26", "Presence in", "Surfaces"))
    ]
    assert len(tables) == 4 and {"Lesions", "Volumes", "Slices"} < set(measures.index)


@pytest.mark.parametrize("config", ["inference", "evaluate"])
def test_a_checkpoint_brings_the_input_sizes_it_was_trained_with(
    config: str, tmp_path: Path, untrained: Path
) -> None:
    trained = {
        "lidc_idri": [{"image_size": 64, "min_side": 64}, {"image_size": 64}],
        "phantom": {"image_size": 96},
    }
    recorded = tmp_path / "model.pt"
    settings = network_settings(CONFIGS / "tiny.yaml", 64, trained)
    network = build_network(CONFIGS / "tiny.yaml")
    save_checkpoint(recorded, network, config=settings, orientation="axial", channels="neighbours")

    def read_sizes(checkpoint: Path, given: dict[str, object] | None) -> dict[str, InputSize]:
        parser = ConfigParser(ConfigParser.load_config_file(CONFIGS / f"{config}.yaml"))
        parser.update(
            {
                "bundle_root": str(BUNDLE),
                "checkpoint": checkpoint,
                "input_sizes": given,
                "image_size": 64,
            }
        )
        # It loads, whatever input sizes it records.
        assert parser.get_parsed_content("network").seed == 0
        return parser.get_parsed_content("prepare_batch").input_sizes

    assert read_sizes(recorded, None) == {"lidc_idri": InputSize(64, 64), "phantom": InputSize(96)}
    assert read_sizes(recorded, {}) == {} and read_sizes(untrained, None) == {}
    given = {"lidc_idri": {"image_size": 64}}
    assert read_sizes(recorded, given) == {"lidc_idri": InputSize(64)}


@pytest.mark.parametrize("folder", ["repository", "bundle"])
def test_inference_runs_from_the_repository_and_from_the_bundle(
    folder: str, tmp_path: Path, untrained: Path
) -> None:
    phantom = make_phantom(5, matrix=64, slice_spacing_mm=10.0)
    write_image(phantom.image_hu, phantom.affine_ras, tmp_path / "study.nii.gz")
    where, root = (REPOSITORY, "bundles/boltzformer") if folder == "repository" else (BUNDLE, ".")
    arguments = [
        "--image",
        str(tmp_path / "study.nii.gz"),
        "--prompts",
        "['liver in abdomen CT','aorta']",
    ]
    arguments += [
        "--output_dir",
        str(tmp_path / "out"),
        "--checkpoint",
        str(untrained),
        "--image_size",
        "64",
    ]
    done = run_bundle(where, "inference.yaml", *arguments, "--modality", "CT", root=root)
    assert done.returncode == 0, done.stderr[-2000:]
    study = nibabel.load(tmp_path / "study.nii.gz")
    for name in ("liver-in-abdomen-ct", "aorta"):
        mask = nibabel.load(tmp_path / "out" / "study" / f"{name}.nii.gz")
        assert mask.shape == study.shape and np.array_equal(mask.affine, study.affine)


def test_a_traceback_ends_with_the_cause(tmp_path: Path, untrained: Path) -> None:
    arguments = [
        "--image",
        str(tmp_path / "nothing.nii.gz"),
        "--prompts",
        "['liver']",
        "--output_dir",
        str(tmp_path),
    ]
    done = run_bundle(
        tmp_path, "inference.yaml", *arguments, "--checkpoint", str(untrained), "--image_size", "64"
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0 and "nothing.nii.gz" in last and "Error: " in last


def test_metadata_names_the_package_and_its_stack() -> None:
    import boltzmed

    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    assert (
        metadata["version"] in metadata["changelog"] and metadata["version"] == boltzmed.__version__
    )
    constraints = (REPOSITORY / "constraints.txt").read_text()
    stated = {"torch": metadata["pytorch_version"], "monai": metadata["monai_version"]}
    for name, version in {**stated, **metadata["required_packages_version"]}.items():
        assert re.search(rf"(?im)^{name}=={re.escape(version)}\s*$", constraints), name


@pytest.mark.parametrize(("name", "size"), [("model", "tiny"), ("joint", "tiny_gated")])
def test_the_shipped_checkpoints_are_small_and_of_their_sizes(name: str, size: str) -> None:
    model = BUNDLE / "models" / f"{name}.pt"
    assert model.stat().st_size <= 25 * 2**20
    settings = network_settings(CONFIGS / f"{size}.yaml", 512)
    held = load_checkpoint(
        model,
        build_network(CONFIGS / f"{size}.yaml"),
        config=settings,
        orientation="axial",
        channels="neighbours",
    )
    assert held["tokenizer"] == "open_clip/bpe_simple_vocab_16e6"
    wrong = network_settings(CONFIGS / f"{size}.yaml", 1024)
    with pytest.raises(
        ValueError, match="image_size: this run expects 1024, the checkpoint was trained with 512"
    ):
        load_checkpoint(model, build_network(CONFIGS / f"{size}.yaml"), config=wrong)


@pytest.mark.parametrize(
    ("checkpoint", "names"),
    [
        (
            "model",
            ["left lung", "right lung", "heart", "liver", "left kidney", "right kidney", "spine"],
        ),
        (
            "joint",
            ["left lung", "right lung", "heart", "liver", "left kidney", "right kidney", "spine"],
        ),
    ],
)
def test_the_shipped_checkpoints_follow_the_prompt(checkpoint: str, names: list[str]) -> None:
    """Each organ's prompt finds that organ and no other one, left and right included."""
    parser = read_inference(checkpoint=checkpoint)
    parser["inferer"]["progress"] = None
    network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("inferer")
    phantom, card = make_phantom(910_100, matrix=256, slice_spacing_mm=10.0), load_card("phantom")
    prompts = [look_up_prompt(card.target(name).prompts[0], [card]) for name in names]
    volume = MetaTensor(
        torch.from_numpy(phantom.image_hu.astype(np.float32))[None], affine=phantom.affine_ras
    )
    ids = tokenize_prompts([prompt.prompt for prompt in prompts])
    masks = inferer(volume, network, ids, [prompt.window for prompt in prompts])
    references = [np.isin(phantom.labels, card.target(name).labels) for name in names]
    scores = np.array(
        [[dice(masks.volume(i), reference) for reference in references] for i in range(len(names))]
    )
    # Its slices are twice as far apart as in training, so that single organs fall behind.
    own = dict(zip(names, np.diag(scores).round(2).tolist(), strict=True))
    assert np.mean(list(own.values())) > 0.7 and min(own.values()) > 0.4, own
    assert (scores - np.diag(np.diag(scores))).max() < 0.2


@pytest.mark.parametrize(
    ("card", "modality", "images", "masks", "cases", "targets", "least"),
    [
        (
            *(
                "msd_hippocampus",
                "MR",
                "Task04_Hippocampus/imagesTr",
                "Task04_Hippocampus/labelsTr",
            ),
            *(
                ["hippocampus_014", "hippocampus_036"],
                ["anterior hippocampus", "posterior hippocampus"],
                0.8,
            ),
        ),
        (
            *("lidc_idri", "CT", "lidc_nodules/images", "lidc_nodules/masks"),
            # The first eight of the test part; the gate closes on the last.
            [
                f"LIDC-IDRI-00{crop}"
                for crop in [
                    "05_R_1",
                    "05_R_2",
                    "14_R_1",
                    "27_R_1",
                    "27_R_2",
                    "27_R_4",
                    "27_R_5",
                    "34_R_1",
                ]
            ],
            *(["lung nodule"], 0.65),
        ),
    ],
)
def test_the_joint_checkpoint_outlines_real_crops(
    card: str,
    modality: str,
    images: str,
    masks: str,
    cases: list[str],
    targets: list[str],
    least: float,
    shared_data: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Of patients that training never saw, at the scale of training, which the checkpoint brings
    along.
    """
    studies = [shared_data(f"{images}/{case}.nii.gz") for case in cases]
    asked = [load_card(card).target(name) for name in targets]
    prompts = [target.prompts[0] for target in asked]
    folders = run_inference(
        studies, prompts, tmp_path, checkpoint="joint", cards=[card], modality=modality
    )
    found = []
    for case, folder in zip(cases, folders, strict=True):
        reference = np.asarray(nibabel.load(shared_data(f"{masks}/{case}.nii.gz")).dataobj)
        for target, slug in zip(asked, slug_prompts(prompts), strict=True):
            mask = np.asarray(nibabel.load(folder / f"{slug}.nii.gz").dataobj)
            found.append(dice(mask, np.isin(reference, target.labels)))
    assert np.mean(found) > least, found


NO_NETWORK = """import socket

def refuse(*_, **__):
    raise OSError("this process has no network")

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.create_connection = socket.getaddrinfo = refuse
"""


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that are started open no connection."""
    (tmp_path / "offline").mkdir()
    (tmp_path / "offline" / "sitecustomize.py").write_text(NO_NETWORK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'offline'}{os.pathsep}{REPOSITORY}")
    done = run_program("-c", "import urllib.request as r; r.urlopen('http://localhost:9')")
    assert "this process has no network" in done.stderr


def test_metadata_is_valid_by_the_bundles_own_schema_without_a_network(
    tmp_path: Path, no_network: None
) -> None:
    schema = BUNDLE / "docs" / "metadata_schema.json"
    before = schema.read_bytes()
    command = re.search(r"python -m monai\.bundle (verify_metadata .*?)\n```", read_guide(), re.S)
    assert command, "the guide tells how"
    arguments = command[1].replace("\\\n", " ").split()
    done = run_monai(*arguments, folder=REPOSITORY)
    printed = done.stdout + done.stderr
    assert done.returncode == 0 and "metadata is verified with no error" in printed, printed
    assert schema.read_bytes() == before

    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    del metadata["network_data_format"]["outputs"]["pred"]["num_channels"]
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    done = run_monai(
        "verify_metadata", "--meta_file", str(tmp_path / "metadata.json"), "--filepath", str(schema)
    )
    assert done.returncode != 0 and "'num_channels' is a required property" in done.stderr


def read_guide() -> str:
    """The bundle's own README."""
    return (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8")


PROMPTED = (
    *(
        "prompted",
        "--meta_file",
        str(CONFIGS / "metadata.json"),
        "--config_file",
        str(CONFIGS / "inference.yaml"),
    ),
    *("--bundle_root", str(BUNDLE), "--prompts", "['liver in abdomen CT']"),
)


def test_the_network_takes_and_gives_what_the_metadata_says() -> None:
    done = run_monai("verify_net_in_out", *PROMPTED, "--n", "4")
    assert done.returncode == 0, done.stderr[-2000:]
    done = run_monai(
        "verify_net_in_out",
        *PROMPTED,
        "--n",
        "4",
        "--_meta_#network_data_format#outputs#pred#dtype",
        "int64",
    )
    assert done.returncode != 0 and "doesn't match" in done.stderr


def test_the_checkpoint_is_exported_with_its_prompt(tmp_path: Path, untrained: Path) -> None:
    file = tmp_path / "model.ts"
    arguments = ["--filepath", str(file), "--ckpt_file", str(untrained), "--key_in_ckpt", "model"]
    arguments += ["--use_trace", "True", "--input_shape", "[1,3,64,64]", "--image_size", "64"]
    done = run_monai("ckpt_export", *PROMPTED, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    network = build_network(CONFIGS / "tiny.yaml")
    load_checkpoint(untrained, network)
    prompted = PromptedNetwork(network, tokenize_prompts(["liver in abdomen CT"])).eval()
    exported = torch.jit.load(file)
    for seed in (0, 1):
        image = 255 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            torch.testing.assert_close(exported(image), prompted(image), atol=1e-4, rtol=0)


def read_losses(folder: Path, tag: str = "loss") -> list[float]:
    """The loss of every step (of every validation: val_loss), from the TensorBoard files that a
    training wrote.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [event.value for event in accumulator.Scalars(tag)]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_as_one_with_the_same_global_batch(
    tmp_path: Path, phantoms: Path, accumulate: int
) -> None:
    """Over 20 steps; of two batches each over ten. Rounding ends it: a draw falls on another patch,
    sooner or later.
    """
    torchrun = shutil.which("torchrun", path=str(Path(sys.executable).parent))
    assert torchrun is not None
    settings = [
        "--bundle_root",
        str(BUNDLE),
        "--datalist",
        str(phantoms),
        "--validation_datalist",
        str(phantoms),
    ]
    settings += [
        "--image_size",
        "64",
        "--samples_per_epoch",
        "24",
        "--batch_size",
        "4",
        "--prompts_per_image",
        "2",
    ]
    settings += ["--epochs", "4", "--validation_slices", "4", "--size", "tiny_gated"]
    settings += ["--log_interval", "1", "--gradient_accumulation", str(accumulate)]
    start = ["-m", "monai.bundle", "run", "--config_file"]
    alone = [*start, str(CONFIGS / "train.yaml"), *settings, "--output_dir", str(tmp_path / "one")]
    configs = str([str(CONFIGS / name) for name in ("train.yaml", "multi_gpu_train.yaml")])
    both = ["--nproc_per_node=2", *start, configs, *settings, "--output_dir", str(tmp_path / "two")]
    for program, command in ((sys.executable, alone), (torchrun, both)):
        done = run_program(*command, program=program)
        assert done.returncode == 0, done.stderr[-2000:]
    losses = [read_losses(tmp_path / name) for name in ("one", "two")]
    assert len(losses[0]) == len(losses[1]) == 24
    assert losses[1][:20] == pytest.approx(losses[0][:20], abs=1e-4)
    validated = [read_losses(tmp_path / name, "val_loss") for name in ("one", "two")]
    assert len(validated[0]) == len(validated[1]) == 4
    assert validated[1][:3] == pytest.approx(validated[0][:3], abs=1e-4)
    assert losses[0][-1] != pytest.approx(losses[0][0], abs=1e-2)  # something was learnt meanwhile
    assert (tmp_path / "two" / "checkpoint_epoch=4.pt").is_file() and (
        tmp_path / "two" / "model.pt"
    ).is_file()


@pytest.mark.slow
def test_a_training_killed_twice_ends_as_if_it_had_never_been(
    tmp_path: Path, phantoms: Path
) -> None:
    settings = [
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        str(CONFIGS / "train.yaml"),
        "--bundle_root",
        str(BUNDLE),
    ]
    settings += [
        "--datalist",
        str(phantoms),
        "--validation_datalist",
        str(phantoms),
        "--validation_slices",
        "4",
    ]
    settings += [
        "--image_size",
        "64",
        "--samples_per_epoch",
        "12",
        "--batch_size",
        "2",
        "--prompts_per_image",
        "2",
    ]
    settings += [
        "--epochs",
        "4",
        "--size",
        "tiny_gated",
        "--gradient_accumulation",
        "4",
        "--output_dir",
    ]
    assert run_program(*settings, str(tmp_path / "whole")).returncode == 0
    run = tmp_path / "killed"

    def kill_when(reached: Callable[[], bool]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with subprocess.Popen(
            [sys.executable, *settings, str(run)], env=environment, stderr=subprocess.DEVNULL
        ) as process:
            while not reached():
                assert process.poll() is None, "it ended before it could be killed"
                time.sleep(0.0005)
            process.kill()

    kill_when(lambda: (run / "checkpoint_epoch=1.pt").is_file())
    before = set(run.iterdir())
    # While a checkpoint is written it has a temporary name.
    kill_when(
        lambda: any(
            file.suffix != ".pt" and "events" not in file.name
            for file in set(run.iterdir()) - before
        )
    )
    assert not (run / "checkpoint_epoch=4.pt").exists()
    assert run_program(*settings, str(run)).returncode == 0
    states = [
        torch.load(tmp_path / name / "checkpoint_epoch=4.pt", weights_only=True)
        for name in ("whole", "killed")
    ]
    for part in ("network", "average"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(
            torch.equal(value, states[1][part][key]) for key, value in states[0][part].items()
        )
    assert (
        states[0]["scheduler"] == states[1]["scheduler"] and states[0]["best"] == states[1]["best"]
    )
    moments = [state["optimizer"]["state"] for state in states]
    assert all(
        torch.equal(moments[0][key]["exp_avg"], moments[1][key]["exp_avg"]) for key in moments[0]
    )
