// What the hosts of the NFS soak agree on.
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { layoutOf } from '../../src/spool/index.ts'

export const ROOT = '/mnt/spool/vmspool'
export const INSTANCE = 'shared'
export const layout = layoutOf({ root: ROOT, instance: INSTANCE })
/** written by the client: no more blows; agents may end; the file server is to restart, which removes the file */
export const CALM = '/mnt/spool/calm'
export const END = '/mnt/spool/end'
export const RESTART = '/mnt/spool/restart'
export const reportOf = (host: string) => `/mnt/spool/report-${host}.json`

export interface Blows {
  host: string
  kills: number
  stops: number
  /** how often its agents said each of `TOLD` */
  told: Record<string, number>
  /** its clock when it wrote this, ms since 1970 */
  clock: number
}

/** an agent ready; another taken for dead; a job taken back from one; an agent, and a job of one, that found itself fenced */
export const TOLD = ['agent.ready', 'owner.dead', 'job.reaped', 'owner.fenced', 'job.fenced'] as const

/** Listing sees what other hosts made at once; asking for a name that was absent may be answered from a cache for half a minute. */
export async function exists(path: string): Promise<boolean> {
  const at = path.lastIndexOf('/')
  return (await readdir(path.slice(0, at)).catch((): string[] => [])).includes(path.slice(at + 1))
}

export const setting = (name: string): number => Number(process.env[`VS_${name}`])

export async function endedCount(): Promise<number> {
  const lists = await Promise.all(
    (['done', 'failed', 'cancelled', 'rejected'] as const).map((s) =>
      readdir(join(layout.jobs, s)).catch((): string[] => []),
    ),
  )
  return lists.flat().filter((f) => f.includes('~')).length
}
