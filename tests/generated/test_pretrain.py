"""Training a small CLIP: sources, loss, the file's layout, and the committed file."""

from __future__ import annotations

import csv
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
from generated import pretrain
from generated.objects import ID_OBJECTS
from generated.streams import id_sample

COMMITTED = Path(pretrain.__file__).parent / "weights/generated_vit_s8.safetensors"
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 40),
    "blue": (40, 50, 210),
    "dark_grey": (60, 60, 60),
}
SMALL = [
    "--image-size",
    "16",
    "--patch",
    "8",
    "--width",
    "64",
    "--layers",
    "1",
    "--text-width",
    "64",
    "--text-layers",
    "1",
    "--embed-dim",
    "32",
    "--batch-size",
    "12",
    "--device",
    "cpu",
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
def folders(tmp_path_factory):
    """Class folders of noisy plain colours, 24 x 20 pixels."""
    root, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for name, rgb in COLOURS.items():
        (root / name).mkdir()
        for index in range(8):
            pixels = np.clip(rgb + rng.normal(0, 20, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "tiny.safetensors"
    losses = pretrain.main(
        [
            "--folders",
            str(folders),
            "--steps",
            "40",
            "--lr",
            "3e-3",
            "--output",
            str(output),
            *SMALL,
        ]
    )
    return output, losses


def test_loss_decreases(trained):
    _, losses = trained
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_file_has_openai_layout(trained):
    path, _ = trained
    state = load_file(path)
    assert set(state) == expected_keys(1, 1)
    assert state["positional_embedding"].shape == (77, 64)
    assert state["token_embedding.weight"].shape == (len(state["token_ids"]), 64)
    assert {v.dtype for k, v in state.items() if k != "token_ids"} == {torch.float16}
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["activation"] == "quick_gelu" and "--steps 40" in metadata["command"]
    assert metadata["trained_on"] == "29 images of " + metadata["trained_on"].split()[-1]


def test_training_goes_on_from_an_earlier_file(trained, folders, tmp_path):
    output = tmp_path / "next.safetensors"
    more = [
        "--folders",
        str(folders),
        "--steps",
        "1",
        "--lr",
        "0",
        "--output",
        str(output),
        "--init",
        str(trained[0]),
    ]
    pretrain.main([*more, *SMALL, "--templates", "a {}", "a new {}"])
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
    said = open_clip.tokenize(
        [t.format(c.replace("_", " ")) for t in pretrain.TEMPLATES for c in COLOURS]
    )
    assert ids == set(said.unique().tolist())


def test_the_loader_reads_it_and_it_classifies(trained, folders):
    clip = pytest.importorskip("clip")
    model, preprocess = clip.load(str(trained[0]))
    names = sorted(COLOURS)
    texts = model.encode_text(open_clip.tokenize([f"a {n.replace('_', ' ')}" for n in names]))
    images = torch.stack([preprocess(Image.open(folders / name / "0.png")) for name in names])
    cosines = F.normalize(model.encode_image(images), dim=-1) @ F.normalize(texts, dim=-1).T
    assert (cosines.argmax(1) == torch.arange(4)).sum() >= 3


def test_csv_of_captions_trains(folders, tmp_path):
    with open(tmp_path / "captions.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("path", "caption"))
        writer.writerows((f"{n}/{i}.png", f"it is {n}") for n in COLOURS for i in range(8))
    losses = pretrain.main(
        [
            "--pairs",
            str(tmp_path / "captions.csv"),
            "--root",
            str(folders),
            "--steps",
            "4",
            "--output",
            str(tmp_path / "x.safetensors"),
            *SMALL,
        ]
    )
    assert len(losses) == 4 and (tmp_path / "x.safetensors").is_file()


def test_generated_source_trains(tmp_path, monkeypatch):
    arguments = [
        "--source",
        "generated",
        "--images",
        "24",
        "--held-out",
        "8",
        "--steps",
        "2",
        "--workers",
        "1",
        "--output",
        str(tmp_path / "x.safetensors"),
        *SMALL,
    ]
    with pytest.raises(InputError, match="generated images are 64 x 64"):
        pretrain.main(arguments)
    pretrain.main([*arguments, "--image-size", "64", "--patch", "32"])
    assert load_file(tmp_path / "x.safetensors")["visual.positional_embedding"].shape == (5, 64)


def test_truncated_text_gives_the_features_of_all_77_tokens():
    args = pretrain.parse(["--source", "generated", "--output", "x", *SMALL])
    torch.manual_seed(0)
    model = pretrain.build_model(args, 30)
    rows = torch.randint(1, 29, (3, 77))
    rows[:, 6], rows[:, 7:] = 29, 0
    whole = model.encode_text(rows)
    assert torch.allclose(pretrain.encode_text(model, rows[:, :7]), whole, atol=1e-5)


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
    out = pretrain.augment(image)
    assert out.shape == image.shape and not torch.allclose(out[0], out[1])


@pytest.mark.parametrize(
    "change, message",
    [
        (["--width", "100"], "--width 100 is not a multiple of 64"),
        (["--patch", "5"], "not a multiple of --patch 5"),
        (["--lr", "1e30"], "The loss is nan at step"),
    ],
)
def test_bad_settings_are_a_sentence(folders, tmp_path, change, message):
    with pytest.raises(InputError, match=re.escape(message)):
        pretrain.main(
            [
                "--folders",
                str(folders),
                "--steps",
                "6",
                "--output",
                str(tmp_path / "x.safetensors"),
                *SMALL,
                *change,
            ]
        )


def test_bad_sources_are_a_sentence(tmp_path):
    output = ["--output", str(tmp_path / "x.safetensors"), *SMALL]
    with pytest.raises(InputError, match="holds no class folders"):
        pretrain.main(["--folders", str(tmp_path), *output])
    with pytest.raises(InputError, match="is not a file"):
        pretrain.main(["--pairs", str(tmp_path / "no.csv"), *output])
    (tmp_path / "c.csv").write_text("file,text\na,b\n")
    with pytest.raises(InputError, match="path and caption are needed"):
        pretrain.main(["--pairs", str(tmp_path / "c.csv"), *output])
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"Cannot read the training image .*a.jpg"):
        pretrain.main(["--folders", str(tmp_path), *output])


def test_committed_file_has_the_layout_and_size():
    assert COMMITTED.stat().st_size <= 6e6
    state = load_file(COMMITTED)
    layers = {int(k.split(".")[3]) for k in state if k.startswith("visual.transformer")}
    text_layers = {int(k.split(".")[2]) for k in state if k.startswith("transformer")}
    assert set(state) == expected_keys(len(layers), len(text_layers))
    words = set(open_clip.tokenize([f"a photo of a {n}." for n in ID_OBJECTS]).unique().tolist())
    assert words <= set(state["token_ids"].tolist())


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
    args = pretrain.parse(["--source", "generated", "--output", "x", *SMALL])
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
