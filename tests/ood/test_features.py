"""Image features on disk: the same scores as without them, and never features of something else."""

import json
import os
import shutil
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import clip
from clip.prompted import PromptedCLIP
from dassl.data.datasets import Datum
from dassl.data.transforms import build_transform
from ood import features as features_module
from ood.evaluation import score_sets
from ood.features import GLOBAL, FeatureStore, FeatureWriter, KeptFeatures, images_hash
from ood.scoring import get_scores
from run.settings import default_cfg

BATCH = 3
GLOBAL_SCORES = ["MCM", "MSP", "MaxLogit", "Energy", "Entropy", "GradNorm"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two sets of 7 and 4 images, and a third of 2."""
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name, count in (("inside", 7), ("dots", 4), ("lines", 2)):
        (root / name).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 255, (70, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def root(photographs, tmp_path):
    return Path(shutil.copytree(photographs, tmp_path / "data"))


class CountingCLIP(PromptedCLIP):
    """Counts the images that it encodes; `dies_after` that many it raises."""

    encoded, dies_after = 0, float("inf")

    def image_features(self, images, local):
        self.encoded += len(images)
        if self.encoded > self.dies_after:
            raise KeyboardInterrupt
        return super().image_features(images, local)


@pytest.fixture
def model(tiny_clip):
    tiny = tiny_clip()
    text = tiny.encode_text(clip.tokenize(["cat", "dog", "tea pot", "crane"]))
    return CountingCLIP(tiny, lambda: text)


@pytest.fixture
def evaluate(model, root, tmp_path):
    """`evaluate(scores=..., sets=...)`: set -> score -> values, of a pass with a store.

    What the store is made of may be given, too; `store=False` for a pass without one.
    """

    def run(
        scores=GLOBAL_SCORES,
        sets=("inside", "dots"),
        skip=False,
        store=True,
        root=root,
        folder=None,
        encoding=None,
        limit=1.0,
        local=False,
    ):
        cfg = default_cfg()
        cfg.INPUT.SIZE, cfg.INPUT.TRANSFORMS = (64, 64), ["normalize"]
        cfg.DATASET.ROOT = str(root)
        cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.TEST.BATCH_SIZE = 0, BATCH
        cfg.DATALOADER.BAD_IMAGES = "skip" if skip else "stop"
        transform = build_transform(cfg, is_train=False)
        items = {
            name: [Datum(str(path), -1) for path in sorted((root / name).glob("*.png"))]
            for name in sets
        }
        cfg.EVAL.FEATURES = str(tmp_path / "features" if folder is None else folder)
        cfg.EVAL.FEATURES_LIMIT, cfg.EVAL.FEATURES_LOCAL = limit, local
        encoding = encoding or {"weights": "a", "size": (64, 64)}
        model.encoded = 0
        evaluation = score_sets(
            cfg,
            model,
            items,
            transform,
            get_scores(scores),
            {},
            torch.device("cpu"),
            nullcontext,
            FeatureStore(cfg, encoding) if store else None,
        )
        run.evaluation = evaluation
        return {name: part.scores for name, part in evaluation.sets.items()}

    return run


def same(one, other) -> bool:
    """Whether all scores of all sets are equal to the last bit."""
    return one.keys() == other.keys() and all(
        np.array_equal(one[name][score], other[name][score]) for name in one for score in one[name]
    )


def entries(folder: Path) -> dict[str, Path]:
    """The set folders that are whole, and nothing else may lie there."""
    return {path.name.rpartition("-")[0]: path for path in (folder / "features").glob("*/*")}


def test_scores_from_features_are_those_from_images(evaluate, model, tmp_path):
    plain = evaluate(store=False)
    assert model.encoded == 11 and not (tmp_path / "features").exists()
    assert same(evaluate(), plain) and model.encoded == 11
    assert evaluate.evaluation.read == []
    assert same(evaluate(), plain) and model.encoded == 0
    assert evaluate.evaluation.read == ["inside", "dots"]
    assert set(entries(tmp_path)) == {"inside", "dots"}
    entropy = {name: {"Entropy": scores["Entropy"]} for name, scores in plain.items()}
    assert same(evaluate(scores=["Entropy"]), entropy)


def test_a_new_set_leaves_the_others(evaluate, model):
    evaluate(sets=("inside", "dots"))
    plain = evaluate(sets=("dots", "lines", "inside"), store=False)
    assert same(evaluate(sets=("dots", "lines", "inside")), plain) and model.encoded == 2
    assert same(evaluate(sets=("lines",)), {"lines": plain["lines"]}) and model.encoded == 0


def test_data_may_move(evaluate, model, root, tmp_path):
    plain = evaluate()
    root.rename(tmp_path / "elsewhere")
    assert same(evaluate(root=tmp_path / "elsewhere"), plain) and model.encoded == 0


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _edit(place: Path, **entries) -> None:
    about = json.loads((place / "about.json").read_text()) | entries
    (place / "about.json").write_text(json.dumps(about))


SPOIL = {
    "incomplete": lambda place, root: os.truncate(place / "global.f32", 100),
    "gone": lambda place, root: (place / "global.f32").unlink(),
    "damaged": lambda place, root: _flip(place / "global.f32"),
    "image touched": lambda place, root: os.utime(root / "inside/3.png", (1, 1)),
    "image replaced": lambda place, root: (root / "inside/0.png").write_bytes(
        (root / "inside/1.png").read_bytes()
    ),
    "no JSON": lambda place, root: (place / "about.json").write_text("{"),
    "no object": lambda place, root: (place / "about.json").write_text("[]"),
    "no description": lambda place, root: (place / "about.json").unlink(),
    "another count": lambda place, root: _edit(place, unreadable=[0]),
    "another version": lambda place, root: _edit(place, schema=0),
}


@pytest.mark.parametrize("how", SPOIL)
def test_what_does_not_fit_is_refused_and_made_anew(evaluate, model, root, tmp_path, caplog, how):
    evaluate()
    SPOIL[how](entries(tmp_path)["inside"], root)
    assert same(evaluate(), evaluate(store=False))
    assert "image features of inside" in caplog.text and "encoded again" in caplog.text
    evaluate()
    assert model.encoded == 0


def test_another_model_has_features_of_its_own(evaluate, model):
    evaluate()
    evaluate(encoding={"weights": "b"})
    assert model.encoded == 11
    evaluate()
    assert model.encoded == 0


def test_images_that_could_not_be_read_stay_left_out(evaluate, model, root, caplog):
    (root / "inside/1.png").write_bytes(b"no image")
    (root / "dots/3.png").write_bytes(b"none")
    plain = evaluate(skip=True, store=False)
    skipped = evaluate.evaluation.skipped
    assert skipped == {"inside": ["inside/1.png"], "dots": ["dots/3.png"]}
    for encoded in (9, 0):
        assert same(evaluate(skip=True), plain) and model.encoded == encoded
        assert evaluate.evaluation.skipped == skipped
    with pytest.raises(ValueError, match=r"1\.png"):
        evaluate()  # where such an image must stop the evaluation, it does


def test_a_set_without_a_readable_image_leaves_nothing(evaluate, root, tmp_path):
    for path in (root / "dots").iterdir():
        path.write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(ValueError, match="dots: none of its 4 images"):
            evaluate(skip=True)
    assert set(entries(tmp_path)) == {"inside"}


def test_local_features_in_half_precision(evaluate, model, tmp_path):
    names = ["MCM", "GL-MCM"]
    plain = evaluate(scores=names, store=False)
    rounded = evaluate(scores=names, local=True)
    for name in plain:
        np.testing.assert_allclose(rounded[name]["GL-MCM"], plain[name]["GL-MCM"], rtol=1e-4)
        assert np.array_equal(rounded[name]["MCM"], plain[name]["MCM"])
    assert not same(rounded, plain)  # or the tolerance above would say nothing
    assert same(evaluate(scores=names, local=True), rounded) and model.encoded == 0
    # Rounded by who asks for it, whatever lies on disk.
    assert same(evaluate(scores=names, local=True, limit=0, folder=tmp_path / "no"), rounded)
    assert same(evaluate(scores=names), plain)
    os.truncate(entries(tmp_path)["dots"] / "local.f16", 10)
    assert same(evaluate(scores=names, local=True), rounded) and model.encoded == 4


def test_regions_that_are_not_kept_are_encoded_again(evaluate, model, caplog, tmp_path):
    caplog.set_level("INFO")
    evaluate()
    stamp = entries(tmp_path)["inside"].stat().st_mtime_ns
    evaluate(scores=["GL-MCM"])
    assert model.encoded == 11 and "kept only with --features-local" in caplog.text
    assert entries(tmp_path)["inside"].stat().st_mtime_ns == stamp
    for encoded in (11, 0):
        evaluate(scores=["GL-MCM"], local=True)
        assert model.encoded == encoded
    evaluate()
    assert model.encoded == 0  # the global ones beside them serve as before


def test_what_needs_images_encodes_them(evaluate, model, caplog):
    caplog.set_level("INFO")
    evaluate()
    plain = evaluate(scores=["MCM", "ODIN"], store=False)
    assert same(evaluate(scores=["MCM", "ODIN"]), plain) and model.encoded
    assert "needs the images themselves" in caplog.text and evaluate.evaluation.read == []


def test_a_limit_is_told_before_it_starts(evaluate, model, caplog, tmp_path, monkeypatch):
    plain = evaluate(store=False)
    assert same(evaluate(limit=1e-7), plain) and entries(tmp_path) == {}
    assert "--features-limit is 1e-07 GiB" in caplog.text and "GiB are needed" in caplog.text
    caplog.clear()
    width = model.text_features().shape[1]
    just_global = 11 * width * 4 / 2**30
    evaluate(scores=["GL-MCM"], local=True, limit=just_global)
    assert "cannot be kept" in caplog.text and entries(tmp_path) == {}
    evaluate(limit=just_global)
    assert set(entries(tmp_path)) == {"inside", "dots"}
    caplog.clear()
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    assert same(evaluate(folder=tmp_path / "full"), plain) and not (tmp_path / "full").exists()
    assert "GiB free there" in caplog.text and "--features names another" in caplog.text


def test_a_folder_that_cannot_be_written_stops_nothing(evaluate, caplog, tmp_path):
    (tmp_path / "file").write_text("")
    assert same(evaluate(folder=tmp_path / "file"), evaluate(store=False))
    assert "cannot be kept" in caplog.text and "goes on" in caplog.text


def test_a_disk_that_fills_up_on_the_way_stops_nothing(evaluate, caplog, tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(features_module, "file_checksum", full)
        assert same(evaluate(), evaluate(store=False))
    assert "No space left" in caplog.text and entries(tmp_path) == {}


def test_a_pass_that_dies_leaves_only_what_is_whole(evaluate, model, tmp_path):
    model.dies_after = 10
    with pytest.raises(KeyboardInterrupt):
        evaluate()
    assert set(entries(tmp_path)) == {"inside"}
    model.dies_after = float("inf")
    assert same(evaluate(), evaluate(store=False))
    evaluate()
    assert model.encoded == 0


def test_two_passes_at_once(tmp_path):
    """Both write the same set, batch by batch in turn; whole features remain, of the later one."""
    kinds = {GLOBAL: torch.float32}
    writers = [FeatureWriter(tmp_path / "x", "images", 4, kinds) for _ in range(2)]
    for i in range(4):
        for k, writer in enumerate(writers):
            writer.append(np.array([i]), torch.full((1, 2), float(10 * k + i)), None)
    for writer in writers:
        writer.finish()
        writer.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    found = np.fromfile(tmp_path / "x/global.f32", np.float32).reshape(4, 2)
    assert found[:, 0].tolist() == [10, 11, 12, 13]
    files = json.loads((tmp_path / "x/about.json").read_text())["files"]
    assert files == {"global.f32": features_module.file_checksum(tmp_path / "x/global.f32")}


def test_what_a_killed_pass_left_is_removed_once_it_is_old(evaluate, tmp_path):
    fresh, old = (tmp_path / f"features/key/.{name}.tmp" for name in ("a.0123abcd", "b.0123abcd"))
    for path in (fresh, old):
        path.mkdir(parents=True)
        (path / "global.f32").write_text("")
    for path in (old / "global.f32", old):
        os.utime(path, (time.time() - 4000,) * 2)
    evaluate()
    assert fresh.exists() and not old.exists()


def test_a_set_that_waits_for_its_turn_is_no_leftover(tmp_path):
    writer = FeatureWriter(tmp_path / "x", "images", 1, {GLOBAL: torch.float32})
    assert not list(tmp_path.iterdir())
    writer.append(np.array([0]), torch.ones(1, 2), None)
    assert len(list(tmp_path.iterdir())) == 1
    writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@given(st.lists(st.booleans(), min_size=1, max_size=20).filter(any), st.integers(1, 7))
def test_batches_are_those_of_the_loader(readable, size):
    index = np.flatnonzero(readable)
    kept = KeptFeatures(index, index[:, None].astype(np.float32), None)
    expected = [
        [i for i in range(start, min(start + size, len(readable))) if readable[i]]
        for start in range(0, len(readable), size)
    ]
    found = [(part.tolist(), rows[:, 0].tolist()) for part, rows, _ in kept.batches(size)]
    assert found == [(part, part) for part in expected if part]


def test_a_set_is_known_by_its_images_wherever_they_lie(root, tmp_path):
    def hashed(folder, labels=(0, 1)):
        paths = sorted(Path(folder).rglob("*.png"))
        return images_hash([Datum(str(p), labels[i % 2]) for i, p in enumerate(paths)][::-1])

    before = hashed(root / "inside")
    moved = shutil.copytree(root / "inside", tmp_path / "deep/inside")
    assert hashed(moved) == before != hashed(moved, (1, 0))
    (moved / "0.png").rename(moved / "00.png")
    assert hashed(moved) != before
    (moved / "00.png").rename(moved / "0.png")
    assert hashed(moved.rename(tmp_path / "other")) != before  # another set with the same names
