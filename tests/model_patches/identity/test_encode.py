"""From faces to an identity: what is in it, what is cached, what is refused."""

import dataclasses

import ip_files
import pytest
import torch
from flexid.mini.random_adapter import write_adapter, write_eva_clip
from flexid.model_patches.adapters.pulid_flux import encode_tokens, load_adapter
from flexid.model_patches.adapters.pulid_sdxl import load_sdxl_adapter
from flexid.model_patches.encoders.eva_clip import encode, load_eva_clip
from flexid.model_patches.encoders.whiten import eva_pixels
from flexid.model_patches.identity import encode as room
from flexid.model_patches.identity.combine import combine_identities
from flexid.model_patches.identity.encode import FUSIONS, encode_identity, encoder_runs, forget
from flexid.model_patches.identity.mix import FeatureMix, pool_patches
from flexid.model_patches.identity.store import load_identity, save_identity
from people import face, labels

pytestmark = pytest.mark.comfy

FAMILY = "pulid_flux"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("encode")


@pytest.fixture(scope="module")
def adapter(folder):
    return load_adapter(write_adapter(folder / "pulid.safetensors", 1))


@pytest.fixture(scope="module")
def vision(folder):
    return load_eva_clip(write_eva_clip(folder / "eva.safetensors", 1))


@pytest.fixture(autouse=True)
def fresh():
    forget()


@pytest.fixture
def work():
    """Calls work() -> (vision runs, token runs) since the last call."""
    last = encoder_runs()

    def since():
        nonlocal last
        now, before = encoder_runs(), last
        last = now
        return now.vision.runs - before.vision.runs, now.tokens.runs - before.tokens.runs

    return since


def _tokens(encoded):
    return encoded.identity.encodings[FAMILY].tokens


def test_one_photo_by_hand(adapter, vision):
    one = face(1)
    identity = encode_identity(adapter, vision, (one,)).identity
    pooled, hidden = encode(vision, eva_pixels(one, 112, "ellipse"))
    condition = torch.cat((one.embedding[None], pooled), dim=-1)[None]
    assert torch.equal(identity.encodings[FAMILY].tokens, encode_tokens(adapter, condition, hidden))
    zeros = encode_tokens(adapter, torch.zeros_like(condition), torch.zeros_like(hidden))
    assert torch.equal(identity.encodings[FAMILY].null, zeros)
    assert zeros.std() > 0.1
    assert torch.equal(identity.features["arcface"], one.embedding[None])
    assert list(identity.features) == ["arcface"], "nothing else is read from it"
    assert identity.encodings[FAMILY].encoder == adapter.encoder_digest


def test_joint_by_hand(adapter, vision):
    photos = (face(1), face(2))
    tokens = _tokens(encode_identity(adapter, vision, photos, "joint"))
    looks = [encode(vision, eva_pixels(one, 112, "ellipse")) for one in photos]
    rows = [
        torch.cat((one.embedding[None], look[0]), -1)
        for one, look in zip(photos, looks, strict=True)
    ]
    hidden = torch.cat([look[1] for look in looks], dim=2)
    expected = encode_tokens(adapter, torch.stack(rows, dim=1), hidden)
    assert torch.equal(tokens, expected)
    assert tokens.shape == (1, 32, 256)


def test_the_recogniser_s_embedding_goes_in_raw(adapter, vision):
    one = face(1)
    longer = dataclasses.replace(one, embedding=one.embedding * 2)
    first, second = (_tokens(encode_identity(adapter, vision, (f,))) for f in (one, longer))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion(adapter, vision, fusion):
    encoded = encode_identity(adapter, vision, tuple(map(face, range(3))), fusion)
    count = 96 if fusion == "concat" else 32
    assert _tokens(encoded).shape == (1, count, 256)
    assert encoded.identity.encodings[FAMILY].null.shape == (1, 32, 256)
    assert fusion in encoded.report and f"{count} identity tokens" in encoded.report


@pytest.mark.parametrize("fusion", [name for name in FUSIONS])
def test_one_photo_is_the_same_by_every_fusion(adapter, vision, fusion):
    mean, other = (
        _tokens(encode_identity(adapter, vision, (face(1),), f)) for f in ("mean", fusion)
    )
    torch.testing.assert_close(mean, other)


def test_people_differ(adapter, vision):
    one, two = (_tokens(encode_identity(adapter, vision, (face(i),))) for i in (1, 2))
    assert (one - two).norm() > 0.3 * one.norm()


