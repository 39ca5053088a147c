from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import clip
from clip.building import build_model
from clip.loading import OPENAI_MODELS, check_same_backbone, input_settings
from clip.weights import read_weights, weights_hash
from dassl.utils.errors import InputError


def _same(model, other):
    return model.weights_hash == other.weights_hash


@pytest.fixture
def reference(tiny_clip):
    return tiny_clip("tiny-vit")


def test_bare_state_dict_must_be_told_its_activation(generated_weights, reference, tmp_path):
    torch.save(generated_weights("tiny-vit"), tmp_path / "bare.pt")
    model, _ = clip.load(str(tmp_path / "bare.pt"), activation="quick_gelu")
    assert _same(model, reference) and model.activation == "quick_gelu"
    with pytest.raises(InputError, match="does not state its activation"):
        clip.load(str(tmp_path / "bare.pt"))


def test_openais_markers_fix_the_activation(generated_weights, tmp_path, caplog):
    state = generated_weights("tiny-vit") | {
        "input_resolution": torch.tensor(64),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    torch.save(state, tmp_path / "openai.pt")
    assert clip.load(str(tmp_path / "openai.pt"))[0].activation == "quick_gelu"
    assert not caplog.text
    with pytest.raises(InputError, match=r"trained with quick_gelu, but .* asks for gelu"):
        clip.load(str(tmp_path / "openai.pt"), activation="gelu")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_jit_archive(generated_weights, reference, tmp_path):
    """A TorchScript archive with OpenAI's parameter names, as the published files are."""
    holder = torch.nn.Module()
    for key, value in generated_weights("tiny-vit").items():
        *path, name = key.split(".")
        module = holder
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        module.register_buffer(name, value.half())
    torch.jit.script(holder).save(str(tmp_path / "jit.pt"))
    model, _ = clip.load(str(tmp_path / "jit.pt"))
    assert _same(model, reference) and model.activation == "quick_gelu"


def test_open_clip_checkpoint_with_its_wrapping(generated_weights, reference, tmp_path):
    state = {f"module.{key}": value for key, value in generated_weights("tiny-vit").items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, tmp_path / "epoch_3.pt")
    model, _ = clip.load(str(tmp_path / "epoch_3.pt"), activation="gelu")
    assert _same(model, reference) and model.activation == "gelu"


def test_activation_changes_features(clip_file, generated_weights, tmp_path):
    save_file(generated_weights("tiny-vit"), tmp_path / "plain.safetensors")
    images = torch.ones(1, 3, 64, 64)
    quick, plain = (
        clip.load(str(tmp_path / "plain.safetensors"), activation=activation)[0].encode_image(
            images
        )
        for activation in ("quick_gelu", "gelu")
    )
    assert (quick - plain).abs().max() > 1e-3


def test_small_file_spreads_its_token_rows(generated_weights, tmp_path):
    state = generated_weights("tiny-vit")
    ids = torch.tensor([320, 2368, 49406, 49407])
    small = state | {
        "token_embedding.weight": state["token_embedding.weight"][ids],
        "token_ids": ids,
    }
    save_file(small, tmp_path / "small.safetensors", {"activation": "quick_gelu"})
    embedding = clip.load(str(tmp_path / "small.safetensors"))[0].token_embedding.weight
    assert embedding.shape == (49408, 128)
    assert (embedding[ids] == small["token_embedding.weight"]).all()
    assert embedding.count_nonzero() == small["token_embedding.weight"].count_nonzero()


def test_float32_weights_are_not_rounded(generated_weights):
    state = generated_weights("tiny-vit")
    state["visual.proj"] = state["visual.proj"] + 1e-6
    assert (build_model(state, "gelu").visual.proj == state["visual.proj"]).all()


@pytest.mark.parametrize("arch", ["tiny-vit", "tiny-rn"])
def test_sizes_are_read_off_the_weights(arch, tiny_clip):
    model = tiny_clip(arch)
    assert model.image_size == 64 and model.grid == {"tiny-vit": (4, 4), "tiny-rn": (2, 2)}[arch]


def test_hash_tells_weights_apart(generated_weights):
    state = generated_weights("tiny-vit")
    changed = state | {"logit_scale": state["logit_scale"] + 1e-3}
    assert weights_hash(state) == weights_hash(dict(reversed(state.items())))
    assert weights_hash(state) != weights_hash(changed)


@pytest.mark.parametrize(
    "name, words",
    [
        ("ViT-B/61", "Nearest name: 'ViT-B/16'"),
        ("ViT-B-16/laion2b_s34b", "Nearest name: 'ViT-B-16/laion2b_s34b_b88k'"),
        ("no/such/file.pt", "neither a file nor a name"),
        ("openai/clip-vit-base-patch16", "Nearest name: 'ViT-B/16'"),
        ("openai/clip-vit-large-patch14-336", "Nearest name: 'ViT-L/14@336px'"),
        ("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "Nearest name: 'ViT-B-16/laion2b_s34b_b88k'"),
    ],
)
def test_unknown_names(name, words):
    with pytest.raises(InputError, match=words):
        clip.load(name)


@pytest.mark.parametrize(
    "name",
    [
        *("/no/clip", "/no/ViT-B/16", "./clip", "../weights/clip", "~/clip", "~me/ViT-B-16"),
        *("ViT-B-16.pt", "a/b.pth", "model.pth.tar-50", "x/CLIP.BIN", "m.safetensors", "e.ckpt"),
        "model.safetensors.index.json",
    ],
)
def test_a_path_that_is_not_there_is_said_to_be_missing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for act in (clip.load, input_settings):
        with pytest.raises(
            InputError, match=r"There is no file or folder /.*: check the path"
        ) as e:
            act(name)
        assert "Nearest" not in str(e.value)


def test_a_file_is_named_by_a_path_too(clip_file):
    model, _ = clip.load(Path(clip_file("tiny-vit")))
    assert model.name == clip_file("tiny-vit")
    with pytest.raises(InputError, match="There is no file or folder"):
        clip.load(Path("no/clip.pt"))


def test_activation_mismatch_of_a_pair_is_refused_before_downloading():
    with pytest.raises(InputError, match="use ViT-B-16-quickgelu/openai"):
        clip.load("ViT-B-16/openai")


def _cut_off(*_, **__):
    raise OSError("no route to host")


def _answer(*_, **__):
    """Stand in for the hub, which is there."""


@pytest.mark.parametrize("name", ["ViT-B/16", "ViT-B-16/laion2b_s34b_b88k"])
def test_without_a_connection_the_error_names_the_flag(name, monkeypatch):
    monkeypatch.setattr("open_clip.download_pretrained", _cut_off)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", _answer)
    with pytest.raises(InputError, match=r"cannot download .*give its path as --backbone"):
        clip.load(name)


def test_the_hub_is_asked_once_before_its_client_retries(monkeypatch):
    """The client retries for most of a minute."""
    begun = []
    monkeypatch.setattr("open_clip.download_pretrained", lambda *_: begun.append(1))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", _cut_off)
    with pytest.raises(InputError, match=r"cannot download .*no route to host"):
        clip.load("ViT-B-16/laion2b_s34b_b88k")
    assert not begun
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", _answer)
    with pytest.raises(InputError, match=r"no weights of .* to download"):
        clip.load("ViT-B-16/laion2b_s34b_b88k")
    assert begun


@pytest.mark.parametrize("source", ["url", "hf_hub"])
def test_openai_weights_come_through_open_clips_download(
    source, monkeypatch, clip_file, reference, generated_weights, tmp_path
):
    """open_clip 3 names OpenAI's own archives (and copies on the hub), 4 only the copies."""
    save_file(generated_weights("tiny-vit"), tmp_path / "copy.safetensors")
    found = {"url": clip_file("tiny-vit"), "hf_hub": str(tmp_path / "copy.safetensors")}
    configs = {
        "url": {"url": "https://x/ViT-B-16.pt", "hf_hub": "y/x/"},
        "hf_hub": {"hf_hub": "y/x/"},
    }
    asked = []

    def download(config, cache_dir=None):
        asked.append(config)
        return found[source]

    monkeypatch.setattr("open_clip.get_pretrained_cfg", lambda *pair: configs[source])
    monkeypatch.setattr("open_clip.download_pretrained", download)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", _answer)
    model, _ = clip.load("ViT-B/16")
    assert _same(model, reference) and model.activation == "quick_gelu" and model.transform_known
    assert [list(config) for config in asked] == [[source]]
    with pytest.raises(InputError, match="trained with quick_gelu"):
        clip.load("ViT-B/16", activation="gelu")


def test_all_of_the_bundled_model_is_known(caplog):
    model, _ = clip.load("generated-ViT-S/8")
    assert model.activation == "quick_gelu" and model.transform_known and not caplog.text


@pytest.mark.parametrize("name", OPENAI_MODELS)
def test_every_openai_name_has_an_address(name, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "open_clip.download_pretrained", lambda config: asked.append(config) or "nowhere"
    )
    with pytest.raises(InputError):
        clip.load(name)
    assert asked[0].get("url", asked[0].get("hf_hub"))


@pytest.mark.parametrize(
    "asked, trained",
    [
        ("ViT-B/32", "ViT-B/16"),
        ("ViT-B-16/laion2b_s34b_b88k", "ViT-B/16"),
        ("generated-ViT-S/8", "ViT-B-16-quickgelu/openai"),
    ],
)
def test_another_backbone_than_the_runs_is_refused(asked, trained):
    with pytest.raises(InputError, match=f"trained on {trained}"):
        check_same_backbone(asked, trained)


def test_the_same_weights_by_another_name_or_file_may_be_the_runs(tmp_path, clip_file):
    check_same_backbone("ViT-B-16-quickgelu/openai", "ViT-B/16")
    check_same_backbone(clip_file("tiny-vit"), "ViT-B/16")
    check_same_backbone("ViT-B/16", str(tmp_path / "moved.pt"))


@pytest.mark.parametrize("content, words", [(b"", "file"), (b"not a checkpoint at all", "file")])
def test_damaged_files_are_told(content, words, tmp_path):
    for name in ("broken.pt", "broken.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="broken"):
            clip.load(str(tmp_path / name))


@pytest.mark.parametrize("wrap", ["net.{}", "ema.{}", "params", "weight"])
def test_file_without_a_clip_that_is_found(wrap, generated_weights, tmp_path):
    state = {wrap.format(key): value for key, value in generated_weights("tiny-vit").items()}
    torch.save({"params": state} if wrap == "params" else state, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"holds no CLIP model .*save them alone: torch.save"):
        read_weights(tmp_path / "other.pt")


def test_half_precision_on_cpu_says_that_it_is_not(clip_file, caplog):
    caplog.set_level("INFO")
    model, _ = clip.load(clip_file("tiny-vit"), "cpu", "fp16")
    assert model.dtype == torch.float32 and "fp32 is used" in caplog.text


def test_unknown_precision(clip_file):
    with pytest.raises(InputError, match="fp32, tf32, amp, amp_bf16, fp16"):
        clip.load(clip_file("tiny-vit"), precision="fp8")


def test_preprocessing_reads_any_mode(clip_file):
    _, preprocess = clip.load(clip_file("tiny-vit"))
    grey = Image.fromarray(np.full((90, 70), 128, np.uint8))
    assert preprocess(grey).shape == (3, 64, 64)
    assert torch.allclose(preprocess(grey), preprocess(grey.convert("RGB")))
