"""Backbones and contexts that a run is evaluated with."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml

import eval_ood
from dassl.config import get_cfg_default
from dassl.utils.errors import InputError
from run.config import build_cfg
from run.flags import make_parser
from trainers.base import ClipTrainer


@pytest.mark.parametrize("name", ["ViT-B/32", "ViT-B-16/laion2b_s34b_b88k"])
def test_another_name_than_the_runs_is_refused_before_a_download(
    name, world, trained, told, tmp_path, monkeypatch
):
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run/config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["MODEL"]["BACKBONE"]["NAME"] = "ViT-B/16"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.setattr("open_clip.download_pretrained", lambda config: pytest.fail("downloads"))
    message = told(
        eval_ood, "--root", f"{world}/data", "--model-dir", path.parent, "--backbone", name
    )
    assert f"--backbone {name}, but the run was trained on ViT-B/16" in message


def _wrapped(checkpoint, wrap):
    context = checkpoint["state_dict"]["ctx"]
    if wrap == "bare":
        return {"prompt_learner.ctx": context}
    return {**checkpoint, "state_dict": {f"{wrap}ctx": context}}


@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "module.prompt_learner.", "bare"])
def test_contexts_as_other_code_saves_them(wrap, world, trained, call, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (path,) = (tmp_path / "run/prompt_learner").glob("model.pth.tar-*")
    checkpoint = torch.load(path, weights_only=True)
    torch.save(_wrapped(checkpoint, wrap), path)
    call(
        eval_ood,
        "--root",
        f"{world}/data",
        "--model-dir",
        tmp_path / "run",
        "--output-dir",
        tmp_path / "out",
    )
    assert (tmp_path / "out/results.json").exists()


class _Trainer:
    """As much of a trainer as the check of its images reads."""

    def __init__(self, **given):
        self.cfg = get_cfg_default()
        self.cfg.INPUT.update(
            {"SIZE": (64, 64), "INTERPOLATION": "bicubic", "RESIZE_MODE": "shortest"}
            | {"TRANSFORMS": ("normalize",), **given}
        )


def _file(generated_weights, path):
    import clip

    torch.save(generated_weights("tiny-vit"), path)
    return clip.load(str(path), activation="quick_gelu")[0]


def test_the_config_says_what_a_file_does_not(generated_weights, tmp_path):
    model = _file(generated_weights, tmp_path / "bare.pt")
    half = [0.5, 0.5, 0.5]
    trainer = _Trainer(PIXEL_MEAN=half, PIXEL_STD=half, RESIZE_MODE="squash")
    ClipTrainer._check_input(trainer, model)
    seen = model.preprocess
    assert seen.mean == seen.std == tuple(half) and seen.resize_mode == "squash"
    with pytest.raises(InputError, match=r"INPUT.SIZE is \(32, 32\)"):
        ClipTrainer._check_input(_Trainer(SIZE=(32, 32)), model)


def test_the_config_wins_over_a_json_beside_a_file(generated_weights, tmp_path, caplog):
    """By --backbone and by key: the JSON's values, unless the user gives others."""
    preprocessor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    path, given = tmp_path / "clip.pt", ["INPUT.PIXEL_MEAN", "[0.1,0.2,0.3]"]
    model = _file(generated_weights, path)
    for words in (["--backbone", path, *given], [*given, "MODEL.BACKBONE.NAME", path]):
        flags = make_parser("").parse_args(["--trainer", "ZeroshotCLIP", *map(str, words)])
        trainer = SimpleNamespace(cfg=build_cfg(flags))
        assert list(trainer.cfg.INPUT.PIXEL_STD) == [0.25] * 3
        ClipTrainer._check_input(trainer, model)
    assert model.preprocess.mean == (0.1, 0.2, 0.3) and model.preprocess.std == (0.25,) * 3
    assert "INPUT.PIXEL_MEAN is" in caplog.text


@pytest.mark.parametrize(
    "given",
    [
        {"RESIZE_MODE": "squash"},
        {"PIXEL_MEAN": [0.5] * 3},
        {"INTERPOLATION": "bilinear"},
        {"TRANSFORMS": ["center_crop"]},
    ],
)
def test_other_images_than_a_known_models_are_refused(given, generated_weights, tmp_path):
    model = _file(generated_weights, tmp_path / "bare.pt")
    model.transform_known = True
    settings = model.preprocess.settings() | given
    (key,) = given
    with pytest.raises(InputError, match=f"INPUT.{key} is"):
        ClipTrainer._check_input(_Trainer(**settings), model)
