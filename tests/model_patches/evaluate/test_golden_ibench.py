"""The arithmetic of IBench and WithAnyone, against vectors from the authors' code."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flexid.model_patches.evaluate import (
    copy_paste,
    distances,
    expression,
    features,
    landmarks,
    likeness,
    measures,
    outcomes,
    pose,
    ranks,
)
from seeding import seeded_input

pytestmark = pytest.mark.pure
DIGITS = 1e-5
NOT_OURS = ("posediv.visual_disabled", "fid.scipy_sqrtm_has_disp")
"""Cases that define nothing here: IBench measures no pose when it may not draw, and says whether
its scipy has an option."""
WHOLE = ("landmark_sets", "landmarkdiff_vs_base", "normalised_base")
"""All that is in them is read, whatever it is called."""
PROSE = {"rule", "embeddings", "features", "weights", "values", "logits", "columns", "a", "b"}
"""How a case is made, or what it is called, in words."""


@pytest.fixture(scope="module")
def metrics(golden):
    return json.loads((golden / "ibench_metrics.json").read_text())


@pytest.fixture(scope="module")
def pasted(golden):
    return json.loads((golden / "ibench_copy_paste_and_aggregation.json").read_text())


@pytest.fixture(scope="module")
def faces():
    found = {k: seeded_input(f"face.{k}", (512,)) for k in ("id0", "id1", "b0", "b1", "b2")}
    noise = [seeded_input(f"face.w{k}", (512,)) for k in range(3)]
    found["w0"] = 20 * (found["id0"] + 0.8 * noise[0])
    found["w1"] = found["id1"] + 1.5 * noise[1]
    found["w2"] = found["id0"] + 3 * noise[2]
    return found


def places(metrics, name):
    return dict(zip(landmarks.POINTS, metrics["landmark_sets"][name], strict=True))


def seen(embedding):
    return [] if embedding is None else [likeness.SeenFace(embedding, 0.9, 100.0)]


def test_landmark_diff_of_every_shape(metrics):
    base = places(metrics, "base")
    for name, wanted in metrics["landmarkdiff_vs_base"].items():
        found = landmarks.landmark_diff(base, places(metrics, name), "compat")
        assert found == pytest.approx(wanted, rel=DIGITS, abs=1e-12), name
        if name != "collapsed":
            assert landmarks.landmark_diff(base, places(metrics, name)) == found
    normal = landmarks._normalise(base, "compat")
    for name, wanted in metrics["normalised_base"].items():
        assert normal[name] == pytest.approx(wanted, rel=DIGITS, abs=1e-9), name
    assert landmarks.landmark_diff({}, {}, "compat") == metrics["landmarkdiff_empty"]
    without = {k: v for k, v in places(metrics, "noise2px").items() if k != "nose"}
    found = landmarks.landmark_diff(base, without, "compat")
    assert found == pytest.approx(metrics["landmarkdiff_missing_nose_in_gen"], rel=DIGITS)


def test_landmark_diff_of_a_set_drops_the_rows_that_failed(metrics):
    table = metrics["landmarkdiff_dataset"]
    found = [
        landmarks.landmark_diff(places(metrics, one), places(metrics, other), "compat")
        for one, other in table["rows"]
        if other
    ]
    assert np.mean(found) == pytest.approx(table["mean"], rel=DIGITS)


@pytest.mark.parametrize("column, key", [(1, "per_row"), (2, "per_row_base")])
def test_face_sim_per_row(metrics, faces, column, key):
    for row, wanted in zip(metrics["facesim"]["rows"], metrics["facesim"][key], strict=True):
        found = likeness.face_sim(faces[row[0]], seen(faces.get(row[column])), "compat")
        assert found == (None if wanted is None else pytest.approx(wanted, rel=DIGITS))


def test_face_sim_of_a_set_without_and_with_its_failures(metrics, faces):
    table = metrics["facesim"]
    rows = [likeness.face_sim(faces[a], seen(faces.get(b))) for a, b, _ in table["rows"]]
    found = [
        outcomes.failed(outcomes.NO_FACE_GENERATED) if one is None else outcomes.valid(one)
        for one in rows
    ]
    summary = outcomes.summarise(found, range(4))
    assert summary.flat == pytest.approx(table["facesim_mean_skipping"], rel=DIGITS)
    assert summary.strict.mean == pytest.approx(table["corrected_mean_failure_zero"], rel=DIGITS)
    assert summary.rate == table["detection_rate"]
    assert summary.failures == {"no_face_gen": 1}
    bases = [measures.cosine(faces[a], faces[b]) for a, _, b in table["rows"]]
    assert np.mean(bases) == pytest.approx(table["antifacesim_mean"], rel=DIGITS)


def test_face_div(metrics, faces):
    pairs, both = zip(metrics["facediv_rows"], metrics["facesim"]["rows"], strict=False), []
    for index, ((one, other), (person, image, base)) in enumerate(pairs):
        change = landmarks.landmark_diff(places(metrics, one), places(metrics, other), "compat")
        similar = measures.cosine(faces[person], faces[image])
        plain = measures.cosine(faces[person], faces[base])
        first, second = likeness.face_div(similar, plain, change)
        # The divisor is near 0 and float32 there: what is lost is lost in theirs.
        assert first == pytest.approx(metrics["facediv1"]["per_row"][index], rel=1e-4)
        assert second == pytest.approx(metrics["facediv2"]["per_row"][index], rel=1e-4)
        both.append((first, second))
        loss = likeness.face_div_loss(similar, change)
        assert loss == pytest.approx(metrics["facediv_loss"][index], rel=DIGITS)
    wanted = [metrics[name]["mean"] for name in ("facediv1", "facediv2")]
    assert np.mean(both, 0) == pytest.approx(wanted, rel=1e-4)


def test_binned_angles(metrics):
    axes = pose.AXES
    logits = torch.cat([seeded_input(f"pose.logits.{axis}", (1, 66)) for axis in axes])
    peak, overflow = torch.zeros(3, 66), torch.zeros(3, 66)
    peak[:, 40], overflow[:, 40] = 50, 200
    cases = {
        "scale1.0": logits, "scale4.0": 4 * logits, "peak_bin40": peak,
        "uniform": torch.zeros(3, 66), "overflow_logit200": overflow,
    }  # fmt: skip
    for name, values in cases.items():
        wanted = [float(one) for one in metrics["pose_angles"][name]]
        found = pose.decode_bins(values, "compat").tolist()
        assert found == pytest.approx(wanted, rel=DIGITS, abs=1e-4, nan_ok=True), name
        if name != "overflow_logit200":
            assert pose.decode_bins(values).tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    assert pose.decode_bins(overflow).tolist() == pytest.approx([21.0] * 3)


def test_pose_div_and_expr_div(metrics):
    table = metrics["posediv"]
    rows = [
        pose.axis_changes(table["id_angles"][one], table["gen_angles"][other], "compat")
        for one, other in table["rows"]
        if table["gen_angles"][other]
    ]
    assert np.mean(rows, 0) == pytest.approx(table["mean_yaw_pitch_roll"], rel=DIGITS)
    table = metrics["exprdiv"]
    pairs = [(table["classes"][one], table["classes"][other]) for one, other in table["rows"]]
    assert expression.class_difference(pairs) == table["value"]


def test_the_mean_of_ten_crops_decides_the_class(metrics):
    logits = seeded_input("expr.logits", (10, 7))
    table = metrics["expr_tencrop"]
    assert expression.mean_class(logits) == table["argmax_of_mean"]
    assert logits.mean(0).tolist() == pytest.approx(table["mean"], rel=DIGITS, abs=1e-7)
    assert logits.argmax(1).tolist() == table["argmax_per_crop"]


def test_features(metrics):
    image = seeded_input("clip.img", (3, 768))
    text = seeded_input("clip.txt", (1, 768)) + 0.3 * image[0]
    base = seeded_input("clip.base", (3, 768)) + image
    table = metrics["clip"]
    close = {"rel": DIGITS, "abs": 1e-6}
    found = features.clip_text(image, text)
    assert found.tolist() == pytest.approx(table["clip_t_per_image"], **close)
    assert found.mean().item() == pytest.approx(table["clip_t_batch_mean"], **close)
    bug = features.clip_text(image, text, "compat", truncate=False)
    # The published value is of the first image alone.
    assert bug[0].item() == pytest.approx(table["clip_t_truncate_false_bug"], **close)
    found = features.clip_similarity(image, base).tolist()
    assert found == pytest.approx(table["clip_i_per_pair"], **close)
    assert found == pytest.approx(metrics["dino_cos"], **close)
    head = seeded_input("aes.weight", (1, 768)), seeded_input("aes.bias", (1,))
    scores = features.aesthetic(image, *head).tolist()
    assert scores == pytest.approx(metrics["aesthetic"]["raw"], **close)
    wanted = metrics["aesthetic"]["ibench_value"]
    assert features.compat_aesthetic(scores) == pytest.approx(wanted, **close)


def test_fid(metrics):
    a = seeded_input("fid.a", (64, 16)).double().numpy()
    b = seeded_input("fid.b", (50, 16)).double().numpy() * 1.3 + 0.2
    table = metrics["fid"]
    assert distances.fid(a, b) == pytest.approx(table["fid_ab"], rel=1e-6)
    assert distances.fid(a, a) == pytest.approx(table["fid_aa"], abs=1e-9)
    wanted = table["rank_deficient_a12_b10"]
    assert distances.fid(a[:12], b[:10]) == pytest.approx(wanted, rel=1e-4)


# Copy-Paste


def one_face(pasted):
    target = seeded_input("cp.target", (512,))
    return target, target + 0.6 * seeded_input("cp.ref", (512,))


def test_copy_paste_of_plain_cases(pasted):
    target, reference = one_face(pasted)
    halfway = target / target.norm() + reference / reference.norm()
    noise = seeded_input("cp.g0", (512,))
    cases = {
        "gen_is_target": target, "gen_is_ref": reference, "zero": torch.zeros(512),
        "gen_scaled_target": 10 * target, "halfway": halfway,
        "mix_t0.8_noise": target + 0.8 * noise, "mix_r0.8_noise": reference + 0.8 * noise,
        "unrelated": seeded_input("cp.g1", (512,)),
    }  # fmt: skip
    assert cases.keys() == pasted["copy_paste"].keys() == pasted["cos"].keys()
    for name, generated in cases.items():
        found = copy_paste.copy_paste(generated, target, reference, "compat")
        assert found == pytest.approx(pasted["copy_paste"][name], rel=1e-3, abs=1e-6), name
        if name != "zero":
            for key, photo in (("gen_ref", reference), ("gen_target", target)):
                seen = measures.cosine(generated, photo)
                assert seen == pytest.approx(pasted["cos"][name][key], rel=DIGITS, abs=1e-7)
        if not name.startswith("gen_is") and name not in ("zero", "gen_scaled_target"):
            exact = copy_paste.copy_paste(generated, target, reference)
            assert exact == pytest.approx(found, rel=1e-3, abs=1e-6), name
    assert copy_paste.copy_paste(10 * target, target, reference) == pytest.approx(-1, abs=1e-6)
    assert copy_paste.copy_paste(target, target, reference) == -1
    assert copy_paste.copy_paste(reference, target, reference) == 1
    apart = copy_paste._angle(target, reference, "compat")
    assert apart == pytest.approx(pasted["theta_target_ref"], rel=1e-6)
    assert copy_paste.copy_paste(halfway, target, reference) == pytest.approx(0, abs=1e-6)
    assert copy_paste.copy_paste(target, target, target, "compat") == pasted["target_equals_ref"]
    assert math.isnan(copy_paste.copy_paste(reference, target, target))
    assert math.isnan(copy_paste.copy_paste(torch.zeros(512), target, reference))


def test_copy_paste_of_a_tiny_embedding(pasted):
    """The published epsilon drowns it, so that it is like nobody; corrected, its length is
    nothing. The vector's file tells no formula: the target times 1e-9 gives its value."""
    target, reference = one_face(pasted)
    found = copy_paste.copy_paste(1e-9 * target, target, reference, "compat")
    assert found == pytest.approx(pasted["tiny_norm_1e-7"], rel=1e-3)
    assert copy_paste.copy_paste(1e-9 * target, target, reference) == pytest.approx(-1, abs=1e-6)


