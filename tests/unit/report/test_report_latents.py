from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from raysweep.report.latents import MAX_ROWS, read_latents, sprite_sheet, write_latents


@settings(deadline=None, max_examples=40)
@given(
    means=arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=st.floats(-9, 9, width=32)),
    labels=st.none() | st.lists(st.none() | st.text(max_size=5), min_size=9, max_size=9),
)
def test_a_table_of_latents_reads_back_as_it_was_written(tmp_path_factory, means, labels):
    path = tmp_path_factory.mktemp("latents") / "latents.parquet"
    count, latents = means.shape
    kl = np.linspace(0.1, 3.0, latents)
    names = None if labels is None else labels[:count]
    splits = [("train", "validation", "test")[index % 3] for index in range(count)]
    write_latents(path, means, kl, names, splits, range(7, 7 + count))
    found = read_latents(path)
    np.testing.assert_array_equal(found.means, means)
    np.testing.assert_array_equal(found.kl_nats, kl)
    assert found.labels == tuple(names or [None] * count)
    assert found.splits == tuple(splits)
    assert found.images.tolist() == list(range(7, 7 + count))
    assert [entry.name for entry in path.parent.iterdir()] == ["latents.parquet"]


def test_any_reader_of_parquet_finds_the_columns(tmp_path, latent_means):
    path = tmp_path / "latents.parquet"
    write_latents(path, latent_means, np.array([1.0, 0.0, 5.0]), None, ["test"] * 30, range(30))
    schema = pq.read_schema(path)
    types = {field.name: str(field.type) for field in schema}
    assert types["image"] == "int64"
    assert types["split"] == types["label"] == "string"
    assert types["latent"].startswith("fixed_size_list<")
    assert types["latent"].endswith("float>[3]")
    assert schema.metadata[b"raysweep.latents_version"] == b"1"
    assert schema.metadata[b"raysweep.latent_kl_nats"] == b"1.0 0.0 5.0"


def test_the_active_latents_are_those_that_vary_the_most_kl_first(tmp_path, latent_means):
    path = tmp_path / "latents.parquet"
    write_latents(path, latent_means, np.array([1.0, 9.0, 5.0]), None, ["test"] * 30, range(30))
    assert read_latents(path).active.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("means", "kl", "said"),
    [
        (np.zeros((0, 3), np.float32), [1.0] * 3, "1 to 10000 images"),
        (np.zeros((MAX_ROWS + 1, 1), np.float32), [1.0], "1 to 10000 images"),
        (np.zeros((30, 3), np.float32), [1.0] * 2, "2 KL divergences"),
        (np.zeros((29, 3), np.float32), [1.0] * 3, "'splits': 30"),
        (np.full((30, 3), np.nan, np.float32), [1.0] * 3, "finite"),
    ],
)
def test_what_is_no_table_of_latents_is_not_written(tmp_path, means, kl, said):
    with pytest.raises(ValueError, match=said):
        write_latents(tmp_path / "latents.parquet", means, np.array(kl), None, ["test"] * 30, range(30))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_a_damaged_and_a_foreign_file_are_refused(tmp_path, latent_means):
    path = tmp_path / "latents.parquet"
    with pytest.raises(ValueError, match="no table of latents"):
        read_latents(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="no table of latents"):
        read_latents(path)
    write_latents(path, latent_means, np.zeros(3), None, ["test"] * 30, range(30))
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(ValueError, match="no table of latents"):
        read_latents(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"raysweep.latents_version": b"2"}), path)
    with pytest.raises(ValueError, match="version 2"):
        read_latents(path)


def lists(values: list[list[float] | None]) -> pa.Array:
    return pa.array(values, pa.list_(pa.float32(), 3))


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("latent", lists([[0.0, 1.0, 2.0]] * 29 + [None]), "latent has 1 nulls"),
        ("latent", lists([[0.0, 1.0, math.nan]] * 30), "finite"),
        ("latent", lists([[0.0, 1.0, math.inf]] * 30), "finite"),
        ("latent", lists([[0.0, 1.0, None]] * 30), "finite"),
        ("latent", pa.array([[0.0, 1.0, 2.0]] * 30), "all equally long"),
        ("latent", pa.array([[0.0, 1.0]] * 30, pa.list_(pa.float32(), 2)), "30 rows of 2 latents .* 3 KL"),
        ("latent", pa.array([["a", "b", "c"]] * 30, pa.list_(pa.string(), 3)), "lists of numbers"),
        ("label", pa.array(range(30)), "label must be texts, got int64"),
        ("split", pa.array(["test"] * 29 + [None]), "split has 1 nulls"),
        ("split", pa.array(range(30)), "split must be texts"),
        ("image", pa.array([*range(29), None]), "image has 1 nulls"),
        ("image", pa.array([0.5] * 30), "image must be whole numbers"),
    ],
)
def test_columns_of_another_type_or_with_gaps_are_refused(tmp_path, latent_means, column, values, said):
    path = tmp_path / "latents.parquet"
    write_latents(path, latent_means, np.zeros(3), ["a"] * 30, ["test"] * 30, range(30))
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), path)
    with pytest.raises(ValueError, match=f"{path}: is no table of latents: .*{said}"):
        read_latents(path)


def test_a_table_without_rows_is_refused(tmp_path, latent_means):
    path = tmp_path / "latents.parquet"
    write_latents(path, latent_means, np.zeros(3), None, ["test"] * 30, range(30))
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(ValueError, match="0 rows"):
        read_latents(path)


@settings(deadline=None)
@given(count=st.integers(1, 40), height=st.integers(1, 5), width=st.integers(1, 5), channels=st.sampled_from([1, 3]))
def test_a_sheet_is_a_square_of_cells_in_the_order_of_the_images(count, height, width, channels):
    images = np.random.default_rng(count).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    sheet = np.asarray(Image.open(io.BytesIO(sprite_sheet(images)))).reshape(
        math.ceil(math.sqrt(count)) * height, math.ceil(math.sqrt(count)) * width, channels
    )
    for index, image in enumerate(images):
        y, x = divmod(index, math.ceil(math.sqrt(count)))
        np.testing.assert_array_equal(sheet[y * height : (y + 1) * height, x * width : (x + 1) * width], image)


def test_images_shrink_where_the_sheet_would_be_too_large():
    images = np.full((10, 16, 8, 3), 200, np.uint8)
    with Image.open(io.BytesIO(sprite_sheet(images, max_side=32))) as sheet:
        assert sheet.size == (4 * 4, 4 * 8)
        assert sheet.getpixel((0, 0)) == (200, 200, 200)


def test_sheets_of_what_are_no_images_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="images must be uint8"):
        sprite_sheet(np.zeros((3, 8, 8, 1), np.float32))  # type: ignore[arg-type]
