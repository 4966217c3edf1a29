"""Task sequences: which classes, images and pixels make each task, in the order in which it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hatlab.config import ConfigError, RunConfig
from hatlab.data.datasets import Dataset, load_all, split_names
from hatlab.data.mixture import is_mixture

__all__ = ["Task", "TaskSequence", "make_sequence"]


@dataclass(frozen=True, eq=False)
class Task:
    """One task of a sequence.

    Attributes:
        name: e.g. "MNIST 0,1" (its classes), "MNIST permutation 3" (the position before shuffling) or "MNIST" (all of
            it, in a mixture).
        dataset: index into `TaskSequence.datasets`.
        classes: label k of the task is class classes[k] of the data set.
        train, valid: int64 indices into x_train of the data set, ascending.
        test: int64 indices into x_test, ascending.
        pixels: None, or (C*H*W,) int64 to apply to the flattened image, x.reshape(-1)[pixels].
    """

    name: str
    dataset: int
    classes: tuple[int, ...]
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    pixels: np.ndarray | None = None

    def labels_of(self, y: np.ndarray) -> np.ndarray:
        """Return data-set labels (N,) as labels of this task, int64 in 0..len(classes)-1.

        Raises:
            ValueError: for a label that is not one of the task's classes.
        """
        classes = np.array(self.classes)
        ascending = np.argsort(classes)
        labels: np.ndarray = ascending[np.searchsorted(classes[ascending], y).clip(max=len(classes) - 1)]
        if (foreign := classes[labels] != y).any():
            raise ValueError(f"label {y[foreign][0]} is not a class of task '{self.name}': {self.classes}")
        return labels


@dataclass(frozen=True, eq=False)
class TaskSequence:
    """The tasks of one run.

    Attributes:
        datasets: the data sets that the tasks draw from, all of one image shape.
        tasks: in training order.
        order: order[k] is the position, before shuffling, of the task trained k-th.
        input_shape: (C, H, W) of every image.
    """

    datasets: tuple[Dataset, ...]
    tasks: tuple[Task, ...]
    order: tuple[int, ...]
    input_shape: tuple[int, int, int]

    @property
    def title(self) -> str:
        """What results call the data: "CIFAR-10 + CIFAR-100", or "mixture of MNIST, SVHN" (those that are trained)."""
        if not is_mixture(self.datasets[0].name):
            return " + ".join(data.title for data in self.datasets)
        return f"mixture of {', '.join(self.datasets[k].title for k in sorted(task.dataset for task in self.tasks))}"


def make_sequence(config: RunConfig, datasets: Sequence[Dataset] | None = None) -> TaskSequence:
    """Return the task sequence that `config` describes, loading its data sets unless `datasets` are given.

    Order, permutations and validation images are drawn with scikit-learn's `shuffle`, as the authors draw them.

    Raises:
        ConfigError: parameters that contradict each other or the data sets, or `datasets` that are not those named.
        DatasetError: a data set that cannot be loaded.
    """
    names = split_names(config.dataset)
    _check_combination(config, names)
    sets = load_all(config.dataset) if datasets is None else tuple(datasets)
    if tuple(item.name for item in sets) != names:
        raise ConfigError(f"dataset = '{config.dataset}', but given were {', '.join(item.name for item in sets)}")
    input_shape = _common_shape(config, sets)
    if config.sequence == "permuted":
        order = _order(config, 10 if config.n_tasks is None else config.n_tasks)
        tasks = _permuted_tasks(config, sets[0], order)
    else:
        groups = _groups(config, sets)
        order = _order(config, len(groups))
        tasks = tuple(_split_task(config, sets, *groups[position]) for position in order)
    return TaskSequence(sets, tasks, order, input_shape)


def _check_combination(config: RunConfig, names: tuple[str, ...]) -> None:
    """Refuse parameters that are wrong whatever the data sets hold, before one is loaded."""
    if len(set(names)) < len(names):
        raise ConfigError(f"dataset = '{config.dataset}': a data set is named twice; allowed: each once")
    if is_mixture(config.dataset):
        _check_mixture(config)
    elif mixtures := [name for name in names if is_mixture(name)]:
        raise ConfigError(f"dataset = '{config.dataset}': '{mixtures[0]}' cannot be joined to others by '+'")
    if config.sequence == "permuted":
        if config.class_groups is not None:
            raise ConfigError(
                f"class_groups = {config.class_groups} with sequence = 'permuted': all its tasks have all classes; "
                "allowed: no class_groups, or sequence = 'split'"
            )
        if len(names) > 1:
            raise ConfigError(
                f"dataset = '{config.dataset}' with sequence = 'permuted'; allowed: one data set, or sequence = 'split'"
            )
        return
    sizes = config.classes_per_task
    if config.class_groups is None and isinstance(sizes, tuple) and len(sizes) != len(names):
        raise ConfigError(
            f"classes_per_task = {sizes} has {len(sizes)} numbers for {len(names)} data sets ({', '.join(names)}); "
            "allowed: one number for all, or one for each"
        )


def _check_mixture(config: RunConfig) -> None:
    """Refuse parameters that would split or permute the sets of a mixture."""
    for name in ("sequence", "classes_per_task", "class_groups"):
        value, default = getattr(config, name), RunConfig.model_fields[name].default
        if value != default:
            raise ConfigError(
                f"{name} = {value!r} with dataset = '{config.dataset}': each set of a mixture is one task, with all of "
                f"its classes and its pixels in place; allowed: the default, {default!r}"
            )


def _common_shape(config: RunConfig, sets: tuple[Dataset, ...]) -> tuple[int, int, int]:
    shapes = [item.x_train.shape[1:] for item in sets]
    if len(set(shapes)) > 1:
        found = ", ".join(
            f"{item.name} has {'x'.join(map(str, shape))}" for item, shape in zip(sets, shapes, strict=True)
        )
        raise ConfigError(f"dataset = '{config.dataset}': joined sets must have images of one shape (CxHxW); {found}")
    channels, height, width = shapes[0]
    return channels, height, width


def _shuffled(n: int, seed: int) -> np.ndarray:
    """Return 0 ... n - 1 in the order of scikit-learn's `shuffle(arange(n), random_state=seed)`, as the authors."""
    return np.random.RandomState(seed).permutation(n)


