"""A stranger's folder: no script in a page, and no file outside the folder."""

import contextlib
import hashlib
import json
import os
import subprocess

import numpy as np
import pytest
import runs
from limits import check_line
from pages import Page

import jaxgeo as jg
from jaxgeo.app.cli.cache import _is_ours
from jaxgeo.app.report.page import render, write_report
from jaxgeo.app.runs import Config, load
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.fitting.lock import FolderLock

# What is lost of a damaged run is told by warnings.
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.usefixtures("bounds")]


@pytest.fixture
def folder(tmp_path):
    return runs.write(tmp_path / "run")


@pytest.fixture
def outside(tmp_path):
    """Files that nobody may touch, with what they hold and who owns a name there."""
    place = tmp_path / "outside"
    (place / "deep").mkdir(parents=True)
    (place / "file").write_text("mine")
    (place / "deep" / "file").write_text("mine too")
    yield place
    found = sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))
    assert found == ["deep", "deep/file", "file"]
    assert ((place / "file").read_text(), (place / "deep" / "file").read_text()) == ("mine", "mine too")


# --- a script in the report


PAYLOADS = (
    "<script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</pre></section><svg onload=alert(1)>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><style>*{background:url(//evil)}</style>",
    "$title $figures ${folder}",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<!--><script>alert(1)</script>-->",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<a href=javascript:alert(1)>x</a>",
    "<base href=//evil><form action=//evil><input>",
    "<math><mtext></mtext><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "\u202e<script>\u2066alert(1)\u2069</script>\ufeff",
    "\x00<scr\x00ipt>alert(1)</scr\x00ipt>",
    "＜script＞alert(1)＜/script＞ %3Cscript%3E \\u003cscript\\u003e",
    "#1f2933 <svg #1769aa",
)


def told(path, text):
    """The run of a stranger who has written this text wherever there is room for one."""
    texts = {"name": text, "source": text, "message": text, "notes": (text,), "warnings": (text,)}
    folder = runs.write(path, **texts, environment={text: text})
    folder.save_config(Config(**{**vars(runs.CONFIG), "problem": text, "target": text, "task": text}))
    return folder.path


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_text_of_a_folder_becomes_a_tag(tmp_path, payload):
    plain = Page(render(load(told(tmp_path / "plain", "plain")), []))
    # The name of the folder too, as far as a folder may have it.
    text = render(load(told(tmp_path / payload.replace("/", "∕").replace("\0", ""), payload)), [])
    page = Page(text)
    assert (page.tags, page.attributes, page.led) == (plain.tags, plain.attributes, ["data:,"])
    assert "default-src 'none'" in text


def test_no_text_of_a_folder_is_in_its_figures(tmp_path):
    for name, text in (("plain", "plain"), ("told", "".join(PAYLOADS))):
        write_report(told(tmp_path / name, text))
    for path in (tmp_path / "told" / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "plain" / "figures" / path.name).read_bytes()


# --- a file outside the folder


def link(place, target):
    if place.is_dir() and not place.is_symlink():
        os.rename(place, place.with_name(f"{place.name} before"))
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def hard_link(place, target):
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.link(target, place)


WRITTEN = ("report.html", ".report.html.part", "figures/cost.svg", "figures/.cost.svg.part", "metrics.jsonl",
           ".metrics.jsonl.part", "digests.json", ".digests.json.part", "parameters.eqx", "summary.json",
           "config.toml", ".lock")  # fmt: skip
# Of these `test_trust.py` has fast tests with links.
TRUSTED = ("report.html", ".report.html.part", "digests.json", ".digests.json.part")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *(pytest.param(link, name, marks=[pytest.mark.slow] * (name in TRUSTED)) for name in WRITTEN),
        *(
            pytest.param(hard_link, name, marks=[pytest.mark.slow] * (name not in ("report.html", "metrics.jsonl")))
            for name in WRITTEN
        ),
    ],
)
def test_no_link_leads_a_write_out_of_a_folder(folder, outside, name, make):
    make(folder.path / name, outside / "file")
    for action in (
        lambda: write_report(folder.path),
        lambda: folder.save_metrics(runs.rows(3)),
        lambda: folder.save_parameters(runs.network()),
        lambda: folder.save_summary(runs.summary()),
        lambda: folder.save_config(runs.CONFIG),
        lambda: RunFolder.open(folder.path).__exit__(),
    ):
        with contextlib.suppress(ValueError):
            action()


