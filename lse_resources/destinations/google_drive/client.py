"""Google Drive as the destination: finds, uploads, downloads and trashes files, and describes account and folder."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from lse_archive.errors import ArchiveConflictError, DestinationError
from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.google_drive.download import download
from lse_resources.destinations.google_drive.files import FIELDS, FOLDER_TYPE, SHORTCUT_TYPE, DriveFile, LocalFile
from lse_resources.destinations.google_drive.folder_ids import FolderIds
from lse_resources.destinations.google_drive.history import download_earlier, erase, find_history
from lse_resources.destinations.google_drive.retry import NO_STORAGE_HINT, DriveRefusalError, Retries
from lse_resources.destinations.google_drive.service import DRIVES, DriveService
from lse_resources.destinations.google_drive.settings import DriveSettings
from lse_resources.destinations.google_drive.upload import Upload
from lse_resources.destinations.history import EarlierCopy, ErasedHistory, History
from lse_resources.destinations.protocol import SEARCH_LAG

_USE_FOLDER = "use the Drive folder"
_NO_FOLDER = f"mimeType != '{FOLDER_TYPE}'"

__all__ = ["DriveAccount", "DriveFile", "DriveFolder", "DriveSettings", "GoogleDrive", "Retries"]


@dataclass(frozen=True, slots=True)
class DriveAccount:
    """The signed-in account and its storage in bytes (limit None: unlimited or pooled)."""

    email: str
    name: str
    limit: int | None
    usage: int


@dataclass(frozen=True, slots=True)
class DriveFolder:
    """The archive's folder. `free` is the free storage in bytes; None: no limit is known."""

    id: str
    name: str
    shared_drive: bool
    account: DriveAccount
    free: int | None


def _ignore(_: int) -> None:
    """Ignores progress."""


