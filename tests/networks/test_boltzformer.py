"""The whole network with a small stand-in for the image side: independence, draws, gradients,
trainability.
"""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.literal import LiteralDecoder, LiteralPiGMA
from boltzmed.losses import PromptLoss
from boltzmed.networks.boltzformer import INVALID_LOGIT, BoltzFormer
from boltzmed.networks.decoder import Decoder
from boltzmed.networks.pigma import PiGMA
from boltzmed.networks.pixel_decoder import SemanticMap
from boltzmed.networks.text_encoder import TextEncoder

START, END, WIDTH = 62, 63, 32


class StandInEncoder(nn.Module):
    """Four convolutions: features at strides 4, 8, 16, 32."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Conv2d(
                3 if i == 0 else WIDTH,
                WIDTH,
                kernel_size=4 if i == 0 else 2,
                stride=4 if i == 0 else 2,
            )
            for i in range(4)
        )

    def forward(self, image: Tensor, draw_key: Tensor | None = None) -> list[Tensor]:
        features = []
        for step in self.steps:
            image = step(image)
            features.append(image)
        return features


class StandInPixelDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask_features = nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], SemanticMap]:
        return features[:0:-1], SemanticMap(
            features[0], self.mask_features.weight, self.mask_features.bias
        )


def build(
    seed: int = 0, *, weights_seed: int = 1, num_queries: int = 5, literal: bool = False, **options
) -> BoltzFormer:
    torch.manual_seed(weights_seed)
    decoder, pigma = (LiteralDecoder, LiteralPiGMA) if literal else (Decoder, PiGMA)
    return BoltzFormer(
        StandInEncoder(),
        StandInPixelDecoder(),
        TextEncoder(
            64,
            width=WIDTH,
            num_layers=2,
            num_heads=2,
            output_dim=WIDTH,
            context_length=16,
            end_id=END,
        ),
        decoder(num_queries, WIDTH, num_heads=4, feedforward_dim=48, num_layers=4, **options),
        pigma(num_queries),
        seed=seed,
    )


def images(batch: int = 2, size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.rand((batch, 3, *size), generator=torch.Generator().manual_seed(5)) * 255


def prompt(*words: int, length: int = 12) -> list[int]:
    return [START, *words] + [END] * (length - 1 - len(words))


PROMPTS = torch.tensor(
    [[prompt(3, 4), prompt(9), prompt(7, 8, 5, 6, 1)], [prompt(2), prompt(3, 4), prompt(30, 31)]]
)


def logits(network: BoltzFormer, *arguments, **options) -> Tensor:
    with torch.no_grad():
        return network(*arguments, **options)["mask_logits"]


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (256, 256), (64, 160)])
def test_output_has_half_the_images_size_for_any_number_of_prompts(size):
    network = build()
    for prompts in (1, 2, 3):
        output = network(images(2, size), PROMPTS[:, :prompts])
        assert output["mask_logits"].shape == (2, prompts, size[0] // 2, size[1] // 2)
        assert output["presence_logits"] is None


@pytest.mark.parametrize("attention", ["auto", "gathered", "fused"])
@pytest.mark.parametrize(
    ("dtype", "forward", "backward"), [(torch.float32, 1e-5, 1e-4), (torch.float64, 1e-10, 1e-10)]
)
def test_the_fast_form_is_the_literal_one(attention, dtype, forward, backward):
    """Masks and the gradient of every weight, in a training step with draws of each image's own."""
    outputs, gradients = [], []
    for options in ({"literal": True}, {"attention": attention}):
        network = build(**options).to(dtype)
        network.text_encoder.float()  # its normalisation is of 32 bits, as open_clip has it
        text = network.encode_text(PROMPTS)
        features = network.encode_image(images(2, (96, 64)).to(dtype))
        text = text._replace(tokens=text.tokens.to(dtype))
        output = network.decode(features, text, draw_key=torch.tensor([3, 4]))["mask_logits"]
        (
            output * torch.linspace(-1, 1, output.numel(), dtype=dtype).view_as(output)
        ).sum().backward()
        outputs.append(output.detach())
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    assert (outputs[1] - outputs[0]).abs().max() <= forward * outputs[0].abs().max()
    largest = max(gradient.abs().max() for gradient in gradients[0].values())
    for name, expected in gradients[0].items():
        assert (gradients[1][name] - expected).abs().max() <= backward * largest, name


