"""Commands in forks of one process, and what a folder holds."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path


class Runner:
    """Commands in forks of one process that has imported everything."""

    def __init__(self, **environment):
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("runner.py"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1"} | environment,
        )  # fmt: skip
        assert self._process.stdout.readline() == "ready\n"

    def run(self, cwd, *commands):
        """{"code", "out", "err", "grown": bytes of memory, "seconds"} of each command, as a list."""
        asked = {"commands": [[str(a) for a in argv] for argv in commands], "cwd": str(cwd)}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def stop(self):
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._process.stdout.close()

    @staticmethod
    def tree(root):
        """Every file, link and folder below, with what it holds."""
        found = {}
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif path.is_file():
                small = path.stat().st_size < 10_000_000
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if small else path.stat().st_size
            else:
                found[name] = None
        return found
