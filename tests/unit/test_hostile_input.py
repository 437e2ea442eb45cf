"""Files from someone else: they run no code, lead no write out of a sweep, and take no more memory than they have."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import raysweep
from raysweep.data.bundled import BundledSource
from raysweep.data.cachefile import open_cache, write_cache
from raysweep.data.folder import BrokenImageError, _pillow_warnings, decode
from raysweep.data.images import Fitting
from raysweep.data.pickled import PickleError, read_pickle
from raysweep.errors import CacheError, CheckpointError, SpecError, SweepDirectoryError
from raysweep.quality.features import load_features
from raysweep.report.images import enlarge, untile
from raysweep.report.parquet import read_bounded_table, read_table
from raysweep.report.tables import SCHEMA_VERSION
from raysweep.spec.config import TrialConfig
from raysweep.spec.loading import load_spec, parse_spec
from raysweep.storage.layout import SweepDirectory, read_bounded
from raysweep.storage.lock import locked
from raysweep.storage.tensorfile import TensorFileError, read_tensors, write_tensors
from raysweep.vae.checkpoint import read_checkpoint
from raysweep.vae.export import load_model

ROOT = Path(raysweep.__file__).parent
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "imp", "code", "codeop"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {
    ("torch", "load"), ("torch", "save"), ("torch.hub", "load"), ("torch.jit", "load"), ("np", "load"),
    ("numpy", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("os", "system"), ("os", "popen"),
}  # fmt: skip


def faults_of(tree: ast.AST) -> Iterator[str]:
    """What in a module could run code that a file brings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in FORBIDDEN_CALLS or tuple(called.rsplit(".", 1)) in FORBIDDEN_METHODS:
            yield f"calls {called}"
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        if called in ("yaml.load", "yaml.compose", "yaml.parse") and options.get("Loader") != "Loader":
            yield f"calls {called} without our Loader"
        if options.get("allow_pickle", "False") != "False" or options.get("shell", "False") != "False":
            yield f"calls {called} with {options}"


