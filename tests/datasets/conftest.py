"""Tiny image trees and configs."""

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
    """tree({"train/cat": 3, ...}) writes 3 images 0.png.. into each folder; returns the root."""
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
    """A Dassl config with this room's keys, DATASET.ROOT at the temporary folder, seed 1."""
    config = get_cfg_default()
    config.DATASET.ROOT = str(tmp_path)
    config.SEED = 1
    return config
