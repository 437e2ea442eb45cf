"""A folder of images: classes, splits, sizes, modes, and what is broken."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from written_data import png_of_16_bits, write_image

from raysweep.data.cache import open_cache, prepare
from raysweep.data.folder import FolderSource
from raysweep.data.images import Images
from raysweep.errors import DataError, DataUnavailable
from raysweep.spec.sections import DataSpec


def spec_of(root: Path, **settings: object) -> DataSpec:
    return DataSpec.model_validate({"dataset": "folder", "root": str(root), "image_size": 16, **settings})


def texts(source: FolderSource) -> list[str]:
    return [f"{note.subject}: {note.text}" for note in (*source.notes, *source.remarks)]


def images_of(source: FolderSource) -> list[Images]:
    return [chunk.images[0] for chunk in source.chunks(lambda images: images)]


def test_class_folders_become_sorted_labels(tmp_path: Path, cache: Path) -> None:
    for place in (
        "dog/1.png",
        "cat/2.jpg",
        "cat/deep/er/1.webp",
        "ant/x.gif",
        "ant/y.BMP",
        "dog/z.tif",
        "cat/.hidden.png",
    ):
        write_image(tmp_path / "root" / place)
    (tmp_path / "root/dog/notes.txt").write_text("no image")
    (tmp_path / "root/empty").mkdir()
    opened = open_cache(prepare(spec_of(tmp_path / "root")))
    assert opened.info.classes == ("ant", "cat", "dog")
    assert opened.labels is not None
    assert opened.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert opened.info.shape == (3, 16, 16)
    assert not opened.official_test.any()


def test_images_without_folders_have_no_labels(tmp_path: Path, cache: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "root" / f"{number}.png")
    opened = open_cache(prepare(spec_of(tmp_path / "root")))
    assert opened.labels is None
    assert opened.info.count == 3


@pytest.mark.parametrize("family", ["", "cat/"])
def test_a_test_folder_beside_train_holds_the_official_test_images(tmp_path: Path, cache: Path, family: str) -> None:
    for place in ("train/{}1.png", "train/{}2.png", "test/{}1.png"):
        write_image(tmp_path / "root" / place.format(family))
    opened = open_cache(prepare(spec_of(tmp_path / "root")))
    assert opened.official_test.tolist() == [False, False, True]
    assert opened.info.classes == (("cat",) if family else ())


def test_images_beside_train_and_test_are_not_dropped_silently(tmp_path: Path) -> None:
    for place in ("train/1.png", "test/1.png", "more/1.png"):
        write_image(tmp_path / place)
    with pytest.raises(DataError, match="has test and train, and images in more too"):
        FolderSource(tmp_path)


def test_an_image_beside_class_folders_is_not_dropped_silently(tmp_path: Path) -> None:
    for place in ("cat/1.png", "stray.png"):
        write_image(tmp_path / place)
    with pytest.raises(DataError, match=r"stray\.png lies beside the class folders \(cat\)"):
        FolderSource(tmp_path)


@pytest.mark.parametrize("make", [lambda root: None, lambda root: root.mkdir(), lambda root: root.write_text("a file")])
def test_a_missing_or_empty_root_is_unavailable_by_name(tmp_path: Path, make: object) -> None:
    make(tmp_path / "root")  # type: ignore[operator]
    with pytest.raises(DataUnavailable, match=str(tmp_path / "root")):
        FolderSource(tmp_path / "root")


def test_a_broken_image_is_named_with_the_way_to_skip_it(tmp_path: Path, cache: Path) -> None:
    write_image(tmp_path / "root/cat/1.png")
    whole = write_image(tmp_path / "root/cat/2.png").read_bytes()
    (tmp_path / "root/cat/2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cat/2\.png cannot be decoded: .*data\.broken_images: skip"):
        prepare(spec_of(tmp_path / "root"))


def test_skipped_images_are_counted_and_named_in_the_log(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        write_image(tmp_path / f"root/{number % 2}/{number}.png")
    (tmp_path / "root/0/broken.png").write_bytes(b"no image")
    (tmp_path / "root/1/empty.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="raysweep"):
        opened = open_cache(prepare(spec_of(tmp_path / "root", broken_images="skip")), verify=True)
    assert (opened.info.count, opened.info.skipped) == (4, 2)
    assert opened.labels is not None
    assert opened.labels.tolist() == [0, 0, 1, 1]
    assert "0/broken.png" in caplog.text
    assert "1/empty.jpg" in caplog.text
    assert "left out 2 of 6 images" in caplog.text
    with pytest.raises(DataError, match=r"0/broken\.png"):
        prepare(spec_of(tmp_path / "root"))


def test_a_folder_of_broken_images_only_is_an_error_even_with_skip(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 1 images can be decoded"):
        prepare(spec_of(tmp_path / "root", broken_images="skip"))


@pytest.mark.parametrize("factor", [0.9, 0.4])
def test_a_decompression_bomb_is_a_broken_image(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """Pillow warns above its limit and raises above twice the limit."""
    write_image(tmp_path / "root/large.png", (100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(100 * 100 * factor))
    with pytest.raises(DataError, match=r"large\.png cannot be decoded: .*bomb"):
        prepare(spec_of(tmp_path / "root"))


@pytest.mark.parametrize(("colour", "channels"), [(False, 1), (True, 3)])
def test_a_folder_is_grey_only_if_all_images_that_are_looked_at_are(
    tmp_path: Path, colour: bool, channels: int
) -> None:
    for number in range(5):
        write_image(tmp_path / f"{number}.png", mode="L")
    if colour:
        write_image(tmp_path / "last.png", mode="RGB")
    source = FolderSource(tmp_path)
    assert source.channels == channels
    assert {image.shape[2] for image in images_of(source)} == {channels}


def test_images_are_turned_as_their_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 10)).save(tmp_path / "photo.jpg", exif=exif)
    assert images_of(FolderSource(tmp_path))[0].shape == (30, 10, 3)


def test_transparent_pixels_are_black_whatever_colour_they_hide(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(tmp_path / "a.png")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "b.gif", transparency=1)
    clear, gif = images_of(FolderSource(tmp_path))
    assert clear.max() == gif.max() == 0


def test_16_bit_grey_keeps_its_upper_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16)).save(tmp_path / "a.png")
    source = FolderSource(tmp_path)
    assert source.channels == 1
    assert images_of(source)[0].ravel().tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 127.0, 255.0], [0, 127, 255]),
        ([-1.0, 0.0, 3.0], [0, 64, 255]),
        ([0, 15, 4095], [0, 0, 255]),
        ([0, 2000, 2047], [0, 250, 255]),
        ([0, 255, 65535], [0, 0, 255]),
        ([0, 100, 200], [0, 100, 200]),
        ([-1024, 0, 3071], [0, 64, 255]),
    ],
)
def test_pixels_of_more_than_8_bits_are_scaled_by_the_values_of_the_whole_folder(
    tmp_path: Path, values: list[float], expected: list[int]
) -> None:
    kind = np.float32 if isinstance(values[0], float) else np.int32 if values[0] < 0 else np.uint16
    for number, value in enumerate(values):
        Image.fromarray(np.full((4, 4), value, kind)).save(tmp_path / f"{number}.tif")
    source = FolderSource(tmp_path)
    assert source.channels == 1
    assert [int(image[0, 0, 0]) for image in images_of(source)] == expected


def test_12_bits_in_16_are_said(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.full((4, 4), 20, np.uint16)).save(tmp_path / "b.png")
    source = FolderSource(tmp_path)
    assert [int(image.max()) for image in images_of(source)] == [250, 1]
    assert any("more than 8 bits" in text and "20 to 4000" in text for text in texts(source))


def test_pixels_that_are_no_numbers_are_a_broken_image(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif cannot be decoded: some of its pixels are no finite numbers"):
        images_of(FolderSource(tmp_path))


def test_the_fingerprint_follows_names_sizes_and_times(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png")
    seen = {FolderSource(tmp_path).fingerprint}
    assert FolderSource(tmp_path).fingerprint in seen
    os.utime(tmp_path / "a.png", (1, 1))
    seen.add(FolderSource(tmp_path).fingerprint)
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    seen.add(FolderSource(tmp_path).fingerprint)
    (tmp_path / "c.png").unlink()
    seen.add(FolderSource(tmp_path).fingerprint)
    assert len(seen) == 4


def test_images_replaced_under_the_same_name_size_and_time_are_noticed(tmp_path: Path) -> None:
    for number, value in enumerate((10, 20)):
        Image.new("L", (4, 4), value).save(tmp_path / f"{number}.bmp")
        os.utime(tmp_path / f"{number}.bmp", (1, 1))
    before = FolderSource(tmp_path).fingerprint
    time.sleep(0.02)
    shutil.copy2(tmp_path / "1.bmp", tmp_path / "0.bmp")
    assert (tmp_path / "0.bmp").stat().st_mtime == 1
    assert FolderSource(tmp_path).fingerprint != before


def test_a_copied_folder_holds_the_same_images(tmp_path: Path, cache: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "root/cat" / f"{number}.png", seed=number)
    first = open_cache(prepare(spec_of(tmp_path / "root"))).info
    shutil.copytree(tmp_path / "root", tmp_path / "copy")
    (tmp_path / "copy/cat/0.png").chmod(0o600)
    second = open_cache(prepare(spec_of(tmp_path / "copy"))).info
    assert second.fingerprint != first.fingerprint
    assert second.checksum == first.checksum


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_image(tmp_path / "elsewhere/1.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "root")
    assert FolderSource(tmp_path / "root").counts.images == 1


def test_more_images_than_a_window_keep_their_order(tmp_path: Path) -> None:
    for number in range(150):
        Image.new("L", (2, 2), number).save(tmp_path / f"{number:03}.png")
    assert [int(image[0, 0, 0]) for image in images_of(FolderSource(tmp_path))] == list(range(150))


@pytest.mark.parametrize("fit", ["resize", "crop", "letterbox", "pad"])
def test_photos_of_any_shape_fit(tmp_path: Path, cache: Path, fit: str) -> None:
    write_image(tmp_path / "root/wide.png", (170, 5))
    write_image(tmp_path / "root/high.png", (3, 60))
    assert open_cache(prepare(spec_of(tmp_path / "root", fit=fit))).info.shape == (3, 16, 16)


def test_colour_that_is_asked_for_is_kept_however_many_grey_images_come_first(tmp_path: Path, cache: Path) -> None:
    for number in range(70):
        Image.new("L", (16, 16), 7).save(tmp_path / f"{number:03}.png")
    (tmp_path / "034.png").unlink()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "033b.png")
    asked = open_cache(prepare(spec_of(tmp_path, channels=3)))
    assert asked.chunks[0][34, :, 0, 0].tolist() == [255, 0, 0]
    assert asked.chunks[0][0, :, 0, 0].tolist() == [7, 7, 7]


def test_colour_that_is_lost_because_the_first_images_are_grey_is_said(tmp_path: Path) -> None:
    for number in range(200):
        Image.new("L", (2, 2), number).save(tmp_path / f"{number:03}.png")
    looked_at = set(np.linspace(0, 199, 64).round().astype(int))
    unseen = next(number for number in range(200) if number not in looked_at)
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / f"{unseen:03}.png")
    source, asked = FolderSource(tmp_path), FolderSource(tmp_path, channels=1)
    assert (source.channels, asked.channels) == (1, 1)
    for each in (source, asked):
        images_of(each)
    assert any("made grey" in text and "channels: 3" in text and "1 of 200" in text for text in texts(source))
    assert not any("channels: 3" in text for text in texts(asked))


def test_what_is_done_to_images_is_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 10), (9, 99, 9)).save(tmp_path / "photo.jpg", exif=exif)
    Image.new("CMYK", (4, 4), (9, 9, 9, 9)).save(tmp_path / "print.jpg")
    Image.new("RGBA", (4, 4), (255, 0, 0, 100)).save(tmp_path / "icon.png")
    Image.new("RGBA", (4, 4), (255, 0, 0, 255)).save(tmp_path / "opaque.png")
    frames = [Image.new("L", (4, 4), value) for value in (50, 100)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.gif")
    Image.new("1", (4, 4), 1).save(tmp_path / "stamp.png")
    (tmp_path / "scan.png").write_bytes(png_of_16_bits(np.full((4, 4, 3), 4000)))
    source = FolderSource(tmp_path)
    read = dict(zip(sorted(path.name for path in tmp_path.iterdir()), images_of(source), strict=True))
    assert read["stamp.png"].max() == 255
    assert read["moving.gif"].max() == 50
    assert read["icon.png"][0, 0].tolist() == [100, 0, 0]
    said = [text.removeprefix("images: ") for text in texts(source)]
    assert [text.partition(",")[0] for text in said] == [
        "turned upright",
        "with several frames or pages",
        "with transparent parts",
        "in CMYK",
        "with 16 bits a colour",
    ]
    assert all(text.endswith(": 1 of 8") for text in said)


@pytest.mark.parametrize(("values", "said"), [((0, 0), "one and the same value, 0"), ((0, 15), "nearly black")])
def test_a_folder_in_which_there_is_nothing_to_see_is_said(tmp_path: Path, values: list[int], said: str) -> None:
    for number, value in enumerate(values):
        Image.new("L", (4, 4), value).save(tmp_path / f"{number}.png")
    source = FolderSource(tmp_path)
    images_of(source)
    assert any(said in note.text and note.is_warning for note in source.remarks)
