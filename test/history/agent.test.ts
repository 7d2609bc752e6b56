// An agent keeps the index of its spool.
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { cli } from '../cli/run.ts'
import { bed } from '../support/agent.ts'
import { makeJob } from '../support/finished-jobs.ts'
import { drop, endOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

function names(path: string): string[] | undefined {
  let db: DatabaseSync | undefined
  try {
    db = new DatabaseSync(path, { readOnly: true })
    return db
      .prepare('SELECT name FROM job ORDER BY name')
      .all()
      .map((r) => String(r.name))
  } catch {
    return undefined // not there yet, or being made
  } finally {
    db?.close()
  }
}

const has = (path: string, ...wanted: string[]) =>
  until(`the index has ${wanted}`, () => names(path)?.join() === wanted.join(), { also: () => String(names(path)) })

const job = (name: string, argv = ['true']) => ({ kind: 'command', name, command: { argv } })

test('the agent fills it from the folders, follows its jobs, and makes it again when it is deleted', async () => {
  await using dir = await tempDir()
  const path = join(dir.path, 'cache', 'history.db')
  await using b = await bed(dir.path, { history: { path }, retry: { enabled: false }, retention: { done: 0 } })
  b.env.VMSPOOL_HISTORY_PATH = '' // by its configuration alone
  for (const d of [b.layout.outputJobs, b.layout.done, b.layout.failed]) mkdirSync(d, { recursive: true })
  makeJob(b.layout, 4)
  const agent = await b.start()
  await has(path, 'job-4')
  await drop(b, job('one'))
  await drop(b, job('two', ['sh', '-c', 'exit 3']))
  await Promise.all(['one', 'two'].map((n) => endOf(b, n)))
  await has(path, 'job-4', 'one', 'two')
  for (const end of ['', '-wal', '-shm']) rmSync(path + end, { force: true })
  await drop(b, job('three'))
  await has(path, 'job-4', 'one', 'three', 'two')

  const db = new DatabaseSync(path, { readOnly: true })
  const uid = process.getuid?.()
  expect(db.prepare("SELECT state, exit_code, uid, error_code, attempt FROM job WHERE name = 'two'").get()).toEqual({
    state: 'failed',
    exit_code: 3,
    uid,
    error_code: 'exit-code',
    attempt: 1,
  })
  expect(db.prepare('SELECT status, exit_code, command FROM tasks WHERE exit_code = 3').get()).toEqual({
    status: 'exited',
    exit_code: 3,
    command: '["sh","-c","exit 3"]',
  })
  db.close()
  await agent.stop()
  expect(agent.output()).toContain('"event":"history.filled"')
  expect(agent.output()).not.toContain('history.failed')
})

test('an agent that can have no index works, and says so once', async () => {
  await using dir = await tempDir()
  writeFileSync(join(dir.path, 'file'), '')
  const path = join(dir.path, 'file', 'history.db')
  await using b = await bed(dir.path, { history: { path } })
  b.env.VMSPOOL_HISTORY_PATH = ''
  const agent = await b.start()
  await drop(b, job('one'))
  await endOf(b, 'one')
  await until('it said so', () => agent.output().includes('history.failed'))
  const list = await cli(['list', '--instance', b.instance, '--root', dir.path, '-o', 'json'], {
    env: { ...b.env, VMSPOOL_HISTORY_PATH: path },
  })
  expect(JSON.parse(list.out)).toMatchObject([{ name: 'one', state: 'succeeded' }])
  expect(await agent.stop()).toEqual({ code: 0, signal: null })
  expect(agent.output().split('history.failed')).toHaveLength(2)
})
