"""The evaluation pass: its loader, its batches ahead, and what it brings back from the device."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image

import clip
from clip.prompted import PromptedCLIP
from dassl.data.datasets import Datum
from dassl.data.transforms.transforms import build_preprocess
from dassl.data.workers import end_with_parent
from ood import evaluation
from ood.decisions import decide
from ood.evaluation import Batch, BatchScores, score_batch, score_sets
from ood.scoring import compute_scores, get_scores
from run.settings import default_cfg


@pytest.fixture
def model(tiny_clip):
    tiny = tiny_clip()
    text = tiny.encode_text(clip.tokenize(["cat", "dog", "tea pot"]))
    return PromptedCLIP(tiny, lambda: text)


@pytest.fixture
def score(model, tmp_path):
    rng, sets = np.random.default_rng(0), {}
    for name, count in (("inside", 5), ("outside", 3)):
        sets[name] = []
        for i in range(count):
            path = tmp_path / f"{name}{i}.png"
            Image.fromarray(rng.integers(0, 256, (70, 64, 3), dtype=np.uint8)).save(path)
            sets[name].append(Datum(str(path), -1))
    cfg = default_cfg()
    cfg.DATASET.ROOT, cfg.INPUT.SIZE = str(tmp_path), (64, 64)
    cfg.DATALOADER.TEST.BATCH_SIZE = 2

    def run(workers: int):
        cfg.DATALOADER.NUM_WORKERS = workers
        transform, cpu = build_preprocess(cfg, normalize=True), torch.device("cpu")
        scores = get_scores(["MCM", "GL-MCM"])
        return score_sets(cfg, model, sets, transform, scores, {}, cpu, nullcontext)

    return run


def test_its_workers_end_with_their_parent_and_batches_are_sent_ahead(score, monkeypatch):
    loaders, sent = [], []
    build, ahead = evaluation.build_data_loader, evaluation.batches_for

    def build_data_loader(*arguments, **named):
        loaders.append(build(*arguments, **named))
        return loaders[-1]

    def batches_for(loader, device):
        sent.append(loader)
        return ahead(loader, device)

    monkeypatch.setattr(evaluation, "build_data_loader", build_data_loader)
    monkeypatch.setattr(evaluation, "batches_for", batches_for)
    by_worker, here = score(workers=1), score(workers=0)
    assert sent == loaders and len(loaders) == 2  # one for all sets
    assert loaders[0].worker_init_fn is end_with_parent and loaders[0].num_workers == 1
    parts = [list(part) for part in loaders[0].batch_sampler]
    assert parts == [[0, 1], [2, 3], [4], [5, 6], [7]]  # of one set each
    for name, found in here.sets.items():
        assert found.images == by_worker.sets[name].images == sorted(found.images)
        for one, values in found.scores.items():
            assert np.array_equal(values, by_worker.sets[name].scores[one])


def test_columns_come_back_as_they_were(monkeypatch):
    """In one copy, which holds float32 scores, class indices and decisions exactly."""
    copied, copy = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copied.append(1) or copy(tensor))
    values = torch.tensor([0.1, -3e-30, 1e30])
    cosines = torch.zeros(3, 70_001)
    cosines[range(3), [70_000, 0, 16_385]] = 1.0
    decisions = {
        "CTW": torch.tensor([True, False, True]),
        "ATD": torch.tensor([False, False, True]),
    }
    columns = evaluation._columns(BatchScores({"MCM": values}, cosines, decisions))
    assert copied == [1]
    items = [Datum(f"/data/{i}.png", i) for i in range(5)]
    parts = [(np.array([4, 0]), columns[:, :2]), (np.array([2]), columns[:, 2:])]
    found, skipped = evaluation._collect("ID", items, "/data", get_scores(["MCM"]), parts)
    assert found.images == ["0.png", "2.png", "4.png"] and skipped == ["1.png", "3.png"]
    assert found.labels.tolist() == [0, 2, 4]
    assert found.scores["MCM"].tolist() == values[[1, 2, 0]].tolist()
    assert found.scores["MCM"].dtype == np.float32
    assert found.predictions.tolist() == [0, 16_385, 70_000]
    assert found.rejected["CTW"].tolist() == [False, True, True]
    assert found.rejected["ATD"].tolist() == [False, True, False]


def test_a_model_that_can_decide_always_does(model, monkeypatch):
    """Whatever scores are asked for; of the same inputs as the functions of the decisions."""
    classes = {"text": model.text_features()}
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(
        torch.randn(4, classes["text"].shape[1], generator=generator), dim=-1
    )
    plain = score_batch(model, Batch(features, None), classes, get_scores(["MCM"]), {})
    assert plain.rejected == {}
    assert torch.equal(plain.cosines, features @ classes["text"].T)
    expected = compute_scores(get_scores(["MCM"]), {"cosines": plain.cosines})
    assert torch.equal(plain.scores["MCM"], expected["MCM"])
    provided = model.provides | {"no_logits", "no_cosines"}
    monkeypatch.setattr(PromptedCLIP, "provides", property(lambda self: provided))
    classes["no"] = classes["text"].flip(0)
    found = score_batch(model, Batch(features, None), classes, get_scores(["MCM"]), {})
    logits, denied = (model.scale * features @ classes[key].T for key in ("text", "no"))
    expected = decide({"logits": logits, "no_logits": denied})
    assert found.rejected.keys() == expected.keys()
    for name, rejected in expected.items():
        assert torch.equal(found.rejected[name], rejected)
