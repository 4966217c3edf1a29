"""`RunConfig`: every parameter of one run, typed, bounded and documented.

Nothing here knows of torch. A value that is unknown, of the wrong type or out of range is refused
when the config is made, before data are read or a network is built.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

__all__ = ["MOST_RUNS", "ConfigError", "RunConfig", "nearest", "repeated"]

MOST_RUNS: Final = 100_000  # values of a parameter, and runs that are asked for at once: more are taken for a slip


class ConfigError(ValueError):
    """A parameter that cannot be used. The message names it, its value, its origin and what is allowed."""


def nearest(name: str, valid: list[str]) -> str:
    """Return "; did you mean 'x'?" for the valid name closest to `name`, or "" if none is close."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def repeated(values: Sequence[Any]) -> list[Any]:
    """Return the values that stand in `values` a second time."""
    seen, lists, found = set(), [], []
    for value in values:
        try:
            known = value in seen
            seen.add(value)
        except TypeError:  # lists and mappings
            known = value in lists
            lists.append(value)
        found += [value] if known else []
    return found


def _for_papermill(name: str, value: Any) -> str:
    """Return what to do about text where a list is wanted, or ""."""
    listed = isinstance(value, str) and value.strip().startswith("[")
    return f"; from papermill -p, which reads no lists? Its -y does: -y '{name}: {value.strip()}'" if listed else ""


