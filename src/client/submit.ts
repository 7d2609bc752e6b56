/** Dropping work into the queue. */
import { drop } from '../spool/drop.ts'
import { type Acceptance, followAcceptance } from './acceptance.ts'
import { type Place, requireSpool } from './place.ts'
import type { JobStatus } from './status.ts'

/** What was dropped. It may be stored and waited for by another program: `drop_file` alone finds the job. */
export interface Submission {
  /** the unique name in the queue; a job's status names it as `drop_file` */
  drop_file: string
  /** the answer name the manifest asks for, where it could be read */
  name?: string
}

/** How a submission of this process is followed; beside it, so that a submission stays plain data. */
const followed = new WeakMap<Submission, Acceptance>()

export interface Droppable {
  bytes: Uint8Array
  /** what the drop is called; made unique, the extension stays and says whether it is JSON or YAML */
  fileName: string
  name?: string
}

/**
 * Drops manifests: each written under a dot-name, flushed, renamed, so that no agent ever sees a part of it. What this
 * returns for survives a power loss.
 * @throws ClientError 73 no such spool, 77 no permission; SpoolError 74 I/O
 */
export async function dropManifests(place: Place, manifests: readonly Droppable[]): Promise<Submission[]> {
  await requireSpool(place, 'submit')
  const acceptance = await followAcceptance(place)
  const submissions: Submission[] = []
  for (const m of manifests) {
    const drop_file = await drop(place.spool, m.bytes, m.fileName)
    const submission = { drop_file, ...(m.name === undefined ? {} : { name: m.name }) }
    followed.set(submission, acceptance)
    submissions.push(submission)
  }
  return submissions
}

export async function dropManifest(place: Place, manifest: Droppable): Promise<Submission> {
  const [submission] = await dropManifests(place, [manifest])
  return submission!
}

/** Looks once whether a drop has become a job. */
export async function acceptedJob(place: Place, submission: Submission): Promise<JobStatus | undefined> {
  let acceptance = followed.get(submission)
  if (acceptance === undefined) {
    acceptance = await followAcceptance(place, { all: true })
    followed.set(submission, acceptance)
  }
  return acceptance.find(submission)
}
