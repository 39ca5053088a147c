"""Words that are not classes, from the command to the tables, the record and the detector."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import detect
import eval_ood
from clip import resolve_precision
from dassl.config import get_cfg_default
from detector import Detector
from ood.negatives import Words
from results.files import read_scores
from results.runs import load_groups
from run import negatives

pytestmark = pytest.mark.slow  # evaluates

NOUNS = [f"{first} {second}" for first in ("oak", "iron", "sea") for second in "abcdefghij"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    (folder / "noun.thing.txt").write_text("\n".join([*NOUNS, "scenes"]) + "\n", encoding="utf-8")
    (folder / "adj.all.txt").write_text("\n".join(f"{a}ish" for a in "abcdefghijklmn") + "\n")
    (folder / "outliers.txt").write_text("storm\npine cone\n")
    return folder


@pytest.fixture
def evaluate(world, call, clip_file):
    def run(output, *extra) -> dict:
        data = ["--root", f"{world}/data", "--dataset-config-file", f"{world}/pets.yaml"]
        fit = ["--backbone", clip_file("tiny-vit"), "INPUT.SIZE", "(64, 64)"]
        call(eval_ood, *data, "--output-dir", output, *extra, *fit, "DATALOADER.NUM_WORKERS", "0")
        return json.loads((output / "results.json").read_text(encoding="utf-8"))

    return run


def test_zero_shot_with_words(world, words, evaluate, tmp_path, capsys):
    flags = ["--negatives", words, "--outliers", words / "outliers.txt"]
    flags += ["--negatives-share", "0.5", "--scores"]
    results = evaluate(tmp_path, *flags, "MCM,NegLabel,CSP,EOE")
    assert list(results["figures"]) == ["MCM", "NegLabel", "CSP", "EOE"]
    scores = results["provenance"]["comparable"]["scores"]
    assert scores["MCM"] == {"temperature": 1.0}
    assert scores["NegLabel"]["negatives"] == 22 and scores["NegLabel"]["share"] == 0.5
    assert scores["EOE"]["outliers"] == 2 and scores["CSP"]["words"] == scores["NegLabel"]["words"]
    with open(tmp_path / "negatives.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == [str(i + 1) for _ in range(2) for i in range(22)]
    assert rows[0]["prompt"] == f"the nice {rows[0]['word']}"
    assert rows[0]["file"] == "noun.thing.txt" and {row["group"] for row in rows} == {"0"}
    nouns = [float(row["similarity"]) for row in rows[:15]]
    assert nouns == sorted(nouns) and rows[15]["prompt"] == f"This is a {rows[15]['word']} photo"
    out = capsys.readouterr().out
    assert "NegLabel: 22 negatives of 45 words, 15 nouns and 7 adjectives" in out
    assert ("1 negative of Scenes's 1 folder names: scenes" in out) == (
        "scenes" in {row["word"] for row in rows}
    )
    again = evaluate(tmp_path / "more", *flags, "NegLabel")
    assert again["provenance"]["features_read"] == ["ID", "Scenes", "Dots"]
    one, two = (read_scores(f / "scores/ID.csv") for f in (tmp_path, tmp_path / "more"))
    assert np.array_equal(one.scores["NegLabel"], two.scores["NegLabel"])
    groups, _ = load_groups([tmp_path], "NegLabel")  # what tables, comparison and report read
    assert all(list(run.figures) == ["NegLabel"] for runs in groups.values() for run in runs)


def test_negatives_travel_with_the_detector(world, words, evaluate, told, tmp_path):
    evaluate(tmp_path, "--negatives", words, "--scores", "MCM,NegLabel")
    features = load_file(tmp_path / "detector.safetensors")
    assert len(features["neglabel"]) == 4 and len(features["neglabel_negatives"]) == 6
    detector = Detector.load(tmp_path, "NegLabel")
    scored = read_scores(tmp_path / "scores/ID.csv")
    image = world / "data" / scored.images[0]
    verdict = detector(image)
    assert verdict.score == pytest.approx(scored.scores["NegLabel"][0], rel=1e-5)
    assert verdict.verdict in ("ID", "OOD")
    message = told(detect, "--model-dir", tmp_path, "--negatives", words, image)
    assert "--negatives has no effect with the detector saved as" in message


def test_a_learned_context_keeps_its_class_texts(world, trained, words, call, tmp_path):
    run = ["--model-dir", trained, "--output-dir", tmp_path, "--root", f"{world}/data"]
    call(eval_ood, *run, "--negatives", words, "--scores", "MCM,NegLabel")
    features = load_file(tmp_path / "detector.safetensors")
    assert features["neglabel"].equal(features["text"])
    zero = load_file(tmp_path / "detector.safetensors")["neglabel_negatives"]
    assert len(zero) == 6


def test_classes_and_negatives_by_detect(world, words, call, told, clip_file, tmp_path, capsys):
    image = world / "data/pets/val/cat/0.jpg"
    zero = ["--classes", "cat,tea pot", "--backbone", clip_file("tiny-vit")]
    given = [*zero, "--negatives", words]
    call(detect, *given, "--calibrate", world / "data/pets/val", "--save", tmp_path, image)
    assert "ID at NegLabel >= " in capsys.readouterr().err
    call(detect, "--model-dir", tmp_path, image)
    assert "ID at NegLabel >= " in capsys.readouterr().err
    call(detect, *zero, "--outliers", words / "outliers.txt", image)
    assert "No verdict: EOE has no threshold yet" in capsys.readouterr().err
    call(detect, *given, "--score", "CSP", image)
    assert "No verdict: CSP has no threshold yet" in capsys.readouterr().err
    assert "CSP needs --negatives" in told(detect, *zero, "--score", "CSP", image)


def test_a_run_that_was_not_evaluated_takes_words(world, trained, words, call, tmp_path, capsys):
    image = world / "data/pets/val/cat/0.jpg"
    if (trained / "detector.json").exists():
        pytest.skip("another test has evaluated it")
    run = ["--model-dir", trained, "--root", f"{world}/data"]
    for extra, score in (((), "NegLabel"), (("--score", "CSP"), "CSP")):
        call(detect, *run, "--negatives", words, *extra, image)
        assert f"No verdict: {score} has no threshold yet" in capsys.readouterr().err
    call(detect, *run, "--outliers", words / "outliers.txt", image)
    assert "No verdict: EOE has no threshold yet" in capsys.readouterr().err


@pytest.fixture
def switches():
    """PyTorch's switches for TF32, which are put back."""
    found = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in found]
    yield found
    for switch, value in zip(found, before, strict=True):
        switch.allow_tf32 = value


