/** How the handler of a batch speaks of its children. The agent makes one over the spool (src/agent/batches.ts). */
import type { JobRecord, JobStatus } from '../spool/index.ts'

export interface ChildLook {
  status?: JobStatus
  /** of a job that was committed and published: its `result.json` */
  result?: Record<string, unknown>
}

export interface Family {
  /** `cancel`: no child is started any more, and all are cancelled; `leave`: another attempt goes on with them, so nothing is touched */
  stop(): 'cancel' | 'leave' | undefined
  /** Which of these jobs exist in any form, half accepted ones included. Certain, and not cheap. */
  existing(ids: readonly string[]): Promise<Set<string>>
  /**
   * Makes a job of it, durable when it resolves. MUST NOT be called for one that exists. When it rejects, the job may exist.
   */
  submit(record: JobRecord): Promise<void>
  look(job: string): Promise<ChildLook>
  /** asks for a cancellation; what the job ends as is decided by its commit */
  cancel(job: string, by: string): Promise<void>
  /** until a child ended here, the batch is asked to stop, or this many ms have passed */
  wait(ms: number): Promise<void>
}
