import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from conftest import png, tar_of
from small_sets import put

from hatlab.data.formats import DatasetError
from hatlab.data.image_folders import class_sizes, folder_checksum, read_tree


def grey(value, size=(4, 4)):
    return png(np.full(size, value, np.uint8))


FILES = {"b/1.png": grey(3), "b/0.PNG": grey(2), "a/0.png": grey(0, (6, 9)), "a/1.jpg": grey(1), "a/list.csv": b"x"}


def packed(members, path):
    """A zip or tar archive, by its name."""
    if path.suffix != ".zip":
        return tar_of(members, path, "w:gz" if path.suffix == ".gz" else "w")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(params=["folder", "x.zip", "x.tar", "x.tar.gz"])
def tree(request, tmp_path):
    """What writes files to a folder or an archive, and returns it."""
    if request.param == "folder":
        return lambda members: put(tmp_path / "tree", members)
    return lambda members: packed(members, tmp_path / request.param)


@pytest.mark.parametrize("top", ["", "top/inner/"])
def test_images_come_sorted_and_of_one_size(tree, top):
    path = tree({f"{top}{name}": content for name, content in FILES.items()})
    images = read_tree(path, "L", 4)
    assert list(images) == [("a", "0.png"), ("a", "1.jpg"), ("b", "0.PNG"), ("b", "1.png")]
    for value, image in enumerate(images.values()):
        assert image.dtype == np.uint8 and image.shape == (4, 4) and (image == value).all()
    assert class_sizes(path) == {"a": 2, "b": 2}
    colour = read_tree(path, "RGB", 8, keep=["b"])
    assert list(colour) == [("b", "0.PNG"), ("b", "1.png")]
    for value, image in zip((2, 3), colour.values(), strict=True):
        assert image.shape == (8, 8, 3) and (image == value).all()


def test_an_image_of_the_wanted_size_keeps_its_pixels(tree):
    x = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    np.testing.assert_array_equal(read_tree(tree({"a/0.png": png(x)}), "L", 28)["a", "0.png"], x)


def test_a_larger_image_is_averaged_and_not_sampled(tree):
    x = np.zeros((64, 64), np.uint8)
    x[::2] = 200  # every second row: sampling would see one of the two values only
    (image,) = read_tree(tree({"a/0.png": png(x)}), "L", 32).values()
    assert (abs(image[4:-4].astype(int) - 100) <= 1).all()


def test_what_file_managers_leave_behind_is_passed_over(tree):
    path = tree({**FILES, "a/.DS_Store.png": b"", "__MACOSX/a/0.png": b"", ".hidden/a.png": b""})
    assert len(read_tree(path, "L", 4)) == 4 and class_sizes(path) == {"a": 2, "b": 2}


def test_images_that_cannot_be_read(tree, caplog):
    path = tree({**FILES, "b/bad.png": b"", "a/cut.png": grey(1)[:45]})
    with pytest.raises(DatasetError, match=r"(b/bad|a/cut)\.png is not a readable image.*left in place") as error:
        read_tree(path, "L", 4)
    assert str(path) in str(error.value)
    assert len(read_tree(path, "L", 4, skip_damaged=True)) == 4
    assert "2 images cannot be read and are left out" in caplog.text and "b/bad.png" in caplog.text


def test_no_image_at_all(tree):
    with pytest.raises(DatasetError, match="no <class>/<image> in it"):
        read_tree(tree({"a/list.csv": b"x"}), "L", 4)


@pytest.mark.parametrize(("name", "words"), [("0.png", "0.png is not of the form"), ("x/a/0.png", "in one folder")])
def test_images_at_other_depths(tree, name, words):
    with pytest.raises(DatasetError, match=words):
        read_tree(tree({**FILES, name: grey(0)}), "L", 4)


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
@pytest.mark.parametrize("harm", ["truncated", "text"])
@pytest.mark.parametrize("use", [class_sizes, lambda path: read_tree(path, "L", 4)])
def test_damaged_archive(tmp_path, name, harm, use):
    noise = png(np.random.default_rng(0).integers(0, 256, (99, 99), dtype=np.uint8))
    path = packed({f"a/{k}.png": noise for k in range(5)}, tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3] if harm == "truncated" else b"hello")
    before = path.read_bytes()
    with pytest.raises(DatasetError, match="cannot be read"):
        use(path)
    assert path.read_bytes() == before


def test_altered_member_of_a_zip_archive(tmp_path):
    path = packed({"a/0.png": grey(7)}, tmp_path / "x.zip")
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"cannot be read: Bad CRC-32"):
        read_tree(path, "L", 4)


def test_archive_with_a_link(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("a/0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DatasetError, match="is a link"):
        read_tree(tmp_path / "x.tar", "L", 4)


def test_checksum_of_a_folder_sees_names_and_bytes_of_its_images(tmp_path):
    folder = put(tmp_path / "tree", FILES)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "a" / "list.csv").unlink()
    sums = [folder_checksum(folder)]
    assert folder_checksum(copy) == sums[0]
    (folder / "a" / "0.png").write_bytes(grey(9))
    sums.append(folder_checksum(folder))
    (folder / "a" / "0.png").rename(folder / "a" / "9.png")
    sums.append(folder_checksum(folder))
    assert len(set(sums)) == 3
