"""Steps of training: gradients accumulated and clipped, the rate and the average moved on, bfloat16
where asked.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from boltzmed.engines.steps import (
    AverageWeights,
    GradientClipper,
    MixedPrecisionInferer,
    StepSchedule,
    build_schedule,
    count_steps,
)

SAMPLES = [
    {"image": image, "label": image.sum(0, keepdim=True) ** 2}
    for image in torch.rand(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
]


def build_trainer(network: nn.Module, handlers: Any, *, batch_size: int = 2, **options: Any) -> Any:
    """Five epochs of ten samples each, in order, by plain gradient descent by default."""
    sampler: Any = DistributedSampler(SAMPLES, num_replicas=1, rank=0, shuffle=False)  # type: ignore[arg-type]
    return SupervisedTrainer(
        **{
            "device": "cpu",
            "max_epochs": 5,
            "train_data_loader": DataLoader(SAMPLES, batch_size=batch_size, sampler=sampler),  # type: ignore[arg-type]
            "network": network,
            "optimizer": torch.optim.SGD(network.parameters(), lr=1.0),
            "loss_function": F.mse_loss,
            "train_handlers": list(handlers),
            "decollate": False,
            **options,
        }
    )


def parameters(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


class TestAccumulation:
    def train(
        self, batch_size: int, accumulate: int, *, max_norm: float
    ) -> tuple[list[Tensor], list[float], AverageWeights]:
        """The weights after every iteration, the rates of the steps, and the average."""
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
        total = 5 * count_steps(-(-10 // batch_size), accumulate) + 1
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=total)
        average = AverageWeights(network, 0.9)
        rates: list[float] = []
        optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
        handlers = [StepSchedule(schedule), GradientClipper(network, max_norm), average]
        options = {"optimizer": optimizer, "accumulation_steps": accumulate}
        trainer = build_trainer(network, handlers, batch_size=batch_size, **options)
        weights: list[Tensor] = []
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: weights.append(parameters(network))
        )
        trainer.run()
        return weights, rates, average

    @pytest.mark.parametrize("max_norm", [1e-3, 1e3])
    @pytest.mark.parametrize("accumulate", [2, 3, 5])
    def test_batches_accumulated_are_the_larger_batch(self, accumulate, max_norm):
        """Ten samples leave a step with fewer batches at the end of an epoch, for all numbers but
        5.
        """
        large, rates, average = self.train(2 * accumulate, 1, max_norm=max_norm)
        small, small_rates, small_average = self.train(2, accumulate, max_norm=max_norm)
        assert len(small) == 25 and len(rates) == 5 * -(-5 // accumulate)
        assert small_rates == rates and len(set(rates)) > len(rates) // 2
        ends = [k for k in range(25) if (k % 5 + 1) % accumulate == 0 or k % 5 == 4]
        assert len(ends) == len(large)
        for index, weights in zip(ends, large, strict=True):
            torch.testing.assert_close(small[index], weights, rtol=0, atol=1e-9)
        torch.testing.assert_close(
            parameters(small_average.module), parameters(average.module), rtol=0, atol=1e-9
        )
        assert small_average.averaged.n_averaged == average.averaged.n_averaged == 1 + len(rates)
        assert (parameters(average.module) - large[-1]).abs().max() > 1e-4

    def test_between_steps_nothing_moves(self):
        weights, _, _ = self.train(2, 3, max_norm=1.0)
        moved = [not torch.equal(a, b) for a, b in pairwise(weights)]
        assert moved[:9] == [False, True, False, True, False, False, True, False, True]

    @pytest.mark.parametrize(
        ("batches", "accumulate", "expected"), [(10, 1, 10), (10, 3, 4), (9, 3, 3), (2, 5, 1)]
    )
    def test_steps_of_an_epoch(self, batches, accumulate, expected):
        assert count_steps(batches, accumulate) == expected

    @pytest.mark.parametrize("accumulate", [0, -1, 1.5, "2"])
    def test_other_numbers_are_refused(self, accumulate):
        with pytest.raises(
            ValueError,
            match="gradient_accumulation: expected a number of batches from 1, received"
            f" {accumulate!r}",
        ):
            count_steps(10, accumulate)


def test_a_schedule_is_chosen_by_its_name():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedules = {"constant": torch.optim.lr_scheduler.ConstantLR, "halved": lambda _: None}
    assert isinstance(
        build_schedule(optimizer, schedules, "constant"), torch.optim.lr_scheduler.ConstantLR
    )
    with pytest.raises(
        ValueError, match="schedule: expected constant or halved, received 'cosine'"
    ):
        build_schedule(optimizer, schedules, "cosine")


class TestMixedPrecisionInferer:
    def test_the_network_runs_in_bfloat16_and_its_weights_keep_float32(self):
        network, images = nn.Linear(3, 2), torch.rand(4, 3)
        output = MixedPrecisionInferer(amp=True)(images, network)
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output.float(), network(images), rtol=0, atol=2e-2)
        output.float().sum().backward()
        assert network.weight.dtype == network.weight.grad.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")

    def test_without_it_nothing_changes(self):
        network, images = nn.Linear(3, 2), torch.rand(4, 3)
        assert torch.equal(MixedPrecisionInferer(amp=False)(images, network), network(images))

    @pytest.mark.parametrize("amp", ["false", "true", 1, None])
    def test_no_boolean_is_refused(self, amp):
        with pytest.raises(ValueError, match=f"amp: expected True or False, received {amp!r}"):
            MixedPrecisionInferer(amp)


class TestGradientClipper:
    def step_length(self, *, max_norm: float, scale: float) -> float:
        """Length of one step at rate 1: the norm of the gradient that the optimiser saw."""
        torch.manual_seed(0)
        network = nn.Linear(3, 1).double()
        before = parameters(network)
        handlers = [] if max_norm == float("inf") else [GradientClipper(network, max_norm)]
        options = {"loss_function": lambda output, target: scale * F.mse_loss(output, target)}
        build_trainer(network, handlers, max_epochs=1, epoch_length=1, **options).run()
        return float((parameters(network) - before).norm())

    def test_long_gradients_are_scaled_down_to_the_largest_norm(self):
        assert self.step_length(max_norm=float("inf"), scale=1e3) > 100
        for max_norm in (0.5, 2.0):
            assert self.step_length(max_norm=max_norm, scale=1e3) == pytest.approx(
                max_norm, rel=1e-4
            )

    def test_short_gradients_pass_unchanged(self):
        free = self.step_length(max_norm=float("inf"), scale=0.02)
        assert 0.01 < free < 1
        assert self.step_length(max_norm=1.0, scale=0.02) == pytest.approx(free)

    @pytest.mark.parametrize(
        ("accumulate", "named"), [(1, "case4, case5;"), (2, "case4, case5, case6, case7;")]
    )
    def test_a_gradient_that_is_no_number_stops_before_the_step_and_names_the_cases(
        self, accumulate, named
    ):
        """Of the square root of 0 in the third batch, whose value is fine."""
        torch.manual_seed(0)
        network = nn.Linear(3, 1).double()
        samples = [{**sample, "case": f"case{k}"} for k, sample in enumerate(SAMPLES)]
        seen: list[Tensor] = []

        def loss(output: Tensor, target: Tensor) -> Tensor:
            seen.append(parameters(network))
            return F.mse_loss(output, target) + ((0 * output).sum().sqrt() if len(seen) == 3 else 0)

        trainer = build_trainer(
            network,
            [GradientClipper(network, 1.0)],
            loss_function=loss,
            train_data_loader=DataLoader(samples, batch_size=2),  # type: ignore[arg-type]
            accumulation_steps=accumulate,
        )
        with pytest.raises(
            ValueError, match=f"iteration {2 + accumulate}: expected a finite gradient, .* {named}"
        ):
            trainer.run()
        assert torch.equal(parameters(network), seen[2]) and not torch.equal(seen[0], seen[2])


class TestAverageWeights:
    def make(self, decay: float) -> tuple[nn.Linear, AverageWeights]:
        network = nn.Linear(1, 1, bias=False)
        nn.init.constant_(network.weight, 1.0)
        return network, AverageWeights(network, decay)

    def step(self, network: nn.Linear, average: AverageWeights, *weights: float) -> list[float]:
        seen = []
        for weight in weights:
            nn.init.constant_(network.weight, weight)
            average(Engine(lambda engine, batch: None))
            seen.append(average.module.weight.item())
        return seen

    def test_by_its_formula(self):
        network, average = self.make(0.25)
        # Kept: 2 of 11, then 3 of 12, then a quarter at most.
        first = 1 * 2 / 11 + 3 * 9 / 11
        second = 0.25 * first + 0.75 * 5
        assert self.step(network, average, 3, 5, 5) == pytest.approx(
            [first, second, 0.25 * second + 0.75 * 5]
        )
        assert network.weight.item() == 5

    def test_it_is_one_interpolation_a_tensor_to_the_last_bit(self):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2).double())
        average = AverageWeights(network, 0.9)
        expected = [value.detach().clone() for value in network.parameters()]
        for step in range(1, 100):
            with torch.no_grad():
                for value in network.parameters():
                    value.add_(torch.randn_like(value))
            average(Engine(lambda engine, batch: None))
            kept = min(0.9, (1 + step) / (10 + step))
            expected = [
                torch.lerp(new.detach(), old, kept)
                for new, old in zip(network.parameters(), expected, strict=True)
            ]
        found = average.module.parameters()
        assert all(torch.equal(value, mean) for value, mean in zip(found, expected, strict=True))

    def test_without_decay_it_is_the_newest(self):
        assert self.step(*self.make(0.0), 3, 5) == [3, 5]

    def test_it_goes_on_where_it_was_saved(self):
        network, average = self.make(0.9)
        self.step(network, average, 3, 5)
        saved = copy.deepcopy(dict(average.state_dict()))
        expected = self.step(network, average, 7, 9)
        other_network, other = self.make(0.9)
        other.load_state_dict(saved)
        assert self.step(other_network, other, 7, 9) == expected

    @pytest.mark.parametrize("decay", [-0.1, 1.0])
    def test_other_decays_are_refused(self, decay):
        with pytest.raises(ValueError, match=f"ema_decay: expected 0 to below 1, received {decay}"):
            self.make(decay)
