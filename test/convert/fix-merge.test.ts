// The merge of a fix into the copies: right for every format, and broken off anywhere it is done again with the same result.
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  appendFileSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { adoptCopy, adoptStep, finishedWork, readStep, recordStep } from '../../src/convert/artefacts.ts'
import { identityOf } from '../../src/convert/identity.ts'
import { processesMarked } from '../support/leaks.ts'
import { until } from '../support/wait.ts'
import { COPY, FIX, fixed, mergeHere, NAME, records } from './fix-scene.ts'
import { assertSame, qemuImg, tempFolder } from './harness.ts'

const MiB = 1024 * 1024
let dir: string
let raw: string
let n = 0
const folder = () => {
  const path = join(dir, `attempt-${++n}`)
  mkdirSync(path)
  return path
}
const changes = ['write -P 7 1M 2M', 'write -P 9 20M 1M', 'write -z 5M 1M', 'write -z -u 8M 2M', 'write -P 3 31M 1M']

beforeAll(() => {
  dir = tempFolder()
  raw = join(dir, 'source.raw')
  writeFileSync(raw, randomBytes(16 * MiB))
  appendFileSync(raw, Buffer.alloc(16 * MiB))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

describe.each([
  ['qcow2', false],
  ['qcow2', true],
  ['raw', false],
  ['vdi', false],
] as const)('%s, compressed: %s', (format, compress) => {
  test('the copy holds what the overlay showed, and the overlay is untouched', async () => {
    const at = folder()
    const want = await fixed(at, raw, format, { compress, changes })
    const overlay = await identityOf(join(at, 'fix/disk-0.qcow2'))
    const copied = join(at, 'copied')
    linkSync(join(at, 'copy', NAME[format]), copied)
    await mergeHere(at, format)
    // qemu writes a VDI's header and block map in no order: the finished copy must never be written to
    if (format === 'vdi') assertSame(raw, 'raw', copied, format)
    assertSame(want, 'raw', join(at, 'copy', NAME[format]), format)
    if (format !== 'raw') qemuImg('check', '-q', '-f', format, join(at, 'copy', NAME[format]))
    expect(await identityOf(join(at, 'fix/disk-0.qcow2'))).toBe(overlay)
    expect(await readStep(at, 'merge', NAME[format])).toMatchObject({
      key: FIX,
      size_bytes: statSync(join(at, 'copy', NAME[format])).size,
      identity: await identityOf(join(at, 'copy', NAME[format])),
    })
    expect(await readStep(at, 'merge', NAME[format])).not.toHaveProperty('started')
    expect(existsSync(join(at, 'copy', `${NAME[format]}.before`))).toBe(false)
  })

  test('killed in its middle, the next attempt takes both files over and ends with the same bytes', {
    timeout: 600_000,
  }, async () => {
    const at = folder()
    // many small changes: the commit takes a while, and touches metadata all over the image
    const many = Array.from({ length: 120 }, (_, i) => `write -P ${(i % 250) + 1} ${i * 256}k 64k`)
    const want = await fixed(at, raw, format, { compress, changes: many })
    const marker = `VMSPOOL_TEST_MERGE=${at}`
    const child = spawn(process.execPath, [join(import.meta.dirname, 'fix-merge.worker.process.ts'), at, format, FIX], {
      env: { ...process.env, VMSPOOL_TEST_MERGE: at },
      stdio: 'inherit',
    })
    const gone = new Promise((resolve) => child.on('close', resolve))
    const running = () => processesMarked(marker)
    await until(
      'qemu-img merges, or has merged',
      () => running().some((p) => p.command.includes('qemu-img')) || child.exitCode !== null,
      { every_ms: 1 },
    )
    child.kill('SIGKILL')
    await gone
    await until('its qemu-img has ended', () => {
      for (const p of running()) process.kill(p.pid, 'SIGKILL')
      return running().length === 0
    })
    const next = folder()
    const earlier = [{ dir: at, dead: true }]
    const wish = {
      disk_id: 'disk-0',
      file: `copy/${NAME[format]}`,
      final: `answer/${NAME[format]}`,
      key: COPY,
      fix_key: FIX,
    }
    const copy = await adoptCopy(next, earlier, wish)
    expect(copy?.how).toBe('moved')
    expect((await adoptStep(next, earlier, { step: 'fix', name: 'disk-0.qcow2', key: FIX }))?.how).toBe('moved')
    await mergeHere(next, format)
    assertSame(want, 'raw', join(next, 'copy', NAME[format]), format)
    if (format !== 'raw') qemuImg('check', '-q', '-f', format, join(next, 'copy', NAME[format]))
  })
})

test('one overlay is merged into both formats of a disk, though it names but one of them', async () => {
  const at = folder()
  const want = await fixed(at, raw, 'vdi', { changes })
  qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', raw, join(at, 'copy', NAME.qcow2))
  await mergeHere(at, 'vdi')
  await mergeHere(at, 'qcow2')
  for (const format of ['vdi', 'qcow2'] as const) assertSame(want, 'raw', join(at, 'copy', NAME[format]), format)
})

describe('who may use what an attempt left', () => {
  const wish = { disk_id: 'disk-0', file: `copy/${NAME.qcow2}`, final: 'answer/x', key: COPY }
  /** As a merge that was broken off before its first byte: the worst case for whoever reads the record. */
  const begun = async (at: string) =>
    recordStep(at, { schema: 1, step: 'merge', name: NAME.qcow2, key: FIX, file: wish.file, started: true })

  test('a merged copy: who plans the same fix, and nobody else', async () => {
    const at = folder()
    const want = await fixed(at, raw, 'qcow2', { changes })
    await mergeHere(at, 'qcow2')
    const alive = [{ dir: at, dead: false }]
    expect(await adoptCopy(folder(), alive, wish)).toBeUndefined()
    expect(await adoptCopy(folder(), alive, { ...wish, fix_key: 'another fix' })).toBeUndefined()
    expect(await adoptCopy(folder(), alive, { ...wish, key: 'another copy', fix_key: FIX })).toBeUndefined()
    for (const before of ['copy', 'fix', 'merge'] as const)
      expect(await adoptCopy(folder(), [{ ...alive[0]!, before }], { ...wish, fix_key: FIX })).toBeUndefined()
    const next = folder()
    expect((await adoptCopy(next, alive, { ...wish, fix_key: FIX }))?.how).toBe('copied')
    assertSame(want, 'raw', join(next, wish.file), 'qcow2')
    const again = await mergeHere(next, 'qcow2')
    expect(again.logs.join('')).toContain('took over the merged file')
    expect(again.spawned).toEqual([])
  })

  test('a copy that is being merged: only who owns it alone', async () => {
    const at = folder()
    await fixed(at, raw, 'qcow2', { changes })
    await begun(at)
    const fix_key = FIX
    expect(await adoptCopy(folder(), [{ dir: at, dead: false }], { ...wish, fix_key })).toBeUndefined()
    expect(await adoptCopy(folder(), [{ dir: at, dead: true }], wish)).toBeUndefined()
    expect(await adoptCopy(folder(), [{ dir: at, dead: true, before: 'fix' }], { ...wish, fix_key })).toBeUndefined()
    expect((await finishedWork(at)).steps).toEqual(['copy'])
    const next = folder()
    expect((await adoptCopy(next, [{ dir: at, dead: true, before: 'merge' }], { ...wish, fix_key }))?.how).toBe('moved')
    // and the one after that, though nothing was merged in between
    expect((await adoptCopy(folder(), [{ dir: next, dead: true }], { ...wish, fix_key }))?.how).toBe('moved')
  })

  test('a copy whose merge was broken off is whole, or can be merged into again', async () => {
    for (const format of ['qcow2', 'raw', 'vdi'] as const) {
      const at = folder()
      const want = await fixed(at, raw, format, { changes })
      const stop = new AbortController()
      await expect(mergeHere(at, format, FIX, { signal: stop.signal, spawned: () => stop.abort() })).rejects.toThrow()
      expect(await readStep(at, 'merge', NAME[format])).toMatchObject({ started: true })
      const file = `copy/${NAME[format]}`
      // a VDI is never written to in place
      if (format === 'vdi') assertSame(raw, 'raw', join(at, file), format)
      const next = folder()
      expect((await adoptCopy(next, [{ dir: at, dead: true }], { ...wish, file, fix_key: FIX }))?.how).toBe('moved')
      expect(
        await adoptStep(next, [{ dir: at, dead: true }], { step: 'fix', name: 'disk-0.qcow2', key: FIX }),
      ).toBeDefined()
      await mergeHere(next, format)
      assertSame(want, 'raw', join(next, file), format)
      expect(readdirSync(join(next, 'copy'))).toEqual([NAME[format]])
    }
  })

  test('the unmerged clone that a cloning filesystem keeps: everybody', async () => {
    const at = folder()
    await fixed(at, raw, 'qcow2', { changes })
    const before = `${wish.file}.before`
    cpSync(join(at, wish.file), join(at, before))
    await recordStep(at, { schema: 1, step: 'merge', name: NAME.qcow2, key: FIX, started: true, result: { before } })
    const next = folder()
    expect((await adoptCopy(next, [{ dir: at, dead: false }], { ...wish, fix_key: FIX }))?.how).toBe('copied')
    assertSame(raw, 'raw', join(next, wish.file), 'qcow2')
    expect(await readStep(next, 'merge', NAME.qcow2)).toBeUndefined()
  })

  test('a file that was cut off, changed or lost its blocks is not believed; one that was moved on is found by nobody', async () => {
    const at = folder()
    await fixed(at, raw, 'qcow2', { changes })
    const file = join(at, wish.file)
    const whole = readFileSync(file)
    for (const damaged of [
      whole.subarray(0, whole.length - 65_536),
      Buffer.concat([Buffer.alloc(4096), whole.subarray(4096)]),
      Buffer.alloc(whole.length),
    ]) {
      writeFileSync(file, damaged)
      expect(await adoptCopy(folder(), [{ dir: at, dead: true }], wish)).toBeUndefined()
    }
    writeFileSync(file, whole)
    renameSync(file, join(at, 'elsewhere'))
    const next = folder()
    expect(await adoptCopy(next, [{ dir: at, dead: true }], wish)).toBeUndefined()
    expect(existsSync(join(next, 'artefacts')) ? records(next) : []).toEqual([])
  })

  test('two at once: one gets it by moving, the other nothing, and neither a record without a file', async () => {
    const at = folder()
    await fixed(at, raw, 'qcow2', { changes })
    const [a, b] = [folder(), folder()]
    const got = await Promise.all([a, b].map((f) => adoptCopy(f, [{ dir: at, dead: true }], wish)))
    expect(got.filter((x) => x !== undefined)).toHaveLength(1)
    for (const [i, f] of [a, b].entries()) {
      expect(existsSync(join(f, wish.file))).toBe(got[i] !== undefined)
      if (!got[i]) expect(existsSync(join(f, 'artefacts')) ? records(f) : []).toEqual([])
    }
  })
})
