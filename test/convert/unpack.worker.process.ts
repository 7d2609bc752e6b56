/** Converts the disk argv[3] in the folder argv[2] as attempt 1, and dies without a word at the first progress of phase argv[4] that has bytes. */
import { bench, disk } from './harness.ts'

const [, , dir, source, phase] = process.argv as [string, string, string, string, string]
const b = bench({ dir, epoch: 1 })
const push = b.progress.push.bind(b.progress)
b.progress.push = (...items) => {
  if (items.some((p) => p.phase === phase && p.bytes_done !== undefined)) process.kill(process.pid, 'SIGKILL')
  return push(...items)
}
await b.run({ disks: [disk(source, 'vmdk')] })
