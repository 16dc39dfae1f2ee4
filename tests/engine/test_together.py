"""Several networks on the same batches."""

import csv
import os
import signal
import weakref

import pytest
import torch

from pipeline.devices import make_fabric
from pipeline.engine import Trainee, fit, seed_everything, training
from pipeline.engine.checkpoint import RunState
from pipeline.errors import UserError
from pipeline.losses import GroundTruthLoss

STEPS = 12
ALWAYS = {"checkpoint_minutes": 1e-9}
#: Dropout, and the keys of `train`, of three that differ in all that may differ.
KINDS = {
    "plain": (0.3, {}),
    "student": (0.1, {"lr": 3e-3, "precision": "bf16-mixed", "ema": 0.0, "clip": 0.5}),
    "slow": (0.0, {"schedule": "step", "optimizer": "adam", "channels_last": False, "grad_norm_every": 3}),
}


@pytest.fixture
def trainee(tiny, tmp_path):
    """trainee("student", folder="run", objective=None, ...) -> a Trainee of this kind."""
    def make(kind, folder="run", objective=None, *, identity="", **params):
        dropout, own = KINDS[kind]
        params = tiny.params_of(**params, **own)
        seed_everything(0)
        model = tiny.TinyDetector(dropout)
        if objective is None:
            objective = tiny.StudentObjective(lambda x: x) if kind == "student" else GroundTruthLoss()
        return Trainee(model=model, objective=objective, params=params, seed=0, label=kind, identity=identity,
                       fabric=make_fabric(1, params.precision, accelerator="cpu"), folder=tmp_path / folder / kind)
    return make


@pytest.fixture
def teach(tiny):
    def run(*trainees, batches=None):
        return fit(trainees, batches or tiny.TinyBatches(STEPS), prepare=tiny.prepare, label="together")
    return run


@pytest.fixture
def assert_as_alone(tiny, trainee, teach):
    """Checks a trained trainee against one of its kind that is taught by itself."""
    def check(taught, **params):
        alone = trainee(taught.label, "alone", **params)
        teach(alone)
        for part in ("model", "objective"):
            expected, found = (getattr(each, part).state_dict() for each in (alone, taught))
            for name, value in expected.items():
                assert torch.equal(value, found[name]), (taught.label, name)
        assert rows_of(alone.folder) == rows_of(taught.folder)
        assert not taught.model.training
    return check


def rows_of(folder):
    with (folder / "log.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")}
                for row in csv.DictReader(file)]


def dying(tiny, stop, die):
    """Batches that call `die` before they give the one of step `stop`, counted from 0."""
    class Dying(tiny.TinyBatches):
        def iterate(self, start=0):
            for step, batch in enumerate(super().iterate(start), start):
                if step == stop:
                    die()
                yield batch
    return Dying(STEPS)


def kill():
    raise RuntimeError("killed")


def test_each_ends_as_if_it_had_been_alone(trainee, teach, assert_as_alone):
    taught = [trainee(kind) for kind in KINDS]
    outcomes = teach(*taught)
    assert [(outcome.steps, outcome.passes, outcome.resumed_from) for outcome in outcomes] == [(STEPS, 72, 0)] * 3
    for one in taught:
        assert_as_alone(one)


def test_a_batch_is_read_and_prepared_once_and_stays_as_it_is(tiny, trainee):
    given, prepared = [], []

    class Watched(tiny.TinyBatches):
        def iterate(self, start=0):
            for batch in super().iterate(start):
                given.append(batch)
                yield batch

    def prepare(batch):
        prepared.append(tiny.prepare(batch))
        return prepared[-1]

    fit([trainee(kind) for kind in KINDS], Watched(3), prepare=prepare)
    assert (len(given), len(prepared)) == (3, 3)
    for batch, expected in zip(prepared, tiny.TinyBatches(3).iterate(), strict=True):
        expected = tiny.prepare(expected)
        assert batch.keys() == expected.keys()
        told, wanted = ([each.pop("teacher") for each in (batch, expected)])
        assert all(torch.equal(batch[name], value) for name, value in expected.items())
        assert torch.equal(told.heatmap, wanted.heatmap)
        assert torch.equal(told.peaks, wanted.peaks)
        assert torch.equal(told.features["teacher"], wanted.features["teacher"])


