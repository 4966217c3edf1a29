import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hatlab.config import ConfigError, RunConfig, nearest

FIELDS = set(RunConfig.model_fields)

# for every field a value that is allowed and not its default
OTHER_VALUES = {
    "dataset": "mnist",
    "sequence": "permuted",
    "classes_per_task": 5,
    "class_groups": ((0, 1), (2, 3, 4)),
    "n_tasks": 3,
    "task_order": "fixed",
    "validation": "train",
    "network": "cnn",
    "widths": (2000, 2000, 2000),
    "dropout": (0.2, 0.4),
    "method": "ewc",
    "ewc_lambda": 100.0,
    "gate_precision": "float64",
    "c": 0.0,  # what other methods than hat need
    "mode": "cross",
    "min_units": 0,
    "s_max": 50.0,
    "schedule": "paper",
    "compensation": "exact",
    "embedding_init": "uniform",
    "embedding_clamp": 5.0,
    "cosh_clamp": 40.0,
    "batch_size": 32,
    "max_epochs": 10,
    "learning_rate": 0.01,
    "lr_patience": 2,
    "lr_factor": 2.0,
    "lr_min": 1e-3,
    "grad_clip": 1.0,
    "seed": 7,
}

OUT_OF_RANGE = [
    ("dataset", ""),
    ("sequence", "both"),
    ("classes_per_task", 0),
    ("classes_per_task", (2, 0)),
    ("class_groups", ((0, 1), ())),
    ("n_tasks", 0),
    ("task_order", "random"),
    ("validation", 0.0),
    ("validation", 1.0),
    ("validation", "test"),
    ("network", "resnet"),
    ("widths", ()),
    ("widths", (200, 0)),
    ("dropout", (-0.1, 0.5)),
    ("dropout", (0.2, 1.0)),
    ("dropout", (0.2,)),
    ("dropout", (0.2, 0.5, 0.5)),
    ("method", "SGD"),
    ("ewc_lambda", -1.0),
    ("gate_precision", "float16"),
    ("c", -0.001),
    ("mode", "CROSS"),
    ("min_units", -1),
    ("s_max", 0.99),
    ("schedule", "cosine"),
    ("compensation", "none"),
    ("embedding_init", "ones"),
    ("embedding_clamp", 0.0),
    ("cosh_clamp", 0.0),
    ("cosh_clamp", 80.5),
    ("batch_size", 0),
    ("max_epochs", 0),
    ("learning_rate", 0.0),
    ("lr_patience", 0),
    ("lr_factor", 1.0),
    ("lr_min", 0.0),
    ("grad_clip", 0.0),
    ("momentum", 0.9),
    ("weight_decay", 1e-4),
    ("seed", -1),
    ("seed", 2**32),
]

ON_THE_BORDER = [
    ("c", 0.0),
    ("min_units", 0),
    ("s_max", 1.0),
    ("cosh_clamp", 80.0),
    ("dropout", (0.0, 0.0)),
    ("widths", (1,)),
    ("n_tasks", 1),
    ("batch_size", 1),
    ("max_epochs", 1),
    ("lr_patience", 1),
    ("seed", 2**32 - 1),
]

WRONG_TYPE = [
    ("seed", True),
    ("seed", 1.0),
    ("seed", "1"),
    ("seed", None),
    ("c", "0.75"),
    ("c", True),
    ("c", None),
    ("s_max", (400.0,)),
    ("batch_size", 64.0),
    ("min_units", False),
    ("n_tasks", 2.0),
    ("dataset", 3),
    ("dataset", None),
    ("network", 1),
    ("widths", 200),
    ("widths", (200.0,)),
    ("widths", ("200",)),
    ("dropout", 0.5),
    ("dropout", ("0.2", "0.5")),
    ("classes_per_task", "2"),
    ("classes_per_task", True),
    ("class_groups", (0, 1)),
    ("validation", True),
]

FLOATS = sorted(name for name in FIELDS if isinstance(RunConfig.model_fields[name].default, float))


def refused(**values):
    """The message with which a config of these values is refused."""
    with pytest.raises(ConfigError) as error:
        RunConfig(**values)
    return str(error.value)


