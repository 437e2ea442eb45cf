"""Why a process is gone, from what Ray writes of it."""

from __future__ import annotations

import pytest

from raysweep.backend.raywords import plain, what_happened
from raysweep.messages import TrialFault

NOT_MADE = """\
Failure # 1 (occurred at 2026-11-27_23-05-44)
The actor died because of an error raised in its creation task, \x1b[36mray::ResourceTrainable.__init__()\x1b[39m (pid=1
  At least one of the input arguments for this task could not be computed:
ray.exceptions.RaySystemError: System error: libsomething.so.3: cannot open shared object file
traceback: Traceback (most recent call last):
  File "site/loader.py", line 8, in find_spec
    raise ImportError("libsomething.so.3: cannot open shared object file")
ImportError: libsomething.so.3: cannot open shared object file
"""
NOT_IMPORTED = """\
RuntimeError: The actor with name TrialActor failed to import on the worker. This may be because needed library \
dependencies are not installed in the worker environment:

Traceback (most recent call last):
  File "/home/me/sweeps/tabulate.py", line 1, in <module>
ModuleNotFoundError: No module named 'tabulate.version'; 'tabulate' is not a package
"""
KILLED = """\
The actor died unexpectedly before finishing this task.
\tclass_name: TrialActor
\tpid: 4711
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed \
by the OOM killer due to high memory usage, (2) ray stop --force was called
"""


@pytest.mark.parametrize(
    ("text", "fault", "cause"),
    [
        (NOT_MADE, TrialFault.EXCEPTION,
         "its process could not be made: ImportError: libsomething.so.3: cannot open shared object file"),
        (NOT_IMPORTED, TrialFault.EXCEPTION,
         "its process could not be made: ModuleNotFoundError: No module named 'tabulate.version'; 'tabulate' is not a "
         "package"),
        (KILLED, TrialFault.DEATH, "its process died"),
        ("", TrialFault.DEATH, "its process died"),
        ("Worker exit detail: exit code 137", TrialFault.DEATH, "its process died with exit code 137"),
        ("Task was killed due to the node running low on memory.", TrialFault.OUT_OF_MEMORY,
         "its machine ran out of memory, and its process was ended"),
        ("The actor died because its node has died.", TrialFault.NODE_LOSS, "its machine was lost"),
    ],
)  # fmt: skip
def test_the_reason_is_in_the_cause(text: str, fault: TrialFault, cause: str) -> None:
    assert what_happened(text) == (fault, cause)


def test_what_goes_into_a_log_has_no_colours() -> None:
    assert plain(NOT_MADE).splitlines()[1].endswith(", ray::ResourceTrainable.__init__() (pid=1")
