"""What all entry points share: their errors, the config they build, its folder."""

from __future__ import annotations

import errno
import os
import sys

import pytest
import torch

import clip
import eval_ood
import train
from dassl import command
from dassl.utils import progress_bar
from run import config
from run.flags import make_parser
from tests.worlds import ROOT, flags, write


@pytest.mark.parametrize("where", [("/data/x.json",), ()])
def test_a_full_disk_is_a_sentence_whoever_meets_it(where):
    def main():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *where)

    with pytest.raises(SystemExit, match=f"error: Cannot write {(*where, 'a file')[0]}: No space"):
        command.run(main)


def test_an_error_that_is_no_full_disk_keeps_its_traceback():
    with pytest.raises(FileNotFoundError):
        command.run(lambda: open("/nowhere/at/all"))


@pytest.mark.parametrize("show", [print, progress_bar.write, lambda text: print(text, flush=True)])
def test_a_reader_that_leaves_ends_the_command_quietly(show, monkeypatch):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stdout:  # at its end nothing is left that could fail
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(BrokenPipeError, match="another pipe"):
            command.run(lambda: (_ for _ in ()).throw(BrokenPipeError("another pipe")))
        os.close(reading)
        with pytest.raises(SystemExit) as exit_:
            command.run(lambda: show("a line"))
        assert exit_.value.code == 141


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_names_the_settings_that_lower_it(
    world, trained, told, tmp_path, error, monkeypatch
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(clip.ClipModel, "encode_image", fail)
    expected = {
        "CoOp": "TRAINER.COOP.TEXT_CHUNK (now 16384), or DATALOADER.TRAIN_X.BATCH_SIZE (now 32)",
        "CLIPN": "TRAINER.CLIPN.MICRO_BATCH (now 4), or DATALOADER.TRAIN_X.BATCH_SIZE (now 4)",
    }
    for trainer, settings in expected.items():
        message = told(train, *flags(world, trainer), "--output-dir", tmp_path / trainer)
        assert f"4 classes on cpu: lower {settings}" in message
    message = told(train, "--root", f"{world}/data", "--model-dir", trained, "--eval-only")
    assert message.endswith(
        "in a test batch of 100 images and 4 classes on cpu: lower "
        "DATALOADER.TEST.BATCH_SIZE (now 100)"
    )
    message = told(
        eval_ood,
        "--root",
        f"{world}/data",
        "--model-dir",
        trained,
        "--output-dir",
        tmp_path / "scores",
    )
    assert message == (
        "error: out of memory in scoring on cpu: lower DATALOADER.TEST.BATCH_SIZE (now 100)"
    )
    monkeypatch.setattr(error, "args", ("shapes do not fit",))
    if not isinstance(error, torch.OutOfMemoryError):
        with pytest.raises(RuntimeError, match="shapes"):
            told(train, "--root", f"{world}/data", "--model-dir", trained, "--eval-only")


@pytest.mark.parametrize("trainer", config.TRAINER_REGISTRY.registered_names())
def test_with_a_config_of_ones_own_every_epoch_is_kept(world, tmp_path, trainer):
    """Whatever file the settings come from, a stopped run has something to go on from."""
    write(tmp_path / "own.yaml", {"OPTIM": {"MAX_EPOCH": 3}})
    parser = make_parser("")
    for path in (tmp_path / "own.yaml", *(ROOT / "configs/trainers" / trainer).glob("*.yaml")):
        args = parser.parse_args(["--trainer", trainer, "--config-file", str(path)])
        assert config.build_cfg(args).TRAIN.CHECKPOINT_FREQ == 1, path


def test_what_no_run_has_trained_is_not_evaluated_into_a_run_s_folder(clipn_file):
    def folder(trainer: str, *options: str, trains: bool = False) -> str:
        parser = make_parser("")
        parser.set_defaults(trains=trains)
        return config.build_cfg(parser.parse_args(["--trainer", trainer, *options])).OUTPUT_DIR

    published = folder("CLIPN", "--config", "tiny", "--backbone", clipn_file(11))
    assert published == "output/generated/CLIPN/tiny/epoch_1"
    assert folder("CLIPN", "--config", "tiny", trains=True).endswith("tiny_-1shots/seed1")
    for trains in (True, False):
        assert folder("ZeroshotCLIP", trains=trains) == "output/generated/ZeroshotCLIP/generated"
