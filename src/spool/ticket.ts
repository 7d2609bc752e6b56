/**
 * Lanes. All jobs of one answer name share a lane, and a ticket is a job's place in it: a total order of acceptance
 * among agents that need no common clock.
 */
import { join } from 'node:path'
import { errno } from './errors.ts'
import { ensureDir, listed, move } from './moves.ts'
import { laneFolder, laneOf, type Ticket, ticketName } from './names.ts'
import { randomHex, type Spool } from './spool.ts'

/** The lane of a key, oldest first; empty when nobody ever queued there. */
export async function readLane(s: Spool, key: string, fresh: boolean): Promise<Ticket[]> {
  const dir = join(s.layout.lanes, laneFolder(key))
  try {
    return laneOf(fresh ? await s.fs.readdirFresh(dir) : await s.fs.readdir(dir), key)
  } catch (error) {
    if (errno(error) === 'ENOENT') return []
    throw error
  }
}

/**
 * Draws a ticket: one more than the largest, fsync, look again; whoever sees a larger one goes behind it. When this
 * returns, every ticket that was there is smaller, and every later accept will see this one. A recovery finds the
 * ticket its predecessor drew and does not draw a second.
 *
 * A ticket enters the lane by a rename out of `folder`, our own intake: a stalled owner whose folder was taken over can
 * neither add a ticket for a job that has long ended nor move the one its successor relies on.
 */
export async function drawTicket(
  s: Spool,
  folder: string,
  key: string,
  id: string,
): Promise<{ mine: Ticket; older: Ticket[] }> {
  // One at a time for each lane: two accepts of one agent that draw in step would go behind each other for ever.
  const before = drawing.get(s)?.get(key)
  const draw = (before ?? Promise.resolve()).then(
    () => drawAlone(s, folder, key, id),
    () => drawAlone(s, folder, key, id),
  )
  const lanes = drawing.get(s) ?? new Map()
  drawing.set(s, lanes.set(key, draw))
  try {
    return await draw
  } finally {
    if (lanes.get(key) === draw) lanes.delete(key)
  }
}

const drawing = new WeakMap<Spool, Map<string, Promise<unknown>>>()

async function drawAlone(
  s: Spool,
  folder: string,
  key: string,
  id: string,
): Promise<{ mine: Ticket; older: Ticket[] }> {
  const dir = join(s.layout.lanes, laneFolder(key))
  for (;;) {
    const lane = await readLane(s, key, true)
    const last = lane.at(-1)
    const mine = lane.find((t) => t.id === id)
    if (mine && last === mine) {
      // Durable before it counts: a ticket that power loss takes back would let an older job publish over ours.
      // Its folder too, whoever made it.
      await Promise.all([s.sync(dir), ...(s.durableLanes.has(dir) ? [] : [s.sync(s.layout.lanes)])])
      s.durableLanes.add(dir)
      const again = await readLane(s, key, true)
      const at = again.findIndex((t) => t.id === id)
      if (at >= 0 && at === again.length - 1) return { mine: again[at]!, older: again.slice(0, at) }
      continue
    }
    const temp = join(folder, `.${id}.${randomHex(s, 4)}.tmp`)
    if (mine) {
      if (!(await move(s, join(dir, mine.file), temp))) continue
    } else await s.fs.writeFile(temp, '', { mode: 0o640, sync: false })
    const next = join(dir, ticketName(key, (last?.ticket ?? 0) + 1, id))
    await s.fs.rename(temp, next).catch(async (error) => {
      if (!(await listed(s, temp))) {
        await s.fs.readdir(folder) // ENOENT here: we are fenced
        return // a lost reply: the next listing tells
      }
      if (errno(error) !== 'ENOENT') throw error
      await ensureDir(s, dir, 0o750)
      await s.fs.rename(temp, next)
    })
  }
}
