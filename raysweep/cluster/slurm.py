"""Rules for a batch script of Slurm that starts Ray on all nodes of a job."""

from __future__ import annotations

import re
import shlex

from raysweep.cluster.files import ClusterFile
from raysweep.storage.plaintext import unseen

SHORT = {"N": "nodes", "t": "time"}
"""One-letter names of options, which sbatch accepts too."""


def check_script(file: ClusterFile) -> list[str]:
    """Add a fault to a file for whatever is missing in it; return what to remember if nothing is."""
    _check_characters(file)
    lines = [line.rstrip("\r") for line in file.text.lstrip("\ufeff").split("\n")]
    first = next(
        (n for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")), len(lines)
    )
    options = {}
    for number, line in enumerate(lines, 1):
        if found := re.match(r"#SBATCH[ \t]+(?:--([\w-]+)(?:[= \t]+(\S+))?|-([A-Za-z])[= \t]*(\S+))", line, re.ASCII):
            name = found[1] or SHORT.get(found[3], found[3])
            options[name] = found[2] or found[4] or ""
            if number > first:
                file.add_line(number, f"--{name}", "stands behind the first command, where Slurm reads it no more")
    commands = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")

    def want(condition: object, key: str, message: str) -> None:
        if not condition:
            file.add_line(0, key, message)

    want(options.get("nodes"), "--nodes", "is missing; wanted: on how many nodes the sweep is to run")
    want(options.get("time"), "--time", "is missing; wanted: the time limit, longer than the sweep's time budget")
    want(
        options.get("ntasks-per-node") == "1", "--ntasks-per-node",
        f"is {options.get('ntasks-per-node') or 'missing'}; wanted: 1, for one Ray a node",
    )  # fmt: skip
    want(
        "exclusive" in options, "--exclusive",
        "is missing: Ray takes all cores that a node has, and its port 6379; wanted: #SBATCH --exclusive",
    )  # fmt: skip
    want(
        re.search(r"RAY_AUTH_MODE=['\"]?token\b", commands), "RAY_AUTH_MODE",
        "Ray would answer to every user of the nodes; wanted: export RAY_AUTH_MODE=token",
    )  # fmt: skip
    started = re.search(r"\bsrun\b.*\bray symmetric-run\b(.*?)\s--\s(.*)", commands)
    want(started, "srun", "wanted: srun ray symmetric-run --address HOST:PORT --min-nodes N -- raysweep ...")
    if started:
        want(
            "--min-nodes" in started[1], "--min-nodes",
            'is missing: the sweep would begin on the first node alone; wanted: --min-nodes "$SLURM_JOB_NUM_NODES"',
        )  # fmt: skip
        want(
            "RAY_ADDRESS=" in started[2], "RAY_ADDRESS",
            "raysweep would start a Ray of its own on the first node; wanted: env RAY_ADDRESS=HOST:PORT raysweep ...",
        )  # fmt: skip
    want(
        re.search(r"RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=\d+", commands), "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT",
        "is missing: nodes that take more than 30 s to import Ray would end the job; wanted: export it as 300",
    )  # fmt: skip
    return ["the results have to be in a directory that all nodes share under one path, or in a bucket"]


def _check_characters(file: ClusterFile) -> None:
    """Add faults for invisible characters that sbatch or bash refuses or misreads: line ends, marks, false blanks."""
    text, path = file.text, shlex.quote(str(file.path))
    if text.startswith("\ufeff"):
        file.add_line(
            1, "", "begins with a byte order mark, before which sbatch does not see #!; type: "
            f"sed -i '1s/^\\xEF\\xBB\\xBF//' {path}",
        )  # fmt: skip
    elif not text.startswith("#!"):
        file.add_line(1, "", "sbatch wants #! as the first two characters; remove what stands before it")
    if "\r" in text:
        first = text.count("\n", 0, text.index("\r")) + 1
        message = "ends as lines of Windows do (CR LF), which sbatch refuses; type: sed -i 's/\\r$//'"
        file.add_line(first, "", f"{message} {path}")
    for number, line in enumerate(text.lstrip("\ufeff").split("\n"), 1):
        if line.startswith("#SBATCH") or not line.lstrip().startswith("#"):
            for _, name in unseen(line):
                file.add_line(number, "", f"has a {name}, which is no blank; type a blank in its place")
                break
