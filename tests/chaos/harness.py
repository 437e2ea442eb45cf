"""Real sweeps on real Ray, interrupted at seeded moments and resumed until they are done; what became of each."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import raysweep
from tests.chaos import processes
from tests.chaos.comparison import compare, repeated_epochs
from tests.chaos.driver import Driver, Journal
from tests.chaos.faults import Fault, Moment, Planned
from tests.nodes import Nodes

REPOSITORY = Path(__file__).parents[2]
STALLED_S = 90.0
"""A driver that neither writes nor ends for so long hangs: epochs take a tenth of a second, final metrics a few."""
STOPPED_S = 45.0
"""Longest time from a signal to the driver's end: the epoch, the report, and Ray's own end, on a busy machine."""
LEFT_S = 15.0
"""How long after a driver's end processes of its Ray may still be there."""
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own watchers of a raylet. They end by themselves, up to a minute after it was killed, and touch no sweep."""
MOST_ACTOR_DEATHS = 3
"""In one life of a driver; they may all befall one trial at one epoch, which survives that many."""
NODE_LOSS = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""Ray's settings with which the loss of a node is noticed within two seconds instead of twelve."""

_TEXT = """
name: {name}
data: {{dataset: digits, image_size: 16}}
trial:
  kld_weight: {{low: 1e-5, high: 1e-1, log: true}}
  learning_rate: {{low: 1e-3, high: 1e-2, log: true}}
  d_size: 4
  latent_size: 4
  hidden_size: 16
  epochs: {epochs}
search:
  trials: {trials}
  max_concurrent: {concurrent}
  fuse: {fuse}
  sampler: {sampler}
  early_stopping: {stopping}
  seed: {seed}
evaluation: {{final_metrics: {finals}}}
"""
_ASHA = "{asha: {max_epochs: 12, grace_epochs: 2, reduction_factor: 2, promote: false}}"
_PAUSES = _ASHA.replace("promote: false", "promote: true")


@dataclass(frozen=True)
class Setting:
    """A kind of sweep, small enough to run in seconds and long enough to be hit in its middle."""

    name: str
    trials: int
    concurrent: int
    sampler: str = "random"
    stopping: str = "none"
    epochs: int = 12
    fuse: str = "off"
    finals: str = "none"
    whole: bool = True
    """Whether everything of it must be as undisturbed: so if nothing depends on which trial is faster."""
    cluster: bool = False
    """Whether it runs on a cluster of two nodes that can be lost."""

    def text(self, seed: int) -> str:
        return _TEXT.format(
            name=self.name, epochs=self.epochs, trials=self.trials, concurrent=self.concurrent, sampler=self.sampler,
            stopping=self.stopping, finals=self.finals, seed=seed, fuse=self.fuse,
        )  # fmt: skip


ALONE = Setting("alone", trials=12, concurrent=1, sampler="tpe", stopping=_PAUSES, finals="best 2")
"""One trial at a time, so that TPE and ASHA see the same history and everything must be identical. Trials pause."""
ABREAST = Setting("abreast", trials=12, concurrent=2, stopping=_ASHA, whole=False)
"""Two at once: what ASHA decides depends on which trial is faster."""
NODES = Setting("nodes", trials=8, concurrent=2, epochs=10, cluster=True)
"""Two at once on two nodes, and no early stopping, so that everything must be identical again."""
FUSED = Setting("fused", trials=16, concurrent=6, stopping=_ASHA, fuse="3", whole=False)
"""Two processes that train up to three trials each: who is with whom depends on time, and rounding on that."""
SETTINGS = (ALONE, ABREAST, NODES, FUSED)


@dataclass
class Result:
    """What became of one round."""

    setting: str
    directory: Path
    faults: list[Planned] = field(default_factory=list)
    """Those that struck."""
    failures: list[str] = field(default_factory=list)
    """Everything that should not be; empty if the sweep survived."""
    lost: int = 0
    doubled: int = 0
    cut_short: int = 0
    """Epochs that were begun, not ended, and begun again."""
    trained_again: int = 0
    """Epochs that were trained to their end and trained again."""
    most_repeated: int = 0
    """The most that one fault cost one trial, in epochs begun again."""
    resumed_s: list[float] = field(default_factory=list)
    """From each `raysweep resume` to the first new epoch in the ledger."""
    stopped_s: list[float] = field(default_factory=list)
    """From each lone INT or TERM to the driver's end, the report written."""
    lives: int = 0
    took_s: float = 0.0


