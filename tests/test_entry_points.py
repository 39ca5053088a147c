"""The commands a user types, on a world made on the spot: train, evaluate, draw, and be told off."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import clip
import eval_ood
import train
import visualize
from dassl.engine import build_trainer
from dassl.utils import load_pretrained_weights
from ood.config import EVAL
from run import command, config
from run.flags import make_parser
from trainers.clipn import CLIPN
from trainers.prompt_learner import PromptLearner

ROOT = Path(__file__).parents[1]
CLASSES = ("cat", "golden_retriever", "tea pot", "crane")
SEED1 = "run_2shots/nctx16_cscFalse_ctpend/seed1"


def _images(folder: Path, count: int, rng) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = rng.integers(0, 255, (9, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 72), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")


@pytest.fixture(scope="module")
def world(tmp_path_factory, clip_file):
    """A data root with an ID set and two OOD sets, and configs that fit a tiny CLIP."""
    folder, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    for name in CLASSES:
        _images(folder / "data/pets/train" / name, 4, rng)
        _images(folder / "data/pets/val" / name, 3, rng)
    for name in ("Scenes", "Dots"):
        _images(folder / "data" / name, 5, rng)
    sets = {name: {"FOLDERS": [name], "IMAGES": 5} for name in ("Scenes", "Dots")}
    _write(
        folder / "pets.yaml",
        {"DATASET": {"NAME": "ImageFolder", "FOLDER": "pets"}, "OOD": {"SETS": sets}},
    )
    _write(folder / "loop.yaml", {"_BASE_": "loop.yaml"})
    for trainer in ("CoOp", "LoCoOp"):
        node = {"TRAINER": {"LOCOOP": {"TOPK": 2}}} if trainer == "LoCoOp" else {}
        _write(
            folder / trainer / "run.yaml",
            {
                "_BASE_": str(ROOT / f"configs/trainers/{trainer}/vit_b16_ep50.yaml"),
                "INPUT": {"SIZE": [64, 64]},
                "DATALOADER": {"NUM_WORKERS": 0},
                "OPTIM": {"MAX_EPOCH": 3},
                "MODEL": {"BACKBONE": {"NAME": clip_file("tiny-vit")}},
                **node,
            },
        )
    _write(
        folder / "CLIPN" / "run.yaml",
        {
            "_BASE_": str(ROOT / "configs/trainers/CLIPN/tiny.yaml"),
            "DATALOADER": {"NUM_WORKERS": 0, "TRAIN_X": {"BATCH_SIZE": 4}},
            "OPTIM": {"MAX_EPOCH": 2},
            "MODEL": {"BACKBONE": {"NAME": clip_file("tiny-vit")}},
            "TRAINER": {"CLIPN": {"TEMPLATE": "a photo of a {}."}},
        },
    )
    return folder


def _write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def flags(world: Path, trainer: str = "LoCoOp") -> list[str]:
    return [
        "--root",
        f"{world}/data",
        "--trainer",
        trainer,
        "--dataset-config-file",
        f"{world}/pets.yaml",
        "--config-file",
        f"{world}/{trainer}/run.yaml",
    ]


@pytest.fixture
def call(monkeypatch, tmp_path_factory):
    """Runs an entry point in this process: `call(train, "--shots", "2")`."""
    monkeypatch.setitem(EVAL, "FEATURES", str(tmp_path_factory.mktemp("features")))

    def run(module, *arguments) -> None:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        command.run(module.main)

    return run


@pytest.fixture
def told(call):
    """What an entry point says when it refuses: one sentence, no traceback, exit not zero."""

    def run(module, *arguments) -> str:
        with pytest.raises(SystemExit) as exit_:
            call(module, *arguments)
        assert isinstance(exit_.value.code, str) and exit_.value.code.startswith("error: ")
        return exit_.value.code

    return run


@pytest.fixture(scope="module")
def trained(world):
    """A LoCoOp run, trained by the real script, in another folder than the repository's."""
    output = world / "output" / "LoCoOp" / SEED1
    script(world, "train.sh", *flags(world), "--shots", "2", "--seed", "1", "--output-dir", output)
    return output


