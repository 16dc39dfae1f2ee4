"""Runs in processes of their own: killed, and several at once."""

import csv
import os
import random
import signal
import socket
import time

import pytest
import torch

STEPS = 60
FROZEN = ("steps=20", "freeze=1")
ALWAYS = "checkpoint_minutes=1e-9"


def finish(process):
    """Waits for the end and returns (exit code, stderr)."""
    _, errors = process.communicate(timeout=400)
    return process.returncode, errors


def result_of(folder):
    saved = torch.load(folder / "result.pt", weights_only=True)
    return {f"{part}.{name}": value for part, values in saved.items() for name, value in values.items()}


def rows_of(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def wait_for_rows(folder, count, process):
    """Waits until the log has `count` lines more than its header."""
    log = folder / "log.csv"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") > count):
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def one_thread():
    """As in the processes that are started: the number of threads decides the last bits of a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same(expected, found, **tolerance):
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.allclose(value, found[name], **{"rtol": 0, "atol": 0, **tolerance}), name


def test_a_run_killed_again_and_again_ends_with_the_same_weights(tiny, start_tiny, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    rows = 0
    for _ in range(2):
        process = start_tiny(killed, "student", f"steps={STEPS}", ALWAYS)
        wait_for_rows(killed, rows + 10, process)
        time.sleep(random.random() / 20)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
        rows = len(rows_of(killed))
        assert not (killed / "result.pt").exists()
    tiny.main(killed, "student", f"steps={STEPS}")
    tiny.main(whole, "student", f"steps={STEPS}")
    assert_same(result_of(whole), result_of(killed))
    assert [row["loss"] for row in rows_of(whole)] == [row["loss"] for row in rows_of(killed)]


@pytest.mark.slow
def test_two_processes_train_a_teacher_as_one_does_on_the_same_global_batch(tiny, start_tiny, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    process = start_tiny(tmp_path / "two", "teacher", *FROZEN, launcher=launcher)
    tiny.main(tmp_path / "one", "teacher", *FROZEN)
    assert finish(process)[0] == 0
    assert_trained_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_tasks_of_srun_train_a_teacher_as_one_process_does(tiny, start_tiny, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    srun = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "train",
            "SLURM_STEP_ID": "0", "SLURM_NODEID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    tasks = [start_tiny(tmp_path / "two", "teacher", *FROZEN,
                        environment={**srun, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}) for rank in ("0", "1")]
    tiny.main(tmp_path / "one", "teacher", *FROZEN)
    assert [finish(task)[0] for task in tasks] == [0, 0]
    assert_trained_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_processes_train_a_student_as_one_does_and_continue_after_a_kill(tiny, start_tiny, tmp_path):
    one, two, killed = (tmp_path / name for name in ("one", "two", "killed"))
    process = start_tiny(two, "student", *FROZEN, "devices=2")
    tiny.main(one, "student", *FROZEN)
    code, said = finish(process)
    assert (code, "BatchNorm" in said) == (0, False)
    assert_trained_alike(one, two)

    process = start_tiny(killed, "student", *FROZEN, "devices=2", ALWAYS)
    wait_for_rows(killed, 5, process)
    os.killpg(process.pid, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert finish(start_tiny(killed, "student", *FROZEN, "devices=2"))[0] == 0
    assert_same(result_of(two), result_of(killed))


@pytest.mark.slow
def test_a_main_process_that_fails_leaves_no_other_waiting(start_tiny, tmp_path):
    (tmp_path / "checkpoint.pt.partial").mkdir(parents=True)  # in the way of its first checkpoint
    process = start_tiny(tmp_path, "student", *FROZEN, "devices=2", ALWAYS)
    _, said = process.communicate(timeout=120)  # once both have closed their stderr
    assert process.returncode == 1
    assert "IsADirectoryError" in said


@pytest.mark.slow
def test_two_processes_may_leave_heads_untrained(tiny, start_tiny, tmp_path):
    options = *FROZEN, "grad_norm_every=1"  # whose gradients are taken before DDP's, through the same means
    process = start_tiny(tmp_path / "two", "taught", *options, "devices=2")
    tiny.main(tmp_path / "one", "taught", *options)
    assert finish(process)[0] == 0
    assert_trained_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_on_two_processes_one_that_breaks_stops_alone(start_tiny, tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    code, said = finish(start_tiny(together, "broken+student", "steps=20", "devices=2", "log_every=4"))
    assert code == 0
    assert "broken stops, the others go on: the loss term 'wh' became nan in step 5 on views [401, 403, 405];" in said
    code, said = finish(start_tiny(alone, "student", "steps=20", "devices=2", "log_every=4"))
    assert code == 0
    assert said.count("each of 2 processes has 3 images of a batch for its BatchNorm") == 1
    assert_same(result_of(alone), result_of(together / "student"))
    assert not (together / "broken/result.pt").exists()


def assert_trained_alike(one, two):
    rows = rows_of(one)
    for single, double in zip(rows, rows_of(two), strict=True):
        for name in single.keys() - {"seconds", "images_per_second"}:
            if name.startswith("gradient_"):  # of one process's share
                continue
            assert float(double[name]) == pytest.approx(float(single[name]), rel=1e-4), name
    assert rows[0]["loss"] != rows[-1]["loss"]
    assert_same(result_of(one), result_of(two), atol=1e-4)
