"""Test-time methods, from the command to their files and table."""

from __future__ import annotations

import csv
import json

import pytest

import eval_ood
from ood.stream_methods import STREAMS, StreamMethod
from results.streams import KIND

pytestmark = pytest.mark.slow  # evaluates


@pytest.fixture
def arguments(world, clip_file, tmp_path):
    words = tmp_path / "words"
    words.mkdir()
    (words / "noun.thing.txt").write_text("\n".join(f"oak {x}" for x in "abcdefghijklmnop") + "\n")
    data = ["--root", f"{world}/data", "--dataset-config-file", f"{world}/pets.yaml"]
    data += ["--backbone", clip_file("tiny-vit"), "--output-dir", tmp_path / "out"]
    fit = ["INPUT.SIZE", "(64, 64)", "DATALOADER.NUM_WORKERS", "0"]
    return lambda *extra: [*data, "--negatives", words, "--negatives-share", "0.5", *extra, *fit]


def test_streams_have_files_and_a_table_of_their_own(call, arguments, tmp_path, capsys):
    streams = ["--streams", "OODD,AdaNeg,TANL", "--stream-ratio", "0.5"]
    call(eval_ood, *arguments("--scores", "MCM", *streams, "--stream-batch", "3"))
    out = capsys.readouterr().out
    assert f"Streams, {KIND}" in out and "order of seed 110" in out and "NegLabel AUROC" in out
    content = json.loads((tmp_path / "out/streams.json").read_text())
    assert content["kind"] == KIND and content["base"] == "NegLabel" and content["seed"] == 110
    assert content["methods"]["OODD"] == {"size": 2048, "k": 5} and len(content["methods"]) == 3
    assert "over all OOD sets" in content["conventions"]["average"] and "over all OOD sets" in out
    with open(tmp_path / "out/streams.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    sets = ["Scenes", "Dots", "average"]
    expected = [[m, s] for m in ("OODD", "AdaNeg", "TANL") for s in sets]
    assert [[row["method"], row["set"]] for row in rows] == expected
    assert [row["kind"] for row in rows] == [KIND] * 9 and rows[0]["batch"] == "3"
    assert all(row["n_id"] == row["n_ood"] for row in rows) and rows[2]["n_id"] == ""
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert list(results["figures"]) == ["MCM", "NegLabel"]  # no stream among them
    call(eval_ood, *arguments("--scores", "MCM"))
    assert not list((tmp_path / "out").glob("streams.*"))  # of another evaluation


def test_a_method_of_ones_own(call, arguments, tmp_path, monkeypatch):
    """Its batch has a default, and needs no words for CLIP's scale."""

    class Own(StreamMethod):
        def __init__(self, scale, noise, weight=0.5):
            assert len(noise) == 15
            self.factor = scale * weight

        def update(self, features, base):
            return self.factor * base

    monkeypatch.setitem(STREAMS, "Own", Own)
    call(eval_ood, *arguments("--streams", "Own", "--negatives", "", "--scores", "MCM"))
    content = json.loads((tmp_path / "out/streams.json").read_text())
    row = content["streams"][0]
    assert content["methods"] == {"Own": {"weight": 0.5}} and row["batch"] == 256
    assert row["auroc"] == row["base_auroc"]


def test_all_images_without_words_start_from_mcm(call, arguments, tmp_path):
    call(eval_ood, *arguments("--streams", "OODD", "--negatives", "", "--scores", "Energy"))
    content = json.loads((tmp_path / "out/streams.json").read_text())
    assert content["base"] == "MCM" and content["streams"][0]["ratio"] is None
    images = json.loads((tmp_path / "out/results.json").read_text())["images"]
    row = content["streams"][0]
    assert (row["n_id"], row["n_ood"]) == (images["ID"], images["Scenes"])


def test_streams_that_cannot_be_made(told, arguments, tmp_path):
    def said(*extra) -> str:
        return " ".join(told(eval_ood, *arguments("--streams", "OODD", *extra)).split())

    assert "are too few. Set --stream-ratio nearer to 0.5" in said("--stream-ratio", "0.001")
    assert "ODIN needs the images themselves and keeps no features" in said("--scores", "MCM,ODIN")
    assert "add --streams" in said("--streams", "", "--stream-ratio", "0.5")
    assert not (tmp_path / "out").exists()


def test_features_without_room_lose_no_result_and_end_as_an_error(told, arguments, tmp_path):
    room = ["--features-limit", "1e-9", "--features", tmp_path / "features"]
    said = told(eval_ood, *arguments("--streams", "OODD", *room, "--scores", "MCM"))
    assert said.startswith("error: No streams: the image features of ID could not be kept in")
    assert f"All else of this evaluation is in {tmp_path}" in said
    assert (tmp_path / "out/results.json").exists()
    assert not (tmp_path / "out/streams.json").exists()
