"""Where people are: boxes for people, and what both modes make of regions at a grid of tokens."""

from dataclasses import replace

import pytest
import torch
from flexid.model_patches.gates.gate import Moment
from flexid.model_patches.identity.identity import Identity
from flexid.model_patches.inject.call import Call, PromptRows, Run
from flexid.model_patches.inject.region import Grid, Region, box_region
from flexid.model_patches.inject.saa_layout import cells_of, corrected_layout, published_layout
from flexid.model_patches.inject.saa_people import Person, describe_person, make_person
from flexid.model_patches.inject.saa_places import give_boxes, place_people, strips
from flexid.model_patches.inject.saa_settings import SaaSettings

pytestmark = pytest.mark.comfy

PUBLISHED = SaaSettings("published")
LEFT, RIGHT = (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)


def people(*names, region=None):
    return [Person(Identity(), name=name, region=region) for name in names]


def boxed(*boxes):
    regions = [None if box is None else box_region(box) for box in boxes]
    return [Person(Identity(), region=region) for region in regions]


def element(bbox, desc="", **more):
    return {"type": "obj", "bbox": list(bbox), "desc": desc, **more}


def boxes_of(given):
    return [one.region and one.region.box for one in given]


# Boxes drawn elsewhere


def test_boxes_without_words_are_given_in_order():
    drawn = [element((0, 0, 1000, 500)), element((0, 500, 1000, 1000))]
    assert boxes_of(give_boxes(people("", "Ann"), drawn)) == [LEFT, RIGHT]
    assert boxes_of(give_boxes(people("", "", ""), drawn)) == [LEFT, RIGHT, None]
    assert boxes_of(give_boxes(people(""), drawn[0])) == [LEFT]


def test_words_decide_before_the_order():
    drawn = [
        element((0, 0, 1000, 500), "ANNA, laughing"),
        element((0, 500, 1000, 1000), "Ann at the window"),
        element((0, 0, 500, 500), type="text", text="Bob"),
        element((500, 0, 1000, 500)),
    ]
    found = boxes_of(give_boxes(people("", "Ann", "Anna", "bob"), drawn))
    assert found == [(0.5, 0.0, 1.0, 0.5), RIGHT, LEFT, (0.0, 0.0, 0.5, 0.5)]


def test_a_mask_keeps_its_place():
    masked = people("Ann", region=Region(torch.ones(1, 4, 4)))
    given = give_boxes([*masked, *people("")], [element((0, 500, 1000, 1000))])
    assert given[0].region is masked[0].region and given[1].region.box == RIGHT
    named = give_boxes(masked, [element((0, 0, 1000, 500), "ann")])
    assert named[0].region.box == LEFT


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ([element((0, 0, 9, 9))] * 3, "3 boxes carry nobody's name, and 2 people wait for one"),
        ([element((0, 0, 9, 9), "Ann")] * 2, "2 boxes are described as 'Ann', expected 1"),
        ([[{"x": 1, "y": 1, "width": 5, "height": 5}]], "output `elements`, not `bboxes`"),
        ([{"x": 1, "y": 1, "width": 5, "height": 5}], "expected a bbox of four numbers"),
        ([element((0, 0, "1", 9))], "expected a bbox of four numbers"),
        ("[]", "The boxes are a str, expected the list"),
        ([element((0, 0, float("nan"), 9))], "expected four finite numbers"),
        ([element((500, 0, 100, 9))], "whose minimum is above its maximum"),
    ],
)
def test_what_is_no_box_is_refused(elements, message):
    with pytest.raises(ValueError, match=message):
        give_boxes(people("Ann", ""), elements)


# Regions by mode


def test_strips_are_equal_and_from_left_to_right():
    assert strips(2) == [LEFT, RIGHT]
    placed = place_people(people("", "", ""), SaaSettings(unplaced="strips"))
    assert [box[1::2] for box in boxes_of(placed)] == [(0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1)]
    given = place_people(boxed(LEFT, None), SaaSettings(unplaced="strips"))
    assert boxes_of(given) == [LEFT, None]


def test_published_takes_a_mask_that_is_a_rectangle():
    mask = torch.zeros(1, 10, 20)
    mask[:, 2:5, 4:8] = 1
    person = Person(Identity(), region=Region(mask))
    assert boxes_of(place_people([person], PUBLISHED)) == [(0.2, 0.2, 0.5, 0.4)]
    bad = [mask * 0.5, mask.roll(1, 1) + mask, mask.repeat(2, 1, 1)]
    bad[1].clamp_(max=1)[:, 2, 4] = 0
    for one in bad:
        with pytest.raises(ValueError, match="is no full rectangle.*Set mode to corrected"):
            place_people([Person(Identity(), region=Region(one))], PUBLISHED)


def test_published_refuses_an_overlap_that_would_be_black():
    near = (0.0, 0.4, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"share 10.00% of the picture, expected 0 %"):
        place_people(boxed(LEFT, near), PUBLISHED)
    assert boxes_of(place_people(boxed(LEFT, near), SaaSettings())) == [LEFT, near]
    off = replace(PUBLISHED, activation=False)
    assert boxes_of(place_people(boxed(LEFT, near), off)) == [LEFT, near]
    place_people(boxed(LEFT, RIGHT), PUBLISHED)


