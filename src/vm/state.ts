import type { DomainState } from '../libvirt/index.ts'
import type { VmState } from './types.ts'

/** Pauses that nobody asked for: the guest stands still because something is wrong. */
const BROKEN_PAUSE = new Set(['ioerror', 'watchdog', 'crashed', 'postcopy_failed'])

/** What libvirt says of a domain, in our words. */
export function vmStateOf(d: DomainState): VmState {
  switch (d.state) {
    case 'running':
    case 'blocked':
    // it was asked to stop and still runs
    case 'shutdown':
      return 'running'
    case 'paused':
      return BROKEN_PAUSE.has(d.reason) ? 'error' : 'paused'
    case 'pmsuspended':
      return 'paused'
    case 'shutoff':
      return 'stopped'
    case 'crashed':
      return 'error'
    default:
      return 'unknown'
  }
}
