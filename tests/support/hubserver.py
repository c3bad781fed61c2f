"""A small Hub on loopback: enough of the real one's API for the real client, and its bad days."""

import base64
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".jsonl")  # stored like files in LFS: behind a redirect to another host


@dataclass
class Stored:
    """A repository: its commits, each with all its files, and who may see and write it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs["main"] = sha
        return sha

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]


@dataclass
class Fault:
    """What goes wrong with the next answers to requests whose path matches."""

    pattern: str
    kind: str  # "cut", "short", "wrong size", "no range", "flip", or a status
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0  # bytes that still come where the connection is cut, or before the wrong one
    skip: int = 0  # matching requests that are answered well before


@dataclass
class Asked:
    """A request as it came in."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    at: float


class Hub:
    """The server and its storage on another port, with what they have been asked and have sent."""

    def __init__(self) -> None:
        self.repositories: dict[str, Stored] = {}
        self.blobs: dict[str, bytes] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.asked: list[Asked] = []
        self.sent: Counter[str] = Counter()  # bytes of files, by name
        self.ranges: list[tuple[str, int, int]] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.url = self.storage = ""
        self.after_upload: Callable[[], None] = lambda: None

    def add(self, name: str, folder: Path, **settings: Any) -> str:
        """A repository with the files of a folder; gives its commit."""
        self.repositories[name] = Stored(**settings)
        return self.update(name, folder)

    def update(self, name: str, folder: Path) -> str:
        """Another commit on main, with the files of a folder."""
        return self.repositories[name].commit(
            {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        )

    def user(self, token: str, name: str = "me", role: str = "write", orgs: Any = ()) -> str:
        """Make a token known."""
        self.tokens[token] = {
            "type": "user", "name": name,
            "orgs": [{"name": org, "roleInOrg": "write"} for org in orgs],
            "auth": {"accessToken": {"role": role}},
        }  # fmt: skip
        return token

    def fail(self, pattern: str, kind: str, times: int = 1, **settings: Any) -> None:
        self.faults.append(Fault(pattern, kind, times, **settings))

    def fault(self, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, path):
                    if fault.skip:
                        fault.skip -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that answers until the end of the block."""
    hub = Hub()
    servers = []
    for host in ("hub", "storage"):
        handler = type(host, (_Answer,), {"hub": hub, "host": host})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        servers.append(server)
    hub.url, hub.storage = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(status)
        self.status, self.code, self.message = status, code, message


class _Answer(BaseHTTPRequestHandler):
    """One connection."""

    hub: Hub
    host: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        self.body = self._chunks() if chunked else self.rfile.read(length)
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.host, self.command, self.path, headers, time.monotonic())
        with self.hub.lock:
            self.hub.asked.append(asked)
        path = unquote(parts.path)
        try:
            fault = self.hub.fault(self.path)
            if fault and fault.kind.isdigit():
                raise _Refused(int(fault.kind), message=json.dumps(fault.headers))
            if self.host == "storage":
                self._storage(path, fault)
            else:
                self._hub(path, fault)
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            if refused.message.startswith("{"):
                headers |= json.loads(refused.message)
            elif refused.message:
                headers["X-Error-Message"] = refused.message
            self._send(refused.status, b'{"error": "no"}', headers)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _hub(self, path: str, fault: Fault | None) -> None:
        if path == "/api/whoami-v2":
            return self._json(self._who(needed=True))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(self.body))
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(found[1])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(found[1], found[2], found[3], fault)
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/([a-z-]+)(?:/(.+))?)?", path)
        if not found:
            raise _Refused(404)
        name, verb, rest = found.groups()
        if verb in (None, "revision"):
            return self._info(name, rest)
        if verb == "tree":
            return self._tree(name, rest)
        if verb == "auth-check":
            self._repository(name, write=True)
            return self._json({})
        if verb == "preupload":
            return self._preupload(name)
        if verb == "commit":
            return self._commit(name)
        raise _Refused(404)

    # Reading

    def _who(self, *, needed: bool = False) -> dict[str, Any]:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        if needed and not token:
            raise _Refused(401)
        return self.hub.tokens.get(token, {})

    def _is_of(self, name: str) -> bool:
        who = self._who()
        return name.split("/")[0] in [
            who.get("name"),
            *(org["name"] for org in who.get("orgs", [])),
        ]

    def _may_write(self, name: str) -> bool:
        return self._is_of(name) and self._who()["auth"]["accessToken"]["role"] != "read"

    def _repository(self, name: str, *, write: bool = False) -> Stored:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._is_of(name)):
            self._who()
            raise _Refused(404 if self._who() else 401, "RepoNotFound", "Repository not found")
        if write and not self._may_write(name):
            raise _Refused(403, message="Forbidden")
        return found

    def _files(self, name: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        found = self._repository(name)
        commit = found.refs.get(revision or "main", revision)
        if commit not in found.commits:
            raise _Refused(404, "RevisionNotFound", "Invalid rev id")
        return str(commit), found.commits[str(commit)]

    def _info(self, name: str, revision: str | None) -> None:
        commit, files = self._files(name, revision)
        stored = self.hub.repositories[name]
        siblings = [
            {"rfilename": file, "size": len(data), "blobId": _git(data), **_lfs(file, data)}
            for file, data in files.items()
        ]
        self._json(
            {
                "id": name, "sha": commit, "private": stored.private, "gated": stored.gated,
                "siblings": siblings, "tags": [], "downloads": 0, "likes": 0,
            }
        )  # fmt: skip

    def _tree(self, name: str, revision: str) -> None:
        _, files = self._files(name, revision)
        rows = []
        for file, data in files.items():
            row = {"type": "file", "path": file, "size": len(data), "oid": _git(data)}
            if file.endswith(LARGE):
                row["lfs"] = {"oid": _sha(data), "size": len(data), "pointerSize": 130}
            rows.append(row)
        self._json(rows)

    def _resolve(self, name: str, revision: str, file: str, fault: Fault | None) -> None:
        if self.hub.repositories.get(name, Stored()).gated and not self._who():
            raise _Refused(403, "GatedRepo", "Access to this model is restricted")
        commit, files = self._files(name, revision)
        if file not in files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        data = files[file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_git(data)}"'}
        if not file.endswith(LARGE):
            return self._data(file, data, headers, fault)
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{_sha(data)}"'}
        self.hub.blobs[_sha(data)] = data
        location = f"{self.hub.storage}/{_sha(data)}/{file}?Signature=secret-signature"
        return self._send(302, b"", {**headers, "Location": location})

    def _storage(self, path: str, fault: Fault | None) -> None:
        if "Authorization" in self.headers:
            raise _Refused(400, message="a token came along")
        if self.query.get("Signature") != ["secret-signature"]:
            raise _Refused(403)
        oid, _, file = path.strip("/").partition("/")
        if self.command == "PUT":
            assert _sha(self.body) == oid
            self.hub.blobs[oid] = self.body
            self._send(200, b"")
            return self.hub.after_upload()
        return self._data(file, self.hub.blobs[oid], {}, fault)

    def _data(self, file: str, data: bytes, headers: dict[str, str], fault: Fault | None) -> None:
        size, status, start = len(data), 200, 0
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        kind = fault.kind if fault else ""
        if wanted and kind != "no range":
            start, stop = int(wanted[1]), min(int(wanted[2] or size - 1) + 1, size)
            if kind == "short":
                stop = start + (stop - start + 1) // 2
            status, data = 206, data[start:stop]
            told = size + 1 if kind == "wrong size" else size
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{told}"
        if kind == "flip":  # one bit of the answer
            data = bytearray(data)
            data[min(fault.after, len(data) - 1)] ^= 1
        cut = fault.after if fault and kind == "cut" else None
        self._send(status, data, headers, cut=cut)
        if self.command == "GET":
            with self.hub.lock:
                count = len(data) if cut is None else min(cut, len(data))
                self.hub.sent[file] += count
                self.hub.ranges.append((file, start, start + count))

    # Writing

    def _create(self, wish: dict[str, Any]) -> None:
        who = self._who(needed=True)
        name = f"{wish.get('organization') or who['name']}/{wish['name']}"
        if not self._may_write(name):
            raise _Refused(403, message="You have no right to create this")
        if name in self.hub.repositories:
            raise _Refused(409, message="You already created this model repo")
        made = Stored(private=wish.get("visibility") == "private")
        made.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self.hub.repositories[name] = made
        self._json({"url": f"{self.hub.url}/{name}"})

    def _preupload(self, name: str) -> None:
        files = self._repository(name, write=True).files
        answers = []
        for wish in json.loads(self.body)["files"]:
            path = wish["path"]
            mode = "lfs" if path.endswith(LARGE) else "regular"
            old = files.get(path)
            oid = None if old is None else _sha(old) if mode == "lfs" else _git(old)
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def _batch(self, name: str) -> None:
        self._repository(name, write=True)
        wish = json.loads(self.body)
        rows = []
        for row in wish["objects"]:
            url = f"{self.hub.storage}/{row['oid']}?Signature=secret-signature"
            actions = {} if row["oid"] in self.hub.blobs else {"actions": {"upload": {"href": url}}}
            rows.append({**row, **actions})
        self._json({"transfer": "basic", "objects": rows})

    def _commit(self, name: str) -> None:
        stored = self._repository(name, write=True)
        files = dict(stored.files)
        for line in self.body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif row["key"] == "deletedFile":
                del files[value["path"]]
        sha = stored.commit(files)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})

    # Sending

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:  # fmt: skip
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.wfile.write(body if cut is None else body[:cut])
        except OSError:  # the other side has had enough
            self.close_connection = True
        if cut is not None:
            self.close_connection = True


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _lfs(file: str, data: bytes) -> dict[str, Any]:
    if not file.endswith(LARGE):
        return {}
    return {"lfs": {"sha256": _sha(data), "size": len(data), "pointerSize": 130}}
