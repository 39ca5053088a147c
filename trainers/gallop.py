"""GalLoP: global and local prompts, and a learned map of the local features."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from clip import ClipModel, weights_hash
from clip.negation import draw
from clip.prefix import CHUNK
from clip.prompted import PromptedCLIP, cosines, exact, normalised, top_region_cosines
from clip.weights import check_numbers, plain_names
from dassl.distributed import from_all, mean_over_ranks, rank
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import InputError, load_checkpoint, load_weights_into
from trainers.prompt_learner import PromptLearner
from trainers.prompt_trainer import LearnedPrompts
from trainers.words import ContextTrainer

logger = logging.getLogger(__name__)


@TRAINER_REGISTRY.register()
class GalLoP(ContextTrainer):
    """Learn global and local prompts (Lafon et al., ECCV 2024).

    Differs from upstream: the prompts that dropout keeps depend only on SEED and the step; few-shot
    images are drawn as for every trainer here; underscores in class names become spaces; TEXT_CHUNK
    bounds the memory.
    """

    CONFIG_KEY = "GALLOP"
    CONFIG = CfgNode(
        {
            "N_GLOBAL": 4,  # prompts of the whole image, m
            "N_LOCAL": 4,  # prompts of its regions, n
            "TOPK": [5, 10, 15, 20],  # top regions of each local prompt, or one number for all
            "DROPOUT": 0.75,  # share of the global prompts dropped for a training image
            "TEMPLATE": "A photo of a",  # words that all prompts start from
            "PREC": "amp",  # fp32, tf32, amp, amp_bf16 or fp16 (towers in float16)
            "TEXT_CHUNK": CHUNK,  # prompt tokens encoded at once: changes memory and time only
        }
    )
    RANGES: ClassVar = {"N_GLOBAL": (1, inf), "N_LOCAL": (1, inf)}
    SCORE = "GL-MCM"
    BATCH = ("img", "kept", "label")
    GRAPHED = True

    def check_cfg(self, cfg: CfgNode) -> None:
        settings = cfg.TRAINER.GALLOP
        valid = all(isinstance(k, int) and k >= 1 for k in settings.TOPK)
        if len(settings.TOPK) not in (1, settings.N_LOCAL) or not valid:
            raise InputError(
                f"TRAINER.GALLOP.TOPK is {settings.TOPK}: give whole numbers of 1 or more, "
                f"one for all {settings.N_LOCAL} local prompts (N_LOCAL) or one for each"
            )
        if not 0 <= settings.DROPOUT < 1:
            raise InputError(
                f"TRAINER.GALLOP.DROPOUT is {settings.DROPOUT}: the share of global prompts that "
                "are dropped must be 0 or more and below 1"
            )
        if not settings.TEMPLATE.strip():
            raise InputError("TRAINER.GALLOP.TEMPLATE is empty: all prompts start from its words")

    @property
    def ks(self) -> list[int]:
        """Return the number of top regions of each local prompt."""
        ks = list(self.settings.TOPK)
        return ks if len(ks) == self.settings.N_LOCAL else ks * self.settings.N_LOCAL

    def build_model(self) -> None:
        cfg, settings, clip = self.cfg, self.settings, self.load_clip()
        if clip.region_projection is None:
            raise InputError(
                "GalLoP maps the local features of a ViT before their projection, which "
                f"{clip.name} does not have: use a ViT, such as ViT-B/16, or another trainer"
            )
        names = self.dm.dataset.classnames
        learner = PromptSets(names, clip, settings.TEMPLATE, settings.N_GLOBAL, settings.N_LOCAL)
        self.learner = learner.to(self.device)
        self.model = PromptSetsCLIP(clip, learner, self.ks, settings.TEXT_CHUNK)
        if path := cfg.MODEL.INIT_WEIGHTS:  # may be a published file
            checkpoint = load_checkpoint(path)
            self.check_checkpoint(checkpoint, Path(path))
            load_weights_into(learner, checkpoint["state_dict"], path)
        if max(self.ks) > self.model.num_regions:
            logger.warning(
                "TRAINER.GALLOP.TOPK is %s: an image has %d regions; a larger number means all",
                self.ks,
                self.model.num_regions,
            )
        self.learn("prompt_learner", learner)

    def forward_backward(self, batch: dict) -> dict[str, float]:
        return super().forward_backward(batch | {"kept": self.kept_prompts(len(batch["label"]))})

    def loss(
        self, images: Tensor, kept: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return cosines `[B, C]` and the cross entropies of global and of local prompts.

        The global loss takes the mean cosine of the prompts that dropout keeps for an image; the
        local one is a mean over prompts, each with its number of top regions (Sections 3.2, 3.3).

        Args:
            images: `[B, 3, H, W]`. kept: global prompts of each image, `[B, q]`. labels: `[B]`.
        """
        model = self.model
        encoded = model.image_features(images, local=True)
        of_global, of_local = model.set_cosines(*encoded, model.text_features())
        index = kept[..., None].expand(-1, -1, of_global.shape[-1])  # [B, q, C]
        logits = model.scale * of_global.gather(1, index).mean(dim=1)  # [B, C]
        local_logits = model.scale * of_local.flatten(0, 1)  # [B n, C]
        local_labels = labels.repeat_interleave(of_local.shape[1])  # [B n]
        loss_global = mean_over_ranks(F.cross_entropy(logits, labels, reduction="none"))
        loss_local = mean_over_ranks(F.cross_entropy(local_logits, local_labels, reduction="none"))
        parts = {"loss_global": loss_global, "loss_local": loss_local}
        return mean_cosines(of_global, of_local), {"loss": loss_global + loss_local, **parts}

    def kept_prompts(self, count: int) -> Tensor:
        """Draw with replacement the global prompts `[count, q]` that dropout keeps."""
        prompts = self.settings.N_GLOBAL
        kept = prompts - int(self.settings.DROPOUT * prompts)  # 1 or more, as DROPOUT is below 1
        step = self.epoch * self.num_batches + self.batch_idx
        counts = from_all(count)  # of the last batch, ranks may hold unequal shares
        drawn = draw(sum(counts) * kept, prompts, self.cfg.SEED, step).view(-1, kept)
        return drawn.split(counts)[rank()].to(self.device, non_blocking=True)

    # Evaluation

    def test(self, split: str | None = None) -> float:
        """Evaluate as Dassl does, and report the accuracy of each kind of prompt alone."""
        self._total, self._correct = 0, torch.zeros(2, dtype=torch.int64, device=self.device)
        result = super().test(split)
        counts = zip(*from_all([self._total, *self._correct.tolist()]), strict=True)
        total, *correct = map(sum, counts)
        percents = [100 * count / total for count in correct]
        logger.info("Accuracy: global prompts %.2f %%, local prompts %.2f %%", *percents)
        return result

    def parse_batch_test(self, batch: dict) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return the cosines `[B, m, C]` and `[B, n, C]` of both kinds of prompt; labels `[B]`."""
        images, labels = super().parse_batch_test(batch)
        with self.autocast():
            encoded = self.model.image_features(images, local=True)
            pair = self.model.set_cosines(*encoded, self.text_features())
        predicted = torch.stack([x.mean(dim=1).argmax(dim=-1) for x in pair])  # [2, B]
        self._correct += (predicted == labels).sum(dim=1)
        self._total += len(labels)
        return pair, labels

    def model_inference(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        """Return logits `[B, C]` of the cosines of both kinds of prompt."""
        return mean_cosines(*pair) * self.model.scale

    # Checkpoints and provenance

    def contexts(self) -> dict[str, Tensor]:
        kinds = {"global": self.learner.global_prompt, "local": self.learner.local_prompts}
        return {f"{kind} {i + 1}": x for kind, sets in kinds.items() for i, x in enumerate(sets)}

    def image_encoding(self) -> dict[str, object]:
        """Return what could change an image's features; for its regions that is the map, too."""
        facts = super().image_encoding()
        if self.cfg.EVAL.FEATURES_LOCAL:
            facts["local_map"] = weights_hash({"map": self.learner.local_proj.linear.weight})
        return facts

    def check_checkpoint(self, checkpoint: dict, path: Path) -> None:
        """Refuse checkpoints of other methods, other numbers of prompts or another CLIP."""
        state = checkpoint["state_dict"] = plain_names(checkpoint, path)
        expected = {name: list(x.shape) for name, x in self.learner.state_dict().items()}
        if missing := expected.keys() - state.keys():
            raise InputError(
                f"{path} holds no {', '.join(sorted(missing))}: it is no checkpoint of GalLoP. "
                "Name the trainer that wrote it (--trainer), or another file"
            )
        for name, shape in expected.items():
            if list(state[name].shape) != shape:
                raise InputError(
                    f"{path} does not fit: its {name} is {list(state[name].shape)}, the config "
                    f"asks for {shape}. Set TRAINER.GALLOP.N_GLOBAL, .N_LOCAL and .TEMPLATE (or "
                    "--backbone) as they were in training"
                )
        check_numbers(path, {name: state[name] for name in expected})
        super().check_checkpoint(checkpoint, path)


