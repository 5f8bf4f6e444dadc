"""Encrypts zips before the upload, in the age format (age-encryption.org/v1), and decrypts them after the download.

`age` and `rage` decrypt them too: `age -d -i key.txt x.zip.age > x.zip`.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyrage

from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError, NoKeyError, SettingsError
from lse_archive.files import absolute_path
from lse_archive.folder.publish import SCRATCH
from lse_resources.destinations.files import LocalFile, StoredFile
from lse_resources.destinations.history import EarlierCopy, ErasedHistory, History
from lse_resources.destinations.protocol import Destination

_age: Any = pyrage  # a Rust module without types
_SUFFIX = ".age"
_PASSPHRASE_BYTES = 512 << 20
# Properties of an encrypted zip, to compare its content without decrypting it.
_PLAIN_SHA256, _PLAIN_SIZE = "plain_sha256", "plain_size"
_SET_A_KEY = "Set LSE_AGE_IDENTITY_FILE or LSE_AGE_PASSPHRASE to the key or passphrase that encrypted it"
_RUN_ELSEWHERE = (
    "Run this where the key is (LSE_AGE_IDENTITY_FILE); "
    "or upload with --allow-shrink, which replaces the copy without comparing it"
)


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """The keys that encrypt and decrypt zips, or one passphrase for both."""

    recipients: tuple[Any, ...] = ()
    identities: tuple[Any, ...] = ()
    passphrase: str | None = None

    @property
    def can_decrypt(self) -> bool:
        """Whether there is a key or passphrase to decrypt with."""
        return bool(self.identities) or self.passphrase is not None

    def encrypt(self, source: BinaryIO, target: BinaryIO) -> None:
        """Writes `source` encrypted: in constant memory with keys, all in memory with a passphrase."""
        if self.passphrase is not None:
            target.write(_age.passphrase.encrypt(_read_all(source), self.passphrase))
        else:
            _age.encrypt_io(source, target, list(self.recipients))

    def decrypt(self, source: BinaryIO, target: BinaryIO) -> None:
        """Writes `source` decrypted. Raises pyrage.DecryptError."""
        if self.passphrase is not None:
            target.write(_age.passphrase.decrypt(_read_all(source), self.passphrase))
        else:
            _age.decrypt_io(source, target, list(self.identities))


def _read_all(source: BinaryIO) -> bytes:
    content = source.read(_PASSPHRASE_BYTES + 1)
    if len(content) > _PASSPHRASE_BYTES:
        raise ArchiveError(
            "the zip is too large for a passphrase",
            why=f"it needs more than {_PASSPHRASE_BYTES >> 20} MiB of memory",
            hint="Use a key: age-keygen -o key.txt, and LSE_AGE_IDENTITY_FILE",
        )
    return content


def read_keys(recipient: str | None, identity_file: Path | None, passphrase: str | None) -> Keys | None:
    """The keys of the settings; None if nothing is to be encrypted.

    Args:
        recipient: A public key, age1…; alone, it lets this host encrypt and not decrypt.
        identity_file: A key file of `age-keygen`.
        passphrase: Instead of both.

    Raises:
        SettingsError: They contradict each other, or cannot be read.
    """
    if passphrase is not None:
        if recipient or identity_file:
            raise SettingsError("LSE_AGE_PASSPHRASE and a key are both set", hint="Set one or the other")
        return Keys(passphrase=passphrase)
    if not recipient and not identity_file:
        return None
    try:
        identities = [_age.x25519.Identity.from_str(line) for line in _key_lines(identity_file)]
        recipients = [_age.x25519.Recipient.from_str(recipient)] if recipient else []
    except (_age.IdentityError, _age.RecipientError):
        raise SettingsError(
            "the age key cannot be read",
            why="LSE_AGE_RECIPIENT or LSE_AGE_IDENTITY_FILE is not an age key",
            hint="Make one with: age-keygen -o key.txt",
        ) from None
    return Keys(tuple(recipients or [identity.to_public() for identity in identities]), tuple(identities))


def _key_lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = absolute_path(path).read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is not text"
        raise SettingsError(f"cannot read the age key file {path}", why=why) from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise SettingsError(f"the age key file {path} holds no key", hint="Make one with: age-keygen -o key.txt")
    return keys


@dataclass(frozen=True, slots=True, kw_only=True)
class _EncryptedCopy(StoredFile):
    """An encrypted file; name, size and checksum are those of the zip in it.

    `locked` is why this host cannot decrypt it, and what to do; None if it has a key to try.
    """

    encrypted_file: StoredFile
    locked: tuple[str, str] | None


def is_encrypted(file: StoredFile) -> bool:
    """Whether a file of an `EncryptedDestination` is encrypted."""
    return isinstance(file, _EncryptedCopy)


def check_decryptable(file: StoredFile) -> None:
    """Raises NoKeyError if the file is encrypted and this host has no key that can decrypt it."""
    if isinstance(file, _EncryptedCopy) and file.locked:
        why, hint = file.locked
        raise NoKeyError(f"{file.encrypted_file.name} is encrypted", why=why, hint=hint)


class EncryptedDestination:
    """A destination whose zips may be encrypted. With keys, new zips are; older unencrypted zips are found too.

    Args:
        keys: None: zips are uploaded unencrypted. Encrypted ones are found and compared, not decrypted or replaced.
        scratch: A directory for temporary copies.
    """

    def __init__(self, inner: Destination, keys: Keys | None, scratch: Path) -> None:
        self._inner = inner
        self._keys = keys
        self._scratch = scratch
        self._locked: tuple[str, str] | None = None
        if keys is None:
            self._locked = "no key is set", _SET_A_KEY
        elif not keys.can_decrypt:
            self._locked = "LSE_AGE_RECIPIENT alone cannot decrypt it", _RUN_ELSEWHERE
        self.place = inner.place
        self.keeps_revisions = inner.keeps_revisions

    def check_folder(self, need: int = 0) -> object:
        """Raises unless the destination has room for `need` bytes more."""
        return self._inner.check_folder(need)

    def find_project_folders(self, name: str) -> list[str]:
        """The ids of a project's folders."""
        return self._inner.find_project_folders(name)

    def ensure_project_folder(self, name: str) -> str:
        """The id of a project's folder; creates the folder if it is missing."""
        return self._inner.ensure_project_folder(name)

    def project_folders(self) -> list[str]:
        """The names of all projects' folders."""
        return self._inner.project_folders()

    def close(self) -> None:
        """Closes all connections."""
        self._inner.close()

    def find_file(self, folder_id: str, name: str) -> list[StoredFile]:
        """The encrypted files of that zip; if there are none, the unencrypted ones."""
        encrypted_file = self._inner.find_file(folder_id, name + _SUFFIX)
        return [self._as_zip(file) for file in encrypted_file] or self._inner.find_file(folder_id, name)

    def read(self, file_id: str) -> StoredFile | None:
        """The file of that id."""
        file = self._inner.read(file_id)
        return file and self._as_zip(file)

    def left_behind(self, folder_id: str, file: StoredFile) -> list[StoredFile]:
        """The unencrypted files of a zip that is also encrypted."""
        return self._inner.find_file(folder_id, file.name) if isinstance(file, _EncryptedCopy) else []

    def list_files(self, folder_id: str) -> list[StoredFile]:
        """All files of a folder; a zip that is there encrypted and unencrypted is listed twice."""
        return [self._as_zip(file) for file in self._inner.list_files(folder_id)]

    def upload(
        self,
        path: Path,
        name: str,
        folder_id: str,
        app_properties: Mapping[str, str],
        *,
        existing: StoredFile | None = None,
        progress: Callable[[int], None] = lambda _: None,
        session_file: Path | None = None,
    ) -> StoredFile:
        """Encrypts the zip if there are keys, and uploads it.

        After the upload, an unencrypted file that it replaces is removed. An unencrypted file with the same bytes
        stays; only its properties are updated. Each encryption gives other bytes, so an interrupted upload starts over.

        Raises:
            NoKeyError: An encrypted file would be replaced by an unencrypted one.
            ArchiveError: See the destination; or there is no room for the encrypted copy.
        """
        if self._keys is None:
            if existing is not None:
                check_decryptable(existing)
            return self._inner.upload(
                path, name, folder_id, app_properties, existing=existing, progress=progress, session_file=session_file
            )
        content = LocalFile.read(path)
        encrypted_file = existing.encrypted_file if isinstance(existing, _EncryptedCopy) else None
        if existing is not None and encrypted_file is None and content.equals(existing):
            return self._inner.upload(path, name, folder_id, app_properties, existing=existing, progress=progress)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._scratch) as directory:
            copy = Path(directory) / (name + _SUFFIX)
            try:
                with path.open("rb") as source, copy.open("wb") as target:
                    self._keys.encrypt(source, target)
            except OSError as error:
                raise ArchiveError(f"cannot encrypt {path}", why=error.strerror or str(error)) from error
            extended = {**app_properties, _PLAIN_SHA256: content.sha256, _PLAIN_SIZE: str(content.size)}
            extended["sha256"] = LocalFile.read(copy).sha256
            file = self._inner.upload(copy, copy.name, folder_id, extended, existing=encrypted_file, progress=progress)
        if existing is not None and encrypted_file is None:
            self._inner.trash(existing)
        return self._as_zip(file)

    def download(self, file: StoredFile, target: Path, *, progress: Callable[[int], None] = lambda _: None) -> None:
        """Downloads the file and decrypts it to `target`.

        Raises:
            NoKeyError: The key does not decrypt it, or there is none.
            CorruptArchiveError: The decrypted content is not the zip that was encrypted.
            ArchiveError: See the destination; or there is no room for the zip.
        """
        check_decryptable(file)
        if not isinstance(file, _EncryptedCopy) or self._keys is None:
            self._inner.download(file, target, progress=progress)
            return
        encrypted_file = file.encrypted_file
        copy, draft = target.with_name(target.name + _SUFFIX), target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            self._inner.download(encrypted_file, copy, progress=progress)
            self._decrypt(copy, draft, encrypted_file.name)
            # Without it, two other checksums were compared: the destination's of the file, and age's own.
            if file.sha256 is not None and not LocalFile.read(draft).equals(file):
                raise CorruptArchiveError(f"{encrypted_file.name} does not hold the zip that was encrypted")
            draft.replace(target)
        except OSError as error:
            raise ArchiveError(f"cannot write {target}", why=error.strerror or str(error)) from error
        finally:
            copy.unlink(missing_ok=True)
            draft.unlink(missing_ok=True)

    def prove(self, file: StoredFile) -> StoredFile:
        """Checks the file at the destination, and downloads and decrypts an encrypted one.

        It may become the only copy, and its checksum does not show whether this host can decrypt it.

        Raises:
            NoKeyError: The key does not decrypt it, or there is none.
            CorruptArchiveError: The decrypted content is not the zip that was encrypted.
            ArchiveError: See the destination; or there is no room for the zip.
        """
        now = self._as_zip(self._inner.prove(_as_stored(file)))
        if is_encrypted(now) and not now.trashed:
            check_decryptable(now)
            try:
                self._scratch.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._scratch) as directory:
                    self.download(now, Path(directory) / now.name)
            except OSError as error:
                raise ArchiveError(f"cannot prove {now.name}", why=error.strerror or str(error)) from error
        return now

    def trash(self, file: StoredFile) -> None:
        """Removes a file."""
        self._inner.trash(_as_stored(file))

    def history(self, folder: str, name: str, keep: StoredFile | None) -> History:
        """What is kept of the encrypted and of the unencrypted file of that name."""
        found = History()
        for stored, kept in _kept_under(name, keep):
            found += self._inner.history(folder, stored, kept)
        return found

    def download_earlier(self, copy: EarlierCopy, target: Path) -> None:
        """Downloads it, and decrypts it if its name is that of an encrypted file."""
        if not copy.name.endswith(_SUFFIX):
            self._inner.download_earlier(copy, target)
            return
        if self._locked or self._keys is None:
            why, hint = self._locked or ("no key is set", _SET_A_KEY)
            raise NoKeyError(f"{copy.name} is encrypted", why=why, hint=hint)
        encrypted = target.with_name(target.name + _SUFFIX)
        try:
            self._inner.download_earlier(copy, encrypted)
            self._decrypt(encrypted, target, copy.name)
        finally:
            encrypted.unlink(missing_ok=True)

    def erase_history(self, folder: str, name: str, keep: StoredFile | None) -> ErasedHistory:
        """Erases what is kept of the encrypted and of the unencrypted file of that name."""
        erased = ErasedHistory()
        if keep is not None and not is_encrypted(keep) and self._inner.find_file(keep.folder, name + _SUFFIX):
            # It would count as history, although it is what a restore reads.
            raise ArchiveConflictError(
                f"{name} is encrypted on {self.place}, and unencrypted too", hint="Run the command again"
            )
        for stored, kept in _kept_under(name, keep):
            erased += self._inner.erase_history(folder, stored, kept)
        return erased

    def _decrypt(self, encrypted: Path, target: Path, name: str) -> None:
        """Raises NoKeyError, CorruptArchiveError, or ArchiveError if `target` cannot be written."""
        assert self._keys is not None
        try:
            with encrypted.open("rb") as source, target.open("wb") as plain:
                self._keys.decrypt(source, plain)
        except _age.DecryptError as error:
            why = "the key or passphrase does not decrypt it"
            raise NoKeyError(f"cannot decrypt {name}", why=why, hint=_SET_A_KEY) from error
        except OSError as error:
            if error.errno is not None:  # an error of the disk, not of the library
                raise ArchiveError(f"cannot write {target}", why=error.strerror or str(error)) from error
            raise CorruptArchiveError(f"{name} is damaged", why=str(error)) from error

    def _as_zip(self, file: StoredFile) -> StoredFile:
        """The zip in an encrypted file, from its properties; without a checksum if they belong to other bytes."""
        if not file.name.endswith(_SUFFIX):
            return file
        properties = dict(file.app_properties)
        own, size = properties.get(_PLAIN_SHA256), properties.get(_PLAIN_SIZE, "")
        intact = file.sha256 is not None and properties.get("sha256") == file.sha256 and size.isdecimal()
        fields: dict[str, Any] = {field.name: getattr(file, field.name) for field in dataclasses.fields(StoredFile)}
        fields |= {"name": file.name.removesuffix(_SUFFIX), "sha256": own if intact else None, "md5": None}
        fields["size"] = int(size) if intact else file.size
        fields["app_properties"] = {**properties, "sha256": own or ""} if intact else {}
        return _EncryptedCopy(**fields, encrypted_file=file, locked=self._locked)


def _as_stored(file: StoredFile) -> StoredFile:
    return file.encrypted_file if isinstance(file, _EncryptedCopy) else file


def _kept_under(name: str, keep: StoredFile | None) -> list[tuple[str, StoredFile | None]]:
    """The names of the encrypted and the unencrypted file, each with the file that stays there."""
    encrypted = keep is not None and is_encrypted(keep)
    stored = _as_stored(keep) if keep is not None else None
    return [(name + _SUFFIX, stored if encrypted else None), (name, None if encrypted else stored)]
