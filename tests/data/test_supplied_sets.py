import shutil

import numpy as np
import pytest
from conftest import pack, tar_of, write_idx
from sklearn.model_selection import train_test_split
from small_sets import LETTERS, faces, letters, put, write_letters, write_letters_idx

from hatlab.data import supplied_sets
from hatlab.data.datasets import DatasetError, fetch, load, status, verify
from hatlab.data.supplied_sets import SUPPLIED_SETS
from hatlab.support import paths


@pytest.fixture
def data(empty_home):
    folder = empty_home / "data"
    folder.mkdir()
    return folder


def state_of(name):
    return next(item for item in status() if item.name == name)


# --- notMNIST -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_notmnist_small(data, packed, caplog):
    source = write_letters(data, packed=packed)
    for _ in ("decoded", "cached"):
        found = load("notmnist")
        assert found.title == "notMNIST" and found.classes == tuple(LETTERS)
        assert found.x_train.shape == (180, 1, 28, 28) and found.x_test.shape == (20, 1, 28, 28)
        assert found.x_train.dtype == np.uint8 and found.y_train.dtype == np.int64
        pixels, labels = found.x_train[:, 0, 5, 5], found.y_train
        np.testing.assert_array_equal(labels, pixels // 20)
        assert found.mean == pytest.approx((pixels.mean() / 255,)) and found.std == pytest.approx((pixels.std() / 255,))
    assert caplog.text.count("1 images cannot be read and are left out") == 1  # said when it is decoded
    assert found.checksums.keys() == {"notMNIST_small.tar.gz" if packed else "notMNIST_small/"}
    assert state_of("notmnist").state == "ready" and state_of("notmnist").where == str(data)
    assert [check.ok for check in verify("notmnist")] == [True] and fetch("notmnist") == [source]


def test_a_tenth_is_for_testing_as_the_authors_draw_it(data):
    write_letters(data)
    everything = np.array([20 * letter + k for letter in range(10) for k in range(20)])
    train, test = train_test_split(everything, test_size=0.1, random_state=42)
    found = load("notmnist")
    np.testing.assert_array_equal(found.x_train[:, 0, 0, 0], train)
    np.testing.assert_array_equal(found.x_test[:, 0, 0, 0], test)


def test_archive_and_folder_hold_the_same(data):
    write_letters(data)
    packed = load("notmnist")
    (data / "notMNIST_small.tar.gz").unlink()
    write_letters(data, packed=False)
    unpacked = load("notmnist")
    for name in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(packed, name), getattr(unpacked, name))


def test_a_part_of_notmnist_says_so(data):
    folder = write_letters_idx(data, n=500)
    found = load("notmnist")
    assert found.title == "notMNIST (500 images)" and found.classes == tuple(LETTERS)
    assert found.x_train.shape == (450, 1, 28, 28) and found.x_test.shape == (50, 1, 28, 28)
    assert list(found.checksums) == ["notmnist-10k/t10k-images-idx3-ubyte.gz", "notmnist-10k/t10k-labels-idx1-ubyte.gz"]
    assert state_of("notmnist").where == str(folder) and len(fetch("notmnist")) == 2
    write_letters(data)  # the paper's comes first
    assert load("notmnist").title == "notMNIST"


def test_a_form_in_any_root_comes_before_the_next_form(data, tmp_path, monkeypatch):
    lent = tmp_path / "lent"
    write_letters_idx(lent)
    write_letters(data, packed=False)
    monkeypatch.setenv("HATLAB_DATA", str(lent))
    assert load("notmnist").title == "notMNIST"
    shutil.rmtree(data / "notMNIST_small")
    assert load("notmnist").title == "notMNIST (400 images)"


@pytest.mark.parametrize("harm", ["text", "short", "labels", "shape"])
def test_unusable_pair_of_idx_files(data, harm):
    folder = write_letters_idx(data)
    images, labels = (folder / f"t10k-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1"))
    if harm == "text":
        labels.write_bytes(b"no gzip")
    elif harm == "short":
        images.write_bytes(images.read_bytes()[:-30])
    elif harm == "labels":
        write_idx(labels, np.arange(400, dtype=np.uint8) % 9)
    else:
        write_idx(images, np.zeros((400, 28, 27), np.uint8))
    with pytest.raises(DatasetError, match=r"dataset = 'notmnist': .*t10k-images") as error:
        load("notmnist")
    assert "not readable IDX" in str(error.value) or "needed are (N, 28, 28)" in str(error.value)
    assert not any(check.ok for check in verify("notmnist"))


def test_other_letters_are_not_notmnist(data):
    members = {name: content for name, content in letters().items() if not name.startswith("J")}
    tar_of(members, data / "notMNIST_small.tar.gz")
    with pytest.raises(DatasetError, match=r"has the classes A, .*, I; notMNIST has A, .*, J"):
        load("notmnist")


# --- FaceScrub ------------------------------------------------------------------------------------------------------

PEOPLE = {"Dora": 30, "Ada": 40, "Cy": 50}


