// Jobs that come after others, with real agents and real commands.
import { existsSync } from 'node:fs'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDependencies } from '../../src/agent/dependencies.ts'
import {
  type Accepted,
  commit,
  fsck,
  heldNames,
  promoteDue,
  publishCommitted,
  retain,
  type Spool,
} from '../../src/spool/index.ts'
import { WAITS } from '../../src/spool/names.ts'
import { command, intake, mustClaim, openTestSpool, settle } from '../spool/harness.ts'
import { type Bed, bed } from '../support/agent.ts'
import { commandManifest } from '../support/manifests.ts'
import { drop, endOf, readJson, statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const waitingOn = (b: Bed, name: string, text: string) =>
  until(`${name} waits for ${text}`, async () => {
    const s = await statusOf(b, name)
    return s?.state === 'held' && String(s.waiting_on).includes(text) ? s : undefined
  })
const errorOf = async (b: Bed, name: string) =>
  (await readJson<{ error: { code: string; message: string; hint?: string } }>(
    join(b.layout.output, `${name}.result.json`),
  ))!.error
/** Runs until the file is there. */
const gate = (b: Bed, name: string, after: object = {}) =>
  commandManifest(name, ['sh', '-c', `until test -e ${b.dir}/${name}.go; do sleep 0.05; done`], after)
const open = (b: Bed, name: string) => writeFile(join(b.dir, `${name}.go`), '')

describe.concurrent('after', () => {
  test('runs on success, failure or any end, and not before; says what it waits for', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    await drop(b, gate(b, 'build'))
    await until('build runs', async () => (await statusOf(b, 'build'))?.state === 'running')
    const { id } = (await statusOf(b, 'build'))!
    await drop(b, commandManifest('deploy', ['true'], { after: 'build' }))
    await drop(b, commandManifest('mend', ['true'], { after: { job: id, when: 'failure' } }))
    await drop(b, commandManifest('report', ['true'], { after: [{ job: 'deploy', when: 'always' }, 'other'] }))
    expect((await waitingOn(b, 'deploy', id)).waiting_on).toBe(`the success of "build" (job ${id})`)
    expect((await waitingOn(b, 'mend', id)).waiting_on).toBe(`the failure of job ${id}`)
    await waitingOn(b, 'report', '"other" (there is no job of that name yet)')
    await open(b, 'build')
    const done = await endOf(b, 'deploy')
    expect(done.state).toBe('succeeded')
    const build = (await readJson<{ finished_at: string }>(join(b.layout.output, 'build.result.json')))!
    expect(Date.parse(String(done.started_at))).toBeGreaterThanOrEqual(Date.parse(build.finished_at))
    // Nobody needs what was to run on a failure.
    expect(await endOf(b, 'mend')).toMatchObject({ state: 'cancelled' })
    expect(await errorOf(b, 'mend')).toMatchObject({ code: 'dependency-succeeded' })
    await until('it waits for the rest', async () => {
      return (await statusOf(b, 'report'))?.waiting_on === 'the success of "other" (there is no job of that name yet)'
    })
    await drop(b, commandManifest('other', ['true']))
    expect((await endOf(b, 'report')).state).toBe('succeeded')
  })

  test('a failure is handed on, with the job and its reason; a retry of the other is waited for', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    // fails at once, and the second time when it is told to
    const script = `test -e ${b.dir}/tried && until test -e ${b.dir}/flaky.go; do sleep 0.05; done; touch ${b.dir}/tried; exit 1`
    const flaky = commandManifest('flaky', ['sh', '-c', script], { retry: { max_attempts: 1, delay: 1, factor: 1 } })
    await drop(b, flaky)
    await until('flaky has failed once', () => existsSync(join(b.dir, 'tried')))
    await drop(b, commandManifest('next', ['true'], { after: 'flaky' }))
    await drop(b, commandManifest('last', ['true'], { after: 'next' }))
    await drop(b, commandManifest('mend', ['true'], { after: { job: 'next', when: 'failure' } }))
    await waitingOn(b, 'last', 'job ')
    await until('flaky runs again', async () => (await statusOf(b, 'flaky'))?.attempt === 2)
    expect((await statusOf(b, 'next'))?.state).toBe('held')
    const { id } = (await statusOf(b, 'flaky'))!
    await open(b, 'flaky')
    expect((await endOf(b, 'last')).state).toBe('failed')
    expect((await endOf(b, 'mend')).state).toBe('succeeded')
    const next = await errorOf(b, 'next')
    expect(next.code).toBe('dependency-failed')
    expect(next.message).toContain(`comes after the success of "flaky" (job ${id}), which failed: sh ended with`)
    expect(next.hint).toContain(`vmspool retry ${id}`)
    expect((await errorOf(b, 'last')).message).toContain('after the success of "next"')
  })

  test('a circle ends, over names that came later and over a lane', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    await drop(b, commandManifest('a', ['true'], { after: 'b' }))
    await waitingOn(b, 'a', 'no job of that name yet')
    await drop(b, commandManifest('b', ['true'], { after: 'c' }))
    await drop(b, commandManifest('outside', ['true'], { after: { job: 'a', when: 'always' } }))
    await drop(b, commandManifest('c', ['true'], { after: 'a' }))
    for (const name of ['a', 'b', 'c']) {
      expect((await endOf(b, name)).state).toBe('failed')
      const { code, message } = await errorOf(b, name)
      expect(code).toBe('dependency-cycle')
      for (const other of ['"a"', '"b"', '"c"']) expect(message).toContain(other)
    }
    expect((await endOf(b, 'outside')).state).toBe('succeeded')
    // A later job of the same name cannot run before it.
    await drop(b, commandManifest('self', ['true'], { after: 'self' }))
    expect((await endOf(b, 'self')).state).toBe('failed')
    expect((await errorOf(b, 'self')).code).toBe('dependency-cycle')
    // x waits for y, which waits in its lane behind another y, which waits for x.
    await drop(b, commandManifest('y', ['true'], { after: 'x' }))
    await waitingOn(b, 'y', 'no job of that name yet')
    const { id: first } = (await statusOf(b, 'y'))!
    await drop(b, commandManifest('y', ['true']))
    const second = await until('the second y waits', async () => {
      const s = await statusOf(b, 'y')
      return s && s.id !== first ? s.id : undefined
    })
    await drop(b, commandManifest('x', ['true'], { after: second }))
    expect((await endOf(b, 'x')).state).toBe('failed')
    expect(await endOf(b, 'y')).toMatchObject({ id: second, state: 'succeeded' })
    expect((await readJson(join(b.layout.outputJobs, first, 'result.json')))!.error).toMatchObject({
      code: 'dependency-cycle',
    })
  })

  test('lives through restarts, and two agents release each job once; cancel works', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const first = await b.start()
    await drop(b, gate(b, 'base'))
    const many = Array.from({ length: 12 }, (_, i) => `n${i}`)
    for (const name of many)
      await drop(b, commandManifest(name, ['sh', '-c', `echo ${name} >> ${b.dir}/ran`], { after: 'base' }))
    await drop(b, commandManifest('unwanted', ['true'], { after: 'base' }))
    await waitingOn(b, 'unwanted', '"base"')
    const { id } = (await statusOf(b, 'unwanted'))!
    await first.kill()
    await b.start()
    await b.start({ worker: true })
    await writeFile(
      join(b.layout.control, `cancel-${id}.json`),
      JSON.stringify({ schema: 1, job: id, by: 'a test', at: new Date().toISOString() }),
    )
    expect((await endOf(b, 'unwanted')).state).toBe('cancelled')
    await open(b, 'base')
    for (const name of many) expect((await endOf(b, name)).state).toBe('succeeded')
    const ran = (await readFile(join(b.dir, 'ran'), 'utf8')).trim().split('\n')
    expect(ran.sort()).toEqual([...many].sort())
  })

  test('a batch and its VMs may come after others', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const vm = (id: string, more: object = {}) => ({ id, manifest: commandManifest(id, ['true'], more) })
    await drop(b, {
      kind: 'batch',
      name: 'night',
      after: { job: 'eve', when: 'always' },
      vms: [vm('one', { after: 'two' }), vm('two')],
    })
    await waitingOn(b, 'night.batch', 'the end of "eve"')
    await drop(b, commandManifest('eve', ['false']))
    expect((await endOf(b, 'night.batch')).state).toBe('succeeded')
    expect((await endOf(b, 'one')).state).toBe('succeeded')
    await drop(b, commandManifest('morning', ['true'], { after: 'night' }))
    expect((await endOf(b, 'morning')).state).toBe('succeeded')
  })
})

