"""Progress of a build, its messages, and stopping it with Ctrl-C."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace

import pytest

from sparsesam_deploy.engines import builder as builder_module
from sparsesam_deploy.engines.monitor import Messages, logger_into, make_monitor, plain, run_cancellable

from .graphs import build, chain, silent

pytest.importorskip("tensorrt_rtx")


def test_everybody_who_listens_hears_everything_for_as_long_as_they_do():
    """TensorRT keeps the first logger it is given: one that served the latest listener only would leave others deaf."""
    import tensorrt_rtx as trt

    first, second = Messages(), Messages()
    logger = logger_into(trt, first)
    assert logger_into(trt, second) is logger
    logger.log(trt.ILogger.Severity.ERROR, "no memory")
    assert first.reason() == second.reason() == "no memory"
    assert first.reason() == "it gave no reason"  # of a later step
    del second
    logger.log(trt.ILogger.Severity.WARNING, "slow")
    assert list(first.warnings) == ["slow"] and list(logger.listeners) == [first]


def test_progress_of_nested_phases():
    monitor = make_monitor(SimpleNamespace(IProgressMonitor=object))
    shares = []
    for event in (
        ("phase_start", "Building", None, 4),
        ("step_complete", "Building", 0),
        ("phase_start", "Timing", "Building", 2),
        ("step_complete", "Timing", 0),
        ("step_complete", "Timing", 1),
        ("phase_finish", "Timing"),
        ("phase_start", "Refitting", "Building", 2),
        ("step_complete", "Refitting", 0),  # a second phase in the same step does not take the first one's share back
        ("step_complete", "unheard of", 0),
        ("step_complete", "Building", 3),
        ("phase_finish", "Building"),
        ("phase_start", "Serializing", None, 2),
        ("step_complete", "Serializing", 0),
    ):
        name, *arguments = event
        assert getattr(monitor, name)(*arguments) in (None, True)
        shares.append(monitor.share)
    assert shares == [0, 0.25, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 0.5, 1, 1, 0, 0.5]
    assert monitor.words == "Serializing"


def interrupt_main_thread(share, words):
    if words not in ("", "reading the graph"):
        signal.raise_signal(signal.SIGINT)


def raise_value_error(share, words):
    if words not in ("", "reading the graph"):
        raise ValueError("the progress bar broke")


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("advance", "error"),
    [(interrupt_main_thread, KeyboardInterrupt), (raise_value_error, ValueError)],
    ids=["ctrl-c", "broken progress bar"],
)
def test_an_interrupted_build_is_cancelled(tmp_path, monkeypatch, advance, error):
    plans = []

    def spy(work, monitor, advance):
        return run_cancellable(lambda: plans.append(work()), monitor, advance)

    monkeypatch.setattr(builder_module, "run_cancellable", spy)
    with pytest.raises(error):
        build(chain(100), tmp_path, advance=advance)
    assert plans == [None]  # the builder gave up: a build that merely went on to its end would have left a plan
    assert not [thread for thread in threading.enumerate() if thread.name == "engine build"]


def test_an_error_inside_the_build_thread_is_raised_here():
    def fail():
        raise MemoryError("no memory")

    with pytest.raises(MemoryError, match="no memory"):
        run_cancellable(fail, SimpleNamespace(share=0.0, words=""), silent)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (ITopKLayer n: K exceeds the maximum "
            "value allowed (3840). In processCheck at /_src/a.cpp:1066 In analyzeShapes at /_src/b.cpp:2825)",
            "ITopKLayer n: K exceeds the maximum value allowed (3840)",
        ),
        ('Assertion failed: mode == "none": not supported.', 'mode == "none": not supported'),
        ("[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/c.cpp:2)", ""),
        ("two\n lines", "two lines"),
        ("x" * 400, "x" * 299 + "…"),
    ],
    ids=["error code", "assertion", "absent driver", "lines", "long"],
)
def test_messages_become_one_plain_line(message, sentence):
    assert plain(message) == sentence
