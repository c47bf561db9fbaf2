"""A program that shares the token file and uses none of our code, only the standard library.

    writer.py write FILE NAME OPERATIONS   adds and removes tokens, prints which
    writer.py watch FILE                   reads until standard input ends, prints how often
"""

import fcntl
import json
import os
import random
import select
import sys
import tempfile


def transaction(path, edit):
    with open(path + ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(path) as file:
            tokens = json.load(file)
        result = edit(tokens)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".py-")
        with os.fdopen(handle, "w") as file:
            json.dump(tokens, file, indent=2)
            file.write("\n")
        os.replace(temporary, path)
        return result


def write(path, name, operations):
    pick = random.Random(name)
    own, issued, revoked = [], {}, []

    def add(tokens):
        token = "terok-g-%032x" % pick.getrandbits(128)
        # Keys that the Go program does not know, and numbers too large for it, must stay as they are.
        tokens[token] = {"project": "demo", "task": name, "note": "é🔑", "big": pick.getrandbits(200)}
        issued[token] = tokens[token]
        own.append(token)

    def remove(tokens):
        # Its own, or any writer's: an operator's programs revoke what they like.
        candidates = [t for t in own if t in tokens] if pick.random() < 0.7 else sorted(t for t in tokens if t != "stranger")
        if candidates:
            token = pick.choice(candidates)
            del tokens[token]
            revoked.append(token)

    for _ in range(operations):
        transaction(path, add if pick.random() < 0.52 else remove)
    json.dump({"issued": issued, "revoked": revoked}, sys.stdout)


def watch(path):
    reads, last, versions = 0, None, 0
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        with open(path) as file:
            tokens = json.load(file)
        assert isinstance(tokens, dict), "not an object"
        reads += 1
        if tokens.keys() != last:
            last, versions = tokens.keys(), versions + 1
    json.dump({"reads": reads, "versions": versions}, sys.stdout)


if sys.argv[1] == "write":
    write(sys.argv[2], sys.argv[3], int(sys.argv[4]))
else:
    watch(sys.argv[2])
