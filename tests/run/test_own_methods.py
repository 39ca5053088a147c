"""Methods that compute image features, or inputs of scores, in their own way."""

from __future__ import annotations

import json

import pytest
import torch

import eval_ood
import visualize
from clip.prompted import PromptedCLIP
from dassl.engine import TRAINER_REGISTRY
from detector import Detector
from ood.registry import Score
from ood.scores import SCORES
from trainers.zsclip import ZeroshotCLIP


class Mirrored(PromptedCLIP):
    """Its image features are those of the mirrored image."""

    def image_features(self, images, local):
        return super().image_features(images.flip(-1), local)


class Colder(PromptedCLIP):
    """Its inputs of scores are others, its image features CLIP's."""

    def inputs(self, *args, **options):
        return {name: x / 2 for name, x in super().inputs(*args, **options).items()}


def mirror(model):
    model.__class__ = Mirrored


def hook(model):
    model.clip.visual.conv1.register_forward_pre_hook(lambda _, inputs: (inputs[0].flip(-1),))


def tune(model):
    model.clip.visual.ln_post.weight.requires_grad_(True)
    torch.nn.init.normal_(model.clip.visual.ln_post.weight, generator=torch.Generator())


def recompute(model):
    model.__class__ = Colder


@pytest.fixture
def flags(world, clip_file):
    named = ["--root", f"{world}/data", "--dataset-config-file", f"{world}/pets.yaml"]
    opts = ["INPUT.SIZE", "(64, 64)", "DATALOADER.NUM_WORKERS", "0"]
    return [*named, "--backbone", clip_file("tiny-vit"), *opts]


@pytest.fixture
def evaluate(flags, call, tmp_path, monkeypatch):
    """Return a function that evaluates CLIP changed by `change`; it returns the figures."""

    def run(folder, features, change=None, scores="MCM", *more):
        class Changed(ZeroshotCLIP):
            def build_model(self):
                super().build_model()
                if change:
                    change(self.model)

        Changed.__name__ = "ZeroshotCLIP"
        monkeypatch.setitem(TRAINER_REGISTRY._objects, "ZeroshotCLIP", Changed)
        out = ["--output-dir", tmp_path / folder]
        call(eval_ood, "--scores", scores, "--features", features, *out, *more, *flags)
        return json.loads((tmp_path / folder / "results.json").read_text())["figures"]

    return run


@pytest.mark.slow  # plots
@pytest.mark.parametrize("change", [mirror, hook, tune, recompute])
def test_they_share_no_features_and_have_no_detector(
    evaluate, told, world, flags, caplog, tmp_path, change
):
    plain = evaluate("plain", "none")
    alone = evaluate("alone", "none", change)
    assert evaluate("first", tmp_path / "kept") == plain != alone
    assert evaluate("second", tmp_path / "kept") == plain
    assert evaluate("third", tmp_path / "kept", change) == alone
    assert (tmp_path / "plain/detector.json").exists()
    assert not (tmp_path / "alone/detector.json").exists()
    assert "No detector is written: ZeroshotCLIP computes" in caplog.text
    (tmp_path / "alone/detector.json").touch()  # of an earlier evaluation
    assert evaluate("alone", "none", change) == alone
    assert not (tmp_path / "alone/detector.json").exists()
    image = next((world / "data/pets").rglob("*.jpg"))
    said = told(visualize, "--trainer", "ZeroshotCLIP", "--image", image, "--label", "cat", *flags)
    assert "no detector can stand for ZeroshotCLIP" in said


class Doubled(PromptedCLIP):
    """Its class texts are also others by the name `own`, as if they were learned."""

    @property
    def provides(self):
        return super().provides | {"own_cosines"}

    def class_features(self):
        return super().class_features() | {"own": self.text_features().flip(0)[:2]}


def describe(model):
    model.texts["own"] = model.text_features().flip(0)[:2]


def double(model):
    model.__class__ = Doubled


@pytest.mark.slow  # plots
@pytest.mark.parametrize("change", [describe, double])
def test_texts_of_its_own_are_inputs_of_scores_beside_words(
    evaluate, world, tmp_path, monkeypatch, change
):
    """Also in the detector, and of an evaluation without words after one with them."""
    own = Score("Own", ("own_cosines",), lambda own_cosines: own_cosines.amax(dim=-1), {})
    monkeypatch.setitem(SCORES, "Own", own)
    (tmp_path / "words").mkdir()
    (tmp_path / "words/noun.a.txt").write_text("oak\nelm\nfog\nice\n", encoding="utf-8")

    words = ["--negatives", tmp_path / "words", "--negatives-share", "0.5"]
    figures = evaluate("words", tmp_path / "kept", change, "Own,NegLabel", *words)
    assert list(figures) == ["Own", "NegLabel"]
    assert evaluate("plain", tmp_path / "kept", change, "Own") == {"Own": figures["Own"]}
    image = next((world / "data/pets").rglob("*.jpg"))
    verdicts = [Detector.load(tmp_path / name, "Own")(image) for name in ("words", "plain")]
    assert verdicts[0].score == verdicts[1].score