def script(world, name, *arguments, check=True) -> subprocess.CompletedProcess:
    # As many threads as here: sums over other parts round otherwise, and runs are compared exactly.
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": threads}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / name), *map(str, arguments)],
        cwd=world,
        check=check,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


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
    assert any(name.startswith("tensorboard/events") for name in files)
    assert not any("tmp" in name for name in files)
    content = torch.load(trained / "prompt_learner/model.pth.tar-3", weights_only=True)
    assert {"state_dict", "epoch", "optimizer", "scheduler", "val_result"} <= content.keys()
    assert content["meta"]["activation"] == "quick_gelu"
    log = (trained / "log.txt").read_text(encoding="utf-8")
    assert "epoch [3/3] batch [1/1]" in log and "loss_en" in log
    split = json.loads((trained / "split.json").read_text(encoding="utf-8"))
    assert len(split["train"]) == 8 and split["seed"] == 1


def test_evaluation_by_the_script(world, trained):
    done = script(world, "eval.sh", "--root", f"{world}/data", "--model-dir", trained)
    assert "GL-MCM" in done.stdout and "average" in done.stdout
    sets = [
        line.split()[0] for line in done.stdout.splitlines() if line.startswith(("Scen", "Dots"))
    ]
    assert sets[:2] == ["Scenes", "Dots"]  # the YAML's order
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


def test_region_map_by_the_script(world, trained):
    image = world / "data/pets/val/cat/0.jpg"
    before = image.read_bytes()
    done = script(
        world,
        "demo_visualization.sh",
        "--root",
        f"{world}/data",
        "--model-dir",
        trained,
        "--image",
        image,
        "--label",
        "tea pot",
    )
    drawn = list((trained / "visualization").glob("*.png"))
    assert len(drawn) == 1 and "K = 2 of 4 classes" in done.stdout
    assert drawn[0].name == "cat_0_class3_k2.png" and image.read_bytes() == before


def test_region_maps_are_the_trained_contexts(world, trained, call, caplog, clip_file):
    """The share of regions printed, for every label and K, against one computed by hand."""
    caplog.set_level("INFO")
    image = world / "data/pets/val/cat/0.jpg"
    model, preprocess = clip.load(clip_file("tiny-vit"))
    names = ["cat", "crane", "golden retriever", "tea pot"]
    learner = PromptLearner(names, model)
    content = torch.load(trained / "prompt_learner/model.pth.tar-3", weights_only=True)
    learner.load_state_dict(content["state_dict"])
    regions = model.encode_image(preprocess(Image.open(image))[None], local=True)[1][0]
    text = model.encode_prompts(learner(), learner.eot)
    order = (regions @ torch.nn.functional.normalize(text, dim=-1).T).argsort(descending=True)
    for label in range(4):
        for k in (1, 3):
            caplog.clear()
            call(
                visualize,
                "--root",
                f"{world}/data",
                "--model-dir",
                trained,
                "--image",
                image,
                "--label",
                label,
                "--topk",
                k,
            )
            extracted = sum(label not in row[:k] for row in order.tolist())
            assert f"{extracted} of 16 regions" in caplog.text


def test_a_map_needs_class_names_and_no_data_set(world, trained, call, tmp_path):
    image = world / "data/pets/val/crane/1.jpg"
    call(
        visualize,
        "--root",
        f"{world}/nowhere",
        "--model-dir",
        trained,
        "--image",
        image,
        "--label",
        "crane",
        "--topk",
        "1",
        "--output-dir",
        tmp_path,
        "DATASET.CLASSES",
        "cat,crane",
    )
    assert (tmp_path / "visualization/crane_1_class1_k1.png").exists()


def test_every_entry_point_checks_what_it_reads_first(world, trained, told, tmp_path):
    """And no more: a test of the ID set and masks need no OOD set."""
    shutil.copytree(world / "data/pets", tmp_path / "data/pets")
    (tmp_path / "data/pets/val").rename(tmp_path / "data/pets/validation")
    run = ["--root", tmp_path / "data", "--model-dir", trained, "--output-dir", tmp_path / "out"]
    image = ["--image", world / "data/pets/val/cat/0.jpg", "--label", "cat"]
    for entry, extra, count in (
        (train, ["--eval-only"], "1 problem."),
        (visualize, image, "1 problem."),
        (visualize, ["--masks", tmp_path], "1 problem."),
        (eval_ood, [], "3 problems."),
    ):
        message = told(entry, *run, *extra)
        assert f"the data are not ready for evaluation: {count}" in message
        assert "pets/validation " in message and "check.sh" in message


