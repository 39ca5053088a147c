"""Evaluations by eval_ood.py, on a world made on the spot."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import clip
import eval_ood
import train
import visualize
from tests.worlds import ROOT, flags, script

pytestmark = pytest.mark.slow  # trains


def test_evaluation_by_the_script(world, trained):
    done = script(world, "eval.sh", "--root", f"{world}/data", "--model-dir", trained)
    assert "GL-MCM" in done.stdout and "average" in done.stdout
    assert done.stdout.index("Scenes") < done.stdout.index("Dots")  # the YAML's order
    results = json.loads((trained / "results.json").read_text(encoding="utf-8"))
    assert set(results["figures"]) >= {"MCM", "GL-MCM", "MSP", "MaxLogit", "Energy", "Entropy"}
    assert set(results["figures"]["MCM"]) == {"Scenes", "Dots", "average"}
    comparable = results["provenance"]["comparable"]
    assert comparable["trainer"] == "LoCoOp" and len(comparable["weights_hash"]) == 64
    assert comparable["scores"]["MCM"] == {"temperature": 1.0}
    rows = (trained / "scores" / "ID.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 12 and rows[1].startswith("pets/val/cat/0.jpg")
    assert (trained / "plots" / "GL-MCM_histogram.png").stat().st_size > 1000
    assert "epoch [3/3]" in (trained / "log.txt").read_text(encoding="utf-8")  # is training's own


def test_every_entry_point_checks_what_it_reads_first(world, trained, told, tmp_path):
    """And no more: a test of the ID set and masks need no OOD set."""
    shutil.copytree(world / "data/pets", tmp_path / "data/pets")
    shutil.rmtree(tmp_path / "data/pets/val/cat")
    run = ["--root", tmp_path / "data", "--model-dir", trained, "--output-dir", tmp_path / "out"]
    image = ["--image", world / "data/pets/val/cat/0.jpg", "--label", "cat"]
    for entry, extra, count in (
        (train, ["--eval-only"], "1 problem."),
        (visualize, image, "1 problem."),
        (visualize, ["--masks", tmp_path], "1 problem."),
        (eval_ood, [], "3 problems."),
    ):
        message = " ".join(told(entry, *run, *extra).split())
        assert f"the data are not ready for evaluation: {count}" in message
        assert "1 of 4 class folders are missing" in message and "check.sh" in message


def test_zero_shot_needs_no_training(world, call, tmp_path, clip_file, capsys):
    call(
        eval_ood,
        "--root",
        f"{world}/data",
        "--dataset-config-file",
        f"{world}/pets.yaml",
        "--backbone",
        clip_file("tiny-rn"),
        "--scores",
        "MCM,GL-MCM",
        "--T",
        "0.5",
        "--output-dir",
        tmp_path,
        "INPUT.SIZE",
        "(64, 64)",
        "DATALOADER.NUM_WORKERS",
        "0",
    )
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["provenance"]["comparable"]["scores"]["GL-MCM"]["temperature"] == 0.5
    assert list(results["figures"]) == ["MCM", "GL-MCM"] and "AUROC" in capsys.readouterr().out


def test_all_methods_share_the_image_features(
    world, trained, call, caplog, tmp_path, generated_weights
):
    """The same scores from images and from features, whoever had the images encoded."""
    from safetensors.torch import save_file

    caplog.set_level("INFO")

    def evaluate(trainer, *extra):
        run = ["--model-dir", trained] if trainer == "LoCoOp" else flags(world, trainer)
        caplog.clear()
        call(
            eval_ood,
            "--root",
            f"{world}/data",
            *run,
            "--scores",
            "MCM,Energy",
            "--output-dir",
            tmp_path / trainer,
            *extra,
        )
        results = json.loads((tmp_path / trainer / "results.json").read_text(encoding="utf-8"))
        csv = [
            (tmp_path / trainer / f"scores/{name}.csv").read_bytes()
            for name in ("ID", "Scenes", "Dots")
        ]
        return results["provenance"]["features_read"], csv

    for number, trainer in enumerate(("CoOp", "LoCoOp", "CLIPN")):
        _, from_images = evaluate(trainer, "--features", "none")
        assert "features" not in caplog.text
        for again in range(2):
            read, from_features = evaluate(trainer)
            assert read == (["ID", "Scenes", "Dots"] if number or again else [])
            assert from_features == from_images
    save_file(
        generated_weights("tiny-vit", seed=7),
        tmp_path / "other.safetensors",
        {"activation": "quick_gelu"},
    )
    backbone = [
        "--backbone",
        tmp_path / "other.safetensors",
        "--config-file",
        ROOT / "configs/trainers/ZeroshotCLIP/vit_b16.yaml",
        "INPUT.SIZE",
        "(64, 64)",
        "DATALOADER.NUM_WORKERS",
        "0",
    ]
    assert evaluate("ZeroshotCLIP", *backbone)[0] == []
    assert "will be kept in" in caplog.text


def test_kept_regions_are_part_of_what_is_compared(world, trained, call, told, tmp_path):
    arguments = ["--root", f"{world}/data", "--model-dir", trained, "--output-dir"]
    for extra, expected in (
        ([], None),
        (["--features-local"], "float16"),
        (["--features-local", "--scores", "MCM"], None),
    ):
        call(eval_ood, *arguments, tmp_path, *extra)  # other scores of the same model are welcome
        results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
        assert results["provenance"]["comparable"].get("local_features") == expected
    assert "drop one" in told(
        eval_ood, *arguments, tmp_path, "--features-local", "--features", "none"
    )


def test_the_weight_of_the_regions_reaches_the_score(world, trained, call, tmp_path):
    def score(weight):
        call(
            eval_ood,
            "--root",
            f"{world}/data",
            "--model-dir",
            trained,
            "--output-dir",
            tmp_path,
            "--scores",
            "MCM,GL-MCM",
            "--local-weight",
            weight,
        )
        rows = (tmp_path / "scores/ID.csv").read_text(encoding="utf-8").splitlines()[1:]
        return np.array([row.split(",")[-2:] for row in rows], dtype=float)

    for weight in (0, 0.5):
        mcm, gl_mcm = score(weight).T
        assert (gl_mcm > mcm).all() if weight else (gl_mcm == mcm).all()
    assert not list((tmp_path / "plots").glob("Energy*"))


def test_other_results_are_not_overwritten_and_stale_ones_are_removed(
    world, trained, call, told, tmp_path
):
    arguments = ["--root", f"{world}/data", "--model-dir", trained, "--output-dir", tmp_path]
    call(eval_ood, *arguments)
    call(eval_ood, *arguments, "--scores", "MCM", "OOD.SETS.Scenes.FOLDERS", "[]")
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"ID.csv", "Dots.csv"}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "MCM_histogram.png",
        "MCM_roc.png",
    }
    message = told(eval_ood, *arguments, "DATASET.CLASSES", "cat,crane")
    assert "holds results of another model: classnames_hash was" in message


def test_results_say_which_context_they_are_of(world, trained, call, tmp_path):
    call(eval_ood, "--root", f"{world}/data", "--model-dir", trained, "--output-dir", tmp_path)
    provenance = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["provenance"]
    ctx = torch.load(trained / "prompt_learner/model.pth.tar-3", weights_only=True)["state_dict"]
    assert provenance["context"]["file"].endswith("model.pth.tar-3")
    assert provenance["context"]["hash"] == clip.weights_hash({"ctx": ctx["ctx"]})
    assert provenance["comparable"]["training"]["optim"]["MAX_EPOCH"] == 3


@pytest.mark.parametrize("content", ["", "- 1", "a: [", "1: 2"])
def test_a_damaged_config_of_a_run_is_told(world, trained, told, tmp_path, content):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run/config.yaml").write_text(content, encoding="utf-8")
    assert "config" in told(eval_ood, "--root", f"{world}/data", "--model-dir", tmp_path / "run")


@pytest.mark.parametrize(
    "extra, words",
    [
        (["--scores", "MCN"], "MCM"),
        (["--T", "0"], "temperature"),
        (["--load-epoch", "7"], "model.pth.tar-7"),
        (["--model-dir", "nowhere"], "no such folder"),
        (["TRAINER.LOCOOP.N_CTX", "4"], "TRAINER.LOCOOP.N_CTX was 16, is 4"),
        (["TRAINER.LOCOOP.CSC", "True"], "TRAINER.LOCOOP.CSC was False, is True"),
        (["OOD.SETS.Dots.FOLDERS", "['Dotts']"], "Dotts"),
        (["--trainer", "CoOp"], "is a run of LoCoOp"),
        (["MODEL.BACKBONE.ACTIVATION", "gelu"], "trained with quick_gelu"),
    ],
)
def test_bad_evaluation_input_is_told_in_a_sentence(world, trained, told, tmp_path, extra, words):
    message = told(
        eval_ood,
        "--root",
        f"{world}/data",
        "--model-dir",
        trained,
        "--output-dir",
        tmp_path,
        *extra,
    )
    assert words in message and not (tmp_path / "results.json").exists()


def test_a_shared_context_may_move_to_other_classes(world, trained, call, caplog, tmp_path):
    call(
        eval_ood,
        "--root",
        f"{world}/data",
        "--model-dir",
        trained,
        "--output-dir",
        tmp_path,
        "DATASET.CLASSES",
        "cat,crane",
    )
    assert "shared context is used for other classes" in caplog.text
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["provenance"]["comparable"]["num_classes"] == 2


def test_other_weights_under_a_trained_prompt_are_refused(
    world, trained, told, generated_weights, tmp_path
):
    from safetensors.torch import save_file

    save_file(
        generated_weights("tiny-vit", seed=7),
        tmp_path / "other.safetensors",
        {"activation": "quick_gelu"},
    )
    message = told(
        eval_ood,
        "--root",
        f"{world}/data",
        "--model-dir",
        trained,
        "--backbone",
        tmp_path / "other.safetensors",
        "--output-dir",
        tmp_path,
    )
    assert "weights_hash" in message


def test_published_checkpoints_are_evaluated(world, call, tmp_path):
    """Evaluate a folder as LoCoOp's authors publish it: pickled schedulers, no config."""
    published = tmp_path / "seed1/prompt_learner"
    shutil.copytree(
        next((ROOT / "tests/golden/checkpoint").rglob("model.pth.tar-4")).parent, published
    )
    call(
        eval_ood,
        *flags(world),
        "--model-dir",
        published.parent,
        "--output-dir",
        tmp_path / "out",
        "--load-epoch",
        4,
    )
    assert (tmp_path / "out/results.json").exists()


