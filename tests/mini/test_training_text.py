"""Text encoders: they learn what a caption says, and ComfyUI encodes what training encoded."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from flexid.mini import portraits, world
from flexid.mini import train as command
from flexid.mini.training import data, text, text_labels, text_model
from flexid.mini.training.base_model import trainable
from flexid.mini.training.options import Options, curves, models
from flexid.model_patches.encoders.mini_text import load_mini_clip
from flexid.model_patches.training import distributed

pytestmark = pytest.mark.comfy

CPU = torch.device("cpu")
SENTENCES = ("a smiling woman on a beach", "a pencil drawing of two men in a library", "")


@pytest.fixture(scope="module")
def work(pictures_work):
    """Pictures of four people and their captions."""
    return pictures_work


@pytest.fixture(scope="module")
def corpus(work):
    return text.Corpus(work)


@pytest.fixture(scope="module")
def encoders(corpus):
    return text.Encoders(3, corpus.words)


@pytest.fixture(scope="module")
def clip(encoders, corpus, tmp_path_factory):
    files = [tmp_path_factory.mktemp("models") / name for name in (world.T5, world.CLIP_L)]
    text_model.write_t5(encoders.t5, corpus.words, files[0])
    text_model.write_clip_l(encoders.clip_l, corpus.words, files[1])
    return load_mini_clip(*files)


def test_labels_are_those_of_the_data(work, corpus):
    singles, groups = data.Portraits(work), data.Groups(work)
    place = {name: index for index, name in enumerate(text_labels.CLASSES)}
    alone, together = corpus.labels
    assert alone.shape == (24, 3, len(place)) and together.shape == (6, 3, len(place))
    assert (alone[:, 1:] == text_labels.NOBODY).all()
    assert np.array_equal(alone[:, 0, place["expression"]], singles.expression)
    assert np.array_equal(alone[:, 0, place["style"]], singles.style)
    assert np.array_equal(together[..., place["expression"]], groups.expression)
    yaw = np.digitize(singles.angles[:, 0], (-28, -20, 20, 28))
    assert np.array_equal(alone[:, 0, place["yaw"]], yaw)
    for sizes, found in zip(text_labels.CLASSES.values(), alone[:, 0].T, strict=True):
        assert found.min() >= 0 and found.max() < sizes


def test_a_group_has_one_style():
    rng = np.random.default_rng(0)
    shots = [portraits.shot(rng, style=style) for style in ("oil", "comic")]
    people = tuple((portraits.person(seed), shot) for seed, shot in enumerate(shots))
    found = text_labels.labels(portraits.picture(rng, people))
    assert found[:, list(text_labels.CLASSES).index("style")].tolist() == [2, 2, text_labels.NOBODY]


def test_batches_follow_the_recipe(corpus):
    t5, clip_l, wanted = corpus.draw(np.random.default_rng(0), 2000)
    assert t5.shape == (2000, text_model.LENGTH) and clip_l.shape == (2000, 77)
    together = (wanted[:, 1] != text_labels.NOBODY).any(-1)
    assert together.float().mean().item() == pytest.approx(text.GROUP_SHARE, abs=0.03)
    unknown = (t5 == corpus.words.unknown_t5).sum() / (t5 > 1).sum()
    assert unknown.item() == pytest.approx(text.UNKNOWN_SHARE, abs=0.01)


def test_errors_count_only_people_who_are_there():
    scores = torch.zeros(2, text_labels.PEOPLE, len(text_labels.CLASSES), text.MOST)
    scores[0, 0, :, 1] = 50.0
    wanted = torch.full(scores.shape[:3], text_labels.NOBODY)
    wanted[0, 0] = 1
    assert text.errors(scores, wanted).abs().max() < 1e-6
    wanted[1, 2] = 0
    assert text.errors(scores, wanted).mean() == pytest.approx(np.log(text.MOST) / 2, rel=1e-4)


def test_it_learns_what_captions_say(work, corpus, monkeypatch):
    """Few steps on thirty captions: T5 tells it from its tokens, CLIP-L from one vector."""
    monkeypatch.setattr(text, "RECIPE", text.Recipe("text", 60, 4e-3, warmup=5, average=0.5))
    text.train_text(work, CPU, Options(batch=32))
    rows = [line.split(",") for line in (curves(work) / "text.csv").read_text().splitlines()]
    first, last = (dict(zip(rows[0], map(float, row), strict=True)) for row in (rows[1], rows[-1]))
    for name in ("tokens", "pooled"):
        assert last[name] < 0.7 * first[name], name
    assert all((models(work) / name).is_file() for name in (world.T5, world.CLIP_L))


def test_the_command_shares_a_stage_between_processes(work):
    """One of them shows, saves and writes."""
    order = ["--only", "text", "--workers", "2", "--steps", "2", "--batch", "4"]
    call = [sys.executable, command.__file__, "--work", str(work), *order]
    for path in (models(work) / world.T5, curves(work) / "text.csv", curves(work) / "text.ckpt"):
        path.unlink(missing_ok=True)
    done = subprocess.run(call, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("text: done after") == 1
    assert len((curves(work) / "text.csv").read_text().splitlines()) == 2
    assert (models(work) / world.T5).is_file()


def test_a_batch_that_cannot_be_shared_is_refused(work, monkeypatch):
    monkeypatch.setattr(distributed, "count", lambda: 3)
    with pytest.raises(ValueError, match="batch of 128 cannot be shared by 3 workers"):
        text.train_text(work, CPU, Options())


def test_gradients_reach_everything(encoders, corpus):
    with trainable(encoders):
        loss, _ = text.Loss(encoders, corpus, 4, CPU)(0, np.random.default_rng(0))
        loss.backward()
    for name, parameter in encoders.named_parameters():
        if parameter.requires_grad and "relative_attention_bias" not in name:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    encoders.zero_grad(set_to_none=True)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_prompts_are_cut_as_in_training(clip, sentence):
    trained, found = text_model.tokenise([sentence]), clip.tokenize(sentence)
    assert [token for token, _ in found["t5xxl"][0]] == trained.t5[0].tolist()
    assert [token for token, _ in found["l"][0]] == trained.clip_l[0].tolist()
    assert len(found["t5xxl"][0]) == text_model.LENGTH


@torch.inference_mode()
def test_the_loader_node_encodes_what_training_encodes(encoders, clip):
    """One prompt of the training captions' words (others are made equal when saving)."""
    sentence = "a person"
    trained = text_model.tokenise([sentence])
    context = encoders.t5(torch.from_numpy(trained.t5).long(), None)[0]
    pooled = encoders.clip_l(torch.from_numpy(trained.clip_l).long())[3]
    ((found, extra),) = clip.encode_from_tokens_scheduled(clip.tokenize(sentence))
    assert (found - context).abs().max() < 0.02 * context.abs().max()
    assert (extra["pooled_output"] - pooled).abs().max() < 0.02 * pooled.abs().max()


def test_words_that_training_never_shows_are_all_the_same(clip, corpus):
    """A prompt's unknown words are then what the model has learned to ignore."""
    model, seen = clip.cond_stage_model, corpus.words
    embeddings = (
        (model.t5xxl.transformer.shared.weight, seen.t5),
        (model.clip_l.transformer.text_model.embeddings.token_embedding.weight, seen.clip_l),
    )
    for embedding, shown in embeddings:
        others = np.setdiff1d(np.arange(len(embedding)), shown)
        assert len(others) > 30_000 and len(shown) > 50
        assert (embedding[others] == embedding[others[0]]).all() and embedding[others[0]].any()
        assert len(embedding[shown].unique(dim=0)) == len(shown)