def test_masks_are_compared_with_all_test_images(world, trained, call, tmp_path):
    for path in (world / "data/pets/val").rglob("*.jpg"):
        mask = tmp_path / path.parent.name / f"{path.stem}.png"
        mask.parent.mkdir(exist_ok=True)
        Image.new("L", (80, 72), 255 if path.parent.name == "cat" else 0).save(mask)
    call(visualize, "--root", f"{world}/data", "--model-dir", trained, "--masks", tmp_path)
    figures = json.loads((trained / "visualization/regions_k2.json").read_text(encoding="utf-8"))
    assert figures["images"] == 12 and figures["background"] == 0.75


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
    assert "finished before" in capsys.readouterr().out
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
    call(train, *arguments, stopped)
    contexts = [
        torch.load(folder / "prompt_learner/model.pth.tar-3", weights_only=True)["state_dict"][
            "ctx"
        ]
        for folder in (stopped, trained)
    ]
    assert torch.equal(*contexts)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_names_the_settings_that_lower_it(
    world, trained, told, tmp_path, error, monkeypatch
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(clip.ClipModel, "encode_image", fail)
    expected = {
        "CoOp": "TRAINER.COOP.TEXT_CHUNK (now 16384), or DATALOADER.TRAIN_X.BATCH_SIZE (now 32)",
        "CLIPN": "TRAINER.CLIPN.MICRO_BATCH (now 4), or DATALOADER.TRAIN_X.BATCH_SIZE (now 4)",
    }
    for trainer, settings in expected.items():
        message = told(train, *flags(world, trainer), "--output-dir", tmp_path / trainer)
        assert f"4 classes on cpu: set {settings} lower" in message
    message = told(train, "--root", f"{world}/data", "--model-dir", trained, "--eval-only")
    assert message.endswith(
        "in a test batch of 100 images and 4 classes on cpu: set "
        "DATALOADER.TEST.BATCH_SIZE (now 100) lower"
    )
    message = told(
        eval_ood,
        "--root",
        f"{world}/data",
        "--model-dir",
        trained,
        "--output-dir",
        tmp_path / "scores",
    )
    assert message == (
        "error: out of memory in scoring on cpu: set DATALOADER.TEST.BATCH_SIZE (now 100) lower"
    )
    monkeypatch.setattr(error, "args", ("shapes do not fit",))
    if not isinstance(error, torch.OutOfMemoryError):
        with pytest.raises(RuntimeError, match="shapes"):
            told(train, "--root", f"{world}/data", "--model-dir", trained, "--eval-only")


def test_the_advice_when_memory_is_short_can_be_followed(world, call, told, tmp_path, monkeypatch):
    """The run goes on from its checkpoint with a smaller MICRO_BATCH, as it was told to."""
    arguments = [*flags(world, "CLIPN"), "--shots", 2, "--output-dir", tmp_path]
    step = CLIPN.forward_backward

    def fail_in_epoch_two(self, batch):
        if self.epoch == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, batch)

    monkeypatch.setattr(CLIPN, "forward_backward", fail_in_epoch_two)
    assert "set TRAINER.CLIPN.MICRO_BATCH (now 4)" in told(train, *arguments)
    monkeypatch.setattr(CLIPN, "forward_backward", step)
    call(train, *arguments, "TRAINER.CLIPN.MICRO_BATCH", 2)
    records = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    means = [row["epoch"] for row in map(json.loads, records) if "mean_loss" in row]
    assert means == [1, 2] and (tmp_path / "no_encoder/model.pth.tar-2").exists()
    assert "LOSS_WEIGHT was 0.5" in told(train, *arguments, "TRAINER.CLIPN.LOSS_WEIGHT", 1)


@pytest.mark.parametrize("where", [("/data/x.json",), ()])
def test_a_full_disk_is_a_sentence_whoever_meets_it(where):
    def main():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *where)

    with pytest.raises(SystemExit, match=f"error: Cannot write {(*where, 'a file')[0]}: No space"):
        command.run(main)


