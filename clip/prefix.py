"""Text features of many texts that begin alike, the common beginning encoded once.

Attention in CLIP's text tower is causal. The hidden states of a beginning that all
texts share are therefore the same for every text, and nothing after [EOT] matters.
What remains is, for each class, a suffix of a few tokens that attends to the
prefix's keys and values and to itself. Exact, forwards and backwards.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clip.blocks import ResidualAttentionBlock, attend, finish, project
from dassl import distributed
from dassl.utils.errors import InputError

# Tokens whose graph is kept at once; about 250 kB a token in ViT-B's text tower.
CHUNK = 16384
# Suffixes share rows of at least so many tokens. Longer rows pad less and score more pairs
# that the mask throws away; on CPUs 16 to 64 cost the same, GPUs like few long rows.
ROW = 32


class Packing(nn.Module):
    """Places of the tokens of T suffixes, of unequal length, in shared rows.

    Rows of R tokens hold whole suffixes, one behind the other, so that one long
    class name does not make every other class pay for its length.

    Args:
        lengths: tokens of each suffix, [EOT] included; at least 1.

    Buffers (not saved): `text` `[rows, R]`, which suffix a token belongs to, -1 in padding;
    `offset` `[rows, R]`, its place in the suffix; `start` `[T]`, where a suffix begins in the
    flattened rows; `eot` `[T]`, where those in the order of the rows end; `restore` `[T]`
    brings that order back to the suffixes' own. `counts`: how many suffixes each row holds.
    """

    def __init__(self, lengths: list[int]):
        super().__init__()
        width = max(max(lengths), min(sum(lengths), ROW))
        rows = _fill_rows(lengths, width)
        text = torch.full((len(rows), width), -1)
        offset = torch.zeros(len(rows), width, dtype=torch.int64)
        start, eot = [0] * len(lengths), []
        for number, members in enumerate(rows):
            at = 0
            for member in members:
                end = at + lengths[member]
                text[number, at:end] = member
                offset[number, at:end] = torch.arange(end - at)
                start[member] = number * width + at
                eot.append(number * width + end - 1)
                at = end
        self.counts = [len(members) for members in rows]
        order = torch.tensor([member for members in rows for member in members])
        for name, value in (
            ("text", text),
            ("offset", offset),
            ("start", torch.tensor(start)),
            ("eot", torch.tensor(eot)),
            ("restore", order.argsort()),
        ):
            self.register_buffer(name, value, persistent=False)

    def pack(self, suffixes: Tensor) -> Tensor:
        """Return suffixes `[T, L, W]` as rows `[rows, R, W]`, cut at their ends."""
        return suffixes[self.text.clamp(min=0), self.offset]

    def chunks(self, tokens: int, part: Sequence[int] | None = None):
        """Yield slices of rows of at most `tokens` tokens (one row at least), and of their texts.

        `part`: of these rows alone, that follow each other.
        """
        if tokens < 1:
            raise InputError(f"TEXT_CHUNK is a number of tokens, at least 1; got {tokens}")
        part = range(len(self.counts)) if part is None else part
        step = max(1, tokens // self.text.shape[1])
        done = sum(self.counts[: part[0]])
        for i in range(0, len(part), step):
            first, last = part[i], part[min(i + step, len(part)) - 1]
            count = sum(self.counts[first : last + 1])
            yield slice(first, last + 1), slice(done, done + count)
            done += count


def _fill_rows(lengths: list[int], width: int) -> list[list[int]]:
    """Fill rows with suffixes: the longest first, into the fullest row that still has room."""
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(width + 1)]  # rows by their free places
    for member in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[member]
        room = next((room for room in range(length, width + 1) if with_room[room]), None)
        if room is None:
            rows.append([])
            with_room[width].append(len(rows) - 1)
            room = width
        row = with_room[room].pop()
        rows[row].append(member)
        with_room[room - length].append(row)
    return rows


def can_share(tower: nn.Module) -> bool:
    """Return whether all blocks are of the one kind that `encode_packed` computes."""
    return all(
        type(block) is ResidualAttentionBlock and block.attn.in_proj_weight is not None
        for block in tower.transformer.resblocks
    )


def encode_packed(
    model: nn.Module,
    prefix: Tensor,
    suffixes: Tensor,
    packing: Packing,
    chunk: int = CHUNK,
    over_ranks: bool = False,
    again: bool = False,
) -> Tensor:
    """Return unnormalised text features `[T, D]` of a prefix and the suffixes that follow it.

    The same as the text tower's of the whole prompts, for a fraction of its cost.

    Args:
        model: a `ClipModel`.
        prefix: embeddings `[P, W]` that every text begins with, P >= 0.
        suffixes: embeddings `[rows, R, W]` as `packing` places them.
        chunk: tokens encoded at once, 1 or more. More suffixes are encoded chunk by chunk, and
            with a gradient once more on the way back, so that memory is a chunk's.
        over_ranks: under torchrun, each rank encodes its part of the rows, and has the features
            of all, in float32, with their gradients. All ranks must call it.
        again: encode a single chunk once more on the way back, too: one of several calls.
    """
    ranks = distributed.world_size() if over_ranks else 1
    every = range(len(packing.counts))
    shares = [distributed.rank_slice(every, rank, ranks) for rank in range(ranks)]
    # So few rows that some rank would have none are not worth a gather.
    share = shares if 1 < ranks <= len(every) else None
    parts = list(packing.chunks(chunk, share and share[distributed.rank()]))
    encode = partial(_encode_rows, model.text)
    if (again or len(parts) > 1) and torch.is_grad_enabled():
        # Nothing in the tower is random, so no generator has to be put back.
        encode = partial(checkpoint, encode, use_reentrant=False, preserve_rng_state=False)
    prefix, suffixes, features = prefix.to(model.dtype), suffixes.to(model.dtype), []
    with model.autocast(prefix):
        for rows, texts in parts:
            eot = packing.eot[texts] - rows.start * suffixes.shape[1]
            where = packing.text[rows], packing.offset[rows], eot
            features.append(encode(prefix, suffixes[rows], *where))
    features = torch.cat(features)
    if share:
        counts = [sum(packing.counts[row] for row in part) for part in share]
        # In float32: a sum over ranks, of gradients that are scaled for float16 already.
        features = distributed.gather_with_grad(features.float(), counts)
    return features.index_select(0, packing.restore)


def _encode_rows(
    tower, prefix: Tensor, suffixes: Tensor, text: Tensor, offset: Tensor, eot: Tensor
) -> Tensor:
    """Return features `[T, D]` of the suffixes that end at `eot`, in this order."""
    mask = _mask(text, len(prefix))
    position = tower.positional_embedding
    shared = (prefix + position[: len(prefix)])[None]  # [1, P, W]
    own = suffixes + position[len(prefix) + offset]  # [rows, R, W]
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        shared, own = _block(block, shared, own, mask)
    # Of the last block only what becomes of [EOT] is read.
    _, mixed = _mix(last, shared, own, mask)
    own, mixed = (x.flatten(0, 1).index_select(0, eot) for x in (own, mixed))  # [T, W]
    return tower.project(finish(last, own, mixed))


def _block(block, shared: Tensor, own: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    mixed, own_mixed = _mix(block, shared, own, mask)
    return finish(block, shared, mixed), finish(block, own, own_mixed)


def _mix(block, shared: Tensor, own: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attend, the prefix to itself `[1, P, W]`, the suffixes to both `[rows, R, W]`."""
    attn = block.attn
    normed, own_normed = block.ln_1(shared), block.ln_1(own)
    query, key, value = (project(attn, normed, part) for part in range(3))
    own_query, own_key, own_value = (project(attn, own_normed, part) for part in range(3))
    own_mixed = attend(
        attn, own_query, _join(key, own_key), _join(value, own_value), attn_mask=mask
    )
    return attend(attn, query, key, value, is_causal=True), own_mixed


def _mask(text: Tensor, prefix: int) -> Tensor:
    """Return what a token may see, `[rows, 1, R, P + R]`: prefix, own suffix up to itself."""
    same = (text[:, :, None] == text[:, None, :]).tril()
    return F.pad(same, (prefix, 0), value=True)[:, None]


def _join(shared: Tensor, own: Tensor) -> Tensor:
    """Put the prefix's keys or values before those of each row, `[rows, P + R, W]`."""
    return torch.cat([shared.expand(len(own), -1, -1), own], dim=1)
