"""Training a small CLIP: loss, schedules, the file's layout, and the committed file."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from dassl.utils.errors import InputError
from generated import pretrain, small_clip
from generated.kinds import ID_OBJECTS
from generated.streams import captioned_sample, id_sample

pytestmark = pytest.mark.slow  # many seconds

COMMITTED = Path(pretrain.__file__).parent / "weights/generated_vit_s8.safetensors"
SMALL = [
    *("--patch", "32", "--width", "64", "--layers", "1", "--text-width", "64"),
    *("--text-layers", "1", "--embed-dim", "32", "--batch-size", "12", "--images", "24"),
    *("--held-out", "8", "--workers", "1", "--device", "cpu", "--precision", "fp32"),
]
LAYER = (
    "attn.in_proj_weight",
    "attn.in_proj_bias",
    "attn.out_proj.weight",
    "attn.out_proj.bias",
    "ln_1.weight",
    "ln_1.bias",
    "ln_2.weight",
    "ln_2.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
)


def expected_keys(layers: int, text_layers: int) -> set[str]:
    keys = {
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.proj",
        "visual.conv1.weight",
        "visual.ln_pre.weight",
        "visual.ln_pre.bias",
        "visual.ln_post.weight",
        "visual.ln_post.bias",
        "token_embedding.weight",
        "token_ids",
        "positional_embedding",
        "ln_final.weight",
        "ln_final.bias",
        "text_projection",
        "logit_scale",
    }
    keys |= {f"visual.transformer.resblocks.{n}.{k}" for n in range(layers) for k in LAYER}
    return keys | {f"transformer.resblocks.{n}.{k}" for n in range(text_layers) for k in LAYER}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "tiny.safetensors"
    losses = pretrain.main(["--steps", "40", "--lr", "3e-3", "--output", str(output), *SMALL])
    return output, losses


def test_loss_decreases(trained):
    _, losses = trained
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_file_has_openai_layout(trained):
    path, _ = trained
    state = load_file(path)
    assert set(state) == expected_keys(1, 1)
    assert state["positional_embedding"].shape == (77, 64)
    assert state["visual.positional_embedding"].shape == (1 + 3 * 3, 64)
    assert state["token_embedding.weight"].shape == (len(state["token_ids"]), 64)
    assert {v.dtype for k, v in state.items() if k != "token_ids"} == {torch.float16}
    assert state["logit_scale"].exp().item() == pytest.approx(100, rel=1e-3)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["activation"] == "quick_gelu" and "--steps 40" in metadata["command"]
    assert metadata["trained_on"].endswith("stream clip-train, 24")


def test_training_goes_on_from_an_earlier_file(trained, tmp_path):
    output = tmp_path / "next.safetensors"
    more = ["--steps", "1", "--lr", "0", "--output", str(output), "--init", str(trained[0])]
    pretrain.main([*more, *SMALL, "--images", "40"])
    before, after = load_file(trained[0]), load_file(output)
    ids = before["token_ids"].tolist()
    for row, token in enumerate(after["token_ids"].tolist()):
        if token in ids:
            assert torch.equal(
                after["token_embedding.weight"][row],
                before["token_embedding.weight"][ids.index(token)],
            )
    assert set(after["token_ids"].tolist()) - set(ids), "the new words have rows"
    assert torch.equal(before["visual.proj"], after["visual.proj"])
    with safe_open(output, "pt") as file:
        assert "--steps 40" in file.metadata()["init_command"]
    with pytest.raises(InputError, match="with the same sizes"):
        pretrain.main([*more, *SMALL, "--layers", "2"])


def test_only_words_of_the_captions_are_kept(trained):
    ids = set(load_file(trained[0])["token_ids"].tolist())
    streams = (("clip-train", 24), ("clip-held-out", 8))
    texts = [captioned_sample(name, i).caption for name, count in streams for i in range(count)]
    assert ids == set(open_clip.tokenize(texts).unique().tolist()) - {0}, "padding is no word"


def test_the_logit_scale_rises_to_clips(trained):
    scales = [math.exp(pretrain.scale_at(progress / 20)) for progress in range(21)]
    assert scales == sorted(scales)
    assert scales[0] == pytest.approx(pretrain.FIRST_SCALE)
    assert scales[12:] == pytest.approx([100] * 9)


def test_most_steps_see_a_part_of_the_patches(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        pretrain,
        "batch_loss",
        lambda images, local, *rest: seen.append(local.shape[1]) or images.square().mean(),
    )
    pretrain.main(["--steps", "20", "--output", str(tmp_path / "x.safetensors"), *SMALL])
    assert seen == [3] * 19 + [9]


def test_truncated_text_gives_the_features_of_all_77_tokens():
    args = pretrain.parse(["--output", "x", *SMALL])
    torch.manual_seed(0)
    model = small_clip.build_model(args, 30)
    rows = torch.randint(1, 29, (3, 77))
    rows[:, 6], rows[:, 7:] = 29, 0
    whole = model.encode_text(rows)
    assert torch.allclose(small_clip.encode_text(model, rows[:, :7]), whole, atol=1e-5)


def test_loss_equals_infonce_when_no_caption_repeats():
    torch.manual_seed(0)
    cosines = torch.rand(6, 6)
    right = torch.arange(6)
    expected = (F.cross_entropy(10 * cosines, right) + F.cross_entropy(10 * cosines.T, right)) / 2
    assert torch.allclose(pretrain.info_nce(cosines, torch.tensor(10.0), right), expected)


def test_captions_that_repeat_are_matches_of_each_other():
    vectors = torch.eye(3)[[0, 0, 1]]
    loss = pretrain.info_nce(vectors @ vectors.T, torch.tensor(50.0), torch.tensor([4, 4, 9]))
    assert loss == pytest.approx(np.log(2) * 2 / 3, abs=1e-4)  # the entropy of the two-way target


def test_local_loss_reads_the_best_region():
    """One region of 16 fits its text: the soft maximum finds it, a mean would not."""
    texts = torch.eye(4)
    local = torch.zeros(2, 16, 4)
    local[..., 3] = 1
    local[0, 5], local[1, 9] = texts[0], texts[1]
    cosines = pretrain.local_cosines(local, texts[:3])
    assert torch.allclose(cosines.diagonal(), torch.ones(2), atol=1e-3)
    assert cosines[0, 1:].max() < 0.01


def test_local_loss_is_added_with_its_weight():
    torch.manual_seed(0)
    images, texts = torch.randn(2, 4, 8)
    rest = texts, torch.tensor(5.0), torch.arange(4)
    plain = pretrain.batch_loss(images, None, *rest, 0)
    doubled = pretrain.batch_loss(images, images[:, None].expand(-1, 3, -1), *rest, 1)
    assert torch.allclose(doubled, 2 * plain)  # every region is the image's own feature


def test_augmentation_keeps_shape_and_differs_between_images():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 16, 16).expand(4, -1, -1, -1)
    out = small_clip.augment(image)
    assert out.shape == image.shape and not torch.allclose(out[0], out[1])


@pytest.mark.parametrize(
    "change, message",
    [
        (["--width", "100"], "--width 100 is not a multiple of 64"),
        (["--patch", "7"], "Images of 96 pixels are not a multiple of --patch 7"),
        (["--lr", "1e30"], "The loss is nan at step"),
    ],
)
def test_bad_settings_are_a_sentence(tmp_path, change, message):
    with pytest.raises(InputError, match=re.escape(message)):
        pretrain.main(
            ["--steps", "6", "--output", str(tmp_path / "x.safetensors"), *SMALL, *change]
        )


def test_committed_file_has_the_layout_and_size():
    assert COMMITTED.stat().st_size <= 12e6
    state = load_file(COMMITTED)
    layers = {int(k.split(".")[3]) for k in state if k.startswith("visual.transformer")}
    text_layers = {int(k.split(".")[2]) for k in state if k.startswith("transformer")}
    assert set(state) == expected_keys(len(layers), len(text_layers))
    words = set(open_clip.tokenize([f"a photo of a {n}." for n in ID_OBJECTS]).unique().tolist())
    assert words - {0} <= set(state["token_ids"].tolist())  # 0: padding


def test_committed_file_knows_the_id_classes():
    """Six test images a class: it fails when the generator and the file drift apart."""
    clip = pytest.importorskip("clip")
    model, preprocess = clip.load(str(COMMITTED))
    names = list(ID_OBJECTS)
    texts = F.normalize(
        model.encode_text(open_clip.tokenize([f"a photo of a {name}." for name in names])), dim=-1
    )
    images = torch.stack(
        [
            preprocess(Image.fromarray(id_sample("val", name, i).image))
            for name in names
            for i in range(6)
        ]
    )
    cosines = F.normalize(model.encode_image(images), dim=-1) @ texts.T
    right = cosines.argmax(1) == torch.arange(len(names)).repeat_interleave(6)
    assert right.float().mean() > 0.6


def test_the_faster_precision_is_taken_and_nothing_else_changes(monkeypatch):
    """A processor without bfloat16 units emulates them: auto measures, and draws no number."""
    args = pretrain.parse(["--output", "x"])
    assert args.precision == "auto"
    model = torch.nn.Linear(1, 1)
    clock = iter([0.0, 1.0, 0.0, 1.0, 0.0, 24.0, 0.0, 24.0])  # seconds: fp32 twice, bf16 twice
    monkeypatch.setattr(pretrain.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(
        pretrain, "random_loss", lambda *_: model(torch.rand(1, 1)).sum() + torch.rand(())
    )
    before = torch.get_rng_state()
    assert pretrain.faster_precision(model, None, None, args) == "fp32"
    assert torch.equal(torch.get_rng_state(), before)
    assert model.weight.grad is None
