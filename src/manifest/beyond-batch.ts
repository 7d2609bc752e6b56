import { isAbsolute } from 'node:path'
import type { z } from 'zod'
import { pathText, show, valueAt } from '../text/diagnostic.ts'
import { beyondSchema } from './beyond-schema.ts'
import { kinds, type ManifestKind } from './kinds/index.ts'
import { isLenient } from './lenient.ts'
import { mergedManifest } from './merge.ts'
import { prepare, type Say, type Written } from './prepare.ts'
import { batchSuffix, safeName } from './safe-name.ts'
import { sentenceOf } from './sentences.ts'

/* What a schema cannot say of a batch: its VMs one against another, and the manifests that stand in it. It may have errors here. */

type Fields = Record<string, unknown>
type Path = (string | number)[]

const isObject = (v: unknown): v is Fields => typeof v === 'object' && v !== null && !Array.isArray(v)

export function beyondBatch(root: Fields, o: { folder?: string | undefined }, written: Written, say: Say): void {
  const shared = isObject(root.shared_config) ? root.shared_config : undefined
  if (shared?.output_directory !== undefined)
    say(
      'warning',
      ['shared_config', 'output_directory'],
      'shared_config.output_directory is not used: results lie in the output folder of the spool.',
    )
  const named = root.name ?? (isObject(root.batch_metadata) ? root.batch_metadata.batch_id : undefined)
  if (typeof named === 'string' && safeName(named) && !safeName(named + batchSuffix))
    say(
      'error',
      root.name === undefined ? ['batch_metadata', 'batch_id'] : ['name'],
      `The name of a batch is at most ${200 - batchSuffix.length} bytes long.`,
    )
  if (!Array.isArray(root.vms)) return
  const ids = new Map<string, number>()
  const names = new Map<string, number>()
  root.vms.forEach((vm: unknown, i) => {
    if (!isObject(vm)) return
    const id = vm.id === undefined || vm.id === null || vm.id === '' ? `vm_${i}` : vm.id
    if (typeof id === 'string') {
      const first = ids.get(id)
      if (first === undefined) ids.set(id, i)
      else say('error', ['vms', i, 'id'], `Duplicate VM ID: "${id}" (vms[${first}] has it already)`)
    }
    const { manifest } = vm
    const at: Path = ['vms', i, 'manifest']
    if (typeof manifest === 'string') path(manifest, at, o.folder, say)
    if (!isObject(manifest)) return
    const overrides = isObject(vm.overrides) ? vm.overrides : undefined
    const name = inline(manifest, { shared, overrides, written, folder: o.folder }, at, say)
    if (name === undefined) return
    const first = names.get(name)
    if (first === undefined) names.set(name, i)
    else
      say(
        'error',
        [...at, 'name'],
        `${pathText(at)} is called ${show(name)} like vms[${first}]; one would take the other's answer.`,
      )
    if (name.endsWith(batchSuffix))
      say(
        'error',
        [...at, 'name'],
        `${pathText(at)} is called ${show(name)}; names that end in "${batchSuffix}" are those of batches.`,
      )
  })
}

function path(text: string, at: Path, folder: string | undefined, say: Say): void {
  if (text === '' || isAbsolute(text) || (folder !== undefined && !text.startsWith('~/'))) return
  const why = text.startsWith('~')
    ? '"~" is nobody\'s home in a queue'
    : 'this batch has no folder of its own to start from'
  say('error', at, `${pathText(at)} is ${show(text)}; it must be an absolute path: ${why}.`)
}

/** Checks a manifest that stands in the batch, with what the batch adds to it. Returns its answer name, when it gives one. */
function inline(
  own: Fields,
  o: { shared: Fields | undefined; overrides: Fields | undefined; written: Written; folder: string | undefined },
  at: Path,
  say: Say,
): string | undefined {
  const here: Say = (severity, p, message, more) => {
    const text = pathText([...at, ...p])
    const short = pathText(p)
    say(
      severity,
      [...at, ...p],
      short !== '' && message.startsWith(short) ? text + message.slice(short.length) : message,
      more,
    )
  }
  const kind = kindOf(own, o.shared)
  if (kind === undefined || kind === 'batch') {
    say(
      'error',
      kind === undefined ? at : [...at, 'kind'],
      kind === 'batch'
        ? `${pathText(at)} is a batch itself; batches do not nest.`
        : `${pathText(at)} is no manifest: it has neither "kind" nor "manifest_version": "1.0" with "disks".`,
    )
    return undefined
  }
  const schema = kinds[kind] as z.ZodObject
  prepare(own, schema, o.written, here)
  const merged = mergedManifest(o.shared, own, o.overrides)
  const parsed = schema.safeParse(merged)
  for (const issue of parsed.success ? [] : parsed.error.issues) {
    const p = issue.path as Path
    if (kind === 'convert' && isLenient(p, valueAt(merged, p)) !== undefined) continue // said when the VM's job is made
    const sentence = sentenceOf({ ...issue, path: [...at, ...p] }, valueAt(merged, p))
    say('error', [...at, ...p], sentence.message, sentence)
  }
  beyondSchema(merged, kind, o.folder === undefined ? {} : { baseDir: o.folder }, here)
  if (!parsed.success) return undefined
  const vmName = kind === 'convert' && isObject(merged.source) ? merged.source.vm_name : undefined
  const name = vmName || merged.name
  return typeof name === 'string' ? name : undefined
}

function kindOf(own: Fields, shared: Fields | undefined): ManifestKind | undefined {
  const kind = own.kind ?? shared?.kind
  if (typeof kind === 'string' && Object.hasOwn(kinds, kind)) return kind as ManifestKind
  if ('batch_version' in own) return 'batch'
  return kind === undefined && ('manifest_version' in own || 'disks' in own) ? 'convert' : undefined
}
