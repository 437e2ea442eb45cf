"""Files as editors of other systems save them: what programs stumble over is said, what does no harm is read."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from click.testing import CliRunner

from raysweep.cli import main
from raysweep.errors import SpecError
from raysweep.spec.loading import load_spec
from raysweep.storage.plaintext import NotPlainText, decoded, unseen

SPACE = """name: x
data: {dataset: digits}
trial:
  kld_weight: {low: 1e-5, high: 1e-1, log: true}
  latent_size: 4
claims:
  - {name: one, statement: "More than 10\u00a0nats, nowhere else.", test: best_at, over: kld_weight, value: 1e-4,
     metrics: elbo_nats}
"""
"""The statement has a no-break space."""


def faults(content: bytes, tmp_path: Path) -> str:
    path = tmp_path / "my space.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    return str(caught.value)


@pytest.mark.parametrize("change", ["as it is", "BOM", "CRLF", "BOM and CRLF"])
def test_what_yaml_reads_is_read(change: str, tmp_path: Path) -> None:
    text = SPACE + "# a comment with a\u00a0no-break space\n"
    text = text.replace("\n", "\r\n") if "CRLF" in change else text
    content = text.encode("utf-8-sig" if "BOM" in change else "utf-8")
    path = tmp_path / "space.yaml"
    path.write_bytes(content)
    assert load_spec(path).trial.searched.keys() == {"kld_weight"}


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE")],
)
def test_another_encoding_is_named_with_what_converts_it(encoding: str, name: str, tmp_path: Path) -> None:
    message = faults(SPACE.replace("\u00a0", " ").encode(encoding), tmp_path)
    assert f"is not a text in UTF-8, but in {name}; save it as UTF-8, or type: iconv -f {name} -t UTF-8 '" in message


def test_a_byte_of_latin_1_is_named_with_its_line(tmp_path: Path) -> None:
    assert "line 2: is not a text in UTF-8 (byte 0xe4)" in faults(b"name: x\n# f\xe4r\n", tmp_path)


def test_a_nul_byte_is_named_with_its_line(tmp_path: Path) -> None:
    assert "line 3: has a NUL byte" in faults(SPACE.replace("trial", "tri\0al", 1).encode(), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("  latent_size", "\tlatent_size", 5, "has a tab for a blank; indent with blanks alone"),
        ("  latent_size", "\u00a0\u00a0latent_size", 5, "has a no-break space (U+00A0), which is no blank"),
        ("latent_size: 4", "latent_size:\u00a04", 5, "no-break space (U+00A0)"),
        ("latent_size: 4", "latent_size: 4\u00a0", 5, "no-break space (U+00A0)"),
        ("latent_size: 4", "latent_size: \u200b4", 5, "zero width space (U+200B)"),
        ("latent_size", "latent\u200b_size", 5, "zero width space (U+200B)"),
        ("low: 1e-5, ", "low: 1e-5,\u00a0", 4, "no-break space (U+00A0)"),
        ("name: x", "name:\u3000x", 1, "ideographic space (U+3000)"),
        ("trial:", "\ufefftrial:", 3, "byte order mark (U+FEFF)"),
        ("trial:", "trial: \x1a", 3, "the character U+001A, which no text has"),
    ],
)
def test_a_character_that_nobody_sees_is_named_with_its_line(
    old: str, new: str, line: int, said: str, tmp_path: Path
) -> None:
    message = faults(SPACE.replace(old, new, 1).encode(), tmp_path)
    assert f"line {line}: " in message
    assert said in message
    assert "1 fault" in message


def test_a_blank_that_does_not_break_may_stand_within_a_text(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE.replace('"', "").replace("nats, nowhere", "nats and nowhere"), encoding="utf-8")
    assert "10\u00a0nats" in load_spec(path).claims[0].statement


def test_no_visible_character_is_taken_for_an_unseen_one() -> None:
    assert not list(unseen("aß中😀é\u0301 \t\r\n-"))
    names = [name for _, name in unseen("a\u202fb\x1cc")]
    assert names == ["narrow no-break space (U+202F)", "control character (U+001C)"]


def test_a_mark_of_utf_16_is_known_by_itself() -> None:
    with pytest.raises(NotPlainText, match="UTF-16"):
        decoded(codecs.BOM_UTF16_LE, "file")


ROOT = Path(__file__).parents[3]


def sbatch_check(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    token = tmp_path / "auth_token"
    token.write_text("1" * 64)
    token.chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    path = tmp_path / "job.sbatch"
    path.write_bytes(content)
    done = CliRunner().invoke(main, ["cluster", "check", str(path)])
    return done.exit_code, done.output


SCRIPT = (ROOT / "cluster" / "slurm.sbatch").read_bytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (SCRIPT.replace(b"\n", b"\r\n"), "line 1: ends as lines of Windows do (CR LF)"),
        (SCRIPT.replace(b"#SBATCH --nodes=2\n", b"#SBATCH --nodes=2\r\n"), "ends as lines of Windows do (CR LF)"),
        (codecs.BOM_UTF8 + SCRIPT, "line 1: begins with a byte order mark"),
        (b"\n" + SCRIPT, "line 1: sbatch wants #! as the first two characters"),
        (SCRIPT.decode().encode("utf-16"), "not a text in UTF-8, but in UTF-16"),
        (SCRIPT.replace(b"srun", b"srun\0", 1), "has a NUL byte"),
        (SCRIPT.replace(b"#SBATCH --nodes", "#SBATCH\u00a0--nodes".encode()), "has a no-break space (U+00A0)"),
    ],
)  # fmt: skip
def test_a_batch_script_that_sbatch_refuses_is_refused(
    content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = sbatch_check(content, tmp_path, monkeypatch)
    assert code == 2
    assert said in output


@pytest.mark.parametrize(
    "content",
    [
        SCRIPT,
        SCRIPT.replace(b"#SBATCH --nodes=2", b"#SBATCH\t-N 2"),
        SCRIPT.replace(b"#SBATCH --nodes=2", b"#SBATCH -N2"),
        SCRIPT.replace(b"# All nodes", "# Alle\u00a0Knoten".encode()),
    ],
)
def test_a_batch_script_that_sbatch_takes_is_taken(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = sbatch_check(content, tmp_path, monkeypatch)
    assert code == 0, output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cluster_name: ", "cluster_name:\u00a0", "no-break space (U+00A0)"),
        ("provider:\n  ", "provider:\n\t", "has a tab for a blank"),
    ],
)
def test_a_file_of_ray_up_is_judged_likewise(
    old: str, new: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "cluster" / "on-prem.yaml").read_text()
    assert old in text
    code, output = sbatch_check(text.replace(old, new, 1).encode(), tmp_path, monkeypatch)
    assert (code, said in output) == (2, True), output
