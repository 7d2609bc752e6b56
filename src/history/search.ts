/** Full text of why jobs did not succeed. */
import type { DatabaseSync } from 'node:sqlite'
import { HistoryError } from './errors.ts'

export interface SearchHit {
  id: string
  root: string
  instance: string
  name: string
  kind: string
  state: string
  finished_at?: string
  error: { code?: string; message: string }
}

export interface SearchFilter {
  /** only of this spool, as the index numbers it */
  spool?: number
  kind?: string
  state?: string
  limit: number
}

/**
 * Finds jobs whose error has all of these words, the newest first. "Words in quotes" must stand together, wor* stands for all words that
 * begin so; everything else, also FTS5's own operators, is text.
 * @throws HistoryError 2 when there is no word in it
 */
export function search(db: DatabaseSync, text: string, f: SearchFilter): SearchHit[] {
  const conditions = ['failure MATCH ?']
  const values: (string | number)[] = [matchOf(text)]
  for (const key of ['spool', 'kind', 'state'] as const) {
    const value = f[key]
    if (value === undefined) continue
    conditions.push(`j.${key} = ?`)
    values.push(value)
  }
  const rows = db
    .prepare(
      `SELECT j.id, s.root, s.instance, j.name, j.kind, j.state, j.finished_ms, j.error_code, j.error_text
       FROM failure JOIN job j ON j.n = failure.rowid JOIN spool s ON s.n = j.spool
       WHERE ${conditions.join(' AND ')} ORDER BY j.id DESC LIMIT ?`,
    )
    .all(...values, f.limit) as Record<string, string | number | null>[]
  return rows.map((r) => ({
    id: String(r.id),
    root: String(r.root),
    instance: String(r.instance),
    name: String(r.name),
    kind: String(r.kind),
    state: String(r.state),
    ...(r.finished_ms === null ? {} : { finished_at: new Date(Number(r.finished_ms)).toISOString() }),
    error: { ...(r.error_code === null ? {} : { code: String(r.error_code) }), message: String(r.error_text) },
  }))
}

/** A query of FTS5 (sqlite.org/fts5.html#full_text_query_syntax) in which every word is quoted. */
function matchOf(text: string): string {
  const terms: string[] = []
  for (const [, quoted, bare] of text.matchAll(/"([^"]*)"?|([^\s"]+)/g)) {
    const words = quoted ?? bare ?? ''
    // Punctuation alone is no word for FTS5, and a phrase without words an error.
    if (!/[\p{L}\p{N}\p{Co}]/u.test(words)) continue
    terms.push(`"${words}"${bare?.endsWith('*') ? ' *' : ''}`)
  }
  if (terms.length === 0)
    throw new HistoryError(`There is no word to search for in ${JSON.stringify(text)}. Write letters or digits.`, 2)
  return terms.join(' ')
}
