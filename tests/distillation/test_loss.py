"""What a student is told about its teachers."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from threading import Barrier

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distillation import DistillationLoss, TeacherTargets, attention
from pipeline.distillation.features import standardise
from pipeline.distillation.teacher import together
from pipeline.errors import UserError
from pipeline.models import find_peaks
from pipeline.outputs import DenseOutputs
from pipeline.params import Recipe

W = (1000.0, 1.0, 0.1, 100.0)


def teacher_of(heatmap, wh_offset, **features):
    peaks = find_peaks(heatmap, wh_offset[:, :2], wh_offset[:, 2:], 20)
    return TeacherTargets(heatmap, peaks, features)


def random_teacher(seed=0, classes=3, images=2, size=6):
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.rand(images, classes, size, size, generator=generator)
    wh_offset = 1 + torch.rand(images, 4, size, size, generator=generator) * 4
    return teacher_of(heatmap, wh_offset, big=torch.randn(images, 5, size, size, generator=generator))


def student_like(teacher, **changes):
    images, _, *grid = teacher.heatmap.shape
    beyond = grid[0] * grid[1]  # where rows go that are no peak
    cell = torch.where(teacher.peaks[..., 2] > 0, teacher.peaks[..., 0].long(), beyond)
    maps = torch.zeros(images, beyond + 1, 4).scatter(1, cell[..., None].expand(-1, -1, 4), teacher.peaks[..., 3:])
    wh, offset = maps[:, :beyond].transpose(1, 2).reshape(images, 4, *grid).split(2, 1)
    outputs = DenseOutputs(teacher.heatmap.logit(), wh, offset,
                           torch.randn(*teacher.heatmap.shape[:1], 4, *teacher.heatmap.shape[2:]))
    return [outputs._replace(**changes)]


def loss_of(weights=W, channels=None, **recipe):
    teachers = {"teachers": ["a"]} if "teachers" not in recipe else {}
    return DistillationLoss(Recipe(weights=list(map(float, weights)), **teachers, **recipe),
                            {"big": [1.0] * 5} if channels is None else channels, 4)


def copying(loss, teacher):
    """The student and the teacher's features that its adapter makes of the student's."""
    student = student_like(teacher)
    copied = loss.adapters["of big"](student[0].features).detach()
    return student, teacher._replace(features={"big": 3 * copied + 7})


@pytest.mark.parametrize("heatmap", ["squared", "soft-focal", "soft-bce", "logit"])
@pytest.mark.parametrize("features", ["hint", "pkd", "cwd", "fgd"])
def test_a_student_that_repeats_its_teacher_has_no_loss(heatmap, features):
    loss = loss_of(heatmap=heatmap, features=features, attention=["spatial", "channel", "heatmap"], attend_outputs=True)
    student, teacher = copying(loss, random_teacher())
    terms = loss(student, teacher)
    assert list(terms) == ["kd_heatmap", "kd_wh", "kd_offset", "kd_features"]
    for name, value in terms.items():
        assert value.item() == pytest.approx(0, abs=1e-4), name
    wrong = student[0]._replace(heatmap=-student[0].heatmap, wh=student[0].wh + 1, offset=student[0].offset + 1,
                                features=torch.randn(2, 4, 6, 6))
    assert all(value > 1e-3 for value in loss([wrong], teacher).values())


def test_everything_is_float32_under_autocast():
    loss, teacher = loss_of(), random_teacher()
    student = [student_like(teacher)[0]._replace(heatmap=torch.randn(2, 3, 6, 6))]
    expected = loss(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        assert found[name].item() == value.item(), name


@pytest.mark.parametrize("heatmap", ["squared", "soft-focal", "soft-bce", "logit"])
def test_a_student_in_half_precision_is_compared_in_float32(heatmap):
    teacher = random_teacher()
    student = student_like(teacher, heatmap=torch.randn(2, 3, 6, 6).bfloat16())
    whole = [student[0]._replace(heatmap=student[0].heatmap.float())]
    loss = loss_of(heatmap=heatmap)
    found, expected = loss(student, teacher)["kd_heatmap"], loss(whole, teacher)["kd_heatmap"]
    assert (found.dtype, found.item()) == (torch.float32, expected.item())


@pytest.mark.parametrize("features", ["hint", "cwd", "fgd"])
def test_the_mean_of_two_processes_is_the_loss_of_the_whole_batch(features):
    """What is counted over the batch is counted over all processes: peaks, and each channel's mean and variance."""
    loss, teacher = loss_of(features=features), random_teacher(images=4)
    student = student_like(teacher, wh=torch.randn(4, 2, 6, 6), offset=torch.randn(4, 2, 6, 6))
    whole, met, said = loss(student, teacher), Barrier(2), [None, None]

    def process(rank):
        def mean(tensor):
            said[rank] = tensor
            met.wait(60)
            found = (said[0] + said[1]) / 2
            met.wait(60)
            return found

        half, own = slice(rank, None, 2), deepcopy(loss)
        own.mean_over_ranks = mean
        told = TeacherTargets(teacher.heatmap[half], teacher.peaks[half], {"big": teacher.features["big"][half]})
        return own([DenseOutputs(*(each[half] for each in student[0]))], told)

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(process, range(2)))
    for name, value in whole.items():
        assert (parts[0][name] + parts[1][name]).item() / 2 == pytest.approx(value.item(), rel=1e-4), name


