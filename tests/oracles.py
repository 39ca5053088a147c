"""Slow, obvious derivations from the papers, to test the fast code against.

They use plain Python floats and loops and import nothing of the project. Arguments are anything
that can be indexed (lists, NumPy arrays, tensors as lists): cosines [B][C], local [B][N][C].
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise


def softmax(values, temperature=1.0):
    scaled = [float(v) / temperature for v in values]
    peak = max(scaled)
    weights = [math.exp(v - peak) for v in scaled]
    total = math.fsum(weights)
    return [w / total for w in weights]


# Scores, one number per image; higher = more in-distribution.


def mcm(cosines, temperature=1.0):
    return [max(softmax(row, temperature)) for row in cosines]


def gl_mcm(cosines, local_cosines, temperature=1.0, local_weight=1.0):
    scores = []
    for row, regions in zip(cosines, local_cosines, strict=True):
        best_local = max(max(softmax(region, temperature)) for region in regions)
        scores.append(max(softmax(row, temperature)) + local_weight * best_local)
    return scores


def l_mcm(local_cosines, temperature=1.0):
    return [max(max(softmax(r, temperature)) for r in regions) for regions in local_cosines]


def _forced(row, frozen, copies, temperature):
    """Return the largest entry of FA's classifier: over `row` and `copies` copies of `frozen`."""
    return max(softmax([*row, *list(frozen) * int(copies)], temperature))


def fa_mcm(cosines, frozen, copies, temperature=1.0):
    return [
        _forced(row, f, k, temperature) for row, f, k in zip(cosines, frozen, copies, strict=True)
    ]


def fa_gl_mcm(cosines, local, frozen, frozen_local, copies, temperature=1.0):
    best = [
        max(_forced(r, f, k, temperature) for r, f in zip(regions, others, strict=True))
        for regions, others, k in zip(local, frozen_local, copies, strict=True)
    ]
    whole = fa_mcm(cosines, frozen, copies, temperature)
    return [a + b for a, b in zip(whole, best, strict=True)]


def msp(logits):
    return [max(softmax(row)) for row in logits]


def maxlogit(logits):
    return [max(float(v) for v in row) for row in logits]


def energy(logits, temperature=1.0):
    scores = []
    for row in logits:
        scaled = [float(v) / temperature for v in row]
        peak = max(scaled)
        total = math.fsum(math.exp(v - peak) for v in scaled)
        scores.append(temperature * (peak + math.log(total)))
    return scores


def entropy(logits):
    """Return minus the Shannon entropy of the softmax, in nats."""
    return [math.fsum(p * math.log(p) for p in softmax(row) if p > 0) for row in logits]


def neg_label(logits, negatives):
    """Return the softmax mass on the classes, with all negatives in one group."""
    return [
        math.fsum(softmax([*inside, *outside])[: len(inside)])
        for inside, outside in zip(logits, negatives, strict=True)
    ]


def eoe(cosines, outliers, weight=0.25):
    scores = []
    for inside, outside in zip(cosines, outliers, strict=True):
        p = softmax([*inside, *outside])
        scores.append(max(p[: len(inside)]) - weight * max(p[len(inside) :]))
    return scores


def zoc(logits, candidate_lse):
    """Return the log-odds of the classes' share of a softmax over classes and candidates."""
    return [
        max(row) + math.log(math.fsum(math.exp(x - max(row)) for x in row)) - outside
        for row, outside in zip(logits, candidate_lse, strict=True)
    ]


def ctw_probability(logits, no_logits):
    scores = []
    for yes, no in zip(logits, no_logits, strict=True):
        winner = max(range(len(yes)), key=lambda c: float(yes[c]))
        scores.append(softmax([float(yes[winner]), float(no[winner])])[0])
    return scores


def ctw(logits, no_logits):
    """Return the log-odds of 1 - p_no of the winner: the difference of its two logits."""
    winners = [max(range(len(yes)), key=lambda c: float(yes[c])) for yes in logits]
    return [
        float(yes[c]) - float(no[c]) for yes, no, c in zip(logits, no_logits, winners, strict=True)
    ]


def _known_and_unknown(yes, no):
    """Return log sum_c (1 - p_no_c) p_c and log sum_c p_no_c p_c, plus the same constant."""
    known = [a - _log1p_exp(b - a) for a, b in zip(map(float, yes), map(float, no), strict=True)]
    unknown = [a - _log1p_exp(a - b) for a, b in zip(map(float, yes), map(float, no), strict=True)]
    return _log_sum_exp(known), _log_sum_exp(unknown), max(known)


