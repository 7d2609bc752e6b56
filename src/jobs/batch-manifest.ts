/** From a VM of a batch to the job it becomes: its manifest is read with the rights of whoever dropped the batch. */
import { createHash } from 'node:crypto'
import { checkSubmitter, ImageError, openBeneath, type Submitter } from '../images/index.ts'
import {
  answerNameOf,
  type BatchManifest,
  type BatchVm,
  batchSuffix,
  type Diagnostic,
  type Manifest,
  manifestOfVm,
  maxManifestBytes,
  type ParseOutcome,
  safeName,
} from '../manifest/index.ts'
import type { JobRecord } from '../spool/index.ts'
import { mapped } from './convert-plan.ts'
import { settingsOf } from './convert-settings.ts'
import type { JobContext } from './types.ts'

/**
 * The record of a child. A manifest that is bad or cannot be read makes a rejected one: an ordinary job that ends at once, with its
 * diagnostics. The submitter is the batch's.
 * @param taken answer names of the batch's other VMs → their ids: two of one name would take each other's answer
 * @throws {ImageError} transient: the file cannot be read just now
 */
export async function childRecord(
  m: BatchManifest,
  vm: BatchVm,
  o: { job: string; c: JobContext<BatchManifest>; who: Submitter; taken: ReadonlyMap<string, string> },
): Promise<JobRecord> {
  const { c, job } = o
  const read = await readVm(m, vm, c, o.who)
  const { uid, gid } = c.drop
  const drop = {
    file: read.file,
    at: new Date().toISOString(),
    uid,
    gid,
    bytes: read.bytes.length,
    sha256: sha256(read.bytes),
  }
  const base = { schema: 1 as const, id: job, drop, parent: { id: c.id, vm: vm.id } }
  const plain = ownName(m, vm, job)
  const { outcome } = read
  /** Another VM of that name. Its own counts for nothing: it may have been tried before. */
  const otherOf = (name: string): string | undefined => {
    const id = o.taken.get(name)
    return id === vm.id ? undefined : id
  }
  const rejected = (diagnostics: Diagnostic[], message: string, answer = plain): JobRecord => ({
    ...base,
    kind: 'convert',
    answer: safeName(answer) && otherOf(answer) === undefined && !answer.endsWith(batchSuffix) ? answer : plain,
    manifest: { kind: 'convert', priority: m.priority } as unknown as Manifest,
    diagnostics,
    rejected: { message: message.slice(0, 16_384) },
  })
  if (outcome.state !== 'complete') {
    const partial = outcome.state === 'invalid' ? outcome.partial?.answer : undefined
    const errors = outcome.diagnostics.filter((d) => d.severity === 'error')
    const said = errors.map((d) => (d.path && !d.message.startsWith(d.path) ? `${d.path}: ${d.message}` : d.message))
    // "vm" is what a nameless conversion is called; here each has a name of its own.
    return rejected(
      outcome.diagnostics,
      `The manifest of "${vm.id}" (${read.file}) was rejected: ${said.join(' ')}`,
      partial === 'vm' ? plain : partial,
    )
  }
  const { manifest, diagnostics } = outcome
  if (manifest.kind === 'batch')
    return rejected(
      diagnostics,
      `The manifest of "${vm.id}" (${read.file}) is a batch itself; batches do not nest. Drop it by itself.`,
    )
  if (manifest.repeat !== undefined)
    return rejected(
      diagnostics,
      `"${vm.id}" has "repeat", and a VM of a batch runs once. Write it into the batch: then all of it repeats.`,
    )
  const answer = hasName(manifest) ? (answerNameOf(manifest) ?? plain) : plain
  const other = otherOf(answer)
  if (other !== undefined)
    return rejected(
      diagnostics,
      `"${vm.id}" is called "${answer}" like "${other}" of the same batch, and one would take the other's answer. Give one of them another source.vm_name (overrides can do it).`,
    )
  if (answer.endsWith(batchSuffix))
    return rejected(
      diagnostics,
      `"${vm.id}" is called "${answer}"; names that end in "${batchSuffix}" are those of batches.`,
    )
  const { retry_of: _retry, ...rest } = manifest as Record<string, unknown>
  const again = vm.retry_of === undefined ? {} : { retry_of: vm.retry_of }
  return {
    ...base,
    kind: manifest.kind,
    answer,
    manifest: { ...rest, ...again, priority: m.priority } as unknown as Manifest,
    diagnostics,
    ...again,
  }
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** Without a name of its own a VM is called after its batch and its id. */
function ownName(m: BatchManifest, vm: BatchVm, job: string): string {
  const name = `${m.name}-${vm.id}`
  return safeName(name) && !name.endsWith(batchSuffix) ? name : `vm-${job}`
}

function hasName(m: Manifest): boolean {
  return Boolean(m.name || (m.kind === 'convert' && m.source?.vm_name))
}

async function readVm(
  m: BatchManifest,
  vm: BatchVm,
  c: JobContext<BatchManifest>,
  who: Submitter,
): Promise<{ outcome: ParseOutcome; bytes: Uint8Array; file: string }> {
  if (typeof vm.manifest !== 'string') {
    const bytes = Buffer.from(JSON.stringify(vm.manifest))
    return { outcome: manifestOfVm(m, vm), bytes, file: `${c.drop.file}#${vm.id}` }
  }
  const path = mapped(vm.manifest, c.config.path_map ?? {})
  try {
    const bytes = await readAs(path, settingsOf(c.config).import_roots, who)
    return { outcome: manifestOfVm(m, vm, { bytes, path }), bytes, file: path }
  } catch (error) {
    if (!(error instanceof ImageError) || error.transient) throw error
    const message = error.hint === undefined ? error.message : `${error.message} ${error.hint}`
    const diagnostics: Diagnostic[] = [{ severity: 'error', path: '', message }]
    return { outcome: { state: 'invalid', diagnostics }, bytes: new Uint8Array(), file: path }
  }
}

/** At most one byte more than a manifest may have, of a file that the submitter could read himself. */
async function readAs(path: string, roots: readonly string[], who: Submitter): Promise<Uint8Array> {
  const file = await openBeneath(path, roots)
  try {
    await checkSubmitter(file, who)
    const buffer = Buffer.alloc(maxManifestBytes + 1)
    let length = 0
    while (length < buffer.length) {
      const { bytesRead } = await file.handle.read(buffer, length, buffer.length - length, length)
      if (bytesRead === 0) break
      length += bytesRead
    }
    return buffer.subarray(0, length)
  } finally {
    await file.close()
  }
}
