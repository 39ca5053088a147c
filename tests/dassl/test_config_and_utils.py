"""Configuration keys, registries, logging, meters, metrics, the evaluator."""

import importlib
import logging
import math
import platform
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn
from yacs.config import CfgNode as CN

import dassl.utils
from dassl.config import clean_cfg, get_cfg_default
from dassl.engine.progress import MetricsFile
from dassl.evaluation import build_evaluator
from dassl.metrics import compute_accuracy
from dassl.utils import (
    AverageMeter,
    InputError,
    MetricMeter,
    Registry,
    WriteError,
    check_availability,
    check_isfile,
    collect_env_info,
    count_num_param,
    flatten,
    get_most_similar_str_to_a_from_b,
    init_network_weights,
    listdir_nohidden,
    open_all_layers,
    open_specified_layers,
    read_json,
    setup_logger,
    tolist_if_not,
    versions,
    write_json,
)

DEFAULTS = """
OUTPUT_DIR='./output' RESUME='' SEED=1 USE_CUDA=True VERBOSE=True INPUT.SIZE=(224,224)
INPUT.INTERPOLATION='bilinear' INPUT.TRANSFORMS=() INPUT.PIXEL_MEAN=[0.485,0.456,0.406]
INPUT.PIXEL_STD=[0.229,0.224,0.225] INPUT.RRCROP_SCALE=(0.08,1.0) INPUT.RESIZE_MODE='shortest'
INPUT.ROTATION=5.0 INPUT.COLORJITTER_B=0.4 INPUT.COLORJITTER_C=0.4 INPUT.COLORJITTER_S=0.4
INPUT.COLORJITTER_H=0.1 INPUT.RGS_P=0.2 DATALOADER.TRAIN_X.DROP_LAST=True
DATALOADER.TRAIN_U.DROP_LAST=True
DATASET.ROOT='data' DATASET.NAME='' DATASET.NUM_SHOTS=-1 DATASET.VAL_PERCENT=0.1
DATASET.SUBSAMPLE_CLASSES='all' DATALOADER.NUM_WORKERS=4 DATALOADER.BAD_IMAGES='stop'
DATALOADER.VIEWS=0 DATALOADER.TRAIN_X.SAMPLER='RandomSampler'
DATALOADER.TRAIN_X.BATCH_SIZE=32 DATALOADER.TRAIN_X.N_DOMAIN=0 DATALOADER.TRAIN_X.N_INS=16
DATALOADER.TRAIN_U.SAME_AS_X=True DATALOADER.TRAIN_U.SAMPLER='RandomSampler'
DATALOADER.TRAIN_U.BATCH_SIZE=32 DATALOADER.TRAIN_U.N_DOMAIN=0 DATALOADER.TRAIN_U.N_INS=16
DATALOADER.TEST.SAMPLER='SequentialSampler' DATALOADER.TEST.BATCH_SIZE=32 MODEL.INIT_WEIGHTS=''
MODEL.BACKBONE.NAME='' OPTIM.NAME='adam' OPTIM.LR=0.0003 OPTIM.WEIGHT_DECAY=5e-4 OPTIM.MOMENTUM=0.9
OPTIM.SGD_DAMPNING=0 OPTIM.SGD_NESTEROV=False OPTIM.ADAM_BETA1=0.9 OPTIM.ADAM_BETA2=0.999
OPTIM.LR_SCHEDULER='single_step' OPTIM.STEPSIZE=(-1,) OPTIM.GAMMA=0.1 OPTIM.MAX_EPOCH=10
OPTIM.WARMUP_EPOCH=-1 OPTIM.WARMUP_TYPE='linear' OPTIM.WARMUP_CONS_LR=1e-5 OPTIM.WARMUP_MIN_LR=1e-5
OPTIM.WARMUP_RECOUNT=True TRAIN.COUNT_ITER='train_x' TRAIN.CHECKPOINT_FREQ=1 TRAIN.PRINT_FREQ=10
TRAIN.CUDA_GRAPH=True TEST.EVALUATOR='Classification' TEST.NO_TEST=False TEST.SPLIT='test'
TEST.FINAL_MODEL='last_step' TRAINER.NAME=''
"""