async function succeed(s: Spool, a: Accepted): Promise<void> {
  const c = await mustClaim(s, a)
  const { id, epoch } = c.name
  const result = { id, epoch, name: c.record.answer, state: 'succeeded', finished_at: new Date().toISOString() }
  await commit(s, c, 'done', { result })
  await publishCommitted(s)
}

/** Dependencies on a spool driven by hand. */
async function byHand(dir: string) {
  const s = await openTestSpool(dir)
  const said = new Map<string, string>()
  const d = createDependencies(s, {
    releasing: async () => {},
    released: () => {},
    ended: () => {},
    say: async (name, text) => void said.set(name.id, text),
    reserve: () => {},
  })
  const held = heldNames()
  const round = async (): Promise<void> => {
    await promoteDue(s, held)
    while (await d.round(held));
  }
  const put = (name: string, more: object = {}) =>
    s.fs.writeFile(join(s.layout.queue, `${name}.json`), command(name, more), { mode: 0o640, sync: false })
  return { s, d, held, round, said, put }
}

test('what a job waited for may be removed once it was seen to have ended', async () => {
  await using dir = await tempDir()
  const { s, round, put } = await byHand(dir.path)
  await put('old')
  const [old] = await settle(s, intake())
  await put('w', { after: ['old', 'later'] })
  const [w] = await settle(s, intake())
  expect(w).toMatchObject({ state: 'held', name: { due_ms: WAITS } })
  await succeed(s, old!)
  await round()
  const later = { now: () => Date.now() + 90 * 86_400_000, mono: s.clock.mono }
  expect(await retain({ ...s, clock: later }, { done_ms: 1, failed_ms: 1, superseded_ms: 1 })).toBe(1)
  // Another agent, which never saw the job that is gone.
  const other = await byHand(dir.path)
  await put('later')
  const [next] = await settle(s, intake())
  await succeed(s, next!)
  await until('it is released', async () => {
    await other.round()
    return (await readdir(s.layout.new)).length === 1
  })
  expect((await fsck(s)).problems.filter((p) => p.severity === 'error')).toEqual([])
})