OPTIONS = {"method": "sgd", "tol": 0.0, "record_every": 2, "keep_every": 0.0, "resume": True}


@pytest.mark.parametrize(
    "name",
    ["checkpoints", "checkpoints/1", "checkpoints/2", "checkpoints/2.orbax-checkpoint-tmp", "checkpoints/odd",
     "checkpoints/1/arrays", "checkpoints/1/facts", "tensorboard", "tensorboard/events", ".lock"],
)  # fmt: skip
def test_no_link_leads_a_checkpoint_out_of_a_folder(tmp_path, outside, name):
    x = np.linspace(-1, 1, 4)[:, None]
    jg.fit(runs.network(), np.hstack([x, x]), x, folder=tmp_path / "run", max_steps=4, **OPTIONS)
    link(tmp_path / "run" / name, outside / "deep")
    with contextlib.suppress(ValueError):
        jg.fit(runs.network(), np.hstack([x, x]), x, folder=tmp_path / "run", max_steps=8, **OPTIONS)


@pytest.mark.parametrize("name", ["odd", "2"])
def test_folders_as_deep_as_can_be_in_a_checkpoint_are_left(tmp_path, name):
    x = np.linspace(-1, 1, 4)[:, None]
    jg.fit(runs.network(), np.hstack([x, x]), x, folder=tmp_path / "run", max_steps=4, **OPTIONS)
    (tmp_path / "run" / "checkpoints" / name).mkdir(exist_ok=True)
    here = os.open(tmp_path / "run" / "checkpoints" / name, os.O_RDONLY)
    # Beyond what a path may have, and what recursion may reach.
    for _ in range(2100):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    try:
        jg.fit(runs.network(), np.hstack([x, x]), x, folder=tmp_path / "run", max_steps=8, **OPTIONS)
    except ValueError as error:
        check_line(error)
    subprocess.run(["rm", "-rf", tmp_path / "run"], check=True)


NAMES = ["../outside/file", "checkpoints/../../outside", "/etc/passwd", "./config.toml", "a//b", "c:\\\\a", "a\0"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_among_the_digests_leads_out_of_a_folder(folder, outside, name):
    listed = json.loads((folder.path / "digests.json").read_text()) | {name: ["0" * 64, "1" * 64]}
    (folder.path / "digests.json").write_text(json.dumps(listed))
    x = np.linspace(-1, 1, 4)[:, None]
    for action in (
        lambda: jg.fit(runs.network(), np.hstack([x, x]), x, folder=folder.path, max_steps=4, **OPTIONS),
        lambda: load(folder.path),
    ):
        with pytest.raises(ValueError, match="which is no file of its folder"):
            action()


def test_no_digest_is_taken_of_a_file_outside(folder, outside):
    (folder.path / "deep").symlink_to(outside / "deep")
    (folder.path / "inside").mkdir()
    found = {}
    for name in ("deep/file", "inside/file"):
        (folder.path / "inside" / "file").write_text("mine too")
        found[name] = [hashlib.sha256(b"mine too").hexdigest(), "1" * 64]
    listed = json.loads((folder.path / "digests.json").read_text())
    (folder.path / "digests.json").write_text(json.dumps(listed | found))
    folder.files.settle()
    assert json.loads((folder.path / "digests.json").read_text()) == {
        **listed, "deep/file": found["deep/file"], "inside/file": found["inside/file"][:1]
    }  # fmt: skip


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_lock_is_a_plain_file(tmp_path, make):
    make(tmp_path / ".lock")
    with pytest.raises(ValueError, match="plain file|cannot write"):
        FolderLock(tmp_path)


def test_programs_are_kept_only_where_nobody_else_can_write(tmp_path):
    assert _is_ours(tmp_path)
    tmp_path.chmod(0o777)
    assert not _is_ours(tmp_path)
