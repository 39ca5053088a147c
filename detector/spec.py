"""The contents of a detector, and its files: `detector.json` and `detector.safetensors`.

The files hold the class names and their text features, each score with its parameters, and the
scores of the held-out ID images, from which a threshold for any share of them follows. Of CLIP they
hold the name and the hash of the weights, not the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from clip import ClipModel
from dassl.data.transforms import Preprocess
from dassl.utils import InputError, plain, read_json
from dassl.utils.files import write_together
from dassl.utils.names import classnames_hash, suggest
from detector.calibration import TPR, Threshold, calibrate, check_tpr
from ood.library import PREFIX
from ood.registry import SCORES

SCHEMA = 1
FILE, TENSORS = "detector.json", "detector.safetensors"
NUMBER = int | float
# Attributes written unchanged, and their types.
WRITTEN = {"score": str, "tpr": NUMBER, "clip": dict, "precision": str, "top_k": int, "exif": bool}
# All of these must be there: a default in place of a lost one would change scores silently.
PARTS = {
    "": {
        **WRITTEN,
        **dict.fromkeys(("scores", "transform", "origin"), dict),
        "classnames": list,
        "classnames_hash": str,
    },
    "clip": dict.fromkeys(("name", "weights_hash", "activation"), str),
    "transform": {
        **dict.fromkeys(("size", "mean", "std"), list),
        **dict.fromkeys(("interpolation", "resize_mode"), str),
    },
}
OF_CLASSES = ("text", "no", "frozen", "local_text")  # features `[C, D]` or `[n, C, D]`
ID_SCORES = "id_scores/"  # prefix of score names among the tensors

MEANING = (
    "ID at score >= threshold (higher = more in-distribution). `kept` of the held-out ID images "
    "reach the threshold, `required` of them would without ties; `interval`: 95 % confidence "
    "interval of the rate at which new images drawn like these are kept. The threshold is here for "
    "readers; a detector computes it again from the ID scores."
)


@dataclass(frozen=True)
class DetectorSpec:
    """A detector without CLIP's weights.

    Attributes:
        classnames: C names in label order.
        features: "text" `[C, D]`, for CLIPN "no" `[C, D]`, and those of words that are not
            classes (`PromptedCLIP.texts`): normalised, float32.
        scale: the factor between cosine similarities and logits, a scalar tensor.
        clip: "name", "weights_hash" and "activation".
        preprocess: the transform from an image to the model's input.
        precision: as in `clip.precision`.
        parameters: score -> its parameters, for every score that the detector offers.
        score: the score that verdicts use.
        top_k: K of region maps.
        tpr: share of ID images that the threshold keeps.
        exif: whether photographs are rotated by their EXIF orientation.
        id_scores: score -> sorted scores `[n]` of held-out ID images; empty before a calibration.
        origin: other facts that could change a verdict, for readers: trainer, checkpoint, ...
    """

    classnames: list[str]
    features: dict[str, Tensor]
    scale: Tensor
    clip: dict[str, str]
    preprocess: Preprocess
    precision: str
    parameters: dict[str, dict[str, float]]
    score: str
    top_k: int
    tpr: float = TPR
    exif: bool = False
    id_scores: dict[str, np.ndarray] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)

    def choose(self, score: str = "", tpr: float | None = None) -> DetectorSpec:
        """Return a copy with another score or share of ID images; "" and None change nothing.

        Raises:
            InputError: the detector has no such score, or the share is impossible.
        """
        score, tpr = score or self.score, self.tpr if tpr is None else tpr
        refuse_fitted(score)
        if score not in self.parameters:
            raise InputError(
                f"the detector has no score {score!r}. {suggest(score, self.parameters)} To add "
                "others, evaluate again with their names as --scores"
            )
        check_tpr(tpr)
        return replace(self, score=score, tpr=tpr)

    def calibrate(
        self, id_scores: Mapping[str, ArrayLike], tpr: float, record: Mapping[str, Any]
    ) -> DetectorSpec:
        """Return a copy with the scores of held-out ID images; `record` describes the images."""
        ordered = {
            name: np.sort(np.asarray(id_scores[name], np.float32)) for name in self.parameters
        }
        origin = {**self.origin, "calibration": dict(record)}
        return replace(self, id_scores=ordered, tpr=tpr, origin=origin)

    def threshold(self, score: str = "") -> Threshold | None:
        """Return the threshold of `score` (default: the current score), None if not calibrated."""
        if not self.id_scores:
            return None
        return calibrate(self.id_scores[score or self.score], self.tpr)


def refuse_fitted(score: str) -> None:
    """Raise InputError for a score of pytorch-ood, whose fitted state a detector does not save."""
    if score.startswith(PREFIX):
        raise InputError(
            f"a detector cannot use {score}: its files do not hold what pytorch-ood was fitted to. "
            f"Such scores are for evaluations: eval_ood.py --scores {score}"
        )


def write_spec(folder: str | Path, spec: DetectorSpec) -> Path:
    """Write both files into `folder`, detector.json last, and return the latter's path."""
    content = _tensors(spec)
    described = json.dumps(plain(_describe(spec, content)), indent=1) + "\n"
    write_together(Path(folder), {TENSORS: content, FILE: described.encode()})
    return Path(folder, FILE)


