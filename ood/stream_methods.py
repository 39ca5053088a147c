"""Test-time methods: they score a stream of images batch by batch, and learn from its images.

**Higher = more in-distribution.** A method is a class with one instance for every stream. `update`
takes a batch and returns its scores, which depend on the batch and on all images before it.
Arguments of `__init__` with a default are settings, with the published values; the others are the
inputs it needs (`INPUTS`):

- `classes` [C, D], `negatives` [M, D]: NegLabel's class texts and the negatives chosen for them.
- `words` [A, D]: all words from which negatives are chosen. `noise` [15, D]: images of noise.
- `scale`: exp(logit_scale).

All texts and images are normalised features.
"""

import inspect
from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from clip.prompted import cosines
from dassl.config import check_ranges
from ood.word_scores import grouping, neg_label

FROM_WORDS = ("classes", "negatives", "words")  # inputs that exist with `--negatives` alone
INPUTS = (*FROM_WORDS, "noise", "scale")


class StreamMethod:
    """A test-time method with a memory.

    Attributes:
        batch: images a batch, as published. ranges: setting -> its smallest, largest value.
        needs: names of the arguments without a default. settings: the others -> their defaults.
    """

    batch: ClassVar[int] = 256
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    needs: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        defaults = {a.name: a.default for a in inspect.signature(cls).parameters.values()}
        cls.needs = tuple(name for name, x in defaults.items() if x is inspect.Parameter.empty)
        cls.settings = {name: x for name, x in defaults.items() if name not in cls.needs}

    def check(self, **settings: float) -> None:
        """Raise InputError for settings outside `ranges`."""
        name = type(self).__name__
        check_ranges({name: settings}, {f"{name}.{key}": x for key, x in self.ranges.items()})

    def update(self, features: Tensor, base: Tensor) -> Tensor:
        """Remember a batch and return its scores `[B]`.

        Args:
            features: normalised image features `[B, D]`. base: scores of the single images, `[B]`.
        """
        raise NotImplementedError


class OODD(StreamMethod):
    """Keep a queue of the images that look most OOD; similarity to them lowers an image's score.

        S = base - k-th largest cosine of the image with the queue, after its batch was queued

    Yang et al., OODD: test-time out-of-distribution detection with dynamic dictionary, CVPR 2025.

    Differs from upstream: with fewer than k images queued, the smallest cosine (there an error).

    Attributes:
        scores: base scores of the queue, smallest first, `[Q]`. features: its images, `[Q, D]`.
    """

    batch = 64
    ranges: ClassVar = {"size": (1, inf), "k": (1, inf)}

    def __init__(self, size: int = 2048, k: int = 5):
        self.check(size=size, k=k)
        self.size, self.k = size, k
        self.scores, self.features = torch.empty(0), torch.empty(0)

    def update(self, features: Tensor, base: Tensor) -> Tensor:
        scores = torch.cat([self.scores.to(base), base])
        images = torch.cat([self.features.to(features).view(-1, features.shape[1]), features])
        order = scores.argsort(stable=True)[: self.size]  # of equal scores the earlier image
        self.scores, self.features = scores[order], images[order]
        similarity = cosines(features, self.features)  # [B, Q]
        return base - similarity.topk(min(self.k, similarity.shape[1]), dim=1).values[:, -1]


