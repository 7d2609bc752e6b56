import { givenBytes, ImageError } from '../images/index.ts'
import { hashWindow } from './checksum.ts'
import type { OpenedDisk, SourceDisk } from './inspect.ts'
import type { ConvertPlan } from './types.ts'

/** A checksum that somebody stated for bytes that are about to be copied. */
export interface Check {
  expected: string
  /** the manifest's checksum of the whole file, not an archive's of one member */
  whole: boolean
  /** bytes */
  size: number
  run(signal: AbortSignal, onBytes: (done: number) => void): Promise<string>
  mismatch(actual: string): ImageError
}

/** What there is to verify beside the copy of this disk. */
export function checksOf(plan: ConvertPlan, opened: OpenedDisk, disk: SourceDisk): Check[] {
  const checks: Check[] = []
  const { planned, window } = opened
  if (!plan.verify_checksum) return checks
  if (planned.checksum !== undefined) {
    const expected = planned.checksum
    checks.push({
      expected: expected.replace(/^sha256:/, ''),
      whole: true,
      size: window.size,
      run: (signal, onBytes) =>
        hashWindow(window.file.handle, { offset: 0, size: window.size, algorithm: 'sha256', signal, onBytes }),
      mismatch: (actual) =>
        mismatch(`checksum mismatch for disk "${planned.id}": expected ${expected}, got sha256:${actual}`),
    })
  }
  if (disk.digest) {
    const { algorithm, hex, name } = disk.digest
    const w = givenBytes(disk.image.windows[0]!)
    checks.push({
      expected: hex,
      whole: false,
      size: w.size,
      run: (signal, onBytes) =>
        hashWindow(w.file.handle, { offset: w.offset, size: w.size, algorithm, signal, onBytes }),
      mismatch: (actual) =>
        mismatch(
          `checksum mismatch for disk "${disk.id}": the OVF's manifest expects ${algorithm}:${hex} for ${JSON.stringify(name)}, got ${algorithm}:${actual}`,
        ),
    })
  }
  return checks
}

function mismatch(message: string): ImageError {
  return new ImageError(message, {
    code: 'checksum-mismatch',
    phase: 'copy',
    hint: 'The file is not what was exported: copy or export it again. Nothing was published.',
  })
}
