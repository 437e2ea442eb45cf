from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysweep.errors import SweepDirectoryError
from raysweep.metrics import METRICS
from raysweep.report.parquet import read_table, write_parquet
from raysweep.report.tables import (
    EPOCH_COLUMNS,
    PARAMETERS,
    TRIAL_COLUMNS,
    epochs_schema,
    epochs_table,
    trials_schema,
    trials_table,
)
from raysweep.spec.config import TrialConfig
from raysweep.storage.layout import SweepDirectory
from tests.unit.schema_tables import TABLES, rows, section, written

DOCS = Path(__file__).parents[3] / "docs" / "schema.md"


def test_the_columns_of_a_parameter_have_its_own_type():
    schema = trials_schema()
    types = {name: str(schema.field(name).type) for name in TrialConfig.model_fields}
    whole = {
        "d_size", "latent_size", "hidden_size", "kernel_size", "kld_warmup_epochs", "kld_cycle_epochs", "batch_size",
        "learning_rate_patience_epochs", "epochs", "seed",
    }  # fmt: skip
    texts = {
        "conv_blocks", "batch_norm", "upsampling", "likelihood", "reduction", "binarise", "learning_rate_schedule",
        "learning_rate_epochs", "precision",
    }  # fmt: skip
    assert {name for name, kind in types.items() if kind == "int64"} == whole
    assert {name for name, kind in types.items() if kind == "string"} == texts
    assert {types[name] for name in types.keys() - whole - texts} == {"double"}
    assert [name for name in types if schema.field(name).nullable] == ["hidden_size", "max_gradient_norm"]


def test_the_schema_is_exact():
    schema = trials_schema()
    for name, type_ in {
        "trial": pa.int64(),
        "state": pa.string(),
        "objective": pa.float64(),
        "epochs_done": pa.int32(),
        "elbo_nats": pa.float64(),
        "active_units": pa.int64(),
        "collapsed": pa.bool_(),
        "best_epoch": pa.int32(),
        "best_collapsed": pa.bool_(),
        "started_at": pa.timestamp("us", tz="UTC"),
        "enqueued": pa.bool_(),
    }.items():
        assert schema.field(name).type == type_, name
    names = epochs_schema().names
    assert names == ["trial", "epoch", *METRICS, "time_s", "recorded_at"]
    assert not any(field.nullable for field in epochs_schema())


def test_no_two_columns_share_a_name():
    for columns in (TRIAL_COLUMNS, EPOCH_COLUMNS):
        assert len({column.name for column in columns}) == len(columns)


def test_every_parameter_is_described():
    assert list(PARAMETERS) == list(TrialConfig.model_fields)


def test_rows_are_sorted_and_keep_nan_apart_from_null(sweep_records, spec):
    rows = trials_table(sweep_records[::-1], spec).to_pylist()
    assert [row["trial"] for row in rows] == list(range(12))
    diverged, failed = rows[2], rows[3]
    assert math.isnan(diverged["objective"])
    assert (diverged["best_epoch"], diverged["best_elbo_nats"]) == (1, 5.0)
    assert (failed["objective"], failed["elbo_nats"], failed["best_epoch"], failed["train_s"]) == (None, None, None, 0)
    assert (rows[0]["epochs"], rows[0]["epochs_done"], rows[0]["train_s"]) == (9, 3, 4.5)


def test_best_columns_follow_the_objective(record, spec):
    row = trials_table([record(0, (10.0, 30.0, 20.0))], spec).to_pylist()[0]
    assert (row["best_epoch"], row["best_elbo_nats"], row["elbo_nats"]) == (2, 30.0, 20.0)


def test_epochs_add_up_their_time(record, spec):
    rows = epochs_table([record(1), record(0, (1.0,))], spec).to_pylist()
    assert [(row["trial"], row["epoch"], row["time_s"]) for row in rows] == [
        (0, 1, 1.5), (1, 1, 1.5), (1, 2, 3.0), (1, 3, 4.5)
    ]  # fmt: skip


def test_two_records_of_one_trial_are_refused(record, spec):
    with pytest.raises(ValueError, match="two TrialRecords have number 3"):
        trials_table([record(3), record(3)], spec)


def test_a_row_says_whether_its_trial_is_stuck_and_null_where_nobody_can_tell(record, spec) -> None:
    table = trials_table([record(0), record(1), record(2)], spec, {0: True, 1: False, 2: None})
    assert table["stuck"].to_pylist() == [True, False, None]
    assert trials_table([record(0)], spec)["stuck"].to_pylist() == [None]


