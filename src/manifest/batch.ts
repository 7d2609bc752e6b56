import { dirname } from 'node:path'
import { readJson } from '../text/json.ts'
import { decodeUtf8 } from '../text/utf8.ts'
import { readYaml } from '../text/yaml.ts'
import type { BatchManifest, BatchVm } from './kinds/batch.ts'
import { mergedManifest } from './merge.ts'
import { jsonLimits, type ParseOutcome, parseManifest } from './parse.ts'

/**
 * The manifest of one VM of a batch: its own, over what the batch shares, under the VM's overrides; checked and normalised as if it had been
 * dropped alone. Paths in a manifest file start from that file's folder.
 * @param file the manifest file that the VM names; without it the manifest stands in the batch
 */
export function manifestOfVm(
  batch: BatchManifest,
  vm: BatchVm,
  file?: { bytes: Uint8Array; path: string },
): ParseOutcome {
  if (file === undefined) return parseMerged(batch, vm, vm.manifest as Record<string, unknown>, undefined)
  const baseDir = dirname(file.path)
  // Alone first: its findings then have lines, and other dialects are translated before anything is put over them.
  const alone = parseManifest(file.bytes, { fileName: file.path, baseDir })
  if (batch.shared_config === undefined && vm.overrides === undefined) return alone
  if (alone.state !== 'complete') {
    // It may lack only what the batch adds.
    const raw = rawObject(file.bytes, file.path)
    if (raw === undefined) return alone
    const merged = parseMerged(batch, vm, raw, baseDir)
    return merged.state === 'complete' ? merged : alone
  }
  const merged = parseMerged(batch, vm, alone.manifest as unknown as Record<string, unknown>, baseDir)
  const known = new Set(alone.diagnostics.map((d) => d.message))
  const diagnostics = [...alone.diagnostics, ...merged.diagnostics.filter((d) => !known.has(d.message))]
  return { ...merged, diagnostics }
}

function parseMerged(
  batch: BatchManifest,
  vm: BatchVm,
  own: Record<string, unknown>,
  baseDir: string | undefined,
): ParseOutcome {
  const merged = mergedManifest(batch.shared_config, own, vm.overrides)
  return parseManifest(Buffer.from(JSON.stringify(merged)), {
    fileName: `${vm.id}.json`,
    ...(baseDir === undefined ? {} : { baseDir }),
  })
}

function rawObject(bytes: Uint8Array, path: string): Record<string, unknown> | undefined {
  const { text, state } = decodeUtf8(bytes)
  if (state !== 'complete') return undefined
  const reading = /\.ya?ml$/i.test(path) ? readYaml(text) : readJson(text, jsonLimits)
  return reading.state === 'complete' ? reading.value : undefined
}
