// Tasks of the Ghost process manager: taken over from its database, and asked for as it was asked.
import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { processStat } from '../../src/process/index.ts'
import { cli } from '../cli/run.ts'
import { makeJob, makeLayout } from '../support/finished-jobs.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

/** As Ghost makes it (contract C2). */
const ghostSchema = `
  CREATE TABLE tasks (id TEXT PRIMARY KEY, pid INTEGER NOT NULL, pgid INTEGER, command TEXT NOT NULL, env TEXT, cwd TEXT,
    status TEXT NOT NULL DEFAULT 'running', exit_code INTEGER, started_at INTEGER NOT NULL, finished_at INTEGER, log_path TEXT NOT NULL);
  CREATE INDEX idx_tasks_status ON tasks(status); CREATE INDEX idx_tasks_pid ON tasks(pid); CREATE INDEX idx_tasks_started_at ON tasks(started_at);`

const now = Math.floor(Date.now() / 1000)

interface Task {
  id: string
  pid?: number
  command?: string[]
  env?: [string, string][]
  status: string
  exit_code?: number
  started_at?: number
  finished_at?: number
  log?: string
}

function ghost(dir: string, tasks: Task[]): { path: string; db: DatabaseSync } {
  mkdirSync(join(dir, 'logs'), { recursive: true })
  const path = join(dir, 'tasks.db')
  const db = new DatabaseSync(path)
  db.exec(`PRAGMA journal_mode = WAL; ${ghostSchema}`)
  const insert = db.prepare('INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)')
  for (const t of tasks) {
    const log = join(dir, 'logs', `${t.id}.log`)
    if (t.log !== undefined) writeFileSync(log, t.log)
    const pid = t.pid ?? 2 ** 22 - 1
    insert.run(
      t.id,
      pid,
      pid,
      JSON.stringify(t.command ?? ['make', 'all']),
      JSON.stringify(t.env ?? []),
      '/srv/build',
      t.status,
      t.exit_code ?? null,
      t.started_at ?? now - 1000,
      t.finished_at ?? null,
      log,
    )
  }
  return { path, db }
}

const uuid = (n: number) => `0b5e7d3c-1111-4222-8333-${String(n).padStart(12, '0')}`

test('import takes over what Ghost knows, makes up nothing, and does it once', async () => {
  await using dir = await tempDir()
  const child = spawn('setsid', ['sleep', '600'], { stdio: 'ignore' })
  try {
    const started = await until('it leads a session', () => processStat(child.pid!)?.session === child.pid)
    expect(started).toBe(true)
    const { path, db } = ghost(join(dir.path, 'ghost'), [
      {
        id: uuid(1),
        status: 'exited',
        finished_at: now - 900,
        log: 'héllo\n\xff\0binary',
        env: [
          ['LANG', 'de_DE'],
          ['GITHUB_TOKEN', 'ghp_verysecret'],
          ['DATABASE_URL', 'postgres://me:dbsecret@db/x'],
        ],
      },
      { id: uuid(2), status: 'killed', finished_at: now - 800, log: '' },
      { id: uuid(3), status: 'running', started_at: 1_000_000_000, log: 'old' },
      { id: uuid(4), status: 'running', pid: process.pid, log: 'recycled' },
      { id: uuid(5), status: 'running', pid: child.pid!, started_at: Math.floor(Date.now() / 1000), log: 'alive' },
      { id: uuid(6), status: 'unknown' },
      { id: uuid(7), status: 'exited', exit_code: 0, finished_at: now - 5 },
      { id: uuid(8), status: 'exited', exit_code: 4, finished_at: now - 5, command: ['sh', '-c', 'exit 4'] },
    ])
    const before = readFileSync(path)
    const env = { VMSPOOL_HISTORY_PATH: join(dir.path, 'history.db'), GHOST_DATA_DIR: join(dir.path, 'ghost') }
    const root = join(dir.path, 'spool')
    const run = (...args: string[]) => cli([...args, '--root', root], { env })

    const first = await run('history', 'import', '-o', 'json')
    expect(first).toMatchObject({ code: 0, err: '' })
    expect(JSON.parse(first.out)).toEqual({
      database: path,
      imported: 7,
      already: 0,
      running: [{ id: uuid(5), pid: child.pid }],
      lost: 4,
      without_log: 3,
    })
    expect(readFileSync(path)).toEqual(before)

    const list = JSON.parse((await run('list', '-o', 'json')).out) as Record<string, unknown>[]
    const by = new Map(list.map((s) => [String(s.name).slice(-1), s]))
    expect([...by].map(([n, s]) => [n, s.state, s.exit_code, s.signal]).sort()).toEqual([
      ['1', 'failed', undefined, undefined],
      ['2', 'cancelled', undefined, undefined],
      ['3', 'failed', undefined, undefined],
      ['4', 'failed', undefined, undefined],
      ['6', 'failed', undefined, undefined],
      ['7', 'succeeded', 0, undefined],
      ['8', 'failed', 4, undefined],
    ])
    expect(by.get('1')!.reason).toMatch(/did not record its exit code: whether it succeeded is not known/)
    expect(by.get('3')!.reason).toMatch(/the host was started again since/)
    expect(by.get('4')!.reason).toMatch(/another one by now/)
    expect(by.get('8')).toMatchObject({ command: ['sh', '-c', 'exit 4'], cwd: '/srv/build', kind: 'command' })
    const job = join(root, 'default/output/jobs', String(by.get('1')!.id))
    expect(readFileSync(join(job, 'log'))).toEqual(readFileSync(join(dir.path, 'ghost/logs', `${uuid(1)}.log`)))
    expect((await run('logs', String(by.get('1')!.id))).out).toContain('héllo')
    expect(JSON.parse(readFileSync(join(job, 'result.json'), 'utf8'))).not.toHaveProperty('duration_ms')

    // Secrets are in no file that was made.
    const files = readdirSync(dir.path, { recursive: true, withFileTypes: true }).filter(
      (e) => e.isFile() && !e.parentPath.includes('ghost'),
    )
    expect(files.length).toBeGreaterThan(15)
    await run('stats')
    for (const f of files)
      expect(readFileSync(join(f.parentPath, f.name)).toString('latin1')).not.toMatch(/verysecret|dbsecret/)
    expect(readFileSync(env.VMSPOOL_HISTORY_PATH).toString('latin1')).not.toMatch(/verysecret|dbsecret/)

    // Again: nothing twice. The one that ran is taken when it has ended, also while Ghost has its database open.
    process.kill(-child.pid!, 'SIGKILL')
    await until('it ended', () => child.signalCode)
    db.exec(`UPDATE tasks SET status = 'killed', finished_at = ${now + 1} WHERE id = '${uuid(5)}'`)
    const again = await run('history', 'import', path)
    expect(again.out).toContain('1 task imported')
    expect(again.out).toContain('7 there already')
    expect(JSON.parse((await run('list', '-o', 'json')).out)).toHaveLength(8)
    expect(await run('fsck')).toMatchObject({ code: 0 })

    // As Ghost's own table has it.
    await run('stats')
    const index = new DatabaseSync(env.VMSPOOL_HISTORY_PATH, { readOnly: true })
    const query =
      'SELECT id, pid, command, cwd, status, exit_code, started_at FROM tasks WHERE status IN (?, ?) ORDER BY started_at DESC, id'
    expect(index.prepare(query).all('exited', 'killed')).toEqual(db.prepare(query).all('exited', 'killed'))
    expect(index.prepare('SELECT env FROM tasks WHERE id = ?').get(uuid(1))).toEqual({
      env: JSON.stringify([
        ['LANG', 'de_DE'],
        ['DATABASE_URL', 'postgres://me:********@db/x'],
        ['GITHUB_TOKEN', '********'],
      ]),
    })
    expect(index.prepare("SELECT count(*) AS n FROM tasks WHERE status = 'unknown'").get()).toEqual({ n: 3 })
    index.close()
    db.close()
  } finally {
    child.kill('SIGKILL')
  }
})

