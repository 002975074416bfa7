import pytest
import torch
from flexid.model_patches.inject.region import Grid, Region, region_of

pytestmark = pytest.mark.pure


def cover(mask, size, area, batch, cell=2):
    height, width = size if area is None else area[:2]
    grid = Grid(-(-height // cell), -(-width // cell), cell)
    return Region(mask).cover(grid, size, area, batch)


@pytest.mark.parametrize("size", [(16, 16), (15, 17), (1, 1), (64, 3)])
@pytest.mark.parametrize("pixels", [(128, 128), (7, 300), (1, 1), (1000, 3)])
def test_all_one_is_exactly_everywhere(size, pixels):
    coverage = cover(torch.ones(1, *pixels), size, None, 2)
    assert coverage.index is None and coverage.weights is None


def test_empty_mask_covers_nothing():
    assert cover(torch.zeros(1, 64, 64), (16, 16), None, 1) is None


def test_left_half():
    mask = torch.zeros(1, 128, 128)
    mask[:, :, :64] = 1
    coverage = cover(mask, (16, 16), None, 1)
    expected = [row * 8 + column for row in range(8) for column in range(4)]
    assert coverage.index.tolist() == expected
    assert coverage.weights is None


def test_soft_edge_keeps_its_weight():
    mask = torch.zeros(1, 16, 16)
    mask[:, :4, :4] = 0.5
    coverage = cover(mask, (16, 16), None, 1)
    assert coverage.index.tolist() == [0, 1, 8, 9]
    assert torch.equal(coverage.weights, torch.full((1, 4), 0.5))


def test_odd_latent_rounds_up_to_whole_patches():
    mask = torch.zeros(1, 15, 17)
    mask[:, -1, -1] = 1
    coverage = cover(mask, (15, 17), None, 1)
    assert coverage.index.tolist() == [8 * 9 - 1]
    assert coverage.weights is None  # padding repeats the edge, so the corner patch is full


def test_area_sees_its_own_part():
    mask = torch.zeros(1, 128, 128)
    mask[:, 64:, 64:] = 1
    area = (8, 8, 8, 8)
    assert cover(mask, (16, 16), area, 1).index is None
    assert cover(mask, (16, 16), (8, 8, 0, 0), 1) is None


def test_one_mask_per_image_of_a_batch():
    pair = torch.zeros(2, 32, 32)
    pair[0, :, :16] = 1
    pair[1, :, 16:] = 1
    coverage = cover(pair, (16, 16), None, 4)
    assert coverage.index is None
    assert coverage.weights.shape == (4, 64)
    assert torch.equal(coverage.weights[0], coverage.weights[2])
    assert coverage.weights[0, 0] == 1 and coverage.weights[1, 0] == 0


@pytest.mark.parametrize(
    ("mask", "facts"),
    [
        (torch.zeros(1, 1, 4, 4), ["(1, 1, 4, 4)", "MASK"]),
        (torch.zeros(4), ["(4,)", "height"]),
        (torch.zeros(0, 4), ["(0, 4)"]),
        (torch.full((4, 4), 1.5), ["1.5", "[0, 1]"]),
        (torch.full((4, 4), -0.5), ["-0.5", "[0, 1]"]),
        (torch.full((4, 4), float("nan")), ["nan", "[0, 1]"]),
    ],
)
def test_bad_masks_say_what_is_wrong(mask, facts):
    with pytest.raises(ValueError) as error:
        region_of(mask)
    for fact in facts:
        assert fact in str(error.value)
