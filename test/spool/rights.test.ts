// Whose requests in control/ count. Files of other users can be made by root alone.
import { chown, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { cancelRequests, isPaused, processCancels, requestCancel, type Spool } from '../../src/spool/index.ts'
import { tempDir } from '../support/temp.ts'
import { command, intake, openTestSpool, settle } from './harness.ts'

const submitter = 60_001
const stranger = 60_002

async function dropped(s: Spool, name: string, uid: number) {
  const path = join(s.layout.queue, `${name}.json`)
  await writeFile(path, command(name))
  await chown(path, uid, uid)
  return (await settle(s, intake()))[0]!.name.id
}

async function asked(s: Spool, id: string, uid: number): Promise<void> {
  await requestCancel(s, id, 'somebody')
  await chown(join(s.layout.control, `cancel-${id}.json`), uid, uid)
}

test.skipIf(process.getuid?.() !== 0)(
  'a job is cancelled for whoever dropped it, root and its agents, not for others; only agents and root pause',
  async () => {
    await using dir = await tempDir()
    const s = await openTestSpool(dir.path)
    const a = await dropped(s, 'a', submitter)
    await asked(s, a, stranger)
    expect(await processCancels(s)).toEqual([])
    expect(await readdir(s.layout.control)).toEqual([])
    await asked(s, a, submitter)
    expect((await processCancels(s)).map((n) => n.id)).toEqual([a])
    const b = await dropped(s, 'b', submitter)
    await asked(s, b, 0)
    expect((await processCancels(s)).map((n) => n.id)).toEqual([b])

    // Of a job that nobody finds nothing can be said: neither carried out nor removed.
    const unknown = `${b.slice(0, 25)}${b.endsWith('0') ? '1' : '0'}`
    await asked(s, unknown, stranger)
    expect((await cancelRequests(s)).map((r) => r.id)).not.toContain(unknown)
    expect(await readdir(s.layout.control)).toContain(`cancel-${unknown}.json`)

    const pause = join(s.layout.control, 'pause')
    await writeFile(pause, '{}')
    expect(await isPaused(s)).toBe(true)
    await chown(pause, stranger, stranger)
    expect(await isPaused(s)).toBe(false)
  },
)
