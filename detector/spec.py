"""What a detector is made of, and its files: `detector.json` and `detector.safetensors`.

They hold the class names and their text features, each score with its parameters, the scores of
the held-out ID images, from which a threshold for any share of them follows, and of CLIP the name
and the hash, not the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dassl.data.transforms import Preprocess
from dassl.utils import InputError, atomic_write, plain, read_json, write_json
from dassl.utils.names import classnames_hash, suggest
from detector.calibration import TPR, Threshold, calibrate, check_tpr
from ood.library import PREFIX

SCHEMA = 1
FILE, TENSORS = "detector.json", "detector.safetensors"
WRITTEN = ("score", "tpr", "clip", "precision", "top_k", "exif")  # as they are
ID_SCORES = "id_scores/"  # before the names of scores, among the tensors

MEANING = (
    "ID at score >= threshold (higher = more in-distribution), which `kept` of the held-out ID "
    "images reach, `required` of them without ties; `interval`: rates at which new images drawn "
    "like these are kept, 95 % confidence. To be read: a detector computes its threshold anew."
)


@dataclass(frozen=True)
class DetectorSpec:
    """A detector without CLIP's weights.

    Attributes:
        classnames: C names in label order.
        features: "text" `[C, D]`, of a CLIPN "no" `[C, D]`, and those of words that are not
            classes (`PromptedCLIP.texts`): normalised, float32.
        scale: the factor between cosine similarities and logits, a scalar tensor.
        clip: "name", "weights_hash" and "activation".
        preprocess: from an image to the model's input.
        precision: as in `clip.precision`.
        parameters: score -> its parameters, of every score offered.
        score: the one in use.
        top_k: K of region maps.
        tpr: share of ID images that the threshold keeps.
        exif: photographs are turned as their EXIF orientation says.
        id_scores: score -> sorted scores `[n]` of held-out ID images; empty before a calibration.
        origin: what else could change a verdict, for readers: trainer, checkpoint, ID set, ...
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
        """Return the same with another score or share of ID images; "" and None change nothing.

        Raises:
            InputError: a score that it has not, or an impossible share.
        """
        score, tpr = score or self.score, self.tpr if tpr is None else tpr
        refuse_fitted(score)
        if score not in self.parameters:
            raise InputError(
                f"the detector has no score {score!r}. {suggest(score, self.parameters)} Evaluate "
                "again with the names of others as --scores"
            )
        check_tpr(tpr)
        return replace(self, score=score, tpr=tpr)

    def calibrate(
        self, id_scores: Mapping[str, ArrayLike], tpr: float, of: Mapping[str, Any]
    ) -> DetectorSpec:
        """Return the same with the scores of held-out ID images; `of`: which images those are."""
        ordered = {
            name: np.sort(np.asarray(id_scores[name], np.float32)) for name in self.parameters
        }
        origin = {**self.origin, "calibration": dict(of)}
        return replace(self, id_scores=ordered, tpr=tpr, origin=origin)

    def threshold(self, score: str = "") -> Threshold | None:
        """Return the threshold of a score, the one in use by default; None if not calibrated."""
        if not self.id_scores:
            return None
        return calibrate(self.id_scores[score or self.score], self.tpr)


def refuse_fitted(score: str) -> None:
    """Raise InputError for a score of pytorch-ood: no file holds what it was fitted to."""
    if score.startswith(PREFIX):
        raise InputError(
            f"a detector cannot use {score}: the features that pytorch-ood is fitted to are not in "
            f"its files. Such scores are for evaluations: eval_ood.py --scores {score}"
        )


def write_spec(folder: str | Path, spec: DetectorSpec) -> Path:
    """Write both files into `folder`, detector.json last, and return its path."""
    folder, content = Path(folder), _tensors(spec)
    # Without it nobody takes old thresholds for those of new tensors if this dies on the way.
    (folder / FILE).unlink(missing_ok=True)
    with atomic_write(folder / TENSORS, "wb") as file:
        file.write(content)
    write_json(plain(_describe(spec, content)), folder / FILE, indent=1)
    return folder / FILE


def fingerprint(spec: DetectorSpec) -> str:
    """Return a hash of all that verdicts follow from, the same for a detector that was saved."""
    content = _describe(spec, _tensors(spec))
    of_clip = {key: value for key, value in spec.clip.items() if key != "name"}  # files move
    decides = {**content, "clip": of_clip, "meaning": "", "origin": ""}
    return hashlib.sha256(json.dumps(plain(decides), sort_keys=True).encode()).hexdigest()


def _tensors(spec: DetectorSpec) -> bytes:
    from safetensors.torch import save

    tensors = {**spec.features, "scale": spec.scale.reshape(())}
    tensors |= {f"{ID_SCORES}{name}": torch.from_numpy(v) for name, v in spec.id_scores.items()}
    return save({key: x.detach().cpu().contiguous() for key, x in tensors.items()})


def _describe(spec: DetectorSpec, tensors: bytes) -> dict[str, Any]:
    scores: dict[str, dict] = {}
    for name, parameters in spec.parameters.items():
        scores[name] = {"parameters": parameters}
        if found := spec.threshold(name):
            facts = {key: getattr(found, key) for key in ("required", "kept", "images", "interval")}
            scores[name] |= {"threshold": found.value, **facts}
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
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise InputError(f"{path} has schema {found}, this version reads {SCHEMA}: evaluate again")
    try:
        return _spec(content, _read_tensors(path, content["tensors_sha256"]), path)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}): evaluate again") from error


def _spec(content: dict, tensors: dict[str, Tensor], path: Path) -> DetectorSpec:
    content = {"exif": False, **content}  # detectors of old have none
    names = content["classnames"]
    if classnames_hash(names) != content["classnames_hash"]:
        raise InputError(
            f"{path}: its class names are not those its text features were made of: evaluate again"
        )
    scale = tensors.pop("scale")
    id_scores = {key for key in tensors if key.startswith(ID_SCORES)}
    return DetectorSpec(
        classnames=names,
        features={key: x for key, x in tensors.items() if key not in id_scores},
        scale=scale,
        id_scores={key.removeprefix(ID_SCORES): tensors[key].numpy() for key in id_scores},
        parameters={name: entry["parameters"] for name, entry in content["scores"].items()},
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
            f"{tensors} is missing, damaged, or of another {FILE} than {path}: evaluate again"
        )
    return load(content)