class GoogleDrive:
    """The Drive of `settings`; threads may share it. Close it, or use it as a context manager.

    Every method raises DestinationError, in one sentence without secrets, when Drive refuses finally or cannot be
    reached for as long as `retries` allows. The constructor raises SettingsError or DestinationError if the credentials
    cannot be used.
    """

    def __init__(self, settings: DriveSettings, *, retries: Retries | None = None) -> None:
        self._settings = settings
        retries = retries or Retries(settings.patience)
        if settings.auth_type == "service_account":
            retries = replace(retries, sign_in=f"Check the service account and its key, {settings.credentials_path}")
            if not settings.subject:
                retries = replace(retries, storage=NO_STORAGE_HINT)
        elif settings.auth_type == "adc":
            retries = replace(retries, sign_in="Run: gcloud auth application-default login")
        self._service = DriveService(settings, retries)
        self._folder_ids = FolderIds(settings.folders_path or settings.token_path.with_name("drive_folders.json"))
        self._followed: dict[str, str] = {}  # files and folders outside the archive, and the names of their shortcuts

    def close(self) -> None:
        """Closes all connections."""
        self._service.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def about(self) -> DriveAccount:
        """Returns the signed-in account."""
        request = self._service.api.about().get(fields="user(displayName,emailAddress),storageQuota(limit,usage)")
        answer = self._service.run("read the account on Drive", request, retries=self._service.retries.impatient())
        quota, user = answer.get("storageQuota", {}), answer["user"]
        limit = int(quota["limit"]) if "limit" in quota else None
        return DriveAccount(
            user.get("emailAddress", ""), user.get("displayName", ""), limit, int(quota.get("usage", 0))
        )

    def check_folder(self, need: int = 0) -> DriveFolder:
        """Checks that the archive's folder exists, is a folder, is writable and has room for `need` bytes more.

        Raises DestinationError with the reason if it does not.
        """
        what, found = _USE_FOLDER, self._archive_folder(self._service.retries.impatient())
        account, name, shared = self.about(), found["name"], "driveId" in found
        if not found.get("capabilities", {}).get("canAddChildren"):
            raise DestinationError(
                f"cannot {what}",
                why=f"{account.email} may not write to {name!r}",
                hint="Ask the folder's owner to make this account an editor",
            )
        free = None if shared or account.limit is None else max(0, account.limit - account.usage)
        if free is not None and (free == 0 or free < need):
            why = (
                f"the storage of {account.email} is full" if free == 0 else f"{need} bytes are needed, {free} are free"
            )
            raise DestinationError(f"cannot {what}", why=why, hint=self._service.retries.storage)
        return DriveFolder(found["id"], name, shared, account, free)

    def _archive_folder(self, retries: Retries) -> Mapping[str, Any]:
        """The archive's folder. Raises DestinationError if it is none, or in the trash."""
        what = f"cannot {_USE_FOLDER}"
        fields = "id,name,mimeType,trashed,driveId,capabilities(canAddChildren),shortcutDetails(targetId)"
        request = self._service.api.files().get(fileId=self._settings.folder, fields=fields, **DRIVES)
        found = self._service.run(_USE_FOLDER, request, retries=retries)
        name = found["name"]
        if found["mimeType"] == SHORTCUT_TYPE:
            target = found.get("shortcutDetails", {}).get("targetId", "")
            hint = f"Set GOOGLE_DRIVE_FOLDER_URL to what it leads to: https://drive.google.com/drive/folders/{target}"
            raise DestinationError(what, why=f"{name!r} is a shortcut", hint=hint)
        if found["mimeType"] != FOLDER_TYPE:
            hint = "Set GOOGLE_DRIVE_FOLDER_URL to a folder's link"
            raise DestinationError(what, why=f"{name!r} is not a folder", hint=hint)
        if found.get("trashed"):
            raise DestinationError(what, why=f"{name!r} is in the trash", hint="Restore it in Drive")
        return found

    def describe(self) -> dict[str, str]:
        """Describes account and folder for a user, without secrets."""
        folder = self.check_folder()
        account = folder.account
        limit = "no limit" if account.limit is None else f"of {account.limit} bytes"
        return {
            "account": account.email,
            "sign-in": self._settings.auth_type,
            "folder": folder.name,
            "in": "a shared drive" if folder.shared_drive else "My Drive",
            "storage": f"{account.usage} bytes used, {limit}",
        }

    @property
    def place(self) -> str:
        """Its name in messages."""
        return "Drive"

    @property
    def keeps_revisions(self) -> bool:
        """True: Drive keeps old revisions, and files in the trash, for 30 days."""
        return True

    def project_folders(self) -> list[str]:
        """The names of all projects' folders, sorted, each once."""
        names = {found.name for found in self._list(self._settings.folder, folders=True)}
        return sorted(names | {name for name in self._folder_ids.all().keys() - names if self._known_folder(name)})

    def duplicate_folders(self) -> dict[str, list[StoredFile]]:
        """The projects' folders that share a name, by name, oldest first; the other methods read them as one."""
        query = f"'{_quoted(self._settings.folder)}' in parents and mimeType = '{FOLDER_TYPE}' and trashed = false"
        by_name: dict[str, list[StoredFile]] = {}
        for folder in sorted(map(DriveFile.of, self._pages(query)), key=_age):  # no shortcut is merged
            by_name.setdefault(folder.name, []).append(folder)
        current = {name: self._current(found) for name, found in sorted(by_name.items()) if len(found) > 1}
        return {name: folders for name, folders in current.items() if len(folders) > 1}

    def find_project_folders(self, name: str) -> list[str]:
        """The ids of the project's folders, oldest first: Drive allows several."""
        found = self._list(self._settings.folder, name, folders=True)
        if len(found) > 1:
            found = self._current(found)
        unlisted = self._folder_ids.all().get(name) not in {None, *(folder.id for folder in found)}
        if unlisted and (known := self._known_folder(name)):
            found = sorted([*found, known], key=_age)
        return [folder.id for folder in found]

    def ensure_project_folder(self, name: str) -> str:
        """The id of the project's folder; creates the folder if it is missing, once for all processes.

        Its id is recorded before: a process that was killed may have recorded it, and Drive may still be creating the
        folder. If several hosts create it at the same time, all use the oldest.
        """
        if found := self.find_project_folders(name):
            return found[0]
        with self._folder_ids.locked():
            if found := self.find_project_folders(name):
                return found[0]
            for recorded in (self._folder_ids.all().get(name), None):
                identity = recorded or self._new_folder_id(name)
                try:
                    self._create_folder(name, identity)
                    break
                except DriveRefusalError as refusal:
                    # 400: the recorded id is of another account. 409: it is used, and its folder is in the trash, or in
                    # the archive's folder of an earlier setting.
                    if recorded is None or refusal.status not in (400, 409):
                        raise
            return next(iter(self.find_project_folders(name)), identity)

    def merge_folder(self, folder: StoredFile, into: StoredFile) -> bool:
        """Moves everything in a folder into another one, and the empty folder to the trash.

        Returns:
            False if the empty folder stays: while a search may not find the other one, a process may upload to it, and
            what it uploads may not be listed for as long again.
        """
        listed = [found["id"] for found in self._pages(f"'{_quoted(folder.id)}' in parents")]
        for child in filter(None, map(self._service.read, listed)):
            if child.folder != folder.id:
                continue
            move = {"addParents": into.id, "removeParents": folder.id, "body": {}, "fields": "id"}
            request = self._service.api.files().update(fileId=child.id, **move, **DRIVES)
            self._service.run(f"move {child.name} on Drive", request)
        if datetime.now(UTC) - datetime.fromisoformat(folder.created) < 2 * SEARCH_LAG:
            return False
        self.trash(folder)
        return True

    def _known_folder(self, name: str) -> StoredFile | None:
        """The project's folder that this installation created, if it is still there."""
        identity = self._folder_ids.all().get(name)
        folder = self.read(identity) if identity else None
        is_in_place = folder and folder.name == name and self._settings.folder in (folder.folder, "root")
        return folder if is_in_place else None

    def _new_folder_id(self, name: str) -> str:
        request = self._service.api.files().generateIds(count=1, space="drive", fields="ids")
        identity = self._service.run(f"create the Drive folder {name!r}", request)["ids"][0]
        self._folder_ids.set(name, identity)
        return identity

    def _create_folder(self, name: str, identity: str) -> None:
        body = {"id": identity, "name": name, "mimeType": FOLDER_TYPE, "parents": [self._settings.folder]}
        # A property of the folder shows that we created it: only this OAuth client or service account can read it.
        body["appProperties"] = {"project": name.encode()[:100].decode(errors="ignore")}
        request = self._service.api.files().create(body=body, fields="id", **DRIVES)
        try:
            self._service.run(f"create the Drive folder {name!r}", request)
        except DriveRefusalError as refusal:
            # 409: the folder exists if the answer to an earlier attempt was lost.
            if refusal.status != 409 or not self._known_folder(name):
                raise

    def find_file(self, folder_id: str, name: str) -> list[StoredFile]:
        """The files of exactly that name as they are now, oldest first: Drive allows several.

        Raises DestinationError, too, for a shortcut, and in a folder behind one: `list_files`, for a restore, does not.
        """
        if folder_id in self._followed:
            raise _shortcut_error("the project's folder")
        return self._current(self._list(folder_id, name))

    def read(self, file_id: str) -> StoredFile | None:
        """The file or folder as it is now; None if it was deleted, or is in the trash."""
        file = self._service.read(file_id)
        return self._as_found(file) if file else None

    def _current(self, listed: list[StoredFile]) -> list[StoredFile]:
        """Those of the listed files that are still there under their name, as they are now."""
        found = ((file, self._service.read(file.id)) for file in listed)
        return [
            replace(now, name=file.name)
            for file, now in found
            if now and now.folder == file.folder and file.name in (now.name, self._followed.get(file.id))
        ]

    def left_behind(self, folder_id: str, file: StoredFile) -> list[StoredFile]:
        """Nothing: an upload replaces the file."""
        return []

    def list_files(self, folder_id: str) -> list[StoredFile]:
        """All files of a folder that are not in the trash, oldest first; no folders."""
        return self._list(folder_id)

    def prove(self, file: StoredFile) -> StoredFile:
        """The file as Drive has it now; Drive itself computes the checksum."""
        request = self._service.api.files().get(fileId=file.id, fields=FIELDS, **DRIVES)
        return self._as_found(DriveFile.of(self._service.run(f"read the metadata of {file.name} on Drive", request)))

    def _as_found(self, file: StoredFile) -> StoredFile:
        """The file with the name under which a list has it: what a shortcut leads to has that of the shortcut."""
        return replace(file, name=self._followed.get(file.id, file.name))

    def upload(
        self,
        path: Path,
        name: str,
        folder_id: str,
        app_properties: Mapping[str, str],
        *,
        existing: StoredFile | None = None,
        progress: Callable[[int], None] = _ignore,
        session_file: Path | None = None,
    ) -> StoredFile:
        """Uploads a file and compares Drive's checksum with its own.

        Args:
            path: The file; it must not change during the upload.
            name: Its name on Drive.
            folder_id: The folder for a new file, or that of `existing`.
            app_properties: Set after the checksum was compared; Drive allows 30, each of at most 124 bytes (key and
                value together).
            existing: The file to replace; its id stays, and its old content becomes a revision.
            progress: Called with the number of bytes stored; it decreases if Drive stored less than was sent.
            session_file: The file from which the next call continues an interrupted upload.

        Raises:
            ArchiveConflictError: Without `existing`: a file of that name exists. With it: that file has changed, before
                or during the upload. Or the uploaded file is no longer in the folder.
            CorruptArchiveError: Drive stored other bytes, three times; none of them is left under the name.
            DestinationError: Drive refused or could not be reached.
        """
        self._require_own(name, folder_id, existing)
        content = LocalFile.read(path)
        upload = Upload(
            self._service,
            content,
            name=name,
            folder_id=folder_id,
            app_properties=app_properties,
            existing=existing,
            progress=progress,
            session_file=session_file,
        )
        if existing is None and any(file.id != upload.file_id for file in self.find_file(folder_id, name)):
            raise ArchiveConflictError(f"{name} is already in the Drive folder", hint="Compare them, or use --force")
        return upload.run()

    def download(self, file: StoredFile, target: Path, *, progress: Callable[[int], None] = _ignore) -> None:
        """See `download.download`. Raises DestinationError, too, for a shortcut that leads to no file."""
        _require_content(f"cannot download {file.name}", file)
        download(self._service, file, target, progress, acknowledge_abuse=self._settings.acknowledge_abuse)

    def trash(self, file: StoredFile) -> None:
        """Moves a file to Drive's trash, which keeps it for 30 days. Not the target of a shortcut."""
        if file.id in self._followed or file.folder in self._followed:
            raise _shortcut_error(file.name if file.id in self._followed else "the project's folder")
        request = self._service.api.files().update(fileId=file.id, body={"trashed": True}, fields="id", **DRIVES)
        self._service.run(f"trash {file.name}", request)

    def history(self, folder: str, name: str, keep: StoredFile | None) -> History:
        """Earlier revisions of the file, and files of its name in the trash, or in a folder in the trash."""
        return find_history(self._service, self._ever_named(folder, name, keep), keep)

    def download_earlier(self, copy: EarlierCopy, target: Path) -> None:
        """Writes the content of a revision, or of a file in the trash."""
        download_earlier(self._service, copy, target)

    def erase_history(self, folder: str, name: str, keep: StoredFile | None) -> ErasedHistory:
        """Deletes them finally, if this account may: see `history.py`."""
        return erase(self._service, lambda: self.history(folder, name, keep), keep)

    def _ever_named(self, folder: str, name: str, keep: StoredFile | None) -> list[DriveFile]:
        """The files of that name in the folders of that name, in the trash too, as they are now."""
        inside = f"'{_quoted(self._settings.folder)}' in parents and mimeType = '{FOLDER_TYPE}'"
        query = f"{inside} and name = '{_quoted(folder)}'"
        # Drive ignores case in names, and its lists lag: for some time, they have the name and folder of before.
        folders = {found["id"] for found in self._pages(query) if found["name"] == folder}
        folders |= {known for known in (self._folder_ids.all().get(folder),) if known}
        ids = dict.fromkeys([keep.id] if keep else [])
        for parent in sorted(folders):
            query = f"'{_quoted(parent)}' in parents and {_NO_FOLDER} and name = '{_quoted(name)}'"
            ids |= dict.fromkeys(found["id"] for found in self._pages(query) if "shortcutDetails" not in found)
        now = filter(None, map(self._service.find, ids))
        return [file for file in now if file.name == name and (file.folder in folders or (keep and file.id == keep.id))]

    def _require_own(self, name: str, folder_id: str, existing: StoredFile | None) -> None:
        """Raises DestinationError if an upload would write outside the archive, or over something that is no file."""
        if folder_id in self._followed or (existing and existing.id in self._followed):
            raise _shortcut_error(name if existing else "the project's folder")
        if existing:
            _require_content(f"cannot replace {name}", existing)

    def _list(self, folder_id: str, name: str | None = None, *, folders: bool = False) -> list[StoredFile]:
        kind = f"(mimeType = '{FOLDER_TYPE}' or mimeType = '{SHORTCUT_TYPE}')" if folders else _NO_FOLDER
        query = f"'{_quoted(folder_id)}' in parents and {kind} and trashed = false"
        if name is not None:
            query += f" and name = '{_quoted(name)}'"
        own, shortcuts = [], list[Mapping[str, Any]]()
        for resource in self._pages(query):
            target = resource.get("shortcutDetails")
            if name not in (None, resource["name"]):  # Drive ignores case in names
                continue
            if target is None:
                own.append(DriveFile.of(resource))
            elif (target.get("targetMimeType") == FOLDER_TYPE) == folders:
                shortcuts.append(resource)
        if folders and not own and not shortcuts:  # else a wrong folder would look like an empty archive
            self._archive_folder(self._service.retries)
        if name is not None and shortcuts and not folders:
            raise _shortcut_error(name)
        if folders:
            names = {folder.name for folder in own}
            shortcuts = [shortcut for shortcut in shortcuts if shortcut["name"] not in names]
        here = {file.id for file in own}  # a shortcut beside its target, or a second one of it, adds nothing
        targets = {(shortcut["shortcutDetails"].get("targetId"), shortcut["name"]): shortcut for shortcut in shortcuts}
        shortcuts = [shortcut for (target, _), shortcut in targets.items() if target not in here]
        follow = DriveFile.of if folders and name is None else self._follow
        return sorted([*own, *map(follow, shortcuts)], key=_age)

    def _follow(self, shortcut: Mapping[str, Any]) -> StoredFile:
        """The target of a shortcut, with the shortcut's name; the shortcut itself if it leads to no readable file."""
        target, name = shortcut["shortcutDetails"]["targetId"], shortcut["name"]
        if key := shortcut["shortcutDetails"].get("targetResourceKey"):
            self._service.resource_keys[target] = key
        request = self._service.api.files().get(fileId=target, fields=FIELDS, **DRIVES)
        try:
            found = self._service.run(f"follow the shortcut {name} on Drive", request)
        except DriveRefusalError as refusal:
            if refusal.status != 404 or shortcut["shortcutDetails"].get("targetMimeType") == FOLDER_TYPE:
                raise
            return DriveFile.of(shortcut)
        file = DriveFile.of(found)
        if file.folder != DriveFile.of(shortcut).folder:
            self._followed[target] = name
        return replace(file, name=name)

    def _pages(self, query: str) -> Iterator[Mapping[str, Any]]:
        token = None
        while True:
            request = self._service.api.files().list(
                q=query,
                fields=f"nextPageToken,incompleteSearch,files({FIELDS})",
                pageSize=1000,
                pageToken=token,
                includeItemsFromAllDrives=True,
                **DRIVES,
            )
            answer = self._service.run("list the Drive folder", request)
            if answer.get("incompleteSearch"):
                raise DestinationError(
                    "cannot list the Drive folder", why="Drive searched only a part of it", hint="Try again later"
                )
            for resource in answer.get("files", ()):
                if "resourceKey" in resource:
                    self._service.resource_keys[resource["id"]] = resource["resourceKey"]
                yield resource
            token = answer.get("nextPageToken")
            if not token:
                return


def _age(file: StoredFile) -> tuple[str, str]:
    return file.created, file.id


def _require_content(what: str, file: StoredFile) -> None:
    """Raises DestinationError for what Drive stores no bytes of: it has no checksum."""
    if file.sha256 is None and file.md5 is None:
        raise DestinationError(
            what,
            why="it has no content: it is a document of Google's, or a shortcut to a file out of this account's reach",
            hint="Put the zip itself into its place in Drive, or ask for access to it",
        )


def _shortcut_error(name: str) -> DestinationError:
    return DestinationError(
        f"{name} on Drive is a shortcut",
        why="what it leads to is not in the archive's folder: it is read by a restore, and not changed or relied on",
        hint="Move it to the trash in Drive, and put the file or folder itself into its place",
    )


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
