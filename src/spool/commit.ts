/**
 * Commit: the only moment at which an attempt begins to count. Everything is complete and durable in the attempt's own
 * folder, then one rename of the job's file decides. Whoever was reaped in between gets ENOENT, and that is all.
 */
import { join } from 'node:path'
import type { Claim } from './attempt.ts'
import { KEEP, type Kept } from './kept.ts'
import { ensureDir, listed, move } from './moves.ts'
import { type Outcome, renamed } from './names.ts'
import type { Spool } from './spool.ts'

export interface CommitContent {
  /** text of <name>.error: what a poller shows its user. Required for every outcome but `done` */
  error?: string
  /** <name>.result.json */
  result: Record<string, unknown>
  /** last status of the job */
  status?: Record<string, unknown>
  /** of a failed job: its attempt's folder stays after publication, for a job that repeats this one */
  keep?: Kept
}

/**
 * Writes the answer's own files and commits. On `fenced` nothing is deleted: the reply to our rename may have been lost, and
 * then the files are what will be published.
 */
export async function commit(
  s: Spool,
  c: Claim,
  outcome: Outcome,
  content: CommitContent,
): Promise<'committed' | 'fenced'> {
  const { answer } = c.record
  const own = join(c.attemptDir, 'own')
  const result = `${JSON.stringify(content.result, null, 2)}\n`
  const files: [string, string][] = [
    [join(c.answerDir, `${answer}.result.json`), result],
    [join(own, 'result.json'), result],
  ]
  if (content.status) {
    const status = `${JSON.stringify(content.status, null, 2)}\n`
    files.push([join(c.answerDir, `${answer}.status.json`), status], [join(own, 'status.json'), status])
  }
  if (outcome !== 'done') {
    const text = `${(content.error ?? `The job ended as ${outcome}.`).trimEnd()}\n`
    files.push([join(c.answerDir, `${answer}.error`), text], [join(own, 'error'), text])
  }
  if (content.keep && outcome === 'failed')
    files.push([join(c.attemptDir, KEEP), `${JSON.stringify({ schema: 1, ...content.keep }, null, 2)}\n`])
  await setApart(s, c, outcome)
  await Promise.all(files.map(([path, text]) => s.fs.writeFile(path, text, { mode: 0o644, sync: false })))
  // Files before the folders that name them, folders before the rename that makes them count: after power loss a
  // committed job has its whole answer.
  await syncTree(s, c.attemptDir)
  await Promise.all([s.sync(join(s.layout.work, c.name.id)), s.sync(s.layout.work)])

  const target = renamed(c.name, { outcome, owner: c.owner })
  const to = join(s.layout.committed, target.file)
  if (!(await move(s, join(s.layout.claimed, c.owner, c.name.file), to))) {
    return (await ended(s, c)) ? 'committed' : 'fenced'
  }
  await s.sync(s.layout.committed)
  return 'committed'
}

/**
 * A failed job answers with .error and no image, a done one with images and no .error (a commit as failed may have been tried
 * before). What does not belong to the outcome stays in the attempt's folder for a retry or a look.
 */
async function setApart(s: Spool, c: Claim, outcome: Outcome): Promise<void> {
  const { answer } = c.record
  const told = new Set(['.report.json', '.result.json', '.status.json', '.error'].map((x) => answer + x))
  const files = await s.fs.readdirFresh(c.answerDir)
  const apart = files.filter((f) => (outcome === 'done' ? f === `${answer}.error` : !told.has(f)))
  if (apart.length === 0) return
  const unused = join(c.attemptDir, 'unpublished')
  await ensureDir(s, unused)
  for (const f of apart) await move(s, join(c.answerDir, f), join(unused, f))
}

/** A commit whose reply was lost may even be published already. */
async function ended(s: Spool, c: Claim): Promise<boolean> {
  for (const dir of ['done', 'failed', 'cancelled', 'rejected'] as const) {
    if (await listed(s, join(s.layout[dir], c.name.file))) return true
  }
  return false
}

async function syncTree(s: Spool, dir: string): Promise<void> {
  const entries = await s.fs.readdirKinds(dir)
  await Promise.all(
    entries.map((e) =>
      e.kind === 'dir'
        ? syncTree(s, join(dir, e.name))
        : e.kind === 'file'
          ? s.fs.syncFile(join(dir, e.name)).catch(notOurs)
          : Promise.resolve(),
    ),
  )
  await s.fs.syncDir(dir)
}

/**
 * A disk whose VM was started belongs to the hypervisor's user from then on, and an agent that is not root may not open it any more. It was made
 * durable when its step ended, before anybody could start a VM on it; what the guest writes is not ours to sync.
 */
function notOurs(e: NodeJS.ErrnoException): void {
  if (e.code !== 'EACCES') throw e
}
