"""ZOC's captions and candidates, against the public code's results and slow, obvious ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from clip.captions import CaptionDecoder, Captioner, greedy_candidates, lse_of_columns
from clip.prompted import DescribedCLIP, PromptedCLIP
from clip.tokenizer import decode, encode, tokenize
from ood.negatives import candidate_rows, candidate_texts
from ood.scoring import compute_scores, get_scores

SAYS = ("a", "photo", "of", "cat", "dog", "tree", "grass", "ly", "golden", ".")


@pytest.fixture(scope="module")
def model(generated_weights, tmp_path_factory):
    """A tiny CLIP that knows a few words alone."""
    return few_words_clip(generated_weights("tiny-vit"), tmp_path_factory.mktemp("few"))


def few_words_clip(state, folder):
    from safetensors.torch import save_file

    import clip

    embedding = state["token_embedding.weight"]
    known = [49406, 49407, *(encode(word)[0] for word in SAYS)]
    few = torch.zeros_like(embedding)
    few[known] = embedding[known]
    path = folder / "few.safetensors"
    save_file({**state, "token_embedding.weight": few}, path, {"activation": "quick_gelu"})
    return clip.load(str(path))[0]


@pytest.fixture
def decoder(model):
    torch.manual_seed(0)
    decoder = CaptionDecoder(model)
    torch.nn.init.normal_(decoder.image.weight, std=0.5)
    return decoder


def features(count: int, width: int = 64) -> torch.Tensor:
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(drawn, dim=-1)


# The public code's results


def test_the_candidates_are_the_public_codes(golden):
    """The greedy tokens, the 35 best of each step, and the set of texts they make."""
    about, arrays = golden("zeroshot_zoc.json"), golden("zeroshot_zoc.npz")
    logits = torch.from_numpy(arrays["step_logits"])  # [20, 9, V]
    ids = torch.from_numpy(arrays["greedy_ids"])  # [20, 10]

    def next_logits(tokens):
        assert tokens.equal(ids[:, : tokens.shape[1]])
        return logits[:, tokens.shape[1] - 1]

    found = greedy_candidates(next_logits, ids[:, :1], steps=9, top=35)
    assert found.equal(torch.from_numpy(arrays["topk_ids"]))
    expected = about["candidates_per_image"]
    assert len(expected) == len(found) == 20
    for image, own in enumerate(found.flatten(1).tolist()):
        said = [about["words"][i] for i in own]
        seen = about["splits"][image // 10][:6]
        assert sorted(candidate_rows(said, seen)) == sorted(expected[image])


def test_the_score_is_the_public_codes(golden):
    arrays = golden("zeroshot_zoc.npz")
    cosines = torch.from_numpy(arrays["cosines_padded"])  # [20, 6 + candidates], NaN behind
    counts = torch.from_numpy(arrays["n_texts"])
    columns = torch.arange(cosines.shape[1] - 6)
    none = torch.full_like(columns, len(columns))
    chosen = torch.where(columns < counts[:, None] - 6, columns, none)  # [20, U]
    scale = torch.tensor(100.0)
    lse = lse_of_columns(scale * cosines[:, 6:].nan_to_num(), chosen, scale)
    inputs = {"logits": scale * cosines[:, :6], "candidate_lse": lse}
    found = compute_scores(get_scores(["ZOC"]), inputs)["ZOC"].double()
    public = torch.from_numpy(arrays["score_ood"]).flatten().double()
    assert_close(torch.sigmoid(-found), public, rtol=0, atol=1e-6)
    for row, n, value in zip(cosines.double(), counts.tolist(), found, strict=True):
        exact = (100 * row[:6]).logsumexp(0) - (100 * row[6:n]).logsumexp(0)
        assert_close(value, exact, rtol=1e-5, atol=1e-4)


# Fast against slow


def test_a_caption_is_predicted_token_by_token(decoder):
    """One pass over padded captions is the sum over the tokens, each after what is before it."""
    captions = ["a photo of a cat.", "grass", "a dog and unknown things of grass"]
    images, tokens = features(3), tokenize(captions)[:, :12]
    total, count = decoder.loss(images, tokens)
    expected, number = 0.0, 0
    for image, caption in zip(images, captions, strict=True):
        own = [*encode(caption), 49407]
        for i, target in enumerate(own):
            before = decoder.index_of[torch.tensor(own[:i], dtype=torch.int64)]
            index = decoder.index_of[target]
            if index == len(decoder.ids):
                continue
            logits = decoder(image[None], before[None])[0, -1]
            expected, number = expected - logits.log_softmax(0)[index], number + 1
    assert_close(total, expected, rtol=1e-5, atol=1e-5)
    assert int(count) == number


def test_the_words_of_the_decoder_are_those_that_clip_knows(decoder, model):
    assert len(decoder.ids) == len(decoder.bias) == len(set(decoder.ids.tolist()))
    assert {"cat", "tree", "", "golden"} <= set(decoder.texts())
    assert "zebra" not in decoder.texts()
    assert not any(key.startswith(("words", "ids")) for key in decoder.state_dict())


def test_tokens_are_decoded_alone():
    assert [decode(i) for i in (49406, 49407)] == ["", ""]
    assert decode(encode("cat")[0]) == "cat"
    assert all(decode(i) == decode(i).strip() for i in range(600))


def test_candidates_are_compared_as_if_each_image_had_texts_of_its_own(decoder, model):
    captioner = Captioner(decoder, steps=4, top=3, template="This is a photo of a {}")
    captioner.texts, captioner.text_of = candidate_texts(model, captioner, ["cat", "Tree"])
    images, scale = features(5), model.scale
    found = captioner.candidate_lse(images, scale)
    for image, value in zip(images, found, strict=True):
        written, words = [], set()
        for _ in range(4):
            tokens = torch.tensor([written], dtype=torch.int64)
            best = decoder(image[None], tokens)[0, -1].argsort(descending=True)[:3].tolist()
            words |= {decoder.texts()[i] for i in best}
            written.append(best[0])
        texts = [f"This is a photo of a {word}" for word in sorted(words - {"cat", "tree"})]
        text = torch.nn.functional.normalize(model.encode_text(tokenize(texts)), dim=-1)
        assert_close(value, (scale * text @ image).logsumexp(0), rtol=1e-4, atol=1e-4)


def test_an_image_whose_candidates_are_all_classes_is_id():
    """No infinity: the candidates weigh less than any one could."""
    scale = torch.tensor(100.0)
    found = lse_of_columns(torch.zeros(2, 3), torch.tensor([[3, 3], [0, 3]]), scale)
    assert found.tolist() == [-100.0, 0.0]


def test_a_detector_keeps_the_captioner(decoder, model):
    captioner = Captioner(decoder, steps=3, top=4, template="a {}")
    assert captioner.kept() == {}
    captioner.texts, captioner.text_of = candidate_texts(model, captioner, ["cat"])
    text = features(2)
    described = DescribedCLIP(model, {"text": text, **captioner.kept()}, model.scale)
    assert "candidate_lse" in described.provides and "candidate_lse" not in plain(model).provides
    assert list(described.class_features()) == ["text"]
    inputs = described.inputs(features(4), None, {"text": text}, {"candidate_lse", "logits"})
    assert inputs["candidate_lse"].equal(captioner.candidate_lse(features(4), model.scale))


def plain(model):
    return PromptedCLIP(model, lambda: features(2))


def test_the_start_is_clips_own_text_transformer(model):
    """And the same whatever the generators say."""
    one, two = CaptionDecoder(model), CaptionDecoder(model)
    states = one.state_dict(), two.state_dict()
    assert all(x.equal(states[1][key]) for key, x in states[0].items())
    assert one.ln_final.weight.equal(model.text.ln_final.weight)
    assert one.ln_final.weight is not model.text.ln_final.weight
    assert np.prod(one.image.weight.shape) and not one.image.weight.any()
