"""Detectors of pytorch-ood in an evaluation by eval_ood.py."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import detect
import eval_ood

pytest.importorskip("pytorch_ood")


@pytest.fixture
def zeroshot(world, clip_file, tmp_path):
    """Flags of a zero-shot evaluation with two training images a class."""
    flags = ["--root", f"{world}/data", "--dataset-config-file", f"{world}/pets.yaml"]
    flags += ["--backbone", clip_file("tiny-vit"), "--shots", "2", "--output-dir", tmp_path / "run"]
    return [*flags, "INPUT.SIZE", "(64, 64)", "DATALOADER.NUM_WORKERS", "0"]


def columns(folder) -> dict[str, list[str]]:
    header, *rows = (folder / "scores/Dots.csv").read_text(encoding="utf-8").splitlines()
    values = zip(*(row.split(",") for row in rows), strict=True)
    return dict(zip(header.split(","), map(list, values), strict=True))


def test_shots_of_a_fit_are_not_those_of_the_training(world, trained, call, tmp_path):
    flags = ["--root", f"{world}/data", "--model-dir", trained, "--output-dir", tmp_path]
    call(eval_ood, *flags, "--scores", "pytorch-ood:KNN:k=1", "--shots", "1")
    comparable = json.loads((tmp_path / "results.json").read_text())["provenance"]["comparable"]
    assert comparable["training"]["shots"] == 2
    assert comparable["scores"]["pytorch-ood:KNN:k=1"]["fitted_images"] == 4


@pytest.mark.slow  # plots
def test_an_evaluation_and_its_detector(zeroshot, call, told, tmp_path):
    run, names = tmp_path / "run", ["pytorch-ood:ViM:d=2", "pytorch-ood:KNN:k=3", "pytorch-ood:GEN"]
    call(eval_ood, *zeroshot, "--scores", ",".join(names))
    results = (run / "results.json").read_text(encoding="utf-8")
    found = json.loads(results)
    assert list(found["figures"]) == [*names, "MCM"]
    facts = found["provenance"]["comparable"]["scores"]
    assert facts[names[0]].items() >= {"d": 2, "fitted_images": 8}.items()
    assert facts[names[1]].items() >= {"k": 3, "normalize": True, "fitted_images": 8}.items()
    assert facts[names[2]].items() >= {"gamma": 0.1, "M": None}.items()
    assert (run / "plots/pytorch-ood_KNN_k_3_roc.png").exists()
    before = columns(run)
    assert all(len(set(np.float32(before[name]))) == 5 for name in names)
    # The detector has MCM alone, and says why.
    said = told(detect, "--model-dir", run, "--score", names[0], tmp_path)
    assert f"a detector cannot use {names[0]}" in said and "eval_ood.py --scores" in said
    detector = json.loads((run / "detector.json").read_text(encoding="utf-8"))
    assert list(detector["scores"]) == [detector["score"]] == ["MCM"]
    # Too many neighbours: nothing is lost. Without kept features the scores are the same.
    said = told(eval_ood, *zeroshot, "--scores", "pytorch-ood:KNN")
    assert "pytorch-ood:KNN on 8 training images: k=50 exceeds" in said
    assert (run / "results.json").read_text(encoding="utf-8") == results
    call(eval_ood, *zeroshot, "--features", "none", "--scores", ",".join(names))
    assert columns(run) == before


def test_training_images_are_needed_where_something_is_fitted(zeroshot, call, told, tmp_path):
    shutil.copytree(zeroshot[1], tmp_path / "data")
    shutil.rmtree(tmp_path / "data/pets/train/cat")
    zeroshot[1] = tmp_path / "data"
    message = " ".join(told(eval_ood, *zeroshot, "--scores", "pytorch-ood:ViM").split())
    assert "the data are not ready" in message and "class folders are missing" in message