@torch.no_grad()
def test_an_image_kept_for_prompts_gives_the_same_masks():
    network = build()
    features, text = network.encode_image(images()), network.encode_text(PROMPTS)
    kept = network.keep_for_prompts(features)
    expected = network.decode(features, text)["mask_logits"]
    torch.testing.assert_close(
        network.decode(kept, text)["mask_logits"], expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("attention", ["gathered", "fused"])
def test_sixteen_bits_change_little(attention):
    """Autocast rounds what is computed, not what is drawn from: a step runs and the masks stay
    near.
    """
    network = build(attention=attention)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(images(2), PROMPTS, draw_key=torch.tensor([3, 4]))["mask_logits"]
    output.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    expected = logits(build(), images(2), PROMPTS, draw_key=torch.tensor([3, 4]))
    difference = (output.detach().float() - expected).abs()
    assert difference.mean() < 0.05 * expected.std()


def test_a_training_step_encodes_an_image_once_for_all_its_prompts(monkeypatch):
    network, encoded = build(), []
    for part in (network.image_encoder, network.pixel_decoder):
        part.register_forward_hook(
            lambda module, arguments, _: encoded.append(len(arguments[0][0]))
        )
    network(images(2), PROMPTS, draw_key=torch.tensor([3, 4]))["mask_logits"].sum().backward()
    assert encoded == [3, 2]  # the first image's three channels; two images of the finest feature


def test_training_lowers_the_loss():
    network = build(num_queries=4)
    image = torch.full((1, 3, 64, 64), 60.0)
    target = torch.zeros(1, 2, 64, 64)
    target[0, 0, 10:30, 12:28] = 1
    target[0, 1, 40:52, 36:60] = 1
    image[:, :, 10:30, 12:28] = 200
    image[:, :, 40:52, 36:60] = 130
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    loss_function = PromptLoss()
    losses = []
    for step in range(60):
        loss = loss_function(network(image, PROMPTS[:1, :2], draw_key=torch.tensor([step])), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0], losses


def test_a_prompts_masks_do_not_depend_on_its_batch_mates():
    network = build()
    together = logits(network, images(), PROMPTS)
    for image in range(2):
        for i in range(3):
            alone = logits(
                network, images()[image : image + 1], PROMPTS[image : image + 1, i : i + 1]
            )
            torch.testing.assert_close(alone[0, 0], together[image, i], atol=1e-4, rtol=0)


def test_padding_ids_after_the_end_token_change_nothing():
    network = build()
    other = PROMPTS.clone()
    other[0, 0, 4:] = 17
    other[0, 0, 7] = END
    torch.testing.assert_close(
        logits(network, images(), other), logits(network, images(), PROMPTS), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("attend_padding", ["zeros", "minus_ones"])
def test_the_published_padding_makes_a_prompt_depend_on_its_batch_mates(attend_padding):
    network = build(attend_padding=attend_padding)
    together = logits(network, images(), PROMPTS)[:1, :1]
    assert (together - logits(network, images()[:1], PROMPTS[:1, :1])).abs().max() > 1e-3


def test_permuted_prompts_give_permuted_masks():
    network, order = build(), [2, 0, 1]
    expected = logits(network, images(), PROMPTS)[:, order]
    torch.testing.assert_close(
        logits(network, images(), PROMPTS[:, order]), expected, atol=1e-4, rtol=0
    )


def test_prompts_of_one_study_serve_every_slice():
    network = build()
    expected = logits(network, images(), PROMPTS[:1].expand(2, -1, -1))
    torch.testing.assert_close(logits(network, images(), PROMPTS[:1]), expected, atol=1e-5, rtol=0)


def test_encoding_apart_is_the_same_as_forward():
    network = build()
    with torch.no_grad():
        text = network.encode_text(PROMPTS[:1])
        apart = [
            network.decode(network.encode_image(image[None]), text)["mask_logits"]
            for image in images()
        ]
    torch.testing.assert_close(
        torch.cat(apart), logits(network, images(), PROMPTS[:1]), atol=1e-4, rtol=0
    )


def test_inference_draws_are_one_table_whatever_the_batch():
    network = build()
    with torch.no_grad():
        one, two = network.encode_image(images(1)), network.encode_image(images(2))
    tables = network._draw(one, None)
    assert [table.shape for table in tables] == network.decoder.uniform_shapes(
        [(2, 2), (4, 4), (8, 8)]
    )
    assert all(a is b for a, b in zip(tables, network._draw(two, None), strict=True))
    for size in (96, 128, 160, 192):  # more sizes than are kept
        with torch.no_grad():
            network._draw(network.encode_image(images(1, (size, size))), None)
    again = network._draw(one, None)
    assert all(a is not b and torch.equal(a, b) for a, b in zip(tables, again, strict=True))


def test_the_seed_decides_inference_and_is_settable():
    network = build(seed=3)
    first = logits(network, images(), PROMPTS)
    assert torch.equal(first, logits(network, images(), PROMPTS))
    torch.rand(7)
    assert torch.equal(first, logits(build(seed=3), images(), PROMPTS))
    network.seed = 4
    assert not torch.equal(first, logits(network, images(), PROMPTS))


def test_a_samples_training_draws_depend_on_its_key_alone():
    network = build()
    keys = torch.tensor([11, 2**40 + 11])
    together = logits(network, images(), PROMPTS, draw_key=keys)
    swapped = logits(network, images().flip(0), PROMPTS.flip(0), draw_key=keys.flip(0)).flip(0)
    torch.testing.assert_close(swapped, together, atol=1e-4, rtol=0)
    same_image = images(1).expand(2, -1, -1, -1)
    twice = logits(network, same_image, PROMPTS[:1], draw_key=torch.tensor([7, 7]))
    torch.testing.assert_close(twice[0], twice[1])
    different = logits(network, same_image, PROMPTS[:1], draw_key=keys)
    assert not torch.allclose(different[0], different[1], atol=1e-3)


def test_kept_draws_are_those_of_the_decoder_as_it_is():
    network, other = build(), build(sample_ratio=0.5)
    first = logits(network, images(), PROMPTS)
    network.decoder.sample_ratio = 0.5
    assert torch.equal(logits(network, images(), PROMPTS), logits(other, images(), PROMPTS))
    assert not torch.equal(logits(network, images(), PROMPTS), first)


def test_explicit_draws_come_first():
    network = build()
    with torch.no_grad():
        image, text = network.encode_image(images()), network.encode_text(PROMPTS)
        tables = network._draw(image, torch.tensor([1, 2]))
        given = network.decode(image, text, draws=tables)["mask_logits"]
    assert torch.equal(given, logits(network, images(), PROMPTS, draw_key=torch.tensor([1, 2])))


def test_invalid_prompts_hold_no_object_and_carry_no_gradient():
    network = build()
    valid = torch.tensor([[True, False, True], [False, False, True]])
    output = network(images(), PROMPTS, valid)["mask_logits"]
    assert (output[~valid] == INVALID_LOGIT).all()
    torch.testing.assert_close(output[valid], logits(network, images(), PROMPTS)[valid])
    output[~valid].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())


@pytest.mark.parametrize(
    "options", [{}, {"boltzmann": False}, {"threshold": 0.5}, {"per_head_draws": True}]
)
def test_every_parameter_gets_a_gradient(options):
    network = build(**options)
    target = (torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) > 0.8).float()
    PromptLoss()(network(images(), PROMPTS), target).backward()
    missing = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not missing
    silent = [name for name, p in network.named_parameters() if not p.grad.any()]
    assert not silent


