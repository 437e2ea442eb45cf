"""Rivals as searchers, each driven through the public methods of its own classes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna

from raysweep.spec.sections import Asha, SweepSpec
from raysweep.spec.space import Choices, field_kind, optuna_distribution
from searching.problems import cube_size, from_cube
from searching.simulation import Job, Searcher


def _asha_of(spec: SweepSpec) -> Asha:
    assert spec.asha is not None, "the space has rungs, which the rivals are given too"
    return spec.asha


class RayTune:
    """Ray Tune: a searcher and ASHAScheduler, told what Tune's controller tells them, in its order."""

    def __init__(self, spec: SweepSpec, seed: int, searcher: str, **scheduler: Any) -> None:
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._max_epochs = spec.max_epochs
        space = {name: optuna_distribution(name, d) for name, d in spec.trial.searched.items()}
        sampler = optuna.samplers.RandomSampler(seed=seed) if searcher == "random" else None
        self._search = OptunaSearch(space, metric="value", mode="max", sampler=sampler, seed=None if sampler else seed)
        self._scheduler = ASHAScheduler(metric="value", mode="max", max_t=spec.max_epochs, **scheduler)
        self._trials: dict[int, Any] = {}

    def next_job(self) -> Job | None:
        number = len(self._trials)
        point = self._search.suggest(str(number))
        trial = SimpleNamespace(trial_id=str(number), status="RUNNING")
        self._trials[number] = trial
        self._scheduler.on_trial_add(None, trial)
        return Job(number, dict(point))

    def report(self, trial: int, epoch: int, value: float) -> bool:
        known = self._trials[trial]
        result = {"training_iteration": epoch, "value": value, "trial_id": known.trial_id}
        decision = "STOP" if epoch >= self._max_epochs else self._scheduler.on_trial_result(None, known, result)
        if decision != "STOP":
            self._search.on_trial_result(known.trial_id, result)
            return True
        self._scheduler.on_trial_complete(None, known, result)
        self._search.on_trial_complete(known.trial_id, result)
        return False

    def close(self) -> None:
        pass


