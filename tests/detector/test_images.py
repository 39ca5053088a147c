"""Images of every kind are scored as they were when they arrived, or refused in a sentence."""

from __future__ import annotations

import io
import pickle
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from dassl.utils.errors import BadImageError, InputError
from detector import Detector
from detector.spec import write_spec
from detector.verdicts import Verdict

COUNT = 4


@pytest.fixture(scope="module")
def detector(clip_file):
    return Detector.zero_shot(["cat", "dog", "tea pot"], clip_file("tiny-vit"), device="cpu")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Four images of one size, and their verdicts' scores differ."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((70, 70), Image.Resampling.NEAREST)
        image.quantize(25).convert("RGB").save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def scores(verdicts) -> list[float]:
    return [pytest.approx(v.score, abs=1e-7) for v in verdicts]


class Slow(io.BytesIO):
    """A file that lets other threads run whenever it is read."""

    def read(self, *arguments):
        time.sleep(1e-4)
        return super().read(*arguments)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_open_file_is_read_by_all_threads(kind, detector, paths):
    file = Slow()
    Image.open(paths[0]).save(file, kind)
    verdicts = list(detector.verdicts([file] * 24))
    assert {v.error for v in verdicts} == {""} and len({v.score for v in verdicts}) == 1
    assert scores(verdicts[:1]) == [detector(file).score] and not file.closed


def film(paths, tmp_path):
    frames = [Image.open(path) for path in paths]
    frames[0].save(tmp_path / "film.tif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "film.tif") as image:
        yield from ImageSequence.Iterator(image)


def refilled_tensor(paths, _):
    pixels = torch.empty(3, 70, 70, dtype=torch.uint8)
    for path in paths:
        yield pixels.copy_(torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1))


def refilled_image(paths, _):
    canvas = Image.new("RGB", (70, 70))
    for path in paths:
        canvas.paste(Image.open(path))
        yield canvas


def refilled_file(paths, _):
    file = io.BytesIO()
    for path in paths:
        file.seek(0)
        file.truncate()
        file.write(path.read_bytes())
        yield file


def closed_file(paths, _):
    for path in paths:
        with open(path, "rb") as file:
            yield file


SOURCES = [film, refilled_tensor, refilled_image, refilled_file, closed_file]


@pytest.mark.parametrize("source", SOURCES)
def test_what_changes_after_it_arrived_is_scored_as_it_was(source, detector, paths, tmp_path):
    expected = detector(paths)
    assert len({v.score for v in expected}) == COUNT
    found = list(detector.verdicts(source(paths, tmp_path)))
    assert [v.score for v in found] == scores(expected)


class Broken:
    def read(self):
        raise RuntimeError("the connection is gone")


def damaged_member(path, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "a.png")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[200:210] = bytes(10)
    return zipfile.ZipFile(io.BytesIO(content)).open("a.png")


def test_what_cannot_be_read_is_one_unreadable_image(detector, paths, tmp_path):
    half = Image.open(io.BytesIO(paths[0].read_bytes()[:-60]))
    closed = io.BytesIO(paths[0].read_bytes())
    closed.close()
    text = io.StringIO("no image")
    bad = [
        half,
        closed,
        text,
        Broken(),
        damaged_member(paths[0], tmp_path),
        "",
        Image.new("L", (0, 0)),
    ]
    verdicts = list(detector.verdicts([*bad, paths[0]]))
    assert [bool(v.error) for v in verdicts] == [True] * len(bad) + [False]
    assert all("Cannot read the image" in v.error for v in verdicts[:-1])
    assert not any(" at 0x" in v.error.partition("(")[0] for v in verdicts)
    assert "Bad CRC-32" in verdicts[4].error and "0 x 0 pixels" in verdicts[6].error


@pytest.mark.parametrize(
    "tensor, says",
    [
        (torch.ones(3, 64, 64).to_sparse(), "is sparse"),
        (torch.ones(2, 3, 64, 64).to_sparse(), "is sparse"),
        (torch.ones(3, 64, 64, device="meta"), "is without values"),
        (torch.zeros(8, 8), r"got \[8, 8\]"),
        (torch.tensor(1.0), r"got \[\]"),
        (None, "not NoneType"),
        (5, "not int"),
        (b"bytes", "not bytes"),
    ],
)
def test_what_is_no_image_is_refused(tensor, says, detector):
    with pytest.raises(InputError, match=says):
        detector(tensor)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch will give them up
