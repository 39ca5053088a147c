from .preprocess import INTERPOLATION_MODES, RESIZE_MODES, Preprocess
from .transforms import build_transform
