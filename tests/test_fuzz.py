"""Damaged files and odd settings, hundreds of them: each is read, or refused in a sentence."""

from __future__ import annotations

import functools
import json
import random
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms.functional import to_tensor

import clip
from dassl.data.transforms import Preprocess
from dassl.utils import load_checkpoint, load_pretrained_weights, read_image
from dassl.utils.errors import InputError
from datasets.captions import build_pairs_loader
from detector.spec import (
    FILE,
    SETTINGS_HASH,
    TENSORS,
    DetectorSpec,
    fingerprint,
    read_spec,
    write_spec,
)
from ood.set_scores import SetScores
from results.files import evaluate_sets, read_results, read_scores, write_results
from run import config, flags
from run.settings import default_cfg, keys

pytestmark = pytest.mark.slow  # hundreds of examples

many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
seeds = given(seed=st.integers(0, 2**32 - 1))


def damaged(content: bytes, seed: int) -> bytes:
    """Cut off, bytes changed, a part lost, doubled or made zero: one to three such faults."""
    rng, content = random.Random(seed), bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(max(1, len(content)))
        end = min(len(content), start + rng.choice((1, 4, 64, 1000)))
        fault = rng.choice(("cut", "change", "lose", "double", "zero"))
        if fault == "cut":
            del content[start:]
        elif fault == "change":
            content[start:end] = rng.randbytes(end - start)
        elif fault == "lose":
            del content[start:end]
        elif fault == "double":
            content[start:start] = content[start:end]
        else:
            content[start:end] = bytes(end - start)
    return bytes(content)


def read_or_refused(read, path) -> None:
    """Any other exception fails the test."""
    try:
        read(path)
    except InputError as error:
        message = str(error)
        assert message and "\n" not in message.strip()[:40] and "Traceback" not in message


@pytest.mark.parametrize("kind", ["jpg", "png"])
@many
@seeds
def test_images(kind, seed, tmp_path):
    path, picture = tmp_path / f"image.{kind}", tmp_path / f"whole.{kind}"
    if not picture.exists():
        pixels = np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((90, 70)).save(picture)
    path.write_bytes(damaged(picture.read_bytes(), seed))
    read_or_refused(read_image, path)


@many
@seeds
@example(seed=0)
def test_checkpoints(seed, tmp_path):
    path, whole = tmp_path / "model.pth.tar-1", tmp_path / "whole"
    if not whole.exists():
        torch.save(
            {"state_dict": {"ctx": torch.randn(4, 8)}, "epoch": 1, "meta": {"a": "b"}}, whole
        )
    path.write_bytes(damaged(whole.read_bytes(), seed))
    read_or_refused(load_checkpoint, path)
    read_or_refused(lambda file: load_pretrained_weights(torch.nn.Linear(2, 2), file), path)


@settings(many, max_examples=60)
@seeds
def test_clip_files(seed, tmp_path, generated_weights):
    path, whole = tmp_path / "clip.safetensors", tmp_path / "whole"
    if not whole.exists():
        # The token embedding is most of the file and of no interest.
        weights = {
            key: value
            for key, value in generated_weights("tiny-vit").items()
            if key != "token_embedding.weight"
        }
        save_file(weights, whole, {"activation": "quick_gelu"})
    content = whole.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(damaged(content[:header], seed) + content[header:])
    read_or_refused(clip.load, str(path))


@many
@seeds
def test_configs(seed, tmp_path):
    path = tmp_path / "config.yaml"
    whole = (config.ROOT / "configs/trainers/LoCoOp/vit_b16_ep50.yaml").read_bytes()
    path.write_bytes(damaged(whole, seed))
    parser = flags.make_parser("")
    args = parser.parse_args(["--trainer", "LoCoOp", "--config-file", str(path)])
    read_or_refused(lambda _: config.build_cfg(args), path)


KEYS = sorted(keys(default_cfg()))
VALUES = st.one_of(
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["[]", "()", "{}", "None", "True", "(1,", "1e999", "-1", "''", "__import__('os')", "[[1]]"]
    ),
)


@settings(many, max_examples=200)
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_settings(key, value):
    args = flags.make_parser("").parse_args(["--trainer", "CoOp"])
    args.opts = [(key, value)]
    read_or_refused(lambda _: config.build_cfg(args), None)