def test_features_in_half_precision_are_averaged_for_each_grid():
    teacher = random_teacher(size=8)
    big = teacher.features["big"]
    teacher = teacher._replace(features={"big": big, "small": big[:, :, ::2, ::2], "other": -big[:, :, ::2, ::2]})
    loss = loss_of(channels=dict.fromkeys(teacher.features, [1.0] * 5), teachers=["a", "b"], ensemble="both")
    features = torch.randn(2, 4, 8, 8).bfloat16()

    def found(features):
        given = features.clone().requires_grad_()
        term = loss(student_like(teacher, features=given), teacher)["kd_features"]
        term.backward()
        return term, given.grad

    (exact, gradient), (term, half) = found(features.float()), found(features)
    assert (term.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert term.item() == pytest.approx(exact.item(), rel=1e-2)
    assert torch.nn.functional.cosine_similarity(half.float().flatten(), gradient.flatten(), 0) > 0.999
    averaged = torch.nn.functional.avg_pool2d(features.float(), 2)
    alone = DistillationLoss(loss.recipe, {"small": [1.0] * 5}, 4)
    alone.adapters["of small"] = loss.adapters["of small"]
    coarse = alone(student_like(teacher, features=averaged), teacher)["kd_features"]
    fine = alone(student_like(teacher, features=features.float()), teacher)["kd_features"]
    assert fine.item() == pytest.approx(coarse.item(), rel=1e-5)


def test_heatmap_term_is_w1_times_the_paper_mean_at_twenty_classes():
    teacher = random_teacher(classes=20)
    student = student_like(teacher, heatmap=torch.randn(2, 20, 6, 6))
    expected = 1000 * (student[0].heatmap.sigmoid() - teacher.heatmap).square().mean().item()
    assert loss_of()(student, teacher)["kd_heatmap"].item() == pytest.approx(expected, rel=1e-5)


def test_classes_that_nobody_claims_do_not_dilute_the_heatmap_term():
    teacher = random_teacher()
    logits = torch.randn(2, 3, 6, 6)
    few = loss_of()(student_like(teacher, heatmap=logits), teacher)["kd_heatmap"]
    nothing = torch.zeros(2, 9, 6, 6)
    more = teacher._replace(heatmap=torch.cat([teacher.heatmap, nothing], 1))
    many = loss_of()(student_like(more, heatmap=torch.cat([logits, nothing - 60], 1)), more)["kd_heatmap"]
    assert few.item() == pytest.approx(many.item())


def test_boxes_are_compared_at_peaks_above_the_threshold_by_probability():
    heatmap = torch.full((1, 2, 4, 4), 1e-3)
    heatmap[0, 0, 1, 1], heatmap[0, 1, 3, 3], heatmap[0, 0, 0, 3] = 0.8, 0.4, 0.05
    wh_offset = torch.zeros(1, 4, 4, 4)
    wh_offset[0, :, 1, 1] = torch.tensor([4.0, 2.0, 0.5, 0.5])
    wh_offset[0, :, 3, 3] = torch.tensor([1.0, 1.0, 0.0, 0.0])
    teacher = teacher_of(heatmap, wh_offset)
    student = student_like(teacher, wh=torch.full((1, 2, 4, 4), 2.0), offset=torch.zeros(1, 2, 4, 4))
    terms = loss_of((0, 1, 0.1, 0), {})(student, teacher)
    assert terms["kd_wh"].item() == pytest.approx((0.8 * (2 + 0) / 3 + 0.4 * (1 + 1) / 1) / 1.2)
    assert terms["kd_offset"].item() == pytest.approx(0.1 * 0.8 * 1.0 / 1.2)


@given(st.floats(0.5, 8), st.integers(0, 100))
def test_the_wh_term_does_not_depend_on_the_size_of_the_grid(scale, seed):
    teacher = random_teacher(seed)
    wh = torch.rand(2, 2, 6, 6) * 5
    loss = loss_of((0, 1, 0, 0), {})
    plain = loss(student_like(teacher, wh=wh), teacher)["kd_wh"]
    larger = teacher._replace(peaks=teacher.peaks * torch.tensor([1, 1, 1] + 4 * [scale]))
    scaled = loss(student_like(larger, wh=wh * scale), larger)["kd_wh"]
    assert scaled.item() == pytest.approx(plain.item(), rel=1e-4)


def test_a_box_without_size_does_not_break_the_wh_term():
    teacher = random_teacher()
    teacher = teacher._replace(peaks=teacher.peaks * torch.tensor([1, 1, 1, -1, -1, -1, -1]))
    term = loss_of((0, 1, 0, 0), {})(student_like(teacher), teacher)["kd_wh"]
    assert term.item() == pytest.approx(0, abs=1e-6)


def test_without_a_peak_the_box_terms_are_zero():
    teacher = random_teacher()
    student = student_like(teacher, wh=torch.zeros(2, 2, 6, 6, requires_grad=True))
    terms = loss_of((0, 1, 1, 0), {}, peak_threshold=1.0)(student, teacher)
    (terms["kd_wh"] + terms["kd_offset"]).backward()
    assert terms["kd_wh"] == terms["kd_offset"] == 0
    assert (student[0].wh.grad == 0).all()


@pytest.mark.parametrize("features", ["hint", "pkd", "cwd", "fgd"])
def test_feature_term_ignores_the_scale_of_both_sides(features):
    teacher = random_teacher()
    student = student_like(teacher)
    loss = loss_of((0, 0, 0, 100), features=features)
    plain = loss(student, teacher)["kd_features"].item()
    scaled = teacher._replace(features={"big": teacher.features["big"] * 40 - 3})
    with torch.no_grad():
        loss.adapters["of big"].weight.mul_(9)
    assert loss(student, scaled)["kd_features"].item() == pytest.approx(plain, rel=1e-3)


def test_feature_term_is_the_mean_over_the_teachers_and_trains_their_adapters():
    teacher = random_teacher()
    features = {"big": teacher.features["big"], "hour-glass+": torch.randn(2, 7, 6, 6)}
    teacher = teacher._replace(features=features)
    loss = loss_of((0, 0, 0, 1), {"big": [1.0] * 5, "hour-glass+": [1.0] * 7})
    student = student_like(teacher)
    both = loss(student, teacher)["kd_features"]
    both.backward()
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())
    singles = []
    for name, channels in (("big", 5), ("hour-glass+", 7)):
        single = loss_of((0, 0, 0, 1), {name: [1.0] * channels})
        single.adapters[f"of {name}"].load_state_dict(loss.adapters[f"of {name}"].state_dict())
        singles.append(single(student, teacher)["kd_features"].item())
    assert both.item() == pytest.approx(sum(singles) / 2)