def _order(config: RunConfig, n: int) -> tuple[int, ...]:
    positions = _shuffled(n, config.seed) if config.task_order == "shuffled" else np.arange(n)
    return tuple(positions.tolist())


# --- split ----------------------------------------------------------------------------------------------------------


def _groups(config: RunConfig, sets: tuple[Dataset, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """Return (data set, its classes) for each task, before shuffling."""
    if is_mixture(config.dataset):
        groups = [(index, tuple(range(len(item.classes)))) for index, item in enumerate(sets)]
    elif config.class_groups is None:
        groups = _equal_groups(config, sets)
    else:
        groups = _named_groups(config, sets)
    if config.n_tasks is None:
        return groups
    if config.n_tasks > len(groups):
        raise ConfigError(
            f"n_tasks = {config.n_tasks}: '{config.dataset}' gives {len(groups)} tasks; allowed: 1 to {len(groups)}"
        )
    return groups[: config.n_tasks]


def _equal_groups(config: RunConfig, sets: tuple[Dataset, ...]) -> list[tuple[int, tuple[int, ...]]]:
    given = config.classes_per_task
    sizes = given if isinstance(given, tuple) else (given,) * len(sets)
    groups = []
    for index, (item, size) in enumerate(zip(sets, sizes, strict=True)):
        n = len(item.classes)
        if n % size:
            divisors = ", ".join(str(k) for k in range(1, n + 1) if n % k == 0)
            example = f"({tuple(range(min(size, n)))}, ...)"
            raise ConfigError(
                f"classes_per_task = {given}: the {n} classes of {item.name} cannot be cut into groups of {size}; "
                f"allowed: {divisors}, or spell out groups of any size with class_groups = {example}"
            )
        groups += [(index, tuple(range(first, first + size))) for first in range(0, n, size)]
    return groups


def _named_groups(config: RunConfig, sets: tuple[Dataset, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """Return the groups of `class_groups`. Class 0 of a joined set follows the last class of the set before it."""
    owners = [(index, label) for index, item in enumerate(sets) for label in range(len(item.classes))]
    groups: list[tuple[int, tuple[int, ...]]] = []
    taken: set[int] = set()
    for group in config.class_groups or ():
        for number in group:
            if not 0 <= number < len(owners):
                raise ConfigError(
                    f"class_groups: {group} names class {number}; allowed: 0 to {len(owners) - 1} ('{config.dataset}')"
                )
            if number in taken:
                raise ConfigError(f"class_groups = {config.class_groups}: class {number} is named twice; allowed: once")
            taken.add(number)
        members = {owners[number][0] for number in group}
        if len(members) > 1:
            mixed = " and ".join(sets[index].name for index in sorted(members))
            raise ConfigError(f"class_groups: {group} mixes {mixed}; allowed: classes of one data set in each task")
        groups.append((members.pop(), tuple(owners[number][1] for number in group)))
    if not groups:
        raise ConfigError("class_groups = (): no task is left; allowed: at least one group")
    return groups


def _split_task(config: RunConfig, sets: tuple[Dataset, ...], index: int, classes: tuple[int, ...]) -> Task:
    item = sets[index]
    name = item.title if is_mixture(item.name) else f"{item.title} {_ranges(classes)}"
    train, valid = _hold_out(config, name, np.flatnonzero(np.isin(item.y_train, classes)))
    return Task(name, index, classes, train, valid, np.flatnonzero(np.isin(item.y_test, classes)))


def _ranges(classes: tuple[int, ...]) -> str:
    """Return "0-19" for three or more consecutive classes, else "0,1"."""
    first, last = classes[0], classes[-1]
    consecutive = len(classes) > 2 and classes == tuple(range(first, last + 1))
    return f"{first}-{last}" if consecutive else ",".join(map(str, classes))


# --- permuted -------------------------------------------------------------------------------------------------------


def _permuted_tasks(config: RunConfig, item: Dataset, order: tuple[int, ...]) -> tuple[Task, ...]:
    """Return one task per permutation. The task at position i, which was number r before shuffling, has the authors'
    seed 100 r + i; no task has unpermuted pixels.
    """
    train, valid = _hold_out(config, item.title, np.arange(len(item.y_train)))
    test = np.arange(len(item.y_test))
    n_pixels = int(np.prod(item.x_train.shape[1:]))
    return tuple(
        Task(
            name=f"{item.title} permutation {number}",
            dataset=0,
            classes=tuple(range(len(item.classes))),
            train=train,
            valid=valid,
            test=test,
            pixels=_shuffled(n_pixels, seed=100 * number + position),
        )
        for position, number in enumerate(order)
    )


# --- validation -----------------------------------------------------------------------------------------------------


def _hold_out(config: RunConfig, name: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `images` of one task as (training, validation), both ascending."""
    if config.validation == "train":
        return images, images
    n_valid = int(config.validation * len(images))
    if not 0 < n_valid < len(images):
        raise ConfigError(
            f"validation = {config.validation}: of the {len(images)} training images of task '{name}' it holds out "
            f"{n_valid}; allowed: a share that leaves at least one on each side, or 'train'"
        )
    drawn = images[_shuffled(len(images), config.seed)]
    return np.sort(drawn[n_valid:]), np.sort(drawn[:n_valid])