test('the view has the columns, the types and the units of the table', async () => {
  await using dir = await tempDir()
  const layout = makeLayout(dir.path)
  for (let n = 0; n < 20; n++) makeJob(layout, n)
  const path = join(dir.path, 'history.db')
  await cli(['stats', '--root', dir.path], { env: { VMSPOOL_HISTORY_PATH: path } })
  const index = new DatabaseSync(path, { readOnly: true })
  const original = new DatabaseSync(':memory:')
  original.exec(ghostSchema)
  const shape = (db: DatabaseSync) => db.prepare("SELECT name FROM pragma_table_info('tasks')").all()
  expect(shape(index)).toEqual(shape(original))
  const rows = index.prepare('SELECT *, typeof(started_at) AS t FROM tasks ORDER BY started_at').all()
  expect(rows.map((r) => r.status)).toEqual(
    [3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18, 19].map((n) => (n % 10 === 7 ? 'killed' : 'exited')),
  )
  expect(rows[0]).toMatchObject({
    t: 'integer',
    exit_code: 3,
    started_at: Date.UTC(2026, 0, 1, 0, 3) / 1000,
    pid: 1003,
    pgid: 1003,
  })
  expect(JSON.parse(String(rows[0]!.command))).toEqual(['rsync', '-a', '/srv/3', '/backup'])
  expect(rows[0]!.log_path).toBe(join(layout.outputJobs, readdirSync(layout.outputJobs).sort()[3]!, 'log'))
  // The newest few of many come from an index, as with Ghost's.
  const plan = index.prepare('EXPLAIN QUERY PLAN SELECT id, status FROM tasks ORDER BY started_at DESC LIMIT 5').all()
  expect(JSON.stringify(plan)).toContain('job_started')
  expect(JSON.stringify(plan)).not.toContain('TEMP B-TREE')
  index.close()
  original.close()
})

test('what is no database of Ghost is refused', async () => {
  await using dir = await tempDir()
  const path = join(dir.path, 'tasks.db')
  const env = { HOME: dir.path, GHOST_DATA_DIR: '', XDG_DATA_HOME: '' }
  const run = (...args: string[]) => cli(['history', 'import', ...args, '--root', join(dir.path, 's')], { env })
  expect(await run()).toMatchObject({
    code: 2,
    err: expect.stringContaining('.local/share/ghost/tasks.db does not exist'),
  })
  writeFileSync(
    path,
    'no database at all, only some text that is longer than a header of one hundred bytes, which this is by now',
  )
  expect(await run(path)).toMatchObject({
    code: 65,
    err: expect.stringContaining('cannot be read as a database of Ghost'),
  })
  expect(readdirSync(dir.path).filter((f) => f.startsWith('tasks'))).toEqual(['tasks.db'])
})