def test_a_run_keeps_its_switches_for_tf32(monkeypatch, switches):
    """Words are encoded in float32, and images after them in the run's own precision."""
    found = []

    def find_words(*_):
        found.extend(switch.allow_tf32 for switch in switches)
        return Words({}, [], {})

    monkeypatch.setattr(negatives, "load", lambda *_: [resolve_precision("fp32", "cuda")])
    monkeypatch.setattr(negatives, "find_words", find_words)
    cfg = get_cfg_default()
    cfg.EVAL.NEGATIVES = "wordnet"
    trainer = SimpleNamespace(
        cfg=cfg,
        model=SimpleNamespace(clip=None, captioner=None, learns_texts=False, texts={}),
        device=torch.device("cuda"),
        precision=resolve_precision("tf32", "cuda"),
        dm=SimpleNamespace(dataset=SimpleNamespace(classnames=["cat"])),
    )
    negatives.add_words(trainer, "NegLabel")
    assert found == [False, False] and all(switch.allow_tf32 for switch in switches)
    with negatives.text_model(trainer):  # as streams read it
        assert not any(switch.allow_tf32 for switch in switches)
    assert all(switch.allow_tf32 for switch in switches)


def test_texts_of_the_model_stay_and_words_of_an_earlier_evaluation_go(monkeypatch):
    own, word = torch.ones(2, 4), torch.zeros(3, 4)
    trainer = SimpleNamespace(
        cfg=get_cfg_default(),
        model=SimpleNamespace(clip=None, captioner=None, learns_texts=False, texts={"zs": own}),
        dm=SimpleNamespace(dataset=SimpleNamespace(classnames=["cat"])),
    )
    for names in (["neglabel", "neglabel_negatives"], ["eoe", "eoe_outliers"], []):
        words = Words(dict.fromkeys(names, word), [], {})
        monkeypatch.setattr(negatives, "find_words", lambda *_, words=words: words)
        negatives.add_words(trainer, "MCM")
        assert trainer.model.texts == {"zs": own, **words.texts}


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--scores", "NegLabel"], "no words that are not classes: NegLabel needs --negatives"),
        (["--scores", "EOE"], "no outlier names: EOE needs --outliers FILE"),
        (["--scores", "NegLabel", "--negatives", "nowhere"], "--negatives nowhere: there is no"),
        (["--scores", "EOE", "--outliers", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["--scores", "NegLabel", "--negatives", "wordnet", "--negatives-share", "2"], "share"),
    ],
)
def test_words_that_are_not_there(world, told, clip_file, tmp_path, extra, message):
    flags = ["--root", f"{world}/data", "--dataset-config-file", f"{world}/pets.yaml", *extra]
    fit = ["--backbone", clip_file("tiny-vit"), "INPUT.SIZE", "(64, 64)"]
    said = told(eval_ood, *flags, "--output-dir", tmp_path / "out", *fit)
    assert message in " ".join(said.split())
    assert not (tmp_path / "out").exists()
