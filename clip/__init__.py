"""CLIP as OOD detection needs it, built on open_clip.

>>> model, preprocess = load("ViT-B/16", device="cpu", precision="fp32")

gives global *and* local image features, and text features of tokens or of
learned prompt embeddings.
"""

from clip.loading import available_models, load, weights_hash
from clip.model import ClipModel
from clip.negation import NoTextEncoder, build_no_encoder
from clip.precision import PRECISIONS, Precision, resolve_precision
from clip.prefix import Packing
from clip.tokenizer import encode, tokenize