def test_every_default_is_the_authors_constant():
    config = RunConfig()
    assert (config.batch_size, config.learning_rate, config.max_epochs) == (64, 0.05, 200)
    assert (config.lr_patience, config.lr_factor, config.lr_min, config.grad_clip) == (5, 3, 1e-4, 10_000)
    assert (config.s_max, config.c, config.embedding_clamp, config.cosh_clamp) == (400, 0.75, 6, 50)
    assert (config.widths, config.dropout, config.embedding_init) == ((2000, 2000), (0.2, 0.5), "normal")
    assert (config.schedule, config.compensation, config.mode) == ("authors", "authors", "original")
    assert (config.momentum, config.weight_decay) == (0, 0)
    assert (config.task_order, config.validation, config.seed) == ("shuffled", 0.15, 0)


def test_every_field_says_what_it_is():
    assert [name for name, field in RunConfig.model_fields.items() if not field.description] == []


def test_an_unknown_parameter_is_refused_with_the_nearest_name_and_all_valid_ones():
    message = refused(batchsize=32)
    assert "unknown parameter 'batchsize'; did you mean 'batch_size'?" in message
    assert all(name in message for name in FIELDS)


@pytest.mark.parametrize(
    ("typed", "meant"), [("smax", "s_max"), ("sed", "seed"), ("lrmin", "lr_min"), ("dataset_name", "dataset")]
)
def test_the_nearest_name_is_suggested(typed, meant):
    assert nearest(typed, list(RunConfig.model_fields)) == f"; did you mean '{meant}'?"


def test_nothing_is_suggested_where_no_name_is_close():
    assert nearest("zzzz", list(RunConfig.model_fields)) == ""


@pytest.mark.parametrize(("name", "value"), WRONG_TYPE)
def test_a_value_of_the_wrong_type_is_refused_and_never_converted(name, value):
    message = refused(**{name: value})
    assert message.startswith(f"{name} = ")
    assert "Input should be" in message
    assert RunConfig.model_fields[name].description in message


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    assert refused(**{name: value}).startswith(f"{name} = ")


def test_every_field_has_a_value_that_is_refused():
    assert {name for name, _ in OUT_OF_RANGE} == FIELDS


@pytest.mark.parametrize(("name", "value"), ON_THE_BORDER)
def test_a_value_on_the_border_of_its_range_is_accepted(name, value):
    assert getattr(RunConfig(**{name: value}), name) == value


@pytest.mark.parametrize("method", ["sgd", "sgd_frozen", "ewc", "joint"])
def test_a_method_without_masks_has_no_regularizer(method):
    assert refused(method=method).startswith(f"c = 0.75: must be 0 with method = '{method}'")
    assert RunConfig(method=method, c=0).method == method


def test_the_refusal_shows_the_value_and_what_is_allowed():
    message = refused(s_max=0.5)
    assert "s_max = 0.5: Input should be greater than or equal to 1 (s_max: steepest slope of the gate)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", FLOATS)
def test_no_number_may_be_nan_or_infinite(name, value):
    message = refused(**{name: value})
    assert message.startswith(f"{name} = ")
    assert "finite" in message


@pytest.mark.parametrize("name", ["momentum", "weight_decay"])
def test_what_would_move_frozen_weights_is_refused_with_the_reason(name):
    message = refused(**{name: 0.9})
    assert f"{name} = 0.9: must be 0" in message
    assert "moves a weight whose gradient is zero" in message


def test_all_errors_are_reported_at_once():
    lines = refused(sede=1, c=-1.0, widths=[], momentum=0.9).splitlines()
    assert sorted(line.split(" = ")[0].split(";")[0] for line in lines) == [
        "c",
        "momentum",
        "unknown parameter 'sede'",
        "widths",
    ]


def test_an_error_of_parse_names_the_source():
    with pytest.raises(ConfigError, match=r"^in grid\.yaml, line 3: unknown parameter 'sede'"):
        RunConfig.parse({"sede": 1}, "grid.yaml, line 3")


@pytest.mark.parametrize("values", [None, ["seed"], "seed"])
def test_parse_refuses_what_is_no_mapping_and_names_the_source(values):
    with pytest.raises(ConfigError, match=r"in run\.yaml: .* is no mapping"):
        RunConfig.parse(values, "run.yaml")


