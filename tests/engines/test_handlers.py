"""Handlers of training: a loss that is no number stopped, training stopped early and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from boltzmed.engines.handlers import EarlyStop, FiniteLoss, TrainingCheckpoints

SAMPLES = [
    {"image": image, "label": image.sum(0, keepdim=True), "case": f"case{index % 2}"}
    for index, image in enumerate(torch.rand(4, 3, generator=torch.Generator().manual_seed(0)))
]


def build_trainer(
    handlers: Any = (), *, network: nn.Module | None = None, rate: float = 0.1, **options: Any
) -> Any:
    """A linear network on four samples in two batches, with plain gradient descent unless told
    otherwise.
    """
    network = nn.Linear(3, 1) if network is None else network
    sampler: Any = DistributedSampler(SAMPLES, num_replicas=1, rank=0)  # type: ignore[arg-type]
    return SupervisedTrainer(
        **{
            "device": "cpu",
            "max_epochs": 1,
            "train_data_loader": DataLoader(SAMPLES, batch_size=2, sampler=sampler),  # type: ignore[arg-type]
            "network": network,
            "optimizer": torch.optim.SGD(network.parameters(), lr=rate),
            "loss_function": F.mse_loss,
            "train_handlers": list(handlers),
            "decollate": False,
            **options,
        }
    )


def parameters(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


class TestFiniteLoss:
    @pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
    def test_training_stops_before_the_step_and_names_the_cases(self, value):
        network, snapshots = nn.Linear(3, 1), []

        def loss(output: Tensor, target: Tensor) -> Tensor:
            snapshots.append(parameters(network))
            return F.mse_loss(output, target) + (float(value) if len(snapshots) == 4 else 0)

        trainer = build_trainer([FiniteLoss()], network=network, max_epochs=3, loss_function=loss)
        with pytest.raises(
            ValueError, match=f"epoch 2, iteration 4: expected a finite loss, received {value} "
        ) as told:
            trainer.run()
        assert set(str(told.value).split("cases ")[1].split(";")[0].split(", ")) <= {
            "case0",
            "case1",
        }
        assert "\n" not in str(told.value)
        assert len(snapshots) == 4 and torch.equal(parameters(network), snapshots[-1])

    def test_each_case_is_named_once(self):
        options = {"loss_function": lambda output, target: output.sum() * torch.nan}
        options["train_data_loader"] = DataLoader(SAMPLES, batch_size=4)  # type: ignore[assignment,arg-type]
        with pytest.raises(ValueError, match="on cases case0, case1; check those images"):
            build_trainer([FiniteLoss()], **options).run()

    def test_only_the_case_that_spoils_it_is_named(self):
        samples = [{**sample, "case": f"case{index}"} for index, sample in enumerate(SAMPLES)]
        samples[2] = {**samples[2], "image": torch.full((3,), torch.inf)}
        with pytest.raises(
            ValueError, match=r"received (nan|inf) on cases case2; check those images"
        ):
            build_trainer([FiniteLoss()], train_data_loader=DataLoader(samples, batch_size=4)).run()  # type: ignore[arg-type]

    def test_of_several_processes_each_names_its_own(self, monkeypatch):
        monkeypatch.setattr(idist, "get_world_size", lambda: 2)
        options = {"loss_function": lambda output, target: output.sum() * torch.nan}
        options["train_data_loader"] = DataLoader(SAMPLES, batch_size=4)  # type: ignore[assignment,arg-type]
        with pytest.raises(
            ValueError, match="on cases case0, case1, or on those that another process names; check"
        ):
            build_trainer([FiniteLoss()], **options).run()

    def test_a_finite_loss_passes(self):
        trainer = build_trainer([FiniteLoss()], max_epochs=2)
        trainer.run()
        assert trainer.state.iteration == 4


class Stopped(Exception):
    """Power cut."""


class TestTrainingCheckpoints:
    """A training with momentum, a schedule and shuffled data, so that all of its state matters."""

    def train(
        self,
        folder: Path,
        epochs: int = 4,
        *,
        stop_in: int | None = None,
        resume: bool = True,
        rate: float = 0.1,
        settings: Any = None,
    ) -> Any:
        """Weights, the rates of the steps taken, and the trainer; stopped in the middle of an epoch
        if asked.
        """
        torch.manual_seed(0)
        network = nn.Linear(3, 1)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=30)
        state = {"network": network, "optimizer": optimizer, "scheduler": schedule}
        handlers = [LrScheduleHandler(schedule, epoch_level=False, print_lr=False)]
        checkpoints = TrainingCheckpoints(
            str(folder), state, settings={"rate": rate, **(settings or {})}, resume=resume
        )
        trainer = build_trainer(
            [*handlers, checkpoints], network=network, optimizer=optimizer, max_epochs=epochs
        )
        rates: list[float] = []

        @trainer.on(Events.ITERATION_STARTED)
        def watch() -> None:
            rates.append(optimizer.param_groups[0]["lr"])
            if trainer.state.epoch == stop_in and trainer.state.iteration % 2 == 0:
                raise Stopped

        if stop_in is None:
            trainer.run()
        else:
            with pytest.raises(Stopped):
                trainer.run()
        return parameters(network), rates, trainer

    @staticmethod
    def saved(folder: Path) -> list[int]:
        return sorted(int(path.stem.removeprefix("checkpoint_epoch=")) for path in folder.iterdir())

    def test_the_last_two_epochs_are_kept(self, tmp_path):
        self.train(tmp_path, 1)
        assert self.saved(tmp_path) == [1]
        self.train(tmp_path / "longer", 4)
        assert self.saved(tmp_path / "longer") == [3, 4]

    def test_a_stopped_training_goes_on_as_if_it_had_not_been(self, tmp_path):
        whole, rates, _ = self.train(tmp_path / "whole")
        self.train(tmp_path / "stopped", stop_in=3)
        assert self.saved(tmp_path / "stopped") == [1, 2]
        resumed, last_rates, trainer = self.train(tmp_path / "stopped")
        assert torch.equal(resumed, whole)
        assert len(rates) == 8 and last_rates == rates[4:]
        assert (trainer.state.epoch, trainer.state.iteration) == (4, 8)

    def test_more_epochs_may_be_asked_for_than_at_first(self, tmp_path):
        whole, _, _ = self.train(tmp_path / "whole", 4)
        self.train(tmp_path / "shorter", 2)
        longer, _, _ = self.train(tmp_path / "shorter", 4)
        assert torch.equal(longer, whole)

    def test_a_finished_training_is_left_as_it_is(self, tmp_path):
        finished, _, _ = self.train(tmp_path)
        again, rates, trainer = self.train(tmp_path)
        assert torch.equal(again, finished) and rates == [] and trainer.state.epoch == 4

    def test_epochs_are_ordered_as_numbers(self, tmp_path):
        self.train(tmp_path, 10)
        assert self.saved(tmp_path) == [9, 10]
        _, rates, _ = self.train(tmp_path, 11)
        assert len(rates) == 2

    def test_a_fresh_start_may_be_asked_for(self, tmp_path):
        first, rates, _ = self.train(tmp_path)
        again, all_rates, _ = self.train(tmp_path, resume=False)
        assert torch.equal(again, first) and all_rates == rates and len(rates) == 8

    def test_the_last_two_are_kept_after_resuming_too(self, tmp_path):
        self.train(tmp_path, 2)
        self.train(tmp_path, 4)
        assert self.saved(tmp_path) == [3, 4]

    def test_a_fresh_start_that_was_stopped_is_what_goes_on(self, tmp_path):
        self.train(tmp_path, 4)
        self.train(tmp_path, 4, resume=False, stop_in=2)
        _, rates, _ = self.train(tmp_path, 4)
        assert len(rates) == 6

    def test_a_training_goes_on_without_the_older_save(self, tmp_path):
        whole, _, _ = self.train(tmp_path / "whole", 4)
        self.train(tmp_path / "one", 2)
        (tmp_path / "one" / "checkpoint_epoch=1.pt").unlink()
        assert torch.equal(self.train(tmp_path / "one", 4)[0], whole)
        assert self.saved(tmp_path / "one") == [3, 4]

    def test_the_older_save_stands_until_the_new_one_does(self, tmp_path, monkeypatch):
        self.train(tmp_path, 2)

        def cut(content: Any, file: Any, **options: Any) -> None:
            raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", cut)
            with pytest.raises(Stopped):
                self.train(tmp_path, 3)
        assert self.saved(tmp_path) == [1, 2]

    def test_other_settings_and_broken_files_are_refused(self, tmp_path):
        self.train(tmp_path, 2)
        with pytest.raises(
            ValueError,
            match=r"checkpoint_epoch=2\.pt: expected a training with rate 0\.2, received .* 0\.1; ",
        ):
            self.train(tmp_path, 4, rate=0.2)
        for path in sorted(tmp_path.glob("checkpoint_epoch=*.pt")):
            path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(
            ValueError,
            match=r"checkpoint_epoch=2\.pt: expected this training's checkpoint, received .*resume",
        ):
            self.train(tmp_path, 4)

    def test_where_the_newest_save_is_cut_the_one_before_it_goes_on(self, tmp_path, caplog):
        caplog.set_level("INFO")
        whole, _, _ = self.train(tmp_path / "whole", 4)
        self.train(tmp_path / "cut", 3)
        newest = tmp_path / "cut" / "checkpoint_epoch=3.pt"
        newest.write_bytes(newest.read_bytes()[:-30])
        resumed, rates, _ = self.train(tmp_path / "cut", 4)
        assert torch.equal(resumed, whole) and len(rates) == 4
        assert (
            "checkpoint_epoch=3.pt is damaged: going on from checkpoint_epoch=2.pt" in caplog.text
        )
        assert self.saved(tmp_path / "cut") == [3, 4]

    def test_a_setting_that_a_save_lacks_is_another_training(self, tmp_path):
        self.train(tmp_path, 2)
        with pytest.raises(
            ValueError, match=r"expected a training with decay 0\.01, received one with none; "
        ):
            self.train(tmp_path, 4, settings={"decay": 0.01})

    def test_a_process_without_the_first_ones_save_is_told(self, tmp_path, monkeypatch):
        self.train(tmp_path / "first", 2)
        (tmp_path / "other").mkdir()
        # As the second of two, on a machine with a disk of its own.
        with monkeypatch.context() as patch:
            patch.setattr(idist, "get_rank", lambda: 1)
            patch.setattr(idist, "broadcast", lambda name, src: "checkpoint_epoch=2.pt")
            with pytest.raises(
                ValueError,
                match=r"other/checkpoint_epoch=2\.pt: .* process 1 finds none; .* all proc",
            ):
                self.train(tmp_path / "other", 4)
            _, rates, _ = self.train(tmp_path / "first", 4)
        assert len(rates) == 4

    def test_what_a_kill_left_of_a_save_is_cleared_away(self, tmp_path):
        self.train(tmp_path, 1)
        cut = ("tmpabc_1234", "tmp________", ".0123456789ab.model.pt")
        own = {
            "tmp.txt",
            "tmpfiles",
            "tmpABCDEFGH",
            "tmp.my.text",
            "tmpmy_notes",
            ".0123456789ab.other.pt",
            "my.model.pt",
        }
        for name in (*cut, *own):
            (tmp_path / name).write_bytes(
                b"notes" if name == "tmpmy_notes" else b"PK\x03\x04" if "_1" in name else b""
            )
        (tmp_path / "tmpfolders1").mkdir()
        self.train(tmp_path, 2)
        left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("checkpoint_")}
        assert left == {*own, "tmpfolders1"}

    def test_what_was_saved_on_a_gpu_goes_on_without_it(self, tmp_path, monkeypatch):
        whole, _, _ = self.train(tmp_path / "whole", 4)
        with monkeypatch.context() as patch:
            patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
            self.train(tmp_path / "gpu", 2)
        resumed, rates, _ = self.train(tmp_path / "gpu", 4)
        assert torch.equal(resumed, whole) and len(rates) == 4

    def test_a_write_that_was_cut_leaves_no_checkpoint(self, tmp_path, monkeypatch):
        self.train(tmp_path, 1)

        def cut(content: Any, file: Any, **options: Any) -> None:
            if hasattr(file, "write"):
                file.write(b"half")
            else:
                Path(file).write_bytes(b"half")
            raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", cut)
            with pytest.raises(Stopped):
                self.train(tmp_path, 2)
        assert self.saved(tmp_path) == [1]


class TestEarlyStop:
    def build(self, patience: int, metric: str = "val_loss") -> tuple[EarlyStop, Any]:
        trainer = build_trainer([], network=nn.Linear(3, 1))
        stop = EarlyStop(patience=patience, metric=metric)
        stop.set_trainer(trainer)
        return stop, trainer

    def epochs_until_stopped(
        self, stop: EarlyStop, trainer: Any, losses: list[float]
    ) -> int | None:
        """Number of validations after which training ends; Dice gets better all the while."""
        evaluator = Engine(lambda engine, batch: None)
        for epoch, loss in enumerate(losses, 1):
            evaluator.state.metrics = {"val_loss": loss, "val_dice": epoch / 10}
            stop(evaluator)
            if trainer.should_terminate:
                return epoch
        return None

    @pytest.mark.parametrize(
        ("patience", "losses", "expected"),
        [
            (1, [1.0, 0.9, 0.9, 0.8], 3),  # as high as before is not lower
            (2, [1.0, 0.7, 0.8, 0.75, 0.1], 4),
            (2, [1.0, 1.1, 0.9, 1.0, 0.8, 0.85, 0.7], None),
            (3, [0.5, 0.6, 0.55, 0.51], 4),
        ],
    )
    def test_it_stops_after_so_many_epochs_without_a_lower_value(self, patience, losses, expected):
        assert self.epochs_until_stopped(*self.build(patience), losses) == expected

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_a_value_that_is_no_number_stops_and_names_its_cases(self, value):
        stop, _ = self.build(3)
        images = torch.zeros(4, 2, 3)
        images[1, 0, 2] = images[3, 1, 0] = value
        evaluator = Engine(
            lambda engine, batch: {"image": batch["image"], "pred": {"mask_logits": batch["image"]}}
        )
        stop.attach(evaluator)
        batches = [
            {"image": image, "case": [f"case{k}0", f"case{k}1"]} for k, image in enumerate(images)
        ]

        @evaluator.on(Events.STARTED)
        def validate() -> None:
            evaluator.state.metrics = {"val_loss": value}

        with pytest.raises(
            ValueError,
            match=r"expected a finite val_loss, received (nan|inf); .* of cases case10, case31;",
        ):
            evaluator.run(batches)
        assert stop.state_dict()["best_score"] is None

    def test_the_count_goes_on_where_it_was_saved(self):
        first, trainer = self.build(3)
        assert self.epochs_until_stopped(first, trainer, [0.5, 0.8, 0.7]) is None
        assert first.state_dict()["best_score"] == -0.5
        second, trainer = self.build(3)
        second.load_state_dict(first.state_dict())
        assert self.epochs_until_stopped(second, trainer, [0.6, 0.1]) == 1

    def test_the_count_of_another_metric_starts_anew(self):
        older, trainer = self.build(3)
        self.epochs_until_stopped(older, trainer, [0.5, 0.6, 0.7])
        stop, trainer = self.build(3)
        stop.load_state_dict({**older.state_dict(), "metric": "val_dice"})
        assert self.epochs_until_stopped(stop, trainer, [0.9, 0.95, 0.92, 0.91, 0.8]) == 4
