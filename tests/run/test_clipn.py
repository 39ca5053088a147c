"""CLIPN from its training to the table, by the commands a user types."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import eval_ood
import train
from tests.worlds import flags, images
from trainers.clipn import CLIPN

pytestmark = pytest.mark.slow  # trains


def test_clipn_from_training_to_the_table(world, forked, tmp_path):
    """Two epochs, then CTW, ATD and the decisions beside the others."""
    run = tmp_path / "clipn"
    words = ["--shots", "4", "--output-dir", run]
    said = forked.run("train", *flags(world, "CLIPN"), *words, folder=world)
    assert "epoch [2/2] batch [4/4]" in said and "bin_no" in said
    assert "not the paper's setting" in said
    assert (run / "no_encoder/model.pth.tar-2").exists() and (run / "finished.json").exists()
    said = forked.run("eval_ood", "--root", f"{world}/data", "--model-dir", run, folder=world)
    assert "Threshold-free decisions" in said and "OOD rejected" in said
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
    images(tmp_path / "data/web", 4, np.random.default_rng(5))
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
        images(captioned / f"imagenet/val/{name}", 2, np.random.default_rng(6))
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
        (["TRAINER.CLIPN.MICRO_BATCH", "-1"], "MICRO_BATCH is -1, it must be at least 0"),
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


def test_the_advice_when_memory_is_short_can_be_followed(world, call, told, tmp_path, monkeypatch):
    """The run goes on from its checkpoint with a smaller MICRO_BATCH, as it was told to."""
    arguments = [*flags(world, "CLIPN"), "--shots", 2, "--output-dir", tmp_path]
    step = CLIPN.forward_backward

    def fail_in_epoch_two(self, batch):
        if self.epoch == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, batch)

    monkeypatch.setattr(CLIPN, "forward_backward", fail_in_epoch_two)
    assert "lower TRAINER.CLIPN.MICRO_BATCH (now 4)" in told(train, *arguments)
    monkeypatch.setattr(CLIPN, "forward_backward", step)
    call(train, *arguments, "TRAINER.CLIPN.MICRO_BATCH", 2)
    records = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    means = [row["epoch"] for row in map(json.loads, records) if "mean_loss" in row]
    assert means == [1, 2] and (tmp_path / "no_encoder/model.pth.tar-2").exists()
    assert "LOSS_WEIGHT was 0.5" in told(train, *arguments, "TRAINER.CLIPN.LOSS_WEIGHT", 1)
