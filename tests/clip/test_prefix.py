from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import CLIP
from torch.testing import assert_close

import clip
from clip.facts import OPENAI_TRANSFORM
from clip.prefix import ROW, Packing, encode_packed, encode_texts
from dassl.utils.errors import InputError

TEXTS = [
    "a photo of a cat.",
    "a photo of a cat.",
    "a photo of a very small dog on a kitchen table.",
    "a photo",
    "two photos of a crane (bird).",
    "",
]


def _plain(model, tokens):
    """All 77 places of every text through open_clip's own transformer."""
    return model.text(model.token_embedding(tokens), tokens.argmax(dim=1))


def _close(actual, expected, tolerance=1e-6):
    """Length of the difference relative to the length of the values."""
    error = (actual - expected).norm() / expected.norm()
    assert error <= tolerance, f"relative error {error:.1e}"


def _model(activation="quick_gelu", **text):
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3, **text}
    vision = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 32, "image_size": 32}
    model = CLIP(32, vision, text, quick_gelu=activation == "quick_gelu")
    return clip.ClipModel(
        model, name="random", activation=activation, weights_hash="", **OPENAI_TRANSFORM
    )


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=80))
def test_every_token_has_one_place(lengths):
    packing = Packing(lengths)
    places = [packing.start[i] + k for i, length in enumerate(lengths) for k in range(length)]
    assert len({int(place) for place in places}) == sum(lengths)
    for i, length in enumerate(lengths):
        own = slice(packing.start[i], packing.start[i] + length)
        assert (packing.text.flatten()[own] == i).all()
        assert packing.offset.flatten()[own].tolist() == list(range(length))
    assert (packing.text >= 0).sum() == sum(lengths) and sum(packing.counts) == len(lengths)
    ends = packing.eot[packing.restore] + 1 - packing.start
    assert ends.tolist() == lengths


@pytest.mark.slow
@given(lengths=st.lists(st.integers(1, 8), min_size=200, max_size=400))
def test_rows_hardly_pad(lengths):
    packing = Packing([*lengths, 14])
    assert packing.text.shape[1] == ROW and packing.text.numel() < 1.05 * sum(lengths) + 2 * ROW


def test_pack_puts_suffixes_at_their_places():
    values = torch.arange(24.0).view(3, 4, 2)
    packing = Packing([4, 1, 2])
    rows = packing.pack(values).flatten(0, 1)
    for i, length in enumerate((4, 1, 2)):
        start = packing.start[i]
        assert torch.equal(rows[start : start + length], values[i, :length])


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=40), tokens=st.integers(1, 300))
def test_chunks_cover_all_texts_within_the_bound(lengths, tokens):
    packing = Packing(lengths)
    rows, texts = zip(*packing.chunks(tokens, range(len(packing.counts))), strict=True)
    width = packing.text.shape[1]
    seen = torch.cat([packing.text[part] for part in rows])
    assert torch.equal(seen, packing.text)
    assert [i for part in texts for i in range(part.start, part.stop)] == list(range(len(lengths)))
    for row, text in zip(rows, texts, strict=True):
        part = packing.text[row]
        assert part.numel() <= max(tokens, width)
        assert len(part[part >= 0].unique()) == text.stop - text.start


@pytest.fixture(scope="module")
def doubles(clip_file):
    return {
        arch: clip.load(clip_file(arch))[0].to_dtype(torch.float64)
        for arch in ("tiny-vit", "tiny-rn")
    }


@settings(deadline=None, max_examples=25)
@given(
    texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6),
    arch=st.sampled_from(["tiny-vit", "tiny-rn"]),
)
def test_encode_text_is_the_whole_tower(texts, arch, doubles):
    """In float64: in float32 the golden weights lose up to 1e-6 on either path."""
    model, tokens = doubles[arch], clip.tokenize(texts)
    _close(model.encode_text(tokens), _plain(model, tokens), 1e-12)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("text", [{}, {"ls_init_value": 0.3}, {"layers": 1}])
