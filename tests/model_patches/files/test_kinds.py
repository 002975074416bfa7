"""Telling weight files apart by their tensors."""

import json

import pytest
from flexid.model_patches.files.kinds import KINDS, find_kind

pytestmark = pytest.mark.pure

# Key names and shapes as the public files of each kind have them.
EXAMPLES = {
    "face_t5_converted": {
        "encoder_2.fuser.encoder.fusion_layers.0.gamma_l": (4096,),
        "encoder_2.positional_embedding": (1, 512, 4096),
        "encoder_2.face_encoder.blocks.0.attn.qkv.weight": (2304, 768),
    },
    "face_clip_converted": {
        "face_clip_l.fuser.encoder.fusion_layers.0.gamma_l": (768,),
        "face_clip_g.fuser.encoder.fusion_layers.0.gamma_l": (1280,),
        "face_clip_l.transformer.resblocks.0.attn.in_proj_weight": (2304, 768),
    },
    "pulid_sdxl_v1": {
        "id_adapter.body.0.weight": (1280, 1280),
        "id_adapter.mapping_i.0.weight": (2048, 1280),
        "id_adapter_attn_layers.1.id_to_k.weight": (640, 2048),
    },
    "pulid_sdxl_ipadapter": {
        "image_proj.body.0.weight": (1280, 1280),
        "image_proj.mapping_patch_0.0.weight": (1024, 1024),
        "ip_adapter.1.to_k_ip.weight": (640, 2048),
    },
    "instantid": {
        "image_proj.latents": (1, 16, 1280),
        "image_proj.proj_in.weight": (1280, 512),
        "ip_adapter.1.to_k_ip.weight": (640, 2048),
    },
    "flexip": {
        "preserve.detail.latents": (1, 16, 768),
        "personal.proj_query.weight": (768, 768),
        "blocks.input.1.0.preserve.to_k.weight": (320, 768),
    },
    "dynamicid_saa": {
        "proj_module.proj.0.weight": (1024, 512),
        "proj_module.perceiver_resampler.proj_in.weight": (768, 1280),
        "SAA_module.0.to_q_lora.down.weight": (128, 320),
    },
    "dynamicid_imr": {
        "feature_fusion.1.weight": (1024, 1536),
        "disentangleNet.0.0.to_q.weight": (1024, 1024),
        "entangleNet.0.2.1.weight": (4096, 1024),
    },
    "dynamicid_keypoints": {
        "blocks.0.0.conv_block.0.weight": (16, 1, 7, 7),
        "blocks.0.0.conv_block.1.running_mean": (16,),
    },
    "ip_adapter_faceid": {
        "image_proj.proj.0.weight": (1024, 512),
        "ip_adapter.0.to_q_lora.down.weight": (128, 320),
        "ip_adapter.1.to_k_ip.weight": (320, 768),
    },
    "ip_adapter_flux": {
        "double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": (3072, 4096),
        "ip_adapter_proj_model.proj.weight": (16384, 768),
    },
    "ip_adapter": {
        "image_proj.proj.weight": (3072, 1024),
        "ip_adapter.1.to_k_ip.weight": (320, 768),
    },
    "redux": {"redux_up.weight": (12288, 1152), "redux_down.weight": (4096, 12288)},
    "photomaker": {
        "id_encoder.visual_projection_2.weight": (1280, 1024),
        "lora_weights.unet.down_blocks.1.x.weight": (64, 640),
    },
    "lora": {
        "lora_unet_double_blocks_0_img_attn_proj.lora_up.weight": (3072, 16),
        "lora_unet_double_blocks_0_img_attn_proj.alpha": (),
    },
    "controlnet": {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)},
    "flux": {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)},
    "stable_diffusion": {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (2, 2),
    },
    "identity": {"tokens.pulid_flux": (1, 32, 2048), "unconditional.pulid_flux": (1, 32, 2048)},
    "eva_other": {
        "visual.blocks.0.attn.qkv.weight": (4224, 1408),
        "visual.blocks.0.mlp.fc1.weight": (6144, 1408),
    },
    "open_clip": {
        "visual.conv1.weight": (1024, 3, 14, 14),
        "visual.transformer.resblocks.0.attn.in_proj_weight": (3072, 1024),
        "transformer.resblocks.0.attn.in_proj_weight": (2304, 768),
    },
    "clip_vision": {"vision_model.encoder.layers.0.mlp.fc1.weight": (4096, 1024)},
    "dinov2": {"encoder.layer.0.layer_scale1.lambda1": (1024,)},
    "clip_text": {"text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768)},
    "vae": {"decoder.conv_in.weight": (512, 16, 3, 3)},
}


@pytest.mark.parametrize("key", EXAMPLES)
def test_examples(key):
    assert find_kind(EXAMPLES[key]).key == key


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("pulid_flux", "pulid_flux"),
        ("eva_visual", "eva02_clip"),
        ("pulid_sdxl_v1_1", "pulid_sdxl_v1.1"),
        ("tiny_flux", None),
    ],
)
def test_public_key_lists(golden, table, key):
    shapes = json.loads((golden / "pulid_keys.json").read_text())[table]
    if key is None:  # a Flux with a PuLID inside: take the Flux part
        shapes = {k: s for k, s in shapes.items() if not k.startswith("pulid")}
        key = "flux"
    assert find_kind(shapes).key == key


# What else the published pickles hold: T5's blocks, CLIP-L's layers.
INSIDE_FACE_T5 = {
    "encoder_2.encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096),
    "encoder.text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768),
}


def faceclip_keys(golden, name):
    tables = json.loads((golden / "faceclip_keys.json").read_text())
    return {k: s for table in tables if table.startswith(name) for k, s in tables[table].items()}


def test_public_faceclip_key_lists(golden):
    shapes = faceclip_keys(golden, "face_t5")
    assert find_kind({**INSIDE_FACE_T5, **shapes}).key == "face_t5"
    clip = faceclip_keys(golden, "face_clip")
    assert find_kind(clip).key == "face_clip"
    nested = {key.replace("face_clip_l.", "face_clip_l.model."): s for key, s in clip.items()}
    assert find_kind(nested).key == "face_clip"


@pytest.mark.parametrize(
    "shapes",
    [{}, {"foo": (1,)}, {"weight": (2, 2), "bias": (2,)}, {"layers.0.weight": (2, 2)}],
)
def test_unknown(shapes):
    assert find_kind(shapes) is None


@pytest.mark.parametrize(
    ("shapes", "key"),
    [
        ({"text.transformer.resblocks.0.attn.in_proj_weight": (2304, 768)}, "clip_text"),
        ({"encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)}, "clip_text"),
        ({"transformer.x.attn.to_q.lora_A.weight": (16, 3072)}, "lora"),
        ({"single_transformer_blocks.0.attn.to_q.weight": (3072, 3072)}, "flux"),
        ({"down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3)}, "stable_diffusion"),
        ({"blocks.0.attn.qkv.weight": (2304, 768)}, "eva_other"),
    ],
)
def test_variants(shapes, key):
    assert find_kind(shapes).key == key


def test_every_kind_is_exercised():
    covered = {*EXAMPLES, "pulid_flux", "eva02_clip", "pulid_sdxl_v1.1", "face_t5", "face_clip"}
    assert {kind.key for kind in KINDS} == covered
