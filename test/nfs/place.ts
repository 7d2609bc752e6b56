// What the hosts of the NFS soak agree on.
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { layoutOf } from '../../src/spool/index.ts'

export const ROOT = '/mnt/spool/vmspool'
export const INSTANCE = 'shared'
export const LEASE_MS = 8000
export const layout = layoutOf({ root: ROOT, instance: INSTANCE })
/** written by the server's host: no more blows; agents may end */
export const CALM = '/mnt/spool/calm'
export const END = '/mnt/spool/end'
export const reportOf = (host: string) => `/mnt/spool/report-${host}.json`

export interface Blows {
  host: string
  kills: number
  stops: number
  /** its clock when it wrote this, ms since 1970 */
  clock: number
}

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
