import numpy as np
import pytest
import torch

from hatlab.datasets import Dataset
from hatlab.loading import TaskData
from hatlab.tasks import Task, TaskSequence

SHAPE = (3, 4, 5)
CPU = torch.device("cpu")


def dataset(seed=0, through=lambda name, array: array):
    """30 training and 20 test images in 5 classes; `through` may store the arrays elsewhere."""
    rng = np.random.default_rng(seed)
    arrays = {
        "x_train": rng.integers(0, 256, (30, *SHAPE), dtype=np.uint8),
        "y_train": np.arange(30) % 5,
        "x_test": rng.integers(0, 256, (20, *SHAPE), dtype=np.uint8),
        "y_test": np.arange(20) % 5,
    }
    stored = {name: through(f"{seed}-{name}", array) for name, array in arrays.items()}
    return Dataset(
        name="made up",
        title="Made up",
        classes=tuple("abcde"),
        mean=(0.49, 0.45, 0.1),
        std=(0.25, 0.3, 0.7),
        checksums={},
        **stored,
    )


def task(data, classes, position=0, pixels=None):
    """The task of these classes; every third of its training images is for validation."""
    train, test = (np.flatnonzero(np.isin(y, classes)) for y in (data.y_train, data.y_test))
    held_out = np.arange(len(train)) % 3 == 0
    return Task("a task", position, classes, train[~held_out], train[held_out], test, pixels)


def on_cpu(datasets, *tasks):
    return TaskData.of(TaskSequence(tuple(datasets), tasks, tuple(range(len(tasks))), SHAPE), CPU)


def normalised(images, data):
    """Pixels scaled to [0, 1], less the mean, over the deviation, in float64."""
    mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (data.mean, data.std))
    return (images.astype(np.float64) / 255 - mean) / std


def parts(data, one, t):
    """(split, all images, all labels, index of the split) of a task's three splits."""
    return [
        (t.train, data.x_train, data.y_train, one.train),
        (t.valid, data.x_train, data.y_train, one.valid),
        (t.test, data.x_test, data.y_test, one.test),
    ]


def test_a_batch_is_the_normalised_images_and_task_labels_of_its_rows():
    data = dataset()
    one = task(data, (3, 0))
    (on_device,) = on_cpu([data], one)
    for split, x, y, index in parts(data, one, on_device):
        rows = torch.tensor([2, 0, 2, 3])
        images, labels = split.batch(rows)
        assert len(split) == len(index)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        np.testing.assert_allclose(images, normalised(x[index[rows]], data), rtol=1e-5, atol=1e-6)
        assert labels.tolist() == [{3: 0, 0: 1}[int(y[i])] for i in index[rows]]


def test_a_permuted_image_is_the_flattened_image_read_in_the_order_of_pixels():
    data = dataset()
    pixels = np.random.default_rng(1).permutation(60)
    one = task(data, (0, 1, 2), pixels=pixels)
    (on_device,) = on_cpu([data], one)
    for split, x, _, index in parts(data, one, on_device):
        images, _ = split.batch(torch.arange(len(split)))
        expected = [image.reshape(-1)[pixels].reshape(SHAPE) for image in normalised(x[index], data)]
        np.testing.assert_allclose(images, np.stack(expected), rtol=1e-5, atol=1e-6)


def test_each_task_reads_its_own_data_set():
    data = [dataset(0), dataset(1)]
    tasks = [task(data[1], (0, 1), position=1), task(data[0], (2, 3), position=0)]
    for on_device, one in zip(on_cpu(data, *tasks), tasks, strict=True):
        images, _ = on_device.test.batch(torch.arange(len(on_device.test)))
        mine = data[one.dataset]
        np.testing.assert_allclose(images, normalised(mine.x_test[one.test], mine), rtol=1e-5, atol=1e-6)


def test_images_are_held_once_as_bytes_for_all_tasks_and_splits():
    data = dataset()
    first, second = on_cpu([data], task(data, (0, 1)), task(data, (2, 3)))
    held = [first.train, first.valid, second.train, second.valid]
    assert {split.images.dtype for split in held} == {torch.uint8}
    assert len({split.images.data_ptr() for split in held}) == 1
    assert first.test.images.data_ptr() == second.test.images.data_ptr() != first.train.images.data_ptr()


def test_drawing_a_batch_leaves_the_images_as_they_are():
    data = dataset()
    before = data.x_train.copy()
    (on_device,) = on_cpu([data], task(data, (0, 1)))
    first, _ = on_device.train.batch(torch.tensor([0, 1]))
    again, _ = on_device.train.batch(torch.tensor([0, 1]))
    assert torch.equal(first, again)
    np.testing.assert_array_equal(data.x_train, before)


@pytest.mark.filterwarnings("error")
def test_read_only_memory_maps_give_the_same_batches_and_no_warning(tmp_path):
    def memory_mapped(name, array):
        np.save(tmp_path / f"{name}.npy", array)
        return np.load(tmp_path / f"{name}.npy", mmap_mode="r")

    plain, mapped = dataset(), dataset(through=memory_mapped)
    assert not mapped.x_train.flags.writeable
    rows = torch.arange(4)
    pixels = memory_mapped("pixels", np.random.default_rng(1).permutation(60))
    (expected,), (read,) = (on_cpu([data], task(data, (0, 1), pixels=pixels)) for data in (plain, mapped))
    for split in ("train", "valid", "test"):
        for ours, theirs in zip(getattr(read, split).batch(rows), getattr(expected, split).batch(rows), strict=True):
            assert torch.equal(ours, theirs)