def test_nothing_depends_on_training_mode_and_the_state_holds_parameters_only():
    network = build()
    assert torch.equal(
        logits(network.train(), images(), PROMPTS), logits(network.eval(), images(), PROMPTS)
    )
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


def test_mixed_precision_runs_and_stays_near():
    network = build(boltzmann=False)
    expected = logits(network, images(), PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = logits(network, images(), PROMPTS)
    assert mixed.isfinite().all()
    assert (mixed.float() - expected).abs().mean() < 0.1 * expected.abs().mean() + 0.05


@pytest.mark.parametrize(
    ("image", "ids", "keywords", "message"),
    [
        (torch.zeros(1, 3, 64, 70), PROMPTS[:1], {}, "divisible by 32"),
        (torch.zeros(1, 1, 64, 64), PROMPTS[:1], {}, r"expected images \(B, 3, H, W\)"),
        (torch.zeros(3, 3, 64, 64), PROMPTS, {}, "prompts of 3 images or of one"),
        (torch.zeros(2, 3, 64, 64), PROMPTS[0], {}, r"token ids \(B, P, T\)"),
        (
            torch.zeros(2, 3, 64, 64),
            PROMPTS,
            {"prompt_valid": torch.ones(2, 2).bool()},
            "prompt_valid",
        ),
        (
            torch.zeros(2, 3, 64, 64),
            PROMPTS,
            {"draw_key": torch.tensor([1])},
            "one draw key per image",
        ),
    ],
)
def test_wrong_input_is_one_clear_line(image, ids, keywords, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()(image, ids, **keywords)
    assert "\n" not in str(caught.value)
