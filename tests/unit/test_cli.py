"""The command line without Ray: help that a person can use, and every bad input as one message."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from raysweep.cli import main
from raysweep.metrics import TrialState
from raysweep.spec.loading import parse_spec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.description import FORMAT
from raysweep.study.ledger import Ledger
from tests.unit.commands_page import commands, page
from tests.unit.conftest import epoch_metrics

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("path", [" ".join(path) for path, _ in commands(main)])
def test_every_command_has_help_and_so_does_every_option(path: str) -> None:
    command = {" ".join(names): command for names, command in commands(main)}[path]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            assert parameter.help, f"{path} {parameter.name}"
    code, output = run(*path.split()[1:], "--help")
    assert code == 0
    assert output.startswith("Usage: ")


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    assert (ROOT / "docs" / "commands.md").read_text() == page(), (
        "python -m tests.unit.commands_page > docs/commands.md"
    )


BAD_FILES = {
    "unknown key": "nam: x\ndata: {dataset: digits}\ntrial: {kld_weight: {low: 1, high: 2}}\n",
    "wrong type": "data: {dataset: digits}\ntrial: {kld_weight: {low: one, high: 2}}\n",
    "low above high": "data: {dataset: digits}\ntrial: {kld_weight: {low: 3, high: 2}}\n",
    "log of zero": "data: {dataset: digits}\ntrial: {kld_weight: {low: 0, high: 2, log: true}}\n",
    "not YAML": "data: {dataset: digits\n",
    "empty": "",
    "a list": "- 1\n",
    "nothing searched": "data: {dataset: digits}\ntrial: {latent_size: 4}\n",
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_bad_file_is_one_message_and_exit_code_2_and_starts_nothing(
    kind: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(BAD_FILES[kind])
    code, output = run(command, "space.yaml")
    assert code == 2
    assert output.startswith("space.yaml: ")
    assert "nothing was started" in output
    assert "Traceback" not in output
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_missing_file_and_a_directory_are_one_message(command: str, tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        code, output = run(command, str(path))
        assert (code, output.count("fault")) == (2, 1)


@pytest.mark.parametrize("command", ["status", "best", "report", "resume", "findings"])
def test_a_directory_without_a_sweep_says_what_to_type(command: str, tmp_path: Path) -> None:
    code, output = run(command, str(tmp_path))
    assert code == 2
    assert "holds no sweep" in output
    code, output = run(command, str(tmp_path / "none"))
    assert code == 2
    assert "there is no such directory; raysweep run FILE makes one" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trials", "0"], "0 is not in the range x>=1"),
        (["--trials", "many"], "'many' is not a valid integer"),
        (["--time-budget", "soon"], "'soon' must be a duration such as 90s"),
        (["--time-budget", "0s"], "must be more than nothing"),
        (["--outptu", "x"], "Did you mean '--output'?"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options: list[str], message: str) -> None:
    code, output = run("run", str(ROOT / "search_spaces/quickstart.yaml"), *options)
    assert code == 2
    assert message in " ".join(output.split())


def test_a_data_set_that_cannot_be_had_says_where_its_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "data: {dataset: mnist, download: false, root: here}\ntrial: {kld_weight: {low: 1, high: 2}}\n"
    Path("space.yaml").write_text(text)
    code, output = run("run", "space.yaml")
    assert code == 2
    for expected in ("here", "train-images-idx3-ubyte", "mnist-5k", "digits"):
        assert expected in output
    assert not Path("results").exists()


def test_an_unknown_data_set_to_prepare_names_those_there_are() -> None:
    code, output = run("data", "prepare", "mnits")
    assert code == 2
    assert "'mnist-5k', 'digits', 'mnist', 'fashion_mnist', 'cifar10' or 'folder', got 'mnits'" in output


def test_data_prepare_builds_a_cache_that_data_list_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path))
    code, output = run("data", "prepare", "digits", "--image-size", "16")
    assert (code, output.splitlines()[0]) == (
        0,
        "1,797 images of 1x16x16 from digits.csv.gz of the installed scikit-learn package",
    )
    assert "1,797 images of 1x16x16" in run("data", "list")[1]


@pytest.mark.parametrize("output", ["a file/below", "n" * 300, "/proc/none"])
def test_a_directory_that_cannot_be_made_is_one_message_before_anything_starts(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a file").touch()
    code, text = run("run", str(ROOT / "search_spaces/quickstart.yaml"), "--output", output)
    assert code == 2
    assert "cannot be" in text


def test_names_with_brackets_and_spaces_come_out_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "my [red]space [.yaml"
    Path(name).write_text((ROOT / "search_spaces/quickstart.yaml").read_text())
    code, text = run("check", name)
    assert code == 0, text
    assert f"To run it, type: raysweep run '{name}'" in text


SOUND = "data: {dataset: DATA, image_size: 16}\ntrial: {kld_weight: {low: 1e-5, high: 1e-1, log: true}LIKELIHOOD}\n"


def check(text: str, directory: Path) -> list[str]:
    (directory / "space.yaml").write_text(text)
    code, output = run("check", str(directory / "space.yaml"))
    assert code == 0, output
    lines = [line.rstrip() for line in output.splitlines()]
    start = next(index for index, line in enumerate(lines) if line.startswith("collapse"))
    return lines[start : start + 2]


def test_check_says_where_collapse_is_predicted_and_what_that_wastes(tmp_path: Path) -> None:
    where, active = check(SOUND.replace("DATA", "digits").replace("LIKELIHOOD", ""), tmp_path)
    assert re.fullmatch(r"collapse   predicted from kld_weight 0\.01\d+ on; 0\.8 of the 4 decades .*\(\d\d%\)", where)
    assert active.strip().startswith("active latents predicted: 16 at 1e-05, none at 0.1")


def test_check_says_why_collapse_is_not_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SOUND.replace("DATA", "digits").replace("LIKELIHOOD", ", likelihood: bernoulli")
    assert "not predicted: likelihood bernoulli" in check(text, tmp_path)[0]
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "empty"))
    text = SOUND.replace("DATA", "mnist").replace("LIKELIHOOD", "")
    assert "not predicted: the images are not on this machine yet" in check(text, tmp_path)[0]
    assert not (tmp_path / "empty").exists(), "nothing is fetched"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "file"))
    text = SOUND.replace("DATA", "digits").replace("LIKELIHOOD", "")
    assert "not predicted: " in check(text, tmp_path)[0]


GRID = """name: NAME
data: {dataset: DATASET, image_size: 16}
trial: {kld_weight: {choices: [1e-4, 1e-2]}, seed: {choices: [0, 1, 2]}}
search: {sampler: grid}
"""
CLAIMS = """claims:
  - {name: small_weight, statement: The smaller weight is better., test: best_at, over: kld_weight, value: 1e-4,
     metrics: elbo_nats}
