"""The Google client itself: one service object per thread, built from the bundled discovery document."""

import json
import threading
from collections.abc import Mapping
from typing import Any

import google_auth_httplib2
from google.auth.credentials import Credentials
from googleapiclient.discovery import build_from_document
from googleapiclient.discovery_cache import get_static_doc
from googleapiclient.http import build_http

from lse_resources.destinations.google_drive.credentials import load_credentials
from lse_resources.destinations.google_drive.files import FIELDS, DriveFile
from lse_resources.destinations.google_drive.retry import DriveRefusalError, Retries, json_answer
from lse_resources.destinations.google_drive.settings import DriveSettings

DRIVES = {"supportsAllDrives": True}  # without it, files in shared drives are "not found"


class _Http(google_auth_httplib2.AuthorizedHttp):
    """Sends the resource keys of the files that a request names."""

    def __init__(self, credentials: Credentials, resource_keys: Mapping[str, str]) -> None:
        super().__init__(credentials, http=build_http())  # build_http does not follow 308, which is no redirect here
        self._resource_keys = resource_keys

    def request(
        self, uri: str, method: str = "GET", body: Any = None, headers: Any = None, *args: Any, **options: Any
    ) -> Any:
        named = f"{uri} {body}" if isinstance(body, str) else uri
        keys = ",".join(f"{file_id}/{key}" for file_id, key in list(self._resource_keys.items()) if file_id in named)
        if keys:
            headers = {**(headers or {}), "X-Goog-Drive-Resource-Keys": keys}
        return super().request(uri, method, body, headers, *args, **options)


class DriveService:
    """Calls of Drive v3 by Google's client. Threads may share it.

    httplib2 is not thread-safe, so each thread gets a service of its own. Another root is set in the document, because
    uploads ignore `client_options.api_endpoint`.

    Attributes:
        resource_keys: The keys of files and folders that are shared by a link, by id.
    """

    def __init__(self, settings: DriveSettings, retries: Retries) -> None:
        self.retries = retries
        self.resource_keys = {settings.folder: settings.resource_key} if settings.resource_key else {}
        self._credentials = load_credentials(settings)
        self._document: dict[str, Any] = json.loads(get_static_doc("drive", "v3") or "{}")
        if settings.root_url:
            root = settings.root_url
            self._document |= {"rootUrl": root, "baseUrl": root + self._document["servicePath"]}
            self._document.pop("mtlsRootUrl", None)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._services: list[Any] = []

    @property
    def api(self) -> Any:
        """This thread's service object: `api.files().list(…)` and so on."""
        service = getattr(self._local, "service", None)
        if service is None:
            service = build_from_document(self._document, http=_Http(self._credentials, self.resource_keys))
            self._local.service = service
            with self._lock:
                self._services.append(service)
        return service

    @property
    def root_url(self) -> str:
        """The root to which this client sends its credentials."""
        return self._document["rootUrl"]

    def run(self, what: str, request: Any, *, retries: Retries | None = None) -> Any:
        """Executes a request with retries. Raises DestinationError "cannot <what>"."""

        def execute() -> Any:
            answer = request.execute()
            return answer if request.method == "DELETE" else json_answer(answer)

        return (retries or self.retries).call(what, execute)

    def read(self, file_id: str) -> DriveFile | None:
        """The file or folder as it is now; None if it was deleted, or is in the trash. Raises DestinationError."""
        file = self.find(file_id)
        return None if file is None or file.trashed else file

    def find(self, file_id: str) -> DriveFile | None:
        """The file or folder as it is now, in the trash too; None if it was deleted. Raises DestinationError."""
        request = self.api.files().get(fileId=file_id, fields=FIELDS, **DRIVES)
        try:
            return DriveFile.of(self.run("read the metadata of a file on Drive", request))
        except DriveRefusalError as refusal:
            if refusal.status != 404:
                raise
            return None

    def close(self) -> None:
        """Closes the connections of all threads."""
        with self._lock:
            services, self._services = self._services, []
        self._local = threading.local()
        for service in services:
            service.close()
