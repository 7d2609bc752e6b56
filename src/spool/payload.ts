/** Bare disks: where they go when their job has ended, as the hyper2kvm daemon did (contracts A6). */
import { join } from 'node:path'
import { ensureDurableDir, move, namesIn, removeTree } from './moves.ts'
import type { Outcome } from './names.ts'
import type { JobRecord } from './record.ts'
import { randomHex, type Spool } from './spool.ts'

/** jobs/payload/<id>/* → queue/.processed/<date>/ or queue/.errors/ with <file>.error.json. Can be repeated after a crash. */
export async function settlePayload(s: Spool, record: JobRecord, outcome: Outcome): Promise<void> {
  if (!record.payload?.length) return
  const from = join(s.layout.payload, record.id)
  const left = (await namesIn(s, from, true)).filter((n) => !n.startsWith('.'))
  if (left.length > 0) {
    const parent = join(s.layout.queue, outcome === 'done' ? '.processed' : '.errors')
    const dir = outcome === 'done' ? join(parent, record.drop.at.slice(0, 10)) : parent
    await ensureDurableDir(s, parent)
    await ensureDurableDir(s, dir)
    const there = new Set(await s.fs.readdirFresh(dir))
    for (const file of left) {
      const target = there.has(file) ? `${record.id}--${file}` : file
      if (outcome !== 'done') await explain(s, record, file, join(dir, `${target}.error.json`))
      await move(s, join(from, file), join(dir, target))
    }
    await s.sync(dir)
  }
  await removeTree(s, from)
}

async function explain(s: Spool, record: JobRecord, file: string, path: string): Promise<void> {
  const text = await s.fs
    .readFile(join(s.layout.outputJobs, record.id, 'error'), 65_536)
    .then((r) => r.bytes.toString('utf8').trim())
    .catch(() => 'The job did not succeed.')
  const body = {
    filename: file,
    filepath: join(s.layout.queue, file),
    file_size_mb: Math.round((record.drop.bytes / 1_048_576) * 100) / 100,
    timestamp: new Date(s.clock.now()).toISOString(),
    error: text,
    phase: 'conversion',
    exception_traceback: null,
    suggestion: `Read ${join(s.layout.outputJobs, record.id, 'log')}, mend what it names, and drop the file again.`,
    job_id: record.id,
  }
  const temp = `${path}.${randomHex(s, 3)}.tmp`
  await s.fs.writeFile(temp, `${JSON.stringify(body, null, 2)}\n`, { mode: 0o644, sync: true })
  await s.fs.rename(temp, path)
}
