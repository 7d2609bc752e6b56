/** What differs between the registry, libvirt and the files, and what is left over. */

export type DriftKind =
  /** libvirt has no domain for the entry */
  | 'missing-domain'
  | 'missing-disk'
  | 'running-but-should-not'
  /** it should run and does not, and is not started (any more), or cannot be */
  | 'not-running'
  /** its domain has another name now */
  | 'renamed'
  /** a domain of that name is not ours */
  | 'foreign-domain'
  /** an action that was begun and never ended, and whose job is over */
  | 'stale-doing'
  /** its deletion has begun and left something */
  | 'should-be-gone'
  | 'orphan-domain'
  | 'orphan-folder'

/** One difference, in a sentence that also says what to do. */
export interface Drift {
  name: string
  kind: DriftKind
  message: string
}

/** What carries our mark and stands in no registry. */
export interface Orphan {
  kind: 'domain' | 'folder'
  name: string
  /** of a domain */
  uuid?: string
  running?: boolean
  /** of a folder: absolute */
  path?: string
  /** when it was seen first, RFC 3339, and in how many passes since: fewer than {@link MIN_PASSES} and it may be something that is being made */
  since: string
  passes: number
}

/** A leftover is one when it was seen so often. */
export const MIN_PASSES = 2
