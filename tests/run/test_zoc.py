"""ZOC from its training to the detector, by the commands a user types."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

import detect
import eval_ood
import train
from clip import load
from clip.templates import classifier
from detector import Detector
from results.files import read_scores
from tests.worlds import CLASSES, ROOT, clip_of_few_words, flags, images, write

pytestmark = pytest.mark.slow  # trains

CAPTIONS = ("a cat on grass", "a dog", "two tea pots by a tree", "a crane by the sea")


@pytest.fixture(scope="module")
def captioned(world, clip_file, tmp_path_factory):
    """The world with pairs, one image of them damaged, and a CLIP that knows their words alone."""
    folder = tmp_path_factory.mktemp("captioned")
    clip_of_few_words(clip_file("tiny-vit"), CAPTIONS, folder / "few.safetensors")
    images(folder / "web", 5, np.random.default_rng(5))
    (folder / "web/4.jpg").write_bytes(b"no image")
    rows = "".join(f"web/{i}.jpg,{CAPTIONS[i % 4]}\n" for i in range(5))
    (folder / "pairs.csv").write_text(f"path,caption\n{rows}", encoding="utf-8")
    pairs = {"PATH": str(folder / "pairs.csv")}
    content = {
        "_BASE_": str(ROOT / "configs/trainers/ZOC/generated.yaml"),
        "DATASET": {"PAIRS": pairs},
        "INPUT": {"SIZE": [64, 64]},
        "DATALOADER": {"TRAIN_X": {"BATCH_SIZE": 2}},
        "OPTIM": {"MAX_EPOCH": 2},
        "MODEL": {"BACKBONE": {"NAME": str(folder / "few.safetensors")}},
        "TRAINER": {"ZOC": {"STEPS": 3, "TOP": 4}},
    }
    write(folder / "run.yaml", content)
    return folder


def zoc(world, captioned, features):
    own = flags(world, "ZOC")
    own[own.index("--config-file") + 1] = str(captioned / "run.yaml")
    return [*own, "EVAL.FEATURES", str(features)]


def test_zoc_from_training_to_the_detector(world, captioned, call, tmp_path, capsys):
    run, features = tmp_path / "run", tmp_path / "features"
    call(train, *zoc(world, captioned, features), "--seed", "1", "--output-dir", run)
    out = capsys.readouterr().out
    assert "epoch [2/2] batch [2/2]" in out and "web/4.jpg (no readable image)" in out
    assert len(list(features.glob("*/pairs-*/global.f32"))) == 1  # the images were encoded once
    call(eval_ood, "--root", f"{world}/data", "--model-dir", run)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert "ZOC" in results["figures"] and "CTW" not in results["figures"]
    comparable = results["provenance"]["comparable"]
    assert comparable["settings"]["TOP"] == 4 and comparable["training"]["pairs"]["SOURCE"] == "csv"
    assert len(results["provenance"]["decoder"]["hash"]) > 8
    scored = read_scores(run / "scores/ID.csv")
    detector = Detector.load(run)
    assert detector.spec.score == "ZOC"
    for image, value in zip(scored.images[:3], scored.scores["ZOC"], strict=False):
        verdict = detector(world / "data" / image)
        assert verdict.score == pytest.approx(value, rel=1e-4, abs=1e-3)
        assert verdict.verdict in ("ID", "OOD")
    kept, (model, _) = load_file(run / "detector.safetensors"), load(captioned / "few.safetensors")
    assert kept["captioner.rule"].tolist() == [3, 4]  # STEPS, TOP
    classes = classifier(model, sorted(CLASSES), ["This is a photo of a {}"])
    assert_close(kept["text"], classes, rtol=1e-4, atol=1e-5)
    candidate = classifier(model, ["grass"], ["This is a photo of a {}"])
    assert (kept["captioner.texts"] @ candidate.T).amax() == pytest.approx(1, abs=1e-6)
    call(eval_ood, "--root", f"{world}/data", "--model-dir", run, "--scores", "MCM")
    assert not [name for name in load_file(run / "detector.safetensors") if "captioner" in name]


def test_an_unevaluated_run_and_negatives(world, captioned, call, tmp_path, capsys):
    """The class texts are templates': words bring their own, as for zero-shot CLIP."""
    run = tmp_path / "run"
    call(train, *zoc(world, captioned, tmp_path / "f"), "--output-dir", run, "TEST.NO_TEST", "True")
    image = world / "data/pets/val/cat/0.jpg"
    call(detect, "--model-dir", run, "--root", f"{world}/data", image)
    assert "No verdict: ZOC has no threshold yet" in capsys.readouterr().err
    (tmp_path / "words").mkdir()
    (tmp_path / "words/noun.a.txt").write_text("oak\nelm\nfog\nice\n")
    negatives = ["--negatives", tmp_path / "words", "--negatives-share", "0.5"]
    call(
        eval_ood,
        "--root",
        f"{world}/data",
        "--model-dir",
        run,
        "--scores",
        "NegLabel,ZOC",
        *negatives,
    )
    features = load_file(run / "detector.safetensors")
    assert not features["neglabel"].equal(features["text"])


def test_bad_input_is_told_in_a_sentence(world, captioned, trained, told, tmp_path):
    own = [*zoc(world, captioned, tmp_path / "f"), "--output-dir", tmp_path / "out"]
    cases = (
        (["TRAINER.ZOC.TEMPLATE", "a photo"], "TEMPLATE is 'a photo': it must hold {} once"),
        (["TRAINER.ZOC.STEPS", "0"], "STEPS is 0, it must be at least 1"),
        (["TRAINER.ZOC.TOP", "0"], "TOP is 0, it must be at least 1"),
        (["TRAINER.ZOC.STEPS", "78"], "STEPS is 78: it must be 77 or less"),
        (["DATASET.PAIRS.PATH", "nowhere.csv"], "nowhere.csv"),
        (["DATASET.PAIRS.SOURCE", "folder"], "DATASET.PAIRS.SOURCE"),
        (["DATALOADER.TRAIN_X.BATCH_SIZE", "9"], "fewer than a batch of 9"),
    )
    for extra, words in cases:
        assert words in told(train, *own, *extra)
    run = ["--root", f"{world}/data", "--model-dir", trained, "--output-dir", tmp_path / "o"]
    assert "ZOC is for ZOC, --trainer ZOC" in told(eval_ood, *run, "--scores", "MCM,ZOC")
    image = world / "data/pets/val/cat/0.jpg"
    classes = ["--classes", "cat,dog", "--backbone", captioned / "few.safetensors"]
    assert "writes no captions" in told(detect, *classes, "--score", "ZOC", image)