def test_nothing_in_the_package_can_run_code_that_a_file_brings() -> None:
    found = [
        f"{path.relative_to(ROOT)} {fault}"
        for path in sorted(ROOT.rglob("*.py"))
        for fault in faults_of(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "def f(): eval('1')",
        "torch.load(p)",
        "np.load(p, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.UnsafeLoader)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_rule_against_running_code_sees_what_it_forbids(code: str) -> None:
    assert list(faults_of(ast.parse(code)))


def peak_bytes(call: Callable[[], object], refusal: type[Exception]) -> int:
    """The memory that a refused call took at most, as far as Python and numpy took it."""
    tracemalloc.start()
    try:
        with pytest.raises(refusal):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BOMBS = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b, *b]\n",
    "merge": "a: &a {x: 1}\nb: {<<: *a}\n",
    "deep lists": "a: " + "[" * 5000 + "]" * 5000,
    "deep mappings": "{a: " * 5000 + "}" * 5000,
    "a tag": "a: !!python/object/apply:os.system ['true']\n",
    "a timestamp that is none": "a: !!timestamp x\n",
    "a number of 5,000 digits": f"a: {'9' * 5000}\n",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_yaml_bomb_is_refused_in_no_time(bomb: str) -> None:
    assert peak_bytes(lambda: parse_spec(BOMBS[bomb]), SpecError) < 5_000_000


def test_a_search_space_file_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with open(path, "wb") as file:
        file.truncate(100 << 20)
    assert peak_bytes(lambda: load_spec(path), SpecError) < 5_000_000


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a file"):
        read_bounded(path, 100)
    with pytest.raises(CheckpointError, match="not a file"):
        read_checkpoint(path)
    with pytest.raises(CacheError):
        open_cache(path)


def a_sweep(tmp_path: Path) -> SweepDirectory:
    directory = SweepDirectory(tmp_path / "sweep")
    directory.trial(0).mkdir(parents=True)
    directory.spec.write_text("format: raysweep-sweep-1\n")
    return directory


@pytest.mark.parametrize(
    "name", ["report", "trials/0000/samples.png", "raysweep.log", "study.journal", "trials/0001", ".driver.lock"]
)
def test_a_link_out_of_a_sweep_is_refused_by_name_and_nothing_is_written_through_it(tmp_path: Path, name: str) -> None:
    directory = a_sweep(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (directory.root / name).symlink_to(outside / "target")
    with pytest.raises(SweepDirectoryError, match=f"{name}: is a link that leads out of the sweep"), locked(directory):
        pass
    assert list(outside.iterdir()) == []


def test_a_sweep_may_be_reached_by_a_link_and_have_links_and_a_journal_lock_within(tmp_path: Path) -> None:
    directory = a_sweep(tmp_path)
    (directory.root / "best").symlink_to("trials/0000")
    (directory.root / "study.journal.lock").symlink_to("/somewhere/else/study.journal")
    (tmp_path / "link").symlink_to(directory.root)
    with locked(SweepDirectory(tmp_path / "link")):
        pass


def test_a_pipe_in_a_sweep_is_refused_by_name(tmp_path: Path) -> None:
    directory = a_sweep(tmp_path)
    os.mkfifo(directory.trial(0) / "samples.png")
    with pytest.raises(SweepDirectoryError, match=r"samples\.png: is neither a file nor a directory"):
        directory.refuse_foreign()


def tensor_file(path: Path, header: object, body: bytes = b"") -> Path:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + body)
    return path


DEEP = "[" * 100_000 + "]" * 100_000
TENSOR_BOMBS: dict[str, tuple[object, bytes]] = {
    "a tensor of terabytes": ({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}, b""),
    "a shape without end": ({"x": {"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 4]}}, b"1234"),
    "overlapping tensors": (
        {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in ("x", "y")}, b"1234",
    ),
    "an unknown type": ({"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "a deep header": (DEEP.encode(), b""),
    "deep JSON within": ({"__metadata__": {"raysweep": DEEP}}, b""),
    "a number of 5,000 digits": ({"__metadata__": {"raysweep": f'{{"a": {"9" * 5000}}}'}}, b""),
    "negative offsets": ({"x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"1234"),
    "a list": ([1, 2], b""),
}  # fmt: skip


@pytest.mark.parametrize("bomb", TENSOR_BOMBS)
def test_tensors_that_are_not_what_their_header_says_are_refused(tmp_path: Path, bomb: str) -> None:
    path = tensor_file(tmp_path / "epoch-000001.safetensors", *TENSOR_BOMBS[bomb])
    assert peak_bytes(lambda: read_tensors(path), TensorFileError) < 20_000_000
    with pytest.raises(CheckpointError, match="epoch-000001"):
        read_checkpoint(path)
    assert load_features(path, "0" * 64) is None


def test_a_header_longer_than_the_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 10**15) + b"{}")
    with pytest.raises(TensorFileError, match="promises 1,000,000,000,000,000 bytes"):
        read_tensors(path)


def test_a_checkpoint_larger_than_the_memory_of_the_machine_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "epoch-000001.safetensors"
    with open(path, "wb") as file:
        try:
            file.truncate(8 << 40)
        except OSError:
            pytest.skip("this file system has no sparse files of that size")
    with pytest.raises(CheckpointError, match="has 8,796,093,022,208 bytes, at most"):
        read_checkpoint(path)


def test_a_model_of_a_trillion_weights_takes_no_memory(tmp_path: Path) -> None:
    config = TrialConfig(d_size=4096, latent_size=65536, hidden_size=65536)
    description = {"format": "raysweep-model-1", "shape": [3, 1024, 1024], "config": config.model_dump(mode="json")}
    (tmp_path / "model.json").write_text(json.dumps(description))
    write_tensors(tmp_path / "model.safetensors", {})
    assert peak_bytes(lambda: load_model(tmp_path), CheckpointError) < 50_000_000


@pytest.mark.parametrize("text", [DEEP, '{"format": ' * 3000, f'{{"shape": {"9" * 5000}}}', "null", '"x"', "NaN"])
def test_a_description_of_a_model_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match="holds no model that can be read"):
        load_model(tmp_path)


def test_a_model_of_a_vast_shape_is_refused(tmp_path: Path) -> None:
    for shape in ([10**9, 10**9, 10**9], [1, -8, 8], [1, 8], ["a", 8, 8], [1, 1e300, 8], [True, None, 8]):
        description = {"format": "raysweep-model-1", "shape": shape, "config": TrialConfig().model_dump(mode="json")}
        (tmp_path / "model.json").write_text(json.dumps(description))
        write_tensors(tmp_path / "model.safetensors", {})
        with pytest.raises(CheckpointError):
            load_model(tmp_path)


def test_features_of_a_trillion_classes_take_no_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "features.safetensors"
    header = {"format": "raysweep-features-1", "fingerprint": "f", "kind": "random", "shape": [1, 8, 8],
              "classes": 10**12, "accuracy": None}  # fmt: skip
    write_tensors(path, {}, header)
    with caplog.at_level(logging.WARNING, "raysweep"):
        assert load_features(path, "f") is None
    assert "cannot be used as features" in caplog.text


def versioned(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({"raysweep.schema_version": str(SCHEMA_VERSION)})


def test_a_table_whose_few_bytes_stand_for_a_billion_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report" / "trials.parquet"
    path.parent.mkdir()
    small = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int8)), pa.array([1.5]))
    pq.write_table(versioned(pa.table(dict.fromkeys("abcdefghij", small))), path)
    assert path.stat().st_size < 100_000
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="it promises 80,"):
        read_bounded_table(path, limit_bytes=50_000_000)
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert read_table(path).num_rows == 1_000_000


def test_a_table_that_repeats_one_long_text_is_refused_before_it_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "report" / "trials.parquet"
    path.parent.mkdir()
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int32)), pa.array(["x" * 100_000]))
    pq.write_table(versioned(pa.table({"cause": texts})), path)
    with pytest.raises(SweepDirectoryError, match="its texts take 100,000,000,000 bytes"):
        read_table(path)


