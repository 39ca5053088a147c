"""Test-time methods: they score a stream of images batch by batch, and learn from its images.

**Higher = more in-distribution.** A method is a class that is made afresh for every stream. Its
arguments `needs` are texts, `[*, D]` and normalised, and the model's factor between cosines and
logits; all others are its numbers, with the published values. `update` takes a batch and returns
its scores. The scores of an image depend on the images before it and beside it.

- `classes` [C, D], `negatives` [M, D]: NegLabel's class texts and the negatives chosen for them.
- `words` [A, D]: all words that negatives are chosen of. `noise` [15, D]: images of noise.
- `scale`: exp(logit_scale).
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from clip.prompted import cosines
from ood.word_scores import neg_label


class StreamMethod:
    """A method with a memory.

    Attributes:
        needs: names of the arguments without a default. batch: images a batch, as published.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    batch: ClassVar[int]

    def update(self, features: Tensor, base: Tensor) -> Tensor:
        """Remember a batch and return its scores `[B]`.

        Args:
            features: normalised image features `[B, D]`. base: a score of single images, `[B]`.
        """
        raise NotImplementedError


class OODD(StreamMethod):
    """A queue of the images that look most OOD; being near to them counts against an image.

        S = base - k-th largest cosine of the image with the queue, after its batch was queued

    Yang et al., OODD: test-time out-of-distribution detection with dynamic dictionary, CVPR 2025.

    Differs from upstream: with fewer than k images queued, the smallest cosine (there an error).

    Attributes:
        scores: base scores of the queue, smallest first, `[Q]`. features: its images, `[Q, D]`.
    """

    batch = 64

    def __init__(self, size: int = 2048, k: int = 5):
        self.size, self.k = size, k
        self.scores, self.features = torch.empty(0), torch.empty(0)

    def update(self, features: Tensor, base: Tensor) -> Tensor:
        scores = torch.cat([self.scores.to(base), base])
        images = torch.cat([self.features.to(features).view(-1, features.shape[1]), features])
        order = scores.argsort(stable=True)[: self.size]  # of equal scores the earlier image
        self.scores, self.features = scores[order], images[order]
        near = cosines(features, self.features)  # [B, Q]
        return base - near.topk(min(self.k, near.shape[1]), dim=1).values[:, -1]


class AdaNeg(StreamMethod):
    """Classes and negatives move towards the images that surely belong to them.

        s_0 = NegLabel's score on the texts, in 5 groups;  s_1 = the same on the proxies
        proxy of a row = normalise(its text + the sum of the images it remembers)
        S   = s_1 + w s_0

    An image with s_0 above 0.75 is remembered by its most probable class, one below 0.25 by its
    most probable negative; a full row keeps the images of least entropy.

    Zhang and Zhang, AdaNeg: adaptive negative proxy guided OOD detection with vision-language
    models, NeurIPS 2024: the variant without sample-adaptive proxies, which its script runs. Its
    memory of `length` has one slot that is never used, hence `length - 1` images a row.

    Attributes:
        images: remembered, `[C + M, length - 1, D]`. entropies: of each, infinite in empty slots.
        proxies: `[C + M, D]`.
    """

    needs = ("classes", "negatives", "scale")
    batch = 256

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
        self.sizes, self.scale = [len(classes), len(negatives)], scale
        self.groups, self.weight = groups, weight
        self.low, self.high = sure_beyond(threshold, gap)
        self.text = torch.cat([classes, negatives])  # [C + M, D]
        self.proxies = self.text.clone()
        rows, width = self.text.shape
        self.images = self.text.new_zeros(rows, length - 1, width)
        self.entropies = np.full((rows, length - 1), np.inf, np.float32)

    def update(self, features: Tensor, base: Tensor) -> Tensor:
        logits = self.scale * cosines(features, self.text)  # [B, C + M]
        first = self._score(logits)
        self._remember(features, logits, first)
        return self._score(self.scale * cosines(features, self.proxies)) + self.weight * first

    def _score(self, logits: Tensor) -> Tensor:
        return neg_label(*logits.split(self.sizes, dim=1), groups=self.groups)

    def _remember(self, features: Tensor, logits: Tensor, first: Tensor) -> None:
        classes, negatives = logits.split(self.sizes, dim=1)
        touched = set()
        for sure, own, start in (
            (first > self.high, classes, 0),
            (first < self.low, negatives, self.sizes[0]),
        ):
            p = own[sure].softmax(dim=1)
            entropies = -(p * (p + 1e-8).log()).sum(dim=1)
            rows = start + own[sure].argmax(dim=1)
            images = zip(rows.tolist(), entropies.cpu().numpy(), features[sure], strict=True)
            for row, entropy, image in images:
                slot = self.entropies[row].argmax()  # the first empty one, if there is one
                if entropy < self.entropies[row, slot]:
                    self.entropies[row, slot], self.images[row, slot] = entropy, image
                    touched.add(row)
        rows = sorted(touched)
        sums = self.text[rows] + self.images[rows].sum(dim=1)
        self.proxies[rows] = torch.nn.functional.normalize(sums, dim=1)


