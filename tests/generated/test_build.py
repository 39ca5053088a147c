"""The tree on disk: layout, completeness, atomicity."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from dassl.utils.errors import InputError
from generated import __main__ as entry
from generated import build as room
from generated import jobs
from generated.build import Counts, build
from generated.kinds import ID_OBJECTS, NEVER_NAMED, OOD_SETS
from generated.parallel import in_processes
from generated.shifted import CORRUPTIONS, corrupted
from generated.streams import captioned_sample, id_sample
from generated.words import word_lists
from ood.words import distinct_words, read_lists

pytestmark = pytest.mark.slow  # many seconds

TINY = Counts(train=1, val=1, ood=2, pairs=2, shifted=1)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    assert build(root, TINY, workers=1)
    return root


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_layout(tree):
    classes = sorted(name.replace(" ", "_") for name in ID_OBJECTS)
    for part in ("images/train", "images/val", "masks/val"):
        folder = tree / "generated" / part
        assert sorted(path.name for path in folder.iterdir()) == classes
        assert [path.name for path in (folder / "hot_air_balloon").iterdir()] == ["00000.png"]
    for name in OOD_SETS:
        assert len(list((tree / "generated_ood" / name).rglob("*.png"))) == TINY.ood
    assert sorted(path.name for path in tree.iterdir()) == ["generated", "generated_ood"]


def test_files_hold_what_the_streams_give(tree):
    sample = id_sample("val", "hot air balloon", 0)
    folder = tree / "generated"
    with Image.open(folder / "images/val/hot_air_balloon/00000.png") as image:
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), sample.image)
    with Image.open(folder / "masks/val/hot_air_balloon/00000.png") as mask:
        assert np.array_equal(np.asarray(mask), np.where(sample.mask, 255, 0))
    with open(folder / "captions.csv", newline="", encoding="utf-8") as handle:
        rows = {row["path"]: row for row in csv.DictReader(handle)}
    row = rows["images/val/hot_air_balloon/00000.png"]
    assert row["caption"] == sample.caption and row["class"] == "hot air balloon"
    assert row["background"] == sample.background
    assert len(rows) == 2 * len(ID_OBJECTS)


def test_words_are_those_that_captions_name(tree):
    lists = read_lists(str(tree / "generated/words"))
    assert lists == word_lists()
    words = {word.text for word in distinct_words(lists)}
    assert {"umbrella", "red umbrella", "beach", "truck", "stripes", "medium sized"} <= words
    caption = captioned_sample("clip-train", 0).caption
    assert any(word in caption for word in words)
    assert words.isdisjoint(NEVER_NAMED)


def test_pairs_are_a_stream_of_their_own(tree):
    with open(tree / "generated/pairs.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["path"] for row in rows] == ["pairs/00000.png", "pairs/00001.png"]
    for index, row in enumerate(rows):
        sample = captioned_sample("web", index)
        with Image.open(tree / "generated" / row["path"]) as image:
            assert np.array_equal(np.asarray(image), sample.image)
        assert row["caption"] == sample.caption


def test_shifted_images_are_corrupted_test_images(tree):
    folder = tree / "generated"
    classes = sorted(path.name for path in (folder / "images/val").iterdir())
    lines = (folder / "shifted.txt").read_text().splitlines()
    assert len(lines) == len(list((folder / "shifted").rglob("*.png"))) == len(ID_OBJECTS)
    for line in lines:
        path, label = line.split(" ")
        corruption, _, name = path.split("/")
        assert name.rpartition("_")[0] == classes[int(label)]
        with Image.open(folder / "shifted" / path) as image:
            pixels = np.asarray(image, float)
        with Image.open(folder / "images/val" / classes[int(label)] / "00000.png") as image:
            assert corruption in CORRUPTIONS and 0 < np.abs(pixels - np.asarray(image)).mean() < 100


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_severity_grows(corruption):
    image = id_sample("val", "umbrella", 0).image
    function, strengths = CORRUPTIONS[corruption]
    changes = [
        np.abs(
            np.asarray(function(Image.fromarray(image), s, np.random.default_rng(0)), float) - image
        )
        for s in strengths
    ]
    means = [change.mean() for change in changes]
    assert len(means) == 5 and means == sorted(means) and means[0] > 0


def test_classes_meet_every_corruption_and_severity():
    image = np.zeros((4, 4, 3), np.uint8)
    met = {(name, *corrupted(image, name, i)[1:]) for name in ID_OBJECTS for i in range(10)}
    assert len({(name, corruption) for name, corruption, _ in met}) == 24 * 5
    assert len({(corruption, severity) for _, corruption, severity in met}) == 5 * 5


def test_marker_names_version_seed_and_counts(tree):
    marker = json.loads((tree / "generated/generated.json").read_text())
    assert marker["counts"] == {"train": 1, "val": 1, "ood": 2, "pairs": 2, "shifted": 1}
    assert marker["images"] == TINY.images() == 3 * 24 + 5 * 2 + 2
    assert marker["version"] == room.VERSION and len(marker["pixels_sha256"]) == 64
    assert "nothing about ImageNet" in marker["note"]


def test_a_complete_tree_is_left_alone(tree):
    before = {name: (tree / name).stat().st_mtime_ns for name in files(tree)}
    assert not build(tree, TINY, workers=1)
    assert before == {name: (tree / name).stat().st_mtime_ns for name in files(tree)}


def test_processes_give_the_same_images(tree, tmp_path):
    build(tmp_path, TINY, workers=2)
    assert files(tmp_path) == files(tree)
    assert all((tmp_path / f).read_bytes() == (tree / f).read_bytes() for f in files(tree))


def test_a_damaged_tree_is_made_again(tmp_path):
    counts = Counts(1, 1, 1, 1)
    build(tmp_path, counts, workers=1)
    lost = next((tmp_path / "generated_ood").rglob("*.png"))
    lost.unlink()
    assert build(tmp_path, counts, workers=1) and lost.is_file()
    assert build(tmp_path, Counts(1, 1, 2, 1), workers=1), "other counts"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generated", "generated_ood"]


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def stop(job, draw=room.run_job):
        calls.append(job)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return draw(job)

    monkeypatch.setattr(room, "run_job", stop)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, TINY, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs, "_write", full)
    with pytest.raises(InputError, match="No space left on device"):
        build(tmp_path, TINY, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_stranger_is_not_replaced(tmp_path):
    (tmp_path / "generated").mkdir()
    (tmp_path / "generated/mine.txt").write_text("precious")
    with pytest.raises(InputError, match="was not made by this generator"):
        build(tmp_path, TINY, workers=1)
    assert files(tmp_path) == ["generated/mine.txt"]


def test_entry_point_says_what_it_did(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(entry, "build", lambda root, workers: root == str(tmp_path / "new"))
    entry.main(["--root", str(tmp_path / "new")])
    entry.main(["--root", str(tmp_path / "old")])
    made, skipped = capsys.readouterr().out.splitlines()
    assert "5408 generated (synthetic) images" in made and "nothing to do" in skipped


def test_a_log_file_gets_no_bar(capfd):
    assert list(in_processes(abs, [-1, -2], workers=1, title="drawing")) == [1, 2]
    assert capfd.readouterr() == ("", "")
