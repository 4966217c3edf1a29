import numpy as np
import pytest
from small_sets import gtsrb_files, ppm, put, write_gtsrb

from hatlab.data.formats import DatasetError
from hatlab.data.traffic_signs import read_gtsrb


@pytest.fixture
def parts(tmp_path):
    folder = write_gtsrb(tmp_path, packed=False)
    return folder / "GTSRB" / "Training", folder / "GTSRB" / "Final_Test", folder / "GT-final_test.csv"


@pytest.mark.parametrize("packed", [True, False])
def test_signs_of_many_sizes_become_32x32(tmp_path, parts, packed):
    if packed:
        folder = write_gtsrb(tmp_path)
        names = ("GTSRB-Training_fixed.zip", "GTSRB_Final_Test_Images.zip", "GTSRB_Final_Test_GT.zip")
        parts = [folder / name for name in names]
    images = read_gtsrb(*parts)
    assert images.x_train.shape == (86, 3, 32, 32) and images.x_test.shape == (43, 3, 32, 32)
    assert images.x_train.flags.c_contiguous and images.x_train.dtype == np.uint8
    np.testing.assert_array_equal(images.y_train, np.repeat(np.arange(43), 2))
    np.testing.assert_array_equal(images.y_test, np.arange(43)[::-1])  # by file name; the list gives the classes
    for x, y in ((images.x_train, images.y_train), (images.x_test, images.y_test)):
        for image, label in zip(x, y, strict=True):
            np.testing.assert_array_equal(image, np.broadcast_to([[[label]], [[100]], [[200]]], (3, 32, 32)))
    assert images.classes == tuple(map(str, range(43)))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (
            {"GTSRB/Final_Test/Images/99999.ppm": ppm((0, 0, 0), (9, 9))},
            ["99999.ppm is only in one of", "GT-final_test"],
        ),
        ({"GTSRB/Training/00043/0.ppm": ppm((0, 0, 0), (9, 9))}, ["Training", "00000 to 00042 and no other: 00043"]),
        ({"GTSRB/Training/stop/0.ppm": ppm((0, 0, 0), (9, 9))}, ["Training", "00000 to 00042 and no other: stop"]),
        ({"GT-final_test.csv": b"Filename,ClassId\n0.ppm,3\n"}, ["GT-final_test.csv does not list"]),
        ({"GT-final_test.csv": b"Filename;ClassId\n0.ppm\n"}, ["GT-final_test.csv does not list"]),
        ({"GT-final_test.csv": b"\xff\xfe"}, ["GT-final_test.csv does not list"]),
        (
            {"GT-final_test.csv": gtsrb_files()[2].replace(";7\n", ";8\n").encode()},
            ["GT-final_test", "00000 to 00042 and no other: 00007"],
        ),
        ({"GTSRB/Training/00007/0.ppm": b"P6 3"}, ["00007/0.ppm is not a readable image"]),
    ],
)
def test_unusable_files(tmp_path, parts, harm, words):
    put(tmp_path / "gtsrb", harm)
    with pytest.raises(DatasetError) as error:
        read_gtsrb(*parts)
    for word in words:
        assert word in str(error.value)
