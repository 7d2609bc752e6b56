/** A job that waits for others, as the agent remembers it, and what is said when it is not run. */
import { dependenciesOf, type Dependency, type JobName, type JobRecord, notBefore, type Unrun } from '../spool/index.ts'

export interface Dep extends Dependency {
  state: 'unbound' | 'open' | 'met'
  /** the id of the job that is meant, once that is known */
  target?: string
  /** it was looked for, and there is none yet */
  none?: boolean
}

export interface Waiter {
  name: JobName
  answer: string
  /** its own earliest time, ms since 1970 */
  notBefore: number | undefined
  deps: Dep[]
  /** the batch that waits for it */
  parent: string | undefined
  /** it was there when the folder was listed last */
  seen: boolean
  /** a dependency was met since that was written down */
  changed: boolean
  said?: string
}

export function newWaiter(name: JobName, record: JobRecord): Waiter {
  const deps = dependenciesOf(record).map((d): Dep => ({ job: d.job, when: d.when, state: 'unbound' }))
  const { answer, parent } = record
  return { name, answer, parent: parent?.id, notBefore: notBefore(record), deps, seen: false, changed: false }
}

/** How a job that is waited for ended; missing: nothing is known of it. */
export interface End {
  state: 'succeeded' | 'failed' | 'cancelled' | 'rejected' | 'missing'
  name?: string
  why?: string
}

const LONGEST_WHY = 300

/** Why a job is not to run whose dependency ended so; undefined when that is what it waited for. */
export function unrunFor(d: Dependency, id: string, end: End): Unrun | undefined {
  const what = end.name === undefined || end.name === id ? `the job ${id}` : `"${end.name}" (job ${id})`
  if (end.state === 'missing') {
    const message =
      `The job was not run: it comes after ${what}, and there is no such job. It never was in this spool, or its ` +
      'retention has passed, so nobody knows how it ended.'
    const hint = 'Submit this job again with the name or id of a job that is there.'
    return { outcome: 'failed', code: 'dependency-failed', message, hint }
  }
  const good = end.state === 'succeeded'
  if (d.when === 'always' || good === (d.when === 'success')) return undefined
  if (good) {
    const message = `The job was not needed: it runs only if ${what} does not succeed, which has succeeded.`
    return { outcome: 'cancelled', code: 'dependency-succeeded', message }
  }
  const first = end.why?.split('\n')[0] ?? ''
  const why = first === '' ? '.' : `: ${first.length > LONGEST_WHY ? `${first.slice(0, LONGEST_WHY)}…` : first}`
  const how = end.state === 'failed' ? 'failed' : `was ${end.state}`
  const message = `The job was not run: it comes after the success of ${what}, which ${how}${why}${/[.…!?]$/.test(why) ? '' : '.'}`
  const hint = `Mend that, run it again (vmspool retry ${id}), and submit this job again.`
  return { outcome: 'failed', code: 'dependency-failed', message, hint }
}

/** Why none of these can ever run: each waits for the next, and the last for the first. */
export function unrunCycle(cycle: readonly Waiter[]): Unrun {
  const names = cycle.map((w) => `"${w.answer}" (job ${w.name.id})`)
  const message =
    names.length === 1
      ? `The job was not run: ${names[0]} comes after itself, or after a later job of its own name, which cannot run before it.`
      : `The job was not run, for these jobs wait for each other: ${names.slice(0, 10).join(', ')}${names.length > 10 ? ` and ${names.length - 10} more` : ''}.`
  return {
    outcome: 'failed',
    code: 'dependency-cycle',
    message,
    hint: 'Change what one of them comes after, and submit them again.',
  }
}