def test_quantised_pixels_are_refused(detector):
    pixels = torch.quantize_per_tensor(torch.ones(3, 64, 64), 0.1, 0, torch.quint8)
    with pytest.raises(InputError, match="is quantised"):
        detector(pixels)


def test_an_open_file_has_its_name(detector, paths):
    content = paths[0].read_bytes()
    named = io.BytesIO(content)
    named.filename = "inner/a.png"
    with open(paths[0], "rb") as file, open(bytes(paths[0]), "rb") as by_bytes:
        verdicts = detector([file, by_bytes, named, io.BytesIO(content), Image.open(paths[0])])
    path = str(paths[0])
    assert [v.image for v in verdicts] == [path, path, "inner/a.png", "", path]


@pytest.mark.parametrize("of", [1, np.int64(1), np.uint8(1), torch.tensor(1)])
def test_a_region_map_is_of_any_integer(of, detector, paths):
    found = detector.region_map(paths[0], of)
    assert found.label == "dog" and not found.verdict
    assert (found.ranks == detector.label_ranks(Image.open(paths[0]), 1).numpy()).all()


@pytest.mark.parametrize("zero", [0, np.int64(0), torch.tensor(0)])
def test_class_0_is_a_class(zero, detector, paths):
    assert detector.region_map(paths[0], zero).label == "cat"
    assert "(predicted)" in detector.region_map(paths[0]).label


@pytest.mark.parametrize("of", [-1, 3, True, 1.0, "", "cat", np.array([0, 1]), []])
def test_a_region_map_is_of_a_class(of, detector, paths):
    for ask in (detector.region_map, detector.label_ranks, detector.irrelevant_regions):
        with pytest.raises(InputError, match="from 0 to 2"):
            ask(paths[0], of)


def test_an_unreadable_image_has_no_region_map(detector, paths):
    (verdict,) = detector.verdicts(["nothing.png"])
    with pytest.raises(InputError, match="region map of an unreadable image: Cannot read"):
        detector.region_map(paths[0], verdict)
    with pytest.raises(InputError, match="from 0 to 2"):
        detector.region_map(paths[0], Verdict("a.png", 7, "x", 0.5, 0.5, 1.0))


def test_a_region_map_quotes_the_verdict_on_its_own_file(detector, paths, tmp_path, monkeypatch):
    verdict = detector(paths[0])
    with pytest.raises(InputError, match=r"of .*1.png cannot quote the verdict on .*0.png"):
        detector.region_map(paths[1], verdict)
    monkeypatch.chdir(paths[0].parent)
    (tmp_path / "link.png").symlink_to(paths[0])
    for same in (paths[0].name, str(paths[0]), tmp_path / "link.png"):
        assert "MCM" in detector.region_map(same, verdict).verdict
    for nameless in (replace(verdict, image=""), replace(verdict, image="inner/a.png")):
        assert "MCM" in detector.region_map(paths[1], nameless).verdict


@pytest.mark.parametrize("other", [torch.zeros(3, 64, 64), [], ["a.png"], None, b"a.png"])
def test_a_region_map_is_of_one_file(other, detector, paths):
    with pytest.raises(InputError, match=f"give its path, .* not {type(other).__name__}"):
        detector.region_map(other)
    with pytest.raises(InputError, match="give its path, and that of a mask, not ndarray"):
        detector.region_map(paths[0], 0, np.zeros((70, 70)))


