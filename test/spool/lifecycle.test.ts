import { chmod, copyFile, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import {
  claim,
  commit,
  findJob,
  fsck,
  giveBack,
  heartbeat,
  layoutOf,
  listJobs,
  openSpool,
  processCancels,
  promoteDue,
  publishCommitted,
  reapDead,
  requestCancel,
  retain,
  retry,
  type Spool,
  startOwner,
  statusOf,
  stopOwner,
  sweepStatus,
  tidyOld,
  writeStatus,
} from '../../src/spool/index.ts'
import { makeSpool } from '../../src/spool/spool.ts'
import { tempDir } from '../support/temp.ts'
import { command, end, intake, mustClaim, openTestSpool, settle } from './harness.ts'

async function submit(s: Spool, ...texts: string[]) {
  for (const [i, text] of texts.entries()) await writeFile(join(s.layout.queue, `m${i}.json`), text)
  return settle(s, intake())
}

async function codes(s: Spool): Promise<string[]> {
  return (await fsck(s)).problems.filter((p) => p.severity === 'error').map((p) => p.code)
}

async function output(s: Spool, file: string): Promise<string> {
  return readFile(join(s.layout.output, file), 'utf8')
}

test('jobs of one name run in the order of acceptance, whatever their priority', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  const [a, b] = await submit(s, command('web', { priority: 9 }), command('web', { priority: 0 }))
  expect(await claim(s, b!.name)).toEqual({ state: 'lane-busy', behind: a!.name.id })
  await end(s, await mustClaim(s, a!), 'done')
  expect(await readdir(s.layout.superseded)).toEqual([a!.name.id]) // the name belongs to the later job already
  await end(s, await mustClaim(s, b!), 'done')
  expect(await output(s, 'web.qcow2')).toBe(`image of ${b!.name.id}`)
  expect(await codes(s)).toEqual([])
})

test('what an earlier job left under the name is kept, and never seen again under it', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  const [a] = await submit(s, command('web'))
  await end(s, await mustClaim(s, a!), 'done')
  await writeFile(join(s.layout.output, 'web.prod.qcow2'), 'another VM')
  const [b] = await submit(s, command('web'))
  expect((await readdir(s.layout.output)).filter((f) => f.startsWith('web'))).toEqual(['web.prod.qcow2'])
  await tidyOld(s)
  expect(await readFile(join(s.layout.superseded, a!.name.id, 'web.qcow2'), 'utf8')).toBe(`image of ${a!.name.id}`)
  await end(s, await mustClaim(s, b!), 'failed')
  expect(await output(s, 'web.error')).toContain(b!.name.id)
  expect(await codes(s)).toEqual([])
})

test('an image that belongs to the hypervisor by now, because its VM runs, is published all the same', async () => {
  await using dir = await tempDir()
  const opened = await openTestSpool(dir.path)
  const refused: string[] = []
  const syncFile = async (path: string): Promise<void> => {
    if (!path.endsWith('.qcow2')) return opened.fs.syncFile(path)
    refused.push(path)
    throw Object.assign(new Error('EACCES: permission denied'), { code: 'EACCES' })
  }
  const s = { ...opened, fs: { ...opened.fs, syncFile } }
  const [a] = await submit(s, command('web'))
  await end(s, await mustClaim(s, a!), 'done')
  expect(refused).toHaveLength(1)
  expect(await output(s, 'web.qcow2')).toBe(`image of ${a!.name.id}`)
})

test('a file of unknown origin under the name is kept too', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  await writeFile(join(s.layout.output, 'web.qcow2'), 'last week')
  const [a] = await submit(s, command('web'))
  expect(await readdir(s.layout.output)).not.toContain('web.qcow2')
  await tidyOld(s)
  expect(await readFile(join(s.layout.superseded, `before-${a!.name.id}`, 'web.qcow2'), 'utf8')).toBe('last week')
})

