"""The contents of a detector, and its files: `detector.json` and `detector.safetensors`.

The files hold the class names and their text features, each score with its parameters, and the
scores of the held-out ID images, from which a threshold for any share of them follows. Of CLIP they
hold the name and the hash of the weights, not the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dassl.data.transforms import Preprocess
from dassl.utils import InputError, plain, read_json
from dassl.utils.files import write_together
from dassl.utils.names import classnames_hash, suggest
from detector.calibration import TPR, Threshold, calibrate, check_tpr
from ood.library import PREFIX

SCHEMA = 1
FILE, TENSORS = "detector.json", "detector.safetensors"
# Attributes written unchanged, and their types.
WRITTEN = {
    "score": str,
    "tpr": int | float,
    "clip": dict,
    "precision": str,
    "top_k": int,
    "exif": bool,
}
SETTINGS_HASH = "settings_sha256"
CLIP = ("name", "weights_hash", "activation")
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
                "others, name them to an evaluation (eval_ood.py --scores), or one to zero_shot"
            )
        check_tpr(tpr)
        return replace(self, score=score, tpr=tpr)

    def names_of(self, scores: str | Iterable[str]) -> list[str]:
        """Return one or several names of the detector's scores as a list; "all" means all of them.

        Raises:
            InputError: the detector has no such score.
        """
        if scores == "all":
            return list(self.parameters)
        return [
            self.choose(name).score for name in ([scores] if isinstance(scores, str) else scores)
        ]

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
    tensors = _tensors(spec)
    content = plain(_describe(spec, tensors))
    described = json.dumps({**content, SETTINGS_HASH: _hash_settings(content)}, indent=1) + "\n"
    write_together(Path(folder), {TENSORS: tensors, FILE: described.encode()})
    return Path(folder, FILE)


def fingerprint(spec: DetectorSpec) -> str:
    """Return a hash of everything that decides verdicts; saving a detector does not change it."""
    content = _describe(spec, _tensors(spec))
    clip = {key: value for key, value in spec.clip.items() if key != "name"}  # files may move
    decisive = {**content, "clip": clip, "meaning": "", "origin": ""}
    return _hash(plain(decisive))


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash_settings(content: dict[str, Any]) -> str:
    """Return a hash of all that has no check of its own."""
    keys = {*WRITTEN, "scores", "transform"} - {"clip"}  # CLIP is compared by its weights
    return _hash({key: content.get(key) for key in keys})


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
    """Read the detector in `folder`, which may also be the path of its `FILE`.

    Raises:
        InputError: there is none, it is of another version, or its files do not belong together.
    """
    path = Path(folder) if Path(folder).name == FILE else Path(folder, FILE)
    if not path.exists():
        raise InputError(
            f"{path.parent} has no {FILE}: run eval_ood.py, which writes one, or save a calibrated "
            "detector (detect.py: --calibrate FOLDER_OF_ID_IMAGES --save DIR)"
        )
    content = read_json(path)
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path} has schema {schema}, this version reads {SCHEMA}: evaluate again")
    content = {"exif": False, **content}  # detectors of earlier versions lack it, and the hash
    if content.get(SETTINGS_HASH, "") not in ("", _hash_settings(content)):
        raise InputError(
            f"{path} is damaged (it was changed after it was written): evaluate again. Another "
            "score or share is chosen when it is loaded, by score and tpr (--score, --tpr)"
        )
    try:
        return _spec(content, _read_tensors(path, content["tensors_sha256"]), path)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}): evaluate again") from error


def _spec(content: dict, tensors: dict[str, Tensor], path: Path) -> DetectorSpec:
    names = content["classnames"]
    if classnames_hash(names) != content["classnames_hash"]:
        raise InputError(
            f"{path}: its class names are not those of its text features: evaluate again"
        )
    parameters = {name: entry["parameters"] for name, entry in content["scores"].items()}
    wrong = [key for key, kind in WRITTEN.items() if not isinstance(content[key], kind)]
    wrong += [key for key in CLIP if not wrong and not isinstance(content["clip"].get(key), str)]
    wrong += [name for name, values in parameters.items() if not isinstance(values, dict)]
    if wrong:
        raise InputError(f"{path} is damaged ({', '.join(wrong)} of another type): evaluate again")
    scale = tensors.pop("scale")
    id_scores = {key for key in tensors if key.startswith(ID_SCORES)}
    return DetectorSpec(
        classnames=names,
        features={key: x for key, x in tensors.items() if key not in id_scores},
        scale=scale,
        id_scores={key.removeprefix(ID_SCORES): tensors[key].numpy() for key in id_scores},
        parameters=parameters,
        preprocess=Preprocess(**content["transform"]),
        origin=content["origin"],
        **{key: content[key] for key in WRITTEN},
    )


def _read_tensors(path: Path, expected: str) -> dict[str, Tensor]:
    from safetensors.torch import load

    tensors = path.with_name(TENSORS)
    content = tensors.read_bytes() if tensors.is_file() else b""
    if hashlib.sha256(content).hexdigest() != expected:
        raise InputError(
            f"{tensors} is missing, damaged, or belongs to another {FILE}: evaluate again"
        )
    return load(content)
