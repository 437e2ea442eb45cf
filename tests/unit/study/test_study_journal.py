"""A damaged journal: repaired where a crash did it, else refused by line or by trial; never a traceback or a loss."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raysweep.errors import LedgerError
from raysweep.metrics import TrialState
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.journal import sound_length
from raysweep.study.ledger import Ledger
from tests.unit.conftest import epoch_metrics, final_metrics

Reopen = Callable[[], Ledger]
Operation = dict[str, Any]


@pytest.fixture
def lines(directory: SweepDirectory, ledger: Ledger) -> list[bytes]:
    """The journal of three trials: one completed and tested, one with four epochs, one just begun."""
    for number in range(3):
        ledger.ask()
        for epoch in range(1, (3, 5, 1)[number]):
            ledger.add_epoch(number, epoch_metrics(epoch, 100.0 + epoch), "host", "cpu")
    ledger.finish(0, TrialState.COMPLETED, "all epochs done")
    ledger.add_tested(0, final_metrics(3.0))
    return directory.journal.read_bytes().splitlines(keepends=True)


def change(lines: list[bytes], which: Callable[[Operation], bool], how: Callable[[Operation], object]) -> bytes:
    """The journal with `how` done to the first line that is meant."""
    operations = [json.loads(line) for line in lines]
    how(next(operation for operation in operations if which(operation)))
    return b"".join(json.dumps(operation).encode() + b"\n" for operation in operations)


def attribute(key: str) -> Callable[[Operation], bool]:
    return lambda operation: key in operation.get("user_attr", {})


@pytest.mark.parametrize(
    "tail",
    [b"\0", b"\0" * 5000, b'{"op_code":8,"work', b'{"op_code":8,"work' + b"\0" * 300, b"\0" * 30 + b"\n", b"\n",
     b"\n\n\n", b"  \n\0\n", b'{"op_code":8\n'[:-1] + b"\0\n", b"\xff\xfe"],
)  # fmt: skip
def test_what_a_crash_leaves_at_the_end_is_cut_off_and_said(
    directory: SweepDirectory, ledger: Ledger, lines: list[bytes], spec: SweepSpec, reopen: Reopen, tail: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    directory.journal.write_bytes(b"".join(lines) + tail)
    readers = Ledger.open(directory, spec, writable=False)
    assert repr(readers.records()) == repr(ledger.records())
    assert directory.journal.read_bytes() == b"".join(lines) + tail, "a reader writes nothing"
    with caplog.at_level(logging.WARNING, "raysweep"):
        again = reopen()
    assert f"study.journal: {len(tail)} bytes of an unfinished line were cut off" in caplog.text
    assert directory.journal.read_bytes() == b"".join(lines)
    assert repr(again.records()) == repr(ledger.records())
    again.add_epoch(2, epoch_metrics(1, 7.0), "host", "cpu")
    assert len(reopen().record(2).epochs) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\n", "it is empty"),
        (b"\0\0\0\n", "it is not JSON"),
        (b"[" * 100_000 + b"\n", "it is not JSON"),
        (b'{"op_code":' + b"9" * 5000 + b"}\n", "it is not JSON"),
        (b'{"op_code":' + b"9" * 4000 + b',"worker_id":"x"}\n', "it is no operation"),
        (b"17\n", "it is no operation"),
        (b'{"op_code":true,"worker_id":"x"}\n', "it is no operation"),
        (b'{"op_code":11,"worker_id":"x"}\n', "it is no operation"),
        (b'{"op_code":10,"worker_id":"x"}\n', "it is no operation"),
        (b'{"op_code":8,"trial_id":0,"user_attr":{"a":1}}\n', "it is no operation"),
        (b'{"op_code":8,"worker_id":"x","trial_id":0,"user_attr":{"a":1,"b":2}}\n', "user_attr is missing or not"),
        (b'{"op_code":8,"worker_id":"x","trial_id":-1,"user_attr":{"a":1}}\n', "trial_id is missing or not"),
        (b'{"op_code":8,"worker_id":"x","trial_id":99,"user_attr":{"a":1}}\n', "there is no trial 99 before it"),
        (b'{"op_code":2,"worker_id":"x","study_id":1,"user_attr":{"a":1}}\n', "there is no study 1 before it"),
        (b'{"op_code":0,"worker_id":"x","study_name":"raysweep","directions":[2]}\n', "a second study begins in it"),
        (b'{"op_code":6,"worker_id":"x","trial_id":0,"state":9,"values":null}\n', "ValueError"),
        (b'{"op_code":6,"worker_id":"x","trial_id":0,"state":1,"values":["a"]}\n', "values is missing or not"),
        (b'{"op_code":7,"worker_id":"x","trial_id":0,"step":"1","intermediate_value":1}\n', "step is missing or not"),
        (b'{"op_code":7,"worker_id":"x","trial_id":0,"step":1,"intermediate_value":"1"}\n', "intermediate_value is"),
        (b'{"op_code":5,"worker_id":"x","trial_id":0,"param_name":"kld_weight","param_value_internal":0.1,'
         b'"distribution":"{}"}\n', "KeyError"),
        (b'{"op_code":4,"worker_id":"x","study_id":0,"datetime_start":"soon"}\n', "ValueError"),
        (b'{"op_code":4,"worker_id":"x","study_id":0,"datetime_start":null,"values":[1.0]}\n', "values is not what"),
        (b'{"op_code":4,"worker_id":"x","study_id":0,"datetime_start":null,"user_attrs":[]}\n', "user_attrs is not"),
        (b'{"op_code":4,"worker_id":"x","study_id":0,"datetime_start":null,"value":"1"}\n', "value is not"),
        (b'{"op_code":4,"worker_id":"x","study_id":0,"datetime_start":null,"intermediate_values":{"1":"a"}}\n',
         "intermediate_values is not"),
        (b'{"op_code":4,"worker_id":"x","study_id":0,"datetime_start":null,"datetime_complete":5}\n',
         "datetime_complete is not"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("writable", [True, False])
def test_a_damaged_line_is_refused_by_its_number(
    directory: SweepDirectory, lines: list[bytes], spec: SweepSpec, line: bytes, message: str, writable: bool
) -> None:
    directory.journal.write_bytes(b"".join([*lines[:4], line, *lines[4:]]))
    with pytest.raises(LedgerError, match=r"study\.journal: line 5 is damaged: .*restore the file") as refused:
        Ledger.open(directory, spec, writable=writable)
    assert message in str(refused.value)


DAMAGES: dict[str, tuple[Callable[[list[bytes]], bytes], str]] = {
    "an epoch is missing": (
        lambda lines: b"".join(line for line in lines if b'"epoch:000003"' not in line),
        "trial 1: epoch 3 is missing, though epoch:000004 is there",
    ),
    "an epoch is another one": (
        lambda lines: change(
            lines, attribute("epoch:000002"), lambda o: o["user_attr"]["epoch:000002"].update(epoch=7)
        ),
        "trial 0: epoch:000002 is epoch 7",
    ),
    "a metric is missing": (
        lambda lines: change(lines, attribute("epoch:000001"), lambda o: o["user_attr"]["epoch:000001"].pop("mse")),
        "trial 0: epoch:000001: mse is missing",
    ),
    "a metric is a text": (
        lambda lines: change(
            lines, attribute("epoch:000001"), lambda o: o["user_attr"]["epoch:000001"].update(mse="small")
        ),
        "trial 0: epoch:000001: mse is not float: 'small'",
    ),
    "a metric is too large a number": (
        lambda lines: change(
            lines, attribute("epoch:000001"), lambda o: o["user_attr"]["epoch:000001"].update(mse=10**400)
        ),
        "trial 0: epoch:000001: mse is not float: 1000",
    ),
    "a whole number is too large": (
        lambda lines: change(
            lines, attribute("epoch:000001"), lambda o: o["user_attr"]["epoch:000001"].update(active_units=1 << 63)
        ),
        "trial 0: epoch:000001: a whole number does not fit into 64 bits",
    ),
    "an epoch is no row": (
        lambda lines: change(lines, attribute("epoch:000001"), lambda o: o["user_attr"].update({"epoch:000001": 1})),
        "trial 0: epoch:000001: is no row of metrics",
    ),
    "an epoch has no time": (
        lambda lines: change(
            lines, attribute("epoch:000001"), lambda o: o["user_attr"]["epoch:000001"].update(recorded_at="noon")
        ),
        "trial 0: epoch:000001: recorded_at is missing or no time",
    ),
    "a value without its epoch": (
        lambda lines: change(lines, lambda o: o.get("step") == 2, lambda o: o.update(step=9)),
        "trial 0: has a value for epoch 9",
    ),
    "an outcome that there is not": (
        lambda lines: change(lines, attribute("outcome"), lambda o: o["user_attr"]["outcome"].update(state="won")),
        "trial 0: its outcome is none of completed",
    ),
    "an outcome that is no text": (
        lambda lines: change(lines, attribute("outcome"), lambda o: o["user_attr"]["outcome"].update(state=[1])),
        "trial 0: its outcome is none of completed",
    ),
    "an outcome that is missing": (
        lambda lines: b"".join(line for line in lines if b'"outcome"' not in line),
        "trial 0: has ended, but its outcome is missing",
    ),
    "an outcome that was told otherwise": (
        lambda lines: change(lines, attribute("outcome"), lambda o: o["user_attr"]["outcome"].update(state="failed")),
        "trial 0: is failed by its outcome, but told as COMPLETE",
    ),
    "a completed trial without a value": (
        lambda lines: change(lines, lambda o: o["op_code"] == 6, lambda o: o.update(values=None)),
        "trial 0: is completed without a value",
    ),
    "a parameter outside of the space": (
        lambda lines: change(lines, lambda o: o["op_code"] == 4, lambda o: o["params"].update(kld_weight=7.0)),
        "trial 0: kld_weight is 7.0, which is outside of what is searched, 1e-05 to 0.1, log scale",
    ),
    "a parameter that is not searched": (
        lambda lines: change(
            lines, lambda o: o["op_code"] == 4,
            lambda o: [o[key].update(d_size=o[key]["kld_weight"]) for key in ("params", "distributions")],
        ),
        "trial 0: has a value of d_size, which is not searched",
    ),
    "a trial that ended without its whole point": (
        lambda lines: change(
            lines, lambda o: o["op_code"] == 4,
            lambda o: (o["params"].pop("kld_weight"), o["distributions"].pop("kld_weight")),
        ),
        "trial 0: has no value of kld_weight",
    ),
    "a place that is none": (
        lambda lines: change(lines, attribute("place"), lambda o: o["user_attr"].update(place="here")),
        "trial 0: place is no node with a device",
    ),
    "final metrics of no trial": (
        lambda lines: b"".join(lines).replace(b'"tested:000000"', b'"tested:000009"'),
        "tested:000009: these are final metrics of a trial that there is not",
    ),
    "final metrics that are none": (
        lambda lines: change(lines, attribute("tested:000000"), lambda o: o["user_attr"].update({"tested:000000": []})),
        "trial 0: tested:000000: is no row of metrics",
    ),
    "final metrics with a text for a number": (
        lambda lines: change(
            lines, attribute("tested:000000"), lambda o: o["user_attr"]["tested:000000"].update(latent_kl_nats=["x"])
        ),
        "trial 0: tested:000000: latent_kl_nats is not tuple[float, ...]: ['x']",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("writable", [True, False])
def test_an_entry_that_cannot_be_is_refused_by_its_trial(
    directory: SweepDirectory, lines: list[bytes], spec: SweepSpec, damage: str, writable: bool
) -> None:
    how, message = DAMAGES[damage]
    content = how(lines)
    directory.journal.write_bytes(content)
    with pytest.raises(LedgerError) as refused:
        Ledger.open(directory, spec, writable=writable)
    assert "study.journal: " in str(refused.value)
    assert message in str(refused.value)
    assert "restore the file from a copy" in str(refused.value)


def test_metrics_of_a_later_version_are_left_aside(
    directory: SweepDirectory, ledger: Ledger, lines: list[bytes], reopen: Reopen
) -> None:
    directory.journal.write_bytes(
        change(lines, attribute("epoch:000001"), lambda o: o["user_attr"]["epoch:000001"].update(beauty=1.0))
    )
    assert repr(reopen().records()) == repr(ledger.records())


def test_a_cause_with_half_a_character_can_be_written_on(
    directory: SweepDirectory, lines: list[bytes], reopen: Reopen
) -> None:
    directory.journal.write_bytes(
        change(lines, attribute("outcome"), lambda o: o["user_attr"]["outcome"].update(cause="a\udc80b"))
    )
    cause = reopen().record(0).cause
    assert cause is not None
    assert cause.encode() == b"a?b"


@given(st.binary(max_size=40), st.integers(0, 2000), st.integers(0, 60))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_a_working_ledger_or_one_message(
    directory: SweepDirectory, lines: list[bytes], spec: SweepSpec, put: bytes, at: int, instead_of: int
) -> None:
    whole = b"".join(lines)
    at = at * len(whole) // 2000
    directory.journal.write_bytes(whole[:at] + put + whole[at + instead_of :])
    try:
        ledger = Ledger.open(directory, spec, writable=True)
    except LedgerError as error:
        assert "study.journal" in str(error)  # noqa: PT017 (either outcome is right)
    else:
        ledger.ask()
        again = Ledger.open(directory, spec, writable=True)
        assert repr(again.records()) == repr(ledger.records())


@given(st.lists(st.sampled_from([b'{"a":1}', b"\0\0", b"", b" ", b"torn", b"a\0b"]), max_size=6), st.booleans())
def test_what_is_sound_ends_with_a_line_that_was_written_whole(parts: list[bytes], ended: bool) -> None:
    content = b"\n".join(parts) + (b"\n" if ended else b"")
    end = sound_length(content)
    kept, cut = content[:end], content[end:]
    assert not kept or (kept.endswith(b"\n") and kept.splitlines()[-1].strip(b" \0"))
    assert all(b"\0" in line or not line.strip() for line in cut.split(b"\n")[:-1])