def test_their_seconds_are_those_of_the_pass(tiny, trainee, teach, monkeypatch):
    """What each step of its own takes, and an equal share of what all wait for."""
    now, own = [100.0], {"plain": 1.0, "student": 2.0, "slow": 4.0}
    for module in ("stopwatch", "training"):
        monkeypatch.setattr(f"pipeline.engine.{module}.monotonic", lambda: now[0])

    class Reading(tiny.TinyBatches):
        def iterate(self, start=0):
            for batch in super().iterate(start):
                now[0] += 9.0
                yield batch

    class Taking(GroundTruthLoss):
        def __init__(self, seconds):
            super().__init__()
            self.seconds = seconds

        def forward(self, outputs, batch):
            now[0] += self.seconds
            return super().forward(outputs, batch)

    outcomes = teach(*(trainee(kind, objective=Taking(own[kind])) for kind in KINDS), batches=Reading(STEPS))
    assert [outcome.seconds for outcome in outcomes] == pytest.approx([STEPS * (own[kind] + 3) for kind in KINDS])


def test_one_that_breaks_stops_alone_with_its_checkpoint_kept(tiny, trainee, teach, assert_as_alone, capsys):
    options = {**ALWAYS, "log_every": 2}
    broken = trainee("plain", objective=tiny.BreaksAt(step=5), **options)
    others = [trainee(kind, **options) for kind in ("student", "slow")]
    outcomes = teach(broken, *others)
    assert isinstance(outcomes[0], UserError)
    assert "'wh' became nan in step 5 on views [400, 401," in str(outcomes[0])
    assert "plain stops, the others go on: the loss term 'wh' became nan" in capsys.readouterr().err
    saved = torch.load(broken.folder / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 4
    assert all(tensor.isfinite().all() for tensor in saved["module"].values())
    for one in others:
        assert_as_alone(one, **options)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), None])
def test_one_that_runs_out_of_memory_stops_alone(trainee, teach, assert_as_alone, error):
    class Greedy(GroundTruthLoss):
        calls = 0

        def forward(self, outputs, batch):
            self.calls += 1
            if self.calls == 3 and error is None:
                torch.empty(1 << 58)  # torch's own words
            if self.calls == 3:
                raise error
            return super().forward(outputs, batch)

    greedy, other = trainee("plain", objective=Greedy()), trainee("student")
    outcomes = teach(greedy, other)
    assert "out of memory" in str(outcomes[0])
    assert "train.batch" in str(outcomes[0])
    assert_as_alone(other)


def test_checkpoints_are_written_as_often_as_asked(tiny, trainee, monkeypatch):
    minutes, written, write = [0], [], RunState.write

    def prepare(batch):
        minutes[0] += 1
        return tiny.prepare(batch)

    def noted(state, *args, **options):
        written.append(state.step)
        write(state, *args, **options)

    monkeypatch.setattr(training, "monotonic", lambda: 60.0 * minutes[0])
    monkeypatch.setattr(RunState, "write", noted)
    fit([trainee("student", log_every=1, checkpoint_minutes=2.5)], tiny.TinyBatches(10), prepare=prepare, label="timed")
    assert written == [3, 6, 9, 10]


def test_batch_norm_of_a_single_value_is_one_line(trainee, teach, assert_as_alone):
    class Normalised(GroundTruthLoss):
        def forward(self, outputs, batch):
            torch.nn.BatchNorm2d(1)(torch.zeros(1, 1, 1, 1))
            return super().forward(outputs, batch)

    alone, other = trainee("plain", objective=Normalised()), trainee("student")
    assert "batch norm has one value of each channel to learn from: let each" in str(teach(alone, other)[0])
    assert_as_alone(other)


