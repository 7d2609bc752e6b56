/** Finding where the last lines of a log begin. */
import { stat } from 'node:fs/promises'
import { listFiles, livePath, type LogFiles, unlessGone } from './log-files.ts'
import { logParser, type LogStream } from './log-format.ts'
import { partBytes } from './log-part.ts'

/** Begin with a part, and leave out so many lines of it. */
export interface LogStart {
  part: number
  skip: number
}

/**
 * Reads from the newest part backwards until there are enough lines; what is written meanwhile comes in addition.
 * @param stream counts its lines alone
 * @param raw counts the lines of the files as they are
 */
export async function startOfLast(
  files: LogFiles,
  lines: number,
  o: { stream?: LogStream | undefined; raw?: boolean | undefined } = {},
): Promise<LogStart> {
  for (let tries = 0; ; tries++) {
    const live = await unlessGone(stat(livePath(files)))
    const { segments, taken } = await listFiles(files)
    const parts = [...segments, { n: taken + 1, path: livePath(files), gz: false }].reverse()
    let found = 0
    for (const [i, part] of parts.entries()) {
      found += (await unlessGone(countLines(part, o, i === 0))) ?? 0
      if (found < lines && i < parts.length - 1) continue
      const now = await unlessGone(stat(livePath(files)))
      // Rotated while we counted: the numbers are others by now. In a flood that never ends, about right is enough.
      if (now?.ino !== live?.ino && tries < 3) break
      return { part: part.n, skip: Math.max(0, found - lines) }
    }
  }
}

async function countLines(
  part: { path: string; gz: boolean },
  o: { stream?: LogStream | undefined; raw?: boolean | undefined },
  newest: boolean,
): Promise<number> {
  const parser = logParser()
  let lines = 0
  let open = false
  for await (const piece of partBytes(part)) {
    if (o.raw) {
      for (let at = piece.indexOf(10); at >= 0; at = piece.indexOf(10, at + 1)) lines += 1
      open = piece.at(-1) !== 10
      continue
    }
    for (const p of parser.push(piece)) {
      if (o.stream !== undefined && p.stream !== o.stream) continue
      if (p.newline) lines += 1
      open = !p.newline
    }
  }
  // Only at the very end a line without a newline is one of its own: before, the next part goes on with it.
  return newest && open ? lines + 1 : lines
}
