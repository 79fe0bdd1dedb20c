"""One process that has everything imported and forks itself for each command, so that a hundred cases take seconds.

    python runner.py        JSON lines in: {"commands": [[...], ...], "cwd": "..."}; out: one of these a command, in a
                            list: {"code", "out", "err", "grown", "seconds"}

The commands of a line run one after the other in one fork. `grown` is by how many bytes its memory rose above the
parent's at its peak.
"""

import contextlib
import gc
import json
import os
import resource
import sys
import time
import traceback


def prepare():
    """Import what commands use, without starting threads: a fork keeps none of them."""
    import torch

    torch.set_num_threads(1)
    import charset_normalizer  # noqa: F401
    import datasets.packaged_modules.parquet.parquet
    import datasets.packaged_modules.webdataset.webdataset  # noqa: F401
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401
    import scipy.optimize  # noqa: F401
    import timm.data  # noqa: F401
    from huggingface_hub.utils import _http
    from PIL import Image

    import ddkit.evaluation.tables  # noqa: F401
    import ddkit.hub.responses
    import ddkit.hub.retries
    import ddkit.pipeline.importing  # noqa: F401
    import ddkit.publishing.pulling  # noqa: F401
    import ddkit.publishing.pushing  # noqa: F401
    import ddkit.publishing.spaces  # noqa: F401
    import ddkit.sources.exporting  # noqa: F401
    from ddkit.cli import app  # noqa: F401

    with contextlib.suppress(ImportError):  # typer imports them at the first option of a command, if it has them
        import pydantic.type_adapter  # noqa: F401
        import typer._adapters  # noqa: F401

    Image.init()
    ddkit.hub.retries.PAUSES_S = (0.0,) * 5
    ddkit.hub.responses.MOST_PAGES = 30
    _http.time.sleep = lambda seconds: None
    gc.collect()
    gc.freeze()  # pages that the forks share are not touched


def command(argv, cwd):
    """Run `ddkit argv` in this process, a fork; returns the exit code."""
    from ddkit.cli import app

    os.chdir(cwd)
    sys.argv = ["ddkit", *argv]
    try:
        return app.run()
    except SystemExit as stop:
        return stop.code
    except BaseException:  # noqa: B036 (a crash is what the tests look for)
        traceback.print_exc()
        return 99


def forked(commands, cwd):
    """Run commands in a fork and say how each went."""
    file = os.path.join(cwd, ".told.json")
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
        told = [one(argv, cwd) for argv in commands]
        with open(file, "w") as opened:
            json.dump(told, opened)
        os._exit(0)
    deadline = time.monotonic() + 60
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            break
        time.sleep(0.002)
    if not os.path.exists(file):
        return [{"code": "hangs or is killed", "out": "", "err": "", "grown": 0, "seconds": 60.0}]
    with open(file) as opened:
        told = json.load(opened)
    os.unlink(file)
    return told


def one(argv, cwd):
    """How one command goes in this process."""
    files = [os.path.join(cwd, f".{name}.txt") for name in ("out", "err")]
    for number, path in enumerate(files, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = command(argv, cwd)
    sys.stdout.flush()
    sys.stderr.flush()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    texts = {}
    for name, path in zip(("out", "err"), files):
        with open(path, encoding="utf-8", errors="replace") as told:
            texts[name] = told.read()
        os.unlink(path)
    return {"code": code, "grown": grown, "seconds": time.monotonic() - began} | texts


if __name__ == "__main__":
    prepare()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        sys.stdout.write(json.dumps(forked(asked["commands"], asked["cwd"])) + "\n")
        sys.stdout.flush()