def flat(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, CN):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_config_keys_and_defaults():
    pairs = (entry.split("=", 1) for entry in DEFAULTS.split())
    expected = {key: eval(value, {}) for key, value in pairs}
    cfg = get_cfg_default()
    del cfg["OOD"], cfg["EVAL"], cfg.DATASET["PAIRS"]
    ours = ("FOLDER", "CLASSES", "CLASSNAMES_FILE", "DOWNLOAD", "IMAGES", "SPLIT_FILE", "TEMPLATE")
    for key in ours:
        del cfg.DATASET[key]
    del cfg.MODEL.BACKBONE["ACTIVATION"]
    assert dict(flat(cfg)) == expected


def test_config_copies_are_independent_and_unknown_keys_fail():
    cfg = get_cfg_default()
    cfg.INPUT.PIXEL_MEAN[0] = 9.0
    cfg.OPTIM.LR = 1.0
    assert get_cfg_default().INPUT.PIXEL_MEAN[0] == 0.485 and get_cfg_default().OPTIM.LR == 0.0003
    with pytest.raises(AssertionError, match="Non-existent key"):
        cfg.merge_from_list(["OPTIM.LRR", 1])


def test_clean_cfg_keeps_the_trainers_own_node():
    cfg = get_cfg_default()
    cfg.TRAINER.FIXMATCH, cfg.TRAINER.COOP = CN(), CN()
    clean_cfg(cfg, "FixMatch")
    assert set(cfg.TRAINER) == {"NAME", "FIXMATCH"}


def test_registry():
    registry = Registry("SCORE")

    @registry.register()
    class Energy:
        pass

    def entropy():
        pass

    registry.register(entropy)
    assert registry.get("Energy") is Energy and registry.registered_names() == ["Energy", "entropy"]
    assert "entropy" in registry and "MCM" not in registry
    with pytest.raises(KeyError, match=r"already registered.*register\(force=True\)"):
        registry.register(entropy)
    registry.register(entropy, force=True)
    with pytest.raises(InputError) as caught:
        registry.get("energi")
    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == (
        "Unknown score 'energi'. Known: Energy, entropy. Did you mean 'Energy'?"
    )


def test_names():
    assert get_most_similar_str_to_a_from_b("cosin", ["step", "cosine"]) == "cosine"
    assert get_most_similar_str_to_a_from_b("x", []) is None
    check_availability("a", ["a"])
    with pytest.raises(InputError, match="Known: none"):
        check_availability("a", [])


def test_meters_print_as_upstream():
    meter = MetricMeter()
    meter.update(None)
    meter.update({"loss": torch.tensor(1.0), "acc": 50})
    meter.update({"loss": 2.0})
    assert str(meter) == "loss 2.0000 (1.5000) acc 50.0000 (50.0000)"
    with pytest.raises(TypeError):
        meter.update([1])
    average = AverageMeter()
    average.update(1.0, n=3)
    average.update(5.0)
    assert (average.val, average.avg) == (5.0, 2.0)


@pytest.fixture
def own_root_handlers():
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield root
    for handler in [h for h in root.handlers if h not in before]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def test_logger_is_idempotent_and_appends(tmp_path, own_root_handlers, capsys):
    stdout = sys.stdout
    before = len(own_root_handlers.handlers)
    for text in ("first run", "second run"):
        setup_logger(tmp_path)
        logging.getLogger("anything").info(text)
    assert len(own_root_handlers.handlers) == before + 2 and sys.stdout.console is stdout
    assert capsys.readouterr().out == "first run\nsecond run\n"
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("first run", "second run")
    assert sum(line.startswith("=====") for line in lines) == 1


def test_logger_to_a_file_and_to_nothing(tmp_path, own_root_handlers):
    before = len(own_root_handlers.handlers)
    setup_logger(str(tmp_path / "a" / "other.log"))
    assert (tmp_path / "a" / "other.log").exists()
    setup_logger()
    assert len(own_root_handlers.handlers) == before + 1


