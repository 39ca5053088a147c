"""GalLoP: global and local prompts, and a learned map of the local features."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from clip import ClipModel, weights_hash
from clip.negation import draw
from clip.prefix import CHUNK
from clip.prompted import PromptedCLIP, cosines, exact, normalised, top_region_cosines
from clip.weights import plain_names
from dassl.distributed import from_all, mean_over_ranks, rank, world_size
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import InputError, load_checkpoint, load_weights_into
from trainers.prompt_learner import PromptLearner
from trainers.prompt_trainer import LearnedPrompts
from trainers.words import ContextTrainer

logger = logging.getLogger(__name__)


@TRAINER_REGISTRY.register()
class GalLoP(ContextTrainer):
    """Learn global and local prompts (Lafon et al., ECCV 2024).

    Differs from upstream: which prompts dropout keeps is a function of SEED and the step; few-shot
    images are drawn as for every trainer here; class names have spaces for underscores; memory is
    bounded by TEXT_CHUNK.
    """

    CONFIG_KEY = "GALLOP"
    CONFIG = CfgNode(
        {
            "N_GLOBAL": 4,  # prompts of the whole image, m
            "N_LOCAL": 4,  # prompts of its regions, n
            "TOPK": [5, 10, 15, 20],  # regions that count, for each local prompt; or one for all
            "DROPOUT": 0.75,  # share of the global prompts that a training image does not see
            "TEMPLATE": "A photo of a",  # where all prompts start
            "PREC": "amp",  # fp32, tf32, amp, amp_bf16 or fp16 (towers in float16)
            "TEXT_CHUNK": CHUNK,  # prompt tokens encoded at once: memory and time, no figures
        }
    )
    SCORE = "GL-MCM"
    BATCH = ("img", "kept", "label")
    GRAPHED = True

    def check_cfg(self, cfg: CfgNode) -> None:
        own = cfg.TRAINER.GALLOP
        for key in ("N_GLOBAL", "N_LOCAL"):
            if own[key] < 1:
                raise InputError(f"TRAINER.GALLOP.{key} is {own[key]}: GalLoP needs at least one")
        whole = all(isinstance(k, int) and k >= 1 for k in own.TOPK)
        if len(own.TOPK) not in (1, own.N_LOCAL) or not whole:
            raise InputError(
                f"TRAINER.GALLOP.TOPK is {own.TOPK}: give one number of regions for all "
                f"{own.N_LOCAL} local prompts (N_LOCAL), or one for each, all 1 or more, whole"
            )
        if not 0 <= own.DROPOUT < 1:
            raise InputError(
                f"TRAINER.GALLOP.DROPOUT is {own.DROPOUT}: the share of global prompts that are "
                "dropped must be 0 or more and below 1"
            )
        if not own.TEMPLATE.strip():
            raise InputError("TRAINER.GALLOP.TEMPLATE is empty: the prompts start from its words")

    @property
    def ks(self) -> list[int]:
        """Return for each local prompt how many regions count."""
        given = list(self.settings.TOPK)
        return given if len(given) == self.settings.N_LOCAL else given * self.settings.N_LOCAL

    def build_model(self) -> None:
        cfg, own, clip = self.cfg, self.settings, self.load_clip()
        if clip.region_projection is None:
            raise InputError(
                f"GalLoP maps the local features of a ViT before their projection; {clip.name} "
                "has none: use a ViT, such as ViT-B/16, or another trainer"
            )
        names = self.dm.dataset.classnames
        learner = PromptSets(names, clip, own.TEMPLATE, own.N_GLOBAL, own.N_LOCAL)
        self.learner = learner.to(self.device)
        self.model = PromptSetsCLIP(clip, learner, self.ks, own.TEXT_CHUNK)
        if path := cfg.MODEL.INIT_WEIGHTS:  # a published file, too
            checkpoint = load_checkpoint(path)
            self.check_checkpoint(checkpoint, Path(path))
            load_weights_into(learner, checkpoint["state_dict"], path)
        if max(self.ks) > self.model.num_regions:
            logger.warning(
                "TRAINER.GALLOP.TOPK %s: an image has %d regions; a larger number means all",
                self.ks,
                self.model.num_regions,
            )
        self.learn("prompt_learner", learner)

    def forward_backward(self, batch: dict) -> dict[str, float]:
        return super().forward_backward(batch | {"kept": self.kept_prompts(len(batch["label"]))})

    def loss(
        self, images: Tensor, kept: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `ClipTrainer.loss`, of `gallop_losses`."""
        return gallop_losses(self.model, images, labels, kept)

    def kept_prompts(self, count: int) -> Tensor:
        """Draw `[count, q]` global prompts with replacement: those that dropout keeps."""
        prompts = self.settings.N_GLOBAL
        kept = max(prompts - int(self.settings.DROPOUT * prompts), 1)
        step = self.epoch * self.num_batches + self.batch_idx
        drawn = draw(world_size() * count * kept, prompts, self.cfg.SEED, step)
        return drawn.view(-1, count, kept)[rank()].to(self.device, non_blocking=True)

    # Evaluation

    def test(self, split: str | None = None) -> float:
        """Evaluate as Dassl does, and report what either kind of prompt predicts alone."""
        self._seen, self._right = 0, torch.zeros(2, dtype=torch.int64, device=self.device)
        result = super().test(split)
        counts = zip(*from_all([self._seen, *self._right.tolist()]), strict=True)
        seen, *right = map(sum, counts)
        of_global, of_local = (100 * count / seen for count in right)
        logger.info("Accuracy: global prompts %.2f %%, local prompts %.2f %%", of_global, of_local)
        return result

    def parse_batch_test(self, batch: dict) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return the cosines `[B, m, C]` and `[B, n, C]` of both kinds of prompt; labels `[B]`."""
        images, labels = super().parse_batch_test(batch)
        with self.autocast():
            encoded = self.model.image_features(images, local=True)
            sets = self.model.set_cosines(*encoded, self.text_features())
        alone = torch.stack([part.mean(dim=1).argmax(dim=-1) for part in sets])  # [2, B]
        self._right += (alone == labels).sum(dim=1)
        self._seen += len(labels)
        return sets, labels

    def model_inference(self, sets: tuple[Tensor, Tensor]) -> Tensor:
        """Return logits `[B, C]` of the cosines of both kinds of prompt."""
        return both_cosines(*sets) * self.model.scale

    # Checkpoints, and what a run depends on

    def contexts(self) -> dict[str, Tensor]:
        kinds = {"global": self.learner.global_prompt, "local": self.learner.local_prompts}
        return {f"{kind} {i + 1}": x for kind, sets in kinds.items() for i, x in enumerate(sets)}

    def image_encoding(self) -> dict[str, object]:
        """Return what features of an image depend on: of regions, what was learned too."""
        facts = super().image_encoding()
        if self.cfg.EVAL.FEATURES_LOCAL:
            facts["local_map"] = weights_hash({"map": self.learner.local_proj.linear.weight})
        return facts

    def check_checkpoint(self, checkpoint: dict, path: Path) -> None:
        """Refuse what other methods learned, and prompts of other numbers or another CLIP."""
        found = checkpoint["state_dict"] = plain_names(checkpoint)
        expected = {name: list(x.shape) for name, x in self.learner.state_dict().items()}
        if missing := expected.keys() - found.keys():
            raise InputError(
                f"{path} holds no {', '.join(sorted(missing))}: it is not of GalLoP. Name the "
                "trainer it was made with (--trainer), or a file of GalLoP's"
            )
        for name, shape in expected.items():
            if list(found[name].shape) != shape:
                raise InputError(
                    f"{path} does not fit: its {name} is {list(found[name].shape)}, the config "
                    f"asks for {shape}. Set TRAINER.GALLOP.N_GLOBAL, .N_LOCAL and .TEMPLATE (or "
                    "--backbone) as they were in training"
                )
        super().check_checkpoint(checkpoint, path)


class PromptSets(PromptLearner):
    """Hold m global and n local prompts, shared by all classes, and the map of the regions.

    State dict, as published: `global_prompt` `[m, M, W]`, `local_prompts` `[n, M, W]`,
    `local_proj.linear.weight` `[V, V]`, V the width of the image tower. A prompt has no full stop.
    """

    def __init__(
        self, classnames: list[str], clip: ClipModel, template: str, globals_: int, locals_: int
    ):
        super().__init__(classnames, clip, ctx_init=template, stop="")
        start = self.ctx.detach()
        del self.ctx  # [M, W]: it gave the layout, the sets are what learns
        self.global_prompt = nn.Parameter(start.repeat(globals_, 1, 1))
        self.local_prompts = nn.Parameter(start.repeat(locals_, 1, 1))
        width = len(clip.region_projection)
        linear = nn.Linear(width, width, bias=False)
        nn.init.eye_(linear.weight)
        self.local_proj = nn.Sequential(OrderedDict(linear=linear))


class EncodedSets(LearnedPrompts):
    """Encode all prompts of a `PromptSets`; its `chunk` tokens bound what is held on the way."""

    def forward(self) -> Tensor:
        """Return unnormalised text features `[m + n, C, D]`, those of the global prompts first."""
        encode = super().forward
        contexts = [*self.learner.global_prompt, *self.learner.local_prompts]
        again = len(contexts) * self.learner.fixed[..., 0].numel() > self.chunk
        return torch.stack([encode(context, again) for context in contexts])


class PromptSetsCLIP(PromptedCLIP):
    """A frozen CLIP with GalLoP's prompts.

    Args:
        ks: for each local prompt how many regions count. chunk: of `EncodedSets`.
    """

    def __init__(self, clip: ClipModel, learner: PromptSets, ks: Sequence[int], chunk: int = CHUNK):
        super().__init__(clip, EncodedSets(clip, learner, chunk))
        self.ks = list(ks)

    @property
    def local_map(self) -> Tensor:
        """Return the learned map and CLIP's projection in one, `[V, D]`."""
        weight = self.prompts.learner.local_proj.linear.weight
        with exact(weight):
            return weight.T @ self.clip.region_projection.to(weight.dtype)

    def kinds(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return the text features of the global prompts `[m, C, D]`, and of the local ones."""
        return text[: -len(self.ks)], text[-len(self.ks) :]

    def set_cosines(self, features: Tensor, regions: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines with the global prompts `[B, m, C]` and the local ones `[B, n, C]`.

        Args:
            features: `[B, D]`, regions: `[B, N, D]`, mapped; text: as `text_features` gives it.
        """
        whole, parts = self.kinds(text)
        found = cosines(features, whole.flatten(0, 1)).unflatten(1, whole.shape[:2])
        return found, top_region_cosines(regions, parts, self.ks)

    def with_texts(self, text: Tensor) -> dict[str, Tensor]:
        """Return `PromptedCLIP.with_texts`; beside words, a mean of prompts is of length 1."""
        found = super().with_texts(text)
        return found | {name: normalised(text) for name, x in self.texts.items() if x is None}

    def class_features(self) -> dict[str, Tensor]:
        """Return what scores need: "text" `[C, D]`, the mean of the normalised global prompts'
        features, "local_text" `[n, C, D]`, "local_k" `[n]` and "local_map" `[V, D]`."""
        whole, parts = self.kinds(self.text_features())
        ks = torch.tensor(self.ks, device=parts.device)
        return {
            **self.with_texts(whole.mean(dim=0)),
            "local_text": parts,
            "local_k": ks,
            "local_map": self.local_map.detach(),
        }


def both_cosines(whole: Tensor, parts: Tensor) -> Tensor:
    """Return what predicts the class, `[B, C]`: the mean of the global and of the local cosines."""
    return (whole.mean(dim=1) + parts.mean(dim=1)) / 2


def gallop_losses(
    model: PromptSetsCLIP, images: Tensor, labels: Tensor, kept: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return cosines `[B, C]` and GalLoP's losses: cross entropy of global and of local prompts.

    Global: of the mean cosine of the prompts that dropout keeps for an image. Local: the mean over
    prompts, each read on its own number of regions (Sections 3.2 and 3.3).

    Args:
        images: `[B, 3, H, W]`, labels: `[B]`, kept: global prompts of each image, `[B, q]`.
    """
    encoded = model.image_features(images, local=True)
    whole, parts = model.set_cosines(*encoded, model.text_features())
    index = kept[..., None].expand(-1, -1, whole.shape[-1])  # [B, q, C]
    seen = whole.gather(1, index).mean(dim=1)  # [B, C]
    each = labels.repeat_interleave(parts.shape[1])  # [B n]
    of_global = F.cross_entropy(model.scale * seen, labels, reduction="none")
    of_local = F.cross_entropy(model.scale * parts.flatten(0, 1), each, reduction="none")
    of_global, of_local = mean_over_ranks(of_global), mean_over_ranks(of_local)
    losses = {"loss": of_global + of_local, "loss_global": of_global, "loss_local": of_local}
    return both_cosines(whole, parts), losses
