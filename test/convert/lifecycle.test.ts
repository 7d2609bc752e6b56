/** What happens when a conversion does not run through: cancel, full disk, a copy that stands still, another attempt. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { AbortReason, JobError } from '../../src/jobs/types.ts'
import { isAlive } from '../../src/process/index.ts'
import { assertSame, type Bench, bench, disk, list, tempFolder } from './harness.ts'

const MiB = 1024 * 1024
let dir: string
let big: string
let b: Bench

beforeAll(() => {
  dir = tempFolder()
  big = join(dir, 'big.raw')
  const fd = openSync(big, 'w')
  for (let i = 0; i < 6; i++) writeSync(fd, randomBytes(16 * MiB))
  closeSync(fd)
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))
beforeEach(() => {
  b = bench()
})
afterEach(() => b.close())

/** Resolves as soon as the copy's child runs and has shown progress. */
function copying(x: Bench, then: (pid: number) => void): void {
  const seen = x.progress.push.bind(x.progress)
  let once = false
  x.progress.push = (...items) => {
    const n = seen(...items)
    if (!once && items.some((p) => p.phase === 'copy' && (p.bytes_done ?? 0) > 0)) {
      once = true
      then(x.spawned.at(-1)!.pid)
    }
    return n
  }
}

// compressed with zlib in one thread, so that the copy takes long enough to be met in the middle
const slow = { convert: { compression_type: 'zlib', qemu_threads: 1 } }

test.each(['cancel', 'drain', 'timeout', 'fenced'] as const)(
  '%s ends the children and leaves nothing that could be published',
  async (kind) => {
    b.close()
    b = bench({ config: slow })
    copying(b, () => b.abort.abort({ kind, message: `The job was asked to stop (${kind}).` } satisfies AbortReason))
    const e = (await b.run({ disks: [disk(big, 'raw')], compress: true }).catch((x: unknown) => x)) as JobError
    expect(e).toMatchObject({
      name: 'JobError',
      code: `aborted-${kind}`,
      message: `The job was asked to stop (${kind}).`,
    })
    expect(b.spawned.length).toBeGreaterThan(1)
    expect(b.spawned.some((id) => isAlive(id))).toBe(false)
    expect(list(b.dir)).toEqual([])
  },
)

test('a cancel before the start does nothing at all', async () => {
  b.abort.abort({ kind: 'cancel', message: 'No.' } satisfies AbortReason)
  await expect(b.run({ disks: [disk(big, 'raw')] })).rejects.toMatchObject({ code: 'aborted-cancel' })
  expect(b.spawned.filter((id) => isAlive(id))).toEqual([])
  expect(list(b.dir)).toEqual([])
})

