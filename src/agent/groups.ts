/**
 * Groups: so many of their jobs run at once in this agent (`concurrency.groups`; one where it says nothing). Who finds its group full is
 * set aside and costs nothing until a place is free.
 */
import type { Agent } from './state.ts'

export interface Groups {
  full(group: string): boolean
  /** a job of this group runs from now on */
  enter(id: string, group: string | undefined): void
  leave(id: string): void
  /** the limits may have changed */
  reconfigure(): void
  /** what a job of a full group waits for */
  wait(group: string | undefined): string | undefined
}

export function createGroups(a: Agent): Groups {
  const running = new Map<string, number>()
  const groupOf = new Map<string, string>()
  const limit = (group: string): number => a.config.concurrency.groups[group] ?? 1
  const used = (group: string): number => running.get(group) ?? 0
  const makeRoom = (group: string): void => a.plan?.unpark(group, Math.max(0, limit(group) - used(group)))
  return {
    full: (group) => used(group) >= limit(group),
    enter(id, group) {
      if (group === undefined) return
      groupOf.set(id, group)
      running.set(group, used(group) + 1)
    },
    leave(id) {
      const group = groupOf.get(id)
      if (group === undefined) return
      groupOf.delete(id)
      if (used(group) > 1) running.set(group, used(group) - 1)
      else running.delete(group)
      makeRoom(group)
    },
    reconfigure() {
      for (const group of a.plan?.parkedGroups() ?? []) makeRoom(group)
    },
    wait(group) {
      if (group === undefined || used(group) < limit(group)) return undefined
      const n = used(group)
      return `a place in the group "${group}": ${n} of its jobs ${n === 1 ? 'runs' : 'run'} here, and concurrency.groups allows ${limit(group)}`
    },
  }
}