def _log1p_exp(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _log_sum_exp(values):
    peak = max(values)
    return peak + math.log(math.fsum(math.exp(v - peak) for v in values))


def atd_probability(logits, no_logits):
    scores = []
    for yes, no in zip(logits, no_logits, strict=True):
        p = softmax(yes)
        scores.append(
            math.fsum(p_c * softmax([a, b])[0] for p_c, a, b in zip(p, yes, no, strict=True))
        )
    return scores


def atd(logits, no_logits):
    parts = [_known_and_unknown(yes, no) for yes, no in zip(logits, no_logits, strict=True)]
    return [known - unknown for known, unknown, _ in parts]


def ctw_decision(logits, no_logits):
    """Return True for each image that is rejected as OOD."""
    return [score < 0 for score in ctw(logits, no_logits)]


def atd_decision(logits, no_logits):
    parts = [_known_and_unknown(yes, no) for yes, no in zip(logits, no_logits, strict=True)]
    return [unknown > best for _, unknown, best in parts]


def odin(logits, temperature=1000.0):
    return [max(softmax(row, temperature)) for row in logits]


def grad_norm(logits, norms):
    """Return the sum over classes c and features d of |(p_c - 1/C) x_d|, given sum_d |x_d|."""
    return [
        math.fsum(abs(p - 1 / len(row)) for p in softmax(row)) * float(norm)
        for row, norm in zip(logits, norms, strict=True)
    ]


# Metrics, in exact fractions where possible.


def auroc(id_scores, ood_scores):
    """Return the share of (ID, OOD) pairs in the right order; a tie counts half."""
    halves = 0
    for i in id_scores:
        for o in ood_scores:
            halves += 2 if i > o else 1 if i == o else 0
    return float(Fraction(halves, 2 * len(id_scores) * len(ood_scores)))


def roc(positives, negatives):
    """List (threshold, true positives, false positives) for each threshold, strictest first."""
    points = []
    for threshold in sorted({*positives, *negatives}, reverse=True):
        caught = sum(1 for p in positives if p >= threshold)
        wrong = sum(1 for n in negatives if n >= threshold)
        points.append((threshold, caught, wrong))
    return points


def average_precision(positives, negatives):
    """Return the sum over thresholds of (recall - recall before) * precision."""
    total, before = Fraction(0), 0
    for _, caught, wrong in roc(positives, negatives):
        total += Fraction(caught - before, len(positives)) * Fraction(caught, caught + wrong)
        before = caught
    return float(total)


def aupr_in(id_scores, ood_scores):
    return average_precision(id_scores, ood_scores)


def aupr_out(id_scores, ood_scores):
    return average_precision([-s for s in ood_scores], [-s for s in id_scores])


def fpr(id_scores, ood_scores, tpr=0.95, positive="id", rule="nearest"):
    """Return the false positive rate by scanning all thresholds, by a rule of ood/metrics.py."""
    if positive == "id":
        positives, negatives = list(id_scores), list(ood_scores)
    else:
        positives, negatives = [-s for s in ood_scores], [-s for s in id_scores]
    points = [(c / len(positives), w / len(negatives)) for _, c, w in roc(positives, negatives)]
    return {"nearest": _nearest, "first": _first, "interpolated": _interpolated}[rule](points, tpr)


def _first(points, tpr):
    for recall, false_rate in points:
        if recall >= tpr:
            return false_rate


def _nearest(points, tpr):
    """Choose the least |recall - tpr|; then the larger recall; then the larger false positive rate,
    but do not lower the threshold further once every positive is caught."""
    candidates = []
    for recall, false_rate in points:
        candidates.append((-abs(recall - tpr), recall, false_rate))
        if recall == 1:
            break
    return max(candidates)[2]


def _interpolated(points, tpr):
    """Interpolate linearly from (0, 0) through all points; where the curve is level at `tpr`, take
    the larger false positive rate."""
    curve = [(0.0, 0.0), *points]
    at_level = [false_rate for recall, false_rate in curve if recall == tpr]
    if at_level:
        return max(at_level)
    for (r0, f0), (r1, f1) in pairwise(curve):
        if r0 < tpr < r1:
            return f0 + (f1 - f0) * (tpr - r0) / (r1 - r0)


# LoCoOp.


def id_irrelevant_regions(local_cosines, label, k):
    """Return [N] booleans for one image: True where the label is not among the region's top K.

    Classes are sorted by similarity; among equal ones the label comes first.
    """
    irrelevant = []
    for region in local_cosines:
        order = sorted(range(len(region)), key=lambda c: (-float(region[c]), c != label))
        irrelevant.append(label not in order[:k])
    return irrelevant


def locoop_loss(cosines, local_cosines, scale, labels, k, lam):
    """Return `CE - lambda * mean_{i in J} (-sum_c p_ic log(p_ic + 1e-5))`, J of the whole batch."""
    cross_entropy = []
    entropies = []
    for row, regions, label in zip(cosines, local_cosines, labels, strict=True):
        p = softmax([scale * float(v) for v in row])
        cross_entropy.append(-math.log(p[label]))
        for region, chosen in zip(regions, id_irrelevant_regions(regions, label, k), strict=True):
            if chosen:
                q = softmax([scale * float(v) for v in region])
                entropies.append(-math.fsum(v * math.log(v + 1e-5) for v in q))
    loss = math.fsum(cross_entropy) / len(cross_entropy)
    if entropies:
        loss -= lam * math.fsum(entropies) / len(entropies)
    return loss


def lr(epoch, max_epoch, base=0.002, warmup_lr=1e-5, warmup_epochs=1):
    """Return the learning rate in `epoch` (from 0): a constant warm-up, then a cosine that starts
    at `base` and would reach 0 at `max_epoch + warmup_epochs`."""
    if epoch < warmup_epochs:
        return warmup_lr
    return base * (1 + math.cos(math.pi * (epoch - warmup_epochs) / max_epoch)) / 2
