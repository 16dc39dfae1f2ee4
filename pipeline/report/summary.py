"""What came out, in plain words that follow from the numbers."""

from statistics import fmean

from pipeline.params.recipe import PLAIN
from pipeline.report.claims import interval
from pipeline.report.document import counted, listed, shown
from pipeline.report.results import fair, middle, minus
from pipeline.report.study import Study, label

#: Points of mAP below which the mean gain is called none.
NOTHING = 0.05


def summarise(study: Study) -> list[str]:
    """The summary's sentences, the verdict first."""
    sentences = [_verdict(study), _other_recipes(study), _unseen(study), _teachers(study), _size(study)]
    return [*filter(None, sentences), *_cautions(study)]


def gains(study: Study, recipe: str | None, metric: str = "map_area") -> dict[str, list[float]]:
    """What a recipe adds to training alone, in points, for each student that has both."""
    found = {student: study.results.differences(student, recipe, metric) for student in study.shown_students}
    return {student: differences for student, differences in found.items() if differences}


def _verdict(study: Study) -> str:
    recipe = study.headline
    by_student = gains(study, recipe)
    if recipe is None or not by_student:
        taught = f"taught by recipe {recipe!r}" if recipe else "taught"
        return f"Nothing to compare yet: no student was evaluated both alone and {taught}, by fair pairs of runs."
    each = {student: fmean(differences) for student, differences in by_student.items()}
    mean = fmean(each.values())
    pairs = [difference for differences in by_student.values() for difference in differences]
    better = sum(difference > 0 for difference in pairs)
    found = interval(by_student)
    between = "" if found is None or found.low is None or found.high is None else (
        f"95 % interval {shown(found.low, sign=True)} to {shown(found.high, sign=True)}")
    known = f" ({between or 'too few pairs for an interval'})"
    verdict = found.verdict if found is not None else "too few pairs"
    if mean > NOTHING:
        opening = "Distillation helped" + " in these runs" * (verdict == "too few pairs")
        if any(gain <= 0 for gain in each.values()):
            opening += " in the mean, but not every student"
        outcome = f"gain {shown(mean)} points of mAP@.5 on test in the mean{known}, compared with training alone"
    elif mean < -NOTHING:
        opening, outcome = "Distillation did not help", (
            f"lose {shown(-mean)} points of mAP@.5 on test in the mean{known}, compared with training alone")
    else:
        opening, outcome = "Distillation made no difference", "have the same mAP@.5 on test in the mean as alone"
    if verdict == "undecided":
        opening = "Whether distillation helps is not settled"
    who = listed([f"{label(student)} {shown(gain, sign=True)}" for student, gain in each.items()])
    return (
        f"{opening}: taught by {_taught_by(study, recipe)} from stored targets, students {outcome} ({who}). "
        f"The taught student was the better one in {better} of {counted(len(pairs), 'pair')} of runs."
    )


def _taught_by(study: Study, recipe: str) -> str:
    return listed([label(teacher) for teacher in study.params.recipes[recipe].teachers])


def _other_recipes(study: Study) -> str:
    others = []
    for recipe in study.main_recipes:
        if recipe not in (PLAIN, study.headline) and (by_student := gains(study, recipe)):
            mean = fmean(fmean(differences) for differences in by_student.values())
            others.append(f"{shown(mean, sign=True)} points when taught by {_taught_by(study, recipe)}")
    return f"For comparison, the students' mean difference to training alone is {listed(others)}." if others else ""


def _unseen(study: Study) -> str:
    by_student = gains(study, study.headline, "unseen.map_area")
    if not by_student:
        return ""
    mean = fmean(fmean(differences) for differences in by_student.values())
    return f"On drawings that nobody trained on, the mean difference is {shown(mean, sign=True)} points."


def _teachers(study: Study) -> str:
    scores = {name: result.map_area for name, result in study.results.teachers.items()}
    students = [
        (mean, student, recipe)
        for student, recipe in study.results.runs
        if (mean := study.results.mean(student, recipe)) is not None
    ]
    teachers = [f"{label(name)} {shown(score)}" for name, score in scores.items() if score is not None]
    if not teachers or not students:
        return ""
    mean, student, recipe = max(students)
    how = study.recipe_label(recipe)
    best = f"the best student is {label(student)} ({how}) with {shown(mean)}"
    return f"The teachers reach {listed(teachers)}; {best}."


def _size(study: Study) -> str:
    base = study.params.report.baseline
    baseline = study.results.teacher(base)
    sizes = [
        (params, student)
        for student, recipe in study.results.runs
        if recipe == study.headline and (params := middle(run.params for run in study.results.of(student, recipe)))
    ]
    if not sizes or not baseline.params:
        return ""
    params, student = min(sizes)
    latency = study.results.latency(student)
    fewer = 100 * (1 - params / baseline.params)
    parts = [f"has {shown(abs(fewer))} % {'fewer' if fewer >= 0 else 'more'} parameters than {label(base)}"]
    if latency and baseline.latency_ms:
        parts.append(f"runs {shown(baseline.latency_ms / latency)} times as fast")
    below = minus(baseline.map_area, study.results.mean(student, study.headline))
    if below is not None:
        parts.append(f"is {shown(abs(below))} points {'below' if below > 0 else 'above'} it")
    return f"{label(student)}, the smallest student, {listed(parts)}."


def _cautions(study: Study) -> list[str]:
    cautions = []
    cells = [study.results.of(student, recipe) for student, recipe in study.results.runs]
    if cells and min(map(len, cells)) == 1:
        cautions.append("Some cells have one seed only: a difference of a few points may be chance there.")
    for student in study.shown_students:
        pairs = study.results.pairs(student, study.headline)
        unfair = sum(not fair(taught, alone) for taught, alone in pairs)
        if unfair:
            passes = {f"{taught.passes:,.0f} and {alone.passes:,.0f}" for taught, alone in pairs
                      if taught.passes and alone.passes and taught.passes != alone.passes}
            more = (f" (passes: {', '.join(sorted(passes))}; an epoch with unlabelled images has more of them)"
                    if passes else "")
            cautions.append(
                f"Not compared for {label(student)}: {unfair} of {counted(len(pairs), 'pair')} of runs, whose "
                f"training, passes, data, views, precision or processes differ{more}. Train both again with the same "
                "params, on one machine.")
    if not study.of_the_paper:
        height, width = study.params.views.size
        cautions.append(
            f"All of this is {study.data.name} at {width}×{height} px and {study.passes}; "
            "it neither confirms nor refutes the paper's numbers on VOC."
        )
    return cautions


def facts(study: Study) -> list[tuple[str, str]]:
    """Data, scale, seeds and licence, as (label, value)."""
    data, params = study.data, study.params
    splits = [f"{len(records):,} {split}" for split, records in data.splits.items()]
    height, width = params.views.size
    seeds = ", ".join(map(str, study.results.seeds))
    trained = "some have teachers of their own" if study.results.trainings else "teachers are trained once"
    found = [
        ("Profile", params.profile),
        ("Data", f"{data.name}, {counted(len(data.classes), 'class', 'classes')}: {', '.join(data.classes)}"),
        ("Images", listed(splits)),
        ("Input", f"{width}×{height} px, {counted(params.views.per_image, 'recorded view')} of an image"),
        ("Training", f"{study.passes} for a student; one pass shows one image"),
        ("Seeds", f"{seeds} for students; {trained}" if seeds else "no student yet"),
        ("Fingerprint of the data", data.fingerprint[:16]),
    ]
    if licence := data.manifest.get("licence"):
        found.append(("Licence of the images", str(licence)))
    return found