def test_an_error_that_is_no_full_disk_keeps_its_traceback():
    with pytest.raises(FileNotFoundError):
        command.run(lambda: open("/nowhere/at/all"))


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
    assert "are not in" in caplog.text


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
    assert "choose" in told(
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


@pytest.mark.parametrize("trainer", config.TRAINER_REGISTRY.registered_names())
def test_with_a_config_of_ones_own_every_epoch_is_kept(world, tmp_path, trainer):
    """Whatever file the settings come from, a stopped run has something to go on from."""
    _write(tmp_path / "own.yaml", {"OPTIM": {"MAX_EPOCH": 3}})
    parser = make_parser("")
    for path in (tmp_path / "own.yaml", *(ROOT / "configs/trainers" / trainer).glob("*.yaml")):
        args = parser.parse_args(["--trainer", trainer, "--config-file", str(path)])
        assert config.build_cfg(args).TRAIN.CHECKPOINT_FREQ == 1, path


def test_a_run_that_never_began_may_be_corrected(world, call, told, tmp_path):
    arguments = [*flags(world), "--shots", 1, "--output-dir", tmp_path / "run"]
    assert "between 1 and the number" in told(train, *arguments, "--topk", 9)
    call(train, *arguments, "--topk", 2)
    assert (tmp_path / "run/finished.json").exists()


def test_only_testing_and_only_building(world, trained, call, caplog, tmp_path, clip_file):
    caplog.set_level("INFO")
    call(train, "--root", f"{world}/data", "--model-dir", trained, "--eval-only")
    assert "* total: 12" in caplog.text
    caplog.clear()
    call(train, *flags(world), "--trainer", "ZeroshotCLIP", "--eval-only")  # as CoOp's scripts do
    assert "* total: 12" in caplog.text
    call(train, *flags(world), "--no-train", "--output-dir", tmp_path / "none")
    assert not (tmp_path / "none").exists()


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
    own = learner.token_suffix.clone()
    path = trained / "prompt_learner/model.pth.tar-3"
    load_pretrained_weights(learner, path)
    assert torch.equal(learner.token_suffix, own)
    assert torch.equal(learner.ctx, torch.load(path, weights_only=True)["state_dict"]["ctx"])


def test_data_root_may_be_at_home(world, call, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(world))
    call(train, *flags(world), "--root", "~/data", "--shots", 1, "--output-dir", tmp_path / "run")
    split = json.loads((tmp_path / "run/split.json").read_text(encoding="utf-8"))
    assert split["train"][0][0].startswith("pets/train/cat/")


@pytest.mark.parametrize("content", ["", "- 1", "a: [", "1: 2"])
def test_a_damaged_config_of_a_run_is_told(world, trained, told, tmp_path, content):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run/config.yaml").write_text(content, encoding="utf-8")
    assert "config" in told(eval_ood, "--root", f"{world}/data", "--model-dir", tmp_path / "run")


def test_published_positional_arguments(world, tmp_path):
    """LoCoOp's own command lines, with one seed and a small config in the repository's place."""
    copy = tmp_path / "repository"
    beside = {".git", ".venv", "data", "output"}
    shutil.copytree(ROOT, copy, ignore=lambda folder, _: beside if folder == str(ROOT) else set())
    shutil.copy(world / "pets.yaml", copy / "configs/datasets")
    shutil.copy(world / "LoCoOp/run.yaml", copy / "configs/trainers/LoCoOp")
    environment = {**os.environ, "PYTHON": sys.executable, "SEEDS": "2", "OMP_NUM_THREADS": "1"}

    def bash(name, *arguments):
        return subprocess.run(
            ["bash", f"scripts/locoop/{name}", *map(str, arguments)],
            cwd=copy,
            check=True,
            env=environment,
            capture_output=True,
            text=True,
        )

    data, run = f"{world}/data", "output/pets/LoCoOp/run_1shots/nctx4_cscFalse_ctpmiddle/seed2"
    bash("train.sh", data, "pets", "run", "middle", 4, 1, "False", 0.25, 2)
    assert (copy / run / "prompt_learner/model.pth.tar-3").exists()
    assert "GL-MCM" in bash("eval.sh", data, "pets", "run", 1, run).stdout
    bash("demo_visualization.sh", data, "pets", "run", run, f"{data}/pets/val/crane/1.jpg", 3)
    assert list((copy / run / "visualization").glob("*.png"))


def test_clipn_from_training_to_the_table(world, tmp_path):
    """By the real scripts: two epochs, then CTW, ATD and the decisions beside the others."""
    run = tmp_path / "clipn"
    done = script(world, "train.sh", *flags(world, "CLIPN"), "--shots", "4", "--output-dir", run)
    assert "epoch [2/2] batch [4/4]" in done.stdout and "bin_no" in done.stdout
    assert "not the paper's setting" in done.stdout
    assert (run / "no_encoder/model.pth.tar-2").exists() and (run / "finished.json").exists()
    done = script(world, "eval.sh", "--root", f"{world}/data", "--model-dir", run)
    assert "Threshold-free decisions" in done.stdout and "OOD rejected" in done.stdout
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert list(results["figures"]) == [
        "MCM",
        "GL-MCM",
        "MSP",
        "MaxLogit",
        "Energy",
        "Entropy",
        "CTW",
        "ATD",
        "GradNorm",
    ]
    assert set(results["decisions"]) == {"CTW", "ATD"}
    row = results["decisions"]["ATD"]
    assert 0 <= row["id_acceptance"] <= 1 and set(row["sets"]) == {"Scenes", "Dots", "average"}
    header = (run / "scores/Dots.csv").read_text(encoding="utf-8").splitlines()[0]
    scores = ",".join(results["figures"])
    assert header == f"image,prediction,{scores},rejected by CTW,rejected by ATD"


@pytest.fixture
def captioned(tmp_path):
    """A data root with four image-caption pairs, and nothing of ImageNet."""
    _images(tmp_path / "data/web", 4, np.random.default_rng(5))
    rows = "".join(f"web/{i}.jpg,a thing called {i}\n" for i in range(4))
    (tmp_path / "data/pairs.csv").write_text(f"path,caption\n{rows}", encoding="utf-8")
    return tmp_path / "data"


def test_clipn_learns_from_pairs_without_an_image_of_imagenet(
    world, captioned, call, told, caplog, tmp_path
):
    """And is then evaluated where the images are: nothing of it is in the run's settings."""
    clipn = [
        "--root",
        captioned,
        "--trainer",
        "CLIPN",
        "--dataset",
        "imagenet",
        "--config-file",
        world / "CLIPN/run.yaml",
        "--output-dir",
        tmp_path / "run",
        "DATASET.PAIRS.SOURCE",
        "csv",
        "DATASET.PAIRS.PATH",
        "pairs.csv",
        "DATASET.CLASSES",
        "n01440764,n01443537",
    ]
    call(train, *clipn)
    assert "There is no final test" in caplog.text and "imagenet does not exist" in caplog.text
    content = torch.load(tmp_path / "run/no_encoder/model.pth.tar-2", weights_only=True)
    assert content["meta"]["num_classes"] == 2 and (tmp_path / "run/finished.json").exists()
    again = ["--root", captioned, "--model-dir", tmp_path / "run"]
    for entry, extra in ((eval_ood, []), (train, ["--eval-only"])):
        assert "imagenet does not exist" in " ".join(told(entry, *again, *extra).split())
    for name in ("n01440764", "n01443537"):
        _images(captioned / f"imagenet/val/{name}", 2, np.random.default_rng(6))
    caplog.set_level("INFO")
    call(train, *again, "--eval-only")
    assert "* total: 4" in caplog.text


def test_a_published_clipn_file_is_evaluated(world, call, clipn_file, tmp_path, capsys):
    arguments = [
        "--root",
        f"{world}/data",
        "--dataset-config-file",
        f"{world}/pets.yaml",
        "--config",
        "tiny",
        "--backbone",
        clipn_file(11),
        "DATALOADER.NUM_WORKERS",
        "0",
        "MODEL.BACKBONE.ACTIVATION",
        "gelu",
    ]
    call(
        eval_ood,
        "--trainer",
        "CLIPN",
        "--template",
        "published",
        "--scores",
        "MCM,CTW-public,ODIN",
        "--output-dir",
        tmp_path / "clipn",
        *arguments,
    )
    results = json.loads((tmp_path / "clipn/results.json").read_text(encoding="utf-8"))
    assert list(results["figures"]) == ["MCM", "CTW-public", "ODIN"]
    assert results["provenance"]["comparable"]["activation"] == "gelu"
    assert "Threshold-free" in capsys.readouterr().out
    assert results["provenance"]["no_encoder"]["file"] == clipn_file(11)
    further = torch.load(clipn_file(11), weights_only=False)["state_dict"]  # of a later epoch
    further["module.prompt_no"] = further["module.prompt_no"] + 1
    torch.save(further, tmp_path / "epoch_2.pt")
    other = [tmp_path / "epoch_2.pt" if x == clipn_file(11) else x for x in arguments]
    with pytest.raises(SystemExit, match="another model: no_encoder"):  # each file is one
        call(
            eval_ood,
            "--trainer",
            "CLIPN",
            "--template",
            "published",
            "--output-dir",
            tmp_path / "clipn",
            *other,
        )
    arguments[arguments.index("--config") + 1] = "vit_b16"
    call(
        eval_ood,
        "--trainer",
        "ZeroshotCLIP",
        "--output-dir",
        tmp_path / "zero",
        *arguments,
        "INPUT.SIZE",
        "(64, 64)",
    )
    results = json.loads((tmp_path / "zero/results.json").read_text(encoding="utf-8"))
    assert "CTW" not in results["figures"] and "decisions" not in results


def test_what_no_run_has_trained_is_not_evaluated_into_a_run_s_folder(clipn_file):
    def folder(trainer: str, *options: str, trains: bool = False) -> str:
        parser = make_parser("")
        parser.set_defaults(trains=trains)
        return config.build_cfg(parser.parse_args(["--trainer", trainer, *options])).OUTPUT_DIR

    published = folder("CLIPN", "--config", "tiny", "--backbone", clipn_file(11))
    assert published == "output/generated/CLIPN/tiny/epoch_1"
    assert folder("CLIPN", "--config", "tiny", trains=True).endswith("tiny_-1shots/seed1")
    for trains in (True, False):
        assert folder("ZeroshotCLIP", trains=trains) == "output/generated/ZeroshotCLIP/generated"


def test_clipns_bad_input_is_told_in_a_sentence(world, trained, told, clipn_file, tmp_path):
    clipn = [*flags(world, "CLIPN"), "--shots", "1", "--output-dir"]
    cases = (
        (["--variant", "learned"], "learnable, handcrafted"),
        (["--template", "a photo"], "must hold {} once"),
        (
            ["--backbone", clipn_file(11, "hand"), "MODEL.BACKBONE.ACTIVATION", "gelu"],
            "VARIANT handcrafted",
        ),
        (["MODEL.INIT_WEIGHTS", clipn_file(11)], "another CLIP"),
        (
            ["TRAINER.CLIPN.MICRO_BATCH", "-1"],
            "MICRO_BATCH is -1: the pairs encoded at a time must be",
        ),
    )
    for number, (extra, words) in enumerate(cases):
        assert words in told(train, *clipn, tmp_path / str(number), *extra)
    assert 'no "no" text encoder' in told(
        eval_ood,
        "--root",
        f"{world}/data",
        "--model-dir",
        trained,
        "--scores",
        "MCM,ATD",
        "--output-dir",
        tmp_path / "out",
    )


@pytest.mark.parametrize("name, count", [("train", 9), ("eval", 5), ("demo_visualization", 6)])
def test_positional_scripts_name_their_arguments(world, name, count):
    done = script(world, f"locoop/{name}.sh", "data", check=False)
    assert done.returncode == 2 and "usage:" in done.stderr and "DATA DATASET CONFIG" in done.stderr


def test_clipns_positional_scripts(world, trained, tmp_path):
    for name in ("train", "eval"):
        done = script(world, f"clipn/{name}.sh", "data", check=False)
        assert done.returncode == 2 and "DATA DATASET CONFIG" in done.stderr
    run = tmp_path / "run"
    pets = [
        "--dataset-config-file",
        f"{world}/pets.yaml",
        "--config-file",
        f"{world}/CLIPN/run.yaml",
        "--output-dir",
        run,
        "TRAINER.CLIPN.MICRO_BATCH",
        "3",
    ]
    script(world, "clipn/train.sh", f"{world}/data", "imagefolder", "tiny", "handcrafted", 1, *pets)
    script(
        world, "clipn/eval.sh", f"{world}/data", "imagefolder", "tiny", "published", run, *pets[:2]
    )
    assert "ATD" in json.loads((run / "results.json").read_text(encoding="utf-8"))["figures"]


@pytest.mark.parametrize(
    "extra, words",
    [
        (["--trainer", "LoCop"], "LoCoOp"),
        (["--dataset", "imagenett", "--dataset-config-file", ""], "Nearest: 'imagenet'"),
        (["--config", "vit_b16_ep5", "--config-file", ""], "Nearest: 'vit_b16_ep50'"),
        (["--config-file", "nowhere.yaml"], "nowhere.yaml"),
        (["--config-file", "WORLD/loop.yaml"], "its own _BASE_"),
        (["--topk", "5"], "between 1 and the number of classes"),
        (["--topk", "many"], "TRAINER.LOCOOP.TOPK"),
        (["--root", "nowhere"], "nowhere"),
        (["--backbone", "ViT-B/15"], "Nearest name: 'ViT-B/16'"),
        (["--backbone", "no/file.pt"], "neither a file nor a name"),
        (["--seed", "4294967296"], "seeds below"),
        (["--lambda_value", "-1"], "0 or more"),
        (["OPTIM.LR", "-1"], "OPTIM.LR is -1"),
        (["OPTIM.MAX_EPOCH", "0"], "at least 1"),
        (["DATALOADER.TRAIN_X.BATCH_SIZE", "0"], "at least 1"),
        (["TRAINER.LOCOOP.N_CTX", "0"], "at least one context vector"),
        (["--output-dir", "/dev/null/run"], "/dev/null"),
        (["OPTIM.LRR", "0.1"], "Nearest: OPTIM.LR"),
        (["OPTIM.LR", "fast"], "OPTIM.LR"),
        (["OPTIM.MAX_EPOCH"], "pairs of KEY VALUE"),
        (["INPUT.SIZE", "(32, 32)"], "INPUT.SIZE is (32, 32), the model wants (64, 64)"),
        (["INPUT.INTERPOLATION", "bilinear"], "the model wants bicubic"),
        (["TRAINER.LOCOOP.PREC", "fp8"], "fp32, amp, amp_bf16, fp16"),
        (["TRAINER.LOCOOP.CLASS_TOKEN_POSITION", "back"], "end, middle, front"),
        (["--shots", "0"], "NUM_SHOTS"),
    ],
)
def test_bad_training_input_is_told_in_a_sentence(world, told, tmp_path, extra, words):
    extra = [argument.replace("WORLD", str(world)) for argument in extra]
    message = told(train, *flags(world), "--shots", 1, "--output-dir", tmp_path / "run", *extra)
    assert words in message
    assert not (tmp_path / "run" / "prompt_learner").exists()


@pytest.mark.parametrize(
    "extra, words",
    [
        (["--scores", "MCN"], "MCM"),
        (["--T", "0"], "temperature"),
        (["--load-epoch", "7"], "model.pth.tar-7"),
        (["--model-dir", "nowhere"], "no such folder"),
        (["TRAINER.LOCOOP.N_CTX", "4"], "a shared context of 16 tokens"),
        (["TRAINER.LOCOOP.CSC", "True"], "one context for each of 4 classes"),
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


@pytest.mark.parametrize(
    "extra, words",
    [
        (["--label", "teapott"], "Nearest name: 'tea pot'"),
        (["--label", "9"], "index from 0 to 3"),
        (["--label", "0", "--image", "nowhere.jpg"], "nowhere.jpg"),
        (["--label", "0", "--topk", "9"], "between 1 and the number of classes"),
    ],
)
def test_bad_drawing_input_is_told_in_a_sentence(world, trained, told, extra, words):
    image = world / "data/pets/val/cat/0.jpg"
    assert words in told(
        visualize, "--root", f"{world}/data", "--model-dir", trained, "--image", image, *extra
    )


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


def test_a_full_disk_leaves_no_half_written_checkpoint(world, told, tmp_path, monkeypatch):
    import errno

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    message = told(train, *flags(world), "--shots", 1, "--output-dir", tmp_path / "run")
    assert "space" in message.lower()
    assert not list((tmp_path / "run/prompt_learner").glob("*"))
    assert not (tmp_path / "run/finished.json").exists()


def test_published_checkpoints_are_evaluated(world, call, tmp_path):
    """A folder as LoCoOp's authors publish it: a Dassl checkpoint with pickled schedulers, no config."""
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


def test_a_trainer_without_images_describes_the_classes_all_the_same(world, trained):
    """What a verdict needs of a checkpoint, without the data set it was trained on."""

    def features(root, **options):
        args = make_parser("").parse_args(["--root", str(root), "--model-dir", str(trained)])
        args.opts = ["DATASET.CLASSES", "cat,crane"]
        trainer = build_trainer(config.build_cfg(args), **options)
        trainer.load_model(trained)
        return trainer.class_features()["text"]

    assert torch.equal(features(world / "nowhere", images=False), features(world / "data"))
