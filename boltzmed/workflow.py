"""Builds and runs the bundle, for its configs, the command line and Python alike."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn
from torch.utils.data import DataLoader, Subset

from boltzmed.errors import OutputError, unwrapped_input_errors
from boltzmed.networks.boltzformer import STRIDE
from boltzmed.networks.definition import (
    NETWORK,
    build_definition,
    check_definition,
    definition_of,
    override_definition,
    plain_definition,
    resolve_definition,
    targets,
)
from boltzmed.networks.weights import (
    compare_record,
    load_checkpoint,
    load_sam2_image_encoder,
    load_seem_backbone,
    load_upstream,
    read_record,
    save_checkpoint,
)
from boltzmed.options import REMOVED, check_flag
from boltzmed.resources import resource_folder
from boltzmed.transforms.network_input import InputSize, read_input_sizes
from boltzmed.volumes.nifti import case_name

SIZES = tuple(
    f"{size}{gate}"
    for size in ("tiny", "hiera_s", "hiera_bp", "focal_l")
    for gate in ("", "_gated")
)


def build_network(
    config: str | Path | None = None, *, checkpoint: str | Path | None = None, **parts: Any
) -> nn.Module:
    """Build a network with fresh weights; its attribute ``definition`` is the data that built it.

    Args:
        config: of a size (``configs/tiny.yaml`` … or one's own).
        checkpoint: one of ours, whose network it shall be; the size and the parts, where given, may
            not contradict it.
        **parts: what differs from the size, part by part: ``decoder={"num_layers": 6}``. In a
            bundle's config each has ``_mode_: callable``, so that a part with another class arrives
            here with its arguments, not built.

    Raises:
        ValueError: there is no such config, it describes no network, or the checkpoint has another
            one; the line says both.
    """
    overrides = plain_definition(parts)
    definition = {"_target_": NETWORK} if config is None else read_definition(config)
    if checkpoint is None:
        return build_definition(override_definition(definition, overrides))
    name = Path(checkpoint).name
    recorded = read_record(checkpoint)["network"]
    expected = override_definition(recorded if config is None else definition, overrides)
    compare_record({"network": recorded}, {"network": expected}, name)
    check_definition(recorded, name, trusted=targets(expected) if config else ())
    return build_definition(recorded)


def find_size(bundle_root: str | Path, size: str | Path | None) -> Path | None:
    """Return the config of a size: a file, or a name in the bundle's configs; None for None."""
    if size is None:
        return None
    if Path(size).suffix in (".yaml", ".yml", ".json"):
        return Path(size)
    shipped = resource_folder("bundles") / "boltzformer" / "configs" / f"{size}.yaml"
    file = Path(bundle_root) / "configs" / f"{size}.yaml"
    return shipped if shipped.is_file() and not file.is_file() else file


def read_definition(config: str | Path) -> dict[str, Any]:
    """Return the definition of a size's network, as a checkpoint records it.

    Args:
        config: of the size; ``base`` in it names another one, whose entries it overrides.

    Raises:
        ValueError: there is no such config, or it describes no network.
    """
    return resolve_definition(_size_config(config).get())


def network_settings(
    config: str | Path | Mapping[str, Any],
    image_size: int,
    input_sizes: Mapping[str, Any] | None = None,
    sources: Iterable[Any] = (),
) -> dict[str, Any]:
    """Return what a checkpoint records of its training: network, image size, input sizes, data.

    Args:
        config: of the size, or the network's definition itself.
        image_size: of cards without an input size of their own.
        input_sizes: card → its input size or sizes, of a training that had any.
        sources: of the slices that it was trained on, each with its ``card``.

    Raises:
        ValueError: an image size that the network cannot take.
    """
    definition = config if isinstance(config, Mapping) else read_definition(config)
    settings: dict[str, Any] = {"network": definition, "image_size": image_size}
    sizes = [("image_size", image_size)]
    if input_sizes:
        by_card = read_input_sizes(input_sizes)
        settings["input_sizes"] = {}
        for card, card_sizes in by_card.items():
            settings["input_sizes"][card] = [asdict(size) for size in card_sizes]
            label = f"input_sizes: {card}: image_size"
            sizes += [(label, size.image_size) for size in card_sizes]
    for name, size in sizes:
        if not isinstance(size, int) or size < STRIDE or size % STRIDE:
            raise ValueError(f"{name}: expected a multiple of {STRIDE}, received {size!r}")
    if trained_on := _describe_data(sources):
        settings["trained_on"] = trained_on
    return settings


def _describe_data(sources: Iterable[Any]) -> dict[str, Any]:
    """Card → its modality, and its targets with their prompts."""
    described = {}
    for card in (source.card for source in sources):
        prompts = {name: list(target.prompts) for name, target in card.targets.items()}
        described[card.name] = {"modality": card.modality, "targets": prompts}
    return described


def choose_input_sizes(
    checkpoint: str | Path, input_sizes: Mapping[str, Any] | None = None
) -> dict[str, InputSize]:
    """Return card → how large slices are for the network for its prompts.

    Args:
        checkpoint: one of ours.
        input_sizes: instead of the checkpoint's: card → its input size; empty for none. Of several
            the first counts.

    Raises:
        ValueError: an unreadable checkpoint, or input sizes that are none.
    """
    if input_sizes is None:
        input_sizes = read_record(checkpoint).get("input_sizes")
    by_card = read_input_sizes(input_sizes)
    return {card: several[0] for card, several in by_card.items()}


def training_recipe(config: str | Path) -> dict[str, Any]:
    """Return what training takes of a size's config.

    Returns:
        Its ``image_size`` and ``channels``, and of its ``recipe`` the ``learning_rate``,
        ``weight_decay`` and ``schedule``.

    Raises:
        ValueError: there is no such config, or it lacks one of the recipe's.
    """
    parser = _size_config(config)
    names = ("learning_rate", "weight_decay", "schedule")
    recipe = parser.get("recipe", {})
    if missing := [name for name in names if name not in recipe]:
        raise ValueError(
            f"{config}: expected a recipe with {', '.join(names)}, received none for"
            f" {', '.join(missing)}"
        )
    return {"image_size": parser["image_size"], "channels": parser["channels"], **recipe}


def _size_config(config: str | Path) -> ConfigParser:
    """A size's config, merged over the one that it names as its base."""
    files = [Path(config)]
    while True:
        path = files[0]
        if not path.is_file():
            raise ValueError(
                f"{path}: no such size of network; sizes are {', '.join(SIZES[:-1])} and"
                f" {SIZES[-1]}, or a file of one's own"
            )
        base = ConfigParser.load_config_file(path).get("base")
        if base is None:
            break
        file = find_size(path.resolve().parents[1], base)
        beside = path.with_name(f"{base}.yaml")
        if beside.is_file() or file is None or not file.is_file():
            file = beside
        if file in files:
            raise ValueError(f"{path}: expected another size as its base, received {base}")
        files.insert(0, file)
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    if "network_def" not in parser:
        raise ValueError(f"{path}: expected a network_def, received {', '.join(parser.get())}")
    return parser


def read_trained(checkpoint: str | Path) -> dict[str, Any]:
    """Return what a run takes of a checkpoint where nothing else is given.

    Returns:
        ``size``, the name of the size that has its network (None where no one has), ``image_size``,
        ``plane`` and ``channels``.

    Raises:
        ValueError: an unreadable checkpoint. One line.
    """
    recorded = read_record(checkpoint)
    configs = resource_folder("bundles") / "boltzformer" / "configs"
    name = None
    for size in SIZES:
        if read_definition(configs / f"{size}.yaml") == recorded["network"]:
            name = size
            break
    trained = {
        "size": name,
        "plane": recorded["orientation"],
        "image_size": recorded.get("image_size"),
        "channels": recorded.get("channels"),
    }
    # A stranger's file: nothing that it records shall be evaluated, wherever it goes.
    return {field: _protect(field, value) for field, value in trained.items()}


def load_network(
    network: nn.Module,
    checkpoint: str | Path,
    *,
    image_size: int,
    plane: str,
    channels: str,
    seed: int,
    device: torch.device | str,
) -> nn.Module:
    """Fill a network for inference from one of our checkpoints, refusing one that was trained
    otherwise.
    """
    settings = network_settings(definition_of(network), image_size)
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
            f"init_kind: expected one of boltzmed, {', '.join(published)}, received {kind!r}"
        )
    check_flag(freeze_text=freeze_text)
    if freeze_text and (checkpoint is None or kind not in ("boltzmed", "upstream")):
        received = "no checkpoint" if checkpoint is None else f"one of kind {kind}"
        raise ValueError(
            "freeze_text: expected a checkpoint to start from that holds a text encoder"
            f" (--init_checkpoint, --init_kind boltzmed or upstream), received {received}"
        )
    if checkpoint is not None and kind == "boltzmed":
        load_checkpoint(checkpoint, network, start=True)
    elif checkpoint is not None:
        logging.getLogger(__name__).info("%s", published[kind](network, checkpoint))
    if freeze_text:
        network.text_encoder.requires_grad_(False)
    return network.to(device)


