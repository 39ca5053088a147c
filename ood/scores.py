"""OOD scores: pure functions of CLIP's outputs for a batch of images.

**Higher = more in-distribution, for every score here.** No caller changes a sign.

A score is one decorated function. Its positional arguments are the inputs it needs, its
keyword-only arguments are its parameters. The registry reads both from the signature, so the
command line, the results files and the tests know a new score as soon as it is defined here. Its
parameters are set from Python (`compute_scores`); an evaluation takes their defaults, unless a key
under EVAL, which is a flag too, sets one (`run.evaluation.score_params`).

Inputs (any floating type; half precision is computed in float32, float64 stays float64):

- `cosines` [B, C]: cosine similarity of each image with each class text.
- `local_cosines` [B, N, C]: the same for each of the N regions of an image.
- `logits` [B, C]: `exp(logit_scale) * cosines`. `features` [B, D]: the images', normalised.
- `no_logits` [B, C]: the same with the texts of CLIPN's "no" text encoder.
- `odin_logits` [B, C]: logits of the images after ODIN's step towards their class.
- `head_norm` [B]: L1 norm of `exp(logit_scale) * f`, the input of the cosine head.
- `frozen_cosines` [B, C], `frozen_local_cosines` [B, N, C]: similarities with FA's frozen
  prompts. `frozen_copies` [B]: K, the copies of each frozen prompt in FA's classifier.
- similarities with words that are not classes: `ood.word_scores`.

A score with a single input also takes it of one image, without B, and with dimensions before B.

Differs from upstream: the public LoCoOp code divides logits by the literal 100 to recover
cosines; here the inputs are the cosines, whatever the model's logit scale. And upstream's
softmax runs in the model's precision, which in float16 leaves some 200 distinct scores.
"""

import torch
from torch import Tensor

from dassl.utils.errors import InputError
from ood.registry import SCORES, score  # noqa: F401 (SCORES: filled here)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which a score is computed: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_temperature(temperature: float) -> None:
    """Raise InputError unless T and 1/T are in float32's normal range."""
    if not 1e-30 <= temperature <= 1e30:
        raise InputError(
            f"temperature {temperature} is not allowed: it must be a positive number "
            "(between 1e-30 and 1e+30); the papers use 1.0 on cosine similarities"
        )