@pytest.mark.parametrize("place", range(4))
def test_terms_of_weight_zero_are_not_there(place):
    names = ["kd_heatmap", "kd_wh", "kd_offset", "kd_features"]
    weights = [0.0 if i == place else 1.0 for i in range(4)]
    loss = loss_of(weights)
    assert list(loss(student_like(random_teacher()), random_teacher())) == names[:place] + names[place + 1 :]
    assert bool(list(loss.parameters())) == (place != 3)


def test_feature_weight_needs_a_teacher_with_features():
    with pytest.raises(UserError, match=r"w4 100, .*dump\.features"):
        loss_of(W, {})


def test_only_the_last_stack_is_taught():
    teacher = random_teacher()
    last, other = student_like(teacher)[0], student_like(teacher, wh=torch.zeros(2, 2, 6, 6))[0]
    loss = loss_of((1, 1, 1, 0), {})
    assert loss([other, last], teacher) == loss([last], teacher)


@pytest.mark.parametrize("features", ["hint", "pkd", "cwd", "fgd"])
def test_features_are_compared_on_the_teachers_coarser_grid(features):
    teacher = random_teacher()
    student = student_like(teacher)
    pooled = teacher._replace(features={"big": torch.nn.functional.avg_pool2d(teacher.features["big"], 2)})
    loss = loss_of((0, 0, 0, 100), features=features)
    small = [student[0]._replace(features=torch.nn.functional.avg_pool2d(student[0].features, 2))]
    assert loss(student, pooled)["kd_features"].item() == pytest.approx(loss(small, pooled)["kd_features"].item())


