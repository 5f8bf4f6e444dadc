"""Typed columns that fail for no run, and do not depend on the server's locale."""

from alembic import op

revision = "0003"
down_revision = "0002"

# An exception makes a column NULL; the content stays. `[0-9]`: with ICU, `\d` matches the digits of all scripts, which
# no cast accepts. lse_time returns what Python reads (`lse_archive.days.parse_time`): digits below the microsecond are
# cut off, and an offset has up to 23:59, where PostgreSQL's own limit is 15:59. Years before 1 and from 10000 on are
# NULL: neither Python nor ISO 8601 can write them.
_READERS = r"""
CREATE OR REPLACE FUNCTION lse_time(value text) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    zone   text := ltrim(substr(value, 20), '.0123456789');
    clock  text := left(value, least(26, length(value) - length(zone)));
    moment timestamptz;
BEGIN
    IF translate(left(value, 19), '123456789Tt', '000000000  ') <> '0000-00-00 00:00:00' THEN
        RETURN NULL;
    END IF;
    IF zone IN ('Z', 'z', '') THEN
        moment := (clock || 'Z')::timestamptz;
    ELSIF zone ~ '^[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?$' THEN
        moment := (clock || 'Z')::timestamptz
            - (left(zone, 3) || ':' || coalesce(nullif(ltrim(right(zone, -3), ':'), ''), '00'))::interval;
    END IF;
    IF moment >= '0001-01-01 00:00:00Z' AND moment < '10000-01-01 00:00:00Z' THEN
        RETURN moment;
    END IF;
    RETURN NULL;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;
CREATE OR REPLACE FUNCTION lse_number(value jsonb) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    kind text := jsonb_typeof(value);
BEGIN
    IF kind = 'number' AND abs(value::numeric) < 1e30 THEN
        RETURN value::numeric;
    ELSIF kind = 'string' AND value #>> '{}' ~ '^-?[0-9]{1,30}(\.[0-9]{1,60})?([eE]-?[0-9]{1,2})?$' THEN
        RETURN (value #>> '{}')::numeric;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE FUNCTION lse_count(value jsonb) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    kind text := jsonb_typeof(value);
BEGIN
    IF kind = 'number' AND value::numeric BETWEEN 0 AND 1e18 THEN
        RETURN value::bigint;
    ELSIF kind = 'string' AND value #>> '{}' ~ '^[0-9]{1,18}$' THEN
        RETURN (value #>> '{}')::bigint;
    END IF;
    RETURN NULL;
END
$$;
"""

# Stored columns are computed only when a row is written.
_RECOMPUTE = """
UPDATE runs SET data = data
WHERE start_time IS DISTINCT FROM lse_time(data ->> 'start_time')
   OR end_time IS DISTINCT FROM lse_time(data ->> 'end_time')
"""
# A former load may have marked a run whose typed columns failed, or which the database's encoding could not hold.
# Without the hash of its file such a row counts as changed: `verify` reports it, `--fix` loads it again.
_DOUBT_REFUSED = "UPDATE runs SET file_sha256 = NULL WHERE 'refused' = ANY (mark)"


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    for statement in (_READERS, _RECOMPUTE, _DOUBT_REFUSED):
        connection.execute(statement)
