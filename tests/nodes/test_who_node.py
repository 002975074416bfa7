"""Who Is Where: people of Make Person, their masks and drawn boxes."""

import pytest
import torch
import who_world
from flexid.nodes.saa import FlexIDMakePerson
from flexid.nodes.who import FlexIDWhoIsWhere
from who_world import LEFT, RIGHT, picture

pytestmark = pytest.mark.comfy


def person(colour, name="", **options):
    return FlexIDMakePerson.execute(who_world.person(colour), 1.0, name, "", **options)[0]


def look(image, *people, **options):
    slots = {f"person{number}": one for number, one in enumerate(people)}
    return FlexIDWhoIsWhere.execute(who_world.analyser(LEFT, RIGHT), image, slots, **options)


def test_masks_and_boxes_say_where_people_should_be():
    left = torch.zeros(1, 8, 8)
    left[:, :, :4] = 1
    boxes = [{"bbox": [0, 500, 1000, 1000], "desc": "Bob"}]
    people = person("red", "Ann", mask=left), person("blue", "Bob")
    right = look(picture(red=LEFT, blue=RIGHT), *people, elements=boxes)
    wrong = look(picture(blue=LEFT, red=RIGHT), *people, elements=boxes)
    assert right[3] is True and wrong[3] is False
    assert "Bob: in place" in right[1] and "Bob: in the place of Ann" in wrong[1]
    assert right[2].startswith("picture,person,verdict") and right[0].shape == (1, 200, 300, 3)


def test_people_without_regions_may_be_anywhere():
    done = look(picture(green=LEFT, red=RIGHT), person("red"))
    assert done[3] is True and "person 1: found, likeness 1.00" in done[1]
