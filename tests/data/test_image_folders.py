import io
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from conftest import pack, png, tar_of
from PIL import Image
from small_sets import put

from hatlab.data.formats import DatasetError
from hatlab.data.image_folders import class_sizes, folder_checksum, read_folder, read_tree, tree_checksum

# --- train/<class>/<image> --------------------------------------------------------------------------------------------

GREY = png(np.zeros((4, 4), np.uint8))


def check_pets(images):
    assert images.classes == ("cat", "dog")
    assert images.x_train.shape == (6, 1, 4, 4) and images.x_test.shape == (4, 1, 4, 4)
    np.testing.assert_array_equal(images.x_train[:, 0, 0, 0], [0, 1, 2, 100, 101, 102])
    np.testing.assert_array_equal(images.y_train, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(images.y_test, [0, 0, 1, 1])
    assert images.x_train.dtype == np.uint8 and images.y_train.dtype == np.int64
    assert images.x_train.flags.c_contiguous


def test_folder(tiny_folder):
    (tiny_folder / "README.md").write_text("not below train/ or test/")
    (tiny_folder / "train" / ".DS_Store").write_text("")
    (tiny_folder / "train" / "cat" / "Thumbs.db").write_text("")
    check_pets(read_folder(tiny_folder))


def test_folder_inside_one_top_folder(tiny_folder, tmp_path):
    outer = tmp_path / "outer"
    shutil.copytree(tiny_folder, outer / "pets")
    (outer / "notes").mkdir()
    check_pets(read_folder(outer))
    assert tree_checksum(outer) == tree_checksum(tiny_folder)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("top", ["", "./", "top/"])
def test_archive(tiny_folder, tmp_path, mode, top):
    check_pets(read_folder(pack(tiny_folder, tmp_path / "pets.tar", mode, top)))


def test_archive_in_any_order_without_entries_for_folders(tiny_folder, tmp_path):
    files = [path for path in tiny_folder.rglob("*") if path.is_file()]
    members = {path.relative_to(tiny_folder).as_posix(): path.read_bytes() for path in sorted(files, reverse=True)}
    check_pets(read_folder(tar_of(members, tmp_path / "pets.tar.gz")))


def test_grey_images_among_colour_are_repeated(tiny_folder):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    (tiny_folder / "test" / "dog" / "1.png").write_bytes(png(colour))
    images = read_folder(tiny_folder)
    np.testing.assert_array_equal(images.x_test[3], colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(images.x_train[4], np.full((3, 4, 4), 101))


@pytest.mark.parametrize("kind", ["folder", "archive"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ({"train/dog/9.png": png(np.zeros((4, 5), np.uint8))}, ["cat/0.png is 4x4", "train/dog/9.png is 5x4"]),
        ({"test/bird/0.png": GREY}, ["class 'bird' is in test/ but not in train/"]),
        ({"train/bird/0.png": GREY}, ["class 'bird' is in train/ but not in test/"]),
        ({"train/bird": None, "test/bird/0.png": GREY}, ["train/bird holds no image"]),
        ({"train/bird/0.png": GREY, "test/bird": None}, ["test/bird holds no image"]),
        ({"train/cat/note.txt": b"hello"}, ["train/cat/note.txt is not a readable image"]),
        ({"train/cat/0.png": GREY[:45]}, ["train/cat/0.png is not a readable image"]),
        ({"train/cat/0.png": b""}, ["train/cat/0.png is not a readable image"]),
        ({"train/loose.png": GREY}, ["train/loose.png is not of the form train/<class>/<image>"]),
        ({"train/cat/more/0.png": GREY}, ["train/cat/more/0.png is not of the form"]),
        ({"train/cat/0.png": png(np.zeros((4, 4, 4), np.uint8))}, ["train/cat/0.png is RGBA", "grey or RGB"]),
        ({"train/cat/0.png": png(np.zeros((4, 4), np.uint16))}, ["train/cat/0.png is I", "8-bit"]),
    ],
)
def test_unusable_images(tiny_folder, tmp_path, kind, harm, words):
    for name, content in harm.items():
        path = tiny_folder / name
        if content is None:
            path.mkdir()
        else:
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(content)
    source = tiny_folder if kind == "folder" else pack(tiny_folder, tmp_path / "pets.tar.xz")
    with pytest.raises(DatasetError) as error:
        read_folder(source)
    for word in [str(source), *words]:
        assert word in str(error.value)


def test_transparent_palette_is_refused(tiny_folder):
    image = Image.new("P", (4, 4))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tiny_folder / "train" / "cat" / "0.png", transparency=0)
    with pytest.raises(DatasetError, match="transparent"):
        read_folder(tiny_folder)


@pytest.mark.parametrize("kind", ["folder", "archive"])
@pytest.mark.parametrize("missing", ["train", "test", "both"])
def test_no_pair_of_splits(tiny_folder, tmp_path, kind, missing):
    for split in ("train", "test"):
        if missing in (split, "both"):
            shutil.rmtree(tiny_folder / split)
    (tiny_folder / "other").mkdir()
    source = tiny_folder if kind == "folder" else pack(tiny_folder, tmp_path / "pets.tar")
    with pytest.raises(DatasetError, match=r"found none|no (train|test)/<class>"):
        read_folder(source)


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_two_pairs_of_splits(tiny_folder, tmp_path, kind):
    outer = tmp_path / "outer"
    for name in ("one", "two"):
        shutil.copytree(tiny_folder, outer / name)
    source = outer if kind == "folder" else pack(outer, tmp_path / "pets.tar")
    with pytest.raises(DatasetError, match="several pairs, in one, two"):
        read_folder(source)


@pytest.mark.parametrize("name", ["../train/cat/0.png", "train/../../0.png", "/train/cat/0.png"])
def test_archive_that_points_outside(tmp_path, name):
    archive = tar_of({name: GREY}, tmp_path / "bad.tar")
    with pytest.raises(DatasetError, match="outside of the archive"):
        read_folder(archive)


def test_archive_with_a_link(tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        link = tarfile.TarInfo("train/cat/0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DatasetError, match="is a link"):
        read_folder(tmp_path / "bad.tar")


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w"])
@pytest.mark.parametrize("harm", ["truncated", "text"])
def test_damaged_archive(tmp_path, mode, harm):
    noise = io.BytesIO()  # incompressible, so that half the archive lacks half the images
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), dtype=np.uint8)).save(noise, "png")
    members = {f"{split}/cat/{k}.png": noise.getvalue() for split in ("train", "test") for k in range(5)}
    archive = tar_of(members, tmp_path / "pets.tar", mode)
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 3] if harm == "truncated" else b"hello")
    before = archive.read_bytes()
    with pytest.raises(DatasetError, match="not a readable tar archive"):
        read_folder(archive)
    assert archive.read_bytes() == before


def test_tree_checksum_sees_names_and_bytes(tiny_folder):
    sums = [tree_checksum(tiny_folder)]
    image = tiny_folder / "train" / "cat" / "0.png"
    image.write_bytes(image.read_bytes() + b"x")
    sums.append(tree_checksum(tiny_folder))
    image.rename(image.with_name("9.png"))
    sums.append(tree_checksum(tiny_folder))
    assert len(set(sums)) == 3


# --- <class>/<image> --------------------------------------------------------------------------------------------------


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
def test_damaged_archive_of_a_tree(tmp_path, name, harm, use):
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


def test_archive_of_a_tree_with_a_link(tmp_path):
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