TEXTS = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.integers(),
        st.text("{} ab0:!.", max_size=9),
        st.sampled_from(["path", "caption", "a {} in {style}", "{0} {}", "{}"]),
    ),
    max_size=3,
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two images in class folders, and a table with captions of them."""
    root = tmp_path_factory.mktemp("pictures")
    for name in ("cat", "dog"):
        for split in ("train", "val"):
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (2, 2)).save(root / split / name / "0.png")
    (root / "pairs.csv").write_text("path,caption\ntrain/cat/0.png,a cat\n", encoding="utf-8")
    return root


@many
@given(source=st.sampled_from(["csv", "classnames"]), columns=TEXTS, templates=TEXTS)
@example(source="classnames", columns=[], templates=["a {} in {style}"])
def test_settings_of_pairs(source, columns, templates, pictures):
    """Every caption is made, or the setting is refused."""
    cfg = default_cfg()
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.VERBOSE = "ImageFolder", str(pictures), False
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.DATALOADER.NUM_WORKERS = 1, 0
    cfg.DATASET.PAIRS.SOURCE, cfg.DATASET.PAIRS.PATH = source, "pairs.csv"
    cfg.DATASET.PAIRS.COLUMNS, cfg.DATASET.PAIRS.TEMPLATES = tuple(columns), tuple(templates)
    read_or_refused(lambda _: list(build_pairs_loader(cfg, to_tensor)), None)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("results"), np.random.default_rng(0)
    inside, outside = ({"MCM": rng.normal(size=n).astype(np.float32)} for n in (30, 20))
    sets = [
        SetScores(
            "ID", [f"{i}.jpg" for i in range(30)], inside, np.zeros(30, int), np.ones(30, int)
        ),
        SetScores("SUN", [f"{i}.jpg" for i in range(20)], outside),
    ]
    write_results(
        folder, evaluate_sets(inside, {"SUN": outside}), sets, {"comparable": {"trainer": "CoOp"}}
    )
    return folder


@many
@seeds
def test_results(seed, results, tmp_path):
    for name, read in (("results.json", read_results), ("scores/SUN.csv", read_scores)):
        path = tmp_path / name.rpartition("/")[2]
        path.write_bytes(damaged((results / name).read_bytes(), seed))
        read_or_refused(read, path)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    spec = DetectorSpec(
        classnames=["cat", "dog"],
        features={"text": torch.eye(2)},
        scale=torch.tensor(100.0),
        clip={"name": "x", "weights_hash": "y", "activation": "gelu"},
        preprocess=Preprocess((8, 8), interpolation="bicubic"),
        precision="fp32",
        parameters={
            "MCM": {"temperature": 1.0},
            "GL-MCM": {"temperature": 1.0, "local_weight": 1.0},
        },
        score="MCM",
        top_k=1,
    )
    scores = dict.fromkeys(spec.parameters, np.linspace(0.5, 1, 40))
    spec = spec.calibrate(scores, 0.95, {"images": "z"})
    folder = tmp_path_factory.mktemp("detector")
    write_spec(folder, spec)
    return folder


@many
@seeds
def test_detectors(seed, detector, tmp_path):
    whole = {name: (detector / name).read_bytes() for name in (FILE, TENSORS)}
    for damaged_one in whole:
        for name, content in whole.items():
            (tmp_path / name).write_bytes(
                damaged(content, seed) if name == damaged_one else content
            )
        read_or_refused(read_spec, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"score": None},
        {"tpr": "0.95"},
        {"clip": "ViT-B/16"},
        {"clip": {"name": "ViT-B/16", "activation": "gelu"}},
        {"exif": "no"},
        {"top_k": [1]},
        {"scores": {"MCM": {"parameters": None}}},
        {"scores": {"MCM": None}},
    ],
)
def test_a_detector_with_a_value_of_another_type_is_refused(change, detector, tmp_path):
    """Even in a file of an earlier version, which has no hash of its settings."""
    content = json.loads((detector / FILE).read_text(encoding="utf-8"))
    shutil.copy(detector / TENSORS, tmp_path)
    for more in ({}, {SETTINGS_HASH: ""}):
        (tmp_path / FILE).write_text(json.dumps({**content, **change, **more}), encoding="utf-8")
        with pytest.raises(InputError, match="json is damaged"):
            read_spec(tmp_path)


@pytest.mark.parametrize(
    "keys, value",
    [
        *((("transform", key), None) for key in Preprocess.__annotations__),
        (("transform", "std"), [1, 1, 2]),
        (("scores", "MCM", "parameters", "temperature"), 2.0),
        (("scores", "MCM", "threshold"), 0.1),
        (("scores", "MCM"), None),
        (("top_k",), True),
        (("tpr",), 0.5),
    ],
)
def test_a_detector_that_was_changed_is_refused(keys, value, detector, tmp_path):
    """None removes the value. An unchanged one is read, also without what is new in the file."""
    content = json.loads((detector / FILE).read_text(encoding="utf-8"))
    shutil.copy(detector / TENSORS, tmp_path)
    older = {k: v for k, v in content.items() if k not in (SETTINGS_HASH, "exif")}
    for same in (content, older):
        (tmp_path / FILE).write_text(json.dumps(same), encoding="utf-8")
        assert fingerprint(read_spec(tmp_path)) == fingerprint(read_spec(detector))
    *parents, last = keys
    part = functools.reduce(dict.get, parents, content)
    part[last] = value
    if value is None:
        del part[last]
    (tmp_path / FILE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"json is damaged \(it was changed after"):
        read_spec(tmp_path)


def test_the_damage_is_damage(results):
    """Most of what the tests above read is no longer what was written."""
    content = (results / "results.json").read_bytes()
    assert sum(damaged(content, seed) != content for seed in range(50)) >= 48
    broken = 0
    for seed in range(50):
        try:
            json.loads(damaged(content, seed))
        except ValueError:
            broken += 1
    assert broken > 25
