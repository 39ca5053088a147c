"""Decide whether images are ID or OOD, without PyTorch: python verdict.py IMAGE_OR_FOLDER...

Needs onnxruntime, numpy and Pillow. The exit status is 1 if an image could not be read.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
FACTS = json.loads((HERE / "detector.json").read_text(encoding="utf-8"))
CLASSES, THRESHOLD, STEPS = (FACTS[key] for key in ("classes", "threshold", "preprocessing"))
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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


def images_of(path: str) -> Iterator[str]:
    """Yield `path` itself if it is no folder, else all images below it."""
    if not os.path.isdir(path):
        yield path
    Image.init()
    kinds = Image.registered_extensions().items()
    known = {extension for extension, kind in kinds if kind in Image.OPEN or kind == "MPO"}
    for folder, folders, names in os.walk(path):
        folders.sort()
        images = (n for n in sorted(names) if os.path.splitext(n)[1].lower() in known)
        yield from (os.path.join(folder, name) for name in images if not name.startswith("."))


def one_line(*columns: object) -> str:
    """Join columns by tabs; control characters and bytes that are no UTF-8 become escapes."""
    texts = (os.fsencode(str(x)).decode("utf-8", "backslashreplace") for x in columns)
    return "\t".join(
        CONTROL.sub(lambda c: c[0].encode("unicode_escape").decode(), x) for x in texts
    )


def main(paths: list[str]) -> bool:
    """Print path, class, its probability, score and verdict; return whether all were readable."""
    session, readable = onnxruntime.InferenceSession(str(HERE / "detector.onnx")), True
    for path in (image for named in paths for image in images_of(named)):
        try:
            with Image.open(path) as image:
                pixels = prepare(image)
        except Exception as error:  # Pillow raises errors of many classes
            print(one_line(path, "unreadable", error))
            readable = False
            continue
        score, label, p = (x[0] for x in session.run(None, {"pixels": pixels[None]}))
        line = [path, CLASSES[label], f"{p[label]:.1%}", f"{score:.6g}"]
        if THRESHOLD is not None:
            line.append("ID" if float(score) >= THRESHOLD else "OOD")
        print(one_line(*line))
    return readable


if __name__ == "__main__":
    asks = any(word in ("-h", "--help") for word in sys.argv[1:])
    if asks or not sys.argv[1:]:
        usage = (
            "usage: python verdict.py IMAGE_OR_FOLDER...    (prints image, class, score, verdict)"
        )
        print(usage, file=sys.stdout if asks else sys.stderr)
        sys.exit(0 if asks else 2)
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a name's characters
    sys.exit(not main(sys.argv[1:]))
