/** Finished jobs of one spool out of the index, newest first. */
import type { DatabaseSync } from 'node:sqlite'
import { childPrefix } from '../spool/names.ts'
import type { JobRow } from './job-row.ts'
import type { SpoolRow } from './store.ts'

export interface FinishedFilter {
  states?: readonly string[]
  kind?: string
  name?: string
  parent?: string
}

/** What is needed to find the files of a job. */
export type Indexed = Pick<
  JobRow,
  'id' | 'name' | 'kind' | 'state' | 'priority' | 'ticket' | 'epoch' | 'failures' | 'crashes'
>

const fields = 'id, name, kind, state, priority, ticket, epoch, failures, crashes'
const finalStates = ['succeeded', 'failed', 'cancelled', 'rejected']
const PAGE = 128

/**
 * Lazily, so that the first fifty of a million cost as much as the first fifty of a thousand: each combination of kind and state is a
 * range of an index, read page by page and merged.
 */
export function* finished(db: DatabaseSync, spool: SpoolRow, f: FinishedFilter): Generator<Indexed> {
  const streams = rangesOf(db, spool, f).map(([where, values]) => pages(db, where, values))
  const heads = streams.map((s) => s.next())
  for (;;) {
    let best = -1
    for (const [i, head] of heads.entries()) {
      if (head.done) continue
      if (best < 0 || head.value.id > (heads[best]!.value as Indexed).id) best = i
    }
    if (best < 0) return
    yield heads[best]!.value as Indexed
    heads[best] = streams[best]!.next()
  }
}

function rangesOf(db: DatabaseSync, spool: SpoolRow, f: FinishedFilter): [string, (string | number)[]][] {
  const states = (f.states ?? finalStates).filter((s) => finalStates.includes(s))
  if (f.parent !== undefined) {
    // The ids of a batch's jobs all begin alike.
    const begin = childPrefix(f.parent)
    const marks = states.map(() => '?').join(', ')
    let where = `spool = ? AND id >= ? AND id < ? AND parent = ? AND state IN (${marks})`
    const values = [spool.n, begin, `${begin}~`, f.parent, ...states]
    for (const key of ['kind', 'name'] as const) {
      if (f[key] === undefined) continue
      where += ` AND ${key} = ?`
      values.push(f[key])
    }
    return [[where, values]]
  }
  if (f.name !== undefined) {
    const kind = f.kind === undefined ? '' : ' AND kind = ?'
    return states.map((state) => [
      `spool = ? AND name = ? AND state = ?${kind}`,
      [spool.n, f.name!, state, ...(f.kind === undefined ? [] : [f.kind])],
    ])
  }
  if (f.kind === undefined && f.states === undefined) return [['spool = ?', [spool.n]]]
  const kinds = f.kind === undefined ? kindsOf(db, spool) : [f.kind]
  return kinds.flatMap((kind) =>
    states.map((state): [string, (string | number)[]] => [
      'spool = ? AND kind = ? AND state = ?',
      [spool.n, kind, state],
    ]),
  )
}

function* pages(db: DatabaseSync, where: string, values: (string | number)[]): Generator<Indexed> {
  const statement = db.prepare(`SELECT ${fields} FROM job WHERE ${where} AND id < ? ORDER BY id DESC LIMIT ?`)
  let before = '~'
  for (let size = 64; ; size = PAGE) {
    const rows = statement.all(...values, before, size) as unknown as Indexed[]
    yield* rows
    if (rows.length < size) return
    before = rows.at(-1)!.id
  }
}

/** The kinds there are, by jumping from one to the next in the index. */
function kindsOf(db: DatabaseSync, spool: SpoolRow): string[] {
  const next = db.prepare('SELECT min(kind) AS kind FROM job WHERE spool = ? AND kind > ?')
  const kinds: string[] = []
  for (let kind = ''; ; ) {
    const row = next.get(spool.n, kind) as { kind: string | null } | undefined
    if (row?.kind == null) return kinds
    kind = row.kind
    kinds.push(kind)
  }
}
