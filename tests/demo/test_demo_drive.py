"""The local Drive behaves like Drive: Google's client and schema accept it, and it rejects what Drive rejects."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import google_auth_httplib2
import httpx
import jsonschema
import pytest
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaInMemoryUpload, build_http

from lse_demo.google_drive.discovery import document
from lse_demo.google_drive.query import BadQueryError, compile_query
from lse_demo.google_drive.server import USER, DriveServer

pytestmark = pytest.mark.slow

FOLDER = "application/vnd.google-apps.folder"
UNIT = 256 * 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DriveServer]:
    with DriveServer(tmp_path / "drive") as running:
        yield running


class Client:
    """Plain HTTP with a valid token; each answer is validated against the discovery document."""

    def __init__(self, server: DriveServer, email: str = USER, scope: str = "") -> None:
        self.server = server
        scopes = (scope,) if scope else ("https://www.googleapis.com/auth/drive",)
        form = {"grant_type": "refresh_token", "refresh_token": server.accounts.refresh_token(email, scopes)}
        form |= {"client_id": "lse-demo.apps.googleusercontent.com", "client_secret": "demo-secret"}
        token = httpx.post(f"{server.url}/token", data=form).json()["access_token"]
        self.http = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"})

    def __call__(self, method: str, path: str, schema: str = "", **kwargs: Any) -> Any:
        answer = self.http.request(method, path if path.startswith(("/", "http")) else f"/drive/v3/{path}", **kwargs)
        if schema and answer.status_code == 200:
            validator(schema).validate(answer.json())
        return answer


@cache
def validator(name: str) -> Any:
    """Converts Google's schema to a JSON schema that allows no other fields."""

    def convert(node: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in node:
            return {"$ref": f"#/$defs/{node['$ref']}"}
        result: dict[str, Any] = {} if node["type"] == "any" else {"type": node["type"]}
        if node["type"] == "object":
            result["properties"] = {key: convert(value) for key, value in node.get("properties", {}).items()}
            others = node.get("additionalProperties")
            result["additionalProperties"] = convert(others) if others else False
        if "items" in node:
            result["items"] = convert(node["items"])
        if node.get("format") == "int64":
            result["pattern"] = r"^-?\d+$"
        return result

    schemas = document()["schemas"]
    defs = {key: convert(value) for key, value in schemas.items()}
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": defs})


@pytest.fixture
def client(server: DriveServer) -> Iterator[Client]:
    made = Client(server)
    yield made
    made.http.close()
    assert [text for text in server.violations if "answer" in text or "own error" in text] == []


def reason(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["errors"][0]["reason"]


def create(client: Client, content: bytes = b"content", **body: Any) -> dict[str, Any]:
    start = client("POST", "/upload/drive/v3/files?uploadType=resumable&fields=*", json={"name": "a.zip", **body})
    return client("PUT", start.headers["location"], "File", content=content).json()


def test_every_answer_follows_the_schema(client: Client) -> None:
    folder = client("POST", "files?fields=*", "File", json={"name": "P", "mimeType": FOLDER}).json()
    file = create(client, parents=[folder["id"]], appProperties={"project": "x"})
    client("GET", f"files/{file['id']}?fields=*", "File")
    client("PATCH", f"files/{file['id']}?fields=*", "File", json={"trashed": True})
    client("GET", "files?fields=*&orderBy=folder,name desc", "FileList")
    client("GET", "about?fields=*", "About")
    client("GET", "files/generateIds?count=3", "GeneratedIds")
    client("GET", f"files/{file['id']}/revisions?fields=*", "RevisionList")
    client("GET", f"files/{file['id']}/revisions/{file['headRevisionId']}?fields=*", "Revision")
    client.server.store.add_drive("Team", {USER: "writer"})
    client("GET", "drives", "DriveList")


def test_googles_client_works_with_it(server: DriveServer, tmp_path: Path) -> None:
    server.accounts.write_authorized_user(tmp_path / "user.json", USER, url=server.url)
    stored = json.loads((tmp_path / "user.json").read_text())
    credentials = Credentials(None, **{key: value for key, value in stored.items() if key != "type"})
    root = {"rootUrl": f"{server.url}/", "baseUrl": f"{server.url}/drive/v3/"}
    http = google_auth_httplib2.AuthorizedHttp(credentials, http=build_http())
    drive = build_from_document({**document(), **root}, http=http)
    for resumable in (False, True):
        content = b"x\r\n\r\n\n" * 9 + b"\r"  # the line break before the boundary is not part of it
        media = MediaInMemoryUpload(content, mimetype="application/zip", resumable=resumable)
        made = drive.files().create(body={"name": "it's"}, media_body=media).execute()
        assert drive.files().get_media(fileId=made["id"]).execute() == content
    assert len(drive.files().list(q=r"name = 'it\'s'").execute()["files"]) == 2
    drive.files().delete(fileId=made["id"]).execute()
    with pytest.raises(HttpError, match="File not found"):
        drive.files().get(fileId=made["id"]).execute()
    drive.close()


def test_a_later_process_serves_the_same_files(tmp_path: Path) -> None:
    with DriveServer(tmp_path) as server:
        client = Client(server)
        made = create(client, b"kept")
        server.accounts.write_authorized_user(tmp_path / "user.json", USER, url=server.url)
        client.http.close()
    with DriveServer(tmp_path) as server:
        client = Client(server)
        assert client("GET", f"files/{made['id']}?alt=media").content == b"kept"
        token = json.loads((tmp_path / "user.json").read_text())["refresh_token"]
        form = {"grant_type": "refresh_token", "refresh_token": token, "client_secret": "demo-secret"}
        form |= {"client_id": "lse-demo.apps.googleusercontent.com"}
        assert httpx.post(f"{server.url}/token", data=form).status_code == 200
        client.http.close()


def test_the_process_prints_its_url_first(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lse_demo.google_drive", "--store", str(tmp_path / "s")]
    command += ["--credentials", str(tmp_path / "user.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert httpx.get(f"{url}/drive/v3/about?fields=user").status_code == 401
        assert json.loads((tmp_path / "user.json").read_text())["token_uri"] == f"{url}/token"
        process.terminate()
        assert process.wait(10) == 0


def session(client: Client, size: int | None = None, **body: Any) -> str:
    headers = {} if size is None else {"X-Upload-Content-Length": str(size)}
    return client("POST", "/upload/drive/v3/files?uploadType=resumable", json=body, headers=headers).headers["location"]


def put(client: Client, uri: str, span: str, content: bytes = b"") -> httpx.Response:
    return client("PUT", uri, content=content, headers={"Content-Range": f"bytes {span}"})


def test_the_resumable_protocol(client: Client) -> None:
    content = bytes(range(256)) * 2048 + b"end"
    uri = session(client, len(content), name="a")
    status = put(client, uri, f"*/{len(content)}")
    assert (status.status_code, status.headers.get("range")) == (308, None)
    sent = put(client, uri, f"0-{UNIT - 1}/{len(content)}", content[:UNIT])
    assert (sent.status_code, sent.headers["range"]) == (308, f"bytes=0-{UNIT - 1}")
    assert put(client, uri, f"0-{UNIT - 1}/{len(content)}", content[:UNIT]).headers["range"] == f"bytes=0-{UNIT - 1}"
    assert put(client, uri, f"{UNIT}-{UNIT + 9}/{len(content)}", content[:10]).status_code == 400
    assert put(client, uri, f"{UNIT * 2}-{len(content) - 1}/{len(content)}", content[UNIT * 2 :]).status_code == 400
    assert put(client, uri, f"{UNIT}-{UNIT * 2 - 1}/{len(content) + 1}", content[UNIT : UNIT * 2]).status_code == 400
    last = put(client, uri, f"{UNIT}-{len(content) - 1}/{len(content)}", content[UNIT:])
    assert last.status_code == 200
    assert put(client, uri, f"*/{len(content)}").json() == last.json()
    assert client("GET", f"files/{last.json()['id']}?alt=media").content == content


def test_an_expired_session_is_404(client: Client) -> None:
    uri = session(client, 5, name="a")
    client.server.uploads.expire()
    assert put(client, uri, "*/5").status_code == 404


def test_a_create_with_a_generated_id_is_safe_to_repeat(client: Client) -> None:
    identity = client("GET", "files/generateIds?count=1").json()["ids"][0]
    assert client("POST", "files", json={"id": identity, "name": "a"}).json()["id"] == identity
    assert reason(client("POST", "files", json={"id": identity, "name": "a"})) == (409, "fileIdInUse")
    assert client("POST", "files", json={"id": "made-up", "name": "a"}).status_code == 400


def test_an_update_keeps_the_old_revision_and_deleting_the_head_restores_it(client: Client) -> None:
    made = create(client, b"old")
    start = client("PATCH", f"/upload/drive/v3/files/{made['id']}?uploadType=resumable&fields=*", json={})
    changed = client("PUT", start.headers["location"], "File", content=b"newer").json()
    assert (changed["id"], changed["size"]) == (made["id"], "5")
    revisions = client("GET", f"files/{made['id']}/revisions").json()["revisions"]
    assert [each["id"] for each in revisions] == [made["headRevisionId"], changed["headRevisionId"]]
    client("DELETE", f"files/{made['id']}/revisions/{changed['headRevisionId']}")
    back = client("GET", f"files/{made['id']}?fields=*").json()
    assert back["sha256Checksum"] == made["sha256Checksum"]
    last = client("DELETE", f"files/{made['id']}/revisions/{made['headRevisionId']}")
    assert reason(last) == (403, "cannotDeleteOnlyRevision")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "files?pagesize=3", None),
        ("GET", "files?pageSize=1001", None),
        ("GET", "files?pageToken=x", None),
        ("GET", "files?orderBy=colour", None),
        ("GET", "files?fields=files(id,colour)", None),
        ("GET", "files?fields=files(id", None),
        ("GET", "files?includeItemsFromAllDrives=true", None),
        ("GET", "files?supportsAllDrives=maybe", None),
        ("GET", "files?q=name is 'x'", None),
        ("GET", "about", None),
        ("POST", "files", {"nmae": "x"}),
        ("POST", "files", {"name": 3}),
        ("POST", "files", {"name": "x", "appProperties": {"k": "v" * 124}}),
        ("POST", "/upload/drive/v3/files?uploadType=magic", {"name": "x"}),
    ],
)
def test_unknown_parameters_and_fields_are_rejected(client: Client, method: str, path: str, body: Any) -> None:
    assert client(method, path, json=body).status_code == 400


def test_computed_fields_cannot_be_written(client: Client) -> None:
    assert reason(client("POST", "files", json={"name": "x", "size": "3"})) == (403, "fieldNotWritable")
    made = create(client)
    assert reason(client("PATCH", f"files/{made['id']}", json={"parents": []})) == (403, "fieldNotWritable")


def test_ranges(client: Client) -> None:
    made = create(client, b"0123456789")
    path = f"files/{made['id']}?alt=media"
    part = client("GET", path, headers={"Range": "bytes=3-5"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"345", "bytes 3-5/10")
    assert client("GET", path, headers={"Range": "bytes=8-"}).content == b"89"
    beyond = client("GET", path, headers={"Range": "bytes=10-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */10")


def test_listing_in_small_pages(client: Client) -> None:
    client.server.page_cap = 2
    for number in range(5):
        create(client, name=f"{number}")
    names, token = [], ""
    while True:
        page = client("GET", "files", "FileList", params={"orderBy": "name", **({"pageToken": token} if token else {})})
        names += [file["name"] for file in page.json()["files"]]
        if not (token := page.json().get("nextPageToken", "")):
            break
    assert names == ["0", "1", "2", "3", "4"]


def test_permissions(client: Client) -> None:
    store = client.server.store
    client.server.accounts.add_user("bob@example.com")
    theirs = store.add_folder("Bob's", "bob@example.com")
    shown = store.add_folder("Shown", "bob@example.com", roles={USER: "reader"})
    shared = store.add_folder("Shared", "bob@example.com", roles={USER: "writer"})
    assert reason(client("GET", f"files/{theirs}")) == (404, "notFound")
    assert client("GET", f"files/{shown}?fields=capabilities").json()["capabilities"]["canAddChildren"] is False
    refused = client("POST", "files", json={"name": "x", "parents": [shown]})
    assert reason(refused) == (403, "insufficientFilePermissions")
    assert client("POST", "files", json={"name": "x", "parents": [shared]}).status_code == 200
    narrow = Client(client.server, scope="https://www.googleapis.com/auth/drive.file")
    by_hand = store.add_folder("By hand", USER)
    assert narrow("GET", f"files/{by_hand}").status_code == 404
    assert client("GET", f"files/{by_hand}").status_code == 200
    narrow.http.close()


def test_shared_drives_are_invisible_unless_requested(client: Client) -> None:
    drive = client.server.store.add_drive("Team", {USER: "writer"})
    made = create_in(client, drive)
    assert client("GET", f"files/{made}").status_code == 404
    assert client("GET", f"files/{made}?supportsAllDrives=true").status_code == 200
    query = f"files?q='{drive}' in parents"
    assert client("GET", query).json()["files"] == []
    assert len(client("GET", f"{query}&supportsAllDrives=true&includeItemsFromAllDrives=true").json()["files"]) == 1


def create_in(client: Client, folder: str) -> str:
    return client("POST", "files?supportsAllDrives=true", json={"name": "x", "parents": [folder]}).json()["id"]


def test_quota(client: Client) -> None:
    client.server.accounts.set_limit(USER, 10)
    create(client, b"1234567")
    headers = {"X-Upload-Content-Length": "4"}
    full = client("POST", "/upload/drive/v3/files?uploadType=resumable", json={"name": "b"}, headers=headers)
    assert reason(full) == (403, "storageQuotaExceeded")
    quota = client("GET", "about?fields=storageQuota", "About").json()["storageQuota"]
    assert (quota["limit"], quota["usage"]) == ("10", "7")


def test_tokens_expire(tmp_path: Path) -> None:
    clock = [1_700_000_000.0]
    with DriveServer(tmp_path, now=lambda: clock[0]) as server:
        client = Client(server)
        assert client("GET", "about?fields=user").status_code == 200
        clock[0] += 3601
        assert reason(client("GET", "about?fields=user")) == (401, "authError")
        client.http.close()


def test_concurrent_requests(client: Client) -> None:
    threads = [threading.Thread(target=create, args=(client, bytes([n]) * 9)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(client("GET", "files").json()["files"]) == 8


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("name = 'it\\'s \\\\ 🦉'", True),
        ("NAME = 'x'", None),
        ("name = 'IT\\'S \\\\ 🦉'", True),
        ("name contains 'it'", True),
        ("name contains 't'", False),
        ("name != 'x' and trashed = false", True),
        ("not (name = 'x' or trashed = false)", False),
        ("name = 'x' or name != 'x' and 'p' in parents", True),
        ("'q' in parents", False),
        ("mimeType = 'application/zip'", True),
        ("appProperties has { key='day' and value='2026-01-02' }", True),
        ("appProperties has {key='day' and value='2026-01-03'}", False),
        ("modifiedTime > '2026-01-01T00:00:00'", True),
        ("name = 'x", None),
        ("name = 'x' and", None),
        ("(name = 'x'", None),
        ("name like 'x'", None),
        ("", None),
    ],
)
def test_queries(query: str, found: bool | None) -> None:
    file: dict[str, Any] = {"name": "it's \\ 🦉", "mimeType": "application/zip", "parents": ["p"], "trashed": False}
    file |= {"appProperties": {"day": "2026-01-02"}, "modifiedTime": "2026-01-02T00:00:00.000Z"}
    if found is None:
        with pytest.raises(BadQueryError):
            compile_query(query)
    else:
        assert compile_query(query)(file) is found
