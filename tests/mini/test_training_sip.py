"""What the projector's recipe trains is what Apply SIP runs, and gradients reach all of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flexid.mini import world
from flexid.mini.conv_layers import fold_norms
from flexid.mini.estimators import Estimator, Estimators, face_crop
from flexid.mini.portraits import EXPRESSIONS, STYLES
from flexid.mini.training import adapter_preview, sip_diffusion, sip_face
from flexid.mini.training.adapter import Adapter
from flexid.mini.training.adapter_diffusion import Examples, open_likeness
from flexid.mini.training.captions import captions_of
from flexid.mini.training.critic import Critic, face_crops
from flexid.mini.training.data import Portraits
from flexid.mini.training.drawing import Drawing, Drawn
from flexid.mini.training.identity_inputs import face_pixels, recogniser_of
from flexid.mini.training.options import Options, models
from flexid.mini.training.sip import Projector, write_face_t5
from flexid.mini.training.sip_diffusion import Company, SipLoss, Taught, load_trained
from flexid.mini.training.sip_face import Described, FaceLoss, load_face, new_reader
from flexid.model_patches.encoders.faceclip import load_faceclip
from flexid.model_patches.encoders.mini_text import load_mini_clip
from flexid.model_patches.inject.sip import Wording, apply_sip
from flexid.model_patches.sip.faceclip import FaceClipProjector
from flexid.model_patches.sip.projector import encode_sip
from flexid.model_patches.training.attention_kernel import plain_attention
from flexid.model_patches.training.frozen_base import FrozenBase
from flexid.model_patches.training.loop import Recipe, Training
from identity_world import CPU, KnownFaces

pytestmark = pytest.mark.comfy
PICTURE = 2
WIDTH = 64


@pytest.fixture(scope="module")
def work(people_work):
    return people_work


@pytest.fixture(scope="module")
def projector():
    """With weights that survive the file's rounding."""
    torch.manual_seed(2)
    projector = Projector(WIDTH)
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.copy_(parameter.bfloat16().float())
    return projector


@pytest.fixture(scope="module")
def face(work):
    data = Portraits(work)
    picture, points = np.array(data.images[PICTURE]), np.array(data.points[PICTURE])
    return adapter_preview.face_of(picture, points, recogniser_of(work))


