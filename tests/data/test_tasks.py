import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils import shuffle
from small_sets import ORDERS

from hatlab.config import ConfigError, RunConfig
from hatlab.data import tasks
from hatlab.data.datasets import Dataset, DatasetError
from hatlab.data.tasks import Task, make_sequence


def toy(name="mnist", title="MNIST", n_classes=10, per_class=20, shape=(1, 4, 4)) -> Dataset:
    """Labels cycle through the classes; every pixel of an image is its index."""
    n = n_classes * per_class
    x = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, *shape)).copy()
    y = np.arange(n) % n_classes
    classes = tuple(f"class {k}" for k in range(n_classes))
    half = n // 2
    return Dataset(name, title, x, y, x[:half], y[:half], classes, (0.5,) * shape[0], (0.5,) * shape[0], {})


CIFAR = (toy("cifar10", "CIFAR-10"), toy("cifar100", "CIFAR-100", n_classes=100))


def sequence(datasets=None, **values):
    return make_sequence(RunConfig(**{"dataset": "mnist", **values}), datasets or [toy()])


@pytest.mark.parametrize("seed", ORDERS)
def test_order_of_eight_tasks_is_the_authors(seed):
    found = sequence([toy(n_classes=8)], classes_per_task=1, seed=seed)
    assert list(found.order) == ORDERS[seed]
    assert [task.classes for task in found.tasks] == [(k,) for k in ORDERS[seed]]


def test_incremental_cifar_is_the_authors():
    found = sequence(CIFAR, dataset="cifar10+cifar100", classes_per_task=(2, 20), validation=0.1)
    assert list(found.order) == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]
    assert [task.name for task in found.tasks[:3]] == ["CIFAR-10 4,5", "CIFAR-100 60-79", "CIFAR-10 8,9"]
    assert [task.dataset for task in found.tasks] == [0, 1, 0, 1, 0, 1, 1, 0, 0, 1]
    for task in found.tasks:
        assert len(task.classes) == (2, 20)[task.dataset]
        assert len(task.valid) == int(0.1 * (len(task.train) + len(task.valid)))


def test_two_task_mnist_is_the_authors():
    found = sequence(classes_per_task=5, task_order="fixed", validation="train")
    assert [task.name for task in found.tasks] == ["MNIST 0-4", "MNIST 5-9"]
    assert found.order == (0, 1) and found.input_shape == (1, 4, 4)
    for task in found.tasks:
        np.testing.assert_array_equal(task.train, task.valid)
        np.testing.assert_array_equal(task.train, np.flatnonzero(np.isin(toy().y_train, task.classes)))


def test_digits_in_five_tasks_of_two():
    found = make_sequence(RunConfig(seed=3))
    assert len(found.tasks) == 5 and found.input_shape == (1, 8, 8)
    assert sorted(label for task in found.tasks for label in task.classes) == list(range(10))
    assert sum(len(task.train) + len(task.valid) for task in found.tasks) == len(found.datasets[0].y_train)
    assert sum(len(task.test) for task in found.tasks) == len(found.datasets[0].y_test)


def test_ten_tasks_of_ten():
    found = sequence([CIFAR[1]], dataset="cifar100", classes_per_task=10)
    assert len(found.tasks) == 10 and all(len(task.classes) == 10 for task in found.tasks)


def test_titles():
    assert sequence().title == "MNIST"
    assert sequence(CIFAR, dataset="cifar10+cifar100").title == "CIFAR-10 + CIFAR-100"
    sets = [toy(f"mixture:{name}", title) for name, title in (("mnist", "MNIST"), ("svhn", "SVHN"))]
    assert sequence(sets, dataset="mixture:mnist,svhn").title == "mixture of MNIST, SVHN"


def test_a_mixture_has_a_task_for_each_set():
    """Twelve sets of 2 to 13 classes: n_tasks keeps the first five, which are then shuffled."""
    names = [f"npz:{k}" for k in range(12)]
    sets = [toy(f"mixture:{name}", name, n_classes=2 + k) for k, name in enumerate(names)]
    found = sequence(sets, dataset=f"mixture:{','.join(names)}", n_tasks=5, seed=3)
    order = shuffle(np.arange(5), random_state=3).tolist()
    assert list(found.order) == order == [task.dataset for task in found.tasks]
    assert [task.classes for task in found.tasks] == [tuple(range(2 + k)) for k in order]
    assert [task.name for task in found.tasks] == [names[k] for k in order]
    for task in found.tasks:
        np.testing.assert_array_equal(
            np.sort(np.concatenate([task.train, task.valid])), np.arange(20 * (2 + task.dataset))
        )


