"""Export a detector as ONNX, with a program that uses it without PyTorch."""

import io
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import clip
from clip.prompted import DescribedCLIP, PromptedCLIP
from dassl.data.transforms import Preprocess
from dassl.utils.errors import InputError, require_installed
from dassl.utils.files import plain, write_together
from detector.detector import Detector
from detector.spec import FILE, TENSORS, DetectorSpec
from ood.registry import SCORES

GRAPH, PROGRAM = "detector.onnx", "verdict.py"
PROGRAM_SOURCE = Path(__file__).with_name("exported.py")
OUTPUTS = ("score", "prediction", "probabilities")
OPSET = 17  # the first with LayerNormalization
TOLERANCE = 1e-4  # between scores of PyTorch and ONNX Runtime, relative where they exceed 1
MEANING = (
    "pixels [B, 3, H, W], float32 -> score [B], prediction [B] (index of a class), probabilities "
    "[B, C] (softmax at CLIP's temperature). ID at score >= threshold; null if not calibrated."
)


class Graph(nn.Module):
    """The exported computation, from pixels `[B, 3, H, W]` to `OUTPUTS`: `[B]`, `[B]`, `[B, C]`."""

    def __init__(self, model: DescribedCLIP, spec: DetectorSpec):
        super().__init__()
        self.model, self.score = model, SCORES[spec.score]
        self.settings = spec.parameters[spec.score]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model, needs = self.model, self.score.needs
        features, regions = model.image_features(pixels, model.reads_regions(needs))
        inputs = model.inputs(features, regions, model.features, needs)
        score = self.score.function(*(inputs[name] for name in needs), **self.settings)
        cosines = inputs.get("class_cosines", inputs["cosines"])
        return score, cosines.argmax(dim=-1), (model.scale * cosines).softmax(dim=-1)


def check_export(spec: DetectorSpec, folder: str | os.PathLike) -> None:
    """Raise InputError if a detector cannot be exported, or not into `folder`."""
    require_installed("an export", "export", "onnx", "onnxruntime")
    unsupported = PromptedCLIP.FROM_IMAGES | {"candidate_lse"}
    exportable = [name for name in spec.parameters if unsupported.isdisjoint(SCORES[name].needs)]
    if spec.score not in exportable:
        raise InputError(
            f"{spec.score} needs more than one pass through a tower, which an ONNX graph cannot "
            f"do: choose another score of {', '.join(exportable)}"
        )
    entries = os.listdir(folder) if os.path.isdir(folder) else []
    if os.path.isfile(folder) or TENSORS in entries or (entries and GRAPH not in entries):
        raise InputError(
            f"cannot export to {folder}, a file or a folder of other files: name a new folder"
        )


def export(detector: Detector, folder: str | os.PathLike) -> Path:
    """Write the detector with its current score into `folder`, in float32: an ONNX graph, whose
    path is returned, detector.json and a program.

    Raises:
        InputError: as `check_export`; the graph is impossible or above 2 GiB, or it disagrees with
            PyTorch.
    """
    check_export(detector.spec, folder)
    spec, folder, source = detector.spec, Path(folder), detector.model.clip
    model, _ = clip.load(source.name, "cpu", "fp32", source.activation)
    features = {name: x.cpu() for name, x in spec.features.items()}
    graph = Graph(DescribedCLIP(model, features, spec.scale.cpu()), spec).eval()
    try:
        content = _trace(graph, spec.preprocess.size)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"PyTorch cannot export {spec.score} of {source.name}: {reason}"
        ) from error
    _compare(graph, content, spec.preprocess.size)
    described = json.dumps(plain(_describe(spec)), indent=1) + "\n"
    program = PROGRAM_SOURCE.read_bytes()
    write_together(folder, {GRAPH: content, PROGRAM: program, FILE: described.encode()})
    return folder / GRAPH


def _trace(graph: Graph, size: tuple[int, int]) -> bytes:
    """Return the content of an ONNX file for any number of images.

    The graph is traced, because the newer exporter of PyTorch 2.6 does not support attention.
    """
    file, names, pixels = io.BytesIO(), ("pixels", *OUTPUTS), torch.zeros(1, 3, *size)
    with warnings.catch_warnings(), torch.no_grad(), _operators_of_onnx():
        warnings.simplefilter("ignore")  # of constants: those of the model's sizes are right
        torch.onnx.export(
            graph,
            (pixels,),
            file,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=OPSET,
            dynamo=False,
        )
    return file.getvalue()


@contextmanager
def _operators_of_onnx() -> Iterator[None]:
    """Compute attention by plain operators, and log sigmoid as -softplus(-x).

    The exporter would take the logarithm of ONNX Runtime's sigmoid, which is never below 1.5e-8.
    """
    log_sigmoid, mha = "aten::log_sigmoid", torch.backends.mha
    was_enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    torch.onnx.register_custom_op_symbolic(
        log_sigmoid, lambda g, x: g.op("Neg", g.op("Softplus", g.op("Neg", x))), OPSET
    )
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(log_sigmoid, OPSET)
        mha.set_fastpath_enabled(was_enabled)


@torch.inference_mode()
def _compare(graph: Graph, content: bytes, size: tuple[int, int]) -> None:
    import onnxruntime

    pixels = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = graph(pixels)[0].numpy()
    (scores,) = onnxruntime.InferenceSession(content).run(["score"], {"pixels": pixels.numpy()})
    difference = np.abs(scores - expected).max() / max(1, np.abs(expected).max())
    if not difference <= TOLERANCE:
        raise InputError(f"ONNX Runtime's scores differ by {difference:.2g}: nothing was exported")


def _describe(spec: DetectorSpec) -> dict[str, object]:
    limit = spec.threshold()
    return {
        "schema": "ONNX export 1",
        "meaning": MEANING,
        "score": spec.score,
        "parameters": spec.parameters[spec.score],
        "threshold": limit and limit.value,
        "about_threshold": str(limit or "not calibrated: detect.py --calibrate FOLDER"),
        "preprocessing": {
            "in_words": _describe_preprocess(spec.preprocess, spec.exif),
            **asdict(spec.preprocess),
            "exif": spec.exif,
        },
        "classes": spec.classnames,
        "clip": spec.clip,
        "origin": spec.origin,
    }


def _describe_preprocess(preprocess: Preprocess, exif: bool) -> str:
    height, width = preprocess.size
    edges = f"to {width} x {height} pixels, whatever its aspect ratio"
    if preprocess.resize_mode == "shortest":
        edges = f"until its shorter edge is {max(height, width)} pixels, the longer rounded down"
    return (
        "Refuse an image with an edge more than 200 times the other, or with floating-point "
        f"pixels. {'Apply' if exif else 'Ignore'} the EXIF orientation. Of 16-bit pixels, and of "
        "32-bit ones unless all are below 256, take the quotient by 256, rounded down; clip to 0 "
        "to 255. Convert the image to 8-bit RGB. Resize it with Pillow's "
        f"{preprocess.interpolation} filter {edges}. Crop {width} x {height} pixels from its "
        "centre: left and top are half of what is over, rounded, halves to the even number. "
        "Divide by 255, subtract mean, divide by std of each channel."
    )
