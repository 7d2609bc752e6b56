/**
 * What libvirt's absence may hold up: VM jobs, and nothing else. Those in the queue are set aside while the breaker is open, and as soon as one that
 * runs waits; those that run give their place to others for as long as they wait. All go on by themselves.
 */
import type { GaugeSample } from '../observe/index.ts'
import type { LinkHealth, VmLink } from '../vm/index.ts'
import type { Agent } from './state.ts'

export interface LibvirtGate {
  /** what a job of this kind waits for, and may not be claimed */
  closedFor(kind: string): string | undefined
  /** undefined as long as this agent had nothing to do with libvirt */
  health(): (LinkHealth & { uri: string; jobs_waiting: number }) | undefined
  gauges(): GaugeSample[]
}

/** The name under which jobs are set aside in the plan: no group of a manifest is called so. */
export const LIBVIRT = '\0libvirt'

/** @param lent how many running jobs wait for something that is away just now */
export function createLibvirtGate(a: Agent, lent: () => number): LibvirtGate {
  let followed: VmLink | undefined
  let was: LinkHealth['state'] | undefined

  /** the link, once the VM service is open; whoever was set aside may be tried again when its state changes */
  const link = (): VmLink | undefined => {
    const now = a.vms.opened()?.link
    if (now && now !== followed) {
      followed = now
      now.onChange(() => {
        const { state } = now.health()
        if (state === was) return
        was = state
        if (state === 'open') return
        a.plan?.unpark(LIBVIRT, Number.POSITIVE_INFINITY)
        a.lastMove = performance.now()
        a.dispatch()
      })
    }
    return now
  }
  const waiting = (): number => lent() + (a.plan?.parkedIn(LIBVIRT) ?? 0)

  return {
    closedFor(kind) {
      if (kind !== 'vm') return undefined
      const l = link()
      if (!l) return undefined
      const { state, failures, next_try } = l.health()
      if (state === 'connected') return undefined
      if (state === 'connecting') return lent() === 0 ? undefined : l.waitingFor()
      return `${l.waitingFor()} It failed ${failures} times in a row${next_try === undefined ? '' : ' and is asked now and then'}; VM jobs go on by themselves.`
    },
    health() {
      const l = link()
      return l && { uri: l.uri, ...l.health(), jobs_waiting: waiting() }
    },
    gauges() {
      const h = link()?.health()
      if (!h) return []
      const one = (name: string, help: string, value: number, kind?: 'counter'): GaugeSample => ({
        name,
        help,
        values: [{ value }],
        ...(kind ? { kind } : {}),
      })
      const failures = Object.entries(h.totals.failures).map(([reason, value]) => ({ labels: { reason }, value }))
      return [
        one('vmspool_libvirt_up', '1 while there is a connection to libvirt', h.state === 'connected' ? 1 : 0),
        one(
          'vmspool_libvirt_breaker_state',
          '0 closed, 1 open: libvirt is asked now and then only',
          h.state === 'open' ? 1 : 0,
        ),
        one('vmspool_libvirt_breaker_opened_total', 'Times that the breaker opened', h.totals.opened, 'counter'),
        one('vmspool_libvirt_sessions_total', 'Connections to libvirt that were opened', h.totals.sessions, 'counter'),
        one('vmspool_libvirt_jobs_waiting', 'VM jobs that wait for libvirt, in the queue and running', waiting()),
        {
          name: 'vmspool_libvirt_calls_failed_total',
          help: 'Connections and calls that failed because libvirt was away or hung; its refusals are not counted',
          kind: 'counter',
          values: failures.length > 0 ? failures : [{ labels: { reason: 'lost' }, value: 0 }],
        },
      ]
    },
  }
}
