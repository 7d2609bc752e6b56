/** How a domain is brought to run, and how its address is waited for. */
import { isLibvirtError } from '../libvirt/index.ts'
import type { Action } from './action.ts'
import { leasesBefore, waitForAddress } from './address.ts'
import { isOff, stateOf } from './halt.ts'
import { pause } from './pause.ts'
import { VmError, type VmRecord } from './types.ts'

/** A guest that is just going off is waited for so long before it is started again. */
const GOING_MS = 30_000
/**
 * A start that somebody else has begun (an earlier attempt, or a libvirtd that was killed in the middle of it) is waited for so long. libvirt
 * can get stuck over one that its former life began: it holds the domain's lock and knows no process. No guest has run by then.
 */
const STARTING_MS = 45_000

/**
 * Starts the VM unless it runs; one that is paused goes on. What its cards had leased before is noted first, so that an address of an
 * earlier boot is not taken for one of this, also when the wait goes on in another attempt.
 * @returns whether anything was done
 */
export async function boot(a: Action, record: VmRecord): Promise<boolean> {
  const macs = record.nics.map((n) => n.mac)
  const leases = await a.ask(`to see the addresses before the VM "${a.name}" starts`, async (s) => {
    const d = await s.query.domains.byUuid(record.uuid)
    const state = d && (await stateOf(s, d))
    return state && isOff(state) && macs.length > 0 ? leasesBefore(s, macs) : undefined
  })
  if (leases) await a.change((r) => ({ ...r, doing: { ...r.doing!, leases } }))
  const began = performance.now()
  let begunBefore = false
  for (;;) {
    const how = await a.act(`to start the VM "${a.name}"`, async (s, d) => {
      if (!d) throw missing(a.name)
      const state = await stateOf(s, d.domain)
      if (!state) throw missing(a.name)
      if (state.state === 'shutdown') return 'going'
      if (state.state === 'paused' && state.reason === 'starting_up') {
        if (performance.now() - began < STARTING_MS) return 'starting'
        await s.control.domains.destroy(d.domain).catch((e) => {
          if (isLibvirtError(e, 'operation_timeout')) throw stuck(a.name, e)
          if (!isLibvirtError(e, 'operation_invalid')) throw e
        })
        return 'again'
      }
      if (state.state === 'pmsuspended') throw asleep(a.name)
      const stands = state.state === 'paused'
      // a guest that has crashed and was kept for who wants to look at it
      if (state.state === 'crashed') await s.control.domains.destroy(d.domain)
      else if (!stands && !isOff(state)) return 'ran'
      try {
        await (stands ? s.control.domains.resume(d.domain) : s.control.domains.create(d.domain))
      } catch (e) {
        // Said when the guest is not as it was a moment ago. Of a start also when a network is down, so the state decides.
        const now = isLibvirtError(e, 'operation_invalid') ? await stateOf(s, d.domain) : undefined
        if (!now || now.state === state.state) throw e
        if (stands) return 'again'
        if (isOff(now)) throw e
      }
      return 'started'
    })
    if (how === 'started' || how === 'ran') return how === 'started' || begunBefore
    if (how === 'starting') {
      begunBefore = true
      a.say('waits for a start that libvirt has begun before')
    } else if (how === 'going') {
      if (performance.now() - began > GOING_MS) return false
      a.say('waits until the guest, which is going off, is off')
    }
    await pause(200, a.hooks.signal)
  }
}

/**
 * Seen with libvirt 9.0 (virsh alone shows it, too) when libvirtd is killed in a certain tenth of a second of a guest's start, before it has noted the process:
 * each later life takes the domain up as one that is starting, and keeps its lock for ever.
 */
function stuck(name: string, cause: unknown): VmError {
  return new VmError(
    `libvirt is stuck over the VM "${name}": it was killed while it began to start it, has no process for it, and lets nobody do anything with it, not even after a restart.`,
    {
      code: 'hypervisor',
      transient: true,
      phase: 'start',
      hint: `Stop libvirtd (or virtqemud), remove its note /run/libvirt/qemu/${name}.xml, and start it again: guests run on meanwhile. The job is tried again.`,
      cause,
    },
  )
}

/** Only of a domain that somebody has changed, or that Ghost Agent made: ours cannot sleep. libvirt does not resume such a guest. */
function asleep(name: string): VmError {
  return new VmError(`The guest of the VM "${name}" has put itself to sleep (suspend to memory).`, {
    code: 'guest-start',
    phase: 'start',
    hint: `Wake it with "virsh dompmwakeup ${name}", or stop the VM and start it anew, which costs the guest what it holds in memory.`,
  })
}

/**
 * Room on the host for a VM that is about to run, until the result is disposed of.
 * @param disk_bytes what its disks may come to take, when they are still to be made
 * @throws VmError vm-resources
 */
export async function promised(a: Action, r: VmRecord, disk_bytes: number): Promise<AsyncDisposable> {
  const { uuid, name, vcpus, memory_bytes } = r
  return a.ask(`to see whether the host has room for the VM "${name}"`, (s) =>
    a.parts.admission.admit({ uuid, name, vcpus, memory_bytes, disk_bytes, path: a.parts.dir }, s),
  )
}

/** @throws VmError always: there is no such VM here, and perhaps where it is */
export async function notHere(a: Action): Promise<never> {
  const host = await a.parts.registry.elsewhere(a.name)
  if (host === undefined) throw missing(a.name)
  throw new VmError(`The VM "${a.name}" lives on the host ${host}, and this job was taken by ${a.parts.host}.`, {
    code: 'vm-not-found',
    hint: `Give the manifest "hosts": ["${host}"], so that an agent there takes it.`,
  })
}

function missing(name: string): VmError {
  return new VmError(`libvirt has no domain for the VM "${name}".`, {
    code: 'vm-not-found',
    hint: 'vmspool vm list shows the VMs that there are; create it (again), or delete what is left of it with vmspool vm delete.',
  })
}

/**
 * Waits for the address of a VM that was started. None in time is a warning: the VM runs all the same.
 * @returns its addresses
 */
export async function awaitAddress(a: Action, record: VmRecord, timeout_ms: number): Promise<string[]> {
  const macs = record.nics.map((n) => n.mac)
  if (timeout_ms <= 0 || macs.length === 0) return []
  await a.phase('address', 'waits for an address')
  const before = (await a.parts.registry.get(a.name))?.doing?.leases
  let reason = ''
  const addresses = await waitForAddress({
    link: a.parts.link,
    uuid: record.uuid,
    macs,
    ...(before ? { before } : {}),
    timeout_ms,
    signal: a.hooks.signal,
    onWait: (message) => a.say(message),
    onAway: (why) => a.hooks.waiting?.(why),
    onNone: (why) => {
      reason = why
    },
  })
  if (addresses.length === 0) {
    a.warn(`No address of the VM "${a.name}" was seen: ${reason}`)
  }
  return addresses
}
