/**
 * The next run of a job that repeats. Its id and its time are fixed once, beside the attempts of the run before it, so that every attempt
 * at that run, on every host, means the same job by it; whether it was made already the folders tell (existingJobs).
 */
import { join } from 'node:path'
import { errno } from './errors.ts'
import { ensureDurableDir, namesIn, removeTree } from './moves.ts'
import { ulidMaker } from './names.ts'
import { randomHex, type Spool } from './spool.ts'

export interface Successor {
  id: string
  /** wall clock, ms */
  due_ms: number
}

/** A folder: renaming one over another that is not empty fails, so the first one stands. */
const NEXT = 'next'
const FILE = 'successor.json'

/** The successor that is fixed for this run, if there is one. */
export async function readSuccessor(s: Spool, run: string): Promise<Successor | undefined> {
  const dir = join(s.layout.work, run, NEXT)
  // By listing: a name that was looked up in vain stays absent for 30 s on NFS.
  if (!(await namesIn(s, dir, true)).includes(FILE)) return undefined
  return JSON.parse((await s.fs.readFile(join(dir, FILE), 4096)).bytes.toString('utf8'))
}

/**
 * Fixes the successor of a run, durably: with this due time, unless another attempt was faster. The time in its id is the one at which it
 * is due, so by their ids the runs stand among other jobs as they run. `mine`: this call fixed it, so nobody can have made it yet.
 */
export async function fixSuccessor(s: Spool, run: string, dueMs: number): Promise<Successor & { mine: boolean }> {
  let own: string | undefined
  const there = await readSuccessor(s, run)
  const parent = join(s.layout.work, run)
  if (!there) {
    const mine: Successor = { id: ulidMaker(() => dueMs, s.random)(), due_ms: dueMs }
    own = mine.id
    const temp = join(parent, `.${NEXT}.${randomHex(s, 4)}.tmp`)
    await ensureDurableDir(s, parent)
    await s.fs.mkdir(temp, 0o750)
    await s.fs.writeFile(join(temp, FILE), JSON.stringify(mine), { mode: 0o640, sync: true })
    await s.sync(temp)
    try {
      await s.fs.rename(temp, join(parent, NEXT))
    } catch (error) {
      // Another one was faster, or the reply was lost: what lies there counts.
      if (!['ENOTEMPTY', 'EEXIST', 'ENOENT'].includes(errno(error))) throw error
    }
    if ((await namesIn(s, parent, true)).includes(temp.slice(parent.length + 1))) await removeTree(s, temp)
  }
  await s.sync(parent)
  const fixed = await readSuccessor(s, run)
  if (!fixed) throw Object.assign(new Error(`The next run after ${run} could not be written down.`), { code: 'ENOENT' })
  return { ...fixed, mine: fixed.id === own }
}
