"""Files and folders of CLIPs as other code writes them."""

import json
import logging

import open_clip
import pytest
import torch
from safetensors.torch import save_file

import clip
from clip.loading import input_settings
from clip.weights import plain_names
from dassl.utils.errors import InputError

HALF = [0.5, 0.5, 0.5]


def _hugging_face_layout(state):
    """The weights `state` named as `CLIPModel` names them, written down name by name."""
    out = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
    }
    for kind in ("weight", "bias"):
        out[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        out[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        out[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        for ours, theirs in (("", "text_model"), ("visual.", "vision_model")):
            layer = 0
            while f"{ours}transformer.resblocks.{layer}.ln_1.{kind}" in state:
                block = f"{ours}transformer.resblocks.{layer}."
                other = f"{theirs}.encoder.layers.{layer}."
                joined = state[f"{block}attn.in_proj_{kind}"]
                third = len(joined) // 3
                for place, part in enumerate("qkv"):
                    rows = joined[place * third : (place + 1) * third].clone()
                    out[f"{other}self_attn.{part}_proj.{kind}"] = rows
                for name, mine in (
                    ("self_attn.out_proj", "attn.out_proj"),
                    ("layer_norm1", "ln_1"),
                    ("layer_norm2", "ln_2"),
                    ("mlp.fc1", "mlp.c_fc"),
                    ("mlp.fc2", "mlp.c_proj"),
                ):
                    out[f"{other}{name}.{kind}"] = state[f"{block}{mine}.{kind}"]
                layer += 1
    return out


def _hugging_face_config(activation="quick_gelu", heads=2):
    part = {"hidden_act": activation, "hidden_size": 128, "num_attention_heads": heads}
    return {"projection_dim": 64, "vision_config": part, "text_config": part}


def _small(width=128, heads=2, **text):
    """State dict of a random CLIP, of open_clip's own making."""
    torch.manual_seed(0)
    vision = {
        "layers": 2,
        "width": width,
        "head_width": width // heads,
        "patch_size": 16,
        "image_size": 32,
    }
    text = {"width": 128, "heads": 2, "layers": 2} | text
    model = open_clip.CLIP(64, vision, text).eval()
    return model, dict(model.state_dict())


def _save(content, path):
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in content.items()}, path)
    else:
        torch.save(content, path)
    return str(path)


def _features(model):
    images = torch.linspace(-1, 1, 2 * 3 * model.image_size**2).view(2, 3, *[model.image_size] * 2)
    texts = clip.tokenize(["a cat", "a photo of a small dog"])
    return *model.encode_image(images, local=True), model.encode_text(texts)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "_orig_mod.module.", "module._orig_mod.", "clip."]
)
def test_wrapped_names(prefix, ending, generated_weights, tiny_clip, tmp_path):
    state = {f"{prefix}{key}": value for key, value in generated_weights("tiny-vit").items()}
    state |= {f"{prefix}attn_mask": torch.zeros(77, 77), f"{prefix}logit_bias": torch.zeros(1)}
    path = _save(state, tmp_path / f"clip{ending}")
    model, _ = clip.load(path, activation="quick_gelu")
    assert model.weights_hash == tiny_clip("tiny-vit").weights_hash


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_text_tower_of_its_own(ending, generated_weights, tiny_clip, tmp_path):
    state = {
        key if key.startswith(("visual.", "logit_scale")) else f"text.{key}": value
        for key, value in generated_weights("tiny-vit").items()
    }
    path = _save(state, tmp_path / f"custom{ending}")
    model, _ = clip.load(path, activation="quick_gelu")
    assert model.weights_hash == tiny_clip("tiny-vit").weights_hash


@pytest.mark.parametrize("keys", [["model"], ["state_dict"], ["model", "state_dict"]])
def test_wrapped_dicts(keys, generated_weights, tiny_clip, tmp_path):
    content = {f"model.{key}": value for key, value in generated_weights("tiny-vit").items()}
    for key in keys:
        content = {"epoch": 1, key: content}
    model, _ = clip.load(_save(content, tmp_path / "clip.pth"), activation="quick_gelu")
    assert model.weights_hash == tiny_clip("tiny-vit").weights_hash