def test_a_log_file_that_is_full_is_told_once(tmp_path, own_root_handlers, capfd):
    setup_logger(tmp_path)
    log = next(h for h in own_root_handlers.handlers if h.get_name() == "dassl-file")
    log.stream.close()
    log.stream = open("/dev/full", "w")
    with pytest.raises(WriteError, match=f"Cannot write {tmp_path}/log.txt: No space left"):
        logging.getLogger("x").info("one")
    logging.getLogger("x").info("two")  # of the end that this makes
    assert capfd.readouterr().err == "" and log.stream is None
    (tmp_path / "log.txt").unlink()
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with pytest.raises(WriteError, match=r"Cannot write .*log.txt: No space left"):
        setup_logger(tmp_path)


def test_a_console_that_is_full_stops_nothing(tmp_path, own_root_handlers, monkeypatch, capfd):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        setup_logger(tmp_path)
        for text in ("one", "two"):
            logging.getLogger("x").info(text)
    assert (tmp_path / "log.txt").read_text() == "one\ntwo\n" and capfd.readouterr().err == ""


def test_what_is_wrong_with_a_record_is_still_shown(
    tmp_path, own_root_handlers, monkeypatch, capfd
):
    setup_logger(tmp_path)
    ours = [h for h in own_root_handlers.handlers if (h.get_name() or "").startswith("dassl-")]
    monkeypatch.setattr(own_root_handlers, "handlers", ours)
    logging.getLogger("x").info("%d", "no number")
    assert capfd.readouterr().err.count("Logging error") == 2


def test_accuracy():
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]])
    top1, top2, top9 = compute_accuracy((logits, None), torch.tensor([0, 1, 0, 1]), topk=(1, 2, 9))
    assert (top1.item(), top2.item(), top9.item()) == (50.0, 75.0, 100.0) and top1.shape == (1,)


def test_evaluator():
    evaluator = build_evaluator(get_cfg_default(), lab2cname={i: f"c{i}" for i in range(4)})
    rng = np.random.default_rng(0)
    true, logits = rng.integers(0, 3, 50), rng.normal(size=(50, 4))
    for part in (slice(0, 20), slice(20, 50)):
        evaluator.process(torch.tensor(logits[part]), torch.tensor(true[part]))
    results = evaluator.evaluate()
    pred = logits.argmax(1)
    assert list(results) == ["accuracy", "error_rate", "macro_f1"]
    assert results["accuracy"] == pytest.approx(100 * (true == pred).mean())
    f1 = f1_score(true, pred, average="macro", labels=np.unique(true))
    assert results["macro_f1"] == pytest.approx(100 * f1)
    evaluator.reset()
    with pytest.raises(InputError, match="No image was evaluated"):
        evaluator.evaluate()


def test_results_of_the_evaluator(caplog):
    """Of three classes, one never predicted; a fourth, predicted once, has no images."""
    evaluator = build_evaluator(get_cfg_default())
    caplog.set_level(logging.INFO)
    evaluator.process(torch.eye(4)[[0, 0, 1]], torch.tensor([0, 0, 1]))
    evaluator.process(torch.eye(4)[[1, 3]], torch.tensor([2, 1]))
    results = evaluator.evaluate()
    assert list(results) == ["accuracy", "error_rate", "macro_f1"]
    assert list(results.values()) == pytest.approx([60, 40, 100 * (1 + 1 / 2 + 0) / 3])
    assert "* total: 5\n* correct: 3\n* accuracy: 60.0%\n* error: 40.0%" in caplog.text


