"""The text encoder: causality, trimming, what it refuses."""

import pytest
import torch

from boltzmed.networks.text_encoder import TextEncoder

END = 63


def build() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(
        64, width=16, num_layers=2, num_heads=2, output_dim=24, context_length=12, end_id=END
    ).eval()


def ids(*rows: list[int], length: int = 12) -> torch.Tensor:
    return torch.tensor([row + [END] * (length - len(row)) for row in rows])


def test_tokens_are_trimmed_to_the_longest_prompt_and_flagged_through_the_first_end():
    tokens, valid = build()(ids([62, 1, 2], [62, 5, 6, 7, 8]))
    assert tokens.shape == (2, 6, 24)
    assert valid.tolist() == [[True] * 4 + [False] * 2, [True] * 6]


def test_trimming_is_exact_because_attention_is_causal():
    encoder = build()
    short, valid = encoder(ids([62, 1, 2], length=4))
    assert valid.all()
    together, _ = encoder(ids([62, 1, 2], [62, 5, 6, 7, 8, 9, 10]))
    torch.testing.assert_close(together[:1, :4], short, atol=1e-5, rtol=1e-5)


def test_computing_the_padding_changes_nothing():
    encoder, prompts = build(), ids([62, 1, 2], [62, 5, 6, 7, 8])
    expected, valid = encoder(prompts)
    encoder.whole_context = True
    found, still_valid = encoder(prompts)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(still_valid, valid)


def test_a_token_sees_earlier_tokens_only():
    encoder = build()
    first, _ = encoder(ids([62, 1, 2, 3, 4]))
    second, _ = encoder(ids([62, 1, 2, 9, 4]))
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert not torch.allclose(first[:, 4], second[:, 4])


def test_a_prompt_may_fill_the_context():
    tokens, valid = build()(ids(list(range(11))))
    assert tokens.shape == (1, 12, 24) and valid.all()


@pytest.mark.parametrize(
    ("input_ids", "message"),
    [
        (torch.zeros(2, 13, dtype=torch.long), r"T from 1 to 12, got \(2, 13\)"),
        (torch.zeros(13, dtype=torch.long), r"got \(13,\)"),
        (torch.zeros(0, 12, dtype=torch.long), "at least one prompt"),
        (ids([62, 64]), "from 0 to 63, got 62 to 64"),
        (ids([62, -1]), "got -1 to 63"),
        (torch.zeros(1, 12, dtype=torch.long), r"an end token \(63\) in every prompt"),
    ],
)
def test_wrong_ids_are_refused(input_ids, message):
    with pytest.raises(ValueError, match=message):
        build()(input_ids)


def test_layer_norms_divide_even_tiny_embeddings_by_their_own_spread():
    encoder = build()
    encoder.token_embedding.weight.data *= 1e-3
    encoder.positional_embedding.data *= 1e-3
    first = encoder.token_embedding.weight[5] + encoder.positional_embedding[0]
    assert 1e-6 < first.std() < 1e-4
    assert encoder.transformer.resblocks[0].ln_1(first).std(unbiased=False).item() == pytest.approx(
        1, abs=0.01
    )


def test_published_size():
    # On the meta device nothing is allocated. The published count has one parameter more, an unused
    # temperature.
    with torch.device("meta"):
        encoder = TextEncoder(49408, width=512, num_layers=12, num_heads=8, output_dim=512)
    assert sum(p.numel() for p in encoder.parameters()) == 63428097 - 1
