"""Decide whether images are ID or OOD, without PyTorch: python verdict.py IMAGE...

Needs onnxruntime, numpy and Pillow. The exit status is 1 if an image could not be read.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
FACTS = json.loads((HERE / "detector.json").read_text(encoding="utf-8"))
CLASSES, THRESHOLD, STEPS = (FACTS[key] for key in ("classes", "threshold", "preprocessing"))


def prepare(image: Image.Image) -> np.ndarray:
    """Return the model's input for an image, float32 [3, H, W]."""
    size, (height, width) = image.size, STEPS["size"]
    if max(size) > 200 * min(size) or image.mode == "F":
        raise ValueError("an edge more than 200 times the other, or floating-point pixels")
    image = ImageOps.exif_transpose(image) if STEPS["exif"] else image
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to nearly all white
        pixels = np.asarray(image)
        eight = image.mode == "I" and pixels.max() <= 255
        image = Image.fromarray((pixels if eight else pixels // 256).clip(0, 255).astype(np.uint8))
    short, resized = min(image.size), (width, height)
    if STEPS["resize_mode"] == "shortest":
        resized = tuple(int(max(height, width) * edge / short) for edge in image.size)
    resampling = Image.Resampling[STEPS["interpolation"].upper()]
    left, top = round((resized[0] - width) / 2), round((resized[1] - height) / 2)
    image = image.convert("RGB").resize(resized, resampling)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 255
    return ((pixels - np.float32(STEPS["mean"])) / np.float32(STEPS["std"])).transpose(2, 0, 1)


def main(paths: list[str]) -> bool:
    """Print path, class, its probability, score and verdict; return whether all were readable."""
    session, readable = onnxruntime.InferenceSession(str(HERE / "detector.onnx")), True
    for path in paths:
        try:
            with Image.open(path) as image:
                pixels = prepare(image)
        except Exception as error:  # Pillow raises errors of many classes
            print(path, "unreadable", error, sep="\t")
            readable = False
            continue
        score, label, p = (x[0] for x in session.run(None, {"pixels": pixels[None]}))
        line = [path, CLASSES[label], f"{p[label]:.1%}", f"{score:.6g}"]
        if THRESHOLD is not None:
            line.append("ID" if float(score) >= THRESHOLD else "OOD")
        print(*line, sep="\t")
    return readable


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
