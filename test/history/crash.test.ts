// The index while it is killed, deleted and written by several at once, with the real command line.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { cli } from '../cli/run.ts'
import { vmspool } from '../support/agent.ts'
import { idOf, makeJob, makeLayout } from '../support/finished-jobs.ts'
import { tempDir } from '../support/temp.ts'

const JOBS = 600

async function bed(dir: string) {
  const layout = makeLayout(dir)
  for (let n = 0; n < JOBS; n++) makeJob(layout, n)
  const path = join(dir, 'history.db')
  const env = { VMSPOOL_HISTORY_PATH: path }
  const run = (...args: string[]) => cli([...args, '--root', dir], { env })
  return { layout, path, env, run }
}

function look(path: string): { jobs: number; failures: number; complete: number } {
  const db = new DatabaseSync(path, { readOnly: true })
  try {
    expect(db.prepare('PRAGMA integrity_check').all()).toEqual([{ integrity_check: 'ok' }])
    const one = (sql: string) => Number(Object.values(db.prepare(sql).get() ?? { n: 0 })[0])
    const jobs = one('SELECT count(*) FROM job')
    // The words of errors belong to the rows: neither more nor fewer.
    const failures = one("SELECT count(*) FROM failure WHERE failure MATCH 'rsync'")
    expect(failures).toBe(one('SELECT count(*) FROM job WHERE error_text IS NOT NULL'))
    return { jobs, failures, complete: one('SELECT complete FROM spool') }
  } finally {
    db.close()
  }
}

test('killed at any moment, it goes on where it was and has every job in the end', { timeout: 600_000 }, async () => {
  await using dir = await tempDir()
  const { path, env, run, layout } = await bed(dir.path)
  let before = 0
  for (let round = 0; round < 6; round++) {
    const args = round === 0 ? ['stats'] : round % 2 ? ['history', 'search', 'rsync'] : ['history', 'rebuild']
    const child = spawn(vmspool, [...args, '--root', dir.path], { env: { ...process.env, ...env }, stdio: 'ignore' })
    const exited = once(child, 'exit')
    await Promise.race([sleep(150 + 70 * round), exited])
    child.kill('SIGKILL')
    await exited
    if (round > 0 && round < 5) makeJob(layout, JOBS + round, { event: true })
    const r = await run('list', '-n', '5', '-o', 'name')
    expect(r.code).toBe(0)
    expect(r.out.split('\n')[0]).toBe(idOf(round === 0 ? JOBS - 1 : JOBS + Math.min(round, 4)))
    const now = look(path)
    expect(now.jobs).toBeGreaterThanOrEqual(before)
    before = now.jobs
  }
  expect(await run('history', 'search', 'nothing')).toMatchObject({ code: 0 })
  expect(look(path)).toEqual({ jobs: JOBS + 4, failures: (JOBS * 2) / 10 + 1, complete: 1 }) // job 603 failed too
})

test('written by several at once, and deleted under their hands, it loses nothing', { timeout: 600_000 }, async () => {
  await using dir = await tempDir()
  const { path, run, layout } = await bed(dir.path)
  const several = await Promise.all([
    run('history', 'rebuild'),
    run('stats'),
    run('history', 'search', 'rsync', '-o', 'name'),
    run('history', 'rebuild'),
  ])
  expect(several.map((r) => [r.code, r.err])).toEqual(several.map(() => [0, '']))
  expect(look(path)).toEqual({ jobs: JOBS, failures: JOBS / 5, complete: 1 })

  let deleting = true
  const deleter = (async () => {
    while (deleting) {
      rmSync(path, { force: true })
      await sleep(60)
    }
  })()
  for (let n = JOBS; n < JOBS + 4; n++) {
    makeJob(layout, n, { event: true })
    const [list] = await Promise.all([run('list', '-n', '3', '-o', 'name'), run('stats')])
    expect(list.out.trim().split('\n')).toEqual([idOf(n), idOf(n - 1), idOf(n - 2)])
  }
  deleting = false
  await deleter
  for (const end of ['', '-wal', '-shm']) rmSync(path + end, { force: true })
  expect(await run('stats', '-o', 'json')).toMatchObject({ code: 0, err: '' })
  expect(look(path)).toMatchObject({ jobs: JOBS + 4, complete: 1 })
})