def test_wh_in_cells_is_not_divided_by_the_size():
    teacher = random_teacher()
    student = student_like(teacher)
    wrong = [student[0]._replace(wh=student[0].wh + 0.5)]
    assert loss_of((0, 1, 0, 0), {}, wh="absolute")(wrong, teacher)["kd_wh"].item() == pytest.approx(1.0, rel=1e-5)
    assert loss_of((0, 1, 0, 0), {})(wrong, teacher)["kd_wh"].item() < 0.5


def two_opinions():
    one, other = random_teacher(1), random_teacher(2)
    return together({"a": one._replace(features={"big": one.features["big"]}), "b": other._replace(features={})})


def test_separate_teachers_are_each_compared_with_at_equal_weight():
    both = two_opinions()
    student = student_like(both.members["a"], heatmap=torch.randn(2, 3, 6, 6), wh=torch.rand(2, 2, 6, 6) * 5)
    loss = loss_of((1000, 1, 0.1, 0), {}, teachers=["a", "b"], ensemble="separate")
    singles = [loss_of((1000, 1, 0.1, 0), {})(student, one) for one in both.members.values()]
    terms = loss(student, both)
    for name, value in terms.items():
        assert value.item() == pytest.approx(sum(single[name].item() for single in singles) / 2), name


def test_agreement_weighs_the_cells_where_teachers_agree():
    agreed = random_teacher()
    other = agreed.heatmap.clone()
    other[:, :, 0] = 1 - other[:, :, 0]
    members = {"a": agreed, "b": agreed._replace(heatmap=other)}
    teacher = agreed._replace(members=members)
    recipe = {"teachers": ["a", "b"], "ensemble": "both", "attention": ["agreement"], "attend_outputs": True}
    told = loss_of((1000, 0, 0, 0), {}, **recipe)
    plain = loss_of((1000, 0, 0, 0), {})
    disputed, settled = ([student_like(teacher)[0]._replace(heatmap=agreed.heatmap.logit() + change)]
                         for change in (torch.eye(6)[0][:, None].expand(6, 6), torch.eye(6)[3][:, None].expand(6, 6)))
    for student, less in ((disputed, True), (settled, False)):
        assert (told(student, teacher)["kd_heatmap"] < plain(student, teacher)["kd_heatmap"]).item() is less