def test_every_kind_of_block(activation, text):
    model, tokens = _model(activation, **text), clip.tokenize(TEXTS)
    _close(model.encode_text(tokens), _plain(model, tokens))


def test_texts_that_share_nothing():
    """No real prompt lacks a common [SOS], a list of tokens may."""
    model, tokens = _model(), clip.tokenize(TEXTS[2:4])
    tokens[0, 0] = 320
    _close(model.encode_text(tokens), _plain(model, tokens))


def test_another_kind_of_block_is_refused():
    with pytest.raises(InputError, match="of the usual blocks"):
        _model(qk_norm=True)


def test_autocast_reaches_the_blocks(tiny_clip):
    model, tokens = tiny_clip(), clip.tokenize(TEXTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.encode_text(tokens)
        plain = _plain(model, tokens)
    assert features.dtype == plain.dtype == torch.bfloat16
    _close(features.float(), plain.float(), 0.03)


def test_half_precision_weights(clip_file):
    model = clip.load(clip_file("tiny-vit"))[0]
    tokens = clip.tokenize(TEXTS)
    expected = model.encode_text(tokens)
    features = model.to_dtype(torch.bfloat16).encode_text(tokens)
    assert features.dtype == torch.bfloat16
    _close(features.float(), expected, 0.05)


def _graph_bytes(function):
    """Bytes that autograd keeps of what `function` computes, weights not counted."""
    kept = {}

    def keep(tensor):
        if not tensor.is_leaf:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function()
    return sum(kept.values()), result


def test_memory_is_that_of_a_chunk():
    model = _model()
    encoded, kept = [], {}
    model.text.transformer.resblocks[0].mlp.register_forward_pre_hook(
        lambda _, inputs: encoded.append(inputs[0].shape[:-1].numel())
    )
    for count in (64, 256):
        packing = Packing([4] * count)
        rows = packing.pack(torch.randn(count, 4, 64))
        for chunk in (64, 10**6):
            prefix = torch.randn(5, 64, requires_grad=True)
            encoded.clear()
            kept[count, chunk], features = _graph_bytes(
                partial(encode_packed, model, prefix, rows, packing, chunk)
            )
            forward = len(encoded)
            features.sum().backward()
            assert max(encoded) <= min(chunk, 4 * count)
            again = forward if chunk == 64 else 0  # each chunk once more, on the way back
            assert len(encoded) - forward == again
    assert kept[256, 10**6] > 3 * kept[64, 10**6]
    # Of a chunk nothing stays but its features.
    assert kept[256, 64] < kept[256, 10**6] / 20


def test_texts_of_a_template_share_its_beginning_and_their_rows():
    """70,000 words would take twice the time, and no figure would show it."""
    model, encoded = _model(), []
    model.text.transformer.resblocks[0].mlp.register_forward_pre_hook(
        lambda _, inputs: encoded.append(tuple(inputs[0].shape[:-1]))
    )
    encode_texts(model, ["a photo of a cat", "a photo of a very small dog"])
    assert encoded == [(1, 5), (1, 2 + 4)]  # [SOS] a photo of a; "cat" and three words, each [EOT]


def test_repeats_are_bit_identical():
    model = _model()
    packing = Packing([3, 9, 4, 4, 12, 3] * 20)
    rows, start = packing.pack(torch.randn(120, 12, 64)), torch.randn(5, 64)
    for chunk in (100, 10**6):
        results = []
        for _ in range(2):
            prefix = start.clone().requires_grad_()
            features = encode_packed(model, prefix, rows, packing, chunk)
            features.square().sum().backward()
            results.append((features, prefix.grad))
        assert_close(*results, rtol=0, atol=0)


def test_a_chunk_of_no_tokens_is_told():
    packing = Packing([1])
    with pytest.raises(clip.prefix.InputError, match="TEXT_CHUNK must be a number of tokens"):
        encode_packed(_model(), torch.zeros(1, 64), torch.zeros(1, 1, 64), packing, chunk=0)
