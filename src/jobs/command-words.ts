/** What a program said last on its standard error, for the text of its failure. */
import { open } from 'node:fs/promises'

/** The whole of it is in the log; this much goes into the error text, in bytes. */
const WORDS_BYTES = 2048
/** What is read of the log for it: marks and standard output stand in between. */
const LOOK_BYTES = 64 * 1024

/**
 * @param since RFC 3339: nothing of an earlier attempt
 * @returns '' when it said nothing, or the log cannot be read
 */
export async function lastWords(log: string, since: string): Promise<string> {
  let text: string
  try {
    const file = await open(log, 'r')
    try {
      const { size } = await file.stat()
      const from = Math.max(0, size - LOOK_BYTES)
      const { buffer, bytesRead } = await file.read(Buffer.alloc(size - from), 0, size - from, from)
      text = buffer.toString('utf8', 0, bytesRead)
    } finally {
      await file.close()
    }
  } catch {
    return ''
  }
  let words = ''
  for (const line of text.split('\n')) {
    const m = /^(\S+) stderr ([FP]) (.*)$/s.exec(line)
    if (m && (m[1] as string) >= since) words += m[3] + (m[2] === 'F' ? '\n' : '')
  }
  return Buffer.from(words).subarray(-WORDS_BYTES).toString('utf8').trim()
}