def test_names_inside_of_a_compiled_part():
    assert list(plain_names({"visual._orig_mod.conv1.weight": torch.zeros(1), "epoch": 3})) == [
        "visual.conv1.weight"
    ]


PAIRS = [("model.", "clip."), ("", "module."), ("", "text."), ("_orig_mod.", "module.")]


@pytest.mark.parametrize("first, second", PAIRS)
def test_two_models_under_two_prefixes_are_refused(first, second, generated_weights, tmp_path):
    state, other = (generated_weights("tiny-vit", seed) for seed in (1001, 7))
    both = {f"{first}{key}": value for key, value in state.items()}
    equal = both | {f"{second}{key}": value.clone() for key, value in state.items()}
    path = _save(equal, tmp_path / "equal.pt")
    assert clip.load(path, activation="gelu")[0].weights_hash
    both |= {f"{second}{key}": value for key, value in other.items()}
    key = f"{first}{next(key for key in state if not state[key].equal(other[key]))}"
    path = _save(both, tmp_path / "two.pt")
    with pytest.raises(InputError, match=rf"two.pt holds more than one model: {key} and {second}"):
        clip.load(path, activation="gelu")


@pytest.mark.parametrize("value", [torch.ones(1), torch.zeros(2), torch.zeros(1).double()])
def test_names_that_collide_are_refused_in_any_checkpoint(value):
    content = {"model.a": torch.zeros(1), "clip._orig_mod.a": value}
    with pytest.raises(InputError, match=r"model.a and clip._orig_mod.a are both a, .* alone"):
        plain_names({"state_dict": content})
    value = torch.full((1,), float("nan"))  # is not equal to itself
    assert plain_names({"a": value, "module.a": value}) == {"a": value}