def test_attention_to_the_outputs_weighs_cells_where_the_teachers_features_are_strong():
    teacher = random_teacher(images=1)
    features = torch.randn(1, 5, 6, 6) * 0.1
    features[..., 0, 0] = torch.tensor([9.0, -9.0, 9.0, -9.0, 9.0])
    teacher = teacher._replace(features={"big": features})
    told = loss_of((1000, 0, 0, 0), attention=["spatial"], attend_outputs=True)
    plain, spot = loss_of((1000, 0, 0, 0)), torch.zeros(6, 6)
    spot[0, 0] = 1
    for change, more in ((spot, True), (spot.flip(0, 1), False)):
        student = student_like(teacher, heatmap=teacher.heatmap.logit() + change)
        assert (told(student, teacher)["kd_heatmap"] > plain(student, teacher)["kd_heatmap"]).item() is more


def test_attention_to_the_outputs_is_the_mean_of_all_teachers():
    teacher, features = random_teacher(images=1), torch.randn(1, 5, 6, 6) * 0.1
    features[..., 0, 0] = torch.tensor([9.0, -9.0, 9.0, -9.0, 9.0])
    student = student_like(teacher, heatmap=torch.randn(1, 3, 6, 6))
    maps = {"big": features, "other": features.flip(2, 3)}
    told = DistillationLoss(Recipe(teachers=["a"], weights=[1000, 0, 0, 0], attention=["spatial"], attend_outputs=True),
                            {name: [1.0] * 5 for name in maps}, 4)
    plain = ((student[0].heatmap.sigmoid() - teacher.heatmap) ** 2).sum(1)
    places = torch.stack([attention.spatial(standardise(each, lambda mean: mean)) for each in maps.values()]).mean(0)
    expected = 1000 / 20 * (attention.mean_one(places)[:, 0] * plain).mean()
    found = told(student, teacher._replace(features=maps))["kd_heatmap"]
    torch.testing.assert_close(found, expected)


def test_fgd_counts_the_peaks_above_the_threshold():
    heat = torch.full((1, 3, 6, 6), 1e-3)
    heat[0, 0, 1, 1], heat[0, 1, 4, 4] = 0.8, 0.3
    teacher = teacher_of(heat, torch.ones(1, 4, 6, 6), big=torch.randn(1, 5, 6, 6))
    sure = teacher._replace(peaks=torch.where(teacher.peaks[..., 2:3] > 0.5, teacher.peaks, 0))
    loss = loss_of((0, 0, 0, 100), features="fgd", peak_threshold=0.5)
    student = student_like(teacher)
    assert torch.equal(loss(student, teacher)["kd_features"], loss(student, sure)["kd_features"])
    low = loss_of((0, 0, 0, 100), features="fgd", peak_threshold=0.2)
    low.load_state_dict(loss.state_dict())
    assert not torch.equal(low(student, teacher)["kd_features"], loss(student, teacher)["kd_features"])


def test_components_weigh_as_they_vary():
    teacher, weights = random_teacher(), [4.0, 0.25, 0.25, 0.25, 0.25]
    loss = loss_of((0, 0, 0, 100), {"big": weights}, features="pkd")
    student, teacher = copying(loss, teacher)
    for channel, weight in enumerate(weights):
        noisy = teacher.features["big"].clone()
        noisy[:, channel] = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(1))
        other = teacher._replace(features={"big": noisy})
        alike = loss_of((0, 0, 0, 100), features="pkd")
        alike.adapters.load_state_dict(loss.adapters.state_dict())
        expected = weight * alike(student, other)["kd_features"].item()
        assert loss(student, other)["kd_features"].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["float", "train", "values"])
