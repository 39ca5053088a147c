"""Time an exported detector by ONNX Runtime against the same in PyTorch, on the CPU.

The small CLIP of the generated benchmark, GL-MCM, pixels in, scores out; both sides take turns.

    python benchmarks/export.py
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.common import Rows, compared, in_turns, make_parser, run_rows
from detector import Detector
from detector.export import Graph, export
from generated.kinds import ID_OBJECTS

IMAGES = 64  # a turn


def measure(args: argparse.Namespace) -> Rows:
    """Measure one image at a time, as verdict.py, and batches, as the detector."""
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
        parts = pixels.split(size)
        sides = {
            "onnx": lambda parts=parts: [session.run(None, {"pixels": x.numpy()}) for x in parts],
            "here": lambda parts=parts: [graph(x) for x in parts],
        }
        raw[size] = in_turns(sides, args.repeats)
        where = f"{IMAGES} images, {size} at a time"
        rows.append(compared("ONNX / PyTorch", where, raw[size], *sides, "at most 1.2"))
    return rows, raw


def main() -> None:
    run_rows("export", make_parser(__doc__, repeats=7), {"export": measure})


if __name__ == "__main__":
    main()
