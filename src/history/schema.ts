/**
 * The tables of the index. Nothing is in them that is not in the spools' files, so a change of them is a new `version`: the old
 * database is set aside and a new one is filled from the files.
 */

/** `PRAGMA application_id`: "vmsp". A file without it is not ours, and is left alone. */
export const applicationId = 0x766d7370
export const version = 1

/**
 * `tasks` is the table of the Ghost process manager (its columns, types and units: seconds since 1970, JSON texts), of all commands that
 * were started and have ended, so that a query written for its tasks.db works here. Where it differs: id is a job id (of imported tasks
 * the id they had), exit_code is known, and env holds only what a manifest names, secrets as ********.
 */
export const tables = `
CREATE TABLE spool (
  n INTEGER PRIMARY KEY,
  root TEXT NOT NULL,
  instance TEXT NOT NULL,
  output TEXT NOT NULL,
  identity TEXT NOT NULL,
  position TEXT,
  complete INTEGER NOT NULL DEFAULT 0,
  boot_id TEXT,
  generation INTEGER NOT NULL DEFAULT 1,
  checked_ms INTEGER,
  check_took_ms INTEGER,
  UNIQUE (root, instance, output)
) STRICT;

CREATE TABLE job (
  n INTEGER PRIMARY KEY,
  spool INTEGER NOT NULL,
  id TEXT NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  state TEXT NOT NULL,
  exit_code INTEGER,
  signal TEXT,
  pid INTEGER,
  host TEXT,
  command TEXT,
  cwd TEXT,
  env TEXT,
  group_name TEXT,
  parent TEXT,
  uid INTEGER,
  accepted_ms INTEGER,
  started_ms INTEGER,
  finished_ms INTEGER,
  duration_ms INTEGER,
  bytes_in INTEGER,
  bytes_out INTEGER,
  attempt INTEGER,
  error_code TEXT,
  error_text TEXT,
  ghost_id TEXT,
  priority INTEGER,
  ticket INTEGER,
  epoch INTEGER,
  failures INTEGER,
  crashes INTEGER,
  generation INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX job_id ON job (spool, id);
CREATE INDEX job_kind ON job (spool, kind, state, id);
CREATE INDEX job_name ON job (spool, name, state, id);
CREATE INDEX job_finished ON job (finished_ms);
CREATE INDEX job_started ON job (started_ms / 1000) WHERE kind = 'command' AND started_ms IS NOT NULL;

CREATE TABLE open_job (spool INTEGER NOT NULL, id TEXT NOT NULL, PRIMARY KEY (spool, id)) STRICT, WITHOUT ROWID;

CREATE VIRTUAL TABLE failure USING fts5(error_code, error_text, content='job', content_rowid='n', tokenize='unicode61');
CREATE TRIGGER job_added AFTER INSERT ON job WHEN new.error_text IS NOT NULL BEGIN
  INSERT INTO failure (rowid, error_code, error_text) VALUES (new.n, new.error_code, new.error_text);
END;
CREATE TRIGGER job_gone AFTER DELETE ON job WHEN old.error_text IS NOT NULL BEGIN
  INSERT INTO failure (failure, rowid, error_code, error_text) VALUES ('delete', old.n, old.error_code, old.error_text);
END;
CREATE TRIGGER job_changed AFTER UPDATE OF error_code, error_text ON job
WHEN old.error_code IS NOT new.error_code OR old.error_text IS NOT new.error_text BEGIN
  INSERT INTO failure (failure, rowid, error_code, error_text)
    SELECT 'delete', old.n, old.error_code, old.error_text WHERE old.error_text IS NOT NULL;
  INSERT INTO failure (rowid, error_code, error_text)
    SELECT new.n, new.error_code, new.error_text WHERE new.error_text IS NOT NULL;
END;

CREATE VIEW jobs AS
SELECT j.id, s.root, s.instance, j.name, j.kind, j.state, j.exit_code, j.signal, j.pid, j.host, j.command, j.cwd, j.env, j.group_name,
  j.parent, j.uid, j.accepted_ms, j.started_ms, j.finished_ms, j.duration_ms, j.started_ms - j.accepted_ms AS wait_ms, j.bytes_in,
  j.bytes_out, j.attempt, j.error_code, j.error_text, s.output || '/jobs/' || j.id || '/log' AS log_path
FROM job j JOIN spool s ON s.n = j.spool;

CREATE VIEW tasks AS
SELECT coalesce(j.ghost_id, j.id) AS id, coalesce(j.pid, 0) AS pid, j.pid AS pgid, coalesce(j.command, '[]') AS command, j.env AS env,
  j.cwd AS cwd,
  CASE WHEN j.error_code = 'lost' THEN 'unknown'
    WHEN j.state = 'cancelled' OR j.signal IS NOT NULL THEN 'killed'
    WHEN j.state = 'succeeded' OR j.exit_code IS NOT NULL OR j.error_code = 'exit-unknown' THEN 'exited'
    ELSE 'unknown' END AS status,
  j.exit_code AS exit_code, j.started_ms / 1000 AS started_at, j.finished_ms / 1000 AS finished_at,
  s.output || '/jobs/' || j.id || '/log' AS log_path
FROM job j JOIN spool s ON s.n = j.spool
WHERE j.kind = 'command' AND j.started_ms IS NOT NULL;
`
