"""A local Google Drive v3 with its token endpoint on 127.0.0.1, for the real Google client.

It rejects the requests that Drive would reject. Besides the faults of every server (`lse_demo.faults`) it has
`corrupt_stored`: one bit of the uploaded bytes is flipped before they are stored.
"""

import base64
import binascii
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from lse_demo.faults import Fault, Faults
from lse_demo.google_drive import discovery as discovery
from lse_demo.google_drive.accounts import Access, GrantError
from lse_demo.google_drive.discovery import Call, InvalidRequestError
from lse_demo.google_drive.query import BadQueryError, compile_query
from lse_demo.google_drive.store import Doc, DriveStore, RefusedError
from lse_demo.google_drive.uploads import Uploads
from lse_demo.http import Answer, LocalServer, Refusal, Request

USER = "ada@example.com"
_DEFAULT_FIELDS = {
    "File": "kind,id,name,mimeType",
    "FileList": "kind,nextPageToken,incompleteSearch,files(kind,id,name,mimeType)",
    "RevisionList": "kind,nextPageToken,revisions(kind,id,mimeType,modifiedTime)",
    "Revision": "kind,id,mimeType,modifiedTime",
}
_ORDERS: dict[str, Callable[[Doc], Any]] = {
    "createdTime": lambda doc: doc["createdTime"],
    "modifiedTime": lambda doc: doc["modifiedTime"],
    "name": lambda doc: doc["name"].casefold(),
    "quotaBytesUsed": lambda doc: int(doc.get("quotaBytesUsed", 0)),
    "folder": lambda doc: "folder" not in doc["mimeType"],
}


def google_error(status: int, reason: str, message: str, location: str = "") -> bytes:
    """Returns the body of an error answer of Drive."""
    error = {"domain": "usageLimits" if "imit" in reason else "global", "reason": reason, "message": message}
    errors = [{**error, "locationType": "parameter", "location": location} if location else error]
    return json.dumps({"error": {"code": status, "message": message, "errors": errors}}).encode()


def rate_limit(status: int = 403, reason: str = "userRateLimitExceeded", **options: Any) -> Fault:
    """Returns a fault with Drive's rate limit error; `options` are those of `Fault` (times, rate, …)."""
    return Fault("status", status=status, body=google_error(status, reason, "User Rate Limit Exceeded."), **options)


@dataclass(frozen=True, slots=True)
class _ApiRequest:
    request: Request
    access: Access
    call: Call


