"""Training runs by train.py, on a world made on the spot."""

from __future__ import annotations

import json

import pytest
import torch
from yacs.config import CfgNode

import clip
import eval_ood
import train
from dassl.engine import build_trainer
from dassl.utils import load_pretrained_weights
from run import config
from run.flags import make_parser
from tests.dassl.upstream_style_trainer import UpstreamStyle
from tests.worlds import flags, write
from trainers.prompt_learner import PromptLearner

pytestmark = pytest.mark.slow  # trains


def test_training_leaves_dassls_layout(trained):
    files = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert {
        "log.txt",
        "config.yaml",
        "finished.json",
        "split.json",
        "metrics.jsonl",
        "prompt_learner/checkpoint",
        "prompt_learner/model.pth.tar-3",
    } <= files
    assert not any("tmp" in name for name in files)
    content = torch.load(trained / "prompt_learner/model.pth.tar-3", weights_only=True)
    assert {"state_dict", "epoch", "optimizer", "scheduler", "val_result"} <= content.keys()
    assert content["meta"]["activation"] == "quick_gelu"
    log = (trained / "log.txt").read_text(encoding="utf-8")
    assert "epoch [3/3] batch [1/1]" in log and "loss_en" in log
    split = json.loads((trained / "split.json").read_text(encoding="utf-8"))
    assert len(split["train"]) == 8 and split["seed"] == 1


def test_a_log_says_what_matters_and_no_more(trained):
    lines = (trained / "log.txt").read_text(encoding="utf-8").splitlines()
    begun = next(i for i, line in enumerate(lines) if line.startswith("epoch [1/3]"))
    assert begun < 40 and len(lines) < 70
    text = "\n".join(lines)
    assert "LAMBDA 0.25" in text and "torch" in text and "RMSPROP" not in text


def test_same_seed_same_context_other_seed_other(world, trained, call, tmp_path):
    def context(folder):
        path = folder / "prompt_learner/model.pth.tar-3"
        return torch.load(path, weights_only=True)["state_dict"]["ctx"]

    for seed in (1, 0):
        call(
            train, *flags(world), "--shots", 2, "--seed", seed, "--output-dir", tmp_path / str(seed)
        )
    assert torch.equal(context(tmp_path / "1"), context(trained))
    assert not torch.equal(context(tmp_path / "0"), context(trained))


def test_finished_is_not_repeated_and_stopped_goes_on(world, trained, call, capsys, tmp_path):
    arguments = [*flags(world), "--shots", 2, "--seed", 1, "--output-dir"]
    stamp = (trained / "prompt_learner/model.pth.tar-3").stat().st_mtime_ns
    call(train, *arguments, trained)
    said = capsys.readouterr().out
    assert "already finished" in said
    assert said.endswith(f"Evaluate it: bash scripts/eval.sh --model-dir {trained}\n")
    assert (trained / "prompt_learner/model.pth.tar-3").stat().st_mtime_ns == stamp

    # A run stopped after its second epoch: no marker, a checkpoint of epoch 2.
    stopped = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "finish_run", lambda *a, **k: None)
        step = config.TRAINER_REGISTRY.get("LoCoOp").before_epoch

        def die(self):
            if self.epoch == 2:
                raise KeyboardInterrupt
            step(self)

        patch.setattr(config.TRAINER_REGISTRY.get("LoCoOp"), "before_epoch", die)
        with pytest.raises(SystemExit, match="130"):
            call(train, *arguments, stopped)
    assert f"stopped. Kept: {stopped}/prompt_learner/model.pth.tar-2" in capsys.readouterr().err
    # Settings that earlier versions had do not make it another run.
    settings = (stopped / "config.yaml").read_text(encoding="utf-8")
    old = settings.replace("DATALOADER:\n", "DATALOADER:\n  DECODED:\n    GIB: 32.0\n")
    assert old != settings
    (stopped / "config.yaml").write_text(old, encoding="utf-8")
    call(train, *arguments, stopped)
    contexts = [
        torch.load(folder / "prompt_learner/model.pth.tar-3", weights_only=True)["state_dict"][
            "ctx"
        ]
        for folder in (stopped, trained)
    ]
    assert torch.equal(*contexts)


