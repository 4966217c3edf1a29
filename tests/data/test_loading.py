import dataclasses

import numpy as np
import torch

from hatlab.data.datasets import Dataset
from hatlab.data.loading import Images, TaskData
from hatlab.data.tasks import Task, TaskSequence

SHAPE = (3, 4, 5)
CPU = torch.device("cpu")


def dataset(seed=0, through=lambda name, array: array, sizes=(30, 20)):
    """30 training and 20 test images, or `sizes`, in 5 classes; `through` may store the arrays elsewhere."""
    n_train, n_test = sizes
    rng = np.random.default_rng(seed)
    arrays = {
        "x_train": rng.integers(0, 256, (n_train, *SHAPE), dtype=np.uint8),
        "y_train": np.arange(n_train) % 5,
        "x_test": rng.integers(0, 256, (n_test, *SHAPE), dtype=np.uint8),
        "y_test": np.arange(n_test) % 5,
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


def task(data, classes, dataset=0, pixels=None):
    """The task of these classes of `data`, the sequence's data set number `dataset`; every third of its training
    images is for validation.
    """
    train, test = (np.flatnonzero(np.isin(y, classes)) for y in (data.y_train, data.y_test))
    held_out = np.arange(len(train)) % 3 == 0
    return Task("a task", dataset, classes, train[~held_out], train[held_out], test, pixels)


def sequence(datasets, *tasks):
    return TaskSequence(tuple(datasets), tasks, tuple(range(len(tasks))), SHAPE)


def on_cpu(datasets, *tasks):
    return TaskData.of(sequence(datasets, *tasks), Images.of(datasets, CPU))


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
    data = [
        dataclasses.replace(dataset(k, sizes=sizes), mean=(0.1 * k, 0.5, 0.9), std=(0.2, 0.3, 0.1 + 0.2 * k))
        for k, sizes in enumerate([(30, 20), (25, 35), (40, 10)])
    ]
    tasks = [task(data[k], classes, dataset=k) for k, classes in ((1, (0, 1)), (0, (2, 3)), (2, (4, 0)), (1, (2, 3)))]
    for on_device, one in zip(on_cpu(data, *tasks), tasks, strict=True):
        for split, x, _, index in parts(data[one.dataset], one, on_device):
            images, _ = split.batch(torch.arange(len(split)))
            np.testing.assert_allclose(images, normalised(x[index], data[one.dataset]), rtol=1e-5, atol=1e-6)


def test_drawing_a_batch_leaves_the_images_as_they_are():
    data = dataset()
    before = data.x_train.copy()
    (on_device,) = on_cpu([data], task(data, (0, 1)))
    first, _ = on_device.train.batch(torch.tensor([0, 1]))
    again, _ = on_device.train.batch(torch.tensor([0, 1]))
    assert torch.equal(first, again)
    np.testing.assert_array_equal(data.x_train, before)


# All images of a sequence


def test_the_images_of_several_sets_lie_in_one_tensor_set_after_set():
    data = [dataset(0, sizes=(30, 20)), dataset(1, sizes=(25, 35))]
    images = Images.of(data, CPU)
    assert (images.train.dtype, images.train.shape) == (torch.uint8, (55, *SHAPE))
    assert (images.test.dtype, images.test.shape) == (torch.uint8, (55, *SHAPE))
    assert images.device == CPU
    assert images.first == ((0, 0), (30, 20))
    np.testing.assert_array_equal(images.train, np.concatenate([one.x_train for one in data]))
    np.testing.assert_array_equal(images.test, np.concatenate([one.x_test for one in data]))


def test_on_a_cpu_one_set_is_held_once_and_not_copied():
    data = dataset()
    images = Images.of([data], CPU)
    assert images.first == ((0, 0),)
    assert images.train.data_ptr() == data.x_train.ctypes.data
    assert images.test.data_ptr() == data.x_test.ctypes.data


def test_each_set_is_normalised_by_its_own_constants():
    data = [dataset(0), dataclasses.replace(dataset(1), mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 0.7))]
    images = Images.of(data, CPU)
    for one, (first, _), scale, shift in zip(data, images.first, images.scale, images.shift, strict=True):
        assert scale.shape == shift.shape == (3, 1, 1)
        ours = images.train[first : first + 30] * scale - shift
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(ours, normalised(one.x_train, one), rtol=1e-5, atol=1e-6)


def test_all_splits_of_all_tasks_and_runs_share_the_one_tensor():
    data = [dataset(0), dataset(1)]
    images = Images.of(data, CPU)
    runs = [
        TaskData.of(sequence(data, task(data[0], (0, 1)), task(data[1], (2, 3), dataset=1)), images),
        TaskData.of(sequence(data, task(data[1], (4, 0), dataset=1), task(data[0], (1, 2))), images),
    ]
    splits = [split for run in runs for one in run for split in (one.train, one.valid, one.test)]
    assert len(splits) == 12
    assert [split.images.data_ptr() for split in splits] == [
        held.data_ptr() for _ in range(4) for held in (images.train, images.train, images.test)
    ]


def test_read_only_memory_maps_give_the_same_batches_and_no_warning(tmp_path):
    def memory_mapped(name, array):
        np.save(tmp_path / f"{name}.npy", array)
        return np.load(tmp_path / f"{name}.npy", mmap_mode="r")

    plain, mapped = dataset(), dataset(through=memory_mapped)
    assert not mapped.x_train.flags.writeable
    assert torch.equal(Images.of([mapped], CPU).train, Images.of([plain], CPU).train)
    rows = torch.arange(4)
    pixels = memory_mapped("pixels", np.random.default_rng(1).permutation(60))
    (expected,), (read,) = (on_cpu([data], task(data, (0, 1), pixels=pixels)) for data in (plain, mapped))
    for split in ("train", "valid", "test"):
        for ours, theirs in zip(getattr(read, split).batch(rows), getattr(expected, split).batch(rows), strict=True):
            assert torch.equal(ours, theirs)
