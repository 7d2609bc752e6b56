/** What keys do to jobs and instances, through the same functions as the command line. Each says how it went. */
import { cancelJob } from '../client/cancel.ts'
import { pauseInstance } from '../client/pause.ts'
import type { Place } from '../client/place.ts'
import { rerunJob } from '../client/rerun.ts'
import { retryJob } from '../client/retry.ts'
import { isFinal, type JobStatus } from '../client/status.ts'
import { stopJob } from '../client/stop.ts'
import { dropManifest } from '../client/submit.ts'
import { hostOf, vmJob } from '../client/vm-manifest.ts'
import type { VmView } from '../client/vms.ts'
import { waitForJob } from '../client/wait.ts'
import type { Context } from './screen.ts'

export interface Actions {
  /** asks first */
  cancel(job: JobStatus): void
  /** goes on where a job failed, as a new job */
  retry(job: JobStatus): void
  /** ends the job and its processes: TERM and after a grace KILL, or KILL at once */
  stop(job: JobStatus, force: boolean): void
  /** runs it again, with an agent or without, as it was run */
  rerun(job: JobStatus): void
  pause(place: Place, paused: boolean): void
  /** as a job, whose end is said; all but a start ask first. `force`: pull the plug */
  vm(vm: VmView, action: 'start' | 'stop' | 'restart', force?: boolean): void
}

/** So long nothing is said of a job of a VM that no agent takes up, in ms. */
const agentMs = 5000

/** @param touched called with a job's id, or none, when something was done */
export function actionsOf(c: Context, touched: (id?: string) => void): Actions {
  const busy = new Set<string>()
  /** One at a time of a kind for each job: a key that repeats itself asks for nothing more. */
  function act(what: string, id: string, run: () => Promise<string>): void {
    const key = `${what} ${id}`
    if (busy.has(key)) return
    busy.add(key)
    run()
      .then(c.say, c.fail)
      .finally(() => {
        busy.delete(key)
        touched(id)
        c.changed()
      })
  }

  async function stopNow(job: JobStatus, force: boolean): Promise<string> {
    const place = c.place()
    const onWait = (): void => c.say(`Waiting for ${job.name} to end${force ? '' : '; Ctrl+K kills it at once'}.`)
    const { status, killed, pending } = await stopJob(place, job, { force, onWait })
    if (pending !== undefined) return pending
    const number = status.pid ?? job.pid
    const pid = number === undefined ? '' : ` (PID ${number})`
    if (status.state === 'cancelled') return `${job.name}${pid} was ${killed ? 'killed' : 'stopped'}.`
    return `${job.name}${pid} has ended: ${status.state}.`
  }
  async function cancelNow(job: JobStatus): Promise<string> {
    if (job.direct) return stopNow(job, false)
    await cancelJob(c.place(), job.id)
    return `The cancellation of ${job.name} (${job.id}) was requested.`
  }
  async function again(job: JobStatus, how: 'retry' | 'rerun'): Promise<string> {
    const place = c.place()
    if (how === 'retry' && !job.direct) await retryJob(place, job.id)
    else {
      const made = await rerunJob(place, job)
      if ('started' in made) {
        const { status, failed } = made.started
        return failed ?? `${job.name} runs again: ${status.id}, PID ${status.pid ?? '?'}.`
      }
    }
    return `${job.name} was submitted again, as a new job that names ${job.id}.`
  }

  async function vmNow(vm: VmView, action: 'start' | 'stop' | 'restart', force: boolean): Promise<string> {
    const place = c.place()
    const hosts = await hostOf(place, vm)
    const fields = { ...(force ? { force } : {}), ...(hosts === undefined ? {} : { hosts }) }
    const submission = await dropManifest(place, vmJob(action, vm.name, fields))
    c.say(`A job to ${action} ${vm.name} was submitted.`)
    const end = await waitForJob(place, submission, { agentGraceMs: agentMs })
    return end.reason ?? `The job to ${action} ${vm.name} ${end.state}.`
  }

  return {
    vm(vm, action, force = false) {
      if (vm.owner === 'foreign') return c.say(`${vm.name} was not made by vmspool, which never touches it.`)
      const run = (): void => act(`${action}${force ? ' force' : ''}`, vm.uuid, () => vmNow(vm, action, force))
      if (action === 'start') return run()
      c.ask(`${force ? 'Pull the plug of' : action === 'stop' ? 'Stop' : 'Restart'} ${vm.name} (${vm.state})?`, run)
    },
    cancel(job) {
      if (isFinal(job)) return c.say(`${job.name} has ended already: ${job.state}. There is nothing to cancel.`)
      c.ask(`Cancel ${job.name} (${job.state})?`, () => act('cancel', job.id, () => cancelNow(job)))
    },
    retry: (job) => act('again', job.id, () => again(job, 'retry')),
    rerun: (job) => act('again', job.id, () => again(job, 'rerun')),
    stop(job, force) {
      if (isFinal(job)) return c.say(`${job.name} has ended already: ${job.state}. There is nothing to stop.`)
      act(force ? 'kill' : 'stop', job.id, () => stopNow(job, force))
    },
    pause(place, paused) {
      act('pause', place.instance, async () => {
        await pauseInstance(place, paused)
        return paused
          ? `${place.instance} is paused: no more jobs are claimed, running ones go on.`
          : `${place.instance} goes on claiming jobs.`
      })
    },
  }
}
