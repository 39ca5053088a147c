"""The data root is read, never written to."""

from __future__ import annotations

import shutil

import pytest

import eval_ood
import train
from dassl.utils.cache import file_state
from tests.worlds import flags


def listing(folder):
    return sorted((path, path.stat().st_mode, file_state(path)) for path in folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("trainer, mode", [("CoOp", 0o755), ("CLIPN", 0o555)])
def test_training_and_evaluation_leave_the_data_root_as_it_is(
    trainer, mode, world, call, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = shutil.copytree(world / "data", tmp_path / "data")
    for path in (root, *root.rglob("*")):
        path.chmod(mode)
    before = listing(root)
    arguments = ["--root", root, *flags(world, trainer)[2:], "--output-dir", tmp_path / "run"]
    call(train, *arguments, "--shots", "2")
    call(eval_ood, "--model-dir", tmp_path / "run", "--root", root)
    assert listing(root) == before
    assert not (tmp_path / "cache").exists()
    for path in (root, *root.rglob("*")):
        path.chmod(0o755)
