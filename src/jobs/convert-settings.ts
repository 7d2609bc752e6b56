import { availableParallelism } from 'node:os'
import type { CopyPath, OutputFormat } from '../convert/index.ts'

/** What the configuration says about conversions. Sizes in bytes, times in milliseconds. */
export interface ConvertSettings {
  format: OutputFormat
  compress: 'auto' | 'yes' | 'no'
  compression_type: 'zlib' | 'zstd'
  path: 'auto' | CopyPath
  strict: boolean
  workers: number
  grains: 'full' | 'structure'
  compare: 'none' | 'sample' | 'full'
  output_checksum: boolean
  max_virtual_size: number
  reserve_bytes: number
  threads: number
  no_progress_timeout_ms: number
  verify_checksum: boolean
  import_roots: readonly string[]
  poll_name: boolean
}

const DEFAULTS: ConvertSettings = {
  format: 'qcow2',
  compress: 'auto',
  compression_type: 'zstd',
  path: 'auto',
  strict: false,
  workers: Math.min(16, availableParallelism()),
  grains: 'full',
  compare: 'none',
  output_checksum: false,
  max_virtual_size: 64 * 2 ** 40,
  reserve_bytes: 256 * 2 ** 20,
  threads: Math.min(16, Math.max(1, availableParallelism() * 4)),
  no_progress_timeout_ms: 10 * 60_000,
  verify_checksum: true,
  import_roots: ['/'],
  poll_name: true,
}

/** Reads the configuration's keys; what a caller leaves out (a library's made-up context) has the documented default. */
export function settingsOf(config: unknown): ConvertSettings {
  const root = section(config)
  const convert = section(root.convert)
  const intake = section(root.intake)
  const space = section(root.space)
  const pick = <T>(value: unknown, type: string, otherwise: T): T => (typeof value === type ? value : otherwise) as T
  return {
    format: pick(convert.format, 'string', DEFAULTS.format),
    compress: pick(convert.compress, 'string', DEFAULTS.compress),
    compression_type: pick(convert.compression_type, 'string', DEFAULTS.compression_type),
    path: pick(convert.path, 'string', DEFAULTS.path),
    strict: pick(convert.strict, 'boolean', DEFAULTS.strict),
    workers: pick(convert.workers, 'number', DEFAULTS.workers),
    grains: pick(convert.grains, 'string', DEFAULTS.grains),
    compare: pick(convert.compare, 'string', DEFAULTS.compare),
    output_checksum: pick(convert.output_checksum, 'boolean', DEFAULTS.output_checksum),
    max_virtual_size: pick(convert.max_virtual_size, 'number', DEFAULTS.max_virtual_size),
    reserve_bytes: pick(space.reserve_bytes, 'number', DEFAULTS.reserve_bytes),
    threads: Math.min(16, Math.max(1, pick(convert.qemu_threads, 'number', DEFAULTS.threads) || DEFAULTS.threads)),
    no_progress_timeout_ms: pick(convert.no_progress_timeout, 'number', DEFAULTS.no_progress_timeout_ms),
    verify_checksum: pick(convert.checksum, 'boolean', DEFAULTS.verify_checksum),
    import_roots:
      Array.isArray(intake.import_roots) && intake.import_roots.length > 0
        ? (intake.import_roots as string[])
        : DEFAULTS.import_roots,
    poll_name: onOff(root.poll_name, DEFAULTS.poll_name),
  }
}

function section(v: unknown): Record<string, unknown> {
  return typeof v === 'object' && v !== null ? (v as Record<string, unknown>) : {}
}

function onOff(v: unknown, otherwise: boolean): boolean {
  return typeof v === 'boolean' ? v : v === 'on' ? true : v === 'off' ? false : otherwise
}