def test_a_trainer_written_for_dassl_is_not_sent_to_an_evaluation(
    world, call, told, capsys, monkeypatch, tmp_path
):
    """It can be trained and tested, but its images cannot be scored."""
    own = {"CONFIG_KEY": "UPSTREAMSTYLE", "CONFIG": CfgNode({"PREC": "fp32"})}
    plain = type("Plain", (UpstreamStyle,), own)
    monkeypatch.setitem(config.TRAINER_REGISTRY._objects, "Plain", plain)
    loader = {"NUM_WORKERS": 0, "TRAIN_X": {"BATCH_SIZE": 2}}
    loop = {"OPTIM": {"MAX_EPOCH": 1}, "DATALOADER": loader}
    write(tmp_path / "plain.yaml", {**loop, "INPUT": {"SIZE": [64, 64]}})
    named = ["--root", f"{world}/data", "--dataset-config-file", f"{world}/pets.yaml"]
    config_file = ["--config-file", tmp_path / "plain.yaml"]
    arguments = [*named, *config_file, "--shots", 1, "--output-dir", tmp_path / "run"]
    for _ in range(2):  # trained, and already finished
        call(train, "--trainer", "Plain", *arguments)
        assert "Evaluate it" not in capsys.readouterr().out
    assert (tmp_path / "run/finished.json").exists()
    assert "Plain is no ClipTrainer" in told(eval_ood, "--model-dir", tmp_path / "run", *named)


def test_another_lambda_in_the_same_folder_is_refused(world, trained, told):
    message = told(
        train,
        *flags(world),
        "--shots",
        2,
        "--seed",
        1,
        "--output-dir",
        trained,
        "--lambda_value",
        0,
    )
    assert "TRAINER.LOCOOP.LAMBDA was 0.25, is 0.0" in message


def test_a_run_that_never_began_may_be_corrected(world, call, told, tmp_path):
    arguments = [*flags(world), "--shots", 1, "--output-dir", tmp_path / "run"]
    assert "between 1 and the number" in told(train, *arguments, "--topk", 9)
    call(train, *arguments, "--topk", 2)
    assert (tmp_path / "run/finished.json").exists()


def test_only_testing(world, trained, call, caplog):
    caplog.set_level("INFO")
    call(train, "--root", f"{world}/data", "--model-dir", trained, "--eval-only")
    assert "* total: 12" in caplog.text
    caplog.clear()
    call(train, *flags(world), "--trainer", "ZeroshotCLIP", "--eval-only")  # as CoOp's scripts do
    assert "* total: 12" in caplog.text


def test_going_on_from_another_folder(world, trained, call, tmp_path):
    call(
        train,
        *flags(world),
        "--shots",
        2,
        "--resume",
        trained,
        "--output-dir",
        tmp_path,
        "OPTIM.MAX_EPOCH",
        4,
    )
    note = (tmp_path / "prompt_learner/checkpoint").read_text(encoding="utf-8")
    assert note.strip() == "model.pth.tar-4"


def test_initial_weights_bring_the_context_and_not_their_class_names(world, trained, clip_file):
    model, _ = clip.load(clip_file("tiny-vit"))
    learner = PromptLearner(["a", "b", "c", "d"], model)  # as many classes as the file has
    own = learner.fixed.clone()
    path = trained / "prompt_learner/model.pth.tar-3"
    load_pretrained_weights(learner, path)
    assert torch.equal(learner.fixed, own)
    assert torch.equal(learner.ctx, torch.load(path, weights_only=True)["state_dict"]["ctx"])


def test_data_root_may_be_at_home(world, call, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(world))
    call(train, *flags(world), "--root", "~/data", "--shots", 1, "--output-dir", tmp_path / "run")
    split = json.loads((tmp_path / "run/split.json").read_text(encoding="utf-8"))
    assert split["train"][0][0].startswith("pets/train/cat/")