"""


def grid_sweep(directory: Path, text: str) -> str:
    """A sweep as `run` leaves it, whose ELBO falls with the weight."""
    spec = parse_spec(text)
    place = SweepDirectory.at(directory)
    directory.mkdir()
    place.spec.write_text(yaml.safe_dump({"format": FORMAT, "spec": spec.as_mapping()}))
    ledger = Ledger.create(place, spec)
    for _ in range(spec.trials):
        record = ledger.ask()
        seed = record.config.seed
        ledger.add_epoch(record.number, epoch_metrics(1, 100 - 1e4 * record.config.kld_weight + seed), "host", "cpu")
        ledger.finish(record.number, TrialState.COMPLETED, "trained for its epoch")
    return str(directory)


def grid_text(name: str = "grid", dataset: str = "digits") -> str:
    return GRID.replace("NAME", name).replace("DATASET", dataset)


def test_findings_shows_the_verdicts_and_writes_them(tmp_path: Path) -> None:
    sweep = grid_sweep(tmp_path / "one", grid_text() + CLAIMS)
    code, output = run("findings", sweep)
    assert code == 0, output
    assert "1 claim: 1 holds" in output
    assert "✓ holds  small_weight  The smaller weight is better." in output
    assert "by elbo_nats the best kld_weight is 0.0001, in 100% of draws" in output.replace("By", "by")
    report = tmp_path / "one" / "report"
    assert sorted(path.name for path in report.iterdir()) == ["findings.md", "findings.parquet"]
    assert "| ✓ holds | small_weight |" in (report / "findings.md").read_text()


def test_findings_of_a_refuted_claim_is_no_failure_of_the_command(tmp_path: Path) -> None:
    sweep = grid_sweep(tmp_path / "one", grid_text() + CLAIMS.replace("value: 1e-4", "value: 1e-2"))
    code, output = run("findings", sweep)
    assert code == 0
    assert "✗ refuted" in output


def test_a_sweep_without_claims_says_how_to_make_some_afterwards(tmp_path: Path) -> None:
    sweep = grid_sweep(tmp_path / "one", grid_text())
    code, output = run("findings", sweep)
    assert code == 2
    assert "no claims were made" in output
    assert f"raysweep findings {sweep} --claims FILE" in output
    (tmp_path / "later.yaml").write_text(grid_text())
    code, output = run("findings", sweep, "--claims", str(tmp_path / "later.yaml"))
    assert (code, "claims: is missing" in output) == (2, True)
    (tmp_path / "later.yaml").write_text(grid_text() + CLAIMS)
    assert run("findings", sweep, "--claims", str(tmp_path / "later.yaml"))[0] == 0


def test_the_example_that_a_sweep_without_claims_is_shown_is_sound(tmp_path: Path) -> None:
    sweep = grid_sweep(tmp_path / "one", grid_text())
    _, output = run("findings", sweep)
    lines = output.splitlines()
    example = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
    (tmp_path / "later.yaml").write_text(grid_text() + "\n".join(example))
    code, output = run("findings", sweep, "--claims", str(tmp_path / "later.yaml"))
    assert code == 0, output
    assert "✓ holds  rate_is_not_negative" in output


def test_claims_of_several_sweeps_are_decided_together(tmp_path: Path) -> None:
    claim = (
        "claims: [{name: fashion, statement: It is better., test: compare, first: {dataset: fashion_mnist}, "
        "second: {dataset: digits}, expect: not_less}]\n"
    )
    digits = grid_sweep(tmp_path / "digits", grid_text())
    fashion = grid_sweep(tmp_path / "fashion", grid_text("fashion", "fashion_mnist") + claim)
    code, output = run("findings", digits, fashion)
    assert code == 0, output
    assert "1 claim: 1 holds" in output
    assert "fashion: 6 of 6 trials on fashion_mnist completed" in output
    assert (tmp_path / "digits" / "report" / "findings.md").exists()
    assert not (tmp_path / "fashion" / "report").exists()


def test_sweeps_that_make_different_claims_of_one_name_are_refused(tmp_path: Path) -> None:
    one = grid_sweep(tmp_path / "one", grid_text() + CLAIMS)
    two = grid_sweep(tmp_path / "two", grid_text() + CLAIMS.replace("value: 1e-4", "value: 1e-2"))
    code, output = run("findings", one, two)
    assert code == 2
    assert "its claim small_weight is another one than that of" in output


def test_resume_shows_what_is_another_and_refuses_what_would_not_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid_sweep(tmp_path / "one", grid_text())
    Path("other.yaml").write_text(grid_text().replace("1e-2", "1e-3"))
    before = {path: path.read_bytes() for path in Path("one").rglob("*") if path.is_file()}
    code, output = run("resume", "one", "--file", "other.yaml")
    assert code == 2
    assert "\n    trial.kld_weight.choices[1]: 0.01 -> 0.001\n" in output
    assert "raysweep resume one" in output
    code, output = run("run", "other.yaml", "--output", "one")
    assert code == 2
    assert "\n    trial.kld_weight.choices[1]: 0.01 -> 0.001\n" in output
    code, output = run("resume", "one", "--time-budget", "soon")
    assert (code, "must be a duration" in output) == (2, True)
    after = {path: path.read_bytes() for path in Path("one").rglob("*") if path.is_file() and path.name[0] != "."}
    assert after == before


def test_a_finished_sweep_takes_over_claims_that_were_added_to_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    none = grid_text() + "evaluation: {final_metrics: none}\n"
    grid_sweep(tmp_path / "one", none)
    Path("claims.yaml").write_text(none + CLAIMS)
    code, output = run("resume", "one", "--file", "claims.yaml")
    assert code == 0, output
    assert "goes on with another search space:\n    claims: " in output
    assert "nothing is left to do" in output
    assert "small_weight" in SweepDirectory.at("one").spec.read_text()
    assert "claims: " in SweepDirectory.at("one").log.read_text()
    code, output = run("findings", "one")
    assert (code, "1 claim: 1 holds" in output) == (0, True)
    code, output = run("resume", "one")
    assert (code, "another search space" in output) == (0, False)


def test_a_description_that_is_missing_is_written_anew_by_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid_sweep(tmp_path / "one", grid_text() + "evaluation: {final_metrics: none}\n")
    place = SweepDirectory.at("one")
    description = yaml.safe_load(place.spec.read_text()) | {"data": {"checksum": "x"}}
    spec = parse_spec(yaml.safe_dump(description["spec"]))
    Ledger.open(place, spec, writable=True).describe(description)
    place.spec.unlink()
    assert run("status", "one")[0] == 0
    code, output = run("resume", "one")
    assert (code, "wrote one/sweep.yaml anew" in output) == (0, True), output
    assert yaml.safe_load(place.spec.read_text()) == description
    assert "anew" not in run("resume", "one")[1]


def test_check_counts_steps_and_warns_of_too_few(tmp_path: Path) -> None:
    text = "data: {dataset: digits}\ntrial: {kld_weight: {low: 1e-5, high: 1e-3, log: true}, batch_size: 512}\n"
    (tmp_path / "few.yaml").write_text(text)
    code, output = run("check", str(tmp_path / "few.yaml"))
    assert code == 0
    assert "30 steps a trial, 3 an epoch; kld.yaml has 1,260" in output
    assert "warning  30 steps a trial are few" in output


def test_a_file_with_nothing_but_its_data_is_enough(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {dataset: digits}\n")
    code, output = run("check", str(tmp_path / "mine.yaml"))
    assert code == 0
    assert "1,265 steps a trial, 23 an epoch" in output
    assert "epochs 55" in " ".join(output.split())
    assert "warning" not in output


def test_check_warns_of_weights_that_all_lie_beyond_collapse(tmp_path: Path) -> None:
    text = "data: {dataset: digits}\ntrial: {epochs: 60, kld_weight: {low: 5e-2, high: 5e-1, log: true}}\n"
    (tmp_path / "grey.yaml").write_text(text)
    code, output = run("check", str(tmp_path / "grey.yaml"))
    assert code == 0
    assert "warning  every kld_weight searched (0.05 to 0.5) is beyond collapse, predicted from 0.01" in output
    assert "Search below it: trial.kld_weight: {low: " in output