def people():
    a, b = (seeded_input(f"cp.p{k}", (512,)) for k in "ab")
    references = [
        a + 0.6 * seeded_input("cp.ra", (512,)),
        b + 0.6 * seeded_input("cp.rb", (512,)),
    ]
    generated = [
        b + 0.7 * seeded_input("cp.gb", (512,)),
        a + 0.9 * seeded_input("cp.ga", (512,)),
    ]
    return generated, [a, b], references


def test_copy_paste_of_two_people(pasted):
    table = pasted["two_people"]
    for mode in ("compat", "corrected"):
        found = copy_paste.compare_people(*people(), mode)
        assert [one.person for one in found.faces] == [1, 0]
        values = [one.value for one in found.faces]
        assert values == pytest.approx(table["copy_paste"], rel=1e-4)
        similar = [one.to_target for one in found.faces]
        assert similar == pytest.approx(table["matched"], rel=1e-5)
        similar = [one.to_reference for one in found.faces]
        assert similar == pytest.approx(table["matched_ref"], rel=1e-5)
        assert found.unmatched == pytest.approx(table["non_matched_mean"], rel=1e-4)
        assert found.unmatched_reference == pytest.approx(table["non_matched_ref"], rel=1e-4)
    generated, targets, _ = people()
    matrix = [[measures.cosine(face, one) for one in targets] for face in generated]
    for row, wanted in zip(matrix, table["sim_matrix_gen_target"], strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)


