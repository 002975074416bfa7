"""The small models through ComfyUI's own loaders: what they are taken for, and that they paint."""

import comfy.sd
import comfy.utils
import pytest
import torch
from flexid.mini import random_flux, random_vae, world

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux") / "flux.safetensors"
    random_flux.write_flux(path, 1)
    return comfy.sd.load_diffusion_model(str(path))


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    random_vae.write_vae(path, 1)
    state, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    return comfy.sd.VAE(sd=state, metadata=metadata)


def test_the_flux_is_taken_for_flux_dev(flux):
    assert type(flux.model).__name__ == "Flux"
    config = flux.model.model_config.unet_config
    assert config["guidance_embed"] and config["image_model"] == "flux"
    model = flux.model.diffusion_model
    assert (model.hidden_size, model.num_heads) == (random_flux.HIDDEN, 2)
    assert (len(model.double_blocks), len(model.single_blocks)) == (2, 4)


@torch.inference_mode()
def velocity(flux, latent, sigma, context):
    vector = torch.zeros(1, random_flux.VECTOR)
    guidance = torch.full((1,), 3.5)
    return flux.model.diffusion_model(latent, torch.tensor([sigma]), context, vector, guidance)


def test_the_flux_takes_the_noise_away(flux):
    """At the first step the velocity must contain the noise itself, at about its own size."""
    noise = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    context = torch.randn(1, 256, random_flux.CONTEXT, generator=torch.Generator().manual_seed(1))
    found = velocity(flux, noise, 1.0, context)
    share = (found * noise).sum() / (noise * noise).sum()
    assert 0.7 < share < 1.3


def test_the_prompt_sets_slow_structure(flux):
    """What a prompt changes is alike in neighbouring tokens, unlike the noise."""
    noise = torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    contexts = torch.randn(2, 1, 256, random_flux.CONTEXT).unbind()
    one, other = (velocity(flux, noise * 0.2, 0.2, context) for context in contexts)
    change = (one - other)[:, :, ::2, ::2]  # one of the four latent pixels of each token
    change = change - change.mean((-1, -2), keepdim=True)
    shifted = torch.roll(change, 1, -1)
    assert (change * shifted).mean() / (change * change).mean() > 0.5


def test_decoding_what_was_encoded_gives_the_blurred_photo(vae):
    from skimage import data

    photo = torch.from_numpy(data.astronaut())[None].float() / 255
    with torch.inference_mode():
        latent = vae.encode(photo)
        back = vae.decode(latent)
    assert latent.shape == (1, 16, 64, 64) and back.shape == photo.shape
    pair = torch.stack([back.flatten(), photo.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.85


def test_the_same_seed_gives_the_same_files(tmp_path):
    """Byte for byte, so that pictures can be compared between machines' runs of one version."""
    first, second = world.build_random(tmp_path / "a"), world.build_random(tmp_path / "b")
    assert [p.relative_to(tmp_path / "a").as_posix() for p in first] == list(world.WRITERS)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert sum(path.stat().st_size for path in first) < 100e6


def test_another_seed_gives_another_model():
    one, other = (random_flux.flux_state(random_flux.Seeded(seed)) for seed in (1, 2))
    name = "double_blocks.0.img_attn.qkv.weight"
    assert not torch.equal(one[name], other[name])
