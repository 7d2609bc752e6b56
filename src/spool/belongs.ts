/**
 * Whose a spool is. Root may write everywhere, and what it writes in the spool of another user (an installed one belongs to the user of its
 * service) those agents can neither read nor move: from then on jobs of the same names, the reaper and the log of events fail.
 *
 * Synchronous, and with few imports: also on the way of `vmspool run`.
 */
import { lstatSync, mkdirSync, rmdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { SpoolError } from './errors.ts'
import type { Layout } from './layout.ts'
import { startCommand } from './start-command.ts'

/** The user of a spool that root should not work in; undefined for anybody but root, and where there is no spool yet. */
export function ownerBesideRoot(l: Layout): number | undefined {
  if (process.geteuid?.() !== 0) return undefined
  return statSync(l.jobs, { throwIfNoEntry: false })?.uid || undefined
}

/**
 * @param what what was wanted, as the beginning of a sentence
 * @param instead what to do, as a sentence
 * @throws SpoolError 77 when root would work in the spool of another user
 */
export function requireOwnSpool(
  l: Layout,
  what: string,
  instead = `Start it as what it is: ${startCommand(l)}.`,
): void {
  const uid = ownerBesideRoot(l)
  // A server that squashes root (NFS) makes root's files that user's.
  if (uid === undefined || newFilesBelongTo(l) === uid) return
  throw new SpoolError(
    `${what} as root, but the spool "${l.instance}" belongs to uid ${uid} (${l.jobs}): what root writes there, its agents can neither read nor move. ${instead}`,
    77,
  )
}

function newFilesBelongTo(l: Layout): number | undefined {
  const probe = join(l.jobs, `.probe-${process.pid}-${process.hrtime.bigint()}`)
  try {
    mkdirSync(probe, 0o700)
    try {
      return lstatSync(probe).uid
    } finally {
      rmdirSync(probe)
    }
  } catch {
    return undefined
  }
}
