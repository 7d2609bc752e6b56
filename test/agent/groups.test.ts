// Groups with a concurrency of their own, with a real agent and real commands.
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { makePlan } from '../../src/spool/index.ts'
import { command, intake, openTestSpool, settle } from '../spool/harness.ts'
import { type Bed, bed } from '../support/agent.ts'
import { commandManifest } from '../support/manifests.ts'
import { drop, endOf, statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

/** Runs until the file is there, and writes down how many of its group run beside it. */
const gate = (b: Bed, name: string, group: string) =>
  commandManifest(
    name,
    [
      'sh',
      '-c',
      `echo + >> ${b.dir}/${group}; until test -e ${b.dir}/${name}.go; do sleep 0.05; done; echo - >> ${b.dir}/${group}`,
    ],
    {
      group,
    },
  )
const open = (b: Bed, name: string) => writeFile(join(b.dir, `${name}.go`), '')
const runs = (b: Bed, name: string) => until(`${name} runs`, async () => (await statusOf(b, name))?.state === 'running')
const most = async (b: Bed, group: string) => {
  let now = 0
  let top = 0
  for (const c of (await readFile(join(b.dir, group), 'utf8')).trim().split('\n')) {
    now += c === '+' ? 1 : -1
    top = Math.max(top, now)
  }
  return top
}

describe.concurrent('groups', () => {
  test('run as many at once as they may, hold up nobody else, and say so', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { concurrency: { weight: 8, groups: { pair: 2 } } })
    const agent = await b.start()
    // one by one, so that they are accepted in this order
    for (const name of ['s1', 's2', 's3', 'p1', 'p2', 'p3', 'p4']) {
      await drop(b, gate(b, name, name.startsWith('s') ? 'single' : 'pair'), `${name}.json`)
      await until(`${name} is accepted`, () => statusOf(b, name))
    }
    await runs(b, 's1')
    await runs(b, 'p2')
    // More urgent in order, and of a full group: those behind them run all the same.
    await drop(b, commandManifest('free', ['true'], { priority: 9 }))
    expect((await endOf(b, 'free')).state).toBe('succeeded')
    for (const [name, group] of [
      ['s2', 'single'],
      ['p4', 'pair'],
    ] as const) {
      const s = await until(`${name} says what it waits for`, async () => {
        const now = await statusOf(b, name)
        return String(now?.waiting_on).includes(`a place in the group "${group}"`) ? now : undefined
      })
      expect(s).toMatchObject({ state: 'queued', group })
    }
    await open(b, 's1')
    await runs(b, 's2')
    expect((await statusOf(b, 's3'))?.state).toBe('queued')
    // A larger limit takes effect with the configuration.
    await writeFile(
      join(b.dir, 'agent.yaml'),
      JSON.stringify({ runtime_dir: join(b.dir, 'run'), concurrency: { weight: 8, groups: { pair: 3 } } }),
    )
    agent.signal('SIGHUP')
    await until('three of them run', async () => (await most(b, 'pair')) === 3)
    for (const name of ['s2', 's3', 'p1', 'p2', 'p3', 'p4']) await open(b, name)
    for (const name of ['s1', 's2', 's3', 'p1', 'p2', 'p3', 'p4'])
      expect((await endOf(b, name)).state).toBe('succeeded')
    expect(await most(b, 'single')).toBe(1)
    expect(await most(b, 'pair')).toBe(3)
  })

  test('a batch takes no place in the group of its own jobs', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const vms = ['v1', 'v2'].map((id) => ({ id, manifest: commandManifest(id, ['true'], { group: 'g' }) }))
    await drop(b, { kind: 'batch', name: 'all', group: 'g', vms })
    expect((await endOf(b, 'all.batch')).state).toBe('succeeded')
  })
})

test('who waits for a group stays aside over listings, in order, and is forgotten when gone', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  for (const name of ['a', 'b', 'c'])
    await s.fs.writeFile(join(s.layout.queue, `${name}.json`), command(name), { mode: 0o640, sync: false })
  await settle(s, intake())
  const plan = await makePlan(s)
  await plan.refresh(true)
  const [a, b, c] = [plan.next()!, plan.next()!, plan.next()!]
  for (const name of [c, a, b]) plan.park(name, 'g')
  expect(plan.next()).toBeUndefined()
  await plan.refresh(true)
  expect(plan.next()).toBeUndefined()
  expect(plan.size).toBe(3)
  await s.fs.unlink(join(s.layout.new, a.file))
  await plan.refresh(true)
  expect(
    plan
      .firstParked(9)
      .map((p) => p.name.id)
      .sort(),
  ).toEqual([b.id, c.id])
  plan.unpark('g', 1)
  expect(plan.next()?.id).toBe(b.id)
  expect(plan.next()).toBeUndefined()
  plan.unpark('g', 5)
  expect(plan.next()?.id).toBe(c.id)
  expect(plan.parkedGroups()).toEqual([])
  expect((await readdir(s.layout.new)).length).toBe(2)
})
