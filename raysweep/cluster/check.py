"""The check of a cluster file: it reads the file and this machine only, without network, credentials or Ray."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from raysweep.cluster.files import PLACEHOLDER, ClusterFile, Kind, read_cluster_file
from raysweep.cluster.kubernetes import check_job
from raysweep.cluster.launcher import check_launcher
from raysweep.cluster.slurm import check_script
from raysweep.errors import Fault, SpecError
from raysweep.storage.home import expanded


@dataclass(frozen=True)
class Checked:
    """A file in which nothing is missing."""

    file: ClusterFile
    reminders: tuple[str, ...]
    """Notes for users beside the faults: what costs money all the time, and what they must do by hand."""


def check_cluster_file(path: str | Path) -> Checked:
    """Look for everything that is missing or wrong in a cluster file.

    Raises:
        SpecError: with all faults, one line each: where, what was found, what is wanted, what to type.
    """
    file = read_cluster_file(path)
    _check_placeholders(file)
    match file.kind:
        case Kind.LAUNCHER:
            reminders = check_launcher(file, installed_ray())
        case Kind.KUBERNETES:
            reminders = check_job(file, installed_ray())
        case Kind.SLURM:
            reminders = check_script(file)
    if file.kind is not Kind.KUBERNETES:  # there the operator makes the token
        _check_token(file)
    if file.faults:
        faults = sorted(set(file.faults))
        raise SpecError(str(path), faults, f"Correct it, then type: raysweep cluster check {path}")
    return Checked(file, tuple(reminders))


def installed_ray() -> str:
    """Return the version of the Ray on this machine; its `ray up` will read the file."""
    try:
        return version("ray")
    except PackageNotFoundError:  # pragma: no cover (raysweep requires it)
        return "none"


def _check_placeholders(file: ClusterFile) -> None:
    """Add a fault for each placeholder that is still to be filled in; comments may keep theirs."""
    if file.kind is Kind.SLURM:
        for number, line in enumerate(file.text.split("\n"), 1):
            if line.startswith("#SBATCH") or not line.lstrip().startswith("#"):
                for found in dict.fromkeys(PLACEHOLDER.findall(line)):
                    file.add_line(number, "", f"{found} is still to be filled in")
        return
    for beside in sorted(file.path.parent.glob(f"{file.path.stem}-*.json")):  # policies, which need the same values
        for found in dict.fromkeys(PLACEHOLDER.findall(beside.read_text(errors="replace"))):
            file.add_line(0, "", f"{beside}: {found} is still to be filled in")
    for place, text in file.texts():
        for found in dict.fromkeys(PLACEHOLDER.findall(text)):
            file.faults.append(Fault(place.line, place.key, f"{found} is still to be filled in"))


def _check_token(file: ClusterFile) -> None:
    """Check the token of the cluster: it must be on this machine, and nobody else may read it."""
    path = expanded(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token")
    try:
        status = path.stat()
    except OSError:
        file.add_line(
            0, "", f"{path}: there is no token for the cluster; type: ray get-auth-token --generate && chmod 600 {path}"
        )
        return
    if status.st_size == 0:
        file.add_line(
            0, "", f"{path}: is empty; remove it, then type: ray get-auth-token --generate && chmod 600 {path}"
        )
    elif status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        file.add_line(
            0, "", f"{path}: other users can read it (mode {stat.S_IMODE(status.st_mode):o}); type: chmod 600 {path}"
        )