test('a cancelled waiting job is answered at once, and the running one before it does not take the name back', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  const [a, b] = await submit(s, command('web'), command('web'))
  const running = await mustClaim(s, a!)
  await requestCancel(s, b!.name.id, 'the test')
  expect((await processCancels(s)).map((n) => n.id)).toEqual([b!.name.id])
  await publishCommitted(s)
  expect(await output(s, 'web.error')).toContain('cancelled before it ran, by the test')
  expect((await findJob(s, b!.name.id))[0]!.state).toBe('committed') // it leaves its lane in order
  await end(s, running, 'done')
  await publishCommitted(s)
  expect(await readdir(s.layout.output)).not.toContain('web.qcow2')
  expect(await readFile(join(s.layout.superseded, a!.name.id, 'answer', 'web.qcow2'), 'utf8')).toBe(
    `image of ${a!.name.id}`,
  )
  await processCancels(s)
  expect(await readdir(s.layout.control)).toEqual([])
  expect((await listJobs(s)).map((j) => j.state).sort()).toEqual(['cancelled', 'done'])
  expect(await codes(s)).toEqual([])
})

test('retry waits for its time, giving back blames nobody, and no epoch comes twice', async () => {
  await using dir = await tempDir()
  let now = Date.now()
  const s = await openTestSpool(dir.path, { now: () => now })
  const [a] = await submit(s, command('web'))
  expect(await giveBack(s, await mustClaim(s, a!))).toBe('new')
  const [again] = await listJobs(s, { states: ['new'] })
  expect(again!.name).toMatchObject({ epoch: 1, failures: 0, crashes: 0 })
  const second = await claim(s, again!.name)
  if (second.state !== 'claimed') throw new Error(second.state)
  expect(await retry(s, second.claim, now + 60_000)).toBe('held')
  expect(await promoteDue(s)).toEqual([])
  const [held] = await listJobs(s, { states: ['held'] })
  expect(await statusOf(s, held!)).toMatchObject({ state: 'retrying', epoch: 2, attempt: 2 })
  now += 61_000
  expect((await promoteDue(s)).map((n) => [n.epoch, n.failures])).toEqual([[2, 1]])
  expect(await codes(s)).toEqual([])
})

test('not_before holds a job from its acceptance on', async () => {
  await using dir = await tempDir()
  let now = Date.now()
  const s = await openTestSpool(dir.path, { now: () => now })
  const [a] = await submit(s, command('web', { not_before: new Date(now + 5_000).toISOString() }))
  expect(a!.state).toBe('held')
  now += 6_000
  expect(await promoteDue(s)).toHaveLength(1)
})

test('an agent that sleeps through its lease is fenced: it commits nothing, accepts nothing, and starts anew', async () => {
  await using dir = await tempDir()
  let mono = 0
  const world = { layout: layoutOf({ root: dir.path, instance: 't' }), leaseMs: 1_000 }
  await openSpool({ ...world, create: true })
  const clock = { now: () => Date.now(), mono: () => mono }
  const elsewhere = { host: 'elsewhere', boot_id: 'another-boot', pidns: 1, pid: 1, start_ticks: 1 }
  const sleepy = makeSpool({ ...world, clock })
  const awake = makeSpool({ ...world, clock })
  await startOwner(sleepy, { self: elsewhere })
  await startOwner(awake, { self: { ...elsewhere, boot_id: 'this-boot' } })
  const [a] = await submit(sleepy, command('web'))
  const stalled = await mustClaim(sleepy, a!)
  expect((await reapDead(awake)).deadOwners).toEqual([])
  mono += 1_001
  const reaped = await reapDead(awake)
  expect(reaped.reaped.map((n) => [n.epoch, n.crashes])).toEqual([[1, 1]])
  const winner = await claim(awake, reaped.reaped[0]!)
  if (winner.state !== 'claimed') throw new Error(winner.state)
  await writeFile(join(stalled.answerDir, 'web.qcow2'), 'from the dead')
  expect(await commit(sleepy, stalled, 'done', { result: {} })).toBe('fenced')
  expect(await readFile(join(stalled.answerDir, 'web.qcow2'), 'utf8')).toBe('from the dead') // nothing is deleted
  await expect(submit(sleepy, command('late'))).rejects.toMatchObject({ code: 'ENOENT' })
  expect(await heartbeat(sleepy)).toEqual({ fenced: true, owned: [] })
  await end(awake, winner.claim, 'done')
  expect(await output(awake, 'web.qcow2')).toBe(`image of ${a!.name.id}`)
  await startOwner(sleepy, { self: elsewhere })
  expect((await submit(sleepy, command('late'))).map((x) => x.record.answer)).toContain('late')
  expect(await codes(awake)).toEqual([])
})

