"""Builds and runs the bundle, for its configs, the command line and Python alike."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from boltzmed.networks.weights import load_checkpoint, load_sam2_image_encoder, load_seem_backbone, load_upstream
from boltzmed.resources import resource_folder
from boltzmed.volumes.nifti import case_name


def build_network(config: str | Path) -> nn.Module:
    """Build the network that a size's config (``configs/tiny.yaml`` …) describes, with fresh weights.

    Raises:
        ValueError: There is no such config, or it describes no network.
    """
    return _size_config(config).get_parsed_content("network_def")


def network_settings(config: str | Path, image_size: int) -> dict[str, Any]:
    """Return what a checkpoint records of the network it was trained as: its definition and image size."""
    return {"network_def": _size_config(config).get("network_def"), "image_size": int(image_size)}


def _size_config(config: str | Path) -> ConfigParser:
    path = Path(config)
    if not path.is_file():
        raise ValueError(f"{path}: no such size of network; sizes are tiny, hiera_s, hiera_bp and focal_l")
    parser = ConfigParser()
    parser.read_config(str(path))
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
    """Fill a network for inference from one of our checkpoints, refusing one that was trained otherwise."""
    settings = network_settings(config, image_size)
    load_checkpoint(checkpoint, network, config=settings, orientation=plane, channels=channels)
    network.seed = seed  # type: ignore[assignment]
    return network.to(device).eval()


def start_weights(
    network: nn.Module, checkpoint: str | Path | None, kind: str, device: torch.device | str
) -> nn.Module:
    """Bring a network to its device for training, and fill it from a checkpoint where one is given.

    Args:
        network: With fresh weights.
        checkpoint: The file, or None to train from scratch.
        kind: What the file is: ``boltzmed`` (our own checkpoint, whatever slices it was trained on), ``upstream`` (the
            published BoltzFormer), or the image encoder alone of ``sam2`` or ``seem``.
        device: Where training runs.

    Raises:
        ValueError: An unknown kind, or a file that doesn't fill all that it promises; see networks/weights.py.
    """
    published = {"upstream": load_upstream, "sam2": load_sam2_image_encoder, "seem": load_seem_backbone}
    if kind != "boltzmed" and kind not in published:
        raise ValueError(f"initial_kind: expected one of boltzmed, {', '.join(published)}, received {kind!r}")
    if checkpoint is not None and kind == "boltzmed":
        load_checkpoint(checkpoint, network)
    elif checkpoint is not None:
        logging.getLogger(__name__).info("%s", published[kind](network, checkpoint))
    return network.to(device)


def run_inference(
    studies: Sequence[str | Path], prompts: Sequence[str], output_dir: str | Path, **overrides: Any
) -> list[Path]:
    """Run the bundle's inference on studies, as ``python -m monai.bundle run`` does, loading the network once.

    Args:
        studies, prompts: See :class:`StudyDataset`.
        output_dir: See :class:`StudyWriter`.
        **overrides: Any further value of ``inference.yaml``.

    Returns:
        The folder of each study's masks.

    Raises:
        ValueError: Wrong input, in one line (possibly as the cause of MONAI's error).
    """
    bundle = resource_folder("bundles") / "boltzformer"
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    parser.update(
        {
            "bundle_root": str(bundle),
            "image": [str(study) for study in studies],
            "prompts": list(prompts),
            "output_dir": str(output_dir),
            **overrides,
        }
    )
    # Wrong input is told before the network is loaded.
    dataset = parser.get_parsed_content("dataset")
    parser.get_parsed_content("evaluator").run()
    return [Path(output_dir) / case_name(study) for study in dataset.studies]


def end_traceback_with_cause() -> None:
    """Let a traceback end with the line that says what was wrong, not with MONAI's about which expression failed."""
    shown = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        shown(kind, error, trace)
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, ValueError):
            cause = cause.__cause__
        if cause is not error and isinstance(cause, ValueError):
            print(f"{type(cause).__name__}: {cause}", file=sys.stderr)

    sys.excepthook = show