def fingerprint(spec: DetectorSpec) -> str:
    """Return a hash of everything that decides verdicts; saving a detector does not change it."""
    content = _describe(spec, _tensors(spec))
    clip = {key: value for key, value in spec.clip.items() if key != "name"}  # files may move
    decisive = {**content, "clip": clip, "meaning": "", "origin": ""}
    return hashlib.sha256(json.dumps(plain(decisive), sort_keys=True).encode()).hexdigest()


def _tensors(spec: DetectorSpec) -> bytes:
    from safetensors.torch import save

    tensors = {**spec.features, "scale": spec.scale.reshape(())}
    tensors |= {f"{ID_SCORES}{name}": torch.from_numpy(v) for name, v in spec.id_scores.items()}
    return save({key: x.detach().cpu().contiguous() for key, x in tensors.items()})


def _describe(spec: DetectorSpec, tensors: bytes) -> dict[str, Any]:
    scores: dict[str, dict] = {}
    for name, parameters in spec.parameters.items():
        scores[name] = {"parameters": parameters}
        if limit := spec.threshold(name):
            facts = {key: getattr(limit, key) for key in ("required", "kept", "images", "interval")}
            scores[name] |= {"threshold": limit.value, **facts}
    return {
        "schema": SCHEMA,
        "meaning": MEANING,
        **{key: getattr(spec, key) for key in WRITTEN},
        "scores": scores,
        "transform": asdict(spec.preprocess),
        "classnames_hash": classnames_hash(spec.classnames),
        "classnames": spec.classnames,
        "origin": spec.origin,
        "tensors_sha256": hashlib.sha256(tensors).hexdigest(),
    }


def read_spec(folder: str | Path) -> DetectorSpec:
    """Read the detector in `folder`.

    Raises:
        InputError: there is none, it is of another version, or its files do not belong together.
    """
    path = Path(folder) / FILE
    content = read_json(path)
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path} has schema {schema}, this version reads {SCHEMA}: evaluate again")
    tensors = _read_tensors(path, content.get("tensors_sha256"))
    content = {"exif": False, **content}  # older detectors lack the key
    faults = [f"{name} missing or of another type" for name in _wrong_types(content)]
    try:
        if not (faults := faults or _misfits(content, tensors)):
            spec = _spec(content, tensors)
            if classnames_hash(spec.classnames) == content["classnames_hash"]:
                return spec
            faults = ["its class names are not those of its text features"]
    except (KeyError, TypeError, InputError) as error:  # InputError: of the transform
        faults = [str(error) if isinstance(error, InputError) else repr(error)]
    raise InputError(f"{path} is damaged ({'; '.join(faults)}): evaluate again")


def _wrong_types(content: dict) -> list[str]:
    """Return the names of values that are missing or of another type."""
    for part, kinds in PARTS.items():
        values = content[part] if part else content
        wrong = [key for key, kind in kinds.items() if not _is(kind, values.get(key))]
        if wrong:
            return [f"{part} {key}".strip() for key in wrong]
    lists = {key: content["transform"][key] for key in ("size", "mean", "std")}
    for name, entry in content["scores"].items():
        parameters = entry.get("parameters") if _is(dict, entry) else None
        lists[name] = parameters.values() if _is(dict, parameters) else [parameters]
    wrong = [name for name, numbers in lists.items() if not _is(NUMBER, *numbers)]
    return wrong + ["classnames"] * (not _is(str, *content["classnames"]))


