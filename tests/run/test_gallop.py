"""GalLoP by the commands: train, evaluate, keep features, verdict and region map."""

from __future__ import annotations

import json

import pytest

import detect
import eval_ood
import train
import visualize
from results.files import read_scores
from tests.worlds import flags

pytestmark = pytest.mark.slow  # trains


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("gallop")


def results(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_from_training_to_a_verdict(world, call, output, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    run, root = output / "run", ["--root", f"{world}/data"]
    call(train, *flags(world, "GalLoP"), "--shots", 2, "--seed", 1, "--output-dir", run)
    assert "Accuracy: global prompts" in caplog.text
    words = json.loads((run / "context_words.json").read_text(encoding="utf-8"))["contexts"]
    assert list(words) == ["global 1", "global 2", "local 1", "local 2"]
    call(eval_ood, *root, "--model-dir", run)
    found = results(run)
    assert found["provenance"]["comparable"]["settings"]["TOPK"] == [1, 3]
    assert {"MCM", "GL-MCM"} <= found["figures"].keys()
    # The class follows from regions too, whatever the score.
    call(eval_ood, *root, "--model-dir", run, "--scores", "MCM", "--output-dir", tmp_path / "mcm")
    assert results(tmp_path / "mcm")["accuracy"] == found["accuracy"]

    image = world / "data/pets/val/cat/0.jpg"
    capsys.readouterr()
    call(detect, "--model-dir", run, image)
    said = capsys.readouterr().out
    expected = read_scores(run / "scores/ID.csv")
    row = list(expected.images).index("pets/val/cat/0.jpg")
    _, label, _, score, _ = said.strip().splitlines()[-1].split("\t")
    assert float(score) == pytest.approx(expected.scores["GL-MCM"][row], rel=1e-5)
    assert label == ["cat", "crane", "golden retriever", "tea pot"][expected.predictions[row]]
    call(visualize, *root, "--model-dir", run, "--image", image, "--label", "cat")
    assert len(list((run / "visualization").glob("*.png"))) == 1


def test_kept_regions_are_those_of_the_learned_map(world, call, output, tmp_path, caplog):
    caplog.set_level("INFO")
    kept = ["--root", f"{world}/data", "--model-dir", output / "run", "--features-local"]
    kept += ["--features", tmp_path / "kept", "--output-dir"]
    call(eval_ood, *kept, tmp_path / "first")
    caplog.clear()
    call(eval_ood, *kept, tmp_path / "second", "--load-epoch", 3)
    assert "Image features of ID, Scenes, Dots are read" in caplog.text
    assert results(tmp_path / "first")["figures"] == results(tmp_path / "second")["figures"]
