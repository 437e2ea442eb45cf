"""`raysweep new`, the shipped search spaces by their names, and what is said where a record is taken for a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from raysweep.cli import main
from raysweep.data.cache import describe
from raysweep.spec.defaults import sized
from raysweep.spec.loading import load_spec, parse_spec
from raysweep.spec.shipped import shipped_spaces
from raysweep.storage.layout import SweepDirectory
from raysweep.study.description import FORMAT, yaml_text
from raysweep.study.ledger import Ledger

ROOT = Path(__file__).parents[3]
SPACE = "name: tiny\ndata: {dataset: digits, image_size: 16}\ntrial: {kld_weight: {low: 1e-5, high: 1e-1, log: true}}\n"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_images(folder: str, count: int, size: tuple[int, int], channels: int = 1, classes: int = 0) -> None:
    pixels = np.random.default_rng(0)
    for index in range(count):
        place = Path(folder, str(index % classes)) if classes else Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        shape = (size[1], size[0]) if channels == 1 else (size[1], size[0], 3)
        Image.fromarray(pixels.integers(0, 255, shape, np.uint8)).save(place / f"{index:03}.png")


def make_sweep(place: str) -> None:
    """A sweep directory with a record and a ledger, as `run` begins one."""
    directory = SweepDirectory.at(place)
    directory.root.mkdir(parents=True)
    spec = parse_spec(SPACE)
    description = {"format": FORMAT, "spec": spec.as_mapping(), "data": {"checksum": "0"}, "versions": {}}
    directory.spec.write_text(yaml_text(description))
    Ledger.create(directory, spec, description)


@pytest.mark.parametrize("name", ["plain", "1e5", "null", "yes", "a.b-c"])
def test_a_new_file_is_sound_whatever_its_name(name: str) -> None:
    code, output = run("new", f"{name}.yaml")
    assert code == 0, output
    assert f"raysweep check {name}.yaml" in output
    assert load_spec(f"{name}.yaml").name == name


@pytest.mark.parametrize(
    ("count", "size", "channels", "classes", "expected"),
    [
        (40, (20, 20), 1, 2, {"image_size": 16, "channels": 1, "fit": "resize"}),
        (60, (28, 28), 1, 0, {"image_size": 32, "channels": 1, "fit": "resize"}),
        (40, (320, 280), 3, 2, {"image_size": 64, "channels": 3}),
    ],
)
def test_a_new_file_fits_the_images_of_a_folder(
    count: int, size: tuple[int, int], channels: int, classes: int, expected: dict[str, object]
) -> None:
    make_images("mine", count, size, channels, classes)
    code, output = run("new", "my.yaml", "--data", "mine")
    assert code == 0, output
    assert f"for {count} images of {size[0]}x{size[1]}" in output
    spec = load_spec("my.yaml")
    assert {key: getattr(spec.data, key) for key in expected} == expected
    assert spec.data.root == str(Path("mine").absolute())
    assert "root: mine " in Path("my.yaml").read_text()
    code, output = run("check", "my.yaml")
    assert code == 0, output


@pytest.mark.parametrize(("count", "size"), [(300, 16), (40, 64), (2500, 28)])
def test_a_new_file_is_the_sweep_that_a_file_with_its_data_alone_is(count: int, size: int) -> None:
    make_images("mine", count, (size, size))
    assert run("new", "my.yaml", "--data", "mine")[0] == 0
    spec = load_spec("my.yaml")
    alone = load_spec({"name": "my", "data": spec.data.model_dump()})
    assert sized(alone, describe(spec.data).sizes.train).as_mapping() == spec.as_mapping()


def test_every_line_of_a_new_file_has_a_comment_on_what_it_is() -> None:
    run("new", "my.yaml")
    bare = [line for line in Path("my.yaml").read_text().splitlines() if line.startswith("  ") and "#" not in line]
    assert bare == ["  early_stopping:"]


def test_new_leaves_what_is_there_as_it_is() -> None:
    Path("my.yaml").write_text("mine")
    code, output = run("new", "my.yaml")
    assert (code, Path("my.yaml").read_text()) == (2, "mine")
    assert "is there already and stays as it is; name another file" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my"], "type: raysweep new my.yaml"),
        (["my space.yaml"], "such as my_space.yaml"),
        (["none/my.yaml"], "type: mkdir -p none"),
        (["my.yaml", "--data", "mnits"], "did you mean mnist?"),
        (["my.yaml", "--data", "none/here"], "there is no such directory"),
        (["my.yaml", "--from", "kdl"], "did you mean kld, which is shipped?"),
        (["my.yaml", "--from", "kld", "--data", "digits"], "exclude each other"),
    ],
)
def test_what_cannot_be_written_is_one_message_and_writes_nothing(
    arguments: list[str], message: str, here: Path
) -> None:
    code, output = run("new", *arguments)
    assert code == 2
    assert message in output
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "{name: a, data: {dataset: digits}, trial: {seed: {choices: [0, 1]}}}",
        "name: 'a'   # the name\r\ndata: {dataset: digits}\r\ntrial: {seed: {choices: [0, 1]}}\r\n",
        "# name: no\ndata: {dataset: digits}\ntrial: {seed: {choices: [0, 1]}}\nclaims:\n- name: c\n  statement: s\n"
        "  test: always\n  condition: rate_nats >= 0\n",
        "# of München\ndata: {dataset: digits}\ntrial: {seed: {choices: [0, 1]}}\n",
    ],
)
def test_a_file_of_ones_own_can_be_copied_however_it_is_written(text: str) -> None:
    Path("a.yaml").write_bytes(text.encode())
    code, output = run("new", "b.yaml", "--from", "a.yaml")
    assert code == 0, output
    spec = load_spec("a.yaml").as_mapping()
    assert load_spec("b.yaml").as_mapping() == {**spec, "name": "a" if text.startswith("{") else "b"}


def test_an_editor_is_told_of_the_schema_only_where_it_lies() -> None:
    run("new", "one.yaml")
    assert "yaml-language-server" not in Path("one.yaml").read_text()
    Path("raysweep.schema.json").write_text(run("check", "--schema")[1])
    run("new", "two.yaml")
    assert Path("two.yaml").read_text().startswith("# yaml-language-server: $schema=raysweep.schema.json\n")


@pytest.mark.parametrize("name", shipped_spaces())
def test_a_shipped_search_space_goes_by_its_name_and_can_be_copied(name: str) -> None:
    assert load_spec(name).as_mapping() == load_spec(ROOT / "search_spaces" / f"{name}.yaml").as_mapping()
    code, output = run("new", "copy.yaml", "--from", name)
    assert code == 0, output
    assert load_spec("copy.yaml").as_mapping() == {**load_spec(name).as_mapping(), "name": "copy"}


def test_a_file_in_the_working_directory_goes_before_the_shipped_one() -> None:
    Path("kld").write_text(SPACE)
    assert load_spec("kld").name == "tiny"
    assert load_spec("quickstart").name == "quickstart"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("kdl", "did you mean kld, which is shipped?"),
        ("something", "these are shipped: "),
        ("kld.yaml", "the one that is shipped is named without an ending: kld"),
        ("search_spaces/kld.yaml", "the one that is shipped is named without an ending: kld"),
    ],
)
def test_a_file_that_is_not_there_names_the_shipped_one(source: str, message: str) -> None:
    for command in ("check", "run"):
        code, output = run(command, source)
        assert code == 2
        assert message in output


@pytest.mark.parametrize(
    ("command", "given"),
    [
        *(
            (command, given)
            for command in (["run"], ["check"])
            for given in ("results/tiny", "results/tiny/sweep.yaml")
        ),
        (["data", "prepare"], "results/tiny/sweep.yaml"),
        (["resume", "results/tiny", "--file"], "results/tiny/sweep.yaml"),
    ],
)
def test_a_record_taken_for_a_search_space_says_what_it_is_and_what_to_type(command: list[str], given: str) -> None:
    make_sweep("results/tiny")
    before = Path("results/tiny/sweep.yaml").read_bytes()
    code, output = run(*command, given)
    assert code == 2
    assert "a sweep that was run, not a search space file" in output
    assert "raysweep resume results/tiny" in output
    assert "raysweep new my.yaml --from results/tiny" in output
    assert "Correct it" not in output
    assert Path("results/tiny/sweep.yaml").read_bytes() == before


@pytest.mark.parametrize("origin", ["results/tiny", "results/tiny/sweep.yaml", "moved.yaml"])
def test_the_search_space_of_a_sweep_can_be_copied_from_its_record(origin: str) -> None:
    make_sweep("results/tiny")
    Path("moved.yaml").write_bytes(Path("results/tiny/sweep.yaml").read_bytes())
    code, output = run("new", "again.yaml", "--from", origin)
    assert code == 0, output
    assert load_spec("again.yaml").as_mapping() == {**parse_spec(SPACE).as_mapping(), "name": "again"}


def test_a_record_with_claims_is_copied_whole() -> None:
    for name in ("kld_weights", "conv_or_dense", "beta_by_hand", "decoders"):
        directory = SweepDirectory.at(f"results/{name}")
        directory.root.mkdir(parents=True)
        spec = load_spec(name)
        directory.spec.write_text(yaml_text({"format": FORMAT, "spec": spec.as_mapping(), "data": {}}))
        assert run("new", f"{name}.yaml", "--from", f"results/{name}/sweep.yaml")[0] == 0
        assert load_spec(f"{name}.yaml").as_mapping() == spec.as_mapping()


@pytest.mark.parametrize("command", ["status", "best", "report", "resume"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("results/tiny/sweep.yaml", "is a file, not the directory of a sweep; did you mean results/tiny?"),
        ("tiny.yaml", "is a file, not the directory of a sweep; did you mean results/tiny?"),
        ("tiny", "there is no such directory; did you mean results/tiny?"),
    ],
)
def test_a_file_taken_for_a_sweep_names_the_sweep(command: str, given: str, message: str) -> None:
    make_sweep("results/tiny")
    Path("tiny.yaml").write_text(SPACE)
    code, output = run(command, given)
    assert code == 2
    assert message in output


def test_a_new_sweep_goes_into_no_directory_of_other_files(here: Path) -> None:
    Path("tiny.yaml").write_text(SPACE)
    Path("out/notes").mkdir(parents=True)
    for index in range(7):
        Path(f"out/{index}.txt").touch()
    code, output = run("run", "tiny.yaml", "--output", "out")
    assert code == 2
    assert "out: is not empty, it holds 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 3 more" in output
    assert "type: raysweep run tiny.yaml --output out/tiny" in output
    assert sorted(path.name for path in Path("out").iterdir()) == [*(f"{index}.txt" for index in range(7)), "notes"]


def test_what_nobody_put_there_is_not_taken_for_somebodys_file() -> None:
    Path("out").mkdir()
    for name in (".DS_Store", ".driver.lock", ".driver.json", "raysweep.log", ".unreported", ".sweep.yaml.12ab.tmp"):
        Path("out", name).touch()
    Path("out/lost+found").mkdir()
    assert SweepDirectory.at("out").foreign_entries() == []
    Path("out/.git").mkdir()
    assert SweepDirectory.at("out").foreign_entries() == [".git"]


def test_a_folder_of_images_taken_for_a_file_says_how_to_write_one() -> None:
    make_images("photos", 3, (8, 8))
    code, output = run("run", "photos")
    assert code == 2
    assert "type: raysweep new my.yaml --data photos" in output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("new", "my.yaml", "--data", "missing/"), "missing: there is no such directory; --data must name"),
        (("data", "prepare", "folder", "--root", "missing"), "missing: there is no such directory; --root must name"),
        (("new", "my.yaml", "--data", "s3://b/x"), "--data s3://b/x: is an address, but images"),
        (("data", "prepare", "folder", "--root", "s3://b/x"), "--root s3://b/x: is an address, but images"),
        (("new", "s3://b/my.yaml"), "s3://b/my.yaml: is an address, but a search space file"),
        (("check", "bucket.yaml"), "data.root: s3://b/x: is an address, but images"),
        (("check", "missing.yaml"), "missing: there is no such directory; data.root must name"),
    ],
)
def test_a_folder_that_is_not_there_is_named_as_it_was_typed(arguments: tuple[str, ...], named: str) -> None:
    for name, root in (("bucket", "s3://b/x"), ("missing", "missing")):
        Path(f"{name}.yaml").write_text(f"name: a\ndata: {{dataset: folder, root: '{root}', image_size: 16}}\n")
    code, output = run(*arguments)
    assert code == 2
    assert named in output
    assert ("data.root" in output) == (arguments[0] == "check")
    assert not Path("my.yaml").exists()


@pytest.mark.parametrize(
    ("address", "copied"),
    [
        ("s3://b/m", "Then type: aws s3 cp --recursive exported/tiny s3://b/m"),
        ("gs://b/m", "Then type: gcloud storage cp --recursive exported/tiny gs://b/m"),
        ("abfss://c@a.dfs.core.windows.net/m", "Then copy exported/tiny to abfss://c@a.dfs.core.windows.net/m"),
    ],
)
def test_an_export_into_a_bucket_is_refused_with_what_to_type(address: str, copied: str) -> None:
    make_sweep("results/tiny")
    code, output = run("export", "results/tiny", address, "--trial", "3")
    assert code == 2
    assert output.startswith(f"{address}: is an address, but a model is written to a folder of this machine")
    assert f"First type: raysweep export results/tiny exported/tiny --trial 3. {copied}" in output
    assert sorted(path.name for path in Path().iterdir()) == ["results"]
