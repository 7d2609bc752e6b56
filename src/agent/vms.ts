/**
 * The VM service of an agent process: opened by the first job that needs it, by the main agent also when there are VMs or libvirt is wanted. It
 * never holds up the agent's start: while libvirt is away the jobs of VMs wait, and nothing else notices.
 */
import { existsSync, rmdirSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import type { GaugeSample } from '../observe/index.ts'
import type { VmRecord, Vms } from '../vm/index.ts'
import { promisesDir } from './runtime-dir.ts'
import type { Agent, AgentVms } from './state.ts'
import { countStates } from './vm-counts.ts'
import type { VmFollower } from './vms-follow.ts'

/** Images that are too old are looked for so often. */
const CLEAN_MS = 3_600_000

/** @param runtime a folder of this instance on this host, for locks */
export function createAgentVms(a: Agent, runtime: string): AgentVms {
  const dir = a.config.vm.dir ?? a.spool.layout.vms
  const locks = join(runtime, 'vm-locks')
  let opening: Promise<Vms> | undefined
  let vms: Vms | undefined
  let follower: VmFollower | undefined
  let cleaning: NodeJS.Timeout | undefined
  let closed = false

  const open = async (): Promise<Vms> => {
    // most agents never need it, and it is large
    const { openVms } = await import('../vm/index.ts')
    const promises = promisesDir(runtime)
    if (promises.error !== undefined)
      a.log.warn('vm.promises-alone', {
        dir: promises.shared,
        error: promises.error,
        effect:
          'VMs that other instances of this host are making are not counted, so more may be promised than there is',
        hint: 'systemd-tmpfiles --create vmspool.conf makes the folder; restart the agent then',
      })
    const made = await openVms({
      instance: a.spool.layout.instance,
      host: hostname(),
      dir,
      runtimeDir: runtime,
      promisesDir: promises.dir,
      config: () => a.config,
      log: a.log,
    })
    vms = made
    if (!a.worker) {
      const { followVms } = await import('./vms-follow.ts')
      follower = followVms(a, made)
      const clean = (): Promise<unknown> =>
        made.images.clean().catch((error) => a.log.warn('images.not-cleaned', { dir: made.images.dir, error }))
      cleaning = setInterval(() => void clean(), CLEAN_MS).unref()
      void clean()
    }
    a.log.info('vm.opened', { dir, uri: made.link.uri, registry: made.registry.path })
    return made
  }
  const service = (): Promise<Vms> => {
    if (closed) return Promise.reject(new Error('The VM service of this agent is closed.'))
    opening ??= open().catch((error) => {
      opening = undefined
      throw error
    })
    return opening
  }
  return {
    begin() {
      const there = ['vms.json', `vms@${hostname()}.json`].some((f) =>
        [f, `${f}.bak`].some((g) => existsSync(join(dir, g))),
      )
      if (a.worker || !(a.config.libvirt.enabled || there)) return
      service().catch((error) => a.log.error('vm.not-opened', { dir, error }))
    },
    service,
    opened: () => vms,
    async status() {
      if (!vms) return undefined
      const states = countStates(await entries(vms))
      const seen = follower?.seen()
      return {
        dir,
        states,
        ...(seen ? { drift: seen.drift.length, orphans: seen.orphans.length, seen_at: seen.seen_at } : {}),
        problems: vms.registry.problems().map((p) => p.message),
      }
    },
    async gauges() {
      if (!vms) return []
      const states = Object.entries(countStates(await entries(vms))).map(([state, value]) => ({
        labels: { state },
        value,
      }))
      const seen = follower?.seen()
      const one = (name: string, help: string, value: number): GaugeSample => ({ name, help, values: [{ value }] })
      return [
        { name: 'vmspool_vms', help: 'VMs of this instance on this host, by state', values: states },
        ...(seen
          ? [
              one(
                'vmspool_vm_drift',
                'Differences between the registry of VMs, libvirt and the files',
                seen.drift.length,
              ),
              one(
                'vmspool_vm_orphans',
                'Domains and folders of this instance that no registry names',
                seen.orphans.length,
              ),
            ]
          : []),
        one(
          'vmspool_vm_registry_problems',
          'Times that the registry of VMs was damaged since the start',
          vms.registry.problems().length,
        ),
      ]
    },
    counts() {
      const seen = follower?.seen()
      return seen?.states ? { vms: { ...seen.states, drift: seen.drift.length, orphans: seen.orphans.length } } : {}
    },
    async close() {
      closed = true
      clearInterval(cleaning)
      await opening?.catch(() => {})
      await follower?.close()
      await vms?.[Symbol.asyncDispose]()
      try {
        rmdirSync(locks)
      } catch {
        // never made, or another agent of this instance uses it
      }
    },
  }
}

async function entries(vms: Vms): Promise<VmRecord[]> {
  try {
    return await vms.registry.all()
  } catch {
    return [] // said in the log by whoever needs it
  }
}
