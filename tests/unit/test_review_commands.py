"""Looking at a sweep from the terminal, without Ray: what `show`, `best`, `status`, `report` and `resume` say."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console
from rich.text import Text

import raysweep
from raysweep.cli import main
from raysweep.cli.standing import _show
from raysweep.cli.trial import plot
from raysweep.errors import ArgumentError, SweepDirectoryError
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.report.parquet import read_table
from raysweep.spec.loading import parse_spec
from raysweep.storage.layout import SweepDirectory
from raysweep.storage.lock import locked
from raysweep.study.description import FORMAT
from raysweep.study.ledger import Ledger
from raysweep.vae.preflight import Preflight
from tests.unit.conftest import epoch_metrics, final_metrics

TEXT = """
name: NAME
data: {dataset: digits, image_size: 16}
trial:
  kld_weight: {low: 1e-5, high: 1e-1, log: true}
  d_size: 4
search:
  trials: 4
  objective: {metric: OBJECTIVE}
  early_stopping: {asha: {max_epochs: 3, grace_epochs: 1, reduction_factor: 2}}
evaluation: {final_metrics: best 1}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def text_of(name: str = "small", objective: str = "elbo_nats") -> str:
    return TEXT.replace("NAME", name).replace("OBJECTIVE", objective)


def small_sweep(name: str = "small", better_by: float = 0.0, objective: str = "elbo_nats") -> SweepDirectory:
    """A sweep of four trials that have ended in four ways; its directory is `name`."""
    spec = parse_spec(text_of(name, objective))
    place = SweepDirectory.at(name)
    place.root.mkdir()
    description = {"format": FORMAT, "spec": spec.as_mapping(), "data": {"checksum": "x"}}
    place.spec.write_text(yaml.safe_dump(description))
    ledger = Ledger.create(place, spec, description)

    def train(number: int, *values: float) -> None:
        for value in values:
            epoch = len(ledger.record(number).epochs) + 1
            ledger.add_epoch(number, epoch_metrics(epoch, value + better_by), "host", "cpu")

    for _ in range(4):
        ledger.ask()
    train(0, 101.91, 110.0)
    train(1, 101.59)
    cause = "not among the best 1/2 of the 2 trials that had reached it at epoch 1"
    ledger.finish(1, TrialState.PRUNED, cause)
    train(2, 300.0, 310.0, 305.0)
    ledger.finish(2, TrialState.COMPLETED, "all 3 epochs done")
    train(0, 111.0)
    ledger.finish(0, TrialState.COMPLETED, "all 3 epochs done")
    traceback = "Traceback (most recent call last):\n" + "".join(f'  File "x.py", line {n}\n' for n in range(20))
    ledger.finish(3, TrialState.FAILED, "ValueError: no such thing, twice", traceback + "ValueError: no such thing\n")
    ledger.add_tested(0, final_metrics(120.0 + better_by))
    ledger.add_tested(2, final_metrics(90.0 + better_by))
    return place


def test_show_says_why_a_trial_was_stopped_with_the_numbers_of_that_moment() -> None:
    small_sweep()
    code, output = run("show", "small", "1")
    assert code == 0, output
    assert output.splitlines()[:2] == [
        "trial 1 of small  pruned, 3rd of 3 by elbo_nats",
        "  stopped at epoch 1: elbo_nats 101.59, 2nd of 2, 1 goes on, 101.91 was needed",
    ]
    assert "went on at epoch 1: elbo_nats 300, 1st of 3, 2 go on" in run("show", "small", "2")[1]


def test_show_has_configuration_curve_and_files_of_a_trial() -> None:
    place = small_sweep()
    trial = place.trial(2)
    (trial / "epochs").mkdir(parents=True)
    for name in ("epoch-000002.safetensors", "epoch-000003.safetensors", "samples.png", "epochs/000001.png"):
        (trial / name).write_bytes(b"x")
    code, output = run("show", "small", "2")
    assert code == 0
    for part in (
        "d_size 4", "kld_weight", "3 of 3 epochs, 4s, on host (cpu)", "elbo_nats by epoch", "  310 |",
        "elbo_nats 310 at epoch 2, better than at its last one",
        "checkpoint small/trials/0002/epoch-000003.safetensors", "pictures   small/trials/0002/samples.png",
        "small/trials/0002/epochs/*.png", "raysweep export small exported/small-2 --trial 2",
        "tested     iwae_nats 90",
    ):  # fmt: skip
        assert part in output, part
    assert run("show", "small")[1] == output, "the best one, if no number is given"


