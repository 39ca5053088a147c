"""What a detector says beside its verdicts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dassl.utils.errors import InputError, WriteError
from datasets.classnames import read_names
from datasets.folders import images_of
from detector import Detector
from detector.calibration import warn_if_one_sided


@pytest.fixture(scope="module")
def detector(clip_file):
    return Detector.zero_shot(["cat", "dog", "tea pot"], clip_file("tiny-vit"))


@pytest.fixture
def photograph(tmp_path):
    """Upright in its EXIF orientation alone."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "phone.png", exif=exif)
    return tmp_path / "phone.png"


def test_printing_a_detector_says_what_it_is(detector, photograph):
    assert "3 classes, MCM, no threshold)" in repr(detector) and "zero-shot" in repr(detector)
    calibrated = detector.calibrate([photograph] * 3)
    assert f"ID at MCM >= {calibrated.threshold.value:.6g})" in repr(calibrated)


def test_a_failed_write_keeps_the_saved_detector(detector, photograph, tmp_path, monkeypatch):
    detector.calibrate([photograph] * 3).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = detector.calibrate([photograph] * 2)
    with pytest.raises(InputError, match="--tpr 95"):
        Detector(replace(broken.spec, tpr=95), detector.model.clip).save(tmp_path)

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(WriteError, match="What was there before is unchanged"):
        broken.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    broken.save(tmp_path)
    assert Detector.load(tmp_path).threshold.images == 2


@pytest.mark.parametrize(
    "names", [("cat", "dog"), (n for n in ("cat", "dog")), np.array(["cat", "dog"]), ["cat", "dog"]]
)
def test_class_names_are_anything_in_an_order(names, clip_file, photograph, tmp_path):
    found = Detector.zero_shot(names, clip_file("tiny-vit"))
    assert found.spec.classnames == ["cat", "dog"]
    assert {type(name) for name in found.spec.classnames} == {str}
    found.calibrate([photograph]).save(tmp_path / "kept")
    assert Detector.load(tmp_path / "kept").spec.classnames == ["cat", "dog"]


@pytest.mark.parametrize(
    "names",
    ["cat", b"cat", {"cat", "dog"}, {"cat": 0}, ["cat", None], [1], ["cat", " "], [], None, 5],
)
def test_class_names_without_an_order_or_a_text_are_refused(names, clip_file):
    with pytest.raises(InputError, match="class names are a list such as"):
        Detector.zero_shot(names, clip_file("tiny-vit"))


def test_class_names_alone_give_odin_its_gradients(clip_file, photograph):
    odin = Detector.zero_shot(["cat", "dog"], clip_file("tiny-vit"), score="ODIN")
    assert odin.calibrate([photograph] * 2)(photograph).verdict == "ID"


def test_exif_orientation_is_asked_for_and_kept(detector, photograph, tmp_path):
    turned = Detector(replace(detector.spec, exif=True), detector.model.clip)
    by_hand = Image.open(photograph).convert("RGB").rotate(-90, expand=True)
    assert torch.equal(turned.preprocess(photograph), detector.preprocess(by_hand))
    assert torch.equal(turned.preprocess(Image.open(photograph)), detector.preprocess(by_hand))
    assert not torch.equal(detector.preprocess(photograph), detector.preprocess(by_hand))
    turned.save(tmp_path / "kept")
    assert Detector.load(tmp_path / "kept").spec.exif
    detector.save(tmp_path / "plain")
    assert not Detector.load(tmp_path / "plain").spec.exif


@pytest.mark.parametrize(
    "classes, labels, warns",
    [
        (3, {0: 20}, True),  # three classes, images of one
        (2, {1: 20}, True),
        (3, {0: 100, 2: 3}, True),  # and a few that are taken for another
        (10, dict.fromkeys(range(5), 4), True),
        (3, {0: 10, 1: 10}, False),
        (1, {0: 20}, False),
        (1000, dict.fromkeys(range(95), 1), False),  # few images, drawn from all classes
        (3, {0: 1}, False),  # of one image nothing follows
    ],
)
def test_calibrating_on_few_of_the_classes_is_remarked_on(caplog, classes, labels, warns):
    warn_if_one_sided(Counter(labels), [f"class {i}" for i in range(classes)])
    assert ("Use images of all classes" in caplog.text) == warns
    if warns:
        assert f"of the {classes} classes" in caplog.text and "(class " in caplog.text


