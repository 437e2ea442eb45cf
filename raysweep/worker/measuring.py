"""The work of a finalist's process: to measure its final metrics and report them to the driver.

It is a separate module, so that the process imports nothing that only a driver needs.
"""

from __future__ import annotations

import logging
import socket
import traceback

from raysweep.clock import PartClock
from raysweep.errors import StorageError
from raysweep.messages import TestOrder, TestReport
from raysweep.profiles import SlotPart
from raysweep.storage.layout import SweepDirectory
from raysweep.worker.process import Notes, ending_hangs


def measure(order: TestOrder) -> TestReport:
    """Measure the final metrics of one trial. An exception becomes a report, too, with its traceback."""
    clock = PartClock(SlotPart.TEST)
    notes, node = Notes(), socket.gethostname()
    log = logging.getLogger("raysweep")
    log.addHandler(notes)
    try:
        with clock.at(SlotPart.IMPORTS):
            from raysweep.worker import warm

            warm.require()
            import torch

            from raysweep.bucket.trialfiles import with_trial_files
            from raysweep.worker.finals import measure_trial

        torch.set_num_threads(order.threads)
        with ending_hangs(order.timeout_s, SweepDirectory(order.directory).hang(order.number)):
            with with_trial_files(order) as here:
                metrics = measure_trial(here)
            return TestReport(metrics, node, notes=notes.take(), spent=clock.spent())
    except StorageError as error:
        return TestReport(None, node, cause=str(error), notes=notes.take(), storage_failed=True)
    except Exception as error:  # noqa: BLE001 (whatever measuring raises is its result, traceback included)
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        return TestReport(None, node, cause=cause, error=traceback.format_exc(), notes=notes.take())
    finally:
        log.removeHandler(notes)