def test_class_groups():
    found = sequence(class_groups=((9, 0), (1, 2, 3)), task_order="fixed")
    assert [task.classes for task in found.tasks] == [(9, 0), (1, 2, 3)]
    assert [task.name for task in found.tasks] == ["MNIST 9,0", "MNIST 1-3"]
    task, y = found.tasks[0], found.datasets[0].y_train
    labels = task.labels_of(y[task.train])
    np.testing.assert_array_equal(labels, np.where(y[task.train] == 9, 0, 1))
    assert labels.dtype == np.int64


def test_class_groups_of_joined_sets_are_numbered_on():
    found = sequence(CIFAR, dataset="cifar10+cifar100", class_groups=((8, 9), (10, 109)), task_order="fixed")
    assert [(task.dataset, task.classes) for task in found.tasks] == [(0, (8, 9)), (1, (0, 99))]


def test_n_tasks_keeps_the_first_groups_then_shuffles():
    found = sequence(n_tasks=3, seed=1)
    assert list(found.order) == shuffle(np.arange(3), random_state=1).tolist()
    assert {task.classes for task in found.tasks} == {(0, 1), (2, 3), (4, 5)}


@given(
    n_classes=st.sampled_from([4, 6, 10]),
    size=st.sampled_from([1, 2]),
    share=st.floats(0.06, 0.94),
    seed=st.integers(0, 2**32 - 1),
    order=st.sampled_from(["shuffled", "fixed"]),
)
def test_split_law(n_classes, size, share, seed, order):
    """Every training image is in exactly one task, there either for training or validation; labels agree."""
    data = toy(n_classes=n_classes)
    found = sequence([data], classes_per_task=size, validation=share, seed=seed, task_order=order)
    assert sorted(found.order) == list(range(n_classes // size))
    used = np.concatenate([part for task in found.tasks for part in (task.train, task.valid)])
    np.testing.assert_array_equal(np.sort(used), np.arange(len(data.y_train)))
    tested = np.concatenate([task.test for task in found.tasks])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(data.y_test)))
    for position, task in zip(found.order, found.tasks, strict=True):
        assert task.classes == tuple(range(position * size, (position + 1) * size))
        assert task.pixels is None
        for indices, y in ((task.train, data.y_train), (task.valid, data.y_train), (task.test, data.y_test)):
            assert indices.dtype == np.int64 and (np.diff(indices) > 0).all()
            np.testing.assert_array_equal(np.array(task.classes)[task.labels_of(y[indices])], y[indices])


@pytest.mark.parametrize("seed", [0, 7])
def test_validation_images_are_the_authors(seed):
    """The authors: r = shuffle(arange(n), random_state=seed), the first int(.15 n) of r validate."""
    found = sequence(seed=seed)
    for task in found.tasks:
        images = np.flatnonzero(np.isin(toy().y_train, task.classes))
        r = shuffle(np.arange(len(images)), random_state=seed)
        np.testing.assert_array_equal(task.valid, np.sort(images[r[: int(0.15 * len(images))]]))
        np.testing.assert_array_equal(task.train, np.sort(images[r[int(0.15 * len(images)) :]]))


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("order", ["shuffled", "fixed"])
def test_permutations_are_the_authors(seed, order):
    found = sequence([toy(shape=(3, 4, 4))], sequence="permuted", seed=seed, task_order=order)
    expected = shuffle(np.arange(10), random_state=seed) if order == "shuffled" else np.arange(10)
    assert list(found.order) == expected.tolist()
    for i, (r, task) in enumerate(zip(expected, found.tasks, strict=True)):
        image = np.random.default_rng(0).integers(0, 256, 48)
        np.testing.assert_array_equal(image[task.pixels], shuffle(image, random_state=r * 100 + i))
        assert task.name == f"MNIST permutation {r}" and task.classes == tuple(range(10))
        assert task.pixels.dtype == np.int64
        assert len(task.train) + len(task.valid) == 200 and len(task.test) == 100
        np.testing.assert_array_equal(task.valid, found.tasks[0].valid)


def test_number_of_permutations():
    assert len(sequence(sequence="permuted", n_tasks=3).tasks) == 3
    np.testing.assert_array_equal(sequence(sequence="permuted", n_tasks=1, task_order="fixed").order, [0])


def test_foreign_label_is_refused():
    empty = np.array([], dtype=np.int64)
    task = Task("MNIST 2,5", 0, (5, 2), empty, empty, empty)
    np.testing.assert_array_equal(task.labels_of(np.array([2, 5, 5])), [1, 0, 0])
    assert task.labels_of(empty).shape == (0,)
    for label in (0, 3, 9):
        with pytest.raises(ValueError, match=f"label {label} is not a class of task 'MNIST 2,5'"):
            task.labels_of(np.array([2, label]))


