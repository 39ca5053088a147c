"""A miniature of OpenOOD's ImageNet-1K in its own layout: lists, groups, the full spectrum."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import eval_ood
import run.check
from ood.metrics import fpr_at_tpr
from results.files import read_scores
from run.settings import read_config_file
from tests.worlds import ROOT, images

pytestmark = pytest.mark.slow  # encodes 1000 class names

BENCHMARK = read_config_file("configs/datasets/openood_imagenet1k.yaml")
LISTS = {  # list -> folder, count; labels of ID sets from 0
    "test_imagenet": ("images_largescale/imagenet_1k/val", 9),
    "test_ssb_hard": ("images_largescale/ssb_hard/n00000001", 4),
    "test_ninco": ("images_largescale/ninco/sloth bear", 3),
    "test_inaturalist": ("images_largescale/inaturalist/images", 5),
    "test_textures": ("images_classic/texture/banded", 3),
    "test_openimage_o": ("images_largescale/openimage_o/images", 4),
    "test_imagenet_v2": ("images_largescale/imagenet_v2/0", 3),
    "test_imagenet_c": ("images_largescale/imagenet_c/fog/5", 4),
    "test_imagenet_r": ("images_largescale/imagenet_r/n01440764", 5),
}
INSIDE = ("ID", "ImageNet-V2", "ImageNet-C", "ImageNet-R")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("openood"), np.random.default_rng(0)
    for name, (folder, count) in LISTS.items():
        images(root / folder.replace(" ", "_"), count, rng)
        below = folder.replace(" ", "_").partition("/")[2]
        labels = range(count) if "imagenet" in name else [-1] * count
        lines = [f"{below}/{i}.jpg {label}\n" for i, label in enumerate(labels)]
        (root / "benchmark_imglist/imagenet").mkdir(parents=True, exist_ok=True)
        (root / f"benchmark_imglist/imagenet/{name}.txt").write_text("".join(lines))
    return root


@pytest.fixture
def evaluated(data, call, clip_file, tmp_path, caplog):
    """What is said, results.json and the scores of every set."""
    call(
        eval_ood,
        *("--root", data, "--trainer", "ZeroshotCLIP", "--dataset", "openood_imagenet1k"),
        *("--backbone", clip_file("tiny-vit"), "--scores", "MCM", "--output-dir", tmp_path / "out"),
        *("INPUT.SIZE", "(64, 64)", "DATALOADER.NUM_WORKERS", "0"),
    )
    results = json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))
    scores = {name: read_scores(tmp_path / f"out/scores/{name}.csv") for name in results["images"]}
    return caplog.text, results, scores


def test_the_tables(evaluated):
    printed, results, scores = evaluated
    sets = list(BENCHMARK["OOD"]["SETS"])
    near, far = ["SSB-hard", "NINCO"], ["iNaturalist", "Textures", "OpenImage-O"]
    assert results["means"] == {"average": sets, "average near": near, "average far": far}
    assert list(results["images"]) == ["ID", *sets, *INSIDE[1:]]
    assert results["primary"] == "fpr95_ood_first"
    union = np.concatenate([scores[name].scores["MCM"] for name in INSIDE])
    full = results["full_spectrum"]
    assert full["sets"] == list(INSIDE)
    for name in sets:
        outside = scores[name].scores["MCM"]
        for inside, figures in (
            (scores["ID"].scores["MCM"], results["figures"]),
            (union, full["figures"]),
        ):
            row = figures["MCM"][name]
            expected = fpr_at_tpr(inside, outside, positive="ood", rule="first")
            assert row["fpr95_ood_first"] == expected
            assert (row["n_id"], row["n_ood"]) == (len(inside), len(outside))
            assert re.search(rf"{name} +{len(outside)} +{100 * expected:.2f} ", printed)
    rows = full["figures"]["MCM"]
    for mean, own in results["means"].items():
        assert rows[mean]["auroc"] == pytest.approx(np.mean([rows[name]["auroc"] for name in own]))
    right = np.concatenate([scores[n].labels == scores[n].predictions for n in INSIDE])
    assert full["accuracy"] == np.mean(right) and len(right) == 9 + 3 + 4 + 5
    assert f"Accuracy on all of them: {100 * np.mean(right):.2f} % of 21" in printed
    warned = printed.count("MD5"), printed.count("where the protocol has")
    assert warned == (9, 9)  # every list is shorter than the real one


def test_the_check(data, call, capsys):
    with pytest.raises(SystemExit) as exit_:
        call(run.check, "--root", data, "--dataset", "openood_imagenet1k")
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"NINCO +benchmark_imglist/imagenet/test_ninco.txt +1 +3 +5,879 +count, check", printed
    )
    assert re.search(r"ID test +benchmark_imglist/\S+ +9 +9 +45,000 ", printed)
    assert "ImageNet-ES" not in printed  # not of the paper's three
    assert "evaluation: can go ahead" in printed and "training: cannot go ahead" in printed


def test_a_benchmark_has_the_trainer_settings_of_its_base(call, told, tmp_path):
    """A preset of LoCoOp for ten classes, of configs/trainers/LoCoOp/imagenet10.yaml."""
    message = told(
        eval_ood,
        *("--root", tmp_path, "--trainer", "LoCoOp", "--dataset", "imagenet10_imagenet20"),
        *("TRAINER.LOCOOP.TOPK", "x"),
    )
    assert "TOPK" in message and (ROOT / "configs/trainers/LoCoOp/imagenet10.yaml").exists()