describe('a copy that stands still', () => {
  test('is ended by the watchdog', async () => {
    b.close()
    b = bench({ config: { convert: { ...slow.convert, no_progress_timeout: 1500 } } })
    copying(b, (pid) => process.kill(-pid, 'SIGSTOP'))
    const e = (await b.run({ disks: [disk(big, 'raw')], compress: true }).catch((x: unknown) => x)) as JobError
    expect(e).toMatchObject({ code: 'stalled', transient: true, phase: 'copy' })
    expect(b.spawned.some((id) => isAlive(id))).toBe(false)
    expect(b.answers()).toEqual(['vm.report.json'])
  })

  test('one that goes on after a pause is left alone', async () => {
    b.close()
    b = bench({ config: { convert: { ...slow.convert, no_progress_timeout: 60_000 } } })
    copying(b, (pid) => {
      process.kill(-pid, 'SIGSTOP')
      setTimeout(() => process.kill(-pid, 'SIGCONT'), 300)
    })
    await b.run({ disks: [disk(big, 'raw')], compress: true })
    assertSame(big, 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
  })
})

describe.runIf(process.geteuid?.() === 0)('a small filesystem', () => {
  let mount: string
  beforeEach(() => {
    mount = mkdtempSync(join(tmpdir(), 'vmspool-small-'))
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', mount])
  })
  afterEach(() => {
    execFileSync('umount', [mount])
    rmSync(mount, { recursive: true, force: true })
  })

  test('too small from the start: nothing is written', async () => {
    const c = bench({ dir: mount, config: { space: { reserve_bytes: MiB } } })
    const e = (await c.run({ disks: [disk(big, 'raw')] }).catch((x: unknown) => x)) as JobError
    expect(e).toMatchObject({ code: 'no-space', transient: true, phase: 'space' })
    expect(e.message).toMatch(
      /about \d+ bytes are needed and 1048576 are kept in reserve, but the filesystem of .* has \d+ bytes free\.$/,
    )
    expect(list(mount)).toEqual(['.work/1-me/answer/vm.report.json'])
  })

  test('full in the middle: the copy is removed, the job may be tried again', async () => {
    // data that does not compress, so the estimate (half) fits and the copy does not
    const c = bench({ dir: mount, config: { convert: { compression_type: 'zstd' }, space: { reserve_bytes: 0 } } })
    const middle = join(dir, 'middle.raw')
    writeFileSync(middle, randomBytes(100 * MiB))
    const e = (await c.run({ disks: [disk(middle, 'raw')], compress: true }).catch((x: unknown) => x)) as JobError
    expect(e).toMatchObject({ code: 'no-space', transient: true })
    expect(e.message).toMatch(/No space left on device|nearly full/)
    expect(list(mount)).toEqual(['.work/1-me/answer/vm.report.json'])
  })

  test('the reserve is kept while somebody else fills the disk', async () => {
    const c = bench({ dir: mount, config: { ...slow, space: { reserve_bytes: 16 * MiB } } })
    const middle = join(dir, 'text.raw')
    writeFileSync(middle, Buffer.concat([randomBytes(24 * MiB), Buffer.alloc(512)]))
    copying(c, (pid) => {
      process.kill(-pid, 'SIGSTOP') // it would be done before the watch looks
      writeFileSync(join(mount, 'other'), Buffer.alloc(50 * MiB, 1))
    })
    const e = (await c.run({ disks: [disk(middle, 'raw')], compress: true }).catch((x: unknown) => x)) as JobError
    expect(e).toMatchObject({ code: 'no-space', transient: true })
    expect(e.message).toContain('nearly full')
    expect(list(mount)).toEqual(['.work/1-me/answer/vm.report.json', 'other'])
  })
})

describe('another attempt', () => {
  const small = (i: number) => join(dir, `small-${i}.raw`)
  const disks = () => [0, 1].map((i) => ({ id: `disk-${i}`, source_format: 'raw', local_path: small(i) }))
  beforeEach(() => {
    for (const i of [0, 1]) writeFileSync(small(i), randomBytes(2 * MiB))
  })

  /** A first attempt that was asked to stop when it had copied its first disk and begun the second. */
  async function half(): Promise<void> {
    const seen = b.progress.push.bind(b.progress)
    b.progress.push = (...items) => {
      if (items.some((p) => p.message === 'disk-1'))
        b.abort.abort({ kind: 'drain', message: 'The agent stops.' } satisfies AbortReason)
      return seen(...items)
    }
    await expect(b.run({ disks: disks() })).rejects.toMatchObject({ code: 'aborted-drain' })
    expect(list(b.attemptDir)).toEqual(['artefacts/copy-disk-0.qcow2.json', 'copy/disk-0.qcow2'])
  }
  const runs = (x: Bench) =>
    x.progress.filter((p) => p.phase === 'copy' && p.message !== undefined).map((p) => p.message)

  test('of a dead one: the finished copy is moved, not made again', async () => {
    await half()
    const made = statSync(join(b.attemptDir, 'copy', 'disk-0.qcow2'))
    const next = bench({ dir: b.dir, epoch: 2 })
    const r = await next.run(
      { disks: disks() },
      { epoch: 2, earlierAttempts: [{ dir: b.attemptDir, epoch: 1, owner: 'me', dead: true }] },
    )
    expect(new Set(runs(next))).toEqual(new Set(['disk-1']))
    expect((r.disks as { adopted: boolean }[]).map((d) => d.adopted)).toEqual([true, false])
    expect(statSync(join(next.answerDir, 'vm.qcow2')).ino).toBe(made.ino)
    for (const [i, f] of ['vm.qcow2', 'vm.disks/disk-1.qcow2'].entries())
      assertSame(small(i), 'raw', join(next.answerDir, f), 'qcow2')
    expect(next.logs.join('')).toContain('took over the finished copy of an earlier attempt (moved from')
  })

  test('of one that may still be alive: the copy is copied, so that it cannot be written to', async () => {
    await half()
    const made = statSync(join(b.attemptDir, 'copy', 'disk-0.qcow2'))
    const next = bench({ dir: b.dir, epoch: 2 })
    await next.run(
      { disks: disks() },
      { epoch: 2, earlierAttempts: [{ dir: b.attemptDir, epoch: 1, owner: 'me', dead: false }] },
    )
    expect(new Set(runs(next))).toEqual(new Set(['disk-1']))
    expect(statSync(join(next.answerDir, 'vm.qcow2')).ino).not.toBe(made.ino)
    expect(statSync(join(b.attemptDir, 'copy', 'disk-0.qcow2')).ino).toBe(made.ino)
    assertSame(small(0), 'raw', join(next.answerDir, 'vm.qcow2'), 'qcow2')
  })

  test('of one that had collected everything and was killed before the commit', async () => {
    await b.run({ disks: disks() })
    const next = bench({ dir: b.dir, epoch: 2 })
    const r = await next.run(
      { disks: disks() },
      { epoch: 2, earlierAttempts: [{ dir: b.attemptDir, epoch: 1, owner: 'me', dead: true }] },
    )
    expect(runs(next)).toEqual([])
    expect((r.disks as { adopted: boolean }[]).every((d) => d.adopted)).toBe(true)
    assertSame(small(0), 'raw', join(next.answerDir, 'vm.qcow2'), 'qcow2')
    expect(b.answers()).toEqual(['vm.report.json', 'vm.xml'])
  })

  test('after the source or the wish has changed everything is copied again', async () => {
    await half()
    utimesSync(small(0), new Date(), new Date(Date.now() + 5000))
    const earlierAttempts = [{ dir: b.attemptDir, epoch: 1, owner: 'me', dead: false }]
    const next = bench({ dir: b.dir, epoch: 2 })
    await next.run({ disks: disks() }, { epoch: 2, earlierAttempts })
    expect(new Set(runs(next))).toEqual(new Set(['disk-0', 'disk-1']))
    const other = bench({ dir: b.dir, epoch: 3 })
    await other.run({ disks: disks(), output: { format: 'raw' } }, { epoch: 3, earlierAttempts })
    expect(new Set(runs(other))).toEqual(new Set(['disk-0', 'disk-1']))
  })

  test('a record whose file is cut off is not believed', async () => {
    await half()
    const file = join(b.attemptDir, 'copy', 'disk-0.qcow2')
    writeFileSync(file, readFileSync(file).subarray(0, MiB))
    const next = bench({ dir: b.dir, epoch: 2 })
    await next.run(
      { disks: disks() },
      { epoch: 2, earlierAttempts: [{ dir: b.attemptDir, epoch: 1, owner: 'me', dead: true }] },
    )
    expect(new Set(runs(next))).toEqual(new Set(['disk-0', 'disk-1']))
    assertSame(small(0), 'raw', join(next.answerDir, 'vm.qcow2'), 'qcow2')
  })

  test('a fault after the copy keeps the copies and publishes no disk', async () => {
    // the data disk's place in the answer is taken by a file, so collecting fails after the boot disk was moved
    writeFileSync(join(b.answerDir, 'vm.disks'), '')
    await expect(b.run({ disks: disks() })).rejects.toMatchObject({ transient: true })
    expect(b.answers().filter((f) => f.endsWith('.qcow2'))).toEqual([])
    expect(readdirSync(join(b.attemptDir, 'copy')).sort()).toEqual(['disk-0.qcow2', 'disk-1.qcow2'])
  })
})
