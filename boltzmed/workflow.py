"""Builds and runs the bundle, for its configs, the command line and Python alike."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn
from torch.utils.data import DataLoader, Subset

from boltzmed.errors import OutputError, unwrapped_input_errors
from boltzmed.networks.boltzformer import STRIDE
from boltzmed.networks.weights import (
    load_checkpoint,
    load_sam2_image_encoder,
    load_seem_backbone,
    load_upstream,
    read_config,
)
from boltzmed.options import check_flags
from boltzmed.resources import resource_folder
from boltzmed.transforms.network_input import InputSize, read_input_sizes
from boltzmed.volumes.nifti import case_name

SIZES = tuple(
    f"{size}{gate}"
    for size in ("tiny", "hiera_s", "hiera_bp", "focal_l")
    for gate in ("", "_gated")
)


def build_network(
    config: str | Path, form: str | None = None, *, num_queries: int | None = None
) -> nn.Module:
    """Build the network that a size's config (``configs/tiny.yaml`` …) describes, with fresh
    weights.

    Args:
        config: Of the size.
        form: ``"literal"`` for the published computation, step by step; the default is the same
            function, faster.
        num_queries: Another number of queries than the size's.

    Raises:
        ValueError: There is no such config or form, or it describes no network.
    """
    parser = _size_config(config)
    if form is not None:
        if form != "literal":
            raise ValueError(f"form: expected literal or none, received {form!r}")
        parser.update(ConfigParser.load_config_file(Path(config).with_name(f"{form}.yaml")))
    if num_queries is not None:
        parser.update(
            {f"network_def#{part}#num_queries": num_queries for part in ("decoder", "pigma")}
        )
    return parser.get_parsed_content("network_def")


def network_settings(
    config: str | Path, image_size: int, frames: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what a checkpoint records of the network it was trained as: its definition, image size
    and frames.

    Args:
        config: Of the size.
        image_size: Of cards without a frame.
        frames: Card → its frame or frames, of a training that had any.

    Raises:
        ValueError: An image size that the network cannot take.
    """
    settings = {"network_def": _size_config(config).get("network_def"), "image_size": image_size}
    sizes = [("image_size", image_size)]
    if frames:
        read = read_input_sizes(frames)
        sizes += [
            (f"frames: {card}: image_size", frame.image_size)
            for card, own in read.items()
            for frame in own
        ]
        settings["frames"] = {card: [asdict(frame) for frame in own] for card, own in read.items()}
    for name, size in sizes:
        if not isinstance(size, int) or size < STRIDE or size % STRIDE:
            raise ValueError(f"{name}: expected a multiple of {STRIDE}, received {size!r}")
    return settings


def choose_frames(
    checkpoint: str | Path, frames: Mapping[str, Any] | None = None
) -> dict[str, InputSize]:
    """Return card → how slices meet the network for its prompts, as the checkpoint was trained or
    as told.

    Args:
        checkpoint: One of ours.
        frames: Instead of the checkpoint's: card → its frame; empty for none. Of several the first
            counts.

    Raises:
        ValueError: An unreadable checkpoint, or frames that are none.
    """
    chosen = read_input_sizes(read_config(checkpoint).get("frames") if frames is None else frames)
    return {card: several[0] for card, several in chosen.items()}


def training_recipe(config: str | Path) -> dict[str, Any]:
    """Return what training takes of a size's config.

    Returns:
        Its ``image_size`` and ``channels``, and of its ``recipe`` the ``learning_rate``,
        ``weight_decay`` and ``schedule``.

    Raises:
        ValueError: There is no such config, or it lacks one of the recipe's.
    """
    parser, names = _size_config(config), ("learning_rate", "weight_decay", "schedule")
    recipe = parser.get("recipe", {})
    if missing := [name for name in names if name not in recipe]:
        raise ValueError(
            f"{config}: expected a recipe with {', '.join(names)}, received none for"
            f" {', '.join(missing)}"
        )
    return {"image_size": parser["image_size"], "channels": parser["channels"], **recipe}


