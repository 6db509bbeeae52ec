"""nnU-Net's own trainer, given minutes instead of epochs. It runs in nnU-Net's environment (`make
nnunet-env`).

`nnUNet_extTrainer=benchmarks/nnunet NNUNET_MINUTES=25 nnUNetv2_train 11 2d 0 -tr BudgetTrainer
-device cpu` trains like `nnUNetTrainer`, but the learning rate falls with the time spent, in the
same curve to 0, and training ends with the epoch in which the time is up. nnU-Net looks for
trainers by importing what lies in this folder.
"""

import json
import os
from time import process_time, time

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

_CURVES = (
    *("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice", "lrs"),
    "epoch_start_timestamps",
)
_UNREACHED = 1_000_000


class _TimeIsUp(Exception):
    """Leaves nnU-Net's loop over a fixed number of epochs."""


class _SpentTime(PolyLRScheduler):
    """nnU-Net's schedule, asked by the epoch but answering by the clock."""

    def __init__(self, optimizer, initial_lr, budget_seconds, spent_seconds):
        self.spent_seconds = spent_seconds
        super().__init__(optimizer, initial_lr, budget_seconds)

    def step(self, current_step=None):
        super().step(min(self.spent_seconds(), self.max_steps))


class BudgetTrainer(nnUNetTrainer):
    """Trains for NNUNET_MINUTES of wall-clock time, epochs of NNUNET_ITERATIONS (default 50),
    OMP_NUM_THREADS threads.

    The time runs from the first epoch on and includes validation within epochs and checkpoints;
    planning before and the whole volumes' validation after are outside. Resumed by `--c`, it goes
    on with what its finished epochs left. `budget.json` beside the checkpoint keeps the settings
    and the curves.
    """

    # The signature is nnU-Net's.
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.budget_seconds = 60 * float(os.environ["NNUNET_MINUTES"])
        self.num_iterations_per_epoch = int(os.environ.get("NNUNET_ITERATIONS", "50"))
        self.num_val_iterations_per_epoch = max(
            1, self.num_iterations_per_epoch // 5
        )  # nnU-Net's own proportion
        self.num_epochs = _UNREACHED
        self.save_every = 5
        self.earlier_seconds, self.started = 0.0, None
        if (
            device.type == "cpu" and "OMP_NUM_THREADS" in os.environ
        ):  # nnUNetv2_train takes all cores
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def spent_seconds(self):
        """Of the budget, in this run and those that it goes on from."""
        return self.earlier_seconds + (time() - self.started if self.started else 0.0)

    def configure_optimizers(self):
        """nnU-Net's, with its schedule counting seconds."""
        optimizer, _ = super().configure_optimizers()
        return optimizer, _SpentTime(
            optimizer, self.initial_lr, self.budget_seconds, self.spent_seconds
        )

    def run_training(self):
        """Until the time is up."""
        try:
            super().run_training()
        except _TimeIsUp:
            self.on_train_end()

    def on_train_start(self):
        """Starts the clock."""
        super().on_train_start()
        times = [
            self.logger.get_value(name, None)
            for name in ("epoch_start_timestamps", "epoch_end_timestamps")
        ]
        self.earlier_seconds = sum(end - start for start, end in zip(*times, strict=False))
        self.started = time()

    def on_epoch_end(self):
        """nnU-Net's, then looks at the clock."""
        super().on_epoch_end()
        if self.spent_seconds() >= self.budget_seconds:
            raise _TimeIsUp

    def on_train_end(self):
        """Writes the settings and curves down."""
        super().on_train_end()
        content = {
            "budget_seconds": self.budget_seconds,
            "spent_seconds": round(self.spent_seconds(), 1),
            "processor_seconds": round(process_time(), 1),  # of this process; another one augments
            "epochs": self.current_epoch,
            "iterations_per_epoch": self.num_iterations_per_epoch,
            "batch_size": self.batch_size,
            "patch_size": list(map(int, self.configuration_manager.patch_size)),
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "threads": torch.get_num_threads(),
            "device": str(self.device),
            "torch": torch.__version__,
            "curves": {
                name: [float(value) for value in self.logger.get_value(name, None)]
                for name in _CURVES
            },
        }
        with open(os.path.join(self.output_folder, "budget.json"), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