@pytest.mark.parametrize(
    "extra, words",
    [
        (["--trainer", "LoCop"], "LoCoOp"),
        (["--dataset", "imagenett", "--dataset-config-file", ""], "Did you mean 'imagenet'?"),
        (["--config", "vit_b16_ep5", "--config-file", ""], "Did you mean 'vit_b16_ep50'?"),
        (["--config-file", "nowhere.yaml"], "nowhere.yaml"),
        (["--config-file", "WORLD/loop.yaml"], "its own _BASE_"),
        (["--topk", "5"], "between 1 and the number of classes"),
        (["--topk", "many"], "TRAINER.LOCOOP.TOPK"),
        (["--root", "nowhere"], "nowhere"),
        (["--backbone", "ViT-B/15"], "Nearest name: 'ViT-B/16'"),
        (["--backbone", "no/file.pt"], "neither a file nor a name"),
        (["--seed", "4294967296"], "SEED is 4294967296, it must lie between -1 and 4294967295"),
        (["--lambda_value", "-1"], "0 or more"),
        (["OPTIM.LR", "-1"], "OPTIM.LR is -1"),
        (["OPTIM.MAX_EPOCH", "0"], "at least 1"),
        (["DATALOADER.TRAIN_X.BATCH_SIZE", "0"], "at least 1"),
        (["TRAINER.LOCOOP.N_CTX", "0"], "context vectors must be 1 or more"),
        (["--output-dir", "/dev/null/run"], "/dev/null"),
        (["OPTIM.LRR", "0.1"], "Did you mean 'OPTIM.LR'?"),
        (["OPTIM.LR", "fast"], "OPTIM.LR"),
        (["OPTIM.MAX_EPOCH"], "pairs of KEY VALUE"),
        (["INPUT.PIXEL_STD", "(0, 0, 0)"], "INPUT.PIXEL_STD (0, 0, 0): pixels are divided by it"),
        (["INPUT.PIXEL_MEAN", "(0.5, 0.5)"], "a number for each of the three channels"),
        (["TEST.SPLIT", "train"], "Unknown TEST.SPLIT 'train'"),
        (["--trainer", "CoOp", "--resume", "TRAINED"], "is of LoCoOp, not CoOp"),
        (["INPUT.SIZE", "(32, 32)"], "INPUT.SIZE is (32, 32), not (64, 64)"),
        (["TRAINER.LOCOOP.PREC", "fp8"], "fp32, tf32, amp, amp_bf16, fp16"),
        (["TRAINER.LOCOOP.CLASS_TOKEN_POSITION", "back"], "end, middle, front"),
        (["--shots", "0"], "NUM_SHOTS"),
    ],
)
def test_bad_training_input_is_told_in_a_sentence(world, trained, told, tmp_path, extra, words):
    places = {"TRAINED": str(trained)}
    extra = [places.get(word, word.replace("WORLD", str(world))) for word in extra]
    message = told(train, *flags(world), "--shots", 1, "--output-dir", tmp_path / "run", *extra)
    assert words in message
    assert not (tmp_path / "run" / "prompt_learner").exists()


def test_a_full_disk_leaves_no_half_written_checkpoint(world, told, tmp_path, monkeypatch):
    import errno

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    message = told(train, *flags(world), "--shots", 1, "--output-dir", tmp_path / "run")
    assert "space" in message.lower()
    assert not list((tmp_path / "run/prompt_learner").glob("*"))
    assert not (tmp_path / "run/finished.json").exists()


def test_a_trainer_without_images_describes_the_classes_all_the_same(world, trained):
    """What a verdict needs of a checkpoint, without the data set it was trained on."""

    def features(root, **options):
        args = make_parser("").parse_args(["--root", str(root), "--model-dir", str(trained)])
        args.opts = [("DATASET.CLASSES", "cat,crane")]
        trainer = build_trainer(config.build_cfg(args), **options)
        trainer.load_model(trained)
        return trainer.class_features()["text"]

    assert torch.equal(features(world / "nowhere", images=False), features(world / "data"))
