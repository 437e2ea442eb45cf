"""The finalists on the test split: tasks on Ray with a trial's resources, after all trials have ended.

Which trials these are is a function of the ledger, so a session that is cut short here leaves the others to `resume`.
"""

from __future__ import annotations

import logging
import socket
import traceback
from typing import Any

import ray
from ray.exceptions import RayError

from raysweep.errors import StorageError
from raysweep.search.exchange import TestOrder, TestReport
from raysweep.search.session import Session

POLL_S = 0.1


def run_tests(session: Session) -> None:
    """Measures every finalist of the session that has no final metrics yet; returns when it is over.

    A spent time budget does not keep finalists from being measured; any other stop does.
    """
    waiting = session.to_test()
    running: dict[Any, int] = {}
    measure = ray.remote(_measure).options(num_cpus=session.slots.cpu, num_gpus=session.slots.gpu, max_retries=3)
    while waiting or running:
        if session.should_stop_testing():
            for task in running:
                ray.cancel(task, force=True)
            return
        while waiting and len(running) < session.slots.count:
            number = waiting.pop(0)
            running[measure.remote(session.test_order(number))] = number
        done, _ = ray.wait(list(running), timeout=POLL_S)
        for task in done:
            number = running.pop(task)
            try:
                report = ray.get(task)
            except RayError as error:
                cause = f"its worker process died: {type(error).__name__}"
                report = TestReport(None, "?", cause=cause, error=str(error))
            session.receive_tested(number, report)
        session.tick()


def _measure(order: TestOrder) -> TestReport:
    """The final metrics of one trial; an exception is a report too, with its traceback."""
    import torch

    from raysweep.search.finals import measure_trial
    from raysweep.search.trial import Notes

    notes = Notes()
    log = logging.getLogger("raysweep")
    log.addHandler(notes)
    torch.set_num_threads(order.threads)
    node = socket.gethostname()
    try:
        return TestReport(measure_trial(order), node, notes=notes.take())
    except StorageError as error:
        return TestReport(None, node, cause=str(error), notes=notes.take(), storage_failed=True)
    except Exception as error:  # noqa: BLE001 (whatever measuring raises is its result, traceback included)
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        return TestReport(None, node, cause=cause, error=traceback.format_exc(), notes=notes.take())
    finally:
        log.removeHandler(notes)
