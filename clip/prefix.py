"""Text features of many texts whose common prefix is encoded once.

Attention in CLIP's text tower is causal. The hidden states of a prefix that all texts share are
therefore the same for every text, and nothing after [EOT] matters. What remains for each class is
a suffix of a few tokens that attends to the prefix and to itself. Features and gradients are exact.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clip.blocks import ResidualAttentionBlock, attend, finish, project
from clip.tokenizer import cut_to_longest, tokenize
from dassl import distributed
from dassl.utils.errors import InputError

# Tokens whose autograd graph is held at once; about 250 kB for each in ViT-B's text tower.
CHUNK = 16384
# Suffixes share rows of at least this many tokens. Longer rows need less padding but compute
# more pairs that the mask hides; on CPUs 16 to 64 cost the same, GPUs prefer few long rows.
ROW = 32


class Packing(nn.Module):
    """The layout of T suffixes of unequal length in shared rows.

    Rows of R tokens hold whole suffixes, so that one long class name does not pad all others.

    Args:
        lengths: tokens of each suffix, [EOT] included; at least 1.

    Buffers (not saved): `text` `[rows, R]`, the suffix that a token belongs to, -1 in padding;
    `offset` `[rows, R]`, its position in the suffix; `start` `[T]`, where a suffix begins in the
    flattened rows; `eot` `[T]`, where suffixes end, in the order of the rows; `restore` `[T]`
    brings that order back to the suffixes' own. `counts`: how many suffixes each row holds.
    """

    def __init__(self, lengths: list[int]):
        super().__init__()
        width = max(max(lengths), min(sum(lengths), ROW))
        rows = _fill_rows(lengths, width)
        text = torch.full((len(rows), width), -1)
        offset = torch.zeros(len(rows), width, dtype=torch.int64)
        start, eot = [0] * len(lengths), []
        for row, members in enumerate(rows):
            begin = 0
            for member in members:
                end = begin + lengths[member]
                text[row, begin:end] = member
                offset[row, begin:end] = torch.arange(end - begin)
                start[member] = row * width + begin
                eot.append(row * width + end - 1)
                begin = end
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
        """Arrange suffixes `[T, L, W]` in rows `[rows, R, W]`, without their padding."""
        return suffixes[self.text.clamp(min=0), self.offset]

    def chunks(self, tokens: int, share: range):
        """Yield slices of the rows in `share` of at most `tokens` tokens (one row at least), and of
        their texts."""
        if tokens < 1:
            raise InputError(f"TEXT_CHUNK must be a number of tokens, at least 1; got {tokens}")
        before = [0, *accumulate(self.counts)]  # how many texts the rows above each row hold
        step = max(1, tokens // self.text.shape[1])
        for first in share[::step]:
            stop = min(first + step, share.stop)
            yield slice(first, stop), slice(before[first], before[stop])


def _fill_rows(lengths: list[int], width: int) -> list[list[int]]:
    """Fill rows with suffixes: the longest first, into the fullest row that still has room."""
    rows: list[list[int]] = []
    rows_by_room: list[list[int]] = [[] for _ in range(width + 1)]
    for member in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[member]
        room = next((room for room in range(length, width + 1) if rows_by_room[room]), None)
        if room is None:
            rows.append([])
            rows_by_room[width].append(len(rows) - 1)
            room = width
        row = rows_by_room[room].pop()
        rows[row].append(member)
        rows_by_room[room - length].append(row)
    return rows


def can_share(tower: nn.Module) -> bool:
    """Return whether all blocks of a text tower are of the kind that `encode_packed` computes."""
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

    They equal the text tower's features of the whole prompts, for a fraction of the cost.

    Args:
        model: a `ClipModel`.
        prefix: embeddings `[P, W]` that every text begins with, P >= 0.
        suffixes: embeddings `[rows, R, W]` in the layout of `packing`.
        chunk: tokens encoded at once, 1 or more. More suffixes are encoded chunk by chunk, and
            if gradients are needed once more in backward, so that memory is that of one chunk.
        over_ranks: under torchrun, each rank encodes its share of the rows, and gets the features
            of all, in float32, with their gradients. All ranks must call it.
        again: encode a single chunk once more in backward, too, as one of several calls.
    """
    ranks = distributed.world_size() if over_ranks else 1
    all_rows = range(len(packing.counts))
    # If some rank would have no rows, the few there are do not justify a gather.
    shared_out = 1 < ranks <= len(all_rows)
    shares = [distributed.rank_slice(all_rows, rank, ranks) for rank in range(ranks)]
    chunks = list(packing.chunks(chunk, shares[distributed.rank()] if shared_out else all_rows))
    encode = partial(_encode_rows, model.text)
    if (again or len(chunks) > 1) and torch.is_grad_enabled():
        # Nothing in the tower is random, so no generator's state has to be restored.
        encode = partial(checkpoint, encode, use_reentrant=False, preserve_rng_state=False)
    prefix, suffixes, features = prefix.to(model.dtype), suffixes.to(model.dtype), []
    with model.autocast(prefix):
        for rows, texts in chunks:
            eot = packing.eot[texts] - rows.start * suffixes.shape[1]
            layout = packing.text[rows], packing.offset[rows], eot
            features.append(encode(prefix, suffixes[rows], *layout))
    features = torch.cat(features)
    if shared_out:
        counts = [sum(packing.counts[row] for row in share) for share in shares]
        # In float32, because gradients already scaled for float16 are summed over ranks.
        features = distributed.gather_with_grad(features.float(), counts)
    return features.index_select(0, packing.restore)


