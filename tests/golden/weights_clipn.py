"""Random CLIPN weights, as a numpy-only recipe (no torch needed).

make_state_dict(seed, arch, variant) -> {key: float32 ndarray}, keys as upstream CLIPN names them
(open_clip ViT naming + transformer_no.*, token_embedding_no.weight, positional_embedding_no,
ln_final_no.*, text_projection_no, prompt_no).  variant 'src' has prompt_no (16, ctx, width);
variant 'hand' (the hand-crafted code) has none.

Every tensor has its own generator, np.random.RandomState(crc32(key) folded with the seed), whose
stream numpy guarantees never to change; drawn in float64, rounded once to float32.
The order of keys therefore does not matter.
"""

import zlib

import numpy as np

ARCHS = {
    # embed, image, patch, vision width / layers (head width 64), text width / heads / layers
    "tiny": dict(
        embed_dim=64,
        image_size=64,
        patch=16,
        vwidth=128,
        vlayers=3,
        twidth=128,
        theads=2,
        tlayers=3,
        ctx=77,
        vocab=49408,
    ),
    # same, embed 512: for the upstream functions that hard-code 512
    "tiny512": dict(
        embed_dim=512,
        image_size=64,
        patch=16,
        vwidth=128,
        vlayers=3,
        twidth=128,
        theads=2,
        tlayers=3,
        ctx=77,
        vocab=49408,
    ),
    # a second geometry (odd sizes: 3 heads, 5x5 patches, other depths), used in the private set
    "tiny2": dict(
        embed_dim=96,
        image_size=80,
        patch=16,
        vwidth=192,
        vlayers=2,
        twidth=192,
        theads=3,
        tlayers=4,
        ctx=77,
        vocab=49408,
    ),
    "ViT-B-16": dict(
        embed_dim=512,
        image_size=224,
        patch=16,
        vwidth=768,
        vlayers=12,
        twidth=512,
        theads=8,
        tlayers=12,
        ctx=77,
        vocab=49408,
    ),
}
NUM_NO = 16  # upstream: self.num_no_texts


def _rs(seed, key):
    return np.random.RandomState((int(seed) * 2654435761 + zlib.crc32(key.encode())) % (2**32))


def _normal(seed, key, shape, std, mean=0.0):
    x = _rs(seed, key).standard_normal(int(np.prod(shape))).reshape(shape)
    return (mean + std * x).astype(np.float32)


def model_config(arch):
    """Return the open_clip JSON config of the architecture."""
    a = ARCHS[arch]
    return {
        "embed_dim": a["embed_dim"],
        "vision_cfg": {
            "image_size": a["image_size"],
            "layers": a["vlayers"],
            "width": a["vwidth"],
            "patch_size": a["patch"],
            "head_width": 64,
        },
        "text_cfg": {
            "context_length": a["ctx"],
            "vocab_size": a["vocab"],
            "width": a["twidth"],
            "heads": a["theads"],
            "layers": a["tlayers"],
        },
    }


def _tower(sd, seed, prefix, width, layers, gain):
    for i in range(layers):
        p = f"{prefix}.resblocks.{i}."
        for ln in ("ln_1", "ln_2"):
            sd[p + ln + ".weight"] = _normal(seed, p + ln + ".weight", (width,), 0.1, 1.0)
            sd[p + ln + ".bias"] = _normal(seed, p + ln + ".bias", (width,), 0.05)
        attn_std = gain * width**-0.5
        proj_std = gain * (width**-0.5) * ((2 * layers) ** -0.5)
        fc_std = gain * (2 * width) ** -0.5
        sd[p + "attn.in_proj_weight"] = _normal(
            seed, p + "attn.in_proj_weight", (3 * width, width), attn_std
        )
        sd[p + "attn.in_proj_bias"] = _normal(seed, p + "attn.in_proj_bias", (3 * width,), 0.02)
        sd[p + "attn.out_proj.weight"] = _normal(
            seed, p + "attn.out_proj.weight", (width, width), proj_std
        )
        sd[p + "attn.out_proj.bias"] = _normal(seed, p + "attn.out_proj.bias", (width,), 0.02)
        sd[p + "mlp.c_fc.weight"] = _normal(seed, p + "mlp.c_fc.weight", (4 * width, width), fc_std)
        sd[p + "mlp.c_fc.bias"] = _normal(seed, p + "mlp.c_fc.bias", (4 * width,), 0.02)
        sd[p + "mlp.c_proj.weight"] = _normal(
            seed, p + "mlp.c_proj.weight", (width, 4 * width), proj_std
        )
        sd[p + "mlp.c_proj.bias"] = _normal(seed, p + "mlp.c_proj.bias", (width,), 0.02)


