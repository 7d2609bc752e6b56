/**
 * Jobs that wait for each other for ever. One waits for the jobs that it comes after, and a job waits for those before it in its lane: all
 * jobs of one name run in the order of acceptance; a batch waits for its own jobs. Strongly connected components of that graph (Tarjan 1972), without recursion.
 */
import { childPrefix, crowdedLanes, type Spool } from '../spool/index.ts'
import type { Waiter } from './dependency-words.ts'

type Node = Waiter | string

/** After so many steps others have their turn. */
const TURNS = 5_000

/** @returns those that are in a circle, each circle by itself; jobs that merely wait for one of them are not among them */
export async function cyclesOf(s: Spool, waiters: ReadonlyMap<string, Waiter>): Promise<Waiter[][]> {
  const node = (id: string): Node => waiters.get(id) ?? id
  const before = new Map<string, string>()
  for (const lane of await crowdedLanes(s))
    for (const [i, id] of lane.entries()) if (i > 0) before.set(id, lane[i - 1]!)
  const children = new Map<string, string[]>()
  const child = (parent: string, id: string): void => {
    const all = children.get(parent)
    if (all) all.push(id)
    else children.set(parent, [id])
  }
  for (const w of waiters.values()) if (w.parent !== undefined) child(childPrefix(w.parent), w.name.id)
  for (const id of before.keys()) child(id.slice(0, 22), id) // the batch of a job is told by how the job's id begins
  const next = (from: Node): Node[] => {
    const id = typeof from === 'string' ? from : from.name.id
    const lane = before.get(id)
    const own = typeof from === 'string' ? [] : from.deps.flatMap((d) => (d.state === 'open' ? [d.target!] : []))
    const made = children.size === 0 ? [] : (children.get(childPrefix(id)) ?? [])
    return [...own, ...(lane === undefined ? [] : [lane]), ...made].map(node)
  }
  const out: Waiter[][] = []
  const index = new Map<Node, number>()
  const low = new Map<Node, number>()
  const open: Node[] = []
  const isOpen = new Set<Node>()
  const enter = (node: Node): { node: Node; to: Node[]; at: number } => {
    index.set(node, index.size)
    low.set(node, index.get(node)!)
    open.push(node)
    isOpen.add(node)
    return { node, to: next(node), at: 0 }
  }
  const leads = new Map<string, boolean>()
  /** Whether a job that is waited for waits for something itself. */
  const leadsOn = (id: string): boolean => {
    let known = leads.get(id)
    if (known === undefined) {
      known = waiters.has(id) || before.has(id) || (children.size > 0 && children.has(childPrefix(id)))
      leads.set(id, known)
    }
    return known
  }
  let turns = 0
  for (const start of waiters.values()) {
    if (index.has(start)) continue
    if (!before.has(start.name.id) && !start.deps.some((d) => d.state === 'open' && leadsOn(d.target!))) continue
    const path = [enter(start)]
    for (let top = path.at(-1); top !== undefined; top = path.at(-1)) {
      const to = top.to[top.at++]
      if (++turns % TURNS === 0) await new Promise(setImmediate)
      if (to !== undefined) {
        if (!index.has(to)) path.push(enter(to))
        else if (isOpen.has(to)) low.set(top.node, Math.min(low.get(top.node)!, index.get(to)!))
        continue
      }
      path.pop()
      const { node } = top
      const above = path.at(-1)?.node
      if (above !== undefined) low.set(above, Math.min(low.get(above)!, low.get(node)!))
      if (low.get(node) !== index.get(node)) continue
      const part = open.splice(open.lastIndexOf(node))
      for (const x of part) isOpen.delete(x)
      if (part.length > 1 || top.to.includes(node)) {
        const jobs = part.filter((x) => typeof x !== 'string')
        if (jobs.length > 0) out.push(jobs)
      }
    }
  }
  return out
}
