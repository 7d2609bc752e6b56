/** From a file somebody names to a manifest that can be dropped. */
import { open, stat } from 'node:fs/promises'
import { basename, dirname, extname, resolve } from 'node:path'
import {
  answerNameOf,
  type Diagnostic,
  type Manifest,
  maxManifestBytes,
  parseManifest,
  safeName,
} from '../manifest/index.ts'
import { ClientError, ManifestError } from './errors.ts'

export interface Prepared {
  bytes: Uint8Array
  /** what the drop is called, before it is made unique */
  fileName: string
  name?: string
  manifest: Manifest
  warnings: readonly Diagnostic[]
}

const diskFormats: Readonly<Record<string, string>> = {
  '.vmdk': 'vmdk',
  '.ova': 'ova',
  '.ovf': 'ovf',
  '.vhd': 'vhd',
  '.vhdx': 'vhdx',
  '.vdi': 'vdi',
  '.qcow2': 'qcow2',
  '.raw': 'raw',
  '.img': 'raw',
}

/** The extension that tells the format, a ".gz" behind it included. */
function diskExtension(path: string): string {
  const last = extname(path)
  const inner = last.toLowerCase() === '.gz' ? extname(path.slice(0, -last.length)) : ''
  return inner === '' || inner.toLowerCase() === '.ovf' ? last : inner + last
}

function formatOf(path: string): string | undefined {
  return diskFormats[diskExtension(path).toLowerCase().replace(/\.gz$/, '')]
}

export function isDiskFile(path: string): boolean {
  return formatOf(path) !== undefined
}

/** Reads at most one byte more than a manifest may have. */
export async function readManifestFile(path: string): Promise<Uint8Array> {
  const file = await open(path, 'r')
  try {
    if ((await file.stat()).isDirectory()) {
      throw new ClientError(74, `${path} is a folder. Name the manifest file in it.`)
    }
    const buffer = Buffer.alloc(maxManifestBytes + 1)
    let length = 0
    while (length < buffer.length) {
      const { bytesRead } = await file.read(buffer, length, buffer.length - length)
      if (bytesRead === 0) break
      length += bytesRead
    }
    return buffer.subarray(0, length)
  } finally {
    await file.close()
  }
}

/**
 * Reads and checks a manifest. A relative `local_path` is taken from the manifest's own folder and made absolute: the
 * agent works in another one.
 * @throws ManifestError (65)
 */
export async function prepareManifest(path: string): Promise<Prepared> {
  const bytes = await readManifestFile(path)
  return prepareBytes(bytes, path, dirname(resolve(path)))
}

export function prepareBytes(bytes: Uint8Array, path: string, folder: string): Prepared {
  const fileName = basename(path)
  const asIs = parseManifest(bytes, { fileName })
  if (asIs.state === 'complete' && !asIs.rewritten) return prepared(asIs, bytes, fileName)
  const resolved = parseManifest(bytes, { fileName, baseDir: folder })
  if (resolved.state !== 'complete') throw new ManifestError(path, resolved.diagnostics)
  const stem = fileName.slice(0, fileName.length - extname(fileName).length)
  return prepared(resolved, Buffer.from(`${JSON.stringify(resolved.manifest, null, 2)}\n`), `${stem}.json`)
}

function prepared(
  outcome: { manifest: Manifest; diagnostics: Diagnostic[] },
  bytes: Uint8Array,
  fileName: string,
): Prepared {
  const name = answerNameOf(outcome.manifest)
  return {
    bytes,
    fileName,
    manifest: outcome.manifest,
    warnings: outcome.diagnostics,
    ...(name === undefined ? {} : { name }),
  }
}

export interface DiskRequest {
  name?: string
  format?: string
  compress?: boolean
}

/** The size that the agent will compare with; a file that this host cannot see has none. */
async function sizeOf(path: string): Promise<{ bytes?: number }> {
  try {
    return { bytes: (await stat(path)).size }
  } catch {
    return {}
  }
}

/**
 * The manifest of one disk, OVA or OVF that lies somewhere: it is read where it lies.
 * @throws ClientError 65 when its format cannot be told, or the name cannot be a file's
 */
export async function diskManifest(path: string, o: DiskRequest = {}): Promise<Prepared> {
  const extension = diskExtension(path)
  const format = formatOf(path)
  if (format === undefined) {
    throw new ClientError(
      65,
      `${path} is neither a manifest (.json, .yaml, .yml) nor a disk that can be told by its name (${Object.keys(diskFormats).join(' ')}, also with .gz behind it).`,
    )
  }
  const name = o.name ?? (basename(path).slice(0, -extension.length) || 'vm')
  if (!safeName(name)) {
    throw new ClientError(
      65,
      `${JSON.stringify(name)} cannot be the name of a result: it must be a single file name that does not begin with a dot. Choose one with --name.`,
    )
  }
  const manifest = {
    manifest_version: '1.0',
    kind: 'convert',
    name,
    source: { provider: 'local', vm_name: name },
    disks: [
      {
        id: 'disk-0',
        source_format: format,
        local_path: resolve(path),
        ...(await sizeOf(path)),
        ...(format === 'ova' || format === 'ovf' ? {} : { disk_type: 'boot' }),
      },
    ],
    ...(o.format === undefined ? {} : { output: { format: o.format } }),
    ...(o.compress === undefined ? {} : { compress: o.compress }),
  }
  return prepareBytes(Buffer.from(`${JSON.stringify(manifest, null, 2)}\n`), `${name}.json`, dirname(resolve(path)))
}
