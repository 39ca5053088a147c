"""An exported detector says what the detector says, by ONNX Runtime, NumPy and Pillow alone."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import detect
from clip.facts import OPENAI_TRANSFORM
from dassl import command
from dassl.data.transforms import Preprocess
from dassl.utils import read_image
from dassl.utils.console import one_line
from dassl.utils.errors import InputError, WriteError
from datasets.folders import images_of
from detector import Detector, export
from ood.registry import SCORES
from ood.scoring import score_parameters

pytestmark = pytest.mark.slow  # many seconds

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CLASSES = ["cat", "dog", "tea pot"]
PLAIN = [name for name, s in SCORES.items() if "odin_logits" not in s.needs]


def further_features(width: int) -> dict[str, torch.Tensor]:
    """Return what CLIPN, FA, NegLabel, CSP and EOE add to the class texts, random."""
    generator = torch.Generator().manual_seed(0)
    widths = {"no": 3, "frozen": 3, "neglabel": 3, "csp": 3, "eoe": 3, "eoe_outliers": 7}
    widths |= {"neglabel_negatives": 230, "csp_negatives": 40}  # in groups of 2, and in one
    features = {
        name: normalize(torch.randn(count, width, generator=generator), dim=-1)
        for name, count in widths.items()
    }
    return {**features, "copies": torch.tensor(3.0)}


def gallop_features(width: int, inner: int) -> dict[str, torch.Tensor]:
    """Return what GalLoP adds: its regions vote on the class."""
    generator = torch.Generator().manual_seed(0)
    return {
        "local_text": normalize(torch.randn(2, 3, width, generator=generator), dim=-1),
        "local_k": torch.tensor([1, 3]),
        "local_map": torch.randn(inner, width, generator=generator),
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Image files of all kinds and shapes, odd ones among them."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i, (height, width) in enumerate(
        [(90, 61), (61, 90), (64, 64), (7, 9), (300, 33), (65, 640)]
    ):
        small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{i}.png")
        image.convert(("L", "CMYK")[i % 2]).save(folder / f"{i}.jpg", quality=90)
        image.quantize(16).save(folder / f"{i}.gif")
    deep = rng.integers(0, 65536, (70, 80)).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "0.png").convert("RGBA").save(folder / "turned.png", exif=exif)
    return sorted(folder.iterdir())


def with_all_inputs(clip_file, arch: str = "tiny-vit", score: str = "MCM") -> Detector:
    plain = Detector.zero_shot(CLASSES, clip_file(arch), score="MCM", device="cpu")
    features = plain.spec.features | further_features(plain.spec.features["text"].shape[1])
    spec = replace(plain.spec, features=features, parameters=score_parameters(SCORES.values()))
    return Detector(spec.choose(score), plain.model.clip)


def graph_and_detector(detector: Detector, folder, pictures) -> tuple[list, list]:
    """Return the outputs of the exported graph on all pictures at once, and the verdicts."""
    session = onnxruntime.InferenceSession(str(export.export(detector, folder)))
    pixels = np.stack([detector.preprocess(path).numpy() for path in pictures])
    return session.run(None, {"pixels": pixels}), detector(pictures)


@pytest.mark.parametrize("score", PLAIN)
def test_every_score_that_is_a_function_of_the_outputs(score, clip_file, pictures, tmp_path):
    detector = with_all_inputs(clip_file, score=score)
    if not detector.model.provides.issuperset(SCORES[score].needs):
        pytest.skip("needs more than texts")
    (scores, labels, p), verdicts = graph_and_detector(detector, tmp_path, pictures)
    np.testing.assert_allclose(scores, [v.score for v in verdicts], rtol=1e-4, atol=1e-4)
    assert labels.tolist() == [v.label for v in verdicts]
    np.testing.assert_allclose(p.max(axis=1), [v.probability for v in verdicts], atol=1e-5)
    assert p.shape == (len(pictures), 3)


@pytest.mark.slow
def test_a_resnet_and_gallop(clip_file, pictures, tmp_path):
    resnet = with_all_inputs(clip_file, "tiny-rn", "GL-MCM")
    plain = with_all_inputs(clip_file)
    extra = gallop_features(
        plain.spec.features["text"].shape[1], plain.model.clip.visual.proj.shape[0]
    )
    features = {"text": plain.spec.features["text"], **extra}
    gallop = Detector(replace(plain.spec, features=features, score="GL-MCM"), plain.model.clip)
    for name, detector in (("resnet", resnet), ("gallop", gallop)):
        (scores, labels, _), verdicts = graph_and_detector(detector, tmp_path / name, pictures)
        np.testing.assert_allclose(scores, [v.score for v in verdicts], rtol=1e-4, atol=1e-4)
        assert labels.tolist() == [v.label for v in verdicts]


@pytest.fixture(scope="module")
def calibrated(clip_file, pictures):
    """Calibrated on half of the pictures."""
    detector = Detector.zero_shot(CLASSES, clip_file("tiny-vit"), score="GL-MCM", device="cpu")
    return detector.calibrate(pictures[::2], 0.5)


@pytest.fixture(scope="module")
def exported(calibrated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export.export(calibrated, folder)
    return folder


def test_the_program_says_what_the_detector_says_without_pytorch(
    exported, calibrated, pictures, tmp_path
):
    for absent in ("torch", "torchvision", "detector", "clip"):
        (tmp_path / f"{absent}.py").write_text("raise ImportError", encoding="utf-8")
    (tmp_path / "notes.png").write_text("no image", encoding="utf-8")
    new = pictures[1::2]  # the threshold is the very score of one of the others
    done = subprocess.run(
        [sys.executable, exported / "verdict.py", *new, tmp_path / "notes.png"],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    *rows, last = (line.split("\t") for line in done.stdout.splitlines())
    for (path, *said), verdict in zip(rows, calibrated(new), strict=True):
        theirs = [verdict.classname, f"{verdict.probability:.1%}", verdict.verdict]
        assert path == verdict.image and [said[0], said[1], said[3]] == theirs
        assert float(said[2]) == pytest.approx(verdict.score, abs=1e-5)
    assert {row[-1] for row in rows} == {"ID", "OOD"}
    assert done.returncode == 1 and last[1] == "unreadable"


def told(exported, *arguments, **options):
    command = [sys.executable, exported / "verdict.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_the_program_finds_the_images_of_a_folder_and_escapes_names(exported, pictures, tmp_path):
    names = [
        "a\nb.png",
        os.fsdecode(b"\xff.png"),
        "z/c.PNG",
        "z/d.png",
        ".hidden.png",
        "notes.txt",
        "no.pdf",
    ]
    (tmp_path / "in/z").mkdir(parents=True)
    for name in names:
        shutil.copy(pictures[0], tmp_path / "in" / name)
    (tmp_path / "in/z/up").symlink_to(tmp_path, target_is_directory=True)
    done = told(exported, "in", cwd=tmp_path)
    expected = [one_line(path) for path in images_of([str(tmp_path / "in")])]
    found = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert [f"{tmp_path}/{path}" for path in found] == expected
    assert found == [r"in/a\nb.png", r"in/\xff.png", "in/z/c.PNG", "in/z/d.png"]
    assert done.returncode == 0 and not done.stderr


@pytest.mark.parametrize("words, status", [([], 2), (["--help"], 0), (["-h"], 0)])
def test_the_program_says_how_to_use_it(words, status, exported):
    done = told(exported, *words)
    assert done.returncode == status and (done.stdout + done.stderr).startswith("usage: ")
    assert bool(done.stdout) == (status == 0)


def test_a_full_disk_keeps_the_exported_detector(exported, calibrated, tmp_path, monkeypatch):
    shutil.copytree(exported, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(WriteError, match="No space left"):
        export.export(calibrated, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def full_disk(_) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("exif", [False, True])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "size, mode", [((64, 64), "shortest"), ((40, 33), "shortest"), ((40, 33), "squash")]
)
def test_pixels_are_the_same_bits(
    exif, interpolation, size, mode, clip_file, pictures, tmp_path, exported
):
    described = json.loads((exported / "detector.json").read_text(encoding="utf-8"))
    described["preprocessing"] |= {
        "size": size,
        "interpolation": interpolation,
        "resize_mode": mode,
        "exif": exif,
    }
    (tmp_path / "detector.json").write_text(json.dumps(described), encoding="utf-8")
    program = shutil.copy(exported / "verdict.py", tmp_path)
    prepare = runpy.run_path(program)["prepare"]
    transform = {**OPENAI_TRANSFORM, "interpolation": interpolation, "resize_mode": mode}
    seen = Preprocess(size, **transform)
    for path in pictures:
        with Image.open(path) as image:
            found = prepare(image)
        assert np.array_equal(found, seen(read_image(path, exif)).numpy()), path


@pytest.fixture
def call(monkeypatch, tmp_path):
    def run(*arguments) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["detect.py", *map(str, arguments)])
        command.run(detect.main)

    return run


@pytest.mark.slow
def test_by_command_of_names_and_of_a_saved_detector(call, clip_file, pictures, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    for path in pictures[::2]:
        shutil.copy(path, tmp_path / "mine")
    flags = ["--classes", "cat,dog", "--backbone", clip_file("tiny-vit"), "--calibrate", "mine"]
    call(*flags, "--save", "kept", "--export", "one")
    assert "exported: one/detector.onnx" in capsys.readouterr().err
    call("--model-dir", "kept", "--export", "two")
    names = ("one", "two")
    one, two = (json.loads((tmp_path / name / "detector.json").read_text()) for name in names)
    assert one == two and one["classes"] == ["cat", "dog"]
    assert one["threshold"] == Detector.load(tmp_path / "kept").threshold.value
    with pytest.raises(InputError, match="has schema ONNX export 1"):
        Detector.load(tmp_path / "one")


def test_what_cannot_be_exported_is_said(call, clip_file, tmp_path, monkeypatch):
    flags = ["--classes", "cat,dog", "--backbone", clip_file("tiny-vit")]
    with pytest.raises(SystemExit, match=r"ODIN needs more than one pass.*MCM, GL-MCM"):
        call(*flags, "--score", "ODIN", "--export", "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/detector.safetensors").write_text("", encoding="utf-8")
    for taken in ("out", "out/detector.safetensors"):
        with pytest.raises(SystemExit, match="name a new folder"):
            call(*flags, "--export", taken)
    with pytest.raises(SystemExit, match=r"Cannot write .*: Not a directory"):
        call(*flags, "--export", "out/detector.safetensors/new")

    def too_large(*_, **__):
        raise RuntimeError("The model is larger than the 2GiB limit.\nMore of it.")

    monkeypatch.setattr(torch.onnx, "export", too_large)
    with pytest.raises(SystemExit, match=r"cannot export MCM of .*: The model .* limit.$"):
        call(*flags, "--export", "new")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: n != "onnx" and find(n))
    with pytest.raises(SystemExit, match=r"pip install -r requirements-export.txt"):
        call(*flags, "--export", "new")
    assert not (tmp_path / "new").exists()


def test_a_graph_that_disagrees_is_not_kept(clip_file, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="nothing was exported"):
        export.export(with_all_inputs(clip_file), tmp_path / "out")
    assert not (tmp_path / "out").exists()