def test_two_layouts_or_shards_of_different_models_are_refused(generated_weights, tmp_path):
    state, other = (generated_weights("tiny-vit", seed) for seed in (1001, 7))
    both = state | _hugging_face_layout(other)
    path = _save(both, tmp_path / "both.pt")
    with pytest.raises(
        InputError, match=r"both.pt holds more .*: text_projection and text_projection.weight"
    ):
        clip.load(path, activation="gelu")
    for file, shard in (("a.safetensors", state), ("b.safetensors", other)):
        _save(shard, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    with pytest.raises(InputError, match=r"a.safetensors's (\S+) and b.safetensors's \1 are both"):
        clip.load(str(index), activation="gelu")


@pytest.mark.filterwarnings("ignore:.*sparse tensor")
@pytest.mark.parametrize(
    "convert", ["int8", "int64", "bool", "complex64", "float8_e4m3fn", "sparse"]
)
def test_weights_that_are_no_real_numbers_are_refused(convert, generated_weights, tmp_path):
    state = generated_weights("tiny-vit")
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    is_sparse, value = convert == "sparse", 10 * state[name]
    state[name] = value.to_sparse() if is_sparse else value.to(getattr(torch, convert))
    path = _save(state, tmp_path / "clip.pt")
    with pytest.raises(InputError, match=rf"no dense .*{name} \(.*quantised, complex and"):
        clip.load(path, activation="gelu")


def test_integers_that_are_no_weights_are_read(generated_weights, tmp_path):
    state = generated_weights("tiny-rn") | {"context_length": torch.tensor(77)}
    state |= {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    assert "visual.bn1.num_batches_tracked" in state
    assert clip.load(_save(state, tmp_path / "clip.pt"))[0].activation == "quick_gelu"


@pytest.mark.parametrize("ending", [".bin", ".safetensors", "/", "/shards", ".index.json"])
def test_hugging_face_layout(ending, generated_weights, tiny_clip, tmp_path):
    state = _hugging_face_layout(generated_weights("tiny-vit"))
    (tmp_path / "config.json").write_text(json.dumps(_hugging_face_config()))
    path = tmp_path
    if ending in ("/shards", ".index.json"):
        names = sorted(state)
        shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, keys in shards.items():
            _save({key: state[key] for key in keys}, tmp_path / file)
        index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(json.dumps(index))
        path = tmp_path if ending == "/shards" else path
    elif ending == "/":
        _save(state, tmp_path / "model.safetensors")
    else:
        path = tmp_path / f"pytorch_model{ending}"
        _save(state, path)
    model, _ = clip.load(str(path))
    assert model.activation == "quick_gelu" and input_settings(str(path))["SIZE"] == (64, 64)
    for ours, theirs in zip(_features(model), _features(tiny_clip("tiny-vit")), strict=True):
        assert torch.equal(ours, theirs)


def test_hugging_face_config_says_activation_and_heads(generated_weights, tmp_path):
    state = _hugging_face_layout(generated_weights("tiny-vit"))
    path = _save(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="does not state its activation"):
        clip.load(path)
    (tmp_path / "config.json").write_text(json.dumps(_hugging_face_config("gelu", heads=4)))
    model, _ = clip.load(path)
    assert model.activation == "gelu"
    assert model.text.transformer.resblocks[0].attn.num_heads == 4
    assert model.visual.transformer.resblocks[0].attn.num_heads == 4
    (tmp_path / "config.json").write_text(json.dumps(_hugging_face_config("gelu_new")))
    with pytest.raises(InputError, match="names the activation gelu_new"):
        clip.load(path)


def test_config_of_another_model_is_not_read(generated_weights, tmp_path, caplog):
    config = _hugging_face_config() | {"projection_dim": 512}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = _save(_hugging_face_layout(generated_weights("tiny-vit")), tmp_path / "model.bin")
    with pytest.raises(InputError, match="does not state its activation"):
        clip.load(path)
    assert "belongs to another model" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("width, heads", [(1280, 16), (1408, 16), (1664, 16)])
def test_wide_public_image_towers_have_their_own_heads(width, heads, tmp_path):
    """ViT-H, g and bigG: their shapes would agree with heads of 64, their features would not."""
    plain, state = _small(width, heads)
    model, _ = clip.load(_save(state, tmp_path / "wide.pt"), activation="gelu")
    images = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    error = (model.encode_image(images) - plain.encode_image(images)).norm()
    assert error < 1e-5 * plain.encode_image(images).norm()


def test_mlp_ratio_is_read_off_the_weights(tmp_path):
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 1408, "head_width": 88, "mlp_ratio": 4.3637}
    vision |= {"patch_size": 16, "image_size": 32}
    text = {"width": 128, "heads": 2, "layers": 1, "mlp_ratio": 2.5}
    state = open_clip.CLIP(64, vision, text).state_dict()
    model, _ = clip.load(_save(state, tmp_path / "g.pt"), activation="gelu")
    assert model.visual.transformer.resblocks[0].mlp.c_fc.out_features == int(1408 * 4.3637)
    assert model.text.transformer.resblocks[0].mlp.c_fc.out_features == 320


def test_heads_of_an_unknown_width_are_said_or_refused(tmp_path, caplog):
    path = _save(_small(192, 3)[1], tmp_path / "narrow.pt")
    clip.load(path, activation="gelu")
    assert "The image tower is 192 wide" in caplog.text and "3 attention heads" in caplog.text
    path = _save(_small(96, 3)[1], tmp_path / "odd.pt")
    with pytest.raises(InputError, match=r"heads of the \w+ tower \(width 96\) is not known"):
        clip.load(path, activation="gelu")
    vision = {"layers": 2, "width": 96, "head_width": 32}
    config = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": {"width": 128, "heads": 2}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    model, _ = clip.load(path)
    assert model.visual.transformer.resblocks[0].attn.num_heads == 3 and model.activation == "gelu"


def _write_open_clip_config(folder, preprocess, **model):
    vision = {"layers": 2, "width": 128, "head_width": 64}
    config = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": {"width": 128, "heads": 2}}
    content = {"model_cfg": config | model, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))


