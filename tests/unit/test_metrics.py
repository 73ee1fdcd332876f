# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's counters are OpenMetrics, as its own parser reads it, and the file of them is whole at any time."""

from __future__ import annotations

import os
import signal
import stat
import threading
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from domward.protocol.errors import OperationFailed
from domward.supervisor.metrics import Metrics, write_textfile
from domward.supervisor.usage import Usage, usage_of


def parsed(metrics: Metrics) -> dict[str, float]:
    """Each sample by its name and labels."""
    usage = {"daemon": Usage(34 << 20, 1.5, 40), "helpers": Usage(None, 12.25, None)}
    text = metrics.text(live={"waiting": 3, "running": 2}, helpers=4, clients=1, usage=usage)
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_what_is_counted() -> None:
    metrics = Metrics()
    metrics.operation_ended("boot", "done", 0.03)
    metrics.operation_ended("boot", "done", 700.0)
    metrics.operation_ended("boot", "disk-empty", 0.01)
    metrics.operation_ended("inspect", "done", 0.2)
    metrics.refused("too-many")
    metrics.violated("helper")
    metrics.loop_delay.observe(0.003)
    found = parsed(metrics)
    assert found["domward_operations_total{kind=boot,outcome=done}"] == 2
    assert found["domward_operations_total{kind=boot,outcome=disk-empty}"] == 1
    assert found["domward_operation_duration_seconds_bucket{kind=boot,le=0.025}"] == 1
    assert found["domward_operation_duration_seconds_bucket{kind=boot,le=0.05}"] == 2
    assert found["domward_operation_duration_seconds_bucket{kind=boot,le=120.0}"] == 2
    assert found["domward_operation_duration_seconds_bucket{kind=boot,le=+Inf}"] == 3
    assert found["domward_operation_duration_seconds_count{kind=boot}"] == 3
    assert found["domward_operation_duration_seconds_sum{kind=boot}"] == pytest.approx(700.04)
    assert found["domward_operations_live{state=waiting}"] == 3
    assert found["domward_helpers_alive{}"] == 4
    assert found["domward_clients{}"] == 1
    assert found["domward_refusals_total{code=too-many}"] == 1
    assert found["domward_violations_total{source=helper}"] == 1
    assert found["domward_violations_total{source=client}"] == 0
    assert found["domward_process_resident_memory_bytes{process=daemon}"] == 34 << 20
    assert found["domward_process_cpu_seconds_total{process=helpers}"] == 12.25
    assert found["domward_process_open_fds{process=daemon}"] == 40
    assert "domward_process_open_fds{process=helpers}" not in found
    assert found["domward_event_loop_delay_seconds_bucket{le=0.001}"] == 0
    assert found["domward_event_loop_delay_seconds_bucket{le=0.005}"] == 1


def test_what_processes_take_is_what_the_kernel_says() -> None:
    near, far = os.pipe()
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGSTOP)  # what it takes is the same between two looks
        os.close(far)
        os.read(near, 1)
        os._exit(0)
    try:
        os.waitpid(child, os.WUNTRACED)
        found = usage_of("daemon", {"launcher": child, "gone": 2**22 + 1})
        status = Path(f"/proc/{child}/status").read_text()
        assert found.keys() == {"daemon", "helpers", "launcher"}
        assert found["launcher"].memory == 1024 * int(status.split("VmRSS:")[1].split()[0])
        assert found["launcher"].fds == len(os.listdir(f"/proc/{child}/fd"))
        assert found["daemon"].seconds > 0
    finally:
        os.kill(child, signal.SIGCONT)
        os.close(near)
        os.close(far)
        os.waitpid(child, 0)


def test_an_empty_daemons_text_is_read_as_well_as_one_with_odd_labels() -> None:
    assert parsed(Metrics())["domward_helpers_alive{}"] == 4
    metrics = Metrics()
    metrics.refused('odd " \\ \n\x1b')
    assert parsed(metrics)['domward_refusals_total{code=odd " \\ \\x0a\\x1b}'] == 1


def test_the_file_is_whole_at_any_time_and_readable_for_others(tmp_path: Path) -> None:
    path = tmp_path / "domward.prom"
    texts = {"a" * 50_000 + "\n", "b" * 60_000 + "\n"}
    write_textfile(path, min(texts))
    done = threading.Event()

    def write() -> None:
        for _ in range(200):
            for text in texts:
                write_textfile(path, text)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not done.is_set():
            assert path.read_text() in texts
    finally:
        writer.join()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["domward.prom"]


def test_a_folder_that_is_not_there_is_an_error_and_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    with pytest.raises(OperationFailed, match="cannot be written"):
        write_textfile(tmp_path / "none" / "x.prom", "x\n")
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "x.prom").symlink_to(tmp_path / "target")
    write_textfile(tmp_path / "x.prom", "x\n")
    assert (tmp_path / "target").read_text() == "theirs"
    assert (tmp_path / "x.prom").read_text() == "x\n"
