"""Exact forms of restricted attention for inference on a CPU, and the measured rules by which a
form is chosen.

Both exponentiate scores as they are: no largest score is looked for first, and sums that leave
float32's range are found afterwards. Suffixes as in `boltzmed.networks.attention`; P prompts and Q
queries of each, s n and u parts of S, N and of the tokens that some prompt attends to.
"""

import math

import torch
from torch import Tensor

# Sums of exponentials that float32 holds with room to spare: of scores from -69 to 69.
_SMALLEST_SUM, _LARGEST_SUM = 1e-30, 1e30
# A block of scores stays in the second-level caches: 8 heads × 256 queries × 512 tokens in float32
# are 4 MiB.
_QUERIES_PER_BLOCK, _SCORES_PER_BLOCK = 256, 2**20


def attend_in_blocks(
    query_BASE: Tensor, key_BANE: Tensor, value_BANE: Tensor, attended_BASN: Tensor
) -> Tensor | None:
    """Attention by plain matrix products, a block of scores at a time.

    torch's kernel for CPUs looks for the largest score first and makes a bias of the mask; here the
    mask multiplies.

    Returns:
        (B, A, S, E), or None where a sum of exponentials leaves the range of float32.
    """
    heads, positions, width = query_BASE.shape[1:]
    attended_BASN = attended_BASN.expand(len(query_BASE), -1, positions, -1)
    rows = -(-positions // -(-positions // _QUERIES_PER_BLOCK))  # blocks of equal size
    columns = max(1, _SCORES_PER_BLOCK // (heads * rows))
    space = query_BASE.new_empty(heads * rows * columns)
    images = []
    for query_ASE, key_ANE, value_ANE, attended_ASN in zip(
        query_BASE * width**-0.5, key_BANE, value_BANE, attended_BASN, strict=True
    ):
        means = []
        for query_AsE, attended_AsN in zip(
            query_ASE.split(rows, 1), attended_ASN.split(rows, 1), strict=True
        ):
            query_AsE = query_AsE.contiguous()
            sum_AsE, total_As1 = (
                torch.zeros_like(query_AsE),
                query_AsE.new_zeros(*query_AsE.shape[:2], 1),
            )
            for key_AnE, value_AnE, attended_Asn in zip(
                key_ANE.split(columns, 1),
                value_ANE.split(columns, 1),
                attended_AsN.split(columns, 2),
                strict=True,
            ):
                shape = (*query_AsE.shape[:2], key_AnE.shape[1])
                weight_Asn = space[: math.prod(shape)].view(shape)
                torch.bmm(query_AsE, key_AnE.transpose(1, 2), out=weight_Asn).exp_().mul_(
                    attended_Asn
                )
                total_As1 += weight_Asn.sum(-1, keepdim=True)
                sum_AsE.baddbmm_(weight_Asn, value_AnE)
            if not _in_range(total_As1):
                return None
            means.append(sum_AsE.div_(total_As1))
        images.append(torch.cat(means, dim=1))
    return torch.stack(images)


def attend_shared(
    query_BPQAE: Tensor,
    key_BNAE: Tensor,
    value_BNAE: Tensor,
    attended_BPQN: Tensor,
    union_BQN: Tensor,
) -> Tensor | None:
    """Attention of several prompts to the tokens that any of them attends to, gathered once for
    all.

    Prompts of an image share their random numbers, so that a query's sets are much the same for all
    of them: fifteen sets of a tenth of the tokens are an eighth of them together, where independent
    ones would be four fifths.

    Args:
        query_BPQAE: projected and split into heads.
        key_BNAE: projected and split into heads.
        value_BNAE: projected and split into heads.
        attended_BPQN: bool, no row empty.
        union_BQN: bool, where any prompt attends.

    Returns:
        (B, P, Q, A, E), or None where a sum of exponentials leaves the range of float32.
    """
    query_BQAPE = (query_BPQAE * query_BPQAE.shape[-1] ** -0.5).permute(0, 2, 3, 1, 4).contiguous()
    result_BPQAE = torch.empty_like(query_BPQAE, memory_format=torch.contiguous_format)
    for b, union_QN in enumerate(union_BQN):
        key_ND, value_ND = key_BNAE[b].flatten(1), value_BNAE[b].flatten(1)
        tokens = union_QN.nonzero()[:, 1].split(union_QN.sum(-1).tolist())
        for i, token_u in enumerate(tokens):
            key_uAE, value_uAE = (
                x_ND.index_select(0, token_u).view(-1, *key_BNAE.shape[2:])
                for x_ND in (key_ND, value_ND)
            )
            weight_APu = torch.bmm(query_BQAPE[b, i], key_uAE.permute(1, 2, 0)).exp_()
            weight_APu *= attended_BPQN[b, :, i].index_select(1, token_u)
            total_AP1 = weight_APu.sum(-1, keepdim=True)
            if not _in_range(total_AP1):
                return None
            mean_APE = torch.bmm(weight_APu, value_uAE.transpose(0, 1)).div_(total_AP1)
            result_BPQAE[b, :, i] = mean_APE.transpose(0, 1)
    return result_BPQAE


def _in_range(total: Tensor) -> bool:
    smallest, largest = total.aminmax()
    return bool(
        _SMALLEST_SUM < smallest <= largest < _LARGEST_SUM
    )  # not where one is no number, either


def is_captured() -> bool:
    """Whether what runs is being made a program for other values (compiled, exported, traced)."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


# The rules: numbers in benchmarks/README.md.

# Queries up to which gathering wins: rows of the token grid times its width over this.
_ROWS_TIMES_WIDTH_PER_QUERY = 256


def prefer_gathered(tokens_BND: Tensor, queries: float) -> bool:
    """Whether gathering a tenth of the tokens is faster than projecting them all, for so many
    queries of an image.

    Projecting costs N · D², once for all queries; a query costs a gather of 0.1 · N · D and some
    overhead. Measured on a CPU for grids of 32², 64² and 128² tokens and widths of 64, 256 and 512,
    forward and with the backward pass: the two are level near √N · D / 256 queries. Elsewhere a
    gather a row is many small programs, and dense is taken.
    """
    num_tokens, width = tokens_BND.shape[1:]
    return (
        tokens_BND.device.type == "cpu"
        and queries * _ROWS_TIMES_WIDTH_PER_QUERY <= num_tokens**0.5 * width
    )


def prefer_blocks(query_BASE: Tensor, num_tokens: int) -> bool:
    """Whether blocks are faster than torch's kernel: for 32 queries or more and 4096 tokens or
    more.
    """
    return allows_inference_forms(query_BASE) and query_BASE.shape[2] >= 32 and num_tokens >= 4096


def find_shared(query_BPQD: Tensor, attended: Tensor) -> Tensor | None:
    """The tokens that some prompt attends to, bool (B, Q, N); None where gathering them for all
    prompts is slower.

    A gathered token costs its gather, as much as 12 prompts' products with it, and products three
    times as slow as those of blocks, whose matrices are large. Below 6 prompts and 2^20 values of
    the tokens it never pays.

    Args:
        query_BPQD: queries, not projected.
        attended: bool (B, P, Q, N), or (B, P, A, Q, N) where every head has its set and nothing is
            shared.
    """
    if not allows_inference_forms(
        query_BPQD
    ):  # asked first: sizes of an exported program are no numbers
        return None
    prompts, num_values = query_BPQD.shape[1], attended.shape[-1] * query_BPQD.shape[-1]
    if attended.ndim > 4 or prompts < 6 or num_values < 2**20:
        return None
    union_BQN = attended.to(torch.uint8).amax(1).bool()  # as any(1), several times faster
    return union_BQN if 3 * (12 + prompts) * float(union_BQN.float().mean()) < prompts else None


def allows_inference_forms(query: Tensor) -> bool:
    """Whether what runs is inference in float32 on a CPU, for which this module's forms are made
    and measured.
    """
    if torch.is_grad_enabled() or is_captured():
        return False
    return (
        query.device.type == "cpu"
        and query.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )
