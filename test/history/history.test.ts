// The index against the files it is made of: whatever happens to it, lists say what the folders say.
import { mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { describe, expect, test } from 'vitest'
import { indexedJobs } from '../../src/client/history.ts'
import { rebuild, withIndex } from '../../src/client/history-work.ts'
import type { View } from '../../src/client/place.ts'
import { type ListFilter, listJobs } from '../../src/client/status.ts'
import { withHistory } from '../../src/history/database.ts'
import { refuseNetwork } from '../../src/history/path.ts'
import { columns } from '../../src/history/job-row.ts'
import { makeSpool } from '../../src/spool/spool.ts'
import { retain } from '../../src/spool/retain.ts'
import { cli } from '../cli/run.ts'
import { idOf, jobOf, makeJob, makeLayout, tell } from '../support/finished-jobs.ts'
import { tempDir } from '../support/temp.ts'

function viewOf(dir: string): View {
  const layout = makeLayout(dir)
  return { instance: 'default', layout, spool: makeSpool({ layout }), history: join(dir, 'history.db') }
}

/** What a list says without an index: there can be none where a file is in the way. */
async function byFolders(view: View, filter: ListFilter = {}) {
  const nowhere = join(view.layout.root, 'file')
  writeFileSync(nowhere, '')
  return listJobs({ ...view, history: join(nowhere, 'h.db') }, filter)
}

/** Every row, without what says only when it was written. */
function rows(path: string) {
  const db = new DatabaseSync(path, { readOnly: true })
  try {
    expect(db.prepare('PRAGMA integrity_check').get()).toEqual({ integrity_check: 'ok' })
    return db.prepare(`SELECT ${columns.join(', ')} FROM job ORDER BY id`).all()
  } finally {
    db.close()
  }
}

const fill = (view: View) => withIndex(view, {}, () => {})
const covered = async (view: View) => {
  const index = await indexedJobs(view, {})
  await index?.close()
  return index !== undefined
}

describe('a list by way of the index', () => {
  test('says what the folders say, with every filter', async () => {
    await using dir = await tempDir()
    const view = viewOf(dir.path)
    for (let n = 0; n < 130; n++) makeJob(view.layout, n)
    await fill(view)
    expect(await covered(view)).toBe(true)
    const filters: ListFilter[] = [
      {},
      { limit: 7 },
      { states: ['failed'] },
      { states: ['failed', 'cancelled'], limit: 11 },
      { states: ['running'] },
      { kind: 'convert', limit: 100 },
      { kind: 'command', states: ['succeeded', 'queued'] },
      { kind: 'nothing' },
      { name: 'job-7' },
      { name: 'job-7', states: ['cancelled'] },
      { name: 'job-7', states: ['failed'], kind: 'command' },
      { parent: idOf(3) },
    ]
    for (const filter of filters)
      expect(await listJobs(view, filter), JSON.stringify(filter)).toEqual(await byFolders(view, filter))
  })

  test('has what ended since the index was last written, and what is not over', async () => {
    await using dir = await tempDir()
    const view = viewOf(dir.path)
    for (let n = 0; n < 20; n++) makeJob(view.layout, n)
    await fill(view)
    makeJob(view.layout, 20, { event: true })
    const running = makeJob(view.layout, 21)
    const owner = join(view.layout.claimed, 'somebody')
    mkdirSync(owner)
    renameSync(join(view.layout[running.outcome], running.name.file), join(owner, running.name.file))
    const status = { schema: 1, id: running.id, name: running.answer, kind: 'convert', state: 'running', epoch: 1 }
    writeFileSync(join(view.layout.outputJobs, running.id, 'status.json'), JSON.stringify(status))
    expect(await covered(view)).toBe(true)
    const listed = await listJobs(view)
    expect(listed.map((s) => [s.id, s.state]).slice(0, 2)).toEqual([
      [idOf(21), 'running'],
      [idOf(20), 'succeeded'],
    ])
    expect(listed).toHaveLength(22)
    expect((await listJobs(view, { states: ['running'] })).map((s) => s.id)).toEqual([idOf(21)])
  })

  test('is not led astray by rows of jobs that are gone, and takes them out', async () => {
    await using dir = await tempDir()
    const view = viewOf(dir.path)
    for (let n = 0; n < 30; n++) makeJob(view.layout, n)
    await fill(view)
    for (const n of [29, 12]) {
      const job = jobOf(n)
      rmSync(join(view.layout.outputJobs, job.id), { recursive: true })
      rmSync(join(view.layout[job.outcome], job.name.file))
    }
    expect(await listJobs(view, { limit: 25 })).toEqual(await byFolders(view, { limit: 25 }))
    expect(rows(view.history!)).toHaveLength(28)
  })

  test('shows a job whose status is lost as far as its record knows it', async () => {
    await using dir = await tempDir()
    const view = viewOf(dir.path)
    for (let n = 0; n < 5; n++) makeJob(view.layout, n)
    await fill(view)
    rmSync(join(view.layout.outputJobs, idOf(3)), { recursive: true })
    const found = (await listJobs(view)).find((s) => s.id === idOf(3))
    expect(found).toMatchObject({ name: 'job-3', state: 'failed', kind: 'command' })
  })

  test('reads the folders when they may have been put in the place of another spool', async () => {
    await using dir = await tempDir()
    const view = viewOf(dir.path)
    for (let n = 0; n < 5; n++) makeJob(view.layout, n)
    await fill(view)
    renameSync(view.layout.outputJobs, `${view.layout.outputJobs}.old`)
    mkdirSync(view.layout.outputJobs)
    expect(await covered(view)).toBe(false)
  })
})

describe('following', () => {
  test('events lead to the same rows as a look at all folders', async () => {
    await using dir = await tempDir()
    const view = viewOf(dir.path)
    for (let n = 0; n < 10; n++) makeJob(view.layout, n)
    await fill(view)
    for (let n = 10; n < 120; n++) makeJob(view.layout, n, { event: true, rejected: n === 119 })
    await fill(view)
    const followed = rows(view.history!)
    expect(followed).toHaveLength(120)
    expect(new Set(followed.map((r) => r.state))).toEqual(new Set(['succeeded', 'failed', 'cancelled', 'rejected']))
    expect(JSON.stringify(followed)).not.toContain('hush-hush')
    await rebuild(view, {})
    expect(rows(view.history!)).toEqual(followed)
    rmSync(view.history!)
    await fill(view)
    expect(rows(view.history!)).toEqual(followed)
  })

  test('an end that no event told is found by a job that was seen before', async () => {
    await using dir = await tempDir()
    const view = viewOf(dir.path)
    makeJob(view.layout, 0)
    await fill(view)
    const job = makeJob(view.layout, 1)
    const [waiting, ended] = [view.layout.new, view.layout[job.outcome]].map((d) => join(d, job.name.file))
    renameSync(ended!, waiting!)
    tell(view.layout, { event: 'accepted', job: job.id, name: job.answer })
    await fill(view)
    expect(rows(view.history!).map((r) => r.id)).toEqual([idOf(0)])
    renameSync(waiting!, ended!)
    expect((await listJobs(view)).map((s) => s.id)).toEqual([idOf(1), idOf(0)])
    await fill(view)
    expect(rows(view.history!).map((r) => r.id)).toEqual([idOf(0), idOf(1)])
  })

  test('what retention removes is forgotten', async () => {
    await using dir = await tempDir()
    const view = viewOf(dir.path)
    for (let n = 0; n < 20; n++) makeJob(view.layout, n)
    await fill(view)
    await retain(view.spool, { done_ms: 1, failed_ms: 0, superseded_ms: 0 })
    await fill(view)
    const left = readdirSync(view.layout.outputJobs).sort()
    expect(left).toEqual([idOf(3), idOf(7), idOf(13), idOf(17)])
    expect(rows(view.history!).map((r) => r.id)).toEqual(left)
  })

  test('files with nonsense in them are indexed as far as they make sense', async () => {
    await using dir = await tempDir()
    const view = viewOf(dir.path)
    for (let n = 0; n < 6; n++) makeJob(view.layout, n)
    const spoil = (n: number, file: string, content: string) =>
      writeFileSync(join(view.layout.outputJobs, idOf(n), file), content)
    spoil(
      0,
      'result.json',
      '{"duration_ms": 1e300, "exit_code": 1.5e308, "artifacts": [{"size_bytes": 9e15}, {"size_bytes": 9e15}]}',
    )
    spoil(1, 'result.json', '[1, 2')
    spoil(2, 'status.json', 'null')
    spoil(
      3,
      'result.json',
      '{"error": {"code": 7, "message": {"a": 1}}, "finished_at": "yesterday", "disks": [null, 5]}',
    )
    spoil(4, 'status.json', '{"state": "succeeded", "pid": "x", "command": [], "name": 5, "exit_code": null}')
    spoil(5, 'result.json', `{"error": {"code": "x", "message": ${JSON.stringify('\ud800\u0000'.repeat(20_000))}}}`)
    await fill(view)
    expect(rows(view.history!).map((r) => r.id)).toEqual([0, 1, 2, 3, 4, 5].map(idOf))
  })

  test('half a line, a line that is no event and an event of a job that is not there do no harm', async () => {
    await using dir = await tempDir()
    const view = viewOf(dir.path)
    makeJob(view.layout, 0)
    await fill(view)
    tell(view.layout, { event: 'finished', job: 'nonsense', record: '../../etc/passwd' })
    tell(view.layout, { event: 'finished', job: idOf(9), record: '../../etc/passwd' })
    tell(view.layout, { event: 7, job: null })
    makeJob(view.layout, 1, { event: true })
    await fill(view)
    expect(rows(view.history!).map((r) => r.id)).toEqual([idOf(0), idOf(1)])
  })
})

describe('a database that is not as it should be', () => {
  const made = async (dir: string) => {
    const view = viewOf(dir)
    for (let n = 0; n < 300; n++) makeJob(view.layout, n)
    await fill(view)
    return view
  }

  test.each([
    ['overwritten in the middle', 4096 * 3, 0xff],
    ['overwritten everywhere', 100, 0x5a],
    ['with another header', 0, 0x5a],
  ])('%s, is set aside with a sentence and filled again', async (_what, from, byte) => {
    await using dir = await tempDir()
    const view = await made(dir.path)
    const good = rows(view.history!)
    const { readFileSync } = await import('node:fs')
    const bytes = readFileSync(view.history!)
    writeFileSync(view.history!, bytes.fill(byte, from, from === 0 ? 64 : undefined))
    expect(await listJobs(view, { limit: 3 })).toEqual(await byFolders(view, { limit: 3 }))
    const notes: string[] = []
    const count = await withIndex(view, { onNote: (s) => notes.push(s) }, (h) =>
      h.db.prepare('SELECT count(error_text) AS n FROM job').get(),
    )
    expect(count).toEqual({ n: 60 })
    expect(notes).toEqual([
      `The history ${view.history} is damaged; it was moved to ${view.history}.old and is filled again from the files of the spools.`,
    ])
    expect(rows(view.history!)).toEqual(good)
    expect(statSync(`${view.history}.old`).size).toBe(bytes.length)
  })

  test('of an older version is set aside; of a newer one, and a stranger, are left alone', async () => {
    await using dir = await tempDir()
    const view = await made(dir.path)
    const good = rows(view.history!)
    const set = (sql: string) => {
      const db = new DatabaseSync(view.history!)
      db.exec(sql)
      db.close()
    }
    set('PRAGMA user_version = 0; DROP TABLE open_job')
    expect(await listJobs(view, { limit: 3 })).toEqual(await byFolders(view, { limit: 3 }))
    const notes: string[] = []
    await withIndex(view, { onNote: (s) => notes.push(s) }, () => {})
    expect(notes).toEqual([expect.stringContaining('is of an older version; it was moved to')])
    expect(rows(view.history!)).toEqual(good)

    set('PRAGMA user_version = 99')
    await expect(fill(view)).rejects.toMatchObject({ exitCode: 78, message: expect.stringContaining('newer version') })
    set('PRAGMA application_id = 1')
    await expect(fill(view)).rejects.toMatchObject({ exitCode: 78, message: expect.stringContaining('left as it is') })
    expect(await listJobs(view, { limit: 3 })).toEqual(await byFolders(view, { limit: 3 }))
    expect(rows(view.history!)).toEqual(good)
  })

  test('a file that is no database is not moved away, unless it bears our name', async () => {
    await using dir = await tempDir()
    const view = viewOf(dir.path)
    const mine = join(dir.path, 'letter.txt')
    writeFileSync(mine, 'Dear Sir, '.repeat(100))
    await expect(fill({ ...view, history: mine })).rejects.toMatchObject({ exitCode: 78 })
    expect(statSync(mine).size).toBe(1000)
    writeFileSync(view.history!, 'Dear Sir, '.repeat(100))
    await fill(view)
    expect(rows(view.history!)).toEqual([])
    expect(statSync(`${view.history}.old`).size).toBe(1000)
  })

  test('on a network filesystem is refused with what to do', () => {
    const on = (type: number) => () => refuseNetwork('/mnt/cache/history.db', () => type)
    expect(on(0x6969)).toThrow(/network filesystem.*history\.path/)
    expect(on(0x65735546)).toThrow(/network filesystem/)
    expect(on(0xef53)).not.toThrow()
    expect(on(0x01021994)).not.toThrow()
  })

  test('in a folder that cannot be is no reason not to list', async () => {
    await using dir = await tempDir()
    const view = viewOf(dir.path)
    makeJob(view.layout, 0)
    const r = await cli(['list', '--root', dir.path, '-o', 'name'], {
      env: { VMSPOOL_HISTORY_PATH: '/proc/nowhere/history.db' },
    })
    expect(r).toEqual({ code: 0, signal: null, out: `${idOf(0)}\n`, err: '' })
    const s = await cli(['stats', '--root', dir.path], { env: { VMSPOOL_HISTORY_PATH: '/proc/nowhere/history.db' } })
    expect(s).toMatchObject({ code: 73, out: '', err: expect.stringContaining('history.path') })
  })
})

test("is its user's alone, and root's for all", async () => {
  await using dir = await tempDir()
  const view = viewOf(dir.path)
  await withHistory(view.history!, () => {})
  expect(statSync(view.history!).mode & 0o777).toBe(process.getuid?.() === 0 ? 0o644 : 0o600)
})
