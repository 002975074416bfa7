"""FID's network: its values on seeded weights, its blocks' pooling, what it refuses."""

import numpy as np
import pytest
import torch
from flexid.model_patches.evaluate import inception
from torchvision.models.inception import InceptionA, InceptionE

pytestmark = pytest.mark.pure

PROBE = (0.0, 1.001498, 0.032477, 0.0, 0.925678, 0.119613, 0.276559, 0.031466)
"""Every 256th feature, by pytorch-fid 0.3.0 with the same weights on the same picture."""


def seeded():
    """The published file's tensors, drawn; with the last layer that nothing here reads."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape):
        return torch.randn(shape, generator=generator)

    with torch.device("meta"):
        shapes = {key: value.shape for key, value in inception.Inception().state_dict().items()}
    state = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            continue
        if len(shape) == 4:
            state[key] = draw(shape) * (2 / shape[1:].numel()) ** 0.5
        elif key.endswith(("running_var", "bn.weight")):
            state[key] = 1 + 0.1 * torch.rand(shape, generator=generator)
        else:
            state[key] = 0.1 * draw(shape)
    return state


def picture():
    y, x = np.mgrid[:200, :150]
    waves = [np.sin(x / 9 + y / 17), np.cos(x / 13 - y / 7), np.sin((x + y) / 21)]
    return np.stack([np.round(127.5 + 127.5 * one) for one in waves], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def net():
    return inception.build_inception(seeded())


def test_features_are_those_of_pytorch_fid(net):
    found = inception.inception_features(net, picture())
    assert found.shape == (inception.FEATURES,)
    assert found[::256].tolist() == pytest.approx(PROBE, rel=1e-4, abs=1e-5)


def test_a_mean_does_not_count_what_lies_outside():
    """torchvision's own block counts zeros at the edge; inside both are the same."""
    ours, theirs = inception.BlockA(192, 32).eval(), InceptionA(192, 32).eval()
    theirs.load_state_dict(ours.state_dict())
    pixels = torch.rand(1, 192, 7, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, two = ours(pixels), theirs(pixels)
    assert torch.allclose(one[..., 1:-1, 1:-1], two[..., 1:-1, 1:-1], atol=1e-5)
    assert not torch.allclose(one[..., 0, :], two[..., 0, :], atol=1e-3)


def test_the_last_block_takes_the_greatest():
    ours, theirs = inception.BlockE(1280, greatest=True).eval(), InceptionE(1280).eval()
    theirs.load_state_dict(ours.state_dict())
    pixels = torch.rand(1, 1280, 3, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, two = ours(pixels), theirs(pixels)
    pooled = slice(-192, None)
    assert torch.allclose(one[:, : pooled.start], two[:, : pooled.start], atol=1e-5)
    assert not torch.allclose(one[:, pooled], two[:, pooled], atol=1e-3)


def test_other_files_are_refused_by_name():
    state = {"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 5, 5)}
    with pytest.raises(ValueError, match=r"not the tensors of pt_inception-2015-12-05"):
        inception.build_inception(state)


def test_pixels_fill_the_square_without_antialiasing():
    found = inception.inception_pixels(np.full((50, 80, 3), 255, np.uint8))
    assert found.shape == (3, 299, 299)
    assert found.flatten().tolist() == pytest.approx([1.0] * found.numel())
    stripes = np.zeros((598, 598, 3), np.uint8)
    stripes[:, ::4] = 255
    half = inception.inception_pixels(stripes)[0, 0]
    assert half[:2].tolist() == pytest.approx([0.0, -1.0], abs=1e-5), "neighbours alone count"
