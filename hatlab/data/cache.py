"""Decoded images, kept so that the next run need not decode them.

An entry is named by the checksums of its sources, which are hashed at every load: a source that was altered finds no
entry. It is one uncompressed `.npz`, whose CRC-32 sums are compared on reading. Deleting the folder costs only time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from hatlab.data.formats import READ_ERRORS, Images
from hatlab.support import paths
from hatlab.support.files import atomic

__all__ = ["cached"]

VERSION = 1  # raise it when the same source should decode to other arrays
logger = logging.getLogger(__name__)


def cached(label: str, checksums: Mapping[str, str], decode: Callable[[], Images]) -> Images:
    """Return the images of the sources with these `checksums`: from the cache, or by `decode()` and then kept.

    Processes that write one entry at once write the same bytes, each to a file of its own that is then renamed. Where
    nothing can be written, a warning is logged and the images are returned all the same.
    """
    key = hashlib.sha256(json.dumps([VERSION, label, sorted(checksums.items())]).encode()).hexdigest()[:16]
    path = paths.cache_root() / "cache" / f"{re.sub(r'[^A-Za-z0-9]+', '-', label)[-40:].strip('-')}-{key}.npz"
    try:
        return _read(path)
    except FileNotFoundError:
        logger.info("decoding %s; the next run reads it from %s", label, path)
    except (*READ_ERRORS, KeyError, TypeError) as error:
        logger.warning("cached data in %s cannot be read (%s); decoding again", path, error)
    images = decode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{**vars(images), "classes": np.array(images.classes)})
    except OSError as error:
        logger.warning("decoded data cannot be kept in %s (%s); the next run decodes again", path, error)
    return images


def _read(path: Path) -> Images:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return Images(**{**arrays, "classes": tuple(arrays["classes"].tolist())})
