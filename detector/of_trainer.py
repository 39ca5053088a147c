"""Make a detector from a trainer's model."""

from torch import Tensor

from dassl.data.transforms.transforms import build_preprocess
from dassl.utils.errors import InputError
from dassl.utils.provenance import git_state, versions
from detector.detector import Detector
from detector.spec import DetectorSpec
from detector.zero_shot import describe_clip
from ood.regions import suggest_top_k
from ood.scoring import offered_scores_and, score_parameters
from trainers.base import ClipTrainer


def detector_of(trainer: ClipTrainer, score: str = "") -> Detector:
    """Return an uncalibrated detector of the trainer's model, with the usual scores and `score`."""
    offered = offered_scores_and(score, trainer.model.provides)
    spec = spec_of(trainer, trainer.class_features(), score_parameters(offered))
    return Detector(spec.choose(score), trainer.model.clip)


def spec_of(
    trainer: ClipTrainer, features: dict[str, Tensor], parameters: dict[str, dict[str, float]]
) -> DetectorSpec:
    """Return the uncalibrated `DetectorSpec` of the trainer's model.

    Args:
        features: the model's `class_features`. parameters: of each score, by its name.

    Raises:
        InputError: the model computes more than a detector's files hold.
    """
    if not trainer.model.is_describable:
        raise InputError(
            f"no detector can stand for {type(trainer).__name__}: its model computes image "
            "features or inputs of scores in its own way, and a detector holds only the class "
            "features beside CLIP. eval_ood.py scores it"
        )
    facts, names, cfg = trainer.provenance(), list(trainer.dm.dataset.classnames), trainer.cfg
    captioner = trainer.model.captioner
    return DetectorSpec(
        classnames=names,
        features=features | (captioner.kept() if captioner else {}),
        scale=trainer.model.scale.detach().float(),
        clip=describe_clip(trainer.model.clip),
        preprocess=build_preprocess(cfg, "normalize" in cfg.INPUT.TRANSFORMS),
        precision=trainer.precision.name,
        parameters=parameters,
        score=trainer.SCORE if trainer.SCORE in parameters else next(iter(parameters)),
        top_k=trainer.top_k or suggest_top_k(len(names)),
        origin={
            "trainer": type(trainer).__name__,
            "seed": cfg.SEED,
            "settings": facts["comparable"]["settings"],
            "dataset": cfg.DATASET.NAME,
            # These name the checkpoint: its file and the hash of the loaded tensors.
            **{key: facts[key] for key in ("context", "no_encoder", "decoder") if key in facts},
            "versions": versions(),
            "git": git_state(),
        },
    )
