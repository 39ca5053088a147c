"""Features of many texts, against CLIP's own encoding of each in all its places."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import clip
from clip.prefix import encode_texts

TEXTS = {
    "one template": ["the nice cat", "the nice oak tree", "the nice xylophone", "the nice cat"],
    "nothing shared": ["cat", "the good dog", ""],
    "one is another's beginning": ["a photo", "a photo of a very small crane", "a photo"],
    "one text": ["a sketch of a cat"],
    "all alike": ["a cat"] * 5,
}


@pytest.mark.parametrize("kind", TEXTS)
def test_packed_texts_have_the_features_of_each_alone(kind, tiny_clip):
    model, texts = tiny_clip(), TEXTS[kind]
    expected = torch.cat([model.encode_text(clip.tokenize(text)) for text in texts])
    found = encode_texts(model, texts)
    assert found.dtype == torch.float32
    assert_close(found, expected, rtol=0, atol=2e-6 * expected.abs().max().item())


def test_a_text_that_is_too_long_is_cut(tiny_clip):
    long = "oak " * 100
    expected = tiny_clip().encode_text(clip.tokenize(long, truncate=True))
    found = encode_texts(tiny_clip(), [long, "oak"])[:1]
    assert_close(found, expected, rtol=0, atol=2e-6 * expected.abs().max().item())
