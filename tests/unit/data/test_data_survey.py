"""What a folder holds: which folders are classes and which are splits, and that nothing is left out in silence."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from PIL import Image
from written_data import write_image

from raysweep.data.cache import describe, open_cache, prepare
from raysweep.data.survey import Survey, survey
from raysweep.errors import DataError, DataUnavailable
from raysweep.spec.sections import DataSpec


def filled(root: Path, *places: str) -> Path:
    for place in places:
        write_image(root / place)
    return root


def said(found: Survey) -> str:
    return "\n".join(f"{note.subject}: {note.text}" for note in found.notes)


def warned(found: Survey) -> str:
    return "\n".join(note.text for note in found.notes if note.is_warning)


@pytest.mark.parametrize(
    ("train", "validation"),
    [("train", "val"), ("Train", "Valid"), ("training", "validation"), ("TRAIN", "dev")],
)
def test_train_and_validation_folders_are_pooled_and_their_folders_are_the_classes(
    tmp_path: Path, train: str, validation: str
) -> None:
    found = survey(filled(tmp_path, *(f"{split}/{c}/1.png" for split in (train, validation) for c in ("cat", "dog"))))
    assert found.classes == ("cat", "dog")
    assert [entry.label for entry in found.entries] == [0, 1, 0, 1]
    assert not any(entry.official_test for entry in found.entries)
    assert f"{train}/ (2) and {validation}/ (2) are pooled" in said(found)


@pytest.mark.parametrize("test", ["test", "Test", "testing"])
def test_the_test_folder_beside_others_is_the_test_split(tmp_path: Path, test: str) -> None:
    found = survey(filled(tmp_path, "train/cat/1.png", "valid/cat/1.png", f"{test}/cat/1.png", "train/dog/1.png"))
    assert [entry.path for entry in found.entries if entry.official_test] == [f"{test}/cat/1.png"]
    assert f"{test}/ (1) is the test split" in said(found)
    assert "no image in the test split is of dog" in said(found)


def test_split_folders_without_classes_have_no_labels(tmp_path: Path) -> None:
    found = survey(filled(tmp_path, "train/1.png", "val/2.png", "test/3.png"))
    assert found.classes == ()
    assert [entry.official_test for entry in found.entries] == [False, False, True]


@pytest.mark.parametrize("name", ["train", "test", "val"])
def test_a_lone_split_folder_is_no_class(tmp_path: Path, name: str) -> None:
    found = survey(filled(tmp_path, f"{name}/cat/1.png", f"{name}/dog/1.png"))
    assert found.classes == ("cat", "dog")
    assert not any(entry.official_test for entry in found.entries)


def test_a_class_that_is_called_train_among_other_vehicles_stays_a_class(tmp_path: Path) -> None:
    found = survey(filled(tmp_path, "bus/1.png", "car/1.png", "train/1.png"))
    assert found.classes == ("bus", "car", "train")
    assert "train: taken for a class" in said(found)


def test_class_folders_beside_train_and_validation_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has train and val, and images in cat too"):
        survey(filled(tmp_path, "train/cat/1.png", "val/cat/1.png", "cat/1.png"))


def test_links_whose_targets_are_not_there_are_an_error_or_left_out_as_asked(tmp_path: Path, cache: Path) -> None:
    root = filled(tmp_path / "root", *(f"{number}.png" for number in range(10)))
    for number in range(4):
        (root / f"x{number}.png").symlink_to(".git/annex/objects/none")
    spec = DataSpec(dataset="folder", root=str(root), image_size=8)
    with pytest.raises(DataError, match=r"4 links to images that are not there, such as x0\.png: .*skip"):
        prepare(spec)
    skipping = spec.model_copy(update={"broken_images": "skip"})
    warnings: list[str] = []
    assert open_cache(prepare(skipping, warn=warnings.append)).info.count == 10
    assert any("4 links to images that are not there" in line for line in warnings)
    assert any("4 links" in note.text for note in describe(spec).notes)


def test_a_class_that_is_a_link_to_nowhere_is_missed(tmp_path: Path) -> None:
    root = filled(tmp_path / "root", "cat/1.png")
    (root / "dog").symlink_to(tmp_path / "unmounted/dog")
    found = survey(root)
    assert found.missing is not None
    assert "1 link to images that are not there, dog" in found.missing


def test_links_in_a_circle_and_to_folders_that_are_read_already_are_said(tmp_path: Path) -> None:
    root = filled(tmp_path / "root", "cat/1.png", "dog/1.png")
    (root / "cat/up").symlink_to(root)
    (root / "kitten").symlink_to(root / "cat")
    (root / "cat/self.png").symlink_to("self.png")
    found = survey(root)
    assert [entry.path for entry in found.entries] == ["cat/1.png", "dog/1.png"]
    assert "2 links that lead in a circle" in warned(found)
    assert "1 link to folders that are read already, kitten" in warned(found)


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    filled(tmp_path, "elsewhere/1.png", "root/dog/1.png")
    (tmp_path / "root/cat").symlink_to(tmp_path / "elsewhere")
    assert survey(tmp_path / "root").classes == ("cat", "dog")


def test_what_is_no_image_that_can_be_read_is_counted_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = filled(tmp_path, "cat/1.png", "dog/1.JPEG", "dog/2.tif")
    for name in ("more.zip", "rest.tar.gz", "cat/a.HEIC", "cat/b.heic", "cat/c.npy", "cat/notes.txt", "cat/noending",
                 "cat/._1.png", ".DS_Store", "dog/Thumbs.db", "__MACOSX/cat/._1.png", "@eaDir/cat/1.png"):  # fmt: skip
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(b"x")
    (root / "horse").mkdir()
    os.mkfifo(root / "cat/pipe.png")
    monkeypatch.chdir(root)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("plug.png")
    found = survey(root)
    assert [entry.path for entry in found.entries] == ["cat/1.png", "dog/1.JPEG", "dog/2.tif"]
    for line in (
        "2 archives, such as more.zip: unpack",
        "3 files in formats that are not read (2 .heic, 1 .npy), such as cat/a.HEIC",
        "2 pipes, sockets or devices",
        "1 folder without an image, horse",
    ):
        assert line in warned(found)
    assert "2 files of other kinds (1 without an ending, 1 .txt)" in said(found)
    assert "hidden files or folders" in said(found)
    assert "notes.txt" not in warned(found)


def test_a_folder_without_an_image_says_what_lies_there_instead(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(DataUnavailable, match=r"holds no image; .*it holds 1 archive, images\.zip: unpack"):
        survey(tmp_path)


def test_one_class_that_holds_the_classes_is_said_with_the_folder_to_name(tmp_path: Path) -> None:
    found = survey(filled(tmp_path, "images/cat/1.png", "images/dog/1.png"))
    assert found.classes == ("images",)
    assert "all images are of one class, images; if its folders (cat, dog) are the classes" in said(found)
    assert f"set data.root: {tmp_path}/images" in said(found)


def test_folders_inside_a_class_are_said(tmp_path: Path) -> None:
    found = survey(filled(tmp_path, "animal/cat/1.png", "animal/dog/1.png", "plant/1.png"))
    assert found.classes == ("animal", "plant")
    assert "folders inside a class are part of it: animal holds cat, dog" in said(found)


def test_names_that_are_not_utf_8_are_kept_as_files_and_shown_as_text(tmp_path: Path, cache: Path) -> None:
    latin = os.fsdecode("café".encode("latin-1"))
    root = filled(tmp_path / "root", f"{latin}/{latin}.png", *(f"{latin}/{n}.png" for n in range(4)), "tee/1.png")
    spec = DataSpec(dataset="folder", root=str(root), image_size=8)
    info = open_cache(prepare(spec)).info
    assert info.classes == (latin, "tee")
    assert info.class_names == ("caf\\udce9", "tee")
    assert describe(spec).classes == info.class_names
    (root / "broken.png").write_bytes(b"x")
    with pytest.raises(DataError) as refused:
        describe(DataSpec(dataset="folder", root=str(root), image_size=8))
    str(refused.value).encode("utf-8")


def test_a_sweep_is_told_what_is_cut_off_and_left_out_and_check_the_rest(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(10):
        Image.new("RGB", (30, 20), (number, 99, 200)).save(root / f"{number}.png")
    (root / "rest.zip").write_bytes(b"PK")
    (root / "notes.txt").write_text("no image")
    spec = DataSpec(dataset="folder", root=str(root), image_size=8)
    warnings: list[str] = []
    prepare(spec, warn=warnings.append)
    again: list[str] = []
    prepare(spec, warn=again.append)
    archive, cut = warnings
    assert archive.startswith("data: left out: 1 archive, rest.zip")
    assert cut.startswith("data: fit: resize: images are not square")
    assert "33% of them is cut off" in cut
    assert again == warnings
    assert any("notes.txt" in note.text for note in describe(spec).notes)
