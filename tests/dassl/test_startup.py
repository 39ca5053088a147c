"""What is deferred at import is there when it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_detect_starts_without_the_compiler_and_timm():
    assert "LOADED []" in run(
        "import sys, detect; print('LOADED', [m for m in sys.modules "
        "if m.split('.')[0] in ('timm', 'sympy') or m.startswith('torch._dynamo')])"
    )


def test_later_they_are_the_real_ones():
    run("""
import detect, torch, torchvision
# Asks the compiler whether it runs:
boxes = torch.tensor([[0, 0., 0, 4, 4]])
assert torchvision.ops.roi_align(torch.rand(1, 3, 8, 8), boxes, 2).shape == (1, 3, 2, 2)
from timm.data import ImageNetInfo
from open_clip.timm_model import TimmModel
tower = TimmModel("test_vit", embed_dim=8, image_size=160, pool="", proj="none")
import timm
assert isinstance(tower.trunk, timm.models.VisionTransformer)
import torch._dynamo
assert torch._dynamo.utils.is_compile_supported("cpu") in (True, False)
""")


def test_what_a_stub_is_no_good_for_is_imported_as_ever():
    assert (
        run("""
from dassl.utils.startup import deferred
with deferred(("decimal", "json")):
    import json
    assert json.dumps([1]) == "[1]"  # called within the block: the real one
    import decimal
    class Money(decimal.Decimal):
        pass
import decimal
class Money(decimal.Decimal):
    pass
print(Money("1.5"))
""").strip()
        == "1.5"
    )
