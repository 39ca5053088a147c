"""No verdict is lost to the encoding of a terminal; a wrong --model-dir names the right one."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import detect
from dassl.utils.errors import InputError
from detector.verdicts import Verdict, VerdictFile
from run.folder import check_model_dir

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_an_ascii_terminal_gets_every_verdict(clip_file, tmp_path):
    names = ("caf\u00e9.png", "\u732b.png", "plain.png")
    for name in names:
        Image.new("RGB", (70, 70), "red").save(tmp_path / name)
    flags = ["--classes", "caf\u00e9,\u732b", "--backbone", clip_file("tiny-vit")]
    done = subprocess.run(
        [sys.executable, "detect.py", *flags, *(str(tmp_path / name) for name in names)],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("\t")[0].rpartition("/")[2] for line in lines] == [
        "caf\\xe9.png",
        "\\u732b.png",
        "plain.png",
    ]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of an image, an image without an extension, and other paths to both."""
    monkeypatch.chdir(tmp_path)
    for name in ("images/a.png", "photo", "held_out/b.png", "export/detector.onnx"):
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (70, 70), "red").save(path, "PNG")
    Path("link.csv").symlink_to("images/a.png")
    Path("hard.csv").hardlink_to("photo")
    Path("maps").symlink_to("images")
    Path("images/deep").mkdir()
    Path("inner").symlink_to("images/deep")
    return tmp_path


@pytest.mark.parametrize(
    "flags, says",
    [
        (["photo", "--csv", "photo"], "--csv photo is the image photo and would replace it"),
        (["photo", "--csv", "images/../photo"], "is the image photo and would"),
        (["photo", "--csv", "hard.csv"], "--csv hard.csv is the image photo"),
        (["images", "--csv", "link.csv"], "--csv link.csv has the name of an image"),
        (["images", "--calibrate", "photo", "--csv", "hard.csv"], "is the image photo"),
        (["images", "--calibrate", "held_out", "--csv", "held_out/b.png"], "name of an image"),
        (["images", "--regions", "maps"], "--regions maps lies in images"),
        (["images", "--regions", "inner"], "--regions inner lies in images"),
        (["maps", "--regions", "images/deep/new"], "lies in maps"),
        (["images", "--calibrate", "held_out", "--regions", "held_out"], "lies in held_out"),
        (["images", "--regions", "photo"], "--regions photo is a file: name a new folder"),
        (["--calibrate", "images", "--save", "photo"], "--save photo is a file: name a new folder"),
        (["--calibrate", "images", "--save", "x", "--export", "./x"], "are one folder"),
        (["--calibrate", "images", "--save", "export"], "--save export holds an exported detector"),
    ],
)
def test_outputs_that_would_replace_something_are_refused(flags, says, place, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["detect.py", "--classes", "cat,dog", *flags])
    with pytest.raises(InputError, match=re.escape(says)):
        detect.parse_args()


@pytest.mark.parametrize("flags", [["photo", "--csv", "images/v.csv"], ["photo", "--csv", "v.csv"]])
def test_other_csv_files_are_written(flags, place, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["detect.py", "--classes", "cat,dog", *flags])
    assert detect.parse_args().csv == flags[-1]


def test_a_share_of_no_images_is_refused(place, monkeypatch, clip_file):
    flags = ["--classes", "cat,dog", "--backbone", clip_file("tiny-vit"), "--tpr", "0.5", "images"]
    monkeypatch.setattr(sys, "argv", ["detect.py", *flags])
    with pytest.raises(InputError, match=r"--tpr 0.5 has no effect .* add --calibrate"):
        detect.main()


def test_a_checkpoint_or_its_folder_names_the_run(tmp_path):
    checkpoint = tmp_path / "run/prompt_learner/model.pth.tar-3"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    check_model_dir(tmp_path / "run")
    for wrong in (checkpoint, checkpoint.parent):
        with pytest.raises(InputError, match=rf"give --model-dir {tmp_path}/run, and --load-epoch"):
            check_model_dir(wrong)
    with pytest.raises(InputError, match="no such folder"):
        check_model_dir(tmp_path / "nowhere")
    (tmp_path / "run/config.yaml").touch()
    with pytest.raises(InputError, match="it is a file"):
        check_model_dir(tmp_path / "run/config.yaml")


@pytest.mark.parametrize("name", ["a\nb.png", "a\tb.png", "\x1b[31mred.png", "a\x85b\u2028.png"])
def test_a_name_with_control_characters_stays_on_one_line(name, tmp_path):
    for verdict in (Verdict(name, 0, "cat", 0.5, 0.3, 1.0), Verdict(name, error=f"{name} is bad")):
        line = str(verdict)
        assert len(line.splitlines()) == 1 and line.count("\t") in (2, 3) and "\x1b" not in line
        with VerdictFile(tmp_path / "v.csv") as file:
            file.write(verdict)
        with open(tmp_path / "v.csv", newline="", encoding="utf-8") as file:
            assert next(csv.DictReader(file))["image"] == name