test('a job whose agents keep dying fails for good, and says so', async () => {
  await using dir = await tempDir()
  let mono = 0
  const clock = { now: () => Date.now(), mono: () => mono }
  const world = { layout: layoutOf({ root: dir.path, instance: 't' }), leaseMs: 1_000, maxCrashes: 2, clock }
  await openSpool({ ...world, create: true })
  const survivor = makeSpool(world)
  await startOwner(survivor)
  let [job] = await submit(survivor, command('bad'))
  let name = job!.name
  for (let i = 0; i < 3; i++) {
    const victim = makeSpool(world)
    await startOwner(victim, { self: { host: `v${i}`, boot_id: 'x', pidns: 1, pid: i, start_ticks: 1 } })
    expect((await claim(victim, name)).state).toBe('claimed')
    await reapDead(survivor)
    mono += 1_001
    const { reaped, givenUp } = await reapDead(survivor)
    if (i < 2) name = reaped[0]!
    else expect(givenUp.map((n) => n.crashes)).toEqual([3])
  }
  await publishCommitted(survivor)
  expect(await output(survivor, 'bad.error')).toContain('died 3 times')
  expect((await listJobs(survivor)).map((j) => j.state)).toEqual(['failed'])
  expect(await codes(survivor)).toEqual([])
  job = undefined
})

test('a claim whose reply was lost is found by the heartbeat', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  const [a] = await submit(s, command('web'))
  await rename(join(s.layout.new, a!.name.file), join(s.layout.claimed, s.owner!.id, a!.name.file))
  expect((await heartbeat(s)).owned.map((n) => n.id)).toEqual([a!.name.id])
})

test('a status that lies is mended from the folders', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  const [a] = await submit(s, command('web'))
  const at = new Date().toISOString()
  const status = {
    schema: 1 as const,
    id: a!.name.id,
    name: 'web',
    kind: 'command',
    state: 'running' as const,
    since: at,
    attempt: 1,
    epoch: 0,
    priority: 5,
    accepted_at: at,
    drop_file: 'm0.json',
  }
  await end(s, await mustClaim(s, a!), 'failed')
  await writeFile(join(s.layout.output, 'web.status.json'), JSON.stringify(status)) // a stalled agent's last write
  expect(await sweepStatus(s)).toBe(1)
  expect(JSON.parse(await output(s, 'web.status.json'))).toMatchObject({ state: 'failed', id: a!.name.id })
  expect(await sweepStatus(s)).toBe(0)
  await writeStatus(s, status)
  expect(JSON.parse(await output(s, 'web.status.json')).state).toBe('failed') // it is not the last of its lane any more
})

test('a job whose agent died between commit and publication is not said to have ended before its answer is there', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  const [a] = await submit(s, command('web'))
  const c = await mustClaim(s, a!)
  await writeStatus(s, { ...(await statusOf(s, (await findJob(s, a!.name.id))[0]!)), name: 'web' })
  const before = JSON.parse(await output(s, 'web.status.json'))
  expect(before.state).toBe('running')
  const { id, epoch } = c.name
  await writeFile(join(c.answerDir, 'web.qcow2'), 'image')
  const ended = { ...before, state: 'succeeded', exit_code: 0 }
  const result = { schema: 1, id, name: 'web', epoch, exit_code: 0, finished_at: new Date().toISOString() }
  await commit(s, c, 'done', { result, status: ended })
  expect(await sweepStatus(s)).toBe(0)
  expect(JSON.parse(await output(s, 'web.status.json'))).toEqual(before)
  await publishCommitted(s)
  expect(JSON.parse(await output(s, 'web.status.json'))).toEqual(ended)
  expect(await output(s, 'web.qcow2')).toBe('image')
  expect(await sweepStatus(s)).toBe(0)
})

test('retention removes what has been final for long, and never a public image', async () => {
  await using dir = await tempDir()
  let now = Date.now()
  const s = await openTestSpool(dir.path, { now: () => now })
  const [a] = await submit(s, command('web'))
  await end(s, await mustClaim(s, a!), 'done')
  const keep = { done_ms: 1_000, failed_ms: 1_000, superseded_ms: 1_000 }
  expect(await retain(s, keep)).toBe(0)
  now += 10_000
  expect(await retain(s, keep)).toBe(1)
  expect(await listJobs(s)).toEqual([])
  expect(await readdir(s.layout.outputJobs)).toEqual([])
  expect(await output(s, 'web.qcow2')).toBe(`image of ${a!.name.id}`)
  expect(await codes(s)).toEqual([])
})