def test_show_of_a_failed_trial_has_the_end_of_its_traceback_and_the_log_s_path() -> None:
    small_sweep()
    code, output = run("show", "small", "3")
    assert code == 0
    assert "ValueError: no such thing, twice" in output
    assert "    ValueError: no such thing\n" in output
    assert "line 19\n" in output
    assert "line 1\n" not in output
    assert "the whole traceback: raysweep show small 3 --json" in output
    assert "the log: small/raysweep.log" in output
    assert "checkpoint none" in output
    assert len(json.loads(run("show", "small", "3", "--json")[1])["error"].splitlines()) == 22


def test_show_of_an_unfinished_trial_says_how_far_it_is(tmp_path: Path) -> None:
    place = SweepDirectory.at("begun")
    spec = parse_spec(text_of("begun").replace("grace_epochs: 1", "grace_epochs: 2"))
    place.root.mkdir()
    place.spec.write_text(yaml.safe_dump({"format": FORMAT, "spec": spec.as_mapping()}))
    ledger = Ledger.create(place, spec)
    ledger.add_epoch(ledger.ask().number, epoch_metrics(1, 5.0), "host", "cpu")
    assert "interrupted after 1 of 3 epochs; to go on, type: raysweep resume begun" in run("show", "begun", "0")[1]
    with locked(place):
        assert "  in epoch 2 of 3\n" in run("show", "begun", "0")[1]
        running = json.loads(run("status", "begun", "--json")[1])
    assert (running["standing"], running["running"][0]["epochs_done"]) == ("running", 1)
    assert running["left_s"] > 0
    stopped = json.loads(run("status", "begun", "--json")[1])
    assert (stopped["standing"], stopped["left_s"]) == ("stopped", None)
    (tmp_path / "empty").mkdir()


def test_show_of_a_trial_that_waits_for_others_says_for_how_many() -> None:
    place = SweepDirectory.at("waiting")
    spec = parse_spec(text_of("waiting"))
    place.root.mkdir()
    place.spec.write_text(yaml.safe_dump({"format": FORMAT, "spec": spec.as_mapping()}))
    ledger = Ledger.create(place, spec)
    ledger.add_epoch(ledger.ask().number, epoch_metrics(1, 5.0), "host", "cpu")
    shown = run("show", "waiting", "0")[1]
    assert "paused at epoch 1: elbo_nats 5, 1st of 1, none goes on yet" in shown
    assert "it is judged as soon as 2 trials have come as far" in shown
    assert "the sweep was stopped; to go on, type: raysweep resume waiting" in shown
    with locked(place):
        assert "resume" not in run("show", "waiting", "0")[1]


def test_a_trial_that_there_is_not_is_refused_with_those_there_are() -> None:
    small_sweep()
    assert run("show", "small", "9") == (2, "small: has no trial 9; it has trials 0 to 3\n")
    code, output = run("show", "small", "best")
    assert (code, "'best' is not a valid integer" in output) == (2, True)


def test_show_as_json_has_every_epoch_and_every_decision() -> None:
    small_sweep()
    story = json.loads(run("show", "small", "1", "--json")[1])
    assert (story["trial"], story["state"], story["objective"], story["value"]) == (1, "pruned", "elbo_nats", 101.59)
    assert story["rungs"] == [
        {"epoch": 1, "went_on": False, "value": 101.59, "place": 2, "of": 2, "go_on": 1, "needed": 101.91}
    ]
    assert [epoch["elbo_nats"] for epoch in story["epochs"]] == [101.59]


def trials_of(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines() if line.split()[0].isdigit()]


def test_best_ranks_by_another_metric_of_the_test_split_too() -> None:
    small_sweep()
    assert trials_of(run("best", "small")[1]) == ["2", "0", "1"]
    code, output = run("best", "small", "--metric", "test_iwae_nats")
    assert (code, trials_of(output)) == (0, ["0", "2"]), output
    assert "1 trial is left out: test_iwae_nats was not measured of it" in output
    assert trials_of(run("best", "small", "--top", "1")[1]) == ["2"]
    one = json.loads(run("best", "small", "--format", "json")[1])
    assert (one["trial"], one["metrics"]["elbo_nats"], one["test_metrics"]["iwae_nats"]) == (2, 305.0, 90.0)
    several = json.loads(run("best", "small", "--format", "json", "--top", "2")[1])
    assert [entry["trial"] for entry in several] == [2, 0]


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("psnr", "--metric psnr: is not a metric; did you mean psnr_db?"),
        ("kid", "--metric kid: is not a metric; did you mean test_kid?"),
        (
            "rate_nats",
            "--metric rate_nats: is neither better small nor large, so it ranks nothing; allowed: train_loss",
        ),
        ("test_kid", "small: test_kid is not defined for what these sweeps train on"),
    ],
)
def test_a_metric_that_ranks_nothing_is_refused_with_what_is_allowed(metric: str, says: str) -> None:
    small_sweep()
    code, output = run("best", "small", "--metric", metric)
    assert (code, says in output) == (2, True), output