class SaveTrained:
    """Write what a training has learnt as a checkpoint, with a record of what it was trained as.

    Args:
        network: whose weights; it was built from a definition.
        image_size: of cards without an input size of their own.
        input_sizes: card → its input size or sizes.
        orientation: see ``save_checkpoint``.
        channels: see ``save_checkpoint``.
        fp16_checkpoint: see ``save_checkpoint``.
        sources: of the slices that it is trained on.

    Raises:
        ValueError: an image size that the network cannot take, or a switch that is no boolean.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        image_size: int,
        input_sizes: Mapping[str, Any] | None,
        orientation: str,
        channels: str,
        sources: Iterable[Any],
        fp16_checkpoint: bool,
    ) -> None:
        self.network = network
        self.orientation = orientation
        self.channels = channels
        self.fp16_checkpoint = check_flag(fp16_checkpoint=fp16_checkpoint)
        definition = definition_of(network)
        self.config = network_settings(definition, image_size, input_sizes, sources)

    def __call__(self, path: Path) -> None:
        """Write the file."""
        save_checkpoint(
            path,
            self.network,
            config=self.config,
            orientation=self.orientation,
            channels=self.channels,
            fp16_checkpoint=self.fp16_checkpoint,
        )


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
            f"{path}: expected the checkpoint that the training starts from, received none; check"
            " the path"
        )
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_inference(**overrides: Any) -> ConfigParser:
    """Return the bundle's ``inference.yaml`` with other values.

    A ``checkpoint`` is a file or the name of one in the bundle's ``models``. It brings what it was
    trained as, where nothing else is given: network, ``image_size``, ``plane`` and ``channels``.
    What contradicts it (``size``, ``size_config``, ``image_size`` …) is refused when the network is
    built.

    Raises:
        ValueError: there is no such size, an unreadable checkpoint, an option that the config does
            not have, or a value is one that MONAI would evaluate.
    """
    bundle = resource_folder("bundles") / "boltzformer"
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    for name in overrides:
        if name in REMOVED:
            raise ValueError(f"{name}: {REMOVED[name]}")
        if name.partition("#")[0] not in parser:
            raise ValueError(f"{name}: expected an option of inference.yaml, received another one")
    for name in ("size", "size_config"):
        if overrides.get(name) is not None:
            file = find_size(bundle, overrides[name])
            _size_config(str(file))
            overrides[name] = overrides[name] if name == "size" else str(file)
    if "checkpoint" in overrides:
        overrides["checkpoint"] = _find_checkpoint(bundle, overrides["checkpoint"])
        trained = read_trained(overrides["checkpoint"])
        parser.update({name: value for name, value in trained.items() if value is not None})
    values = {name: _protect(name, value) for name, value in overrides.items()}
    parser.update({"bundle_root": str(bundle), **values})
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
        studies: See ``StudyDataset``.
        prompts: See ``StudyDataset``.
        output_dir: See ``StudyFolders``.
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