def test_the_metadata_says_whose_tables_these_are(spec):
    metadata = trials_table([], spec).schema.metadata
    assert metadata[b"raysweep.schema_version"] == b"1"
    assert metadata[b"raysweep.sweep"] == b"synthetic"
    assert json.loads(metadata[b"raysweep.spec"]) == spec.as_mapping()
    assert trials_schema().field("rate_nats").metadata[b"unit"] == b"nats/image"


@pytest.fixture
def directory(tmp_path, sweep_records, spec):
    directory = SweepDirectory(tmp_path)
    write_parquet(directory, sweep_records, spec)
    return directory


def test_the_files_read_back_as_they_were_written(directory, sweep_records, spec):
    # NaN differs from itself, so the tables are compared as text.
    read = read_table(directory.trials_parquet)
    assert read.schema.equals(trials_schema(spec), check_metadata=True)
    assert str(read.to_pylist()) == str(trials_table(sweep_records, spec).to_pylist())
    read = read_table(directory.epochs_parquet)
    assert str(read.to_pylist()) == str(epochs_table(sweep_records, spec).to_pylist())


def test_duckdb_reads_bare_names(directory):
    query = f"SELECT kld_weight, elbo_nats FROM '{directory.trials_parquet}' WHERE state = 'completed' ORDER BY trial"
    rows = duckdb.sql(query).fetchall()
    assert [elbo for _, elbo in rows] == [3.0, 21.0, 24.0, 27.0, 30.0, 33.0]


def test_pandas_reads_types(directory):
    trials = pd.read_parquet(directory.trials_parquet, dtype_backend="pyarrow")
    assert trials.loc[trials.state == "completed"].elbo_nats.max() == 33.0
    assert str(trials.started_at.dtype) == "timestamp[us, tz=UTC][pyarrow]"


def test_polars_joins_the_two_tables(directory):
    trials, epochs = pl.read_parquet(directory.trials_parquet), pl.read_parquet(directory.epochs_parquet)
    joined = epochs.join(trials.select("trial", "kld_weight"), on="trial", how="left")
    assert joined.height == epochs.height == trials["epochs_done"].sum()
    assert epochs.select("trial", "epoch").is_duplicated().sum() == 0


def test_an_empty_sweep_has_whole_tables(tmp_path, spec):
    directory = SweepDirectory(tmp_path)
    write_parquet(directory, [], spec)
    assert read_table(directory.trials_parquet).num_rows == 0
    assert read_table(directory.epochs_parquet).schema.names == epochs_schema().names
    assert duckdb.sql(f"SELECT count(*) FROM '{directory.trials_parquet}'").fetchall() == [(0,)]


def test_a_missing_table_says_what_to_type(tmp_path):
    directory = SweepDirectory(tmp_path)
    with pytest.raises(SweepDirectoryError, match=f"no such table; raysweep report {re.escape(str(tmp_path))}"):
        read_table(directory.trials_parquet)


@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_a_damaged_table_says_what_to_type(directory, damage):
    path = directory.trials_parquet
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"hello"}[damage])
    with pytest.raises(SweepDirectoryError, match=r"damaged or no Parquet file.*raysweep report "):
        read_table(path)


def test_a_table_of_another_program_or_version_is_refused(directory):
    path = directory.trials_parquet
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(SweepDirectoryError, match="no table of raysweep's"):
        read_table(path)
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"raysweep.schema_version": "2"}), path)
    with pytest.raises(SweepDirectoryError, match="schema version 2, this raysweep reads up to 1"):
        read_table(path)


def test_the_documentation_is_the_schema():
    text = DOCS.read_text()
    for heading, columns in TABLES.items():
        assert written(section(text, heading)) == rows(columns)


def test_the_documented_queries_run(directory):
    queries = re.search(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]
    for query in filter(str.strip, re.sub(r"results/(kld|\*)/", f"{directory.root}/", queries).split(";")):
        assert duckdb.sql(query).fetchall()


def test_reading_a_table_imports_nothing_heavy():
    script = (
        "import sys, raysweep.report.parquet, raysweep.report.figures.gallery; "
        "print([m for m in ('matplotlib', 'PIL', 'tensorboard', 'torch', 'ray', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
