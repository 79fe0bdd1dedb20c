"""No source reads a file of the user's, unpacks a bomb, runs code, or ends in more than one line."""

from hostile import sources

HOLDS = 700_000_000  # bytes by which memory may grow


def distil(root, teacher, name=""):
    given = sources.OPTIONS.get(name, ["--protocol", "demo"])
    return ["distill", "out", "--data", "source", "--method", "random", "--ipc", "1", "--views", "1", "--workers", "1",
            "--teacher", teacher, "--holdout", "0.3", *given]  # fmt: skip


def refused(told):
    assert told["code"] in (1, 2, 3, 4), told
    assert told["err"].count("error: ") == 1 and told["err"].splitlines()[-1].startswith("error: "), told["err"]
    assert len(told["err"]) < 6000 and "defect" not in told["err"], told["err"]
    assert told["grown"] < HOLDS, f"memory grew by {told['grown'] / 1e6:.0f} MB"


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", sources.CASES)


def test_a_hostile_source_is_refused(name, runner, outside, teacher):
    sources.CASES[name](outside)
    before = runner.tree(outside)
    (told,) = runner.run(outside, distil(outside, teacher, name))
    refused(told)
    assert runner.tree(outside) == before
    assert "the secret" not in told["err"] + told["out"]


def test_the_good_ones_go_through(runner, outside, teacher):
    """Else the cases above would be refused for nothing; labels that are missing do not stop a holdout."""
    labels = [None if i == 3 else str(i % 10) for i in range(60)]
    (outside / "source").mkdir()
    import pyarrow
    from pyarrow import parquet

    cells = pyarrow.array([{"bytes": sources.png(i), "path": f"{i}.png"} for i in range(60)])
    parquet.write_table(
        pyarrow.table({"image": cells, "label": pyarrow.array(labels)}), outside / "source" / "t.parquet"
    )
    told, trained = runner.run(
        outside, distil(outside, teacher), ["train", "out", "--epochs", "1", "--out", "s.safetensors"]
    )
    assert told["code"] == 0, told
    assert trained["code"] == 0 and "holdout" in trained["out"], trained