def test_a_calibration_counts_what_its_images_are_called(detector, photograph, caplog):
    detector.calibrate([photograph] * 20)
    assert "Nearly all of the 20 images to calibrate on are predicted as" in caplog.text


def test_region_pictures_carry_score_and_verdict(detector, photograph, tmp_path, monkeypatch):
    captions = []

    def save(path, maps):
        captions.append(maps[0].caption)
        assert maps[0].original.size == (90, 60) and maps[0].box == (15, 0, 75, 60)
        assert maps[0].ranks.shape == (4, 4) and maps[0].source == photograph

    monkeypatch.setattr("detector.detector.save_region_maps", save)
    detector.save_regions(photograph, tmp_path / "map.png")
    detector.save_regions(photograph, tmp_path / "map.png", 0)
    calibrated = detector.calibrate([photograph] * 3)
    # Its score is the threshold, but for the rounding of a batch of three.
    verdict = replace(calibrated(photograph), threshold=-1.0, verdict="ID")
    calibrated.save_regions(photograph, tmp_path / "map.png", verdict)
    rejected = replace(verdict, threshold=verdict.score + 1, verdict="OOD")
    calibrated.save_regions(photograph, tmp_path / "map.png", rejected)
    plain, of_a_class, with_verdict, of_a_rejected = captions
    assert "label: cat   |" in of_a_class and "MCM" not in of_a_class
    assert f"MCM {verdict.score:.6g} < {verdict.score + 1:.6g}: OOD" in of_a_rejected
    assert f"\nMCM {verdict.score:.6g}" in plain
    assert f"MCM {verdict.score:.6g} >= {verdict.threshold:.6g}: ID" in with_verdict


def test_a_mask_has_its_images_size(detector, photograph, tmp_path):
    mask = str(tmp_path / "mask.png")
    Image.new("L", (90, 60)).save(mask)
    assert detector.region_map(photograph, 0, mask).mask.size == (90, 60)
    Image.new("L", (60, 90)).save(mask)
    with pytest.raises(InputError, match=r"mask.png is \(60, 90\), its image \(90, 60\)"):
        detector.region_map(photograph, 0, mask)


def test_a_list_of_class_names_may_have_their_folders(tmp_path):
    path = tmp_path / "classnames.txt"
    path.write_text("n01440764 tench\nn01443537  goldfish, a fish\n\n", encoding="utf-8")
    assert read_names(str(path)) == ["tench", "goldfish, a fish"]
    path.write_text("cats\tcat\ngolden dogs\tgolden retriever\n", encoding="utf-8")
    assert read_names(str(path)) == ["cat", "golden retriever"]
    path.write_text("cat # a comment\nn01440764 tench\n", encoding="utf-8")
    assert read_names(str(path)) == ["cat", "n01440764 tench"]  # not every line has a folder
    assert read_names("cat, golden retriever") == ["cat", "golden retriever"]
    for text in ("", " , ", str(tmp_path / "nothing.txt")):
        with pytest.raises(InputError):
            read_names(text)


@pytest.mark.parametrize(
    "text, alike",
    [
        ("Crane,crane", "Crane = crane"),
        ("hot_dog,cat,hot dog", "hot_dog = hot dog"),
        ("cat,cat", "cat = cat"),
        ("tea  pot,Tea_Pot", "tea  pot = Tea_Pot"),
        ("cat,dog", ""),
    ],
)
def test_names_that_are_one_in_a_prompt_are_warned_of_once(caplog, clip_file, text, alike):
    names = read_names(text)
    assert names == text.split(",") and not caplog.text  # detect.py --classes reads, then makes
    Detector.zero_shot(names, clip_file("tiny-vit"))
    assert (alike in caplog.text) and bool(alike) == caplog.text.count("no prompt can tell")


