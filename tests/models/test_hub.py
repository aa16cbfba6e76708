"""Fetching from the hub, against a stand-in of its HTTP interface on loopback: the two requests that a download makes.

HEAD /owner/repo/resolve/REVISION/FILE    X-Repo-Commit, X-Linked-Etag (the sha256), X-Linked-Size
GET  the same                             the bytes, from `Range` on
"""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from multispin_models.cache import cached_path
from multispin_models.errors import ModelError
from multispin_models.hub import fetch_from_hub

pytest.importorskip("huggingface_hub")

CONTENT = b"GGUF" + bytes(i * i % 251 for i in range(300_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = f"/owner/repo/resolve/{COMMIT}/dir/model.gguf"


class Hub(ThreadingHTTPServer):
    """A hub with one repository and one file.

    Attributes:
        requests: (method, path, Range) of each request, in order.
        etag: of the file.
        refusals: HTTP status and X-Error-Code with which a path is refused.
        breaks_after: bytes after which a GET is broken off, and the later ones fail; null for never.
        authorizations: the header of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, str | None]] = []
        self.authorizations: list[str | None] = []
        self.etag = SHA256
        self.refusals: dict[str, tuple[int, str]] = {}
        self.breaks_after: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        if self._refused():
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", '"of-the-pointer-file"')
        self.send_header("X-Linked-Etag", f'"{self.server.etag}"')
        self.send_header("X-Linked-Size", str(len(CONTENT)))
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

    def do_GET(self) -> None:
        if self._refused():
            return
        begin = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        limit = self.server.breaks_after
        self.wfile.write(CONTENT[begin:] if limit is None else CONTENT[begin:limit])
        if limit is not None:
            self.server.refusals[self.path] = (500, "")
            self.close_connection = True

    def _refused(self) -> bool:
        self.server.requests.append((self.command, self.path, self.headers["Range"]))
        self.server.authorizations.append(self.headers["Authorization"])
        status, code = self.server.refusals.get(self.path, (200 if self.path == FILE else 404, "EntryNotFound"))
        if status == 200:
            return False
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "refused")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the library
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("MULTISPIN_CACHE", str(tmp_path / "cache"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(hub: Hub, file: str = "dir/model.gguf", sha256: str = SHA256) -> Path:
    return fetch_from_hub("owner/repo", file, COMMIT, sha256, endpoint=hub.url)


def test_a_file_is_brought_checked_and_kept(hub: Hub, tmp_path: Path) -> None:
    path = fetch(hub)
    assert path == tmp_path / "cache" / "models" / SHA256[:16] / "model.gguf"
    assert path.read_bytes() == CONTENT
    assert hub.requests == [("HEAD", FILE, None), ("GET", FILE, None)]


def test_a_file_that_is_there_needs_no_request(hub: Hub) -> None:
    path = fetch(hub)
    hub.requests.clear()
    assert fetch(hub) == path
    assert hub.requests == []


def test_the_endpoint_is_taken_from_the_environment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert fetch_from_hub("owner/repo", "dir/model.gguf", COMMIT, SHA256).read_bytes() == CONTENT


def test_the_token_of_the_environment_is_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    fetch(hub)
    assert set(hub.authorizations) == {"Bearer hf_of_this_test"}


def test_a_broken_download_goes_on_where_it_stopped(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _s: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # 10 MB otherwise: what is lost at most
    hub.breaks_after = 100_000
    with pytest.raises(ModelError, match="HTTP 500"):
        fetch(hub)
    kept = cached_path(SHA256, "model.gguf").with_name("model.gguf.incomplete")
    assert kept.read_bytes() == CONTENT[:100_000]
    hub.breaks_after = None
    hub.refusals.clear()
    hub.requests.clear()
    assert fetch(hub).read_bytes() == CONTENT
    assert hub.requests == [("HEAD", FILE, None), ("GET", FILE, "bytes=100000-")]
    assert not kept.exists()


def test_a_rest_that_cannot_be_of_this_file_is_begun_again(hub: Hub) -> None:
    kept = cached_path(SHA256, "model.gguf").with_name("model.gguf.incomplete")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x" * (len(CONTENT) + 1))
    assert fetch(hub).read_bytes() == CONTENT


def test_a_damaged_rest_is_refused_thrown_away_and_the_next_attempt_succeeds(hub: Hub) -> None:
    kept = cached_path(SHA256, "model.gguf").with_name("model.gguf.incomplete")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x" * 1000)
    with pytest.raises(ModelError, match=f"expected {SHA256}: nothing was kept"):
        fetch(hub)
    assert fetch(hub).read_bytes() == CONTENT


def test_another_file_than_the_one_that_is_meant_is_refused_before_it_is_downloaded(hub: Hub) -> None:
    wanted = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(ModelError, match=f"has sha256 {SHA256} on the hub, expected {wanted}"):
        fetch(hub, sha256=wanted)
    assert [method for method, _, _ in hub.requests] == ["HEAD"]


def test_a_small_file_without_sha256_on_the_hub_is_checked_after_it_came(hub: Hub) -> None:
    hub.etag = "0123456789abcdef0123456789abcdef01234567"
    wanted = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(ModelError, match=f"has sha256 {SHA256}, expected {wanted}: nothing was kept"):
        fetch(hub, sha256=wanted)
    assert not cached_path(wanted, "model.gguf").exists()


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "", r"HTTP 401.*private or gated.*HF_TOKEN"),
        (401, "RepoNotFound", r"HTTP 401.*does not exist"),
        (403, "GatedRepo", r"HTTP 403.*accept its terms"),
        (404, "RepoNotFound", r"has no owner/repo/dir/model\.gguf@.*HTTP 404"),
        (404, "RevisionNotFound", r"HTTP 404.*check owner, name, file and revision"),
        (500, "", r"HTTP 500: try again later"),
    ],
)
def test_a_refusal_says_what_to_do(hub: Hub, status: int, code: str, message: str) -> None:
    hub.refusals[FILE] = (status, code)
    with pytest.raises(ModelError, match=message):
        fetch(hub)


def test_a_file_that_the_repository_does_not_have_is_named(hub: Hub) -> None:
    with pytest.raises(ModelError, match=r"has no owner/repo/other\.gguf@.*HTTP 404"):
        fetch(hub, file="other.gguf")


def test_a_hub_that_is_not_reached_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTISPIN_CACHE", str(tmp_path))
    with Hub() as gone:
        url = gone.url
    with pytest.raises(ModelError, match=r"could not be fetched \(ConnectError: .*check the network and HF_ENDPOINT"):
        fetch_from_hub("owner/repo", "dir/model.gguf", COMMIT, SHA256, endpoint=url)


def test_a_name_that_the_hub_cannot_have_is_refused_without_a_request(hub: Hub) -> None:
    with pytest.raises(ModelError, match="HFValidationError"):
        fetch_from_hub("owner//repo", "dir/model.gguf", COMMIT, SHA256, endpoint=hub.url)
    assert hub.requests == []


def test_progress_names_the_file_and_its_size(hub: Hub) -> None:
    told: list[tuple[str, int, int | None]] = []
    fetch_from_hub("owner/repo", "dir/model.gguf", COMMIT, SHA256, lambda *step: told.append(step), hub.url)
    assert ("downloading owner/repo/dir/model.gguf", 0, len(CONTENT)) in told
    assert told[-1][1:] == (len(CONTENT), len(CONTENT))
