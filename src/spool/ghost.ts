/** The states of Ghost's tasks (contracts C2), for those who come from there. */
import type { JobStatus } from './schema.ts'

export type GhostWord = 'running' | 'exited' | 'killed' | 'unknown'

/** Of a job that is over, and of those that run; undefined for one that has not begun. */
export function ghostWord(s: JobStatus): GhostWord | undefined {
  if (s.state === 'running') return 'running'
  if (s.state === 'succeeded' || s.state === 'rejected') return 'exited'
  if (s.state === 'cancelled') return 'killed'
  if (s.state !== 'failed') return undefined
  if (s.signal) return 'killed'
  // It ran, and nobody saw how it ended: the host went down, or its shim was killed.
  return s.direct && s.pid !== undefined && s.exit_code === undefined ? 'unknown' : 'exited'
}

/** The states in which jobs of such a word may be. */
export const statesOfWord: Readonly<Record<GhostWord, readonly JobStatus['state'][]>> = {
  running: ['running'],
  exited: ['succeeded', 'failed', 'rejected'],
  killed: ['cancelled', 'failed'],
  unknown: ['failed'],
}