class AdaNeg(StreamMethod):
    """Move classes and negatives towards the images that confidently belong to them.

        s_0 = NegLabel's score on the texts, in 5 groups;  s_1 = the same on the proxies
        proxy of a text = normalise(the text + the sum of the images in its memory)
        S   = s_1 + w s_0

    An image with s_0 above 0.75 enters the memory of its most probable class, one below 0.25 that
    of its most probable negative; a full memory keeps the images of least entropy.

    Zhang and Zhang, AdaNeg: adaptive negative proxy guided OOD detection with vision-language
    models, NeurIPS 2024: the variant without sample-adaptive proxies, which its script runs. One
    slot of its memory of `length` is never used, hence `length - 1` images a text.

    Differs from upstream: its negatives are NegLabel's (there a fixed 10,000), and its prediction
    of the class, from texts and proxies together, is left out.

    Attributes:
        images: remembered, `[C + M, length - 1, D]`. entropies: theirs, infinite in empty slots.
        proxies: `[C + M, D]`.
    """

    batch = 256
    ranges: ClassVar = {"length": (2, inf), "threshold": (0, 1), "gap": (0, 1)}

    def __init__(
        self,
        classes: Tensor,
        negatives: Tensor,
        scale: Tensor,
        groups: int = 5,
        length: int = 10,
        threshold: float = 0.5,
        gap: float = 0.5,
        weight: float = 0.1,
    ):
        self.check(length=length, threshold=threshold, gap=gap)
        grouping(len(negatives), groups)  # may refuse them
        self.sizes, self.scale = [len(classes), len(negatives)], scale
        self.groups, self.weight = groups, weight
        self.low, self.high = confident_bounds(threshold, gap)
        self.text = torch.cat([classes, negatives])  # [C + M, D]
        self.proxies = self.text.clone()
        rows, width = self.text.shape
        self.images = self.text.new_zeros(rows, length - 1, width)
        self.entropies = np.full((rows, length - 1), np.inf)  # float64 holds all types

    def update(self, features: Tensor, base: Tensor) -> Tensor:
        logits = self.scale * cosines(features, self.text)  # [B, C + M]
        text_scores = self._score(logits)
        self._remember(features, logits, text_scores)
        proxy_scores = self._score(self.scale * cosines(features, self.proxies))
        return proxy_scores + self.weight * text_scores

    def _score(self, logits: Tensor) -> Tensor:
        return neg_label(*logits.split(self.sizes, dim=1), groups=self.groups)

    def _remember(self, features: Tensor, logits: Tensor, scores: Tensor) -> None:
        classes, negatives = logits.split(self.sizes, dim=1)
        changed = set()
        for confident, kind, start in (
            (scores > self.high, classes, 0),
            (scores < self.low, negatives, self.sizes[0]),
        ):
            p = kind[confident].softmax(dim=1)
            entropies = -(p * (p + 1e-8).log()).sum(dim=1)
            rows = start + kind[confident].argmax(dim=1)
            images = zip(rows.tolist(), entropies.cpu().numpy(), features[confident], strict=True)
            for row, entropy, image in images:
                slot = self.entropies[row].argmax()  # the first empty slot, or the worst image's
                if entropy < self.entropies[row, slot]:
                    self.entropies[row, slot], self.images[row, slot] = entropy, image
                    changed.add(row)
        rows = sorted(changed)
        sums = self.text[rows] + self.images[rows].sum(dim=1)
        self.proxies[rows] = torch.nn.functional.normalize(sums, dim=1)