@torch.no_grad()
def encode_texts(model: nn.Module, texts: Sequence[str]) -> Tensor:
    """Return unnormalised features `[T, D]` of texts, float32, on the model's device.

    Only a beginning that all texts share is encoded once: texts of one template share all that
    stands before the word. The embeddings of all `texts` are held in memory, so pass some
    thousands at a time. A text longer than the context length is cut. `model`: a `ClipModel`.
    """
    device = model.logit_scale.device
    tokens = cut_to_longest(tokenize(list(texts), model.context_length, truncate=True))  # [T, L]
    eot = tokens.argmax(dim=-1)  # [T]
    alike = (tokens == tokens[0]).all(dim=0)  # [L]
    shared = min(int(alike.long().cumprod(dim=0).sum()), int(eot.min()))  # [EOT] is each text's own
    packing = Packing((eot + 1 - shared).tolist())
    rows = model.token_embedding(packing.pack(tokens[:, shared:]).to(device))  # [rows, R, W]
    prefix = model.token_embedding(tokens[0, :shared].to(device))  # [P, W]
    return encode_packed(model, prefix, rows, packing.to(device)).float()


def _encode_rows(
    tower, prefix: Tensor, suffixes: Tensor, text: Tensor, offset: Tensor, eot: Tensor
) -> Tensor:
    """Return the features `[T, D]` of the suffixes that end at `eot`, in this order."""
    mask = _mask(text, len(prefix))
    position = tower.positional_embedding
    suffixes = suffixes + position[len(prefix) + offset]  # [rows, R, W]
    prefix = (prefix + position[: len(prefix)])[None]  # [1, P, W]
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        mixed, suffix_mixed = _attend_both(block, prefix, suffixes, mask)
        prefix, suffixes = finish(block, prefix, mixed), finish(block, suffixes, suffix_mixed)
    # Only the last block's output at [EOT] is used.
    _, mixed = _attend_both(last, prefix, suffixes, mask)
    suffixes, mixed = (x.flatten(0, 1).index_select(0, eot) for x in (suffixes, mixed))  # [T, W]
    return tower.project(finish(last, suffixes, mixed))


def _attend_both(block, prefix: Tensor, suffixes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Let the prefix `[1, P, W]` attend to itself, and the suffixes `[rows, R, W]` to both."""
    attn = block.attn
    normed, suffix_normed = block.ln_1(prefix), block.ln_1(suffixes)
    query, key, value = (project(attn, normed, part) for part in range(3))
    suffix_q, suffix_k, suffix_v = (project(attn, suffix_normed, part) for part in range(3))
    keys, values = _join(key, suffix_k), _join(value, suffix_v)
    suffix_mixed = attend(attn, suffix_q, keys, values, attn_mask=mask)
    return attend(attn, query, key, value, is_causal=True), suffix_mixed


def _mask(text: Tensor, prefix: int) -> Tensor:
    """Return the mask `[rows, 1, R, P + R]`: tokens see the prefix and their suffix so far."""
    same = (text[:, :, None] == text[:, None, :]).tril()
    return F.pad(same, (prefix, 0), value=True)[:, None]


def _join(prefix: Tensor, suffixes: Tensor) -> Tensor:
    """Put the prefix's keys or values before those of each row, `[rows, P + R, W]`."""
    return torch.cat([prefix.expand(len(suffixes), -1, -1), suffixes], dim=1)
