/** Compressing the rotated parts of a log, and removing the oldest beyond a total. */
import { randomBytes } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { lstat, open, rename, stat, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { isGone, listFiles, type LogFiles, plainPath, unlessGone } from './log-files.ts'
import { guardOf, lives, sealed, staleMs } from './log-guard.ts'

/** Fast: it must keep up with a flood, and the lines of a log are alike anyway. */
const level = 1

/**
 * Compresses one rotated file; the plain one is removed when the compressed one is safe on disk. May be cut off at any moment
 * and done again, also by several at once.
 * @throws what reading and writing throw; that the file is gone, because another one did it, is no error
 */
async function compress(f: LogFiles, n: number): Promise<void> {
  const plain = plainPath(f, n)
  const temp = join(f.dir, `.${f.before}${n}${f.after}.gz.${process.pid}-${randomBytes(4).toString('hex')}.tmp`)
  const { createGzip } = await import('node:zlib') // not before it is needed: commands start without it
  try {
    await sealed(f, () => stat(plain))
    const { mode } = await stat(plain)
    const file = await open(temp, 'wx', mode & 0o777)
    try {
      await pipeline(createReadStream(plain), createGzip({ level }), async (gzipped: AsyncIterable<Buffer>) => {
        for await (const piece of gzipped) await file.appendFile(piece)
      })
      await file.datasync()
    } finally {
      await file.close()
    }
    await rename(temp, `${plain}.gz`)
  } catch (error) {
    await unlink(temp).catch(() => {})
    if (isGone(error)) return
    throw error
  }
  await unlessGone(unlink(plain))
}

/** Whether another process seems to be compressing this part: it lives, and its temporary file grew lately. */
async function busyElsewhere(f: LogFiles, others: readonly string[], n: number): Promise<boolean> {
  for (const name of others) {
    if (!name.startsWith(`.${f.before}${n}${f.after}.gz.`)) continue
    const its = await unlessGone(lstat(join(f.dir, name)))
    const pid = Number(/\.gz\.(\d+)/.exec(name)?.[1])
    // One of another host looks dead. Then two compress the same part, which does no harm.
    if (its !== undefined && Math.abs(Date.now() - its.mtimeMs) < staleMs && lives(pid)) return true
  }
  return false
}

/**
 * Compresses all rotated files that are plain, oldest first, and removes what crashes left: temporary files of parts that are
 * done, and names of dead appenders. A number that was taken and never used stays, empty: nothing is missing there.
 * @param due which of them; default: all
 */
export async function compressRest(f: LogFiles, due?: (s: { ctimeMs: number }) => boolean): Promise<void> {
  const { plain, segments, others } = await listFiles(f)
  const done = new Set(segments.filter((s) => s.gz).map((s) => s.n))
  for (const n of plain) {
    const its = await unlessGone(lstat(plainPath(f, n)))
    if (its === undefined || (due !== undefined && !due(its))) continue
    if (done.has(n)) await unlessGone(unlink(plainPath(f, n)))
    else if (!(await busyElsewhere(f, others, n))) await compress(f, n)
    else continue
    done.add(n)
  }
  for (const name of others) {
    const guard = guardOf(f, name)
    const of = /^(\d+)\D/.exec(name.slice(f.before.length + 1))?.[1]
    const temporary = of !== undefined && name.endsWith('.tmp') && !plain.some((n) => n === Number(of) && !done.has(n))
    const dead = guard !== undefined && (!guard.alive || Math.abs(Date.now() - guard.since) > 6 * staleMs)
    if (temporary || dead) await unlessGone(unlink(join(f.dir, name)))
  }
}

/**
 * Removes the oldest parts until what is left, and `reserve` bytes for the live file, is no more than `bytes`. The newest part
 * stays in any case: it keeps the count.
 */
export async function trim(f: LogFiles, bytes: number, reserve: number): Promise<void> {
  const { segments } = await listFiles(f)
  const sizes = await Promise.all(segments.map(async (s) => (await unlessGone(lstat(s.path)))?.size ?? 0))
  let sum = sizes.reduce((a, b) => a + b, reserve)
  for (const [i, s] of segments.slice(0, -1).entries()) {
    if (sum <= bytes) return
    await unlessGone(unlink(s.path))
    sum -= sizes[i] ?? 0
  }
}
