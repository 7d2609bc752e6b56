/**
 * How a domain is brought to a stop. The guest is asked by the power button, again every 10 s, since a guest that still boots loses the
 * press; by its agent only when that is connected, since libvirt may wait a minute for one that is not. When the time is over QEMU is ended,
 * first with the chance to write out what it holds.
 */
import { DeadlineError, type Domain, type DomainState, isLibvirtError, type Session } from '../libvirt/index.ts'
import type { Action } from './action.ts'
import { pause } from './pause.ts'
import { VmError } from './types.ts'

/** How a guest came to its end. `off`: it did not run. */
export type Halted = 'off' | 'power button' | 'agent' | 'plug pulled'

const PRESS_MS = 10_000
const LOOK_MS = 200
/** An agent that is connected and does not answer must not hold up the power button, nor a QEMU that hangs, which notices none, its end. */
const ANSWER_MS = 10_000
/** libvirt gives QEMU up to 10 s after SIGTERM and 30 s after SIGKILL */
const END_MS = 60_000

export async function halt(a: Action, o: { force: boolean; grace_ms: number }): Promise<Halted> {
  if (!(await runs(a))) return 'off'
  let hangs = false
  if (!o.force && o.grace_ms > 0) {
    const how = await ask(a, o.grace_ms)
    if (how !== 'too late' && how !== 'hangs') return how
    hangs = how === 'hangs'
    a.warn(
      `The guest of the VM "${a.name}" did not stop within ${seconds(o.grace_ms)}, so the plug was pulled: it may have lost what it had not written.`,
    )
  }
  await pull(a, hangs)
  return 'plug pulled'
}

/** Asks until the guest is off. @returns how it went off, or why not when the time is over */
async function ask(a: Action, grace: number): Promise<Halted | 'too late' | 'hangs'> {
  const began = performance.now()
  const left = (): number => began + grace - performance.now()
  let next = began
  let by: Halted = 'power button'
  for (let presses = 0; ; ) {
    if (performance.now() >= next) {
      presses++
      a.say(`waits for the guest to stop, ${seconds(grace)} at most${presses > 1 ? `; asked ${presses} times` : ''}`)
      const how = await press(a, presses === 1, Math.max(1000, Math.min(ANSWER_MS, left())))
      if (how === 'hangs') {
        a.hooks.log('agent', 'QEMU does not answer, so nobody can press the power button of its guest\n')
        next = Number.POSITIVE_INFINITY
      } else {
        by = how ?? by
        next = performance.now() + PRESS_MS
      }
    }
    if (!(await runs(a))) return by
    if (left() <= 0) return next === Number.POSITIVE_INFINITY ? 'hangs' : 'too late'
    await pause(Math.min(LOOK_MS, left()), a.hooks.signal)
  }
}

/** @returns by what it was asked; undefined when it was off already */
async function press(a: Action, first: boolean, deadline_ms: number): Promise<Halted | 'hangs' | undefined> {
  return a.act(`to stop the VM "${a.name}"`, async (s, d) => {
    if (!d) return undefined
    const state = await stateOf(s, d.domain)
    if (!state || isOff(state)) return undefined
    if (first && (await hasAgent(s, d.domain))) {
      try {
        await s.control.domains.shutdown(d.domain, ['agent'], { deadline_ms })
        return 'agent'
      } catch (e) {
        if (!isLibvirtError(e) && !(e instanceof DeadlineError)) throw e
        a.hooks.log('agent', `The agent in the guest was asked to stop it, and did not: ${e.message}\n`)
      }
    }
    try {
      // a guest that stands still notices no button
      if (state.state === 'paused') await ignoring(s.control.domains.resume(d.domain, { deadline_ms }))
      await ignoring(s.control.domains.shutdown(d.domain, ['acpi'], { deadline_ms }))
      return 'power button'
    } catch (e) {
      // Only QEMU hangs, not libvirt. It is not asked again: calls that nobody answers would use up the connection.
      if (e instanceof DeadlineError) return 'hangs'
      throw e
    }
  })
}

/** Only a live definition tells whether anybody listens at the agent's port. */
async function hasAgent(s: Session, d: Domain): Promise<boolean> {
  const xml = await s.query.domains.xml(d)
  return /<target\b[^>]*\bname=(['"])org\.qemu\.guest_agent\.0\1[^>]*\bstate=(['"])connected\2/.test(xml)
}

/** @param hangs it will not notice that it is asked to end */
async function pull(a: Action, hangs: boolean): Promise<void> {
  const began = performance.now()
  for (const gently of hangs ? [false] : [true, false]) {
    a.say(gently ? 'pulls the plug' : 'QEMU did not end by itself: it is killed')
    await a.act(`to stop the VM "${a.name}"`, async (s, d) => {
      if (!d) return
      try {
        await s.control.domains.destroy(d.domain, gently ? ['graceful'] : [])
      } catch (e) {
        // code 55 also means that it is off already, or that libvirt has only just come back: the state tells
        if (isLibvirtError(e, 'no_domain', 'operation_invalid')) return
        if (gently && isLibvirtError(e)) return
        throw e
      }
    })
    while (await runs(a)) {
      if (performance.now() - began > (gently ? ANSWER_MS : END_MS)) break
      await pause(LOOK_MS, a.hooks.signal)
    }
    if (!(await runs(a))) return
  }
  throw new VmError(`The VM "${a.name}" still runs although libvirt was told to end it.`, {
    code: 'guest-stop',
    transient: true,
    hint: 'Look for a QEMU process that hangs in the kernel (state D), e.g. because its storage is away.',
    phase: 'stop',
  })
}

export async function runs(a: Action): Promise<boolean> {
  return a.ask(`to see whether the VM "${a.name}" runs`, async (s) => {
    const record = await a.parts.registry.get(a.name)
    const domain = record && (await s.query.domains.byUuid(record.uuid))
    const state = domain && (await stateOf(s, domain))
    return state !== undefined && !isOff(state)
  })
}

/** undefined: there is no such domain (any more) */
export async function stateOf(s: Session, d: Domain): Promise<DomainState | undefined> {
  try {
    return await s.query.domains.state(d)
  } catch (e) {
    if (isLibvirtError(e, 'no_domain')) return undefined
    throw e
  }
}

export const isOff = (s: DomainState): boolean => s.state === 'shutoff'

/** The guest may have stopped, or gone, in the meantime. */
async function ignoring(call: Promise<unknown>): Promise<void> {
  try {
    await call
  } catch (e) {
    if (!isLibvirtError(e, 'no_domain', 'operation_invalid')) throw e
  }
}

const seconds = (ms: number): string => `${Math.round(ms / 100) / 10} s`
