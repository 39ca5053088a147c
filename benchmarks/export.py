"""Time an exported detector in ONNX Runtime against the same detector in PyTorch, on the CPU.

The model is the small CLIP of the generated benchmark with the score GL-MCM; its input is pixels,
its output scores. Both sides take turns.

    python benchmarks/export.py
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.common import Rows, in_turns, make_parser, ratio_row, run_rows
from detector import Detector
from detector.export import Graph, export
from generated.kinds import ID_OBJECTS

IMAGES = 64  # images in a turn


def measure(args: argparse.Namespace) -> Rows:
    """Measure one image at a time, as in verdict.py, and batches, as in the detector."""
    import onnxruntime

    detector = Detector.zero_shot(
        list(ID_OBJECTS), "generated-ViT-S/8", score="GL-MCM", device="cpu"
    )
    graph = torch.inference_mode()(Graph(detector.model, detector.spec).eval())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    with tempfile.TemporaryDirectory() as folder:
        session = onnxruntime.InferenceSession(str(export(detector, folder)), options)
    pixels, rows, raw = torch.randn(IMAGES, 3, *detector.spec.preprocess.size), [], {}
    for size in (1, 32):
        batches = pixels.split(size)
        sides = {
            "onnx": lambda b=batches: [session.run(None, {"pixels": x.numpy()}) for x in b],
            "here": lambda b=batches: [graph(x) for x in b],
        }
        raw[size] = in_turns(sides, args.repeats)
        where = f"{IMAGES} images, {size} at a time"
        rows.append(ratio_row("ONNX / PyTorch", where, raw[size], *sides, "at most 1.2"))
    return rows, raw


def main() -> None:
    run_rows("export", make_parser(__doc__, repeats=7), {"export": measure})


if __name__ == "__main__":
    main()
