"""Fixtures shared by the tests of several rooms."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.golden import weights_clipn
from tests.golden.weights import make_state_dict

# No time limit per example, as CI machines stall; no database of examples on the disk.
settings.register_profile("promptood", deadline=None, database=None)
settings.load_profile("promptood")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory):
    """Redirect caches, so that tests leave the user's cache folder alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@functools.lru_cache(maxsize=4)
def _weights(arch: str, seed: int) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in make_state_dict(seed, arch).items()}


@pytest.fixture(scope="session")
def golden():
    """Return a reader of golden files: `golden("loss.json")` or `golden("loss.npz")`."""

    @functools.cache
    def read(name: str):
        path = GOLDEN / name
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        with np.load(path) as arrays:
            return dict(arrays)

    return read


@pytest.fixture(scope="session")
def generated_weights():
    """Return a maker of random weights in OpenAI's layout: `generated_weights("tiny-vit")`."""
    return lambda arch, seed=1001: dict(_weights(arch, seed))


@pytest.fixture(scope="session")
def clip_file(generated_weights, tmp_path_factory):
    """Return a writer of safetensors files with these weights, marked as QuickGELU's."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")

    @functools.cache
    def write(arch: str, seed: int = 1001) -> str:
        path = folder / (f"{arch}.safetensors" if seed == 1001 else f"{arch}-{seed}.safetensors")
        save_file(generated_weights(arch, seed), path, {"activation": "quick_gelu"})
        return str(path)

    return write


@pytest.fixture(scope="session")
def tiny_clip(clip_file):
    """Return a loader of models with these weights: `tiny_clip("tiny-rn")`."""
    import clip

    return functools.cache(
        lambda arch="tiny-vit", device="cpu": clip.load(clip_file(arch), device)[0]
    )


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """Return a starter of entry points in new processes: `forked("train", "--shots", 2)`."""
    from tests.forked import Starter

    return Starter(tmp_path_factory)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """Return the device to compute on: the CPU, and a GPU if there is one."""
    return request.param


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run Ray's tests first, which wait a lot, then the files with slow tests.

    Short tests are left for the end, so that no process waits long for the last one.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_shards_ray.py", item.path not in slow))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Remove the log handlers that an entry point in this process leaves behind."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    yield
    for handler in [h for h in root.handlers if (h.get_name() or "").startswith("dassl-")]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def clipn_file(tmp_path_factory):
    """Return a writer of CLIPN checkpoints like its authors': `clipn_file(seed, variant="src")`.

    With `plain` the file holds only the CLIP in it.
    """
    folder = tmp_path_factory.mktemp("clipn")

    def write(
        seed: int,
        variant: str = "src",
        arch: str = "tiny",
        logit_scale: float = 4.6052,
        plain: bool = False,
    ) -> str:
        path = folder / f"{seed}-{variant}-{arch}-{logit_scale}-{plain}/epoch_1.pt"
        if path.exists():
            return str(path)
        path.parent.mkdir()
        state = weights_clipn.make_state_dict(seed, arch, variant, logit_scale)
        state = weights_clipn.plain_clip(state) if plain else state
        state = {f"module.{key}": torch.as_tensor(value) for key, value in state.items()}
        # A NumPy scalar, as the cosine schedule leaves it in the published files.
        groups = [{"lr": np.float64(1e-4), "params": [0]}]
        torch.save(
            {
                "epoch": 1,
                "name": "x",
                "state_dict": state,
                "optimizer": {"state": {}, "param_groups": groups},
            },
            path,
        )
        return str(path)

    return write
