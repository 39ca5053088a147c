"""Writing and reading checkpoints: golden files, damaged and hostile ones, a full disk."""

import errno
import os
from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode as CN

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import (
    InputError,
    atomic_write,
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint"


@pytest.mark.parametrize(
    "folder, classes, dtype",
    [("prompt_learner", 12, torch.float32), ("fp16_5_classes/prompt_learner", 5, torch.float16)],
)
def test_upstream_checkpoint_loads_without_its_objects(folder, classes, dtype):
    state = load_checkpoint(GOLDEN / folder / "model.pth.tar-4")
    assert set(state) == {"state_dict", "epoch", "optimizer", "scheduler", "val_result"}
    shapes = {name: tuple(value.shape) for name, value in state["state_dict"].items()}
    assert shapes == {
        "ctx": (16, 128),
        "token_prefix": (classes, 1, 128),
        "token_suffix": (classes, 60, 128),
    }
    assert state["state_dict"]["ctx"].dtype == dtype
    assert state["scheduler"] is None and state["epoch"] == 4
    assert state["optimizer"]["state"][0]["momentum_buffer"].shape == (16, 128)


class Prompts(torch.nn.Module):
    def __init__(self, classes=12):
        super().__init__()
        self.ctx = torch.nn.Parameter(torch.zeros(16, 128))
        self.register_buffer("token_prefix", torch.zeros(classes, 1, 128))
        self.register_buffer("token_suffix", torch.zeros(classes, 60, 128))


def locoop_optim(max_epoch):
    cfg = get_cfg_default().OPTIM
    cfg.merge_from_other_cfg(
        CN(
            {
                "NAME": "sgd",
                "LR": 0.002,
                "MAX_EPOCH": max_epoch,
                "LR_SCHEDULER": "cosine",
                "WARMUP_EPOCH": 1,
                "WARMUP_TYPE": "constant",
            }
        )
    )
    return cfg


def test_resume_from_upstream_file_fast_forwards_the_schedule():
    cfg, model = locoop_optim(max_epoch=4), Prompts()
    optim = build_optimizer(model, cfg)
    sched = build_lr_scheduler(optim, cfg)
    assert resume_from_checkpoint(GOLDEN / "prompt_learner", model, optim, sched) == 4
    expected = load_checkpoint(GOLDEN / "prompt_learner/model.pth.tar-4")["optimizer"]
    assert optim.param_groups[0]["lr"] == expected["param_groups"][0]["lr"]
    assert sched.get_last_lr() == pytest.approx([expected["param_groups"][0]["lr"]], rel=1e-12)
    assert optim.state[model.ctx]["momentum_buffer"].abs().sum() > 0


class Hostile:
    """What an attacker would put into a checkpoint."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("key", ["state_dict", "scheduler", "extra"])
@pytest.mark.parametrize("old_format", [False, True])
def test_hostile_file_is_refused_and_not_run(tmp_path, key, old_format):
    victim = tmp_path / "made-by-attack"
    state = {"state_dict": {"w": torch.zeros(2)}, "epoch": 1, "scheduler": None}
    state[key] = Hostile(os.mkdir, str(victim))
    torch.save(state, tmp_path / "bad", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(InputError, match="refused") as caught:
        load_checkpoint(tmp_path / "bad")
    assert "mkdir" in str(caught.value)
    assert not victim.exists()
    torch.load(tmp_path / "bad", weights_only=False)
    assert victim.exists()  # so much for files that are not refused


def test_objects_in_place_of_weights_are_refused(tmp_path):
    optim = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    torch.save({"state_dict": optim, "epoch": 1}, tmp_path / "bad")
    with pytest.raises(InputError, match="objects, not tensors"):
        load_checkpoint(tmp_path / "bad")


@pytest.mark.parametrize("keep", [0, 10, 1000, 100_000, -200])
def test_truncated_file_is_a_sentence(tmp_path, keep):
    whole = (GOLDEN / "prompt_learner/model.pth.tar-4").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:keep])
    with pytest.raises(InputError, match="cut"):
        load_checkpoint(tmp_path / "cut")


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    (tmp_path / "cut").touch()
    with pytest.raises(InputError, match=r"cut is empty \(0 bytes\). Copy or download it again"):
        load_checkpoint(tmp_path / "cut")


@pytest.mark.parametrize("content, kind", [(torch.zeros(2), "Tensor"), ([1], "list"), (3, "int")])
def test_content_that_is_no_dict_is_a_sentence(tmp_path, content, kind):
    torch.save(content, tmp_path / "odd")
    with pytest.raises(InputError, match=f"odd is not a checkpoint: it holds a {kind}, not a dict"):
        load_checkpoint(tmp_path / "odd")


def test_missing_file_folder_and_nothing(tmp_path):
    (tmp_path / "model.pth.tar-5").write_bytes(b"")
    with pytest.raises(InputError, match=r"no checkpoint .*holds: model.pth.tar-5"):
        load_checkpoint(tmp_path / "model.pth.tar-6")
    with pytest.raises(InputError, match="is a folder"):
        load_checkpoint(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(tmp_path / "a" / "b")
    with pytest.raises(InputError):
        load_checkpoint(None)


def state(epoch):
    return {"state_dict": {"module.w": torch.full((2,), float(epoch))}, "epoch": epoch}


def test_save_strips_module_and_copies_best(tmp_path):
    save_checkpoint(state(2), tmp_path, is_best=True)
    assert list(load_checkpoint(tmp_path / "model.pth.tar-2")["state_dict"]) == ["w"]
    best, last = (tmp_path / name for name in ("model-best.pth.tar", "model.pth.tar-2"))
    assert best.read_bytes() == last.read_bytes()


@pytest.mark.parametrize("failing", ["torch.save", "os.fsync", "os.replace"])
def test_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, failing):
    save_checkpoint(state(1), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(failing, full)
    with pytest.raises(InputError, match=r"Cannot write .*model\.pth\.tar-2: No space left"):
        save_checkpoint(state(2), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_for_real(tmp_path, monkeypatch):
    """A write that the kernel refuses, not a patched function."""
    real_open = open

    def onto_full(path, *args, **kwargs):
        return real_open("/dev/full" if ".tmp" in str(path) else path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", onto_full)
    with pytest.raises(InputError, match="No space left"):
        save_checkpoint(state(1), tmp_path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_leaves_nothing_on_any_error(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with pytest.raises(RuntimeError), atomic_write(target) as handle:
        handle.write("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    with atomic_write(target) as handle:
        handle.write("wholé")
    assert target.read_text(encoding="utf-8") == "wholé"
    with pytest.raises(FileNotFoundError), atomic_write(target):
        open(tmp_path / "elsewhere")  # not our file: its own error
    with pytest.raises(ValueError, match="whole files"), atomic_write(target, "a"):
        pass


def test_pretrained_weights_partial_and_none(tmp_path, caplog):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 3))
    old = {k: v.clone() for k, v in model.state_dict().items()}
    weights = {"module.0.weight": torch.ones(2, 2), "1.weight": torch.ones(9, 9), "x": 3}
    torch.save(weights, tmp_path / "some")
    load_pretrained_weights(model, tmp_path / "some")
    assert torch.equal(model[0].weight, torch.ones(2, 2))
    assert torch.equal(model[1].weight, old["1.weight"])
    assert caplog.records[-1].levelname == "WARNING" and "1.weight" in caplog.messages[-1]
    torch.save({"state_dict": {"y": torch.ones(1)}}, tmp_path / "none")
    with pytest.raises(InputError, match=r"Nothing in .*none fits the model"):
        load_pretrained_weights(model, tmp_path / "none")
    torch.save(
        {name: torch.ones(3, 2) for name in ("1.weight", "module.1.weight")}, tmp_path / "two"
    )
    with pytest.raises(InputError, match=r"two holds both 1.weight and module.1.weight: save one"):
        load_pretrained_weights(model, tmp_path / "two")
