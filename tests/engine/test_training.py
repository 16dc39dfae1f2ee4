"""The loop, in this process."""

import csv
import os
import signal

import pytest
import torch
from torch import nn

from pipeline.devices import make_fabric
from pipeline.engine import FitSummary, Trainee, fit, seed_everything
from pipeline.engine.log import Log
from pipeline.engine.trainee import Run
from pipeline.errors import UserError
from pipeline.losses import GroundTruthLoss


@pytest.fixture
def run(tiny, tmp_path):
    """run(steps, objective, **params) -> (model, summary), in tmp_path / folder."""
    def run(steps=20, objective=None, *, batches=None, folder="run", prepare=tiny.prepare, identity="",
            **params):
        seed_everything(0)
        model = tiny.TinyDetector()
        params = tiny.params_of(**params)
        fabric = make_fabric(1, params.precision, accelerator="cpu")
        trainee = Trainee(model=model, objective=objective or GroundTruthLoss(), params=params, seed=0,
                          fabric=fabric, folder=tmp_path / folder, identity=identity)
        [outcome] = fit([trainee], batches or tiny.TinyBatches(steps), prepare=prepare, label="tiny")
        if isinstance(outcome, UserError):
            raise outcome
        return model, outcome
    return run


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def same(first, second):
    return all(torch.equal(a, b) for a, b in
               zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def stopping_at(tiny, stop, steps):
    """Batches of a run that dies before step `stop`."""
    class Dying(tiny.TinyBatches):
        def iterate(self, start=0):
            for step, batch in enumerate(super().iterate(start), start):
                if step == stop:
                    raise RuntimeError("killed")
                yield batch
    return Dying(steps)


def test_it_learns_and_says_what_it_did(run, tmp_path):
    model, summary = run(120, ema=0.0)
    rows = rows_of(tmp_path / "run" / "log.csv")
    assert isinstance(summary, FitSummary)
    assert (summary.steps, summary.passes, summary.resumed_from) == (120, 720, 0)
    assert list(rows[0]) == ["step", "epoch", "lr", "loss", "heatmap", "wh", "offset", "seconds",
                             "images_per_second"]
    assert [int(row["step"]) for row in rows] == list(range(1, 121))
    assert float(rows[-1]["epoch"]) == 12
    assert float(rows[-1]["loss"]) < 0.6 * float(rows[0]["loss"])
    loss, *terms = summary.losses.values()
    assert loss == pytest.approx(sum(terms))
    assert float(rows[-1]["loss"]) == pytest.approx(loss, rel=1e-5)
    assert not model.training


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("student", [False, True])
def test_a_run_continues_bit_for_bit_from_its_checkpoint(run, tiny, tmp_path, precision, student):
    def objective():
        return tiny.StudentObjective(lambda x: x) if student else GroundTruthLoss()

    always = {"checkpoint_minutes": 1e-9, "precision": precision}
    whole, _ = run(15, objective(), folder="whole", **always)
    with pytest.raises(RuntimeError, match="killed"):
        run(objective=objective(), batches=stopping_at(tiny, 7, 15), **always)
    resumed, summary = run(15, objective(), **always)
    assert summary.resumed_from == 7
    assert same(whole, resumed)
    logs = [[{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
             for row in rows_of(tmp_path / folder / "log.csv")] for folder in ("whole", "run")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_checkpoint_to_continue_from(run, tiny, tmp_path, capsys, number):
    class Interrupted(tiny.TinyBatches):
        def iterate(self, start=0):
            for step, batch in enumerate(super().iterate(start), start):
                if step == 6:
                    os.kill(os.getpid(), number)
                yield batch

    whole, _ = run(15, folder="whole", log_every=5)
    with pytest.raises(KeyboardInterrupt):
        run(batches=Interrupted(15), log_every=5)
    assert "writing a checkpoint" in capsys.readouterr().err
    assert [row["step"] for row in rows_of(tmp_path / "run" / "log.csv")] == ["5", "7"]
    resumed, summary = run(15, log_every=5)
    assert summary.resumed_from == 7
    assert same(whole, resumed)


@pytest.mark.parametrize("when", ["in the last step", "after it", "as logs close"])
def test_what_interrupts_at_the_end_of_a_run_ends_the_command_too(run, tiny, tmp_path, monkeypatch, when):
    class Interrupted(tiny.TinyBatches):
        def iterate(self, start=0):
            for step, batch in enumerate(super().iterate(start), start):
                if step == 14 and when == "in the last step":
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

    def saved(this):
        save(this)
        if this.step == 15 and when == "after it":
            os.kill(os.getpid(), signal.SIGINT)

    def closed(log, *how):
        close(log, *how)
        if when == "as logs close":
            os.kill(os.getpid(), signal.SIGINT)

    save, close, (whole, _) = Run.save, Log.__exit__, run(15, folder="whole")
    monkeypatch.setattr(Run, "save", saved)
    monkeypatch.setattr(Log, "__exit__", closed)
    with pytest.raises(KeyboardInterrupt):
        run(batches=Interrupted(15))
    monkeypatch.undo()
    resumed, summary = run(15)
    assert summary.resumed_from == 15
    assert same(whole, resumed)


@pytest.mark.parametrize("error", [UserError("an image is gone"), OSError(5, "an image is gone")])
@pytest.mark.parametrize("stop", [7, 5])  # after a step, and after a row
def test_a_batch_that_cannot_be_read_leaves_a_checkpoint_to_continue_from(run, tiny, tmp_path, stop, error):
    class Broken(tiny.TinyBatches):
        def iterate(self, start=0):
            yield from (batch for _, batch in zip(range(stop), super().iterate(start), strict=False))
            raise error

    whole, _ = run(15, folder="whole", log_every=5)
    with pytest.raises(type(error), match="an image is gone"):
        run(batches=Broken(15), log_every=5)
    resumed, summary = run(15, log_every=5)
    assert summary.resumed_from == stop
    assert same(whole, resumed)


def test_a_finished_run_is_not_repeated(run):
    first, summary = run(5)
    again, second = run(5)
    assert same(first, again)
    assert second == FitSummary(summary.steps, summary.passes, summary.seconds, summary.losses, 5)


def test_a_checkpoint_of_another_run_is_refused(run):
    run(3, identity="run a")
    with pytest.raises(UserError, match=r"checkpoint\.pt belongs to another run.*'run a'.*'run b'"):
        run(3, identity="run b")


def test_a_checkpoint_of_another_precision_is_refused(run, tiny):
    with pytest.raises(RuntimeError, match="killed"):
        run(batches=stopping_at(tiny, 2, 3), precision="bf16-mixed", checkpoint_minutes=1e-9)
    with pytest.raises(UserError, match="was calculated in bf16-mixed, but here it would go on in 32-true"):
        run(3)


def test_going_on_with_another_number_of_processes_is_told(run, tiny, tmp_path, capsys):
    with pytest.raises(RuntimeError, match="killed"):
        run(batches=stopping_at(tiny, 2, 3), checkpoint_minutes=1e-9)
    path = tmp_path / "run/checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    assert saved["processes"] == 1
    torch.save({**saved, "processes": 2}, path)
    run(3)
    assert "goes on in 1 process(es), but began in 2. The result" in capsys.readouterr().err
    run(3)  # from the last checkpoint, which this number of processes wrote
    assert "goes on" not in capsys.readouterr().err


def test_a_weight_that_breaks_is_not_blamed_on_a_term(run):
    class Breaking(GroundTruthLoss):
        step = 0

        def forward(self, outputs, batch):
            self.step += 1
            zero = outputs[0].wh.sum() * 0  # whose root is finite, and has no finite gradient
            return {**super().forward(outputs, batch), "root": zero.abs().sqrt() if self.step == 3 else zero}

    with pytest.raises(UserError, match=r"every loss term became nan in step 4 on .* broke in the step before"):
        run(10, Breaking(), log_every=5)


def test_the_result_is_the_moving_average(run, tmp_path):
    averaged, _ = run(20, ema=0.99, folder="averaged")
    plain, _ = run(20, ema=0.0, folder="plain")
    saved = torch.load(tmp_path / "averaged" / "checkpoint.pt", weights_only=True)
    raw = {k.removeprefix("model."): v for k, v in saved["module"].items()}
    assert all(torch.equal(value, raw[name]) for name, value in plain.state_dict().items())
    assert all(torch.equal(p, raw[name]) == (name not in dict(averaged.named_parameters()))
               for name, p in averaged.state_dict().items())  # buffers alone are those of the last step


def test_the_parameters_of_the_objective_are_trained_and_saved(run, tiny, tmp_path):
    objective = tiny.StudentObjective(lambda x: x)
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    run(3, objective)
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["module"]
    for name, value in objective.state_dict().items():
        assert not torch.equal(value, before[name])
        assert torch.equal(value, saved["objective." + name])


def test_gradient_norms_of_the_terms_are_logged_now_and_then(run, tmp_path):
    run(6, log_every=1, grad_norm_every=3)
    rows = rows_of(tmp_path / "run" / "log.csv")
    assert [bool(row["gradient_heatmap"]) for row in rows] == [False, False, True] * 2
    run(6, folder="silent")
    quiet = rows_of(tmp_path / "silent" / "log.csv")
    assert [row["loss"] for row in rows] == [row["loss"] for row in quiet]  # watching changes nothing


def test_targets_keep_their_precision_under_autocast(run):
    seen = []

    class Looks(GroundTruthLoss):
        def forward(self, outputs, batch):
            seen.append((batch["wh"].clone(), outputs[0].wh.dtype))
            return super().forward(outputs, batch)

    given = []

    def prepare(batch):
        given.append(batch["wh"])
        return batch

    run(2, Looks(), prepare=prepare, precision="bf16-mixed")
    assert seen[0][1] == torch.bfloat16
    assert torch.equal(seen[0][0], given[0])


@pytest.mark.parametrize(("value", "log_every"), [(float("nan"), 4), (float("inf"), 1)])
def test_a_broken_loss_is_named_with_its_step_and_views(run, tiny, tmp_path, value, log_every):
    with pytest.raises(UserError, match=rf"'wh' became {value} in step 7 on views \[600, 601, .*605\]"):
        run(20, tiny.BreaksAt(step=7, value=value), log_every=log_every, checkpoint_minutes=1e-9)
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == (4 if log_every == 4 else 6)
    assert all(tensor.isfinite().all() for tensor in saved["module"].values())


def test_no_checkpoint_holds_broken_weights(run, tmp_path):
    class Overflows(GroundTruthLoss):
        """A finite loss whose gradient is not: sqrt at 0."""

        def forward(self, outputs, batch):
            terms = super().forward(outputs, batch)
            return {**terms, "root": (outputs[0].wh.sum() * 0).abs().sqrt()}

    with pytest.raises(UserError, match="a weight became NaN or infinite by step 1;"):
        run(5, Overflows(), checkpoint_minutes=1e-9)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_frozen_batchnorm_stays_as_it_is(run, tiny):
    model, _ = run(3, freeze_batchnorm=True)
    seed_everything(0)
    fresh = tiny.TinyDetector()
    assert same(model.body[1], fresh.body[1])
    assert not torch.equal(model.body[0].weight, fresh.body[0].weight)


def test_every_epoch_row_has_the_scheduled_rate(run, tmp_path):
    run(10, schedule="step", milestones=[0.5], gamma=0.1, warmup=0.0, lr=1e-2)
    rates = [float(row["lr"]) for row in rows_of(tmp_path / "run" / "log.csv")]
    assert rates == pytest.approx([1e-2] * 5 + [1e-3] * 5)


def test_denormals_are_flushed_while_it_trains_and_not_after(run):
    products = []

    def objective(outputs, batch):
        products.append(batch["image"].new_full((4,), 1e-30) * 1e-10)
        return {"size": outputs[-1].wh.square().mean()}

    run(1, objective)
    assert (products[0] == 0).all()
    assert (torch.full((4,), 1e-30) * 1e-10 != 0).all()


def test_plain_functions_are_objectives_too(run):
    model, summary = run(2, lambda outputs, batch: {"size": outputs[-1].wh.square().mean()})
    assert list(summary.losses) == ["loss", "size"]
    assert isinstance(model, nn.Module)


def test_the_objective_is_told_the_progress_of_the_run_wherever_it_continues(run, tiny):
    class Seeing(GroundTruthLoss):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, outputs, batch):
            self.seen.append(batch["progress"])
            return super().forward(outputs, batch)

    whole, first, rest = Seeing(), Seeing(), Seeing()
    run(8, whole, folder="whole")
    with pytest.raises(RuntimeError, match="killed"):
        run(8, first, batches=stopping_at(tiny, 5, 8), checkpoint_minutes=1e-9)
    run(8, rest)
    assert whole.seen == [step / 8 for step in range(8)]
    assert first.seen + rest.seen == whole.seen
