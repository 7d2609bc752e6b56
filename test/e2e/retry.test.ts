// A job that fails for good keeps its finished copies; a retry goes on from there, whoever retries, how often, and from where.
import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { cli, type Ran } from '../cli/run.ts'
import { type Bed, bed } from '../support/agent.ts'
import { holds, makeDisk, type TestDisk } from '../support/disks.ts'
import { artifactManifest } from '../support/manifests.ts'
import { drop, endOf, readJson, type Status, statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

// Fixing is not possible on any host with this, whatever it has installed.
const nowhere = { virt_v2v_in_place: '/nowhere/virt-v2v-in-place' }
const refuses = { fix: { ...nowhere, unavailable: 'fail' }, convert: { path: 'qemu-img' } }
const goesOn = { fix: { ...nowhere, unavailable: 'skip' }, convert: { path: 'qemu-img' } }

const run = (b: Bed, ...args: string[]): Promise<Ran> =>
  cli([args[0]!, '--instance', b.instance, '--root', b.dir, ...args.slice(1)], { env: b.env, cwd: b.dir })

/** A job of two disks whose guest cannot be fixed: its copies are finished when it fails. */
async function failedJob(b: Bed, dir: string): Promise<{ failed: Status; disks: TestDisk[] }> {
  const disks = [await makeDisk(dir, 'system'), await makeDisk(dir, 'data')]
  const agent = await b.start({ config: refuses })
  await drop(b, artifactManifest('web', disks, { pipeline: { fix: { enabled: true } }, retry: { max_attempts: 0 } }))
  const failed = await endOf(b, 'web')
  expect(failed).toMatchObject({ state: 'failed' })
  await agent.stop()
  return { failed, disks }
}

const logOf = (b: Bed, id: string) => readFile(join(b.layout.outputJobs, id, 'log'), 'utf8')
const keptOf = (b: Bed, id: string) => readdir(join(b.layout.work, id)).catch(() => [] as string[])
const copied = (log: string) => (log.match(/copy \S+: took over/g) ?? []).length

async function rightResult(b: Bed, disks: TestDisk[]): Promise<void> {
  expect(await holds(join(b.layout.output, 'web.qcow2'), 'qcow2', disks[0]!)).toBe(true)
  expect(await holds(join(b.layout.output, 'web.disks/disk-1.qcow2'), 'qcow2', disks[1]!)).toBe(true)
  expect(await run(b, 'fsck')).toMatchObject({ code: 0, out: expect.stringContaining('0 errors, 0 warnings') })
}

describe.concurrent('retry', { timeout: 600_000 }, () => {
  test('goes on after the copies, which are moved and not made again; the failure says what is kept, until when, and how', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const { failed, disks } = await failedJob(b, dir.path)
    const result = await readJson(join(b.layout.outputJobs, failed.id, 'result.json'))
    expect(result).toMatchObject({
      error: { code: 'fix-unavailable', phase: 'fix', hint: expect.stringContaining('apt-get install virt-v2v') },
      kept: { steps: ['copy'], bytes: expect.any(Number), until: expect.stringMatching(/Z$/) },
    })
    const error = await readFile(join(b.layout.output, 'web.error'), 'utf8')
    expect(error).toContain(`"vmspool retry ${failed.id}" goes on from there`)
    expect(error).toMatch(/What was finished \(copy; \d+ bytes\) is kept until \d{4}-/)
    expect(await run(b, 'fsck')).toMatchObject({ code: 0, out: expect.stringContaining('0 errors, 0 warnings') })

    await b.start({ config: goesOn })
    const again = await run(b, 'retry', 'web', '--wait', '-q', '-o', 'json')
    expect(again.code, again.err).toBe(0)
    const [done] = JSON.parse(again.out) as [Status]
    expect(done.id).not.toBe(failed.id)
    const log = await logOf(b, done.id)
    expect(copied(log), log).toBe(2)
    expect(log).toContain('(moved from')
    expect(await readJson(join(b.layout.output, 'web.result.json'))).toMatchObject({
      warnings: expect.arrayContaining([
        expect.objectContaining({ message: expect.stringMatching(/^stage-skipped: /) }),
      ]),
      disks: [{ adopted: true }, { adopted: true }],
    })
    await until('nothing is kept any more', async () => (await readdir(b.layout.work)).length === 0)
    await rightResult(b, disks)
  })

  test('--from copy makes everything anew; --from fix takes the copies; a job that kept nothing says so', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const { failed, disks } = await failedJob(b, dir.path)
    expect(await run(b, 'retry', '--from', 'publish', 'web')).toMatchObject({ code: 2 })
    // fails again, and what it took over it keeps for the next
    let agent = await b.start({ config: refuses })
    const second = await run(b, 'retry', '--from', 'fix', 'web', '--wait', '-q')
    expect(second.code, second.err).toBe(1)
    const again = await endOf(b, 'web')
    expect(again.id).not.toBe(failed.id)
    expect(copied(await logOf(b, again.id))).toBe(2)
    expect((await readJson(join(b.layout.outputJobs, again.id, 'result.json')))?.kept).toMatchObject({
      steps: ['copy'],
    })
    await agent.stop()

    agent = await b.start({ config: goesOn })
    expect(await run(b, 'retry', '--from', 'copy', again.id, '--wait', '-q')).toMatchObject({ code: 0 })
    const third = await endOf(b, 'web')
    expect(copied(await logOf(b, third.id))).toBe(0)
    await rightResult(b, disks)
    await until('what the one before had kept is gone', async () => (await keptOf(b, again.id)).length === 0)
    const none = await run(b, 'retry', '--from', 'fix', again.id)
    expect(none).toMatchObject({
      code: 1,
      err: expect.stringContaining('has kept no finished work to start "fix" from'),
    })
    expect(await run(b, 'retry', '--from', 'fix', third.id)).toMatchObject({
      code: 1,
      err: expect.stringContaining('only a failed job keeps its work'),
    })
  })

  test('twice at once: both end right, one after the other', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const { disks } = await failedJob(b, dir.path)
    const both = await Promise.all([
      run(b, 'retry', 'web', '-q', '-o', 'json'),
      run(b, 'retry', 'web', '-q', '-o', 'json'),
    ])
    expect(both.map((r) => r.code)).toEqual([0, 0])
    await Promise.all([b.start({ config: goesOn }), b.start({ config: goesOn, worker: true })])
    const jobs = await until('both have ended', async () => {
      const all = JSON.parse((await run(b, 'list', '-o', 'json')).out) as Status[]
      const ended = all.filter((s) => ['succeeded', 'failed'].includes(s.state))
      return ended.length === 3 ? ended : undefined
    })
    expect(jobs.map((s) => s.state)).toEqual(['succeeded', 'succeeded', 'failed'])
    const taken = await Promise.all(jobs.slice(0, 2).map(async (s) => copied(await logOf(b, s.id))))
    expect(taken.sort()).toEqual([0, 2])
    await rightResult(b, disks)
  })

  test('after its retention nothing is kept, and a plain retry copies again', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const { failed, disks } = await failedJob(b, dir.path)
    expect((await keptOf(b, failed.id)).length).toBe(1)
    // an agent looks at its start, and then not before a minute has passed
    await until('it is older than that', () => Date.now() - Date.parse(failed.finished_at as string) > 1500)
    const agent = await b.start({ config: { ...goesOn, retention: { failed: '1s' } } })
    await until('retention has taken it', async () => !existsSync(join(b.layout.work, failed.id)))
    await agent.stop()
    await b.start({ config: goesOn })
    await drop(b, artifactManifest('web', disks, { retry_of: failed.id, pipeline: { fix: { enabled: true } } }))
    await until('it succeeds', async () => (await statusOf(b, 'web'))?.state === 'succeeded')
    await rightResult(b, disks)
  })
})