class Workplace:
    """A home, a cache and a temporary directory of the rounds' own, and the undisturbed sweeps to compare with."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.epochs_log = root / "epochs.log"
        self.mark = uuid.uuid4().hex
        self._nodes: Nodes | None = None
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # As of whatever a shell starts with `&`. Drivers would inherit it, and be right to ignore every Ctrl-C.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for name in ("home", "t"):
            (root / name).mkdir(parents=True, exist_ok=True)

    @classmethod
    @contextmanager
    def made(cls) -> Iterator[Workplace]:
        """One in a directory of a short name, as the paths of Ray's sockets need; it goes with all that is in it."""
        workplace = cls(Path(tempfile.mkdtemp(prefix="chaos-")))
        try:
            yield workplace
        finally:
            workplace.close()
            shutil.rmtree(workplace.root, ignore_errors=True)

    @property
    def nodes(self) -> Nodes:
        """A cluster of two nodes, started when it is first wanted."""
        if self._nodes is None:
            (self.root / "n").mkdir()
            temporary = str(self.root / "n")
            self._nodes = Nodes(2, self.environment(CHAOS_CLUSTER=self.mark, RAY_TMPDIR=temporary, TMPDIR=temporary))
        return self._nodes

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a driver: nothing of the person who runs this is seen or touched."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
        return inherited | NODE_LOSS | {
            "HOME": str(self.root / "home"),
            "RAYSWEEP_CACHE": str(self.root / "home" / "cache"),
            "RAY_TMPDIR": str(self.root / "t"),
            "TMPDIR": str(self.root / "t"),
            "PYTHONPATH": f"{Path(__file__).parent / 'probe'}:{REPOSITORY}",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "CHAOS_EPOCHS": str(self.epochs_log),
            **more,
        }  # fmt: skip

    def reference(self, setting: Setting, seed: int) -> raysweep.Sweep:
        """The undisturbed sweep, run when it is first wanted."""
        place = self.root / "undisturbed" / str(seed)
        directory = place / setting.name
        if not directory.exists():
            place.mkdir(parents=True, exist_ok=True)
            file = place / f"{setting.name}.yaml"
            file.write_text(setting.text(seed))
            driver = Driver(
                ["run", str(file), "--output", str(directory)], place, place / f"{setting.name}.out", self.environment()
            )
            if driver.process.wait(300):
                raise RuntimeError(f"the undisturbed sweep failed:\n{driver.output}")
        return raysweep.open_sweep(directory)

    def clear_temporary(self) -> None:
        """Removes what the ended drivers' Ray and Tune have left."""
        shutil.rmtree(self.root / "t", ignore_errors=True)
        (self.root / "t").mkdir()

    def close(self) -> None:
        if self._nodes is not None:
            self._nodes.close()
            self._nodes = None


