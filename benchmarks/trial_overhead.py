"""Seconds a trial costs beyond its training and evaluation, from the ledger of a finished sweep.

    python benchmarks/trial_overhead.py results/kld

A slot's time between the ends of two trials that follow each other in it, less the epochs of the second: what Tune, the
ledger, the report, loading the data, checkpoints and pictures take together. The first trial of a slot also pays for
Ray's worker process and the import of torch; it is printed apart.
"""

from __future__ import annotations

import statistics
import sys

import raysweep


def main(location: str) -> None:
    sweep = raysweep.open_sweep(location)
    ended = sorted(
        (r for r in sweep.records if r.ended_at and r.started_at and r.epochs), key=lambda r: r.epochs[0].recorded_at
    )
    first, later = [], []
    slots: list[float] = []  # when the last trial of each slot ended
    for record in ended:
        assert record.ended_at
        assert record.started_at
        trained = sum(epoch.metrics.epoch_s for epoch in record.epochs)
        began = record.epochs[0].recorded_at.timestamp() - record.epochs[0].metrics.epoch_s
        free = [end for end in slots if end <= began]
        if free:
            slots.remove(max(free))
            later.append(record.ended_at.timestamp() - max(free) - trained)
        else:
            first.append(record.ended_at.timestamp() - record.started_at.timestamp() - trained)
        slots.append(record.ended_at.timestamp())
    low, median, high = statistics.quantiles(later, n=4)
    epochs = sum(len(record.epochs) for record in ended)
    print(f"{sweep.spec.name}: {len(ended)} trials, {epochs} epochs, {len(slots)} slots")
    print(f"first trial of a slot   {', '.join(f'{value:.2f}' for value in first)} s")
    spread = f"mean {statistics.mean(later):.2f}, quartiles {low:.2f} and {high:.2f} s, n = {len(later)}"
    print(f"each further trial      median {median:.2f} s, {spread}")


if __name__ == "__main__":
    main(*sys.argv[1:])
