"""The decoder: exact shortcuts, options, traces, what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.literal import LiteralDecoder, predict_masks
from boltzmed.networks.boltzmann import draw_uniforms
from boltzmed.networks.decoder import Decoder
from boltzmed.networks.pixel_decoder import SemanticMap

WIDTH, SIZES = 16, [(2, 3), (4, 6), (8, 12)]


def build(form: type[Decoder] = Decoder, **options) -> Decoder:
    torch.manual_seed(0)
    return form(5, WIDTH, num_heads=2, feedforward_dim=24, num_layers=6, **options)


def features(batch: int = 2) -> tuple[list[torch.Tensor], SemanticMap]:
    generator = torch.Generator().manual_seed(1)
    scales = [torch.randn(batch, WIDTH, *size, generator=generator) for size in SIZES]
    kernel = 0.1 * torch.randn(WIDTH, WIDTH, 3, 3, generator=generator)
    return scales, SemanticMap(
        torch.randn(batch, WIDTH, 16, 24, generator=generator), kernel, torch.zeros(WIDTH)
    )


def text(batch: int = 2, prompts: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    valid = torch.arange(7) < torch.randint(2, 8, (batch, prompts, 1), generator=generator)
    return torch.randn(batch, prompts, 7, WIDTH, generator=generator), valid


def draws(decoder: Decoder, sizes: list[tuple[int, int]], key: int = 0) -> list[torch.Tensor]:
    return decoder.prepare_draws(draw_uniforms(key, decoder.uniform_shapes(sizes)))


@torch.no_grad()
def run(
    decoder: Decoder, trace: dict | None = None, *, key: int = 0, prompts: int = 3
) -> torch.Tensor:
    return decoder(*features(), *text(prompts=prompts), draws(decoder, SIZES, key), trace)


def test_resizing_the_semantic_map_is_resizing_the_masks():
    decoder = build()
    _, semantic_map = features()
    trace: dict = {}
    run(decoder, trace)
    uniforms = draw_uniforms(0, decoder.uniform_shapes(SIZES))
    for layer in range(6):
        size = SIZES[layer % 3]
        with torch.no_grad():
            masks = predict_masks(decoder.embed_masks(trace["queries"][layer]), semantic_map)
        assert masks.shape == (2, 3, 5, 16, 24)
        resized = F.interpolate(
            masks.flatten(0, 1), size=size, mode="bilinear", align_corners=False
        )
        confidence = resized.sigmoid().flatten(2).view(2, 3, 5, -1)
        # The draw by its formula; token by token, where the bound is not within rounding of the
        # uniform.
        weight = (confidence * (layer + 1)).exp()
        missed = (1 - weight / weight.sum(-1, keepdim=True)) ** int(0.1 * weight.shape[-1])
        attended = uniforms[layer] >= missed
        attended |= ~attended.any(-1, keepdim=True)
        clear = ((uniforms[layer] - missed).abs() > 1e-5).all(-1)
        assert (
            torch.equal(trace["attended"][layer][clear], attended[clear])
            and clear.float().mean() > 0.9
        )


@pytest.mark.parametrize(
    "options", [{}, {"threshold": 0.5}, {"boltzmann": False, "threshold": 0.5}]
)
def test_all_forms_agree(options):
    expected = run(build(LiteralDecoder, **options))
    for attention in ("reference", "fused", "gathered", "auto"):
        torch.testing.assert_close(
            run(build(attention=attention, **options)), expected, atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_free_draws_of_the_two_forms_are_the_same():
    """Rounding may flip a token whose uniform is next to its bound: at most one in 100 000."""
    generator = torch.Generator().manual_seed(3)
    sizes = [(16, 16), (32, 32), (64, 64)]
    scales = [torch.randn(1, 64, *size, generator=generator) for size in sizes]
    kernel = 0.05 * torch.randn(64, 64, 3, 3, generator=generator)
    semantic_map = SemanticMap(
        torch.randn(1, 64, 128, 128, generator=generator), kernel, torch.zeros(64)
    )
    tokens, valid = (
        torch.randn(1, 2, 5, 64, generator=generator),
        torch.ones(1, 2, 5, dtype=torch.bool),
    )
    sets = []
    for form in (LiteralDecoder, Decoder):
        torch.manual_seed(0)
        decoder, trace = form(32, 64, num_heads=4, feedforward_dim=96), {}
        decoder(scales, semantic_map, tokens, valid, draws(decoder, sizes), trace)
        sets.append(torch.cat([attended.flatten() for attended in trace["attended"]]))
    drawn = sets[0].float().mean()
    assert len(sets[0]) > 10**6 and 0.08 < drawn < 0.12
    assert (sets[0] != sets[1]).sum() <= 1e-5 * len(sets[0])


def test_prompts_taken_in_groups_are_all_taken(monkeypatch):
    traces: list[dict] = [{}, {}]
    for attention in ("fused", "gathered"):
        expected = run(build(attention=attention), traces[0])
        with monkeypatch.context() as patch:
            patch.setattr("boltzmed.networks.decoder._CONFIDENCES_AT_ONCE", 1)
            torch.testing.assert_close(
                run(build(attention=attention), traces[1]), expected, atol=1e-5, rtol=1e-5
            )
    for whole, grouped in zip(*(trace["attended"] for trace in traces), strict=True):
        assert torch.equal(whole, grouped)


def test_gathering_for_all_prompts_at_once_changes_nothing(monkeypatch):
    traces: list[dict] = [{}, {}]
    decoder = build()  # its image is too small for gathering prompt by prompt
    expected = run(decoder, traces[0])
    shared = []
    monkeypatch.setattr(
        "boltzmed.networks.decoder.find_shared",
        lambda _, attended: shared.append(attended) or attended.any(1),
    )
    torch.testing.assert_close(run(decoder, traces[1]), expected, atol=1e-5, rtol=1e-5)
    assert len(shared) == 6
    for before, after in zip(*(trace["attended"] for trace in traces), strict=True):
        assert torch.equal(before, after)


def test_draws_per_head_equal_shared_draws_when_the_tables_do():
    shared, per_head = build(), build(per_head_draws=True)
    assert per_head.uniform_shapes(SIZES)[1] == (2, 5, 24)
    tables = draws(shared, SIZES)
    repeated = [table[None].expand(2, -1, -1) for table in tables]
    trace: dict = {}
    with torch.no_grad():
        output = per_head(*features(), *text(), repeated, trace)
    assert trace["attended"][0].shape == (2, 3, 2, 5, 6)
    torch.testing.assert_close(output, run(shared), atol=1e-5, rtol=1e-5)


def test_tables_per_image_equal_the_shared_table_when_repeated():
    for options in ({}, {"per_head_draws": True}):
        decoder = build(**options)
        tables = draws(decoder, SIZES)
        with torch.no_grad():
            output = decoder(
                *features(), *text(), [torch.stack((table, table)) for table in tables]
            )
        torch.testing.assert_close(output, run(decoder), atol=1e-6, rtol=1e-6)


def test_full_attention_is_the_empty_set_filled():
    full, traced = build(boltzmann=False), {}
    expected = run(full, traced)
    assert traced["attended"] == [None] * 6
    # A threshold that no confidence reaches leaves every row empty: the long way to the same
    # result.
    torch.testing.assert_close(
        run(build(boltzmann=False, threshold=1.0)), expected, atol=1e-5, rtol=1e-5
    )


def test_a_threshold_attends_confident_tokens():
    trace: dict = {}
    run(build(boltzmann=False, threshold=0.5), trace)
    counts = [attended.float().mean().item() for attended in trace["attended"]]
    assert all(0.05 < count < 0.95 for count in counts)


def test_padding_text_takes_no_part():
    decoder, (tokens, valid) = build(), text()
    tables = draws(decoder, SIZES)
    with torch.no_grad():
        expected = decoder(*features(), tokens, valid, tables)
        changed = decoder(*features(), tokens.masked_fill(~valid[..., None], 1e4), valid, tables)
        longer = decoder(*features(), F.pad(tokens, (0, 0, 0, 4)), F.pad(valid, (0, 4)), tables)
    torch.testing.assert_close(changed, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(longer, expected, atol=1e-5, rtol=1e-5)


def test_trace_holds_every_step_and_no_gradient_reaches_the_draw():
    decoder, trace = build(), {}
    run(decoder, trace)
    assert {name: len(steps) for name, steps in trace.items()} == {
        "queries": 7,
        "text": 7,
        "attended": 6,
        "after_cross": 6,
    }
    assert trace["attended"][2].shape == (2, 3, 5, 96) and trace["attended"][2].any(-1).all()
    tables = draws(decoder, SIZES)
    decoder(*features(), *text(), tables).square().sum().backward()
    # Intermediate masks only choose tokens: the mask head learns from the final prediction alone.
    assert all(
        p.grad is None for p in [*decoder.mask_mlp.parameters(), *decoder.mask_norm.parameters()]
    )


def test_initial_weights_are_as_published():
    decoder = Decoder(50, 64, num_heads=4, feedforward_dim=128, num_layers=1)
    layer = decoder.layers[0]
    bound = (6 / (64 + 3 * 64)) ** 0.5
    assert 0.98 * bound < layer.cross_attention.in_proj_weight.abs().max() <= bound
    assert (
        not layer.cross_attention.in_proj_bias.any()
        and not layer.cross_attention.out_proj.bias.any()
    )
    assert layer.query_text.feed_forward.linear1.bias.any()
    assert 0.9 < decoder.query_features.std() < 1.1


def test_parameter_count_of_the_published_size():
    with torch.device("meta"):
        decoder = Decoder(101, 512, num_heads=8, feedforward_dim=2048)
    assert sum(p.numel() for p in decoder.parameters()) == 42144768 - 262144


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attend_padding": "ones"}, "attend_padding must be None or one of"),
        ({"sample_ratio": 0}, "sample_ratio in"),
        ({"base_temperature": 0.0}, "positive base_temperature"),
        ({"attention": "fast"}, "'fast'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_wrong_draws_are_refused():
    decoder = build()
    tables = draws(decoder, SIZES)
    with pytest.raises(ValueError, match="6 tables of draws, got none"):
        decoder(*features(), *text())
    with pytest.raises(ValueError, match="got 5"):
        decoder(*features(), *text(), tables[:5])
    with pytest.raises(ValueError, match="layer 1 needs draws"):
        decoder(*features(), *text(), [tables[0], tables[0], *tables[2:]])
    with pytest.raises(ValueError, match="3 image scales, got 2"):
        decoder(features()[0][:2], features()[1], *text(), tables)