@pytest.mark.parametrize("form", ["folder", "tar", "tar.gz", "tar.xz", "nested"])
def test_facescrub(data, form):
    folder = put(data / "facescrub", faces(PEOPLE))
    if form.startswith("tar"):
        pack(folder, data / f"facescrub.{form}", f"w{form[3:].replace('.', ':') or ':'}", "facescrub/")
        shutil.rmtree(folder)
    elif form == "nested":
        folder.rename(data / "images")
        folder.mkdir()
        (data / "images").rename(folder / "images")
    found = load("facescrub")
    assert found.title == "FaceScrub (3 persons)" and found.classes == ("Ada", "Cy", "Dora")
    assert found.x_train.shape == (108, 3, 32, 32) and found.x_test.shape == (12, 3, 32, 32)
    np.testing.assert_array_equal(np.bincount(np.concatenate([found.y_train, found.y_test])), [40, 50, 30])
    assert found.mean == (0.5163, 0.5569, 0.4695) and found.std == (0.2307, 0.2272, 0.2479)
    for image in found.x_train:  # red above and blue below: a reshape in place of a transpose would mix them
        assert (image[0, :14] == 255).all() and (image[2, :14] == 0).all()
        assert (image[0, 18:] == 0).all() and (image[2, 18:] == 255).all() and (image[1] == 0).all()
    _, test = train_test_split(np.repeat([0, 1, 2], [40, 50, 30]), test_size=0.1, random_state=42)
    np.testing.assert_array_equal(found.y_test, test)


def test_of_more_persons_those_with_most_images_are_taken(data, monkeypatch, caplog):
    put(data / "facescrub", {**faces({**PEOPLE, "Bob": 40, "Eve": 39}), "Eve/bad.png": b"of no one who is taken"})
    monkeypatch.setattr(supplied_sets, "PERSONS", 2)
    with caplog.at_level("INFO"):
        found = load("facescrub")
    assert found.classes == ("Ada", "Cy")  # Ada before Bob, who has as many
    assert "of 5 persons the 2 with most images are taken" in caplog.text
    assert len(found.y_train) + len(found.y_test) == 90
    assert SUPPLIED_SETS["facescrub"].title == "FaceScrub" and found.title == "FaceScrub (2 persons)"


@pytest.mark.parametrize("people", [{"Ada": 50, "Bob": 1}, {"Ada": 1}])
def test_a_person_needs_images_on_both_sides(data, people):
    put(data / "facescrub", faces(people))
    with pytest.raises(DatasetError, match=r"a tenth is drawn for testing, and '\w+' is left with .* only"):
        load("facescrub")


def test_a_damaged_face_is_refused(data):
    put(data / "facescrub", {**faces(PEOPLE), "Ada/bad.png": b"no image"})
    with pytest.raises(DatasetError, match=r"dataset = 'facescrub': .*Ada/bad\.png is not a readable image"):
        load("facescrub")
    (check,) = verify("facescrub")
    assert not check.ok and "Ada/bad.png" in check.problem and check.found.startswith("sha256:")


def test_an_altered_face_is_another_source(data):
    put(data / "facescrub", faces(PEOPLE))
    before = load("facescrub")
    (data / "facescrub" / "Ada" / "Ada_000.png").unlink()
    after = load("facescrub")
    assert after.checksums != before.checksums and len(after.y_train) + len(after.y_test) == 119


# --- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "notmnist",
            ["notMNIST_small.tar.gz", "notMNIST_small/", "notmnist-10k/t10k-labels-idx1-ubyte.gz", "notmnist_convert"],
        ),
        ("facescrub", ["facescrub/", "facescrub.tar.xz", "facescrub/<person>/<image>", "facescrub_subset"]),
    ],
)
def test_what_is_missing_is_named_with_where_to_get_it(data, tmp_path, monkeypatch, no_network, name, words):
    monkeypatch.setenv("HATLAB_DATA", str(tmp_path / "lent"))
    for use in (load, fetch):
        with pytest.raises(DatasetError) as error:
            use(name)
        for word in (f"dataset = '{name}'", str(tmp_path / "lent"), str(data), "http", "HATLAB_DATA", *words):
            assert word in str(error.value)
    assert no_network == []  # nothing is downloaded
    assert state_of(name).state == "missing" and state_of(name).where == str(data) and state_of(name).size == 0
    (check,) = verify(name)
    assert check.problem == "missing" and not check.ok


def test_readme_names_every_form():
    readme = (paths.home() / "data" / "README.md").read_text()
    for item in SUPPLIED_SETS.values():
        assert f"| `{item.name}` | {item.title}" in readme
        for form in item.forms:
            assert form.title.format(images="10,000", classes=100) in readme
            assert all(place.removeprefix("facescrub.tar") in readme for place in form.files)


def test_a_file_in_place_of_a_folder_is_not_found(data):
    (data / "facescrub").write_text("no folder")
    assert state_of("facescrub").state == "missing"


def test_real_part_of_notmnist(shared_data):
    folder = shared_data("notmnist-10k/t10k-images-idx3-ubyte.gz").parent
    found = load("notmnist")
    if found.title == "notMNIST":
        pytest.skip(f"all of notMNIST_small is there too, and comes before {folder}")
    assert found.title == "notMNIST (10,000 images)"
    assert found.x_train.shape == (9_000, 1, 28, 28) and found.x_test.shape == (1_000, 1, 28, 28)
    assert (np.bincount(np.concatenate([found.y_train, found.y_test])) == 1_000).all()
    assert (np.bincount(found.y_test) > 60).all()
