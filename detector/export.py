"""A detector as ONNX, with all that a program without PyTorch needs to use it."""

import io
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
from dassl.utils.files import atomic_write, mkdir_if_missing, plain, write_json
from detector.detector import Detector
from detector.spec import FILE, TENSORS, DetectorSpec
from ood.registry import SCORES

GRAPH, PROGRAM = "detector.onnx", "verdict.py"
SOURCE = Path(__file__).with_name("exported.py")  # of PROGRAM
OUTPUTS = ("score", "prediction", "probabilities")
OPSET = 17  # the first with LayerNormalization
TOLERANCE = 1e-4  # between scores, relative to those above 1
MEANING = (
    "pixels [B, 3, H, W], float32 -> score [B], prediction [B] (index of a class), probabilities "
    "[B, C] (softmax at CLIP's temperature). ID at score >= threshold; null: not calibrated."
)


class Graph(nn.Module):
    """From pixels `[B, 3, H, W]` to `OUTPUTS`, `[B]`, `[B]` and `[B, C]`: what is exported."""

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
    """Raise InputError where a detector cannot be exported, or not into `folder`."""
    require_installed("--export", "export", "onnx", "onnxruntime")
    hard = PromptedCLIP.FROM_IMAGES | {"candidate_lse"}
    able = [name for name in spec.parameters if hard.isdisjoint(SCORES[name].needs)]
    if spec.score not in able:
        raise InputError(
            f"{spec.score} needs more than one pass through a tower, which an ONNX graph does not "
            f"do: choose another --score of {', '.join(able)}"
        )
    inside = os.listdir(folder) if os.path.isdir(folder) else []
    if os.path.isfile(folder) or TENSORS in inside or (inside and GRAPH not in inside):
        raise InputError(f"{folder} is a file, or holds others: name a new folder for --export")


def export(detector: Detector, folder: str | os.PathLike) -> Path:
    """Write the detector with its score in use, in float32, into `folder`: an ONNX graph, whose
    path is returned, its facts and a program.

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
        why = str(error).strip().split("\n")[0]
        raise InputError(f"PyTorch cannot write {spec.score} on {source.name}: {why}") from error
    _compare(graph, content, spec.preprocess.size)
    mkdir_if_missing(folder)
    (folder / FILE).unlink(missing_ok=True)
    for name, data in ((GRAPH, content), (PROGRAM, SOURCE.read_bytes())):
        with atomic_write(folder / name, "wb") as file:
            file.write(data)
    write_json(plain(_describe(spec)), folder / FILE, indent=1)
    return folder / GRAPH


def _trace(graph: Graph, size: tuple[int, int]) -> bytes:
    """Return the ONNX file, whose number of images is free.

    Traced, because the other exporter of PyTorch 2.6 knows no attention.
    """
    file, names, pixels = io.BytesIO(), ("pixels", *OUTPUTS), torch.zeros(1, 3, *size)
    with warnings.catch_warnings(), torch.no_grad(), _operators_of_onnx():
        warnings.simplefilter("ignore")  # what depends on the model's own sizes may be constant
        graph(pixels)  # draws NegLabel's groups, which a trace must find drawn
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
    """Compute attention by plain operators, and log sigmoid without a logarithm of 0.

    ONNX Runtime's sigmoid is 1.5e-8 from -18 on, whose logarithm the exporter would take.
    """
    fused, mha = "aten::log_sigmoid", torch.backends.mha
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    torch.onnx.register_custom_op_symbolic(
        fused, lambda g, x: g.op("Neg", g.op("Softplus", g.op("Neg", x))), OPSET
    )
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(fused, OPSET)
        mha.set_fastpath_enabled(before)


@torch.inference_mode()
def _compare(graph: Graph, content: bytes, size: tuple[int, int]) -> None:
    import onnxruntime

    pixels = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = graph(pixels)[0].numpy()
    (found,) = onnxruntime.InferenceSession(content).run(["score"], {"pixels": pixels.numpy()})
    difference = np.abs(found - expected).max() / max(1, np.abs(expected).max())
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
            "in_words": _in_words(spec.preprocess, spec.exif),
            **asdict(spec.preprocess),
            "exif": spec.exif,
        },
        "classes": spec.classnames,
        "clip": spec.clip,
        "origin": spec.origin,
    }


def _in_words(seen: Preprocess, exif: bool) -> str:
    height, width = seen.size
    edges = f"to {width} x {height} pixels, whatever its ratio"
    if seen.resize_mode == "shortest":
        edges = f"until its shorter edge is {max(seen.size)} pixels, the longer one rounded down"
    return (
        f"{'Heed' if exif else 'Ignore'} the EXIF orientation. Make the image RGB of 8 bits. "
        f"Resize it with Pillow's {seen.interpolation} filter {edges}. Cut {width} x {height} "
        "pixels out of its centre. Divide by 255, subtract mean, divide by std of each channel."
    )
