"""Watching a TensorRT build: its messages, its progress, and stopping it with Ctrl-C.

TensorRT's base classes live in the builder's module, so the watchers are made by functions that take that module.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar
from weakref import WeakSet

from ..progress import Advance

T = TypeVar("T")
POLL_SECONDS = 0.05
MOST_MESSAGES = 1000
_EXPECTED = "already exists, the output tensors of this new instance"
"""RTX's parser warns of every second call of a function, whose nodes keep their names; nothing here queries them."""


@dataclass(eq=False)
class Messages:
    """What TensorRT said since this was made, each message on one line; the oldest are dropped."""

    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_MESSAGES))
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_MESSAGES))

    def reason(self) -> str:
        """Why a step just failed: the error that is logged last is the outermost, complete one. Forgets all errors."""
        reason = self.errors[-1] if self.errors else "it gave no reason"
        self.errors.clear()
        return reason


def plain(message: str) -> str:
    """A builder's message without source locations and error-code wrapping, on one line of at most 300 characters.

    Empty for the complaint about an absent CUDA driver that TensorRT-RTX adds to every error on a machine without one.
    """
    text = " ".join(" ".join(line for line in message.splitlines() if "catchCudaError" not in line).split())
    text = re.sub(r"\s*\(?\bIn \w+ at /\S+?:\d+", "", text)
    text = re.sub(r"^.*?Error Code \d+: [^(]*\((.*)\)$", r"\1", text)
    text = re.sub(r"^\[[^]]*] |^\S+\.[ch]pp:\d+: |^Assertion failed: ", "", text).strip(" .")
    return text if len(text) <= 300 else text[:299] + "…"


def logger_into(trt: ModuleType, messages: Messages) -> Any:
    """The process's ``ILogger`` for this library, which tells ``messages`` too, for as long as they are held.

    There is one because TensorRT goes on using the first it was given for as long as anything lives that it made; so
    everybody who listens hears of everything.
    """
    if trt.ILogger not in _LOGGERS:
        _LOGGERS[trt.ILogger] = _make_logger(trt)
    _LOGGERS[trt.ILogger].listeners.add(messages)
    return _LOGGERS[trt.ILogger]


_LOGGERS: dict[type, Any] = {}


def _make_logger(trt: ModuleType) -> Any:
    interface: Any = trt.ILogger
    severity = interface.Severity
    kinds = {severity.INTERNAL_ERROR: "errors", severity.ERROR: "errors", severity.WARNING: "warnings"}

    class Logger(interface):
        """Prints nothing."""

        def __init__(self) -> None:
            interface.__init__(self)
            self.listeners: WeakSet[Messages] = WeakSet()

        def log(self, level: Any, message: str) -> None:
            if level in kinds and (text := plain(message)) and _EXPECTED not in text:
                for messages in tuple(self.listeners):
                    getattr(messages, kinds[level]).append(text)

    return Logger()


@dataclass
class _Phase:
    """What TensorRT reports of a phase; ``finished`` counts steps."""

    parent: str | None
    num_steps: int
    finished: int = 0


def make_monitor(trt: ModuleType) -> Any:
    """An ``IProgressMonitor`` with ``share`` (0 to 1), ``words``, and ``cancel()``: the build ends at its next step.

    TensorRT reports nested phases, from several threads; a phase's share is that of its finished steps plus that of
    the phase running inside the current step.
    """

    interface: Any = trt.IProgressMonitor

    class Monitor(interface):
        def __init__(self) -> None:
            interface.__init__(self)
            self.share, self.words = 0.0, ""
            self._phases: dict[str, _Phase] = {}
            self._lock = threading.Lock()
            self._cancelled = False

        def cancel(self) -> None:
            self._cancelled = True

        def phase_start(self, name: str, parent: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[name] = _Phase(parent, num_steps)
                self.words = name
                if parent is None:
                    self.share = 0.0

        def step_complete(self, name: str, step: int) -> bool:
            with self._lock:
                if name in self._phases:
                    self._phases[name].finished = step + 1
                    self._update()
            return not self._cancelled

        def phase_finish(self, name: str) -> None:
            with self._lock:
                self._phases.pop(name, None)

        def _update(self) -> None:
            shares: dict[str | None, float] = {}
            for name, phase in reversed(self._phases.items()):  # inner phases start later
                share = min(1.0, (phase.finished + shares.get(name, 0.0)) / phase.num_steps)
                shares[phase.parent] = max(share, shares.get(phase.parent, 0.0))
            self.share = max(self.share, shares.get(None, 0.0))

    return Monitor()


def run_cancellable(work: Callable[[], T], monitor: Any, advance: Advance) -> T:
    """Run ``work`` in a thread of its own, report ``monitor``'s progress from this one, and return the result.

    Python delivers Ctrl-C to the main thread, and TensorRT's bindings swallow what is raised inside a callback. So the
    main thread stays outside the builder: whatever is raised here while it waits, ``KeyboardInterrupt`` above all,
    cancels the build and then leaves as it came.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="engine build", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            advance(monitor.share, monitor.words)
    except BaseException:
        monitor.cancel()
        thread.join()
        raise
    if failures:
        raise failures[0]
    return results[0]