def test_transform_beside_an_open_clip_file(tmp_path):
    _write_open_clip_config(tmp_path, {"mean": HALF, "std": HALF, "resize_mode": "squash"})
    _save(_small()[1], tmp_path / "open_clip_pytorch_model.bin")
    for path in (str(tmp_path), str(tmp_path / "open_clip_pytorch_model.bin")):
        _, preprocess = clip.load(path)
        assert preprocess.mean == preprocess.std == tuple(HALF)
        settings = input_settings(path)
        assert settings["PIXEL_MEAN"] == HALF and settings["RESIZE_MODE"] == "squash"
        assert preprocess.resize_mode == "squash" and preprocess.size == (32, 32)


@pytest.mark.parametrize(
    "size, mode", [({"shortest_edge": 32}, "shortest"), ({"height": 32, "width": 32}, "squash")]
)
def test_transform_beside_a_hugging_face_file(size, mode, generated_weights, tmp_path):
    preprocessor = {"image_mean": HALF, "image_std": HALF, "resample": 2, "size": size}
    (tmp_path / "config.json").write_text(json.dumps(_hugging_face_config()))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    _save(_hugging_face_layout(generated_weights("tiny-vit")), tmp_path / "model.safetensors")
    settings = input_settings(str(tmp_path))
    assert settings["PIXEL_STD"] == HALF and settings["INTERPOLATION"] == "bilinear"
    assert settings["RESIZE_MODE"] == mode


def test_assumed_normalisation_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    model, _ = clip.load(_save(_small()[1], tmp_path / "clip.pt"), activation="gelu")
    assert not model.transform_known and "not state how its images were prepared" in caplog.text


@pytest.mark.parametrize("name", ["longest", "fit"])
def test_other_ways_to_resize_are_refused(name, tmp_path, monkeypatch):
    _write_open_clip_config(tmp_path, {"resize_mode": name})
    path = _save(_small()[1], tmp_path / "clip.pt")
    for act in (clip.load, input_settings):
        with pytest.raises(InputError, match=f"resized as '{name}'"):
            act(path)
    config = {"resize_mode": name, "mean": HALF, "std": HALF}
    monkeypatch.setattr("open_clip.get_pretrained_cfg", lambda *pair: config)
    monkeypatch.setattr("open_clip.download_pretrained", lambda config: pytest.fail("downloads"))
    for act in (clip.load, input_settings):
        with pytest.raises(InputError, match=f"resized as '{name}'"):
            act("ViT-B-16/laion2b_s34b_b88k")


def test_squash_of_a_pair_is_known():
    settings = input_settings("ViT-H-14-quickgelu/dfn5b")
    assert settings["RESIZE_MODE"] == "squash"
    assert input_settings("ViT-B/16")["RESIZE_MODE"] == "shortest"


@pytest.mark.parametrize(
    "name", ["ViT-H-14-worldwide-quickgelu/metaclip2_worldwide", "ViT-B-16-SigLIP/webli"]
)
def test_pairs_with_another_tokenizer_are_refused_before_a_download(name, monkeypatch):
    if tuple(name.split("/")) not in open_clip.list_pretrained():
        pytest.skip("a model of a later open_clip")
    monkeypatch.setattr("open_clip.download_pretrained", lambda config: pytest.fail("downloads"))
    for act in (clip.load, input_settings):
        with pytest.raises(InputError, match="another tokenizer"):
            act(name)


@pytest.mark.parametrize("size", [1000, 60000])
def test_files_with_another_vocabulary_are_refused(size, tmp_path):
    path = _save(_small(vocab_size=size)[1], tmp_path / "clip.pt")
    with pytest.raises(InputError, match=f"another tokenizer .*{size} tokens"):
        clip.load(path, activation="gelu")


def test_a_tokenizer_named_beside_the_file_is_refused(tmp_path):
    text = {"width": 128, "heads": 2, "hf_tokenizer_name": "some/other"}
    _write_open_clip_config(tmp_path, {}, text_cfg=text)
    with pytest.raises(InputError, match=r"another tokenizer .*some/other"):
        clip.load(_save(_small()[1], tmp_path / "clip.pt"))


