"""The command line: help without heavy imports, and every kind of wrong input ends with one clear
line and status 2.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from boltzmed.cli import main
from boltzmed.networks.weights import save_checkpoint
from boltzmed.resources import resource_folder
from boltzmed.volumes import read_volume, write_ct_series
from boltzmed.workflow import build_network, network_settings, read_inference, run_inference

CONFIG = resource_folder("bundles") / "boltzformer" / "configs" / "tiny.yaml"
PROMPT = "liver in abdomen CT"


def save_image(path: Path, voxels: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 5.0, 1.0])), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    settings = network_settings(CONFIG, 512)
    save_checkpoint(
        path, build_network(CONFIG), config=settings, orientation="axial", channels="neighbours"
    )
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return save_image(tmp_path / "study.nii.gz", np.full((16, 16, 2), 40, np.int16))


def predict(*arguments: object, output: Path, modality: str = "CT", prompt: str = PROMPT) -> int:
    texts = [str(argument) for argument in arguments]
    return main(
        ["predict", *texts, "--prompt", prompt, "--output", str(output), "--modality", modality]
    )


def the_line(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line of the error, which stands last; only a progress bar or MONAI's log may stand
    before it.
    """
    text = capfd.readouterr().err
    lines = [
        line for line in text.replace("\r", "\n").splitlines() if line.startswith("boltzmed: ")
    ]
    assert len(lines) == 1 and text.rstrip().endswith(lines[0]) and "Traceback" not in text, text
    return lines[0]


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, boltzmed.cli\nboltzmed.cli.main([])\n"
    code += (
        "print([m for m in ('torch', 'monai', 'numpy', 'ignite', 'pydicom') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "predict" in done.stdout


@pytest.mark.parametrize("command", ["predict", "demo", "phantom", "evaluate", "series"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0 and command in capsys.readouterr().out


def text_file(folder: Path) -> Path:
    path = folder / "text.nii.gz"
    path.write_text("this is no image\n")
    return path


def empty_folder(folder: Path) -> Path:
    path = folder / "empty"
    path.mkdir()
    return path


def truncated_file(folder: Path) -> Path:
    voxels = np.random.default_rng(0).integers(-1000, 1000, (32, 32, 8)).astype(np.int16)
    path = save_image(folder / "truncated.nii.gz", voxels)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def short_file(folder: Path) -> Path:
    """Well compressed, but of fewer voxels than its header says."""
    whole = save_image(folder / "whole.nii", np.zeros((16, 16, 4), np.int16)).read_bytes()
    path = folder / "short.nii.gz"
    path.write_bytes(gzip.compress(whole[: len(whole) - 100]))
    return path


def with_value(value: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        voxels = np.zeros((16, 16, 2), np.float32)
        voxels[3, 4, 1] = value
        return save_image(folder / "values.nii.gz", voxels)

    return make


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda folder: folder / "missing.nii.gz", ["missing.nii.gz", "check the path"]),
        (lambda folder: folder / "missing_folder", ["missing_folder", "check the path"]),
        (empty_folder, ["empty", "DICOM"]),
        (text_file, ["text.nii.gz", "expected"]),
        (truncated_file, ["truncated.nii.gz", "expected"]),
        (short_file, ["short.nii.gz", "expected"]),
        (
            lambda f: save_image(f / "four.nii.gz", np.zeros((8, 8, 2, 3), np.int16)),
            ["four.nii.gz", "(8, 8, 2, 3)"],
        ),
        (with_value(np.nan), ["values.nii.gz", "finite"]),
        (with_value(np.inf), ["values.nii.gz", "finite"]),
    ],
    ids=[
        "missing",
        "missing-folder",
        "empty-folder",
        "text",
        "truncated",
        "short",
        "4d",
        "nan",
        "infinite",
    ],
)
def test_a_study_that_is_none(
    make: Callable[[Path], Path],
    parts: list[str],
    checkpoint: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    assert predict(make(tmp_path), "--checkpoint", checkpoint, output=output) == 2
    line = the_line(capfd)
    assert all(part in line for part in parts), line
    assert not output.exists() or not list(output.iterdir())


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("", ["prompt", "''"]),
        ("   ", ["prompt"]),
        ("liver " * 90, ["prompt", "77"]),
        ("\x00", ["prompt"]),
    ],
    ids=["empty", "blank", "long", "control"],
)
def test_a_prompt_that_is_none(
    prompt: str,
    parts: list[str],
    study: Path,
    checkpoint: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert predict(study, "--checkpoint", checkpoint, output=tmp_path / "out", prompt=prompt) == 2
    line = the_line(capfd)
    assert all(part in line for part in parts), line
    assert not (tmp_path / "out").exists()


def other_size(folder: Path) -> Path:
    """A checkpoint that records a network with more queries than its weights have."""
    network, settings = build_network(CONFIG), network_settings(CONFIG, 512)
    settings["network"]["decoder"]["num_queries"] = 20
    path = folder / "other.pt"
    save_checkpoint(path, network, config=settings, orientation="axial", channels="neighbours")
    return path


def damaged(checkpoint: Path, folder: Path) -> Path:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 0x55
    path = folder / "damaged.pt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["missing", "cut", "damaged", "other size", "text"])
def test_a_checkpoint_that_does_not_fit(
    kind: str, study: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, part = tmp_path / f"{kind.split()[0]}.pt", "checkpoint"
    if kind == "cut":
        path.write_bytes(checkpoint.read_bytes()[:100_000])
    elif kind == "damaged":
        path = damaged(checkpoint, tmp_path)
    elif kind == "other size":
        path, part = (
            other_size(tmp_path),
            "decoder.query_features: expected shape (20, 64), received (12, 64)",
        )
    elif kind == "text":
        path.write_text("weights")
    assert predict(study, "--checkpoint", path, output=tmp_path / "out") == 2
    line = the_line(capfd)
    assert path.name in line and part in line, line
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file(
    study: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("precious")
    assert predict(study, "--checkpoint", checkpoint, output=tmp_path / "out") == 2
    assert "another output folder" in the_line(capfd)
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser writes anywhere"
)
def test_a_read_only_output_folder(
    study: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    assert predict(study, "--checkpoint", checkpoint, output=tmp_path / "out") == 2
    assert "another output folder" in the_line(capfd)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize("earlier", [False, True], ids=["fresh", "with an earlier run's masks"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(
    earlier: bool, study: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the full disk: both fail in the middle of writing."""
    output = tmp_path / "out"
    before = {}
    if earlier:
        (output / "study").mkdir(parents=True)
        (output / "study" / "run.json").write_text("{}")
        before = {"study/run.json": "{}"}
    code = "import resource, sys\nfrom boltzmed.cli import main\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))\nsys.exit(main(sys.argv[1:]))"
    arguments = [
        "predict",
        str(study),
        "--prompt",
        PROMPT,
        "--output",
        str(output),
        "--modality",
        "CT",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--checkpoint", str(checkpoint)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("boltzmed: ") and "another output folder" in last and str(output) in last
    assert {
        p.relative_to(output).as_posix(): p.read_text() for p in output.rglob("*") if p.is_file()
    } == before


def test_two_studies_of_one_name(
    study: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    twin = save_image(other / "study.nii.gz", np.zeros((16, 16, 2), np.int16))
    assert predict(study, twin, "--checkpoint", checkpoint, output=tmp_path / "out") == 2
    line = the_line(capfd)
    assert str(study) in line and str(twin) in line


def test_a_nifti_file_without_modality(
    study: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The card's prompt says CT; a free text does not, and neither does the file."""
    arguments = ["predict", str(study), "--prompt", "something", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--checkpoint", str(checkpoint)]) == 2
    assert "--modality" in the_line(capfd)


def test_a_study_is_of_one_modality(
    study: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file does not say which; a prompt that a card lists does, and none may contradict it."""
    arguments = [
        "predict",
        str(study),
        "--output",
        str(tmp_path / "out"),
        "--checkpoint",
        str(checkpoint),
    ]
    assert main([*arguments, "--prompt", PROMPT, "--prompt", "prostate in MRI"]) == 2
    assert (
        f"expected prompts of one modality, received '{PROMPT}' of CT and 'prostate in MRI' of MR"
        in the_line(capfd)
    )
    assert main([*arguments, "--prompt", PROMPT]) == 0
    assert json.loads((tmp_path / "out" / "study" / "run.json").read_text())["modality"] == "CT"


def test_several_studies_in_one_run(
    study: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    second = save_image(tmp_path / "second.nii", np.zeros((20, 12, 3), np.int16))
    assert predict(study, second, "--checkpoint", checkpoint, output=tmp_path / "out") == 0
    printed = capfd.readouterr().out.split()
    assert printed[-2:] == [str(tmp_path / "out" / "study"), str(tmp_path / "out" / "second")]
    for case, shape in (("study", (16, 16, 2)), ("second", (20, 12, 3))):
        files = {path.name for path in (tmp_path / "out" / case).iterdir()}
        assert files == {"liver-in-abdomen-ct.nii.gz", "run.json"}
        assert nibabel.load(tmp_path / "out" / case / "liver-in-abdomen-ct.nii.gz").shape == shape


def test_a_text_that_looks_like_an_expression_is_a_prompt(
    study: Path, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for prompt in ("$print('called')", "@seed", "%seed"):
        assert predict(study, "--checkpoint", checkpoint, output=output, prompt=prompt) == 0
        record = json.loads((output / "study" / "run.json").read_text())
        assert [entry["prompt"] for entry in record["prompts"]] == [prompt]


def test_a_setting_is_no_expression(
    study: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (
        predict(
            study,
            "--checkpoint",
            checkpoint,
            "--window",
            "$print('called')",
            output=tmp_path / "out",
        )
        == 2
    )
    out, err = capfd.readouterr()
    assert "window: expected a plain value" in err and "called" not in out


@pytest.mark.parametrize(
    "window", [["--window", "-150,250"], ["--window=-150,250"]], ids=["apart", "joined"]
)
def test_a_window_may_begin_below_zero(
    window: list[str], study: Path, checkpoint: Path, tmp_path: Path
) -> None:
    assert predict(study, "--checkpoint", checkpoint, *window, output=tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "study" / "run.json").read_text())
    assert record["prompts"][0]["window"] == {"name": "custom", "range": [-150, 250]}


def test_a_name_that_ct_and_mr_share_needs_a_modality(
    study: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(study), "--prompt", "liver", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--checkpoint", str(checkpoint)]) == 2
    assert "prompt 'liver': cards of CT and of MR list it; pass --modality CT or MR" in the_line(
        capfd
    )


@pytest.fixture(scope="module")
def jointly_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a presence gate that records an input size, not trained."""
    torch.manual_seed(0)
    config = CONFIG.with_name("tiny_gated.yaml")
    path = tmp_path_factory.mktemp("gated") / "model.pt"
    settings = network_settings(config, 512, {"msd_hippocampus": {"image_size": 64}})
    save_checkpoint(
        path, build_network(config), config=settings, orientation="axial", channels="neighbours"
    )
    return path


def test_a_checkpoints_input_sizes_and_gate_are_used_and_recorded(
    jointly_trained: Path, study: Path, tmp_path: Path
) -> None:
    prompts = ["anterior hippocampus", "something else"]
    arguments = [
        "predict",
        str(study),
        "--modality",
        "MR",
        "--output",
        str(tmp_path),
        "--card",
        "msd_hippocampus",
    ]
    arguments += ["--checkpoint", str(jointly_trained)]  # which brings its size along
    arguments += [part for prompt in prompts for part in ("--prompt", prompt)]

    def input_sizes() -> list[tuple[int, int]]:
        entries = json.loads((tmp_path / "study" / "run.json").read_text())["prompts"]
        assert all(
            len(entry["presence"]) == 2 and "presence_smoothed" not in entry for entry in entries
        )
        sizes = [entry["input_size"] for entry in entries]
        return [(size["image_size"], size["min_side"]) for size in sizes]

    assert main(arguments) == 0 and input_sizes() == [(64, 1), (512, 1)]
    told = ["--image-size", "96", "--min-side", "32"]
    assert main([*arguments, *told]) == 0 and input_sizes() == [(96, 32)] * 2


def test_the_bundles_checkpoints_go_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = CONFIG.parents[1] / "models"
    parser = read_inference(checkpoint="model")
    assert parser["checkpoint"] == models / "model.pt" and parser["size"] == "tiny"
    shutil.copy(models / "model.pt", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert read_inference(checkpoint="model")["checkpoint"] == Path("model")  # a file comes first
    with pytest.raises(ValueError, match=r"^\.\./models/model: "):
        read_inference(checkpoint="../models/model")


def test_a_checkpoint_is_used_as_it_was_trained(study: Path, tmp_path: Path) -> None:
    """At another image size, in another plane and with other channels than the bundle's default."""
    path, config = tmp_path / "own.pt", CONFIG.with_name("tiny_gated.yaml")
    saved = {"config": network_settings(config, 64), "orientation": "coronal", "channels": "repeat"}
    save_checkpoint(path, build_network(config), **saved)
    arguments = [
        "predict",
        str(study),
        "--modality",
        "CT",
        "--prompt",
        "liver",
        "--checkpoint",
        str(path),
    ]
    arguments += ["--presence-threshold", "0.25", "--presence-smoothing-mm", "4"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    settings = json.loads((tmp_path / "out" / "study" / "run.json").read_text())["settings"]
    expected = {"size": "tiny_gated", "image_size": 64, "plane": "coronal", "channels": "repeat"}
    expected |= {"presence_threshold": 0.25, "presence_smoothing_mm": 4.0}
    assert {name: settings[name] for name in expected} == expected


def test_smoothed_presence_is_recorded_beside_the_raw_one(
    jointly_trained: Path, tmp_path: Path
) -> None:
    image = save_image(
        tmp_path / "study.nii.gz", np.random.default_rng(0).integers(0, 99, (16, 16, 4), np.int16)
    )
    given: dict[str, Any] = {
        "size": "tiny_gated",
        "checkpoint": jointly_trained,
        "modality": "MR",
        "min_side": 32,
    }
    given |= {
        "cards": ["msd_hippocampus"],
        "presence_threshold": 0.0,
        "presence_smoothing_mm": 500.0,
    }
    (folder,) = run_inference(image, "hippocampus", tmp_path / "out", **given)
    record = json.loads((folder / "run.json").read_text())
    (entry,) = record["prompts"]
    raw, smoothed = entry["presence"], entry["presence_smoothed"]
    assert len(raw) == len(smoothed) == 4 and np.ptp(smoothed) < np.ptp(raw)
    assert (
        record["settings"]["presence_threshold"] == 0
        and record["settings"]["presence_smoothing_mm"] == 500
    )


def test_a_run_replaces_an_earlier_ones_masks_and_nothing_else(
    study: Path, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "study"
    assert predict(study, "--checkpoint", checkpoint, output=tmp_path / "out") == 0
    (folder / "notes.txt").write_text("mine")
    assert predict(study, "--checkpoint", checkpoint, output=tmp_path / "out", prompt="aorta") == 0
    assert {path.name for path in folder.iterdir()} == {"aorta.nii.gz", "run.json", "notes.txt"}


def test_what_goes_wrong_is_told_once_and_leaves_no_folder(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (
        predict(
            truncated_file(tmp_path), "--checkpoint", checkpoint, output=tmp_path / "new" / "out"
        )
        == 2
    )
    assert "terminating" not in capfd.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_window_may_be_named_as_another_card_names_it(
    study: Path, checkpoint: Path, tmp_path: Path
) -> None:
    assert (
        predict(study, "--checkpoint", checkpoint, "--window", "pancreas", output=tmp_path / "out")
        == 0
    )
    record = json.loads((tmp_path / "out" / "study" / "run.json").read_text())
    assert record["prompts"][0]["window"]["name"] == "pancreas"


def test_a_broken_study_does_not_stop_the_others_and_each_is_done_once(
    study: Path,
    checkpoint: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[Path] = []

    def counted(path: Path, **given: Any) -> Any:
        read.append(path)
        return read_volume(path, **given)

    monkeypatch.setattr("boltzmed.transforms.load.read_volume", counted)
    broken = truncated_file(tmp_path)
    last, late = (
        save_image(tmp_path / f"{name}.nii", np.zeros((8, 8, 2), np.int16))
        for name in ("last", "late")
    )
    studies = [study, broken, last, late]
    assert predict(*studies, "--checkpoint", checkpoint, output=tmp_path / "out") == 2
    out, err = capfd.readouterr()
    assert out.split()[-3:] == [
        str(tmp_path / "out" / path.name.split(".")[0]) for path in (study, last, late)
    ]
    assert [
        line for line in err.splitlines() if line.startswith("boltzmed: ") and broken.name in line
    ]
    assert {path.parent.name for path in tmp_path.glob("out/*/run.json")} == {
        "study",
        "last",
        "late",
    }
    assert read == studies


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "expected a .nii"),
        ("x" * 300, "expected a .nii"),
        ("x" * 210, "expected a name of 200 bytes at most"),
    ],
)
def test_a_path_that_is_none(
    given: str, message: str, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if message.startswith("expected a name"):
        given = str(save_image(tmp_path / f"{given}.nii", np.zeros((8, 8, 2), np.int16)))
    assert predict(given, "--checkpoint", checkpoint, output=tmp_path / "out") == 2
    assert message in the_line(capfd)


def test_a_file_in_place_of_the_masks_folder_is_told_before_the_work(
    study: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study").write_text("mine")
    assert predict(study, "--checkpoint", checkpoint, output=tmp_path / "out") == 2
    text = capfd.readouterr().err
    assert (
        "expected a folder for the masks of study.nii.gz, found a file" in text
        and "slices:" not in text
    )
    assert (tmp_path / "out" / "study").read_text() == "mine"


def test_masks_are_not_written_among_a_studys_images(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_ct_series(
        np.zeros((8, 8, 3), np.int16), np.diag([2.0, 2.0, 5.0, 1.0]), tmp_path / "series", seed=0
    )
    before = sorted((tmp_path / "series").iterdir())
    assert predict(tmp_path / "series", "--checkpoint", checkpoint, output=tmp_path) == 2
    assert "expected an output folder apart from the study" in the_line(capfd)
    assert sorted((tmp_path / "series").iterdir()) == before


@pytest.mark.parametrize("command", ["demo", "phantom"])
def test_demo_and_phantom_need_a_folder_to_write_into(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("precious")
    assert main([command, "--output", str(tmp_path / "file")]) == 2
    assert "another output folder" in the_line(capfd)


def test_the_demo_deletes_nothing_that_it_did_not_make(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "precious.dcm").write_text("precious")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "an earlier demo's" in the_line(capfd)
    assert (tmp_path / "dicom" / "precious.dcm").read_text() == "precious"


def test_a_prompt_of_broken_bytes_is_told_before_the_work(
    study: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (
        predict(study, "--checkpoint", checkpoint, output=tmp_path / "out", prompt="liver\udcff")
        == 2
    )
    assert "received bytes that are none" in the_line(capfd)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Two references and the prediction of one of them."""
    labels = np.zeros((8, 8, 4), np.uint8)
    labels[2:6, 2:6, 1:3], labels[7, 7, 0] = 1, 2
    for name in ("references/a", "references/b", "predictions/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_image(tmp_path / f"{name}.nii.gz", labels)
    return tmp_path


def evaluate(folder: Path, *arguments: str) -> int:
    folders = [
        "--predictions",
        str(folder / "predictions"),
        "--references",
        str(folder / "references"),
    ]
    return main(["evaluate", *folders, *arguments])


def test_evaluate_prints_writes_and_lists(masks: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        evaluate(
            masks,
            "--labels",
            "1=liver,2=nodule",
            "--output",
            str(masks / "out"),
            "--match",
            "iou:0.5",
        )
        == 2
    )
    printed = capfd.readouterr()
    assert (
        "Dice, both empty left out" in printed.out
        and "Lesions, 26 neighbours, match iou:0.5\n\n" in printed.out
    )
    assert "\n1 cases scored, 2 excluded\n" in printed.out
    assert "No column patient for 1 cases: nothing says whose they are" in printed.out
    lines = printed.err.splitlines()
    assert len(lines) == 2 and all(
        line.startswith("boltzmed: case b: expected a prediction of") for line in lines
    )
    assert sorted(path.name for path in (masks / "out").iterdir()) == [
        *("left_out.csv", "lesions.csv", "measures.csv", "results.csv")
    ]
    slices = ["--labels", "1=liver,2=nodule", "--missing", "empty", "--level", "slice"]
    assert evaluate(masks, *slices, "--patient-pattern", "(.)") == 0
    printed = capfd.readouterr()
    assert "whose they are" not in printed.out
    assert (
        "Outlines on slices" in printed.out and "Volumes" not in printed.out and printed.err == ""
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--labels", "liver"], "labels: expected such as 1=anterior,2=posterior"),
        (["--labels", "1=liver", "--match", "dice"], "match: expected overlap"),
        (
            ["--labels", "1=liver", "--tolerance-mm", "-1"],
            "tolerance_mm: expected a number of mm from 0",
        ),
        (
            ["--labels", "1=liver", "--miss-penalty-mm", "-1"],
            "miss_penalty_mm: expected a number of mm from 0",
        ),
        (
            ["--labels", "1=liver", "--missing", "error"],
            "case b: expected a prediction of liver, found none",
        ),
        (
            ["--labels", "1=liver", "--output", "{}/references/a.nii.gz/x"],
            "expected a folder to write into",
        ),
        (["--card", "nowhere"], "nowhere"),
        (["--references", "{}/absent"], "absent: expected a folder of masks, found none"),
    ],
)
def test_evaluate_refuses_by_one_line(
    arguments: list[str], part: str, masks: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(masks, *(argument.format(masks) for argument in arguments)) == 2
    assert part in the_line(capfd)