class Optuna:
    """Optuna by itself: a study with a sampler and a pruner, asked and told as its optimise loop does."""

    def __init__(
        self, spec: SweepSpec, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._max_epochs = spec.max_epochs
        self._space = {name: optuna_distribution(name, d) for name, d in spec.trial.searched.items()}
        self._study = optuna.create_study(sampler=sampler, pruner=pruner, direction="maximize")
        self._trials: dict[int, optuna.Trial] = {}

    def next_job(self) -> Job | None:
        trial = self._study.ask(self._space)
        self._trials[trial.number] = trial
        return Job(trial.number, dict(trial.params))

    def report(self, trial: int, epoch: int, value: float) -> bool:
        known = self._trials[trial]
        known.report(value, epoch)
        if epoch >= self._max_epochs:
            self._study.tell(known, value)
            return False
        if known.should_prune():
            self._study.tell(known, state=optuna.trial.TrialState.PRUNED)
            return False
        return True

    def close(self) -> None:
        pass


class SyneTune:
    """Syne Tune's BOHB, which is its ASHA with a searcher of kernel densities: `pip install syne-tune`."""

    def __init__(self, spec: SweepSpec, seed: int) -> None:
        from syne_tune.backend.trial_status import Trial  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from syne_tune.optimizer.baselines import BOHB  # type: ignore[import-not-found, import-untyped, unused-ignore]

        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        self._make_trial = Trial
        self._scheduler = BOHB(
            _syne_space(spec), "value", "epoch", spec.max_epochs, do_minimize=False, random_seed=seed,
            **_with_our_rungs(spec),
        )  # fmt: skip
        self._trials: dict[int, Any] = {}

    def next_job(self) -> Job | None:
        suggestion = self._scheduler.suggest()
        if suggestion is None:
            return None
        trial = self._make_trial(len(self._trials), suggestion.config, datetime.now(UTC))
        self._trials[trial.trial_id] = trial
        self._scheduler.on_trial_add(trial)
        return Job(trial.trial_id, dict(trial.config))

    def report(self, trial: int, epoch: int, value: float) -> bool:
        known, result = self._trials[trial], {"epoch": epoch, "value": value}
        if self._scheduler.on_trial_result(known, result) == "CONTINUE":
            return True
        self._scheduler.on_trial_complete(known, result)
        return False

    def close(self) -> None:
        pass


def _syne_space(spec: SweepSpec) -> dict[str, Any]:
    """Return the space in Syne Tune's terms."""
    from syne_tune import config_space as syne  # type: ignore[import-not-found, import-untyped, unused-ignore]

    space = {}
    for name, searched in spec.trial.searched.items():
        if isinstance(searched, Choices):
            space[name] = syne.choice(list(searched.choices))
        elif field_kind(name) == "int":
            space[name] = (syne.lograndint if searched.log else syne.randint)(int(searched.low), int(searched.high))
        else:
            space[name] = (syne.loguniform if searched.log else syne.uniform)(float(searched.low), float(searched.high))
    return space


class Random:
    """Random points trained to their end."""

    def __init__(self, spec: SweepSpec, seed: int) -> None:
        self._space, self._max_epochs = spec.trial, spec.max_epochs
        self._rng = np.random.default_rng((seed, 1))
        self._asked = 0

    def next_job(self) -> Job | None:
        self._asked += 1
        return Job(self._asked - 1, from_cube(self._space, self._rng.random(cube_size(self._space))))

    def report(self, trial: int, epoch: int, value: float) -> bool:
        return epoch < self._max_epochs

    def close(self) -> None:
        pass


class FirstEpoch(Random):
    """Random points for one epoch each; of every `max_epochs` the best goes on to its end."""

    def __init__(self, spec: SweepSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self._points: dict[int, Job] = {}
        self._first: dict[int, float] = {}
        """Results of the present group."""
        self._chosen: list[Job] = []

    def next_job(self) -> Job | None:
        if self._chosen:
            return self._chosen.pop()
        job = super().next_job()
        assert job is not None
        self._points[job.trial] = job
        return job

    def report(self, trial: int, epoch: int, value: float) -> bool:
        if epoch > 1:
            return epoch < self._max_epochs
        self._first[trial] = value
        if len(self._first) == self._max_epochs:
            best = max(self._first, key=lambda number: self._first[number])
            self._chosen.append(self._points[best]._replace(epochs_done=1))
            self._first = {}
        return False


def _halving(spec: SweepSpec) -> optuna.pruners.BasePruner:
    asha = _asha_of(spec)
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=asha.grace_epochs, reduction_factor=asha.reduction_factor
    )


def _hyperband(spec: SweepSpec) -> optuna.pruners.BasePruner:
    return optuna.pruners.HyperbandPruner(
        min_resource=1, max_resource=spec.max_epochs, reduction_factor=_asha_of(spec).reduction_factor
    )


def _with_our_rungs(spec: SweepSpec) -> dict[str, Any]:
    asha = _asha_of(spec)
    return {"grace_period": asha.grace_epochs, "reduction_factor": asha.reduction_factor}


RIVALS: dict[str, Callable[[SweepSpec, int], Searcher]] = {
    "random": Random,
    "random, first epoch": FirstEpoch,
    "random + Ray ASHA": lambda spec, seed: RayTune(spec, seed, "random", **_with_our_rungs(spec)),
    "OptunaSearch + ASHA": lambda spec, seed: RayTune(spec, seed, "tpe"),
    "OptunaSearch + ASHA, our rungs": lambda spec, seed: RayTune(spec, seed, "tpe", **_with_our_rungs(spec)),
    "Optuna TPE + halving": lambda spec, seed: Optuna(spec, optuna.samplers.TPESampler(seed=seed), _halving(spec)),
    "Optuna TPE + Hyperband": lambda spec, seed: Optuna(spec, optuna.samplers.TPESampler(seed=seed), _hyperband(spec)),
    "Optuna GP + halving": lambda spec, seed: Optuna(spec, optuna.samplers.GPSampler(seed=seed), _halving(spec)),
    "Syne Tune BOHB": SyneTune,
}
"""By name; each is made from a space and a seed."""
