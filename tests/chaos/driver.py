"""One life of a driver: the real command in a process group of its own, and the journal that it writes, read along."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

CREATE_STUDY_ATTRIBUTE, CREATE_TRIAL, END_TRIAL, TRIAL_ATTRIBUTE = 2, 4, 6, 8
"""Optuna's codes of the journal's lines that matter here."""


class Journal:
    """The lines of a sweep's journal as they come, counted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.epochs = 0
        """Epochs in the journal."""
        self.created = 0
        """Trials that the sampler has been asked for."""
        self.ended: set[int] = set()
        """Trials that have ended."""
        self.tested: set[str] = set()
        """Finalists with final metrics."""

    def read(self) -> bool:
        """Takes the whole lines that are new; whether there were any."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return False
        end = content.rfind(b"\n") + 1
        for line in content[:end].splitlines():
            entry = json.loads(line)
            if entry["op_code"] == CREATE_TRIAL:
                self.created += 1
            elif entry["op_code"] == END_TRIAL and entry["state"] in (1, 2, 3):
                self.ended.add(entry["trial_id"])
            elif entry["op_code"] == TRIAL_ATTRIBUTE:
                self.epochs += sum(key.startswith("epoch:") for key in entry["user_attr"])
            elif entry["op_code"] == CREATE_STUDY_ATTRIBUTE:
                self.tested |= {key for key in entry["user_attr"] if key.startswith("tested:")}
        self._offset += end
        return end > 0


def _on_two_cores() -> None:
    """As many slots on each machine, so that what a setting is meant to do it does."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


class Driver:
    """`raysweep` with these arguments, its output in a file."""

    def __init__(self, arguments: list[str], cwd: Path, output: Path, environment: Mapping[str, str]) -> None:
        self._output = output
        self.arguments = arguments
        self.started = time.monotonic()
        with open(output, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "raysweep.cli", *arguments],
                cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                env=dict(environment), preexec_fn=_on_two_cores,
            )  # fmt: skip
        self.spoke: float | None = None
        """When its first words were seen."""

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def is_alive(self) -> bool:
        if self.spoke is None and self._output.stat().st_size:
            self.spoke = time.monotonic()
        return self.process.poll() is None

    def signal(self, number: signal.Signals, group: bool) -> bool:
        """Sends a signal, to the whole process group if so wanted; False if the driver is gone already."""
        if self.process.poll() is not None:
            return False
        (os.killpg if group else os.kill)(self.process.pid, number)
        return True

    def kill(self) -> bool:
        """Kills the driver alone, with -9."""
        if self.process.poll() is not None:
            return False
        self.process.kill()
        return True