def test_thumbnail_and_provenance(adapter, vision):
    identity = encode_identity(adapter, vision, (face(1), face(2))).identity
    assert identity.thumbnail.shape == (256, 256, 3) and identity.thumbnail.dtype == torch.uint8
    assert identity.picture.shape == (1, 256, 256, 3) and identity.picture.max() <= 1
    assert dict(identity.provenance) == {
        "photos": "photo1, photo2",
        "detector": "test detector",
        "recogniser": "test recogniser",
        "pack_version": "0.1.0",
    }
    assert dict(identity.encodings[FAMILY].recipe) == {
        "adapter": "pulid.safetensors",
        "adapter_digest": adapter.digest,
        "vision": "eva.safetensors",
        "vision_digest": vision.digest,
        "fusion": "mean",
        "whitening": "ellipse",
        "grey": "yes",
    }


def test_second_encoding_runs_nothing(adapter, vision, work):
    photos = (face(1), face(2))
    work()
    first = encode_identity(adapter, vision, photos)
    assert work() == (2, 3)  # two faces, and the unconditional twin
    second = encode_identity(adapter, vision, tuple(face(i) for i in (1, 2)))
    assert work() == (0, 0)
    assert torch.equal(_tokens(first), _tokens(second))


def test_only_what_changed_is_encoded_again(adapter, vision, folder, work):
    encode_identity(adapter, vision, (face(1),))
    work()
    encode_identity(adapter, vision, (face(1), face(2)), "concat")
    assert work() == (1, 1)
    encode_identity(adapter, vision, (face(1),), grey=False)
    assert work() == (1, 1)
    encode_identity(adapter, vision, (face(1), face(2)), "joint")
    assert work() == (0, 2)
    other = load_adapter(write_adapter(folder / "other.safetensors", 2))
    encode_identity(other, vision, (face(1),))
    assert work() == (0, 2)


def test_content_decides_not_the_object_or_the_file_name(adapter, vision, folder, work):
    encode_identity(adapter, vision, (face(1),))
    copy = load_adapter(write_adapter(folder / "copy.safetensors", 1))
    work()
    encode_identity(copy, vision, (face(1),))
    assert work() == (0, 0)
    brighter = face(1)
    brighter.ffhq_crop[0, 0, 0] ^= 1
    encode_identity(adapter, vision, (brighter,))
    assert work() == (1, 1)


def test_the_same_photo_twice_is_encoded_once(adapter, vision, work):
    work()
    encode_identity(adapter, vision, (face(1), face(1)))
    assert work() == (1, 2)


def test_cached_and_uncached_are_bit_identical(adapter, vision):
    alone = _tokens(encode_identity(adapter, vision, (face(2),)))
    forget()
    encode_identity(adapter, vision, (face(1), face(2), face(3)))
    assert torch.equal(alone, _tokens(encode_identity(adapter, vision, (face(2),))))


def test_whitening_is_reported_and_used(adapter, vision):
    parsed = face(1, labels=labels())
    encoded = [
        encode_identity(adapter, vision, (parsed,), whitening=mode)
        for mode in ("auto", "parsed", "ellipse", "off")
    ]
    names = [e.identity.encodings[FAMILY].recipe["whitening"] for e in encoded]
    assert names == ["parsed", "parsed", "ellipse", "off"]
    assert torch.equal(_tokens(encoded[0]), _tokens(encoded[1]))
    assert not torch.equal(_tokens(encoded[1]), _tokens(encoded[2]))
    assert not torch.equal(_tokens(encoded[2]), _tokens(encoded[3]))
    assert "No face parser" in encoded[2].report and "models/facexlib" in encoded[2].report
    assert "No face parser" not in encoded[0].report


def test_report_names_the_stranger(adapter, vision):
    same = face(1).embedding
    photos = [face(i, embedding=same + 0.3 * face(i).embedding) for i in range(3)] + [face(3)]
    encoded = encode_identity(adapter, vision, photos, "reject_outliers")
    lines = encoded.report.splitlines()
    assert "share 0%" in lines[4] and "same person?" in lines[4]
    assert all("share 33%" in line and "same person?" not in line for line in lines[1:4])


def test_faces_of_one_photo_are_not_counted_as_photos(adapter, vision):
    places = {"photo": 0, "photo_hash": "one"}
    faces = [face(i, **places, number=i) for i in range(3)] + [face(3, photo=1)]
    lines = encode_identity(adapter, vision, faces).report.splitlines()
    assert lines[0] == "4 faces of 2 photos -> 32 identity tokens, fusion: mean"
    for i in range(3):
        assert lines[1 + i].startswith(f"photo 1, face {i}: ")
    assert lines[4].startswith("photo 2: ")
    assert lines[5] == "recogniser: test recogniser"
    alone = encode_identity(adapter, vision, faces[:1]).report
    assert alone.startswith("1 face of 1 photo -> ") and "photo 1: " in alone