Width = Annotated[int, Field(ge=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


def _of_a_factory(name: str) -> str:
    if not re.fullmatch(r"custom:[\w.-]+-[0-9a-f]{12}", name):
        raise ValueError("the name that hatlab.run gives to a network of one's own, 'custom:LABEL-CHECKSUM'")
    return name


class RunConfig(BaseModel):
    """One run of HAT on one task sequence. The defaults are the authors' (section 4 of the paper and
    their code), except that validation images are really held out of the training set.

    Two configs that are equal describe the same run: `run_id` is the hash of all fields, and names the
    run's folder. A field that the run's network or method does not use keeps its default. Where a run
    executes (device, threads) is not part of it.

    Raises:
        ConfigError: naming every unknown, ill-typed or out-of-range parameter at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    # The task sequence
    dataset: str = Field(
        "digits",
        min_length=1,
        description="digits, mnist, fashion_mnist, cifar10, cifar100, svhn, gtsrb, facescrub, notmnist, npz:PATH or "
        "folder:PATH; several joined by '+'; or mixture, the paper's eight sets, each of them a task at 3x32x32; "
        "mixture:NAME,NAME,... takes those named",
    )
    sequence: Literal["split", "permuted"] = Field(
        "split",
        description="split: each task has its own classes; permuted: all classes, pixels shuffled per task",
    )
    classes_per_task: Width | tuple[Width, ...] = Field(
        2,
        description="split: classes in each task, in label order; one number, or one per joined data set (a mixture's "
        "tasks have all classes of their set)",
    )
    class_groups: tuple[Annotated[tuple[int, ...], Field(min_length=1)], ...] | None = Field(
        None, description="split: the classes of each task, spelled out; replaces classes_per_task"
    )
    n_tasks: Width | None = Field(
        None, description="split: keep only the first n tasks (none: all); permuted: number of permutations (none: 10)"
    )
    task_order: Literal["shuffled", "fixed"] = Field(
        "shuffled", description="shuffled: scikit-learn's shuffle(arange(T), random_state=seed), as the authors"
    )
    validation: Share | Literal["train"] = Field(
        0.15,
        description="share of the training images held out; 'train': validate on the training set (authors' MNIST)",
    )

    # The network
    network: Literal["mlp", "cnn"] | Annotated[str, AfterValidator(_of_a_factory)] = Field(
        "mlp", description="mlp: HATMLP; cnn: HATCNN, the authors' AlexNet-like net; or a factory given to hatlab.run"
    )
    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = Field(
        (2000, 2000), description="units of the MLP's hidden layers (the CNN's are fixed)"
    )
    dropout: tuple[Dropout, Dropout] = Field(
        (0.2, 0.5), description="MLP: on the input, on hidden layers; CNN: on the first two layers, on the others"
    )

    # The method
    method: Literal["hat", "sgd", "sgd_frozen", "ewc", "joint"] = Field(
        "hat",
        description="hat; or a reference without masks (c must be 0): sgd: plain training, one task after the other; "
        "sgd_frozen: the trunk stays as the first task left it; ewc: elastic weight consolidation; joint: each task "
        "is trained anew together with all before it",
    )

    # Hard attention
    c: float = Field(
        0.75, ge=0, description="compressibility: weight of the mask-sparsity regularizer; 0 switches it off"
    )
    mode: Literal["original", "cross", "reuse"] = Field("original", description="which ratio the regularizer uses")
    min_units: int = Field(10, ge=0, description="a regularizer ratio over at most this many units counts as 0")
    s_max: float = Field(400.0, ge=1, description="steepest slope of the gate")
    schedule: Literal["authors", "paper"] = Field(
        "authors",
        description="authors: s from the sample offset, validation loss CE + cR, PyTorch's initialisation; "
        "paper: s over (b-1)/(B-1), validation loss CE, Xavier uniform initialisation",
    )
    compensation: Literal["authors", "exact"] = Field(
        "authors", description="embedding gradient: autograd times a clamped cosh ratio, or its analytic form"
    )
    gate_precision: Literal["float32", "float64"] = Field(
        "float32", description="of embeddings, gates and their gradients; the rest of the network is always float32"
    )
    embedding_init: Literal["normal", "uniform"] = Field(
        "normal", description="normal: e ~ N(0, 1); uniform: e ~ U(0, 2), as in the compression experiment"
    )
    embedding_clamp: float = Field(6.0, gt=0, description="e is kept within plus and minus this")
    cosh_clamp: float = Field(50.0, gt=0, le=80, description="s e is kept within plus and minus this inside cosh")

    # Training
    batch_size: int = Field(64, ge=1, description="images in a step; a last, smaller batch is kept")
    max_epochs: int = Field(200, ge=1, description="most epochs on one task")
    learning_rate: float = Field(0.05, gt=0, description="plain SGD's rate at the start of each task")
    lr_patience: int = Field(5, ge=1, description="epochs without a better validation loss before the rate drops")
    lr_factor: float = Field(3.0, gt=1, description="the rate is divided by this")
    lr_min: float = Field(1e-4, gt=0, description="a task ends when the rate falls below this")
    grad_clip: float = Field(10_000.0, gt=0, description="largest global gradient norm, after compensation")
    momentum: float = Field(0.0, description="must be 0: it would move frozen weights")
    weight_decay: float = Field(0.0, description="must be 0: it would move frozen weights")
    ewc_lambda: float = Field(5000.0, ge=0, description="ewc: weight of its penalty; the authors of HAT used 5000")
    seed: int = Field(0, ge=0, lt=2**32, description="task order, validation split, initial weights, batches, dropout")

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(error)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        """JSON, YAML and papermill know lists only."""
        if isinstance(value, list):
            return tuple(cls._lists_are_tuples(item) for item in value)
        return value

    @field_validator("*")
    @classmethod
    def _zero_has_no_sign(cls, value: Any) -> Any:
        """0.0 and -0.0 are equal, but their text is not, and the run's name is made from it."""
        if isinstance(value, tuple):
            return tuple(cls._zero_has_no_sign(item) for item in value)
        return value + 0.0 if isinstance(value, float) else value

    @field_validator("momentum", "weight_decay")
    @classmethod
    def _would_move_frozen_weights(cls, value: float) -> float:
        if value != 0:
            raise ValueError(
                "must be 0: HAT freezes a weight by zeroing its gradient, and an optimiser with momentum or weight "
                "decay moves a weight whose gradient is zero, so what earlier tasks learnt would be lost"
            )
        return value

    @field_validator("classes_per_task")
    @classmethod
    def _one_number_is_no_list(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        """[2] and 2 mean the same run, and must have one name."""
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value

    @field_validator("widths")
    @classmethod
    def _belong_to_the_mlp(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        """The CNN's layers are the authors': with whatever widths it is the same run, and must have one name."""
        return value if info.data.get("network") == "mlp" else cls.model_fields["widths"].default

    @field_validator("dropout", "embedding_init")
    @classmethod
    def _belong_to_networks_of_this_package(cls, value: Any, info: ValidationInfo) -> Any:
        """A factory decides them itself."""
        own = info.data.get("network") in ("mlp", "cnn", None)
        return value if own else cls.model_fields[str(info.field_name)].default

    @field_validator("mode", "min_units", "s_max", "compensation", "gate_precision", "embedding_clamp", "cosh_clamp")
    @classmethod
    def _belong_to_hat(cls, value: Any, info: ValidationInfo) -> Any:
        """A method without masks uses none of these: with whatever value it is the same run, and must have one name.

        `embedding_init` is not among them: what it draws moves the generator on, so the heads begin elsewhere.
        """
        return value if info.data.get("method") == "hat" else cls.model_fields[str(info.field_name)].default

    @field_validator("ewc_lambda")
    @classmethod
    def _belongs_to_ewc(cls, value: float, info: ValidationInfo) -> float:
        return value if info.data.get("method") == "ewc" else cls.model_fields["ewc_lambda"].default

    @field_validator("lr_min")
    @classmethod
    def _leaves_an_epoch(cls, value: float, info: ValidationInfo) -> float:
        rate = info.data.get("learning_rate")
        if rate is not None and value > rate:
            raise ValueError(f"must be at most learning_rate = {rate:g}, or no epoch would be trained")
        return value

    @field_validator("c")
    @classmethod
    def _regularizes_masks(cls, value: float, info: ValidationInfo) -> float:
        method = info.data.get("method", "hat")
        if method != "hat" and value != 0:
            raise ValueError(f"must be 0 with method = '{method}', which has no masks to regularize")
        return value

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> RunConfig:
        """Make a config from `values`; an error also says that they came from `source`."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"in {source}: {values!r} is no mapping of parameter names to values")
        try:
            return cls(**{str(name): value for name, value in values.items()})
        except ConfigError as error:
            raise ConfigError(f"in {source}: {error}") from None

    def replace(self, /, **changes: Any) -> RunConfig:
        """Return a copy with `changes`, checked like a new config."""
        return type(self)(**{**self.model_dump(), **changes})

    def grid(self, /, **axes: Sequence[Any]) -> list[RunConfig]:
        """Return a copy for each combination of the values in `axes`, the last one varying fastest.

        Raises:
            ConfigError: an unknown name, or values that are no list, none at all, or named twice.
        """
        for name, values in axes.items():
            if not isinstance(values, list | tuple | range) or not values:
                hint = _for_papermill(f"{name}s", values)  # what notebooks call it
                raise ConfigError(f"{name}: {values!r} is not a list of one or more values{hint}")
            if twice := repeated(values):
                raise ConfigError(f"{name}: {twice[0]!r} is named twice in {list(values)}; each value makes a run once")
        if (n := math.prod(map(len, axes.values()))) > MOST_RUNS:
            raise ConfigError(f"{' x '.join(axes)}: {n} runs are asked for; allowed are {MOST_RUNS} at once")
        return [self.replace(**dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]

    def to_json(self) -> str:
        """Return all fields as JSON with sorted keys: equal configs give equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1)

    @property
    def run_id(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of `to_json()`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


def _explain(error: ValidationError) -> str:
    """One line per wrong parameter: name, value, what is allowed, what it means."""
    names = list(RunConfig.model_fields)
    lines: dict[str, str] = {}
    hints: dict[str, str] = {}
    for item in error.errors(include_url=False):
        name = str(item["loc"][0])
        if item["type"] == "extra_forbidden":
            lines[name] = f"unknown parameter '{name}'{nearest(name, names)} (known: {', '.join(names)})"
            continue
        allowed = item["msg"].removeprefix("Value error, ").replace("tuple", "list")
        if name in lines:  # the other members of a union
            lines[name] += f", or: {allowed}"
        else:
            lines[name] = f"{name} = {item['input']!r}: {allowed}"
            hints[name] = _for_papermill(name, item["input"])
    for name in lines:
        lines[name] += hints.get(name, "")
        if name in names and name not in ("momentum", "weight_decay"):
            lines[name] += f" ({name}: {RunConfig.model_fields[name].description})"
    return "\n".join(lines.values())