@pytest.mark.parametrize("scope", ["all", "content"])
def test_the_prompt_is_edited_as_in_training(work, projector, face, tmp_path, scope):
    path = tmp_path / "face_t5.pt"
    write_face_t5(projector, path)
    assert path.stat().st_size < 3e6
    opened = FaceClipProjector(load_faceclip(path))
    captions, row = captions_of(work, CPU), np.array([PICTURE])
    text, pooled = captions(row, np.array([False]))
    clip = load_mini_clip(models(work) / world.T5, models(work) / world.CLIP_L)
    caption = Portraits(work).caption[PICTURE]
    clip = clip.clone()
    clip.set_tokenizer_option("t5xxl_min_length", text.shape[1])
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
    torch.testing.assert_close(conditioning[0][0], text, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(conditioning[0][1]["pooled_output"], pooled, atol=1e-4, rtol=1e-3)
    edited = apply_sip(
        conditioning,
        opened,
        encode_sip(opened, [face]),
        weight=0.1,
        scope=scope,
        wording=Wording(clip, caption),
    ).conditioning[0][0]
    pixels = face_pixels(face.ffhq_crop.numpy(), face.points.double().numpy())[None]
    where = captions.written_mask(row) if scope == "content" else torch.ones(text.shape[:2]).bool()
    with torch.no_grad():
        mine = projector.add_direction(projector.patches(pixels), text, where, torch.tensor([0.1]))
    torch.testing.assert_close(mine, edited, atol=2e-3, rtol=1e-2)
    assert 0 < int(where.sum()) <= text.shape[1]
    turned = (mine - text).norm(dim=-1) / text.norm(dim=-1)
    torch.testing.assert_close(turned, 0.1 * where.float(), atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def base(work):
    return FrozenBase(models(work) / world.FLUX, CPU)


@pytest.fixture(scope="module")
def examples(work):
    return Examples(work, captions_of(work, CPU), CPU)


def reader_of(examples):
    torch.manual_seed(0)
    return new_reader(examples.data.vectors.shape[1])


def test_gradients_reach_everything_through_the_frozen_base(work, base, examples, tmp_path):
    module = Taught(base.text_width, reader_of(examples))
    faces = KnownFaces(examples.data.points[:4])
    drawing = Drawing(base, examples, open_likeness(work, examples), faces)
    torch.manual_seed(1)
    company = Company(Adapter(base.anchors), examples)
    loss = SipLoss(module, drawing, company, new_critic(), 4)
    run = Training(Recipe("sip", 4, 1e-3, warmup=1), module, tmp_path)
    with plain_attention(CPU):
        shown = run.advance(loss, CPU)
    assert shown["velocity"] > 0 and shown["alike"] != 0 and shown["gained"] != 0
    assert shown["strayed"] > 0
    assert all(p.grad is None for p in company.adapter.parameters())
    silent = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and not parameter.grad.any()
    ]
    # The difference form takes it out.
    last = len(module.projector.fuser.fuser.encoder.text_layers) - 1
    assert silent == [f"projector.fuser.fuser.encoder.text_layers.{last}.norm2.bias"]


def new_critic():
    torch.manual_seed(0)
    net = fold_norms(Estimators(len(EXPRESSIONS), len(STYLES)))
    return Critic(Estimator(net, list(EXPRESSIONS), list(STYLES)), CPU)


def as_drawn(data, rows):
    """Known pictures as if they were drawn."""
    pictures = torch.from_numpy(np.array(data.images[rows])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return Drawn(pictures.requires_grad_(), KnownFaces(data.points[rows])(pictures))


def test_the_critic_counts_what_else_has_changed(work):
    data, critic = Portraits(work), new_critic()
    plain, other = as_drawn(data, [0, 6, 12]), as_drawn(data, [3, 9, 15])
    assert critic(plain, plain).abs() < 1e-5
    strayed = critic(plain, other)
    strayed.backward()
    assert strayed > 0 and other.pictures.grad.any() and plain.pictures.grad is None


def test_without_a_face_nothing_is_compared(work):
    data, critic = Portraits(work), new_critic()
    plain, other = as_drawn(data, [0, 6]), as_drawn(data, [3, 9])
    nobody = KnownFaces(np.full((2, 5, 2), np.nan))(other.pictures)
    assert critic(plain, Drawn(other.pictures, nobody)) == 0
    one = Drawn(other.pictures, replace(other.faces, there=torch.tensor([True, False])))
    torch.manual_seed(3)
    alone = critic(as_drawn(data, [0]), as_drawn(data, [3]))
    torch.manual_seed(3)
    torch.testing.assert_close(critic(plain, one), alone)


def test_the_critic_sees_the_estimators_crop(work):
    data, rows = Portraits(work), [0, 7, 14]
    boxes = torch.from_numpy(np.array(data.box[rows]))
    pictures = torch.from_numpy(np.array(data.images[rows])).permute(0, 3, 1, 2).float()
    mine = face_crops(pictures, boxes, torch.zeros(3, 2), torch.ones(3)).permute(0, 2, 3, 1)
    for number, row in enumerate(rows):
        theirs = face_crop(np.array(data.images[row]), data.box[row])
        # OpenCV rounds places to a 32nd of a pixel.
        assert (mine[number] - torch.from_numpy(theirs).float()).abs().mean() < 1


def test_the_face_encoder_learns_alone(examples, tmp_path):
    reader = reader_of(examples)
    loss = FaceLoss(reader, examples.inputs, Described(examples.data, CPU), 8)
    run = Training(Recipe("sip_face", 10_000, 2e-3, warmup=5), reader, tmp_path)
    with plain_attention(CPU):
        values = [run.advance(loss, CPU)["described"] for _ in range(50)]
    assert np.mean(values[-8:]) < 0.7 * np.mean(values[:4])


def test_the_projector_starts_with_the_face_encoder_of_the_first_stage(work, base):
    with pytest.raises(FileNotFoundError, match="--only sip_face"):
        sip_diffusion.train_sip(work, CPU, Options(steps=1, batch=2))
    sip_face.train_face(work, CPU, Options(steps=2, batch=2))
    reader = new_reader(Portraits(work).vectors.shape[1])
    before = reader.face.pos_embed.detach().clone()
    load_face(work, reader)
    assert not torch.equal(reader.face.pos_embed, before)
    module = Taught(base.text_width, reader)
    assert module.projector.face is reader.face and module.teller is reader.teller
    assert load_trained(work, base.text_width)[1] == 0
