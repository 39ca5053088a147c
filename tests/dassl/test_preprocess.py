"""One way from an image to a model's input, and the images that it refuses."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision import transforms

import clip
from dassl.config import get_cfg_default
from dassl.data.transforms import INTERPOLATION_MODES, Preprocess, build_transform
from dassl.utils import BadImageError, InputError, read_image

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("interpolation", INTERPOLATION_MODES)
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("shape", [(70, 50), (31, 300), (32, 32)])
def test_pixels_are_those_of_torchvisions_steps(interpolation, size, shape):
    mode, image = INTERPOLATION_MODES[interpolation], noise(*shape)
    ends = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    crop = [transforms.Resize(max(size), mode), transforms.CenterCrop(size)]
    for resize_mode, steps in (("shortest", crop), ("squash", [transforms.Resize(size, mode)])):
        found = Preprocess(size, MEAN, STD, interpolation, resize_mode)
        assert torch.equal(found(image), transforms.Compose([*steps, *ends])(image))
        seen = found.view(image)  # what a person sees is what the model gets
        assert torch.equal(
            transforms.Normalize(MEAN, STD)(transforms.ToTensor()(seen)), found(image)
        )


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_resize_modes_are_open_clips(resize_mode):
    theirs = open_clip.image_transform(32, False, MEAN, STD, resize_mode, "bicubic")
    ours = Preprocess((32, 32), MEAN, STD, "bicubic", resize_mode)
    for image in (noise(70, 50), noise(20, 90)):
        assert torch.equal(ours(image), theirs(image))


def test_the_config_says_the_resize_mode():
    cfg = get_cfg_default()
    cfg.INPUT.SIZE, cfg.INPUT.RESIZE_MODE = (32, 32), "squash"
    image = noise(70, 50)
    assert torch.equal(
        build_transform(cfg, is_train=False)(image),
        Preprocess((32, 32), resize_mode="squash")(image),
    )
    cfg.INPUT.RESIZE_MODE = "squash "
    with pytest.raises(InputError, match=r"INPUT.RESIZE_MODE.*shortest, squash"):
        build_transform(cfg, is_train=False)
    with pytest.raises(InputError, match="height and width"):
        Preprocess((32,))


def test_16_bit_grey_is_the_same_everywhere(clip_file, tmp_path):
    deep = (np.arange(80 * 70, dtype=np.uint16) * 11).reshape(80, 70)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray((deep // 256).astype(np.uint8)).save(tmp_path / "grey.png")
    _, preprocess = clip.load(clip_file("tiny-vit"))
    expected = preprocess(read_image(tmp_path / "grey.png"))
    assert torch.equal(preprocess(Image.open(tmp_path / "deep.png")), expected)
    assert torch.equal(preprocess(read_image(tmp_path / "deep.png")), expected)


@pytest.mark.parametrize("shape", [(1, 20000), (20000, 1), (2, 401)])
def test_a_strip_is_refused_before_it_is_made_gigabytes(shape, tmp_path):
    noise(*shape).save(tmp_path / "strip.png")
    with pytest.raises(BadImageError, match=r"strip.png \(it is .* at most 200 times the other"):
        read_image(tmp_path / "strip.png")
    with pytest.raises(InputError, match="at most 200 times"):
        Preprocess((224, 224))(noise(*shape))
    assert Preprocess((8, 8))(noise(2, 400)).shape == (3, 8, 8)


def test_exif_orientation_is_a_choice(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    noise(20, 30).save(tmp_path / "phone.png", exif=exif)
    assert read_image(tmp_path / "phone.png").size == (30, 20)  # as upstream
    assert read_image(tmp_path / "phone.png", upright=True).size == (20, 30)