def _is(kind: Any, *values: Any) -> bool:
    """Return whether all values are of a kind; bool is no kind of number."""
    return all(isinstance(x, kind) and (kind is bool or not isinstance(x, bool)) for x in values)


def _misfits(content: dict, tensors: dict[str, Tensor]) -> list[str]:
    """Return what does not fit together among values, features, scores and ID scores."""
    parameters = {name: entry["parameters"] for name, entry in content["scores"].items()}
    id_scores = {
        k.removeprefix(ID_SCORES): x for k, x in tensors.items() if k.startswith(ID_SCORES)
    }
    of_classes = [tensors[name] for name in OF_CLASSES if name in tensors]
    count, text, top_k = len(content["classnames"]), tensors["text"], content["top_k"]
    # Scores are computed together, with one value of a parameter that several of them have.
    values = {item for own in parameters.values() for item in own.items()}
    fits = {
        "NaN or infinity": plain(content) == content,
        f"tpr {content['tpr']}": 0 < content["tpr"] <= 1,
        f"top_k {top_k} of {count} classes": 1 <= top_k <= count,
        f"text features other than float32 [{count}, D]": text.dim() == 2
        and all(x.dtype == torch.float32 for x in of_classes)
        and all(x.shape[-2:] == (count, *text.shape[1:]) for x in of_classes),
        "scale is no number": tensors["scale"].numel() == 1,
        "scores with different values of one parameter": len(values) == len(dict(values)),
        "scores without their parameters": all(
            own.keys() == SCORES[name].parameters.keys()
            for name, own in parameters.items()
            if name in SCORES
        ),
        "ID scores of other scores": id_scores.keys() in (set(), parameters.keys()),
        "ID scores that are no float32 numbers of the same images": all(
            x.dtype == torch.float32 and x.isfinite().all() and x.shape == (len(x),) != (0,)
            for x in id_scores.values()
        )
        and len({len(x) for x in id_scores.values()}) < 2,
    }
    return [fault for fault, is_so in fits.items() if not is_so]


def _spec(content: dict, tensors: dict[str, Tensor]) -> DetectorSpec:
    scale = tensors.pop("scale")
    id_scores = {key for key in tensors if key.startswith(ID_SCORES)}
    return DetectorSpec(
        classnames=content["classnames"],
        features={key: x for key, x in tensors.items() if key not in id_scores},
        scale=scale,
        id_scores={key.removeprefix(ID_SCORES): tensors[key].numpy() for key in id_scores},
        parameters={name: entry["parameters"] for name, entry in content["scores"].items()},
        preprocess=Preprocess(**content["transform"]),
        origin=content["origin"],
        **{key: content[key] for key in WRITTEN},
    )


def _read_tensors(path: Path, expected: str | None) -> dict[str, Tensor]:
    from safetensors.torch import load

    tensors = path.with_name(TENSORS)
    content = tensors.read_bytes() if tensors.is_file() else b""
    if hashlib.sha256(content).hexdigest() == expected:
        with suppress(Exception):  # safetensors raises errors of many classes
            return load(content)
    raise InputError(f"{tensors} is missing, damaged, or belongs to another {FILE}: evaluate again")


def check_clip(model: ClipModel, spec: DetectorSpec, folder: str | os.PathLike) -> None:
    """Raise InputError unless `model` is the CLIP of the detector in `folder`."""
    if model.weights_hash != spec.clip["weights_hash"]:
        raise InputError(
            f"{model.name} is not the CLIP of the detector in {folder}: its weights differ. Name "
            "the right file with --backbone, or evaluate again"
        )
    width = model.text.project(model.text.positional_embedding[:1]).shape[-1]
    found = spec.features["text"].shape[-1]
    if width != found:
        raise InputError(
            f"{Path(folder, FILE)} is damaged (its text features are {found} wide, its CLIP's "
            f"{width}): evaluate again"
        )