class DriveServer(LocalServer):
    """Serves the files under `directory`; the account `USER` always exists."""

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        latency: float = 0.0,
        faults: Faults | None = None,
        now: Callable[[], float] = time.time,
        token_seconds: int = 3600,
    ) -> None:
        super().__init__(port=port, latency=latency, faults=faults)
        self.page_cap: int | None = None  # maximum entries on a page of a list; Drive may return fewer than requested
        self.store = DriveStore(directory, now=now, token_seconds=token_seconds)
        self.accounts = self.store.accounts
        self.uploads = Uploads(self.store.incoming)
        if not self.accounts.get(USER):
            self.accounts.add_user(USER)
        self._routes: dict[str, Callable[[_ApiRequest], Answer]] = {
            "drive.about.get": self._about,
            "drive.drives.get": self._drive,
            "drive.drives.list": self._drives,
            "drive.files.create": self._create,
            "drive.files.delete": self._delete,
            "drive.files.generateIds": self._generate_ids,
            "drive.files.get": self._get,
            "drive.files.list": self._list,
            "drive.files.update": self._update,
            "drive.revisions.delete": self._delete_revision,
            "drive.revisions.get": self._revision,
            "drive.revisions.list": self._revisions,
        }

    def stop(self) -> None:
        """Ends all connections and closes the store."""
        super().stop()
        self.store.close()

    def handle(self, request: Request) -> Answer:
        """Answers one request as Drive, or as Google's token endpoint and consent page."""
        request.details["bytes"] = len(request.body)
        if request.path == "/token" and request.method == "POST":
            return self._token(request)
        if request.path == "/o/oauth2/auth":
            if urlsplit(request.query["redirect_uri"]).hostname not in ("127.0.0.1", "::1", "localhost"):
                return Answer(400, b"Error 400: redirect_uri_mismatch")  # the demo's client is a desktop application
            code = self.accounts.code(request.query, request.query.get("login_hint", USER))
            back = urlencode({"code": code, "state": request.query.get("state", ""), "scope": request.query["scope"]})
            return Answer(302, headers={"Location": f"{request.query['redirect_uri']}?{back}"})
        try:
            return self._api(request)
        except RefusedError as refused:
            body = google_error(refused.status, refused.reason, str(refused), refused.location)
            return Answer.json(body, refused.status)
        except InvalidRequestError as bad:
            self.violations.append(f"{request.method} {request.path}: {bad}")
            return Answer.json(google_error(400, "invalidParameter", str(bad), bad.location), 400)

    def partial(self, request: Request) -> None:
        """Keeps the bytes of a broken upload that arrived."""
        if "upload_id" in request.query:
            self.uploads.partial(request.query["upload_id"], request)

    def _api(self, request: Request) -> Answer:
        header = request.headers.get("Authorization")
        access = self.accounts.authenticate(header)
        session = request.query.get("upload_id") if request.method in ("PUT", "DELETE") else None
        if access is None and (header or not session):
            raise RefusedError(401, "authError", "Request had invalid authentication credentials.", "Authorization")
        if session and request.method == "DELETE":
            return self.uploads.cancel(session)
        if session:
            request.details["call"] = "upload"
            if request.fault("corrupt_stored") and request.body:
                at = len(request.body) // 2
                request.body = request.body[:at] + bytes([request.body[at] ^ 1]) + request.body[at + 1 :]
            return self.uploads.put(session, request)
        call = discovery.match(request.method, request.path, request.query)
        if call is None:
            raise RefusedError(404, "notFound", "Not Found")
        request.details["call"] = call.id
        if call.id not in self._routes or access is None:
            raise RefusedError(501, "notImplemented", f"{call.id} is not served here.")
        if request.method != "GET" and not any("readonly" not in scope for scope in access.scopes):
            message = "Request had insufficient authentication scopes."
            raise RefusedError(403, "insufficientPermissions", message)
        keys = request.headers.get("X-Goog-Drive-Resource-Keys") or ""
        access = replace(access, keys=dict(pair.split("/", 1) for pair in keys.split(",") if pair))
        return self._routes[call.id](_ApiRequest(request, access, call))

    def _answer(self, call: Call, value: Doc) -> Answer:
        self.violations += [f"answer to {call.id}: {wrong}" for wrong in discovery.problems(call.response or "", value)]
        fields = call.params.get("fields") or _DEFAULT_FIELDS.get(call.response or "", "*")
        return Answer.json(discovery.select(call.response or "", value, fields))

    def _token(self, request: Request) -> Answer:
        form = dict(parse_qsl(request.body.decode()))
        scheme, _, secret = (request.headers.get("Authorization") or "").partition(" ")
        if scheme == "Basic":
            form["client_id"], _, form["client_secret"] = base64.b64decode(secret).decode().partition(":")
        request.details["call"] = f"token {form.get('grant_type', '')}"
        try:
            return Answer.json(self.accounts.grant(form))
        except GrantError as error:
            return Answer.json({"error": error.code, "error_description": str(error)}, 400)

    def _about(self, api: _ApiRequest) -> Answer:
        if "fields" not in api.call.params:
            raise InvalidRequestError("The 'fields' parameter is required for this method.", "fields")
        usage, limit = str(self.store.usage(api.access.email)), self.accounts.get(api.access.email)["limit"]
        quota = {"usage": usage, "usageInDrive": usage, "usageInDriveTrash": "0"}
        if limit is not None:
            quota["limit"] = str(limit)
        user = self.store.user(api.access.email, api.access.email)
        return self._answer(api.call, {"kind": "drive#about", "user": user, "storageQuota": quota})

    def _drives(self, api: _ApiRequest) -> Answer:
        drives = [_drive(doc) for doc in self.store.drives(api.access)]
        return self._answer(api.call, {"kind": "drive#driveList", "drives": drives})

    def _drive(self, api: _ApiRequest) -> Answer:
        found = [doc for doc in self.store.drives(api.access) if doc["id"] == api.call.params["driveId"]]
        if not found:
            raise RefusedError(404, "notFound", f"Shared drive not found: {api.call.params['driveId']}")
        return self._answer(api.call, _drive(found[0]))

    def _generate_ids(self, api: _ApiRequest) -> Answer:
        ids = [self.store.new_id() for _ in range(int(api.call.params.get("count", 10)))]
        return self._answer(api.call, {"kind": "drive#generatedIds", "space": "drive", "ids": ids})

    def _list(self, api: _ApiRequest) -> Answer:
        params, all_drives = api.call.params, api.call.flag("includeItemsFromAllDrives")
        if all_drives and not api.call.flag("supportsAllDrives"):
            raise InvalidRequestError("includeItemsFromAllDrives needs supportsAllDrives.", "includeItemsFromAllDrives")
        if (params.get("corpora") == "drive") != ("driveId" in params):
            raise InvalidRequestError("driveId and corpora=drive belong together.", "driveId")
        try:
            matches = compile_query(params.get("q") or "trashed = true or trashed = false")
        except BadQueryError as error:
            raise InvalidRequestError("Invalid Value", "q") from error
        found = list(self.store.search(api.access, matches, all_drives=all_drives))
        found = [doc for doc in found if params.get("driveId") in (None, doc.get("driveId"))]
        for order in reversed(params.get("orderBy", "modifiedTime desc").split(",")):
            key, _, direction = order.strip().partition(" ")
            if key not in _ORDERS or direction not in ("", "desc"):
                raise InvalidRequestError(f"Invalid sort: {order}", "orderBy")
            found.sort(key=_ORDERS[key], reverse=bool(direction))
        answer: Doc = {"kind": "drive#fileList", "incompleteSearch": False, **self._page(api.call, "files", found)}
        return self._answer(api.call, answer)

    def _page(self, call: Call, key: str, found: list[Doc]) -> Doc:
        size = min(int(call.params.get("pageSize", 100)), self.page_cap or 1000)
        start = _start(call.params["pageToken"]) if "pageToken" in call.params else 0
        page: Doc = {key: found[start : start + size]}
        if start + size < len(found):
            page["nextPageToken"] = base64.urlsafe_b64encode(f"page:{start + size}".encode()).decode()
        return page

    def _get(self, api: _ApiRequest) -> Answer:
        doc = self.store.find(api.access, api.call.params["fileId"], all_drives=api.call.flag("supportsAllDrives"))
        if api.call.params.get("alt") == "media":
            if "headRevisionId" not in doc:
                raise RefusedError(403, "fileNotDownloadable", "Only files with binary content can be downloaded.")
            is_allowed = api.call.flag("acknowledgeAbuse") and doc["_owner"] == api.access.email
            if doc.get("_abusive") and not is_allowed:
                message = "This file has been identified as malware or spam and cannot be downloaded."
                raise RefusedError(403, "cannotDownloadAbusiveFile", message)
            return _media(api.request, self.store.content(doc), doc["mimeType"])
        return self._answer(api.call, self.store.view(api.access, doc))

    def _create(self, api: _ApiRequest) -> Answer:
        drives = api.call.flag("supportsAllDrives")

        def finish(body: Doc, content: Path | None, mime: str) -> Answer:
            doc = self.store.create(api.access, body, content, mime, all_drives=drives)
            return self._answer(api.call, self.store.view(api.access, doc))

        def check(body: Doc, size: int) -> None:
            self.store.check_new(api.access, body, size, all_drives=drives)

        return self._write(api.request, api.call, check, finish)

    def _update(self, api: _ApiRequest) -> Answer:
        drives, identity = api.call.flag("supportsAllDrives"), api.call.params["fileId"]

        def finish(body: Doc, content: Path | None, mime: str) -> Answer:  # noqa: ARG001 - the file keeps its type
            doc = self.store.update(api.access, identity, body, content, api.call.params, all_drives=drives)
            return self._answer(api.call, self.store.view(api.access, doc))

        def check(body: Doc, size: int) -> None:
            self.store.check_update(api.access, identity, body, size, all_drives=drives)

        return self._write(api.request, api.call, check, finish)

    def _write(
        self,
        request: Request,
        call: Call,
        check: Callable[[Doc, int], None],
        finish: Callable[[Doc, Path | None, str], Answer],
    ) -> Answer:
        kind = call.params.get("uploadType") if call.upload else None
        mime = request.headers.get("Content-Type", "")
        if "fields" in call.params:  # rejected before anything is written
            discovery.select("File", {}, call.params["fields"])
        if kind == "resumable":
            body = _body(call, request.body)
            announced = request.headers.get("X-Upload-Content-Length")
            check(body, int(announced or 0))
            media = request.headers.get("X-Upload-Content-Type", "application/octet-stream")
            identity = self.uploads.open(
                int(announced) if announced else None, lambda content: finish(body, content, media)
            )
            location = f"{self.url}{request.path}?{urlencode({'uploadType': 'resumable', 'upload_id': identity})}"
            return Answer(200, headers={"Location": location, "X-GUploader-UploadID": identity})
        if kind in ("media", "multipart"):
            parts = [(mime, request.body)] if kind == "media" else _parts(mime, request.body)
            body = _body(call, parts[0][1]) if len(parts) == 2 else {}
            content = self.uploads.new_path()
            content.write_bytes(parts[-1][1])
            return finish(body, content, parts[-1][0])
        if call.upload:
            raise InvalidRequestError(f"Invalid uploadType: {kind}", "uploadType")
        return finish(_body(call, request.body), None, "")

    def _delete(self, api: _ApiRequest) -> Answer:
        self.store.delete(api.access, api.call.params["fileId"], all_drives=api.call.flag("supportsAllDrives"))
        return Answer(204)

    def _revisions(self, api: _ApiRequest) -> Answer:
        doc = self.store.find(api.access, api.call.params["fileId"])
        entries = [_public(entry) for entry in self.store.revisions(doc["id"])]
        return self._answer(api.call, {"kind": "drive#revisionList", **self._page(api.call, "revisions", entries)})

    def _revision(self, api: _ApiRequest) -> Answer:
        doc = self.store.find(api.access, api.call.params["fileId"])
        for entry in self.store.revisions(doc["id"]):
            if entry["id"] == api.call.params["revisionId"]:
                if api.call.params.get("alt") == "media":
                    return _media(api.request, self.store.content(doc, entry["id"]), entry["mimeType"])
                return self._answer(api.call, _public(entry))
        raise RefusedError(404, "notFound", f"Revision not found: {api.call.params['revisionId']}.")

    def _delete_revision(self, api: _ApiRequest) -> Answer:
        self.store.delete_revision(api.access, api.call.params["fileId"], api.call.params["revisionId"])
        return Answer(204)


