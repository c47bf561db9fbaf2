"""The steps of the Python module that shares our token file, as a process for each call.

hook.py tokens.json prestart|poststop < state.json

Lock, load, change, write a temporary file, rename. It does not sync, and does not check
which processes are dead.
"""

import fcntl
import json
import os
import secrets
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def changed(path):
    """The tokens, to be changed and written back under the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            tokens = json.loads(path.read_text())
        except FileNotFoundError:
            tokens = {}
        yield tokens
        fd, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(fd, "w") as file:
            file.write(json.dumps(tokens, indent=2) + "\n")
        os.replace(temporary, path)


def create_token(path, project, task):
    token = "terok-g-" + secrets.token_hex(16)
    with changed(path) as tokens:
        tokens[token] = {"project": project, "task": task}
    return token


def revoke_token_for_task(path, project, task):
    with changed(path) as tokens:
        for token, grant in list(tokens.items()):
            if grant.get("project") == project and grant.get("task") == task:
                del tokens[token]


def main():
    path, stage = Path(sys.argv[1]), sys.argv[2]
    annotations = json.load(sys.stdin)["annotations"]
    change = create_token if stage == "prestart" else revoke_token_for_task
    change(path, annotations["terok.project"], annotations["terok.task"])


if __name__ == "__main__":
    main()