test('a job that is not there, and an id of one that was removed, fail with the reason', async () => {
  await using dir = await tempDir()
  const { s, round, put } = await byHand(dir.path)
  await put('w', { after: { job: '01ARZ3NDEKTSV4RRFFQ69G5FAV', when: 'always' } })
  await settle(s, intake())
  await round()
  await round()
  const [file] = await readdir(s.layout.committed)
  expect(file).toContain('.failed-')
})

test('a name means the newest job before, also when that one is still being accepted', async () => {
  await using dir = await tempDir()
  const { s, round, put, said } = await byHand(dir.path)
  await put('base')
  const [first] = await settle(s, intake())
  await succeed(s, first!)
  // Taken, and not whole yet.
  await s.fs.writeFile(join(s.layout.queue, 'base.json'), '{"kind":"command","name":"base",', {
    mode: 0o640,
    sync: false,
  })
  const slow = intake({ incomplete_after_ms: 1e9 })
  await settle(s, slow)
  await put('w', { after: 'base' })
  const [w] = await settle(s, slow)
  await round()
  expect(await readdir(s.layout.new)).toEqual([])
  const owner = join(s.layout.intake, s.owner!.id)
  const raw = (await readdir(owner)).find((f) => f.endsWith('--base.json'))!
  await writeFile(join(owner, raw), command('base'))
  const [second] = await settle(s, slow)
  await until('it means the second one', async () => {
    await round()
    return said.get(w!.name.id) === `the success of "base" (job ${second!.name.id})`
  })
})

test('many who wait cost each round next to nothing', { timeout: 600_000 }, async () => {
  await using dir = await tempDir()
  const { s, d, held, put } = await byHand(dir.path)
  await put('base')
  await settle(s, intake())
  await put('w', { after: 'base' })
  const [w] = await settle(s, intake())
  const text = await readFile(join(s.layout.held, w!.name.file), 'utf8')
  const MANY = 5_000
  for (let i = 0; i < MANY; i++) {
    const id = s.newId()
    await writeFile(join(s.layout.held, w!.name.file.replace(w!.name.id, id)), text.replaceAll(w!.name.id, id))
  }
  let opened = 0
  const real = s.fs.readFile
  s.fs.readFile = (...args) => {
    opened += 1
    return real.apply(s.fs, args)
  }
  await promoteDue(s, held)
  while (d.size <= MANY || (await d.round(held))) await d.round(held)
  expect(d.size).toBe(MANY + 1)
  expect(opened).toBeGreaterThanOrEqual(MANY)
  // All records are known now: a round opens no more than it has jobs to look at.
  opened = 0
  for (let i = 0; i < 10; i++) await d.round(held)
  expect(opened).toBeLessThan(100)
})