def test_metrics_file_drops_what_a_stopped_run_wrote_too_much(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    for epoch in (1, 2, 3):
        metrics.write({"epoch": epoch, "loss": torch.tensor(math.nan if epoch == 2 else 1 / 3)})
    with path.open("a") as file:
        file.write('{"epoch": 1, "lo')  # cut off
    MetricsFile(path, start_epoch=2)
    assert path.read_text() == '{"epoch": 1, "loss": 0.333333}\n{"epoch": 2, "loss": null}\n'
    MetricsFile(path)
    assert path.read_text() == ""


def test_json_and_listing(tmp_path, caplog):
    write_json({"b": [1]}, tmp_path / "x.json")
    assert read_json(tmp_path / "x.json") == {"b": [1]}
    (tmp_path / ".hidden").touch()
    (tmp_path / "a").touch()
    assert listdir_nohidden(tmp_path, sort=True) == ["a", "x.json"]
    with pytest.raises(InputError, match="no file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_json(tmp_path / "a")
    assert check_isfile(tmp_path / "a") and not check_isfile(tmp_path / "b")
    assert "No file found" in caplog.messages[-1]
    assert tolist_if_not("a") == ["a"] and tolist_if_not(["a"]) == ["a"]


UPSTREAM_PLACES = {
    "tools": "check_availability check_isfile collect_env_info get_most_similar_str_to_a_from_b "
    "listdir_nohidden mkdir_if_missing read_image read_json set_random_seed "
    "tolist_if_not write_json",
    "torchtools": "count_num_param init_network_weights load_checkpoint load_pretrained_weights "
    "open_all_layers open_specified_layers resume_from_checkpoint save_checkpoint",
    "logger": "setup_logger",
    "meters": "AverageMeter MetricMeter",
    "registry": "Registry",
}


@pytest.mark.parametrize("module", UPSTREAM_PLACES)
def test_names_are_where_upstream_has_them(module):
    found = importlib.import_module(f"dassl.utils.{module}")
    for name in UPSTREAM_PLACES[module].split():
        assert getattr(found, name) is getattr(dassl.utils, name)


def test_layers_and_parameter_count():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    open_specified_layers(model, "1")
    assert not model[0].weight.requires_grad and not model[0].training
    assert model[1].weight.requires_grad and model[1].training
    open_all_layers(model)
    assert model[0].weight.requires_grad and model[0].training
    assert count_num_param(model) == 10 == count_num_param(params=[{"params": model.parameters()}])
    with pytest.raises(InputError, match="Unknown layer"):
        open_specified_layers(model, "2")


@pytest.mark.parametrize("kind", ["normal", "xavier", "kaiming", "orthogonal"])
def test_weight_initialisation(kind):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    nn.init.constant_(model[0].weight, 7.0)
    nn.init.constant_(model[1].weight, 7.0)
    init_network_weights(model, kind)
    assert model[0].weight.abs().max() < 7 and (model[1].weight == 1).all()
    assert (model[2].bias == 0).all()
    with pytest.raises(InputError):
        init_network_weights(model, "zeros")


def test_env_info_names_versions():
    info = collect_env_info()
    assert f"torch: {torch.__version__.split('+')[0]}" in info and "CPUs:" in info
    assert all(
        f"{name}: {version or 'not installed'}" in info for name, version in versions().items()
    )


def test_versions_of_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(dassl.utils.provenance, "PACKAGES", ("numpy", "no-such-package"))
    assert versions() == {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "no-such-package": None,
    }
    assert "no-such-package: not installed" in collect_env_info()


def test_flatten():
    tree = {"a": {"b": 1, "c": {"d": [2], "e": {}}}, "f": {}, 3: None}
    assert flatten(tree) == {"a.b": 1, "a.c.d": [2], "a.c.e": {}, "f": {}, "3": None}
    assert flatten(CN(tree), "x.")["x.a.c.d"] == [2]


def test_what_is_printed_is_in_the_log_too(tmp_path, capsys):
    """Scripts written for upstream print their figures."""
    console = sys.stdout
    setup_logger(tmp_path)
    logging.getLogger("x").info("logged")
    print("AUROC:", 0.5)
    setup_logger()
    assert sys.stdout is console
    print("later")
    assert capsys.readouterr().out == "logged\nAUROC: 0.5\nlater\n"
    assert (tmp_path / "log.txt").read_text() == "logged\nAUROC: 0.5\n"