def test_regions_are_read_like_verdicts(detector, clip_file, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((90, 60), Image.Resampling.NEAREST)
    image.save(tmp_path / "phone.png", exif=exif)
    classes, backbone = ["cat", "dog", "tea pot"], clip_file("tiny-vit")
    upright = Detector.zero_shot(classes, backbone, device="cpu", exif=True)
    by_hand = detector.label_ranks(image.rotate(-90, expand=True), 0)
    assert not torch.equal(by_hand, detector.label_ranks(image, 0))
    for photograph in (tmp_path / "phone.png", Image.open(tmp_path / "phone.png")):
        assert torch.equal(upright.label_ranks(photograph, 0), by_hand)
    assert (upright.region_map(tmp_path / "phone.png", 0).ranks == by_hand.numpy()).all()


def test_regions_are_irrelevant_where_the_label_ranks_below_k(detector, paths):
    ranks = detector.label_ranks(paths[0], 0)
    worst = int(ranks.max())
    assert worst > 1
    for k in (worst - 1, worst):
        chosen = Detector(replace(detector.spec, top_k=k), detector.model.clip)
        irrelevant = chosen.irrelevant_regions(paths[0], 0)
        assert irrelevant.tolist() == (ranks > k).tolist() and bool(irrelevant.any()) == (k < worst)
        assert (chosen.region_map(paths[0], 0).irrelevant == irrelevant.numpy()).all()


def test_another_clip_is_refused_by_its_name(detector, tmp_path):
    write_spec(tmp_path, replace(detector.spec, clip={**detector.spec.clip, "name": "ViT-B/16"}))
    with pytest.raises(InputError, match="--backbone ViT-B/32, but the run was trained on ViT-B/1"):
        Detector.load(tmp_path, backbone="ViT-B/32")  # before any download


def test_a_detector_can_be_sent_to_another_process(detector, paths):
    received = pickle.loads(pickle.dumps(detector))
    assert received(paths) == detector(paths)


def test_the_score_is_chosen_where_the_detector_is_made(detector, paths):
    assert detector.score == "MCM"
    calibrated = detector.calibrate(paths)
    for found in (detector, calibrated):
        for name in ("score", "threshold"):
            with pytest.raises(AttributeError):
                setattr(found, name, 0.5)
    assert calibrated(paths[0]).threshold == calibrated.threshold.value


def test_an_image_without_a_path_is_named_by_its_number(detector, paths):
    ready = detector.preprocess(paths[0])
    holey = ready.clone()
    holey[0, 0, 0] = torch.nan
    stream = [*paths * 10, holey, "nothing.png", None]
    *_, with_nan, absent, nothing = detector.verdicts(stream)
    assert with_nan.error.startswith("images[40]: a floating-point image is normalised")
    assert "this one holds NaN. Pass pixels as uint8" in with_nan.error
    assert absent.error.startswith("Cannot read the image nothing.png")
    assert nothing.error.startswith("images[42]: an image is a path")
    for several in ([paths[0], ready, holey], iter([paths[0], ready, holey])):
        with pytest.raises(BadImageError, match=r"^images\[2\]: .* holds NaN"):
            detector(several)
    with pytest.raises(BadImageError, match=r"^images\[1\]: .* holds NaN"):
        detector(torch.stack([ready, holey]))
    with pytest.raises(BadImageError, match=r"^a floating-point image .* holds NaN"):
        detector(holey)


def test_the_decision_on_an_unreadable_image_is_its_error(detector):
    (verdict,) = detector.verdicts(["nothing.png"])
    assert verdict.decision == verdict.error and "nothing.png" in verdict.decision


def test_scores_are_asked_for_by_name(detector, paths):
    def found(scores):
        return list(next(detector.score_images(paths, scores))[2].scores)

    assert found("MCM") == found(["MCM"]) == ["MCM"]
    assert found("all") == list(detector.spec.parameters)
    assert found(name for name in ("Energy", "MCM")) == ["Energy", "MCM"]
    for unknown in ("MCN", ["MCM", "ODIN"]):  # ODIN is a score, but not one of this detector
        with pytest.raises(InputError, match=r"the detector has no score .* Known: MCM"):
            found(unknown)


@pytest.mark.parametrize("tpr", [95, 0, -1, float("nan")])
def test_an_impossible_share_is_refused_before_images_are_read(tpr, detector):
    with pytest.raises(InputError, match="--tpr"):
        detector.calibrate((pytest.fail("was read") for _ in range(1)), tpr)