def make_call(size=(8, 8), area=None, latent=None):
    moment = Moment(1.0, 0.0, 0.0, 1.0)
    prompt = PromptRows(area=area)
    facts = ((prompt,), (moment,), size, 1, torch.device("cpu"), torch.float32)
    return Call(Run(latent or size), *facts), prompt


def layout(regions, mode="corrected", beta=2.0, cell=1, counts=None, **where):
    make = corrected_layout if mode == "corrected" else published_layout
    last = "test" if mode == "corrected" else 0.5
    counts = counts or [1] * len(regions)
    return make(*make_call(**where), regions, counts, cell, beta, last)


@pytest.mark.parametrize("mode", ["corrected", "published"])
def test_equation_3_inside_and_outside(mode):
    made = layout([box_region(LEFT)], mode)
    activation = torch.full((1, 8, 8), 0.6)
    raised = made.factor.unflatten(1, (8, 8)) * activation + made.raised.unflatten(1, (8, 8))
    torch.testing.assert_close(raised[..., :4], torch.full((1, 8, 4), 2.6))
    torch.testing.assert_close(raised[..., 4:], torch.full((1, 8, 4), 0.2))
    assert made.bias is None and made.logits is None
    level = layout([box_region(LEFT)], mode, beta=0.0)
    assert (level.factor == 1).all() and (level.raised == 0).all()


@pytest.mark.parametrize("mode", ["corrected", "published"])
def test_people_are_kept_out_of_others_regions(mode):
    made = layout([box_region(LEFT), box_region(RIGHT)], mode, counts=[2, 1])
    left, right = made.bias.exp().unflatten(1, (8, 8)).split(4, dim=2)
    assert left.unique(dim=2).unique(dim=1).tolist() == [[[[1.0, 1.0, 0.0]]]]
    assert right.unique(dim=2).unique(dim=1).tolist() == [[[[0.0, 0.0, 1.0]]]]


def test_somebody_without_a_region_is_kept_out_where_the_mode_says_so():
    regions = [box_region(LEFT), box_region((0, 0.5, 1, 0.75)), None]
    for mode, allowed in (("corrected", 0.0), ("published", 1.0)):
        bias = layout(regions, mode).bias.exp().unflatten(1, (8, 8))[0]
        assert (bias[:, :6, 2] == allowed).all() and (bias[:, 6:] == 1).all()
    single = layout([box_region(LEFT), None], "published")
    assert single.bias is None and single.logits.tolist() == [0.5, 0.5]
    assert (
        layout([box_region(LEFT), None]).bias.exp().unflatten(1, (8, 8))[0, :, :4, 1] == 0
    ).all()


def test_corrected_always_leaves_somebody():
    """Soft edges, overlaps, thin regions: at every token one person at least may be attended to."""
    generator = torch.Generator().manual_seed(1)
    masks = [torch.rand(1, 8, 8, generator=generator) for _ in range(3)]
    masks[1] = (masks[1] > 0.5).float()
    for cell in (1, 2, 8):
        made = layout([Region(mask) for mask in masks], cell=cell)
        allowed = made.bias.exp()
        assert (allowed.amax(-1) >= 0.5 - 1e-6).all() and (allowed <= 1 + 1e-6).all()
        assert made.factor.isfinite().all()


def test_regions_of_no_token_at_a_coarse_grid():
    """One pixel: rounded down it is nowhere, averaged it is a 64th of a token."""
    dot = (0.3, 0.3, 0.3 + 1 / 64, 0.3 + 1 / 64)
    assert not cells_of(dot, Grid(8, 8, 1)).any()
    made = layout([box_region(dot)])
    inside = made.raised.unflatten(1, (8, 8))[0]
    assert (inside > 0).nonzero().tolist() == [[2, 2]]
    assert inside.sum().item() == pytest.approx(2 / 64)
    published = layout([box_region(dot), box_region(RIGHT)], "published")
    assert not published.raised.unflatten(1, (8, 8))[0, :, :4].any()


def test_boxes_are_exact_on_odd_grids_and_areas():
    made = layout([box_region((0, 0, 1, 1 / 3))], size=(3, 9), beta=1.0)
    assert made.raised.unflatten(1, (3, 9))[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    part = layout([box_region(LEFT)], size=(4, 4), area=(4, 4, 2, 2), latent=(8, 8), beta=1.0)
    assert part.raised.unflatten(1, (4, 4))[0, 0].tolist() == [1, 1, 0, 0]
    uneven = layout([box_region(LEFT)], size=(3, 5), cell=2, beta=1.0)
    assert uneven.raised.unflatten(1, (2, 3))[0, 0].tolist() == pytest.approx([1, 0.25, 0])


def test_tiles_whose_place_is_unknown_are_refused():
    with pytest.raises(ValueError, match="test has a mask for a latent of 8x8.*tiles of 4x4"):
        layout([box_region(LEFT)], size=(4, 4), latent=(8, 8))


# Words


def test_people_are_described():
    person = make_person(Identity(), name=" Ann ", weight=0.5)
    assert describe_person(person) == "Ann: weight 0.500 → 0.500, no region of their own"
    quarter = replace(person, region=box_region((0, 0, 0.5, 0.5)))
    assert describe_person(quarter).endswith("region 25 % of the picture")
    empty = replace(person, region=box_region((0.5, 0.5, 0.5, 1)))
    assert describe_person(empty).endswith("the region is empty: left out")
    assert describe_person(replace(person, weight=0.0)) == "Ann: weight is 0, left out"