def gap_to_peak(x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return `((x - max) / T [..., C], max [..., 1])` in float32 or float64.

    The result is a new tensor, which the caller may change in place. The subtraction itself
    promotes half-precision `x`, so a large local tensor is never copied only to change its type.
    """
    check_temperature(temperature)
    peak = x.amax(dim=-1, keepdim=True).to(compute_dtype(x))
    gap = x - peak
    return (gap if temperature == 1 else gap.div_(temperature)), peak


def _max_softmax(x: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the largest softmax probability over the last dimension: [..., C] -> [...].

    `max_c softmax(x/T) = 1 / sum_c exp((x_c - max)/T)`, exactly; unlike
    `exp(max/T - logsumexp(x/T))` it does not lose digits when T is small.
    """
    gap, _ = gap_to_peak(x, temperature)
    return gap.exp_().sum(dim=-1).reciprocal()


@score("MCM")
def mcm(cosines: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return `max_c softmax_c(cosines / T)`: [B, C] -> [B], in [1/C, 1].

    Maximum concept matching: Ming et al., Delving into out-of-distribution detection with
    vision-language representations, NeurIPS 2022.
    """
    return _max_softmax(cosines, temperature)


@score("GL-MCM")
def gl_mcm(
    cosines: Tensor, local_cosines: Tensor, *, temperature: float = 1.0, local_weight: float = 1.0
) -> Tensor:
    """Return `MCM + w * max_{i,c} softmax_c(local_cosines / T)`: [B, C], [B, N, C] -> [B].

    Miyai et al., GL-MCM: global and local maximum concept matching for zero-shot
    out-of-distribution detection, IJCV 2025. `w` is 1 in LoCoOp; GL-MCM's own ImageNet script uses
    0.5.
    """
    best_region = l_mcm(local_cosines, temperature=temperature)
    return mcm(cosines, temperature=temperature) + local_weight * best_region


@score("L-MCM", in_all=False)
def l_mcm(local_cosines: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return GL-MCM's local part, `max_{i,c} softmax_c(local_cosines / T)`: [B, N, C] -> [B]."""
    return _max_softmax(local_cosines, temperature).amax(dim=-1)


@score("MSP")
def msp(logits: Tensor) -> Tensor:
    """Return `max_c softmax_c(logits)`: [B, C] -> [B].

    Maximum softmax probability: Hendrycks and Gimpel, A baseline for detecting misclassified and
    out-of-distribution examples in neural networks, ICLR 2017.
    """
    return _max_softmax(logits)


@score("MaxLogit")
def max_logit(logits: Tensor) -> Tensor:
    """Return `max_c logits`: [B, C] -> [B].

    Hendrycks et al., Scaling out-of-distribution detection for real-world settings, ICML 2022.
    """
    return logits.amax(dim=-1).to(compute_dtype(logits))


@score("Energy")
def energy(logits: Tensor, *, energy_temperature: float = 1.0) -> Tensor:
    """Return `T logsumexp_c(logits / T)`: [B, C] -> [B]; the paper's energy, negated.

    Liu et al., Energy-based out-of-distribution detection, NeurIPS 2020, eq. 4.
    """
    gap, peak = gap_to_peak(logits, energy_temperature)
    return peak.squeeze(-1) + energy_temperature * gap.exp_().sum(dim=-1).log()


@score("Entropy")
def entropy(logits: Tensor) -> Tensor:
    """Return `sum_c p_c log p_c` with `p = softmax(logits)`: [B, C] -> [B], in [-log C, 0].

    Chan et al., Entropy maximization and meta classification for out-of-distribution detection in
    semantic segmentation, ICCV 2021 (there with the opposite sign).
    """
    log_p = torch.log_softmax(logits, dim=-1, dtype=compute_dtype(logits))
    return (log_p.exp() * log_p).sum(dim=-1)


# CLIPN: Wang et al., CLIPN for zero-shot OOD detection: teaching CLIP to say no, ICCV 2023


def yes_no_log_odds(logits: Tensor, no_logits: Tensor) -> Tensor:
    """Return `log((1 - p_no) / p_no)` of each class: [B, C] -> [B, C], float32 or 64.

    `p_no = exp(no) / (exp(yes) + exp(no))` is the probability that the class is absent.
    """
    return logits.to(compute_dtype(logits)) - no_logits.to(compute_dtype(no_logits))


def atd_log_probabilities(logits: Tensor, no_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return ATD's log-probabilities: `log((1 - p_no_c) p_c)` of each class [B, C], and
    `log sum_c p_no_c p_c` of the unknown class [B]."""
    log_p = torch.log_softmax(logits, dim=-1, dtype=compute_dtype(logits))
    odds = yes_no_log_odds(logits, no_logits)
    known = log_p + torch.nn.functional.logsigmoid(odds)
    return known, torch.logsumexp(log_p + torch.nn.functional.logsigmoid(-odds), dim=-1)


@score("CTW")
def ctw(logits: Tensor, no_logits: Tensor) -> Tensor:
    """Return the log-odds of `1 - p_no` of the class with the largest logit: [B, C], [B, C] -> [B].

    Competing to win. Differs from upstream: there the probability itself is the score, which in
    float32 is 1 from log-odds of 16.6, and the ties move AUROC by points. Log-odds give the same
    order without ties; CTW-public is upstream's score.
    """
    winner = logits.argmax(dim=-1, keepdim=True)
    return yes_no_log_odds(logits, no_logits).gather(-1, winner).squeeze(-1)


@score("ATD")
def atd(logits: Tensor, no_logits: Tensor) -> Tensor:
    """Return the log-odds of `sum_c (1 - p_no_c) p_c`, the probability of all known classes:
    [B, C], [B, C] -> [B].

    Agreeing to differ. Differs from upstream: log-odds, as in CTW.
    """
    known, unknown = atd_log_probabilities(logits, no_logits)
    return torch.logsumexp(known, dim=-1) - unknown


@score("CTW-public", in_all=False)
def ctw_public(logits: Tensor, no_logits: Tensor) -> Tensor:
    """Return `1 - p_no` of the winning class, as the public code does: [B, C], [B, C] -> [B], with
    its ties at 0 and 1."""
    return torch.sigmoid(ctw(logits, no_logits))


@score("ATD-public", in_all=False)
def atd_public(logits: Tensor, no_logits: Tensor) -> Tensor:
    """Return `sum_c (1 - p_no_c) p_c`, as the public code does: [B, C], [B, C] -> [B], with its
    ties at 0 and 1."""
    p = torch.softmax(logits, dim=-1, dtype=compute_dtype(logits))
    return (torch.sigmoid(yes_no_log_odds(logits, no_logits)) * p).sum(dim=-1)


@score("ODIN", in_all=False)  # costs two forward and one backward pass through the image tower
def odin(odin_logits: Tensor, *, odin_temperature: float = 1000.0) -> Tensor:
    """Return `max_c softmax_c(logits(x') / T)`: [B, C] -> [B].

    The model computes `x'`: it moves each pixel value of the image by 0.0014 along the sign of the
    gradient of `log max_c softmax_c(logits(x) / T)` at T = 1000. The logits are CLIP's scaled
    cosine similarities with the class texts. Liang et al., Enhancing the reliability of
    out-of-distribution image detection in neural networks, ICLR 2018.
    """
    return _max_softmax(odin_logits, odin_temperature)


@score("GradNorm")
def grad_norm(logits: Tensor, head_norm: Tensor) -> Tensor:
    """Return `|| d KL(u || softmax(W x)) / d W ||_1`, in closed form: [B, C], [B] -> [B].

    The cosine head serves as the linear last layer: its weights `W` [C, D] are the normalised texts
    (not CLIP's own parameters), its input is `x = exp(logit_scale) f`. The gradient is
    `(softmax(W x) - u) x^T`, so its norm is `||softmax(W x) - u||_1 ||x||_1`. Huang et al., On the
    importance of gradients for detecting distributional shifts in the wild, NeurIPS 2021, eqs. 2
    to 6 with T = 1.
    """
    p = torch.softmax(logits, dim=-1, dtype=compute_dtype(logits))
    return (p - 1 / p.shape[-1]).abs().sum(dim=-1) * head_norm.to(p.dtype)


# FA: Lu et al., FA: forced prompt learning of vision-language models for out-of-distribution
# detection, ICCV 2025


def _max_forced_softmax(x: Tensor, frozen: Tensor, copies: Tensor, temperature: float) -> Tensor:
    """Return the largest probability of a softmax over `x` [..., C] and `copies` [...] copies of
    `frozen` [..., C], both divided by T: -> [...]. Without copies the softmax is over `x` alone."""
    check_temperature(temperature)
    dtype, has_copies = compute_dtype(x), copies > 0
    rival = frozen.amax(dim=-1).to(dtype).where(has_copies, -torch.inf)
    peak = torch.maximum(x.amax(dim=-1).to(dtype), rival)
    learned_sum, frozen_sum = (
        (entries - peak[..., None]).div_(temperature).exp_().sum(dim=-1) for entries in (x, frozen)
    )
    return (learned_sum + (copies * frozen_sum).where(has_copies, 0)).reciprocal()


@score("FA-MCM")
def fa_mcm(
    cosines: Tensor, frozen_cosines: Tensor, frozen_copies: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Return the largest entry of the softmax over FA's classifier: [B, C], [B, C], [B] -> [B].

    With cf the cosines and co the frozen ones, both divided by T, and K copies, this is
    `exp(max(max_c cf, max_c co)) / (sum_c exp cf + K sum_c exp co)`; K = 0 is MCM.
    """
    return _max_forced_softmax(cosines, frozen_cosines, frozen_copies, temperature)


@score("FA-GL-MCM")
def fa_gl_mcm(
    cosines: Tensor,
    local_cosines: Tensor,
    frozen_cosines: Tensor,
    frozen_local_cosines: Tensor,
    frozen_copies: Tensor,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """Return FA-MCM plus the largest FA-MCM of a region: [B, C], [B, N, C], ... -> [B]."""
    regions = _max_forced_softmax(
        local_cosines, frozen_local_cosines, frozen_copies[:, None], temperature
    )  # [B, N]
    image = fa_mcm(cosines, frozen_cosines, frozen_copies, temperature=temperature)
    return image + regions.amax(dim=-1)
