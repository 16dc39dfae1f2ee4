"""Many students in one pass over the store, by the command."""

import errno
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from lightning_fabric import Fabric

import pipeline.models
from pipeline.cli import main
from pipeline.targets import ReplayedViews
from storage import StoreError

BOTH = "resnet18+hourglass_small"
ARCH = "arch: {deconv: [16, 16, 16], head_channels: 16}"
#: EfficientNet drops blocks at random; the precisions differ.
STUDENTS = {
    "mobilenet_v2": None,
    "efficient": f"{{model: efficientnet_b0, {ARCH}}}",
    "half": f"{{model: resnet18, {ARCH}, train: {{precision: bf16-mixed, lr: 5.0e-4, schedule: step}}}}",
}
SETTINGS = [word for name, value in STUDENTS.items() if value for word in ("--set", f"students.{name}={value}")]
STEPS = 6


@pytest.fixture
def command(line, monkeypatch):
    """Runs a command in the folder; returns what it said on stderr."""
    monkeypatch.chdir(line)

    def run(*arguments, fails=False):
        result = CliRunner().invoke(main, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == fails, result.output
        return result.stderr

    return run


@pytest.fixture
def fetched(monkeypatch):
    """Grows by one for every batch that is read; 'dies' at the batch of this number."""
    noted = {"batches": 0, "dies": None}
    fetch = ReplayedViews.fetch

    def counted(self, items):
        if noted["batches"] == noted["dies"]:
            raise RuntimeError("killed")
        noted["batches"] += 1
        return fetch(self, items)

    monkeypatch.setattr(ReplayedViews, "fetch", counted)
    return noted


@pytest.fixture
def grouped(monkeypatch):
    """The labels of each pass, instead of the passes."""
    from pipeline import engine
    from pipeline.errors import UserError

    passes = []

    def fit(trainees, batches, **_):
        passes.append([trainee.label for trainee in trainees])
        return [UserError("not taught here") for _ in trainees]

    monkeypatch.setattr(engine, "fit", fit)
    return passes


def distill(*students, recipe=BOTH, seed=3):
    return ["distill", *(word for name in students for word in ("--student", name)), "--recipe", recipe,
            "--seed", str(seed)]


def weights(student, recipe=BOTH, seed=3):
    return Path("models/students", student, recipe, f"seed{seed}/weights.safetensors").read_bytes()


def forget():
    shutil.rmtree(".work/distill")
    shutil.rmtree("models/students")


def test_each_is_taught_as_if_it_had_been_alone(command, fetched):
    said = command(*distill(*STUDENTS), *SETTINGS)
    assert fetched["batches"] == STEPS
    assert f"distill, 3 together: {STEPS}/{STEPS} mobilenet_v2/{BOTH}/seed3 " in said
    together = {name: weights(name) for name in STUDENTS}
    forget()
    for name in STUDENTS:
        command(*distill(name), *SETTINGS)
    assert {name: weights(name) for name in STUDENTS} == together


def test_no_process_goes_on_before_a_student_is_in_its_place(command, monkeypatch):
    """Another process than the one that brings it there may fail next, and then Fabric kills that one."""
    brought = []
    monkeypatch.setattr(Fabric, "barrier", lambda *_: brought.append(
        Path("models/students/mobilenet_v2", BOTH, "seed3/weights.safetensors").exists()))
    command(*distill("mobilenet_v2"))
    assert brought[-1]


def test_a_pass_that_was_killed_continues(command, fetched):
    always = ["--set", "distill.train.checkpoint_minutes=1.0e-9"]
    fetched["dies"] = 4
    with pytest.raises(RuntimeError, match="killed"):
        command(*distill("mobilenet_v2", "efficient"), *SETTINGS, *always)
    fetched.update(batches=0, dies=None)
    said = command(*distill("mobilenet_v2", "efficient"), *SETTINGS)
    assert said.count(": continuing in .work/distill/") == 2
    assert fetched["batches"] == STEPS - 4
    together = {name: weights(name) for name in ("mobilenet_v2", "efficient")}
    forget()
    for name, expected in together.items():
        command(*distill(name), *SETTINGS)
        assert weights(name) == expected


def test_one_that_fails_is_named_when_the_others_are_finished(command):
    hot = ["--set", f"students.hot={{model: resnet18, {ARCH}, train: {{lr: 1.0e+30}}}}"]
    said = command(*distill("hot", "mobilenet_v2", "half"), *SETTINGS, *hot, fails=True)
    *_, error = said.splitlines()
    assert error.startswith(f"Error: 1 of 3 students stopped. distill/hot/{BOTH}/seed3: ")
    assert "became" in error
    assert "--set" not in error
    assert not Path("models/students/hot").exists()
    assert weights("mobilenet_v2")
    assert weights("half")
    again = command(*distill("mobilenet_v2", "half"), *SETTINGS)
    assert again.count(": nothing to do, models/students/") == 2


def test_one_that_cannot_begin_stops_no_other(command, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    said = command(*distill("broken", "mobilenet_v2"), *SETTINGS, "--set",
                   f"students.broken={{model: resnet18, {ARCH}, weights: {broken}}}", fails=True)
    *_, error = said.splitlines()
    assert error.startswith(f"Error: 1 of 2 students stopped. distill/broken/{BOTH}/seed3: {broken}")
    assert weights("mobilenet_v2")
    assert not Path("models/students/broken").exists()


def test_one_that_has_no_memory_to_begin_in_stops_no_other(command, monkeypatch):
    build = pipeline.models.build_detector

    def without_memory(name, *args, **settings):
        if name == "efficientnet_b0":
            raise MemoryError
        return build(name, *args, **settings)

    monkeypatch.setattr(pipeline.models, "build_detector", without_memory)
    said = command(*distill("efficient", "mobilenet_v2"), *SETTINGS, fails=True)
    assert f"1 of 2 students stopped. distill/efficient/{BOTH}/seed3: out of memory" in said.splitlines()[-1]
    assert weights("mobilenet_v2")


def test_what_reads_the_same_shares_a_pass(command, grouped):
    paper = ["--set", "recipes.paper={teachers: [resnet18, hourglass_small], ensemble: both, weights: table4-2}"]
    recipes = [word for name in (BOTH, "paper", "plain", "oracle", "plain-fresh") for word in ("--recipe", name)]
    command("distill", "--student", "mobilenet_v2", "--student", "half", *recipes, "--seed", "3", "--seed", "4",
            *SETTINGS, *paper, fails=True)
    assert grouped == [[f"{student}/{recipe}/seed{seed}" for student in ("mobilenet_v2", "half") for recipe in alike]
                       for alike in ((BOTH, "paper"), ("plain", "oracle"), ("plain-fresh",)) for seed in (3, 4)]


@pytest.mark.parametrize("other", [
    "train: {batch: 6}", "train: {epochs: 3}", "train: {log_every: 3}", "size: [96, 96]",
    "arch: {deconv: [16, 16], head_channels: 16}"])
def test_what_reads_otherwise_does_not(command, grouped, other):
    student = f"{{model: resnet18, {ARCH if 'arch' not in other else ''}{', ' * ('arch' not in other)}{other}}}"
    command(*distill("mobilenet_v2", "other"), "--set", f"students.other={student}", fails=True)
    assert grouped == [[f"{name}/{BOTH}/seed3"] for name in ("mobilenet_v2", "other")]


@pytest.mark.parametrize(("error", "words"), [
    (StoreError("a shard is damaged"), "a shard is damaged"),
    (OSError(errno.EIO, "Input/output error", "a.zarr/peaks/c.0"), "Input/output error: a.zarr/peaks/c.0"),
])
def test_a_pass_that_cannot_be_read_stops_no_other_pass(command, monkeypatch, error, words):
    fetch = ReplayedViews.fetch

    def broken(self, items):
        if self.stores:
            raise error
        return fetch(self, items)

    monkeypatch.setattr(ReplayedViews, "fetch", broken)
    said = command(*distill("mobilenet_v2"), "--recipe", "plain", fails=True)
    assert said.splitlines()[-1] == f"Error: 1 of 2 students stopped. distill/mobilenet_v2/{BOTH}/seed3: {words}"
    assert weights("mobilenet_v2", "plain")


def test_a_finished_one_has_not_stopped_when_its_pass_cannot_be_read(command, monkeypatch):
    def broken(self, items):
        raise StoreError("a shard is damaged")

    command(*distill("half"), *SETTINGS)
    monkeypatch.setattr(ReplayedViews, "fetch", broken)
    said = command(*distill("mobilenet_v2", "half"), *SETTINGS, fails=True)
    assert said.splitlines()[-1] == (f"Error: 1 of 2 students stopped. distill/mobilenet_v2/{BOTH}/seed3: "
                                     "a shard is damaged")


def test_all_students_of_params_without_a_name(command, grouped):
    command("distill", "--recipe", BOTH, "--seed", "3", "--set", "distill.students=[mobilenet_v2, half]", *SETTINGS,
            fails=True)
    assert grouped == [[f"{name}/{BOTH}/seed3" for name in ("mobilenet_v2", "half")]]


def test_entries_of_one_model_are_students_of_their_own(command, fetched):
    four = [f"m{number}" for number in range(4)]
    command(*distill(*four), *(word for name in four for word in (
        "--set", f"students.{name}={{model: mobilenet_v2, {ARCH}}}")))
    assert fetched["batches"] == STEPS
    assert len({weights(name) for name in four}) == 1


def test_a_finished_student_is_not_taught_again(command, fetched):
    command(*distill("mobilenet_v2"))
    before, fetched["batches"] = weights("mobilenet_v2"), 0
    command("clean")
    assert "nothing to do, models/students/mobilenet_v2/" in command(*distill("mobilenet_v2"))
    assert fetched["batches"] == 0
    shutil.rmtree("models/students")
    command(*distill("mobilenet_v2"))
    assert (weights("mobilenet_v2"), fetched["batches"]) == (before, STEPS)
    Path("models/students/mobilenet_v2", BOTH, "seed3/weights.safetensors").unlink()
    command(*distill("mobilenet_v2"))  # from `.work`
    assert (weights("mobilenet_v2"), fetched["batches"]) == (before, STEPS)


def test_another_result_is_replaced_only_when_asked(command, fetched):
    hotter = ["--set", "distill.train.lr=3.0e-3"]
    command(*distill("mobilenet_v2"))
    before = weights("mobilenet_v2")
    error = command(*distill("mobilenet_v2", "half"), *SETTINGS, *hotter, fails=True)
    assert error.splitlines()[-1].startswith(
        f"Error: models/students/mobilenet_v2/{BOTH}/seed3 was finished with other params or inputs "
        "(train.lr is ")
    assert "--restart" in error
    assert fetched["batches"] == STEPS
    assert weights("mobilenet_v2") == before

    fetched["dies"] = STEPS + 2
    with pytest.raises(RuntimeError, match="killed"):
        command(*distill("mobilenet_v2"), *hotter, "--restart", "--set", "distill.train.checkpoint_minutes=1.0e-9")
    assert weights("mobilenet_v2") == before
    fetched["dies"] = None
    command(*distill("mobilenet_v2"), *hotter)  # continues, as the restart was asked for
    assert fetched["batches"] == 2 * STEPS
    assert weights("mobilenet_v2") != before
    command(*distill("mobilenet_v2"))  # taken over from the work that is still there
    assert (weights("mobilenet_v2"), fetched["batches"]) == (before, 2 * STEPS)


def test_what_was_begun_before_another_was_finished_does_not_replace_it(command, fetched):
    hotter = ["--set", "distill.train.lr=3.0e-3"]
    fetched["dies"] = 2
    with pytest.raises(RuntimeError, match="killed"):
        command(*distill("mobilenet_v2"), *hotter, "--set", "distill.train.checkpoint_minutes=1.0e-9")
    fetched["dies"] = None
    command(*distill("mobilenet_v2"))
    before = weights("mobilenet_v2")
    command("clean")  # now there is one copy of it
    assert "Add --restart to replace it." in command(*distill("mobilenet_v2"), *hotter, fails=True)
    assert weights("mobilenet_v2") == before


def test_a_result_that_says_no_fingerprint_is_not_overwritten(command):
    folder = Path("models/students/mobilenet_v2", BOTH, "seed3")
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    assert "Add --restart to replace it." in command(*distill("mobilenet_v2"), fails=True)
    assert (folder / "notes.txt").read_text() == "mine"