def test_the_others_have_the_memory_of_one_that_runs_out_of_it_in_its_backward_pass(trainee, teach, assert_as_alone):
    class Full(torch.autograd.Function):
        @staticmethod
        def forward(context, term, kept):
            context.kept = kept
            return term.clone()

        @staticmethod
        def backward(context, gradient):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    class Greedy(GroundTruthLoss):
        kept = None

        def forward(self, outputs, batch):
            terms = super().forward(outputs, batch)
            kept = torch.zeros(8)
            self.kept = weakref.ref(kept)
            return {**terms, "wh": Full.apply(terms["wh"], kept)}

    greedy = trainee("plain", objective=Greedy())

    class Next(GroundTruthLoss):
        def forward(self, outputs, batch):
            assert greedy.objective.kept() is None
            return super().forward(outputs, batch)

    other = trainee("student", objective=Next())
    assert "out of memory" in str(teach(greedy, other)[0])
    assert all(parameter.grad is None for parameter in greedy.model.parameters())


def test_an_error_of_the_program_stops_all(trainee, teach):
    def objective(outputs, batch):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        teach(trainee("plain", objective=objective), trainee("student"))


def test_when_all_have_stopped_no_more_is_read(tiny, trainee, teach):
    read = []

    class Watched(tiny.TinyBatches):
        def iterate(self, start=0):
            for batch in super().iterate(start):
                read.append(1)
                yield batch

    both = [trainee(kind, objective=tiny.BreaksAt(step=3)) for kind in ("plain", "slow")]
    assert all(isinstance(outcome, UserError) for outcome in teach(*both, batches=Watched(STEPS)))
    assert len(read) == 3


def test_a_killed_pass_continues_and_those_ahead_wait(tiny, trainee, teach, assert_as_alone):
    """They are saved one after the other, so a kill may leave them at different steps; here far apart."""
    for kind, stop in zip(KINDS, (8, 3, STEPS), strict=True):
        with pytest.raises(RuntimeError, match="killed"):
            teach(trainee(kind, **ALWAYS), batches=dying(tiny, stop, kill)) if stop < STEPS else kill()
    taught = [trainee(kind, **ALWAYS) for kind in KINDS]
    assert [outcome.resumed_from for outcome in teach(*taught)] == [8, 3, 0]
    for one in taught:
        assert_as_alone(one)


def test_when_the_one_behind_stops_the_others_go_on_from_where_they_are(tiny, trainee, teach, assert_as_alone):
    read = []

    class Watched(tiny.TinyBatches):
        def iterate(self, start=0):
            for step, batch in enumerate(super().iterate(start), start):
                read.append(step)
                yield batch

    with pytest.raises(RuntimeError, match="killed"):
        teach(trainee("plain", **ALWAYS), batches=dying(tiny, 8, kill))
    breaks, ahead = trainee("slow", objective=tiny.BreaksAt(step=3), **ALWAYS), trainee("plain", **ALWAYS)
    stopped, finished = teach(breaks, ahead, batches=Watched(STEPS))
    assert isinstance(stopped, UserError)
    assert finished.resumed_from == 8
    assert read == [0, 1, 2, *range(8, STEPS)]
    assert_as_alone(ahead)


def test_a_finished_one_is_not_taught_again(trainee, teach, assert_as_alone):
    teach(trainee("plain"))
    taught = [trainee("plain"), trainee("student")]
    assert [outcome.resumed_from for outcome in teach(*taught)] == [STEPS, 0]
    for one in taught:
        assert_as_alone(one)


def test_ctrl_c_leaves_all_to_continue_from(tiny, trainee, teach, assert_as_alone):
    def ctrl_c():
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        teach(*(trainee(kind) for kind in KINDS), batches=dying(tiny, 4, ctrl_c))
    taught = [trainee(kind) for kind in KINDS]
    assert [outcome.resumed_from for outcome in teach(*taught)] == [5, 5, 5]
    for one in taught:
        assert_as_alone(one)


def test_a_checkpoint_of_another_run_stops_its_own_alone(trainee, teach, assert_as_alone):
    teach(trainee("plain", identity="run a"))
    refused, other = trainee("plain", identity="run b"), trainee("student")
    outcomes = teach(refused, other)
    assert "belongs to another run" in str(outcomes[0])
    assert_as_alone(other)


def test_the_progress_says_the_loss_of_each(trainee, teach, capsys):
    outcomes = teach(trainee("plain"), trainee("student"))
    losses = [f"{kind} {outcome.losses['loss']:.4g}" for kind, outcome in zip(KINDS, outcomes, strict=False)]
    assert f"together: {STEPS}/{STEPS} {', '.join(losses)}" in capsys.readouterr().err