def test_reject_outliers_says_what_it_kept(adapter, vision):
    def kept(*embeddings):
        faces = [face(i, embedding=one) for i, one in enumerate(embeddings)]
        report = encode_identity(adapter, vision, faces, "reject_outliers").report
        (line,) = (line for line in report.splitlines() if line.startswith("reject_outliers"))
        return line

    one, others = face(1).embedding, [face(i).embedding for i in range(2, 5)]
    assert "kept all 2: it needs 3" in kept(one, others[0])
    assert "kept all 3: none agrees" in kept(one, *others[:2]), "all three are strangers"
    assert "kept 3 of 4" in kept(one, one, one, others[0])


def test_no_agreement_is_minus_0(adapter, vision):
    one, other = torch.zeros(512), torch.zeros(512)
    one[0], other[0], other[1] = 20.0, -1e-3, 20.0
    report = encode_identity(adapter, vision, [face(1, embedding=one), face(2, embedding=other)])
    assert "others 0.00" in report.report and "-0.00" not in report.report


def _small_tower(folder):
    return load_eva_clip(write_eva_clip(folder / "narrow.safetensors", 0, width=64))


def _short_head(folder):
    return load_eva_clip(write_eva_clip(folder / "short.safetensors", 0, output=512))


BAD = {
    "no face": (lambda: (), {}, ["0 faces", "Detect Faces"]),
    "no embedding": (
        lambda: (face(1), face(2, embedding=None, recogniser="")),
        {},
        ["1 of 2 faces", "photo 3", "antelopev2", "glintr100.onnx", "Load Face Analyser"],
    ),
    "two recognisers": (
        lambda: (face(1), face(2, recogniser="other")),
        {},
        ["test recogniser, other", "one face analyser"],
    ),
    "unknown fusion": (lambda: (face(1),), {"fusion": "sum"}, ["'sum'", "mean", "joint"]),
    "unknown whitening": (lambda: (face(1),), {"whitening": "blur"}, ["'blur'", "ellipse"]),
    "parsed without labels": (
        lambda: (face(1),),
        {"whitening": "parsed"},
        ["photo 2", "parsing_bisenet.pth"],
    ),
    "embedding of another length": (
        lambda: (face(1, embedding=torch.ones(128)),),
        {},
        ["896 condition channels", "expected 1280"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals(adapter, vision, case):
    faces, options, facts = BAD[case]
    with pytest.raises(ValueError) as error:
        encode_identity(adapter, vision, faces(), **options)
    for fact in facts:
        assert fact in str(error.value)


@pytest.mark.parametrize(
    ("tower", "facts"),
    [
        (_small_tower, ["narrow.safetensors", "64 channels", "expected 128"]),
        (_short_head, ["short.safetensors", "1024 condition channels", "expected 1280"]),
    ],
)
def test_tower_that_does_not_fit(adapter, folder, tower, facts):
    with pytest.raises(ValueError) as error:
        encode_identity(adapter, tower(folder), (face(1),))
    for fact in ["pulid.safetensors", *facts]:
        assert fact in str(error.value)


def test_caches_are_bounded(adapter, vision, monkeypatch):
    entry = 4 * (768 + 5 * 65 * 128)
    monkeypatch.setattr(room, "_vision_cache", room.TensorCache(3 * entry))
    for seed in range(6):
        encode_identity(adapter, vision, (face(seed),))
    assert len(room._vision_cache) == 3


# Feature mix


MIXES = {
    "map": FeatureMix(layer_map=(0, 0, 2, 2, 4)),
    "weights": FeatureMix(local_weight=(1.0, 1.0, 0.0, 0.5, 2.0)),
    "pool": FeatureMix(local_pool=2),
    "class token": FeatureMix(cls_only=True),
    "shift": FeatureMix(depth_shift=0.5),
    "identity": FeatureMix(id_scale=0.5),
    "arcface": FeatureMix(arcface_scale=0.5),
}


@pytest.mark.parametrize("fusion", ["mean", "joint"])
@pytest.mark.parametrize("name", MIXES)
def test_every_control_reaches_the_tokens(adapter, vision, name, fusion):
    photos, mix = (face(1), face(2)), MIXES[name]
    plain = encode_identity(adapter, vision, photos, fusion)
    mixed = encode_identity(adapter, vision, photos, fusion, mix=mix)
    assert not torch.allclose(_tokens(mixed), _tokens(plain), atol=1e-3)
    encodings = [one.identity.encodings[FAMILY] for one in (plain, mixed)]
    assert torch.equal(encodings[0].null, encodings[1].null), "nobody stays nobody"
    assert encodings[1].recipe["mix"] == mix.describe()
    assert mixed.report == f"{plain.report}\nmix: {mix.describe()}"


def test_a_neutral_mix_is_no_mix_and_runs_nothing(adapter, vision, work):
    plain = encode_identity(adapter, vision, (face(1),))
    work()
    neutral = encode_identity(adapter, vision, (face(1),), mix=FeatureMix())
    assert work() == (0, 0)
    assert torch.equal(_tokens(neutral), _tokens(plain))
    assert neutral.identity.encodings[FAMILY].recipe == plain.identity.encodings[FAMILY].recipe
    assert "mix" not in plain.identity.encodings[FAMILY].recipe
    assert neutral.report == plain.report


def test_a_mix_runs_the_encoder_once_and_the_tower_not_at_all(adapter, vision, work):
    encode_identity(adapter, vision, (face(1),))
    work()
    first = encode_identity(adapter, vision, (face(1),), mix=MIXES["pool"])
    assert work() == (0, 1)
    again = encode_identity(adapter, vision, (face(1),), mix=MIXES["pool"])
    scaled = encode_identity(
        adapter, vision, (face(1),), mix=dataclasses.replace(MIXES["pool"], id_scale=0.5)
    )
    assert work() == (0, 0)
    assert torch.equal(_tokens(again), _tokens(first))
    nobody = first.identity.encodings[FAMILY].null
    torch.testing.assert_close(_tokens(scaled), (_tokens(first) + nobody) / 2)
    encode_identity(adapter, vision, (face(1),), mix=MIXES["shift"])
    assert work() == (0, 1)


def test_an_identity_scale_of_0_is_nobody(adapter, vision):
    encoded = encode_identity(adapter, vision, (face(1), face(2)), mix=FeatureMix(id_scale=0.0))
    encoding = encoded.identity.encodings[FAMILY]
    torch.testing.assert_close(encoding.tokens, encoding.null)


def test_photos_are_pooled_one_by_one_before_they_join(adapter, vision):
    photos = (face(1), face(2))
    looks = [encode(vision, eva_pixels(one, 112, "ellipse")) for one in photos]
    condition = torch.stack(
        [
            torch.cat((one.embedding[None], look[0]), -1)
            for one, look in zip(photos, looks, strict=True)
        ],
        dim=1,
    )
    hidden = torch.cat([pool_patches(look[1], 2) for look in looks], dim=2)
    expected = encode_tokens(adapter, condition, hidden)
    got = _tokens(encode_identity(adapter, vision, photos, "joint", mix=MIXES["pool"]))
    torch.testing.assert_close(got, expected)


def test_the_mix_is_kept_in_files_and_combinations(adapter, vision, tmp_path):
    one, two = (
        encode_identity(adapter, vision, (face(seed),), mix=mix).identity
        for seed, mix in ((1, MIXES["pool"]), (2, MIXES["class token"]))
    )
    loaded = load_identity(save_identity(one, tmp_path / "one.safetensors"))
    assert loaded.encodings[FAMILY].recipe["mix"] == "local_pool 2"
    both = combine_identities([one, two], "mean").identity
    assert both.encodings[FAMILY].recipe["mix"] == "local_pool 2, cls_only on"


def test_pulid_v1_refuses_what_its_encoder_averages_anyway(tmp_path, vision):
    dims = vision.dims
    shapes = ip_files.pulid_v1_shapes(512 + dims.output, 32, dims.width, 64)
    tensors = ip_files.pulid_sdxl(shapes, [64], 64)
    adapter = load_sdxl_adapter(ip_files.write(tmp_path / "pulid_v1.safetensors", tensors))
    plain = encode_identity(adapter, vision, (face(1),)).identity.encodings[adapter.family]
    for name in ("map", "shift", "identity", "arcface"):
        mixed = encode_identity(adapter, vision, (face(1),), mix=MIXES[name])
        assert not torch.equal(mixed.identity.encodings[adapter.family].tokens, plain.tokens)
    for name in ("weights", "pool", "class token"):
        with pytest.raises(ValueError, match=r"encoder of 'pulid_v1.safetensors' \(PuLID v1\)"):
            encode_identity(adapter, vision, (face(1),), mix=MIXES[name])