WIDE = toy("cifar10", "CIFAR-10", shape=(3, 4, 4))


@pytest.mark.parametrize(
    ("values", "datasets", "words"),
    [
        ({"classes_per_task": 3}, None, ["classes_per_task = 3", "10 classes of mnist", "1, 2, 5, 10", "class_groups"]),
        ({"classes_per_task": 20}, None, ["classes_per_task = 20", "class_groups"]),
        ({"classes_per_task": (2, 2)}, None, ["classes_per_task = (2, 2)", "2 numbers for 1 data sets"]),
        ({"class_groups": ((0, 10),)}, None, ["class_groups", "class 10", "0 to 9"]),
        ({"class_groups": ((0, -1),)}, None, ["class -1", "0 to 9"]),
        ({"class_groups": ((0, 1), (1, 2))}, None, ["class_groups", "class 1 is named twice"]),
        ({"class_groups": ((3, 3),)}, None, ["class 3 is named twice"]),
        ({"class_groups": ()}, None, ["class_groups = ()", "at least one group"]),
        ({"dataset": "cifar10+cifar100", "class_groups": ((9, 10),)}, CIFAR, ["(9, 10) mixes cifar10 and cifar100"]),
        ({"n_tasks": 6}, None, ["n_tasks = 6", "1 to 5"]),
        ({"validation": 0.01}, None, ["validation = 0.01", "40 training images", "holds out 0"]),
        ({"sequence": "permuted", "class_groups": ((0, 1),)}, None, ["class_groups = ((0, 1),)", "permuted"]),
        ({"sequence": "permuted", "dataset": "cifar10+cifar100"}, CIFAR, ["'cifar10+cifar100'", "permuted"]),
        ({"dataset": "mnist+mnist"}, [toy(), toy()], ["'mnist+mnist'", "named twice"]),
        ({"dataset": "mnist+cifar10"}, [toy(), WIDE], ["mnist has 1x4x4, cifar10 has 3x4x4", "one shape"]),
        ({"dataset": "cifar10"}, None, ["dataset = 'cifar10'", "given were mnist"]),
        ({"dataset": "mixture:mnist", "sequence": "permuted"}, None, ["sequence = 'permuted'", "one task"]),
        ({"dataset": "mixture:mnist", "classes_per_task": 5}, None, ["classes_per_task = 5", "one task"]),
        ({"dataset": "mixture:mnist", "class_groups": ((0, 1),)}, None, ["class_groups = ((0, 1),)", "one task"]),
        ({"dataset": "mnist+mixture:svhn"}, None, ["'mixture:svhn' cannot be joined"]),
    ],
)
def test_parameters_that_contradict(values, datasets, words):
    with pytest.raises(ConfigError) as error:
        sequence(datasets, **values)
    for word in words:
        assert word in str(error.value)


def test_one_side_of_the_validation_must_not_be_empty():
    two_images = toy(n_classes=2, per_class=2)
    (task,) = sequence([two_images], classes_per_task=1, n_tasks=1, validation=0.5).tasks
    assert (len(task.train), len(task.valid)) == (1, 1)
    with pytest.raises(ConfigError, match=r"validation = 0\.49: of the 2 training images .* holds out 0"):
        sequence([two_images], classes_per_task=1, n_tasks=1, validation=0.49)


def test_contradictions_are_found_before_data_are_loaded(monkeypatch):
    monkeypatch.setattr(tasks, "load_all", lambda dataset: pytest.fail(f"loaded {dataset}"))
    with pytest.raises(ConfigError, match="2 numbers for 1 data sets"):
        make_sequence(RunConfig(dataset="mnist", classes_per_task=(2, 2)))


def test_unknown_data_set():
    with pytest.raises(DatasetError, match="did you mean 'digits'"):
        make_sequence(RunConfig(dataset="digit"))


def test_real_mnist(shared_data):
    shared_data("MNIST/raw/train-images-idx3-ubyte.gz")
    found = make_sequence(RunConfig(dataset="mnist", classes_per_task=5, task_order="fixed"))
    assert [len(task.test) for task in found.tasks] == [5139, 4861]
    assert [len(task.train) + len(task.valid) for task in found.tasks] == [30596, 29404]


def test_real_mnist_and_fashion_joined(shared_data):
    for folder in ("MNIST", "FashionMNIST"):
        shared_data(f"{folder}/raw/train-images-idx3-ubyte.gz")
    found = make_sequence(RunConfig(dataset="mnist+fashion_mnist", classes_per_task=10, task_order="fixed"))
    assert [task.name for task in found.tasks] == ["MNIST 0-9", "Fashion-MNIST 0-9"]
    assert not found.datasets[0].checksums.keys() & found.datasets[1].checksums.keys()
