/** Ending a process group that we started, now or in an earlier life, without ever signalling a stranger. */
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { GROUP_TOKEN_VARIABLE, isLocal, type ProcessIdentity, type ProcessStat, processStat } from './identity.ts'

const POLL_MS = 20

/** Runs through /proc: every process of the group, zombies left out. */
function members(id: ProcessIdentity): ProcessStat[] {
  const found: ProcessStat[] = []
  for (const name of readdirSync('/proc')) {
    const first = name.charCodeAt(0)
    if (first < 49 || first > 57) continue
    const s = processStat(name)
    // Groups are started with setsid, so their session has the leader's number too.
    if (s && s.pgrp === id.pid && s.session === id.pid && s.state !== 'Z' && s.state !== 'X') found.push(s)
  }
  return found
}

function carriesToken(pid: number, token: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(`${GROUP_TOKEN_VARIABLE}=${token}`)
  } catch {
    return false
  }
}

/** Whether the group has no process at all; one system call instead of a walk through /proc. Signal 0 does no harm to a stranger. */
function isEmpty(id: ProcessIdentity): boolean {
  try {
    process.kill(-id.pid, 0)
    return false
  } catch (e) {
    return (e as NodeJS.ErrnoException).code === 'ESRCH'
  }
}

/**
 * The processes of the group that are certainly ours. While the leader exists (also as a zombie) with its recorded start
 * time, the number of the group is taken and all members are ours. Without it the number may have been reused by a group
 * whose leader is gone as well: then only members count that carry our token in their environment. `live`: the caller
 * has watched the group without a break since it was started, so the number cannot have been reused.
 */
export function ownMembers(id: ProcessIdentity, o: { live?: boolean } = {}): ProcessStat[] {
  if (!isLocal(id) || isEmpty(id)) return []
  const leader = processStat(id.pid)
  if (leader && leader.start_ticks !== id.start_ticks) return []
  const all = members(id)
  if (leader || o.live) return all
  const token = id.token
  return token === undefined ? [] : all.filter((m) => carriesToken(m.pid, token))
}

/**
 * What is ours of the group, and whoever left it but has our token in its environment. For what nobody watched: the look at every
 * process of the host takes milliseconds.
 */
export function ownAnywhere(id: ProcessIdentity): ProcessStat[] {
  const own = ownMembers(id)
  const { token } = id
  if (token === undefined || !isLocal(id)) return own
  const known = new Set(own.map((m) => m.pid))
  for (const name of readdirSync('/proc')) {
    if (!/^[1-9]/.test(name) || known.has(Number(name)) || !carriesToken(Number(name), token)) continue
    const s = processStat(name)
    if (s && s.state !== 'Z' && s.state !== 'X') own.push(s)
  }
  return own
}

interface EndOptions {
  /** see {@link ownMembers} */
  live?: boolean
  /** also who left the group, see {@link ownAnywhere} */
  anywhere?: boolean
}

const whoIsLeft = (id: ProcessIdentity, o: EndOptions): ProcessStat[] =>
  o.anywhere ? ownAnywhere(id) : ownMembers(id, o)

/** Sends a signal to what is ours of the group; false when nothing of it is left. */
function signalGroup(id: ProcessIdentity, signal: NodeJS.Signals, o: EndOptions): boolean {
  const own = whoIsLeft(id, o)
  if (own.length === 0) return false
  const leader = processStat(id.pid)
  try {
    // One system call for all of them leaves no gap through which a forking group could escape.
    if (o.live || leader?.start_ticks === id.start_ticks) process.kill(-id.pid, signal)
    else for (const m of own) if (m.pgrp === id.pid) process.kill(m.pid, signal)
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ESRCH') throw e
  }
  for (const m of own) {
    if (m.pgrp === id.pid) continue
    try {
      process.kill(m.pid, signal)
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code !== 'ESRCH') throw e
    }
  }
  return true
}

/**
 * TERM, and after `graceMs` KILL, until nothing of the group is left. Never signals a recycled pid. Returns at once when
 * the identity belongs to another boot or pid namespace.
 * @throws Error when members survive KILL for ten seconds (uninterruptible sleep, or no right to signal them).
 */
export async function endGroup(id: ProcessIdentity, graceMs: number, o: EndOptions = {}): Promise<void> {
  if (!signalGroup(id, 'SIGTERM', o)) return
  const killAt = performance.now() + graceMs
  const giveUpAt = killAt + 10_000
  while (whoIsLeft(id, o).length > 0) {
    const now = performance.now()
    if (now >= giveUpAt) {
      const left = whoIsLeft(id, o).map((m) => `${m.pid} (state ${m.state})`)
      throw new Error(
        `Process group ${id.pid} did not end ten seconds after SIGKILL; still there: ${left.join(', ')}. ` +
          'A process in state D waits for its disk or its network file system: look at those first.',
      )
    }
    // KILL is repeated: a member can have forked between two looks at the group.
    if (now >= killAt) signalGroup(id, 'SIGKILL', o)
    await sleep(Math.max(1, Math.min(POLL_MS, now < killAt ? killAt - now : POLL_MS)))
  }
}