def test_a_loss_that_contains_what_is_searched_is_ranked_with_a_warning() -> None:
    small_sweep()
    code, output = run("best", "small", "--metric", "val_loss")
    assert code == 0
    assert "val_loss contains kld_weight, which is searched: its best value tells the smallest weight" in output


def test_several_sweeps_are_one_ranking() -> None:
    small_sweep("one")
    small_sweep("two", better_by=1.0)
    code, output = run("best", "one", "two", "--top", "4")
    assert code == 0
    rows = [line.split()[:2] for line in output.splitlines()[1:]]
    assert rows == [["two", "2"], ["one", "2"], ["two", "0"], ["one", "0"]]
    assert run("best", "one", "one")[0] == 2
    assert "one: is named twice" in run("best", "one", "./one")[1]


def test_sweeps_with_different_objectives_need_a_metric() -> None:
    small_sweep("one")
    small_sweep("two", objective="psnr_db")
    code, output = run("best", "one", "two")
    assert code == 2
    assert "different objectives (one by elbo_nats, two by psnr_db)" in output
    assert "--metric elbo_nats" in output
    assert run("best", "one", "two", "--metric", "bits_per_dim")[0] == 0


def test_status_as_json_has_times_and_the_metric_s_name() -> None:
    small_sweep()
    status = json.loads(run("status", "small", "--json")[1])
    assert (status["metric"], status["standing"], status["ended"], status["left_s"]) == (
        "elbo_nats",
        "finished",
        4,
        0.0,
    )
    assert status["elapsed_s"] > 0
    assert (status["best"]["trial"], status["best"]["value"]) == (2, 305.0)
    assert status["by_state"] == {"completed": 2, "pruned": 1, "failed": 1}


def test_watching_a_sweep_that_has_ended_shows_it_once() -> None:
    small_sweep()
    code, output = run("status", "small", "--watch")
    assert code == 0
    assert output == run("status", "small")[1]
    assert len(run("status", "small", "--watch", "--json")[1].splitlines()) == 1


def test_watching_ends_with_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysweep.cli.standing.LOOK_S", 0.01)
    place = small_sweep()
    is_driving, may_end = threading.Event(), threading.Event()

    def drive() -> None:
        with locked(place):
            is_driving.set()
            may_end.wait(60)

    driver = threading.Thread(target=drive)
    driver.start()
    assert is_driving.wait(60)
    threading.Timer(0.5, may_end.set).start()
    code, output = run("status", "small", "--watch")
    driver.join()
    assert code == 0
    heads = [line for line in output.splitlines() if line.startswith("small")]
    assert heads == ["small  running, 4 of 4 trials ended", "small  finished, 4 of 4 trials ended"]


def test_ctrl_c_ends_the_watching_without_a_word_of_stopping() -> None:
    place = small_sweep()
    with locked(place):
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        code, output = run("status", "small", "--watch", "--json")
        timer.join()
    assert (code, "stopped" in output) == (130, False), output
    assert json.loads(output.splitlines()[0])["standing"] == "running"


def test_a_report_by_another_objective_says_so_and_goes_back() -> None:
    place = small_sweep()
    code, output = run("report", "small", "--objective", "psnr_db")
    assert code == 0, output
    assert "by psnr_db. By elbo_nats, which the sweep was run with, again: raysweep report small" in output
    assert objective_of(place) == "psnr_db"
    assert run("report", "small")[0] == 0
    assert objective_of(place) == "elbo_nats"
    for metric, says in [
        ("val_loss", "--objective val_loss: val_loss contains kld_weight"),
        ("test_kid", "raysweep best small --metric test_kid"),
        ("nonsense", "is not a metric"),
    ]:
        code, output = run("report", "small", "--objective", metric)
        assert (code, says in output) == (2, True), output


