"""What the terminal shows during a sweep: the live view, and plain lines where nothing can be redrawn."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from raysweep.cli.terminal import display_of, plain_console, print_sentences
from raysweep.driver.session import Session
from raysweep.metrics import TrialState
from raysweep.records import EpochRecord, TrialRecord
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import Ledger
from raysweep.study.status import SweepStatus, sweep_status
from raysweep.terminal.printing import Printing
from raysweep.terminal.progress import LiveDisplay, PlainDisplay, _live_view
from raysweep.terminal.views import trials_view
from tests.unit.conftest import OpenSession, epoch_metrics, final_metrics, report, train_to_the_end


def seen(session: Session, width: int = 120, height: int = 40) -> list[str]:
    """The lines of the live view in a terminal of that size."""
    console = Console(width=width, height=height, file=StringIO(), force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(_live_view(session, height))
    return captured.get().splitlines()


def row(lines: list[str], name: str) -> str:
    return next(line for line in lines if line.startswith(f"{name} "))


def test_a_running_trial_that_is_ahead_is_the_best(ledger: Ledger, open_session: OpenSession) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    train_to_the_end(session, 0)  # completed, at an ELBO of 1
    session.next_order()
    session.started(1)
    session.receive(1, report(1, 700.25))
    lines = seen(session)
    assert "elbo_nats 700.2  trial 1, epoch 1/4, running" in row(lines, "best")
    after = lines[lines.index(row(lines, "best")) + 1]
    assert "elbo_nats 1  trial 0, epoch 4/4, completed" in after


def test_a_running_trial_that_is_behind_is_not_the_best(ledger: Ledger, open_session: OpenSession) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    train_to_the_end(session, 0)
    session.next_order()
    session.receive(1, report(1, -5.0))
    lines = seen(session)
    assert "trial 0, epoch 4/4, completed" in row(lines, "best")
    assert sum("completed" in line and "trial 0" in line for line in lines) == 1


def test_the_test_phase_shows_what_is_measured_and_not_how_fast_trials_train(
    ledger: Ledger, open_session: OpenSession
) -> None:
    session, _ = open_session(ledger)
    for number in range(6):
        session.next_order()
        train_to_the_end(session, number)
    session.testing, session.slots = True, replace(session.slots, count=1)
    lines = seen(session)
    assert "0 of 5 finalists measured on the test split" in row(lines, "testing")
    assert not any("images/s" in line or "left" in line for line in lines)
    assert "━" not in lines[1], "the bar is empty"
    ledger.add_tested(session.to_test()[0], final_metrics(12.5))
    lines = seen(session)
    assert "1 of 5 finalists" in row(lines, "testing")
    assert re.search(r"about 8s left", lines[0]), "four more at 2 s each, one at once"
    assert lines[1].count("━") == 120 // 5
    assert any("trial 0  iwae_nats 12.5" in line for line in lines)


def test_no_time_is_said_to_be_left_when_all_is_done(ledger: Ledger, open_session: OpenSession) -> None:
    session, _ = open_session(ledger)
    for number in range(6):
        session.next_order()
        train_to_the_end(session, number)
    assert "left" not in seen(session)[0]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_number_is_cut_however_narrow_the_terminal(width: int, ledger: Ledger, open_session: OpenSession) -> None:
    session, _ = open_session(ledger)
    for number in range(2):
        session.next_order()
        session.receive(number, report(1, 812.34567 + 10 * number))
    lines = seen(session, width)
    assert all(len(line) <= width for line in lines)
    assert not any("…" in line for line in lines)
    text = "\n".join(lines)
    if width >= 60:
        assert (text.count("elbo_nats 822.3"), text.count("elbo_nats 812.3")) == (2, 1), "the best, and both that run"
    for found in re.findall(r"kld_weight (\S*)", text):
        assert float(found) > 0


def test_more_running_trials_than_lines_are_counted(ledger: Ledger, open_session: OpenSession) -> None:
    session, _ = open_session(ledger)
    session.slots = replace(session.slots, count=6)
    for number in range(6):
        session.next_order()
        session.receive(number, report(1, 1.0 + number))
    lines = seen(session, height=14)
    assert len(lines) < 14
    assert any("and 3 more" in line for line in lines)


def test_unfinished_trials_of_an_earlier_session_are_not_running(
    ledger: Ledger, open_session: OpenSession, spec: SweepSpec, directory: SweepDirectory
) -> None:
    session, _ = open_session(ledger)
    session.slots = replace(session.slots, count=2)
    for number in range(2):
        session.next_order()
        session.receive(number, report(1, 1.0 + number))
    resumed, _ = open_session(Ledger.open(directory, spec, writable=True))
    resumed.next_order()
    assert "1 running  1 unfinished" in row(seen(resumed), "trials")


def test_the_first_line_of_a_resumed_session_names_the_epoch_there_was(
    ledger: Ledger, open_session: OpenSession
) -> None:
    session, _ = open_session(ledger)
    record = session.ledger.record(session.next_order().number)  # type: ignore[union-attr]
    out = StringIO()
    done = tuple(EpochRecord.of(epoch_metrics(epoch, 3.5), record.started_at) for epoch in range(1, 16))  # type: ignore[arg-type]
    PlainDisplay(Console(file=out, width=200)).epoch_done(session, replace(record, epochs=done))
    assert out.getvalue() == "trial 0: elbo_nats 3.5 after epoch 15\n"


def test_lines_say_that_a_long_trial_or_test_goes_on(
    ledger: Ledger, open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    session.receive(0, report(1, 3.5))
    out, clock = StringIO(), [0.0]
    monkeypatch.setattr("raysweep.terminal.progress.time.monotonic", lambda: clock[0])
    display = PlainDisplay(Console(file=out, width=200))
    for clock[0] in (20.0, 31.0, 40.0):
        display.tick(session)
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().startswith("... 0/6; best trial 0, elbo_nats 3.5; about ")
    train_to_the_end(session, 0)
    for number in range(1, 6):
        session.next_order()
        train_to_the_end(session, number)
    session.testing, clock[0] = True, 80.0
    display.tick(session)
    assert out.getvalue().splitlines()[-1] == "... 6/6; best trial 0, elbo_nats 1; 0/5 tested"


def test_a_pipe_and_a_program_are_told_the_same_lines(
    ledger: Ledger, open_session: OpenSession, capsys: pytest.CaptureFixture[str]
) -> None:
    session, _ = open_session(ledger)
    out = StringIO()
    watching = (PlainDisplay(Console(file=out, width=40)), Printing())
    session.next_order()
    session.receive(0, report(1, 3.5))
    for one in watching:
        one.epoch_done(session, ledger.record(0))
        one.epoch_done(session, ledger.record(0))
    train_to_the_end(session, 0)
    for one in watching:
        one.trial_ended(session, ledger.record(0))
        one.trial_ended(session, replace(ledger.record(0), state=TrialState.FAILED, epochs=()))
    ledger.add_tested(0, final_metrics(12.5))
    for one in watching:
        one.trial_tested(session, ledger.record(0))
    lines = capsys.readouterr().out
    assert out.getvalue() == lines
    first, ended, failed, tested = lines.splitlines()
    assert first == "trial 0: elbo_nats 3.5 after epoch 1"
    assert re.match(r"trial 0 completed: elbo_nats 1 after 4 epochs; .*  \[1/6\]  best trial \d", ended)
    assert failed.startswith("trial 0 failed: no result after 0 epochs")
    assert tested.startswith("trial 0 tested: iwae_nats 12.5")


def test_of_thousands_of_trials_a_line_says_seldom_which_is_ahead(
    ledger: Ledger, open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    train_to_the_end(session, 0)
    clock, look = [0.0], sweep_status

    def slow(*arguments: Any) -> SweepStatus:
        clock[0] += 1.0
        return look(*arguments)

    monkeypatch.setattr("raysweep.terminal.printing.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("raysweep.terminal.printing.sweep_status", slow)
    out = StringIO()
    display = PlainDisplay(Console(file=out, width=200))
    for clock[0] in (0.0, 2.0, 19.0, 21.0):
        display.trial_ended(session, ledger.record(0))
    said = ["best trial 0" in line for line in out.getvalue().splitlines()]
    assert said == [True, False, False, True], "a look of one second in twenty"
    assert out.getvalue().count("[1/6]") == 4


@pytest.mark.parametrize(("term", "kind"), [("xterm", LiveDisplay), ("dumb", PlainDisplay), ("unknown", PlainDisplay)])
def test_a_terminal_that_cannot_redraw_gets_lines(
    term: str, kind: type, spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    assert type(display_of(Console(file=StringIO(), force_terminal=True), spec)) is kind


def test_beside_a_debugger_there_are_lines_that_break_between_words(
    spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    inline = spec.model_copy(update={"resources": spec.resources.model_copy(update={"backend": "inline"})})
    out = StringIO()
    display = display_of(Console(file=out, force_terminal=True, width=20, color_system=None), inline)
    assert type(display) is PlainDisplay
    display._say("a line of more than twenty letters")
    assert [line.rstrip() for line in out.getvalue().splitlines()] == ["a line of more than", "twenty letters"]


def test_a_dumb_terminal_has_its_own_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert plain_console().width == 60


def test_a_pipe_gets_lines(spec: SweepSpec) -> None:
    assert type(display_of(Console(file=StringIO()), spec)) is PlainDisplay


def printed(records: list[TrialRecord], spec: SweepSpec, width: int) -> list[str]:
    console = Console(width=width, file=StringIO(), force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(trials_view(records, spec))
    return captured.get().splitlines()


def test_a_narrow_table_drops_columns_and_names_them(
    ledger: Ledger, open_session: OpenSession, spec: SweepSpec
) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    train_to_the_end(session, 0)
    records = ledger.records()
    wide, narrow, narrowest = (printed(records, spec, width) for width in (120, 64, 20))
    assert wide[0].split() == [
        "trial", "state", "epochs", "elbo_nats", "bits_per_dim", "psnr_db", "active_units", "kld_weight", "latent_size",
    ]  # fmt: skip
    assert len(wide) == 2
    assert narrow[0].split() == ["trial", "state", "elbo_nats", "kld_weight", "latent_size"]
    assert narrow[1].split() == ["0", "completed", "(baseline)", "1", "0.001", "8"]
    told = " ".join(" ".join(narrow[2:]).split())
    assert "and 4 more columns (epochs, bits_per_dim, psnr_db, active_units)" in told
    assert "--format json" in told
    assert narrowest[0].split() == ["trial", "elbo_nats"]


@pytest.mark.parametrize(("is_terminal", "lines"), [(True, 4), (False, 2)])
def test_sentences_break_between_words_on_a_terminal_and_commands_never(is_terminal: bool, lines: int) -> None:
    sentence = "Trial 12 is the best by elbo_nats, and of the 5 tested its samples are best."
    command = "    raysweep export results/a-sweep exported/a-sweep-samples --trial 12"
    console = Console(width=40, file=StringIO(), force_terminal=is_terminal, color_system=None)
    with console.capture() as captured:
        print_sentences(
            console, "Trial 12 is the best by elbo_nats, and of the 5 tested its samples are best.\n" + command
        )
    told = [line.rstrip() for line in captured.get().splitlines()]
    assert len(told) == lines - is_terminal
    assert told[-1] == command
    assert " ".join(told[:-1]) == sentence