@pytest.mark.parametrize(
    "extra, words",
    [
        (["TRAINER.LOCOOP.N_CTX", "4"], "a shared context of 16 tokens"),
        (["TRAINER.LOCOOP.CSC", "True"], "one context for each of 4 classes"),
    ],
)
def test_contexts_without_a_config_must_fit(world, trained, told, tmp_path, extra, words):
    shutil.copytree(trained / "prompt_learner", tmp_path / "run/prompt_learner")
    command = [*flags(world), "--model-dir", tmp_path / "run", "--output-dir", tmp_path / "out"]
    assert words in told(eval_ood, *command, *extra)


@pytest.fixture
def damaged(world, tmp_path):
    """The same world with one truncated image in each set."""
    shutil.copytree(world / "data", tmp_path / "data")
    for path in ("pets/train/cat/0.jpg", "pets/val/crane/1.jpg", "Dots/2.jpg"):
        content = (tmp_path / "data" / path).read_bytes()
        (tmp_path / "data" / path).write_bytes(content[: len(content) // 2])
    return tmp_path / "data"


def test_damaged_images_stop_or_are_left_out_by_name(
    world, trained, damaged, told, call, caplog, tmp_path
):
    arguments = ["--root", damaged, "--model-dir", trained, "--output-dir", tmp_path / "out"]
    assert "1.jpg" in told(eval_ood, *arguments)
    call(eval_ood, *arguments, "DATALOADER.BAD_IMAGES", "skip")
    results = json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))
    assert results["provenance"]["skipped"] == {
        "ID": ["pets/val/crane/1.jpg"],
        "Scenes": [],
        "Dots": ["Dots/2.jpg"],
    }
    assert results["images"] == {"ID": 11, "Scenes": 5, "Dots": 4}
    assert "1 of 12 images could not be read" in caplog.text

    training = [*flags(world), "--root", damaged, "--shots", "4", "--output-dir"]
    assert "train/cat/0.jpg" in told(train, *training, tmp_path / "stop")
    call(
        train, *training, tmp_path / "skip", "DATALOADER.BAD_IMAGES", "skip", "TEST.NO_TEST", "True"
    )
    assert (tmp_path / "skip/finished.json").exists()
