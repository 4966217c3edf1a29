"""FaceScrub and notMNIST: sets that hatlab does not download. It reads the forms in which people have them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hatlab.data.formats import DatasetError, Images, read_idx, reading
from hatlab.data.image_folders import class_sizes, labelled, read_tree
from hatlab.data.named_sets import Form, NamedSet
from hatlab.support import paths

__all__ = ["PERSONS", "SUPPLIED_SETS", "SuppliedSet"]

PERSONS = 100  # as many as the authors took
LETTERS = tuple("ABCDEFGHIJ")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SuppliedSet(NamedSet):
    """A set whose files the user supplies. `origin` says where to get it, line by line."""

    origin: tuple[str, ...]

    def _get(self, missing: list[str], download: bool) -> dict[str, Path]:
        wanted = " or ".join(" with ".join(form.files) for form in self.forms)
        roots = [str(root) for root in paths.data_roots()]
        where_from = ["Get it from:", *(f"  {line}" for line in self.origin)]
        raise self._not_there(", and is not downloaded for you", wanted, roots, where_from)


def _form(read: Callable[..., Images], title: str, *places: str) -> Form:
    return Form({place: place for place in places}, read, title)


def _in_two(x: np.ndarray, y: np.ndarray, classes: tuple[str, ...], origin: Path) -> Images:
    """Draw a tenth of all images for testing, as the authors' scripts do. `origin` is named in errors."""
    from sklearn.model_selection import train_test_split

    order = np.arange(len(y))
    train, test = train_test_split(order, test_size=0.1, random_state=42) if len(y) > 1 else (order, order[:0])
    on_both_sides = set(y[train].tolist()) & set(y[test].tolist())
    if scarce := sorted(set(range(len(classes))) - on_both_sides):
        raise DatasetError(
            f"{origin}: of all {len(y)} images a tenth is drawn for testing, and '{classes[scarce[0]]}' is left with "
            "images for training or for testing only; needed are more of it"
        )
    return Images(x[train], y[train], x[test], y[test], classes)


# --- notMNIST -------------------------------------------------------------------------------------------------------


def _letters(path: Path) -> Images:
    """Read notMNIST_small without its two files that are no images; the authors have a black A for each."""
    images = read_tree(path, "L", 28, skip_damaged=True)
    if (found := sorted({letter for letter, _ in images})) != list(LETTERS):
        raise DatasetError(f"{path} has the classes {', '.join(found)}; notMNIST has {', '.join(LETTERS)}")
    return _in_two(*labelled(images, LETTERS), LETTERS, path)


def _letters_idx(images: Path, labels: Path) -> Images:
    with reading(f"{images} and {labels} are not readable IDX files", IndexError):
        x, y = read_idx(images), read_idx(labels).astype(np.int64)
    if x.shape[1:] != (28, 28) or y.shape != x.shape[:1] or set(y.tolist()) != set(range(10)):
        raise DatasetError(
            f"{images} has shape {x.shape} and {labels} {y.shape}; needed are (N, 28, 28) and (N,), of labels 0 to 9"
        )
    return _in_two(x[:, None], y, LETTERS, images)


# --- FaceScrub ------------------------------------------------------------------------------------------------------


def _faces(path: Path) -> Images:
    """Read the persons with the most images, as the authors' script does. It makes (3, 32, 32) of (32, 32, 3) by a
    reshape, which scrambles pixels and colours; here they keep their places.
    """
    sizes = class_sizes(path)
    most = sorted(sizes, key=lambda person: (-sizes[person], person))[:PERSONS]
    if len(sizes) > PERSONS:
        logger.info("%s: of %d persons the %d with most images are taken", path, len(sizes), PERSONS)
    persons = tuple(sorted(most))
    return _in_two(*labelled(read_tree(path, "RGB", 32, keep=most), persons), persons, path)


SUPPLIED_SETS = {
    item.name: item
    for item in (
        SuppliedSet(
            name="facescrub",
            title="FaceScrub",
            mean=(0.5163, 0.5569, 0.4695),
            std=(0.2307, 0.2272, 0.2479),
            forms=tuple(
                _form(_faces, "FaceScrub ({classes} persons)", f"facescrub{ending}")
                for ending in ("/", ".tar", ".tar.gz", ".tar.xz")
            ),
            origin=(
                "the cropped faces of FaceScrub, given on request: http://vintage.winklerbros.net/facescrub.html,",
                f"as facescrub/<person>/<image>, of {PERSONS} persons (of more, those with most images are taken)",
                "(the authors' script, whose packed images are scrambled: https://github.com/nkundiushuti/facescrub_subset)",
            ),
        ),
        SuppliedSet(
            name="notmnist",
            title="notMNIST",
            mean=None,
            std=None,
            forms=(
                _form(_letters, "notMNIST", "notMNIST_small.tar.gz"),
                _form(_letters, "notMNIST", "notMNIST_small/"),
                _form(
                    _letters_idx,
                    "notMNIST ({images} images)",
                    "notmnist-10k/t10k-images-idx3-ubyte.gz",
                    "notmnist-10k/t10k-labels-idx1-ubyte.gz",
                ),
            ),
            origin=(
                "notMNIST_small.tar.gz of Yaroslav Bulatov: http://yaroslavvb.blogspot.com/2011/09/notmnist-dataset.html",
                "(the authors' script: https://github.com/nkundiushuti/notmnist_convert), or 10,000 images of it in",
                "MNIST's form: https://github.com/davidflanagan/notMNIST-to-MNIST",
            ),
        ),
    )
}