def make_state_dict(seed, arch, variant="src", logit_scale=4.6052, prompt_std=0.02, gain=1.5):
    a = ARCHS[arch]
    sd = {}
    E, W, P = a["embed_dim"], a["vwidth"], a["patch"]
    g = a["image_size"] // P
    sd["visual.conv1.weight"] = _normal(
        seed, "visual.conv1.weight", (W, 3, P, P), (3 * P * P) ** -0.5
    )
    sd["visual.class_embedding"] = _normal(seed, "visual.class_embedding", (W,), W**-0.5)
    sd["visual.positional_embedding"] = _normal(
        seed, "visual.positional_embedding", (g * g + 1, W), W**-0.5
    )
    for ln in ("visual.ln_pre", "visual.ln_post"):
        sd[ln + ".weight"] = _normal(seed, ln + ".weight", (W,), 0.1, 1.0)
        sd[ln + ".bias"] = _normal(seed, ln + ".bias", (W,), 0.05)
    _tower(sd, seed, "visual.transformer", W, a["vlayers"], gain)
    sd["visual.proj"] = _normal(seed, "visual.proj", (W, E), W**-0.5)
    T = a["twidth"]
    for s in ("", "_no"):
        _tower(sd, seed, "transformer" + s, T, a["tlayers"], gain)
        sd[f"token_embedding{s}.weight"] = _normal(
            seed, f"token_embedding{s}.weight", (a["vocab"], T), 0.05
        )
        sd[f"positional_embedding{s}"] = _normal(
            seed, f"positional_embedding{s}", (a["ctx"], T), 0.02
        )
        sd[f"ln_final{s}.weight"] = _normal(seed, f"ln_final{s}.weight", (T,), 0.1, 1.0)
        sd[f"ln_final{s}.bias"] = _normal(seed, f"ln_final{s}.bias", (T,), 0.05)
        sd[f"text_projection{s}"] = _normal(seed, f"text_projection{s}", (T, E), T**-0.5)
    if variant == "src":
        sd["prompt_no"] = _normal(seed, "prompt_no", (NUM_NO, a["ctx"], T), prompt_std)
    sd["logit_scale"] = np.float32(logit_scale).reshape(())
    return sd


def plain_clip(sd):
    """Return the plain CLIP checkpoint (no '_no' keys) contained in a CLIPN state dict."""
    return {k: v for k, v in sd.items() if "_no" not in k}


def copy_yes_to_no(sd):
    """Return CLIPN's start from plain CLIP: text encoder copied, prompt_no = 0."""
    out = dict(sd)
    for k in sd:
        if "_no" in k:
            out[k] = np.zeros_like(sd[k]) if k == "prompt_no" else sd[k.replace("_no", "")].copy()
    return out


def make_images(seed, n, size, scale=1.0):
    """Return preprocessed images, float32 (n, 3, size, size): noise, colour and gradient."""
    r = _rs(seed, "images")
    x = 0.6 * r.standard_normal((n, 3, size, size))
    x = (
        x
        + r.standard_normal((n, 3, 1, 1))
        + r.standard_normal((n, 3, 1, 1)) * np.linspace(-1, 1, size)[None, None, :, None]
    )
    return (scale * x).astype(np.float32)


def make_features(seed, key, n, d):
    """Return L2-normalised random features, float32."""
    x = _rs(seed, key).standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def make_normal(seed, key, shape, std=1.0, mean=0.0):
    return _normal(seed, key, shape, std, mean)


def checksum(sd):
    """Return the crc32 over sorted keys and little-endian bytes."""
    c = 0
    for k in sorted(sd):
        c = zlib.crc32(k.encode(), c)
        c = zlib.crc32(np.ascontiguousarray(sd[k], dtype="<f4").tobytes(), c)
    return f"{c:08x}"
