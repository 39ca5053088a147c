"""CLIPN's "no" text encoder against the public code, and its published files."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import clip
from clip.negation import NUM_PROMPTS, NoTextEncoder, build_no_encoder, draw
from clip.templates import classifier, negated, published_pairs, template_pairs
from clip.tokenizer import cut_to_longest
from dassl.utils.errors import InputError
from tests.golden import weights_clipn

NAMES = {"src": "learnable", "hand": "handcrafted"}


@pytest.fixture(scope="module")
def published(clipn_file):
    """A published file, loaded: `published(seed, "src")` gives its CLIP and its "no" encoder."""

    def load(seed, variant="src", **kwargs):
        model, _ = clip.load(clipn_file(seed, variant, **kwargs), activation="gelu")
        return model, build_no_encoder(model, NAMES[variant]).requires_grad_(False)

    return load


def _close(actual, expected):
    """1e-5 of the largest entry: float32 against the public code in float64."""
    expected = torch.as_tensor(np.asarray(expected)).float()
    assert_close(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def _tokens(golden, variant, branch):
    tokens = torch.from_numpy(
        golden("clipn_encode.npz")[f"encode/{variant}/tokens"].astype("int64")
    )
    return tokens if variant == "src" else tokens[:, branch]


@pytest.mark.parametrize("variant", NAMES)
def test_both_branches_in_evaluation(variant, published, golden):
    about, arrays = golden("clipn_encode.json"), golden("clipn_encode.npz")
    case = about[f"encode/{variant}"]
    model, encoder = published(case["seed"], variant, logit_scale=case["logit_scale"])
    _close(model.encode_text(_tokens(golden, variant, 0)), arrays[f"encode/{variant}/yes_eval"])
    _close(encoder(_tokens(golden, variant, 1)), arrays[f"encode/{variant}/no_eval"])


def test_training_adds_the_prompt_drawn_or_their_mean(published, golden):
    about, arrays = golden("clipn_encode.json")["encode/src"], golden("clipn_encode.npz")
    _, encoder = published(about["seed"], logit_scale=about["logit_scale"])
    tokens = _tokens(golden, "src", 1)
    for idx, key in (("idx_first", "no_train"), ("idx_second", "no_train_second_call")):
        _close(encoder(tokens, torch.tensor(about[idx])), arrays[f"encode/src/{key}"])
    mean = torch.full((len(tokens),), NUM_PROMPTS)
    assert_close(encoder(tokens, mean), encoder(tokens))


def test_truncation_to_the_longest_text_is_exact(published, golden):
    """The prompts are added at all 77 positions, but attention is causal."""
    _, encoder = published(11, logit_scale=4.61)
    tokens = clip.tokenize(["a cat", "a photo of a very small dog on a table."])
    whole = encoder.token_embedding(tokens) + encoder.prompt_no.mean(dim=0)
    whole = super(NoTextEncoder, encoder).forward(whole, tokens.argmax(dim=1))
    for texts in (tokens, tokens[:1]):
        short = encoder(cut_to_longest(texts))
        assert_close(short, whole[: len(texts)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", ["tiny-vit", "tiny-rn"])
@pytest.mark.parametrize("variant", NAMES.values())
def test_a_plain_clip_starts_as_a_copy(arch, variant, tiny_clip):
    """Differs from upstream, where the "no" branch of a plain CLIP stays random."""
    model = tiny_clip(arch)
    encoder = build_no_encoder(model, variant)
    tokens = clip.tokenize(["a cat", "a photo of a dog"])
    for choices in (None, torch.tensor([3, 16])):
        assert_close(encoder(tokens, choices), model.encode_text(tokens))
    assert all(p.requires_grad for p in encoder.parameters())
    assert not any(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        encoder.token_embedding.weight.zero_()
    assert model.token_embedding.weight.abs().max() > 0


def test_the_draw_is_a_function_of_seed_and_step():
    first = draw(4000, 17, seed=1, step=5)
    assert torch.equal(first, draw(4000, 17, seed=1, step=5))
    assert first.bincount(minlength=17).min() > 150 and first.max() == 16
    for other in (draw(4000, 17, seed=1, step=6), draw(4000, 17, seed=0, step=5)):
        assert (first == other).float().mean() < 0.1
    state = torch.get_rng_state()
    draw(10, 17, seed=-1, step=0)
    assert torch.equal(state, torch.get_rng_state())


def test_published_file_is_a_clip_too(clipn_file):
    """Zero-shot scores of its CLIP need no other file; the hash is the plain CLIP's."""
    with pytest.raises(InputError, match=r"does not state its activation.*CLIPN's published files"):
        clip.load(clipn_file(11))
    model, _ = clip.load(clipn_file(11), activation="gelu")
    plain, _ = clip.load(clipn_file(11, plain=True), activation="gelu")
    assert model.weights_hash == plain.weights_hash and model.activation == "gelu"
    assert model.has_negation and not plain.has_negation


def test_weights_over_a_backbone_loaded_apart(clipn_file, published, golden):
    backbone, _ = clip.load(clipn_file(11, plain=True), activation="gelu")
    encoder = build_no_encoder(backbone, "learnable", clipn_file(11))
    tokens = _tokens(golden, "src", 1)
    assert_close(encoder(tokens), published(11)[1](tokens))