def test_one_person_twice_is_one_person_only_when_corrected(pasted):
    table = pasted["two_people"]["duplicate_person_gen"]
    _, targets, references = people()
    twice = [
        targets[0] + 0.05 * seeded_input("cp.ga", (512,)),
        targets[0] + 0.4 * seeded_input("cp.rb", (512,)),
    ]
    compat = copy_paste.compare_people(twice, targets, references, "compat")
    assert [one.value for one in compat.faces] == pytest.approx(table["copy_paste"], rel=1e-3)
    corrected = copy_paste.compare_people(twice, targets, references)
    for face, one in zip(twice, corrected.faces, strict=True):
        wanted = copy_paste.copy_paste(face, targets[one.person], references[one.person])
        assert one.value == wanted
    assert sorted(one.person for one in corrected.faces) == [0, 1]


def test_more_and_fewer_faces_than_people(pasted):
    generated, targets, references = people()
    table = pasted["two_people"]
    for few, key in ((generated[:1], "count_mismatch"), ([], "no_face")):
        assert copy_paste.compare_people(few, targets, references, "compat") is table[key] is None
    one = copy_paste.compare_people(generated[:1], targets, references)
    assert [face.person for face in one.faces] == [1]
    assert copy_paste.compare_people([], targets, references).faces == ()
    three = copy_paste.compare_people([generated[0], *generated], targets, references)
    assert sorted(str(face.person) for face in three.faces) == ["0", "1", "None"]
    with pytest.raises(ValueError, match="2 and 1"):
        copy_paste.compare_people(generated, targets, references[:1])