def test_a_teacher_may_have_the_name_of_a_modules_method(name):
    teacher = random_teacher()
    teacher = teacher._replace(features={name: teacher.features["big"]})
    assert "kd_features" in loss_of(channels={name: [1.0] * 5})(student_like(teacher), teacher)


def test_only_adapters_are_kept_in_a_checkpoint():
    assert list(loss_of().state_dict()) == ["adapters.of big.weight"]


@pytest.mark.parametrize("form", ["squared", "soft-focal", "soft-bce", "logit"])
def test_classes_that_a_teacher_does_not_know_are_left_to_the_student(form):
    teacher, loss = random_teacher(classes=4), loss_of((1000, 0, 0, 0), {}, heatmap=form)
    logits = torch.randn(2, 4, 6, 6, requires_grad=True)
    known = torch.tensor([0, 2])
    term = loss(student_like(teacher, heatmap=logits), teacher._replace(known=known))["kd_heatmap"]
    narrow = student_like(teacher, heatmap=logits[:, known])
    assert torch.equal(term, loss(narrow, teacher._replace(heatmap=teacher.heatmap[:, known]))["kd_heatmap"])
    gradient, = torch.autograd.grad(term, logits)
    assert gradient[:, [1, 3]].abs().max() == 0
    assert gradient[:, known].abs().min() > 0


def test_attention_to_teachers_apart_is_to_what_each_knows():
    one, other = random_teacher(0), random_teacher(1)
    members = {"a": one._replace(known=torch.tensor([0, 2])), "b": other._replace(known=torch.tensor([2]))}
    for member in members.values():
        member.heatmap[:, [plane for plane in range(3) if plane not in member.known]] = 0
    heatmap = together(members).heatmap
    assert torch.equal(heatmap[:, 0], one.heatmap[:, 0])
    assert heatmap[:, 1].max() == 0
    torch.testing.assert_close(heatmap[:, 2], (one.heatmap[:, 2] + other.heatmap[:, 2]) / 2)


@pytest.mark.parametrize("kinds", [[], ["spatial"], ["channel"], ["heatmap"], ["spatial", "channel", "heatmap"]])
def test_the_feature_term_is_the_square_under_the_recipes_attention(kinds):
    weights = [4.0, 0.25, 0.25, 0.25, 0.25]
    teacher, loss = random_teacher(), loss_of((0, 0, 0, 100), {"big": weights}, attention=kinds)
    student, spread = student_like(teacher), torch.tensor(weights).sqrt().view(-1, 1, 1)
    ours, told = (standardise(one, lambda mean: mean) * spread
                  for one in (loss.adapters["of big"](student[0].features), teacher.features["big"]))
    found = {"spatial": attention.spatial(told), "channel": attention.channel(told / spread),
             "heatmap": attention.heatmap(teacher.heatmap)}
    places = [found[kind] for kind in kinds if kind != "channel"]
    cells = attention.mean_one(torch.stack([torch.ones(2, 1, 6, 6), *places]).prod(0))
    channels = found["channel"] if "channel" in kinds else 1
    expected = 100 * 0.005 * (cells * channels * (ours - told).square()).mean()
    assert loss(student, teacher)["kd_features"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_attention_to_the_outputs_weighs_peaks_too():
    heat = torch.full((1, 3, 6, 6), 1e-3)
    heat[0, 0, 0, 0] = heat[0, 0, 5, 5] = 0.8
    features = torch.randn(1, 5, 6, 6) * 0.1
    features[..., 0, 0] = torch.tensor([9.0, -9.0, 9.0, -9.0, 9.0])
    teacher = teacher_of(heat, torch.ones(1, 4, 6, 6), big=features)
    told, plain = (loss_of((0, 1, 1, 0), attention=["spatial"], attend_outputs=on) for on in (True, False))
    for place, more in ((0, True), (5, False)):
        student = student_like(teacher)
        for plane in (student[0].wh, student[0].offset):
            plane[..., place, place] += 1
        for name in ("kd_wh", "kd_offset"):
            assert (told(student, teacher)[name] > plain(student, teacher)[name]).item() is more
