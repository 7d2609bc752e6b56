/**
 * Who a process is, beyond its pid: pids are recycled, so a pid that was written down may by now be a stranger.
 * Source of the fields: proc(5).
 */
import { readFileSync, statSync } from 'node:fs'

export interface ProcessIdentity {
  pid: number
  /** field 22 of /proc/<pid>/stat: clock ticks between boot and the start of the process */
  start_ticks: number
  /** /proc/sys/kernel/random/boot_id */
  boot_id: string
  /** inode of the pid namespace in which `pid` counts */
  pidns: number
  /** value of {@link GROUP_TOKEN_VARIABLE} in the environment of the whole group, when it was started by us */
  token?: string
}

/** In the environment of every child: tells members of a group whose leader is gone from strangers with the same numbers. */
export const GROUP_TOKEN_VARIABLE = 'VMSPOOL_GROUP'

export interface ProcessStat {
  pid: number
  state: string
  ppid: number
  pgrp: number
  session: number
  start_ticks: number
}

/** One line of /proc/<pid>/stat; undefined when there is no such process. */
export function processStat(pid: number | string): ProcessStat | undefined {
  let text: string
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1')
  } catch {
    return undefined
  }
  // The command name stands in parentheses and may itself contain blanks and parentheses: count from the last one.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const start = Number(fields[19])
  if (!Number.isFinite(start)) return undefined
  return {
    pid: Number(pid),
    state: fields[0] ?? '?',
    ppid: Number(fields[1]),
    pgrp: Number(fields[2]),
    session: Number(fields[3]),
    start_ticks: start,
  }
}

let bootIdCache: string | undefined
export function bootId(): string {
  bootIdCache ??= readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()
  return bootIdCache
}

let pidnsCache: number | undefined
export function pidNamespace(): number {
  pidnsCache ??= statSync('/proc/self/ns/pid').ino
  return pidnsCache
}

/** The identity of a live process (also of one that ended and was not yet waited for); undefined when there is none. */
export function identify(pid: number): ProcessIdentity | undefined {
  const s = processStat(pid)
  return s && { pid, start_ticks: s.start_ticks, boot_id: bootId(), pidns: pidNamespace() }
}

/** Whether an identity's pid counts in this pid namespace of this boot at all. */
export function isLocal(id: ProcessIdentity): boolean {
  return id.boot_id === bootId() && id.pidns === pidNamespace()
}

/** Whether that very process runs: same pid, start time, boot and pid namespace, and not a zombie. */
export function isAlive(id: ProcessIdentity): boolean {
  if (!isLocal(id)) return false
  const s = processStat(id.pid)
  return s !== undefined && s.start_ticks === id.start_ticks && s.state !== 'Z' && s.state !== 'X'
}
