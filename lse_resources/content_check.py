"""Contents against contents: what the files hold now, as JSONB, against what the rows hold now."""

from __future__ import annotations
