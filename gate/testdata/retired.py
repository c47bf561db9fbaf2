"""Does the work of the gate that ours replaces, and of the program that wrote its token file.
The first version had the project of an entry under the key "project", the next under
"scope": KEY is the one or the other.

    retired.py serve FILE KEY REPOSITORIES      prints its port, serves until standard input ends
    retired.py create FILE KEY PROJECT TASK     prints a new token
    retired.py revoke FILE KEY PROJECT TASK     revokes the tokens of a task
"""

import base64
import fcntl
import http.server
import json
import os
import secrets
import subprocess
import sys
import threading

file, key = sys.argv[2:4]


def read():
    """The entries that count. The others are as good as not there."""
    try:
        with open(file, encoding="utf-8") as f:
            tokens = json.load(f)
    except FileNotFoundError:
        return {}
    return {
        token: entry
        for token, entry in tokens.items()
        if isinstance(entry, dict) and isinstance(entry.get(key), str) and isinstance(entry.get("task"), str)
    }


def change(edit):
    with open(file + ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tokens = read()
        if edit(tokens):
            with open(file + ".new", "w", encoding="utf-8") as f:
                json.dump(tokens, f, indent=2)
                f.write("\n")
            os.replace(file + ".new", file)


def create(project, task):
    token = "terok-g-" + secrets.token_hex(16)

    def add(tokens):
        tokens[token] = {key: project, "task": task}
        return True

    change(add)
    print(token)


def revoke(project, task):
    def remove(tokens):
        theirs = [t for t, entry in tokens.items() if entry[key] == project and entry["task"] == task]
        for token in theirs:
            del tokens[token]
        return theirs

    change(remove)


class Gate(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Basic":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="gate"')
            self.end_headers()
            return
        token = base64.b64decode(credentials).decode().partition(":")[0]
        entry = read().get(token)
        if not token or entry is None or not path.startswith("/" + entry[key] + ".git/"):
            self.send_error(403)
            return
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": sys.argv[4],
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "REMOTE_USER": "token",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        out = subprocess.run(["git", "http-backend"], input=body, env=environment, stdout=subprocess.PIPE, check=True).stdout
        head, _, content = out.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().splitlines()]
        self.send_response(next((int(value[:3]) for name, value in fields if name == "Status"), 200))
        for name, value in fields:
            if name != "Status":
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def serve(_):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


globals()[sys.argv[1]](*sys.argv[4:])
