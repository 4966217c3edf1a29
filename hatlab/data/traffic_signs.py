"""The German Traffic Sign Recognition Benchmark: signs cut out of photographs, in PPM images of many sizes."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np

from hatlab.data.formats import READ_ERRORS, DatasetError, Images, channels_first
from hatlab.data.image_folders import read_tree

__all__ = ["read_gtsrb"]

CLASSES = tuple(str(label) for label in range(43))
FOLDERS = tuple(f"{label:05d}" for label in range(43))
TRUTH = "GT-final_test.csv"


def read_gtsrb(training: Path, test: Path, truth: Path) -> Images:
    """Return GTSRB, each image brought to 3x32x32.

    Args:
        training: archive or folder with 00000/*.ppm to 00042/*.ppm.
        test: archive or folder with Images/*.ppm.
        truth: `GT-final_test.csv`, or a zip archive with it; it gives the class of each test image.

    Raises:
        DatasetError: damaged files; a test image without a class, or a class without images.
    """
    train = read_tree(training, "RGB", 32)
    tested = {name: image for (_, name), image in read_tree(test, "RGB", 32).items()}
    labels = _labels(truth)
    if absent := sorted(labels.keys() ^ tested.keys()):
        raise DatasetError(f"{absent[0]} is only in one of {test} and {truth}: every test image needs a class")
    y_train, y_test = [folder for folder, _ in train], [f"{labels[name]:05d}" for name in tested]
    for path, y in ((training, y_train), (truth, y_test)):
        if wrong := sorted(set(y) ^ set(FOLDERS)):
            raise DatasetError(f"{path}: needs all classes from {FOLDERS[0]} to {FOLDERS[-1]} and no other: {wrong[0]}")
    x_train, x_test = (channels_first(np.stack(list(images.values()))) for images in (train, tested))
    return Images(x_train, np.array(y_train, np.int64), x_test, np.array(y_test, np.int64), CLASSES)


def _labels(truth: Path) -> dict[str, int]:
    try:
        if zipfile.is_zipfile(truth):
            with zipfile.ZipFile(truth) as archive:
                text = archive.read(TRUTH).decode()
        else:
            text = truth.read_text()
        return {row["Filename"]: int(row["ClassId"]) for row in csv.DictReader(io.StringIO(text), delimiter=";")}
    except (*READ_ERRORS, csv.Error, KeyError, TypeError) as error:  # TypeError: a row that is too short
        raise DatasetError(f"{truth} does not list file names and classes: {error!r}; left in place") from error
