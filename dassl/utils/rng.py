"""The state of all global random generators, in types that a weights-only checkpoint may hold."""

import random
from typing import Any

import numpy as np
import torch


def seed_cpu(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators of the CPU alone."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def get_rng_state(cuda: bool = True) -> dict[str, Any]:
    """Return the states of the global generators: Python, numpy, torch, CUDA if in use."""
    version, words, gauss = random.getstate()
    key, position, has_gauss, cached = np.random.get_state()[1:]
    return {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "key": torch.tensor(key.astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cuda and torch.cuda.is_initialized() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `get_rng_state` returned. CUDA devices that are not there are skipped."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    key = numpy["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"].cpu())
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state.cpu(), device)
