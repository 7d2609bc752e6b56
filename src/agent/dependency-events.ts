/** What the agent does when a job that came after others moves on: everybody is told. */
import { join } from 'node:path'
import { type JobName, type JobStatus, statusOf } from '../spool/index.ts'
import type { DependencyEvents } from './dependencies.ts'
import type { StatusWriter } from './job-status.ts'
import { nextOfUnrun } from './repeat.ts'
import { type Agent, heldUntil } from './state.ts'
import { iso } from './status-fields.ts'

const held = (a: Agent, name: JobName) => ({ name, state: 'held', path: join(a.spool.layout.held, name.file) }) as const

export function dependencyEvents(agent: () => Agent, status: StatusWriter): DependencyEvents {
  const write = async (s: JobStatus): Promise<void> => {
    await status.close(s.id)
    await status.last(s)
    status.reopen(s.id)
  }
  return {
    async releasing(name, dueMs) {
      const a = agent()
      const base = await statusOf(a.spool, held(a, name))
      const waits = dueMs !== undefined && dueMs > Date.now()
      const waiting_on = waits ? `its time, ${iso(dueMs)}` : (heldUntil(a) ?? 'its turn')
      // Before the move: once it is there, the word of whoever runs it comes after ours.
      await write({ ...base, state: waits ? 'held' : 'queued', since: iso(), waiting_on })
    },
    released(name) {
      const a = agent()
      a.lastMove = performance.now()
      a.events.add({ event: 'released', job: name.id })
      a.log.info('job.released', { job: name.id, state: name.due_ms === undefined ? 'new' : 'held' })
      if (name.due_ms !== undefined) return
      a.plan?.add(name)
      a.dispatch()
    },
    ending: (c) => nextOfUnrun(agent())(c),
    ended(name, record, how) {
      const a = agent()
      a.log.warn(`job.${how.outcome}`, { job: name.id, name: record.answer, code: how.code, reason: how.message })
      a.metrics.inc('vmspool_jobs_finished_total', { kind: record.kind, outcome: how.outcome })
      a.publish()
    },
    async say(name, waiting_on) {
      const base = await statusOf(agent().spool, held(agent(), name))
      if (base.waiting_on !== waiting_on) await write({ ...base, waiting_on })
    },
    reserve(id, on) {
      const { inFlight } = agent()
      if (on) inFlight.add(id)
      else inFlight.delete(id)
    },
  }
}