def objective_of(place: SweepDirectory) -> str:
    import pyarrow.parquet as pq

    metadata: Any = pq.read_schema(place.trials_parquet).metadata
    return str(metadata[b"raysweep.objective"].decode())


def test_another_objective_for_a_finished_sweep_is_refused_with_how_to_rank_by_it() -> None:
    small_sweep()
    Path("other.yaml").write_text(text_of(objective="psnr_db"))
    code, output = run("resume", "small", "--file", "other.yaml")
    assert code == 2
    assert "would not compare" not in output
    for part in (
        "its trials compare by psnr_db too", "search.objective.metric: 'elbo_nats' -> 'psnr_db'",
        "raysweep best small --metric psnr_db", "raysweep report small --objective psnr_db",
        "raysweep run FILE --output DIR",
    ):  # fmt: skip
        assert part in output, part
    code, output = run("run", "other.yaml", "--output", "small")
    assert (code, "raysweep best small --metric psnr_db" in output, "would not compare" in output) == (2, True, False)
    Path("more.yaml").write_text(text_of(objective="psnr_db").replace("d_size: 4", "d_size: 8"))
    code, output = run("resume", "small", "--file", "more.yaml")
    assert (code, "would not compare" in output, "--metric psnr_db" in output) == (2, True, True)


def test_fewer_trials_are_not_called_another_space() -> None:
    small_sweep()
    Path("fewer.yaml").write_text(text_of().replace("trials: 4", "trials: 2"))
    code, output = run("run", "fewer.yaml", "--output", "small")
    assert code == 2
    assert "search.trials: 4 -> 2\nA total can only grow. To go on with the sweep as it was" in output
    assert "would not compare" not in output


def test_so_many_more_trials_are_counted_from_those_the_sweep_has() -> None:
    place = small_sweep()
    from raysweep.sweep import wanted_spec

    assert wanted_spec(place, "+10")[0].trials == 14
    assert wanted_spec(place, 14)[0].trials == 14
    for wrong in ("+0", "ten", "1.5", "++2", "-3", 0, True):
        with pytest.raises(ArgumentError, match=r"trials.*must be trials in all, such as 14, or how many more"):
            wanted_spec(place, wrong)
    code, output = run("resume", "small", "--trials", "+x")
    assert (code, "neither a total, such as 20, nor how many more, such as +10" in output) == (2, True)
    code, output = run("resume", "small", "--trials", "3")
    assert (code, "got --trials 3. For 3 more, give --trials +3" in output) == (2, True)
    code, output = run("run", "other.yaml", "--trials", "+3")
    assert (code, "a new sweep has a total: 3" in " ".join(output.split())) == (2, True)


def test_errors_name_arguments_where_a_program_is_the_reader() -> None:
    place = small_sweep()
    with pytest.raises(SweepDirectoryError, match=r"got trials=3\. For 3 more, give trials='\+3'"):
        raysweep.resume(place.root, 3)
    spec = parse_spec(text_of(objective="psnr_db"))
    with pytest.raises(SweepDirectoryError) as taken:
        raysweep.run(spec, place.root)
    for part in ("raysweep.open_sweep('small').best('psnr_db')", "another directory with output=..."):
        assert part in str(taken.value), part
    assert "--" not in str(taken.value)
    with pytest.raises(SweepDirectoryError, match=r"give resume=True, or type: raysweep\.resume\('small'\)"):
        raysweep.run(parse_spec(text_of()), place.root)
    with pytest.raises(ArgumentError, match="metric='kid': is not a metric; did you mean test_kid"):
        raysweep.open_sweep("small").best("kid")
    with pytest.raises(ArgumentError, match=r"spec: must be what raysweep\.load_spec returned, got str"):
        raysweep.run("kld.yaml")  # type: ignore[arg-type]
    with pytest.raises(SweepDirectoryError, match=r"claims=raysweep\.load_spec"):
        raysweep.open_sweep("small").findings()
    assert "--trials 3" in run("resume", "small", "--trials", "3")[1], "the command line is spoken to as before"


