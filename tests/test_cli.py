"""The command line: one line for every user error, the right exit code, JSON on stdout, the next step."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import ddkit.cli.output as output
from ddkit import __version__
from ddkit.cli.app import app, run
from ddkit.listing import KINDS
from ddkit.testing import untrained_teacher

COMMANDS = [
    "demo",
    "distill",
    "teach",
    "relabel",
    "import",
    "train",
    "evaluate",
    "export",
    "plan",
    "inspect",
    "preview",
    "list",
    "env",
    "card",
    "push",
    "pull",
    "verify",
    "repair",
]


@pytest.fixture
def ddkit(monkeypatch, capsys):
    """Run `ddkit …` in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ddkit", *map(str, arguments)])
        output.State.as_json = output.State.debug = False
        code = run()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_help_names_every_command_and_its_options():
    runner = CliRunner()
    top = runner.invoke(app, ["--help"])
    assert top.exit_code == 0
    assert all(re.search(rf"\b{name}\b", top.output) for name in COMMANDS)
    for name in COMMANDS:
        page = runner.invoke(app, [name, "--help"], env={"COLUMNS": "200"})
        assert page.exit_code == 0 and "--json" in page.output and "--quiet" in page.output, name


def test_the_options_are_pinned():
    page = CliRunner().invoke(app, ["distill", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert set(re.findall(r"(?<=\s)--[a-z-]+", page)) >= {
        "--data", "--method", "--ipc", "--teacher", "--recipe", "--set", "--protocol", "--views", "--size", "--classes",
        "--holdout", "--prefixes", "--seed", "--codec", "--image-format", "--split", "--image-column", "--label-column",
        "--skip-bad", "--device", "--workers", "--yes", "--overwrite", "--baseline", "--json", "--quiet", "--debug",
    }  # fmt: skip


def test_from_distil_to_train(ddkit, tmp_path, teacher, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["--data", "digits", "--method", "random", "--protocol", "demo", "--views", "2", "--teacher", teacher]
    code, out, err = ddkit("distill", "set", *common, "--ipc", 1, "--workers", 1)
    assert code == 0, err
    assert "10 images, 2 views each" in out and "verified" in out and "next: ddkit train set" in out
    assert "labelling" in err and "labelling" not in out
    code, out, err = ddkit("train", "set", "--epochs", 1)
    assert code == 0 and "not measured, give --val" in out and "next: ddkit evaluate set --val SOURCE" in out
    assert (tmp_path / "random-digits-ipc1-convnet3-w32.png").is_file()
    code, out, _ = ddkit("train", "set", "--epochs", 1, "--val", "digits", "--out", "s.safetensors", "--json")
    assert code == 0 and set(json.loads(out)) >= {"accuracy", "checkpoint", "epochs", "seconds", "log", "picture"}
    code, out, err = ddkit(
        "evaluate", "set", "--val", "digits", "--runs", 1, "--epochs", 1, "--baseline", "none", "--workers", 1
    )
    assert code == 0, err
    assert "accuracy %" in out and "sets x students" in out and "demo+epochs=1" in out
    code, out, _ = ddkit("verify", "set")
    assert code == 0 and "10 rows in 1 shards match the manifest" in out
    code, out, _ = ddkit("inspect", "set")
    assert code == 0 and "random-digits-ipc1" in out and "1 sets, 1 students" in out
    code, out, _ = ddkit("inspect", "set", "--json")
    assert json.loads(out)["ipc"] == 1
    code, out, _ = ddkit("preview", "set", "--out", "p.png")
    assert code == 0 and (tmp_path / "p.png").is_file() and (tmp_path / "p-views.png").is_file()
    code, out, _ = ddkit("card", "set")
    assert code == 0 and "README.md" in out
    code, out, err = ddkit("distill", "set", "--ipc", 2, "--quiet", "--workers", 1)
    assert code == 0 and err == "" and "20 images" in out
    code, out, err = ddkit("relabel", "set", "other", "--teacher", teacher, "--views", 1, "--workers", 1)
    assert code == 0 and "20 images, 1 views" in out, err


@pytest.mark.parametrize(("what", "word"), [
    ("methods", "rded"), ("recipes", "rded-cifar10"), ("protocols", "common"), ("networks", "convnet3"),
    ("codecs", "fp16"),
])  # fmt: skip
def test_lists(ddkit, what, word):
    code, out, _ = ddkit("list", what)
    assert code == 0 and word in out
    code, out, _ = ddkit("list", what, "--json")
    assert word in {entry["name"] for entry in json.loads(out)}


def test_env(ddkit):
    code, out, _ = ddkit("env", "--json")
    facts = json.loads(out)
    assert code == 0 and {"torch", "python", "hardware"} <= set(facts) and facts["ddkit"] == __version__


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["distill", "OUT"], 2, "--data is missing"),
        (["distill", "OUT", "--data", "nowhere"], 2, "no such folder or file: nowhere"),
        (["distill", "OUT", "--data", "digits", "--ipc", "0"], 2, "--ipc is 0"),
        (["distill", "OUT", "--data", "digits", "--ipc", "many"], 2, "--ipc.*see ddkit --help"),
        (["distill", "OUT", "--data", "digits", "--views", "0"], 2, "--views is 0"),
        (["distill", "OUT", "--data", "digits", "--method", "cuddle"], 2, "valid: .*random, rded"),
        (["distill", "OUT", "--data", "digits", "--method", "rded", "--set", "pol=3"], 2, "crops, factor, pool, sti"),
        (["distill", "OUT", "--data", "digits", "--set", "crop.mini=1"], 2, "did you mean crop.min"),
        (["export", "digits", "OUT", "--as", "zip"], 2, "valid: folder, parquet, shards"),
        (["teach", "OUT.safetensors", "--data", "digits"], 2, "--arch is missing.*--init"),
        (["distill", "OUT", "--data", "digits", "--set", "pool"], 2, "KEY=VALUE"),
        (["distill", "OUT", "--data", "digits", "--recipe", "rdd"], 2, "unknown recipe"),
        (["distill", "OUT", "--data", "digits", "--codec", ""], 2, "unknown codec"),
        (["distill", "OUT", "--data", "digits", "--device", "meta"], 2, "--device cpu"),
        (["distill", "OUT", "--data", "digits", "--prefixes", "a,b"], 2, "comma-separated"),
        (["distill", "OUT", "--data", "digits", "--teacher", "train:resnet99"], 2, "resnet18-small"),
        (["distill", "OUT", "--data", "digits", "--classes", "3"], 2, "one class"),
        (["distill", "OUT", "--data", "EMPTY"], 2, "empty"),
        (["distill", "OUT", "--data", "digits", "--teacher", "PICKLE"], 2, "pickle"),
        (["distill", "OUT", "--data", "digits", "--teacher", "SEVEN"], 2, "knows 7 classes"),
        (["distill", "FOREIGN", "--data", "digits"], 3, "not a distilled set"),
        (["distill", "/", "--data", "digits"], 2, "/ cannot hold a set"),
        (["distill", ".", "--data", "digits"], 3, "not empty and not a distilled set"),
        (["teach", "x.safetensors", "--data", "digits", "--arch", "nonet"], 2, "unknown network"),
        (["train", "nowhere"], 2, "no directory nowhere"),
        (["train", "EMPTY"], 2, "not a finished distilled set"),
        (["train", "SET", "--arch", "nonet"], 2, "unknown network"),
        (["train", "SET", "--protocol", "rded"], 2, "ddkit relabel"),
        (["train", "SET", "--val", "PHOTOS"], 2, "ant, bee, cat"),
        (["train", "FORMAT3"], 3, "format 3"),
        (["train", "SET", "--nonsense"], 2, "--nonsense"),
        (["inspect", "FOREIGN"], 2, "not a finished distilled set"),
        (["verify", "DAMAGED"], 4, "train-ipc002-00000.tar"),
        (["train", "DAMAGED"], 4, "train-ipc002-00000.tar"),
        (["list", "everything"], 2, "methods, networks, protocols, recipes"),
        (["plan"], 2, "--data is missing.*--dataset cifar10"),
        (["plan", "--dataset", "imagenet"], 2, "unknown dataset.*imagenet-1k"),
        (["plan", "--dataset", "cifar10", "--data", "digits"], 2, "drop one"),
        (["plan", "--dataset", "cifar10", "--device-speed", "fast"], 2, "--device-speed is 'fast'.*4090"),
        (["plan", "--dataset", "cifar10", "--devices", "0"], 2, "--devices is 0"),
        (["unheard-of"], 2, "unheard-of"),
    ],
)
def test_every_user_error_is_one_line(ddkit, tmp_path, random_set, photographs, arguments, code, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FOREIGN").mkdir()
    (tmp_path / "FOREIGN" / "thesis.tex").write_text("x")
    (tmp_path / "PICKLE").write_bytes(b"\x80\x04.")
    untrained_teacher(tmp_path / "SEVEN", classes=7)
    for name in ("SET", "DAMAGED", "FORMAT3"):
        if name in arguments:
            shutil.copytree(random_set.root, tmp_path / name)
    if "DAMAGED" in arguments:
        tar = tmp_path / "DAMAGED" / random_set.shards[0].path
        data = bytearray(tar.read_bytes())
        data[2000] ^= 1
        tar.write_bytes(data)
    if "FORMAT3" in arguments:
        path = tmp_path / "FORMAT3" / "ddkit.json"
        path.write_text(path.read_text().replace('"format": 1', '"format": 3'))
    before = sorted(tmp_path.rglob("*"))
    got, out, err = ddkit(*[str(photographs) if a == "PHOTOS" else a for a in arguments])
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert got == code and len(errors) == 1 and err.splitlines()[-1] == errors[0], err
    assert re.search(words, errors[0]) and "Traceback" not in err and not out.startswith("error")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_defect_is_one_line_too(ddkit, monkeypatch):
    monkeypatch.setattr("ddkit.sets.opening.read_manifest", lambda directory: 1 / 0)
    code, _, err = ddkit("verify", "x")
    assert code == 1 and "unexpected ZeroDivisionError" in err and "--debug" in err and "Traceback" not in err


def test_debug_shows_the_traceback(ddkit):
    _, _, err = ddkit("inspect", "nowhere", "--debug")
    assert "Traceback" in err and err.splitlines()[-1].startswith("error: ")


def test_ctrl_c_is_one_line(ddkit, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddkit.format.manifest.Path.is_dir", stopped)
    code, _, err = ddkit("inspect", "x")
    assert code == 130 and "to continue" in err


def test_skip_bad_counts_what_it_leaves_out(ddkit, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    guide = untrained_teacher(tmp_path / "t.safetensors", classes=3)
    from test_pipeline import guide_classes

    guide_classes(guide, ["ant", "bee", "cat"])
    (photographs / "bee" / "2.jpg").write_bytes(b"broken")
    common = [
        "distill",
        "out",
        "--data",
        photographs,
        "--method",
        "random",
        "--ipc",
        2,
        "--views",
        1,
        "--teacher",
        guide,
    ]
    code, _, err = ddkit(*common)
    assert code == 2 and "bee/2.jpg" in err and "--skip-bad" in err and not (tmp_path / "out.work").exists()
    code, _, err = ddkit(*common, "--skip-bad", "--workers", 1)
    assert code == 0, err
    assert json.loads((tmp_path / "out" / "ddkit.json").read_text())["log"]["skipped"] == ["bee/2.jpg"]
    assert "; 1 unreadable image left out." in (tmp_path / "out" / "README.md").read_text()
    code, out, err = ddkit("train", "out", "--epochs", 1, "--arch", "convnet3")
    assert code == 0 and "%" in out, err


ODD = [
    (("relabel", "SET", "x", "--teacher", "t", "--views", "0"), "--views is 0"),
    (("distill", "x", "--data", "digits", "--workers", "-1"), "--workers is -1"),
    (("distill", "x.work", "--data", "digits"), "names that end in .work"),
    (("train", "SET", "--same-order"), "--same-order says how to read --val"),
    (("evaluate", "SET", "--split", "test"), "--split says how to read --val"),
]


@pytest.mark.parametrize(("words", "says"), ODD)
def test_odd_requests_are_said_no_to(ddkit, random_set, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    code, _, err = ddkit(*(str(random_set.root) if word == "SET" else word for word in words))
    assert code == 2 and says in err and list(tmp_path.iterdir()) == []


def test_out_may_not_lie_inside_its_source(ddkit, photographs):
    code, _, err = ddkit("distill", photographs / "out", "--data", photographs, "--method", "random")
    assert code == 2 and "lies inside its source" in err and not (photographs / "out").exists()


# ------------------------------------------------------------------ publishing

CANARY = "hf_canaryDoNotPrintThis"


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_push_and_pull_as_json_and_in_words(ddkit, hub, random_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(random_set.root, tmp_path / "mine")
    code, out, err = ddkit("push", copy, "lab/digits", "--license", "mit", "--dry-run")
    assert code == 0 and "send " in out and out.rstrip().endswith("lab/digits --license mit") and hub.repos == {}
    code, out, err = ddkit("push", copy, "lab/digits", "--license", "mit", "--json", "--quiet")
    done = json.loads(out)
    assert code == 0 and err == "" and done["repo"] == "lab/digits" and done["commit"] and not done["dry_run"]
    code, out, err = ddkit("pull", "lab/digits", "got")
    assert code == 0 and "verified" in out and out.rstrip().endswith("next: ddkit train got")
    code, out, err = ddkit("verify", "lab/digits")
    assert code == 0 and "by the Hub's sha256" in out
    code, out, err = ddkit("inspect", "lab/digits", "--json")
    assert json.loads(out)["repo"] == "lab/digits"
    assert ddkit("export", "got", "folders", "--as", "folder")[0] == 0


FAILURES = [
    (("push", "SET", "digits", "--license", "mit"), 2, "ORG/NAME"),
    (("push", "SET", "lab/digits"), 3, "--license"),
    (("push", "SET", "lab/digits", "--license", "apache"), 2, "did you mean apache-2.0"),
    (("push", "nowhere", "lab/digits", "--license", "mit"), 2, "no directory nowhere"),
    (("push", "SET", "carol/x", "--license", "mit"), 2, "may not do that"),
    (("pull", "lab/none", "x"), 2, "no dataset lab/none"),
    (("train", "lab/none"), 2, "no dataset lab/none"),
    (("evaluate", "lab/none"), 2, "ddkit pull lab/none DIR"),
    (("import", "SET", "x", "--method", "a b", "--teacher", "t"), 2, "--method"),
]


@pytest.mark.parametrize(("words", "code", "says"), FAILURES)
def test_publishing_fails_in_one_line(ddkit, hub, random_set, words, code, says):
    found, _, err = ddkit(*(str(random_set.root) if word == "SET" else word for word in words))
    last = err.strip().splitlines()[-1]
    assert found == code and last.startswith("error: ") and says in last, err


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_an_argument_that_holds_the_token_is_refused(hub, random_set, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setattr("sys.argv", ["ddkit", "push", str(random_set.root), "lab/x", "--revision", f"a-{CANARY}"])
    assert run() == 2 and not hub.requests  # else the branch would have that name
    told = capsys.readouterr()
    assert "an argument holds the Hub's token" in told.err and CANARY not in told.err + told.out


@pytest.mark.parametrize("refused", [False, True])
def test_no_output_holds_the_token(hub, random_set, tmp_path, refused):
    """In a process of its own, with the client's debug log on and a traceback asked for."""
    from loopback import User

    hub.users = {} if refused else {CANARY: User("ann", ("lab",))}
    copy = shutil.copytree(random_set.root, tmp_path / "mine")
    env = os.environ | {"HF_TOKEN": CANARY, "HF_DEBUG": "1", "HF_HOME": str(tmp_path / "hf")}
    words = ["push", str(copy), "lab/digits", "--license", "mit", "--debug"]
    ran = subprocess.run([sys.executable, "-m", "ddkit", *words], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert ran.returncode == (2 if refused else 0), ran.stderr
    assert "Authorization" in ran.stderr or "authorization" in ran.stderr.lower()  # the debug log was on
    assert CANARY not in ran.stdout + ran.stderr
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert files and all(CANARY.encode() not in p.read_bytes() for p in files)
    if not refused:
        repo = hub.repos["dataset", "lab/digits"]
        assert all(CANARY.encode() not in repo.read(path) for path in repo.files())


def test_the_version_and_all_lists_without_a_word(ddkit):
    assert ddkit("--version") == (0, f"ddkit {__version__}\n", "")
    code, out, _ = ddkit("list")
    assert code == 0 and out.splitlines() == [f"ddkit list {kind}" for kind in KINDS]