class TANL(StreamMethod):
    """Choose the negatives anew in each batch: words that confident OOD images activate more.

        a(x)  = softmax over C classes + A words;  r = the B words of largest mean a(OOD) - a(ID)
        S     = mean over m = step, 2 step, .., B of the classes' share beside the first m of r

    The means are over the batch's confident images, or over a queue if there are none. A score is
    confident if it is beyond the threshold that best divides the past scores by at least half the
    way to 0 or 1. At the start class texts replace ID images, and images of noise OOD ones.

    TANL, CVPR 2026, from its public code in AdaNeg's repository. The script there has `step` 2, 1
    and 0 (all B words at once); we do not know which of them the paper reports.

    Differs from upstream: the noise, and the orders at the start, are seeded.

    Attributes:
        inside, outside: queues of activations, oldest first, `[Q, A]`. history: past scores.
        threshold: of the last batch.
    """

    batch = 256
    ranges: ClassVar = {
        "labels": (1, inf),
        "step": (0, inf),
        "length": (1, inf),
        "gap": (0, 1),
        "weight": (0, 1),
        "past": (1, inf),
    }

    def __init__(
        self,
        classes: Tensor,
        words: Tensor,
        noise: Tensor,
        scale: Tensor,
        labels: int = 1000,
        step: int = 1,
        length: int = 300,
        gap: float = 0.5,
        weight: float = 0.0,
        past: int = 20000,
        seed: int = 0,
    ):
        self.check(labels=labels, step=step, length=length, gap=gap, weight=weight, past=past)
        self.text, self.classes, self.scale = torch.cat([classes, words]), len(classes), scale
        self.labels, self.length, self.gap = min(labels, len(words)), length, gap
        self.weight, self.past, self.threshold = weight, past, 0.5
        step = step or self.labels
        self.ends = [min(m, self.labels) - 1 for m in range(step, self.labels + step, step)]
        draw = torch.Generator().manual_seed(seed)
        self.inside, self.outside = (
            self._activations(self._logits(x[torch.randperm(len(x), generator=draw)[-length:]]))
            for x in (classes, noise)
        )
        chosen = self._choose(self.inside.mean(dim=0), self.outside.mean(dim=0))
        starts = torch.cat([classes, noise]).split(self.batch)
        self.history = torch.cat([self._score(self._logits(x), chosen) for x in starts])

    def update(self, features: Tensor, base: Tensor) -> Tensor:
        logits = self._logits(features)
        means = self.inside.mean(dim=0), self.outside.mean(dim=0)
        scores = self._score(logits, self._choose(*means))
        self.history = torch.cat([self.history, scores])[-self.past :]
        self.threshold = dividing_threshold(self.history)
        a = self._activations(logits)
        low, high = confident_bounds(self.threshold, self.gap)
        inside, outside = a[scores > high], a[scores < low]
        means = self._mix(means[0], inside), self._mix(means[1], outside)
        self.inside = torch.cat([self.inside, inside])[-self.length :]
        self.outside = torch.cat([self.outside, outside])[-self.length :]
        return self._score(logits, self._choose(*means))

    def _logits(self, features: Tensor) -> Tensor:
        return self.scale * cosines(features, self.text)  # [B, C + A]

    def _activations(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)[:, self.classes :]  # [B, A]

    def _choose(self, inside: Tensor, outside: Tensor) -> Tensor:
        return (outside - inside).topk(self.labels).indices

    def _mix(self, mean: Tensor, confident: Tensor) -> Tensor:
        if not len(confident):
            return mean
        return self.weight * mean + (1 - self.weight) * confident.mean(dim=0)

    def _score(self, logits: Tensor, chosen: Tensor) -> Tensor:
        inside = logits[:, : self.classes].logsumexp(dim=1, keepdim=True)
        words = logits[:, self.classes + chosen].logcumsumexp(dim=1)  # [B, labels]
        return torch.sigmoid(inside - words[:, self.ends]).mean(dim=1)


def confident_bounds(threshold: float, gap: float) -> tuple[float, float]:
    """Return the scores below which an image is confidently OOD, and above which ID."""
    return threshold - gap * threshold, threshold + gap * (1 - threshold)


def dividing_threshold(scores: Tensor) -> float:
    """Return the one of 0.00, 0.01, .. 0.99 that divides scores `[n]` with the least variance in
    the two parts, and the middle one of equals. A score at the threshold is in the upper part."""
    ordered = scores.double().sort().values
    grid = (torch.arange(100).to(scores) / 100).double()  # as exact as the scores, as published
    zero = ordered.new_zeros(1)
    sums, squares = (torch.cat([zero, x.cumsum(dim=0)]) for x in (ordered, ordered**2))
    below = torch.searchsorted(ordered, grid)
    above = len(ordered) - below
    spread = squares[-1] - sums[below] ** 2 / below - (sums[-1] - sums[below]) ** 2 / above
    spread[(below == 0) | (above == 0)] = torch.inf
    best = (spread == spread.min()).nonzero().flatten()
    return float(grid[best[len(best) // 2]])


STREAMS: dict[str, type[StreamMethod]] = {m.__name__: m for m in (OODD, AdaNeg, TANL)}