def _size_config(config: str | Path) -> ConfigParser:
    path = Path(config)
    if not path.is_file():
        raise ValueError(
            f"{path}: no such size of network; sizes are {', '.join(SIZES[:-1])} and {SIZES[-1]}"
        )
    parser, base = ConfigParser(), ConfigParser.load_config_file(path).get("base")
    parser.read_config([str(path.with_name(f"{base}.yaml")), str(path)] if base else str(path))
    if "network_def" not in parser:
        raise ValueError(f"{path}: expected a network_def, received {', '.join(parser.get())}")
    return parser


def load_network(
    network: nn.Module,
    checkpoint: str | Path,
    *,
    config: str | Path,
    image_size: int,
    plane: str,
    channels: str,
    seed: int,
    device: torch.device | str,
) -> nn.Module:
    """Fill a network for inference from one of our checkpoints, refusing one that was trained
    otherwise.
    """
    settings = network_settings(config, image_size)
    load_checkpoint(checkpoint, network, config=settings, orientation=plane, channels=channels)
    network.seed = seed  # type: ignore[assignment]
    return network.to(device).eval()


def start_weights(
    network: nn.Module,
    checkpoint: str | Path | None,
    kind: str,
    device: torch.device | str,
    *,
    freeze_text: bool = False,
) -> nn.Module:
    """Bring a network to its device for training, and fill it from a checkpoint where one is given.

    Args:
        network: With fresh weights.
        checkpoint: The file, or None to train from scratch.
        kind: What the file is: ``boltzmed`` (our own checkpoint, whatever slices it was trained
            on), ``upstream`` (the published BoltzFormer), or the image encoder alone of ``sam2`` or
            ``seem``.
        device: Where training runs.
        freeze_text: The text encoder takes no gradient, and stays as the checkpoint has it.

    Raises:
        ValueError: An unknown kind; a file that doesn't fill all that it promises, see
            networks/weights.py; or ``freeze_text`` without a checkpoint that fills the text
            encoder.
    """
    published = {
        "upstream": load_upstream,
        "sam2": load_sam2_image_encoder,
        "seem": load_seem_backbone,
    }
    if kind != "boltzmed" and kind not in published:
        raise ValueError(
            f"initial_kind: expected one of boltzmed, {', '.join(published)}, received {kind!r}"
        )
    check_flags(freeze_text=freeze_text)
    if freeze_text and (checkpoint is None or kind not in ("boltzmed", "upstream")):
        given = "no checkpoint" if checkpoint is None else f"one of kind {kind}"
        raise ValueError(
            "freeze_text: expected a checkpoint to start from that holds a text encoder"
            f" (--initial, --initial_kind boltzmed or upstream), received {given}"
        )
    if checkpoint is not None and kind == "boltzmed":
        load_checkpoint(checkpoint, network, start=True)
    elif checkpoint is not None:
        logging.getLogger(__name__).info("%s", published[kind](network, checkpoint))
    if freeze_text:
        network.text_encoder.requires_grad_(False)
    return network.to(device)


def digest_file(path: str | Path | None) -> str | None:
    """Return what tells a file's contents from others' (of their SHA-256, 16 digits); None for no
    file.

    Raises:
        ValueError: It is not there.
    """
    if path is None:
        return None
    if not Path(path).is_file():
        raise ValueError(
            f"{path}: expected the checkpoint that the training starts from, found none; check the"
            " path"
        )
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_inference(**overrides: Any) -> ConfigParser:
    """Return the bundle's ``inference.yaml`` with other values.

    A ``checkpoint`` is a file or the name of one in the bundle's ``models``. It brings what it was
    trained as, where nothing else is given: ``size``, ``image_size``, ``plane`` and ``channels``. A
    ``size`` alone brings its image size and channels.

    Raises:
        ValueError: There is no such size, an unreadable checkpoint, or a value is one that MONAI
            would evaluate.
    """
    bundle = resource_folder("bundles") / "boltzformer"
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    if "size" in overrides:
        size = _size_config(bundle / "configs" / f"{overrides['size']}.yaml")
        parser.update({name: size[name] for name in ("image_size", "channels")})
    if "checkpoint" in overrides:
        overrides["checkpoint"] = _find_checkpoint(bundle, overrides["checkpoint"])
        parser.update(_trained_as(bundle, overrides["checkpoint"]))
    parser.update(
        {
            "bundle_root": str(bundle),
            **{name: _protect(name, value) for name, value in overrides.items()},
        }
    )
    return parser


