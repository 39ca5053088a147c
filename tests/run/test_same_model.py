"""Figures and detectors on record are those of the model that they seem to be."""

from __future__ import annotations

import json
import shutil

import pytest

import eval_ood
import train
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import InputError
from results.runs import load_groups
from run.config import build_cfg
from run.flags import make_parser
from run.folder import MARKER, SPLIT, RunState, open_run, training_ended
from tests.run.test_sweep import stopped_at
from tests.worlds import flags

TRAINERS = ("LoCoOp", "CLIPN", "ZOC")


@pytest.fixture(params=TRAINERS)
def run(request, tmp_path):
    """Write the config of a run of each trainer; return its folder and its trainer's class."""
    words = ["--trainer", request.param, "--dataset", "imagenet", "--output-dir", str(tmp_path)]
    open_run(build_cfg(make_parser("").parse_args([*words, "--shots", "4"])))
    return tmp_path, TRAINER_REGISTRY.get(request.param)


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--seed", "7"], "SEED was 1, is 7"),
        (["--shots", "1"], "DATASET.NUM_SHOTS was 4, is 1"),
        (["OPTIM.MAX_EPOCH", "99"], "OPTIM.MAX_EPOCH was"),
        (["INPUT.RRCROP_SCALE", "(0.5, 1.0)"], "INPUT.RRCROP_SCALE was"),
        (["DATALOADER.TRAIN_X.BATCH_SIZE", "7"], "DATALOADER.TRAIN_X.BATCH_SIZE was"),
        (["DATASET.PAIRS.PATH", "other.csv"], "DATASET.PAIRS.PATH was"),
        (["TEST.FINAL_MODEL", "best_val"], "TEST.FINAL_MODEL was"),
    ],
)
def test_an_evaluation_keeps_the_settings_of_the_training(run, words, reason):
    with pytest.raises(InputError, match=f"{reason}.* leave them out"):
        build_cfg(eval_ood.parse_args(["--model-dir", str(run[0]), *words]))


def test_an_evaluation_chooses_its_own_settings(run):
    """Other data, whose YAML may be of another CLIP's images; other scores, to whose fit --shots
    may belong; the precision; and what a method reads only there."""
    folder, trainer_class = run
    node = f"TRAINER.{trainer_class.CONFIG_KEY}"
    words = ["--dataset", "generated", "--root", "elsewhere", "--T", "2", "--seed", "1"]
    words += ["--scores", "MCM,pytorch-ood:KNN", "--shots", "1", f"{node}.PREC", "fp32"]
    words += ["DATALOADER.NUM_WORKERS", "0", "MODEL.BACKBONE.NAME", "moved.pt"]
    for key in trainer_class.MAY_DIFFER:
        words += [f"{node}.{key}", "7" if isinstance(trainer_class.CONFIG[key], int) else "a {}"]
    cfg = build_cfg(eval_ood.parse_args(["--model-dir", str(folder), *words]))
    assert cfg.INPUT.SIZE == (224, 224) and cfg.DATASET.NUM_SHOTS == 1


@pytest.mark.parametrize("dataset", ["imagenet", "generated", "cifar10", "dtd"])
def test_a_run_on_lists_is_evaluated_on_any_set(tmp_path, dataset):
    words = ["--trainer", "CoOp", "--dataset", "caltech101", "--output-dir", str(tmp_path)]
    open_run(build_cfg(make_parser("").parse_args(words)))
    words = ["--model-dir", str(tmp_path), "--dataset", dataset, "--root", "data"]
    cfg = build_cfg(eval_ood.parse_args(words))
    assert bool(cfg.DATASET.SPLIT_FILE) is (cfg.DATASET.NAME == "ImageList")


@pytest.mark.parametrize(
    "words, notes",
    [
        ([], []),
        (["--dataset", "generated"], ["CLASSES is kept: kite,duck", "is kept: base"]),
        (["--dataset", "imagefolder"], ["is kept: kite,duck", "is kept: base"]),  # names no folder
        (["--dataset", "imagenet"], ["imagenet.yaml is another data set: kite,duck", "set: base"]),
        (["--dataset", "imagenet10"], ["imagenet10.yaml is another data set: base"]),
        (["--id-data", "."], ["as --id-data is another data set: kite,duck", "set: base"]),
    ],
)
def test_another_data_set_is_the_one_that_was_named(tmp_path, caplog, words, notes):
    """Of the run's set only the training's settings stay, and its choice of classes is named."""
    run = ["--trainer", "CoOp", "--dataset", "generated", "--shots", "4", "--root", "here"]
    args = make_parser("").parse_args([*run, "--output-dir", str(tmp_path)])
    args.opts = [("DATASET.CLASSES", "kite,duck"), ("DATASET.SUBSAMPLE_CLASSES", "base")]
    open_run(build_cfg(args))
    cfg = build_cfg(eval_ood.parse_args(["--model-dir", str(tmp_path), *words]))
    assert len(caplog.records) == len(notes)
    assert all(n in r.getMessage() for n, r in zip(notes, caplog.records, strict=True))
    if not words or "is kept" in caplog.text:
        assert cfg.DATASET.CLASSES == "kite,duck" and cfg.DATASET.SUBSAMPLE_CLASSES == "base"
        assert cfg.DATASET.FOLDER == "generated" and cfg.EVAL.NEGATIVES == "generated/words"
    else:
        fresh = build_cfg(make_parser("").parse_args([*run[:2], *words, *run[4:]]))
        assert cfg.DATASET == {**fresh.DATASET, "ROOT": "here"}
        assert cfg.EVAL == fresh.EVAL and cfg.INPUT.SIZE == (96, 96)