def _public(doc: Doc) -> Doc:
    return {key: value for key, value in doc.items() if not key.startswith("_")}


def _drive(doc: Doc) -> Doc:
    return {"kind": "drive#drive", "id": doc["id"], "name": doc["name"], "createdTime": doc["createdTime"]}


def _start(token: str) -> int:
    try:
        return int(base64.urlsafe_b64decode(token).removeprefix(b"page:"))
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError("Invalid Value", "pageToken") from error


def _body(call: Call, raw: bytes) -> Doc:
    try:
        body = json.loads(raw or b"{}")
    except ValueError as error:
        raise InvalidRequestError("Parse Error") from error
    if wrong := discovery.problems(call.request or "", _without_nulls(body)):
        raise InvalidRequestError("; ".join(wrong))
    return body


def _without_nulls(value: Any) -> Any:
    # A null deletes a property; it is valid for every type of the schema.
    return {k: _without_nulls(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _parts(mime: str, body: bytes) -> list[tuple[str, bytes]]:
    found = re.search(r'boundary="?([^";]+)', mime)
    if not found:
        raise InvalidRequestError("Missing multipart boundary")
    parts = []
    boundary = b"--" + found[1].encode()
    newline = b"\r\n" if body.partition(boundary)[2].startswith(b"\r\n") else b"\n"  # the client's
    for part in body.split(boundary)[1:-1]:
        head, _, content = re.sub(rb"\r?\n\r?\n", b"\0", part, count=1).partition(b"\0")
        kind = re.search(rb"content-type:\s*([^\r\n]+)", head, re.IGNORECASE)
        parts.append((kind[1].decode() if kind else "", content.removesuffix(newline)))
    if len(parts) != 2:
        raise InvalidRequestError("A multipart upload has two parts")
    return parts


def _media(request: Request, path: Path, mime: str) -> Answer:
    size = path.stat().st_size
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
    first, last = (int(found[1]), min(int(found[2] or size), size - 1)) if found else (0, size - 1)
    if found and first >= size:
        raise Refusal(Answer(416, headers={"Content-Range": f"bytes */{size}"}))
    with path.open("rb") as stream:
        stream.seek(first)
        body = stream.read(last + 1 - first)
    extra = {"Content-Range": f"bytes {first}-{last}/{size}"} if found else {}
    return Answer(206 if found else 200, body, {"Content-Type": mime, "Accept-Ranges": "bytes", **extra})
