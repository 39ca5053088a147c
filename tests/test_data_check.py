"""The data check as a user types it: planted faults are all named, a clean folder passes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dassl import command
from run import check

ROOT = Path(__file__).parents[1]
TENCH, GOLDFISH, SHARK, HEN = "n01440764", "n01443537", "n01484850", "n01514859"


def _images(folder: Path, names: list[str], rng) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / name)


@pytest.fixture
def data(tmp_path):
    """Four classes of ImageNet and its four OOD sets, as the protocol has them (but for counts)."""
    rng, images = np.random.default_rng(0), tmp_path / "data/imagenet/images"
    for label, wnid in enumerate((TENCH, GOLDFISH, SHARK, HEN)):
        _images(images / "train" / wnid, [f"{wnid}_{i}.JPEG" for i in range(3)], rng)
        names = [f"ILSVRC2012_val_{50 * label + i:08}.JPEG" for i in range(50)]
        _images(images / "val" / wnid, names, rng)
    for folder in ("iNaturalist/images", "SUN/images", "Places/images", "Texture/images/banded"):
        _images(tmp_path / "data" / folder, [f"{i}.jpg" for i in range(4)], rng)
    return tmp_path / "data"


FLAGS = [
    "--dataset",
    "imagenet",
    "--shots",
    "2",
    "DATASET.CLASSES",
    f"{TENCH},{GOLDFISH},{SHARK},{HEN}",
    *(
        part
        for name in ("iNaturalist", "SUN", "Places", "Texture")
        for part in (f"OOD.SETS.{name}.IMAGES", "4")
    ),
]


def plant(data: Path) -> dict[str, tuple[str, str]]:
    """Plant faults; return the set and the kind under which each must be named."""
    images = data / "imagenet/images"
    val, train = images / "val", images / "train"
    shutil.copy(train / TENCH / f"{TENCH}_0.JPEG", val / TENCH)
    for path in (val / GOLDFISH).iterdir():
        path.unlink()
    (val / SHARK).rename(val / "great_white_shark")
    (val / HEN / "ILSVRC2012_val_00000150.JPEG").write_bytes(b"")
    shutil.copy(val / HEN / "ILSVRC2012_val_00000151.JPEG", val / "loose.JPEG")
    (train / SHARK / f"{SHARK}_0.JPEG").rename(train / TENCH / f"{SHARK}_0.JPEG")
    (train / SHARK / f"{SHARK}_1.JPEG").unlink()
    shutil.rmtree(train / HEN)
    (data / "SUN").rename(data / "sun_pictures")
    shutil.rmtree(data / "Places")
    shutil.copy(data / "iNaturalist/images/2.jpg", data / "Texture/images/banded/copy.jpg")
    damaged = data / "iNaturalist/images/1.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    os.symlink("nowhere.jpg", data / "iNaturalist/images/link.jpg")
    (data / "Texture/images/banded/list.txt").touch()
    return {
        "a training image in val, by its name": ("ID val", "wrong split"),
        "a training image in val, by its bytes": ("ID train", "wrong split"),
        "a class without images": ("ID val", "empty classes"),
        "a folder called by class name": ("ID val", "class names"),
        "a file without content": ("ID val", "empty files"),
        "an image in no class": ("ID val", "loose images"),
        "too few images in val": ("ID val", "count"),
        "an image in another class": ("ID train", "wrong class"),
        "a class with fewer images than shots": ("ID train", "few images"),
        "a class missing in train": ("ID train", "classes missing"),
        "a set under another name": ("SUN", "missing"),
        "a set that is not there": ("Places", "missing"),
        "a set with one image too many": ("Texture", "count"),
        "an image in two sets": ("Texture", "duplicates"),
        "a text file among images": ("Texture", "not images"),
        "a damaged image": ("iNaturalist", "unreadable"),
        "a link to nothing": ("iNaturalist", "broken links"),
    }


@pytest.mark.slow
def test_planted_faults_are_all_named_by_the_script(data, tmp_path):
    planted = plant(data)
    out = tmp_path / "found.json"
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [
            "bash",
            str(ROOT / "scripts/check.sh"),
            "--root",
            "data",
            "--json",
            str(out),
            "--full",
            *FLAGS,
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    told = {(problem["where"], problem["kind"]): problem for problem in found["problems"]}
    # The image with "another name" is counted too: one more in iNaturalist, the link.
    assert set(told) == {*planted.values(), ("iNaturalist", "count")}
    printed = " ".join(done.stdout.split())
    assert all(" ".join(problem["what"].split()) in printed for problem in told.values())
    errors = {key for key, problem in told.items() if problem["level"] == "error"}
    assert errors == {
        ("ID val", "empty classes"),
        ("ID val", "class names"),
        ("SUN", "missing"),
        ("ID val", "empty files"),
        ("ID train", "classes missing"),
        ("Places", "missing"),
        ("iNaturalist", "unreadable"),
        ("iNaturalist", "broken links"),
    }
    assert "evaluation: cannot go ahead before 2, 3, 4, 5, 6, 7, 8 are mended" in done.stdout
    assert "sun_pictures" in told["SUN", "missing"]["what"]
    assert "SUN.tar.gz" in told["SUN", "missing"]["what"]


@pytest.fixture
def exit_code(monkeypatch, tmp_path):
    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["check", *arguments])
        with pytest.raises(SystemExit) as end:
            command.run(check.main)
        return end.value.code

    return run


def test_a_clean_folder_passes(data, exit_code, capsys):
    assert exit_code("--root", "data", "--full", *FLAGS) == 0
    out = capsys.readouterr().out
    assert "evaluation: can go ahead\ntraining: can go ahead" in out
    assert out.count("  ok\n") == 6 and "warning" not in out


@pytest.mark.slow
def test_training_counts_when_it_is_asked_for(data, exit_code, capsys):
    shutil.rmtree(data / "imagenet/images/train")
    evaluate = [flag for flag in FLAGS if flag not in ("--shots", "2")]
    assert exit_code("--root", "data", *evaluate) == 0
    assert "warning: ID train" in capsys.readouterr().out
    assert exit_code("--root", "data", *FLAGS) == 1
    assert exit_code("--root", "data", "--trainer", "LoCoOp", *evaluate) == 1
    assert "error: ID train" in capsys.readouterr().out


def test_clipn_needs_its_pairs_and_no_training_images(data, exit_code, capsys):
    shutil.rmtree(data / "imagenet/images/train")
    clipn = [
        "--root",
        "data",
        "--trainer",
        "CLIPN",
        "--config",
        "vit_b16_cc3m",
        *(flag for flag in FLAGS if flag not in ("--shots", "2")),
    ]
    assert exit_code(*clipn) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "img2dataset --url_list" in out
    assert "error: DATASET.PAIRS" in out and "332 of 332 shards" in out
    assert "evaluation: can go ahead training: cannot go ahead before 1 is mended" in out
    _images(data / "web", ["0.jpg", "1.jpg"], np.random.default_rng(1))
    table = "path,caption\n0.jpg,a caption\n1.jpg,a caption\n"
    (data / "web/pairs.csv").write_text(table, encoding="utf-8")
    assert (
        exit_code(
            *clipn,
            "DATASET.PAIRS.SOURCE",
            "csv",
            "DATASET.PAIRS.PATH",
            "web/pairs.csv",
            "DATALOADER.TRAIN_X.BATCH_SIZE",
            "2",
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "training: can go ahead" in out and "ID train" not in out


def test_own_folders_by_flags(data, exit_code, capsys):
    own = ["--id-data", "data/imagenet/images/train", "--seed", "1"]
    assert exit_code(*own, "--ood-data", "data/SUN") == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if "ID train" in line)
    assert row[2:] == ["train", "4", "12", "-", "ok"]
    assert exit_code(*own) == 1  # nothing to evaluate against
    assert "--ood-data FOLDER" in capsys.readouterr().out


def test_what_no_folder_could_mend_is_told_in_a_sentence(data, exit_code):
    assert "Did you mean 'imagenet'" in exit_code("--root", "data", "--dataset", "imagenett")
    refused = exit_code("--root", "data", *FLAGS, "OOD.SETS.SUN.FOLDERS", "SUN")
    assert "OOD.SETS.SUN.FOLDERS 'SUN': give a value of the type of ['SUN'" in refused
