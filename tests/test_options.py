"""Options of a bundle run: misspelt ones are refused, values of another kind too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from boltzmed.options import (
    RENAMED,
    check_count,
    check_flag,
    check_names,
    check_number,
    rename_options,
    renamed,
)
from boltzmed.resources import resource_folder

CONFIGS: Path = resource_folder("bundles") / "boltzformer" / "configs"
TRAIN, OVERLAY, EVALUATE, INFERENCE = (
    str(CONFIGS / f"{name}.yaml") for name in ("train", "multi_gpu_train", "evaluate", "inference")
)
BOTH = f"['{TRAIN}','{OVERLAY}']"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config_file", TRAIN, "--learning_rate", "4e-5", "--epochs=20"],
        [
            "run",
            "--config_file",
            TRAIN,
            "--train#gradient_clipping#max_norm",
            "0.5",
            "--validate::dataset::seed",
            "1",
        ],
        [
            "--config_file",
            BOTH,
            "--ddp_network#find_unused_parameters",
            "True",
            "--bundle_root",
            "b",
        ],
        [
            f"--config_file={TRAIN},{OVERLAY}",
            "--learning-rate",
            "-1",
            "--tracking",
            "mlflow",
            "--tracking_uri",
            "http://a",
        ],
        ["--config_file", EVALUATE, "--caches", "['--lr']", "--", "--trace"],
        [
            "--config_file",
            TRAIN,
            "--_meta_#version",
            "2",
            "--properties_path",
            "p",
            "--run_name",
            "-_x",
        ],
        ["--config_file", TRAIN, "--nohalf", "--resume", "False", "--noempty_slices"],
        [
            "--config_file",
            INFERENCE,
            "--tracking",
            "mlflow",
            "--experiment_name",
            "x",
            "--save_execute_config",
            "False",
        ],
        ["--lr", "1"],  # a program's own
    ],
)
def test_options_of_the_configs_pass(arguments):
    check_names(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--epoch", "10"],
            (
                "--epoch: expected an option of train.yaml, multi_gpu_train.yaml; did you mean"
                " --epochs"
            ),
        ),
        (["--epoch=10"], "--epoch: expected"),
        (["-epoch", "10"], "--epoch: expected"),
        (["---epoch", "10"], "--epoch: expected"),
        (["--noepoch"], "--noepoch: expected"),
        (["--nohalf", "10"], "--nohalf: expected"),
        (["--epoch", "--half", "True"], "--epoch: expected"),
        (["--learning_rat", "1"], "did you mean --learning_rate"),
        (["--lr", "1"], r"--lr: expected an option of .*; the file lists them with their defaults"),
        (["--trian#dataset#seed", "1"], r"--trian#dataset#seed: .* did you mean --train"),
        (["--seed", "1", "--qx"], "--qx: expected"),
    ],
)
def test_others_are_refused_by_name(monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "--config_file", BOTH, *arguments])
    with pytest.raises(ValueError, match=message) as error:
        check_names()
    assert "\n" not in str(error.value)


def test_options_in_an_args_file_count(tmp_path):
    path = tmp_path / "args.yaml"
    nested = "train#dataset#seed: 3\nvalidate::dataset::seed: 3\n+input_sizes: {}\n"
    path.write_text(f"config_file: {TRAIN}\nepochs: 3\n{nested}")
    check_names(["--args_file", str(path), "--seed", "1"])
    with pytest.raises(ValueError, match=r"--epoch: expected an option of train\.yaml"):
        check_names(["--args_file", str(path), "--epoch", "1"])
    path.write_text(f"config_file: {TRAIN}\nlr: 3\n")
    with pytest.raises(ValueError, match=r"--lr: expected an option of train\.yaml"):
        check_names(["--args_file", str(path)])


def test_values_of_another_kind_are_refused():
    assert (check_flag(half=True), check_count(epochs=0), check_number(rate=1)) == (True, 0, 1)
    with pytest.raises(ValueError, match="half: expected True or False, received 'false'"):
        check_flag(half="false")
    for value in (-1, 1.0, True, "1"):
        with pytest.raises(
            ValueError, match=f"epochs: expected a whole number, received {value!r}"
        ):
            check_count(epochs=value)
    for value in (float("nan"), float("inf"), False, "1"):
        with pytest.raises(ValueError, match=f"rate: expected a number, received {value!r}"):
            check_number(rate=value)


def test_a_removed_option_says_where_it_went():
    with pytest.raises(ValueError, match=r"--form: the network's literal form is for benchmarks"):
        check_names(["--config_file", TRAIN, "--form", "literal"])


def test_a_former_name_is_taken_with_one_line(caplog):
    assert renamed(0.998, average_decay=None) == 0.998 and not caplog.records
    assert renamed(0.998, average_decay=0.5) == 0.5
    assert caplog.messages == [
        "average_decay is called ema_decay now; the former name works for one more version"
    ]
    assert rename_options({"half": True, "epochs": 2}) == {"fp16_checkpoint": True, "epochs": 2}


@pytest.mark.parametrize("path", [TRAIN, EVALUATE, INFERENCE])
def test_every_renamed_option_of_a_config_has_its_former_name_beside_it(path):
    config = ConfigParser.load_config_file(path)
    for former, name in RENAMED.items():
        assert (name in config) == (former in config)
        if name in config:
            assert config[former] is None and f"{former}=@{former})" in config[name]
