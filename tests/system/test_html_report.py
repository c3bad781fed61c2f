"""The page about a grown checkpoint: true, safe whatever names it shows, and readable."""

import html.parser
import json
import re
import shutil
import subprocess

import alter
import pytest

import moegrow
from moegrow.analysis import html_report, report_contents
from moegrow.checkpoint.store import CONFIG

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "<img src=x onerror=alert(1)>\"'&\x1b[31m"
SHOWN = EVIL.replace("\x1b", r"\x1b")
VOID = {"meta", "img", "br"}


class Outline(html.parser.HTMLParser):
    """Elements, their attributes and the text of a page; every element must be closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return "\n".join(self.words)

    def named(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def grown(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "grown"
    plan = moegrow.width(moegrow.depth(checkpoint("deepseek_v3"), new_layers="identity"))
    moegrow.apply(plan, folder)
    return folder


@pytest.fixture(scope="module")
def text(grown):
    return html_report.render(report_contents.gather(grown, verified=moegrow.verify(grown)))


def test_a_page_tells_numbers_maps_noise_config_and_how_to_do_it_again(grown, text, checkpoint):
    shown = Outline(text)
    before, after = (moegrow.inspect(place) for place in (checkpoint("deepseek_v3"), grown))
    assert before["layers"] * 2 == after["layers"] == 8
    for word in ("Before and after", "new layers from old: every layer 2 times in place",
                 "begin as the identity", "normal noise of 0.01 σ", "num_hidden_layers",
                 "n_routed_experts", "realised ÷ asked", "moegrow_recipe = 1",
                 "as planned:", f"{after['tensors']} tensors in"):  # fmt: skip
        assert word in shown.text, word
    assert "moegrow.depth(source" in shown.text


def test_maps_are_drawn_square_by_square(grown, text):
    growth = moegrow.plan(grown / "moegrow-plan.jsonl").growth
    shown = Outline(text)
    assert len(shown.named("rect")) == len(growth.layers) + len(growth.experts)
    titles = [word for word in shown.words if word.startswith("new ")]
    assert titles[:2] == ["new layer 0, made from layer 0", "new layer 1, made from layer 0"]
    assert sum(attrs["class"] == "copy silent" for attrs in shown.named("rect")) == 4
    assert f"new expert 9, made from expert {growth.experts[9]}" in titles


def test_profiles_are_those_of_source_and_result(grown, text, checkpoint):
    shown = Outline(text)
    profiles = [moegrow.norms(place) for place in (checkpoint("deepseek_v3"), grown)]
    for name, profile in zip(("source", "result"), profiles, strict=True):
        for norms in profile.norms.values():
            for layer, norm in enumerate(norms):
                if norm is not None:
                    assert f"{name}, layer {layer}: {norm:.6g}" in shown.words
    drawn = sum(norm is not None for p in profiles for norms in p.norms.values() for norm in norms)
    assert len(shown.named("circle")) == drawn


def test_a_page_loads_nothing_and_runs_nothing(text):
    shown = Outline(text)
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in shown.elements}
    for _, attrs in shown.elements:
        assert not {"src", "href", "srcset", "data"} & attrs.keys()
        assert not [name for name in attrs if name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    policy = next(a["content"] for a in shown.named("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_whatever_a_checkpoint_is_called_is_text_on_the_page(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.table(source / CONFIG) as config:
        config["transformers_version"] = EVIL
        config[f"num_{EVIL}"] = EVIL
        config["layer_types"] = [f"{EVIL}{layer}" for layer in range(4)]
    source = source.rename(tmp_path / EVIL)
    folder = tmp_path / f"grown {EVIL}"
    moegrow.apply(moegrow.width(moegrow.depth(source), noise=0.5), folder)
    text = html_report.render(report_contents.gather(folder))
    shown = Outline(text)
    assert "<img" not in text
    assert not shown.named("img")
    assert f"grown {SHOWN}" in shown.words
    assert json.dumps(f"{EVIL}3") in shown.text
    assert "\x1b" not in text


def test_the_same_checkpoint_gives_the_same_page(grown):
    pages = [html_report.render(report_contents.gather(grown)) for _ in range(2)]
    assert pages[0] == pages[1]
    assert "foretold" in pages[0]
    assert "a sample of" in html_report.render(report_contents.gather(grown, sample=True))


def test_weights_without_norms_leave_the_rest_of_the_page(grown, monkeypatch):
    def refuse(*arguments, **named):
        raise moegrow.MoegrowError("the weights are quantised")

    monkeypatch.setattr(report_contents.norm_profile, "profile", refuse)
    shown = Outline(html_report.render(report_contents.gather(grown)))
    assert "Not shown: the weights are quantised" in shown.words
    assert not shown.named("circle")
    assert shown.named("rect")


def paged(source, folder, plan, **options):
    """What the page says of a plan for a source, written to a folder."""
    moegrow.apply(plan, folder)
    return Outline(html_report.render(report_contents.gather(folder, **options))).text


def test_what_norms_leave_out_and_where_they_jump_is_said(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        tensors["model.layers.2.mlp.gate.weight"][0, :3] = float("nan")
    plan = moegrow.depth(source, mode="stack")
    said = paged(source, tmp_path / "grown", plan)
    assert "qwen3_moe: 3 values are NaN or infinite and left out, in model.layers.2.mlp" in said
    assert "grown: 6 values are NaN or infinite and left out, in model.layers.{2,6}.mlp" in said
    assert "(between layers 3 and 4, from 3 and 0)" in said
    assert "jumps by" not in paged(source, tmp_path / "level", moegrow.depth(source))


def test_noise_on_equal_values_is_not_said_to_be_there(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        for tensor in tensors.values():
            tensor.zero_()
    folder = tmp_path / "grown"
    moegrow.apply(moegrow.width(source), folder)
    said = paged(source, tmp_path / "other", moegrow.width(source), verified=moegrow.verify(folder))
    assert "None was realised: all values of what is copied are the same." in said
    assert "foretold" not in said


def browse(folder, script):
    """What a script finds in the page report.html of a folder, in a frame of a phone's width."""
    (folder / "frame.html").write_text(
        "<!doctype html><iframe id=f src=report.html style='width:390px;height:800px;border:0'>"
        "</iframe><pre id=found></pre><script>f.onload = () => { const page = f.contentDocument,"
        f" view = f.contentWindow; found.textContent = String({script}) }}</script>"
    )
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
         (folder / "frame.html").as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<pre id=\"found\">(.*?)</pre>", done.stdout, re.S)
    assert found, done.stdout + done.stderr
    return found[1]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_shows_it_on_a_phone_with_nothing_cut_off(text, tmp_path):
    (tmp_path / "report.html").write_text(text)
    width = "page.documentElement.clientWidth"  # less a bar to scroll by
    assert browse(tmp_path, f"{width} > 360 && page.documentElement.scrollWidth <= {width}") == (
        "true"
    )
    # Everything but preformatted text, which scrolls by itself, stays within the width.
    beyond = (
        "[...page.querySelectorAll('body *:not(pre)')]"
        f".filter(it => it.getBoundingClientRect().right > {width} + 1)"
        ".map(it => it.tagName).join()"
    )
    assert browse(tmp_path, beyond) == ""
    least = (
        "Math.min(...[...page.querySelectorAll('svg.map text')]"
        ".map(it => it.getBoundingClientRect().height))"
    )
    assert float(browse(tmp_path, least)) > 9
    drawn = len(Outline(text).named("svg"))
    assert drawn > 4
    assert browse(tmp_path, "page.querySelectorAll('svg').length") == str(drawn)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_is_told_of_light_and_dark(text, tmp_path):
    (tmp_path / "report.html").write_text(text)
    assert browse(tmp_path, "view.getComputedStyle(page.documentElement).colorScheme") == (
        "light dark"
    )
    rules = (
        "[...page.styleSheets[0].cssRules].filter(rule => rule.conditionText ==="
        " '(prefers-color-scheme: dark)').length"
    )
    assert browse(tmp_path, rules) == "1"
