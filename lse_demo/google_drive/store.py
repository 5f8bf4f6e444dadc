"""The files of the local Drive: resources, permissions, revisions and quotas, stored in a directory."""

import hashlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lse_demo.google_drive.accounts import DRIVE_SCOPE, Access, Accounts
from lse_demo.google_drive.documents import Documents

FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"
_ROLES = ("reader", "writer", "organizer", "owner")  # ascending; organizers are managers of shared drives
_WRITABLE = {"name", "mimeType", "appProperties", "properties", "description", "starred", "createdTime", "modifiedTime"}
_SETTABLE = {"create": _WRITABLE | {"id", "parents"}, "update": _WRITABLE | {"trashed"}}
_PROPERTY_BYTES = 124  # of key and value together, https://developers.google.com/workspace/drive/api/guides/properties

Doc = dict[str, Any]


class RefusedError(Exception):
    """A request that Drive rejects: HTTP status and reason of the error answer."""

    def __init__(self, status: int, reason: str, message: str, location: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.location = location


class DriveStore:
    """Files as Drive's resources. Keys that begin with "_" (roles, owner, app) are internal.

    `list_lag` is the number of following answers of files.list in which a change is not visible yet: Drive's search may
    be some seconds behind files.get.
    """

    def __init__(self, directory: Path, *, now: Callable[[], float] = time.time, token_seconds: int = 3600) -> None:
        self.blobs = directory / "blobs"
        self.incoming = directory / "incoming"
        shutil.rmtree(self.incoming, ignore_errors=True)  # upload sessions end with their server
        for folder in (self.blobs, self.incoming):
            folder.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        self._now = now
        self.list_lag = 0
        self._lists = 0
        self._unlisted: dict[str, tuple[Doc | None, int]] = {}  # by id: the listed state, and the last list to have it
        self._documents = Documents(directory / "drive.sqlite")
        self.accounts = Accounts(self._documents, now=now, token_seconds=token_seconds)

    def close(self) -> None:
        """Closes the metadata file."""
        self._documents.close()

    def new_id(self) -> str:
        """Issues an id that `create` accepts once."""
        identity = "1" + secrets.token_urlsafe(24)
        self._documents.put("issued", identity, {})
        return identity

    def root(self, email: str) -> str:
        """Returns the id of a user's My Drive; creates it if missing."""
        identity = "0A" + hashlib.sha256(email.encode()).hexdigest()[:17]
        if self._documents.get("file", identity) is None:
            self._put(self._new(identity, "My Drive", FOLDER, [], email, ""))
        return identity

    def add_folder(self, name: str, email: str, *, parent: str = "", roles: Mapping[str, str] | None = None) -> str:
        """Adds a folder that `email` created in the browser; `roles` maps other accounts to "reader" or "writer"."""
        doc = self._new(self.new_id(), name, FOLDER, [parent or self.root(email)], email, "")
        drive = self.doc(parent).get("driveId") if parent else None
        self._put({**doc, "_roles": dict(roles or {}), **({"driveId": drive} if drive else {})})
        return doc["id"]

    def add_shortcut(self, name: str, email: str, target: str, *, parent: str = "") -> str:
        """Adds a shortcut that `email` created in the browser."""
        doc = self._new(self.new_id(), name, SHORTCUT, [parent or self.root(email)], email, "")
        found = self._documents.get("file", target) or {"mimeType": "application/zip"}  # the target may be deleted
        details = {"targetId": target, "targetMimeType": found["mimeType"]}
        details |= {"targetResourceKey": found["resourceKey"]} if "resourceKey" in found else {}
        self._put({**doc, "shortcutDetails": details})
        return doc["id"]

    def share_link(self, identity: str, role: str) -> str:
        """Gives everybody who has the link the role "reader" or "writer"; returns the link's resource key."""
        doc, key = self.doc(identity), "0-" + secrets.token_urlsafe(16)
        self._put({**doc, "resourceKey": key, "_roles": {**doc["_roles"], "anyone": role}})
        return key

    def flag_abuse(self, identity: str) -> None:
        """Flags a file as malware: only its owner may download it, and must acknowledge that."""
        self._put({**self.doc(identity), "_abusive": True})

    def add_drive(self, name: str, members: Mapping[str, str]) -> str:
        """Adds a shared drive, whose files have no owner and count for no quota."""
        identity = "0AD" + secrets.token_hex(8)
        self._put({**self._new(identity, name, FOLDER, [], "", ""), "driveId": identity, "_roles": dict(members)})
        return identity

    def drives(self, access: Access) -> list[Doc]:
        """Returns the shared drives that an account can see."""
        return [doc for doc in self._docs() if doc.get("driveId") == doc["id"] and self._role(access, doc)]

    def doc(self, identity: str) -> Doc:
        """Returns the stored resource. Raises RefusedError (404)."""
        doc = self._documents.get("file", identity)
        if doc is None:
            raise RefusedError(404, "notFound", f"File not found: {identity}.", "fileId")
        return doc

    def named(self, name: str) -> list[Doc]:
        """Returns all files of that name that are not in the trash, in any folder."""
        return [doc for doc in self._docs() if doc["name"] == name and not doc["trashed"]]

    def move(self, name: str, folder: str) -> None:
        """Moves all files of that name into a folder, as a user can in the browser."""
        for doc in self.named(name):
            self._put({**doc, "parents": [folder]})

    def content(self, doc: Mapping[str, Any], revision: str = "") -> Path:
        """Returns the path of the content of a file, or of one of its revisions."""
        return self.blobs / (revision or doc["headRevisionId"])

    def find(self, access: Access, identity: str, *, write: bool = False, all_drives: bool = True) -> Doc:
        """Returns a file that `access` may use. Raises RefusedError (403, 404)."""
        doc = self.doc(self.root(access.email) if identity == "root" else identity)
        if not self._visible(access, doc) or ("driveId" in doc and not all_drives):
            raise RefusedError(404, "notFound", f"File not found: {identity}.", "fileId")
        if write and self._role(access, doc) not in _ROLES[1:]:
            message = "The user does not have sufficient permissions for this file."
            raise RefusedError(403, "insufficientFilePermissions", message)
        return doc

    def search(self, access: Access, matches: Callable[[Doc], bool], *, all_drives: bool) -> Iterator[Doc]:
        """Yields the matching files that are visible to `access`, as `view` returns them."""
        for doc in self._listed():
            if "parents" in doc and self._visible(access, doc) and (all_drives or "driveId" not in doc):
                seen = self.view(access, doc)
                if matches(seen):
                    yield seen

    def check_new(self, access: Access, body: Mapping[str, Any], size: int = 0, *, all_drives: bool) -> list[Doc]:
        """Checks a creation before it starts: raises what `create` would raise, returns the parents."""
        self._check_body(body, "create")
        parents = body.get("parents") or [self.root(access.email)]
        if len(parents) > 1:
            raise RefusedError(403, "cannotAddParent", "A shared drive item must have exactly one parent.")
        docs = [self.find(access, parent, write=True, all_drives=all_drives) for parent in parents]
        if "id" in body:
            issued = self._documents.get("issued", body["id"])
            if issued is None:
                raise RefusedError(400, "invalid", "The provided file ID is not usable.", "file.id")
            if issued or self._documents.get("file", body["id"]) is not None:
                raise RefusedError(409, "fileIdInUse", "A file already exists with the provided ID.")
        if "driveId" not in docs[0]:
            self._check_quota(access.email, size)
        return docs

    def create(self, access: Access, body: Doc, content: Path | None, mime: str, *, all_drives: bool) -> Doc:
        """Creates a file; `content` is moved into the store. Raises RefusedError."""
        with self.lock:
            size = content.stat().st_size if content else 0
            parents = self.check_new(access, body, size, all_drives=all_drives)
            identity = body.get("id") or self.new_id()
            self._documents.put("issued", identity, {"used": True})
            kind = body.get("mimeType") or mime or "application/octet-stream"
            owner = "" if "driveId" in parents[0] else access.email
            name = body.get("name", "Untitled")
            doc = self._new(identity, name, kind, [parent["id"] for parent in parents], owner, access.app)
            if "driveId" in parents[0]:
                doc["driveId"] = parents[0]["driveId"]
            self._merge(access, doc, body)
            if not kind.startswith("application/vnd.google-apps."):
                self._set_content(doc, content or self._empty_content())
            return self._put(doc)

    def update(
        self,
        access: Access,
        identity: str,
        body: Doc,
        content: Path | None,
        moves: Mapping[str, str],
        *,
        all_drives: bool,
    ) -> Doc:
        """Updates a file; `moves` has addParents and removeParents. Raises RefusedError."""
        with self.lock:
            size = content.stat().st_size if content else None
            doc = dict(self.check_update(access, identity, body, size, all_drives=all_drives))
            parents = [each for each in doc["parents"] if each not in moves.get("removeParents", "").split(",")]
            for parent in filter(None, moves.get("addParents", "").split(",")):
                parents.append(self.find(access, parent, write=True, all_drives=all_drives)["id"])
            doc["parents"] = parents or doc["parents"]
            self._merge(access, doc, body)
            if content:
                self._set_content(doc, content)
            if "modifiedTime" not in body and (content or "name" in body):
                doc["modifiedTime"] = self._time()
            doc["version"] = str(int(doc["version"]) + 1)
            return self._put(doc)

    def check_update(
        self, access: Access, identity: str, body: Mapping[str, Any], size: int | None = None, *, all_drives: bool
    ) -> Doc:
        """Checks an update before it starts: raises what `update` would raise, returns the file."""
        doc = self.find(access, identity, write=True, all_drives=all_drives)
        self._check_body(body, "update")
        if size is not None and "driveId" not in doc:
            self._check_quota(doc["_owner"], size - int(doc["size"]))
        return doc

    def delete(self, access: Access, identity: str, *, all_drives: bool) -> None:
        """Deletes a file, or a folder with its content, without the trash."""
        with self.lock:
            doc = self.find(access, identity, write=True, all_drives=all_drives)
            if self._role(access, doc) not in _ROLES[2:]:
                message = "The user does not have sufficient permissions for this file."
                raise RefusedError(403, "insufficientFilePermissions", message)
            for child in [each for each in self._docs() if doc["id"] in each.get("parents", ())]:
                self.delete(access, child["id"], all_drives=all_drives)
            for revision in self.revisions(doc["id"]):
                (self.blobs / revision["id"]).unlink()
            self._lag(doc["id"])
            self._documents.remove("file", doc["id"])
            self._documents.remove("revisions", doc["id"])

    def revisions(self, identity: str) -> list[Doc]:
        """Returns the revisions of a file, oldest first."""
        return (self._documents.get("revisions", identity) or {"list": []})["list"]

    def delete_revision(self, access: Access, identity: str, revision: str) -> None:
        """Deletes one revision; the newest one left becomes the head. Raises RefusedError."""
        with self.lock:
            doc, revisions = dict(self.find(access, identity, write=True)), self.revisions(identity)
            left = [each for each in revisions if each["id"] != revision]
            if len(left) == len(revisions):
                raise RefusedError(404, "notFound", f"Revision not found: {revision}.", "revisionId")
            if not left:
                raise RefusedError(403, "cannotDeleteOnlyRevision", "The only revision of a file cannot be deleted.")
            self._documents.put("revisions", identity, {"list": left})
            (self.blobs / revision).unlink()
            self._set_head(doc, left[-1]["id"])
            self._put(doc)

    def usage(self, email: str) -> int:
        """Returns the bytes that count for an account's quota."""
        return sum(int(doc.get("size", 0)) for doc in self._docs() if doc["_owner"] == email)

    def user(self, email: str, me: str) -> Doc:
        """Returns an account as a User resource."""
        name = self.accounts.get(email).get("name", email)
        return {"kind": "drive#user", "displayName": name, "emailAddress": email, "me": email == me}

    def view(self, access: Access, doc: Mapping[str, Any]) -> Doc:
        """Returns the resource with the fields that depend on the account of `access`."""
        role = self._role(access, doc)
        may_write = role in _ROLES[1:]
        seen = {key: value for key, value in doc.items() if not key.startswith("_")}
        seen["trashed"] = self._is_trashed(doc)
        seen["capabilities"] = {
            "canAddChildren": may_write and doc["mimeType"] == FOLDER,
            "canEdit": may_write,
            "canTrash": may_write,
            "canDelete": role in _ROLES[2:],
            "canDownload": doc["mimeType"] != FOLDER,
        }
        if properties := doc["_app_properties"].get(access.app):
            seen["appProperties"] = properties
        if doc["_owner"]:
            seen["ownedByMe"] = doc["_owner"] == access.email
            seen["owners"] = [self.user(doc["_owner"], access.email)]
        return seen

    def _docs(self) -> list[Doc]:
        return list(self._documents.all("file").values())

    def settle(self) -> None:
        """Lets the next answer of files.list have all changes so far."""
        with self.lock:
            self._unlisted.clear()

    def _listed(self) -> list[Doc]:
        """Returns the files as the next answer of files.list has them."""
        with self.lock:
            self._lists += 1
            docs = self._documents.all("file")
            for identity, (before, last) in list(self._unlisted.items()):
                if self._lists > last:
                    del self._unlisted[identity]
                elif before is None:
                    docs.pop(identity, None)
                else:
                    docs[identity] = before
            return list(docs.values())

    def _lag(self, identity: str) -> None:
        """Keeps the state in which a file that is about to change stays listed."""
        with self.lock:
            if self.list_lag:
                before, last = self._unlisted.get(identity, (None, 0))
                listed = before if self._lists < last else self._documents.get("file", identity)
                self._unlisted[identity] = listed, self._lists + self.list_lag

    def _put(self, doc: Doc) -> Doc:
        self._lag(doc["id"])
        self._documents.put("file", doc["id"], doc)
        return doc

    def _time(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _new(self, identity: str, name: str, mime: str, parents: list[str], owner: str, app: str) -> Doc:
        link_path = "folders/" if mime == FOLDER else "file/d/"
        doc: Doc = {"kind": "drive#file", "id": identity, "name": name, "mimeType": mime, "trashed": False}
        doc |= {"createdTime": self._time(), "modifiedTime": self._time(), "version": "1", "starred": False}
        doc |= {"spaces": ["drive"], "webViewLink": f"https://drive.google.com/{link_path}{identity}"}
        doc |= {"_owner": owner, "_app": app, "_roles": {}, "_app_properties": {}}
        return {**doc, "parents": parents} if parents else doc

    def _role(self, access: Access, doc: Mapping[str, Any]) -> str | None:
        if doc["_owner"] == access.email:
            return "owner"
        roles = [doc["_roles"].get(access.email)]
        if "resourceKey" in doc and access.keys.get(doc["id"]) == doc["resourceKey"]:
            roles.append(doc["_roles"].get("anyone"))
        for parent in doc.get("parents", ()):
            above = self._documents.get("file", parent)
            roles.append(self._role(access, above) if above else None)
        return max(filter(None, roles), key=_ROLES.index, default=None)

    def _is_trashed(self, doc: Mapping[str, Any]) -> bool:
        """Returns whether the file, or a folder above it, is in the trash."""
        above = (self._documents.get("file", parent) for parent in doc.get("parents", ()))
        return doc["trashed"] or any(self._is_trashed(parent) for parent in above if parent)

    def _visible(self, access: Access, doc: Mapping[str, Any]) -> bool:
        # The scope drive.file gives access only to files that the same app created.
        full_access = any(scope in (DRIVE_SCOPE, f"{DRIVE_SCOPE}.readonly") for scope in access.scopes)
        return (full_access or doc["_app"] == access.app) and self._role(access, doc) is not None

    def _check_body(self, body: Mapping[str, Any], action: str) -> None:
        for field in body:
            if field not in _SETTABLE[action]:
                message = f"The resource body includes fields which are not directly writable: {field}"
                raise RefusedError(403, "fieldNotWritable", message, field)
        for key, value in (body.get("appProperties") or {}).items():
            if len(f"{key}{value or ''}".encode()) > _PROPERTY_BYTES:
                raise RefusedError(400, "invalid", f"Property {key} is longer than {_PROPERTY_BYTES} bytes.")

    def _check_quota(self, email: str, more: int) -> None:
        account = self.accounts.get(email)
        if "public_key" in account and more > 0:
            message = (
                "Service Accounts do not have storage quota. Leverage shared drives, or use OAuth delegation instead."
            )
            raise RefusedError(403, "storageQuotaExceeded", message)
        if account["limit"] is not None and more > 0 and self.usage(email) + more > account["limit"]:
            raise RefusedError(403, "storageQuotaExceeded", "The user's Drive storage quota has been exceeded.")

    def _merge(self, access: Access, doc: Doc, body: Mapping[str, Any]) -> None:
        for field in _WRITABLE - {"appProperties"} | {"trashed"}:
            if field in body:
                doc[field] = body[field]
        if "driveId" in doc and body.get("trashed"):
            doc["trashedTime"] = self._time()
        merged = {**doc["_app_properties"].get(access.app, {}), **(body.get("appProperties") or {})}
        kept = {key: value for key, value in merged.items() if value is not None}
        doc["_app_properties"] = {**doc["_app_properties"], access.app: kept}

    def _empty_content(self) -> Path:
        path = self.incoming / secrets.token_hex(8)
        path.touch()
        return path

    def _set_content(self, doc: Doc, source: Path) -> None:
        revision = "0B" + secrets.token_urlsafe(18)
        source.rename(self.blobs / revision)
        sums = [hashlib.new(name) for name in ("md5", "sha1", "sha256")]
        with (self.blobs / revision).open("rb") as stream:
            while part := stream.read(1 << 20):
                for each in sums:
                    each.update(part)
        checksums = {"size": str((self.blobs / revision).stat().st_size), "md5Checksum": sums[0].hexdigest()}
        entry = {"kind": "drive#revision", "id": revision, "mimeType": doc["mimeType"], "modifiedTime": self._time()}
        hidden = {"_sha1": sums[1].hexdigest(), "_sha256": sums[2].hexdigest()}
        entry = {**entry, **checksums, **hidden, "keepForever": False}
        self._documents.put("revisions", doc["id"], {"list": [*self.revisions(doc["id"]), entry]})
        self._set_head(doc, revision)

    def _set_head(self, doc: Doc, revision: str) -> None:
        entry = next(each for each in self.revisions(doc["id"]) if each["id"] == revision)
        doc |= {"headRevisionId": revision, "size": entry["size"], "quotaBytesUsed": entry["size"]}
        doc |= {"md5Checksum": entry["md5Checksum"], "sha1Checksum": entry["_sha1"], "sha256Checksum": entry["_sha256"]}
