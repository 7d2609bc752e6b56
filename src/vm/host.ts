/**
 * What the host has, and what VMs take of it. A VM takes its processors and its memory while it runs, or as long as it should run; its disks
 * take what they have not yet written, for they may grow to their full size. Sizes are bytes.
 */
import { stat, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { isLibvirtError, type Session } from '../libvirt/index.ts'
import type { VmRecord } from './types.ts'

/** A VM, ours or not, that takes processors and memory. */
export interface Taker {
  uuid: string
  name: string
  vcpus: number
  memory_bytes: number
  /** runs: libvirt says so. due: an entry of ours that should run, and does not. promised: it is being made or started */
  why: 'runs' | 'due' | 'promised'
}

/** libvirt's states in which a guest holds its memory */
const ACTIVE = new Set(['running', 'blocked', 'paused', 'shutdown', 'crashed', 'pmsuspended'])

/** All domains of this libvirt that run, foreign ones too, with the most memory they may take. */
export async function runningDomains(s: Session): Promise<Taker[]> {
  const active = (await s.query.domains.states()).filter((d) => ACTIVE.has(d.state))
  const found = await Promise.all(
    active.map(async ({ domain }): Promise<Taker | undefined> => {
      try {
        const { vcpus, max_memory_bytes } = await s.query.domains.info(domain)
        return { uuid: domain.uuid, name: domain.name, vcpus, memory_bytes: max_memory_bytes, why: 'runs' }
      } catch (e) {
        if (isLibvirtError(e, 'no_domain')) return undefined // it has just ended
        throw e
      }
    }),
  )
  return found.filter((t) => t !== undefined)
}

/** Entries that should run and that nobody works on just now: they will be started. What is worked on has a promise of its own. */
export const dueRecords = (records: readonly VmRecord[]): Taker[] =>
  records
    .filter((r) => r.desired === 'running' && r.doing === undefined)
    .map((r) => ({ uuid: r.uuid, name: r.name, vcpus: r.vcpus, memory_bytes: r.memory_bytes, why: 'due' }))

export interface Filesystem {
  /** what was asked for, or the nearest folder above it that exists */
  path: string
  dev: number
  total_bytes: number
  /** for everyone but root: guests' processes are not root's */
  free_bytes: number
}

export async function filesystemOf(path: string): Promise<Filesystem> {
  for (let at = path; ; at = dirname(at)) {
    try {
      const [{ dev }, s] = await Promise.all([stat(at), statfs(at)])
      return { path: at, dev, total_bytes: s.blocks * s.bsize, free_bytes: s.bavail * s.bsize }
    } catch (e) {
      const { code } = e as NodeJS.ErrnoException
      if ((code !== 'ENOENT' && code !== 'ENOTDIR') || dirname(at) === at) throw e
    }
  }
}

/** How much the disks of an entry take on this filesystem: written already, and what they may still write. */
export async function disksOn(dev: number, r: VmRecord): Promise<{ written: number; growth: number }> {
  const sum = { written: 0, growth: 0 }
  for (const disk of r.disks) {
    try {
      const s = await stat(disk.path)
      if (s.dev !== dev) continue
      sum.written += s.blocks * 512
      sum.growth += Math.max(0, disk.size_bytes - s.blocks * 512)
    } catch {
      // not there (yet), or on a filesystem that is away: it takes nothing that is known
    }
  }
  return sum
}
