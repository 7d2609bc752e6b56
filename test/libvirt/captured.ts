// What capture.ts wrote down, and every procedure that there is to be found in it.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Procedure } from '../../src/libvirt/procedure.ts'
import * as domain from '../../src/libvirt/procedures/domain.ts'
import { type EventKind, eventDeregister, eventRegister } from '../../src/libvirt/procedures/events.ts'
import * as host from '../../src/libvirt/procedures/host.ts'
import * as network from '../../src/libvirt/procedures/network.ts'
import * as storage from '../../src/libvirt/procedures/storage.ts'

interface Exchange {
  /** what made them talk */
  step: string
  /** whole frames, in hex */
  call: string
  reply: string
}
export interface Captured {
  libvirt: string
  /** the folder that paths in it begin with */
  dir: string
  calls: Record<string, Exchange>
  refusals: (Exchange & { procedure: string })[]
  events: Partial<Record<EventKind, { step: string; frame: string }>>
  keepalive: Record<string, string>
  /** parts of streams: who sent it, and what it is */
  streams: Record<string, { step: string; frame: string }>
}

// biome-ignore lint/suspicious/noExplicitAny: of every shape
type AnyProcedure = Procedure<any, any>
const isProcedure = (x: unknown): x is AnyProcedure =>
  typeof x === 'object' && x !== null && 'number' in x && 'read' in x

export const procedures: readonly AnyProcedure[] = [
  ...[host, domain, network, storage].flatMap((m) => Object.values(m as Record<string, unknown>).filter(isProcedure)),
  ...[eventRegister, eventDeregister],
]

export const captured = (): Captured => JSON.parse(readFileSync(join(import.meta.dirname, 'captured.json'), 'utf8'))
