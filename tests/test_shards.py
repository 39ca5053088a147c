"""detect.py --shards: webdataset tars in, Parquet out, on one process or Ray, and what ends it."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image

import detect
from dassl import command
from detector import Detector, shards
from ood.evaluation import Batch, score_batch
from ood.scoring import get_scores
from tests.worlds import jpeg, write_tar

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROOT = Path(__file__).parents[1]
CLASSES = ["cat", "dog", "tractor"]
BAD = "s1/000003.jpg"  # of shard 1: no image


@pytest.fixture(scope="module")
def world(tmp_path_factory, clip_file):
    """Three shards of ten images, one of them unreadable, and a calibrated detector."""
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    for number in range(3):
        files = {}
        for i in range(10):
            name = f"s{number}/{i:06d}"
            files |= {f"{name}.jpg": jpeg(rng), f"{name}.json": b"{}"}
        if number == 1:
            files[BAD] = b"no image"
            files["s1/._000003.jpg"] = b"left by a system"
        write_tar(folder / f"{number:03d}.tar", files)
    held_out = [Image.open(io.BytesIO(jpeg(rng))) for _ in range(40)]
    detector = Detector.zero_shot(CLASSES, clip_file("tiny-vit")).calibrate(held_out)
    detector.save(folder / "detector")
    return folder


@pytest.fixture
def call(monkeypatch, world, tmp_path):
    """Runs detect.py on the shards; returns its exit status or its last words."""

    def run(*arguments: object, shards: object = world / "{000..002}.tar", model="detector"):
        words = ["--shards", shards, "--out", tmp_path / "out", *arguments]
        model_dir = ["--model-dir", world / model]
        monkeypatch.setattr(sys, "argv", ["detect.py", *map(str, model_dir + words)])
        try:
            command.run(detect.main)
        except SystemExit as end:
            return end.code
        return 0

    return run


def rows(folder: Path) -> list[dict]:
    """All rows of all files, in their order."""
    return [
        row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def test_rows_are_the_verdicts_on_the_images(world, call, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 4)  # three row groups a file
    assert call() == 0
    detector, found = Detector.load(world / "detector"), rows(tmp_path / "out")
    assert len(found) == 30 and len({row["key"] for row in found}) == 30
    for number in range(3):
        with tarfile.open(world / f"{number:03d}.tar") as tar:
            names = [f"s{number}/{i:06d}.jpg" for i in range(10)]
            images = [tar.extractfile(name).read() for name in names if name != BAD]
        mine = [row for row in found if row["key"].startswith(f"s{number}/") and not row["error"]]
        pictures = [Image.open(io.BytesIO(content)) for content in images]
        for score in ("MCM", "Energy"):
            other = Detector(detector.spec.choose(score), detector.model.clip)
            verdicts = other(pictures)
            assert [row[score] for row in mine] == [v.score for v in verdicts]
        verdicts = detector(pictures)
        assert [row["prediction"] for row in mine] == [v.classname for v in verdicts]
        assert [row["verdict"] for row in mine] == [v.verdict for v in verdicts]
        expected = np.array([v.probability for v in verdicts], np.float32)
        assert [row["probability"] for row in mine] == expected.tolist()
    (bad,) = [row for row in found if row["error"]]
    assert bad["key"] == BAD.removesuffix(".jpg") and BAD in bad["error"]
    assert {bad[name] for name in ("prediction", "probability", "MCM", "verdict")} == {None}
    assert "GL-MCM" not in found[0]  # of regions, which MCM does not read
    said = capsys.readouterr()
    assert f"1 of 10 images cannot be read: Cannot read the image {BAD}" in said.err
    assert "3 shards, 30 images, 1 unreadable" in said.out and "images/s, ETA 0:00:00" in said.err


def test_a_detector_of_regions_writes_their_scores_too(call, tmp_path):
    assert call("--score", "GL-MCM") == 0
    assert {"GL-MCM", "MCM"} <= rows(tmp_path / "out")[0].keys()


def test_the_summary_is_that_of_all_rows(call, tmp_path, capsys):
    assert call() == 0
    found = [row for row in rows(tmp_path / "out") if not row["error"]]
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["shards"], summary["images"], summary["unreadable"]) == (3, 30, 1)
    for column, key in (("verdict", "verdicts"), ("prediction", "classes")):
        values = [row[column] for row in found]
        assert summary[key] == {value: values.count(value) for value in set(values)}
    counts, edges = np.histogram(np.array([row["MCM"] for row in found]), shards.BINS)
    assert summary["histogram"] == counts.tolist() and counts.sum() == 29
    assert summary["edges"] == pytest.approx(edges.tolist())
    share = summary["verdicts"]["ID"] / 29
    assert f"ID: {summary['verdicts']['ID']} ({share:.2%})" in capsys.readouterr().out


@pytest.mark.parametrize("scores", [[0.1], [0.1, 0.10000001], [1e30], [0.0], [None], [1.0, 3.0]])
def test_scores_that_hardly_differ_have_a_histogram(scores, tmp_path):
    """0.1 and 0.10000001 are neighbours in float32; numpy finds no bins between them."""
    columns = {"MCM": pa.array(scores, pa.float32())}
    columns |= {name: pa.array(["x"] * len(scores)) for name in ("verdict", "prediction")}
    pq.write_table(pa.table(columns), tmp_path / "0.parquet")
    summary = shards.summarise([tmp_path / "0.parquet"], "MCM")
    assert sum(summary["histogram"]) == len(scores) - scores.count(None)
    assert (np.diff(np.float32(summary["edges"])) > 0).all()


@pytest.mark.slow
def test_a_million_rows_take_less_than_100_mb(world, tmp_path):
    """A twentieth of them, of random image features: noise, which no file makes smaller."""
    rows, scorer = 50_000, shards.ShardScorer(Detector.load(world / "detector"))
    detector, generator = scorer.detector, torch.Generator().manual_seed(0)
    classes, scores = detector.model.features, get_scores(scorer.scores)
    params = {k: v for own in detector.spec.parameters.values() for k, v in own.items()}

    @torch.inference_mode()
    def score_images(images, names):
        for begin in range(0, rows, 1000):
            features = torch.randn(1000, classes["text"].shape[1], generator=generator)
            batch = Batch(F.normalize(features, dim=-1), None)
            images = [io.BytesIO() for _ in range(1000)]
            for number, image in enumerate(images, start=begin):
                image.filename = f"{number:09d}.jpg"
            yield images, [""] * 1000, score_batch(detector.model, batch, classes, scores, params)

    detector.score_images = score_images
    found = scorer({"shard": str(world / "000.tar"), "target": str(tmp_path / "rows.parquet")})
    assert (found["images"], found["unreadable"]) == (rows, 0)
    assert len(scorer.scores) >= 6 and (tmp_path / "rows.parquet").stat().st_size < 5e6


def test_what_is_finished_is_not_repeated(world, call, tmp_path, monkeypatch):
    assert call(shards=world / "{000..001}.tar") == 0
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    (tmp_path / "out/.002.parquet.0123abcd.tmp").write_bytes(b"of a killed process")
    assert call() == 0 and len(rows(tmp_path / "out")) == 30
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert not list((tmp_path / "out").glob(".*.tmp"))
    monkeypatch.setattr(Detector, "score_images", None)  # nothing is left to score
    assert call() == 0
    (tmp_path / "out/001.parquet").unlink()
    monkeypatch.undo()
    assert call(model=tmp_path / "out") == 0  # the folder is a detector's, too
    assert len(rows(tmp_path / "out")) == 30


@pytest.mark.parametrize("change", [("--score", "Energy"), ("--tpr", "0.5"), ("--exif",)])
def test_another_detector_is_refused_and_named(call, tmp_path, change):
    assert call() == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    said = call(*change)
    assert "holds verdicts of another detector (MCM, threshold" in said
    assert f"--model-dir {tmp_path / 'out'}" in said
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda whole: whole[:700], "unexpected end of data"),
        (lambda whole: whole[: whole.index(b"s1/000004.jpg")], "no end mark at byte"),
        (lambda whole: whole[: whole.index(b"s1/000004.jpg") + 99], "no end mark at byte"),
        (lambda whole: whole.replace(b"s1/000004.jpg", b"\xff" * 13), "no end mark at byte"),
        (lambda whole: whole.ljust(2 * 10**6, b"\0"), "only zeros from byte"),
        (lambda whole: whole + whole, "more data after its end at byte"),
        (lambda whole: b"<html>", "is no whole tar"),
        (lambda whole: whole.replace(b".jpg", b".dat"), "is no whole tar"),  # wrong checksums
        (None, "holds no image"),
    ],
    ids=[
        *("in a member", "between members", "in a header", "a header", "zeros", "joined"),
        *("a page", "names", "none"),
    ],
)
def test_a_damaged_shard_is_named_and_the_others_done(world, call, tmp_path, capsys, damage, words):
    shutil.copytree(world, tmp_path / "world")
    path = tmp_path / "world/001.tar"
    if damage:
        path.write_bytes(damage((world / "001.tar").read_bytes()))
    else:
        write_tar(path, {"000.json": b"{}", "000.txt": b"a cat"})
    assert call(shards=tmp_path / "world/{000..002}.tar") == 1
    said = capsys.readouterr().err
    assert f"no verdicts: {path}" in said and words in said and "Traceback" not in said
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        "000.parquet",
        "002.parquet",
    ]
    shutil.copy(world / "001.tar", path)
    assert call(shards=tmp_path / "world/{000..002}.tar") == 0 and len(rows(tmp_path / "out")) == 30


def test_a_shard_of_unreadable_images_alone_has_rows(call, tmp_path, capsys):
    write_tar(tmp_path / "0.tar", {"a.jpg": b"", "b.png": b"?"})
    assert call(shards=tmp_path / "0.tar") == 0
    found = rows(tmp_path / "out")
    assert [row["MCM"] for row in found] == [None, None]
    assert not any(" at 0x" in row["error"] for row in found)  # the same whenever it is written
    said = capsys.readouterr().out
    assert "1 shards, 2 images, 2 unreadable" in said and "MCM from" not in said


def test_names_that_are_no_utf_8_are_escaped(call, tmp_path):
    """As tar's own names are: bytes of any encoding."""
    content = jpeg(np.random.default_rng(0))
    write_tar(tmp_path / "0.tar", {"\udcff.jpg": content, "caf\udce9/b.jpg": b"no image"})
    assert call(shards=tmp_path / "0.tar") == 0
    good, bad = rows(tmp_path / "out")
    assert (good["key"], good["error"], bad["key"]) == (r"\xff", None, r"caf\xe9/b")
    assert r"caf\xe9/b.jpg" in bad["error"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--shards", "no-{0..3}.tar"], "4 of 4 shards do not exist or are empty"),
        (["--shards", "{a,b}/0.tar"], "--shards has several shards of the same file name"),
        (["--out", ""], "needs --out FOLDER"),
        (["--csv", "x.csv"], "--csv: no effect with --shards"),
        (["photo.jpg"], "images: no effect with --shards"),
        (["--engine", "spark"], "--engine is ray, or left out for one process"),
        (["--address", "auto"], "--address is for ray alone"),
        (["--shards", "", "photo.jpg"], "--out: no effect without --shards"),
    ],
)
def test_impossible_wishes_are_answered_in_a_sentence(
    call, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).mkdir()
        write_tar(Path(name, "0.tar"), {"0.jpg": b""})
    Path("photo.jpg").write_bytes(b"")
    assert words in call(*arguments)
    assert not (tmp_path / "out").exists()


