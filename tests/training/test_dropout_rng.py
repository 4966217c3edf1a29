"""Dropout's random numbers: SplitMix64 read from any place, and what becomes of its words."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hatlab.method.networks import HATMLP
from hatlab.training.dropout_rng import DropoutRNG, offsets, random_words, stream

CPU = torch.device("cpu")
GAMMA = 0x9E3779B97F4A7C15


def splitmix64(state, count, skip=0):
    """Outputs skip + 1 to skip + `count` of SplitMix64, one after the other as its authors write it."""
    outputs = []
    for _ in range(skip + count):
        state = (state + GAMMA) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        outputs.append(z ^ (z >> 31))
    return outputs[skip:]


def unsigned(tensor):
    return [word % 2**64 for word in tensor.tolist()]


def factors_of(outputs, shape, p):
    """Factors of one run made from words: sixteen bits each, the lowest first, compared as signed numbers."""
    signed = np.array(outputs, "<u8").view("<i2")[: math.prod(shape)].astype(int)
    kept = signed + 32768 >= min(round(p * 65536), 65535)
    return torch.from_numpy(np.where(kept, np.float32(1 / (1 - p)), np.float32(0)).reshape(1, *shape))


EDGES = (0, 1, -1, 2**63 - 1, -(2**63), 2**62, GAMMA - 2**64, 2**64 - GAMMA, 2**31, -(2**32))
starts = st.sampled_from(EDGES) | st.integers(-(2**63), 2**63 - 1)
probabilities = st.sampled_from([0.0, 0.2, 0.5, 1 - 2**-17, 1 - 1e-9]) | st.floats(0, 0.999)
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
dropouts = st.lists(st.tuples(shapes, probabilities), min_size=1, max_size=4)


def noise_of(pairs, device=CPU):
    return DropoutRNG([shape for shape, _ in pairs], [p for _, p in pairs], device)


def drawn(position, n, p=0.5):
    """`n` factors from `position`, as one float64 vector."""
    (factors,) = DropoutRNG([(n,)], [p], CPU).draw(torch.tensor([position]))
    return factors[0].double()


def same(ours, theirs):
    return all(a is b is None or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# Words


def test_the_published_outputs_for_the_seed_1234567():
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(1234567, 5) == published
    assert unsigned(random_words(torch.tensor([1234567]), offsets(5))[0]) == published


@given(st.lists(starts, min_size=1, max_size=4), st.integers(0, 20))
@settings(deadline=None)
def test_words_are_those_of_splitmix64_for_every_start(some, count):
    ours = random_words(torch.tensor(some), offsets(count))
    assert ours.dtype == torch.int64
    assert ours.shape == (len(some), count)
    assert [unsigned(row) for row in ours] == [splitmix64(start, count) for start in some]


def test_words_leave_their_starts_alone():
    start = torch.tensor(EDGES)
    random_words(start, offsets(3))
    assert start.tolist() == list(EDGES)


@pytest.mark.parametrize("start", [0, stream(0, 2), "neighbouring starts"])
def test_every_bit_of_a_word_is_set_half_the_time(start):
    n = 20_000
    of = (
        random_words(torch.arange(n), offsets(1))[:, 0]
        if isinstance(start, str)
        else random_words(torch.tensor([start]), offsets(n))[0]
    )
    bits = (of[:, None] >> torch.arange(64)) & 1
    assert ((bits.double().mean(0) - 0.5).abs() < 5 * 0.5 / math.sqrt(n)).all()


# Where a stream starts, and how it goes on


def test_a_stream_starts_where_it_did_when_results_were_recorded():
    some = [stream(0, 1), stream(0, 2), stream(2**32 - 1, 2)]
    assert some == [5836529245451711556, -1251424836937735553, 831867259382209732]


def test_every_seed_and_purpose_starts_a_stream_of_its_own():
    seeds = [*range(300), 2**31, 2**32 - 1]
    all_starts = {stream(seed, purpose) for seed in seeds for purpose in range(4)}
    assert len(all_starts) == 4 * len(seeds)
    assert all(-(2**63) <= start < 2**63 for start in all_starts)
    assert min(all_starts) < 0 < max(all_starts)
    # all are places of one long cycle of 2^64 words: none may lie within what a run draws from another
    places = sorted(start * pow(GAMMA, -1, 2**64) % 2**64 for start in all_starts)
    assert min(b - a for a, b in itertools.pairwise([*places, places[0] + 2**64])) > 2**40


@given(starts, st.integers(0, 10), dropouts)
@settings(deadline=None)
def test_the_factors_of_step_k_are_words_k_count_plus_1_and_on_of_the_stream(start, k, pairs):
    dropout_rng = noise_of(pairs)
    count = sum(-(-math.prod(shape) // 4) for shape, p in pairs if p)
    outputs = iter(splitmix64(start, count, skip=k * count))
    expected = [
        factors_of(list(itertools.islice(outputs, -(-math.prod(shape) // 4))), shape, p) if p else None
        for shape, p in pairs
    ]
    assert same(dropout_rng.draw(torch.tensor([dropout_rng.position(start, k)])), expected)


@given(starts, st.integers(0, 10**9), dropouts)
@settings(deadline=None)
def test_a_position_moves_by_the_stride_and_wraps(start, k, pairs):
    dropout_rng = noise_of(pairs)
    now, after = (dropout_rng.position(start, steps) for steps in (k, k + 1))
    assert dropout_rng.position(start, 0) == start
    assert (torch.tensor([now]) + dropout_rng.stride).item() == after
    count = sum(-(-math.prod(shape) // 4) for shape, p in pairs if p)
    assert after % 2**64 == (start + (k + 1) * count * GAMMA) % 2**64


@given(st.lists(starts, min_size=1, max_size=5), dropouts)
@settings(deadline=None)
def test_each_of_several_runs_draws_what_it_draws_alone(some, pairs):
    dropout_rng = noise_of(pairs)
    position = torch.tensor(some)
    together = dropout_rng.draw(position)
    assert position.tolist() == some
    for row, start in enumerate(some):
        alone = dropout_rng.draw(torch.tensor([start]))
        assert same([None if f is None else f[row : row + 1] for f in together], alone)


def test_only_the_position_decides_and_no_generator_is_touched():
    dropout_rng = DropoutRNG([(7, 9), (7, 5)], [0.2, 0.5], CPU)
    torch.manual_seed(1)
    first = dropout_rng.draw(torch.tensor([stream(3, 2)]))
    torch.manual_seed(2)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert same(dropout_rng.draw(torch.tensor([stream(3, 2)])), first)
    again = DropoutRNG([(7, 9), (7, 5)], [0.2, 0.5], CPU)
    assert same(again.draw(torch.tensor([again.position(stream(3, 2), 0)])), first)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


# Factors


@pytest.mark.parametrize("p", [0.01, 0.1, 0.2, 0.5, 0.75, 0.99])
def test_factors_are_0_or_scaled_with_the_right_frequency_in_every_lane(p):
    n = 400_000
    (factors,) = DropoutRNG([(n // 1000, 1000)], [p], CPU).draw(torch.tensor([stream(0, 2)]))
    assert factors.shape == (1, n // 1000, 1000)
    assert factors.dtype == torch.float32
    assert factors.unique().tolist() == [0, np.float32(1 / (1 - p))]
    for lane in (factors.flatten()[k::4] for k in range(4)):  # each quarter of a random word
        dropped = int((lane == 0).sum())
        assert abs(dropped - p * len(lane)) < 5 * math.sqrt(len(lane) * p * (1 - p)) + len(lane) / 65536


def test_the_sixteen_bits_of_a_value_are_uniform():
    lanes = random_words(torch.tensor([stream(0, 2)]), offsets(65_536)).view(torch.int16).reshape(-1, 4)
    for lane in lanes.T:
        for byte in (lane & 255, (lane >> 8) & 255):
            assert stats.chisquare(torch.bincount(byte.long(), minlength=256).numpy()).pvalue > 1e-6


@pytest.mark.parametrize("p", [1 - 2**-17, 1 - 1e-9, math.nextafter(1, 0)])
def test_a_probability_close_to_1_drops_nearly_everything_and_stays_finite(p):
    factors = drawn(stream(0, 2), 400_000, p)
    assert (factors == 0).float().mean() > 0.9999
    assert set(factors.tolist()) <= {0.0, float(np.float32(1 / (1 - p)))}


def test_a_probability_below_what_16_bits_can_meet_drops_nothing():
    assert (drawn(stream(0, 2), 400_000, 1e-6) == float(np.float32(1 / (1 - 1e-6)))).all()


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (5, 1), (2, 3, 5), (1, 1, 1, 1), (4,)])
@pytest.mark.parametrize("runs", [1, 3])
def test_factors_take_any_shape(shape, runs):
    (factors,) = DropoutRNG([shape], [0.5], CPU).draw(torch.arange(runs))
    assert factors.shape == (runs, *shape)


def test_where_the_probability_is_0_nothing_is_drawn():
    with_zeros = DropoutRNG([(3, 8), (3, 5), (3, 9), (3, 2)], [0.0, 0.5, 0.0, 0.25], CPU)
    without = DropoutRNG([(3, 5), (3, 2)], [0.5, 0.25], CPU)
    position = torch.tensor(EDGES)
    none, first, none_again, second = with_zeros.draw(position)
    assert none is none_again is None
    assert same([first, second], without.draw(position))
    assert with_zeros.stride == without.stride
    nothing = DropoutRNG([(3, 8), (3, 5)], [0.0, 0.0], CPU)
    assert nothing.draw(position) == [None, None]
    assert nothing.position(5, 1000) == 5


def test_shapes_and_probabilities_come_in_pairs():
    with pytest.raises(ValueError, match="longer"):
        DropoutRNG([(3, 8)], [0.5, 0.5], CPU)


def test_a_networks_dropouts_are_drawn_in_the_shapes_that_it_takes():
    network = HATMLP((1, 28, 28), (2,), (30, 20))
    dropout_rng = DropoutRNG([(2, *shape) for shape in network.dropout_shapes], network.dropout, CPU)
    keep = [factors[0] for factors in dropout_rng.draw(torch.tensor([stream(0, 2)]))]
    assert [tuple(factors.shape) for factors in keep] == [(2, 1, 28, 28), (2, 30), (2, 20)]
    assert network(torch.ones(2, 1, 28, 28), 0, torch.ones(50), keep).shape == (2, 2)


# Independence


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


def test_neighbouring_values_are_uncorrelated():
    n = 400_000
    dropped = drawn(stream(0, 2), n)
    for lag in (*range(1, 9), 784, 2000):
        assert abs(correlation(dropped[:-lag], dropped[lag:])) < 5 / math.sqrt(n)


N = 100_000
STEP = DropoutRNG([(N,)], [0.5], CPU)
PAIRS = {
    "neighbouring positions": (stream(0, 2), stream(0, 2) + 1),
    "neighbouring small positions": (0, 1),
    "opposite positions": (1234567, -1234567),
    "positions that differ in the highest bit": (0, -(2**63)),
    "neighbouring seeds": (stream(0, 2), stream(1, 2)),
    "neighbouring large seeds": (stream(2**32 - 2, 2), stream(2**32 - 1, 2)),
    "neighbouring purposes": (stream(0, 1), stream(0, 2)),
    "seed and purpose exchanged": (stream(1, 2), stream(2, 1)),
    "neighbouring steps": (STEP.position(stream(0, 2), 0), STEP.position(stream(0, 2), 1)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_streams_are_uncorrelated(pair):
    a, b = (drawn(position, N) for position in pair)
    for lag in (0, 1, 4):
        for x, y in ((a, b), (b, a)):
            assert abs(correlation(x[: N - lag], y[lag:])) < 5 / math.sqrt(N - lag)


def test_the_dropouts_of_one_step_are_uncorrelated():
    position = torch.tensor([stream(0, 2)])
    first, second = (factors[0].double() for factors in DropoutRNG([(N,), (N,)], [0.5, 0.5], CPU).draw(position))
    assert abs(correlation(first, second)) < 5 / math.sqrt(N)


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 7)),
    maps=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_some_units_are_given_what_they_have_among_all(shape, maps, seed):
    """Maps and single values, of sizes that do and do not fill whole words, other units for each run."""
    shape = shape if maps else shape[:2]
    shapes, probabilities = [(shape[0], 6), shape, (shape[0], 3)], [0.2, 0.5, 0.0]
    random = torch.Generator().manual_seed(seed)
    units = [torch.stack([torch.randperm(shape[1], generator=random) for _ in range(2)])[:, : (shape[1] + 1) // 2]]
    whole = DropoutRNG(shapes, probabilities, CPU)
    some = whole.copy()
    some.select([None, *units, None])
    position = torch.tensor([whole.position(stream(seed, 2), steps) for steps in (3, 8)])
    expected, found = whole.draw(position), some.draw(position)
    assert whole.stride == some.stride and found[2] is None
    assert torch.equal(found[0], expected[0])
    for run in range(2):
        assert torch.equal(found[1][run], expected[1][run][:, units[0][run]])
    again = [units[0].flip(0)]
    before = some._offsets.data_ptr()
    some.select([None, *again, None])  # as many: where the others stood, for a captured step reads there
    assert some._offsets.data_ptr() == before
    assert torch.equal(some.draw(position)[1][0], expected[1][0][:, again[0][0]])
    assert torch.equal(whole.draw(position)[1], expected[1])