def test_parse_refuses_a_name_that_is_a_number_and_names_the_source():
    with pytest.raises(ConfigError, match=r"in run\.yaml: unknown parameter '1'"):
        RunConfig.parse({1: 2}, "run.yaml")


def test_parse_equals_the_constructor():
    assert RunConfig.parse(OTHER_VALUES, "a test") == RunConfig(**OTHER_VALUES)


def as_lists(value):
    return [as_lists(item) for item in value] if isinstance(value, tuple) else value


def test_lists_are_accepted_and_equal_to_tuples():
    listed = {name: as_lists(value) for name, value in OTHER_VALUES.items()}
    assert listed["class_groups"] == [[0, 1], [2, 3, 4]]
    assert RunConfig(**listed) == RunConfig(**OTHER_VALUES)
    assert RunConfig(**listed).run_id == RunConfig(**OTHER_VALUES).run_id


def test_a_whole_number_is_a_float_where_a_float_is_meant():
    assert RunConfig(c=1).to_json() == RunConfig(c=1.0).to_json()


def test_the_sign_of_zero_does_not_change_the_run_id():
    plus, minus = (RunConfig(c=zero, dropout=(zero, 0.5), momentum=zero) for zero in (0.0, -0.0))
    assert plus.run_id == minus.run_id


def test_the_run_id_of_the_defaults_has_not_changed():
    # it names folders of results that exist: change it knowingly, with a line in the changelog
    assert RunConfig().run_id == "64a94d9af906"


def test_the_run_id_does_not_depend_on_the_order_of_arguments():
    names = list(OTHER_VALUES)
    random.Random(0).shuffle(names)
    assert RunConfig(**{name: OTHER_VALUES[name] for name in names}).run_id == RunConfig(**OTHER_VALUES).run_id


def test_every_field_has_another_value_here():
    assert set(OTHER_VALUES) == FIELDS - {"momentum", "weight_decay"}


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_changing_any_one_field_changes_the_run_id(name):
    base = {"method": {"c": 0.0}, "ewc_lambda": {"c": 0.0, "method": "ewc"}}.get(name, {})
    assert RunConfig(**base, **{name: OTHER_VALUES[name]}).run_id != RunConfig(**base).run_id


@pytest.mark.parametrize("method", ["sgd", "sgd_frozen", "ewc", "joint", "hat"])
def test_a_field_that_the_method_does_not_use_makes_no_other_run(method):
    """What a method uses is what changing it changes; `embedding_init` moves the generator that all draw from."""
    hat = {"mode", "min_units", "s_max", "compensation", "gate_precision", "embedding_clamp", "cosh_clamp"}
    unused = {"hat": {"ewc_lambda"}, "ewc": hat}.get(method, hat | {"ewc_lambda"})
    base = RunConfig(method=method, c=0.0)
    tried = OTHER_VALUES.keys() - {"method", "c"}
    assert {name for name in tried if base.replace(**{name: OTHER_VALUES[name]}) == base} == unused
    for name in unused:
        with pytest.raises(ConfigError, match=f"{name} = "):
            base.replace(**{name: -1})


def configs():
    widths = st.lists(st.integers(1, 3000), min_size=1, max_size=4)
    optional = {
        "dataset": st.text(min_size=1, max_size=8),
        "classes_per_task": st.integers(1, 9) | st.lists(st.integers(1, 9), max_size=3),
        "class_groups": st.none() | st.lists(widths, max_size=3),
        "n_tasks": st.none() | st.integers(1, 20),
        "validation": st.just("train") | st.floats(0.01, 0.99),
        "widths": widths,
        "c": st.floats(0, 1e6),
        "mode": st.sampled_from(["original", "cross", "reuse"]),
        "lr_min": st.floats(0, 0.05, exclude_min=True),  # at most the default learning_rate
        "seed": st.integers(0, 2**32 - 1),
    }
    return st.fixed_dictionaries({}, optional=optional).map(lambda values: RunConfig(**values))


