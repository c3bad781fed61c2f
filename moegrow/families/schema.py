"""The schema of a family file: tensor names, config keys, router."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from moegrow.errors import MoegrowError

Config = Mapping[str, Any]
Names = tuple[str, ...]

LARGEST = 10**9  # a number in a family file
Whole = Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
Scalar = str | Whole | float | bool


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a family file: a key that it does not name is an error."""


def lookup(config: Config, key: str) -> Any:
    """The value under a key, or under a path of keys such as "ffn_config.moe_top_k"; else None."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def number(config: Config, key: str, default: int = 0) -> int:
    """The whole number under a key, or `default` where it is absent or null.

    Raises MoegrowError where something else stands there.
    """
    value = lookup(config, key)
    if value is None:
        return default
    if type(value) is not int or abs(value) > 10**9:
        raise MoegrowError(f"config.json: {key} is {value!r}, not a whole number")
    return value


class Setting(Table, frozen=True):
    """A config key with the value that counts where the key is absent or null."""

    key: str
    default: Scalar | None = None

    def read(self, config: Config) -> Any:
        """The value, which must be of the kind of the default: a text, a truth or a number."""
        value = lookup(config, self.key)
        if value is None:
            return self.default
        is_number = type(self.default) in (int, float)
        kinds = (int, float) if is_number else type(self.default)
        if self.default is not None and not isinstance(value, kinds):
            raise MoegrowError(
                f"config.json: {self.key} is {value!r}, which is not like {self.default!r}"
            )
        return value


class Rule(Table, frozen=True):
    """The per-layer list that a model derives when its config has none.

    A layer is a `hit`, else a `miss`, when it is the one `at` its place of every `every` (the last
    of them unless given), among the `rest` behind the last whole `every`, among the `first` so
    many, the `last` of all, not below the number under the config's key `below`, or when `moe` is
    true and it has experts. The rule applies only where the config's `when` is true. `every`
    counts from layer `start` on; the layers before that are counted apart, with the last of every
    `before` as hits.
    """

    every: Whole | Setting = 0
    at: Whole = -1
    start: Whole | Setting = 0
    before: Whole | Setting = 0
    rest: bool = False
    first: Whole = 0
    last: bool = False
    below: str = ""
    moe: bool = False
    when: str = ""
    hit: Scalar = True
    miss: Scalar = False


Form = Literal[
    "list", "text", "numbers", "dense_numbers", "prefix", "suffix", "last", "table", "owners",
    "period", "span", "point", "groups",
]  # fmt: skip


# Those that speak of a stretch or a rhythm of layers: several keys may together say which.
PARTIAL = ("prefix", "suffix", "last", "period")


class PerLayer(Table, frozen=True):
    """A config key that says something layer by layer; per_layer.py has a function per form.

    form: "list" (one entry a layer), "text" (one character a layer), "numbers" (numbers of the
    layers meant, counted from `base`, with `once` only of the first copy), "dense_numbers"
    (numbers of dense layers, beside a `step` key that makes others dense too), "prefix" and
    "suffix" (how many layers come first or last), "last" (number of the last layer meant; -1 is
    the last of all), "table" (layer number → settings), "owners" (for each layer the number of
    the layer whose values it uses), "period" (every so many layers, from `offset` on), "span"
    (length of a block of layers, which grows as layers repeat), "point" (how many layers come
    before a point of the model from which another takes its input), "groups" (how many layers
    belong together, so that only whole groups may be repeated).

    With `when`, a key is read only where the config's `when` is true. A `required` list must be
    there, for no rule here says what the model would derive, `unless` another key stands for it.
    A "prefix" need not express every map where such another key does.

    A key that tells layers with experts from those without says how: `dense` is the entry or
    character of a layer without experts, or true where the layers meant have none; `sparse` is
    the same for layers with experts.
    """

    form: Form
    default: Whole = 0
    base: Whole = 0
    once: bool = False
    step: str = ""
    offset: Setting | Whole = 0
    required: bool = False
    unless: str = ""
    when: str = ""
    rule: Rule | None = None
    dense: Scalar | None = None
    sparse: Scalar | None = None


class ConfigKeys(Table, frozen=True):
    """The spellings of what the config says.

    `nested` are the tables of multimodal configs that describe the language model. `layers` may
    be missing from a config that has one of `layers_lists`, with one entry a layer;
    `doubled_layers` count every layer twice. `shared_experts` count those of a layer.
    `spellings`: other name of a key → the name that
    the family file uses, for keys of the router. Keys of `per_layer` are looked up in the table
    that is nested, and from the root of the config where they begin with a slash. `not_per_layer`
    are lists that are about something else, however long they are. `defaults` are the values that
    count where config.json has a key under none of its spellings.
    """

    experts: Names
    top_k: Names
    layers: Names
    nested: Names = ()
    layers_lists: Names = ()
    doubled_layers: Names = ()
    prediction_layers: Names = ()
    shared_experts: Names = ()
    spellings: Mapping[str, str] = msgspec.field(default_factory=dict)
    per_layer: Mapping[str, PerLayer] = msgspec.field(default_factory=dict)
    not_per_layer: Names = ()
    architectures: Names = ()
    inner: Names = ()
    defaults: Mapping[str, Scalar] = msgspec.field(default_factory=dict)


class Groups(Table, frozen=True):
    """Config keys of a router that keeps the best groups of experts before it picks experts.

    score: "sum" (of the two best experts) or "maximum", which does not notice copies. With
    `when`, the router does so only where the config's `when` is `is`.
    """

    count: str
    kept: str
    score: Literal["sum", "maximum"]
    when: str = ""
    # Named for the TOML key: `when = "topk_method", is = "group_limited_greedy"`.
    equals: str = msgspec.field(default="", name="is")


class Router(Table, frozen=True):
    """How scores become weights, as far as copies of experts can change the result.

    scores: "softmax" or "sigmoid", or the config key that says which. normalised: whether the
    weights are divided by their sum; where nothing is said, those of a sigmoid are, and of those
    of a softmax, for which it matters with one expert alone, it is not known. exponent: the config
    key of the norm they are divided by, where it need not be the sum. scaling: the config key of
    a factor on the weights. balance: "fixed", or "probability" where the load-balancing bias is
    added to probabilities, which shrink as experts are copied. extra: the config key that counts
    rows of the router behind those of the experts, for zero experts or shared ones, which are
    copied with the experts. lists: how many lists of experts, each with its own router, stand one
    behind the other. kind: "rows" (one row per expert), "grid" (product keys) or "skip" (a class
    that skips).
    unsaid: config keys with what holds where they are absent. Serving engines take something else
    for granted there, with which copies would change the result, so a grown config has them.
    refuses_width: why the experts of this family cannot be copied.
    """

    scores: Literal["softmax", "sigmoid"] | Setting = "softmax"
    normalised: bool | Setting | None = None
    multiplies: Literal["input", "output"] = "output"
    exponent: Setting | None = None
    scaling: Setting | None = None
    groups: Groups | None = None
    balance: Literal["fixed", "probability"] = "fixed"
    extra: str = ""
    lists: Whole = 1
    kind: Literal["rows", "grid", "skip"] = "rows"
    unsaid: Mapping[str, Scalar] = msgspec.field(default_factory=dict)
    refuses_width: str = ""

    def scores_by(self, config: Config) -> str:
        """The name of the function that makes scores: "softmax" or "sigmoid"."""
        scores = self.scores.read(config) if isinstance(self.scores, Setting) else self.scores
        return str(scores)


class SharedIndexer(Table, frozen=True):
    """Layers that select keys with the indexer of the nearest full layer before them.

    `key` is the config's per-layer list of "full" and "shared", `pattern` one that says the same
    in letters, F and S, and is written with `letters_too` where it is not there; only full layers
    have `tensors`. Without `chains`, a sharing layer must
    come right behind a full one. Layers whose entry in layer_types is `unused` select no keys.
    """

    key: str
    tensors: Names
    pattern: str = ""
    letters_too: bool = False
    unused: str = ""
    chains: bool = True


class FirstLayers(Table, frozen=True):
    """The first layers of a model, where another part of it addresses them by number.

    `key`, a path from the root of the config, is a list with an entry for each of these layers;
    `default` is their number where the key is absent from a table that is there. `why` says what
    the other part does with them.
    """

    key: str
    why: str
    default: Whole = 0

    def count(self, config: Config) -> int:
        """How many layers are addressed; 0 where the config has no such part."""
        table = lookup(config, self.key.rpartition(".")[0]) if "." in self.key else config
        if not isinstance(table, Mapping):
            return 0
        value = lookup(config, self.key)
        if value is None:
            return self.default
        if not isinstance(value, list):
            raise MoegrowError(f"config.json: {self.key} is {value!r}, not a list")
        return len(value)


class DepthTraits(Table, frozen=True):
    """What repeating layers needs beyond renaming their tensors.

    identity_is_not: why a layer whose outputs are zero is not the identity. copies_first: a
    config key that, when it is not 0, makes identity copies come before their original.
    needs: a layer with the tensor on the left must have the one on the right. fixed: a layer with
    the tensor on the left cannot get another number, for the reason on the right. last: the entry
    that a list of the config must have for the last layer. addressed: the first layers, where
    another part of the model addresses them by number.
    """

    identity_is_not: str = ""
    copies_first: str = ""
    shared_indexer: SharedIndexer | None = None
    needs: Mapping[str, str] = msgspec.field(default_factory=dict)
    fixed: Mapping[str, str] = msgspec.field(default_factory=dict)
    last: Mapping[str, str] = msgspec.field(default_factory=dict)
    addressed: FirstLayers | None = None


class Tensors(Table, frozen=True):
    """Patterns of tensor names; `{layer}` and `{expert}` are numbers, `*` is anything.

    layers: what comes before the names within a layer; `beside` are tensors of a layer that
    stand elsewhere (`{layer-1}`: their number is one lower). block: what the names of a MoE
    block begin with; every tensor there must be classified by the lists that follow. experts:
    routed experts, one tensor per expert or one row, or (`stacked`) several rows, each. columns:
    those whose experts are columns. expert_numbers: tables that hold experts' numbers.
    copied_shared: shared experts that are copied with the routed ones. outputs: what is added to
    the residual stream, zero in identity copies; `ones` are factors that become 1 there. once:
    what only the first copy of a layer keeps. not_in_first: what layer 0 must not have and every
    other must. packed: tables of all layers side by side along an axis. elsewhere: what the
    names of other models in the same checkpoint begin with. optional: what single layers may lack.
    prediction_layers: those in a stack of their own; behind `{layer}.` may stand what encloses the
    usual names there. predicting: what prediction layers have and no other layer. base_prefix: what
    the base model's names begin with in the model around it; a checkpoint may have it once less or
    once more (prefixes.py).

    What a profile of norms counts together, beside the roles: attention (the projections of
    whatever mixes tokens), dense (MLPs without experts), gates (what a router has beside its
    matrix) and norms. joined: tensors of experts that hold two matrices of one size, gate and
    up, one behind the other, or (`alternating`) in turns.
    """

    layers: Names
    block: Names
    experts: Names
    outputs: Names
    router: Names = ()
    router_bias: Names = ()
    balance_bias: Names = ()
    shared: Names = ()
    copied_shared: Names = ()
    expert_numbers: Names = ()
    prediction_layers: Names = ()
    beside: Names = ()
    stacked: Names = ()
    columns: Names = ()
    ones: Names = ()
    once: Names = ()
    not_in_first: Names = ()
    packed: Mapping[str, Whole] = msgspec.field(default_factory=dict)
    elsewhere: Names = ()
    base_prefix: Names = ("model.",)
    optional: Names = ()
    predicting: Names = ("eh_proj.*", "enorm.*", "hnorm.*")
    attention: Names = ()
    dense: Names = ()
    gates: Names = ()
    norms: Names = ()
    joined: Names = ()
    alternating: Names = ()


class Family(Table, frozen=True):
    """One model type: where its tensors stand, what its config calls things, how it routes."""

    name: str
    tensors: Tensors
    config: ConfigKeys
    router: Router
    depth: DepthTraits = DepthTraits()
