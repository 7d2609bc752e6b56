import { type ByteSource, readExactly, tooShort } from './source.ts'

const SECTOR = 512
/** Entries are 32-bit sectors. */
const ENTRY = 4
/** Table bytes read at once where tables lie one behind the other, as every writer puts them that keeps them in front of the grains. */
const PIECE = 1024 * 1024

/**
 * Reads the grain tables that a piece of the directory names, in order, and skips those that do not exist (0).
 * @param directory entries as they lie in the file
 * @param first index of the first entry
 * @param entries in each table
 * @param each gets a table that is valid until it returns
 * @throws {FormatError} truncated
 */
export async function eachTable(
  s: ByteSource,
  directory: Buffer,
  first: number,
  entries: number,
  signal: AbortSignal | undefined,
  each: (index: number, table: Buffer) => void,
): Promise<void> {
  const size = entries * ENTRY
  const most = Math.max(1, Math.floor(PIECE / size))
  const count = Math.floor(directory.length / ENTRY)
  // one for all pieces: a disk of 1 TiB has 64 MiB of tables
  let buffer: Buffer | undefined
  for (let i = 0; i < count; ) {
    const at = directory.readUInt32LE(i * ENTRY) * SECTOR
    if (at === 0) {
      i++
      continue
    }
    signal?.throwIfAborted()
    let run = 1
    while (run < most && i + run < count && directory.readUInt32LE((i + run) * ENTRY) * SECTOR === at + run * size)
      run++
    const what = `grain table ${first + i}`
    let bytes: Buffer
    if (s.readInto) {
      buffer ??= Buffer.allocUnsafeSlow(most * size)
      bytes = buffer.subarray(0, run * size)
      if ((await s.readInto(at, bytes)) < bytes.length) throw tooShort(s, at, bytes.length, what)
    } else bytes = await readExactly(s, at, run * size, what)
    for (let k = 0; k < run; k++) each(first + i + k, bytes.subarray(k * size, (k + 1) * size))
    i += run
  }
}
