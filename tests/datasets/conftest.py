"""Fixtures: tiny image trees and configurations."""

import io
from pathlib import Path

import pytest
from PIL import Image

from dassl.config import get_cfg_default


def _image_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def tree(tmp_path):
    """Return a writer of image trees: `tree({"train/cat": 3, ...})` returns the root."""
    data = _image_bytes()

    def make(folders: dict[str, int], root: Path = tmp_path) -> Path:
        for folder, count in folders.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                (root / folder / f"{index}.png").write_bytes(data)
        return root

    return make


@pytest.fixture
def cfg(tmp_path):
    """Return the default configuration with the temporary folder as DATASET.ROOT."""
    config = get_cfg_default()
    config.DATASET.ROOT = str(tmp_path)
    config.SEED = 1
    return config
