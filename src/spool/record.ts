/** A job's file: the canonical manifest, and who dropped it, as what, when. Written once, then only moved. */
import type { Diagnostic, Manifest } from '../manifest/index.ts'
import { SpoolError } from './errors.ts'
import type { Spool } from './spool.ts'

export interface DropInfo {
  /** the name the client gave it */
  file: string
  /** when it was taken, RFC 3339 */
  at: string
  uid: number
  gid: number
  bytes: number
  sha256: string
  bare?: boolean
}

export interface JobRecord {
  schema: 1
  id: string
  kind: string
  /** the answer name: what the public files are called */
  answer: string
  manifest: Manifest
  drop: DropInfo
  /** warnings, or the errors of a rejected drop */
  diagnostics: Diagnostic[]
  rejected?: { message: string }
  /** the raw drop of a rejected one, kept beside its record */
  quarantine?: string
  /** the raw drop holds what looks like secrets: only a copy without them is kept */
  secret?: true
  /** names below jobs/payload/<id>/, for a bare disk */
  payload?: string[]
  retry_of?: string
  /** The batch that this job belongs to, and which of its VMs it is. Written by agents alone: a manifest cannot say it. */
  parent?: { id: string; vm: string }
  /** Of a later run of a job that repeats: the run before it. Until its time comes it has no place in its lane. Written by agents alone. */
  follows?: string
}

/** How a status or a result names the batch of its job. */
export function familyFields(record: Pick<JobRecord, 'parent'>): { parent?: string; vm_id?: string } {
  return record.parent === undefined ? {} : { parent: record.parent.id, vm_id: record.parent.vm }
}

/** @throws SpoolError 65 when the file is not a job's */
export async function readRecord(s: Spool, path: string): Promise<JobRecord> {
  const { bytes } = await s.fs.readFile(path)
  try {
    const record = JSON.parse(bytes.toString('utf8'))
    if (typeof record === 'object' && record !== null && typeof record.id === 'string' && record.schema === 1)
      return record
  } catch {
    // said below
  }
  throw new SpoolError(
    `${path} is not a job file of this version: its content does not parse. Nothing was changed.`,
    65,
  )
}
