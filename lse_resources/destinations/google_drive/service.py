"""The Google client itself: one service object per thread, built from the bundled discovery document."""

import json
import threading
from typing import Any

import google_auth_httplib2
from googleapiclient.discovery import build_from_document
from googleapiclient.discovery_cache import get_static_doc
from googleapiclient.http import build_http

from lse_resources.destinations.google_drive.credentials import load_credentials
from lse_resources.destinations.google_drive.files import FIELDS, DriveFile
from lse_resources.destinations.google_drive.retry import DriveRefusalError, Retries, json_answer
from lse_resources.destinations.google_drive.settings import DriveSettings

DRIVES = {"supportsAllDrives": True}  # without it, files in shared drives are "not found"


class DriveService:
    """Calls of Drive v3 by Google's client. Threads may share it.

    httplib2 is not thread-safe, so each thread gets a service of its own. Another root is set in the document, because
    uploads ignore `client_options.api_endpoint`.
    """

    def __init__(self, settings: DriveSettings, retries: Retries) -> None:
        self.retries = retries
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
            # build_http does not follow 308, which is no redirect here.
            service = build_from_document(
                self._document, http=google_auth_httplib2.AuthorizedHttp(self._credentials, http=build_http())
            )
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
        request = self.api.files().get(fileId=file_id, fields=FIELDS, **DRIVES)
        try:
            file = DriveFile.of(self.run("read the metadata of a file on Drive", request))
        except DriveRefusalError as refusal:
            if refusal.status != 404:
                raise
            return None
        return None if file.trashed else file

    def close(self) -> None:
        """Closes the connections of all threads."""
        with self._lock:
            services, self._services = self._services, []
        self._local = threading.local()
        for service in services:
            service.close()