test('the audit finds what is broken by hand', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  const l = s.layout
  // ids of one millisecond are in no order
  const jobs = await submit(s, command('a'), command('b'), command('c'), command('d'))
  const [a, b, c, d] = jobs.sort((x, y) => x.record.answer.localeCompare(y.record.answer))
  expect(await codes(s)).toEqual([])
  await copyFile(join(l.new, a!.name.file), join(l.held, a!.name.file.replace(/^/, '1700000000000-')))
  expect(await codes(s)).toEqual(['two-states'])
  await rm(join(l.held, `1700000000000-${a!.name.file}`))
  const lane = join(l.lanes, b!.name.key.slice(0, 3))
  const [ticket] = (await readdir(lane)).filter((f) => f.endsWith(b!.name.id))
  await rm(join(lane, ticket!))
  expect(await codes(s)).toEqual(['no-ticket'])
  await writeFile(join(lane, ticket!), '')
  await rm(join(l.new, c!.name.file))
  expect(await codes(s)).toEqual(['orphan-ticket'])
  await writeFile(join(l.new, c!.name.file), '{}')
  expect(await codes(s)).toEqual(['bad-record'])
  await copyFile(join(l.new, a!.name.file), join(l.new, c!.name.file))
  expect(await codes(s)).toEqual(['wrong-record'])
  await rm(join(l.new, c!.name.file))
  await rm(join(l.lanes, c!.name.key.slice(0, 3)), { recursive: true })
  await end(s, await mustClaim(s, d!), 'done')
  await rm(join(l.outputJobs, d!.name.id, 'result.json'))
  expect(await codes(s)).toEqual(['no-result'])
  await writeFile(join(l.outputJobs, d!.name.id, 'result.json'), JSON.stringify({ id: d!.name.id, epoch: 7 }))
  await copyFile(join(l.outputJobs, d!.name.id, 'result.json'), join(l.output, 'd.result.json'))
  expect(await codes(s)).toEqual(['wrong-epoch', 'no-result'])
  await writeFile(join(l.output, 'd.error'), 'both')
  expect(await codes(s)).toContain('both-answers')
  await mkdir(join(l.payload, d!.name.id))
  expect(await codes(s)).toContain('payload')
})

test('an owner leaves nothing behind when it stops', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  await stopOwner(s)
  for (const folder of [s.layout.owners, s.layout.claimed, s.layout.intake, s.layout.old])
    expect(await readdir(folder)).toEqual([])
})

test('a spool that is missing or torn across file systems is refused in words', async () => {
  await using dir = await tempDir()
  await expect(openSpool({ layout: layoutOf({ root: dir.path, instance: 'none' }) })).rejects.toMatchObject({
    exitCode: 73,
  })
  await using other = await tempDirOn('/dev/shm')
  const layout = layoutOf({ root: dir.path, instance: 't', queue: join(other.path, 'queue') })
  await expect(openSpool({ layout, create: true })).rejects.toMatchObject({ exitCode: 78 })
  const apart = layoutOf({ root: dir.path, instance: 'u', output: join(other.path, 'output') })
  await openSpool({ layout: apart, create: true }) // the output may lie elsewhere as a whole
})

test("whoever makes the folders gives them their modes, however far the file server's clock is from his", async () => {
  await using dir = await tempDir()
  const layout = layoutOf({ root: dir.path, instance: 't' })
  const mode = async () => (await stat(layout.queue)).mode & 0o7777
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 3_600_000 })
  try {
    await openSpool({ layout, create: true })
    expect(await mode()).toBe(0o1777)
    await chmod(layout.queue, 0o1733) // an administrator's choice stays
    vi.setSystemTime(Date.now() - 7_200_000)
    await openSpool({ layout, create: true })
    expect(await mode()).toBe(0o1733)
  } finally {
    vi.useRealTimers()
  }
})

async function tempDirOn(parent: string) {
  const { mkdtemp } = await import('node:fs/promises')
  const path = await mkdtemp(join(parent, 'vs-'))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}
