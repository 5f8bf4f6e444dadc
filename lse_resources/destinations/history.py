"""What a destination keeps of a zip beside its current content: older revisions, deleted files, unfinished uploads."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "revision", "trashed file", "file", "version", "delete marker", "hidden object", "lock object", "unfinished upload"
]


@dataclass(frozen=True, slots=True)
class EarlierCopy:
    """One thing that a destination keeps under the name of a zip and that is not its current content.

    Attributes:
        kind: `revision`, `trashed file` and `file` (beside an encrypted one) on Drive; the others in an object store.
        id: The id of the file, or the key of the object.
        revision: The revision, version or upload; "" if the whole file is meant.
        name: Name of the file, encrypted or not.
        size: Bytes; 0 if it has no content that can be downloaded.
        modified: RFC 3339.
    """

    kind: Kind
    id: str
    revision: str
    name: str
    size: int
    modified: str

    @property
    def has_content(self) -> bool:
        """Whether `download_earlier` returns bytes."""
        return self.kind not in ("delete marker", "lock object", "unfinished upload")


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that could not be erased, or of which it is not known whether it exists.

    Attributes:
        what: What it is, with name and id, in words.
        why: The reason.
        hint: What to do.
        until: RFC 3339, when the destination erases it itself or allows it; "" if that is not known.
        certain: False: the destination cannot be asked whether there is any.
    """

    what: str
    why: str
    hint: str = ""
    until: str = ""
    certain: bool = True


@dataclass(frozen=True, slots=True)
class History:
    """Everything but the current content that a destination keeps under the name of a zip.

    `left` is what it may keep and does not list, and what is not to be erased.
    """

    copies: tuple[EarlierCopy, ...] = ()
    left: tuple[Leftover, ...] = ()

    def __add__(self, other: "History") -> "History":
        return History(self.copies + other.copies, self.left + other.left)


@dataclass(frozen=True, slots=True)
class ErasedHistory:
    """The numbers of what was erased, by kind, and what is left."""

    erased: Mapping[str, int] = field(default_factory=dict)
    left: tuple[Leftover, ...] = ()

    def __add__(self, other: "ErasedHistory") -> "ErasedHistory":
        return ErasedHistory(Counter(self.erased) + Counter(other.erased), self.left + other.left)
