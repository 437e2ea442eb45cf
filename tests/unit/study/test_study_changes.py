"""A search space that is another one on resume: what may change, what is refused, and how it is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from raysweep.errors import LedgerError, SweepDirectoryError
from raysweep.review.sweep import open_sweep
from raysweep.spec.loading import load_spec, parse_spec
from raysweep.spec.sections import Asha, EarlyStopping, SearchSpec, SweepSpec
from raysweep.storage.layout import SweepDirectory, write_atomically
from raysweep.study.changes import changes_between, taken_message
from raysweep.study.description import FORMAT, images_checksum, read_spec, yaml_text
from raysweep.study.ledger import Ledger
from raysweep.sweep import resume, wanted_spec
from tests.unit.conftest import SPACE, epoch_metrics

CLAIM = "claims: [{name: a, statement: It is so., test: always, condition: rate_nats >= 0, each: epoch}]\n"
COMPATIBLE = {
    "more trials": ("trials: 6", "trials: 9", "search.trials: 6 -> 9"),
    "a time budget": ("trials: 6", "trials: 6\n  time_budget: 1h", "search.time_budget: null -> 3600.0"),
    "patience": ("trials: 6", "trials: 6\n  epoch_timeout: 2h", "search.epoch_timeout: 3600.0 -> 7200.0"),
    "concurrency": ("trials: 6", "trials: 6\n  max_concurrent: 2", "search.max_concurrent: null -> 2"),
    "resources": ("name: table", "name: table\nresources: {cpu: 2, gpu: 0.5}",
                  "resources.cpu: 1.0 -> 2.0\n    resources.gpu: 'auto' -> 0.5"),
    "the backend": ("name: table", "name: table\nresources: {backend: inline}", "resources.backend: 'ray' -> 'inline'"),
    "finalists": ("name: table", "name: table\nevaluation: {final_metrics: all}",
                  "evaluation.final_metrics: 'best 5' -> 'all'"),
    "confirmation": ("trials: 6", "trials: 6\n  confirm: none", "search.confirm: 'auto' -> null"),
    "the kept model": ("name: table", "name: table\nevaluation: {keep: last}", "evaluation.keep: 'best' -> 'last'"),
    "claims": ("name: table\n", "name: table\n" + CLAIM, "claims: a list: [] -> a list: [{'name': 'a'"),
    "where the images are": ("{dataset: digits}", "{dataset: digits, root: /data}", "data.root: null -> '/data'"),
    "fetching": ("{dataset: digits}", "{dataset: digits, download: false}", "data.download: true -> false"),
}  # fmt: skip
INCOMPATIBLE = {
    "the name": ("name: table", "name: chair", "name: 'table' -> 'chair'"),
    "the images": ("dataset: digits", "dataset: mnist-5k", "data.dataset: 'digits' -> 'mnist-5k'"),
    "their size": ("{dataset: digits}", "{dataset: digits, image_size: 64}", "data.image_size: 32 -> 64"),
    "a range": ("low: 1e-5", "low: 1e-6", "trial.kld_weight.low: 1e-05 -> 1e-06"),
    "a choice": ("[2, 8, 16]", "[4, 8, 16]", "trial.latent_size.choices[0]: 2 -> 4"),
    "a further choice": ("[2, 8, 16]", "[2, 8, 16, 32]", "trial.latent_size.choices: a list: [2, 8, 16] -> a list"),
    "a constant": ("latent_size: {", "d_size: 8\n  latent_size: {", "trial.d_size: 16 -> 8"),
    "what is searched": ("  enqueue: [{kld_weight: 1e-3, latent_size: 8}, {latent_size: 16}]\n", "",
                         "search.enqueue: a list: "),
    "the objective": ("trials: 6", "trials: 6\n  objective: {metric: psnr_db}",
                      "search.objective.metric: 'elbo_nats' -> 'psnr_db'"),
    "the sampler": ("trials: 6", "trials: 6\n  sampler: random", "search.sampler: 'gp' -> 'random'"),
    "the seed": ("trials: 6", "trials: 6\n  seed: 1", "search.seed: 0 -> 1"),
    "early stopping": ("reduction_factor: 2", "reduction_factor: 4",
                       "search.early_stopping.asha.reduction_factor: 2 -> 4"),
    "whether trials pause": ("reduction_factor: 2", "reduction_factor: 2, promote: true",
                             "search.early_stopping.asha.promote: false -> true"),
    "whether trials are judged again": ("reduction_factor: 2", "reduction_factor: 2, rejudge: false",
                                        "search.early_stopping.asha.rejudge: true -> false"),
    "no early stopping": ("  early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}\n", "",
                          "search.early_stopping: keys and values: {"),
    "what is measured": ("name: table", "name: table\nevaluation: {images: 200}", "evaluation.images: 1000 -> 200"),
}  # fmt: skip


def changed(old: str, new: str) -> SweepSpec:
    assert old in SPACE
    return parse_spec(SPACE.replace(old, new), "table.yaml")


@pytest.fixture
def spec() -> SweepSpec:
    return parse_spec(SPACE, "table.yaml")


@pytest.fixture
def sweep(directory: SweepDirectory, spec: SweepSpec) -> SweepDirectory:
    """A sweep as `run` leaves it when it is stopped in its third trial."""
    description = {"format": FORMAT, "spec": spec.as_mapping(), "data": {"checksum": "x"}, "preflight": {"a": 0.1}}
    write_atomically(directory.spec, yaml_text(description).encode())
    ledger = Ledger.create(directory, spec, description)
    for _ in range(3):
        ledger.add_epoch(ledger.ask().number, epoch_metrics(1, 5.0), "host", "cpu")
    return directory


def edit(directory: SweepDirectory, old: str, new: str) -> None:
    spec = changed(old, new)
    before = read_spec(directory)[1]
    directory.spec.write_text(yaml_text({**before, "spec": spec.as_mapping()}))


@pytest.mark.parametrize("case", COMPATIBLE)
def test_what_no_trial_depends_on_is_taken_over_from_an_edited_file(sweep: SweepDirectory, case: str) -> None:
    old, new, text = COMPATIBLE[case]
    edit(sweep, old, new)
    wanted, changes = wanted_spec(sweep)
    assert wanted.fingerprint() == changed(old, new).fingerprint()
    assert "\n    ".join(map(str, changes)).startswith(text)


@pytest.mark.parametrize("case", INCOMPATIBLE)
@pytest.mark.parametrize("as_file", [True, False])
def test_any_other_change_is_refused_with_each_difference(sweep: SweepDirectory, case: str, as_file: bool) -> None:
    old, new, text = INCOMPATIBLE[case]
    file = sweep.root / "table.yaml"
    if as_file:
        file.write_text(SPACE.replace(old, new))
    else:
        edit(sweep, old, new)
    files = {path: path.read_bytes() for path in sweep.root.iterdir() if path.is_file()}
    with pytest.raises(SweepDirectoryError, match="was run with another search space") as refused:
        resume(sweep.root, file=file if as_file else None)
    assert f"\n    {text}" in str(refused.value)
    assert "raysweep resume" in str(refused.value)
    assert "What may change is search.trials, search.confirm, search.time_budget" in str(refused.value)
    for path, content in files.items():
        assert path.read_bytes() == content
    assert len(open_sweep(sweep.root).records) == 3, "an edited sweep.yaml does not keep a sweep from being read"


def test_all_differences_stand_in_one_message_those_that_would_be_allowed_too(sweep: SweepDirectory) -> None:
    text = SPACE.replace("low: 1e-5", "low: 1e-6").replace("trials: 6", "trials: 8\n  seed: 3")
    (sweep.root / "table.yaml").write_text(text)
    with pytest.raises(SweepDirectoryError) as refused:
        wanted_spec(sweep, file=sweep.root / "table.yaml")
    for line in ("trial.kld_weight.low: 1e-05 -> 1e-06", "search.trials: 6 -> 8", "search.seed: 0 -> 3"):
        assert f"\n    {line}\n" in str(refused.value)


def test_fewer_trials_are_refused_wherever_they_stand(sweep: SweepDirectory) -> None:
    with pytest.raises(SweepDirectoryError, match="a total can only grow, got --trials 5"):
        wanted_spec(sweep, trials=5)
    edit(sweep, "trials: 6", "trials: 5")
    with pytest.raises(SweepDirectoryError, match="is a sweep of 6 trials; a total can only grow, got 5"):
        wanted_spec(sweep)
    assert wanted_spec(sweep, trials=6)[1] == []


def test_options_go_before_the_file(sweep: SweepDirectory) -> None:
    edit(sweep, "trials: 6", "trials: 9\n  time_budget: 5m")
    wanted, changes = wanted_spec(sweep, trials=7, time_budget=30.0)
    assert (wanted.trials, wanted.search.time_budget) == (7, 30.0)
    assert [str(change) for change in changes] == [
        "search.trials: 6 -> 7",
        "search.time_budget: null -> 30.0",
    ]


def test_a_sweep_whose_ledger_does_not_have_the_specification_goes_by_its_file(
    sweep: SweepDirectory, spec: SweepSpec
) -> None:
    lines = sweep.journal.read_bytes().splitlines(keepends=True)
    sweep.journal.write_bytes(b"".join(line for line in lines if json.loads(line)["op_code"] != 2))
    assert wanted_spec(sweep)[0].fingerprint() == spec.fingerprint()
    assert wanted_spec(sweep)[1] == []
    assert wanted_spec(sweep, trials=7)[0].trials == 7
    assert len(open_sweep(sweep.root).records) == 3
    (sweep.root / "table.yaml").write_text(SPACE.replace("low: 1e-5", "low: 1e-6"))
    with pytest.raises(SweepDirectoryError, match="another search space"):
        wanted_spec(sweep, file=sweep.root / "table.yaml")


@pytest.mark.parametrize("default", [False, True], ids=["stops", "pauses"])
def test_a_sweep_from_before_trials_could_pause_goes_on_as_it_was_whatever_the_default_is_now(
    sweep: SweepDirectory, default: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (sweep.journal, sweep.spec):
        path.write_text(re.sub(r'(,"promote":false|\n *promote: false)', "", path.read_text()))
        assert "promote" not in path.read_text()
    monkeypatch.setattr(Asha.model_fields["promote"], "default", default)
    for model in (Asha, EarlyStopping, SearchSpec):
        model.model_rebuild(force=True)
    try:
        file = sweep.root / "table.yaml"
        file.write_text(SPACE)
        now = load_spec(file).asha
        assert now is not None
        assert now.promote is default
        for again in (wanted_spec(sweep), wanted_spec(sweep, trials=9), wanted_spec(sweep, file=file)):
            assert again[0].asha is not None
            assert not again[0].asha.promote
        assert wanted_spec(sweep)[1] == []
        assert "run with this very search space" in taken_message(sweep, read_spec(sweep)[0], wanted_spec(sweep)[0])
    finally:
        monkeypatch.undo()
        for model in (Asha, EarlyStopping, SearchSpec):
            model.model_rebuild(force=True)


def test_a_missing_description_is_read_from_the_ledger(sweep: SweepDirectory, spec: SweepSpec) -> None:
    description = read_spec(sweep)[1]
    sweep.spec.unlink()
    assert read_spec(sweep)[0].fingerprint() == spec.fingerprint()
    assert read_spec(sweep)[1] == description
    assert wanted_spec(sweep)[1] == []
    assert len(open_sweep(sweep.root).records) == 3


def test_a_missing_description_without_a_copy_is_named(sweep: SweepDirectory) -> None:
    lines = sweep.journal.read_bytes().splitlines(keepends=True)
    sweep.journal.write_bytes(b"".join(line for line in lines if json.loads(line)["op_code"] != 2))
    sweep.spec.unlink()
    with pytest.raises(SweepDirectoryError, match=r"sweep\.yaml: is missing, .* has no copy of it; bring it back"):
        open_sweep(sweep.root)


@pytest.mark.parametrize(
    "content",
    [b"", b"format: raysweep-sweep-1\n", b"a: &a [1]\nb: *a\n", b"[" * 50_000, b"\xff\xff", b"- 1\n",
     b"x: " + b"9" * (1 << 23),
     b"format: raysweep-sweep-1\nspec: [1, 2]\n", b"format: raysweep-sweep-1\nspec: {name: x}\n"],
)  # fmt: skip
def test_a_damaged_description_is_one_message(sweep: SweepDirectory, content: bytes) -> None:
    sweep.spec.write_bytes(content)
    with pytest.raises(SweepDirectoryError, match=r"sweep\.yaml"):
        wanted_spec(sweep)


def test_a_description_that_cannot_be_read_can_be_made_anew(sweep: SweepDirectory) -> None:
    sweep.spec.write_bytes(b"spec: {")
    with pytest.raises(SweepDirectoryError, match=r"move it away, and raysweep resume .* writes it anew"):
        wanted_spec(sweep)


def test_a_damaged_copy_of_the_description_is_one_message(sweep: SweepDirectory) -> None:
    Ledger.open(sweep, read_spec(sweep)[0], writable=True)._study.set_user_attr("description", 1)
    with pytest.raises((SweepDirectoryError, LedgerError), match=r"the copy of sweep\.yaml in it is damaged"):
        open_sweep(sweep.root)


def test_a_specification_written_and_read_is_without_changes(spec: SweepSpec, sweep: SweepDirectory) -> None:
    assert changes_between(read_spec(sweep)[0], spec) == []
    assert changes_between(spec, parse_spec(yaml_text(spec.as_mapping()))) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (lambda: SPACE, ["run with this very search space", "raysweep resume {root}\n"]),
        (
            lambda: SPACE.replace("trials: 6", "trials: 8"),
            ["differs from the one it was run with:\n    search.trials: 6 -> 8\n", "resume {root} --trials 8\n"],
        ),
        (
            lambda: SPACE.replace("trials: 6", "trials: 8\n  time_budget: 60s"),
            ["    search.time_budget: null -> 60.0\n", "resume {root} --file 'my file.yaml' --trials 8\n"],
        ),
        (
            lambda: SPACE.replace("trials: 6", "trials: 8\n  seed: 2"),
            ["    search.seed: 0 -> 2\n", "would not compare", "as it was, type: raysweep resume {root}\n"],
        ),
    ],
)
def test_a_taken_directory_says_how_the_file_differs_and_what_to_type(
    sweep: SweepDirectory,
    spec: SweepSpec,
    text: Callable[[], str],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(sweep.root.parent)
    message = taken_message(sweep, spec, parse_spec(text(), "t.yaml"), str(Path("my file.yaml")))
    for part in expected:
        assert part.replace("{root}", "'a sweep, näme'") in message
    assert "--output" in message


@pytest.mark.parametrize("data", [None, 5, [], {}, {"checksum": None}])
def test_a_description_without_the_checksum_of_its_images_is_refused_by_name(
    sweep: SweepDirectory, data: object
) -> None:
    with pytest.raises(SweepDirectoryError, match=r"sweep\.yaml: data\.checksum is missing"):
        images_checksum(sweep, {**read_spec(sweep)[1], "data": data})
    assert images_checksum(sweep, read_spec(sweep)[1]) == "x"
