/** The spool: is it there, may we use it, is somebody working it, and what would surprise a client. */
import { access, constants, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Place } from '../../client/place.ts'
import { startCommand } from '../../spool/start-command.ts'
import { checkMount, checkReflink, checkServerClock, checkSpace, device } from './mounts.ts'
import { checkShared } from './shared.ts'
import { codeOf, type Finding, fail, note, ok, warn } from './types.ts'

export async function checkSpool(place: Place): Promise<Finding[]> {
  const l = place.layout
  const findings: (Finding | undefined)[] = [
    await presence(place),
    await checkMount('mount of queue', l.queue),
    (await device(l.queue)) === (await device(l.output)) ? undefined : await checkMount('mount of output', l.output),
    await checkReflink(l.output),
    await checkServerClock(l.output),
    await checkSpace(l.output, reserveOf(place)),
    await oneFilesystem(place),
    await agents(place),
    ...(await checkShared(place)),
    ...(await answersInUse(place)),
  ]
  return findings.filter((f) => f !== undefined)
}

function reserveOf(place: Place): number {
  const space = (place.config as { space?: { reserve_bytes?: number } }).space
  return space?.reserve_bytes ?? 0
}

/** Which folders exist and what this user may do with them. */
async function presence(place: Place): Promise<Finding> {
  const l = place.layout
  const may: string[] = []
  const mayNot: string[] = []
  const tries: [string, string, number][] = [
    ['submit (queue)', l.queue, constants.W_OK | constants.X_OK],
    ['read results (output)', l.output, constants.R_OK | constants.X_OK],
    ['cancel (control)', l.control, constants.W_OK | constants.X_OK],
    ['run an agent (jobs)', l.jobs, constants.R_OK | constants.W_OK | constants.X_OK],
  ]
  for (const [what, path, mode] of tries) {
    try {
      await access(path, mode)
      may.push(what)
    } catch (error) {
      const code = codeOf(error)
      if (code === 'ENOENT') {
        return note(
          'spool',
          `There is no spool "${place.instance}" yet: ${path} does not exist.`,
          `Its agent makes it: ${startCommand(l)}`,
        )
      }
      mayNot.push(`${what}: ${code}`)
    }
  }
  const who = `uid ${process.getuid?.()}`
  if (mayNot.length === 0)
    return ok('spool', `"${place.instance}" in ${l.root}; ${who} may submit, read, cancel and run an agent`)
  const fix = `See the owner and mode: ls -ld ${l.queue} ${l.output} ${l.control}. A client needs the first three, an agent all.`
  const detail = `"${place.instance}" in ${l.root}; ${who} may not ${mayNot.join(', ')}${may.length > 0 ? `; may ${may.join(', ')}` : ''}`
  return mayNot.length === 1 && mayNot[0]!.startsWith('run an agent')
    ? note('spool', detail)
    : warn('spool', detail, fix)
}

async function oneFilesystem(place: Place): Promise<Finding | undefined> {
  const l = place.layout
  try {
    const devices = await Promise.all([l.queue, l.jobs].map(device))
    if (devices[0] === devices[1]) return undefined
    return fail(
      'filesystem',
      `${l.queue} and ${l.jobs} lie on different filesystems, but jobs move between them by rename.`,
      'Put queue/ and jobs/ on one filesystem and one mount.',
    )
  } catch {
    return undefined
  }
}

async function agents(place: Place): Promise<Finding> {
  const { agentsOf } = await import('../../client/agents.ts')
  const seen = await agentsOf(place)
  const start = startCommand(place.layout)
  const alive = seen.filter((a) => a.state !== 'dead')
  if (alive.length === 0) {
    const waiting = await countOf(place.layout.queue)
    if (waiting === 0) return note('agent', `No agent of "${place.instance}" is running.`, `To start one: ${start}`)
    return warn(
      'agent',
      `No agent of "${place.instance}" is running, and ${waiting} drops wait in its queue.`,
      `Start one: ${start}`,
    )
  }
  const names = alive.map(
    (a) => `${a.role} pid ${a.pid} on ${a.host}${a.state === 'unknown' ? ' (not watched long enough to tell)' : ''}`,
  )
  return ok('agent', names.join(', '))
}

async function countOf(folder: string): Promise<number> {
  try {
    return (await readdir(folder)).filter((n) => !n.startsWith('.')).length
  } catch {
    return 0
  }
}

/** How many answers are looked at. */
const mostAnswers = 5000

/**
 * A job that was rejected because its name's image is in use leaves that image where a poller finds it: whoever polls takes
 * the old image for the new one.
 */
async function answersInUse(place: Place): Promise<Finding[]> {
  const { readJson } = await import('../../client/liveness.ts')
  let names: string[]
  try {
    names = await readdir(place.layout.output)
  } catch {
    return []
  }
  const there = new Set(names)
  const findings: Finding[] = []
  const candidates = names.filter(
    (n) => n.endsWith('.status.json') && there.has(`${n.slice(0, -'.status.json'.length)}.qcow2`),
  )
  for (const file of candidates.slice(0, mostAnswers)) {
    const status = await readJson<{ state?: string; id?: string; reason?: string }>(join(place.layout.output, file))
    if (status?.state !== 'rejected') continue
    const name = file.slice(0, -'.status.json'.length)
    findings.push(
      warn(
        'answer in use',
        `Job ${status.id} for "${name}" was rejected (${status.reason ?? 'no reason given'}), and ${name}.qcow2 is an earlier job's: a client that polls for it takes the old disk.`,
        `Stop or undefine what uses ${join(place.layout.output, `${name}.qcow2`)}, then: vmspool retry ${status.id}`,
      ),
    )
  }
  return findings
}
