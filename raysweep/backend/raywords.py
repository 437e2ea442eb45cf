"""The fault and the reason in Ray's message about a process that ended without a report of its own."""

from __future__ import annotations

import re

from raysweep.messages import TrialFault

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RAISED = re.compile(r"^(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|NotFound|Warning)\b.*$", re.MULTILINE)
"""The last line of a traceback: an exception's name and its message."""
_IN_BEING_MADE = (
    "in its creation task",
    "failed to import on the worker",
    "failed to be imported",
)
_EXIT_CODE = re.compile(r"exit code[: ]+(-?\d+)|exited with code (-?\d+)")


def plain(text: str) -> str:
    """Return Ray's text without terminal colours."""
    return _COLOUR.sub("", text)


def what_happened(error: str) -> tuple[TrialFault, str]:
    """Return why a process is gone, from Ray's error text.

    If an import failed while the process was made, it is tried once more, not four times: it fails in the same way
    again, unless another machine has what this one lacks.
    """
    text = plain(error)
    if "low on memory" in text:
        return TrialFault.OUT_OF_MEMORY, "its machine ran out of memory, and its process was ended"
    if "node has died" in text:
        return TrialFault.NODE_LOSS, "its machine was lost"
    raised = _RAISED.findall(text)
    own = [line for line in raised if not line.startswith("ray.exceptions.")]
    if any(words in text for words in _IN_BEING_MADE) and (own or raised):
        return TrialFault.EXCEPTION, f"its process could not be made: {(own or raised)[-1].strip()}"
    code = _EXIT_CODE.search(text)
    return TrialFault.DEATH, "its process died" + (f" with exit code {code.group(1) or code.group(2)}" if code else "")
