/** events.jsonl is rotated by size, compressed when nobody can be writing it any more, and bounded in total. */
import { lstat } from 'node:fs/promises'
import { compressRest, trim } from '../process/log-compress.ts'
import { livePath, unlessGone } from '../process/log-files.ts'
import { rotate } from '../process/log-rotate.ts'
import { eventFiles } from './events.ts'
import type { Layout } from './layout.ts'

/** For tests; the defaults hold events of some million jobs. */
interface EventLimits {
  /** a file of this size is rotated, in bytes */
  max_bytes?: number
  /** all files together, in bytes */
  total_bytes?: number
  /** how long a rotated file stays as it is, in ms: agents and shims on any host open the file by its name for each line */
  quiet_ms?: number
}

/** Done by the main agents now and then. Several may do it at once. */
export async function rotateEvents(s: { layout: Pick<Layout, 'daemon'> }, o: EventLimits = {}): Promise<void> {
  const { max_bytes = 16 << 20, total_bytes = 256 << 20, quiet_ms = 600_000 } = o
  const files = eventFiles(s.layout.daemon)
  const size = (await unlessGone(lstat(livePath(files))))?.size ?? 0
  if (size >= max_bytes) await rotate(files)
  // Being renamed changed the file's ctime.
  await compressRest(files, ({ ctimeMs }) => Date.now() - ctimeMs >= quiet_ms)
  await trim(files, total_bytes, max_bytes)
}