class PromptSets(PromptLearner):
    """The m global and n local prompts, shared by all classes, and the map of the regions.

    State dict, as published: `global_prompt` `[m, M, W]`, `local_prompts` `[n, M, W]`,
    `local_proj.linear.weight` `[V, V]`, V the width of the image tower. A prompt has no full stop.
    """

    def __init__(
        self, classnames: list[str], clip: ClipModel, template: str, n_global: int, n_local: int
    ):
        super().__init__(classnames, clip, ctx_init=template, stop="")
        start = self.ctx.detach()  # [M, W]
        del self.ctx  # it served to lay out the prompts; the two sets learn instead
        self.global_prompt = nn.Parameter(start.repeat(n_global, 1, 1))
        self.local_prompts = nn.Parameter(start.repeat(n_local, 1, 1))
        width = len(clip.region_projection)
        linear = nn.Linear(width, width, bias=False)
        nn.init.eye_(linear.weight)
        self.local_proj = nn.Sequential(OrderedDict(linear=linear))


class EncodedSets(LearnedPrompts):
    """Encode all prompts of a `PromptSets`, at most `chunk` tokens at once."""

    def forward(self) -> Tensor:
        """Return unnormalised text features `[m + n, C, D]`, those of the global prompts first."""
        encode = super().forward
        contexts = [*self.learner.global_prompt, *self.learner.local_prompts]
        recompute = len(contexts) * self.learner.fixed[..., 0].numel() > self.chunk
        return torch.stack([encode(context, recompute) for context in contexts])