def test_a_finished_sweep_is_gone_on_with_from_python_without_starting_anything(
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = small_sweep()
    again = raysweep.run(parse_spec(text_of()), place.root, resume=True)
    assert (again.standing, len(again.records)) == ("finished", 4)
    assert "nothing is left to do. Ten more: raysweep.resume('small', trials='+10')" in capsys.readouterr().out
    fewer = raysweep.run(parse_spec(text_of().replace("trials: 4", "trials: 2")), place.root, resume=True)
    assert fewer.spec.trials == 4, "as a notebook that is run again after more trials were asked for"
    capsys.readouterr()
    raysweep.resume(place.root, progress=False)
    assert capsys.readouterr().out == ""


def test_what_python_shows_of_a_sweep_is_a_line() -> None:
    small_sweep()
    sweep = raysweep.open_sweep("small")
    assert repr(sweep) == ("<sweep small in small: finished, 4 of 4 trials ended, best trial 2 with elbo_nats 305>")
    best = sweep.best()[0]
    assert repr(best).startswith("<trial 2: completed, 3 epochs, elbo_nats 305, kld_weight ")
    assert "\n" not in repr(best)
    assert repr(best.epochs[0]) == "<epoch 1: elbo_nats 300>"
    assert repr(sweep.status()).startswith("<4 of 4 trials ended (2 completed, 1 pruned, 1 failed), 7 epochs trained")
    assert repr(sweep.spec) == ("<search space small: 4 trials on digits, kld_weight searched by gp, max elbo_nats>")
    html = sweep._repr_html_()
    assert "<th>kld_weight</th>" in html
    assert "<td>pruned</td>" in html


def test_a_record_and_the_json_have_the_same_names() -> None:
    small_sweep()
    sweep = raysweep.open_sweep("small")
    entry = json.loads(run("best", "small", "--format", "json")[1])
    record = sweep.best()[0]
    for name in ("trial", "state", "cause", "params", "epochs_done", "enqueued", "node", "device", "error"):
        assert entry[name] == getattr(record, name), name
    assert record.metrics is not None
    assert record.test_metrics is not None
    assert entry["metrics"]["elbo_nats"] == record.metrics.elbo_nats
    assert entry["test_metrics"]["iwae_nats"] == record.test_metrics.iwae_nats
    assert entry["config"] == record.config.model_dump(mode="json")
    assert (entry["sweep"], entry["objective"]) == (sweep.name, sweep.objective)
    assert isinstance(record, TrialRecord)


def test_a_stuck_trial_is_told_wherever_trials_are() -> None:
    spec = parse_spec(text_of().replace("max_epochs: 3, grace_epochs: 1", "max_epochs: 4, grace_epochs: 4"))
    place = SweepDirectory.at("flat")
    place.root.mkdir()
    prediction = Preflight((0.5, 0.5), 1e-5, 1e-1, (1, 1), (1, 1), (0.0, 0.0)).to_mapping()
    description = {"format": FORMAT, "spec": spec.as_mapping(), "data": {"checksum": "x"}, "preflight": prediction}
    place.spec.write_text(yaml.safe_dump(description))
    ledger = Ledger.create(place, spec, description)
    for number, r2 in enumerate((-0.01, 0.5)):
        ledger.ask()
        for epoch in range(1, 5):
            at = replace(epoch_metrics(epoch, 10.0), r2=r2, rate_nats=0.001, collapsed=r2 < 0)
            ledger.add_epoch(number, at, "host", "cpu")
        ledger.finish(number, TrialState.COMPLETED, "all 4 epochs done")
    sweep = raysweep.open_sweep("flat")
    assert sweep.stuck == {0: True, 1: False}
    assert sweep.trials()["stuck"].to_pylist() == [True, False]
    assert (
        "stuck      no better than the mean image in any epoch, although its kld_weight is below"
        in run("show", "flat", "0")[1]
    )
    assert "stuck" not in run("show", "flat", "1")[1]
    assert json.loads(run("show", "flat", "0", "--json")[1])["stuck"] is True
    assert any(remark.startswith("Trial 0 never left the plateau") for remark in sweep.remarks())
    assert run("report", "flat")[0] == 0
    assert read_table(place.trials_parquet)["stuck"].to_pylist() == [True, False]


def test_a_plot_has_a_star_a_value_and_leaves_out_what_is_no_number() -> None:
    lines = plot([1.0, float("nan"), 3.0], "elbo_nats", rows=3)
    assert lines == ["elbo_nats by epoch", "  3 |            *", "    |", "  1 |*", "     1           3"]
    assert plot([1.0], "elbo_nats") == []
    assert sum(line.count("*") for line in plot([2.0, 2.0], "x")) == 2
    wide = plot([float(n) for n in range(500)], "x", columns=40)
    assert max(map(len, wide)) < 60


@pytest.mark.parametrize(("is_terminal", "lines"), [(True, 3), (False, 1)])
def test_a_sentence_of_status_breaks_between_words_on_a_terminal_and_stays_whole_in_a_pipe(
    is_terminal: bool, lines: int
) -> None:
    out = StringIO()
    sentence = "Trial 9 is the best by elbo_nats, and of the 5 tested its samples are the best too (test_kid 0.528)"
    _show(Console(file=out, width=40, force_terminal=is_terminal, color_system=None), Text(sentence))
    written = out.getvalue().splitlines()
    assert len(written) == lines
    assert " ".join(line.strip() for line in written) == sentence


def explained_sweep(trials: int = 12) -> None:
    """A sweep that ran to its end, in which the largest KLD weights are the best."""
    spec = parse_spec(text_of("whole").replace("trials: 4", f"trials: {trials}\n  sampler: random"))
    place = SweepDirectory.at("whole")
    place.root.mkdir()
    description = {"format": FORMAT, "spec": spec.as_mapping(), "data": {"checksum": "x"}}
    place.spec.write_text(yaml.safe_dump(description))
    ledger = Ledger.create(place, spec, description)
    for number in range(trials):
        weight = ledger.ask().params["kld_weight"]
        assert isinstance(weight, float)
        for epoch in (1, 2, 3):
            ledger.add_epoch(number, epoch_metrics(epoch, 100 + epoch + 10 * math.log10(weight)), "host", "cpu")
        ledger.finish(number, TrialState.COMPLETED, "all 3 epochs done")


def test_best_with_why_says_how_far_ahead_it_is_and_where_the_model_sees_the_best_values() -> None:
    explained_sweep()
    code, output = run("best", "whole", "--why")
    assert code == 0, output
    lines = output.splitlines()
    best = json.loads(run("best", "whole", "--format", "json", "--why")[1])
    first, value = best["trial"], f"{best['value']:.4g}"
    assert lines[0].startswith(f"Trial {first} is the best of 12 trials: elbo_nats {value} after 3 epochs")
    heads = [f"trial {number}" for number in (first, *(one["trial"] for one in best["why"]["rivals"][:2]))]
    assert lines[2].split() == ["parameter", "model's", "best", "as", "good", *" ".join(heads).split()]
    assert lines[3].startswith("kld_weight")
    assert "kld_weight alone differs between the trials" in output
    assert "The model is a Gaussian process fitted to the curves of 12 trials." in output
    why = best["why"]
    assert (why["trial"], why["metric"], len(why["rivals"])) == (best["trial"], "elbo_nats", 10)
    assert why["model"]["slices"]["kld_weight"]["best"] > 1e-2
    assert why["said"][0] == lines[0]
    of_two = json.loads(run("best", "whole", "--format", "json", "--why", "--top", "2")[1])
    assert [sorted(set(entry) & {"why"}) for entry in of_two] == [["why"], []]
    assert run("best", "whole", "--why", "--top", "1")[1].splitlines()[2].endswith(heads[0])
    assert raysweep.open_sweep("whole").why().trial == best["trial"]


def test_best_with_why_of_few_trials_says_that_they_are_too_few() -> None:
    small_sweep()
    code, output = run("best", "small", "--why")
    assert code == 0, output
    assert "Trial 2 is the best of 4 trials: elbo_nats 305 after 3 epochs, 194 ahead of trial 0." in output
    assert "8 are needed" in output
    assert "nan" not in output


def test_best_with_why_explains_one_sweep_by_a_metric_of_every_epoch() -> None:
    small_sweep()
    small_sweep("other")
    assert run("best", "small", "other", "--why") == (
        2, "--why: explains one sweep, got 2; type: raysweep best small --why\n"
    )  # fmt: skip
    code, output = run("best", "small", "--why", "--metric", "test_iwae_nats")
    assert code == 2
    assert output.startswith("--metric test_iwae_nats: is measured once, of finalists alone")
    code, output = run("best", "small", "--why", "--metric", "psnr_db")
    assert code == 0, output
    assert "psnr_db 20 after" in output


def test_best_without_why_loads_no_model() -> None:
    small_sweep()
    code = (
        "import sys, raysweep.cli; sys.argv = ['raysweep', 'best', 'small']\n"
        "try: raysweep.cli.main()\nexcept SystemExit: pass\n"
        "print([n for n in ('raysweep.search.explaining', 'threadpoolctl', 'torch') if n in sys.modules])"
    )
    path = {**os.environ, "PYTHONPATH": str(Path(raysweep.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env=path
    )
    assert done.stdout.splitlines()[-1] == "[]"
