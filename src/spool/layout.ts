/** Where everything of one instance lies (DESIGN section 2). */
import { join } from 'node:path'

export interface Layout {
  root: string
  instance: string
  queue: string
  jobs: string
  intake: string
  payload: string
  lanes: string
  new: string
  held: string
  claimed: string
  /** jobs that run without an agent, each under its own shim (`vmspool run`) */
  started: string
  committed: string
  done: string
  failed: string
  cancelled: string
  rejected: string
  owners: string
  control: string
  output: string
  work: string
  old: string
  vms: string
  outputJobs: string
  superseded: string
  daemon: string
}

export function layoutOf(c: {
  root: string
  instance: string
  queue?: string | undefined
  output?: string | undefined
}): Layout {
  const base = join(c.root, c.instance)
  const jobs = join(base, 'jobs')
  const output = c.output ?? join(base, 'output')
  return {
    root: c.root,
    instance: c.instance,
    queue: c.queue ?? join(base, 'queue'),
    jobs,
    intake: join(jobs, 'intake'),
    payload: join(jobs, 'payload'),
    lanes: join(jobs, 'lanes'),
    new: join(jobs, 'new'),
    held: join(jobs, 'held'),
    claimed: join(jobs, 'claimed'),
    started: join(jobs, 'started'),
    committed: join(jobs, 'committed'),
    done: join(jobs, 'done'),
    failed: join(jobs, 'failed'),
    cancelled: join(jobs, 'cancelled'),
    rejected: join(jobs, 'rejected'),
    owners: join(base, 'owners'),
    control: join(base, 'control'),
    output,
    work: join(output, '.work'),
    old: join(output, '.old'),
    vms: join(output, 'vms'),
    outputJobs: join(output, 'jobs'),
    superseded: join(output, 'superseded'),
    daemon: join(output, '.daemon'),
  }
}
