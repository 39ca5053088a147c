"""Folders of runs: how they are called, what is left of a refused run, which of them is meant."""

from __future__ import annotations

import shutil

import pytest
import yaml

import eval_ood
import train
from dassl.engine import TRAINER_REGISTRY
from run.config import build_cfg
from run.flags import make_parser
from tests.worlds import flags


def folder(*words: str, trains: bool = True) -> str:
    parser = make_parser("")
    parser.set_defaults(trains=trains)
    return build_cfg(parser.parse_args(list(words))).OUTPUT_DIR


@pytest.mark.parametrize(
    "words, expected",
    [
        ("", "vit_b16_ep50_-1shots"),
        ("--shots 16 OPTIM.LR 0.1 TRAINER.LOCOOP.TOPK 9", "vit_b16_ep50_16shots"),
        ("--shots 16 --backbone ViT-B/16 OPTIM.MAX_EPOCH 50", "vit_b16_ep50_16shots"),
        ("--shots 16 --backbone RN50", "rn50_ep50_16shots"),
        ("--shots 16 --config rn50_ep50", "rn50_ep50_16shots"),
        ("--shots 16 OPTIM.MAX_EPOCH 2", "vit_b16_ep2_16shots"),
        ("MODEL.BACKBONE.NAME ViT-L/14@336px", "vit_l14_336px_ep50_-1shots"),
    ],
)
def test_a_folder_is_called_after_what_is_run(words, expected):
    run = folder("--trainer", "LoCoOp", "--dataset", "imagenet", *words.split())
    assert run == f"output/imagenet/LoCoOp/{expected}/nctx16_cscFalse_ctpend/seed1"


def test_a_folder_is_called_after_files_and_pairs(clip_file):
    small = ("--backbone", clip_file("tiny-vit"))
    run = folder("--trainer", "CoOp", "--dataset", "imagenet", *small, "OPTIM.MAX_EPOCH", "2")
    assert "/CoOp/tiny_vit_ep2_-1shots/" in run
    clipn = ("--trainer", "CLIPN", "--dataset", "imagenet")
    assert "/vit_b16_cc3m_-1shots/seed1" in folder(*clipn)
    run = folder(*clipn, "DATASET.PAIRS.SOURCE", "classnames")
    assert "/vit_b_16_laion2b_s34b_b88k_classnames_ep10_-1shots/" in run
    run = folder(*clipn, "DATASET.PAIRS.PATH", "cc12m/{0..9}.tar")
    assert "_b88k_cc12m_ep10_-1shots/" in run
    zero = ("--trainer", "ZeroshotCLIP", "--dataset", "imagenet")
    assert folder(*zero, trains=False) == "output/imagenet/ZeroshotCLIP/vit_b16"
    assert folder(*zero, "--backbone", "RN50", trains=False).endswith("/ZeroshotCLIP/rn50")


@pytest.mark.parametrize(
    "extra",
    [
        ["--root", "nowhere"],
        ["--topk", "9"],
        ["TRAINER.LOCOOP.N_CTX", "0"],
        ["--backbone", "no/file.pt"],
        ["INPUT.SIZE", "(32, 32)"],
        ["--shots", "0"],
    ],
)
def test_a_refused_run_leaves_nothing(world, told, tmp_path, monkeypatch, extra):
    monkeypatch.chdir(tmp_path)
    said = told(train, *flags(world), "--shots", 1, *extra)
    assert not list(tmp_path.iterdir()) and "/output" not in said.replace(str(world), "")
    (tmp_path / "output/mine").mkdir(parents=True)
    told(train, *flags(world), "--shots", 1, "--output-dir", "output/mine/run/seed1", *extra)
    assert [path.name for path in tmp_path.rglob("*")] == ["output", "mine"]


def test_a_refused_evaluation_leaves_nothing(world, told, tmp_path):
    zero = ["--root", "nowhere", "--dataset-config-file", world / "pets.yaml"]
    told(eval_ood, *zero, "--output-dir", tmp_path / "out/zero")
    assert not list(tmp_path.iterdir())


def test_a_finished_run_needs_no_data(world, trained, call, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    call(train, *flags(world), "--root", "gone", "--shots", 2, "--output-dir", tmp_path / "run")
    assert "already finished" in capsys.readouterr().out


def test_the_folder_of_the_run_is_named_where_another_is_given(world, trained, told):
    root = ["--root", f"{world}/data"]
    for inside in ("prompt_learner", "prompt_learner/model.pth.tar-3"):
        said = told(eval_ood, *root, "--model-dir", trained / inside)
        assert f"give --model-dir {trained}," in said
    said = told(eval_ood, *root, "--model-dir", trained.parents[1])
    assert f"holds runs, name one: {trained}" in said
    assert "Give the folder of a trained run" in told(eval_ood, *root, "--model-dir", "nowhere")


def test_runs_of_an_older_version_go_on_and_are_evaluated(world, trained, call, told, tmp_path):
    """Their config.yaml has settings that nothing reads any more, and nodes of all methods."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    content = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    content |= {"VERSION": 1}
    content["MODEL"]["HEAD"] = {"NAME": "", "BN": True}
    content["TRAINER"] |= {"MCD": {"N_STEP_F": 4}}
    content["TRAINER"]["CLIPN"] = dict(TRAINER_REGISTRY.get("CLIPN").CONFIG)
    del content["OPTIM"]["GAMMA"]  # as if it were new
    (run / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (run / "finished.json").unlink()
    again = [*flags(world), "--shots", 2, "--output-dir", run]
    assert "OPTIM.LR was 0.002" in told(train, *again, "OPTIM.LR", 1)
    call(train, *again)
    call(train, "--root", f"{world}/data", "--model-dir", run, "--eval-only")


def test_what_was_left_open_is_said(world, told, capsys, tmp_path):
    told(train, "--trainer", "LoCoOp", "--root", tmp_path)
    said = capsys.readouterr().out
    assert "the generated benchmark of synthetic images" in said and "--shots 16" in said
    told(train, *flags(world), "--root", tmp_path, "--shots", 2)
    assert not capsys.readouterr().out
