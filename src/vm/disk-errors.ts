import { statfs } from 'node:fs/promises'
import { ImageError } from '../images/index.ts'
import { SpawnError } from '../process/index.ts'
import { VmError, type VmErrorCode } from './types.ts'
import { errno } from '../process/errno.ts'

/** Of the guard and qemu-img, in the words of the VM service. Other errors stay what they are. */
export function imageError(e: unknown): unknown {
  if (e instanceof SpawnError)
    return new VmError(e.message, {
      code: 'storage',
      phase: 'disks',
      hint: 'Install qemu-utils (qemu-img), and check the PATH of the agent.',
      cause: e,
    })
  if (!(e instanceof ImageError)) return e
  return new VmError(e.message, {
    code: codeOf(e.code),
    transient: e.transient,
    phase: 'disks',
    ...(e.hint === undefined ? {} : { hint: e.hint }),
    cause: e,
  })
}

function codeOf(code: string): VmErrorCode {
  if (code === 'not-found') return 'image-not-found'
  if (['no-space', 'io', 'killed', 'resource-limit', 'source-in-use', 'qemu-img'].includes(code)) return 'storage'
  return 'image-invalid'
}

/** Says of a failed write where, how much was wanted and how much there is. */
export async function writeError(e: unknown, o: { path: string; what: string }): Promise<unknown> {
  const cause = e instanceof VmError ? e.cause : e
  const code = cause instanceof ImageError ? cause.code : errno(cause)
  if (code !== 'no-space' && code !== 'ENOSPC' && code !== 'EDQUOT') {
    if (e instanceof VmError || !(e instanceof Error) || !/^E[A-Z0-9]+$/.test(code)) return e
    return new VmError(`${o.what} could not be made at ${JSON.stringify(o.path)}: ${e.message}.`, {
      code: 'storage',
      transient: code === 'EIO' || code === 'ESTALE',
      phase: 'disks',
      hint:
        code === 'EACCES' || code === 'EPERM' || code === 'EROFS'
          ? "Give the agent's user write permission there (vm.dir in the configuration)."
          : 'Check the filesystem of vm.dir; the kernel log says more.',
      cause: e,
    })
  }
  const free = await freeBytes(o.path)
  return new VmError(
    `${o.what} did not fit on the filesystem of ${JSON.stringify(o.path)}${free === undefined ? '' : `, which has ${free} bytes free now that the half-made file is gone`}.`,
    {
      code: 'storage',
      transient: true,
      phase: 'disks',
      hint: 'Free space there, or let vm.dir lie elsewhere; the job is tried again.',
      cause: e,
    },
  )
}

/** that this process may still write; undefined when nobody can say */
export async function freeBytes(path: string): Promise<number | undefined> {
  const dir = path.slice(0, path.lastIndexOf('/')) || '/'
  const s = await statfs(dir).catch(() => undefined)
  return s && (process.geteuid?.() === 0 ? s.bfree : s.bavail) * s.bsize
}
