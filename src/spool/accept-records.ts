/** Accepting jobs that are manifests already: what is refused of them, and the children of a batch, which nobody drops. */
import { join } from 'node:path'
import { type Accepted, writeToken } from './accept.ts'
import { publicFiles } from './answers.ts'
import { finish } from './finish.ts'
import type { IntakeOptions } from './intake-options.ts'
import { me } from './owner.ts'
import type { JobRecord } from './record.ts'
import type { Spool } from './spool.ts'

/**
 * Accepts jobs that no client dropped: the children of a batch. By the caller's word none of them exists yet, not even half accepted.
 * Must not overlap with takeAndAccept(): its recovery would accept a token that is being accepted here.
 * @returns for each what became of it; an error leaves it to be looked for again (a token that was written is found by recovery)
 */
export function acceptRecords(
  s: Spool,
  o: IntakeOptions,
  records: readonly JobRecord[],
): Promise<PromiseSettledResult<Accepted | undefined>[]> {
  // Before anything is awaited: an agent that starts anew in between must not accept for its fenced predecessor.
  const folder = join(s.layout.intake, me(s).id)
  return Promise.allSettled(
    records.map(async (record) => {
      if (!record.rejected) await refuseWhatCannotRun(s, o, record)
      await writeToken(s, folder, record)
      const [accepted] = await finish(s, folder, [record])
      return accepted
    }),
  )
}

/** A manifest that is right in itself and still cannot be run here: an unknown kind, an answer that a running VM uses. */
export async function refuseWhatCannotRun(s: Spool, o: IntakeOptions, record: JobRecord): Promise<void> {
  if (!o.knownKinds.has(record.kind)) {
    const can = [...o.knownKinds].join(', ')
    record.rejected = {
      message: `The kind "${record.kind}" is not supported by this version of vmspool; it runs: ${can}.`,
    }
    return
  }
  if (o.settings.on_in_use !== 'reject' || !o.inUse) return
  for (const file of await publicFiles(s, record.answer)) {
    if (!/\.(qcow2|raw|vdi)$/.test(file)) continue
    const user = await o.inUse(join(s.layout.output, file))
    if (user === undefined) continue
    record.rejected = {
      message:
        `The answer ${file} of an earlier job is in use (${user}), so it was not moved away and this job was not run. ` +
        `Stop its user, or set on_in_use: supersede, then drop the manifest again.`,
    }
    // The name's answer stays what it is: this job is answered by its id alone.
    record.answer = `in-use-${record.id}`
    return
  }
}
