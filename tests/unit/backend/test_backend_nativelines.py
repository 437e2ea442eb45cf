"""What libraries write past Python, and what of a start that failed is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from raysweep.backend.connection import _is_late
from raysweep.backend.nativelines import errors_in
from raysweep.backend.raythread import RayProcessDied
from raysweep.backend.startlogs import why_it_ended

LATE = (
    "[2026-11-27 23:54:59,122 C 16742 16742] (raylet) node_manager.cc:3636:  An unexpected system state has occurred. "
    "You have likely discovered a bug in Ray. Please report this issue at https://github.com/ray-project/ray/issues "
    "and we'll work with you to fix it. Check failed: statussetor3636.has_value() Timed out waiting for file "
    "/tmp/ray/runtime_env_agent_port_dc067b\n"
)
WRITES = """
import os, sys
from pathlib import Path
from raysweep.backend.nativelines import errors_said, followed_by, kept_off_the_terminal
native = lambda text: os.write(2, text.encode() + b"\\n")
with kept_off_the_terminal():
    native("[2026-11-27 22:04:32,921 E 1 2] rpc_client.h:153: no answer")
    print("for the person", file=sys.stderr)
    print(errors_said())
    with followed_by(Path("raysweep.log")):
        native("into the log")
    with followed_by(Path("no/such/folder/log")):
        native("nowhere")
    native("kept")
native("at the end")
print("as before", file=sys.stderr)
"""
SAID = """\
[2026-11-27 22:34:24,000 I 30432 30445] (raylet) main.cc:1: starting
[2026-11-27 22:34:24,292 E 30432 30445] (raylet) logging.cc:118: Unhandled exception. what(): Invalid argument \
[system:22] /opt/raylet(+0xff770a) [0x55caa6a4b70a] ray::operator<<()
[2026-11-27 22:34:24,345 E 30432 30445] (raylet) logging.cc:474: *** SIGABRT received at time=1795818864 on cpu 1 ***
[2026-11-27 22:34:24,346 E 30432 30445] (raylet) logging.cc:474: PC: @     0x7f039dca8eec  (unknown)  (unknown)
[2026-11-27 22:34:24,346 E 30432 30445] (raylet) logging.cc:474:     @     0x7f039d666d10  (unknown)  (unknown)
"""


def test_lines_of_libraries_stay_off_the_terminal_and_those_for_the_person_do_not(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITES], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "['no answer']\n"
    assert done.stderr == "for the person\nat the end\nas before\n"
    assert (tmp_path / "raysweep.log").read_text() == "into the log\n"


def test_an_error_of_rays_is_told_without_place_and_stack() -> None:
    assert errors_in(SAID) == ["Unhandled exception. what(): Invalid argument [system:22]"]


def test_a_raylet_that_waited_too_long_for_an_agent_is_late_and_says_what_it_waited_for() -> None:
    """Ray's own deadline of 15 s, after which it calls it a bug of its own (ray-project/ray issue 65983)."""
    (said,) = errors_in(LATE)
    assert said.startswith("Check failed: ")
    assert "Timed out waiting for file /tmp/ray/runtime_env_agent_port" in said
    assert _is_late(RuntimeError("its raylet ended with exit code 1"), said)
    assert not _is_late(RuntimeError("its raylet ended with exit code 1"), "Address already in use")


def test_a_process_that_died_in_a_start_is_told_with_its_last_error_and_where_its_logs_are(tmp_path: Path) -> None:
    (tmp_path / "raylet.err").write_text(SAID)
    (tmp_path / "gcs_server.out").write_text(SAID.replace("Unhandled", "Another"))
    with subprocess.Popen(["/bin/sh", "-c", "exit 3", f"--log_dir={tmp_path}"]) as child:
        child.wait()
    child.args = ["/ray/raylet", f"--log_dir={tmp_path}"]
    told = why_it_ended(RayProcessDied(child), [child], [])
    assert told == (
        "its raylet ended with exit code 3 (Unhandled exception. what(): Invalid argument [system:22])\n"
        f"  its logs: {tmp_path}"
    )


def test_a_failure_without_words_or_logs_is_told_by_its_kind() -> None:
    assert why_it_ended(AssertionError(), [], []) == "AssertionError"
    assert why_it_ended(OSError("no\nroom"), [], ["no space left"]) == "no (no space left)"


def test_a_command_ends_without_what_libraries_report_at_an_interpreters_end(tmp_path: Path) -> None:
    leaks = (
        "import sys, os\nfrom raysweep.cli import command\n"
        "class Leak:\n    def __del__(self, write=os.write): write(2, b'leaked 4 instances!')\n"
        "sys.leak = Leak()\nsys.argv = ['raysweep', *sys.argv[1:]]\ncommand()\n"
    )
    for arguments, code in (("--version",), 0), (("status", "nowhere"), 2):
        done = subprocess.run(
            [sys.executable, "-c", leaks, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )  # fmt: skip
        assert done.returncode == code
        assert "leaked" not in done.stderr
        assert "raysweep" in done.stdout + done.stderr
