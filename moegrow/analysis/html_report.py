"""Write the HTML report about a grown checkpoint, as one self-contained file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files

from moegrow import __version__, display
from moegrow.analysis import seams
from moegrow.analysis.diff import config_changes
from moegrow.analysis.drawings import MOST, curves, raw, squares, tag
from moegrow.analysis.norm_profile import Profile
from moegrow.analysis.report_contents import Story
from moegrow.checkpoint.side_files import PLAN
from moegrow.files import json_edit
from moegrow.planning import model_size, quantised_noise
from moegrow.planning.noise_stats import NoiseStats
from moegrow.planning.notices import notices
from moegrow.recipes.recipe import Recipe, to_toml

COLUMNS = 12  # of squares: as many as a phone can show so that their numbers are read
LONGEST = 400  # characters of a value of the config
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_TITLES = {
    "experts": "routed experts", "shared": "shared experts", "dense": "dense MLP",
    "attention": "attention", "router": "router", "norms": "weights of norms",
}  # fmt: skip


def render(story: Story) -> str:
    """The page, as a document of HTML."""
    title = f"{story.folder.name}: a grown checkpoint"
    style = files("moegrow.analysis").joinpath("html_report.css").read_text("utf-8")
    head = (
        '<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"{tag('title', title)}<style>{style}</style>"
    )
    sections = (
        _top, _numbers, _maps, _profiles, _noise, _config, _storage, _again,
    )  # fmt: skip
    body = "".join(part for section in sections for part in section(story))
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _top(story: Story) -> Iterator[str]:
    yield tag("h1", story.folder.name)
    yield tag(
        "p",
        f"Grown from {story.plan.source.name} ({story.plan.family}) with moegrow {__version__},"
        " and not trained by it since.",
    )
    yield from _list(f"{step.axis}: {note}" for step in story.plan.steps for note in step.notes)
    if not story.plan.steps:
        yield tag("p", "Nothing was changed: the result is a copy.")
    found = story.verified
    if found is not None:
        yield tag("p", f"Verified: {found}", class_="" if found.ok else "bad")


def _numbers(story: Story) -> Iterator[str]:
    before, after = model_size.numbers(story.source), model_size.numbers(story.grown)
    yield tag("h2", "Before and after")
    yield _table(("", "before", "after"), model_size.comparison(before, after), right=True)
    yield from _list(map(str, notices(story.plan, story.source)))


def _maps(story: Story) -> Iterator[str]:
    growth = story.plan.growth
    yield tag("h2", "Layers")
    yield _key("a square is a layer of the result, its number the source's layer", growth.silent)
    yield squares(growth.layers, what="layer", columns=COLUMNS, silent=growth.silent)
    yield from _list(_rest(len(growth.layers), "layers"))
    yield tag("h2", "Experts")
    if growth.experts == tuple(range(story.source.experts)):
        yield tag("p", f"Each layer has the source's {story.source.experts} experts.")
        return
    yield _key("a square is an expert of each layer, its number the source's expert", ())
    yield squares(growth.experts, what="expert", columns=COLUMNS)
    yield from _list(_rest(len(growth.experts), "experts"))
    yield tag("p", f"Each token goes to {growth.top_k} experts, and went to {story.source.top_k}.")


def _rest(count: int, what: str) -> Iterator[str]:
    if count > MOST:
        yield f"The first {MOST} of {count} {what} are drawn."


def _profiles(story: Story) -> Iterator[str]:
    yield tag("h2", "Norms, layer by layer")
    before, after = story.before, story.after
    if before is None or after is None:
        yield tag("p", f"Not shown: {story.unread}")
        return
    read = "all weights"
    if before.is_sample:
        read = (
            f"a sample of {display.count(before.values + after.values)} weights; small differences"
            " may be those of the sample"
        )
    yield tag("p", f"Root mean square of the weights, by {read}.", class_="soft")
    yield from _list((*_left_out(before), *_left_out(after), *_jump(story, before)))
    yield raw(
        "p",
        raw("span", raw("span", "", class_="key s0") + tag("span", f"source: {before.name}"))
        + raw(
            "span", raw("span", "", class_="key s1") + tag("span", f"result (dashed): {after.name}")
        ),
        class_="legend",
    )
    for group in after.norms:
        series = {"source": before.norms.get(group, ()), "result": after.norms[group]}
        if drawn := curves(series, what=_TITLES[group]):
            yield tag("h3", _TITLES[group]) + drawn


def _left_out(profile: Profile) -> Iterator[str]:
    if count := sum(profile.nonfinite.values()):
        named = ", ".join(name for name, _ in display.groups(sorted(profile.nonfinite)))
        verb = "value is" if count == 1 else "values are"
        yield f"{profile.name}: {count} {verb} NaN or infinite and left out, in {named}."


def _jump(story: Story, before: Profile) -> Iterator[str]:
    """How far the norms of the first group jump where layers meet that were no neighbours."""
    found = seams.way(before, story.plan.growth.layers, "")
    group = next(iter(before.norms), "")
    jump = found.largest.get(group)
    if jump and jump.size and jump.times is not None:
        yield (
            f"Where layers meet that were no neighbours, the norm of {_TITLES[group]} jumps by up"
            f" to {jump.times:.1f} times the usual step (between {seams.told(jump)})."
        )


def _noise(story: Story) -> Iterator[str]:
    growth = story.plan.growth
    asked = sorted({noise for noise in (*growth.weight_noise, *growth.router_noise) if noise})
    if not asked:
        return
    yield tag("h2", "Noise")
    yield from _list(
        f"{noise.kind} noise of {noise.amount:g}"
        f"{' σ of what is copied' if noise.kind != 'uniform' else ' at most'}, seed {noise.seed}"
        f"{', rounded up or down by a draw' if noise.is_rounded_by_draw else ''}"
        for noise in asked
    )
    if story.verified is not None and story.verified.drawn and not story.verified.realised:
        yield tag("p", "None was realised: all values of what is copied are the same.")
        return
    heads = ("tensors", "values", "unchanged", "realised ÷ asked")
    if story.verified is not None and story.verified.realised:
        yield tag("p", "After rounding, as it was drawn again to verify the result:")
        rows = [
            (kind, *_realised(found)) for kind, found in sorted(story.verified.realised.items())
        ]
        yield _table(heads, rows, right=True)
        return
    yield tag("p", "After rounding, as foretold for weights that are normal; --verify measures it:")
    foretold = [
        (stored, f"{100 * found.share_unchanged:.1f} %", f"{found.ratio:.2f}")
        for (stored, _, _), found in quantised_noise.foretold(story.plan, story.source).items()
    ]
    yield _table(("stored as", *heads[2:]), foretold, right=True)


def _realised(found: NoiseStats) -> tuple[str, str, str]:
    return f"{found.values}", f"{100 * found.share_unchanged:.1f} %", f"{found.ratio:.2f}"


def _config(story: Story) -> Iterator[str]:
    yield tag("h2", "Config")
    new = json_edit.loads(story.plan.config, "config", infinities=True)
    changes = [
        (key, _value(old), _value(value))
        for key, old, value in config_changes(story.source.checkpoint.config, new)
    ]
    if changes:
        yield _table(("key", "before", "after"), changes)
    else:
        yield tag("p", "config.json is the source's.")


def _value(value: object) -> str:
    text = "—" if value is None else json_edit.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _storage(story: Story) -> Iterator[str]:
    yield tag("h2", "Files")
    shares = model_size.dtypes(story.plan)
    old, new = story.source.checkpoint, story.grown.checkpoint
    rows = [(dtype, display.size(count), f"{count}") for dtype, count in shares.items()]
    yield tag(
        "p",
        f"{len(new.tensors)} tensors in {len(new.files)} file{'s' * (len(new.files) != 1)} of"
        f" weights, {display.size(new.nbytes)}; made of {len(old.tensors)} tensors,"
        f" {display.size(old.nbytes)}.",
    )
    yield _table(("stored as", "size", "bytes"), rows, right=True)


def _again(story: Story) -> Iterator[str]:
    plan = story.plan
    yield tag("h2", "How to do it again")
    if plan.commands:
        yield tag("pre", "\n".join(plan.commands))
    if plan.recipe:
        yield tag("p", "The same as a recipe, for moegrow run:")
        yield tag("pre", to_toml(Recipe(steps=plan.recipe)).strip())
    yield tag("p", "The same source gives the same bytes. The config of the source has SHA-256")
    yield tag("pre", plan.source.config_digest)
    kind = story.source.facts.classes
    yield tag("p", f"Source: {plan.source.path}; {_value(kind)}; plan: {PLAN}.", class_="soft")


def _list(sentences: Iterable[str]) -> Iterator[str]:
    if items := "".join(tag("li", sentence) for sentence in sentences):
        yield raw("ul", items)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = False) -> str:
    """A table whose first column says what; numbers stand at the right."""
    side: Mapping[str, str] = {"class_": "r"} if right else {}
    top = "".join(
        tag("th", head, **(side if place else {}), scope="col") for place, head in enumerate(heads)
    )
    body = "".join(
        raw(
            "tr",
            tag("th", first, scope="row") + "".join(tag("td", cell, **side) for cell in others),
        )
        for first, *others in rows
    )
    return raw("table", raw("thead", raw("tr", top)) + raw("tbody", body))


def _key(says: str, silent: Sequence[bool]) -> str:
    """What the squares of a map mean."""
    kinds = [("first", "first made from it"), ("copy", "a further copy")]
    if any(silent):
        kinds.append(("silent", "begins as the identity"))
    shown = "".join(
        raw("span", raw("span", "", class_=f"key {kind}") + tag("span", text))
        for kind, text in kinds
    )
    return raw("p", tag("span", f"{says}:") + " " + shown, class_="legend")
