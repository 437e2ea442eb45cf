"""What is missing in a cluster file: looked up there and on this machine, without a network, credentials or Ray."""

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
    """What the file cannot say and a person has to know: what costs money all the time, what is to be done by hand."""


def check_cluster_file(path: str | Path) -> Checked:
    """Looks for everything that is missing or wrong in a cluster file.

    Raises:
        SpecError: with all of it, one line each: where, what was found, what is wanted, what to type.
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
    if file.kind is not Kind.KUBERNETES:  # whose operator makes the token
        _check_token(file)
    if file.faults:
        faults = sorted(set(file.faults))
        raise SpecError(str(path), faults, f"Correct it, then type: raysweep cluster check {path}")
    return Checked(file, tuple(reminders))


def installed_ray() -> str:
    """Version of the Ray beside raysweep on this machine, whose `ray up` is to read the file."""
    try:
        return version("ray")
    except PackageNotFoundError:  # pragma: no cover (raysweep requires it)
        return "none"


def _check_placeholders(file: ClusterFile) -> None:
    """Whatever is still to be filled in; comments may keep theirs."""
    if file.kind is Kind.SLURM:
        for number, line in enumerate(file.text.split("\n"), 1):
            if line.startswith("#SBATCH") or not line.lstrip().startswith("#"):
                for found in dict.fromkeys(PLACEHOLDER.findall(line)):
                    file.add_line(number, "", f"{found} is still to be filled in")
        return
    for beside in sorted(file.path.parent.glob(f"{file.path.stem}-*.json")):  # policies, which go by the same values
        for found in dict.fromkeys(PLACEHOLDER.findall(beside.read_text(errors="replace"))):
            file.add_line(0, "", f"{beside}: {found} is still to be filled in")
    for place, text in file.texts():
        for found in dict.fromkeys(PLACEHOLDER.findall(text)):
            file.faults.append(Fault(place.line, place.key, f"{found} is still to be filled in"))


def _check_token(file: ClusterFile) -> None:
    """The token that the cluster is to answer to: on this machine, and readable by nobody else."""
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
