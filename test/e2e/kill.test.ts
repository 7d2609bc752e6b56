// What gets killed on the way does not change what comes out.
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import { type Bed, bed, vmspool } from '../support/agent.ts'
import { holds, makeDisk } from '../support/disks.ts'
import { processesMarked } from '../support/leaks.ts'
import { artifactManifest, commandManifest } from '../support/manifests.ts'
import { drop, endOf, eventsOf, readJson, statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

async function audited(b: Bed): Promise<void> {
  const fsck = await execa(vmspool, ['fsck', '--root', b.dir, '--instance', b.instance], { env: b.env, reject: false })
  expect(fsck.stdout).toContain('0 errors')
  expect(fsck.exitCode).toBe(0)
}

/** A conversion that takes a while: noise, compressed by the slow way. */
async function slowJob(b: Bed, dir: string, name: string) {
  const disk = await makeDisk(dir, name, { size_mib: 96, dense: true, format: 'raw' })
  const manifest = artifactManifest(name, [disk])
  delete (manifest.disks[0] as { checksum?: string }).checksum
  await drop(b, manifest)
  return disk
}

const converting = (b: Bed, name: string) =>
  until(`${name} is being converted`, async () => {
    const status = await statusOf(b, name)
    if (status && ['succeeded', 'failed'].includes(status.state))
      throw new Error(`${name} ended before it could be killed.`)
    return status?.state === 'running' && qemuImgs(b).length > 0
  })

const qemuImgs = (b: Bed) =>
  processesMarked(`VMSPOOL_TEST_BED=${b.env.VMSPOOL_TEST_BED}`).filter((p) => p.command.includes('qemu-img convert'))

describe.concurrent('kill -9', () => {
  test('in the middle of a conversion: the next agent ends what was left and converts again', {
    timeout: 600_000,
  }, async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { convert: { compression_type: 'zlib', compress: 'yes' } })
    const agent = await b.start()
    const disk = await slowJob(b, dir.path, 'web')
    await converting(b, 'web')
    const [child] = qemuImgs(b)
    await agent.kill()
    expect(await readdir(b.layout.output)).not.toContain('web.qcow2')
    await b.start()
    const status = await endOf(b, 'web')
    expect(status).toMatchObject({ state: 'succeeded', epoch: 1 })
    expect(processesMarked(`VMSPOOL_TEST_BED=${b.env.VMSPOOL_TEST_BED}`).some((p) => p.pid === child!.pid)).toBe(false)
    expect(await holds(join(b.layout.output, 'web.qcow2'), 'qcow2', disk)).toBe(true)
    expect(await readJson(join(b.layout.output, 'web.result.json'))).toMatchObject({ id: status.id, epoch: 1 })
    await until('scratch is gone', async () => (await readdir(b.layout.work)).length === 0)
    await audited(b)
  })

  test('of one agent of three: the others go on with its job', { timeout: 600_000 }, async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, {
      convert: { compression_type: 'zlib', compress: 'yes' },
      lease: { timeout: '2s' },
    })
    const agents = [await b.start(), await b.start({ worker: true }), await b.start({ worker: true })]
    const disk = await slowJob(b, dir.path, 'web')
    await converting(b, 'web')
    const lease = (await readdir(b.layout.claimed, { recursive: true }))
      .find((f) => f.endsWith('.json'))!
      .split('/')[0]!
    const owner = await readJson<{ pid: number }>(join(b.layout.owners, `${lease}.json`))
    const busy = agents.find((a) => a.pid === owner!.pid)!
    await busy.kill()
    // on a busy machine a lease of 2 s may also end while its agent lives
    const end = await endOf(b, 'web')
    expect(end.state).toBe('succeeded')
    expect(end.epoch).toBeGreaterThanOrEqual(1)
    expect(await holds(join(b.layout.output, 'web.qcow2'), 'qcow2', disk)).toBe(true)
    await audited(b)
  })

  test('a stalled agent that wakes up after its lease publishes nothing over the new attempt', {
    timeout: 600_000,
  }, async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { lease: { timeout: '4s' } }) // long enough for one that is only slow
    const main = await b.start()
    const go = join(dir.path, 'go')
    // The first attempt waits for a file that appears after the agent was stopped; each attempt tells its epoch.
    await drop(b, commandManifest('slow', ['sh', '-c', `while [ ! -e ${go} ]; do sleep 0.1; done`]))
    await until('it runs', async () => (await statusOf(b, 'slow'))?.state === 'running')
    main.signal('SIGSTOP')
    await b.start({ worker: true })
    await until('the worker took it over', async () => (await eventsOf(b, 'started')).length >= 2)
    await execa('touch', [go])
    expect(await endOf(b, 'slow')).toMatchObject({ state: 'succeeded', epoch: 1 })
    main.signal('SIGCONT')
    // It notices that it was fenced, and goes on under a new owner: the next job proves that it is at work again.
    const owners = async () =>
      (await readdir(b.layout.owners)).filter((f) => f.endsWith('.json') && f.includes(`.${main.pid}.`))
    await until('the stalled agent has a new owner id', async () => (await owners()).length === 1)
    expect(await readJson(join(b.layout.output, 'slow.result.json'))).toMatchObject({ epoch: 1 })
    const ends = async () => (await eventsOf(b, 'finished')).filter((e) => e.name === 'slow')
    await until('its end is told', async () => (await ends()).length > 0)
    expect(await ends()).toHaveLength(1)
    await audited(b)
  })
})

describe.concurrent('several agents', () => {
  test('share the work, and no job is run twice', { timeout: 600_000 }, async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { concurrency: { weight: 1 } })
    await b.start()
    await b.start({ worker: true })
    await b.start({ worker: true })
    // each of these ends when the other has begun: no agent alone can do them
    const meet = (me: string, other: string) =>
      drop(
        b,
        commandManifest(me, ['sh', '-c', `touch ${b.dir}/${me}; until test -e ${b.dir}/${other}; do sleep 0.05; done`]),
      )
    await meet('ann', 'bob')
    await meet('bob', 'ann')
    for (let i = 0; i < 60; i++) await drop(b, commandManifest(`j${i}`, ['sleep', '0.05']))
    for (let i = 0; i < 60; i++) expect(await endOf(b, `j${i}`)).toMatchObject({ state: 'succeeded', epoch: 0 })
    for (const name of ['ann', 'bob']) expect(await endOf(b, name)).toMatchObject({ state: 'succeeded', epoch: 0 })
    const started = await eventsOf(b, 'started')
    expect(started).toHaveLength(62)
    expect(new Set(started.map((e) => e.owner)).size).toBeGreaterThan(1)
    await audited(b)
  })

  test('a second main agent refuses and says which one runs', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const first = await b.start()
    const second = await b.start({ wait: false })
    expect(await second.exited).toMatchObject({ code: 75 })
    expect(second.output()).toContain(String(first.pid))
    await first.kill()
    const third = await b.start()
    expect(third.alive()).toBe(true)
  })
})