def test_classes_stay_among_imagenet_and_its_variants(tmp_path, caplog):
    words = ["--trainer", "CoOp", "--dataset", "imagenet100", "--output-dir", str(tmp_path)]
    args = make_parser("").parse_args(words)
    args.opts = [("EVAL.NEGATIVES", "wordnet")]
    trained = open_run(build_cfg(args)) and build_cfg(args).DATASET
    words = ["--model-dir", str(tmp_path), "--dataset", "imagenet_sketch"]
    cfg = build_cfg(eval_ood.parse_args(words))
    assert cfg.DATASET.NAME == "ShiftedImageNet" and cfg.DATASET.FOLDER != trained.FOLDER
    assert cfg.DATASET.CLASSES == trained.CLASSES and "CLASSES is kept" in caplog.text
    assert cfg.EVAL.NEGATIVES == "wordnet"


def test_checkpoints_without_a_config_are_resumed_only_if_named(tmp_path):
    def opened(*more):
        words = ["--trainer", "CoOp", "--dataset", "imagenet", "--output-dir", str(tmp_path)]
        args = make_parser("").parse_args(words)
        args.resume = "".join(more)
        return open_run(build_cfg(args))

    for name in (MARKER, SPLIT):  # of a run whose checkpoints were removed
        (tmp_path / name).write_text("{}")
    assert opened() is RunState.NEW
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    (tmp_path / "prompt_learner").mkdir()
    (tmp_path / "prompt_learner/checkpoint").write_text("model.pth.tar-1\n")
    assert opened() is RunState.STARTED
    (tmp_path / "config.yaml").unlink()
    for other in ("", "elsewhere"):
        with pytest.raises(InputError, match=r"no config.yaml .* --resume"):
            opened(other)
    assert opened(str(tmp_path)) is RunState.NEW


def test_a_training_has_ended_if_its_marker_or_its_last_checkpoint_says_so(tmp_path):
    (tmp_path / "prompt_learner").mkdir()
    (tmp_path / "prompt_learner/model-best.pth.tar").touch()
    assert not training_ended(tmp_path, 5)
    for path in (tmp_path / "prompt_learner/model.pth.tar-5", tmp_path / MARKER):
        path.touch()
        assert training_ended(tmp_path, 5)
        path.unlink()


@pytest.mark.slow
def test_an_evaluation_amid_the_training(world, call, told, tmp_path, caplog, monkeypatch):
    """It is set apart, and removed when the training goes on; that needs the same images."""
    root, run = shutil.copytree(world / "data", tmp_path / "data"), tmp_path / "run"
    command = [*flags(world), "--root", root, "--shots", 2, "--output-dir", run]
    evaluation = ["--root", root, "--model-dir", run, "--scores", "MCM"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
        stopped_at(2, patch)
        call(train, *command)
    call(eval_ood, *evaluation)
    assert f"{run} is evaluated at epoch 2 of 3" in caplog.text
    ((runs,), (note,)) = (list(x) for x in (load_groups([run])[0].values(), load_groups([run])[1]))
    assert runs[0].provenance["epoch"] == 2 and "evaluated at epoch 2 of 3" in note

    for place in root.glob("pets/train/*"):
        for image in [*place.iterdir()]:
            shutil.copy(image, place / f"0{image.name}")
    message = told(train, *command)
    assert "lists the 8 images" in message and "Restore the data" in message
    assert (run / "results.json").exists()
    for copy in root.glob("pets/train/*/0?.jpg"):
        copy.unlink()
    call(train, *command)
    assert not [path.name for path in run.iterdir() if path.name.startswith(("results", "detec"))]
    call(eval_ood, *evaluation)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert results["provenance"]["epoch"] == 3 and not load_groups([run])[1]
    call(train, *command)  # finished: nothing is trained
    assert (run / "results.json").exists()