def run_inference(
    studies: str | Path | Sequence[str | Path],
    prompts: str | Sequence[str],
    output_dir: str | Path,
    *,
    report: Callable[[Path, Path | ValueError], None] | None = None,
    **overrides: Any,
) -> list[Path]:
    """Run the bundle's inference on studies, as ``python -m monai.bundle run`` does, loading the
    network once.

    Args:
        studies, prompts: See :class:`StudyDataset`.
        output_dir: See :class:`StudyFolders`.
        report: Called after each study with its path and the folder of its masks, or with what was
            wrong with it; the others then go on. Without it the first error is raised.
        **overrides: See `read_inference`.

    Returns:
        The folder of each segmented study's masks.

    Raises:
        ValueError: Wrong input, in one line (possibly as the cause of MONAI's error).
    """
    parser = read_inference(**overrides)
    parser.update(
        {
            # MONAI evaluates texts that begin with "$", "@" or "%", in lists too. A caller's texts
            # are data: paths and tuples pass as they are.
            "image": (studies,) if isinstance(studies, str | Path) else tuple(studies),
            "prompts": (prompts,) if isinstance(prompts, str) else tuple(prompts),
            "output_dir": Path(output_dir),
            # An evaluator a study, around the same network: one that an error stopped would go on
            # with what is left.
            "evaluator#_mode_": "callable",
        }
    )
    # Wrong input is told before the network is loaded.
    dataset = parser.get_parsed_content("dataset")
    make_evaluator = parser.get_parsed_content("evaluator")
    collate = parser.get_parsed_content("dataloader").collate_fn
    folders = []
    for index, study in enumerate(dataset.studies):
        loader = DataLoader(Subset(dataset, [index]), batch_size=1, collate_fn=collate)
        evaluator = make_evaluator(val_data_loader=loader)
        # It would log an exception twice, which the caller gets anyway.
        evaluator.logger.setLevel(logging.CRITICAL)
        try:
            with unwrapped_input_errors():
                evaluator.run()
        except OutputError:
            raise  # the next study's outputs would go to the same place
        except ValueError as error:
            if report is None:
                raise
            report(study, error)
        else:
            folders.append(Path(output_dir) / case_name(study))
            if report is not None:
                report(study, folders[-1])
    return folders


def _find_checkpoint(bundle: Path, given: str | Path) -> Path:
    """The file of that name, or else one of the bundle's own."""
    own = bundle / "models" / f"{given}.pt"
    return (
        own
        if not Path(given).exists() and own.parent == bundle / "models" and own.is_file()
        else Path(given)
    )


def _trained_as(bundle: Path, checkpoint: Path) -> dict[str, Any]:
    """Values of ``inference.yaml`` that a checkpoint records; no size where no one has its network."""
    recorded = read_config(checkpoint)
    configs = (bundle / "configs" / f"{size}.yaml" for size in SIZES)
    fitting = (
        path.stem
        for path in configs
        if _size_config(path).get("network_def") == recorded.get("network_def")
    )
    found = {"size": next(fitting, None), "plane": recorded.get("orientation")}
    found |= {name: recorded.get(name) for name in ("image_size", "channels")}
    # A stranger's file: MONAI would evaluate what it records as an expression.
    return {name: _protect(name, value) for name, value in found.items() if value is not None}


def _protect(name: str, value: Any) -> Any:
    """Return a value in which MONAI has nothing to evaluate or to build, however deep.

    Raises:
        ValueError: it has.
    """
    if isinstance(value, str) and value.startswith(("$", "@", "%")):
        raise ValueError(
            f"{name}: expected a plain value, received {value!r}; it may not begin with $, @ or %"
        )
    entries: list[Any] = []
    if isinstance(value, Mapping):
        if "_target_" in value:
            raise ValueError(f"{name}: expected a plain value, received one with a _target_")
        entries = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple):
        entries = list(value)
    for entry in entries:
        _protect(name, entry)
    return value