def test_two_jobs_in_one_folder(call, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out/.lock"):
        assert "another process works in" in call()
    assert call() == 0


def test_verdicts_of_nobody_knows_whom(call, tmp_path):
    assert call() == 0
    (tmp_path / "out/detector.json").unlink()
    assert "holds 000.parquet, but no detector.json" in call()


def test_a_folder_of_something_else_stays_as_it_is(world, call, tmp_path):
    shutil.copytree(world / "detector", tmp_path / "out")  # as an evaluated run's
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert "holds verdicts of another detector" in call("--score", "Energy")
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == before.get(path.name, b"")  # b"": the lock
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/summary.json").write_text("mine")
    assert "holds summary.json" in call()
    assert (tmp_path / "out/summary.json").read_text() == "mine"


def test_a_full_disk_ends_it_and_keeps_what_is_finished(call, tmp_path, monkeypatch):
    write = shards.atomic_write

    def on_a_full_disk(path, mode):
        if Path(path).name != "001.parquet":
            return write(path, mode)
        raise shards.WriteError(f"Cannot write {path}: No space left on device.")

    monkeypatch.setattr(shards, "atomic_write", on_a_full_disk)
    said = call()
    assert "001.parquet: No space left on device." in said
    assert [path.name for path in (tmp_path / "out").glob("*.parquet")] == ["000.parquet"]


@pytest.mark.parametrize("missing", ["pyarrow", "ray"])
def test_a_library_that_is_not_installed(call, monkeypatch, missing):
    for module in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    assert "pip install -r requirements-scale.txt" in call("--engine", "ray")


RETRIES = "RAY_NUM_REDIS_GET_RETRIES"


@pytest.fixture
def ray(monkeypatch):
    """Ray; what is set for it in the environment is not left to a Ray of this machine alone."""
    monkeypatch.setenv(RETRIES, "1")
    monkeypatch.delenv(RETRIES)
    return pytest.importorskip("ray")


def test_a_cluster_that_cannot_be_reached(call, ray):
    said = call("--engine", "ray", "--address", "127.0.0.1:1")
    assert "--address 127.0.0.1:1: no Ray cluster can be reached there" in said


def test_a_port_of_something_else_is_tried_once(call, ray, monkeypatch):
    def refuse(address, **_):
        raise ConnectionError(f"no cluster, tried {os.environ[RETRIES]} time")

    monkeypatch.setattr(ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as other:
        said = call("--engine", "ray", "--address", f"127.0.0.1:{other.getsockname()[1]}")
    assert "no Ray cluster can be reached there (no cluster, tried 1 time)" in said