@given(configs())
@settings(deadline=None, max_examples=60)
def test_json_gives_back_the_same_config(config):
    again = RunConfig(**json.loads(config.to_json()))
    assert again == config
    assert again.run_id == config.run_id


@given(configs(), configs())
@settings(deadline=None, max_examples=60)
def test_run_ids_are_equal_exactly_where_configs_are(one, other):
    assert (one.run_id == other.run_id) == (one == other)


def test_a_config_cannot_be_changed():
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1
    assert config.seed == 0
    assert {config: "can be a key"}[RunConfig()] == "can be a key"


def test_replace_returns_a_checked_copy():
    config = RunConfig(c=0.5)
    changed = config.replace(seed=3, widths=[10, 10])
    assert changed == RunConfig(c=0.5, seed=3, widths=(10, 10))
    assert config.seed == 0
    with pytest.raises(ConfigError, match="unknown parameter 'sead'; did you mean 'seed'"):
        config.replace(sead=1)
    with pytest.raises(ConfigError, match="seed = -1"):
        config.replace(seed=-1)


def test_a_rate_below_the_smallest_one_is_refused_because_no_epoch_would_be_trained():
    with pytest.raises(ConfigError, match=r"lr_min = 0\.0001: must be at most learning_rate = 1e-05"):
        RunConfig(learning_rate=1e-5)
    assert RunConfig(learning_rate=1e-4).lr_min == 1e-4


def test_a_grid_has_every_combination_once_and_the_last_axis_varies_fastest():
    configs = RunConfig(widths=(5,)).grid(c=[0.5, 2], seed=range(3))
    assert [(config.c, config.seed) for config in configs] == [(c, s) for c in (0.5, 2.0) for s in range(3)]
    assert {config.widths for config in configs} == {(5,)}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"c": 0.5}, r"c: 0\.5 is not a list"),
        ({"c": []}, r"c: \[\] is not a list of one or more"),
        ({"seed": [0, 1, 0]}, r"seed: 0 is named twice in \[0, 1, 0\]"),
        ({"seeds": [0]}, "unknown parameter 'seeds'; did you mean 'seed'"),
        ({"c": [1, -1]}, "c = -1: .* greater than or equal to 0"),
        ({"c": "[0.75]"}, r"c: '\[0.75\]' is not a list .*papermill -p, .* Its -y does: -y 'cs: \[0.75\]'"),
        ({"seed": range(1000), "c": range(1000)}, "seed x c: 1000000 runs are asked for; allowed are 100000"),
    ],
)
def test_a_grid_that_means_nothing_is_refused(axes, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig().grid(**axes)


def test_text_in_place_of_a_list_names_how_papermill_hands_over_lists():
    """Its -p hands over the text."""
    with pytest.raises(ConfigError, match=r"widths = '\[40, 40\]': .*list.* -y 'widths: \[40, 40\]' \(widths: units"):
        RunConfig(widths="[40, 40]")
    with pytest.raises(ConfigError) as raised:
        RunConfig(classes_per_task="[2]")
    assert "or: " in str(raised.value).partition("; from papermill")[0]
    with pytest.raises(ConfigError) as raised:
        RunConfig(widths="wide")
    assert "papermill" not in str(raised.value)


def test_one_number_of_classes_is_the_same_run_as_a_list_of_one():
    assert RunConfig(classes_per_task=[5]) == RunConfig(classes_per_task=5)
    assert RunConfig(classes_per_task=[5]).run_id == RunConfig(classes_per_task=5).run_id


def test_a_parameter_called_self_is_unknown_like_any_other():
    for call in (lambda: RunConfig(**{"self": 1}), lambda: RunConfig().replace(**{"self": 1}),
                 lambda: RunConfig().grid(**{"self": [1]})):  # fmt: skip
        with pytest.raises(ConfigError, match="unknown parameter 'self'"):
            call()


def test_the_cnn_has_one_name_whatever_the_widths_of_the_mlp():
    cnn = RunConfig(network="cnn")
    assert RunConfig(network="cnn", widths=(200, 200)).run_id == cnn.run_id == cnn.replace(widths=(5,)).run_id
    assert RunConfig(widths=(200, 200)).run_id != RunConfig().run_id
