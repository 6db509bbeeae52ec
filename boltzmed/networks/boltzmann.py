"""Boltzmann attention sampling as pure functions: temperature, distribution, draw (section 3.2.2 of
the paper).

Tensor suffixes: Q queries, N image tokens of one scale. Any number of leading axes (batch, prompts,
heads) may stand before them. Nothing here carries a gradient and everything is computed in float32:
the draw decides which tokens a query may look at, it is not part of what is learnt.

Random numbers come in as uniforms. The same uniforms give the same attended set on every device and
at every batch size, up to the rounding of the confidences they are compared with.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

# exp() of confidences in (0, 1) divided by a temperature below 1/64 could overflow float32 once
# summed over the tokens.
LARGEST_EXPONENT = 64.0


def layer_temperature(layer: int, base_temperature: float) -> float:
    """Annealed temperature τ_ℓ = τ0 / (1 + ℓ) of layer ℓ = 0, 1, … (below Eq. 5)."""
    return base_temperature / (1 + layer)


def count_draws(num_tokens: int, sample_ratio: float) -> int:
    """Number of independent trials n = ⌊ratio · N⌋ for a scale of N tokens (102 for 32×32, 1638 for
    128×128 at 0.1).
    """
    return int(sample_ratio * num_tokens)


@torch.no_grad()
def boltzmann_distribution(
    confidence_QN: Tensor, temperature: float, threshold: float = 1.1
) -> Tensor:
    """Boltzmann distribution over the image tokens that are candidates for sampling (Eq. 5).

    Args:
        confidence_QN: (..., Q, N) in [0, 1], the sigmoid of the mask logits on the token grid (Eq.
            1).
        temperature: τ_ℓ > 0.
        threshold: tokens with a confidence below it are candidates; above 1 (the default) every
            token is.

    Returns:
        (..., Q, N) float32 probabilities that sum to 1 over the candidates of a row and are 0
        elsewhere. A row without candidates is all zero.
    """
    confidence_QN = confidence_QN.float()
    # Above 1 every token is a candidate, and nothing has to be left out.
    candidate_QN = confidence_QN < threshold if threshold <= 1 else None
    exponent_QN = confidence_QN / temperature  # a new tensor, of which the rest is made in place
    if 1 / temperature > LARGEST_EXPONENT:
        # The same distribution, shifted by the row's largest candidate. Not done at ordinary
        # temperatures, where the plain form is safe and rounds exactly as the published one.
        if candidate_QN is not None:
            exponent_QN = exponent_QN.masked_fill(~candidate_QN, -torch.inf)
        largest_Q1 = exponent_QN.amax(-1, keepdim=True)
        exponent_QN -= largest_Q1.masked_fill(largest_Q1.isinf(), 0)
    weight_QN = exponent_QN.exp_()
    if candidate_QN is not None:
        weight_QN *= candidate_QN
    total_Q1 = weight_QN.sum(-1, keepdim=True)
    return weight_QN.div_(total_Q1.clamp_min(torch.finfo(torch.float32).tiny))


@torch.no_grad()
def sample_attended(
    confidence_QN: Tensor,
    least_QN: Tensor | None,
    *,
    temperature: float = 1.0,
    threshold: float = 1.1,
) -> Tensor:
    """The set of tokens each query attends to, drawn with given random numbers (section 3.2.2, step
    2).

    n trials with replacement hit token (x, y) at least once with probability 1 - (1 - p)^n; as in
    the paper's first footnote every token is drawn by itself with that probability. Tokens whose
    confidence reaches the threshold are attended without a draw. A row may come out empty, see
    `fill_empty_rows`.

    Args:
        confidence_QN: (..., Q, N) in [0, 1].
        least_QN: `least_probability` of uniforms, broadcastable against the confidences; None draws
            nothing, so that only tokens at or above the threshold are attended.
        temperature: τ_ℓ > 0.
        threshold: confidence from which a token is always attended; above 1 none is.

    Returns:
        attended_QN: bool, the broadcast shape of the inputs; True where the query attends to the
            token.
    """
    confidence_QN = confidence_QN.float()
    if least_QN is None:
        return confidence_QN >= threshold
    drawn_QN = boltzmann_distribution(confidence_QN, temperature, threshold) >= least_QN
    return drawn_QN if threshold > 1 else drawn_QN | (confidence_QN >= threshold)


def least_probability(uniform_QN: Tensor, num_draws: int) -> Tensor:
    """The smallest probability p at which n trials hit a token whose uniform is u: the p with (1 -
    p)^n ≤ u.

    One table of uniforms meets many probabilities: with this, kept for the table, a draw is a
    comparison, p ≥ least, and exactly the same. The published draws are made in float32, where 1 -
    p loses digits of small p; so the smallest p lies half a rounding step below 1 - x, where x is
    the largest float32 with x^n ≤ u.

    Args:
        uniform_QN: uniforms in [0, 1).
        num_draws: n, see `count_draws`.

    Returns:
        float32, the same shape; infinite, hence never reached, for n = 0.
    """
    if num_draws == 0:
        return torch.full_like(uniform_QN, torch.inf, dtype=torch.float32)
    uniform_QN = uniform_QN.float()
    # The root in float64, then corrected by what float32 makes of it. A power below 2^-150 is 0,
    # and reaches u = 0.
    missed_QN = uniform_QN.double().clamp_min_(2.0**-150).log_().div_(num_draws).exp_().float()
    missed_QN = _step(missed_QN, -(missed_QN**num_draws > uniform_QN).int())
    missed_QN = _step(missed_QN, (_step(missed_QN, 1) ** num_draws <= uniform_QN).int())
    least_QN = 1 - missed_QN
    least_QN -= (
        missed_QN >= 0.5
    ) * 2.0**-25  # float32 steps by 2^-24 between 0.5 and 1: nothing is rounded
    # Half a step is rounded to the even neighbour: sometimes one float up.
    return _step(least_QN, (1 - least_QN > missed_QN).int())


def _step(positive: Tensor, floats: Tensor | int) -> Tensor:
    """So many float32 numbers up."""
    return (positive.view(torch.int32) + floats).view(torch.float32)


def fill_empty_rows(attended_QN: Tensor) -> Tensor:
    """Lets a query that attends to no token attend to every token (the published code's rule; bool,
    in place).
    """
    # The largest byte: any() takes ten times as long on a CPU.
    return attended_QN.logical_or_(attended_QN.to(torch.uint8).amax(-1, keepdim=True) == 0)


def keyed_generator(*key: int) -> torch.Generator:
    """CPU generator that depends on every bit of every integer of its key, and on nothing else.

    The key is hashed because torch's CPU generator looks at the lowest 32 bits of a seed only: keys
    built by shifting would silently coincide.
    """
    digest = hashlib.blake2b(
        repr(tuple(int(part) for part in key)).encode(), digest_size=4
    ).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest, "little"))


def draw_uniforms(key: int, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """One table of uniforms per decoder layer, each keyed by (key, layer).

    Args:
        key: the seed (inference) or the sample's key (training); any Python integer.
        shapes: the tables' shapes, layer by layer, usually (Q, N_ℓ).

    Returns:
        float32 CPU tensors in [0, 1) of these shapes. A layer's table does not depend on the other
        layers' shapes.
    """
    return [
        torch.rand(shape, generator=keyed_generator(key, layer))
        for layer, shape in enumerate(shapes)
    ]


def check_draws(
    draws: Sequence[Tensor] | None, shapes: Sequence[tuple[int, ...]], num_images: int
) -> list[Tensor]:
    """Tables of random numbers with a batch axis in front, of size 1 where they serve every image.

    Args:
        draws: a table per layer, of its shape, or with a batch axis in front of it.
        shapes: of the layers' tables.
        num_images: size of a batch axis.

    Raises:
        ValueError: if tables are missing, too few or of another shape.
    """
    if draws is None or len(draws) < len(shapes):
        given = "none" if draws is None else len(draws)
        raise ValueError(f"Boltzmann sampling needs {len(shapes)} tables of draws, got {given}")
    checked = []
    for layer, (table, shape) in enumerate(zip(draws, shapes, strict=False)):
        if table.shape not in (shape, (num_images, *shape)):
            expected = f"{shape} or {(num_images, *shape)}"
            raise ValueError(
                f"layer {layer} needs draws of shape {expected}, got {tuple(table.shape)}"
            )
        checked.append(table if table.ndim > len(shape) else table[None])
    return checked
