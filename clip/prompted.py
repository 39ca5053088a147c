"""CLIP with classes: images against class prompts, as cosine similarities and score inputs."""

import functools
import math
import operator
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.captions import STATE_PREFIX, Captioner
from clip.model import ClipModel
from clip.negation import NoTextEncoder
from clip.precision import PRECISIONS
from clip.templates import classifier

# ODIN (Liang et al., ICLR 2018): the values of its paper for most of its data sets.
ODIN_TEMPERATURE = 1000.0
ODIN_MAGNITUDE = 0.0014  # of pixel values in [0, 1]
KINDS = ("cosines", "logits")  # of inputs, for each text


class PromptedCLIP(nn.Module):
    """A frozen CLIP whose C classes are described by `prompts`.

    Args:
        prompts: returns unnormalised text features `[C, D]`; a module if learned.

    Attributes:
        texts: name -> further text features `[*, D]`, normalised, whose cosines and logits are
            inputs of scores by that name (texts "zs": `zs_cosines`, `zs_logits`); None: the class
            texts under another name. Evaluations add those of words (`ood.negatives.WORD_TEXTS`).
        captioner: finds the words of images' captions (ZOC), or None.
    """

    def __init__(self, clip: ClipModel, prompts: Callable[[], Tensor]):
        super().__init__()
        self.clip, self.prompts = clip, prompts
        self.texts: dict[str, Tensor | None] = {}
        self.captioner: Captioner | None = None

    @property
    def scale(self) -> Tensor:
        """Return the factor between cosine similarities and logits."""
        return self.clip.scale

    def text_features(self) -> Tensor:
        """Return normalised text features `[C, D]`, float32."""
        return normalised(self.prompts())

    def image_features(self, images: Tensor, local: bool) -> tuple[Tensor, Tensor | None]:
        """Return normalised global `[B, D]` and local `[B, N, D]` (or None) features, float32."""
        if not local:
            return normalised(self.clip.encode_image(images)), None
        mapped = self.local_map
        features, regions = self.clip.encode_image(images, local=True, projected=mapped is None)
        if mapped is not None:
            regions = regions.float() @ mapped
        return normalised(features), normalised(regions)

    # The inputs of scores

    FROM_IMAGES = frozenset({"odin_logits"})  # inputs that need the images, not only features
    has_no = False  # whether there is a "no" text encoder
    has_frozen = False  # whether there are frozen prompts beside the learned ones, as in FA
    # GalLoP's matrix `[W, D]`, which replaces the projection of regions. With it, regions also
    # count in the prediction of the class.
    local_map: Tensor | None = None

    @property
    def learns_texts(self) -> bool:
        """Return whether the class texts are learned rather than written by templates."""
        return isinstance(self.prompts, nn.Module)

    def reads_regions(self, needs: Collection[str]) -> bool:
        """Return whether the inputs `needs`, or the predicted class, depend on regions."""
        return "local_cosines" in needs or self.local_map is not None

    @property
    def num_regions(self) -> int:
        """Return the number N of regions of an image, 0 for a tower without local features."""
        return math.prod(self.clip.grid) if self.clip.grid else 0

    @property
    def provides(self) -> set[str]:
        """Return the names of the inputs of scores (`ood.scores`) that this model can compute."""
        names = {"cosines", "logits", "features", "head_norm", "odin_logits"}
        names |= {"local_cosines"} if self.clip.grid else set()
        names |= {"candidate_lse"} if self.captioner else set()
        if self.has_frozen:
            names |= {f"frozen_{name}" for name in names & {"cosines", "local_cosines"}}
            names |= {"frozen_copies"}
        further = [*self.texts, "no"] if self.has_no else self.texts
        return names | {f"{name}_{kind}" for name in further for kind in KINDS}

    @property
    def changes_images(self) -> bool:
        """Return whether image features may differ from those of CLIP as it was loaded, by a
        subclass, by hooks, or by weights of the image tower that are trained."""
        tower = self.clip.visual
        return (
            type(self).image_features is not PromptedCLIP.image_features
            or type(self.clip) is not ClipModel
            or any(weight.requires_grad for weight in tower.parameters())
            or any(m._forward_hooks or m._forward_pre_hooks for m in tower.modules())
        )

    @property
    def is_describable(self) -> bool:
        """Return whether a `DescribedCLIP` with the `class_features` computes the same inputs."""
        return not self.changes_images and type(self).inputs is PromptedCLIP.inputs

    def class_features(self) -> dict[str, Tensor]:
        """Encode the classes as "text" `[C, D]`, and add all `texts`; `inputs` takes the result."""
        return self.with_texts(self.text_features())

    def with_texts(self, text: Tensor) -> dict[str, Tensor]:
        """Return class texts `[C, D]` as "text", together with all `texts`."""
        further = {name: text.clone() if x is None else x for name, x in self.texts.items()}
        return {"text": text, **further}

    def inputs(
        self,
        features: Tensor,
        regions: Tensor | None,
        classes: dict[str, Tensor],
        needs: Collection[str],
        images: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the inputs `needs` of scores, and "cosines", by name.

        Cosines and logits are `[B, C]`, those of regions `[B, N, C]`, of further texts `[B, *]`;
        "features" `[B, D]` are the images' own; "head_norm" `[B]` is the L1 norm of the input of
        the cosine head, exp(logit_scale) * f; "frozen_copies" `[B]` is how often each frozen
        prompt occurs in FA's classifier; "candidate_lse" `[B]` is `Captioner.candidate_lse`. Where
        regions count in the prediction (GalLoP), "class_cosines" `[B, C]` decide the class.

        Args:
            features, regions: returned by `image_features` for `images` `[B, 3, H, W]`, which only
                the inputs `FROM_IMAGES` need. classes: returned by `class_features`.
        """
        inputs = {"features": features}
        if images is not None and "odin_logits" in needs:
            moved, _ = self.image_features(self.odin_images(images, classes["text"]), False)
            with exact(moved):
                inputs["odin_logits"] = self.scale * moved @ classes["text"].T
        with exact(features):
            for name, text in classes.items():
                kinds = [kind if name == "text" else f"{name}_{kind}" for kind in KINDS]
                if name == "text" or not set(kinds).isdisjoint(needs):
                    cosines = features @ text.T
                    inputs |= zip(kinds, (cosines, self.scale * cosines), strict=True)
            inputs["head_norm"] = (self.scale * features).abs().sum(dim=-1)
            if "candidate_lse" in needs:
                inputs["candidate_lse"] = self.captioner.candidate_lse(features, self.scale)
            if "frozen" in classes:
                inputs["frozen_copies"] = classes["copies"].expand(len(features))
            if regions is not None:
                inputs |= self._region_inputs(regions, classes, needs, inputs["cosines"])
        wanted = {*needs, "cosines", "class_cosines"}
        return {name: x for name, x in inputs.items() if name in wanted}

    @staticmethod
    def _region_inputs(
        regions: Tensor, classes: dict[str, Tensor], needs: Collection[str], cosines: Tensor
    ) -> dict[str, Tensor]:
        """Return the `inputs` from regions `[B, N, D]`. `cosines`: of the whole images."""
        inputs, has_sets = {}, "local_text" in classes
        if "local_cosines" in needs:
            text = classes["local_text"].mean(dim=0) if has_sets else classes["text"]
            inputs["local_cosines"] = regions @ text.T  # [B, N, C]
        if "frozen_local_cosines" in needs:
            inputs["frozen_local_cosines"] = regions @ classes["frozen"].T
        if has_sets:
            ks = classes["local_k"].tolist()
            best = top_region_cosines(regions, classes["local_text"], ks)  # [B, n, C]
            inputs["class_cosines"] = (cosines + best.mean(dim=1)) / 2
        return inputs

    def odin_images(self, images: Tensor, text: Tensor) -> Tensor:
        """Return images moved towards their class: `x + m sign(grad_x log max_c p_c(x; T))`.

        Liang et al., eq. 2. The step on the normalised pixels is divided by each channel's std,
        so that it is `ODIN_MAGNITUDE` in all pixels of the image itself.
        """
        # Inference mode allows no gradients, not even through tensors that were made in it.
        with torch.inference_mode(False), torch.enable_grad():
            pixels = images.clone().requires_grad_()
            text, scale = text.clone(), self.scale.clone()
            features, _ = self.image_features(pixels, local=False)
            with exact(images):
                # The factor T keeps the gradient's size; only its sign is used.
                log_p = (scale * features @ text.T / ODIN_TEMPERATURE).log_softmax(dim=-1)
                confidence = ODIN_TEMPERATURE * log_p.amax(dim=-1).sum()
            (gradient,) = torch.autograd.grad(confidence, pixels)
        std = torch.tensor(self.clip.preprocess.std, device=images.device)[:, None, None]
        return images + ODIN_MAGNITUDE * gradient.sign() / std


class TwoBranchCLIP(PromptedCLIP):
    """A frozen CLIP and a "no" text encoder, their classes described by template pairs.

    The learnable variant reads the standard templates in both branches.
    """

    has_no = True

    def __init__(
        self,
        clip: ClipModel,
        encoder: NoTextEncoder,
        classnames: Sequence[str],
        pairs: Sequence[tuple[str, str]],
    ):
        standard, denied = zip(*pairs, strict=True)
        # The frozen branch is encoded at first use, because training never needs it.
        super().__init__(clip, functools.cache(lambda: classifier(clip, classnames, standard)))
        self.encoder, self.classnames = encoder, classnames
        self.denied = standard if encoder.variant == "learnable" else denied

    @property
    def scale(self) -> Tensor:
        """Return exp(logit_scale) after training."""
        return self.encoder.logit_scale.exp()

    def class_features(self) -> dict[str, Tensor]:
        title = 'classes, "no" branch'
        negation = classifier(self.encoder, self.classnames, self.denied, title)
        return {**super().class_features(), "no": negation}


class DescribedCLIP(PromptedCLIP):
    """A frozen CLIP whose class features are known, so that no prompt is encoded again.

    Args:
        features: returned by `class_features` of a `PromptedCLIP`, on the device of `clip`, and
            by `kept` of its captioner, if it has one.
        scale: that model's factor between cosine similarities and logits.
    """

    def __init__(self, clip: ClipModel, features: dict[str, Tensor], scale: Tensor):
        # A partial can be pickled, unlike a lambda, for processes that are spawned.
        super().__init__(clip, functools.partial(operator.getitem, features, "text"))
        kept = {name: x for name, x in features.items() if name.startswith(STATE_PREFIX)}
        self.captioner = Captioner.restored(clip, kept) if kept else None
        features = {name: x for name, x in features.items() if name not in kept}
        self.features, self._scale = features, scale
        self.local_map = features.get("local_map")
        self.has_no, self.has_frozen = "no" in features, "frozen" in features
        reserved = ("text", "no", "frozen", "copies", "local_text", "local_k", "local_map")
        self.texts = {name: x for name, x in features.items() if name not in reserved}

    @property
    def scale(self) -> Tensor:
        return self._scale

    def class_features(self) -> dict[str, Tensor]:
        return self.features


def exact(like: Tensor) -> AbstractContextManager[None]:
    """Compute in float32 on the device of `like`, whatever precision surrounds it.

    In half precision a cosine is off by a hundredth of a logit, in TF32 by a tenth of that, and
    softmax scores take only a few hundred distinct values.
    """
    return PRECISIONS["fp32"].context(like.device)


def normalised(features: Tensor) -> Tensor:
    """Return features `[..., D]` scaled to length 1, float32."""
    return F.normalize(features.float(), dim=-1)


def cosines(features: Tensor, text: Tensor) -> Tensor:
    """Return cosines `[..., C]` of normalised features `[..., D]` with `text` `[C, D]`."""
    with exact(features):
        return features @ text.T


def top_region_cosines(regions: Tensor, texts: Tensor, ks: Sequence[int]) -> Tensor:
    """Return the mean cosine of the regions most like each class, `[B, n, C]` (GalLoP, 3.2).

    One set of texts is computed at a time, so that only one `[B, N, C]` is held, also in backward.

    Args:
        regions: normalised, `[B, N, D]`. texts: n sets of text features, `[n, C, D]`.
        ks: for each set, how many regions of an image count; more than N means all of them.
    """
    means = [
        cosines(regions, text).topk(min(k, regions.shape[1]), dim=1).values.mean(dim=1)
        for text, k in zip(texts, ks, strict=True)
    ]
    return torch.stack(means, dim=1)
