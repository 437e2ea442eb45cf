"""A batch script of Slurm that starts Ray on all nodes of a job."""

from __future__ import annotations

import re

from raysweep.cluster.files import ClusterFile


def check_script(file: ClusterFile) -> list[str]:
    """Adds to a file whatever is missing in it; what to remember if nothing is."""
    lines = file.text.splitlines()
    first = next(
        (n for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")), len(lines)
    )
    options = {}
    for number, line in enumerate(lines, 1):
        if found := re.match(r"#SBATCH\s+--([\w-]+)(?:[= ](\S+))?", line):
            options[found[1]] = found[2] or ""
            if number > first:
                file.add_line(number, f"--{found[1]}", "stands behind the first command, where Slurm reads it no more")
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