class PromptSetsCLIP(PromptedCLIP):
    """A frozen CLIP with GalLoP's prompts.

    Args:
        ks: the number of top regions of each local prompt. chunk: as in `EncodedSets`.
    """

    def __init__(self, clip: ClipModel, learner: PromptSets, ks: Sequence[int], chunk: int):
        super().__init__(clip, EncodedSets(clip, learner, chunk))
        self.ks = list(ks)

    @property
    def local_map(self) -> Tensor:
        """Return the product of the learned map and CLIP's projection, `[V, D]`."""
        weight = self.prompts.learner.local_proj.linear.weight
        with exact(weight):
            return weight.T @ self.clip.region_projection.to(weight.dtype)

    def split(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Split text features into those of global `[m, C, D]` and local prompts `[n, C, D]`."""
        return text[: -len(self.ks)], text[-len(self.ks) :]

    def set_cosines(self, features: Tensor, regions: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines with the global prompts `[B, m, C]` and the local ones `[B, n, C]`.

        Args:
            features: `[B, D]`. regions: `[B, N, D]`, mapped. text: as `text_features` returns it.
        """
        global_text, local_text = self.split(text)
        similarity = cosines(features, global_text.flatten(0, 1))  # [B, m C]
        similarity = similarity.unflatten(1, global_text.shape[:2])
        return similarity, top_region_cosines(regions, local_text, self.ks)

    def with_texts(self, text: Tensor) -> dict[str, Tensor]:
        """Return `PromptedCLIP.with_texts`, with the mean of prompts normalised beside words."""
        features = super().with_texts(text)
        return features | {name: normalised(text) for name, x in self.texts.items() if x is None}

    def class_features(self) -> dict[str, Tensor]:
        """Return what scores need: "text" `[C, D]`, the mean of the normalised global prompts'
        features, "local_text" `[n, C, D]`, "local_k" `[n]` and "local_map" `[V, D]`."""
        global_text, local_text = self.split(self.text_features())
        return {
            **self.with_texts(global_text.mean(dim=0)),
            "local_text": local_text,
            "local_k": torch.tensor(self.ks, device=local_text.device),
            "local_map": self.local_map.detach(),
        }


def mean_cosines(of_global: Tensor, of_local: Tensor) -> Tensor:
    """Return the mean cosine `[B, C]` of the two kinds of prompt, which predicts the class."""
    return (of_global.mean(dim=1) + of_local.mean(dim=1)) / 2