def test_a_calibration_is_a_new_detector(detector, photograph):
    assert detector.calibrate([photograph] * 3).threshold.images == 3
    assert detector.threshold is None


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_means_its_images(kind, detector, photograph, caplog):
    folder = photograph.parent
    (folder / "deeper").mkdir()
    Image.open(photograph).save(folder / "deeper/other.png")
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    found = detector.calibrate(kind(folder))
    assert found.threshold == detector.calibrate(images_of([str(folder)])).threshold
    assert found.spec.origin["calibration"] == {"images": str(folder), "unreadable": 0}
    assert detector.calibrate(kind(photograph)).threshold.images == 1
    assert "could not be read" not in caplog.text


def test_unreadable_images_of_a_calibration_are_named(detector, photograph, caplog):
    bad = [None, "a.png", torch.zeros(2, 2), "b.png"]
    with pytest.raises(InputError) as error:
        detector.calibrate(bad)
    calibrated = detector.calibrate([*bad, photograph])
    for message in (str(error.value), caplog.text):
        assert "4 images could not be read, first: images[0]: an image is a path" in message
        assert "Cannot read the image a.png ([Errno 2]" in message
        assert "images[2]: an image tensor is [3, H, W]" in message and "b.png" not in message
    assert calibrated.threshold.images == 1
    assert calibrated.spec.origin["calibration"]["unreadable"] == 4


def test_a_calibration_needs_an_image(detector, tmp_path):
    (tmp_path / "empty").mkdir()
    for images, where in (([], ":"), (tmp_path / "empty", " in /.*empty:"), (iter([]), ":")):
        with pytest.raises(InputError, match=f"calibrate on{where} give images, or a folder"):
            detector.calibrate(images)


def test_a_detector_is_loaded_from_what_save_returned(detector, photograph, tmp_path, monkeypatch):
    kept = detector.calibrate([photograph]).save(tmp_path / "kept")
    monkeypatch.chdir(tmp_path / "kept")
    for path in (kept, str(kept), kept.parent, kept.name):
        assert Detector.load(path).threshold.images == 1
    for path in (tmp_path, tmp_path / "detector.json"):
        with pytest.raises(InputError, match=f"^{tmp_path} has no detector.json: run eval_ood.py"):
            Detector.load(path)


def test_settings_may_be_paths(clip_file, detector, photograph, tmp_path):
    outliers, words = tmp_path / "out.txt", tmp_path / "noun.a.txt"
    outliers.write_text("oak\nelm\n", encoding="utf-8")
    words.write_text("oak\nelm\nyew\n" * 5, encoding="utf-8")
    names, backbone = ["cat", "dog"], Path(clip_file("tiny-vit"))
    assert Detector.zero_shot(names, backbone, outliers=outliers).score == "EOE"
    with pytest.raises(InputError, match="less than one word"):
        Detector.zero_shot(names, backbone, negatives=tmp_path)
    detector.calibrate([photograph]).save(tmp_path / "kept")
    assert Detector.load(tmp_path / "kept", backbone=backbone).threshold
    with pytest.raises(InputError, match="There is no file or folder"):
        Detector.load(tmp_path / "kept", backbone=Path("nothing.pt"))
    assert Detector.load(tmp_path / "kept", score=None, backbone=None).score == "MCM"


@pytest.mark.parametrize(
    "setting", ["backbone", "template", "activation", "score", "negatives", "outliers"]
)
@pytest.mark.parametrize("value", [["oak", "elm"], ("oak",), 5, b"oak"])
def test_a_setting_is_one_text(setting, value, clip_file, tmp_path):
    settings = {"backbone": clip_file("tiny-vit"), setting: value}
    with pytest.raises(InputError, match=f"^{setting} is one text or path, got "):
        Detector.zero_shot(["cat", "dog"], **settings)
    if setting in ("backbone", "score"):
        with pytest.raises(InputError, match=f"^{setting} is one text or path, got "):
            Detector.load(tmp_path, **{setting: value})