class Round:
    """One sweep, its faults, and its verdict."""

    def __init__(self, workplace: Workplace, setting: Setting, plan: Sequence[Planned], seed: int, name: str) -> None:
        self._workplace = workplace
        self._setting = setting
        self._plan = list(plan)
        self._seed = seed
        self._chance = random.Random(f"{seed}:{name}")
        self._place = workplace.root / "rounds" / name
        self._directory = self._place / setting.name
        self._journal = Journal(self._directory / "study.journal")
        self._lives: list[tuple[str, Driver]] = []
        self._fault_times: list[tuple[float, float]] = []
        self._result = Result(setting.name, self._place)

    def run(self) -> Result:
        """Interrupts, resumes until all is done, and compares."""
        began = time.monotonic()
        reference = self._workplace.reference(self._setting, self._seed % 2)
        self._place.mkdir(parents=True)
        (self._place / "sweep.yaml").write_text(self._setting.text(self._seed % 2))
        log = self._workplace.epochs_log
        offset = log.stat().st_size if log.exists() else 0
        most_lives = 2 * len(self._plan) + 4
        try:
            while not self._live():
                if len(self._lives) > most_lives:
                    self._fail(f"is not done after {most_lives} lives")
                    break
            self._check_processes()
        finally:
            for mark, _ in self._lives:
                for pid in processes.marked("CHAOS_LIFE", mark):
                    processes.kill(pid)
        if self._directory.exists():
            self._judge(reference, log.read_text()[offset:].splitlines())
        self._result.lives = len(self._lives)
        self._result.took_s = time.monotonic() - began
        return self._result

    def _live(self) -> bool:
        """One life of a driver, disturbed; whether the sweep is done after it."""
        mark = uuid.uuid4().hex
        environment = self._workplace.environment(CHAOS_LIFE=mark)
        if self._setting.cluster:
            environment["RAY_ADDRESS"] = self._workplace.nodes.address
        resumes = (self._directory / "sweep.yaml").exists()
        arguments = ["resume", str(self._directory)] if resumes else [
            "run", str(self._place / "sweep.yaml"), "--output", str(self._directory)
        ]  # fmt: skip
        output = self._place / f"life-{len(self._lives):02d}.out"
        driver = Driver(arguments, self._place, output, environment)
        self._lives.append((mark, driver))
        last = self._disturb(driver, mark, resumes)
        self._check_end(driver, last)
        return driver.process.returncode == 0 and not raysweep.open_sweep(self._directory).status().is_open

    def _disturb(self, driver: Driver, mark: str, resumes: bool) -> Planned | None:
        """Lets the plan's next faults strike until the driver has ended; the fault that ended it, if one did."""
        watch = _Watch(driver, self._journal, resumes)
        actor_deaths = 0
        while self._plan:
            planned = self._plan[0]
            if planned.fault is Fault.KILL_ACTOR and actor_deaths == MOST_ACTOR_DEATHS:
                break
            reached = self._wait_for(planned, watch, mark)
            if not driver.is_alive() or watch.stalled:
                break
            self._plan.pop(0)
            if not reached or not self._strike(planned, driver, mark):
                continue
            self._result.faults.append(planned)
            actor_deaths += planned.fault in (Fault.KILL_ACTOR, Fault.KILL_NODE)
            if planned.fault.ends_the_driver:
                struck = time.monotonic()
                watch.wait_for_end(STOPPED_S if planned.fault is not Fault.KILL_RAYLET else STALLED_S)
                if planned.fault in (Fault.INT, Fault.TERM):
                    self._result.stopped_s.append(time.monotonic() - struck)
                self._end(driver, watch, f"after {planned}")
                self._fault_times[-1] = (self._fault_times[-1][0], time.time())  # its trials went on until then
                return planned
        watch.wait_for_end(None)
        self._end(driver, watch, "after its last fault")
        return None

    def _wait_for(self, planned: Planned, watch: _Watch, mark: str) -> bool:
        """Waits for the moment of a fault; False if it has passed, or the driver has ended."""
        epochs, created = self._journal.epochs + planned.epochs, self._journal.created
        finalists = 2 if self._setting.finals != "none" else 0
        while watch.goes_on(0.001 if planned.moment in (Moment.ASKING, Moment.CHECKPOINT) else 0.01):
            trained = len(self._journal.ended) >= self._setting.trials
            if planned.moment is Moment.STARTING:
                ready = watch.driver.spoke is not None
            elif planned.moment is Moment.MEASURING:
                ready = trained
            elif planned.moment is Moment.CLOSING:
                ready = trained and len(self._journal.tested) >= finalists
            elif trained:
                return False
            elif planned.moment is Moment.ASKING:
                ready = self._journal.created > created
            else:
                ready = self._journal.epochs >= epochs
                if ready and planned.moment is Moment.CHECKPOINT:
                    ready = any(self._directory.glob("trials/*/.epoch-*.tmp"))
            if ready:
                time.sleep(planned.delay_s)
                return True
        return False

    def _strike(self, planned: Planned, driver: Driver, mark: str) -> bool:
        """Does it; False if what was to be struck is not there."""
        fault, cluster = planned.fault, self._setting.cluster
        struck_at, over_at = time.time(), None
        where = ("CHAOS_CLUSTER", self._workplace.mark) if cluster else ("CHAOS_LIFE", mark)
        if fault in (Fault.INT, Fault.INT_TWICE, Fault.TERM, Fault.TERM_TWICE):
            number = signal.SIGINT if fault in (Fault.INT, Fault.INT_TWICE) else signal.SIGTERM
            done = driver.signal(number, planned.group)
            if done and fault in (Fault.INT_TWICE, Fault.TERM_TWICE):
                time.sleep(planned.gap_s)
                driver.signal(number, planned.group)
        elif fault is Fault.KILL_DRIVER:
            done = driver.kill()
        elif fault is Fault.KILL_NODE:
            self._workplace.nodes.kill_one(self._chance)
            over_at = time.time()
            time.sleep(self._chance.uniform(0, 2))
            self._workplace.nodes.add()
            done = True
        else:
            find = {
                Fault.KILL_RAYLET: processes.raylets,
                Fault.KILL_ACTOR: processes.actors,
                Fault.KILL_MEASURER: processes.measurers,
            }[fault]
            pids = find(*where)
            deadline = time.monotonic() + 10
            while not pids and driver.is_alive() and time.monotonic() < deadline:
                time.sleep(0.02)
                pids = find(*where)
            struck_at = time.time()
            done = bool(pids) and processes.kill(self._chance.choice(pids))
        if done:
            self._fault_times.append((struck_at, over_at or time.time()))
        return done

    def _end(self, driver: Driver, watch: _Watch, when: str) -> None:
        """Notes the first epoch of a resumed life; ends a driver that hangs."""
        if watch.first_epoch_s is not None:
            self._result.resumed_s.append(watch.first_epoch_s)
        if driver.is_alive():
            self._fail(f"life {len(self._lives) - 1} hangs {when}; it was killed")
            driver.kill()
            driver.process.wait()

    def _check_end(self, driver: Driver, last: Planned | None) -> None:
        """Whether the exit code and the words of a driver that has ended are those of how it ended."""
        code, life, output = driver.process.returncode, len(self._lives) - 1, driver.output
        allowed = {0}
        if last is not None:
            done = (self._directory / "sweep.yaml").exists()
            done = done and not raysweep.open_sweep(self._directory).status().is_open
            by_signal = {signal.SIGINT: {130}, signal.SIGTERM: {143}}
            allowed = {
                Fault.INT: by_signal[signal.SIGINT],
                Fault.INT_TWICE: by_signal[signal.SIGINT],
                Fault.TERM: by_signal[signal.SIGTERM],
                Fault.TERM_TWICE: by_signal[signal.SIGTERM],
                Fault.KILL_DRIVER: {-signal.SIGKILL},
                Fault.KILL_RAYLET: {0, 1},
            }[last.fault] | ({0} if done else set())
        if code not in allowed and code != -signal.SIGKILL:
            self._fail(f"life {life} ended with {code}, not {sorted(allowed)}, after {last or 'no fault'}")
        if "Traceback" in output:
            self._fail(f"life {life} shows a traceback, after {last or 'no fault'}")
        if len(output) > 20_000 or "state-dump" in output:
            self._fail(f"life {life} shows Ray's own log, after {last or 'no fault'}")

    def _check_processes(self) -> None:
        """Whether every process of every driver's Ray is gone; those that are not are ended."""
        for life, (mark, _) in enumerate(self._lives):
            left = processes.left_after("CHAOS_LIFE", mark, LEFT_S, AGENTS)
            if left:
                self._fail(f"life {life} has left processes: {sorted(left.values())}")
        if self._setting.cluster:
            deadline = time.monotonic() + LEFT_S
            while left_actors := processes.actors("CHAOS_CLUSTER", self._workplace.mark):
                if time.monotonic() > deadline:
                    self._fail(f"the cluster still has {len(left_actors)} actors")
                    break
                time.sleep(0.2)
            for pid in left_actors:
                processes.kill(pid)

    def _judge(self, reference: raysweep.Sweep, epoch_lines: list[str]) -> None:
        sweep, result = raysweep.open_sweep(self._directory), self._result
        outcome = compare(sweep, reference, whole=self._setting.whole)
        repeats = repeated_epochs(epoch_lines, sweep.records, self._fault_times)
        result.failures += [*outcome.differences, *repeats.unexplained]
        result.lost, result.doubled = outcome.lost, outcome.doubled
        result.cut_short, result.trained_again = repeats.cut_short, repeats.trained_again
        result.most_repeated = repeats.most_by_trial
        if repeats.most_by_trial > 1:
            self._fail(f"one fault cost one trial {repeats.most_by_trial} epochs")

    def _fail(self, what: str) -> None:
        self._result.failures.append(what)


class _Watch:
    """Looks at a driver while it lives: what it writes, and whether it still does."""

    def __init__(self, driver: Driver, journal: Journal, resumes: bool) -> None:
        self.driver = driver
        self._journal = journal
        self._resumes = resumes
        journal.read()
        self._epochs = journal.epochs
        self._seen = time.monotonic()
        self.first_epoch_s: float | None = None
        """From the start of a resumed driver to its first new epoch."""

    @property
    def stalled(self) -> bool:
        return time.monotonic() - self._seen > STALLED_S

    def goes_on(self, pause_s: float) -> bool:
        """Looks once, then waits a moment; whether the driver lives and has written something lately."""
        alive = self.driver.is_alive()
        if self._journal.read():
            self._seen = time.monotonic()
            if self._resumes and self.first_epoch_s is None and self._journal.epochs > self._epochs:
                self.first_epoch_s = time.monotonic() - self.driver.started
        time.sleep(pause_s if alive else 0)
        return alive and not self.stalled

    def wait_for_end(self, seconds: float | None) -> None:
        """Waits for the driver's end, until it stalls or, if given, for at most so many seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.goes_on(0.01) and (deadline is None or time.monotonic() < deadline):
            pass
