// The files of a rotated log, as a test sees them.
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { gunzipSync } from 'node:zlib'

/** Names and uncompressed content, oldest first, the live one last. */
export async function logParts(path: string): Promise<{ name: string; bytes: Buffer }[]> {
  const dir = dirname(path)
  const names = (await readdir(dir)).filter((n) => /^log(\.\d+(\.gz)?)?$/.test(n))
  const number = (n: string): number => Number(/\d+/.exec(n)?.[0] ?? Number.POSITIVE_INFINITY)
  names.sort((a, b) => number(a) - number(b))
  const parts: { name: string; bytes: Buffer }[] = []
  for (const name of names) {
    const bytes = await readFile(join(dir, name))
    parts.push({ name, bytes: name.endsWith('.gz') ? gunzipSync(bytes) : bytes })
  }
  return parts
}

/** What was written to one stream, according to the format alone; the test's own reading of it. */
export function contentOf(bytes: Buffer, stream: string): Buffer {
  const parts: Buffer[] = []
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf(10, at)
    const line = bytes.subarray(at, end)
    at = end + 1
    if (line.length === 0) continue // mends a line that seemed to be cut off
    const head = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (stdout|stderr|agent) ([FP]) /.exec(
      line.toString('latin1', 0, 40),
    )
    if (head === null) throw new Error(`This is no line of a log: ${JSON.stringify(line.toString('latin1', 0, 80))}`)
    if (head[1] === stream) parts.push(line.subarray(head[0].length), Buffer.from(head[2] === 'F' ? '\n' : ''))
  }
  return Buffer.concat(parts)
}
