"""Accounts of the local Drive: users, service accounts, their tokens and credentials files."""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from lse_demo.google_drive.documents import Documents

DRIVE_SCOPE = "https://www.googleapis.com/auth/drive"
CLIENT_ID = "lse-demo.apps.googleusercontent.com"
CLIENT_SECRET = "demo-secret"
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class Access:
    """The rights of an access token. `app` is the client to which the token was issued.

    `keys` are the resource keys of one request, by file id.
    """

    email: str
    scopes: tuple[str, ...]
    app: str
    expires: float
    keys: Mapping[str, str] = field(default_factory=dict)


class GrantError(Exception):
    """An error of the token endpoint; `code` is OAuth's error code."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(description)
        self.code = code


class Accounts:
    """Users and service accounts, stored in `documents`; access tokens are kept in memory only."""

    def __init__(
        self, documents: Documents, *, now: Callable[[], float] = time.time, token_seconds: int = 3600
    ) -> None:
        self.token_seconds = token_seconds
        self._documents = documents
        self._now = now
        self._lock = threading.Lock()
        self._access: dict[str, Access] = {}
        self._codes: dict[str, Mapping[str, Any]] = {}

    def add_user(self, email: str, *, name: str = "", limit: int | None = 15 << 30) -> None:
        """Adds a user with `limit` bytes of storage (None: unlimited)."""
        self._documents.put("account", email, {"name": name or email.split("@")[0].title(), "limit": limit})

    def get(self, email: str) -> Mapping[str, Any]:
        """Returns an account: name, limit and, for a service account, its public key. Empty if unknown."""
        return self._documents.get("account", email) or {}

    def set_limit(self, email: str, limit: int | None) -> None:
        """Changes a user's storage quota, in bytes."""
        self._documents.put("account", email, {**self.get(email), "limit": limit})

    def refresh_token(self, email: str, scopes: tuple[str, ...] = (DRIVE_SCOPE,)) -> str:
        """Issues a refresh token of `email` for the demo's OAuth client."""
        token = "1//demo-" + secrets.token_urlsafe(24)
        self._documents.put("refresh", token, {"email": email, "scopes": scopes, "app": CLIENT_ID})
        return token

    def revoke(self, email: str) -> None:
        """Revokes every refresh token and access token of `email`, as a user can on the account page."""
        for token, grant in self._documents.all("refresh").items():
            if grant["email"] == email:
                self._documents.remove("refresh", token)
        with self._lock:
            self._access = {token: access for token, access in self._access.items() if access.email != email}

    def expire_tokens(self) -> None:
        """Expires all access tokens now; refresh tokens stay valid."""
        with self._lock:
            self._access.clear()

    def authenticate(self, header: str | None) -> Access | None:
        """Returns the access of an `Authorization` header; None if it is absent, unknown or expired."""
        scheme, _, token = (header or "").partition(" ")
        with self._lock:
            access = self._access.get(token)
        return access if scheme == "Bearer" and access and access.expires > self._now() else None

    def code(self, params: Mapping[str, str], email: str) -> str:
        """Issues an authorization code, as the consent page of the installed-app flow does."""
        code = "4/demo-" + secrets.token_urlsafe(16)
        with self._lock:
            self._codes[code] = {**params, "email": email}
        return code

    def grant(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Answers a request to the token endpoint. Raises GrantError."""
        kind = form.get("grant_type")
        if kind == "refresh_token":
            self._check_client(form)
            stored = self._documents.get("refresh", form.get("refresh_token", ""))
            if stored is None:
                raise GrantError("invalid_grant", "Token has been expired or revoked.")
            scopes = tuple(form["scope"].split()) if "scope" in form else tuple(stored["scopes"])
            if not set(scopes) <= set(stored["scopes"]):
                raise GrantError("invalid_scope", "Some requested scopes were invalid.")
            return self._issue(stored["email"], scopes, stored["app"])
        if kind == "authorization_code":
            self._check_client(form)
            return self._exchange_code(form)
        if kind == _JWT_BEARER:
            return self._grant_service_account(form.get("assertion", ""))
        raise GrantError("unsupported_grant_type", f"Invalid grant_type: {kind}")

    def _check_client(self, form: Mapping[str, str]) -> None:
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            raise GrantError("invalid_client", "The OAuth client was not found.")

    def _issue(self, email: str, scopes: tuple[str, ...], app: str) -> dict[str, Any]:
        token = "ya29.demo-" + secrets.token_urlsafe(24)
        with self._lock:
            self._access[token] = Access(email, scopes, app, self._now() + self.token_seconds)
        answer = {"access_token": token, "expires_in": self.token_seconds, "token_type": "Bearer"}
        return {**answer, "scope": " ".join(scopes)}

    def _exchange_code(self, form: Mapping[str, str]) -> dict[str, Any]:
        with self._lock:
            consent = self._codes.pop(form.get("code", ""), None)
        if consent is None or consent.get("redirect_uri") != form.get("redirect_uri"):
            raise GrantError("invalid_grant", "Malformed auth code.")
        if challenge := consent.get("code_challenge"):
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != challenge:
                raise GrantError("invalid_grant", "Invalid code verifier.")
        scopes = tuple(consent["scope"].split())
        answer = self._issue(consent["email"], scopes, CLIENT_ID)
        return {**answer, "refresh_token": self.refresh_token(consent["email"], scopes)}

    def _grant_service_account(self, assertion: str) -> dict[str, Any]:
        try:
            signed, _, signature = assertion.rpartition(".")
            claims = json.loads(_unpad(signed.split(".")[1]))
            email = claims["iss"]
            key = serialization.load_pem_public_key(self.get(email)["public_key"].encode())
            if not isinstance(key, rsa.RSAPublicKey):
                raise GrantError("invalid_grant", "Invalid JWT Signature.")
            key.verify(_unpad(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, ValueError, KeyError, IndexError) as error:
            raise GrantError("invalid_grant", "Invalid JWT Signature.") from error
        if not claims["iat"] - 300 < self._now() < claims["exp"]:
            raise GrantError("invalid_grant", "Invalid JWT: Token must be a short-lived token.")
        subject = claims.get("sub", email)
        if subject != email and subject not in self.get(email).get("delegates", ()):
            raise GrantError(
                "unauthorized_client", "Client is unauthorized to retrieve access tokens using this method."
            )
        return self._issue(subject, tuple(claims["scope"].split()), email)

    def write_authorized_user(
        self, path: Path, email: str, *, url: str, scopes: tuple[str, ...] = (DRIVE_SCOPE,)
    ) -> None:
        """Writes an `authorized_user` file with a new refresh token; `url` is the server's."""
        identity = {"type": "authorized_user", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        token = self.refresh_token(email, scopes)
        _write(path, {**identity, "refresh_token": token, "token_uri": f"{url}/token", "scopes": list(scopes)})

    def write_client_secrets(self, path: Path, *, url: str) -> None:
        """Writes a client-secrets file of an installed app; consent page and token endpoint are at `url`."""
        client = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "project_id": "lse-demo"}
        endpoints = {"auth_uri": f"{url}/o/oauth2/auth", "token_uri": f"{url}/token"}
        _write(path, {"installed": {**client, **endpoints, "redirect_uris": ["http://localhost"]}})

    def write_service_account(
        self, path: Path, email: str, *, url: str, delegates: tuple[str, ...] = (), limit: int | None = 0
    ) -> None:
        """Creates a service account that may act for `delegates`, and writes its key file.

        It owns no storage; Drive refuses its uploads, though `about.get` may report a limit.
        """
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        account = {"name": email, "limit": limit, "public_key": public.decode(), "delegates": delegates}
        self._documents.put("account", email, account)
        identity = {"type": "service_account", "project_id": "lse-demo", "private_key_id": "demo", "client_id": "1"}
        secret_part = {"private_key": secret.decode(), "client_email": email, "token_uri": f"{url}/token"}
        _write(path, {**identity, **secret_part})


def _unpad(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
