"""The Boltzmann draw against its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boltzmed.networks.boltzmann import (
    boltzmann_distribution,
    count_draws,
    draw_uniforms,
    fill_empty_rows,
    keyed_generator,
    layer_temperature,
    least_probability,
    sample_attended,
)


def confidences(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(2).sigmoid()


def test_temperature_anneals_as_base_over_layer_plus_one():
    assert [layer_temperature(layer, 2.0) for layer in (0, 1, 3)] == [2.0, 1.0, 0.5]


@pytest.mark.parametrize(("tokens", "draws"), [(1024, 102), (4096, 409), (16384, 1638), (4, 0)])
def test_number_of_draws(tokens, draws):
    assert count_draws(tokens, 0.1) == draws


@given(
    st.integers(0, 2**31),
    st.sampled_from([1.0, 0.5, 1 / 9, 0.02, 0.001]),
    st.sampled_from([0.3, 0.8, 1.1]),
)
@settings(max_examples=40, deadline=None)
def test_distribution_is_a_softmax_over_the_candidates(seed, temperature, threshold):
    confidence = confidences(3, 50, seed=seed)
    confidence[1] = 0.9
    probability = boltzmann_distribution(confidence, temperature, threshold)
    candidate = confidence < threshold
    expected = (
        (confidence.double() / temperature)
        .masked_fill(~candidate, -torch.inf)
        .softmax(-1)
        .nan_to_num(0)
    )
    # Rounding U / τ to float32 costs up to half a unit in the last place of the exponent.
    torch.testing.assert_close(
        probability.double(), expected, atol=1e-7, rtol=3e-7 * max(1, 1 / temperature)
    )
    assert not probability[~candidate].any()


def test_attended_frequency_matches_trials_with_replacement():
    confidence = confidences(1, 40)
    temperature, ratio = 0.3, 0.25
    uniforms = torch.rand(20000, 1, 40, generator=torch.Generator().manual_seed(1))
    least = least_probability(uniforms, count_draws(40, ratio))
    frequency = sample_attended(confidence, least, temperature=temperature).float().mean(0)
    probability = boltzmann_distribution(confidence, temperature)
    expected = 1 - (1 - probability) ** 10
    assert (frequency - expected).abs().max() < 0.02
    trials = probability[0].multinomial(
        20000 * 10, replacement=True, generator=torch.Generator().manual_seed(2)
    )
    hit = torch.zeros(20000, 40).scatter_(1, trials.view(20000, 10), 1).mean(0)
    assert (hit - expected[0]).abs().max() < 0.02


def test_tokens_at_the_threshold_are_attended_without_a_draw():
    confidence = torch.tensor([[0.1, 0.5, 0.9, 0.49]])
    never = least_probability(torch.zeros(1, 4), 0)
    assert sample_attended(confidence, never, threshold=0.5).tolist() == [
        [False, True, True, False]
    ]
    assert sample_attended(confidence, None, threshold=0.5).tolist() == [[False, True, True, False]]
    assert not sample_attended(confidence, None).any()


def test_a_row_without_candidates_is_attended_whole():
    confidence = torch.full((1, 4), 0.8)
    assert not boltzmann_distribution(confidence, 1.0, 0.5).any()
    assert sample_attended(confidence, torch.full((1, 4), 0.1), threshold=0.5).all()


@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3, 10, 102, 409, 1638, 6553]))
@settings(max_examples=60, deadline=None)
def test_least_probability_turns_the_formula_of_the_draw_round(seed, draws):
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(2000, generator=generator)
    uniforms[:4] = torch.tensor([0.0, 2**-24, 0.5, 1 - 2**-24])
    least = least_probability(uniforms, draws)
    close = least * (1 + 3e-4 * torch.randn(2000, generator=generator))
    below = torch.nextafter(least, torch.zeros(()))
    for probability in (least, below, close, torch.rand(2000, generator=generator) / draws):
        probability = probability.clamp(0, 1)
        assert torch.equal(probability >= least, uniforms >= (1 - probability) ** draws)
    assert least_probability(uniforms, 0).isinf().all()


def test_empty_rows_are_filled_and_others_left():
    attended = torch.tensor([[False, False], [True, False]])
    assert fill_empty_rows(attended).tolist() == [[True, True], [True, False]]


def test_uniforms_broadcast_over_prompts_and_heads():
    confidence = confidences(2, 3, 1, 5, 20)
    least = least_probability(
        torch.rand(2, 1, 4, 5, 20, generator=torch.Generator().manual_seed(3)), 10
    )
    attended = sample_attended(confidence, least)
    assert attended.shape == (2, 3, 4, 5, 20)
    assert torch.equal(attended[1, 2, 3], sample_attended(confidence[1, 2, 0], least[1, 0, 3]))


def test_nothing_carries_a_gradient():
    confidence = confidences(2, 9).requires_grad_()
    assert not boltzmann_distribution(confidence, 1.0).requires_grad
    assert not sample_attended(confidence, torch.rand(2, 9)).requires_grad


def test_half_precision_is_raised_to_single():
    confidence = confidences(2, 300).half()
    least = least_probability(torch.rand(2, 300, generator=torch.Generator().manual_seed(1)), 30)
    assert boltzmann_distribution(confidence, 0.5).dtype == torch.float32
    expected = sample_attended(confidence.float(), least)
    assert torch.equal(sample_attended(confidence, least), expected)


def test_tables_depend_on_key_and_layer_alone():
    first = draw_uniforms(5, [(3, 4), (3, 16), (3, 4)])
    assert [table.shape for table in first] == [(3, 4), (3, 16), (3, 4)]
    assert all(
        table.dtype == torch.float32 and (table >= 0).all() and (table < 1).all() for table in first
    )
    assert not torch.equal(first[0], first[2])
    assert torch.equal(first[2], draw_uniforms(5, [(9, 9), (1, 1), (3, 4)])[2])
    assert not torch.equal(first[0], draw_uniforms(6, [(3, 4)])[0])


def test_generators_see_every_bit_of_the_key():
    states = {
        tuple(torch.rand(4, generator=keyed_generator(key)).tolist())
        for key in (1, 1 + 2**32, 1 + 2**63, -1)
    }
    assert len(states) == 4


def test_global_random_state_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw_uniforms(1, [(5, 5)])
    assert torch.equal(torch.rand(3), expected)