class TANL(StreamMethod):
    """The negatives are chosen again in each batch: words that sure OOD images activate more.

        a(x)  = softmax over C classes + A words;  r = the B words of largest mean a(OOD) - a(ID)
        S     = mean over m = step, 2 step, .., B of the classes' mass beside the first m words of r

    The means are those of the batch's sure images, and of a queue where there are none. Sure is
    what lies beyond the threshold that divides the past scores best, by half of the way to the end.
    At the start class texts stand for ID images and images of noise for OOD ones.

    TANL, CVPR 2026, after its public code, which is AdaNeg's repository. The script there has
    `step` 2, 1 and 0 (all B words at once); which of them the paper reports is not known to us.

    Attributes:
        inside, outside: queues of activations, oldest first, `[Q, A]`. history: past scores.
        threshold: of the last batch.
    """

    needs = ("classes", "words", "noise", "scale")
    batch = 256

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
        chosen = self._chosen(self.inside.mean(dim=0), self.outside.mean(dim=0))
        starts = torch.cat([classes, noise]).split(self.batch)
        self.history = torch.cat([self._score(self._logits(x), chosen) for x in starts])

    def update(self, features: Tensor, base: Tensor) -> Tensor:
        logits = self._logits(features)
        means = self.inside.mean(dim=0), self.outside.mean(dim=0)
        first = self._score(logits, self._chosen(*means))
        self.history = torch.cat([self.history, first])[-self.past :]
        self.threshold = dividing_threshold(self.history)
        a = self._activations(logits)
        low, high = sure_beyond(self.threshold, self.gap)
        inside, outside = a[first > high], a[first < low]
        means = self._mixed(means[0], inside), self._mixed(means[1], outside)
        self.inside = torch.cat([self.inside, inside])[-self.length :]
        self.outside = torch.cat([self.outside, outside])[-self.length :]
        return self._score(logits, self._chosen(*means))

    def _logits(self, features: Tensor) -> Tensor:
        return self.scale * cosines(features, self.text)  # [B, C + A]

    def _activations(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)[:, self.classes :]  # [B, A]

    def _chosen(self, inside: Tensor, outside: Tensor) -> Tensor:
        return (outside - inside).topk(self.labels).indices

    def _mixed(self, mean: Tensor, sure: Tensor) -> Tensor:
        if not len(sure):
            return mean
        return self.weight * mean + (1 - self.weight) * sure.mean(dim=0)

    def _score(self, logits: Tensor, chosen: Tensor) -> Tensor:
        inside = logits[:, : self.classes].logsumexp(dim=1, keepdim=True)
        words = logits[:, self.classes + chosen].logcumsumexp(dim=1)  # [B, labels]
        return torch.sigmoid(inside - words[:, self.ends]).mean(dim=1)


def sure_beyond(threshold: float, gap: float) -> tuple[float, float]:
    """Return the scores below which an image is surely OOD, and above which it is surely ID."""
    return threshold - gap * threshold, threshold + gap * (1 - threshold)


def dividing_threshold(scores: Tensor) -> float:
    """Return which of 0.00, 0.01, .. 0.99 divides scores `[n]` with the least variance within.

    Of equally good ones the middle one. A score at the threshold is above it.
    """
    ordered = scores.double().sort().values
    grid = (torch.arange(100) / 100).to(ordered)
    zero = ordered.new_zeros(1)
    sums, squares = (torch.cat([zero, x.cumsum(dim=0)]) for x in (ordered, ordered**2))
    below = torch.searchsorted(ordered, grid)
    above = len(ordered) - below
    spread = squares[-1] - sums[below] ** 2 / below - (sums[-1] - sums[below]) ** 2 / above
    spread[(below == 0) | (above == 0)] = torch.inf
    best = (spread == spread.min()).nonzero().flatten()
    return float(grid[best[len(best) // 2]])


STREAMS: dict[str, type[StreamMethod]] = {kind.__name__: kind for kind in (OODD, AdaNeg, TANL)}