def test_timm_image_tower_names_the_remedy(generated_weights, tmp_path):
    state = {
        key.replace("visual.", "visual.trunk."): value
        for key, value in generated_weights("tiny-vit").items()
    }
    path = _save(state, tmp_path / "timm.pt")
    for act in (clip.load, input_settings):
        with pytest.raises(InputError, match=r"image tower of timm.*model/tag"):
            act(path)


@pytest.mark.parametrize("content", ["zip", "safetensors"])
def test_content_decides_not_the_ending(content, generated_weights, tiny_clip, tmp_path):
    state = generated_weights("tiny-vit")
    path = tmp_path / ("clip.pt" if content == "safetensors" else "clip.safetensors")
    if content == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    model, _ = clip.load(str(path), activation="quick_gelu")
    assert model.weights_hash == tiny_clip("tiny-vit").weights_hash


@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "content, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "pointer of git-lfs"),
        (b"\n<!DOCTYPE html>\n<html>", "it is a web page"),
        (b"<HTML><head>", "it is a web page"),
    ],
)
def test_what_is_no_weights_is_named(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        clip.load(str(tmp_path / name), activation="gelu")


def test_folder_without_weights(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds no weights of a CLIP.*notes.txt"):
        clip.load(str(tmp_path))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "missing.safetensors"}}))
    with pytest.raises(InputError, match=r"missing.safetensors"):
        clip.load(str(tmp_path))


def test_clipn_file_under_another_activation_is_warned_of(clipn_file, caplog):
    clip.load(clipn_file(11), activation="quick_gelu")
    assert "is a CLIPN file" in caplog.text


@pytest.mark.parametrize("context", [16, 32, 72])
def test_other_context_lengths(context, tmp_path):
    """Zero-shot features and CLIPN's, against open_clip's own tower; longer texts are refused."""
    from clip.negation import build_no_encoder
    from clip.templates import classifier

    plain, state = _small(context_length=context)
    model, _ = clip.load(_save(state, tmp_path / "short.pt"), activation="gelu")
    assert model.context_length == context
    weights = classifier(model, ["cat", "dog"], ["a photo of a {}."])
    tokens = clip.tokenize(["a photo of a cat.", "a photo of a dog."], context)
    expected = torch.nn.functional.normalize(plain.encode_text(tokens), dim=-1)
    torch.testing.assert_close(weights, expected.detach(), rtol=1e-5, atol=1e-6)
    encoder = build_no_encoder(model, "learnable").requires_grad_(False)
    assert encoder.prompt_no.shape == (16, context, 128)
    torch.testing.assert_close(encoder(tokens), model.encode_text(tokens))
    for tower in (model, encoder):
        long = "very " * context + "small cat"
        with pytest.raises(InputError, match=f"class 'very .* context length {context}"):
            classifier(tower, ["dog", long], ["a {}"])


@pytest.mark.parametrize(
    "name, content",
    [
        ("config.json", {"vision_config": {"hidden_size": None}, "text_config": {}}),
        ("config.json", {"vision_config": [1], "text_config": [2]}),
        ("config.json", {"vision_config": {"hidden_size": "wide"}}),
        ("open_clip_config.json", {"model_cfg": {"text_cfg": {"width": "wide"}}}),
        ("open_clip_config.json", {"model_cfg": "ViT-B-16"}),
        ("preprocessor_config.json", {"image_mean": 0.5, "image_std": 0.5}),
        ("preprocessor_config.json", {"image_mean": "half", "image_std": HALF}),
        ("preprocessor_config.json", {"image_mean": HALF, "image_std": [0, 0, 0]}),
        ("preprocessor_config.json", {"image_mean": HALF[:1], "image_std": HALF[:1]}),
        ("preprocessor_config.json", {"image_mean": HALF, "image_std": HALF, "resample": [3]}),
    ],
)
def test_a_json_file_of_something_else_is_told(name, content, generated_weights, tmp_path):
    path = _save(generated_weights("tiny-vit"), tmp_path / "clip.pt")
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(InputError):
        clip.load(path, activation="quick_gelu")