@pytest.mark.slow
@pytest.mark.parametrize(
    "weights, variant, words",
    [
        ({"seed": 11, "variant": "hand"}, "learnable", "handcrafted variant.*VARIANT handcrafted"),
        ({"seed": 11}, "handcrafted", "learnable variant.*VARIANT learnable"),
        ({"seed": 12}, "learnable", "trained beside another CLIP"),
        ({"seed": 11, "arch": "tiny2"}, "learnable", "does not fit .*Set --backbone"),
        ({"seed": 11, "plain": True}, "learnable", 'holds no "no" text encoder'),
    ],
)
def test_weights_of_something_else_are_refused(weights, variant, words, clipn_file):
    backbone, _ = clip.load(clipn_file(11, plain=True), activation="gelu")
    with pytest.raises(InputError, match=words):
        build_no_encoder(backbone, variant, clipn_file(**weights))


def test_unknown_variant(tiny_clip):
    with pytest.raises(InputError, match="learnable, handcrafted"):
        NoTextEncoder(tiny_clip(), "learned")


# Templates and the classifier


def test_published_templates_are_the_files_lines(golden):
    import zlib

    about, pairs = golden("clipn_encode.json")["zeroshot"], published_pairs()
    standard, denied = zip(*pairs, strict=True)
    assert len(pairs) == 128 and {tuple(pair) for pair in about["templates"]} <= set(pairs)
    assert zlib.crc32("\n".join(standard + denied).encode()) == about["templates_crc32"]
    classes = about["classes"]
    for variant, wordings in (("src", standard), ("hand", zip(standard, denied, strict=True))):
        wordings = [[w] if isinstance(w, str) else w for w in wordings]
        recorded = golden("clipn_encode.npz")[f"zeroshot/{variant}/tokens"]
        for row, k in zip(recorded, (0, 30, 34, 98, 127), strict=True):
            ours = [clip.tokenize([t.format(name) for t in wordings[k]], 18) for name in classes]
            assert (torch.stack(ours).numpy().reshape(row.shape) == row).all()


def test_wordings_of_captions_are_the_published(golden):
    about = golden("clipn_encode.json")
    case, pairs = about["encode/hand"], published_pairs()
    for i, caption in enumerate(about["encode/captions"]):
        standard, denied = pairs[case["train_template_idx"][i]]
        assert standard.format(caption) == case["train_yes_text"][i]
        assert denied.format(caption) == case["train_no_text"][i]


def test_clean_templates_hold_no_quotes_and_deny_once():
    for standard, denied in template_pairs("imagenet80"):
        assert "'" not in standard and denied.count("{}") == 1
        assert len(set(denied.split()) & {"no", "without", "not"}) == 1
    assert negated("{}") == "no {}" and template_pairs("a {}|the {}")[1] == ("the {}", "no {}")
    with pytest.raises(InputError, match=r"must hold {} once"):
        template_pairs("a photo")


@pytest.mark.slow
@pytest.mark.parametrize("variant", NAMES)
def test_classifier_is_the_public_codes(variant, published, golden):
    about, arrays = golden("clipn_encode.json")["zeroshot"], golden("clipn_encode.npz")
    model, encoder = published(about["seed"], variant)
    standard, denied = zip(*published_pairs(), strict=True)
    _close(classifier(model, about["classes"], standard), arrays[f"zeroshot/{variant}/fc_yes"])
    denied = standard if variant == "src" else denied
    _close(classifier(encoder, about["classes"], denied), arrays[f"zeroshot/{variant}/fc_no"])


def test_many_texts_are_summed_part_by_part(tiny_clip, monkeypatch):
    """As 21,000 classes under 80 templates, whose features do not fit at once."""
    templates, names = ["{}", "a {}", "the {}", "a photo of a {}."], ["cat", "dog", "small cat"]
    whole = classifier(tiny_clip(), names, templates)
    monkeypatch.setattr("clip.templates.TEXTS", 4)  # one template at once
    parts = classifier(tiny_clip(), names, templates)
    assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_each_distinct_text_is_encoded_once(monkeypatch):
    """In batches no longer than their texts, and put back in order."""
    monkeypatch.setattr("clip.templates.BATCH", 2)
    seen = []

    def encode(tokens):
        seen.extend(map(tuple, tokens.tolist()))
        return tokens.argmax(dim=1)[:, None] + torch.tensor([[0.0, 1.0]])

    names = ["cat", "a very long name of a bird", "cat", "dog"]
    tower = SimpleNamespace(encode_text=encode, context_length=77, logit_scale=torch.zeros(()))
    weights = classifier(tower, names, ["{}", "a {}", "{}"])
    assert len(seen) == len(set(seen)) == 6
    lengths = [np.argmax(row) for row in seen]
    assert lengths == sorted(lengths)
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])
    assert_close(weights.norm(dim=1), torch.ones(4))


def test_the_recipe_of_copying_is_ours(clipn_file):
    """The goldens' own recipe of a correct start from a plain CLIP."""
    plain = weights_clipn.make_state_dict(63, "tiny", logit_scale=3.0)
    expected = weights_clipn.copy_yes_to_no(plain)
    model, _ = clip.load(clipn_file(63, logit_scale=3.0, plain=True), activation="gelu")
    state = build_no_encoder(model, "learnable").state_dict()
    for key, value in expected.items():
        if "_no" in key:
            own = key if key == "prompt_no" else key.replace("_no", "", 1)
            assert torch.equal(state[own], torch.as_tensor(value))