def test_a_list_that_stands_for_a_billion_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latents.parquet"
    numbers = pa.array(np.zeros(3_000_000, np.float32))
    pq.write_table(pa.table({"latent": pa.ListArray.from_arrays([0, len(numbers)], numbers)}), path)
    assert path.stat().st_size < 20_000
    with pytest.raises(ValueError, match="it promises 24,"):
        read_bounded_table(path, limit_bytes=10_000_000)


def test_a_footer_that_would_end_the_process_in_pyarrow_is_refused(tmp_path: Path) -> None:
    """Its own view of a column's metadata ends the process where a histogram is shorter than the levels are."""
    path = tmp_path / "report" / "trials.parquet"
    path.parent.mkdir()
    pq.write_table(versioned(pa.table({"cause": ["a", None, "b"] * 10})), path)
    content = path.read_bytes()
    refused = 0
    for place in range(len(content) - 400, len(content) - 8):
        for bit in (0, 4):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            try:
                read_table(path)
            except SweepDirectoryError:
                refused += 1
    assert refused > 50


def png(width: int, height: int) -> bytes:
    """A black picture of any size, of a few bytes: the rows are not all there."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min((width + 1) * height, 10_000_000)), 9)
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", rows) + piece(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (9_000, 9_000), (2**31 - 1, 1)])
def test_a_picture_of_billions_of_pixels_is_not_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "samples.png"
    path.write_bytes(png(*size))
    assert peak_bytes(lambda: enlarge(path, 1100), ValueError) < 20_000_000
    assert peak_bytes(lambda: untile(path, 8), ValueError) < 20_000_000


def test_a_picture_one_pixel_wide_and_very_long_is_not_enlarged_without_end() -> None:
    _, width, height = enlarge(png(1, 200_000), 1100)
    assert width * height <= 72_000_000


def test_an_image_bomb_in_a_folder_is_a_broken_image(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png(30_000, 30_000))
    with _pillow_warnings(), pytest.raises(BrokenImageError, match="exceeds limit"):
        decode(path, 1)


def test_a_large_image_is_decoded_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("L", (5_000, 4_000), 7).save(path)
    with _pillow_warnings():
        assert decode(path, 1).shape == (4_000, 5_000, 1)


def test_a_cache_with_compressed_batches_is_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "digits.arrow"
    write_cache(path, BundledSource("digits"), Fitting(8, 1, "resize"))
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, reader.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            for batch in batches:
                writer.write_batch(batch)
        del batches, batch, reader
    path.write_bytes(sink.getvalue())
    with pytest.raises(CacheError, match="its batches are compressed"):
        open_cache(path)


def test_a_cache_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    whole = tmp_path / "digits.arrow"
    write_cache(whole, BundledSource("digits"), Fitting(8, 1, "resize"))
    content = whole.read_bytes()
    for length in (0, 1, 6, 8, 100, len(content) // 2, len(content) - 9, len(content) - 1):
        whole.write_bytes(content[:length])
        with pytest.raises(CacheError, match=r"digits\.arrow"):
            open_cache(whole)


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"(S'x'\nios\nsystem\n.",
        b"\x80\x02}b.",
        b"]a.",
        b"tttt.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)\x81.",
    ],
)
def test_a_pickle_that_asks_for_anything_but_arrays_is_refused(code: bytes) -> None:
    with pytest.raises(PickleError):
        read_pickle(code)