def test_statistics_without_outliers(pasted):
    table = pasted["multiid_statistics"]
    values = seeded_input("stats", (40,)).double().numpy()
    values[3], values[7] = 25, -30
    for rule in ("iqr", "none", "zscore", "percentile"):
        assert copy_paste.inlier_statistics(values, rule) == pytest.approx(table[rule], rel=1e-5)
    two = copy_paste.inlier_statistics([0.0, 1.0])
    assert two == pytest.approx(table["two_values"])
    same = copy_paste.inlier_statistics([0.5, 0.5, 0.5])
    assert same == pytest.approx(table["constant"])
    with pytest.raises(ValueError, match="unknown rule 'mad'"):
        copy_paste.inlier_statistics(values, "mad")


# Ranks and poses


def test_mean_ranks(pasted):
    table = pasted["flexip_mrank"]
    for ties, wanted in table["recomputed"].items():
        assert ranks.mean_ranks(table["table"], ties) == pytest.approx(wanted), ties
    assert ranks.mean_ranks(table["table"], "ordinal") == pytest.approx(table["paper"])
    assert ranks.mean_ranks(table["table"]) == pytest.approx(table["recomputed"]["average"])


def test_pareto(pasted):
    table = pasted["pareto"]
    points = {name: tuple(point) for name, point in table["points"].items()}
    assert ranks.pareto_front(points) == table["front_maximise_both"]
    area = ranks.hypervolume(list(points.values()), (0.3, 0.05))
    assert area == pytest.approx(table["hypervolume_ref_0.3_0.05"])


def test_angles_of_a_face_pose(pasted):
    for case in pasted["derived_euler"]:
        found = pose.matrix_angles(np.array(case["matrix"]))
        assert found == pytest.approx(case["yaw_pitch_roll"], abs=1e-9)


def test_every_case_is_compared_or_named(golden):
    """By the names in this file: a new vector fails here first."""
    text = Path(__file__).read_text(encoding="utf-8")
    for name in ("ibench_metrics", "ibench_copy_paste_and_aggregation"):
        cases = json.loads((golden / f"{name}.json").read_text(encoding="utf-8"))
        for key, content in cases.items():
            assert f'"{key}"' in text, key
            if isinstance(content, dict) and key not in WHOLE:
                for inner in content.keys() - PROSE:
                    assert f'"{inner}"' in text or f"{key}.{inner}" in NOT_OURS, (key, inner)
