/** What the control socket understands: the commands of the hyper2kvm daemon (contract A6) with its replies, and `reload`. */
import { setPaused } from '../spool/index.ts'
import type { ControlCommand, ControlReply } from './control-socket.ts'
import type { LibvirtGate } from './libvirt-gate.ts'
import { heldBecause, type Agent } from './state.ts'
import { shortenStats, type Stats, type StatsSnapshot } from './stats.ts'

export interface CommandTargets {
  stats: Stats
  libvirt: LibvirtGate
  drain(why: string): void
  reload(): Promise<string>
}

export function controlCommands(a: Agent, t: CommandTargets): ReadonlyMap<string, ControlCommand> {
  const say = (message: string): ControlReply => ({ status: 'ok', message })
  const pause = async (paused: boolean): Promise<ControlReply> => {
    await setPaused(a.spool, paused, 'the control socket')
    a.paused = paused
    a.log.info(paused ? 'agent.paused' : 'agent.resumed')
    a.dispatch()
    return say(paused ? 'Daemon paused' : 'Daemon resumed')
  }
  const size = (stats: StatsSnapshot): number => Buffer.byteLength(JSON.stringify({ status: 'ok', stats })) + 1
  return new Map<string, ControlCommand>([
    [
      'status',
      {
        run: async () => ({
          status: 'ok',
          paused: a.paused,
          draining: a.draining,
          instance: a.spool.layout.instance,
          pid: process.pid,
          since: a.started.toISOString(),
          version: a.version,
          running: a.running.size,
          queued: a.plan?.size ?? 0,
          ...(heldBecause(a) === undefined ? {} : { held_because: heldBecause(a) }),
          ...libvirtOf(t.libvirt),
          ...(await vmsOf(a)),
        }),
      },
    ],
    [
      'stats',
      {
        run: async () => ({ status: 'ok', stats: await t.stats.snapshot() }),
        shorten: (reply, bytes) => ({
          status: 'ok',
          stats: shortenStats(reply.stats as StatsSnapshot, (s) => size(s) <= bytes),
        }),
      },
    ],
    ['pause', { changes: true, run: () => pause(true) }],
    ['resume', { changes: true, run: () => pause(false) }],
    [
      'drain',
      {
        changes: true,
        run: () => say('Draining queue'),
        after: () => t.drain('a drain request on the control socket'),
      },
    ],
    [
      'stop',
      {
        changes: true,
        run: () => say('Stopping daemon'),
        after: () => t.drain('a stop request on the control socket'),
      },
    ],
    ['reload', { changes: true, run: async () => say(await t.reload()) }],
  ])
}

/** The old client reads 4 KiB of a reply. */
const MOST_TEXT = 600

function libvirtOf(gate: LibvirtGate): { libvirt?: Record<string, unknown> } {
  const h = gate.health()
  if (!h) return {}
  const { totals: _, reason, ...rest } = h
  return { libvirt: { ...rest, ...(reason === undefined ? {} : { reason: reason.slice(0, MOST_TEXT) }) } }
}

async function vmsOf(a: Agent): Promise<{ vms?: Record<string, unknown> }> {
  const vms = await a.vms.status()
  if (!vms) return {}
  const { problems, ...rest } = vms
  return { vms: { ...rest, problems: Array.isArray(problems) ? problems.length : 0 } }
}
